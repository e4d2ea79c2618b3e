//! Decides when postgres accepts connections: by connecting.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::pid_file_watch::PidFileWatch;
use crate::pgwire::{self, ConnectConfig, Connection};

/// Pause between two looks at `postmaster.pid` if nothing tells that it was written.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection is tried this often whatever `postmaster.pid` says.
const ANYWAY: Duration = Duration::from_secs(1);

/// Limit of one connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What a connection told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepting {
    /// `server_version`, such as `15.18`; `None` if postgres answered but did not
    /// let this user in.
    pub version: Option<String>,
}

/// Waits until postgres answers a connection. The caller sets the deadline.
///
/// Each refused connection is a FATAL message in the log of postgres, so none is
/// made before `postmaster.pid` says that it is worth it.
pub(super) async fn wait(pgdata: &Path, connect: &ConnectConfig) -> Accepting {
    let connect = ConnectConfig {
        connect_timeout: CONNECT_LIMIT,
        ..connect.clone()
    };
    let mut notices = PidFileWatch::start(pgdata);
    let mut last_try = Instant::now();
    loop {
        if last_try.elapsed() >= ANYWAY || postmaster_is_ready(pgdata).await {
            last_try = Instant::now();
            match answer(Connection::connect(&connect).await) {
                Ok(accepting) => return accepting,
                Err(error) => tracing::debug!(%error, "postgres does not accept connections yet"),
            }
        }
        tokio::select! {
            () = notices.changed() => {}
            () = sleep(PAUSE) => {}
        }
    }
}

/// Any answer but "not now" is one of a server that accepts connections: that this
/// user has no right, or that all connections are taken, is not about the server.
fn answer(connected: Result<Connection, pgwire::Error>) -> Result<Accepting, pgwire::Error> {
    /// `cannot_connect_now`: starting up, shutting down, or in recovery.
    const CANNOT_CONNECT_NOW: &str = "57P03";
    match connected {
        Ok(connection) => Ok(Accepting {
            version: connection.parameter("server_version").map(str::to_owned),
        }),
        Err(pgwire::Error::Server { error, .. }) if error.code != CANNOT_CONNECT_NOW => {
            tracing::warn!(%error, "postgres accepts connections, but not this one");
            Ok(Accepting { version: None })
        }
        Err(pgwire::Error::Authentication { .. }) => Ok(Accepting { version: None }),
        Err(error) => Err(error),
    }
}

/// Whether the eighth line of `postmaster.pid` says so (`src/include/utils/pidfile.h`,
/// `LOCK_FILE_LINE_PM_STATUS`). A stale file of a copied directory cannot mislead for
/// long: the connection decides.
async fn postmaster_is_ready(pgdata: &Path) -> bool {
    const STATUS_LINE: usize = 8;
    let text = tokio::fs::read_to_string(pgdata.join("postmaster.pid")).await;
    let text = text.unwrap_or_default();
    let status = text.lines().nth(STATUS_LINE - 1).map(str::trim);
    matches!(status, Some("ready"))
}
