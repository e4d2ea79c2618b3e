//! Exports spans by OTLP, where the environment names a collector; costs nothing where
//! it does not.
//!
//! The variables are OpenTelemetry's own, which upstream reads too
//! (`libs/tracing-utils/src/lib.rs`). Upstream exports to localhost unless it is told
//! not to, and logs errors where nobody listens; here no endpoint means no export.
//!
//! | variable | meaning |
//! |---|---|
//! | `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `OTEL_EXPORTER_OTLP_ENDPOINT` | the collector; `/v1/traces` is appended to the second for HTTP |
//! | `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL`, `OTEL_EXPORTER_OTLP_PROTOCOL` | `http/protobuf` (as upstream) or `grpc` |
//! | `OTEL_SDK_DISABLED` | `true`: no export |
//! | `TRACEPARENT`, `TRACESTATE` | the trace that the first start is part of |
//!
//! Headers, timeouts, sampler, batching and resource attributes are read by the library.

mod http_client;

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use http_client::HttpClient;

/// `service.name`, unless `OTEL_SERVICE_NAME` gives another.
const SERVICE: &str = "glowplug";

/// Where spans go.
#[derive(Debug)]
pub struct Traces {
    provider: Option<SdkTracerProvider>,
}

impl Traces {
    /// Nowhere.
    pub const fn off() -> Self {
        Self { provider: None }
    }

    /// To the collector that the environment names, if it names one. Must be called
    /// inside of a runtime.
    ///
    /// # Errors
    ///
    /// The endpoint is malformed, or its protocol is not supported.
    pub fn from_environment() -> Result<Self, ExporterBuildError> {
        let variable = |name: &str| std::env::var(name).ok();
        let Some(protocol) = protocol(variable) else {
            return Ok(Self::off());
        };
        let exporter = match protocol {
            Protocol::Grpc => SpanExporter::builder().with_tonic().build()?,
            _ => SpanExporter::builder()
                .with_http()
                .with_http_client(HttpClient::new())
                .with_protocol(protocol)
                .build()?,
        };
        let mut resource = Resource::builder();
        if variable("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(SERVICE);
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        Ok(Self {
            provider: Some(provider),
        })
    }

    /// The layer that hands our spans on. Events stay in the log: they are many, and
    /// texts of others are among them.
    pub(super) fn layer<S>(&self) -> Option<impl Layer<S> + Send + Sync + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let tracer = self.provider.as_ref()?.tracer(SERVICE);
        let ours = filter_fn(|metadata| {
            metadata.is_span()
                && *metadata.level() <= Level::INFO
                && metadata.target().starts_with("glowplug")
        });
        let layer = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        Some(layer.with_filter(ours))
    }

    /// Sends what is left, for at most `limit`. Blocks.
    pub fn finish(self, limit: Duration) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(limit)
        {
            tracing::debug!(%error, "some spans were not exported");
        }
    }
}

/// How spans are exported; `None` if they are not. Pure.
fn protocol(variable: impl Fn(&str) -> Option<String>) -> Option<Protocol> {
    let filled = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    let either = |suffix: &str| {
        filled(&format!("OTEL_EXPORTER_OTLP_TRACES_{suffix}"))
            .or_else(|| filled(&format!("OTEL_EXPORTER_OTLP_{suffix}")))
    };
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    either("ENDPOINT")?;
    match either("PROTOCOL") {
        Some(protocol) if protocol.eq_ignore_ascii_case("grpc") => Some(Protocol::Grpc),
        _ => Some(Protocol::HttpBinary),
    }
}

/// The trace that some work is part of, in whoever asked for it.
#[derive(Debug, Clone, Default)]
pub struct Parent(Context);

impl Parent {
    /// The one that `TRACEPARENT` and `TRACESTATE` of the environment tell, as upstream
    /// takes them; none without.
    pub fn from_environment() -> Self {
        Self::from_carrier(|name| std::env::var(name.to_ascii_uppercase()).ok())
    }

    /// The one that W3C's `traceparent` and `tracestate` tell.
    pub fn from_carrier(field: impl Fn(&str) -> Option<String>) -> Self {
        let fields = ["traceparent", "tracestate"];
        let carrier = Carrier(
            fields
                .into_iter()
                .filter_map(|name| Some((name, field(name)?)))
                .collect(),
        );
        // Not from the thread's own context: there is none.
        Self(TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier))
    }

    /// The current span.
    pub fn current() -> Self {
        Self(Span::current().context())
    }

    /// Makes it the parent of a span that was not entered yet.
    pub fn adopt(&self, span: &Span) {
        // Fails where spans are not exported.
        let _ = span.set_parent(self.0.clone());
    }
}

struct Carrier(HashMap<&'static str, String>);

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceContextExt as _;

    use super::*;

    fn from(variables: &[(&str, &str)]) -> Option<Protocol> {
        protocol(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_is_exported_without_an_endpoint() {
        assert_eq!(from(&[]), None);
        assert_eq!(from(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), None);
        assert_eq!(from(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), None);
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        assert_eq!(from(&[endpoint]), Some(Protocol::HttpBinary));
        assert_eq!(from(&[endpoint, ("OTEL_SDK_DISABLED", "true")]), None);
        let grpc = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc");
        assert_eq!(from(&[endpoint, grpc]), Some(Protocol::Grpc));
    }

    #[test]
    fn a_parent_is_read_from_w3c_fields_and_garbage_is_none() {
        let parent = |text: &'static str| {
            Parent::from_carrier(|name| (name == "traceparent").then(|| text.to_owned()))
        };
        let known = parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let context = known.0.span().span_context().clone();
        assert_eq!(
            context.trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert!(context.is_remote());
        assert!(!parent("00-0-0-01").0.span().span_context().is_valid());
    }
}
