//! The rules of planning, on catalogs in memory.

mod model;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::change::{Change, PasswordChange};
use super::desired::{Desired, Verifiers};
use super::observed::{INVALID, Membership, Observed, ObservedDatabase, ObservedRole};
use super::role_options::{Flag, Flags};
use super::{LAST_MIGRATION, Plan, plan};
use crate::catalog::password::settle;
use crate::secret::Secret;
use crate::spec::{
    AuditLevel, ComputeMode, ComputeSpec, Database, DeltaOperation, Flavor, NeonFields,
    PRIVILEGED_ROLE, Password, PostgresSpec, RemovedObjects, Role, SafekeeperSet, Setting,
    ShardMap,
};

const SUPERUSER: &str = "cloud_admin";
const SCRAM: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$T7Tc6qF5VuMbHI0XnYWNcQn3ZBBz1yhqKt0qcB8nVxQ=:ZoQ4B8H7+zr8Xw4vZ3mJ1bq2cCkSYx3w0G9t7nG3M0E=";
const MD5: &str = "md5b3c2f1a09d8e7f6a5b4c3d2e1f009988";

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
        storage_tls: crate::spec::StorageTls::default(),
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
        password: Some(Password::Verifier(Secret::new(SCRAM))),
        member_of: vec![PRIVILEGED_ROLE.to_owned()],
        options: Vec::new(),
    }
}

fn database(name: &str, owner: &str) -> Database {
    Database {
        name: name.to_owned(),
        owner: owner.to_owned(),
        options: Vec::new(),
    }
}

fn setting(name: &str, value: &str) -> Setting {
    Setting {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        is_string: false,
    }
}

fn desired(spec: &ComputeSpec) -> Desired {
    let verifiers: Verifiers = spec
        .roles
        .iter()
        .rev()
        .filter_map(|role| {
            let password = role.password.as_ref()?;
            Some((
                role.name.clone(),
                settle(&role.name, password, None, [7; 16]),
            ))
        })
        .collect();
    Desired::new(spec, PRIVILEGED_ROLE, &verifiers)
}

fn plan_for(observed: &Observed, spec: &ComputeSpec) -> Plan {
    plan(observed, &desired(spec))
}

/// The catalog after `spec` was applied to a fresh cluster.
fn applied(spec: &ComputeSpec) -> Observed {
    let mut observed = Observed::fresh(SUPERUSER, 15);
    let plan = plan_for(&observed, spec);
    model::carry_out(&mut observed, &plan);
    observed
}

fn changes(plan: &Plan) -> Vec<String> {
    plan.steps
        .iter()
        .map(|step| format!("{:#}", step.change))
        .collect()
}

fn refusals(plan: &Plan) -> Vec<String> {
    let line =
        |refusal: &super::desired::Refusal| format!("{}: {}", refusal.object, refusal.reason);
    plan.refusals.iter().map(line).collect()
}

#[test]
fn a_plan_reads_well_and_shows_no_password() {
    let mut spec = spec(
        vec![
            Role {
                password: Some(Password::Cleartext(Secret::new("hunter2"))),
                options: vec![
                    setting("connection limit", "7"),
                    setting("valid until", "'2030-01-01'"),
                ],
                ..role("app")
            },
            Role {
                password: None,
                member_of: Vec::new(),
                ..role("reader\n\"x\"")
            },
            role("pg_app"),
        ],
        vec![
            Database {
                options: vec![
                    setting("TEMPLATE", "template0"),
                    setting("is_template", "yes"),
                ],
                ..database("shop", "app")
            },
            database("closed", "app"),
        ],
    );
    spec.delta_operations = vec![
        DeltaOperation::RenameRole {
            from: "old".to_owned(),
            to: "app".to_owned(),
        },
        DeltaOperation::DeleteRole("leaver".to_owned()),
        DeltaOperation::DeleteRole(SUPERUSER.to_owned()),
        DeltaOperation::DeleteDatabase("gone".to_owned()),
    ];
    let mut observed = Observed::fresh(SUPERUSER, 15);
    let owned = |owner: &str, allows_connections| ObservedDatabase {
        owner: Some(owner.to_owned()),
        allows_connections,
        ..observed.databases["postgres"].clone()
    };
    let databases = [
        ("closed", owned("old", false)),
        ("gone", owned("old", true)),
        ("kept", owned("leaver", true)),
    ];
    observed
        .databases
        .extend(databases.map(|(name, database)| (name.to_owned(), database)));
    let stored = ObservedRole {
        flags: Flags::of(&[Flag::Login, Flag::Inherit]),
        verifier: Some(Secret::new(MD5)),
        ..observed.roles[SUPERUSER].clone()
    };
    observed.roles.insert("old".to_owned(), stored.clone());
    observed.roles.insert("leaver".to_owned(), stored);
    let places = BTreeSet::from([None, Some("kept".to_owned()), Some("gone".to_owned())]);
    observed.dependencies.insert("leaver".to_owned(), places);
    let plan = plan_for(&observed, &spec);
    insta::assert_snapshot!(plan.to_string());
    for secret in ["hunter2", "SCRAM", "md5"] {
        assert!(!plan.to_string().contains(secret));
        assert!(!format!("{plan:?}").contains(secret));
    }
}

#[test]
fn nothing_to_do_reads_so() {
    let spec = spec(vec![role("app")], vec![database("shop", "app")]);
    let plan = plan_for(&applied(&spec), &spec);
    assert_eq!(plan.to_string(), "nothing to change\n");
}

#[test]
fn only_the_role_whose_password_changed_is_altered() {
    let mut spec = spec(vec![role("a"), role("b"), role("c")], Vec::new());
    let observed = applied(&spec);
    spec.roles[1].password = Some(Password::Verifier(Secret::new(&MD5[3..])));
    let plan = plan_for(&observed, &spec);
    assert_eq!(changes(&plan), ["alter role \"b\""]);
    // Stored with its prefix, and compared with it.
    let mut changed = observed.clone();
    model::carry_out(&mut changed, &plan);
    assert!(plan_for(&changed, &spec).is_empty());
    spec.roles[1].password = None;
    let plan = plan_for(&changed, &spec);
    let Change::AlterRole { with, .. } = &plan.steps[0].change else {
        panic!("{plan}");
    };
    assert_eq!(with.password, Some(PasswordChange::Clear));
}

#[test]
fn what_the_spec_does_not_state_stays_as_users_made_it() {
    let spec = spec(vec![role("app")], vec![database("shop", "app")]);
    let mut observed = applied(&spec);
    let app = observed.roles.get_mut("app").unwrap();
    app.flags = app.flags.with(Flag::CreateDb, false);
    app.connection_limit = 3;
    observed.databases.get_mut("shop").unwrap().connection_limit = 3;
    assert_eq!(changes(&plan_for(&observed, &spec)), [""; 0]);
}

#[test]
fn what_the_spec_states_is_restored() {
    let mut spec = spec(vec![role("app")], vec![database("shop", "app")]);
    spec.roles[0].options = vec![
        setting("NOCREATEDB", "true"),
        setting("connection limit", "5"),
        setting("valid until", "tomorrow"),
    ];
    spec.databases[0].options = vec![setting("connection limit", "9")];
    let mut observed = applied(&spec);
    assert!(plan_for(&observed, &spec).is_empty());
    let app = observed.roles.get_mut("app").unwrap();
    app.flags = app
        .flags
        .with(Flag::CreateDb, true)
        .with(Flag::Login, false);
    app.connection_limit = 3;
    observed.memberships.remove("app");
    let shop = observed.databases.get_mut("shop").unwrap();
    shop.connection_limit = -1;
    shop.owner = Some(SUPERUSER.to_owned());
    shop.is_granted = false;
    let privileged = observed.roles.get_mut(PRIVILEGED_ROLE).unwrap();
    privileged.flags = privileged.flags.with(Flag::BypassRls, false);
    let plan = plan_for(&observed, &spec);
    insta::assert_snapshot!(plan.to_string());
}

#[test]
fn a_renamed_role_keeps_its_scram_verifier_and_loses_its_md5_one() {
    for (stored, expected) in [(SCRAM, 1), (MD5, 2)] {
        let before = spec(
            vec![Role {
                password: Some(Password::Verifier(Secret::new(stored))),
                ..role("old")
            }],
            vec![database("shop", "old")],
        );
        let mut after = before.clone();
        after.roles[0].name = "new".to_owned();
        after.databases[0].owner = "new".to_owned();
        after.delta_operations = vec![DeltaOperation::RenameRole {
            from: "old".to_owned(),
            to: "new".to_owned(),
        }];
        let mut observed = applied(&before);
        let plan = plan_for(&observed, &after);
        // The fingerprint of the database's inside has its owner's name in it.
        assert_eq!(plan.steps.len(), expected + 1, "{plan}");
        model::carry_out(&mut observed, &plan);
        // A control plane sends its delta operations again and again.
        assert!(plan_for(&observed, &after).is_empty());
    }
}

#[test]
fn renames_onto_names_in_use_are_refused() {
    let mut spec = spec(
        vec![role("a"), role("b")],
        vec![database("x", "a"), database("y", "a")],
    );
    let observed = applied(&spec);
    spec.delta_operations = vec![
        DeltaOperation::RenameRole {
            from: "a".to_owned(),
            to: "b".to_owned(),
        },
        DeltaOperation::RenameDatabase {
            from: "x".to_owned(),
            to: "y".to_owned(),
        },
        DeltaOperation::RenameDatabase {
            from: "postgres".to_owned(),
            to: "z".to_owned(),
        },
        DeltaOperation::RenameRole {
            from: "a".to_owned(),
            to: "pg_a".to_owned(),
        },
    ];
    let plan = plan_for(&observed, &spec);
    assert!(plan.is_empty());
    insta::assert_snapshot!(refusals(&plan).join("\n"));
}

#[test]
fn only_managed_objects_leave_with_the_spec_and_only_if_it_says_so() {
    let full = spec(
        vec![role("a"), role("b")],
        vec![database("x", "a"), database("y", "b")],
    );
    let mut observed = applied(&full);
    observed.roles.get_mut("b").unwrap().managed = false;
    observed.databases.get_mut("y").unwrap().managed = false;
    let mut empty = spec(Vec::new(), Vec::new());
    assert!(plan_for(&observed, &empty).is_empty());
    empty.removed_objects = RemovedObjects::Drop;
    let plan = plan_for(&observed, &empty);
    assert_eq!(
        changes(&plan),
        [
            "end the sessions of role \"a\", and let it start no more",
            "drop database \"x\", ending the sessions in it",
            "drop role \"a\"",
        ]
    );
}

#[test]
fn a_listed_object_that_cannot_be_had_is_not_taken_for_a_removed_one() {
    let mut spec = spec(vec![role("a")], vec![database("x", "a")]);
    spec.removed_objects = RemovedObjects::Drop;
    let observed = applied(&spec);
    spec.roles[0].options = vec![setting("NOSENSE", "1")];
    spec.databases[0].options = vec![setting("NOSENSE", "1")];
    let plan = plan_for(&observed, &spec);
    assert_eq!(changes(&plan), [""; 0]);
    assert_eq!(plan.refusals.len(), 2);
}

#[test]
fn memberships_that_users_granted_stay() {
    let mut spec = spec(vec![role("a")], Vec::new());
    spec.removed_objects = RemovedObjects::Drop;
    let mut observed = applied(&spec);
    let memberships = observed.memberships.get_mut("a").unwrap();
    for (group, by_superuser) in [("pg_monitor", true), ("pg_read_all_data", false)] {
        memberships.push(Membership {
            role: group.to_owned(),
            by_superuser,
        });
    }
    let plan = plan_for(&observed, &spec);
    assert_eq!(
        changes(&plan),
        ["end the membership of role \"a\" in \"pg_monitor\""]
    );
}

#[test]
fn what_the_spec_lists_and_deletes_stays() {
    let mut spec = spec(vec![role("a")], vec![database("x", "a")]);
    let observed = applied(&spec);
    spec.delta_operations = vec![
        DeltaOperation::DeleteDatabase("x".to_owned()),
        DeltaOperation::DeleteRole("a".to_owned()),
        DeltaOperation::DeleteDatabase("template1".to_owned()),
        DeltaOperation::DeleteRole(PRIVILEGED_ROLE.to_owned()),
        DeltaOperation::DeleteRole("never was".to_owned()),
    ];
    let plan = plan_for(&observed, &spec);
    assert!(plan.is_empty());
    insta::assert_snapshot!(refusals(&plan).join("\n"));
}

#[test]
fn an_owner_of_a_listed_database_does_not_leave() {
    let before = spec(vec![role("a")], vec![database("x", "a")]);
    let observed = applied(&before);
    let mut after = spec(Vec::new(), vec![database("x", "a")]);
    after.delta_operations = vec![DeltaOperation::DeleteRole("a".to_owned())];
    let plan = plan_for(&observed, &after);
    assert!(plan.is_empty());
    assert_eq!(
        refusals(&plan),
        ["role \"a\": it cannot be dropped: the spec says that it owns database \"x\""]
    );
}

#[test]
fn a_database_left_half_dropped_is_made_again_if_it_is_wanted() {
    let mut spec = spec(
        vec![role("a")],
        vec![database("x", "a"), database("y", "a")],
    );
    let mut observed = applied(&spec);
    for name in ["x", "y"] {
        observed.databases.get_mut(name).unwrap().connection_limit = INVALID;
    }
    spec.databases.truncate(1);
    let plan = plan_for(&observed, &spec);
    assert_eq!(
        changes(&plan),
        [
            "drop database \"x\", left half dropped",
            "drop database \"y\", left half dropped",
            "create database \"x\" with owner \"a\"",
            "grant all privileges on database \"x\" to \"neon_superuser\"",
            "give schema public to \"a\", and coming tables and sequences in it to \
             \"neon_superuser\" as well",
        ]
    );
}

#[test]
fn two_entries_of_one_name_count_once() {
    let mut spec = spec(vec![role("a"), role("a"), role("b")], Vec::new());
    assert_eq!(refusals(&plan_for(&applied(&spec), &spec)), [""; 0]);
    spec.roles[1].password = None;
    let plan = plan_for(&applied(&spec), &spec);
    assert!(plan.is_empty());
    assert_eq!(
        refusals(&plan),
        ["role \"a\": the spec lists it twice, differently; the first entry is used"]
    );
}

#[test]
fn the_privileged_role_may_have_another_name() {
    let spec = spec(vec![role("app")], Vec::new());
    let verifiers: Verifiers = BTreeMap::from([(
        "app".to_owned(),
        settle(
            "app",
            spec.roles[0].password.as_ref().unwrap(),
            None,
            [7; 16],
        ),
    )]);
    let desired = Desired::new(&spec, "my_superuser", &verifiers);
    let plan = plan(&Observed::fresh(SUPERUSER, 16), &desired);
    assert!(changes(&plan).contains(&"make role \"app\" a member of \"my_superuser\"".to_owned()));
    assert!(!plan.to_string().contains("neon_superuser"));
}

#[test]
fn subscriptions_are_dropped_once_on_a_timeline() {
    let mut spec = spec(vec![role("a")], vec![database("x", "a")]);
    let mut observed = applied(&spec);
    observed.databases.get_mut("x").unwrap().has_subscriptions = true;
    spec.neon.drop_subscriptions_before_start = true;
    let plan = plan_for(&observed, &spec);
    assert_eq!(plan.steps.len(), 2, "{plan}");
    model::carry_out(&mut observed, &plan);
    observed.databases.get_mut("x").unwrap().has_subscriptions = true;
    assert!(plan_for(&observed, &spec).is_empty());
    observed.system.subscriptions_dropped_on = Some("another".to_owned());
    assert_eq!(plan_for(&observed, &spec).steps.len(), 2);
}

#[test]
fn migrations_go_on_where_another_program_stopped() {
    let spec = spec(Vec::new(), Vec::new());
    let mut observed = applied(&spec);
    assert_eq!(observed.system.migration, Some(i64::from(LAST_MIGRATION)));
    // What compute_ctl leaves behind has no note.
    for (done, expected) in [(12, 1), (10, 3), (99, 1), (0, 13)] {
        observed.system.migrations_noted = 0;
        observed.system.migration = Some(done);
        let plan = plan_for(&observed, &spec);
        assert_eq!(plan.steps.len(), expected, "{plan}");
    }
}

#[test]
fn extensions_are_made_moved_and_updated_as_the_spec_asks() {
    let mut spec = spec(Vec::new(), Vec::new());
    let mut observed = applied(&spec);
    observed.preload_libraries = vec!["pg_stat_statements".to_owned()];
    observed.system.neon_available = Some("1.6".to_owned());
    let installed = super::observed::InstalledExtension {
        version: "1.5".to_owned(),
        schema: "public".to_owned(),
    };
    observed
        .system
        .extensions
        .insert("neon".to_owned(), installed);
    spec.neon.audit_log_level = AuditLevel::Full;
    // Only Neon's postgres has an extension of this name that is what it seems.
    assert!(!plan_for(&observed, &spec).to_string().contains("neon"));
    spec.postgres.flavor = Flavor::Neon;
    assert_eq!(
        changes(&plan_for(&observed, &spec)),
        [
            "create extension \"pg_stat_statements\" in schema \"public\"",
            "move extension \"neon\" to schema \"neon\"",
            "update extension \"neon\"",
            "create extension \"pgaudit\" in schema \"public\"",
            "create extension \"pgauditlogtofile\" in schema \"public\"",
            "keep statements in database \"postgres\" out of the audit log",
        ]
    );
}

/// A few names, so that specs and catalogs are often about the same ones.
fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "a",
        "b",
        "c",
        "web_access",
        PRIVILEGED_ROLE,
        SUPERUSER,
    ])
    .prop_map(str::to_owned)
}

fn any_role() -> impl Strategy<Value = Role> {
    let password = prop::sample::select(vec![
        None,
        Some(Password::Verifier(Secret::new(MD5))),
        Some(Password::Verifier(Secret::new(SCRAM))),
        Some(Password::Verifier(Secret::new("nonsense"))),
    ]);
    let option = prop::sample::select(vec![
        setting("CREATEDB", "false"),
        setting("LOGIN", "false"),
        setting("connection limit", "3"),
        setting("valid until", "2030-01-01"),
        setting("nosense", "1"),
    ]);
    let (groups, options) = (
        prop::collection::vec(name(), 0..2),
        prop::collection::vec(option, 0..2),
    );
    (name(), password, groups, options).prop_map(|(name, password, member_of, options)| Role {
        // Postgres refuses circles of memberships; which of them it refuses is no plan's
        // business.
        member_of: member_of
            .into_iter()
            .filter(|group| *group > name)
            .collect(),
        name,
        password,
        options,
    })
}

fn any_database() -> impl Strategy<Value = Database> {
    let option = prop::sample::select(vec![
        setting("connection limit", "3"),
        setting("allow_connections", "false"),
        setting("template", "template0"),
    ]);
    let names = prop::sample::select(vec!["x", "y", "z", "postgres", "template1"]);
    (names, name(), prop::collection::vec(option, 0..2)).prop_map(|(name, owner, options)| {
        Database {
            name: name.to_owned(),
            owner,
            options,
        }
    })
}

fn any_delta() -> impl Strategy<Value = DeltaOperation> {
    let database = || prop::sample::select(vec!["x", "y", "z", "w"]).prop_map(str::to_owned);
    prop_oneof![
        name().prop_map(DeltaOperation::DeleteRole),
        database().prop_map(DeltaOperation::DeleteDatabase),
        (name(), name()).prop_map(|(from, to)| DeltaOperation::RenameRole { from, to }),
        (database(), database()).prop_map(|(from, to)| DeltaOperation::RenameDatabase { from, to }),
    ]
}

fn any_spec() -> impl Strategy<Value = ComputeSpec> {
    (
        prop::collection::vec(any_role(), 0..5),
        prop::collection::vec(any_database(), 0..4),
        prop::collection::vec(any_delta(), 0..3),
        any::<(bool, bool)>(),
    )
        .prop_map(|(roles, databases, deltas, (drop, subscriptions))| {
            let mut spec = spec(roles, databases);
            // Roles that do not exist are postgres' to refuse.
            let known: BTreeSet<String> = desired(&spec)
                .roles
                .into_iter()
                .map(|role| role.name)
                .collect();
            let known = |role: &String| {
                known.contains(role) || role == SUPERUSER || role == PRIVILEGED_ROLE
            };
            for role in &mut spec.roles {
                role.member_of.retain(known);
            }
            for database in &mut spec.databases {
                if !known(&database.owner) {
                    database.owner = SUPERUSER.to_owned();
                }
            }
            spec.delta_operations = deltas;
            spec.neon.drop_subscriptions_before_start = subscriptions;
            spec.removed_objects = if drop {
                RemovedObjects::Drop
            } else {
                RemovedObjects::Keep
            };
            spec
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_carried_out_plan_leaves_nothing_to_do(before in any_spec(), after in any_spec()) {
        let mut observed = applied(&before);
        observed.dependencies = model::dependencies(&observed);
        let plan = plan_for(&observed, &after);
        model::carry_out(&mut observed, &plan);
        // Delta operations are about what was, not about what should be.
        let settled = ComputeSpec { delta_operations: Vec::new(), ..after };
        let again = plan_for(&observed, &settled);
        prop_assert!(again.is_empty(), "first:\n{}second:\n{}", plan, again);
    }

    #[test]
    fn planning_twice_gives_the_same_plan(before in any_spec(), after in any_spec()) {
        let observed = applied(&before);
        prop_assert_eq!(plan_for(&observed, &after), plan_for(&observed, &after));
    }
}
