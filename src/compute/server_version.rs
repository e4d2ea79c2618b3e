//! Which version the postgres program is: asked for once, before a spec is there, since
//! loading its libraries takes as long as a whole safekeeper sync.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::config::ComputeConfig;
use super::error::Error;
use crate::process::{Command, Spawner};
use crate::spec::ComputeSpec;

/// How long `postgres --version` may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The version of the one program that this process starts.
#[derive(Clone)]
pub(super) struct ServerVersion {
    config: Arc<ComputeConfig>,
    spawner: Spawner,
    known: Arc<OnceCell<u32>>,
}

impl ServerVersion {
    pub(super) fn new(config: Arc<ComputeConfig>, spawner: Spawner) -> Self {
        Self {
            config,
            spawner,
            known: Arc::default(),
        }
    }

    /// The version as a number, such as 150018: of the spec if it names one (only the
    /// major one matters to storage), else of the program.
    pub(super) async fn of(&self, spec: &ComputeSpec) -> Result<u32, Error> {
        match spec.postgres.version {
            Some(major) => Ok(major * 10_000),
            None => self.of_program().await,
        }
    }

    /// A failure is not kept: the next to ask tries again.
    pub(super) async fn of_program(&self) -> Result<u32, Error> {
        self.known
            .get_or_try_init(|| ask(&self.config, &self.spawner))
            .await
            .copied()
    }
}

async fn ask(config: &ComputeConfig, spawner: &Spawner) -> Result<u32, Error> {
    let program = config.pg_bin_dir.join("postgres");
    let failed = |source| Error::Version {
        program: program.clone(),
        source,
    };
    let command = Command::new(&program).arg("--version");
    let output = spawner
        .run(command, LIMIT)
        .await
        .map_err(|e| failed(Some(e)))?;
    let output = output.require_success().map_err(|e| failed(Some(e)))?;
    parse(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| failed(None))
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-1)` as 150018; a pre-release such
/// as `18beta1` as 180000.
fn parse(text: &str) -> Option<u32> {
    let version = text
        .split_once("(PostgreSQL) ")?
        .1
        .split_whitespace()
        .next()?;
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let digits = |text: &str| {
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        text[..end].parse::<u32>().ok()
    };
    Some(digits(major)? * 10_000 + digits(minor).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_numbers() {
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(parse(debian), Some(150_018));
        assert_eq!(parse("postgres (PostgreSQL) 18beta1"), Some(180_000));
        assert_eq!(parse("postgres (PostgreSQL) devel"), None);
        assert_eq!(parse("busybox"), None);
    }
}
