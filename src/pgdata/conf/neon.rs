//! The lines for Neon's postgres, in upstream's order.

use super::{
    ConfFacts, NOTICE, Writer, audit, locales, settings, shared_memory, storage_tls, temp_override,
    verbatim,
};
use crate::spec::{ComputeMode, ComputeSpec};

pub(super) fn render(spec: &ComputeSpec, facts: &ConfFacts, conf: &mut Writer) {
    verbatim(spec, conf);
    conf.comment(NOTICE);
    pageservers(spec, conf);
    safekeepers(spec, conf);
    identity(spec, conf);
    locales(conf);
    mode(spec.mode, conf);
    shared_memory(facts, conf);
    conf.text("neon.privileged_role_name", &facts.privileged_role);
    settings(spec, conf);
    audit::render(spec, conf);
    conf.raw("neon.extension_server_port", facts.internal_http_port);
    conf.raw(
        "neon.disable_logical_replication_subscribers",
        spec.neon.drop_subscriptions_before_start,
    );
    if spec.neon.logs_export_host.is_some() {
        conf.text("log_destination", "stderr,syslog");
    }
    conf.raw("port", spec.postgres.port);
    temp_override(conf);
}

/// The stripe size comes first: postgres captures it when it is given the addresses
/// (`pgxn/neon/libpagestore.c`, `AssignPageserverConnstring`).
fn pageservers(spec: &ComputeSpec, conf: &mut Writer) {
    if let Some(stripe_size) = spec.pageservers.stripe_size {
        conf.raw("neon.stripe_size", stripe_size);
    }
    let shards = spec.pageservers.shards.iter();
    let addresses: Option<Vec<&str>> = shards.map(|shard| shard.libpq.as_deref()).collect();
    match addresses {
        Some(addresses) if !addresses.is_empty() => {
            let tls = storage_tls::options(spec);
            let address = |address| storage_tls::address(address, &tls);
            let addresses: Vec<_> = addresses.into_iter().map(address).collect();
            conf.text("neon.pageserver_connstring", &addresses.join(","));
        }
        // A list with a hole would send requests to the wrong shard.
        _ => conf.comment("no neon.pageserver_connstring, as a shard has no libpq address"),
    }
}

fn safekeepers(spec: &ComputeSpec, conf: &mut Writer) {
    let set = &spec.safekeepers;
    if set.endpoints.is_empty() {
        return;
    }
    let endpoints = set.endpoints.join(",");
    let value = match set.generation {
        Some(generation) => format!("g#{generation}:{endpoints}"),
        None => endpoints,
    };
    conf.text("neon.safekeepers", &value);
    let tls = storage_tls::options(spec);
    if !tls.is_empty() {
        conf.text("neon.safekeeper_conninfo_options", &tls.to_conninfo());
    }
}

fn identity(spec: &ComputeSpec, conf: &mut Writer) {
    conf.text("neon.tenant_id", &spec.tenant_id.to_string());
    conf.text("neon.timeline_id", &spec.timeline_id.to_string());
    let named = [
        ("neon.project_id", &spec.neon.project_id),
        ("neon.branch_id", &spec.neon.branch_id),
        ("neon.endpoint_id", &spec.neon.endpoint_id),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            conf.text(name, value);
        }
    }
}

fn mode(mode: ComputeMode, conf: &mut Writer) {
    match mode {
        ComputeMode::Primary => conf.raw("neon.compute_mode", "primary"),
        ComputeMode::Static(lsn) => {
            conf.raw("neon.compute_mode", "static");
            conf.raw("hot_standby", "on");
            conf.text("recovery_target_lsn", &lsn.to_string());
        }
        ComputeMode::Replica => {
            conf.raw("neon.compute_mode", "replica");
            conf.raw("hot_standby", "on");
        }
    }
}
