//! Where a safekeeper is, and how a connection to it introduces itself.

use std::time::Duration;

use super::proposer::LossKind;
use super::refusal;
use crate::access::Access;
use crate::id::{TenantId, TimelineId};
use crate::pgwire::{self, ConnectConfig, Tls};
use crate::secret::Secret;

/// What all connections to the safekeepers of one timeline have in common.
#[derive(Debug, Clone)]
pub(super) struct Introduction {
    pub(super) tenant_id: TenantId,
    pub(super) timeline_id: TimelineId,
    pub(super) access: Access,
    pub(super) connect_timeout: Duration,
}

impl Introduction {
    /// How to connect to a safekeeper; `None` if `endpoint` is not `host:port`.
    fn address(&self, endpoint: &str, token: Option<Secret>, tls: Tls) -> Option<ConnectConfig> {
        let (host, port) = split_endpoint(endpoint)?;
        // The safekeeper splits the options at blanks and drops a lone `-c`
        // (`safekeeper/src/handler.rs: startup`).
        let options = format!(
            "-c timeline_id={} tenant_id={}",
            self.timeline_id, self.tenant_id
        );
        let mut config = ConnectConfig::tcp(host, port, "no_user")
            .parameter("options", options)
            .password(token);
        config.tls = tls;
        config.database = Some("replication".to_owned());
        config.connect_timeout = self.connect_timeout;
        Some(config)
    }
}

impl Introduction {
    /// Makes a connection by `connect`, and once more with another token if the first is
    /// refused and the token's source has another.
    pub(super) async fn connect<T, F>(
        &self,
        endpoint: &str,
        connect: impl Fn(ConnectConfig) -> F,
    ) -> Result<T, pgwire::Error>
    where
        F: Future<Output = Result<T, pgwire::Error>>,
    {
        let tls = self.access.trust.for_safekeepers().await?;
        let attempt = |token| {
            let config = self.address(endpoint, token, tls.clone());
            let attempt = config.map(&connect);
            async { attempt.ok_or(pgwire::Error::ConnectionString(None))?.await }
        };
        let refused = |error: &pgwire::Error| refusal::loss(error).kind == LossKind::AuthFailed;
        self.access.token.attempt(attempt, refused).await
    }
}

/// Splits `host:port`, where the host may be an IPv6 address in brackets.
fn split_endpoint(endpoint: &str) -> Option<(&str, u16)> {
    let (host, port) = endpoint.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    if host.is_empty() {
        return None;
    }
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        assert_eq!(split_endpoint("sk-0.neon:5454"), Some(("sk-0.neon", 5454)));
        assert_eq!(split_endpoint("[::1]:5454"), Some(("::1", 5454)));
        for bad in [
            "sk-0",
            "sk-0:",
            ":5454",
            "::1:5454",
            "sk-0:70000",
            "[::1:5454",
        ] {
            assert_eq!(split_endpoint(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_stand_in_the_options() {
        let introduction = Introduction {
            tenant_id: "9e4c8f36063c6c6e93bc20d65a820f3d".parse().unwrap(),
            timeline_id: "112ded66422aa5e953e5440fa5427ac4".parse().unwrap(),
            access: Access::default(),
            connect_timeout: Duration::from_secs(1),
        };
        let config = introduction.address("sk-0:5454", None, Tls::Never).unwrap();
        let expected = "-c timeline_id=112ded66422aa5e953e5440fa5427ac4 \
                        tenant_id=9e4c8f36063c6c6e93bc20d65a820f3d";
        let options = ("options".to_owned(), expected.to_owned());
        assert_eq!(config.parameters, [options]);
    }
}
