//! Tests against a real API server.

mod harness;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::ListParams;

#[tokio::test]
async fn a_namespace_can_hold_a_compute_spec() {
    let server = harness::shared().await;
    let namespace = server.namespace("smoke").await;
    namespace.apply("apiVersion: glowplug.dev/v1alpha1\nkind: ComputeSpec\nmetadata: {name: main}\nspec: {}\n").await;
    assert_eq!(
        namespace.get("compute/main").await["metadata"]["generation"],
        1
    );
    assert!(namespace.get("compute/other").await.is_null());
}

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
