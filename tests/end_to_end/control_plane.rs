//! A compute that gets its spec from a control plane, as `compute_ctl -p` does.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::stage::{Stage, TENANT, TIMELINE, free_port};

/// What it answers now, and how often it was asked with the right token.
#[derive(Default)]
struct Plane {
    answer: Value,
    asked: u32,
}

type Shared = Arc<Mutex<Plane>>;

async fn spec(State(plane): State<Shared>, headers: HeaderMap) -> Response {
    let mut plane = plane.lock().unwrap();
    if headers
        .get("authorization")
        .is_none_or(|value| value != "Bearer cplane-token")
    {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    plane.asked += 1;
    plane.answer.to_string().into_response()
}

async fn serve(plane: Shared) -> (String, AbortOnDropHandle<()>) {
    let router = Router::new()
        .route("/compute/api/v2/computes/test/spec", get(spec))
        .with_state(plane);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (base, AbortOnDropHandle::new(server))
}

/// An answer with a spec for this storage: Neon's JSON, and what it has no word for.
fn attached(stage: &Stage, port: u16, roles: &[&str]) -> Value {
    let shard = &stage.storage.shard_map().shards[0];
    let settings = json!([{"name": "port", "value": port.to_string(), "vartype": "integer"}]);
    let roles: Vec<_> = roles.iter().map(|name| json!({"name": name})).collect();
    json!({
        "status": "attached",
        "compute_ctl_config": {"jwks": {"keys": []}},
        "spec": {
            "format_version": 1.0,
            "suspend_timeout_seconds": -1,
            "cluster": {"roles": roles, "databases": [], "settings": settings},
            "tenant_id": TENANT,
            "timeline_id": TIMELINE,
            "pageserver_connstring": shard.libpq,
            "safekeeper_connstrings": stage.storage.safekeeper_endpoints(),
            "mode": "Primary",
            "glowplug": {"flavor": "Vanilla"},
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_is_asked_at_the_start_and_when_postgres_lost_its_storage() {
    let stage = Stage::set().await;
    let plane = Shared::default();
    let (base, _server) = serve(plane.clone()).await;
    let port = free_port();
    let mut compute = stage.compute("a", &stage.spec(port));
    compute.source = vec!["--control-plane-uri".to_owned(), base];
    compute.environment = vec![("NEON_CONTROL_PLANE_TOKEN", "cplane-token".to_owned())];
    plane.lock().unwrap().answer = attached(&stage, port, &["app"]);
    compute.start().await;
    compute.running().await;
    assert_eq!(plane.lock().unwrap().asked, 1);

    // Postgres lost its pageserver; meanwhile the spec has changed in another place.
    plane.lock().unwrap().answer = attached(&stage, port, &["app", "later"]);
    let internal = compute.address_of("internal").await;
    let refresh = crate::http_client().post(format!("http://{internal}/refresh_configuration"));
    assert_eq!(refresh.send().await.unwrap().status(), 200);
    compute
        .says(&[
            "state: Running",
            "observedGeneration: 2",
            "requestErrors: 1",
        ])
        .await;
    let client = compute.connect().await;
    let sql = "SELECT count(*) FROM pg_roles WHERE rolname = 'later'";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    let log = compute.whole_log();
    assert!(!log.contains("cplane-token"), "{log}");
    compute.kill().await;
}
