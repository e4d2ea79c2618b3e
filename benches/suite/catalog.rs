//! Roles and databases of a spec made to exist on a real PostgreSQL, against one `psql`
//! that runs just the statements that are needed, one after the other.
//!
//! - First apply: 1,000 roles with SCRAM verifiers; 300 databases with owners and grants.
//!   `psql` goes into each database, as the same catalog in the end asks for; the ratio
//!   without that stands beside it.
//! - The same spec again: in a running process, and as a new one that reads the spec first.
//! - One password changed among 1,000 roles.
//! - 10,000 roles: time for each against 1,000, and the memory of this process.
//! - Reading 10,000 roles as YAML and as JSON.
//!
//! Every figure is the median of its runs; both sides take turns on fresh clusters.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use glowplug::catalog::{self, Applied, ApplyOptions, CatalogTarget, DEFAULT_PRIVILEGED_ROLE};
use glowplug::spec::{ComputeSpec, change, neon_json, no_secrets, parse_document};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::postgres::{self, Postgres};

const ROLES: usize = 1_000;
const DATABASES: usize = 300;
const MANY_ROLES: usize = 10_000;

/// Runs on fresh clusters, which take seconds each.
const FRESH_RUNS: usize = 3;
/// Runs that take milliseconds.
const QUICK_RUNS: usize = 15;

fn verifier(number: usize) -> String {
    let key = |c: char| format!("{}=", c.to_string().repeat(43));
    format!(
        "SCRAM-SHA-256$4096:{number:022}==${}:{}",
        key('A'),
        key('B')
    )
}

/// Neon's JSON, whose roles are members of the privileged one.
fn document(roles: usize, databases: usize) -> String {
    let role = |i| json!({"name": format!("role_{i}"), "encrypted_password": verifier(i)});
    let database = |i| json!({"name": format!("db_{i}"), "owner": format!("role_{}", i % roles)});
    let spec = json!({
        "format_version": 1.0,
        "suspend_timeout_seconds": -1,
        "tenant_id": "0d5f3f2c8f6a4e7d9b1c2a3b4c5d6e7f",
        "timeline_id": "9a8b7c6d5e4f30211203f4e5d6c7b8a9",
        "pageserver_connstring": "postgres://no_user@localhost:6400",
        "safekeeper_connstrings": ["localhost:5454"],
        "cluster": {
            "roles": (0..roles).map(role).collect::<Vec<_>>(),
            "databases": (0..databases).map(database).collect::<Vec<_>>(),
        },
        "glowplug": {"flavor": "Vanilla"},
    });
    spec.to_string()
}

fn read(document: &str) -> ComputeSpec {
    neon_json::parse(document.as_bytes()).unwrap()
}

fn with_role_options(i: usize) -> String {
    format!(
        "CREATE ROLE role_{i} INHERIT CREATEROLE CREATEDB BYPASSRLS REPLICATION LOGIN \
         PASSWORD '{}' IN ROLE neon_superuser;\n",
        verifier(i)
    )
}

const PRIVILEGED: &str = "CREATE ROLE neon_superuser CREATEDB CREATEROLE NOLOGIN REPLICATION \
    BYPASSRLS IN ROLE pg_read_all_data, pg_write_all_data;\n";

fn sql(roles: usize, databases: usize, inside: bool) -> String {
    let mut sql = PRIVILEGED.to_owned();
    sql.extend((0..roles).map(with_role_options));
    for i in 0..databases {
        let _ = writeln!(
            sql,
            "CREATE DATABASE db_{i} OWNER role_{};\n\
             GRANT ALL PRIVILEGES ON DATABASE db_{i} TO neon_superuser;",
            i % roles
        );
    }
    for i in (0..databases).filter(|_| inside) {
        let _ = writeln!(
            sql,
            "\\connect db_{i}\n\
             ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO neon_superuser \
             WITH GRANT OPTION;\n\
             ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO neon_superuser \
             WITH GRANT OPTION;"
        );
    }
    sql
}

/// A fresh cluster whose settings are those that a compute runs with.
async fn cluster() -> Postgres {
    let settings = [
        ("full_page_writes", "off"),
        ("shared_buffers", "128MB"),
        ("max_connections", "100"),
    ];
    Postgres::start_with(&settings).await
}

async fn psql(sql: &str) -> Duration {
    let postgres = cluster().await;
    let directory = postgres.data().parent().unwrap().to_owned();
    let file = directory.join("statements.sql");
    std::fs::write(&file, sql).unwrap();
    let mut command = Command::new(postgres::programs::newest().join("psql"));
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "cloud_admin"]);
    command.args(["-d", "postgres", "-h"]).arg(&directory);
    command.arg("-f").arg(file).stdin(Stdio::null());
    let began = Instant::now();
    assert!(command.status().unwrap().success());
    began.elapsed()
}

fn target(postgres: &Postgres) -> CatalogTarget {
    CatalogTarget {
        connect: postgres.config(),
        privileged_role: DEFAULT_PRIVILEGED_ROLE.to_owned(),
        application_name: "glowplug".to_owned(),
    }
}

async fn apply(postgres: &Postgres, spec: &ComputeSpec) -> (Applied, Duration) {
    // As `glowplug compute` does.
    let options = ApplyOptions {
        concurrency: 16,
        ..ApplyOptions::default()
    };
    let began = Instant::now();
    let (target, cancel) = (target(postgres), CancellationToken::new());
    let applied = catalog::apply(&target, spec, &options, &cancel)
        .await
        .unwrap();
    assert_eq!(applied.failures, []);
    (applied, began.elapsed())
}

async fn first_apply(spec: &ComputeSpec) -> Duration {
    apply(&cluster().await, spec).await.1
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn ratio(ours: Duration, theirs: Duration) -> f64 {
    ours.as_secs_f64() / theirs.as_secs_f64()
}

/// The greatest resident size of this process since [`forget_peak`].
fn peak_megabytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kilobytes.unwrap() / 1024.0
}

fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

async fn first_roles() {
    let (spec, sql) = (read(&document(ROLES, 0)), sql(ROLES, 0, false));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..FRESH_RUNS {
        theirs.push(psql(&sql).await);
        ours.push(first_apply(&spec).await);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "first apply of {ROLES} roles: {} ({:.2} of psql's {}; wanted: 0.6)",
        milliseconds(ours),
        ratio(ours, theirs),
        milliseconds(theirs)
    );
}

async fn first_databases() {
    let spec = read(&document(10, DATABASES));
    let (whole, outside) = (sql(10, DATABASES, true), sql(10, DATABASES, false));
    let (mut ours, mut theirs, mut less) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..FRESH_RUNS {
        theirs.push(psql(&whole).await);
        ours.push(first_apply(&spec).await);
        less.push(psql(&outside).await);
    }
    let (ours, theirs, less) = (median(ours), median(theirs), median(less));
    println!(
        "first apply of {DATABASES} databases: {} ({:.2} of psql's {}; wanted: 0.8) \
         ({:.2} of the {} of a psql that goes into none)",
        milliseconds(ours),
        ratio(ours, theirs),
        milliseconds(theirs),
        ratio(ours, less),
        milliseconds(less)
    );
}

async fn again() {
    let postgres = cluster().await;
    let text = document(ROLES, DATABASES);
    let mut spec = read(&text);
    apply(&postgres, &spec).await;
    let (mut same, mut fresh) = (Vec::new(), Vec::new());
    for _ in 0..QUICK_RUNS {
        let new = read(&text);
        let began = Instant::now();
        assert!(change::between(&spec, &new).unwrap().is_nothing());
        same.push(began.elapsed());
        let began = Instant::now();
        let (applied, _) = apply(&postgres, &read(&text)).await;
        assert_eq!(applied, Applied::default());
        fresh.push(began.elapsed());
    }
    println!(
        "the same {ROLES} roles and {DATABASES} databases again: {} in a running process, with \
         no SQL; {} in a new one, with one query (wanted: below 100 ms)",
        milliseconds(median(same)),
        milliseconds(median(fresh))
    );
    let mut changed = Vec::new();
    for run in 0..QUICK_RUNS {
        let text = glowplug::secret::Secret::new(verifier(1_000_000 + run));
        spec.roles[ROLES / 2].password = Some(glowplug::spec::Password::Verifier(text));
        let (applied, took) = apply(&postgres, &spec).await;
        assert_eq!(applied.statements, 1);
        changed.push(took);
    }
    println!(
        "one password changed among {ROLES} roles: {} (wanted: below 50 ms)",
        milliseconds(median(changed))
    );
}

async fn many_roles() {
    forget_peak();
    let few = read(&document(ROLES, 0));
    let spec = read(&document(MANY_ROLES, 0));
    let times = (first_apply(&few).await, {
        let postgres = cluster().await;
        let (_, first) = apply(&postgres, &spec).await;
        let (_, again) = apply(&postgres, &spec).await;
        (first, again)
    });
    let factor = MANY_ROLES as f64 / ROLES as f64;
    println!(
        "first apply of {MANY_ROLES} roles: {} ({:.2} of {factor} times that of {ROLES}); again: \
         {}; at most {:.0} MB in this process (wanted: below 40 MB)",
        milliseconds(times.1.0),
        ratio(times.1.0, times.0) / factor,
        milliseconds(times.1.1),
        peak_megabytes()
    );
}

fn reading() {
    let json = document(MANY_ROLES, 0);
    let mut yaml = "apiVersion: glowplug.dev/v1alpha1\nkind: ComputeSpec\nmetadata: {name: a}\n\
        spec:\n  tenantId: 0d5f3f2c8f6a4e7d9b1c2a3b4c5d6e7f\n  timelineId: \
        9a8b7c6d5e4f30211203f4e5d6c7b8a9\n  roles:\n"
        .to_owned();
    for i in 0..MANY_ROLES {
        let _ = writeln!(
            yaml,
            "  - name: role_{i}\n    password: {{verifier: \"{}\"}}",
            verifier(i)
        );
    }
    for (form, text) in [("JSON", &json), ("YAML", &yaml)] {
        let times = (0..QUICK_RUNS).map(|_| {
            let began = Instant::now();
            parse_document(text, &no_secrets).unwrap();
            began.elapsed()
        });
        println!(
            "reading {:.1} MB of {form} with {MANY_ROLES} roles: {}",
            text.len() as f64 / 1e6,
            milliseconds(median(times.collect()))
        );
    }
}

pub(crate) async fn run() {
    many_roles().await;
    reading();
    first_roles().await;
    first_databases().await;
    again().await;
}
