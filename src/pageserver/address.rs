//! Turns the location of a shard into a connection that a pageserver knows as ours.

use std::time::Duration;

use url::Url;

use super::Error;
use crate::access::Access;
use crate::pgwire::ConnectConfig;
use crate::secret::Secret;
use crate::spec::{ComputeMode, ShardLocation};

/// Conventional port of the page service.
const DEFAULT_PORT: u16 = 6400;
/// The page service logs it. The name is upstream's, so that dashboards keep working.
const APPLICATION_NAME: &str = "compute_ctl";

/// How to connect to the page service of a shard. The token replaces any password in
/// the address, as in `compute_tools/src/compute.rs` of Neon.
pub(super) async fn page_service(
    location: &ShardLocation,
    mode: ComputeMode,
    access: &Access,
    token: Option<Secret>,
    connect_timeout: Duration,
) -> Result<ConnectConfig, Error> {
    let mut config = parse(location, mode, token)?;
    let shard = location.index;
    let tls = access.trust.tls(&config.tls_options).await;
    config.tls = tls.map_err(|source| Error::Connect {
        shard,
        source: source.into(),
    })?;
    config.connect_timeout = connect_timeout;
    Ok(config)
}

fn parse(
    location: &ShardLocation,
    mode: ComputeMode,
    token: Option<Secret>,
) -> Result<ConnectConfig, Error> {
    let shard = location.index;
    let address = location.libpq.as_deref().filter(|text| !text.is_empty());
    let address = address.ok_or(Error::NoAddress { shard })?;
    let parsed = ConnectConfig::parse(address, DEFAULT_PORT);
    let mut config = parsed.map_err(|source| Error::Address { shard, source })?;
    let ours = ["application_name", "options"];
    config
        .parameters
        .retain(|(name, _)| !ours.contains(&name.as_str()));
    if token.is_some() {
        config.password = token;
    }
    Ok(config
        .parameter("application_name", APPLICATION_NAME)
        .parameter("options", format!("-c neon.compute_mode={}", word(mode))))
}

/// `host:port` of the page service of a shard, for people.
pub(super) fn peer(location: &ShardLocation) -> String {
    let known = libpq_peer(location).or_else(|| grpc_peer(location));
    known.unwrap_or_else(|| "an unknown address".to_owned())
}

/// `host:port` of the page service on the PostgreSQL protocol, if there is one.
pub(super) fn libpq_peer(location: &ShardLocation) -> Option<String> {
    let config = ConnectConfig::parse(location.libpq.as_deref()?, DEFAULT_PORT).ok()?;
    Some(config.peer())
}

/// `host:port` of the page service on gRPC, if there is one.
pub(super) fn grpc_peer(location: &ShardLocation) -> Option<String> {
    let url = Url::parse(location.grpc.as_deref()?).ok()?;
    Some(format!("{}:{}", url.host()?, url.port()?))
}

/// A mode as Neon's postgres and storage spell it.
const fn word(mode: ComputeMode) -> &'static str {
    match mode {
        ComputeMode::Primary => "primary",
        ComputeMode::Replica => "replica",
        ComputeMode::Static(_) => "static",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardIndex;
    use crate::lsn::Lsn;

    fn location(libpq: Option<&str>) -> ShardLocation {
        ShardLocation {
            index: ShardIndex::UNSHARDED,
            node_id: None,
            libpq: libpq.map(str::to_owned),
            grpc: None,
            http: None,
        }
    }

    fn config(libpq: Option<&str>) -> Result<ConnectConfig, Error> {
        let (mode, token) = (ComputeMode::Static(Lsn(8)), Secret::new("token"));
        parse(&location(libpq), mode, Some(token))
    }

    #[test]
    fn the_token_and_our_names_replace_what_the_address_says() {
        let address = "postgresql://me:old@ps-0:6400?application_name=x&options=-c%20a%3Db";
        let config = config(Some(address)).unwrap();
        assert_eq!(config.peer(), "ps-0:6400");
        assert_eq!(config.password, Some(Secret::new("token")));
        assert_eq!(
            config.parameters,
            [
                ("application_name".to_owned(), "compute_ctl".to_owned()),
                (
                    "options".to_owned(),
                    "-c neon.compute_mode=static".to_owned()
                ),
            ]
        );
    }

    #[test]
    fn what_cannot_be_used_is_an_error_that_no_retry_helps() {
        use crate::error::{Category, Retry};
        for address in [None, Some(""), Some("host=a,b"), Some("host=a sslmode=on")] {
            let error = config(address).unwrap_err();
            assert_eq!(error.retry(), Retry::Never, "{error}");
        }
    }
}
