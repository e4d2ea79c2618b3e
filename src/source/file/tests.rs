//! Files that are edited, swapped and removed, as editors and the kubelet do it.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::source::testing::{document_of, resolve};
use crate::spec::revision::{Rejection, Revision};

/// A followed file, and a directory of Secrets beside it.
struct Run {
    dir: TempDir,
    events: mpsc::Receiver<SourceEvent>,
    cancel: CancellationToken,
}

impl Run {
    /// Follows `spec/compute.yaml` once `prepare` has laid it out.
    fn start(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("spec")).unwrap();
        fs::create_dir_all(dir.path().join("secrets/app")).unwrap();
        fs::write(dir.path().join("secrets/app/password"), "first").unwrap();
        prepare(dir.path());
        let options = Options {
            resolve: resolve(),
            secrets_dir: Some(dir.path().join("secrets")),
            last_good_dir: None,
            start_limit: Duration::from_secs(1),
        };
        let (sender, events) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        let path = dir.path().join("spec/compute.yaml");
        tokio::spawn(run(path, options, sender, cancel.clone()));
        Self {
            dir,
            events,
            cancel,
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
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
}

fn plain(dir: &Path) {
    fs::write(dir.join("spec/compute.yaml"), document_of(1)).unwrap();
}

#[tokio::test]
async fn an_edit_in_place_is_told() {
    let mut run = Run::start(plain);
    let first = run.accepted().await;
    let text = document_of(1).replace("flavor: Vanilla", "flavor: Vanilla, port: 5433");
    fs::write(run.path("spec/compute.yaml"), text).unwrap();
    let second = run.accepted().await;
    assert_eq!((first.generation, second.generation), (1, 2));
    assert_eq!(second.spec.postgres.port, 5433);
}

#[tokio::test]
async fn a_rename_over_the_file_is_told() {
    let mut run = Run::start(plain);
    run.accepted().await;
    fs::write(run.path("spec/.compute.yaml.swp"), "mode: [").unwrap();
    fs::rename(
        run.path("spec/.compute.yaml.swp"),
        run.path("spec/compute.yaml"),
    )
    .unwrap();
    assert_eq!(run.rejected().await.reason, "ValidationFailed");
}

/// Lays the file out as the kubelet does: through a symbolic link to a folder that
/// is swapped as a whole.
fn mount(dir: &Path, version: &str, text: &str) {
    let spec = dir.join("spec");
    fs::create_dir(spec.join(version)).unwrap();
    fs::write(spec.join(version).join("compute.yaml"), text).unwrap();
    symlink(version, spec.join("..data_tmp")).unwrap();
    fs::rename(spec.join("..data_tmp"), spec.join("..data")).unwrap();
    if !spec.join("compute.yaml").exists() {
        symlink("..data/compute.yaml", spec.join("compute.yaml")).unwrap();
    }
}

#[tokio::test]
async fn a_swap_by_the_kubelet_is_told() {
    let mut run = Run::start(|dir| mount(dir, "..2026_1", &document_of(1)));
    run.accepted().await;
    mount(
        run.dir.path(),
        "..2026_2",
        &document_of(1).replace("flavor: Vanilla", "flavor: Vanilla, port: 5433"),
    );
    assert_eq!(run.accepted().await.spec.postgres.port, 5433);
}

#[tokio::test]
async fn a_rotated_secret_is_told() {
    let mut run = Run::start(plain);
    let first = run.accepted().await;
    fs::write(run.path("secrets/app/password"), "second").unwrap();
    let second = run.accepted().await;
    assert_ne!(first.spec, second.spec);
    fs::remove_file(run.path("secrets/app/password")).unwrap();
    assert_eq!(run.rejected().await.reason, "SecretKeyMissing");
}

#[tokio::test]
async fn a_file_that_goes_and_comes_is_told() {
    let mut run = Run::start(|_| {});
    assert!(matches!(run.next().await, SourceEvent::Absent { .. }));
    plain(run.dir.path());
    run.accepted().await;
    fs::remove_file(run.path("spec/compute.yaml")).unwrap();
    assert!(matches!(run.next().await, SourceEvent::Absent { .. }));
}

#[tokio::test]
async fn what_is_not_text_is_refused() {
    let mut run = Run::start(|dir| fs::write(dir.join("spec/compute.yaml"), [b'a', 0xff]).unwrap());
    let rejection = run.rejected().await;
    assert!(
        rejection.message.contains("not UTF-8 text, from byte 1"),
        "{}",
        rejection.message
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_out_of_reach() {
    let mut run = Run::start(|dir| fs::create_dir(dir.join("spec/compute.yaml")).unwrap());
    assert!(matches!(run.next().await, SourceEvent::Unreachable { .. }));
}

#[tokio::test]
async fn the_task_ends_when_it_is_cancelled() {
    let mut run = Run::start(plain);
    run.accepted().await;
    run.cancel.cancel();
    assert!(run.events.recv().await.is_none());
}
