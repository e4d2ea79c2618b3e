//! What the sources tell of objects on the API server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use glowplug::secret::Secret;
use glowplug::source::{self, Options, Resolve};
use glowplug::spec::revision::{Rejection, Revision, SourceEvent};
use glowplug::spec::{Password, parse_document};
use kube::Client;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::harness::{self, ApiServer, Namespace};
use crate::manifest::{POD_RULES, compute_spec, secrets};

fn resolve() -> Resolve {
    Arc::new(|text, secrets| Ok(parse_document(text, secrets)?.spec))
}

/// How long anything that is awaited may take on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// For a first answer that does not come.
const HASTY: Option<Duration> = Some(Duration::from_secs(2));

/// A running source, and what it tells.
struct Source {
    events: mpsc::Receiver<SourceEvent>,
    cancel: CancellationToken,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[derive(Default)]
struct Settings {
    secrets_dir: Option<PathBuf>,
    last_good_dir: Option<PathBuf>,
    /// How long the first answer may take; [`LIMIT`] where that is not the point.
    start_limit: Option<Duration>,
}

impl Settings {
    fn options(self) -> Options {
        Options {
            resolve: resolve(),
            secrets_dir: self.secrets_dir,
            last_good_dir: self.last_good_dir,
            start_limit: self.start_limit.unwrap_or(LIMIT),
        }
    }
}

impl Source {
    fn resource(client: Client, namespace: &str, settings: Settings) -> Self {
        let (sender, events) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        tokio::spawn(source::resource::run(
            client,
            namespace.to_owned(),
            "main".to_owned(),
            settings.options(),
            sender,
            cancel.clone(),
        ));
        Self { events, cancel }
    }

    fn config_map(client: Client, namespace: &str, key: Option<&str>) -> Self {
        let (sender, events) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        tokio::spawn(source::config_map::run(
            client,
            namespace.to_owned(),
            "main".to_owned(),
            key.map(str::to_owned),
            Settings::default().options(),
            sender,
            cancel.clone(),
        ));
        Self { events, cancel }
    }

    async fn next(&mut self) -> SourceEvent {
        let next = tokio::time::timeout(LIMIT, self.events.recv());
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

    /// The next revision; a server that is about to start gives other answers before.
    async fn accepted_after_outage(&mut self) -> Revision {
        loop {
            match self.next().await {
                SourceEvent::Accepted(revision) => return revision,
                SourceEvent::Unreachable { .. } => {}
                other => panic!("not accepted: {other:?}"),
            }
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

    async fn absent(&mut self) {
        match self.next().await {
            SourceEvent::Absent { .. } => {}
            other => panic!("not absent: {other:?}"),
        }
    }
}

fn password(revision: &Revision) -> Option<&str> {
    match revision.spec.roles[0].password.as_ref()? {
        Password::Cleartext(secret) | Password::Verifier(secret) => Some(Secret::reveal(secret)),
    }
}

async fn namespace<'a>(server: &'a ApiServer, label: &str) -> Namespace<'a> {
    let namespace = server.namespace(label).await;
    namespace.apply(&secrets("first")).await;
    namespace.apply(&compute_spec("main")).await;
    namespace
}

#[tokio::test]
async fn a_pod_with_the_documented_rules_follows_its_resource_and_its_secrets() {
    let namespace = namespace(harness::shared().await, "follow").await;
    let client = namespace.restricted_client("compute", POD_RULES).await;
    let mut source = Source::resource(client, &namespace.name, Settings::default());
    let first = source.accepted().await;
    assert_eq!(first.generation, 1);
    assert_eq!(first.origin, format!("computespec {}/main", namespace.name));
    assert_eq!(password(&first), Some("first"));

    let edited = compute_spec("main").replace("flavor: Vanilla", "flavor: Vanilla, port: 5433");
    namespace.apply(&edited).await;
    let second = source.accepted().await;
    assert_eq!((second.generation, second.spec.postgres.port), (2, 5433));

    namespace.apply(&secrets("second")).await;
    let third = source.accepted().await;
    assert_eq!((third.generation, password(&third)), (2, Some("second")));

    namespace.kubectl(&["delete", "secret/app"]).await;
    let rejection = source.rejected().await;
    assert_eq!(rejection.reason, "SecretNotFound");
    assert!(
        rejection.message.contains("spec.roles[0].password"),
        "{}",
        rejection.message
    );
    namespace.apply(&secrets("third")).await;
    assert_eq!(password(&source.accepted().await), Some("third"));
}

#[tokio::test]
async fn a_write_of_the_status_is_not_told() {
    let namespace = namespace(harness::shared().await, "quiet").await;
    let mut source = Source::resource(
        namespace.client.clone(),
        &namespace.name,
        Settings::default(),
    );
    source.accepted().await;
    let status = [
        "patch",
        "compute/main",
        "--subresource=status",
        "--type=merge",
        "-p",
    ];
    namespace
        .kubectl(&[&status[..], &[r#"{"status":{"state":"Running"}}"#]].concat())
        .await;
    namespace.kubectl(&["label", "compute/main", "a=b"]).await;
    namespace.kubectl(&["delete", "compute/main"]).await;
    source.absent().await;
}

#[tokio::test]
async fn what_the_schema_cannot_see_is_refused_with_its_path() {
    let namespace = namespace(harness::shared().await, "invalid").await;
    let mut source = Source::resource(
        namespace.client.clone(),
        &namespace.name,
        Settings::default(),
    );
    source.accepted().await;
    let edited = compute_spec("main").replace("name: app, key: password", "name: app, key: none");
    namespace.apply(&edited).await;
    let rejection = source.rejected().await;
    assert_eq!(
        (rejection.generation, rejection.reason),
        (2, "SecretKeyMissing")
    );
    assert!(
        rejection
            .message
            .contains("spec.roles[0].password.secretKeyRef.key"),
        "{rejection:?}"
    );
    namespace.apply(&compute_spec("main")).await;
    assert_eq!(source.accepted().await.generation, 3);
}

#[tokio::test]
async fn a_recreated_resource_is_followed_if_it_is_for_the_same_timeline() {
    let namespace = namespace(harness::shared().await, "recreate").await;
    let mut source = Source::resource(
        namespace.client.clone(),
        &namespace.name,
        Settings::default(),
    );
    source.accepted().await;
    namespace.kubectl(&["delete", "compute/main"]).await;
    source.absent().await;
    let other = compute_spec("main").replace("9ef87a5bf0d9", "000000000000");
    namespace.apply(&other).await;
    let rejection = source.rejected().await;
    assert_eq!(rejection.reason, "ImmutableFieldChanged");
    assert!(
        rejection.message.starts_with("spec.tenantId: "),
        "{}",
        rejection.message
    );
    namespace.kubectl(&["delete", "compute/main"]).await;
    source.absent().await;
    namespace.apply(&compute_spec("main")).await;
    assert_eq!(source.accepted().await.generation, 1);
}

#[tokio::test]
async fn a_secret_that_may_not_be_read_is_told_with_the_rule_that_lacks() {
    let namespace = namespace(harness::shared().await, "forbidden").await;
    let rules = POD_RULES.replace("[storage, app]", "[storage]");
    let client = namespace.restricted_client("compute", &rules).await;
    let mut source = Source::resource(client, &namespace.name, Settings::default());
    let rejection = source.rejected().await;
    assert!(
        rejection
            .message
            .contains("allow get, list and watch of the Secret"),
        "{rejection:?}"
    );
    assert!(!rejection.message.contains("opensesame"), "{rejection:?}");
}

#[tokio::test]
async fn secrets_are_read_from_their_directory_where_one_is_given() {
    let namespace = namespace(harness::shared().await, "mounted").await;
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in [("storage/token", "t"), ("app/password", "mounted")] {
        let path = dir.path().join(path);
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let rules = POD_RULES.replace("[storage, app]", "[none]");
    let client = namespace.restricted_client("compute", &rules).await;
    let settings = Settings {
        secrets_dir: Some(dir.path().to_owned()),
        ..Settings::default()
    };
    let mut source = Source::resource(client, &namespace.name, settings);
    assert_eq!(password(&source.accepted().await), Some("mounted"));
    // As a whole, as the kubelet does it.
    std::fs::write(dir.path().join("rotated"), "rotated").unwrap();
    std::fs::rename(dir.path().join("rotated"), dir.path().join("app/password")).unwrap();
    assert_eq!(password(&source.accepted().await), Some("rotated"));
}

#[tokio::test]
async fn a_resource_that_may_not_be_read_is_out_of_reach() {
    let namespace = namespace(harness::shared().await, "no-rights").await;
    let client = namespace
        .restricted_client(
            "compute",
            "- {apiGroups: [\"\"], resources: [pods], verbs: [get]}",
        )
        .await;
    let settings = Settings {
        start_limit: HASTY,
        ..Settings::default()
    };
    let mut source = Source::resource(client, &namespace.name, settings);
    // A busy server may let the limit pass before it refuses.
    let advice = "allow get, list and watch of this name";
    while !source.unreachable().await.contains(advice) {}
}

#[tokio::test]
async fn a_config_map_is_followed_in_either_form() {
    let namespace = namespace(harness::shared().await, "config-map").await;
    let write = async |key: &str, text: &str| {
        let text = text.replace('\n', "\n    ");
        let map = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: main}}\ndata:\n  {key}: |\n    {text}"
        );
        namespace.apply(&map).await;
    };
    let rules = "
- {apiGroups: [\"\"], resources: [configmaps], resourceNames: [main], verbs: [get, list, watch]}
- {apiGroups: [\"\"], resources: [secrets], resourceNames: [storage, app], verbs: [get, list, watch]}";
    let client = namespace.restricted_client("compute", rules).await;
    let mut source = Source::config_map(client.clone(), &namespace.name, None);
    source.absent().await;
    write("compute.yaml", &compute_spec("main")).await;
    let first = source.accepted().await;
    assert_eq!((first.generation, password(&first)), (1, Some("first")));
    write(
        "compute.yaml",
        &compute_spec("main").replace("flavor: Vanilla", "flavor: Vanilla, port: 5433"),
    )
    .await;
    assert_eq!(source.accepted().await.generation, 2);
    namespace.apply(&secrets("second")).await;
    assert_eq!(password(&source.accepted().await), Some("second"));
    let mut other = Source::config_map(client, &namespace.name, Some("other.yaml"));
    let rejection = other.rejected().await;
    assert!(
        rejection.message.contains("found: compute.yaml"),
        "{rejection:?}"
    );
}

#[tokio::test]
async fn an_outage_is_told_and_survived_also_at_the_start() {
    let server = ApiServer::start().await;
    let namespace = namespace(&server, "outage").await;
    let dir = tempfile::tempdir().unwrap();
    let settings = |start_limit| Settings {
        last_good_dir: Some(dir.path().to_owned()),
        start_limit,
        ..Settings::default()
    };
    let client = || server.client();
    let mut running = Source::resource(client().await, &namespace.name, settings(None));
    let before = running.accepted().await;

    server.stop();
    let message = running.unreachable().await;
    assert!(message.contains("computespec"), "{message}");
    let mut starting = Source::resource(client().await, &namespace.name, settings(HASTY));
    let copy = starting.accepted().await;
    assert!(
        copy.origin.starts_with("last good copy of computespec"),
        "{}",
        copy.origin
    );
    assert_eq!(copy.spec, before.spec);
    starting.unreachable().await;

    server.start_again().await;
    namespace
        .apply(&compute_spec("main").replace("flavor: Vanilla", "flavor: Vanilla, port: 5433"))
        .await;
    for source in [&mut running, &mut starting] {
        // The spec may be told as it was before the edit is seen.
        let mut told = source.accepted_after_outage().await;
        while told.generation == 1 {
            told = source.accepted_after_outage().await;
        }
        assert_eq!((told.generation, told.spec.postgres.port), (2, 5433));
    }

    server.pause();
    let mut waiting = Source::resource(client().await, &namespace.name, settings(HASTY));
    assert_eq!(waiting.accepted().await.spec.postgres.port, 5433);
    let message = waiting.unreachable().await;
    assert!(message.ends_with("no answer within 2s"), "{message}");
    server.resume();
    let live = waiting.accepted_after_outage().await;
    assert!(live.origin.starts_with("computespec"), "{}", live.origin);
}
