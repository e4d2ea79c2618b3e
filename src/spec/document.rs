//! Finds the specification in a text: a ComputeSpec resource, or Neon's JSON bare or in an
//! envelope, each as JSON or YAML.
//!
//! A file for `kubectl apply` may hold further objects. Secrets among them serve the
//! references of the ComputeSpec; the rest is left to kubectl, with a note.

mod secret_object;
mod text;

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde_json::Value;

use self::secret_object::SecretObjects;
pub use self::text::objects;
use super::neon_json::{
    self, ComputeConfig, ComputeCtlConfig, ControlPlaneConfigResponse, ControlPlaneStatus,
};
use super::secrets::Secrets;
use super::validate::quoted;
use super::{ComputeSpec, Errors, FieldError, conf_text, resolve, schema};
use crate::api::resource::ComputeSpecSpec;

/// What a text holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// In which form it is written.
    pub form: Form,
    /// The specification; `None` if an envelope of Neon's holds none.
    pub spec: Option<ComputeSpec>,
    /// `metadata.namespace` of a resource, where it is given.
    pub namespace: Option<String>,
    /// `metadata.name` of a resource, where it is given.
    pub name: Option<String>,
    /// Settings of the process itself, from an envelope of Neon's.
    pub control: Option<ComputeCtlConfig>,
    /// What was ignored or corrected, for people.
    pub notes: Vec<String>,
}

/// The form that a specification is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The ComputeSpec resource.
    Resource,
    /// Neon's JSON, bare.
    NeonSpec,
    /// The content of the file of `-c`.
    NeonConfig,
    /// The control plane's answer.
    NeonResponse,
}

/// Reads `text`. References to Secrets are looked up among the Secrets in the text first,
/// then by `secrets`.
pub fn parse(text: &str, secrets: &Secrets<'_>) -> Result<Document, Errors> {
    let mut found = None;
    let mut objects = SecretObjects::default();
    let mut notes = Vec::new();
    for object in text::objects(text)? {
        match Kind::of(&object)? {
            Kind::Secret => objects.add(&object)?,
            Kind::Other(kind) => notes.push(format!("{kind} is not glowplug's to read: ignored")),
            Kind::Spec(form) => {
                if found.replace((form, object)).is_some() {
                    let advice = "keep one in each file";
                    return Err(FieldError::new("", "holds two specifications", advice).into());
                }
            }
        }
    }
    let Some((form, object)) = found else {
        let advice = "write a ComputeSpec: apiVersion, kind, metadata and spec";
        return Err(FieldError::new("", "holds no specification", advice).into());
    };
    let mut document = match form {
        Form::Resource => resource(&object, &|name, key| objects.look_up(name, key, secrets))?,
        Form::NeonSpec => {
            let spec = neon(text, object)?;
            Document::neon(form, Some(&spec), "", None)?
        }
        Form::NeonConfig => {
            let config: ComputeConfig = neon(text, object)?;
            let control = config.compute_ctl_config;
            Document::neon(form, config.spec.as_ref(), "spec", Some(control))?
        }
        Form::NeonResponse => {
            let response: ControlPlaneConfigResponse = neon(text, object)?;
            if response.status == ControlPlaneStatus::Attached && response.spec.is_none() {
                let advice = "an attached compute has a specification";
                return Err(FieldError::new("spec", "is missing", advice).into());
            }
            let control = response.compute_ctl_config;
            Document::neon(form, response.spec.as_ref(), "spec", Some(control))?
        }
    };
    if let Some(spec) = &document.spec {
        let path = match form {
            Form::Resource => "spec.postgres.postgresqlConf",
            Form::NeonSpec => "cluster.postgresql_conf",
            Form::NeonConfig | Form::NeonResponse => "spec.cluster.postgresql_conf",
        };
        notes.extend(conf_text::notes(spec, path));
    }
    document.notes.append(&mut notes);
    Ok(document)
}

impl Document {
    fn neon(
        form: Form,
        spec: Option<&neon_json::Spec>,
        path: &str,
        control: Option<ComputeCtlConfig>,
    ) -> Result<Self, Errors> {
        let resolved = spec
            .map(|spec| neon_json::resolve(spec, path))
            .transpose()?;
        let (spec, notes) = match resolved {
            Some(resolved) => (Some(resolved.spec), resolved.notes),
            None => (None, Vec::new()),
        };
        Ok(Self {
            form,
            spec,
            namespace: None,
            name: None,
            control,
            notes,
        })
    }
}

enum Kind {
    Spec(Form),
    Secret,
    Other(String),
}

const API_VERSION: &str = "glowplug.dev/v1alpha1";

impl Kind {
    fn of(object: &Value) -> Result<Self, FieldError> {
        let text = |field: &str| object.get(field).and_then(Value::as_str);
        match (text("apiVersion"), text("kind")) {
            (Some(API_VERSION), Some("ComputeSpec")) => Ok(Self::Spec(Form::Resource)),
            (version, Some("ComputeSpec")) => {
                let problem = match version {
                    Some(version) => format!("{} is unknown", quoted(version)),
                    None => "is missing".to_owned(),
                };
                let advice = format!("write {API_VERSION}");
                Err(FieldError::new("apiVersion", problem, advice))
            }
            (Some("v1"), Some("Secret")) => Ok(Self::Secret),
            (Some(_), Some(kind)) => Ok(Self::Other(kind.to_owned())),
            _ => Self::of_neon(object),
        }
    }

    fn of_neon(object: &Value) -> Result<Self, FieldError> {
        let has = |field: &str| object.get(field).is_some();
        if has("compute_ctl_config") && object.get("status").is_some_and(Value::is_string) {
            return Ok(Self::Spec(Form::NeonResponse));
        }
        if has("compute_ctl_config") || object.pointer("/spec/cluster").is_some() {
            return Ok(Self::Spec(Form::NeonConfig));
        }
        if has("cluster") {
            return Ok(Self::Spec(Form::NeonSpec));
        }
        let (path, problem) = if object.is_object() {
            ("kind", "is missing")
        } else {
            ("", "holds something that is not an object")
        };
        let advice = format!("write apiVersion: {API_VERSION} and kind: ComputeSpec");
        Err(FieldError::new(path, problem, advice))
    }
}

/// A struct of Neon's JSON: read from the text where that is JSON, as the order of keys
/// counts in places.
fn neon<T: DeserializeOwned>(text: &str, object: Value) -> Result<T, Errors> {
    if text::is_json(text) {
        neon_json::read(text.as_bytes())
    } else {
        serde_path_to_error::deserialize(object)
            .map_err(|error| neon_json::json_error(error).into())
    }
}

fn resource(object: &Value, secrets: &Secrets<'_>) -> Result<Document, Errors> {
    let mut errors = top_level(object);
    let spec = object.get("spec").filter(|spec| !spec.is_null());
    let Some(spec) = spec else {
        errors.push(FieldError::new(
            "spec",
            "is missing",
            "write at least tenantId and timelineId",
        ));
        Errors::check(errors)?;
        return Err(FieldError::new("spec", "is missing", "write it").into());
    };
    errors.extend(schema::check(spec));
    let spec = match serde_path_to_error::deserialize::<_, ComputeSpecSpec>(without_nulls(spec)) {
        Ok(typed) => match resolve::from_resource(&typed, secrets) {
            Ok(spec) => Some(spec),
            Err(further) => {
                add(&mut errors, further.iter().cloned());
                None
            }
        },
        Err(error) => {
            let path = super::field_error::join("spec", &error.path().to_string());
            let error = FieldError::new(path, error.into_inner().to_string(), "correct the field");
            // The schema has said it better, with all that is wrong.
            if errors.is_empty() {
                errors.push(error);
            }
            None
        }
    };
    Errors::check(errors)?;
    let metadata = |field: &str| {
        let value = object
            .get("metadata")
            .and_then(|metadata| metadata.get(field));
        value.and_then(Value::as_str).map(str::to_owned)
    };
    Ok(Document {
        form: Form::Resource,
        spec,
        namespace: metadata("namespace"),
        name: metadata("name"),
        control: None,
        notes: Vec::new(),
    })
}

/// Adds errors of fields that have none yet.
fn add(errors: &mut Vec<FieldError>, further: impl Iterator<Item = FieldError>) {
    let known: HashSet<String> = errors.iter().map(|error| error.path.clone()).collect();
    errors.extend(further.filter(|error| !known.contains(&error.path)));
}

fn top_level(object: &Value) -> Vec<FieldError> {
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let fields = object
        .as_object()
        .into_iter()
        .flat_map(serde_json::Map::keys);
    fields
        .filter(|field| !known.contains(&field.as_str()))
        .map(|field| {
            let advice =
                "a resource has apiVersion, kind, metadata and spec; is it indented too little?";
            FieldError::new(field, "is unknown", advice)
        })
        .collect()
}

/// The value with each null removed, as the API server removes them.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests;
