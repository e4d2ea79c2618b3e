//! Spans of a start and of requests reach a collector, by both protocols of OTLP.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use glowplug::process::{Exit, Signal};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::stage::{Stage, free_port};

const START: &str = "0af7651916cd43dd8448eb211c80319c";
const REQUEST: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// What a collector received: spans, and the names of the services that sent them.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<(String, Span)>>>);

impl Received {
    fn take(&self, request: ExportTraceServiceRequest) {
        for resource in request.resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = attributes.iter().find(|pair| pair.key == "service.name");
            let service = format!("{:?}", service.and_then(|pair| pair.value.clone()));
            let spans = resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            let mut received = self.0.lock().unwrap();
            received.extend(spans.map(|span| (service.clone(), span)));
        }
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.0.lock().unwrap();
        received.iter().map(|(_, span)| span.clone()).collect()
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.take(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector on a port of its own; ends with the handle.
async fn collector(protocol: &str) -> (Received, String, AbortOnDropHandle<()>) {
    let received = Received::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = received.clone();
    let task = if protocol == "grpc" {
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(service))
            .serve_with_incoming(incoming);
        tokio::spawn(async {
            server.await.unwrap();
        })
    } else {
        let answer = move |body: axum::body::Bytes| {
            let service = service.clone();
            async move {
                service.take(ExportTraceServiceRequest::decode(body).unwrap());
                ExportTraceServiceResponse::default().encode_to_vec()
            }
        };
        let router = axum::Router::new().route("/v1/traces", axum::routing::post(answer));
        tokio::spawn(async {
            axum::serve(listener, router).await.unwrap();
        })
    };
    (received, endpoint, AbortOnDropHandle::new(task))
}

async fn a_start_and_a_request_are_traced(protocol: &'static str) {
    let stage = Stage::set().await;
    let (received, endpoint, _collector) = collector(protocol).await;
    let mut compute = stage.compute("a", &stage.spec(free_port()));
    compute.environment = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.to_owned()),
        ("TRACEPARENT", format!("00-{START}-b7ad6b7169203331-01")),
    ];
    compute.start().await;
    compute.running().await;
    let head = format!(
        "GET /status?token=x HTTP/1.1\r\ntraceparent: 00-{REQUEST}-00f067aa0ba902b7-01\r\nx:"
    );
    let answer = compute.request("external", &head, "").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // What was not sent by then is sent at the end.
    compute.signal(Signal::TERM).await;
    assert_eq!(compute.ended().await, Exit::Code(0));

    let spans = received.spans();
    let by_id: HashMap<Vec<u8>, &Span> = spans
        .iter()
        .map(|span| (span.span_id.clone(), span))
        .collect();
    let find = |name: &str| {
        let found = spans.iter().find(|span| span.name == name);
        found.unwrap_or_else(|| {
            let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
            panic!("no span {name} among {names:?}")
        })
    };
    let start = find("start_compute");
    assert_eq!(hex::encode(&start.trace_id), START);
    assert_eq!(hex::encode(&start.parent_span_id), "b7ad6b7169203331");
    for phase in [
        "sync_safekeepers",
        "basebackup",
        "configure",
        "start_postgres",
        "apply_catalog",
    ] {
        let span = find(phase);
        let parent = by_id.get(&span.parent_span_id).expect(phase);
        assert_eq!(parent.name, "start_compute", "{phase}");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    }
    let request = find("GET /status");
    assert_eq!(hex::encode(&request.trace_id), REQUEST);
    assert!(!format!("{request:?}").contains("token"), "{request:?}");
    let services = received.0.lock().unwrap();
    assert!(
        services
            .iter()
            .all(|(service, _)| service.contains("glowplug"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_and_a_request_are_traced_by_grpc() {
    a_start_and_a_request_are_traced("grpc").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_and_a_request_are_traced_by_http() {
    a_start_and_a_request_are_traced("http/protobuf").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_holds_nothing_up() {
    let stage = Stage::set().await;
    let mut compute = stage.compute("a", &stage.spec(free_port()));
    let nobody = format!("http://127.0.0.1:{}", free_port());
    compute.environment = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", nobody)];
    compute.start().await;
    compute.running().await;
    compute.signal(Signal::TERM).await;
    assert_eq!(compute.ended().await, Exit::Code(0));
}
