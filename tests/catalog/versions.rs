//! Every version that glowplug serves takes a spec, and nothing is left to do then.

use glowplug::catalog::Applied;
use glowplug::secret::Secret;
use glowplug::spec::{ComputeSpec, DeltaOperation, Password, Role};

use super::postgres::Postgres;
use super::{apply, column, database, next_transaction, option, privileged, role, spec, try_apply};

fn example() -> ComputeSpec {
    let md5 = Role {
        password: Some(Password::Verifier(Secret::new(
            "b3c2f1a09d8e7f6a5b4c3d2e1f009988",
        ))),
        options: vec![
            option("VALID UNTIL", Some("2030-01-01")),
            option("NOINHERIT", None),
        ],
        ..role("md5")
    };
    spec(
        vec![privileged("app", "pencil"), md5, role("reader")],
        vec![
            database("shop", "app"),
            database("Quoted \"name\"", "reader"),
        ],
    )
}

async fn is_applied_once(major: u32) {
    let postgres = Postgres::start_major(major, &[]).await;
    let mut spec = example();
    apply(&postgres, &spec).await;
    let before = next_transaction(&postgres).await;
    assert_eq!(try_apply(&postgres, &spec).await, Applied::default());
    assert_eq!(next_transaction(&postgres).await, before);

    let client = postgres.connect("shop").await;
    let usable = "CREATE TABLE public.t (n int); INSERT INTO public.t VALUES (1)";
    let app = postgres.connect_as("app", "shop").await.unwrap();
    app.batch_execute(usable).await.unwrap();
    let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'shop'";
    assert_eq!(column(&client, owner).await, ["app"]);

    // Changes reach it, too.
    spec.databases.pop();
    spec.databases.push(database("later", "reader"));
    apply(&postgres, &spec).await;
    let later = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'later'";
    assert_eq!(column(&client, later).await, ["reader"]);
    names_and_owners_change(&postgres, spec).await;
}

/// Who may revoke what somebody else granted, and who grants memberships, differs between
/// versions.
async fn names_and_owners_change(postgres: &Postgres, mut spec: ComputeSpec) {
    const LEAVER: &str = "Leave\"r $$ '\\";
    spec.roles.push(privileged(LEAVER, "x"));
    spec.databases.push(database("left", LEAVER));
    apply(postgres, &spec).await;
    let (app, leaver) = (
        postgres.connect_as("app", "shop").await.unwrap(),
        postgres.connect_as(LEAVER, "shop").await.unwrap(),
    );
    let quoted = format!("\"{}\"", LEAVER.replace('"', "\"\""));
    app.batch_execute(&format!(
        "GRANT SELECT ON public.t TO reader WITH GRANT OPTION; \
         CREATE SCHEMA theirs; GRANT ALL ON SCHEMA theirs TO {quoted} WITH GRANT OPTION; \
         CREATE ROLE made_by_app; GRANT made_by_app TO {quoted}"
    ))
    .await
    .unwrap();
    let reader = postgres.connect_as("reader", "shop").await.unwrap();
    reader
        .batch_execute(&format!("GRANT SELECT ON public.t TO {quoted}"))
        .await
        .unwrap();
    leaver
        .batch_execute(
            "CREATE TABLE theirs.mine (n int); GRANT USAGE ON SCHEMA theirs TO reader; \
             CREATE ROLE made_by_leaver; GRANT made_by_leaver TO reader",
        )
        .await
        .unwrap();

    spec.roles.retain(|role| role.name != LEAVER);
    spec.databases.retain(|database| database.owner != LEAVER);
    for role in spec.roles.iter_mut().filter(|role| role.name == "reader") {
        "viewer".clone_into(&mut role.name);
    }
    for database in &mut spec.databases {
        if database.owner == "reader" {
            "viewer".clone_into(&mut database.owner);
        }
    }
    spec.delta_operations = vec![
        DeltaOperation::DeleteDatabase("left".to_owned()),
        DeltaOperation::DeleteRole(LEAVER.to_owned()),
        DeltaOperation::RenameRole {
            from: "reader".to_owned(),
            to: "viewer".to_owned(),
        },
    ];
    apply(postgres, &spec).await;
    let admin = postgres.connect("shop").await;
    let owner = "SELECT relowner::regrole FROM pg_class WHERE relname = 'mine'";
    assert_eq!(column(&admin, owner).await, ["app"]);
    let members = "SELECT member::regrole FROM pg_auth_members \
                   WHERE roleid = 'made_by_leaver'::regrole";
    assert_eq!(column(&admin, members).await, ["viewer"]);
    let left = "SELECT rolname FROM pg_roles WHERE rolname ~ '^(Leave|reader|viewer)'";
    assert_eq!(column(&admin, left).await, ["viewer"]);
}

#[tokio::test]
async fn postgres_14_takes_a_spec_once() {
    is_applied_once(14).await;
}

#[tokio::test]
async fn postgres_15_takes_a_spec_once() {
    is_applied_once(15).await;
}

#[tokio::test]
async fn postgres_16_takes_a_spec_once() {
    is_applied_once(16).await;
}

#[tokio::test]
async fn postgres_17_takes_a_spec_once() {
    is_applied_once(17).await;
}

#[tokio::test]
async fn postgres_18_takes_a_spec_once() {
    is_applied_once(18).await;
}
