//! Supervision of a real PostgreSQL.

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::pgwire::{Connection, Host};

const SOON: Duration = Duration::from_mins(1);

/// A fresh data directory, and where its postgres listens.
struct Server {
    dir: tempfile::TempDir,
    spawner: Spawner,
    config: PostgresConfig,
}

/// The newest PostgreSQL of the distribution.
fn bin_dir() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let dirs = versions.map(|entry| entry.unwrap().path().join("bin"));
    dirs.max().expect("PostgreSQL is installed")
}

impl Server {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let run_as = RunAs::for_postgres();
        if let Some(run_as) = &run_as {
            std::os::unix::fs::chown(dir.path(), Some(run_as.uid), Some(run_as.gid)).unwrap();
        }
        let spawner = Spawner::start().unwrap();
        let pgdata = dir.path().join("pgdata");
        let initdb = Command::new(bin_dir().join("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=cloud_admin", "-D"])
            .arg(&pgdata)
            .run_as(run_as.clone());
        spawner
            .run(initdb, SOON)
            .await
            .unwrap()
            .require_success()
            .unwrap();
        let server = Self {
            config: PostgresConfig {
                bin_dir: bin_dir(),
                pgdata,
                run_as,
                structured_log: true,
                storage_token: None,
            },
            dir,
            spawner,
        };
        let sockets = server.dir.path().display();
        server.append(&format!(
            "listen_addresses = ''\nunix_socket_directories = '{sockets}'\nfsync = off\n"
        ));
        server
    }

    fn append(&self, text: &str) {
        let path = self.config.pgdata.join("postgresql.conf");
        let old = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, old + text).unwrap();
    }

    fn connect(&self) -> ConnectConfig {
        let mut connect = ConnectConfig::tcp("", 5432, "cloud_admin");
        connect.host = Host::Unix(self.dir.path().to_owned());
        connect.database = Some("postgres".to_owned());
        connect
    }

    async fn start(&self) -> Postgres {
        Postgres::start(&self.spawner, &self.config).await.unwrap()
    }

    async fn ready(&self) -> Postgres {
        let postgres = self.start().await;
        let cancel = CancellationToken::new();
        let accepting = postgres
            .ready(&self.connect(), SOON, &cancel)
            .await
            .unwrap();
        let version = accepting.version.expect("the user is let in");
        assert!(
            version.starts_with(|c: char| c.is_ascii_digit()),
            "{version}"
        );
        postgres
    }

    /// Ends a postgres at once, and frees what it leaves in the system.
    async fn end(&self, postgres: Postgres) {
        let _ = postgres.child.kill_tree().await;
        postgres.exited().await;
        stop_leftover(&self.spawner, &self.config.pgdata).await;
    }
}

fn budget(fast: Duration) -> StopBudget {
    StopBudget {
        fast,
        immediate: fast,
    }
}

#[tokio::test]
async fn a_fast_stop_ends_open_sessions_and_leaves_a_clean_exit() {
    let server = Server::new().await;
    let postgres = server.ready().await;
    let _session = Connection::connect(&server.connect()).await.unwrap();
    let hurry = CancellationToken::new();
    let stopped = postgres.stop(budget(SOON), &hurry).await.unwrap();
    assert_eq!(stopped.step, StopStep::Fast);
    assert_eq!(stopped.exit, Exit::Code(0));
    assert_eq!(postgres.exited().await.exit, Exit::Code(0));
    // Once more is no error.
    assert_eq!(postgres.stop(budget(SOON), &hurry).await.unwrap(), stopped);
}

#[tokio::test]
async fn a_hurried_stop_is_immediate() {
    let server = Server::new().await;
    let postgres = server.ready().await;
    let hurry = CancellationToken::new();
    hurry.cancel();
    let stopped = postgres.stop(budget(SOON), &hurry).await.unwrap();
    assert_eq!(stopped.step, StopStep::Immediate);
}

#[tokio::test]
async fn a_postgres_that_does_not_react_is_killed_with_its_backends() {
    let server = Server::new().await;
    let postgres = server.ready().await;
    // Its backend computes, and would not notice the postmaster's end.
    let mut session = Connection::connect(&server.connect()).await.unwrap();
    let sql = "do $$ begin raise log 'busy'; loop end loop; end $$";
    let busy = tokio::spawn(async move { session.simple_query(sql).await.map(|_| ()) });
    let mut log = postgres.log.clone();
    log.wait_for(|tail| tail.last_words().contains("busy"))
        .await
        .unwrap();
    postgres.child.signal(Signal::STOP).await.unwrap();
    let hurry = CancellationToken::new();
    let stopped = postgres
        .stop(budget(Duration::from_millis(10)), &hurry)
        .await
        .unwrap();
    assert_eq!(stopped.step, StopStep::Kill);
    assert_eq!(stopped.exit, Exit::Signal(9));
    // The backend is gone too: its client notices.
    timeout(SOON, busy).await.unwrap().unwrap().unwrap_err();
    // Frees what the killed one could not.
    assert_eq!(
        stop_leftover(&server.spawner, &server.config.pgdata).await,
        None
    );
}

#[tokio::test]
async fn a_configuration_that_postgres_refuses_is_quoted() {
    let server = Server::new().await;
    server.append("shared_buffers = 'plenty'\n");
    let postgres = server.start().await;
    let error = postgres
        .ready(&server.connect(), SOON, &CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(error.category(), "ConfigurationRefused");
    assert_eq!(error.retry(), Retry::Never);
    let text = error.to_string();
    assert!(text.contains("exit code 1; it wrote:"), "{text}");
    assert!(text.contains("postgresql.conf\" contains errors"), "{text}");
}

#[tokio::test]
async fn a_postgres_that_hangs_at_its_start_is_told_apart_from_one_that_ended() {
    let server = Server::new().await;
    let postgres = server.start().await;
    postgres.child.signal(Signal::STOP).await.unwrap();
    let limit = Duration::from_millis(20);
    // Whoever listens where postgres should is no server either.
    let error = postgres
        .ready(
            &ConnectConfig::tcp("127.0.0.1", 1, "x"),
            limit,
            &CancellationToken::new(),
        )
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotReady { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Backoff);
    server.end(postgres).await;
}

#[tokio::test]
async fn a_reload_takes_a_changed_setting() {
    let server = Server::new().await;
    let postgres = server.ready().await;
    server.append("work_mem = '7MB'\n");
    postgres.reload().await.unwrap();
    let mut log = postgres.log.clone();
    let reloaded = log.wait_for(|tail| tail.last_words().contains("work_mem"));
    timeout(SOON, reloaded).await.unwrap().unwrap();
    let mut session = Connection::connect(&server.connect()).await.unwrap();
    let rows = session.simple_query("show work_mem").await.unwrap();
    assert_eq!(rows[0].text(0), Some("7MB"));
    server.end(postgres).await;
}

#[tokio::test]
async fn a_leftover_postgres_is_found_by_its_directory_and_killed() {
    let server = Server::new().await;
    let postgres = server.ready().await;
    let pgdata = &server.config.pgdata;
    assert_eq!(
        stop_leftover(&server.spawner, pgdata).await,
        Some(postgres.pid())
    );
    assert_eq!(postgres.exited().await.exit, Exit::Signal(9));
    let socket = server.dir.path().join(".s.PGSQL.5432");
    UnixStream::connect(socket).await.unwrap_err();
    // The file is still there, and its process is not.
    assert_eq!(stop_leftover(&server.spawner, pgdata).await, None);
}

#[tokio::test]
async fn a_file_that_names_another_process_kills_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let own = format!("{}\n/somewhere/else\n", std::process::id());
    std::fs::write(dir.path().join("postmaster.pid"), own).unwrap();
    let spawner = Spawner::start().unwrap();
    assert_eq!(stop_leftover(&spawner, dir.path()).await, None);
}
