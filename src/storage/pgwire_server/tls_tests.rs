//! TLS between this crate's two ends, in each of libpq's modes.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::access::Trust;
use crate::error::{Category, Retry, chain};
use crate::pgwire::{self, ConnectConfig, Connection, TlsMode, TlsOptions};
use crate::spec::{StorageTls, TlsRoots};

/// An authority, and certificates that it has signed.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn roots(&self) -> TlsRoots {
        TlsRoots::Pem(self.0.pem())
    }

    fn server(&self, name: &str) -> Arc<rustls::ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(certificate.der().to_vec())],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            );
        Arc::new(config.unwrap())
    }
}

/// A server that answers every query of every client with its text.
async fn echo(tls: Option<Arc<rustls::ServerConfig>>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = ServerConfig {
        token: Some(Secret::new("right")),
        tls,
        ..ServerConfig::default()
    };
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(Some(mut session)) = Session::accept(stream, &config).await else {
                continue;
            };
            while let Ok(Some(query)) = session.next_query().await {
                session.rows(&[Column::text("q")], &[vec![Some(query)]], "SELECT 1");
                session.ready().await.unwrap();
            }
        }
    });
    (address, task)
}

async fn ask(
    host: &str,
    port: u16,
    mode: TlsMode,
    roots: Option<TlsRoots>,
) -> Result<(), pgwire::Error> {
    let trust = Trust::default();
    trust.use_tls(&StorageTls {
        mode: Some(mode),
        roots,
    });
    let mut config = ConnectConfig::tcp(host, port, "no_user");
    config.password = Some(Secret::new("right"));
    config.tls = trust.tls(&TlsOptions::default()).await?;
    let mut connection = Connection::connect(&config).await?;
    // Larger than a record of TLS and than the buffers on the way.
    let long = "x".repeat(200_000);
    let rows = connection.simple_query(&long).await?;
    assert_eq!(rows[0].text(0), Some(&*long));
    Ok(())
}

#[tokio::test]
async fn a_server_with_tls_is_used_as_far_as_it_is_trusted() {
    let (ours, other) = (Authority::new(), Authority::new());
    let (address, _server) = echo(Some(ours.server("localhost"))).await;
    let (trusted, foreign) = (Some(ours.roots()), Some(other.roots()));
    let unknown = Err("of no trusted authority");
    for (host, mode, roots, expected) in [
        ("localhost", TlsMode::Allow, None, Ok(())),
        ("localhost", TlsMode::Prefer, None, Ok(())),
        ("localhost", TlsMode::Require, None, Ok(())),
        ("localhost", TlsMode::VerifyCa, trusted.clone(), Ok(())),
        ("localhost", TlsMode::VerifyFull, trusted.clone(), Ok(())),
        ("127.0.0.1", TlsMode::VerifyCa, trusted.clone(), Ok(())),
        ("127.0.0.1", TlsMode::Require, trusted.clone(), Ok(())),
        (
            "127.0.0.1",
            TlsMode::VerifyFull,
            trusted,
            Err("for another name"),
        ),
        ("localhost", TlsMode::Require, foreign.clone(), unknown),
        ("localhost", TlsMode::VerifyCa, foreign.clone(), unknown),
        ("localhost", TlsMode::VerifyFull, foreign, unknown),
        (
            "localhost",
            TlsMode::Disable,
            None,
            Err("must connect with TLS"),
        ),
    ] {
        let asked = ask(host, address.port(), mode, roots).await;
        match (asked, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(text)) => {
                assert!(chain(&error).contains(text), "{mode}: {}", chain(&error));
                assert_eq!(error.category(), "TlsFailed", "{mode}");
                assert_eq!(error.retry(), Retry::Never, "{mode}");
            }
            (asked, _) => panic!("{host} {mode}: {asked:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_without_tls_is_used_unless_tls_is_a_must() {
    let (address, _server) = echo(None).await;
    for mode in [TlsMode::Disable, TlsMode::Allow, TlsMode::Prefer] {
        ask("localhost", address.port(), mode, None).await.unwrap();
    }
    for mode in [TlsMode::Require, TlsMode::VerifyCa] {
        let roots = Some(Authority::new().roots());
        let error = ask("localhost", address.port(), mode, roots)
            .await
            .unwrap_err();
        assert!(matches!(error, pgwire::Error::TlsNotOffered { .. }));
    }
}

#[tokio::test]
async fn a_file_of_authorities_is_read_again_when_it_changes() {
    let (first, second) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let trust = Trust::default();
    let file = path.to_str().unwrap().to_owned();
    trust.use_tls(&StorageTls {
        mode: None,
        roots: Some(TlsRoots::File(file)),
    });
    let missing = trust.tls(&TlsOptions::default()).await.unwrap_err();
    assert!(chain(&missing).contains("ca.pem"), "{}", chain(&missing));
    for authority in [&first, &second] {
        std::fs::write(&path, authority.0.pem()).unwrap();
        let (address, _server) = echo(Some(authority.server("localhost"))).await;
        let mut config = ConnectConfig::tcp("localhost", address.port(), "no_user");
        config.password = Some(Secret::new("right"));
        config.tls = trust.tls(&TlsOptions::default()).await.unwrap();
        Connection::connect(&config).await.unwrap();
    }
    std::fs::write(&path, "no certificate").unwrap();
    let empty = trust.tls(&TlsOptions::default()).await.unwrap_err();
    assert!(
        chain(&empty).contains("no certificate in PEM form"),
        "{}",
        chain(&empty)
    );
}
