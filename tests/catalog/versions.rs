//! Every version that glowplug serves takes a spec, and nothing is left to do then.

use glowplug::catalog::Applied;
use glowplug::secret::Secret;
use glowplug::spec::{ComputeSpec, Password, Role};

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
