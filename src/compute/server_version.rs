//! Which version the postgres program is: asked for once, before a spec is there.
//!
//! Postgres itself loads three dozen libraries before it can say so, which takes longer
//! than a whole safekeeper sync; `pg_controldata`, of the same build, loads one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::config::ComputeConfig;
use super::error::Error;
use crate::process::{Command, Spawner};
use crate::spec::ComputeSpec;

/// Who is asked, in this order: an image may lack all but the last.
const PROGRAMS: [&str; 2] = ["pg_controldata", "postgres"];
/// How long an answer may take.
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
    let [first, last] = PROGRAMS.map(|name| config.pg_bin_dir.join(name));
    match ask_program(first, spawner).await {
        Ok(version) => Ok(version),
        Err(_) => ask_program(last, spawner).await,
    }
}

async fn ask_program(program: PathBuf, spawner: &Spawner) -> Result<u32, Error> {
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

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-1)`, by whatever name, as 150018; a
/// pre-release such as `18beta1` as 180000.
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
