//! Splits a text into the objects that it holds, without trusting it: its size, its depth
//! and what its aliases expand to are limited.

use serde_json::Value;
use serde_saphyr::{Options, SnippetMode, UserMessageFormatter};

use crate::spec::{Errors, FieldError};

/// Bytes that a text may have. The API server takes 1.5 MiB at most.
const LONGEST: usize = 8 * 1024 * 1024;

/// Keys, values and lists that the text may amount to, aliases expanded. 10,000 roles need
/// 200,000.
const MOST_NODES: usize = 1_000_000;

/// Aliases that are followed, those in what another one stands for included.
const MOST_ALIASES: usize = 10_000;

/// The objects of a text: one in JSON; several in YAML, or in a List.
pub fn objects(text: &str) -> Result<Vec<Value>, Errors> {
    if text.len() > LONGEST {
        let problem = format!("is {} bytes long", text.len());
        let advice = format!("at most {LONGEST} are read");
        return Err(FieldError::new("", problem, advice).into());
    }
    let documents = if is_json(text) {
        vec![serde_json::from_str(text).map_err(|error| {
            FieldError::new(
                "",
                format!("is not valid JSON: {error}"),
                "correct that line",
            )
        })?]
    } else {
        yaml(text)?
    };
    let documents = documents.into_iter().filter(|document| !document.is_null());
    let objects: Vec<Value> = documents.flat_map(items_of_list).collect();
    if objects.is_empty() {
        return Err(FieldError::new("", "is empty", "write a ComputeSpec").into());
    }
    Ok(objects)
}

/// Whether the text is meant as JSON. A YAML flow mapping that starts with a brace is read
/// as YAML.
pub(super) fn is_json(text: &str) -> bool {
    let text = text.trim_start();
    let Some(first) = text.strip_prefix('{').map(str::trim_start) else {
        return false;
    };
    first.starts_with(['"', '}']) && !first.is_empty()
}

fn yaml(text: &str) -> Result<Vec<Value>, FieldError> {
    serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| {
        // A snippet of the text could show a Secret.
        let render = serde_saphyr::render_options! {
            formatter: &UserMessageFormatter,
            snippets: SnippetMode::Off,
        };
        let problem = error.render_with_options(render);
        let problem = problem.lines().next().unwrap_or_default();
        FieldError::new(
            "",
            format!("is not valid YAML: {problem}"),
            "correct that line",
        )
    })
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MOST_NODES,
            max_events: 2 * MOST_NODES,
            max_total_scalar_bytes: 4 * LONGEST,
            max_aliases: MOST_ALIASES,
            max_recorded_anchor_events: MOST_NODES / 10,
            max_recorded_anchor_bytes: LONGEST,
        },
        with_snippet: false,
    }
}

/// `kubectl get -o yaml` writes several objects as one List.
fn items_of_list(document: Value) -> Vec<Value> {
    let is_list = document.get("kind").and_then(Value::as_str) == Some("List");
    match document {
        Value::Object(mut fields) if is_list => match fields.remove("items") {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        },
        other => vec![other],
    }
}
