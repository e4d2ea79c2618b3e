//! What a changed specification needs: nothing, a reload, SQL, telling the relay, or a
//! restart of postgres.
//!
//! [`FIELDS`] is the one place that says when each field takes effect.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::conf_text::{assignments, without_owned};
use super::restart_settings::needs_restart;
use super::{ComputeSpec, Errors, FieldError, Flavor, PostgresSpec, Reason, Setting};

/// When a change of a field takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Never: such a spec is refused.
    Refused,
    /// When postgres starts again.
    Restart,
    /// When the compute starts again: work of the start-up that is not repeated.
    NextStart,
    /// On a reload of postgresql.conf; some settings need a restart.
    Reload,
    /// By SQL.
    Catalog,
    /// At once, for the next request to a pageserver; flavor Neon reloads.
    Pageservers,
    /// At once, by telling the relay; flavor Neon reloads.
    Safekeepers,
    /// At once, with the next use.
    Live,
    /// Not at all: it is only logged.
    Logged,
}

impl Effect {
    /// All, in the order in which people want to know of them.
    const ALL: [Self; 9] = [
        Self::Refused,
        Self::Restart,
        Self::NextStart,
        Self::Reload,
        Self::Catalog,
        Self::Pageservers,
        Self::Safekeepers,
        Self::Live,
        Self::Logged,
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::Refused => "never, as a compute keeps them",
            Self::Restart => "after a restart of postgres",
            Self::NextStart => "at the next start of the compute",
            Self::Reload => "on a reload, but for settings that wait for a restart of postgres",
            Self::Catalog => "at once, by SQL",
            Self::Pageservers => "at once, for pageservers",
            Self::Safekeepers => "at once, for safekeepers",
            Self::Live => "at once, with the next use",
            Self::Logged => "only in the log",
        }
    }
}

/// When changes of fields take effect, for `glowplug plan`: those in which the
/// specification says something, by effect.
pub struct Outline<'a>(pub &'a ComputeSpec);

impl fmt::Display for Outline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let silent = ComputeSpec::silent();
        for effect in Effect::ALL {
            let fields = FIELDS.iter().filter(|field| field.effect == effect);
            let said = fields.filter(|field| field.differs(&silent, self.0));
            let names: Vec<&str> = said.map(|field| field.name).collect();
            if !names.is_empty() {
                writeln!(f, "  {}: {}", effect.title(), names.join(", "))?;
            }
        }
        let version = self.0.postgres.version;
        let settings = stated_settings(&self.0.postgres).into_keys();
        let waiting: Vec<String> = settings
            .filter(|name| needs_restart(name, version))
            .collect();
        if !waiting.is_empty() {
            writeln!(
                f,
                "  settings that wait for a restart of postgres: {}",
                waiting.join(", ")
            )?;
        }
        Ok(())
    }
}

/// A field of the specification.
pub struct Field {
    /// Its path in the resource, below `spec`.
    pub name: &'static str,
    /// When a change takes effect.
    pub effect: Effect,
    /// Whether two specifications differ in it.
    differs: fn(&ComputeSpec, &ComputeSpec) -> bool,
    /// Makes it in the second specification what it is in the first.
    copy: fn(&ComputeSpec, &mut ComputeSpec),
}

impl Field {
    /// Whether two specifications differ in it.
    pub fn differs(&self, old: &ComputeSpec, new: &ComputeSpec) -> bool {
        (self.differs)(old, new)
    }
}

macro_rules! fields {
    ($($name:literal $effect:ident $($path:ident).+;)+) => {
        &[$(Field {
            name: $name,
            effect: Effect::$effect,
            differs: |old, new| old.$($path).+ != new.$($path).+,
            copy: |from, to| to.$($path).+.clone_from(&from.$($path).+),
        },)+]
    };
}

/// Every field, and when it takes effect.
pub const FIELDS: &[Field] = fields! {
    "tenantId" Refused tenant_id;
    "timelineId" Refused timeline_id;
    "mode" Restart mode;
    "postgres.version" Restart postgres.version;
    "postgres.flavor" Restart postgres.flavor;
    "postgres.port" Restart postgres.port;
    "postgres.settings" Reload postgres.settings;
    "postgres.postgresqlConf" Reload postgres.verbatim_conf;
    "storage.safekeepers" Safekeepers safekeepers;
    "storage.pageservers" Pageservers pageservers;
    "storage.storageController" Live storage_controller;
    "storage.tokenSecretRef" Live storage_token;
    "storage.tls" Live storage_tls;
    "roles" Catalog roles;
    "databases" Catalog databases;
    "deltaOperations" Catalog delta_operations;
    "removedObjects" Catalog removed_objects;
    "skipCatalogUpdates" Catalog skip_catalog_updates;
    "dropSubscriptionsBeforeStart" NextStart neon.drop_subscriptions_before_start;
    "reconfigureConcurrency" Live neon.reconfigure_concurrency;
    "neon.projectId" Restart neon.project_id;
    "neon.branchId" Restart neon.branch_id;
    "neon.endpointId" Restart neon.endpoint_id;
    "neon.operationUuid" Logged neon.operation_uuid;
    "neon.clusterId" Logged neon.cluster_id;
    "neon.clusterName" Logged neon.cluster_name;
    "neon.clusterState" Logged neon.cluster_state;
    "features" NextStart neon.features;
    "audit.level" Restart neon.audit_log_level;
    "logs.exportHost" Reload neon.logs_export_host;
    "localFileCache.autoprewarm" NextStart neon.autoprewarm;
    "localFileCache.offloadIntervalSeconds" NextStart neon.offload_lfc_interval_seconds;
    "localFileCache.disableResizing" NextStart neon.disable_lfc_resizing;
    "localFileCache.endpointStorage.address" Live neon.endpoint_storage_addr;
    "localFileCache.endpointStorage.tokenSecretRef" Live neon.endpoint_storage_token;
    "remoteExtensions" Live neon.remote_extensions;
    "pgbouncer" Live neon.pgbouncer_settings;
    "localProxy" Live neon.local_proxy;
    "databricks" NextStart neon.databricks;
    "machine.swapSizeBytes" NextStart neon.swap_size_bytes;
    "machine.diskQuotaBytes" NextStart neon.disk_quota_bytes;
    "suspend" Live neon.suspend_timeout_seconds;
};

/// What a change needs. The default needs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Work {
    /// Fields that differ.
    pub fields: Vec<&'static str>,
    /// postgresql.conf must be written and reloaded.
    pub reload: bool,
    /// Roles and databases must be compared again.
    pub catalog: bool,
    /// Shards are elsewhere.
    pub pageservers: bool,
    /// The safekeepers are others.
    pub safekeepers: bool,
    /// Settings and fields that take effect when postgres starts again.
    pub restart: Vec<String>,
    /// Fields that take effect when the compute starts again.
    pub next_start: Vec<&'static str>,
}

impl Work {
    /// Whether the two specifications are the same.
    pub fn is_nothing(&self) -> bool {
        self.fields.is_empty()
    }
}

/// What it takes to get from `old` to `new`.
///
/// # Errors
/// With [`Reason::ImmutableFieldChanged`] if `new` is about another tenant or timeline, or
/// asks for another major version.
pub fn between(old: &ComputeSpec, new: &ComputeSpec) -> Result<Work, Errors> {
    let mut work = Work::default();
    let mut refused = Vec::new();
    let neon = new.postgres.flavor == Flavor::Neon;
    for field in FIELDS.iter().filter(|field| field.differs(old, new)) {
        work.fields.push(field.name);
        match field.effect {
            Effect::Refused => refused.push(immutable(field.name)),
            Effect::Restart => {}
            Effect::NextStart => work.next_start.push(field.name),
            Effect::Reload => work.reload = true,
            Effect::Catalog => work.catalog = true,
            Effect::Pageservers => {
                work.pageservers = true;
                work.reload |= neon;
            }
            Effect::Safekeepers => {
                work.safekeepers = true;
                work.reload |= neon;
            }
            Effect::Live | Effect::Logged => {}
        }
    }
    let versions = (old.postgres.version, new.postgres.version);
    if matches!(versions, (Some(old), Some(new)) if old != new) {
        refused.push(immutable("postgres.version"));
    }
    // It stands in the addresses of pageservers, and in a setting of its own for the
    // safekeepers, which postgres reads at its start.
    work.reload |= neon && old.storage_tls != new.storage_tls;
    let fields = fields_for_restart(old, new).into_iter().map(str::to_owned);
    work.restart.extend(fields);
    work.restart
        .extend(pending_settings(&old.postgres, &new.postgres));
    Errors::check(refused)?;
    Ok(work)
}

/// Fields of `new` that a postgres started with `started_with` cannot follow before it is
/// started again. Settings that only postgres can tell this of are not among them.
pub fn fields_for_restart(started_with: &ComputeSpec, new: &ComputeSpec) -> Vec<&'static str> {
    // Neon's postgres gets the token from its environment, and what TLS needs from a
    // setting that it reads at its start.
    let neon = new.postgres.flavor == Flavor::Neon;
    let of_neon = ["storage.tokenSecretRef", "storage.tls"];
    let waits =
        |field: &&Field| field.effect == Effect::Restart || (neon && of_neon.contains(&field.name));
    FIELDS
        .iter()
        .filter(waits)
        .filter(|field| field.differs(started_with, new))
        .map(|field| field.name)
        .collect()
}

/// Whether `name` is that of a field, rather than of a setting of postgres.
pub fn is_field(name: &str) -> bool {
    FIELDS.iter().any(|field| field.name == name)
}

/// `new` as far as a postgres that was started with `started_with` can follow it without a
/// restart: of the fields that need one, it keeps what it was started with.
///
/// A reload must not see them. A primary that read the configuration of a replica, for
/// one, would no longer make commits wait for the safekeepers.
pub fn while_running(started_with: &ComputeSpec, new: &ComputeSpec) -> ComputeSpec {
    let mut spec = new.clone();
    for field in FIELDS
        .iter()
        .filter(|field| field.effect == Effect::Restart)
    {
        (field.copy)(started_with, &mut spec);
    }
    spec
}

fn immutable(field: &str) -> FieldError {
    FieldError::new(
        format!("spec.{field}"),
        "has changed",
        "a compute keeps its tenant, timeline and major version: make another one",
    )
    .because(Reason::ImmutableFieldChanged)
}

/// Settings whose effective value differs, and that postgres reads at its start only.
fn pending_settings(old: &PostgresSpec, new: &PostgresSpec) -> Vec<String> {
    let (old, new_values) = (stated_settings(old), stated_settings(new));
    let names: BTreeSet<&String> = old.keys().chain(new_values.keys()).collect();
    names
        .into_iter()
        .filter(|name| old.get(*name) != new_values.get(*name))
        .filter(|name| needs_restart(name, new.version))
        .cloned()
        .collect()
}

/// What each setting that the specification states amounts to: the last assignment wins,
/// and the list over the text. Names are in lower case.
pub fn stated_settings(postgres: &PostgresSpec) -> BTreeMap<String, String> {
    let text = postgres.verbatim_conf.as_deref().unwrap_or_default();
    let text = without_owned(text, postgres.flavor);
    let listed = postgres.settings.iter().map(|setting: &Setting| {
        let value = setting.value.clone().unwrap_or_default();
        (setting.name.to_ascii_lowercase(), value)
    });
    assignments(&text).chain(listed).collect()
}

impl fmt::Display for Work {
    /// For `glowplug plan`: one line for each kind of work.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nothing() {
            return f.write_str("nothing to do\n");
        }
        writeln!(f, "changed: {}", self.fields.join(", "))?;
        if self.reload {
            f.write_str("now: reload postgresql.conf\n")?;
        }
        if self.safekeepers {
            f.write_str("now: change over to the new safekeepers\n")?;
        }
        if self.pageservers {
            f.write_str("now: use the new pageservers\n")?;
        }
        if self.catalog {
            f.write_str("now: compare roles and databases\n")?;
        }
        if !self.restart.is_empty() {
            writeln!(
                f,
                "after a restart of postgres: {}",
                self.restart.join(", ")
            )?;
        }
        if !self.next_start.is_empty() {
            writeln!(f, "at the next start: {}", self.next_start.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
