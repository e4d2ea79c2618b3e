//! A compute whose shard moved to another pageserver finds it, whether or not anybody
//! told.

use std::time::Instant;

use glowplug::id::{ShardIndex, TenantShardId};
use glowplug::process::{Command, Exit};
use glowplug::spec::ShardMap;
use serde_json::json;

use crate::neon_stand_in as neon;
use crate::stage::{Compute, LIMIT, Stage, TENANT, TIMELINE, free_port};

async fn move_shard(stage: &Stage, number: u8, count: u8, to: u64) {
    let shard = TenantShardId {
        tenant_id: TENANT.parse().unwrap(),
        shard: ShardIndex { number, count },
    };
    stage.storage.move_shard(shard, to).await.unwrap();
}

fn addresses(map: &ShardMap) -> String {
    let shards = map.shards.iter().map(|shard| shard.libpq.clone().unwrap());
    plain(&shards.collect::<Vec<_>>().join(","))
}

/// The scheme of a connection string has two names.
fn plain(addresses: &str) -> String {
    addresses.replace("postgresql://", "postgres://")
}

/// Waits until postgres reads its pages where the storage controller says.
async fn reads_at(compute: &Compute<'_>, wanted: &str) {
    let give_up = Instant::now() + LIMIT;
    loop {
        let client = neon::connect(compute).await;
        let row = client.query_one("SHOW neon.pageserver_connstring", &[]);
        let found: String = row.await.unwrap().get(0);
        if plain(&found) == wanted {
            return;
        }
        assert!(
            Instant::now() < give_up,
            "postgres reads at {found}, not at {wanted}; log:\n{}",
            compute.whole_log()
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

const REACHABLE: &[&str] = &[
    "state: Running",
    "type: StorageReachable",
    "reason: AsExpected",
];

async fn start_neon<'a>(stage: &'a Stage, probe_interval: &str) -> Compute<'a> {
    let mut compute = stage.compute("a", &neon::spec(stage));
    compute.postgres = neon::program(stage).await;
    compute.arguments = vec!["--probe-interval".to_owned(), probe_interval.to_owned()];
    compute.start().await;
    compute.says(REACHABLE).await;
    compute
}

/// As postgres does when it cannot read a page.
async fn ask_for_refresh(compute: &Compute<'_>) {
    let address = compute.address_of("internal").await;
    let url = format!("http://{address}/refresh_configuration");
    let answer = reqwest::Client::new().post(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_shard_is_found_when_postgres_asks() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let stage = Stage::sharded(2, 0).await;
    let mut compute = start_neon(&stage, "0").await;
    let before = addresses(&stage.shard_map());
    reads_at(&compute, &before).await;

    move_shard(&stage, 0, 0, 2).await;
    let after = addresses(&stage.shard_map());
    assert_ne!(before, after);
    ask_for_refresh(&compute).await;
    reads_at(&compute, &after).await;
    compute.says(REACHABLE).await;
    compute.says(&["requestErrors: 1", "lastErrorAt:"]).await;
    compute.logs("PageserverMoved").await;
    compute.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_shard_is_found_without_a_word() {
    let stage = Stage::sharded(2, 0).await;
    let mut compute = start_neon(&stage, "1").await;
    move_shard(&stage, 0, 0, 2).await;
    reads_at(&compute, &addresses(&stage.shard_map())).await;
    compute.says(REACHABLE).await;
    // Nobody's query had to hang for it.
    compute.says(&["requestErrors: 0"]).await;
    compute.logs("PageserverMoved").await;

    // A change of the spec that says nothing new of pageservers does not undo it.
    let mut spec = neon::spec(&stage);
    spec["spec"]["postgres"]["port"] = json!(compute.port);
    spec["spec"]["postgres"]["settings"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "work_mem", "value": "9MB"}));
    compute.write_spec(&spec.to_string());
    compute
        .says(&["state: Running", "observedGeneration: 2"])
        .await;
    reads_at(&compute, &addresses(&stage.shard_map())).await;
    compute.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_shards_the_one_that_moved_is_found() {
    one_of(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_four_shards_the_one_that_moved_is_found() {
    one_of(4).await;
}

async fn one_of(count: u8) {
    let stage = Stage::sharded(2, count).await;
    let mut compute = start_neon(&stage, "1").await;
    let before = stage.shard_map();
    reads_at(&compute, &addresses(&before)).await;
    move_shard(&stage, count - 1, count, 2).await;
    let after = stage.shard_map();
    assert_eq!(after.shards[0], before.shards[0]);
    reads_at(&compute, &addresses(&after)).await;
    compute.says(REACHABLE).await;
    let last = after.shards.last().unwrap().index;
    compute.logs(&format!("shard {last} moved from ")).await;
    compute.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_finds_a_shard_that_is_not_where_the_spec_says() {
    let stage = Stage::sharded(2, 0).await;
    let spec = stage.spec(free_port());
    move_shard(&stage, 0, 0, 2).await;
    let mut compute = stage.compute("a", &spec);
    compute.start().await;
    compute.says(REACHABLE).await;
    compute.logs("PageserverMoved").await;
    compute.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pageserver_that_nobody_can_replace_is_named_until_it_is_back() {
    let mut stage = Stage::sharded(1, 0).await;
    let mut spec = stage.spec(free_port());
    let storage = spec["spec"]["storage"].as_object_mut().unwrap();
    storage.remove("storageController");
    let mut compute = stage.compute("a", &spec);
    compute.arguments = ["--probe-interval", "1"].map(str::to_owned).into();
    compute.start().await;
    compute.says(REACHABLE).await;
    // The compute borrows the stage for good: its home and its log stay the same.
    compute.kill().await;
    drop(compute);

    stage.storage.stop_pageserver(1).await.unwrap();
    stage.storage.start_pageserver(1).await.unwrap();
    let knobs = stage.storage.pageserver_knobs(1).unwrap();
    let mut compute = stage.compute("a", &spec);
    compute.arguments = ["--probe-interval", "1"].map(str::to_owned).into();
    compute.start().await;
    compute.says(REACHABLE).await;
    knobs.pause();
    compute
        .says(&["state: Running", "reason: Timeout", "shard 0000 at 127."])
        .await;
    compute.logs("StorageUnreachable").await;
    // Postgres serves on: this flavor reads nothing there.
    compute
        .connect()
        .await
        .query_one("SELECT 1", &[])
        .await
        .unwrap();
    knobs.resume();
    compute.says(REACHABLE).await;
    compute.kill().await;
}

/// What `glowplug probe` prints for the spec of a file, and how it ends.
async fn probe(stage: &Stage, arguments: &[&str]) -> (Exit, String) {
    let command = Command::new(env!("CARGO_BIN_EXE_glowplug"))
        .arg("probe")
        .args(arguments);
    let output = stage.spawner.run(command, LIMIT).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.exit, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_on_demand_says_what_moved_and_where_to() {
    let stage = Stage::sharded(2, 2).await;
    let spec = stage.directory.path().join("spec.yaml");
    std::fs::write(&spec, stage.spec(5432).to_string()).unwrap();
    let file = spec.to_str().unwrap();
    let (exit, text) = probe(&stage, &[file]).await;
    assert_eq!(exit, Exit::Code(0), "{text}");
    assert_eq!(text.matches("Serving").count(), 2, "{text}");

    let addresses = addresses(&stage.shard_map());
    move_shard(&stage, 1, 2, 2).await;
    let (exit, text) = probe(&stage, &[file]).await;
    assert_eq!(exit, Exit::Code(69), "{text}");
    assert!(text.contains("Misrouted"), "{text}");
    assert!(
        text.contains("the storage controller: shard 0102 moved from"),
        "{text}"
    );

    let named = [
        "--connstr",
        &addresses,
        "--tenant",
        TENANT,
        "--timeline",
        TIMELINE,
    ];
    let arguments = [&named[..], &["--stripe-size", "2048", "-o", "json"]].concat();
    let (exit, text) = probe(&stage, &arguments).await;
    assert_eq!(exit, Exit::Code(69), "{text}");
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["serving"], false);
    assert_eq!(document["shards"][0]["answer"], "Serving");
    assert_eq!(document["shards"][1]["answer"], "Misrouted");
}
