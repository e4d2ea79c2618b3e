//! The lines for unmodified PostgreSQL, whose durability is the safekeepers'.
//!
//! What is durable is what a quorum of safekeepers has, and every start makes the
//! directory anew from storage. So the local files never have to survive anything:
//!
//! - `fsync = off`: nothing local is read again after a crash. Postgres would also
//!   sync the whole directory before replaying WAL.
//! - `full_page_writes = off`: page images repair pages that a crash tore. Storage
//!   replays WAL only onto a base that was shut down cleanly, whose pages are whole,
//!   and a crashed directory is thrown away; without images there is several times
//!   less WAL to push.
//! - `restart_after_crash = off`: postgres must not recover by itself from local
//!   files after a backend crash.

use std::fmt::Write as _;

use super::{
    ConfFacts, NOTICE, PASSWORD_FILE, Writer, locales, settings, shared_memory, storage_tls,
    temp_override, verbatim,
};
use crate::spec::{ComputeMode, ComputeSpec};

/// Application name of the WAL relay, which `synchronous_standby_names` waits for.
const RELAY: &str = "walproposer";

/// WAL kept for a relay that has to connect anew, besides what its slot keeps.
const WAL_KEEP_SIZE: &str = "64MB";

pub(super) fn render(spec: &ComputeSpec, facts: &ConfFacts, conf: &mut Writer) {
    conf.comment(NOTICE);
    defaults(facts, conf);
    verbatim(spec, conf);
    owned(spec, facts, conf);
    mode(spec, facts, conf);
    shared_memory(facts, conf);
    settings(spec, conf);
    temp_override(conf);
}

/// What a spec may say otherwise, within the limits of [`crate::spec::owned_settings`].
fn defaults(facts: &ConfFacts, conf: &mut Writer) {
    locales(conf);
    conf.text("listen_addresses", &facts.listen_addresses);
    conf.raw("full_page_writes", "off");
    conf.raw("synchronous_commit", "on");
    conf.raw("wal_level", "replica");
    conf.raw("max_wal_senders", 10);
    conf.raw("max_replication_slots", 10);
    conf.raw("wal_keep_size", WAL_KEEP_SIZE);
}

fn owned(spec: &ComputeSpec, facts: &ConfFacts, conf: &mut Writer) {
    conf.raw("port", spec.postgres.port);
    conf.text("unix_socket_directories", &facts.socket_dir);
    // pg_hba.conf lets whoever gets through in as the superuser.
    conf.raw("unix_socket_permissions", "0700");
    conf.raw("fsync", "off");
    conf.raw("restart_after_crash", "off");
}

fn mode(spec: &ComputeSpec, facts: &ConfFacts, conf: &mut Writer) {
    match spec.mode {
        ComputeMode::Primary => conf.text("synchronous_standby_names", RELAY),
        // The backup's WAL ends at the LSN: there is nothing to stop before.
        ComputeMode::Static(_) => conf.raw("hot_standby", "on"),
        ComputeMode::Replica => {
            conf.raw("hot_standby", "on");
            if let Some(conninfo) = primary_conninfo(spec, facts) {
                conf.text("primary_conninfo", &conninfo);
            }
        }
    }
}

/// Safekeepers serve physical replication of what is committed; they take the
/// timeline from `options` (`safekeeper/src/handler.rs`). libpq tries the hosts in
/// order. `None` without safekeepers.
fn primary_conninfo(spec: &ComputeSpec, facts: &ConfFacts) -> Option<String> {
    let endpoints = &spec.safekeepers.endpoints;
    if endpoints.is_empty() {
        return None;
    }
    let split = |endpoint: &'_ String| match endpoint.rsplit_once(':') {
        Some((host, port)) => (host.trim_matches(['[', ']']).to_owned(), port.to_owned()),
        None => (endpoint.clone(), "5454".to_owned()),
    };
    let (hosts, ports): (Vec<_>, Vec<_>) = endpoints.iter().map(split).unzip();
    let options = format!(
        "-c timeline_id={} tenant_id={}",
        spec.timeline_id, spec.tenant_id
    );
    let mut conninfo = format!(
        "host={} port={} user=no_user application_name=glowplug_replica options={}",
        quote_conninfo(&hosts.join(",")),
        ports.join(","),
        quote_conninfo(&options),
    );
    let tls = storage_tls::options(spec);
    if !tls.is_empty() {
        let _ = write!(conninfo, " {}", tls.to_conninfo());
    }
    if facts.safekeeper_token {
        let _ = write!(conninfo, " passfile={PASSWORD_FILE}");
    }
    Some(conninfo)
}

/// A value of a libpq connection string.
fn quote_conninfo(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}
