//! What to start, and as whom.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::RunAs;
use crate::secret::Secret;

/// A program to start: its arguments, environment, user and directory.
///
/// The environment is inherited; standard input is empty. Arguments can be read by
/// every user of the machine: secrets go into [`Command::secret_env`] or a file.
#[derive(Clone)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    run_as: Option<RunAs>,
    current_dir: Option<PathBuf>,
    pub(super) captures: bool,
}

impl Command {
    /// A program, by its path or by its name in `PATH`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            run_as: None,
            current_dir: None,
            captures: false,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        self.args.extend(args);
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), Some(value.into())));
        self
    }

    /// Sets a variable of the environment to a secret.
    #[must_use]
    pub fn secret_env(self, name: impl Into<OsString>, secret: &Secret) -> Self {
        self.env(name, secret.reveal())
    }

    /// Takes a variable out of the environment.
    #[must_use]
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.env.push((name.into(), None));
        self
    }

    /// Runs it as this user, without any supplementary group, in `/` unless
    /// [`Command::current_dir`] says otherwise: ours may be closed to that user.
    #[must_use]
    pub fn run_as(mut self, run_as: Option<RunAs>) -> Self {
        self.run_as = run_as;
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(dir.into());
        self
    }

    /// Captures stdout and stderr: read them with
    /// [`Child::take_lines`](super::Child::take_lines). Without this they are
    /// discarded.
    #[must_use]
    pub fn lines(mut self) -> Self {
        self.captures = true;
        self
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The program's file name, for logs and errors.
    pub fn name(&self) -> String {
        let name = self.program.file_name();
        name.unwrap_or(self.program.as_os_str())
            .to_string_lossy()
            .into_owned()
    }

    /// The command as the standard library starts it, in a process group of its own.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that the ban sends everybody to"
    )]
    pub(super) fn to_std(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args).process_group(0);
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut current_dir = self.current_dir.as_deref();
        if let Some(run_as) = &self.run_as {
            // The standard library clears the supplementary groups when root sets a uid.
            command.uid(run_as.uid).gid(run_as.gid);
            current_dir = current_dir.or(Some(Path::new("/")));
        }
        if let Some(dir) = current_dir {
            command.current_dir(dir);
        }
        let output = || {
            if self.captures {
                Stdio::piped()
            } else {
                Stdio::null()
            }
        };
        command
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output());
        command
    }
}

/// Shows names of variables only: values may be secrets.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let env: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &env)
            .field("run_as", &self.run_as)
            .field("current_dir", &self.current_dir)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_the_environment() {
        let command = Command::new("postgres").secret_env("TOKEN", &Secret::new("hunter2"));
        let text = format!("{command:?}");
        assert!(text.contains("TOKEN"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_program_is_named_by_its_file() {
        assert_eq!(Command::new("/usr/bin/initdb").name(), "initdb");
        assert_eq!(Command::new("initdb").name(), "initdb");
    }
}
