//! Reads the catalog in one round trip: several queries on one snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use futures::TryStreamExt;
use tokio_postgres::SimpleQueryMessage;

use super::plan::LAST_MIGRATION;
use super::plan::observed::{
    InstalledExtension, Membership, Observed, ObservedDatabase, ObservedRole, SystemDatabase,
};
use super::plan::role_options::{Flag, Flags, Moment};
use super::quote::literal;
use super::session::{Interrupted, Session, Stop};
use super::sql::{MANAGED, MIGRATED, PREPARED};
use super::{Error, quote};
use crate::secret::Secret;

/// The oldest postgres whose catalog these queries fit.
const OLDEST_MAJOR: u32 = 14;

/// Reads what every plan is made of.
pub(super) async fn observe(
    session: &Session,
    privileged_role: &str,
    with_neon: bool,
    stop: &Stop,
) -> Result<Observed, Error> {
    let mut reading = Reading::default();
    let sql = overview(privileged_role, with_neon);
    read(session, &sql, stop, |row| reading.take(row)).await?;
    reading.finish()
}

/// Reads what only some plans need: what depends on roles that will go, and whether
/// subscriptions were dropped before.
pub(super) async fn observe_details(
    session: &Session,
    observed: &mut Observed,
    leaving: &[String],
    with_subscriptions: bool,
    stop: &Stop,
) -> Result<(), Error> {
    let system = &observed.system;
    let mut queries = Vec::new();
    if !leaving.is_empty() {
        queries.push(dependencies(leaving));
    }
    if with_subscriptions && system.has_subscriptions_record {
        queries.push("SELECT 'dropped', timeline_id FROM neon.drop_subscriptions_done".to_owned());
    }
    if system.has_migration_table && system.migrations_noted < LAST_MIGRATION {
        queries.push("SELECT 'migration', id FROM neon_migration.migration_id".to_owned());
    }
    if queries.is_empty() {
        return Ok(());
    }
    read(session, &queries.join(";\n"), stop, |row| {
        match row {
            [Some("dependency"), Some(role), database] => {
                let databases = observed.dependencies.entry((*role).to_owned()).or_default();
                databases.insert(database.map(str::to_owned));
            }
            [Some("dropped"), timeline] => {
                observed.system.subscriptions_dropped_on = timeline.map(str::to_owned);
            }
            [Some("migration"), Some(last)] => observed.system.migration = Some(number(last)?),
            row => return Err(unknown(row)),
        }
        Ok(())
    })
    .await
}

/// The cells of a row.
type Row<'a, 'b> = &'a [Option<&'b str>];

async fn read(
    session: &Session,
    sql: &str,
    stop: &Stop,
    mut take: impl FnMut(Row<'_, '_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = |source| Error::Observe {
        database: session.database.clone(),
        source,
    };
    let interrupted = |why: Interrupted| stop.error(why, 0, 0);
    let asked = stop.race(session.query(sql)).await.map_err(interrupted)?;
    let mut rows = pin!(asked.map_err(failed)?);
    loop {
        let next = match stop.race(rows.try_next()).await {
            Ok(next) => next.map_err(failed)?,
            Err(why) => {
                session.cancel_statement().await;
                return Err(interrupted(why));
            }
        };
        match next {
            Some(SimpleQueryMessage::Row(row)) => {
                let cells: Result<Vec<_>, _> = (0..row.len()).map(|i| row.try_get(i)).collect();
                if let Ok(cells) = cells {
                    take(&cells)?;
                } else {
                    // Databases in encoding SQL_ASCII let users give names in any bytes.
                    // No spec can name such an object.
                    tracing::warn!("ignored a catalog entry that is not UTF-8");
                }
            }
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

fn overview(privileged_role: &str, with_neon: bool) -> String {
    let neon_available = if with_neon {
        "(SELECT default_version FROM pg_available_extensions() WHERE name = 'neon')"
    } else {
        "NULL"
    };
    let flags: Vec<String> = Flag::ALL
        .iter()
        .map(|flag| format!("a.{}", column(*flag)))
        .collect();
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT 'server', current_setting('server_version_num'), session_user, current_database(),
  current_setting('max_connections'), current_setting('fsync') = 'on',
  current_setting('shared_preload_libraries'),
  {neon_available}, to_regclass('public.health_check') IS NOT NULL,
  to_regclass('neon.drop_subscriptions_done') IS NOT NULL,
  to_regclass('neon_migration.migration_id') IS NOT NULL,
  (SELECT array_to_json(setconfig) FROM pg_db_role_setting WHERE setrole = 0
    AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()));
SELECT 'extension', e.extname, e.extversion, n.nspname
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace;
SELECT 'role', a.rolname, {flags}, a.rolconnlimit,
  CASE WHEN isfinite(a.rolvaliduntil) THEN (extract(epoch FROM a.rolvaliduntil) * 1000000)::int8::text
    ELSE a.rolvaliduntil::text END,
  a.rolpassword, coalesce(s.setconfig @> ARRAY['{MANAGED}=true'], false)
FROM pg_authid a LEFT JOIN pg_db_role_setting s ON s.setrole = a.oid AND s.setdatabase = 0;
SELECT 'member', u.rolname, r.rolname, coalesce(g.rolsuper, false)
FROM pg_auth_members m
  JOIN pg_authid u ON u.oid = m.member
  JOIN pg_authid r ON r.oid = m.roleid
  LEFT JOIN pg_authid g ON g.oid = m.grantor;
SELECT 'database', d.datname, o.rolname, d.datallowconn, d.datistemplate, d.datconnlimit,
  (SELECT count(DISTINCT x.privilege_type) FROM aclexplode(d.datacl) x
    JOIN pg_authid p ON p.oid = x.grantee AND p.rolname = {privileged_role}) = 3,
  EXISTS (SELECT FROM pg_subscription b WHERE b.subdbid = d.oid),
  coalesce(s.setconfig @> ARRAY['{MANAGED}=true'], false),
  (SELECT substr(c, {prefix}) FROM unnest(s.setconfig) c WHERE starts_with(c, '{PREPARED}=') LIMIT 1)
FROM pg_database d
  LEFT JOIN pg_authid o ON o.oid = d.datdba
  LEFT JOIN pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = 0;
COMMIT",
        flags = flags.join(", "),
        privileged_role = literal(privileged_role),
        prefix = PREPARED.len() + "=".len() + 1,
    )
}

const fn column(flag: Flag) -> &'static str {
    match flag {
        Flag::Superuser => "rolsuper",
        Flag::Inherit => "rolinherit",
        Flag::CreateRole => "rolcreaterole",
        Flag::CreateDb => "rolcreatedb",
        Flag::Login => "rolcanlogin",
        Flag::Replication => "rolreplication",
        Flag::BypassRls => "rolbypassrls",
    }
}

fn dependencies(roles: &[String]) -> String {
    let names: Vec<String> = roles.iter().map(|role| literal(role).to_string()).collect();
    format!(
        "SELECT DISTINCT 'dependency', a.rolname, d.datname
FROM pg_authid a
  JOIN pg_shdepend s ON s.refclassid = 'pg_authid'::regclass AND s.refobjid = a.oid
  LEFT JOIN pg_database d ON d.oid = s.dbid
WHERE a.rolname = ANY (ARRAY[{}]::name[])",
        names.join(", ")
    )
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    server: Option<Observed>,
    extensions: BTreeMap<String, InstalledExtension>,
    roles: BTreeMap<String, ObservedRole>,
    memberships: BTreeMap<String, Vec<Membership>>,
    databases: BTreeMap<String, ObservedDatabase>,
}

impl Reading {
    fn take(&mut self, row: Row<'_, '_>) -> Result<(), Error> {
        match row {
            [Some("server"), rest @ ..] => self.server = Some(server(rest)?),
            [Some("extension"), Some(name), Some(version), Some(schema)] => {
                let extension = InstalledExtension {
                    version: (*version).to_owned(),
                    schema: (*schema).to_owned(),
                };
                self.extensions.insert((*name).to_owned(), extension);
            }
            [Some("role"), Some(name), rest @ ..] => {
                self.roles.insert((*name).to_owned(), role(rest)?);
            }
            [Some("member"), Some(member), Some(role), by_superuser] => {
                let membership = Membership {
                    role: (*role).to_owned(),
                    by_superuser: is_true(*by_superuser),
                };
                let memberships = self.memberships.entry((*member).to_owned()).or_default();
                memberships.push(membership);
            }
            [Some("database"), Some(name), rest @ ..] => {
                self.databases.insert((*name).to_owned(), database(rest)?);
            }
            row => return Err(unknown(row)),
        }
        Ok(())
    }

    fn finish(self) -> Result<Observed, Error> {
        let mut observed = self.server.ok_or_else(|| Error::Answer {
            problem: "it did not say its version".to_owned(),
        })?;
        if observed.major() < OLDEST_MAJOR {
            let major = observed.major();
            return Err(Error::UnsupportedVersion { major });
        }
        observed.system.extensions = self.extensions;
        observed.roles = self.roles;
        observed.memberships = self.memberships;
        observed.databases = self.databases;
        Ok(observed)
    }
}

fn server(row: Row<'_, '_>) -> Result<Observed, Error> {
    let [
        Some(version),
        Some(superuser),
        Some(database),
        Some(connections),
        forces_files,
        Some(libraries),
        neon_available,
        has_health_check,
        has_subscriptions_record,
        has_migration_table,
        settings,
    ] = row
    else {
        return Err(unknown(row));
    };
    let settings: Vec<String> = match settings {
        Some(settings) => serde_json::from_str(settings).map_err(|_| unknown(row))?,
        None => Vec::new(),
    };
    let setting = |name: &str| {
        let mut pairs = settings
            .iter()
            .filter_map(|setting| setting.split_once('='));
        pairs.find(|(of, _)| *of == name).map(|(_, value)| value)
    };
    Ok(Observed {
        version_num: number(version)?,
        superuser: (*superuser).to_owned(),
        system_database: (*database).to_owned(),
        max_connections: number(connections)?,
        forces_files: is_true(*forces_files),
        preload_libraries: quote::names_of_list(libraries),
        roles: BTreeMap::new(),
        memberships: BTreeMap::new(),
        databases: BTreeMap::new(),
        system: SystemDatabase {
            extensions: BTreeMap::new(),
            neon_available: neon_available.map(str::to_owned),
            has_health_check: is_true(*has_health_check),
            has_subscriptions_record: is_true(*has_subscriptions_record),
            subscriptions_dropped_on: None,
            migrations_noted: setting(MIGRATED)
                .and_then(|n| n.parse().ok())
                .unwrap_or_default(),
            has_migration_table: is_true(*has_migration_table),
            migration: None,
            is_unaudited: setting("pgaudit.log") == Some("none"),
        },
        dependencies: BTreeMap::<String, BTreeSet<_>>::new(),
    })
}

fn role(row: Row<'_, '_>) -> Result<ObservedRole, Error> {
    let Some((flags, [Some(limit), valid_until, verifier, managed])) =
        row.split_at_checked(Flag::ALL.len())
    else {
        return Err(unknown(row));
    };
    let named = Flag::ALL.iter().zip(flags);
    Ok(ObservedRole {
        flags: named.fold(Flags::default(), |all, (flag, on)| {
            all.with(*flag, is_true(*on))
        }),
        connection_limit: number(limit)?,
        valid_until: match valid_until {
            None => None,
            Some("infinity") => Some(Moment::Always),
            Some("-infinity") => Some(Moment::Never),
            Some(microseconds) => Some(Moment::At(number(microseconds)?)),
        },
        verifier: verifier.map(Secret::new),
        managed: is_true(*managed),
    })
}

fn database(row: Row<'_, '_>) -> Result<ObservedDatabase, Error> {
    let [
        owner,
        allows_connections,
        is_template,
        Some(limit),
        is_granted,
        has_subscriptions,
        managed,
        prepared,
    ] = row
    else {
        return Err(unknown(row));
    };
    Ok(ObservedDatabase {
        owner: owner.map(str::to_owned),
        allows_connections: is_true(*allows_connections),
        is_template: is_true(*is_template),
        connection_limit: number(limit)?,
        is_granted: is_true(*is_granted),
        has_subscriptions: is_true(*has_subscriptions),
        managed: is_true(*managed),
        prepared: prepared.map(str::to_owned),
    })
}

fn is_true(cell: Option<&str>) -> bool {
    cell == Some("t")
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Answer {
        problem: format!("{text:?} is not a number"),
    })
}

/// Only the kind of the row is told: verifiers may stand in it.
fn unknown(row: Row<'_, '_>) -> Error {
    let kind = row.first().copied().flatten().unwrap_or_default();
    Error::Answer {
        problem: format!("a row of {} columns, {kind:?}", row.len()),
    }
}
