//! The CustomResourceDefinition: the resource's schema, and the rules that follow from
//! tables of this room.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    ValidationRule,
};
use kube::CustomResourceExt;
use serde_json::Value;

use super::{Allowed, Flavor, OwnedSetting, owned_settings};
use crate::api::resource::{ComputeSpec, QUANTITY};

const HEADER: &str = "\
# The definition of the resource ComputeSpec: what `glowplug crd` prints.
# Generated from src/api/ and src/spec/crd.rs by `make generate`; a test compares.
";

/// The definition, as `kubectl apply` takes it.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = ComputeSpec::crd();
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut();
        if let Some(schema) = schema.and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            tidy(schema);
            add_owned_settings(schema);
        }
    }
    crd
}

/// The definition as YAML text, with a comment that says where it comes from.
pub fn crd_yaml() -> String {
    let mut document = serde_json::to_value(crd()).unwrap_or_default();
    write_whole_numbers_whole(&mut document);
    let yaml = serde_saphyr::to_string(&document).unwrap_or_default();
    format!("{HEADER}{yaml}")
}

/// The limits of a schema are floats in Kubernetes' types: `5432.0` becomes `5432`.
fn write_whole_numbers_whole(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|float| float.fract() == 0.0);
            if let Some(whole) = whole.filter(|_| number.is_f64()) {
                *value = Value::from(whole as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(write_whole_numbers_whole),
        Value::Object(map) => map.values_mut().for_each(write_whole_numbers_whole),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Makes the derived schema say the same as the local check.
///
/// It takes `nullable` away throughout: the API server then drops a null before it
/// applies defaults and rules, so that a null and an absent field mean the same
/// everywhere. And it bounds quantities, which the derived schema leaves open.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(description) = &mut schema.description {
        // Links are for readers of the code.
        *description = description.replace("[`", "`").replace("`]", "`");
    }
    if schema.x_kubernetes_int_or_string == Some(true) {
        schema.description = Some("A quantity, like 500m or 2Gi.".to_owned());
        schema.pattern = Some(QUANTITY.to_owned());
        schema.max_length = Some(32);
    }
    for property in schema
        .properties
        .iter_mut()
        .flat_map(|map| map.values_mut())
    {
        tidy(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => tidy(items),
        Some(JSONSchemaPropsOrArray::Schemas(all)) => all.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}

/// Adds a rule for each setting that glowplug owns.
fn add_owned_settings(schema: &mut JSONSchemaProps) {
    let postgres = ["spec", "postgres"]
        .iter()
        .try_fold(schema, |schema, name| {
            schema.properties.as_mut()?.get_mut(*name)
        });
    if let Some(postgres) = postgres {
        let rules = postgres.x_kubernetes_validations.get_or_insert_default();
        rules.extend(owned_setting_rules());
    }
}

/// The rules for the settings that glowplug owns, on the schema of `spec.postgres`.
fn owned_setting_rules() -> impl Iterator<Item = ValidationRule> {
    let shared = |owned: &OwnedSetting| {
        let other = Flavor::Vanilla;
        owned_settings(other).any(|same| same == owned)
    };
    let neon = owned_settings(Flavor::Neon)
        .map(move |owned| (owned, (!shared(owned)).then_some(Flavor::Neon)));
    let vanilla = owned_settings(Flavor::Vanilla)
        .filter(|owned| !owned_settings(Flavor::Neon).any(|same| same == *owned))
        .map(|owned| (owned, Some(Flavor::Vanilla)));
    neon.chain(vanilla)
        .map(|(owned, flavor)| owned_setting_rule(owned, flavor))
}

fn owned_setting_rule(owned: &OwnedSetting, flavor: Option<Flavor>) -> ValidationRule {
    let unless_other_flavor = match flavor {
        None => String::new(),
        Some(flavor) => format!("self.flavor != '{flavor:?}' || "),
    };
    let allowed = allowed_value(owned.allowed)
        .map(|allowed| format!(" || {allowed}"))
        .unwrap_or_default();
    ValidationRule {
        rule: format!(
            "{unless_other_flavor}!has(self.settings) || self.settings.all(s, \
             s.name.lowerAscii() != '{}'{allowed})",
            owned.name
        ),
        message: Some(format!("{}: {}", owned.name, owned.advice())),
        field_path: Some(".settings".to_owned()),
        reason: Some("FieldValueForbidden".to_owned()),
        ..ValidationRule::default()
    }
}

/// [`OwnedSetting::allows`] in CEL, for the setting `s`.
fn allowed_value(allowed: Allowed) -> Option<String> {
    let value = "s.value.trim().lowerAscii()";
    match allowed {
        Allowed::Nothing => None,
        Allowed::Bool(true) => Some(format!("{value}.matches('^(t(r(ue?)?)?|y(es?)?|on|1)$')")),
        Allowed::Bool(false) => Some(format!("{value}.matches('^(f(a(l(se?)?)?)?|no?|off?|0)$')")),
        Allowed::Words(words) => {
            let words: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
            Some(format!("{value} in [{}]", words.join(", ")))
        }
        Allowed::AtLeast(least) => Some(format!(
            "{value}.matches('^[+]?[0-9]{{1,9}}$') && int({value}) >= {least}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set `GLOWPLUG_BLESS=1` to write the file anew.
    #[test]
    fn the_checked_in_definition_is_what_the_code_says() {
        let now = crd_yaml();
        for path in [
            concat!(env!("CARGO_MANIFEST_DIR"), "/crds/computespecs.yaml"),
            concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/charts/glowplug/crds/computespecs.yaml"
            ),
        ] {
            if std::env::var_os("GLOWPLUG_BLESS").is_some() {
                std::fs::write(path, &now).unwrap();
            }
            let checked_in = std::fs::read_to_string(path).unwrap();
            assert!(
                checked_in == now,
                "run `make generate`: {path} is not what the code says"
            );
        }
    }
}
