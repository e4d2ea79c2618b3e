//! A spec in a ConfigMap: under `compute.yaml` in the resource's form, under
//! `spec.json` in Neon's JSON, or under a key that the user names.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::intake::Document;
use super::watched_object::{self, Target};
use super::{Options, ReadDocument};
use crate::spec::FieldError;
use crate::spec::revision::SourceEvent;

/// Keys that are looked for where the user names none.
const KEYS: [&str; 2] = ["compute.yaml", "spec.json"];

/// Follows the ConfigMap of this name until `cancel` or until nobody listens.
///
/// Only this object is listed and watched, so a Role can name it. Its generation is
/// a count of the distinct documents seen, as ConfigMaps have none.
pub async fn run(
    client: Client,
    namespace: String,
    name: String,
    key: Option<String>,
    options: Options,
    events: mpsc::Sender<SourceEvent>,
    cancel: CancellationToken,
) {
    let kind = ApiResource::erase::<ConfigMap>(&());
    let target = Target {
        api: Api::namespaced_with(client.clone(), &namespace, &kind),
        origin: format!("configmap {namespace}/{name}"),
        extract: Box::new(move |object| document(object, key.as_deref())),
        client,
        namespace,
        name,
    };
    watched_object::run(target, options, events, cancel).await;
}

/// Reads the ConfigMap anew.
pub fn reader(client: &Client, namespace: &str, name: &str, key: Option<String>) -> ReadDocument {
    let kind = ApiResource::erase::<ConfigMap>(&());
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &kind);
    let name = name.to_owned();
    Box::new(move || {
        let (api, name, key) = (api.clone(), name.clone(), key.clone());
        Box::pin(async move {
            let object = api.get(&name).await.ok()?;
            Some(document(&object, key.as_deref()).ok()?.text)
        })
    })
}

fn document(object: &DynamicObject, key: Option<&str>) -> Result<Document, FieldError> {
    let data: BTreeMap<&str, &str> = object
        .data
        .get("data")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        .collect();
    let text = match key {
        Some(key) => data.get(key).ok_or_else(|| missing(&[key], &data))?,
        None => match KEYS.map(|key| data.get(key)) {
            [Some(text), None] | [None, Some(text)] => text,
            [None, None] => return Err(missing(&KEYS, &data)),
            [Some(_), Some(_)] => {
                let [first, second] = KEYS;
                return Err(FieldError::new(
                    "data",
                    format!("it has both {first} and {second}"),
                    "remove one, or name the key: --config-map NAMESPACE/NAME/KEY",
                ));
            }
        },
    };
    Ok(Document {
        text: (*text).to_owned(),
        generation: None,
    })
}

fn missing(wanted: &[&str], data: &BTreeMap<&str, &str>) -> FieldError {
    let keys: Vec<_> = data.keys().copied().collect();
    let found = if keys.is_empty() {
        "none".to_owned()
    } else {
        keys.join(", ")
    };
    let wanted = wanted.join(" or ");
    FieldError::new(
        "data",
        format!("there is no key {wanted} (found: {found})"),
        format!("put the spec under {wanted}"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(data: &Value) -> DynamicObject {
        let text = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": data});
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn either_key_is_found_and_a_named_one_wins() {
        let text = |data: Value, key| document(&object(&data), key).unwrap().text;
        assert_eq!(text(json!({"compute.yaml": "a"}), None), "a");
        assert_eq!(text(json!({"spec.json": "b", "other": "c"}), None), "b");
        assert_eq!(
            text(json!({"spec.json": "b", "other": "c"}), Some("other")),
            "c"
        );
    }

    #[test]
    fn a_missing_or_ambiguous_key_is_told_with_what_is_there() {
        let error = |data: Value, key| document(&object(&data), key).unwrap_err().to_string();
        assert_eq!(
            error(json!({"Spec.json": ""}), None),
            "data: there is no key compute.yaml or spec.json (found: Spec.json); \
             put the spec under compute.yaml or spec.json"
        );
        assert!(error(Value::Null, Some("x")).contains("no key x (found: none)"));
        assert!(error(json!({"spec.json": "", "compute.yaml": ""}), None).contains("both"));
    }
}
