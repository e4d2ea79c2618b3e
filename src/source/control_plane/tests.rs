//! A control plane that answers as it is told, and what the source makes of it.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use prometheus::{IntCounterVec, Opts};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::secret::Secret;
use crate::source::testing::resolve;
use crate::spec::revision::{Rejection, Revision};

const TOKEN: &str = "token-marker";

/// What it answers, and what it was asked.
#[derive(Default)]
struct Script {
    /// Answers in their order; the last one is repeated.
    answers: Vec<(u16, String)>,
    asked: Vec<(String, Option<String>)>,
}

type Shared = Arc<Mutex<Script>>;

async fn answer(
    State(script): State<Shared>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let authorization = headers.get(header::AUTHORIZATION);
    let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
    let mut script = script.lock().unwrap();
    script.asked.push((id, authorization));
    let (status, body) = if script.answers.len() > 1 {
        script.answers.remove(0)
    } else {
        script.answers[0].clone()
    };
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

/// A control plane, and a source that asks it.
struct Run {
    script: Shared,
    events: mpsc::Receiver<SourceEvent>,
    questions: mpsc::Sender<LookAgain>,
    requests: IntCounterVec,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Run {
    async fn start(answers: &[(u16, String)]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        let script = Shared::default();
        script.lock().unwrap().answers = answers.to_vec();
        let router = Router::new()
            .route("/compute/api/v2/computes/{id}/spec", get(answer))
            .with_state(script.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let requests = counter();
        let place = control_plane(&base, requests.clone()).unwrap();
        let (sender, events) = mpsc::channel(16);
        let (questions, asked) = mpsc::channel(1);
        let source = tokio::spawn(run(
            place,
            options(),
            sender,
            asked,
            CancellationToken::new(),
        ));
        Self {
            script,
            events,
            questions,
            requests,
            _tasks: [server, source].map(AbortOnDropHandle::new),
        }
    }

    async fn next(&mut self) -> SourceEvent {
        let next = tokio::time::timeout(Duration::from_mins(1), self.events.recv());
        next.await
            .expect("nothing was told")
            .expect("the source ended")
    }

    async fn accepted(&mut self) -> Revision {
        match self.next().await {
            SourceEvent::Accepted(revision) => revision,
            other => panic!("not accepted: {other:?}"),
        }
    }

    async fn rejected(&mut self) -> Rejection {
        match self.next().await {
            SourceEvent::Rejected(rejection) => rejection,
            other => panic!("not rejected: {other:?}"),
        }
    }

    async fn unreachable(&mut self) -> String {
        match self.next().await {
            SourceEvent::Unreachable { message } => message,
            other => panic!("not unreachable: {other:?}"),
        }
    }

    async fn look_again(&self) -> Result<bool, String> {
        let (question, looked) = oneshot::channel();
        self.questions.send(question).await.unwrap();
        looked.await.unwrap()
    }

    fn now_answers(&self, status: u16, body: String) {
        self.script.lock().unwrap().answers = vec![(status, body)];
    }

    fn asked(&self) -> Vec<(String, Option<String>)> {
        self.script.lock().unwrap().asked.clone()
    }

    fn counted(&self, status: &str) -> u64 {
        self.requests
            .with_label_values(&["GetConfig", status])
            .get()
    }
}

fn counter() -> IntCounterVec {
    let opts = Opts::new("requests", "requests");
    IntCounterVec::new(opts, &["rpc", "http_status"]).unwrap()
}

fn control_plane(base: &str, requests: IntCounterVec) -> Result<ControlPlane, Error> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::new();
    ControlPlane::new(http, base, "ep/1", Some(Secret::new(TOKEN)), requests)
}

fn options() -> Options {
    Options {
        resolve: resolve(),
        secrets_dir: None,
        last_good_dir: None,
        start_limit: Duration::from_secs(3),
    }
}

/// An answer with a spec whose `pageserver_connstring` names this port.
fn attached(port: u16) -> String {
    let spec = serde_json::json!({
        "format_version": 1.0,
        "suspend_timeout_seconds": -1,
        "cluster": {"roles": [], "databases": []},
        "tenant_id": "9ef87a5bf0d92544f6fafeeb3239695c",
        "timeline_id": "de200bd42b49cc1814412c7e592dd6e9",
        "pageserver_connstring": format!("postgres://no_user@ps:{port}"),
        "safekeeper_connstrings": ["sk1:5454", "sk2:5454", "sk3:5454"],
        "mode": "Primary",
    });
    respond("attached", &spec)
}

fn respond(status: &str, spec: &serde_json::Value) -> String {
    serde_json::json!({
        "status": status, "spec": spec, "compute_ctl_config": {"jwks": {"keys": []}},
    })
    .to_string()
}

fn empty() -> String {
    respond("empty", &serde_json::Value::Null)
}

#[tokio::test]
async fn the_spec_is_asked_for_as_compute_ctl_asks() {
    let mut run = Run::start(&[(200, attached(6400))]).await;
    let revision = run.accepted().await;
    assert_eq!(revision.spec.pageservers.shards.len(), 1);
    assert_eq!(revision.generation, 1);
    // The slash in the id is a part of it, and adds no segment to the path.
    let asked = [("ep/1".to_owned(), Some(format!("Bearer {TOKEN}")))];
    assert_eq!(run.asked(), asked);
    assert_eq!(run.counted("200 OK"), 1);
}

#[tokio::test]
async fn what_a_proxy_says_of_a_restart_is_asked_again_and_not_told() {
    let answers = [
        (503, "restarting".to_owned()),
        (200, "<html>welcome</html>".to_owned()),
        (200, attached(6400)),
    ];
    let mut run = Run::start(&answers).await;
    run.accepted().await;
    assert_eq!(run.counted("503 Service Unavailable"), 1);
    assert_eq!(run.counted("200 OK"), 2);
}

#[tokio::test]
async fn an_empty_compute_has_no_spec_and_an_attached_one_must_have_it() {
    let mut run = Run::start(&[(200, empty())]).await;
    assert!(matches!(run.next().await, SourceEvent::Absent { .. }));

    let mut run = Run::start(&[(200, empty().replace("empty", "attached"))]).await;
    let rejection = run.rejected().await;
    assert!(rejection.message.contains("spec"), "{}", rejection.message);
}

#[tokio::test]
async fn a_refusal_is_told_at_once_with_advice_and_no_token() {
    for status in [401, 404, 500] {
        let mut run = Run::start(&[(status, format!("no, Bearer {TOKEN}"))]).await;
        let message = run.unreachable().await;
        assert!(message.contains(&status.to_string()), "{message}");
        assert!(!message.contains(TOKEN), "{message}");
        assert_eq!(run.asked().len(), 1);
    }
}

#[tokio::test]
async fn nobody_there_is_told_when_it_lasts() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let requests = counter();
    let place = control_plane(&format!("http://user:hidden@{address}"), requests.clone());
    let (sender, mut events) = mpsc::channel(16);
    let (_questions, asked) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let source = tokio::spawn(run(
        place.unwrap(),
        options(),
        sender,
        asked,
        cancel.clone(),
    ));
    let Some(SourceEvent::Unreachable { message }) = events.recv().await else {
        panic!("not unreachable");
    };
    assert!(message.contains(&address.to_string()), "{message}");
    assert!(!message.contains("hidden"), "{message}");
    assert!(requests.with_label_values(&["GetConfig", "unknown"]).get() > 1);
    cancel.cancel();
    source.await.unwrap();
}

#[tokio::test]
async fn a_question_tells_whether_the_spec_is_new() {
    let mut run = Run::start(&[(200, attached(6400))]).await;
    run.accepted().await;
    assert_eq!(run.look_again().await, Ok(false));

    run.now_answers(200, attached(6401));
    assert_eq!(run.look_again().await, Ok(true));
    assert_eq!(run.accepted().await.generation, 2);

    // No answer at all leaves the spec in hand as it is, and says why.
    run.now_answers(404, "unknown compute".to_owned());
    let why = run.look_again().await.unwrap_err();
    assert!(why.contains("unknown compute"), "{why}");
    run.now_answers(503, String::new());
    let asked = run.asked().len();
    run.look_again().await.unwrap_err();
    assert_eq!(run.asked().len(), asked + 3);
}

#[test]
fn a_base_that_is_no_url_is_refused() {
    for base in ["control-plane:3000", "", "ftp://cp/"] {
        assert!(control_plane(base, counter()).is_err(), "{base}");
    }
}
