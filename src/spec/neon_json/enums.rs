//! The words of Neon's JSON: modes, levels, features, protocols.

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;

/// How a compute uses its timeline: `"Primary"`, `"Replica"` or `{"Static": "0/16B9188"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Mode {
    /// The one that writes.
    #[default]
    Primary,
    /// Serves the timeline as it was at an LSN.
    Static(Lsn),
    /// Follows the primary.
    Replica,
}

/// How much the audit log records, deprecated synonyms included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Audit {
    /// Nothing.
    #[default]
    Disabled,
    /// Older name of `Base`.
    Log,
    /// Changes of the schema and of roles.
    Base,
    /// Older name of `Extended`.
    Hipaa,
    /// All statements but the miscellaneous ones.
    Extended,
    /// All statements, with parameters.
    Full,
}

/// How to speak to a pageserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageserverProtocol {
    /// The page service on the PostgreSQL protocol.
    #[default]
    Libpq,
    /// The page service on gRPC.
    Grpc,
}

/// Whether the control plane has given this compute to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlPlaneStatus {
    /// Not yet: there is no spec.
    Empty,
    /// Yes: there must be a spec.
    Attached,
}
