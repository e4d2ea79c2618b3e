//! Decides which settings of postgresql.conf a spec may not change, and says who
//! sets each of them, and why.
//!
//! The same list is used twice: a spec that contradicts it is refused, and the
//! configuration text puts the owner's value where nothing can override it.

use super::Flavor;

/// A setting that glowplug sets itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnedSetting {
    /// Name of the setting, in lower case.
    pub name: &'static str,
    /// What a spec may nevertheless say.
    pub allowed: Allowed,
    /// Who sets it: a field of the spec, or a part of glowplug.
    pub owner: &'static str,
    /// What would break otherwise.
    pub why: &'static str,
}

/// Values of an owned setting that do no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// None: the setting must not appear.
    Nothing,
    /// A boolean with this value, in any of postgres' spellings.
    Bool(bool),
    /// One of these words.
    Words(&'static [&'static str]),
    /// A whole number from this one up.
    AtLeast(u32),
}

/// The settings that glowplug sets itself for this flavor of postgres.
pub fn owned_settings(flavor: Flavor) -> impl Iterator<Item = &'static OwnedSetting> {
    let own = match flavor {
        Flavor::Neon => NEON,
        Flavor::Vanilla => VANILLA,
    };
    BOTH.iter().chain(own)
}

/// The entry of a setting, if glowplug owns it. Case does not matter, as in postgres.
pub fn owned_setting(flavor: Flavor, name: &str) -> Option<&'static OwnedSetting> {
    owned_settings(flavor).find(|owned| owned.name.eq_ignore_ascii_case(name))
}

impl OwnedSetting {
    /// Whether a spec may give the setting this value.
    pub fn allows(&self, value: Option<&str>) -> bool {
        let Some(value) = value.map(str::trim) else {
            return false;
        };
        match self.allowed {
            Allowed::Nothing => false,
            Allowed::Bool(expected) => parse_bool(value) == Some(expected),
            Allowed::Words(words) => words.iter().any(|word| word.eq_ignore_ascii_case(value)),
            Allowed::AtLeast(least) => value.parse::<u32>().is_ok_and(|number| number >= least),
        }
    }

    /// What to do instead, for the error of a refused spec.
    pub fn advice(&self) -> String {
        let instead = match self.allowed {
            Allowed::Nothing => "leave it out".to_owned(),
            Allowed::Bool(true) => "leave it out, or write on".to_owned(),
            Allowed::Bool(false) => "leave it out, or write off".to_owned(),
            Allowed::Words(words) => format!("leave it out, or write {}", words.join(" or ")),
            Allowed::AtLeast(least) => format!("leave it out, or write {least} or more"),
        };
        format!("{instead}: {} sets it, {}", self.owner, self.why)
    }
}

/// A boolean as postgres reads it (`parse_bool_with_len`): any unambiguous beginning
/// of `true`, `false`, `yes`, `no`, then `on`, `off`, `1` and `0`.
fn parse_bool(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    let begins = |word: &str| !text.is_empty() && word.starts_with(&text);
    if begins("true") || begins("yes") || text == "on" || text == "1" {
        Some(true)
    } else if begins("false") || begins("no") || text == "off" || text == "of" || text == "0" {
        Some(false)
    } else {
        None
    }
}

const fn owned(
    name: &'static str,
    allowed: Allowed,
    owner: &'static str,
    why: &'static str,
) -> OwnedSetting {
    OwnedSetting {
        name,
        allowed,
        owner,
        why,
    }
}

const FILES: &str = "the directory's layout";
const FILES_WHY: &str = "and looks for its files there";
const INCLUDE_WHY: &str = "as another file could hide any of the settings it owns";
const MODE: &str = "the field mode";
const STORAGE: &str = "the field storage";
const RELAY: &str = "the WAL relay";
const SUPERVISOR: &str = "the supervisor";

const BOTH: &[OwnedSetting] = &[
    owned(
        "port",
        Allowed::Nothing,
        "the field postgres.port",
        "and probes and catalog connect there",
    ),
    owned("data_directory", Allowed::Nothing, FILES, FILES_WHY),
    owned("config_file", Allowed::Nothing, FILES, FILES_WHY),
    owned("hba_file", Allowed::Nothing, FILES, FILES_WHY),
    owned("ident_file", Allowed::Nothing, FILES, FILES_WHY),
    owned("include", Allowed::Nothing, FILES, INCLUDE_WHY),
    owned("include_if_exists", Allowed::Nothing, FILES, INCLUDE_WHY),
    owned("include_dir", Allowed::Nothing, FILES, INCLUDE_WHY),
    owned(
        "hot_standby",
        Allowed::Bool(true),
        MODE,
        "as a Replica or Static compute exists to be read",
    ),
    owned(
        "recovery_target_lsn",
        Allowed::Nothing,
        MODE,
        "as mode Static names the LSN",
    ),
];

const NEON: &[OwnedSetting] = &[
    owned(
        "neon.tenant_id",
        Allowed::Nothing,
        "the field tenantId",
        "and storage is asked for that tenant",
    ),
    owned(
        "neon.timeline_id",
        Allowed::Nothing,
        "the field timelineId",
        "and storage is asked for that timeline",
    ),
    owned(
        "neon.pageserver_connstring",
        Allowed::Nothing,
        STORAGE,
        "and postgres must read from the pageservers that the basebackup came from",
    ),
    owned(
        "neon.stripe_size",
        Allowed::Nothing,
        STORAGE,
        "as another one reads pages from the wrong shard",
    ),
    owned(
        "neon.safekeepers",
        Allowed::Nothing,
        STORAGE,
        "and postgres must write to the safekeepers that were synced",
    ),
    owned(
        "neon.compute_mode",
        Allowed::Nothing,
        MODE,
        "as another one lets a replica write, or keeps a primary from it",
    ),
    owned(
        "neon.privileged_role_name",
        Allowed::Nothing,
        "the command line",
        "and grants are made to that role",
    ),
    owned(
        "neon.extension_server_port",
        Allowed::Nothing,
        "the internal HTTP server",
        "as postgres reports lost pageservers there",
    ),
    owned(
        "neon.disable_logical_replication_subscribers",
        Allowed::Nothing,
        "the start on a branch",
        "as subscriptions must stay off until they are dropped",
    ),
];

const VANILLA: &[OwnedSetting] = &[
    owned(
        "synchronous_standby_names",
        Allowed::Words(&["walproposer"]),
        RELAY,
        "as a commit must wait for the safekeepers",
    ),
    owned(
        "synchronous_commit",
        Allowed::Bool(true),
        RELAY,
        "as a commit must wait for the safekeepers; a role or session may choose otherwise",
    ),
    owned(
        "wal_level",
        Allowed::Words(&["replica", "logical"]),
        RELAY,
        "as it streams the write-ahead log",
    ),
    owned(
        "max_wal_senders",
        Allowed::AtLeast(2),
        RELAY,
        "as it is a replication client",
    ),
    owned(
        "max_replication_slots",
        Allowed::AtLeast(1),
        RELAY,
        "as its slot keeps WAL that the safekeepers have not got yet",
    ),
    owned(
        "max_slot_wal_keep_size",
        Allowed::Words(&["-1"]),
        RELAY,
        "as its slot keeps WAL that the safekeepers have not got yet",
    ),
    owned(
        "fsync",
        Allowed::Bool(false),
        SUPERVISOR,
        "as the directory is made anew at every start and the safekeepers keep what is durable",
    ),
    owned(
        "restart_after_crash",
        Allowed::Bool(false),
        SUPERVISOR,
        "as a crash must end in a fresh start from the safekeepers' WAL",
    ),
    owned(
        "unix_socket_directories",
        Allowed::Nothing,
        SUPERVISOR,
        "and connects there",
    ),
    owned(
        "unix_socket_permissions",
        Allowed::Nothing,
        SUPERVISOR,
        "as whoever may open the socket may log in as the superuser",
    ),
    owned(
        "primary_conninfo",
        Allowed::Nothing,
        STORAGE,
        "as a replica streams from the safekeepers",
    ),
    owned(
        "primary_slot_name",
        Allowed::Nothing,
        STORAGE,
        "as safekeepers have no slots",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(name: &str, value: &str) -> bool {
        let owned = owned_setting(Flavor::Vanilla, name).unwrap();
        owned.allows(Some(value))
    }

    #[test]
    fn names_are_lower_case_and_stand_once() {
        for flavor in [Flavor::Neon, Flavor::Vanilla] {
            let names: Vec<_> = owned_settings(flavor).map(|owned| owned.name).collect();
            let mut unique = names.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), names.len());
            assert!(names.iter().all(|name| *name == name.to_lowercase()));
        }
    }

    #[test]
    fn the_owners_own_value_is_harmless_in_every_spelling() {
        for off in ["off", "OFF", " false", "f", "no", "0"] {
            assert!(allows("fsync", off), "{off}");
        }
        for on in ["on", "true", "1", "maybe", "", "o"] {
            assert!(!allows("fsync", on), "{on}");
        }
        assert!(allows("SYNCHRONOUS_COMMIT", "on"));
        assert!(!allows("synchronous_commit", "local"));
    }

    #[test]
    fn a_floor_may_be_raised_but_not_lowered() {
        assert!(allows("wal_level", "logical"));
        assert!(!allows("wal_level", "minimal"));
        assert!(allows("max_wal_senders", "10"));
        assert!(!allows("max_wal_senders", "0"));
        assert!(!allows("max_wal_senders", "-1"));
    }

    #[test]
    fn a_bare_name_is_never_allowed() {
        assert!(owned_settings(Flavor::Vanilla).all(|owned| !owned.allows(None)));
    }

    #[test]
    fn advice_says_what_to_write_and_whose_it_is() {
        let advice = |name| {
            owned_setting(Flavor::Vanilla, name)
                .map(OwnedSetting::advice)
                .unwrap()
        };
        assert_eq!(
            advice("port"),
            "leave it out: the field postgres.port sets it, and probes and catalog connect there"
        );
        assert_eq!(
            advice("wal_level"),
            "leave it out, or write replica or logical: the WAL relay sets it, as it streams \
             the write-ahead log"
        );
    }

    #[test]
    fn what_postgres_alone_cares_about_is_free() {
        for flavor in [Flavor::Neon, Flavor::Vanilla] {
            for name in ["max_connections", "work_mem", "shared_preload_libraries"] {
                assert_eq!(owned_setting(flavor, name), None, "{name}");
            }
        }
        assert_eq!(owned_setting(Flavor::Neon, "fsync"), None);
    }
}
