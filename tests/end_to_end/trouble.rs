//! Trouble with specs and storage ends in a clear condition, never in a hang.

use glowplug::process::{Exit, Signal};
use glowplug::storage::knobs::BackupFault;
use serde_json::json;

use crate::loopback::Nobody;
use crate::stage::{Stage, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_first_spec_ends_the_process_with_65_and_names_the_field() {
    let stage = Stage::set().await;
    let mut spec = stage.spec(free_port());
    spec["spec"]["mode"] = json!("Sideways");
    let mut compute = stage.compute("a", &spec);
    compute.start().await;
    assert_eq!(compute.ended().await, Exit::Code(65));
    compute
        .says(&["reason: ValidationFailed", "spec.mode"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_basebackup_is_fetched_again_into_a_clean_directory() {
    let stage = Stage::set().await;
    for fault in [
        BackupFault::Truncated,
        BackupFault::Corrupt,
        BackupFault::ErrorMidway,
        BackupFault::ErrorAtEnd,
        BackupFault::Dropped,
    ] {
        stage
            .storage
            .pageserver_knobs(1)
            .unwrap()
            .fail_next_backup(fault);
        let mut compute = stage.compute("a", &stage.spec(free_port()));
        compute.start().await;
        compute.running().await;
        compute.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_of_safekeepers_may_be_down_and_a_majority_is_waited_for() {
    let mut stage = Stage::set().await;
    stage.storage.stop_safekeeper(1).await.unwrap();
    let spec = stage.spec(free_port());
    let mut compute = stage.compute("a", &spec);
    compute.start().await;
    compute.running().await;
    compute.kill().await;
    drop(compute);

    stage.storage.stop_safekeeper(2).await.unwrap();
    let mut compute = stage.compute("a", &spec);
    compute.start().await;
    compute
        .says(&[
            "state: Init",
            "reason: NoQuorum",
            "reason: StorageUnavailable",
        ])
        .await;
    compute.signal(Signal::TERM).await;
    assert_eq!(compute.ended().await, Exit::Code(0));
    drop(compute);

    stage.storage.start_safekeeper(2).await.unwrap();
    let mut compute = stage.compute("a", &spec);
    compute.start().await;
    compute.running().await;
    compute.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_pageserver_is_reported_and_waited_for_up_to_the_limit() {
    let stage = Stage::set().await;
    let mut spec = stage.spec(free_port());
    let nobody = Nobody::new();
    let url = format!("postgresql://no_user@{}", nobody.address());
    spec["spec"]["storage"]["pageservers"]["shards"][0]["libpq"] = json!(url);
    let mut compute = stage.compute("a", &spec);
    compute.arguments = ["--storage-wait", "3", "--failed-linger", "0"]
        .map(str::to_owned)
        .into();
    compute.start().await;
    assert_eq!(compute.ended().await, Exit::Code(69));
    compute
        .says(&["state: Failed", "type: BasebackupFetched"])
        .await;
}
