//! Manifests that several tests apply.

/// All that the pod of the compute `main` may do when its spec refers to the Secrets
/// `storage` and `app`.
pub(crate) const POD_RULES: &str = r#"
- {apiGroups: [glowplug.dev], resources: [computespecs], resourceNames: [main], verbs: [get, list, watch]}
- {apiGroups: [glowplug.dev], resources: [computespecs/status], resourceNames: [main], verbs: [get, patch]}
- {apiGroups: [""], resources: [secrets], resourceNames: [storage, app], verbs: [get, list, watch]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}"#;

/// The Secrets that [`compute_spec`] refers to, with this password.
pub(crate) fn secrets(password: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: storage}}\nstringData: {{token: opensesame}}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: app}}\nstringData: {{password: {password}}}\n"
    )
}

/// A valid ComputeSpec of this name.
pub(crate) fn compute_spec(name: &str) -> String {
    format!(
        r#"apiVersion: glowplug.dev/v1alpha1
kind: ComputeSpec
metadata: {{name: {name}}}
spec:
  tenantId: 9ef87a5bf0d92544f6fafeeb3239695c
  timelineId: de200bd42b49cc1814412c7e592dd6e9
  mode: Primary
  postgres: {{version: 15, flavor: Vanilla}}
  storage:
    safekeepers: {{generation: 1, endpoints: ["sk-0:5454", "sk-1:5454", "sk-2:5454"]}}
    pageservers:
      shards: [{{number: 0, libpq: "postgresql://ps-0:6400"}}]
    tokenSecretRef: {{name: storage, key: token}}
  roles:
  - {{name: app, password: {{secretKeyRef: {{name: app, key: password}}}}}}
  databases:
  - {{name: shop, owner: app}}
"#
    )
}
