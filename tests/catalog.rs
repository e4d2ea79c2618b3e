//! Applies specs to a real PostgreSQL and looks at its catalog.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "catalog/golden.rs"]
mod golden;
#[path = "catalog/golden_conf.rs"]
mod golden_conf;
#[path = "catalog/names.rs"]
mod names;
mod postgres;
#[path = "catalog/versions.rs"]
mod versions;

use std::time::Duration;

use glowplug::catalog::{self, Applied, ApplyOptions, CatalogTarget, DEFAULT_PRIVILEGED_ROLE};
use glowplug::secret::Secret;
use glowplug::spec::{
    ComputeMode, ComputeSpec, Database, DeltaOperation, Flavor, NeonFields, Password, PostgresSpec,
    RemovedObjects, Role, SafekeeperSet, Setting, ShardMap,
};
use postgres::Postgres;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

fn spec(roles: Vec<Role>, databases: Vec<Database>) -> ComputeSpec {
    ComputeSpec {
        tenant_id: "0d5f3f2c8f6a4e7d9b1c2a3b4c5d6e7f".parse().unwrap(),
        timeline_id: "9a8b7c6d5e4f30211203f4e5d6c7b8a9".parse().unwrap(),
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
        storage_tls: glowplug::spec::StorageTls::default(),
        roles,
        databases,
        delta_operations: Vec::new(),
        removed_objects: RemovedObjects::Keep,
        skip_catalog_updates: false,
        neon: NeonFields::default(),
    }
}

fn role(name: &str) -> Role {
    Role {
        name: name.to_owned(),
        password: None,
        member_of: Vec::new(),
        options: Vec::new(),
    }
}

fn privileged(name: &str, password: &str) -> Role {
    Role {
        password: Some(Password::Cleartext(Secret::new(password))),
        member_of: vec![DEFAULT_PRIVILEGED_ROLE.to_owned()],
        ..role(name)
    }
}

fn database(name: &str, owner: &str) -> Database {
    Database {
        name: name.to_owned(),
        owner: owner.to_owned(),
        options: Vec::new(),
    }
}

fn option(name: &str, value: Option<&str>) -> Setting {
    Setting {
        name: name.to_owned(),
        value: value.map(str::to_owned),
        is_string: true,
    }
}

fn target(postgres: &Postgres) -> CatalogTarget {
    CatalogTarget {
        connect: postgres.config(),
        privileged_role: DEFAULT_PRIVILEGED_ROLE.to_owned(),
        application_name: "glowplug".to_owned(),
    }
}

async fn try_apply(postgres: &Postgres, spec: &ComputeSpec) -> Applied {
    let (options, cancel) = (ApplyOptions::default(), CancellationToken::new());
    catalog::apply(&target(postgres), spec, &options, &cancel)
        .await
        .unwrap()
}

/// Applies `spec`, which must leave nothing to do.
async fn apply(postgres: &Postgres, spec: &ComputeSpec) -> Applied {
    let applied = try_apply(postgres, spec).await;
    assert_eq!(applied.failures, []);
    let again = try_apply(postgres, spec).await;
    assert_eq!(
        again,
        Applied {
            skipped_databases: again.skipped_databases.clone(),
            ..Applied::default()
        }
    );
    applied
}

/// The first column of every row, as text.
async fn column(client: &Client, sql: &str) -> Vec<String> {
    let rows = client.simple_query(sql).await.unwrap();
    rows.iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some(row.get(0).unwrap_or("NULL").to_owned())
            }
            _ => None,
        })
        .collect()
}

/// Changes nothing only if no transaction got an id.
async fn next_transaction(postgres: &Postgres) -> Vec<String> {
    let client = postgres.connect("postgres").await;
    column(&client, "SELECT pg_snapshot_xmax(pg_current_snapshot())").await
}

#[tokio::test]
async fn a_first_apply_makes_everything() {
    let postgres = Postgres::start().await;
    let spec = spec(
        vec![privileged("app", "pencil")],
        vec![database("shop", "app")],
    );
    apply(&postgres, &spec).await;
    let client = postgres.connect("shop").await;
    let attributes = "SELECT concat_ws(' ', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, \
         rolcanlogin, rolreplication, rolbypassrls, rolconnlimit) \
         FROM pg_roles WHERE rolname IN ('app', 'neon_superuser') ORDER BY 1";
    assert_eq!(
        column(&client, attributes).await,
        ["app f t t t t t t -1", "neon_superuser f t t t f t t -1"]
    );
    // From 16 on there is one more, and from 17 on one more privilege on tables.
    let memberships = "SELECT concat_ws(' ', m.member::regrole, m.roleid::regrole, m.admin_option) \
         FROM pg_auth_members m WHERE m.member::regrole::text IN ('app', 'neon_superuser') AND m.roleid::regrole::text <> 'pg_create_subscription' ORDER BY 1";
    assert_eq!(
        column(&client, memberships).await,
        [
            "app neon_superuser f",
            "neon_superuser pg_monitor t",
            "neon_superuser pg_read_all_data f",
            "neon_superuser pg_signal_backend t",
            "neon_superuser pg_write_all_data f",
        ]
    );
    let acl = "SELECT datacl FROM pg_database WHERE datname = 'shop'";
    assert_eq!(
        column(&client, acl).await,
        ["{=Tc/app,app=CTc/app,neon_superuser=CTc/app}"]
    );
    let defaults = "SELECT concat_ws(' ', defaclrole::regrole, defaclnamespace::regnamespace, \
         defaclobjtype, replace(defaclacl::text, 'm*', '')) FROM pg_default_acl ORDER BY 1";
    assert_eq!(
        column(&client, defaults).await,
        [
            "cloud_admin public S {neon_superuser=r*w*U*/cloud_admin}",
            "cloud_admin public r {neon_superuser=a*r*w*d*D*x*t*/cloud_admin}",
        ]
    );
    let client = postgres.connect("postgres").await;
    let checks = "SELECT id FROM public.health_check";
    assert_eq!(column(&client, checks).await, ["1"]);
}

#[tokio::test]
async fn a_second_apply_writes_nothing() {
    let postgres = Postgres::start().await;
    let mut spec = spec(
        vec![
            privileged("app", "pencil"),
            Role {
                password: Some(Password::Verifier(Secret::new(
                    "b3c2f1a09d8e7f6a5b4c3d2e1f009988",
                ))),
                options: vec![
                    option("VALID UNTIL", Some("2030-01-01")),
                    option("NOINHERIT", None),
                ],
                ..role("md5")
            },
            role("none"),
            role("nobody"),
        ],
        vec![database("shop", "app"), database("postgres", "app")],
    );
    spec.roles.remove(2);
    apply(&postgres, &spec).await;
    let before = next_transaction(&postgres).await;
    assert_eq!(try_apply(&postgres, &spec).await, Applied::default());
    assert_eq!(next_transaction(&postgres).await, before);
}

#[tokio::test]
async fn passwords_work_and_verifiers_are_kept() {
    let postgres = Postgres::start().await;
    let hba = "local all cloud_admin trust\nlocal all all scram-sha-256\n";
    std::fs::write(postgres.data().join("pg_hba.conf"), hba).unwrap();
    let client = postgres.connect("postgres").await;
    client
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    client
        .batch_execute("CREATE ROLE theirs LOGIN PASSWORD 'pässwörd'")
        .await
        .unwrap();
    let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'theirs'";
    let before = column(&client, verifier).await;

    let mut spec = spec(
        vec![
            privileged("ours", "pen\\cil' \u{a0}x"),
            Role {
                password: Some(Password::Cleartext(Secret::new("pässwörd"))),
                ..role("theirs")
            },
        ],
        Vec::new(),
    );
    apply(&postgres, &spec).await;
    assert_eq!(column(&client, verifier).await, before);
    let log_in = async |role: &str, password: &str| {
        let mut config = postgres.config();
        config.user(role).password(password);
        config.connect(tokio_postgres::NoTls).await.is_ok()
    };
    assert!(log_in("ours", "pen\\cil' \u{a0}x").await);
    assert!(log_in("theirs", "pässwörd").await);
    assert!(!log_in("ours", "pencil").await);

    spec.roles[0].password = Some(Password::Cleartext(Secret::new("another")));
    let applied = apply(&postgres, &spec).await;
    assert_eq!(applied.changes, ["alter role \"ours\": new password"]);
    assert!(log_in("ours", "another").await);
    spec.roles[0].password = None;
    apply(&postgres, &spec).await;
    assert!(!log_in("ours", "another").await);
}

#[tokio::test]
async fn no_verifier_reaches_the_servers_log() {
    let settings = [
        ("log_statement", "all"),
        ("log_min_duration_statement", "0"),
    ];
    let postgres = Postgres::start_with(&settings).await;
    let mut taken = privileged("taken", "pencil");
    taken.options = vec![option("VALID UNTIL", Some("no time at all"))];
    let spec = spec(vec![privileged("app", "pencil"), taken], Vec::new());
    let applied = try_apply(&postgres, &spec).await;
    let [failure] = applied.failures.as_slice() else {
        panic!("{applied:?}");
    };
    assert_eq!(failure.sqlstate.as_deref(), Some("22007"));
    let log = postgres.log();
    assert!(log.contains("no time at all"), "{log}");
    assert!(!log.contains("SCRAM-SHA-256"), "{log}");
    assert!(!format!("{applied:?}").contains("SCRAM-SHA-256"));
}

/// Names that have broken tools before.
const HOSTILE: &[&str] = &[
    "with space",
    "with\"quote",
    "with'apostrophe",
    "back\\slash",
    "$x$",
    "$glowplug$",
    "$$",
    "tab\there",
    "new\nline",
    "%20percent",
    "naïve-Ünïcode-данные-🐘",
    "\"quoted\"",
    "'); DROP TABLE t; --",
    "/* comment",
    "CamelCase",
    "user",
    "select",
    "a.b.c",
    " lead and trail ",
    "\u{7f}\u{1}\u{200b}",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];

#[tokio::test]
async fn hostile_names_survive_create_rename_and_drop() {
    let postgres = Postgres::start().await;
    let mut spec = spec(
        HOSTILE.iter().map(|name| privileged(name, name)).collect(),
        HOSTILE.iter().map(|name| database(name, name)).collect(),
    );
    apply(&postgres, &spec).await;
    let client = postgres.connect("postgres").await;
    let owned = "SELECT datname FROM pg_database d JOIN pg_roles r ON r.oid = datdba \
                 WHERE datname = rolname";
    let mut found = column(&client, owned).await;
    found.sort_unstable();
    let mut expected = HOSTILE.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected);

    // Everybody gets a new name that ends in the old one, if that is short enough.
    let renamed = |name: &str| format!("r{}", name.strip_suffix('x').unwrap_or(name));
    for (role, database) in spec.roles.iter_mut().zip(&mut spec.databases) {
        let (from, to) = (role.name.clone(), renamed(&role.name));
        spec.delta_operations.push(DeltaOperation::RenameRole {
            from: from.clone(),
            to: to.clone(),
        });
        spec.delta_operations.push(DeltaOperation::RenameDatabase {
            from,
            to: to.clone(),
        });
        role.name.clone_from(&to);
        database.name.clone_from(&to);
        database.owner = to;
    }
    apply(&postgres, &spec).await;
    assert_eq!(column(&client, owned).await.len(), HOSTILE.len());

    spec.roles.clear();
    spec.databases.clear();
    spec.removed_objects = RemovedObjects::Drop;
    apply(&postgres, &spec).await;
    assert_eq!(column(&client, owned).await, [""; 0]);
    let left = "SELECT count(*) FROM pg_roles WHERE rolname !~ '^pg_'";
    assert_eq!(column(&client, left).await, ["2"]);
}

#[tokio::test]
async fn impossible_names_are_refused_and_the_others_go_on() {
    let postgres = Postgres::start().await;
    let long = "ä".repeat(32);
    let spec = spec(
        ["", "a\0b", &long, "pg_mine", "public", "none", "good"]
            .map(role)
            .into(),
        ["", "a\0b", &long, "pg_mine"]
            .map(|name| database(name, "good"))
            .into(),
    );
    let applied = try_apply(&postgres, &spec).await;
    assert_eq!(applied.failures.len(), 9, "{applied:#?}");
    assert!(
        applied
            .failures
            .iter()
            .all(|failure| failure.sqlstate.is_none())
    );
    let client = postgres.connect("postgres").await;
    let made = "SELECT rolname FROM pg_roles WHERE rolname = 'good' \
                UNION ALL SELECT datname FROM pg_database WHERE datname = 'pg_mine'";
    assert_eq!(column(&client, made).await, ["good", "pg_mine"]);
}

#[tokio::test]
async fn hostile_settings_of_users_do_not_reach_glowplug() {
    let postgres = Postgres::start().await;
    let mut spec = spec(vec![privileged("app", "x")], vec![database("shop", "app")]);
    apply(&postgres, &spec).await;
    let client = postgres.connect("shop").await;
    client
        .batch_execute(
            "CREATE SCHEMA trap;
             CREATE FUNCTION trap.pg_get_userbyid(oid) RETURNS name LANGUAGE plpgsql
               AS $$ BEGIN RAISE EXCEPTION 'trapped'; END $$;
             CREATE FUNCTION trap.never(name, name) RETURNS bool LANGUAGE sql AS 'SELECT false';
             CREATE OPERATOR trap.= (LEFTARG = name, RIGHTARG = name, FUNCTION = trap.never);
             ALTER DATABASE shop SET role = 'app';
             ALTER DATABASE shop SET search_path = trap, pg_catalog;
             ALTER DATABASE shop SET default_transaction_read_only = on;
             ALTER DATABASE shop SET statement_timeout = 1;
             ALTER DATABASE shop SET standard_conforming_strings = off;
             ALTER ROLE cloud_admin SET search_path = trap, pg_catalog;
             ALTER ROLE cloud_admin SET default_transaction_read_only = on;",
        )
        .await
        .unwrap();
    // Another owner, so there is something to do inside.
    spec.roles.push(privileged("back\\slash", "x"));
    spec.databases[0].owner = "back\\slash".to_owned();
    let applied = apply(&postgres, &spec).await;
    assert_eq!(applied.changes.len(), 4, "{applied:?}");
}

#[tokio::test]
async fn what_glowplug_did_not_create_is_never_dropped() {
    let postgres = Postgres::start().await;
    let client = postgres.connect("postgres").await;
    client
        .batch_execute("CREATE ROLE theirs LOGIN")
        .await
        .unwrap();
    client
        .batch_execute("CREATE DATABASE theirs OWNER theirs")
        .await
        .unwrap();
    let mut spec = spec(
        vec![privileged("ours", "x"), privileged("theirs", "x")],
        vec![database("ours", "ours"), database("theirs", "theirs")],
    );
    apply(&postgres, &spec).await;
    spec.roles.clear();
    spec.databases.clear();
    assert_eq!(apply(&postgres, &spec).await, Applied::default());
    spec.removed_objects = RemovedObjects::Drop;
    apply(&postgres, &spec).await;
    let left = "SELECT rolname FROM pg_roles WHERE rolname IN ('ours', 'theirs') \
                UNION ALL SELECT datname FROM pg_database WHERE datname IN ('ours', 'theirs')";
    assert_eq!(column(&client, left).await, ["theirs", "theirs"]);
}

#[tokio::test]
async fn a_leaving_role_takes_nothing_with_it() {
    let postgres = Postgres::start().await;
    let mut spec = spec(
        vec![
            privileged("keeper", "x"),
            privileged("leaver", "x"),
            privileged("other", "x"),
        ],
        vec![database("shop", "keeper")],
    );
    apply(&postgres, &spec).await;
    let admin = postgres.connect("postgres").await;
    admin
        .batch_execute("CREATE TABLE in_system (a int); ALTER TABLE in_system OWNER TO leaver")
        .await
        .unwrap();
    admin
        .batch_execute("CREATE DATABASE unlisted OWNER leaver")
        .await
        .unwrap();
    admin
        .batch_execute("CREATE DATABASE untouched OWNER other")
        .await
        .unwrap();
    let unlisted = postgres.connect_as("leaver", "unlisted").await.unwrap();
    unlisted
        .batch_execute("CREATE SCHEMA s; CREATE TABLE s.t (a int)")
        .await
        .unwrap();
    let shop = postgres.connect_as("leaver", "shop").await.unwrap();
    shop.batch_execute("GRANT CREATE ON DATABASE shop TO leaver")
        .await
        .unwrap();
    let keeper = postgres.connect_as("keeper", "shop").await.unwrap();
    keeper
        .batch_execute(
            "CREATE TABLE theirs (a int, b int); CREATE SEQUENCE counter; CREATE SCHEMA closed;
             CREATE FUNCTION f(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1';
             CREATE TYPE mood AS ENUM ('good');
             GRANT ALL ON SCHEMA closed TO other WITH GRANT OPTION;
             GRANT SELECT ON theirs TO other WITH GRANT OPTION;
             GRANT INSERT (b) ON theirs TO other WITH GRANT OPTION;
             GRANT ALL ON SEQUENCE counter TO other WITH GRANT OPTION;
             GRANT ALL ON FUNCTION f(int, text) TO other WITH GRANT OPTION;
             GRANT ALL ON TYPE mood TO other WITH GRANT OPTION;
             ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO leaver;
             GRANT CONNECT ON DATABASE shop TO other WITH GRANT OPTION;",
        )
        .await
        .unwrap();
    let other = postgres.connect_as("other", "shop").await.unwrap();
    other
        .batch_execute(
            "GRANT USAGE ON SCHEMA closed TO leaver WITH GRANT OPTION;
             GRANT SELECT ON theirs TO leaver WITH GRANT OPTION;
             GRANT INSERT (b) ON theirs TO leaver;
             GRANT USAGE ON SEQUENCE counter TO leaver;
             GRANT EXECUTE ON FUNCTION f(int, text) TO leaver;
             GRANT USAGE ON TYPE mood TO leaver;
             GRANT CONNECT ON DATABASE shop TO leaver;",
        )
        .await
        .unwrap();
    shop.batch_execute(
        "CREATE SCHEMA mine CREATE TABLE t (a int); GRANT SELECT ON theirs TO other",
    )
    .await
    .unwrap();

    spec.roles.remove(1);
    spec.delta_operations = vec![DeltaOperation::DeleteRole("leaver".to_owned())];
    let applied = apply(&postgres, &spec).await;
    assert!(
        !applied
            .changes
            .iter()
            .any(|change| change.contains("untouched"))
    );
    let gone = "SELECT count(*) FROM pg_roles WHERE rolname = 'leaver'";
    assert_eq!(column(&admin, gone).await, ["0"]);
    assert!(
        shop.simple_query("SELECT 1").await.is_err(),
        "its sessions ended"
    );
    let table = "SELECT relowner::regrole FROM pg_class WHERE relname IN ('t', 'in_system')";
    assert_eq!(column(&admin, table).await, ["cloud_admin"]);
    let shop = postgres.connect("shop").await;
    assert_eq!(column(&shop, table).await, ["keeper"]);
    let owner = "SELECT datdba::regrole FROM pg_database WHERE datname = 'unlisted'";
    assert_eq!(column(&admin, owner).await, ["cloud_admin"]);
}

/// Upstream replaces that name in finished SQL, quoted names of users' roles included.
#[tokio::test]
async fn a_role_whose_name_holds_that_of_the_privileged_one_is_its_own() {
    let postgres = Postgres::start().await;
    let target = CatalogTarget {
        privileged_role: "boss".to_owned(),
        ..target(&postgres)
    };
    let mut spec = spec(
        vec![privileged("neon_superuser_app", "x"), role("keeper")],
        vec![database("shop", "keeper")],
    );
    let (options, cancel) = (ApplyOptions::default(), CancellationToken::new());
    let applied = catalog::apply(&target, &spec, &options, &cancel).await;
    assert_eq!(applied.unwrap().failures, []);
    let admin = postgres.connect("postgres").await;
    let members = "SELECT concat_ws(' ', member::regrole, roleid::regrole) FROM pg_auth_members \
                   WHERE member::regrole::text LIKE 'neon%' OR roleid::regrole::text LIKE 'neon%'";
    assert_eq!(column(&admin, members).await, ["neon_superuser_app boss"]);
    spec.roles.remove(0);
    spec.delta_operations = vec![DeltaOperation::DeleteRole("neon_superuser_app".to_owned())];
    let applied = catalog::apply(&target, &spec, &options, &cancel).await;
    assert_eq!(applied.unwrap().failures, []);
    let left = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'neon%' OR rolname = 'boss'";
    assert_eq!(column(&admin, left).await, ["boss"]);
}

#[tokio::test]
async fn databases_are_dropped_and_renamed_under_their_users() {
    let postgres = Postgres::start().await;
    let mut spec = spec(
        vec![privileged("app", "x")],
        vec![
            database("shop", "app"),
            database("old", "app"),
            database("template", "app"),
        ],
    );
    apply(&postgres, &spec).await;
    let mut users = Vec::new();
    for name in ["shop", "old", "template"] {
        users.push(postgres.connect_as("app", name).await.unwrap());
    }
    let admin = postgres.connect("postgres").await;
    admin
        .batch_execute("ALTER DATABASE template IS_TEMPLATE true")
        .await
        .unwrap();
    spec.databases = vec![database("new", "app")];
    spec.delta_operations = vec![
        DeltaOperation::DeleteDatabase("shop".to_owned()),
        DeltaOperation::DeleteDatabase("template".to_owned()),
        DeltaOperation::DeleteDatabase("never was".to_owned()),
        DeltaOperation::RenameDatabase {
            from: "old".to_owned(),
            to: "new".to_owned(),
        },
    ];
    let applied = apply(&postgres, &spec).await;
    assert_eq!(applied.changes.len(), 3, "{applied:?}");
    let names = "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1";
    assert_eq!(column(&admin, names).await, ["new", "postgres"]);
}

#[tokio::test]
async fn a_database_with_subscriptions_and_slots_is_dropped() {
    let postgres = Postgres::start_with(&[("wal_level", "logical")]).await;
    let mut spec = spec(vec![privileged("app", "x")], vec![database("shop", "app")]);
    apply(&postgres, &spec).await;
    let shop = postgres.connect("shop").await;
    shop.batch_execute(
        "CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)",
    )
    .await
    .unwrap();
    shop.batch_execute("SELECT pg_create_logical_replication_slot('slot', 'pgoutput')")
        .await
        .unwrap();
    spec.databases.clear();
    spec.removed_objects = RemovedObjects::Drop;
    apply(&postgres, &spec).await;
    let admin = postgres.connect("postgres").await;
    let left = "SELECT count(*) FROM pg_database WHERE datname = 'shop'";
    assert_eq!(column(&admin, left).await, ["0"]);
}

#[tokio::test]
async fn a_branch_drops_inherited_subscriptions_once() {
    let postgres = Postgres::start().await;
    let mut spec = spec(vec![privileged("app", "x")], vec![database("shop", "app")]);
    apply(&postgres, &spec).await;
    let shop = postgres.connect("shop").await;
    let subscribe = "CREATE SUBSCRIPTION \"s\"\"1\" CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)";
    shop.batch_execute(subscribe).await.unwrap();
    spec.neon.drop_subscriptions_before_start = true;
    apply(&postgres, &spec).await;
    let count = "SELECT count(*) FROM pg_subscription";
    assert_eq!(column(&shop, count).await, ["0"]);
    shop.batch_execute(subscribe).await.unwrap();
    apply(&postgres, &spec).await;
    assert_eq!(column(&shop, count).await, ["1"]);
    spec.timeline_id = "00000000000000000000000000000001".parse().unwrap();
    apply(&postgres, &spec).await;
    assert_eq!(column(&shop, count).await, ["0"]);
    let admin = postgres.connect("postgres").await;
    let record = "SELECT timeline_id FROM neon.drop_subscriptions_done";
    assert_eq!(column(&admin, record).await, [spec.timeline_id.to_string()]);
}

#[tokio::test]
async fn a_branch_drops_subscriptions_in_every_database_and_though_it_skips_the_rest() {
    let postgres = Postgres::start().await;
    let mut spec = spec(vec![privileged("app", "x")], vec![database("shop", "app")]);
    apply(&postgres, &spec).await;
    let subscribe =
        "CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)";
    // One database of the spec, and one that it does not know.
    for name in ["shop", "postgres"] {
        let client = postgres.connect(name).await;
        let subscribe = subscribe.replace("SUBSCRIPTION s", &format!("SUBSCRIPTION {name}"));
        client.batch_execute(&subscribe).await.unwrap();
    }
    spec.skip_catalog_updates = true;
    spec.roles.push(privileged("later", "x"));
    spec.neon.drop_subscriptions_before_start = true;
    let applied = apply(&postgres, &spec).await;
    assert_eq!(applied.changes.len(), 3, "{applied:?}");
    let admin = postgres.connect("postgres").await;
    let left = "SELECT count(*) FROM pg_subscription";
    assert_eq!(column(&admin, left).await, ["0"]);
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname = 'later'";
    assert_eq!(column(&admin, roles).await, ["0"]);
}

#[tokio::test]
async fn many_databases_are_copied_from_files_where_that_is_safe() {
    let postgres = Postgres::start().await;
    let mut databases: Vec<Database> = (0..12).map(|i| database(&format!("d{i}"), "app")).collect();
    databases[0].options = vec![option("STRATEGY", Some("wal_log"))];
    let mut spec = spec(vec![privileged("app", "x")], databases);
    let admin = postgres.connect("postgres").await;
    let applied = apply(&postgres, &spec).await;
    let copied = |change: &&String| change.contains("file_copy");
    assert_eq!(
        applied.changes.iter().filter(copied).count(),
        11,
        "{applied:?}"
    );
    let made = "SELECT count(*) FROM pg_database WHERE datdba = 'app'::regrole";
    assert_eq!(column(&admin, made).await, ["12"]);

    // A few are not worth two checkpoints.
    spec.databases.push(database("more", "app"));
    let applied = apply(&postgres, &spec).await;
    assert_eq!(
        applied.changes.iter().filter(copied).count(),
        0,
        "{applied:?}"
    );
}

#[tokio::test]
async fn connections_that_are_not_to_be_had_are_waited_for() {
    let settings = [
        ("max_connections", "12"),
        ("superuser_reserved_connections", "0"),
    ];
    let postgres = Postgres::start_with(&settings).await;
    let first = spec(
        vec![privileged("app", "x"), privileged("next", "x")],
        vec![database("a", "app"), database("b", "app")],
    );
    apply(&postgres, &first).await;
    // All but the one that observes; then there is work inside of both databases.
    let mut taken = Vec::new();
    for _ in 0..11 {
        taken.push(postgres.connect("postgres").await);
    }
    let mut second = first.clone();
    for database in &mut second.databases {
        database.owner = "next".to_owned();
    }
    let release = async {
        while !postgres.log().contains("too many clients") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        taken.clear();
    };
    let (applied, ()) = tokio::join!(try_apply(&postgres, &second), release);
    assert_eq!(applied.failures, []);
    assert_eq!(try_apply(&postgres, &second).await, Applied::default());
}

#[tokio::test]
async fn one_bad_object_does_not_hold_up_the_others() {
    let postgres = Postgres::start().await;
    let mut roles: Vec<Role> = (0..60).map(|i| privileged(&format!("r{i}"), "x")).collect();
    roles[30].options = vec![option("VALID UNTIL", Some("no time at all"))];
    roles[31].member_of = vec!["no such group".to_owned()];
    let mut databases: Vec<Database> = ["a", "b", "c"]
        .iter()
        .map(|name| database(name, "r0"))
        .collect();
    databases[0].owner = "r30".to_owned();
    databases[1].options = vec![option("TEMPLATE", Some("no such template"))];
    let spec = spec(roles, databases);
    let applied = try_apply(&postgres, &spec).await;
    let told: Vec<(&str, Option<&str>)> = applied
        .failures
        .iter()
        .map(|failure| (failure.object.as_str(), failure.sqlstate.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            ("role \"r30\"", Some("22007")),
            ("role \"r31\"", Some("42704")),
            ("database \"a\"", None),
            ("database \"b\"", Some("3D000")),
        ],
        "{:#?}",
        applied.failures
    );
    let admin = postgres.connect("postgres").await;
    let members = "SELECT count(*) FROM pg_auth_members WHERE roleid = 'neon_superuser'::regrole";
    assert_eq!(column(&admin, members).await, ["58"]);
    let made = "SELECT count(*) FROM pg_database WHERE datname = 'c' \
                AND pg_get_userbyid(datdba) = 'r0'";
    assert_eq!(column(&admin, made).await, ["1"]);
}

#[tokio::test]
async fn a_failure_inside_one_database_is_told_with_its_name() {
    let postgres = Postgres::start().await;
    let mut spec = spec(
        vec![privileged("app", "x"), privileged("next", "x")],
        vec![
            database("closed", "app"),
            database("broken", "app"),
            database("fine", "app"),
        ],
    );
    apply(&postgres, &spec).await;
    let admin = postgres.connect("postgres").await;
    admin
        .batch_execute("ALTER DATABASE closed ALLOW_CONNECTIONS false")
        .await
        .unwrap();
    let broken = postgres.connect("broken").await;
    broken
        .batch_execute("DROP EXTENSION plpgsql")
        .await
        .unwrap();
    for database in &mut spec.databases {
        database.owner = "next".to_owned();
    }
    let applied = try_apply(&postgres, &spec).await;
    assert_eq!(applied.skipped_databases, ["closed"]);
    let [failure] = applied.failures.as_slice() else {
        panic!("{applied:#?}");
    };
    assert_eq!(failure.database, "broken");
    assert_eq!(failure.sqlstate.as_deref(), Some("42704"));
    // All else is done, and only this is tried again.
    broken
        .batch_execute("CREATE EXTENSION plpgsql")
        .await
        .unwrap();
    let applied = apply(&postgres, &spec).await;
    assert_eq!(applied.changes.len(), 1, "{applied:?}");
}

#[tokio::test]
async fn a_database_left_half_dropped_is_made_again() {
    let postgres = Postgres::start().await;
    let mut spec = spec(
        vec![privileged("app", "x")],
        vec![database("shop", "app"), database("gone", "app")],
    );
    apply(&postgres, &spec).await;
    let admin = postgres.connect("postgres").await;
    // As an interrupted DROP DATABASE does.
    let interrupted = "UPDATE pg_database SET datconnlimit = -2 WHERE datname IN ('shop', 'gone')";
    admin.batch_execute(interrupted).await.unwrap();
    spec.databases.truncate(1);
    apply(&postgres, &spec).await;
    let names = "SELECT concat_ws(' ', datname, datconnlimit) FROM pg_database WHERE NOT datistemplate ORDER BY 1";
    assert_eq!(column(&admin, names).await, ["postgres -1", "shop -1"]);
}

#[tokio::test]
async fn options_are_set_and_kept_up() {
    let postgres = Postgres::start().await;
    let mut spec = spec(
        vec![Role {
            options: vec![
                option("CONNECTION LIMIT", Some("7")),
                option("VALID UNTIL", Some("2030-01-01")),
                option("NOCREATEDB", None),
            ],
            ..privileged("app", "x")
        }],
        vec![Database {
            options: vec![
                option("TEMPLATE", Some("template0")),
                option("LC_COLLATE", Some("C")),
                option("LC_CTYPE", Some("C")),
                option("CONNECTION LIMIT", Some("5")),
            ],
            ..database("shop", "app")
        }],
    );
    apply(&postgres, &spec).await;
    let admin = postgres.connect("postgres").await;
    let role = "SELECT concat_ws(' ', rolcreatedb, rolconnlimit, rolvaliduntil::date) \
                FROM pg_roles WHERE rolname = 'app'";
    assert_eq!(column(&admin, role).await, ["f 7 2030-01-01"]);
    let database = "SELECT concat_ws(' ', datcollate, datctype, datconnlimit) \
                    FROM pg_database WHERE datname = 'shop'";
    assert_eq!(column(&admin, database).await, ["C C 5"]);
    admin
        .batch_execute("ALTER ROLE app CREATEDB CONNECTION LIMIT 9 VALID UNTIL 'infinity'")
        .await
        .unwrap();
    spec.databases[0].options[3].value = Some("-1".to_owned());
    let applied = apply(&postgres, &spec).await;
    assert_eq!(applied.changes.len(), 2, "{applied:?}");
    assert_eq!(column(&admin, role).await, ["f 7 2030-01-01"]);
    assert_eq!(column(&admin, database).await, ["C C -1"]);
}

#[tokio::test]
async fn the_catalog_is_left_alone_where_it_should_be() {
    let postgres = Postgres::start().await;
    let full = spec(vec![privileged("app", "x")], vec![database("shop", "app")]);
    for spec in [
        ComputeSpec {
            skip_catalog_updates: true,
            ..full.clone()
        },
        ComputeSpec {
            mode: ComputeMode::Replica,
            ..full
        },
    ] {
        assert_eq!(try_apply(&postgres, &spec).await, Applied::default());
    }
    let admin = postgres.connect("postgres").await;
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname !~ '^pg_'";
    assert_eq!(column(&admin, roles).await, ["1"]);
}

#[tokio::test]
async fn a_preview_changes_nothing() {
    let postgres = Postgres::start().await;
    let spec = spec(vec![privileged("app", "x")], vec![database("shop", "app")]);
    let before = next_transaction(&postgres).await;
    let (options, cancel) = (ApplyOptions::default(), CancellationToken::new());
    let plan = catalog::preview(&target(&postgres), &spec, &options, &cancel)
        .await
        .unwrap();
    let text = plan.to_string();
    assert!(
        text.contains("create database \"shop\" with owner \"app\""),
        "{text}"
    );
    assert_eq!(next_transaction(&postgres).await, before);
}

#[tokio::test]
async fn migrations_stop_at_the_first_that_fails_and_go_on_next_time() {
    let postgres = Postgres::start().await;
    let spec = spec(vec![privileged("app", "x")], Vec::new());
    let admin = postgres.connect("postgres").await;
    let number = "SELECT id FROM neon_migration.migration_id";
    // Whatever upstream's runner has done is not done again.
    admin
        .batch_execute(
            "CREATE SCHEMA neon_migration;
             CREATE TABLE neon_migration.migration_id (key int4 PRIMARY KEY, id int8 NOT NULL);
             INSERT INTO neon_migration.migration_id VALUES (0, 3);
             CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN IF new.id = 11 THEN RAISE EXCEPTION 'not this one'; END IF; RETURN new; END $$;
             CREATE TRIGGER stop BEFORE UPDATE ON neon_migration.migration_id
               FOR EACH ROW EXECUTE FUNCTION stop();",
        )
        .await
        .unwrap();
    let applied = try_apply(&postgres, &spec).await;
    let objects: Vec<&str> = applied.failures.iter().map(|f| f.object.as_str()).collect();
    assert_eq!(objects, ["migration 11"], "{:#?}", applied.failures);
    assert_eq!(applied.failures[0].sqlstate.as_deref(), Some("P0001"));
    assert_eq!(column(&admin, number).await, ["10"]);
    admin
        .batch_execute("DROP FUNCTION stop CASCADE")
        .await
        .unwrap();
    apply(&postgres, &spec).await;
    assert_eq!(column(&admin, number).await, ["12"]);
}

#[tokio::test]
async fn waiting_for_a_lock_has_an_end() {
    let postgres = Postgres::start().await;
    let mut spec = spec(vec![privileged("app", "x")], vec![database("shop", "app")]);
    apply(&postgres, &spec).await;
    let holder = postgres.connect("postgres").await;
    spec.roles.push(privileged("next", "x"));
    let apply = async |options: &ApplyOptions, cancel: &CancellationToken| {
        catalog::apply(&target(&postgres), &spec, options, cancel).await
    };
    // The strongest lock under which sessions can still start.
    let lock_roles = "BEGIN; LOCK TABLE pg_catalog.pg_authid IN SHARE MODE";
    holder.batch_execute(lock_roles).await.unwrap();
    let hasty = ApplyOptions {
        lock_timeout: Duration::from_millis(50),
        ..ApplyOptions::default()
    };
    let applied = apply(&hasty, &CancellationToken::new()).await.unwrap();
    assert_eq!(applied.failures[0].sqlstate.as_deref(), Some("55P03"));

    let short = ApplyOptions {
        deadline: Duration::from_secs(1),
        ..ApplyOptions::default()
    };
    let late = apply(&short, &CancellationToken::new()).await.unwrap_err();
    assert!(
        matches!(late, catalog::Error::Deadline { done: 0, .. }),
        "{late:?}"
    );

    let cancel = CancellationToken::new();
    let canceller = async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        let watcher = postgres.connect("postgres").await;
        while column(&watcher, waiting).await == ["0"] {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let options = ApplyOptions::default();
    let (cancelled, ()) = tokio::join!(apply(&options, &cancel), canceller);
    assert!(
        matches!(cancelled, Err(catalog::Error::Cancelled)),
        "{cancelled:?}"
    );
    holder.batch_execute("COMMIT").await.unwrap();
    // Nothing that was given up on went on by itself.
    let made = "SELECT count(*) FROM pg_roles WHERE rolname = 'next'";
    assert_eq!(column(&holder, made).await, ["0"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_so() {
    let nowhere = tempfile::tempdir().unwrap();
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(nowhere.path())
        .user("cloud_admin")
        .dbname("postgres");
    let target = CatalogTarget {
        connect: config,
        privileged_role: DEFAULT_PRIVILEGED_ROLE.to_owned(),
        application_name: "glowplug".to_owned(),
    };
    let spec = spec(Vec::new(), Vec::new());
    let (options, cancel) = (ApplyOptions::default(), CancellationToken::new());
    let error = catalog::apply(&target, &spec, &options, &cancel)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "cannot connect to database \"postgres\"");
}
