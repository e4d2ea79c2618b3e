//! One `glowplug compute`, the program that was built for this bench, as a child
//! process.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::signal::Signal;
use tokio::sync::oneshot;

use super::storage::Stage;
use super::{free_port, pg_bin_dir, process};
use crate::LIMIT;

/// What the log says when the start-up is over.
const RUNNING: &str = r#""to":"running""#;

pub(crate) struct Compute {
    pub(crate) home: PathBuf,
    pub(crate) port: u16,
    pub(crate) started: Instant,
    child: Child,
    running: Option<oneshot::Receiver<Instant>>,
    log: Option<JoinHandle<()>>,
}

impl Compute {
    pub(crate) fn start(stage: &Stage, name: &str) -> Self {
        Self::start_with(stage, name, &program(), &[])
    }

    /// Starts it; what needs to be there before is made before the clock runs.
    pub(crate) fn start_with(
        stage: &Stage,
        name: &str,
        program: &Path,
        settings: &[(&str, &str)],
    ) -> Self {
        let home = stage.directory.path().join(name);
        fs::create_dir_all(&home).unwrap();
        if let Some(run_as) = &stage.run_as {
            chown(&home, Some(run_as.uid), Some(run_as.gid)).unwrap();
        }
        let port = free_port();
        let spec = home.join("spec.yaml");
        fs::write(&spec, stage.spec(port, settings).to_string()).unwrap();
        let mut command = Command::new(program);
        command
            .args(["compute", "--insecure-no-auth", "--log-format", "json"])
            .args(["--compute-id", "bench", "--listen-addresses", "127.0.0.1"])
            .args(["--external-http-address", "127.0.0.1"])
            .args(["--probe-address", "127.0.0.1", "--probe-port", "0"])
            .args(["--external-http-port", "0", "--internal-http-port", "0"])
            .arg("--spec-path")
            .arg(&spec)
            .arg("--pgdata")
            .arg(home.join("pgdata"))
            .arg("--socket-dir")
            .arg(home.join("s"))
            .arg("--status-file")
            .arg(home.join("status.yaml"))
            .arg("--pgbin")
            .arg(pg_bin_dir().join("postgres"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let log = File::create(home.join("log")).unwrap();
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (tell, running) = oneshot::channel();
        let log = std::thread::spawn(move || forward(lines, log, tell));
        Self {
            home,
            port,
            started,
            child,
            running: Some(running),
            log: Some(log),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says that it runs, and tells when that was.
    pub(crate) async fn running(&mut self) -> Instant {
        let running = self.running.take().expect("awaited once");
        match tokio::time::timeout(LIMIT, running).await {
            Ok(Ok(when)) => when,
            _ => panic!("it did not start; log:\n{}", self.log_text()),
        }
    }

    /// The status document, once it contains `text`.
    pub(crate) async fn status_with(&self, text: &str) -> String {
        let path = self.home.join("status.yaml");
        let status = async {
            // Written just now, by a process that tells nobody.
            loop {
                let status = fs::read_to_string(&path).unwrap_or_default();
                if status.contains(text) {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LIMIT, status).await.unwrap()
    }

    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// Stops it as a pod's end does, and waits for that.
    pub(crate) fn stop(mut self) {
        process::end(&mut self.child, Signal::SIGTERM);
        if let Some(log) = self.log.take() {
            log.join().unwrap();
        }
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        // After a failed bench; postgres must not outlive it.
        if matches!(self.child.try_wait(), Ok(None)) {
            process::end(&mut self.child, Signal::SIGTERM);
        }
    }
}

fn forward(
    lines: impl Iterator<Item = std::io::Result<String>>,
    mut log: File,
    tell: oneshot::Sender<Instant>,
) {
    let mut tell = Some(tell);
    for line in lines.map_while(Result::ok) {
        let now = Instant::now();
        if line.contains(RUNNING)
            && let Some(tell) = tell.take()
        {
            let _ = tell.send(now);
        }
        let _ = writeln!(log, "{line}");
    }
}

/// The program under test: the one built with this bench, or the one that
/// `GLOWPLUG_BENCH_BIN` names.
pub(crate) fn program() -> PathBuf {
    let named = std::env::var_os("GLOWPLUG_BENCH_BIN");
    named.map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_glowplug")),
        PathBuf::from,
    )
}
