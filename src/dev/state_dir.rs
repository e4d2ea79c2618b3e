//! Where `glowplug dev` keeps what outlives it.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::process::RunAs;
use crate::secret::Secret;

/// The layout of a state directory.
#[derive(Debug, Clone)]
pub(super) struct StateDir(PathBuf);

impl StateDir {
    /// Makes the directory; by default under the XDG state home.
    pub(super) fn open(wanted: Option<PathBuf>) -> anyhow::Result<Self> {
        let path = wanted.map_or_else(default, Ok)?;
        std::fs::create_dir_all(&path).with_context(|| {
            format!(
                "cannot make {}: name another by --state-dir",
                path.display()
            )
        })?;
        let path = std::fs::canonicalize(&path)
            .with_context(|| format!("cannot find {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn storage(&self) -> PathBuf {
        self.0.join("storage")
    }

    pub(super) fn pgdata(&self) -> PathBuf {
        self.0.join("compute").join("pgdata")
    }

    /// Short, because the path of a socket may have 107 bytes only.
    pub(super) fn socket_dir(&self) -> PathBuf {
        self.0.join("socket")
    }

    pub(super) fn status(&self) -> PathBuf {
        self.0.join("status.yaml")
    }

    /// The example that runs without a FILE, for the user to edit.
    pub(super) fn example(&self) -> PathBuf {
        self.0.join("compute.yaml")
    }

    pub(super) fn token(&self) -> PathBuf {
        self.0.join("token")
    }

    /// Keeps the token of the external HTTP server where only this user can read it.
    pub(super) fn write_token(&self, token: &Secret) -> anyhow::Result<()> {
        let path = self.token();
        let failed = || format!("cannot write {}", path.display());
        std::fs::write(&path, "").with_context(failed)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).with_context(failed)?;
        std::fs::write(&path, token.reveal()).with_context(failed)
    }

    /// Lets the user that postgres runs as into the directories that lead to PGDATA, as
    /// far as this user owns them.
    pub(super) fn let_in(&self, run_as: Option<&RunAs>) -> anyhow::Result<()> {
        let compute = self.0.join("compute");
        std::fs::create_dir_all(&compute)
            .with_context(|| format!("cannot make {}", compute.display()))?;
        let Some(run_as) = run_as else { return Ok(()) };
        for ancestor in self.0.ancestors().filter(|path| path.parent().is_some()) {
            let metadata = std::fs::metadata(ancestor)
                .with_context(|| format!("cannot look at {}", ancestor.display()))?;
            if metadata.permissions().mode() & 0o001 == 0 {
                anyhow::bail!(
                    "user {} cannot enter {}: allow it by 'chmod o+x {0}', or name another \
                     directory by --state-dir",
                    run_as.user,
                    ancestor.display()
                );
            }
        }
        chown(&compute, Some(run_as.uid), Some(run_as.gid))
            .with_context(|| format!("cannot give {} to {}", compute.display(), run_as.user))
    }
}

/// `$XDG_STATE_HOME/glowplug/dev`. For root, whose home others cannot enter, the state
/// is the system's.
fn default() -> anyhow::Result<PathBuf> {
    if let Some(home) = std::env::var_os("XDG_STATE_HOME").filter(|home| !home.is_empty()) {
        return Ok(PathBuf::from(home).join("glowplug/dev"));
    }
    if RunAs::for_postgres().is_some() {
        return Ok(PathBuf::from("/var/lib/glowplug/dev"));
    }
    let home = std::env::var_os("HOME").context("HOME is not set: name a --state-dir")?;
    Ok(PathBuf::from(home).join(".local/state/glowplug/dev"))
}
