//! Documents and a reader of them, for the tests of this room.

use std::sync::Arc;

use super::Resolve;
use crate::spec::parse_document;

/// Reads any form.
pub(super) fn resolve() -> Resolve {
    Arc::new(|text, secrets| Ok(parse_document(text, secrets)?.spec))
}

/// A resource for a timeline of this number, with a Secret `app`.
pub(super) fn document_of(timeline: u8) -> String {
    format!(
        "apiVersion: glowplug.dev/v1alpha1
kind: ComputeSpec
metadata: {{name: main}}
spec:
  tenantId: 9ef87a5bf0d92544f6fafeeb3239695c
  timelineId: de200bd42b49cc1814412c7e592dd6{timeline:02x}
  mode: Primary
  postgres: {{version: 15, flavor: Vanilla}}
  storage:
    safekeepers: {{generation: 1, endpoints: [\"sk-0:5454\"]}}
    pageservers: {{shards: [{{number: 0, libpq: \"postgresql://ps-0:6400\"}}]}}
  roles: [{{name: app, password: {{secretKeyRef: {{name: app, key: password}}}}}}]
"
    )
}
