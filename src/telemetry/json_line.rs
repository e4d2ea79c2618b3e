//! Renders a log event as one JSON object on one line.
//!
//! Keys: `timestamp`, `level`, `target`, `message`; then the fields of the
//! [`Correlation`]; then the event's own fields, which win over those; then `span`, the
//! innermost span with its name and fields. No key is there twice.

use std::fmt;

use serde::ser::{SerializeMap as _, Serializer as _};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::{LookupSpan, SpanRef};

use super::correlation::Correlation;

/// One JSON object per line.
pub(super) struct JsonLine {
    pub(super) correlation: Correlation,
}

impl<S> FormatEvent<S, JsonFields> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    JsonFields: for<'a> FormatFields<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = Line::default();
        line.put("timestamp", format!("{:.6}", jiff::Timestamp::now()).into());
        line.put("level", metadata.level().as_str().into());
        line.put("target", metadata.target().into());
        line.put("message", Value::String(String::new()));
        for (name, value) in self.correlation.fields() {
            line.put(name, value.into());
        }
        event.record(&mut line);
        if let Some(span) = context.lookup_current() {
            line.put("span", span_value(&span));
        }
        let text = line.render().map_err(|_| fmt::Error)?;
        writeln!(writer, "{text}")
    }
}

fn span_value<S>(span: &SpanRef<'_, S>) -> Value
where
    S: for<'a> LookupSpan<'a>,
{
    let extensions = span.extensions();
    let fields = extensions.get::<FormattedFields<JsonFields>>();
    let fields = fields.and_then(|fields| serde_json::from_str::<Map<_, _>>(fields).ok());
    let mut object = fields.unwrap_or_default();
    object.insert("name".to_owned(), span.name().into());
    Value::Object(object)
}

/// Keys and values in order.
#[derive(Default)]
struct Line(Vec<(&'static str, Value)>);

impl Line {
    fn put(&mut self, key: &'static str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => self.0.push((key, value)),
        }
    }

    fn field(&mut self, field: &Field, value: Value) {
        let name = field.name();
        // What an event calls so says something of its own.
        let name = match name {
            "timestamp" => "event_timestamp",
            "level" => "event_level",
            "target" => "event_target",
            "span" => "event_span",
            name => name.strip_prefix("r#").unwrap_or(name),
        };
        self.put(name, value);
    }

    fn render(&self) -> serde_json::Result<String> {
        let mut text = Vec::with_capacity(256);
        let mut serializer = serde_json::Serializer::new(&mut text);
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, value.into());
    }
}
