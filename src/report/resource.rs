//! Writes the status into the `.status` of a ComputeSpec, by server-side apply.
//!
//! # Guarantees
//!
//! 1. Fields of the status that other managers own are left alone.
//! 2. A status goes only into the object that was read: the write carries its uid,
//!    and the API server refuses it for another object by the same name.
//! 3. Nothing is created: a write to a missing object fails.

use std::fmt;

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::api_call::{REQUEST_LIMIT, within};
use super::sink::{Sink, WriteError};
use crate::api::failure::Failure;
use crate::api::resource::ComputeSpec;
use crate::api::status::ComputeSpecStatus;

/// Field manager of the status. The operator's writes have another.
const FIELD_MANAGER: &str = "glowplug/status";

/// How the API server serves ComputeSpecs.
pub fn compute_spec_kind() -> ApiResource {
    ApiResource::erase::<ComputeSpec>(&())
}

/// The status of one ComputeSpec.
pub struct ResourceSink {
    api: Api<DynamicObject>,
    namespace: String,
    name: String,
    uid: Option<String>,
}

impl ResourceSink {
    /// For the ComputeSpec of this name.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced_with(client, namespace, &compute_spec_kind()),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: None,
        }
    }

    fn error(&self, operation: &'static str, source: Failure) -> WriteError {
        WriteError::Api {
            operation,
            object: self.to_string(),
            source,
        }
    }
}

impl fmt::Display for ResourceSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "computespec {}/{}", self.namespace, self.name)
    }
}

impl Sink for ResourceSink {
    async fn open(&mut self) -> Result<ComputeSpecStatus, WriteError> {
        self.uid = None;
        let object = within(REQUEST_LIMIT, self.api.get(&self.name))
            .await
            .map_err(|failure| self.error("read the status of", failure))?;
        self.uid = object.metadata.uid;
        // What does not parse was written by another version: nothing to carry over.
        let status = object
            .data
            .get("status")
            .cloned()
            .map(serde_json::from_value);
        Ok(status.and_then(Result::ok).unwrap_or_default())
    }

    async fn write(&mut self, status: &ComputeSpecStatus) -> Result<(), WriteError> {
        let kind = compute_spec_kind();
        let patch = json!({
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": { "name": self.name, "uid": self.uid },
            "status": status,
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&patch);
        within(
            REQUEST_LIMIT,
            self.api.patch_status(&self.name, &parameters, &patch),
        )
        .await
        .map(drop)
        .map_err(|failure| self.error("write the status of", failure))
    }
}
