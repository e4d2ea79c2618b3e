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
    // Which would know where the shard really is.
    let storage = spec["spec"]["storage"].as_object_mut().unwrap();
    storage.remove("storageController");
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

#[tokio::test(flavor = "multi_thread")]
async fn pagestream_errors_that_keep_coming_show_until_they_stop() {
    let stage = Stage::set().await;
    let mut compute = stage.compute("a", &stage.spec(free_port()));
    // Requests at most 4 s apart: more than even a busy machine needs.
    compute.arguments = ["--pagestream-errors-after=20", "--pagestream-quiet-after=3"]
        .map(str::to_owned)
        .to_vec();
    compute.start().await;
    compute.running().await;
    compute
        .says(&["type: StorageReachable", "reason: AsExpected"])
        .await;

    // As postgres does for as long as it cannot reach a pageserver.
    let asking = async {
        loop {
            let answer = compute.request("internal", "POST /refresh_configuration", "");
            assert!(answer.await.starts_with("HTTP/1.1 200"));
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = asking => {}
        () = compute.says(&["reason: PagestreamErrors"]) => {}
    }
    compute.says(&["reason: AsExpected"]).await;
    let counter = "pg_cctl_pagestream_request_errors_total";
    assert!(compute.metric(counter, "").await > Some(1.0));
    compute.kill().await;
}
