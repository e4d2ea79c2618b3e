//! Feeds names that nobody would choose through everything that is done with names, and
//! looks at what postgres has made of them.

use glowplug::spec::{DeltaOperation, RemovedObjects};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::postgres::Postgres;
use super::{apply, column, database, privileged, spec};

/// Pieces that have a meaning in SQL, in format strings, or in connection options.
const PIECES: &[&str] = &[
    "\"",
    "'",
    "\\",
    "$$",
    "$glowplug$",
    ";",
    "--",
    "/*",
    "*/",
    "%I",
    "%",
    "%%",
    "{}",
    " ",
    "\t",
    "\n",
    "\r",
    "E'",
    "U&'",
    "\u{1}",
    "\u{7f}",
    "é",
    "Ω",
    "🐘",
    "\u{202e}",
    "\u{feff}",
    "A",
    "a",
    "x",
    "0",
    ".",
    ",",
    "(",
    ")",
    "=",
    "select",
    "NULL",
    "public",
    "pg_",
    "user",
    "-c role=",
];

/// As many distinct names as asked for, all such that postgres can store them.
#[expect(clippy::print_stdout, reason = "a failure is replayed by its seed")]
fn names(count: usize) -> Vec<String> {
    let seed: u64 = std::env::var("GLOWPLUG_TEST_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("GLOWPLUG_TEST_SEED={seed}");
    let mut runner = TestRunner::new(Config {
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    });
    let pieces = prop::collection::vec(prop::sample::select(PIECES), 1..12);
    let mut names = std::collections::BTreeSet::new();
    while names.len() < count {
        let name: String = pieces.new_tree(&mut runner).unwrap().current().concat();
        let is_reserved = name.starts_with("pg_") || name == "public";
        if name.len() <= 60 && !is_reserved {
            names.insert(name);
        }
    }
    names.into_iter().collect()
}

#[tokio::test]
async fn any_name_survives_create_grant_alter_rename_and_drop() {
    let postgres = Postgres::start().await;
    let admin = postgres.connect("postgres").await;
    let names = names(60);
    let databases = &names[..6];
    let mut spec = spec(
        names.iter().map(|name| privileged(name, name)).collect(),
        databases.iter().map(|name| database(name, name)).collect(),
    );
    // Each is a member of the one before it, too.
    for (role, group) in spec.roles[1..].iter_mut().zip(&names) {
        role.member_of.push(group.clone());
    }
    apply(&postgres, &spec).await;
    let roles = "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' \
                 AND rolname NOT IN ('cloud_admin', 'neon_superuser') ORDER BY rolname COLLATE \"C\"";
    assert_eq!(column(&admin, roles).await, names);
    let owned = "SELECT datname FROM pg_database WHERE datname = pg_get_userbyid(datdba) \
                 ORDER BY datname COLLATE \"C\"";
    assert_eq!(column(&admin, owned).await, databases);

    // Something inside that must be given to somebody before the roles can go.
    for name in databases {
        let client = postgres.connect_as(name, name).await.unwrap();
        client
            .batch_execute("CREATE SCHEMA AUTHORIZATION CURRENT_USER; CREATE TABLE t (a int)")
            .await
            .unwrap();
    }
    for name in &names {
        spec.delta_operations.push(DeltaOperation::RenameRole {
            from: name.clone(),
            to: format!("ren{name}"),
        });
        spec.delta_operations.push(DeltaOperation::RenameDatabase {
            from: name.clone(),
            to: format!("ren{name}"),
        });
    }
    for role in &mut spec.roles {
        role.name.insert_str(0, "ren");
        role.member_of.truncate(1);
    }
    for database in &mut spec.databases {
        database.name.insert_str(0, "ren");
        database.owner.insert_str(0, "ren");
    }
    apply(&postgres, &spec).await;
    let renamed: Vec<String> = names.iter().map(|name| format!("ren{name}")).collect();
    assert_eq!(column(&admin, roles).await, renamed);

    // Roles first, so that what they own has to be given away.
    for database in &mut spec.databases {
        database.owner.clone_from(&renamed[59]);
    }
    spec.roles = vec![spec.roles[59].clone()];
    spec.delta_operations.clear();
    spec.removed_objects = RemovedObjects::Drop;
    apply(&postgres, &spec).await;
    assert_eq!(column(&admin, roles).await, renamed[59..]);
    for database in &spec.databases {
        let client = postgres.connect(&database.name).await;
        let heir = "SELECT relowner::regrole::oid = datdba FROM pg_class, pg_database \
                    WHERE relname = 't' AND datname = current_database()";
        assert_eq!(column(&client, heir).await, ["t"]);
    }
    spec.roles.clear();
    spec.databases.clear();
    apply(&postgres, &spec).await;
    assert_eq!(column(&admin, roles).await, [""; 0]);
    assert_eq!(column(&admin, owned).await, [""; 0]);
}
