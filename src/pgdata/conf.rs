//! Renders postgresql.conf from a spec: what glowplug owns cannot be overridden by
//! it, and everything else can.
//!
//! Postgres takes the last assignment of a setting. So the text is, from weak to
//! strong: defaults that suit unmodified postgres, the spec's verbatim text, what follows
//! from the spec's fields, the spec's settings, and what only this process knows. For
//! Neon's postgres, which has no such defaults, the order is that of
//! `compute_tools/src/config.rs`; there, a setting silently overrides the field it
//! contradicts. Here, what contradicts a setting that glowplug owns is left out of the
//! spec's settings, and commented out in its verbatim text.

mod audit;
mod neon;
pub(super) mod storage_tls;
mod vanilla;
mod writer;

#[cfg(test)]
mod tests;

pub use writer::quote_value;

use self::writer::Writer;
use crate::spec::{ComputeSpec, Flavor, owned_setting, without_owned};

/// What the configuration depends on besides the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfFacts {
    /// Port of the internal HTTP server, where postgres reports lost pageservers.
    pub internal_http_port: u16,
    /// Role that tenants' administrators belong to.
    pub privileged_role: String,
    /// The kernel hands out no more memory than it has (`vm.overcommit_memory` is
    /// 2): POSIX shared memory would count against it, mapped files do not.
    pub strict_overcommit: bool,
    /// Directory for the Unix-domain socket. Vanilla only: Neon's is the image's.
    pub socket_dir: String,
    /// Where to listen unless the spec says otherwise: `localhost`, `*`. Vanilla only.
    pub listen_addresses: String,
    /// Whoever reaches loopback logs in without a password. For one's own machine only.
    /// Vanilla only.
    pub trust_loopback: bool,
    /// The safekeepers ask for a token: a vanilla replica reads it from
    /// [`PASSWORD_FILE`].
    pub safekeeper_token: bool,
}

/// Holds the token of a vanilla replica, in the form of a `.pgpass` file: a token
/// has no place in the configuration, which every superuser can read.
pub const PASSWORD_FILE: &str = "safekeeper.pgpass";

/// Settings for the time of a catalog change, in a file that is empty otherwise.
pub const TEMP_OVERRIDE_FILE: &str = "compute_ctl_temp_override.conf";

/// What the file says while the catalog is changed: a full cluster must still take
/// `DROP DATABASE`.
pub const TEMP_OVERRIDE: &str = "neon.max_cluster_size=-1";

/// The text of postgresql.conf.
pub fn render_postgresql_conf(spec: &ComputeSpec, facts: &ConfFacts) -> String {
    let mut conf = Writer::default();
    match spec.postgres.flavor {
        Flavor::Neon => neon::render(spec, facts, &mut conf),
        Flavor::Vanilla => vanilla::render(spec, facts, &mut conf),
    }
    conf.finish()
}

/// Locale of messages and formats: UTF-8 where the system has it without a locale
/// package.
const LOCALE: &str = if cfg!(target_os = "macos") {
    "C"
} else {
    "C.UTF-8"
};

fn locales(conf: &mut Writer) {
    for name in ["lc_messages", "lc_monetary", "lc_time", "lc_numeric"] {
        conf.text(name, LOCALE);
    }
}

const NOTICE: &str = "Written by glowplug at every change of its spec: edit the spec instead.";

/// The spec's verbatim text.
fn verbatim(spec: &ComputeSpec, conf: &mut Writer) {
    if let Some(text) = &spec.postgres.verbatim_conf {
        conf.verbatim(&without_owned(text, spec.postgres.flavor));
    }
}

/// The spec's settings, in order, but those that contradict what glowplug owns. The
/// spec was validated: what is left out here came in through Neon's JSON, whose
/// control plane may name such settings.
fn settings(spec: &ComputeSpec, conf: &mut Writer) {
    conf.comment("Settings of the spec: begin");
    for setting in &spec.postgres.settings {
        let owned = owned_setting(spec.postgres.flavor, &setting.name);
        if owned.is_some_and(|owned| !owned.allows(setting.value.as_deref())) {
            continue;
        }
        conf.setting(setting);
    }
    conf.comment("Settings of the spec: end");
}

/// Dynamic shared memory as the kernel's accounting wants it.
fn shared_memory(facts: &ConfFacts, conf: &mut Writer) {
    if facts.strict_overcommit {
        conf.raw("dynamic_shared_memory_type", "mmap");
    }
}

/// What the catalog changes need in place, last so that it wins.
fn temp_override(conf: &mut Writer) {
    conf.text("include_if_exists", TEMP_OVERRIDE_FILE);
}
