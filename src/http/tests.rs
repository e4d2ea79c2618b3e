//! The three servers on real sockets, with a scripted owner of the compute.

mod limits;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::control::{ConfigureError, Refusal, Request, TerminateMode, TerminateOutcome};
use super::{Limits, LocalPostgres, ServersConfig, Serving, dev_key, serve};
use crate::api::status::ComputeState;
use crate::http::auth::Authorizer;
use crate::process::Spawner;
use crate::report::{PostgresPhase, Snapshot, SpecFacts};
use crate::spec::{
    ComputeMode, ComputeSpec, Flavor, NeonFields, PostgresSpec, RemovedObjects, SafekeeperSet,
    ShardMap,
};
use crate::telemetry::metrics::Metrics;

const SOON: Duration = Duration::from_secs(30);
const COMPUTE: &str = "compute-1";
const TENANT: &str = "0d5f3f2c8f6a4e7d9b1c2a3b4c5d6e7f";
const TIMELINE: &str = "9a8b7c6d5e4f30211203f4e5d6c7b8a9";
const ADVICE: &str = "wait for it";

/// The servers of one compute, whose owner answers by a script.
struct Fixture {
    serving: Serving,
    requests: mpsc::Receiver<Request>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    token: String,
    cancel: CancellationToken,
}

fn spec() -> ComputeSpec {
    ComputeSpec {
        tenant_id: TENANT.parse().unwrap(),
        timeline_id: TIMELINE.parse().unwrap(),
        mode: ComputeMode::Primary,
        postgres: PostgresSpec {
            version: None,
            flavor: Flavor::Vanilla,
            port: 5432,
            settings: Vec::new(),
            verbatim_conf: None,
        },
        safekeepers: SafekeeperSet::default(),
        pageservers: ShardMap::default(),
        storage_controller: None,
        storage_token: None,
        storage_tls: crate::spec::StorageTls::default(),
        roles: Vec::new(),
        databases: Vec::new(),
        delta_operations: Vec::new(),
        removed_objects: RemovedObjects::default(),
        skip_catalog_updates: false,
        neon: NeonFields::default(),
    }
}

/// Stands in for the parser of Neon's JSON: takes any object.
fn parse_spec(text: &[u8]) -> Result<ComputeSpec, String> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(_)) => Ok(spec()),
        _ => Err("spec: expected an object".to_owned()),
    }
}

fn snapshot(state: ComputeState) -> Snapshot {
    let mut snapshot = Snapshot::new(COMPUTE, Timestamp::now());
    snapshot.state = state;
    if state != ComputeState::Empty {
        snapshot.spec = Some(SpecFacts {
            spec: Arc::new(spec()),
            generation: 1,
            hash: "sha256:0".to_owned(),
            origin: "a test".to_owned(),
        });
    }
    snapshot
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A postgres that is never there.
fn no_postgres() -> LocalPostgres {
    let nowhere = |_: &ComputeSpec| {
        let mut config = tokio_postgres::Config::new();
        config.host_path("/nonexistent").user("cloud_admin");
        config
    };
    LocalPostgres {
        connect: Arc::new(nowhere),
        privileged_role: "neon_superuser".to_owned(),
        bin_dir: "/nonexistent".into(),
        pgdata: "/nonexistent".into(),
        run_as: None,
        spawner: Spawner::start().unwrap(),
    }
}

fn config(authorizer: Authorizer) -> ServersConfig {
    ServersConfig {
        external: loopback(),
        internal: loopback(),
        probes: loopback(),
        authorizer,
        parse_spec,
        remote_extensions: false,
        lakebase_instance: Some("instance-1".to_owned()),
        limits: Limits::default(),
    }
}

impl Fixture {
    async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    async fn with_limits(limits: Limits) -> Self {
        let key = dev_key::generate(COMPUTE).unwrap();
        let token = key.token.reveal().to_owned();
        let (control, requests) = mpsc::channel(4);
        let (sender, receiver) = watch::channel(Arc::new(snapshot(ComputeState::Empty)));
        let cancel = CancellationToken::new();
        let config = ServersConfig {
            limits,
            ..config(Authorizer::Keys(key.keys))
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        let local = no_postgres();
        let serving = serve(config, local, control, receiver, metrics, cancel.clone());
        Self {
            serving: serving.await.unwrap(),
            requests,
            snapshot: sender,
            token,
            cancel,
        }
    }

    fn publish(&self, snapshot: Snapshot) {
        self.snapshot.send_replace(Arc::new(snapshot));
    }

    fn state(&self, state: ComputeState) {
        self.publish(snapshot(state));
    }

    fn external(&self, method: &str, path: &str) -> Call {
        let call = Call::new(self.serving.external, method, path);
        call.header("authorization", &format!("Bearer {}", self.token))
    }

    fn internal(&self, method: &str, path: &str) -> Call {
        Call::new(self.serving.internal, method, path)
    }

    fn probe(&self, path: &str) -> Call {
        Call::new(self.serving.probes, "GET", path)
    }

    /// Sends `call`, and answers what it makes the owner ask.
    async fn with_owner(&mut self, call: Call, answer: impl FnOnce(Request)) -> Answer {
        let owner = async {
            let request = self.requests.recv().await.unwrap();
            answer(request);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = call.send() => answer,
            () = owner => unreachable!("it waits for ever"),
        }
    }
}

/// One HTTP request on a connection of its own.
struct Call {
    to: SocketAddr,
    head: String,
    body: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Call {
    fn new(to: SocketAddr, method: &str, path: &str) -> Self {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
        Self {
            to,
            head,
            body: Vec::new(),
        }
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.head.extend([name, ": ", value, "\r\n"]);
        self
    }

    fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    fn json(self, body: &str) -> Self {
        self.header("content-type", "application/json")
            .body(body.as_bytes())
    }

    async fn send(self) -> Answer {
        let length = self.body.len();
        let head = format!("{}content-length: {length}\r\n\r\n", self.head);
        let exchange = async {
            let mut stream = TcpStream::connect(self.to).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            // The server may answer and close before it has read a large body.
            let _ = stream.write_all(&self.body).await;
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes).await;
            Answer::parse(&String::from_utf8(bytes).unwrap())
        };
        tokio::time::timeout(SOON, exchange)
            .await
            .expect("the server answers")
    }
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        Self {
            status: status.parse().unwrap(),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: body.to_owned(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

/// What upstream answered, in the given state: recorded from `compute_ctl` on
/// PostgreSQL 15.
#[derive(serde::Deserialize)]
struct Recorded {
    state: String,
    server: String,
    auth: String,
    method: String,
    path: String,
    request_body: Option<String>,
    content_type: Option<String>,
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<Value>,
}

impl Recorded {
    fn state(&self) -> ComputeState {
        let named = |state: &ComputeState| state.snake_case() == self.state;
        ComputeState::ALL.into_iter().find(named).unwrap()
    }

    fn call(&self, fixture: &Fixture) -> Call {
        let call = match (self.server.as_str(), self.auth.as_str()) {
            ("internal", _) => fixture.internal(&self.method, &self.path),
            (_, "compute") => fixture.external(&self.method, &self.path),
            _ => Call::new(fixture.serving.external, &self.method, &self.path),
        };
        match self.request_body.as_deref() {
            None => call,
            Some(body) if self.content_type.is_some() => call.body(body.as_bytes()),
            Some("configure-good") => call.json(r#"{"spec": {}, "compute_ctl_config": {}}"#),
            Some(body) => call.json(body),
        }
    }

    /// Does to a request what upstream's compute did.
    fn answer(&self, request: Request) {
        let state = self.state();
        let refusal = |request| Refusal {
            request,
            state,
            advice: ADVICE,
        };
        match request {
            Request::Configure { reply, .. } => {
                let refusal = refusal("a configuration");
                reply.send(Err(ConfigureError::Refused(refusal))).unwrap();
            }
            Request::Terminate { reply, .. } if self.status == 412 => {
                reply.send(Err(refusal("a termination"))).unwrap();
            }
            Request::Terminate { reply, .. } => {
                let lsn = self.body.as_ref().unwrap()["lsn"].as_str();
                let lsn = lsn.map(|lsn| lsn.parse().unwrap());
                let already = self.status == 201;
                reply.send(Ok(TerminateOutcome { lsn, already })).unwrap();
            }
            Request::Refresh { reply } => {
                let accepted = self.status == 200;
                let answer = if accepted {
                    Ok(())
                } else {
                    Err(refusal("a refresh"))
                };
                reply.send(answer).unwrap();
            }
        }
    }

    fn check(&self, mut answer: Answer) {
        let what = format!("{} {} in {}", self.method, self.path, self.state);
        // Upstream answers 400 where there are no credentials at all.
        let no_credentials = self.status == 400 && answer.status == 401;
        assert!(
            answer.status == self.status || no_credentials,
            "{what}: {answer:?}"
        );
        for (name, value) in &self.headers {
            assert_eq!(answer.headers.get(name), Some(value), "{what}");
        }
        assert!(answer.headers.contains_key("x-request-id"), "{what}");
        match &self.body {
            None => assert_eq!(answer.body, "", "{what}"),
            Some(Value::String(text)) => assert_eq!(&answer.body, text, "{what}"),
            Some(body) => {
                let mut json = answer.json();
                if let Some(object) = json.as_object_mut() {
                    // Upstream gives no advice.
                    assert_eq!(
                        object.remove("advice").is_some(),
                        self.status == 412,
                        "{what}"
                    );
                    if let Some(time) = object.get_mut("start_time") {
                        *time = json!("<time Z>");
                    }
                }
                answer.body = json.to_string();
                assert_eq!(&json, body, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn answers_are_those_that_upstream_gave() {
    let recorded = include_str!("../../tests/fixtures/http/exchanges.jsonl");
    let mut fixture = Fixture::start().await;
    for line in recorded.lines() {
        let recorded: Recorded = serde_json::from_str(line).unwrap();
        fixture.state(recorded.state());
        let call = recorded.call(&fixture);
        let answer = fixture
            .with_owner(call, |request| recorded.answer(request))
            .await;
        recorded.check(answer);
    }
}

#[tokio::test]
async fn a_configuration_is_answered_when_the_owner_is_done() {
    let mut fixture = Fixture::start().await;
    let configure = |fixture: &Fixture| {
        let call = fixture.external("POST", "/configure");
        call.json(r#"{"spec": {}}"#)
    };
    let call = configure(&fixture);
    let answer = fixture
        .with_owner(call, |request| match request {
            Request::Configure { spec, reply, .. } => {
                assert_eq!(spec.tenant_id.to_string(), TENANT);
                let done = snapshot(ComputeState::Running);
                reply.send(Ok(Arc::new(done))).unwrap();
            }
            other => panic!("{other:?}"),
        })
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["status"], "running");
    assert_eq!(answer.json()["timeline"], TIMELINE);

    let call = configure(&fixture);
    let answer = fixture
        .with_owner(call, |request| match request {
            Request::Configure { reply, .. } => {
                let failed = ConfigureError::Failed("role \"a\" is missing".to_owned());
                reply.send(Err(failed)).unwrap();
            }
            other => panic!("{other:?}"),
        })
        .await;
    assert_eq!(answer.status, 500);
    let error = answer.error();
    assert_eq!(
        error,
        r#"compute configuration failed: "role \"a\" is missing""#
    );
}

#[tokio::test]
async fn a_configuration_that_is_no_spec_never_reaches_the_owner() {
    let fixture = Fixture::start().await;
    let post = |body: &str| fixture.external("POST", "/configure").json(body).send();
    let answer = post(r#"{"spec": 1}"#).await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (400, "spec: expected an object")
    );
    let answer = post("{}").await;
    assert_eq!(answer.status, 422);
    assert!(
        answer.error().contains("missing field `spec`"),
        "{answer:?}"
    );
    // Just within the limit, and just above it.
    let padded = |bytes: usize| format!("{{\"x\": \"{}\"}}", "x".repeat(bytes - 9));
    assert_eq!(post(&padded(16 << 20)).await.status, 422);
    let answer = post(&padded((16 << 20) + 1)).await;
    assert_eq!(answer.status, 413);
    let error = answer.error();
    assert_eq!(
        error,
        "failed to buffer the request body: length limit exceeded"
    );
}

#[tokio::test]
async fn the_mode_of_a_termination_reaches_the_owner() {
    let mut fixture = Fixture::start().await;
    for (path, expected) in [
        ("/terminate", TerminateMode::Fast),
        ("/terminate?mode=fast", TerminateMode::Fast),
        ("/terminate?mode=immediate", TerminateMode::Immediate),
    ] {
        let call = fixture.external("POST", path);
        let answer = fixture
            .with_owner(call, |request| match request {
                Request::Terminate { mode, reply } => {
                    assert_eq!(mode, expected);
                    let lsn = Some("0/15E6A68".parse().unwrap());
                    let already = false;
                    reply.send(Ok(TerminateOutcome { lsn, already })).unwrap();
                }
                other => panic!("{other:?}"),
            })
            .await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, r#"{"lsn":"0/15E6A68"}"#)
        );
    }
}

#[tokio::test]
async fn an_owner_that_ends_leaves_no_request_without_an_answer() {
    let mut fixture = Fixture::start().await;
    let call = fixture.external("POST", "/terminate");
    let answer = fixture.with_owner(call, drop).await;
    assert_eq!(answer.status, 503);
    assert_eq!(fixture.probe("/livez").send().await.status, 200);
    fixture.requests.close();
    assert_eq!(
        fixture.external("POST", "/terminate").send().await.status,
        503
    );
    for path in ["/livez", "/healthz", "/startupz", "/readyz"] {
        let answer = fixture.probe(path).send().await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(
            answer.body.contains("[-]supervisor failed: ended\n"),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn the_kubelet_learns_readiness_and_nothing_else() {
    let fixture = Fixture::start().await;
    let answer = fixture.probe("/readyz").send().await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.body.contains("[-]compute failed: Initializing\n"),
        "{answer:?}"
    );
    // Starting up is alive.
    for path in ["/livez", "/healthz", "/startupz"] {
        let answer = fixture.probe(path).send().await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{path}");
    }
    let mut running = snapshot(ComputeState::Running);
    running.postgres.phase = PostgresPhase::Accepting;
    running.durations.total = Some(Duration::from_secs(1));
    fixture.publish(running.clone());
    assert_eq!(fixture.probe("/readyz").send().await.body, "ok");
    running.state = ComputeState::TerminationPendingFast;
    fixture.publish(running);
    let answer = fixture.probe("/readyz?verbose").send().await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.body.contains("[-]compute failed: ShuttingDown\n"),
        "{answer:?}"
    );
    assert_eq!(fixture.probe("/status").send().await.status, 404);
}

#[tokio::test]
async fn a_failed_compute_is_alive_and_shows_why() {
    let fixture = Fixture::start().await;
    let mut failed = snapshot(ComputeState::Failed);
    failed.error = Some("no quorum of safekeepers".to_owned());
    fixture.publish(failed);
    assert_eq!(fixture.probe("/livez").send().await.status, 200);
    let answer = fixture.external("GET", "/status").send().await;
    assert_eq!(answer.json()["error"], "no quorum of safekeepers");
}

#[tokio::test]
async fn refresh_requests_are_counted_whatever_the_answer() {
    let mut fixture = Fixture::start().await;
    let scrape = |fixture: &Fixture| Call::new(fixture.serving.external, "GET", "/metrics").send();
    let count = |text: &str| {
        let line = |line: &&str| line.starts_with("pg_cctl_pagestream_request_errors_total ");
        text.lines().find(line).unwrap().to_owned()
    };
    let before = scrape(&fixture).await;
    assert_eq!(before.headers["content-type"], "text/plain; version=0.0.4");
    assert!(count(&before.body).ends_with(" 0"));
    for accepted in [true, false] {
        let call = fixture.internal("POST", "/refresh_configuration");
        let answer = fixture
            .with_owner(call, |request| match request {
                Request::Refresh { reply } => {
                    let refusal = Refusal {
                        request: "a refresh",
                        state: ComputeState::Empty,
                        advice: ADVICE,
                    };
                    let answer = if accepted { Ok(()) } else { Err(refusal) };
                    reply.send(answer).unwrap();
                }
                other => panic!("{other:?}"),
            })
            .await;
        assert_eq!(answer.status, if accepted { 200 } else { 500 });
    }
    assert!(count(&scrape(&fixture).await.body).ends_with(" 2"));
}

#[tokio::test]
async fn metrics_show_the_snapshot_of_the_moment() {
    let fixture = Fixture::start().await;
    let scrape = || Call::new(fixture.serving.external, "GET", "/metrics").send();
    let up = |text: &str| {
        let lines = text
            .lines()
            .filter(|line| line.starts_with("compute_ctl_up"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = scrape().await.body;
    assert_eq!(
        up(&before),
        [r#"compute_ctl_up{build_tag="latest",status="empty"} 1"#]
    );
    assert!(!before.contains("glowplug_wal_relay_lag_bytes"), "{before}");

    let mut running = snapshot(ComputeState::RefreshConfigurationPending);
    running.postgres.restarts = 3;
    running.durations.total = Some(Duration::from_millis(1500));
    running.pagestream.misrouted_requests = Some(7);
    running.relay = Some(crate::report::RelayFacts {
        phase: "Streaming",
        term: Some(2),
        commit_lsn: crate::lsn::Lsn(8),
        lag_bytes: 42,
        fenced: None,
    });
    fixture.publish(running);
    let after = scrape().await.body;
    let status = "refresh-configuration-pending";
    let expected = format!(r#"compute_ctl_up{{build_tag="latest",status="{status}"}} 1"#);
    assert_eq!(up(&after), [expected]);
    for line in [
        "glowplug_postgres_restarts_total 3",
        "glowplug_startup_seconds 1.5",
        &format!(
            "pg_cctl_attached{{pg_compute_id=\"{COMPUTE}\",pg_instance_id=\"instance-1\",\
             tenant_id=\"{TENANT}\",timeline_id=\"{TIMELINE}\"}} 1"
        ),
        "glowplug_pageserver_misrouted_pagestream_requests 7",
        "glowplug_wal_relay_lag_bytes 42",
        "glowplug_wal_relay_fenced 0",
        "glowplug_ready 0",
        r#"glowplug_http_requests_total{code="200",route="/metrics",server="external"} 1"#,
    ] {
        assert!(
            after.lines().any(|l| l == line),
            "{line} is missing in\n{after}"
        );
    }
}

#[tokio::test]
async fn what_upstream_has_and_glowplug_has_not_is_named() {
    let fixture = Fixture::start().await;
    for path in ["/promote", "/lfc/prewarm", "/lfc/offload"] {
        let answer = fixture.external("POST", path).send().await;
        assert_eq!(answer.status, 501);
        let start = format!("{path} is not implemented by glowplug yet: it has no ");
        assert!(answer.error().starts_with(&start), "{answer:?}");
    }
    let call = fixture.internal("POST", "/extension_server/a/b.so");
    let answer = call.send().await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (412, "remote storage is not configured")
    );
    // Who is not let in does not learn even that.
    let call = Call::new(fixture.serving.external, "POST", "/promote");
    let answer = call.send().await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn a_request_id_is_echoed_even_if_it_is_no_text() {
    let fixture = Fixture::start().await;
    let call = fixture.probe("/livez").header("x-request-id", "abc");
    assert_eq!(call.send().await.headers["x-request-id"], "abc");
    let call = fixture.probe("/livez").header("x-request-id", "äö");
    assert_eq!(call.send().await.headers["x-request-id"], "äö");
}

#[tokio::test]
async fn a_port_that_is_taken_is_fatal_and_named() {
    let fixture = Fixture::start().await;
    let (control, _requests) = mpsc::channel(1);
    let config = ServersConfig {
        internal: fixture.serving.internal,
        ..config(Authorizer::Insecure)
    };
    let metrics = Arc::new(Metrics::new().unwrap());
    let snapshot = fixture.snapshot.subscribe();
    let cancel = CancellationToken::new();
    let error = serve(config, no_postgres(), control, snapshot, metrics, cancel)
        .await
        .err()
        .unwrap();
    let taken = fixture.serving.internal;
    assert_eq!(
        crate::error::chain(&error),
        format!(
            "the internal HTTP server cannot listen on {taken}: free the port, or choose \
             another by its flag: Address already in use (os error 98)"
        )
    );
}

#[tokio::test]
async fn requests_under_way_are_answered_before_the_servers_end() {
    let mut fixture = Fixture::start().await;
    let called = tokio::spawn(fixture.external("POST", "/terminate").send());
    let request = fixture.requests.recv().await.unwrap();
    fixture.cancel.cancel();
    let Request::Terminate { reply, .. } = request else {
        panic!("{request:?}")
    };
    let outcome = TerminateOutcome {
        lsn: None,
        already: false,
    };
    reply.send(Ok(outcome)).unwrap();
    let external = fixture.serving.external;
    fixture.serving.finished().await;
    assert_eq!(called.await.unwrap().status, 200);
    TcpStream::connect(external).await.unwrap_err();
}
