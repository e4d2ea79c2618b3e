//! Manifests that several tests apply.

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
