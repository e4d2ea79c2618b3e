//! Writes the status, as YAML, into a second ConfigMap beside the one that holds
//! the spec: `NAME-status`, key `status.yaml`.
//!
//! It is created on the first write, by server-side apply, and owned by the
//! spec's ConfigMap, so that the cluster removes it together with that one.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};

use super::api_call::{REQUEST_LIMIT, within};
use super::sink::{Sink, WriteError};
use crate::api::failure::Failure;
use crate::api::status::ComputeSpecStatus;

/// Field manager of the status.
const FIELD_MANAGER: &str = "glowplug/status";
/// Key that holds the status.
const KEY: &str = "status.yaml";

/// The status ConfigMap of one spec's ConfigMap.
pub struct ConfigMapSink {
    api: Api<ConfigMap>,
    namespace: String,
    /// The ConfigMap that holds the spec.
    spec_name: String,
    /// The ConfigMap that holds the status.
    name: String,
    owner: Option<OwnerReference>,
}

impl ConfigMapSink {
    /// For the spec in the ConfigMap of this name.
    pub fn new(client: Client, namespace: &str, spec_name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            spec_name: spec_name.to_owned(),
            name: format!("{spec_name}-status"),
            owner: None,
        }
    }

    fn error(&self, operation: &'static str, source: Failure) -> WriteError {
        WriteError::Api {
            operation,
            object: self.to_string(),
            source,
        }
    }

    async fn read(&self, name: &str) -> Result<Option<ConfigMap>, WriteError> {
        within(REQUEST_LIMIT, self.api.get_opt(name))
            .await
            .map_err(|failure| self.error("read the status of", failure))
    }
}

impl fmt::Display for ConfigMapSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configmap {}/{}", self.namespace, self.name)
    }
}

impl Sink for ConfigMapSink {
    async fn open(&mut self) -> Result<ComputeSpecStatus, WriteError> {
        let spec = self.read(&self.spec_name).await?;
        self.owner = spec.and_then(|spec| {
            Some(OwnerReference {
                api_version: "v1".to_owned(),
                kind: "ConfigMap".to_owned(),
                name: self.spec_name.clone(),
                uid: spec.metadata.uid?,
                ..OwnerReference::default()
            })
        });
        let found = self.read(&self.name).await?;
        let text = found.and_then(|map| map.data?.remove(KEY));
        // What does not parse was written by another version: nothing to carry over.
        Ok(text
            .and_then(|text| serde_saphyr::from_str(&text).ok())
            .unwrap_or_default())
    }

    async fn write(&mut self, status: &ComputeSpecStatus) -> Result<(), WriteError> {
        let text = serde_saphyr::to_string(status).map_err(|source| WriteError::Render {
            object: self.to_string(),
            source: Box::new(source),
        })?;
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(BTreeMap::from([(
                    "app.kubernetes.io/managed-by".to_owned(),
                    "glowplug".to_owned(),
                )])),
                owner_references: self.owner.clone().map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(KEY.to_owned(), text)])),
            ..ConfigMap::default()
        };
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&map);
        within(
            REQUEST_LIMIT,
            self.api.patch(&self.name, &parameters, &patch),
        )
        .await
        .map(drop)
        .map_err(|failure| self.error("write the status of", failure))
    }
}
