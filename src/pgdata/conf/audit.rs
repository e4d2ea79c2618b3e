//! The lines that make pgaudit log what an audit level asks for.

use super::Writer;
use crate::spec::{AuditLevel, ComputeSpec, change};

/// Logs what was done.
const PGAUDIT: &str = "pgaudit";
/// Writes pgaudit's lines to files of their own, for a log shipper.
const TO_FILES: &str = "pgauditlogtofile";
/// What is preloaded when the spec's settings do not say.
const PRELOADED: &str = "neon";
/// Minutes until the next file of [`TO_FILES`].
const ROTATION_MINUTES: u32 = 5;

/// Behind the settings, which they override: see `compute_tools/src/config.rs`.
pub(super) fn render(spec: &ComputeSpec, conf: &mut Writer) {
    let libraries: &[&str] = match spec.neon.audit_log_level {
        AuditLevel::Disabled => return,
        AuditLevel::Base => {
            conf.text("pgaudit.log", "ddl,role");
            &[PGAUDIT]
        }
        AuditLevel::Extended => {
            conf.raw("pgaudit.log_parameter", "off");
            conf.text("pgaudit.log", "all, -misc");
            &[PGAUDIT, TO_FILES]
        }
        AuditLevel::Full => {
            conf.raw("pgaudit.log_parameter", "on");
            conf.text("pgaudit.log", "all");
            &[PGAUDIT, TO_FILES]
        }
    };
    conf.raw("pgaudit.log_catalog", "off");
    if libraries.contains(&TO_FILES) {
        conf.raw("pgaudit.log_rotation_age", ROTATION_MINUTES);
    }
    // Upstream looks for them in the list of settings only.
    let stated = change::stated_settings(&spec.postgres);
    let preloaded = stated.get("shared_preload_libraries");
    let preloaded = preloaded.map_or(PRELOADED, String::as_str);
    conf.text("shared_preload_libraries", &preload(preloaded, libraries));
}

/// The list with these libraries added. Upstream looks for a name anywhere in the
/// text, so that `pgauditlogtofile` passes for `pgaudit`.
fn preload(list: &str, libraries: &[&str]) -> String {
    let mut list = list.to_owned();
    for library in libraries {
        let is_there = list.split(',').any(|name| name.trim() == *library);
        if !is_there {
            if !list.trim().is_empty() {
                list.push(',');
            }
            list.push_str(library);
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_added_once_by_their_whole_name() {
        let both = [PGAUDIT, TO_FILES];
        assert_eq!(preload("neon", &both), "neon,pgaudit,pgauditlogtofile");
        assert_eq!(
            preload("pgauditlogtofile", &both),
            "pgauditlogtofile,pgaudit"
        );
        assert_eq!(preload("pgaudit, neon", &[PGAUDIT]), "pgaudit, neon");
        assert_eq!(preload("", &[PGAUDIT]), "pgaudit");
    }
}
