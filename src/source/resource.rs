//! A spec in a ComputeSpec resource.

use kube::api::DynamicObject;
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::intake::Document;
use super::watched_object::{self, Target};
use super::{Options, ReadDocument};
use crate::report::resource::compute_spec_kind;
use crate::spec::revision::SourceEvent;

/// Follows the ComputeSpec of this name until `cancel` or until nobody listens.
///
/// Only this object is listed and watched, so a Role can name it.
pub async fn run(
    client: Client,
    namespace: String,
    name: String,
    options: Options,
    events: mpsc::Sender<SourceEvent>,
    cancel: CancellationToken,
) {
    let target = Target {
        api: Api::namespaced_with(client.clone(), &namespace, &compute_spec_kind()),
        origin: format!("computespec {namespace}/{name}"),
        extract: Box::new(|object| Ok(document(object))),
        client,
        namespace,
        name,
    };
    watched_object::run(target, options, events, cancel).await;
}

/// Reads the ComputeSpec anew.
pub fn reader(client: &Client, namespace: &str, name: &str) -> ReadDocument {
    let api =
        Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &compute_spec_kind());
    let name = name.to_owned();
    Box::new(move || {
        let (api, name) = (api.clone(), name.clone());
        Box::pin(async move { Some(document(&api.get(&name).await.ok()?).text) })
    })
}

/// What a user wrote, without what the API server added. Parsed only by
/// [`super::Resolve`], so that an object from another version of the CRD is refused
/// with a reason, and does not end the watch.
fn document(object: &DynamicObject) -> Document {
    let kind = compute_spec_kind();
    let text = json!({
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": { "name": object.metadata.name, "namespace": object.metadata.namespace },
        "spec": object.data.get("spec"),
    });
    Document {
        text: text.to_string(),
        generation: object.metadata.generation,
    }
}
