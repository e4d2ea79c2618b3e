//! Checks a document against the resource's schema, as the API server would: types,
//! required and unknown fields, patterns, limits, words and list keys.
//!
//! The schema is the one of the definition itself, so the two cannot differ. What the
//! schema states in CEL is in `validate`. A null counts as absent, as in the API server.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use regex_lite::Regex;
use serde_json::Value;

use super::FieldError;
use super::field_error::join;
use super::validate::{duplicates, is_verifier, malformed, quoted};
use crate::api::resource as formats;

/// The schema of a resource's `spec`.
static SPEC: LazyLock<Option<JSONSchemaProps>> = LazyLock::new(|| {
    let version = super::crd().spec.versions.into_iter().next()?;
    let root = version.schema?.open_api_v3_schema?;
    root.properties?.remove("spec")
});

/// All that is wrong with the `spec` of a resource.
pub(super) fn check(spec: &Value) -> Vec<FieldError> {
    let mut walk = Walk::default();
    if let Some(schema) = SPEC.as_ref() {
        walk.value("spec", spec, schema);
    }
    walk.errors
}

#[derive(Default)]
struct Walk<'s> {
    errors: Vec<FieldError>,
    patterns: HashMap<&'s str, Option<Regex>>,
}

impl<'s> Walk<'s> {
    fn value(&mut self, path: &str, value: &Value, schema: &'s JSONSchemaProps) {
        let is_quantity = schema.x_kubernetes_int_or_string == Some(true);
        let kind = schema.type_.as_deref();
        match (kind, value) {
            (Some("object"), Value::Object(fields)) => self.object(path, fields, schema),
            (Some("array"), Value::Array(items)) => self.array(path, items, schema),
            (Some("string"), Value::String(text)) => self.text(path, text, schema),
            (Some("integer"), Value::Number(number)) if number.as_i64().is_some() => {
                self.number(path, number.as_i64().unwrap_or_default(), schema);
            }
            (Some("boolean"), Value::Bool(_)) => {}
            (None, Value::String(text)) if is_quantity => self.text(path, text, schema),
            (None, Value::Number(_)) if is_quantity => {}
            _ => self
                .errors
                .push(wrong_type(path, value, kind.unwrap_or("quantity"))),
        }
    }

    fn object(
        &mut self,
        path: &str,
        fields: &serde_json::Map<String, Value>,
        schema: &'s JSONSchemaProps,
    ) {
        let is_there = |name: &String| fields.get(name).is_some_and(|value| !value.is_null());
        for name in schema.required.iter().flatten() {
            if !is_there(name) {
                let description =
                    property(schema, name).and_then(|field| field.description.as_deref());
                let meaning = description.unwrap_or_default();
                let advice = format!("write it: {}", first_sentence(meaning));
                self.errors
                    .push(FieldError::new(join(path, name), "is missing", advice));
            }
        }
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            let path = join(path, name);
            match (property(schema, name), &schema.additional_properties) {
                (Some(field), _) => self.value(&path, value, field),
                (None, Some(JSONSchemaPropsOrBool::Schema(values))) => {
                    self.value(&path, value, values);
                }
                (None, _) => {
                    let known = schema.properties.iter().flat_map(BTreeMap::keys);
                    let advice = match nearest(name, known) {
                        Some(known) => format!("did you mean {known}?"),
                        None => "remove it".to_owned(),
                    };
                    self.errors
                        .push(FieldError::new(path, "is unknown", advice));
                }
            }
        }
    }

    fn array(&mut self, path: &str, items: &[Value], schema: &'s JSONSchemaProps) {
        let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
        if let Some(most) = schema.max_items.filter(|most| count > *most) {
            let problem = format!("has {count} entries");
            let advice = format!("at most {most} are possible");
            self.errors.push(FieldError::new(path, problem, advice));
        }
        if let Some(least) = schema.min_items.filter(|least| count < *least) {
            let problem = if count == 0 {
                "is empty".to_owned()
            } else {
                format!("has {count} entries")
            };
            let advice = format!("list at least {least}");
            self.errors.push(FieldError::new(path, problem, advice));
        }
        self.keys(path, items, schema);
        if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
            for (i, item) in items.iter().enumerate() {
                self.value(&format!("{path}[{i}]"), item, schema);
            }
        }
    }

    /// The entries of a set differ, and so do the keys of a map's.
    fn keys(&mut self, path: &str, items: &[Value], schema: &JSONSchemaProps) {
        let field = match schema.x_kubernetes_list_type.as_deref() {
            Some("set") => "",
            Some("map") => {
                let keys = schema.x_kubernetes_list_map_keys.iter().flatten();
                keys.map(String::as_str).next().unwrap_or_default()
            }
            _ => return,
        };
        let keys = items.iter().enumerate().map(|(i, item)| {
            let key = if field.is_empty() {
                Some(item)
            } else {
                item.get(field)
            };
            match key {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                // It has an error of its own.
                _ => format!("\0{i}"),
            }
        });
        duplicates(path, field, keys, &mut self.errors);
    }

    fn text(&mut self, path: &str, text: &str, schema: &'s JSONSchemaProps) {
        let length = text.chars().count();
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        if let Some(words) = &schema.enum_ {
            let words: Vec<_> = words
                .iter()
                .filter_map(|JSON(word)| word.as_str())
                .collect();
            if !words.contains(&text) {
                let problem = format!("{} is not one of its values", quoted(text));
                let advice = format!("write {}", words.join(", "));
                self.errors.push(FieldError::new(path, problem, advice));
            }
        } else if schema.min_length.is_some_and(|least| length < least) {
            self.errors
                .push(FieldError::new(path, "is empty", "give it a value"));
        } else if let Some(most) = schema.max_length.filter(|most| length > *most) {
            let problem = format!("has {length} characters");
            let advice = format!("at most {most} are possible");
            self.errors.push(FieldError::new(path, problem, advice));
        } else if let Some(pattern) = schema.pattern.as_deref()
            && !self.matches(pattern, text)
        {
            self.errors.push(malformed(path, text, pattern));
        }
    }

    /// The patterns of texts that a spec has thousands of, or long ones, are matched by
    /// hand: the engine takes tens of microseconds for each verifier.
    fn matches(&mut self, pattern: &'s str, text: &str) -> bool {
        match pattern {
            formats::VERIFIER => return is_verifier(text),
            formats::NO_NUL => return !text.contains('\0'),
            formats::ONE_LINE => return !text.contains(['\0', '\r', '\n']),
            _ => {}
        }
        let compiled = self.patterns.entry(pattern);
        let compiled = compiled.or_insert_with(|| Regex::new(pattern).ok());
        compiled.as_ref().is_none_or(|regex| regex.is_match(text))
    }

    fn number(&mut self, path: &str, number: i64, schema: &JSONSchemaProps) {
        let below = schema.minimum.is_some_and(|least| (number as f64) < least);
        let above = schema.maximum.is_some_and(|most| (number as f64) > most);
        if below || above {
            let (least, most) = (schema.minimum.unwrap_or_default(), schema.maximum);
            let advice = match most {
                Some(most) => format!("write a number from {least} to {most}"),
                None => format!("write a number from {least} up"),
            };
            self.errors
                .push(FieldError::new(path, format!("is {number}"), advice));
        }
    }
}

fn property<'s>(schema: &'s JSONSchemaProps, name: &str) -> Option<&'s JSONSchemaProps> {
    schema.properties.as_ref()?.get(name)
}

fn wrong_type(path: &str, value: &Value, expected: &str) -> FieldError {
    let found = match value {
        Value::Null => "empty",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    let advice = match (expected, value) {
        ("string", Value::Bool(_)) => {
            "put it in quotes: YAML reads on, off, yes and no as booleans".to_owned()
        }
        ("string", Value::Number(number)) if number.is_i64() => {
            format!("put it in quotes: \"{number}\"")
        }
        ("string", Value::Number(_)) => "put it in quotes".to_owned(),
        ("string", _) => "write text".to_owned(),
        ("integer", Value::String(_)) => "write a whole number, without quotes".to_owned(),
        ("integer", _) => "write a whole number".to_owned(),
        ("boolean", _) => "write true or false, without quotes".to_owned(),
        ("array", _) => "write a list: each entry on a line of its own, after '- '".to_owned(),
        ("object", _) => "write an object: fields below it, indented".to_owned(),
        _ => "write a quantity, like 500m or 2Gi".to_owned(),
    };
    let expected = match expected {
        "string" => "text",
        "integer" => "a whole number",
        "boolean" => "a boolean",
        "array" => "a list",
        "object" => "an object",
        _ => "a quantity",
    };
    FieldError::new(path, format!("is {found}, not {expected}"), advice)
}

fn first_sentence(text: &str) -> String {
    let end = text.find(". ").or_else(|| text.find(".\n"));
    let sentence = text.get(..end.unwrap_or(text.len())).unwrap_or(text);
    let sentence = sentence.trim_end_matches('.').replace('\n', " ");
    let mut letters = sentence.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => sentence,
    }
}

/// The known name that a misspelled one is closest to, if it is close.
fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n String>) -> Option<&'n str> {
    let bare = |name: &str| name.replace(['_', '-'], "").to_ascii_lowercase();
    let distances = known.map(|known| (edit_distance(&bare(name), &bare(known)), known.as_str()));
    let (distance, known) = distances.min()?;
    (distance <= 2 && distance < known.len() / 2).then_some(known)
}

/// Letters to insert, remove or replace to make one text of the other (Levenshtein).
fn edit_distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (above, other) in row.iter().skip(1).zip(&other) {
            left = (diagonal + usize::from(letter != *other))
                .min(left + 1)
                .min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_matched_by_hand_is_what_the_pattern_matches(
            text in r"(SCRAM-SHA-256\$[0-9]{1,11}:[A-Za+/=]{0,2}\$[Aa0-9=]{0,2}:[A-Za]{0,2}|md5[0-9a-fA]{31,33})[\n\r\x00-]{0,1}"
        ) {
            for pattern in [formats::VERIFIER, formats::NO_NUL, formats::ONE_LINE] {
                let expected = Regex::new(pattern).unwrap().is_match(&text);
                prop_assert_eq!(Walk::default().matches(pattern, &text), expected, "{}", pattern);
            }
        }
    }

    #[test]
    fn distances_count_letters() {
        for (one, other, distance) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
        ] {
            assert_eq!(edit_distance(one, other), distance, "{one} {other}");
            assert_eq!(edit_distance(other, one), distance, "{other} {one}");
        }
    }

    #[test]
    fn a_misspelled_field_is_recognized() {
        let known = ["tenantId", "timelineId", "mode"].map(str::to_owned);
        assert_eq!(nearest("tenant_id", known.iter()), Some("tenantId"));
        assert_eq!(nearest("tenatId", known.iter()), Some("tenantId"));
        assert_eq!(nearest("mod", known.iter()), Some("mode"));
        assert_eq!(nearest("replicas", known.iter()), None);
    }
}
