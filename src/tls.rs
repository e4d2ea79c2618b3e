//! Whom glowplug trusts as a TLS client: the system's certificates, which are read at
//! the first handshake.
//!
//! Reading some 150 files takes longer than everything else before a start-up begins,
//! and most computes never speak TLS to anyone. An image without certificates is
//! no reason to refuse plain HTTP either.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_platform_verifier::Verifier;

/// A client for HTTP, with TLS where the URL asks for it.
///
/// # Errors
///
/// What keeps reqwest from making one.
pub fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(client_config())
        .build()
}

/// What a client of TLS needs, without a certificate of its own.
#[expect(
    clippy::expect_used,
    reason = "a constant pair of provider and versions"
)]
fn client_config() -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let verifier = SystemRoots {
        provider: provider.clone(),
        verifier: OnceLock::new(),
    };
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has what TLS 1.2 and 1.3 need")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth()
}

/// Trusts the system's certificates, which are read when they are first needed.
pub fn system_verifier() -> Arc<dyn ServerCertVerifier> {
    Arc::new(SystemRoots {
        provider: Arc::new(ring::default_provider()),
        verifier: OnceLock::new(),
    })
}

/// The platform's verifier, made when it is first asked.
#[derive(Debug)]
struct SystemRoots {
    provider: Arc<CryptoProvider>,
    verifier: OnceLock<Verifier>,
}

impl SystemRoots {
    /// A failure is not kept: certificates may be mounted later.
    fn verifier(&self) -> Result<&Verifier, Error> {
        if let Some(verifier) = self.verifier.get() {
            return Ok(verifier);
        }
        let verifier = Verifier::new(self.provider.clone())?;
        Ok(self.verifier.get_or_init(|| verifier))
    }
}

impl ServerCertVerifier for SystemRoots {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verifier()?.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    #[test]
    fn a_certificate_that_nobody_vouches_for_is_refused() {
        let CertifiedKey { cert, .. } =
            generate_simple_self_signed(vec!["storage.example".to_owned()]).unwrap();
        let roots = SystemRoots {
            provider: Arc::new(ring::default_provider()),
            verifier: OnceLock::new(),
        };
        let name = ServerName::try_from("storage.example").unwrap();
        let verified = roots.verify_server_cert(cert.der(), &[], &name, &[], UnixTime::now());
        // Without certificates of the system, there is nobody to ask either.
        assert!(matches!(
            verified,
            Err(Error::InvalidCertificate(_) | Error::General(_))
        ));
    }

    #[test]
    fn no_certificate_is_read_before_a_handshake() {
        let roots = SystemRoots {
            provider: Arc::new(ring::default_provider()),
            verifier: OnceLock::new(),
        };
        assert!(!roots.supported_verify_schemes().is_empty());
        assert!(roots.verifier.get().is_none());
    }
}
