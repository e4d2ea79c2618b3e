//! What postgres, a libpq client of storage, is told of TLS: the same that glowplug's own
//! connections do, in libpq's words.

use sha2::{Digest, Sha256};

use crate::pgwire::{ConnectConfig, TlsMode, TlsOptions};
use crate::spec::{ComputeSpec, TlsRoots};

/// Where the images of Neon's computes, which are Debian, keep the system's authorities.
/// libpq knows `sslrootcert=system` from version 16 on, and for `verify-full` only.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Port of an address that names none; it does not matter here.
const ANY_PORT: u16 = 6400;

/// Name and content of the file with the trusted authorities that the spec brings along;
/// it belongs into PGDATA. The name follows the content, so that another content is
/// another configuration.
pub(crate) fn authorities_file(spec: &ComputeSpec) -> Option<(String, &str)> {
    let Some(TlsRoots::Pem(text)) = &spec.storage_tls.roots else {
        return None;
    };
    let digest = hex::encode(&Sha256::digest(text.as_bytes())[..4]);
    Some((format!("storage-ca-{digest}.pem"), text))
}

/// What the spec says of TLS, for a connection string; nothing where it leaves it to
/// libpq.
pub(super) fn options(spec: &ComputeSpec) -> TlsOptions {
    let tls = &spec.storage_tls;
    if tls.mode.is_none() && tls.roots.is_none() {
        return TlsOptions::default();
    }
    let mode = tls.mode();
    let root_certificate = match (&tls.roots, mode) {
        (_, TlsMode::Disable) => None,
        // A backend's working directory is PGDATA.
        (Some(TlsRoots::Pem(_)), _) => authorities_file(spec).map(|(name, _)| name),
        (Some(TlsRoots::File(path)), _) => Some(path.clone()),
        (None, TlsMode::VerifyCa | TlsMode::VerifyFull) => Some(SYSTEM_AUTHORITIES.to_owned()),
        (None, _) => None,
    };
    TlsOptions {
        mode: Some(mode),
        root_certificate,
    }
}

/// A pageserver's address with what the spec says of TLS, unless it says it itself.
pub(super) fn address(address: &str, options: &TlsOptions) -> String {
    match ConnectConfig::parse(address, ANY_PORT) {
        Ok(parsed) if parsed.tls_options.is_empty() => options.add_to(address),
        _ => address.to_owned(),
    }
}
