//! Asks the storage controller where a tenant's shards are now.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::Error;
use crate::access::StorageToken;
use crate::error::truncate;
use crate::id::{TenantId, TenantShardId};
use crate::secret::Secret;
use crate::spec::{PageserverProtocol, ShardLocation, ShardMap};

/// Limit for the whole request.
const LIMIT: Duration = Duration::from_secs(10);
/// What is shown of an error's body, in bytes.
const SHOWN_BODY: usize = 256;

/// Where the shards of a tenant are, by the storage controller's
/// `GET /debug/v1/tenant/{id}/locate`, within 10 s. The token needs the scope
/// `admin`, where the controller asks for one.
///
/// # Errors
///
/// [`Error::Http`], [`Error::HttpStatus`] (404: the tenant is unknown, 400: a shard is
/// not attached anywhere), [`Error::HttpBody`].
pub async fn locate(
    http: &reqwest::Client,
    controller: &Url,
    tenant_id: TenantId,
    token: &StorageToken,
) -> Result<ShardMap, Error> {
    let attempt = |token| locate_with(http, controller, tenant_id, token);
    token.attempt(attempt, Error::is_unauthorized).await
}

async fn locate_with(
    http: &reqwest::Client,
    controller: &Url,
    tenant_id: TenantId,
    token: Option<Secret>,
) -> Result<ShardMap, Error> {
    let base = controller.as_str().trim_end_matches('/');
    let url = format!("{base}/debug/v1/tenant/{tenant_id}/locate");
    let failed = |source: reqwest::Error| Error::Http {
        url: url.clone(),
        source: source.without_url(),
    };
    let mut request = http.get(&url).timeout(LIMIT);
    if let Some(token) = token {
        request = request.bearer_auth(token.reveal());
    }
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    let body = response.bytes().await.map_err(failed)?;
    if !status.is_success() {
        return Err(Error::HttpStatus {
            url: url.clone(),
            status: status.as_u16(),
            body: truncate(String::from_utf8_lossy(&body).trim(), SHOWN_BODY),
        });
    }
    let problem = |problem| Error::HttpBody {
        url: url.clone(),
        problem,
    };
    shard_map_in(&body).map_err(problem)
}

/// Reads the answer to `locate`.
///
/// # Errors
///
/// What is wrong with it.
pub fn shard_map_in(body: &[u8]) -> Result<ShardMap, String> {
    let located: Located = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    located.into_shard_map()
}

/// `TenantLocateResponse` of `libs/pageserver_api/src/controller_api.rs`.
#[derive(Debug, Deserialize)]
struct Located {
    shards: Vec<LocatedShard>,
    shard_params: ShardParams,
}

#[derive(Debug, Deserialize)]
struct ShardParams {
    count: u8,
    stripe_size: u32,
}

#[derive(Debug, Deserialize)]
struct LocatedShard {
    shard_id: String,
    node_id: u64,
    listen_pg_addr: String,
    listen_pg_port: u16,
    listen_grpc_addr: Option<String>,
    listen_grpc_port: Option<u16>,
    listen_http_addr: String,
    listen_http_port: u16,
}

impl Located {
    /// The internal form: sorted by number, and complete.
    fn into_shard_map(self) -> Result<ShardMap, String> {
        let count = self.shard_params.count;
        let mut shards = Vec::with_capacity(self.shards.len());
        for shard in self.shards {
            let id: TenantShardId = shard.shard_id.parse().map_err(
                // The error says which text and what it should be.
                |error: crate::id::ParseIdError| error.to_string(),
            )?;
            if id.shard.count != count {
                return Err(format!("shard {} is not one of {count}", id.shard));
            }
            shards.push(shard.into_location(id));
        }
        shards.sort_by_key(|shard| shard.index.number);
        let numbers = shards.iter().map(|shard| usize::from(shard.index.number));
        if !numbers.eq(0..usize::from(count.max(1))) {
            return Err(format!("these are not the {} shards", count.max(1)));
        }
        Ok(ShardMap {
            stripe_size: (count > 0).then_some(self.shard_params.stripe_size),
            prefer_protocol: PageserverProtocol::Libpq,
            shards,
        })
    }
}

impl LocatedShard {
    fn into_location(self, id: TenantShardId) -> ShardLocation {
        let grpc = self.listen_grpc_addr.zip(self.listen_grpc_port);
        ShardLocation {
            index: id.shard,
            node_id: Some(self.node_id),
            libpq: Some(format!(
                "postgres://no_user@{}:{}",
                bracketed(&self.listen_pg_addr),
                self.listen_pg_port
            )),
            grpc: grpc.map(|(host, port)| format!("grpc://no_user@{}:{port}", bracketed(&host))),
            http: Some(format!(
                "http://{}:{}",
                bracketed(&self.listen_http_addr),
                self.listen_http_port
            )),
        }
    }
}

/// A host as URLs write it: IPv6 addresses in brackets.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::id::ShardIndex;

    fn shard(id: &str, node_id: u64) -> Value {
        json!({
            "shard_id": id, "node_id": node_id,
            "listen_pg_addr": "ps", "listen_pg_port": 6400,
            "listen_grpc_addr": null, "listen_grpc_port": null,
            "listen_http_addr": "fd00::1", "listen_http_port": 9898,
            "listen_https_port": null,
        })
    }

    fn map(shards: &[Value], count: u8) -> Result<ShardMap, String> {
        let text = json!({"shards": shards, "shard_params": {"count": count, "stripe_size": 2048}});
        let located: Located = serde_json::from_value(text).unwrap();
        located.into_shard_map()
    }

    const TENANT: &str = "a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4a4";

    #[test]
    fn an_unsharded_tenant_has_one_shard_and_no_stripe_size() {
        let map = map(&[shard(TENANT, 1)], 0).unwrap();
        assert_eq!(map.stripe_size, None);
        let [only] = &map.shards[..] else {
            panic!("{map:?}");
        };
        assert_eq!(only.index, ShardIndex::UNSHARDED);
        assert_eq!(only.libpq.as_deref(), Some("postgres://no_user@ps:6400"));
        assert_eq!(only.http.as_deref(), Some("http://[fd00::1]:9898"));
        assert_eq!(only.grpc, None);
    }

    #[test]
    fn shards_are_put_in_order() {
        let shards = [
            shard(&format!("{TENANT}-0102"), 2),
            shard(&format!("{TENANT}-0002"), 1),
        ];
        let map = map(&shards, 2).unwrap();
        assert_eq!(map.stripe_size, Some(2048));
        let nodes: Vec<_> = map.shards.iter().map(|shard| shard.node_id).collect();
        assert_eq!(nodes, [Some(1), Some(2)]);
    }

    #[test]
    fn an_incomplete_map_is_refused() {
        assert!(map(&[], 0).is_err());
        assert!(map(&[shard(&format!("{TENANT}-0102"), 2)], 2).is_err());
        assert!(map(&[shard(TENANT, 2)], 1).is_err());
    }
}
