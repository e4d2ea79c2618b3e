//! Writes changes as SQL. Pure.
//!
//! Every name is schema-qualified or found in `pg_catalog`, to which sessions pin their
//! `search_path`; every value is quoted by [`quote`](super::quote).

mod inside;

use inside::{drop_subscriptions, prepare_public, release_role};

use super::plan::change::{Change, PasswordChange, RoleChange};
use super::plan::database_options::{CreationValue, DatabaseChange, DatabaseOptions};
use super::quote::{ident, literal};

/// Marks roles and databases that glowplug created. Kept among their settings, in
/// `pg_db_role_setting`, where one query finds them all.
pub(super) const MANAGED: &str = "glowplug.managed";
/// What was last done inside a database. Kept among its settings.
pub(super) const PREPARED: &str = "glowplug.applied";

/// The last migration that was carried out. Kept among the settings of the database in
/// which migrations are counted.
pub(super) const MIGRATED: &str = "glowplug.migrated";

/// How to carry out a change. Its statements may hold verifiers, so it cannot be printed.
pub(super) struct Script {
    /// Its statements.
    pub(super) statements: Vec<String>,
    /// Whether they may share a transaction with each other and with other changes.
    pub(super) in_transaction: bool,
    /// Whether the first one makes way for the others, so that a further attempt begins
    /// with it rather than with the one that failed.
    pub(super) evicts: bool,
}

impl Script {
    fn together<const N: usize>(statements: [String; N]) -> Self {
        Self {
            statements: statements.into(),
            in_transaction: true,
            evicts: false,
        }
    }

    fn apart(statements: Vec<String>) -> Self {
        Self {
            statements,
            in_transaction: false,
            evicts: false,
        }
    }
}

/// The SQL of a change.
pub(super) fn script(change: &Change) -> Script {
    match change {
        Change::CreatePrivilegedRole { name } => Script::together([format!(
            "CREATE ROLE {} CREATEDB CREATEROLE NOLOGIN REPLICATION BYPASSRLS \
             IN ROLE pg_read_all_data, pg_write_all_data",
            ident(name)
        )]),
        Change::RenameRole { from, to } => Script::together([format!(
            "ALTER ROLE {} RENAME TO {}",
            ident(from),
            ident(to)
        )]),
        Change::LockOutRole { name } => lock_out_role(name),
        Change::CreateRole { name, with } => Script::together([
            format!("CREATE ROLE {}{}", ident(name), role_options(with)),
            format!("ALTER ROLE {} SET {MANAGED} = 'true'", ident(name)),
        ]),
        Change::AlterRole { name, with } => {
            Script::together([format!("ALTER ROLE {}{}", ident(name), role_options(with))])
        }
        Change::GrantRole { role, to } => {
            Script::together([format!("GRANT {} TO {}", ident(role), ident(to))])
        }
        Change::RevokeRole { role, from } => {
            Script::together([format!("REVOKE {} FROM {}", ident(role), ident(from))])
        }
        Change::ReleaseRole { name, heir, .. } => release_role(name, heir),
        Change::DropRole { name } => {
            Script::together([format!("DROP ROLE IF EXISTS {}", ident(name))])
        }
        Change::DropInvalidDatabase { name } => {
            Script::apart(vec![format!("DROP DATABASE IF EXISTS {}", ident(name))])
        }
        Change::DropSubscriptions { .. } => Script::together([drop_subscriptions()]),
        Change::DropDatabase { name, is_template } => drop_database(name, *is_template),
        Change::RenameDatabase { from, to } => rename_database(from, to),
        // The session is all that it takes.
        Change::WarmTemplate { .. } => Script::together([]),
        Change::CreateDatabase {
            name,
            owner,
            options,
        } => Script::apart(vec![
            create_database(name, owner, options),
            format!("ALTER DATABASE {} SET {MANAGED} = 'true'", ident(name)),
        ]),
        Change::ChangeOwner { database, owner } => Script::together([format!(
            "ALTER DATABASE {} OWNER TO {}",
            ident(database),
            ident(owner)
        )]),
        Change::AlterDatabase { name, with } => Script::together([format!(
            "ALTER DATABASE {} WITH{}",
            ident(name),
            database_options(with)
        )]),
        Change::GrantDatabase { database, to } => Script::together([format!(
            "GRANT ALL PRIVILEGES ON DATABASE {} TO {}",
            ident(database),
            ident(to)
        )]),
        Change::PrepareDatabase {
            database,
            owner,
            privileged_role,
            creator,
            fingerprint,
        } => Script::together([
            prepare_public(owner, privileged_role, creator.as_deref()),
            format!(
                "ALTER DATABASE {} SET {PREPARED} = {}",
                ident(database),
                literal(fingerprint)
            ),
        ]),
        Change::CreateExtension { name, schema } => Script::together([
            format!("CREATE SCHEMA IF NOT EXISTS {}", ident(schema)),
            format!(
                "CREATE EXTENSION IF NOT EXISTS {} WITH SCHEMA {}",
                ident(name),
                ident(schema)
            ),
        ]),
        Change::MoveExtension { name, schema } => move_extension(name, schema),
        Change::ExemptFromAudit { database } => Script::together([format!(
            "ALTER DATABASE {} SET pgaudit.log = 'none'",
            ident(database)
        )]),
        Change::PrepareMigrations => prepare_migrations(),
        Change::Migrate { number, sql } => migrate(*number, sql.as_deref()),
        Change::NoteMigrations { database, last } => Script::together([format!(
            "ALTER DATABASE {} SET {MIGRATED} = '{last}'",
            ident(database)
        )]),
        Change::UpdateExtension { name } => {
            Script::together([format!("ALTER EXTENSION {} UPDATE", ident(name))])
        }
        Change::CreateHealthCheck => create_health_check(),
        Change::RecordSubscriptionsDropped { timeline, .. } => record_subscriptions(timeline),
    }
}

fn role_options(with: &RoleChange) -> String {
    let flags = with.flags.iter().map(|(flag, on)| {
        let no = if *on { "" } else { "NO" };
        format!(" {no}{}", flag.word())
    });
    let limit = with
        .connection_limit
        .map(|limit| format!(" CONNECTION LIMIT {limit}"));
    let until = with.valid_until.as_ref();
    let until = until.map(|until| format!(" VALID UNTIL {}", literal(&until.text)));
    let password = with.password.as_ref().map(|password| match password {
        PasswordChange::Clear => " PASSWORD NULL".to_owned(),
        PasswordChange::Set(verifier) => format!(" PASSWORD {}", literal(verifier.reveal())),
    });
    flags.chain(limit).chain(until).chain(password).collect()
}

fn create_database(name: &str, owner: &str, options: &DatabaseOptions) -> String {
    let at_creation = options.at_creation.iter().map(|(word, value)| match value {
        CreationValue::Text(text) => format!(" {word} {}", literal(text)),
        CreationValue::Number(number) => format!(" {word} {number}"),
    });
    format!(
        "CREATE DATABASE {} OWNER {}{}{}",
        ident(name),
        ident(owner),
        at_creation.collect::<String>(),
        database_options(&options.alterable)
    )
}

fn database_options(with: &DatabaseChange) -> String {
    let limit = with
        .connection_limit
        .map(|limit| format!(" CONNECTION LIMIT {limit}"));
    let allow = with
        .allow_connections
        .map(|allow| format!(" ALLOW_CONNECTIONS {allow}"));
    let template = with
        .is_template
        .map(|is_template| format!(" IS_TEMPLATE {is_template}"));
    [limit, allow, template].into_iter().flatten().collect()
}

fn lock_out_role(name: &str) -> Script {
    // Apart: the sessions must not come back once they are told to end.
    Script::apart(vec![
        format!("ALTER ROLE {} NOLOGIN", ident(name)),
        format!(
            "SELECT pg_catalog.pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_stat_activity \
             WHERE usename = {}",
            literal(name)
        ),
    ])
}

/// Ends what keeps a database from being dropped or renamed: sessions in it, and
/// walsenders that read its logical replication slots.
fn evict(database: &str) -> String {
    format!(
        "SELECT pg_catalog.pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_stat_activity \
         WHERE datname = {} \
         AND pid <> pg_catalog.pg_backend_pid()",
        literal(database)
    )
}

fn drop_database(name: &str, is_template: bool) -> Script {
    let mut statements = Vec::new();
    if is_template {
        statements.push(format!(
            "ALTER DATABASE {} WITH IS_TEMPLATE false",
            ident(name)
        ));
    }
    // WITH (FORCE) alone is refused while a logical replication slot is in use.
    statements.push(evict(name));
    statements.push(format!(
        "DROP DATABASE IF EXISTS {} WITH (FORCE)",
        ident(name)
    ));
    Script {
        evicts: true,
        ..Script::apart(statements)
    }
}

fn rename_database(from: &str, to: &str) -> Script {
    Script {
        evicts: true,
        ..Script::apart(vec![
            evict(from),
            format!("ALTER DATABASE {} RENAME TO {}", ident(from), ident(to)),
        ])
    }
}

/// Old installations of the extension neither are where they belong nor say that they
/// can be moved (`compute_tools/src/spec_apply.rs`, `HandleNeonExtension`).
fn move_extension(name: &str, schema: &str) -> Script {
    Script::together([
        format!("CREATE SCHEMA IF NOT EXISTS {}", ident(schema)),
        format!(
            "UPDATE pg_catalog.pg_extension SET extrelocatable = true WHERE extname = {}",
            literal(name)
        ),
        format!(
            "ALTER EXTENSION {} SET SCHEMA {}",
            ident(name),
            ident(schema)
        ),
    ])
}

/// As `compute_tools/src/migration.rs` does.
fn prepare_migrations() -> Script {
    Script::together(
        [
            "CREATE SCHEMA IF NOT EXISTS neon_migration",
            "CREATE TABLE IF NOT EXISTS neon_migration.migration_id (\
             key pg_catalog.int4 NOT NULL PRIMARY KEY, id pg_catalog.int8 NOT NULL DEFAULT 0)",
            "INSERT INTO neon_migration.migration_id VALUES (0, 0) ON CONFLICT DO NOTHING",
            "ALTER SCHEMA neon_migration OWNER TO SESSION_USER",
            "REVOKE ALL ON SCHEMA neon_migration FROM PUBLIC",
        ]
        .map(str::to_owned),
    )
}

fn migrate(number: u32, sql: Option<&str>) -> Script {
    let count = format!("UPDATE neon_migration.migration_id SET id = {number}");
    match sql {
        Some(sql) => Script::together([sql.to_owned(), count]),
        None => Script::together([count]),
    }
}

fn create_health_check() -> Script {
    Script::together([
        "CREATE TABLE IF NOT EXISTS public.health_check (\
         id pg_catalog.int4 PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, \
         updated_at pg_catalog.timestamptz DEFAULT pg_catalog.now())"
            .to_owned(),
        "INSERT INTO public.health_check VALUES (1, pg_catalog.now()) \
         ON CONFLICT (id) DO UPDATE SET updated_at = pg_catalog.now()"
            .to_owned(),
    ])
}

fn record_subscriptions(timeline: &str) -> Script {
    Script::together([
        "CREATE SCHEMA IF NOT EXISTS neon".to_owned(),
        "CREATE TABLE IF NOT EXISTS neon.drop_subscriptions_done (\
         id pg_catalog.int4 PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, \
         timeline_id pg_catalog.text)"
            .to_owned(),
        format!(
            "INSERT INTO neon.drop_subscriptions_done VALUES (1, {0}) \
             ON CONFLICT (id) DO UPDATE SET timeline_id = {0}",
            literal(timeline)
        ),
    ])
}
