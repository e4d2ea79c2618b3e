//! A stand-in for Neon's postgres, for what the flavor `Neon` does around it: unmodified
//! PostgreSQL that takes the files, which Neon's would read page by page, from a cluster
//! beside. It serves, and it reads its configuration; it pushes no WAL.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::time::Duration;

use glowplug::process::Command;
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use crate::stage::{Compute, Stage};

const LIMIT: Duration = Duration::from_mins(1);

/// Where its user may write.
fn directory(stage: &Stage) -> PathBuf {
    let directory = stage.directory.path().join("neon");
    fs::create_dir_all(&directory).unwrap();
    if let Some(run_as) = stage.run_as() {
        chown(&directory, Some(run_as.uid), Some(run_as.gid)).unwrap();
    }
    directory
}

/// Makes the program, and the cluster that it takes its files from.
pub(crate) async fn program(stage: &Stage) -> PathBuf {
    let directory = directory(stage);
    let cluster = directory.join("cluster");
    let initdb = Command::new(stage.bin_dir.join("initdb"))
        .arg("-D")
        .arg(&cluster)
        .args(["-U", "cloud_admin", "-E", "UTF8", "--locale", "C.UTF-8"])
        .args(["--auth", "trust", "--no-sync"])
        .run_as(stage.run_as().cloned());
    let output = stage.spawner.run(initdb, LIMIT).await.unwrap();
    output.require_success().unwrap();
    for conf in [
        "postgresql.conf",
        "postgresql.auto.conf",
        "pg_hba.conf",
        "pg_ident.conf",
    ] {
        fs::remove_file(cluster.join(conf)).unwrap();
    }
    let postgres = stage.bin_dir.join("postgres");
    let script = format!(
        "#!/bin/sh\n\
         if [ \"$1\" = -D ]; then cp -a '{}/.' \"$2\"; fi\n\
         exec '{}' \"$@\"\n",
        cluster.display(),
        postgres.display(),
    );
    let program = directory.join("postgres");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// A spec for it. Its postgres listens on loopback, where this flavor is reached: at a
/// port outside of those that the system hands out.
pub(crate) fn spec(stage: &Stage) -> Value {
    let port = rand::random_range(10_000..30_000);
    let mut spec = stage.spec(port);
    spec["spec"]["postgres"]["flavor"] = json!("Neon");
    spec["spec"]["skipCatalogUpdates"] = json!(true);
    let sockets = directory(stage);
    spec["spec"]["postgres"]["settings"] =
        json!([{"name": "unix_socket_directories", "value": sockets}]);
    spec
}

/// A new connection: it has the settings that are in force now.
pub(crate) async fn connect(compute: &Compute<'_>) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(compute.port);
    config.user("cloud_admin").dbname("postgres");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
