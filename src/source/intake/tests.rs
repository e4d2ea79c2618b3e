//! What a source tells of documents that come, change, fail and go.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::secret::Secret;
use crate::source::secret_set::SecretState;
use crate::source::testing::{document_of, resolve};

/// An intake, and what it tells.
struct Run {
    intake: Intake,
    events: mpsc::Receiver<SourceEvent>,
}

fn start(last_good_dir: Option<&Path>) -> Run {
    let (sender, events) = mpsc::channel(16);
    let options = Options {
        resolve: resolve(),
        secrets_dir: None,
        last_good_dir: last_good_dir.map(Path::to_owned),
        start_limit: Duration::from_secs(1),
    };
    Run {
        intake: Intake::new("file compute.yaml".to_owned(), &options, sender),
        events,
    }
}

impl Run {
    async fn offer(&mut self, text: &str, password: Option<&str>) -> Vec<SourceEvent> {
        let document = Document {
            text: text.to_owned(),
            generation: None,
        };
        let mut secrets = SecretSet::default();
        if let Some(password) = password {
            let keys = [("password".to_owned(), Some(Secret::new(password)))];
            secrets.insert("app", SecretState::Present(keys.into()));
        }
        self.intake.offer(document, &secrets).await.unwrap();
        self.told()
    }

    async fn unreachable(&mut self) -> Vec<SourceEvent> {
        self.intake
            .unreachable("no answer".to_owned())
            .await
            .unwrap();
        self.told()
    }

    fn told(&mut self) -> Vec<SourceEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

fn accepted(events: &[SourceEvent]) -> &Revision {
    match events {
        [SourceEvent::Accepted(revision), ..] => revision,
        other => panic!("not accepted: {other:?}"),
    }
}

fn rejected(events: &[SourceEvent]) -> &Rejection {
    match events {
        [.., SourceEvent::Rejected(rejection)] => rejection,
        other => panic!("not rejected: {other:?}"),
    }
}

#[tokio::test]
async fn an_equal_document_is_told_once() {
    let mut run = start(None);
    let text = document_of(1);
    assert_eq!(accepted(&run.offer(&text, Some("a")).await).generation, 1);
    assert_eq!(run.offer(&text, Some("a")).await, []);
}

#[tokio::test]
async fn a_rotated_secret_is_told() {
    let mut run = start(None);
    let text = document_of(1);
    let before = accepted(&run.offer(&text, Some("a")).await).clone();
    let after = accepted(&run.offer(&text, Some("b")).await).clone();
    assert_eq!(
        (&before.hash, before.generation),
        (&after.hash, after.generation)
    );
    assert_ne!(before.spec, after.spec);
}

#[tokio::test]
async fn a_refused_document_is_told_with_its_reason_and_heals() {
    let mut run = start(None);
    run.offer(&document_of(1), Some("a")).await;
    let broken = document_of(1).replace("Primary", "Prmary");
    let events = run.offer(&broken, Some("a")).await;
    assert_eq!((events.len(), rejected(&events).generation), (1, 2));
    assert_eq!(rejected(&events).reason, "ValidationFailed");
    let events = run.offer(&document_of(1), None).await;
    assert_eq!(rejected(&events).reason, "SecretNotFound");
    assert!(
        rejected(&events).message.contains("spec.roles[0].password"),
        "{events:?}"
    );
    accepted(&run.offer(&document_of(1), Some("a")).await);
}

#[tokio::test]
async fn another_timeline_is_refused_for_as_long_as_the_process_runs() {
    let mut run = start(None);
    run.offer(&document_of(1), Some("a")).await;
    let events = run.offer(&document_of(2), Some("a")).await;
    assert_eq!(rejected(&events).reason, "ImmutableFieldChanged");
    assert!(
        rejected(&events).message.starts_with("spec.timelineId: "),
        "{events:?}"
    );
    run.intake.absent().await.unwrap();
    run.told();
    rejected(&run.offer(&document_of(2), Some("a")).await);
    accepted(&run.offer(&document_of(1), Some("a")).await);
}

#[tokio::test]
async fn an_outage_is_told_once_and_its_end_by_telling_the_spec_again() {
    let mut run = start(None);
    let before = accepted(&run.offer(&document_of(1), Some("a")).await).clone();
    assert_eq!(run.unreachable().await.len(), 1);
    assert_eq!(run.unreachable().await, []);
    let after = run.offer(&document_of(1), Some("a")).await;
    assert_eq!(accepted(&after), &before);
}

#[tokio::test]
async fn a_start_without_the_source_uses_the_last_good_copy_until_the_source_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = start(Some(dir.path()));
    first.offer(&document_of(1), Some("a")).await;

    let mut second = start(Some(dir.path()));
    let events = second.unreachable().await;
    let copy = accepted(&events).clone();
    assert_eq!(copy.origin, "last good copy of file compute.yaml");
    assert!(matches!(events[1], SourceEvent::Unreachable { .. }));
    let live = second.offer(&document_of(1), Some("a")).await;
    assert_eq!(
        (&accepted(&live).hash, &*accepted(&live).spec),
        (&copy.hash, &*copy.spec)
    );
    assert_eq!(accepted(&live).origin, "file compute.yaml");
}

#[tokio::test]
async fn a_start_with_a_refused_document_uses_the_last_good_copy() {
    let dir = tempfile::tempdir().unwrap();
    start(Some(dir.path()))
        .offer(&document_of(1), Some("a"))
        .await;
    let mut run = start(Some(dir.path()));
    let events = run.offer("mode: [", None).await;
    accepted(&events);
    assert_eq!(rejected(&events).reason, "ValidationFailed");
}

#[tokio::test]
async fn a_start_without_a_document_does_not_use_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    start(Some(dir.path()))
        .offer(&document_of(1), Some("a"))
        .await;
    let mut run = start(Some(dir.path()));
    run.intake.absent().await.unwrap();
    assert_eq!(
        run.told(),
        [SourceEvent::Absent {
            origin: "file compute.yaml".to_owned()
        }]
    );
}

#[tokio::test]
async fn a_copy_that_cannot_be_kept_does_not_hold_up_the_spec() {
    let mut run = start(Some(Path::new("/proc/nonexistent")));
    accepted(&run.offer(&document_of(1), Some("a")).await);
}
