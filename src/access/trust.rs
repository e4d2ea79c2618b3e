//! Whose certificates are trusted, and how far a certificate is looked at: the rules of
//! libpq, for PostgreSQL's protocol and for gRPC alike.
//!
//! As in libpq, an authority that is named is insisted on in every mode; only
//! `verify-full` insists on the name, too, and falls back on the system's authorities.
//!
//! Files are read again for every connection, as they are rotated; what was made of
//! them is kept as long as they are the same, and with it the sessions to resume.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::pgwire::{Error, Tls, TlsMode, TlsOptions};
use crate::spec::{ComputeSpec, StorageTls, TlsRoots};
use crate::tls;

/// How many results are kept: few more than there are ways in one spec.
const KEPT: usize = 8;
/// Options that Neon's postgres adds to a safekeeper's address
/// (`pgxn/neon/walproposer_pg.c`).
const SAFEKEEPER_OPTIONS: &str = "neon.safekeeper_conninfo_options";
/// libpq's word for the system's authorities.
const SYSTEM: &str = "system";

/// What the spec says of TLS, and what was made of it. Clones share it.
#[derive(Clone, Default)]
pub struct Trust {
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    spec: StorageTls,
    /// What the spec tells postgres of TLS to safekeepers, in a setting of Neon's.
    safekeepers: TlsOptions,
    made: Vec<Made>,
}

/// A configuration and what it was made of.
struct Made {
    of: Material,
    config: Arc<ClientConfig>,
}

/// Everything that a configuration depends on.
#[derive(Clone, PartialEq, Eq)]
struct Material {
    check: Check,
    authorities: Authorities,
}

/// How far a certificate is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Authority,
    AuthorityAndName,
}

#[derive(Clone, PartialEq, Eq)]
enum Authorities {
    System,
    Pem { origin: String, text: Vec<u8> },
}

impl Trust {
    /// Takes over what a newer spec says.
    pub(super) fn follow(&self, spec: &ComputeSpec) {
        let options = spec.setting(SAFEKEEPER_OPTIONS);
        let mut held = self.lock();
        held.safekeepers = options
            .and_then(TlsOptions::of_conninfo)
            .unwrap_or_default();
        held.spec = spec.storage_tls.clone();
    }

    /// Takes over another way of encrypting.
    pub fn use_tls(&self, tls: &StorageTls) {
        self.lock().spec = tls.clone();
    }

    /// TLS for a connection to a safekeeper, whose address says nothing of it.
    ///
    /// # Errors
    ///
    /// [`Error::TrustedCertificates`].
    pub async fn for_safekeepers(&self) -> Result<Tls, Error> {
        let options = self.lock().safekeepers.clone();
        self.tls(&options).await
    }

    /// TLS for a connection whose address says this of it; what it leaves open is as in
    /// the spec.
    ///
    /// # Errors
    ///
    /// [`Error::TrustedCertificates`].
    pub async fn tls(&self, options: &TlsOptions) -> Result<Tls, Error> {
        let spec = self.lock().spec.clone();
        let mode = options.mode.unwrap_or_else(|| spec.mode());
        if mode == TlsMode::Disable {
            return Ok(Tls::Never);
        }
        let config = self.config(mode, &spec, options).await?;
        Ok(match mode {
            TlsMode::Disable => Tls::Never,
            TlsMode::Allow => Tls::IfDemanded(config),
            TlsMode::Prefer => Tls::IfOffered(config),
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => Tls::Always(config),
        })
    }

    /// TLS for a gRPC address that asks for it (`grpcs://`): as for `verify-full`, unless
    /// the spec asks for less by name.
    ///
    /// # Errors
    ///
    /// [`Error::TrustedCertificates`].
    pub async fn for_grpc(&self) -> Result<Arc<ClientConfig>, Error> {
        let spec = self.lock().spec.clone();
        let mode = match spec.mode() {
            mode @ (TlsMode::Require | TlsMode::VerifyCa) => mode,
            _ => TlsMode::VerifyFull,
        };
        let config = self.config(mode, &spec, &TlsOptions::default()).await?;
        let mut config = (*config).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    async fn config(
        &self,
        mode: TlsMode,
        spec: &StorageTls,
        options: &TlsOptions,
    ) -> Result<Arc<ClientConfig>, Error> {
        let named = match &options.root_certificate {
            Some(word) if word == SYSTEM => None,
            Some(path) => Some(TlsRoots::File(path.clone())),
            None => spec.roots.clone(),
        };
        let authorities = match &named {
            None => Authorities::System,
            Some(roots) => read(roots).await?,
        };
        let material = Material {
            check: check(mode, named.is_some()),
            authorities,
        };
        let known = |made: &&Made| made.of == material;
        if let Some(made) = self.lock().made.iter().find(known) {
            return Ok(made.config.clone());
        }
        let config = make(&material)?;
        let mut held = self.lock();
        if held.made.len() >= KEPT {
            held.made.remove(0);
        }
        held.made.push(Made {
            of: material,
            config: config.clone(),
        });
        Ok(config)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        // Nothing panics while it is held.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().spec.fmt(f)
    }
}

/// libpq: a named authority counts in every mode.
const fn check(mode: TlsMode, named: bool) -> Check {
    match (mode, named) {
        (TlsMode::VerifyFull, _) => Check::AuthorityAndName,
        (TlsMode::VerifyCa, _) | (_, true) => Check::Authority,
        (_, false) => Check::Nothing,
    }
}

fn unreadable(origin: &str, problem: impl Into<String>) -> Error {
    Error::TrustedCertificates {
        origin: origin.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, problem.into()),
    }
}

async fn read(roots: &TlsRoots) -> Result<Authorities, Error> {
    match roots {
        TlsRoots::Pem(text) => Ok(Authorities::Pem {
            origin: "the spec".to_owned(),
            text: text.clone().into_bytes(),
        }),
        TlsRoots::File(path) => match tokio::fs::read(path).await {
            Ok(text) => Ok(Authorities::Pem {
                origin: path.clone(),
                text,
            }),
            Err(source) => Err(Error::TrustedCertificates {
                origin: path.clone(),
                source,
            }),
        },
    }
}

/// Makes a configuration.
fn make(of: &Material) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match of.check {
        Check::Nothing => Arc::new(Anybody(provider.clone())),
        Check::Authority => Arc::new(AnyName(of_authorities(&of.authorities, &provider)?)),
        Check::AuthorityAndName => of_authorities(&of.authorities, &provider)?,
    };
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions
        .map_err(|error| unreadable("the system", error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Takes certificates of these authorities for the peer's name.
fn of_authorities(
    authorities: &Authorities,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let (origin, store) = match authorities {
        Authorities::System => return Ok(tls::system_verifier()),
        Authorities::Pem { origin, text } => (origin, of_pem(origin, text)?),
    };
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone());
    let verifier = builder.build();
    Ok(verifier.map_err(|error| unreadable(origin, error.to_string()))?)
}

fn of_pem(origin: &str, text: &[u8]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.map_err(|error| unreadable(origin, error.to_string()))?;
        let added = store.add(certificate);
        added.map_err(|error| unreadable(origin, error.to_string()))?;
    }
    if store.is_empty() {
        return Err(unreadable(origin, "there is no certificate in PEM form"));
    }
    Ok(store)
}

/// Takes a certificate of a trusted authority for any name (`verify-ca`).
#[derive(Debug)]
struct AnyName(Arc<dyn ServerCertVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.0
                .verify_server_cert(certificate, intermediates, name, ocsp_response, now);
        match verified {
            // The name is what is looked at last.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Takes any certificate whose key the peer has (`require`): keeps out who only listens.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
