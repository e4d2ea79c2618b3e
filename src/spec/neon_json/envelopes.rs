//! What a specification arrives in: the config file, the control plane's answer, and the
//! bodies of HTTP requests.

use jsonwebtoken::jwk::JwkSet;
use serde::{Deserialize, Serialize};

use super::{ControlPlaneStatus, Spec};
use crate::lsn::Lsn;

/// The content of the file of `-c`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComputeConfig {
    /// The specification; an empty compute waits for `/configure`.
    pub spec: Option<Spec>,
    /// Settings of the process itself.
    pub compute_ctl_config: ComputeCtlConfig,
}

/// The control plane's answer to a request for a compute's specification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlPlaneConfigResponse {
    /// The specification, if there is one.
    pub spec: Option<Spec>,
    /// Whether there should be.
    pub status: ControlPlaneStatus,
    /// Settings of the process itself.
    pub compute_ctl_config: ComputeCtlConfig,
}

/// The body of `POST /configure`. Upstream requires `compute_ctl_config` and does not look
/// at it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigurationRequest {
    /// The specification.
    pub spec: Spec,
    /// Settings of the process itself, which stay as they were at its start.
    pub compute_ctl_config: ComputeCtlConfig,
}

/// The body of `POST /promote`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromoteConfig {
    /// The specification of the new primary.
    pub spec: Spec,
    /// How far the old primary wrote.
    pub wal_flush_lsn: Lsn,
}

/// Settings of the process itself, read at its start only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputeCtlConfig {
    /// The keys that tokens of the external HTTP server are signed with.
    pub jwks: JwkSet,
    /// Certificate and key, if postgres and its companions shall speak TLS.
    pub tls: Option<TlsConfig>,
}

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsConfig {
    /// The private key, in PEM.
    pub key_path: String,
    /// The certificates, leaf first, in PEM.
    pub cert_path: String,
}
