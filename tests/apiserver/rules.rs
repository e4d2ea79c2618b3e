//! The API server and the local check refuse the same specs, for the same fields.

use glowplug::secret::Secret;
use glowplug::spec::{ComputeSpec, Errors, change, parse_document};
use serde_json::{Value, json};

use crate::harness::{self, Namespace};

/// Changes to a valid resource: a JSON pointer below `spec`, and the value to put there.
type Change = (&'static str, Value);

/// A resource and what becomes of it: the field that is refused, or nothing.
struct Case {
    changes: Vec<Change>,
    refused: Option<&'static str>,
}

fn accepted(changes: impl IntoIterator<Item = Change>) -> Case {
    Case {
        changes: changes.into_iter().collect(),
        refused: None,
    }
}

fn refused(field: &'static str, changes: impl IntoIterator<Item = Change>) -> Case {
    Case {
        changes: changes.into_iter().collect(),
        refused: Some(field),
    }
}

fn valid() -> Value {
    json!({
        "apiVersion": "glowplug.dev/v1alpha1",
        "kind": "ComputeSpec",
        "metadata": {"name": "main"},
        "spec": {
            "tenantId": "9ef87a5bf0d92544f6fafeeb3239695c",
            "timelineId": "de200bd42b49cc1814412c7e592dd6e9",
            "mode": "Primary",
            "postgres": {"flavor": "Vanilla"},
            "storage": {
                "safekeepers": {"endpoints": ["sk-1:5454", "sk-2:5454", "sk-3:5454"]},
                "pageservers": {"shards": [{"number": 0, "libpq": "postgresql://ps-0:6400"}]},
            },
        },
    })
}

/// The valid resource with changes. A null removes the field.
fn resource(changes: &[Change]) -> Value {
    let mut resource = valid();
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = resource.pointer_mut(&format!("/spec{parent}")).unwrap();
        match parent {
            Value::Object(fields) if value.is_null() => {
                fields.remove(field);
            }
            Value::Object(fields) => {
                fields.insert(field.to_owned(), value.clone());
            }
            _ => panic!("{pointer} is not a field"),
        }
    }
    resource
}

fn identity_and_mode() -> Vec<Case> {
    vec![
        accepted([]),
        refused("spec.tenantId", [("/tenantId", Value::Null)]),
        refused("spec.tenantId", [("/tenantId", json!("9ef8"))]),
        refused(
            "spec.tenantId",
            [("/tenantId", json!("9EF87A5BF0D92544F6FAFEEB3239695C"))],
        ),
        refused("spec.tenantId", [("/tenantId", json!(9))]),
        refused("spec.timelineId", [("/timelineId", json!(""))]),
        refused("spec.mode", [("/mode", json!("Primry"))]),
        refused("spec.lsn", [("/lsn", json!("0/16B9188"))]),
        refused("spec.lsn", [("/mode", json!("Static"))]),
        accepted([("/mode", json!("Static")), ("/lsn", json!("0/16b9188"))]),
        refused(
            "spec.lsn",
            [("/mode", json!("Static")), ("/lsn", json!("0-16B9188"))],
        ),
        refused(
            "spec.lsn",
            [("/mode", json!("Static")), ("/lsn", json!("00/000"))],
        ),
        refused(
            "spec.lsn",
            [("/mode", json!("Static")), ("/lsn", json!("0/123456789"))],
        ),
        refused("spec.replicas", [("/replicas", json!(2))]),
        accepted([("/mode", Value::Null)]),
    ]
}

fn storage() -> Vec<Case> {
    let endpoints = "/storage/safekeepers/endpoints";
    let shards = "/storage/pageservers/shards";
    let shard = |number: i64| json!({"number": number, "libpq": "postgresql://ps:6400"});
    let stripe = ("/storage/pageservers/stripeSize", json!(2048));
    let grpc = ("/storage/pageservers/preferProtocol", json!("Grpc"));
    let neon = ("/postgres/flavor", json!("Neon"));
    let with_grpc = json!([{"number": 0, "grpc": "grpc://ps:51051"}]);
    vec![
        accepted([("/storage", Value::Null)]),
        refused(
            "spec.storage.safekeepers.endpoints",
            [(endpoints, json!([]))],
        ),
        accepted([(endpoints, json!([])), ("/mode", json!("Replica"))]),
        refused(
            "spec.storage.safekeepers.endpoints[1]",
            [(endpoints, json!(["a:1", "a:1"]))],
        ),
        refused(
            "spec.storage.safekeepers.endpoints[0]",
            [(endpoints, json!(["a:65536"]))],
        ),
        refused(
            "spec.storage.safekeepers.endpoints[0]",
            [(endpoints, json!(["tcp://a:1"]))],
        ),
        accepted([(endpoints, json!(["[::1]:5454", "sk_1.neon.svc.:5454"]))]),
        refused(
            "spec.storage.safekeepers.generation",
            [("/storage/safekeepers/generation", json!(0))],
        ),
        refused(
            "spec.storage.pageservers",
            [("/storage/pageservers", Value::Null)],
        ),
        refused("spec.storage.pageservers.shards", [(shards, json!([]))]),
        refused(
            "spec.storage.pageservers.stripeSize",
            [(shards, json!([shard(0), shard(1)]))],
        ),
        accepted([(shards, json!([shard(1), shard(0)])), stripe.clone()]),
        accepted([stripe.clone()]),
        refused(
            "spec.storage.pageservers.shards",
            [(shards, json!([shard(0), shard(2)])), stripe.clone()],
        ),
        refused(
            "spec.storage.pageservers.shards[1]",
            [(shards, json!([shard(0), shard(0)])), stripe],
        ),
        refused(
            "spec.storage.pageservers.shards",
            [(shards, json!([{"number": 0}]))],
        ),
        refused("spec.storage.pageservers.shards", [grpc.clone()]),
        accepted([grpc.clone(), (shards, with_grpc.clone())]),
        refused(
            "spec.storage.pageservers.shards",
            [grpc, neon, (shards, with_grpc)],
        ),
        accepted([(shards, json!([{"number": 0, "libpq": "host=ps port=6400"}]))]),
        refused(
            "spec.storage.pageservers.shards[0].libpq",
            [(shards, json!([{"number": 0, "libpq": "ps:6400"}]))],
        ),
        refused(
            "spec.storage.storageController.url",
            [("/storage/storageController", json!({"url": "storcon:1234"}))],
        ),
        accepted([(
            "/storage/storageController",
            json!({"url": "https://storcon:1234/upcall"}),
        )]),
        refused(
            "spec.storage.tokenSecretRef.key",
            [("/storage/tokenSecretRef", json!({"name": "a"}))],
        ),
        refused(
            "spec.storage.tokenSecretRef.name",
            [(
                "/storage/tokenSecretRef",
                json!({"name": "A b", "key": "k"}),
            )],
        ),
    ]
}

fn settings() -> Vec<Case> {
    let one = |name: &str, value: &str| {
        let setting = json!({"name": name, "value": value});
        ("/postgres/settings", json!([setting]))
    };
    let neon = || ("/postgres/flavor", json!("Neon"));
    let field = "spec.postgres.settings";
    vec![
        accepted([one("max_connections", "200")]),
        accepted([one("my.Own$thing", "it's")]),
        refused(
            "spec.postgres.settings[0].name",
            [one("max connections", "200")],
        ),
        refused("spec.postgres.settings[0].name", [one("1st", "200")]),
        refused("spec.postgres.settings[0].value", [one("a.b", "x\ny")]),
        refused(
            "spec.postgres.settings[0].value",
            [(
                "/postgres/settings",
                json!([{"name": "work_mem", "value": 8}]),
            )],
        ),
        refused(
            "spec.postgres.settings[0].value",
            [("/postgres/settings", json!([{"name": "work_mem"}]))],
        ),
        refused(
            "spec.postgres.settings[1]",
            [(
                "/postgres/settings",
                json!([
            {"name": "a", "value": "1"}, {"name": "a", "value": "2"}]),
            )],
        ),
        refused(field, [one("Port", "5432")]),
        refused(field, [one("hba_file", "/x")]),
        refused(field, [one("include", "x")]),
        accepted([one("fsync", "OFF ")]),
        accepted([one("fsync", "fa")]),
        refused(field, [one("fsync", "on")]),
        refused(field, [one("fsync", "o")]),
        accepted([one("fsync", "on"), neon()]),
        accepted([one("hot_standby", "y")]),
        refused(field, [one("hot_standby", "n")]),
        accepted([one("wal_level", "Logical")]),
        refused(field, [one("wal_level", "minimal")]),
        accepted([one("max_wal_senders", "2")]),
        refused(field, [one("max_wal_senders", "1")]),
        refused(field, [one("max_wal_senders", "many")]),
        refused(field, [one("max_wal_senders", "-1")]),
        accepted([one("neon.safekeepers", "a:1")]),
        refused(field, [one("neon.safekeepers", "a:1"), neon()]),
        refused("spec.postgres.port", [("/postgres/port", json!(0))]),
        refused("spec.postgres.port", [("/postgres/port", json!("5432"))]),
        refused("spec.postgres.version", [("/postgres/version", json!(13))]),
        refused(
            "spec.postgres.flavor",
            [("/postgres/flavor", json!("Plain"))],
        ),
    ]
}

fn roles() -> Vec<Case> {
    let role = |role: Value| ("/roles", json!([role]));
    let reference = json!({"name": "app", "key": "password"});
    let scram = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy";
    vec![
        accepted([role(json!({"name": "with \"quotes\" and 'others' 🐘"}))]),
        accepted([role(
            json!({"name": "app", "password": {"secretKeyRef": reference}}),
        )]),
        accepted([role(
            json!({"name": "app", "password": {"verifier": scram}}),
        )]),
        refused(
            "spec.roles[0].password",
            [role(json!({"name": "app", "password": {}}))],
        ),
        refused(
            "spec.roles[0].password",
            [role(
                json!({"name": "app", "password": {"secretKeyRef": reference, "verifier": scram}}),
            )],
        ),
        refused(
            "spec.roles[0].password.verifier",
            [role(
                json!({"name": "app", "password": {"verifier": "hunter2"}}),
            )],
        ),
        refused("spec.roles[0].name", [role(json!({"name": "pg_monitor"}))]),
        refused("spec.roles[0].name", [role(json!({"name": "public"}))]),
        refused("spec.roles[0].name", [role(json!({"name": ""}))]),
        refused(
            "spec.roles[0].name",
            [role(json!({"name": "x".repeat(64)}))],
        ),
        refused(
            "spec.roles[0].name",
            [role(json!({"name": "ä".repeat(32)}))],
        ),
        accepted([role(json!({"name": "ä".repeat(31)}))]),
        refused("spec.roles[0].name", [role(json!({"name": "a\u{0}b"}))]),
        refused(
            "spec.roles[1]",
            [("/roles", json!([{"name": "a"}, {"name": "a"}]))],
        ),
        refused(
            "spec.roles[0].memberOf[1]",
            [role(json!({"name": "a", "memberOf": ["b", "b"]}))],
        ),
        refused(
            "spec.roles[0].options[0].name",
            [role(json!({"name": "a", "options": [{"name": "a; b"}]}))],
        ),
        accepted([role(
            json!({"name": "a", "options": [{"name": "CONNECTION LIMIT", "value": "7"}]}),
        )]),
        refused(
            "spec.roles[0].options[0].type",
            [role(
                json!({"name": "a", "options": [{"name": "X", "type": "Raw"}]}),
            )],
        ),
    ]
}

fn databases_and_deltas() -> Vec<Case> {
    let database = |database: Value| ("/databases", json!([database]));
    let delta = |delta: Value| ("/deltaOperations", json!([delta]));
    vec![
        accepted([database(json!({"name": "shop", "owner": "app"}))]),
        refused(
            "spec.databases[0].owner",
            [database(json!({"name": "shop"}))],
        ),
        refused(
            "spec.databases[0].name",
            [database(json!({"name": "ä".repeat(32), "owner": "app"}))],
        ),
        refused(
            "spec.databases[1]",
            [(
                "/databases",
                json!([
            {"name": "a", "owner": "x"}, {"name": "a", "owner": "y"}]),
            )],
        ),
        accepted([delta(
            json!({"action": "RenameRole", "name": "a", "newName": "b"}),
        )]),
        refused(
            "spec.deltaOperations[0].newName",
            [delta(json!({"action": "RenameRole", "name": "a"}))],
        ),
        refused(
            "spec.deltaOperations[0].newName",
            [delta(
                json!({"action": "DeleteDatabase", "name": "a", "newName": "b"}),
            )],
        ),
        refused(
            "spec.deltaOperations[0].action",
            [delta(json!({"action": "delete_db", "name": "a"}))],
        ),
        refused("spec.removedObjects", [("/removedObjects", json!("drop"))]),
        refused(
            "spec.skipCatalogUpdates",
            [("/skipCatalogUpdates", json!("no"))],
        ),
    ]
}

fn companions() -> Vec<Case> {
    let suspend = |suspend: Value| ("/suspend", suspend);
    let cache = |cache: Value| ("/localFileCache", cache);
    vec![
        accepted([suspend(json!({"policy": "AfterIdle", "after": "1h30m"}))]),
        accepted([suspend(json!({"policy": "Never"}))]),
        refused(
            "spec.suspend.after",
            [suspend(json!({"policy": "AfterIdle"}))],
        ),
        refused(
            "spec.suspend.after",
            [suspend(json!({"policy": "Never", "after": "5m"}))],
        ),
        refused(
            "spec.suspend.after",
            [suspend(json!({"policy": "AfterIdle", "after": "0s"}))],
        ),
        refused(
            "spec.suspend.after",
            [suspend(json!({"policy": "AfterIdle", "after": ""}))],
        ),
        refused(
            "spec.suspend.after",
            [suspend(json!({"policy": "AfterIdle", "after": "5 min"}))],
        ),
        refused("spec.audit.level", [("/audit", json!({"level": "Hipaa"}))]),
        refused(
            "spec.logs.exportHost",
            [("/logs", json!({"exportHost": "log-sink"}))],
        ),
        accepted([cache(
            json!({"endpointStorage": {"address": "es:9993"}, "offloadIntervalSeconds": 60}),
        )]),
        refused(
            "spec.localFileCache.offloadIntervalSeconds",
            [cache(json!({"offloadIntervalSeconds": 0}))],
        ),
        refused("spec.features[1]", [("/features", json!(["a", "a"]))]),
        refused(
            "spec.reconfigureConcurrency",
            [("/reconfigureConcurrency", json!(0))],
        ),
        refused(
            "spec.machine.swapSizeBytes",
            [("/machine", json!({"swapSizeBytes": -1}))],
        ),
        refused(
            "spec.pgbouncer.settings[0].name",
            [(
                "/pgbouncer",
                json!({"settings": [{"name": "a b", "value": "1"}]}),
            )],
        ),
        accepted([(
            "/pod",
            json!({"image": "x", "resources": {"limits": {"cpu": 1, "memory": "2Gi"}}}),
        )]),
        refused(
            "spec.pod.resources.limits.cpu",
            [("/pod", json!({"resources": {"limits": {"cpu": "many"}}}))],
        ),
        refused(
            "spec.pod.resources.requests",
            [("/pod", json!({"resources": {"requests": 1}}))],
        ),
    ]
}

/// Asks the API server whether it would take the object, without leaving it there.
async fn server_check(namespace: &Namespace<'_>, resource: &Value) -> Result<(), String> {
    let uri = format!(
        "/apis/glowplug.dev/v1alpha1/namespaces/{}/computespecs?dryRun=All&fieldValidation=Strict",
        namespace.name
    );
    let request = axum::http::Request::post(uri)
        .header("content-type", "application/json")
        .body(resource.to_string().into_bytes())
        .unwrap();
    let answer = namespace.client.request::<Value>(request).await;
    answer.map(|_| ()).map_err(|error| error.to_string())
}

fn local_check(resource: &Value) -> Result<ComputeSpec, Errors> {
    let secrets = |_: &str, _: &str| Ok(Secret::new("a secret"));
    parse_document(&resource.to_string(), &secrets).map(|document| document.spec.unwrap())
}

#[tokio::test]
async fn the_server_and_the_local_check_refuse_the_same() {
    let namespace = harness::shared().await.namespace("rules").await;
    let mut differences = Vec::new();
    let cases = [
        identity_and_mode(),
        storage(),
        settings(),
        roles(),
        databases_and_deltas(),
        companions(),
    ];
    for Case { changes, refused } in cases.into_iter().flatten() {
        let resource = resource(&changes);
        let server = server_check(&namespace, &resource).await;
        let local = local_check(&resource);
        let agree = match refused {
            None => server.is_ok() && local.is_ok(),
            Some(field) => {
                let names = |path: &str| path.starts_with(field);
                let local_names = |errors: &Errors| errors.iter().any(|error| names(&error.path));
                server.as_ref().is_err_and(|error| error.contains(field))
                    && local.as_ref().is_err_and(local_names)
            }
        };
        if !agree {
            let local = local.map(|_| ()).map_err(|errors| errors.to_string());
            differences.push(format!(
                "{changes:?}\n  expected: {refused:?}\n  server: {server:?}\n  local: {local:?}"
            ));
        }
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

#[tokio::test]
async fn the_server_and_the_local_check_keep_the_same_fields_unchanged() {
    let namespace = harness::shared().await.namespace("immutable").await;
    let before = resource(&[("/postgres/version", json!(15))]);
    namespace.apply(&before.to_string()).await;
    for (changes, refused) in [
        (("/mode", json!("Replica")), None),
        (("/postgres/flavor", json!("Neon")), None),
        (
            ("/tenantId", json!("00000000000000000000000000000001")),
            Some("spec.tenantId"),
        ),
        (
            ("/timelineId", json!("00000000000000000000000000000001")),
            Some("spec.timelineId"),
        ),
        (
            ("/postgres/version", json!(16)),
            Some("spec.postgres.version"),
        ),
    ] {
        let version = ("/postgres/version", json!(15));
        let after = resource(&[version, changes]);
        let apply = [
            "-n",
            &namespace.name,
            "apply",
            "--dry-run=server",
            "-f",
            "-",
        ];
        let server = namespace
            .server
            .try_kubectl(&apply, &after.to_string())
            .await;
        let (old, new) = (local_check(&before).unwrap(), local_check(&after).unwrap());
        let local = change::between(&old, &new);
        match refused {
            None => assert!(server.is_ok() && local.is_ok(), "{server:?} {local:?}"),
            Some(field) => {
                let server = server.unwrap_err();
                assert!(server.contains(field), "{server}");
                assert_eq!(local.unwrap_err().iter().next().unwrap().path, field);
            }
        }
    }
}

#[tokio::test]
async fn the_examples_are_applied_and_read_well() {
    let namespace = harness::shared().await.namespace("examples").await;
    let example = |name: &str| {
        let path = format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    };
    namespace.apply(&example("compute.yaml")).await;
    let on_neon = example("compute-on-neon.yaml").replace("namespace: shop", "");
    namespace
        .apply(&on_neon.replace("name: main\n", "name: on-neon\n"))
        .await;

    let table = namespace.kubectl(&["get", "compute"]).await;
    let header: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        header,
        ["NAME", "STATE", "READY", "REASON", "MODE", "LSN", "AGE"]
    );
    let selector = "--field-selector=spec.tenantId=9ef87a5bf0d92544f6fafeeb3239695c";
    let names = namespace
        .kubectl(&["get", "compute", selector, "-o", "name"])
        .await;
    assert_eq!(names.lines().count(), 2, "{names}");
    let all = namespace.kubectl(&["get", "glowplug", "-o", "name"]).await;
    assert!(all.contains("computespec.glowplug.dev/main"), "{all}");
}
