//! Serves one connection: start-up, then one command after the other.

use tokio::net::TcpStream;
use tracing::{debug, info};

use super::command::Command;
use super::registry::Absent;
use super::{Node, TimelineKey, push, replication};
use crate::error::chain;
use crate::id::{ParseIdError, TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::storage::pgwire_server::{Column, Error, ServerConfig, Session, Startup};

/// SQLSTATE `internal_error`, which upstream gives to everything.
pub(super) const INTERNAL_ERROR: &str = "XX000";

/// Serves a connection to its end; why it ended is logged here.
pub(super) async fn serve(stream: TcpStream, mut node: Node, server: &ServerConfig) {
    node.faults.unpaused().await;
    let session = Session::accept_if(stream, server, check_options).await;
    let result = match session {
        Ok(Some(session)) => serve_session(session, node).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        info!("connection closed: {}", chain(&error));
    }
}

/// What the start-up says about the timeline; either may be missing until a
/// command needs it.
struct Ids {
    tenant_id: Option<TenantId>,
    timeline_id: Option<TimelineId>,
}

impl Ids {
    fn parse(startup: &Startup) -> Result<Self, ParseIdError> {
        let option = |names: [&str; 2]| {
            let options = startup.options();
            let named = options.iter().rev().find(|(key, _)| names.contains(key));
            named.map(|(_, value)| (*value).to_owned())
        };
        let tenant = option(["tenant_id", "ztenantid"]);
        let timeline = option(["timeline_id", "ztimelineid"]);
        Ok(Self {
            tenant_id: tenant.map(|text| text.parse()).transpose()?,
            timeline_id: timeline.map(|text| text.parse()).transpose()?,
        })
    }

    fn key(&self) -> Result<TimelineKey, String> {
        Ok(TimelineKey {
            tenant_id: self.tenant_id.ok_or("tenantid is required")?,
            timeline_id: self.timeline_id.ok_or("timelineid is required")?,
        })
    }
}

/// Malformed options end the connection without an answer, as upstream does.
fn check_options(startup: &Startup) -> Result<(), String> {
    Ids::parse(startup).map_err(|error| error.to_string())?;
    if let Some(protocol) = startup.option("protocol") {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(protocol);
        let kind = parsed.map_err(|error| format!("a malformed protocol option: {error}"))?;
        if kind.get("type").and_then(|kind| kind.as_str()) != Some("vanilla") {
            return Err(format!("protocol {protocol}, which is not served here"));
        }
    }
    let shard = ["shard_count", "shard_number", "shard_stripe_size"];
    match shard.into_iter().find(|key| startup.option(key).is_some()) {
        Some(key) => Err(format!("option {key}, which vanilla WAL has no use for")),
        None => Ok(()),
    }
}

async fn serve_session(mut session: Session, mut node: Node) -> Result<(), Error> {
    loop {
        let Some(query) = session.next_query().await? else {
            return Ok(());
        };
        node.faults.unpaused().await;
        debug!(%query, "command");
        let command = match (node.faults.error(), Command::parse(&query)) {
            (Some(text), _) => Err(text),
            (None, command) => command,
        };
        let result = match command {
            Ok(Command::StartWalPush(options)) => match key(&session) {
                Ok(key) => return push::serve(session, key, options, node).await,
                Err(text) => Err(text),
            },
            Ok(Command::StartReplication(options)) => match find(&session, &node).await {
                Ok(timeline) => {
                    return replication::serve(session, timeline, options, node).await;
                }
                Err(text) => Err(text),
            },
            Ok(command) => answer(&mut session, &node, &command).await,
            Err(text) => Err(text),
        };
        if let Err(text) = result {
            session.error(INTERNAL_ERROR, &text);
        }
        session.ready().await?;
    }
}

fn key(session: &Session) -> Result<TimelineKey, String> {
    let ids = Ids::parse(session.startup()).map_err(|error| error.to_string())?;
    ids.key()
}

async fn find(session: &Session, node: &Node) -> Result<super::timeline::Timeline, String> {
    let key = key(session)?;
    node.registry
        .find(key)
        .await
        .map_err(|absent| chain(&absent))
}

async fn answer(session: &mut Session, node: &Node, command: &Command) -> Result<(), String> {
    match command {
        Command::TimelineStatus => timeline_status(session, node).await,
        Command::IdentifySystem => identify_system(session, node).await,
        _ => {
            session.complete("SELECT 1");
            Ok(())
        }
    }
}

/// One row, or none for a timeline that does not exist.
async fn timeline_status(session: &mut Session, node: &Node) -> Result<(), String> {
    let key = key(session)?;
    let rows = match node.registry.find(key).await {
        Ok(timeline) => {
            let status = timeline.status();
            let row = [status.flush_lsn, status.control.commit_lsn];
            vec![row.map(|lsn| Some(lsn.to_string())).to_vec()]
        }
        Err(Absent::NotFound(_)) => vec![],
        Err(other) => return Err(chain(&other)),
    };
    let columns = [Column::text("flush_lsn"), Column::text("commit_lsn")];
    session.rows(&columns, &rows, "TIMELINE_STATUS");
    Ok(())
}

async fn identify_system(session: &mut Session, node: &Node) -> Result<(), String> {
    let status = find(session, node).await?.status();
    let application = session
        .startup()
        .parameter("application_name")
        .unwrap_or_default();
    let recovers = application == "wal_proposer_recovery" || application.starts_with("safekeeper");
    let position: Lsn = if recovers {
        status.flush_lsn
    } else {
        status.control.commit_lsn
    };
    let columns = [
        Column::text("systemid"),
        Column::int4("timeline"),
        Column::text("xlogpos"),
        Column::text("dbname"),
    ];
    let row = vec![
        Some(status.control.server.system_id.to_string()),
        Some("1".to_owned()),
        Some(position.to_string()),
        None,
    ];
    session.rows(&columns, &[row], "IDENTIFY_SYSTEM");
    Ok(())
}
