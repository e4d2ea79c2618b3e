//! How a compute reaches its storage: encrypted, with a token, by gRPC, and through other
//! safekeepers than it began with.

use std::fs;

use glowplug::storage::StorageOptions;
use serde_json::json;

use crate::authority::Authority;
use crate::programs;
use crate::stage::{Stage, StageOptions, free_port};

const TOKEN: &str = "the-storages-token";

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_wants_tls_and_a_token_is_reached_by_both_protocols() {
    let authority = Authority::new();
    let options = StageOptions {
        token: Some(TOKEN.to_owned()),
        storage: StorageOptions {
            tls: Some(authority.node_tls()),
            ..StorageOptions::default()
        },
        ..StageOptions::default()
    };
    let stage = Stage::set_as(programs::newest(), options).await;
    let ca = stage.directory.path().join("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let secrets = stage.directory.path().join("secrets");
    fs::create_dir_all(secrets.join("storage")).unwrap();
    fs::write(secrets.join("storage/token"), TOKEN).unwrap();

    let mut spec = stage.spec(free_port());
    let storage = &mut spec["spec"]["storage"];
    // The nodes are addressed by numbers, and the certificate is for a name.
    storage["tls"] = json!({"mode": "VerifyCa", "caFile": ca});
    storage["tokenSecretRef"] = json!({"name": "storage", "key": "token"});
    let mut compute = stage.compute("a", &spec);
    compute.arguments = vec!["--secrets-dir".to_owned(), secrets.display().to_string()];
    for (protocol, sql) in [
        ("Grpc", "CREATE TABLE kept AS SELECT 42 AS n"),
        ("Libpq", "UPDATE kept SET n = n + 1"),
        ("Grpc", "UPDATE kept SET n = n + 1"),
    ] {
        spec["spec"]["storage"]["pageservers"]["preferProtocol"] = json!(protocol);
        compute.write_spec(&spec.to_string());
        compute.start().await;
        compute.running().await;
        let client = compute.connect().await;
        client.batch_execute(sql).await.unwrap();
        if protocol == "Grpc" {
            let row = client.query_one("SELECT n FROM kept", &[]).await.unwrap();
            assert!([42, 44].contains(&row.get::<_, i32>(0)));
        }
        compute.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_safekeeper_is_replaced_while_postgres_writes() {
    let options = StageOptions {
        safekeepers: 4,
        ..StageOptions::default()
    };
    let stage = Stage::set_as(programs::newest(), options).await;
    let endpoints = stage.storage.safekeeper_endpoints();
    let mut spec = stage.spec(free_port());
    let list = "/spec/storage/safekeepers/endpoints";
    *spec.pointer_mut(list).unwrap() = json!(endpoints[..3]);
    let mut compute = stage.compute("a", &spec);
    compute.start().await;
    compute.running().await;
    let client = compute.connect().await;
    client
        .batch_execute("CREATE TABLE written (n int)")
        .await
        .unwrap();
    let started_at = "SELECT pg_postmaster_start_time()::text";
    let before = client.query_one(started_at, &[]).await.unwrap();

    // Each commit waits for a majority of the safekeepers of its time.
    let write = async |n: i32| {
        let insert = format!("INSERT INTO written VALUES ({n})");
        client.batch_execute(&insert).await.unwrap();
    };
    for n in 0..10 {
        write(n).await;
    }
    *spec.pointer_mut(list).unwrap() = json!(endpoints[1..]);
    compute.write_spec(&spec.to_string());
    for n in 10..20 {
        write(n).await;
    }
    compute
        .says(&["state: Running", "observedGeneration: 2"])
        .await;
    // Two of the first three fall silent: without the new one there is no majority left.
    for id in [1, 2] {
        let safekeeper = stage.storage.safekeeper(id).unwrap();
        safekeeper.set_faults(|faults| faults.paused = true);
    }
    for n in 20..30 {
        write(n).await;
    }
    let after = client.query_one(started_at, &[]).await.unwrap();
    assert_eq!(before.get::<_, String>(0), after.get::<_, String>(0));
    compute.kill().await;

    compute.start().await;
    compute.running().await;
    let client = compute.connect().await;
    let sql = "SELECT count(*), count(DISTINCT n) FROM written";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (30, 30));
    compute.kill().await;
}
