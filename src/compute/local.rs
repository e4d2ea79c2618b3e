//! How this compute configures and reaches its own postgres.

use std::time::Duration;

use super::config::ComputeConfig;
use super::error::Error;
use crate::pgdata::{self, ConfFacts};
use crate::pgwire::{ConnectConfig, Host};
use crate::process::{Command, Spawner};
use crate::spec::{ComputeSpec, Flavor};

/// How long `postgres --version` may take.
const VERSION_LIMIT: Duration = Duration::from_secs(5);

/// A connection to the local postgres as its superuser. The Vanilla flavor is reached
/// by a socket in a private directory, Neon's by loopback as upstream does.
pub(super) fn connect_config(config: &ComputeConfig, spec: &ComputeSpec) -> ConnectConfig {
    let mut connect = ConnectConfig::tcp("127.0.0.1", spec.postgres.port, config.superuser.clone());
    if spec.postgres.flavor == Flavor::Vanilla {
        connect.host = Host::Unix(config.socket_dir.clone());
    }
    connect.database = Some("postgres".to_owned());
    connect
}

/// The same, for SQL.
pub(super) fn sql_config(config: &ComputeConfig, spec: &ComputeSpec) -> tokio_postgres::Config {
    let mut connect = tokio_postgres::Config::new();
    match spec.postgres.flavor {
        Flavor::Vanilla => connect.host_path(&config.socket_dir),
        Flavor::Neon => connect.host("127.0.0.1"),
    };
    connect
        .port(spec.postgres.port)
        .user(&config.superuser)
        .dbname("postgres")
        .application_name("glowplug")
        .connect_timeout(Duration::from_secs(5));
    connect
}

/// What the configuration depends on besides the spec.
pub(super) fn conf_facts(config: &ComputeConfig, spec: &ComputeSpec) -> ConfFacts {
    ConfFacts {
        internal_http_port: config.internal_http_port,
        privileged_role: config.privileged_role.clone(),
        strict_overcommit: config.strict_overcommit,
        socket_dir: config.socket_dir.display().to_string(),
        listen_addresses: config.listen_addresses.clone(),
        trust_loopback: config.trust_loopback,
        safekeeper_token: spec.storage_token.is_some(),
    }
}

/// The whole text of postgresql.conf.
pub(super) fn render_conf(config: &ComputeConfig, spec: &ComputeSpec) -> String {
    pgdata::render_postgresql_conf(spec, &conf_facts(config, spec))
}

/// The server version as a number, such as 150018: of the spec if it names one (only
/// the major one matters to storage), else of the program.
pub(super) async fn server_version(
    config: &ComputeConfig,
    spawner: &Spawner,
    spec: &ComputeSpec,
) -> Result<u32, Error> {
    if let Some(major) = spec.postgres.version {
        return Ok(major * 10_000);
    }
    let program = config.pg_bin_dir.join("postgres");
    let failed = |source| Error::Version {
        program: program.clone(),
        source,
    };
    let command = Command::new(&program).arg("--version");
    let output = spawner
        .run(command, VERSION_LIMIT)
        .await
        .map_err(|e| failed(Some(e)))?;
    let output = output.require_success().map_err(|e| failed(Some(e)))?;
    parse_version(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| failed(None))
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-1)` as 150018; a pre-release such
/// as `18beta1` as 180000.
fn parse_version(text: &str) -> Option<u32> {
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
        assert_eq!(parse_version(debian), Some(150_018));
        assert_eq!(
            parse_version("postgres (PostgreSQL) 18beta1"),
            Some(180_000)
        );
        assert_eq!(parse_version("postgres (PostgreSQL) devel"), None);
        assert_eq!(parse_version("busybox"), None);
    }
}
