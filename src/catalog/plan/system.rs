//! Plans what is in the database of the session: extensions, and the table for
//! availability checks.

use super::change::Change;
use super::{Planner, Stage};
use crate::spec::{AuditLevel, Flavor};

/// The extension of Neon's postgres, and the schema for it.
const NEON: &str = "neon";

impl Planner<'_> {
    pub(super) fn plan_system_database(&mut self) {
        if !self.observed.system.has_health_check {
            self.step(Stage::Records, Change::CreateHealthCheck);
        }
        let libraries = &self.observed.preload_libraries;
        if libraries
            .iter()
            .any(|library| library == "pg_stat_statements")
        {
            self.want_extension("pg_stat_statements", "public");
        }
        if self.desired.flavor == Flavor::Neon {
            self.plan_neon();
        }
        // Last, so that what comes before is in the audit log.
        self.plan_audit();
    }

    fn want_extension(&mut self, name: &str, schema: &str) {
        if !self.observed.system.extensions.contains_key(name) {
            let (name, schema) = (name.to_owned(), schema.to_owned());
            self.step(Stage::Records, Change::CreateExtension { name, schema });
        }
    }

    fn plan_neon(&mut self) {
        let system = &self.observed.system;
        if system.neon_available.is_none() {
            return;
        }
        let Some(installed) = system.extensions.get(NEON) else {
            self.want_extension(NEON, NEON);
            return;
        };
        if installed.schema != NEON {
            let (name, schema) = (NEON.to_owned(), NEON.to_owned());
            self.step(Stage::Records, Change::MoveExtension { name, schema });
        }
        self.update_neon();
    }

    /// Brings the extension, where it is, to the version that its library has.
    pub(super) fn update_neon(&mut self) {
        let system = &self.observed.system;
        let installed = system.extensions.get(NEON).map(|neon| &neon.version);
        if installed.is_some()
            && system.neon_available.is_some()
            && installed != system.neon_available.as_ref()
        {
            let name = NEON.to_owned();
            self.step(Stage::Records, Change::UpdateExtension { name });
        }
    }

    fn plan_audit(&mut self) {
        match self.desired.audit {
            AuditLevel::Disabled => return,
            AuditLevel::Base => self.want_extension("pgaudit", "public"),
            AuditLevel::Extended | AuditLevel::Full => {
                self.want_extension("pgaudit", "public");
                self.want_extension("pgauditlogtofile", "public");
            }
        }
        if !self.observed.system.is_unaudited {
            let database = self.observed.system_database.clone();
            self.step(Stage::Records, Change::ExemptFromAudit { database });
        }
    }
}
