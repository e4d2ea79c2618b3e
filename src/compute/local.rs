//! How this compute configures and reaches its own postgres.

use std::time::Duration;

use super::config::ComputeConfig;
use crate::pgdata::{self, ConfFacts};
use crate::pgwire::{ConnectConfig, Host};
use crate::spec::{ComputeSpec, Flavor};

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
