//! Tests against a real API server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code"
)]

mod chart;
mod events;
mod harness;
mod manifest;
mod rules;
mod source;
mod status;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::ListParams;

#[tokio::test]
async fn a_restricted_client_may_do_only_what_its_role_says() {
    let server = harness::shared().await;
    let namespace = server.namespace("rbac").await;
    let client = namespace
        .restricted_client(
            "reader",
            "- {apiGroups: [\"\"], resources: [configmaps], verbs: [get]}",
        )
        .await;
    let maps: Api<ConfigMap> = Api::namespaced(client, &namespace.name);
    assert!(maps.get_opt("none").await.unwrap().is_none());
    assert!(maps.list(&ListParams::default()).await.is_err());
}
