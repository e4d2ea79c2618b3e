//! What the HTTP servers of pageservers and storage controllers say.

use std::sync::Once;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use glowplug::access::StorageToken;
use glowplug::error::{Category, Retry, chain};
use glowplug::id::{ShardIndex, TenantId};
use glowplug::pageserver::{Error, locate, scrape_misrouted};
use glowplug::secret::Secret;
use tokio::net::TcpListener;
use url::Url;

use crate::loopback::Nobody;

/// `locate` of a tenant of four shards, as Neon's storage controller answered.
const LOCATED: &str = include_str!("../fixtures/storage_controller/locate-four-shards.json");

fn client() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        rustls::crypto::ring::default_provider()
            .install_default()
            .unwrap();
    });
    reqwest::Client::new()
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

async fn located(status: StatusCode, body: &'static str) -> Result<usize, Error> {
    let tenant = "a4".repeat(16);
    let path = format!("/debug/v1/tenant/{tenant}/locate");
    let answer = move |headers: HeaderMap| async move {
        assert_eq!(headers["authorization"], "Bearer token");
        (status, body)
    };
    let base = serve(Router::new().route(&path, get(answer))).await;
    let url: Url = base.parse().unwrap();
    let token = StorageToken::fixed(Some(Secret::new("token")));
    let map = locate(&client(), &url, TenantId([0xA4; 16]), &token).await?;
    assert_eq!(map.stripe_size, Some(2048));
    let last = map.shards.last().unwrap();
    assert_eq!(
        last.index,
        ShardIndex {
            number: 3,
            count: 4
        }
    );
    assert_eq!(
        last.libpq.as_deref(),
        Some("postgres://no_user@127.0.0.1:25632")
    );
    assert_eq!(last.http.as_deref(), Some("http://127.0.0.1:25642"));
    Ok(map.shards.len())
}

#[tokio::test]
async fn shards_are_found_where_the_controller_says() {
    assert_eq!(located(StatusCode::OK, LOCATED).await.unwrap(), 4);
}

#[tokio::test]
async fn an_error_of_the_controller_keeps_its_meaning() {
    for (status, category, retry) in [
        (StatusCode::NOT_FOUND, "NotFound", Retry::Never),
        (StatusCode::FORBIDDEN, "AuthFailed", Retry::Never),
        (StatusCode::BAD_REQUEST, "ServerError", Retry::Backoff),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "ServerError",
            Retry::Backoff,
        ),
    ] {
        let error = located(status, "{\"msg\":\"because\"}").await.unwrap_err();
        assert_eq!((error.category(), error.retry()), (category, retry));
        assert!(chain(&error).contains("because"), "{}", chain(&error));
        assert!(!chain(&error).contains("Bearer"));
    }
    let error = located(StatusCode::OK, "[]").await.unwrap_err();
    assert!(matches!(error, Error::HttpBody { .. }), "{}", chain(&error));
}

#[tokio::test]
async fn the_counter_is_read_from_the_metrics() {
    let text = "# HELP pageserver_misrouted_pagestream_requests_total x\n\
                pageserver_misrouted_pagestream_requests_total 42\nother 7\n";
    let base = serve(Router::new().route("/metrics", get(move || async move { text }))).await;
    assert_eq!(scrape_misrouted(&client(), &base).await.unwrap(), 42);
    let base = serve(Router::new()).await;
    let error = scrape_misrouted(&client(), &base).await.unwrap_err();
    assert_eq!(error.category(), "NotFound", "{}", chain(&error));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable() {
    let nobody = Nobody::new();
    let base = format!("http://{}", nobody.address());
    let error = scrape_misrouted(&client(), &base).await.unwrap_err();
    assert_eq!(error.category(), "Unreachable", "{}", chain(&error));
    assert_eq!(error.retry(), Retry::Backoff);
}
