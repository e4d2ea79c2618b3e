//! Serves one client of the page service: reads its commands and answers them.
//!
//! Upstream: `pageserver/src/page_service.rs`.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::net::TcpStream;
use tracing::{debug, info};

use super::backup::{self, Backup, Kind, Sent};
use super::command::Command;
use super::node::Node;
use super::pagestream;
use crate::error::chain;
use crate::id::{TenantId, TenantShardId, TimelineId};
use crate::lsn::Lsn;
use crate::storage::pgwire_server::{Column, Error, Session};
use crate::storage::timelines::Timeline;

/// How long a granted lease lasts, in milliseconds (`lsn_lease_length`).
pub(super) const LEASE_MS: u64 = 10 * 60 * 1000;

/// SQLSTATE of nearly every error (`internal_error`).
pub(super) const INTERNAL_ERROR: &str = "XX000";

/// Why a command is not carried out: what the client is told.
pub(super) struct Refusal(pub(super) String);

impl Refusal {
    fn not_found() -> Self {
        Self("not found".to_owned())
    }
}

/// What a connection remembers between its commands.
pub(super) struct Connection {
    pub(super) node: Arc<Node>,
    /// The first tenant that was asked for, found or not: the only one from then on.
    tenant_id: Option<TenantId>,
}

/// Serves a client until it leaves.
pub(super) async fn serve(node: Arc<Node>, stream: TcpStream) {
    node.knobs.unpaused().await;
    let mut connection = Connection {
        node,
        tenant_id: None,
    };
    let config = &connection.node.server;
    let ended = match Session::accept(stream, config).await {
        Ok(Some(session)) => connection.run(session).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        debug!(error = chain(&error), "a client is gone");
    }
}

impl Connection {
    async fn run(&mut self, mut session: Session) -> Result<(), Error> {
        loop {
            let Some(query) = session.next_query().await? else {
                return Ok(());
            };
            self.node.knobs.unpaused().await;
            debug!(peer = %session.peer(), query, "a command");
            match self.answer(session, &query).await? {
                Some(next) => session = next,
                None => return Ok(()),
            }
            session.ready().await?;
        }
    }

    /// Answers a command; `None` if the connection is to be closed.
    async fn answer(
        &mut self,
        mut session: Session,
        query: &str,
    ) -> Result<Option<Session>, Error> {
        let refused = match Command::parse(query) {
            Err(text) => Refusal(text),
            Ok(Command::Set) => {
                session.complete("SELECT 1");
                return Ok(Some(session));
            }
            Ok(Command::Pagestream {
                version,
                tenant_id,
                timeline_id,
            }) => {
                self.count(&format!("PageStream{version:?}"));
                let stream = pagestream::Stream {
                    version,
                    tenant_id,
                    timeline_id,
                };
                return pagestream::serve(self, session, &stream).await;
            }
            Ok(Command::LeaseLsn {
                shard,
                timeline_id,
                lsn,
            }) => match self.lease(shard, timeline_id, lsn) {
                Ok(valid_until) => {
                    let columns = [Column::text("valid_until")];
                    session.rows(&columns, &[vec![valid_until]], "SELECT 1");
                    return Ok(Some(session));
                }
                Err(refusal) => refusal,
            },
            Ok(command @ (Command::Basebackup { .. } | Command::Fullbackup { .. })) => {
                match self.prepare(&command).await {
                    Ok(backup) => return self.back_up(session, backup).await,
                    Err(refusal) => refusal,
                }
            }
        };
        session.error(INTERNAL_ERROR, &refused.0);
        Ok(Some(session))
    }

    /// Finds what a backup is to be made of, and waits for its LSN.
    async fn prepare(&mut self, command: &Command) -> Result<Backup, Refusal> {
        let (kind, name, tenant_id, timeline_id, lsn, given_prev, gzip) = match *command {
            Command::Basebackup {
                tenant_id,
                timeline_id,
                lsn,
                gzip,
                ..
            } => (
                Kind::Basebackup,
                "Basebackup",
                tenant_id,
                timeline_id,
                lsn,
                None,
                gzip,
            ),
            Command::Fullbackup {
                tenant_id,
                timeline_id,
                lsn,
                prev_lsn,
                gzip,
            } => (
                Kind::Full,
                "Fullbackup",
                tenant_id,
                timeline_id,
                lsn,
                prev_lsn,
                gzip,
            ),
            _ => return Err(Refusal("not a backup".to_owned())),
        };
        self.count(name);
        if self.node.knobs.take_refusal() {
            return Err(Refusal("an injected fault".to_owned()));
        }
        let timeline = self.shard_zero(tenant_id, timeline_id)?;
        let lsn = lsn.unwrap_or_else(|| timeline.end().last_record_lsn);
        let waited = timeline.wait_for(lsn, self.node.wait_lsn_timeout).await;
        let end = waited.map_err(|error| Refusal(error.to_string()))?;
        let base = timeline.base_for(lsn).ok_or_else(|| {
            Refusal(format!(
                "invalid basebackup lsn: LSN {lsn} is earlier than latest GC cutoff {} (we \
                 might've already garbage collected needed data)",
                timeline.oldest_lsn()
            ))
        })?;
        let prev_lsn = Backup::prev_lsn_at(lsn, &base, &end);
        if let (Some(known), Some(given)) = (prev_lsn, given_prev)
            && known != given
        {
            let text = format!("backup_prev {known} != provided_prev_lsn {given}");
            return Err(Refusal(text));
        }
        Ok(Backup {
            kind,
            timeline,
            base,
            lsn,
            prev_lsn: prev_lsn.or(given_prev),
            gzip,
        })
    }

    async fn back_up(
        &mut self,
        mut session: Session,
        backup: Backup,
    ) -> Result<Option<Session>, Error> {
        let started = Instant::now();
        let (kind, lsn) = (backup.kind, backup.lsn);
        let fault = self.node.knobs.take_backup_fault();
        let sent = backup::send(&mut session, backup, fault).await;
        let result = match sent {
            Ok(Sent::Whole) => "ok",
            Ok(Sent::Failed | Sent::Close) => "error",
            Err(_) => "client_error",
        };
        if kind == Kind::Basebackup {
            let seconds = &self.node.metrics.backup_seconds;
            seconds
                .with_label_values(&[result])
                .observe(started.elapsed().as_secs_f64());
        }
        info!(?kind, %lsn, result, elapsed = ?started.elapsed(), "sent a backup");
        Ok((sent? != Sent::Close).then_some(session))
    }

    /// Until when an LSN is kept, in milliseconds since 1970; `None` if it is gone.
    fn lease(
        &mut self,
        shard: TenantShardId,
        timeline_id: TimelineId,
        lsn: Lsn,
    ) -> Result<Option<String>, Refusal> {
        self.count("LeaseLsn");
        let tenant_id = shard.tenant_id;
        self.pin(tenant_id)?;
        if !self.node.locations.serves(shard) {
            self.node.metrics.misrouted.inc();
            return Err(Refusal(format!("Not found: Tenant {tenant_id} not found")));
        }
        let timeline = self.node.timelines.find(tenant_id, timeline_id);
        let timeline =
            timeline.ok_or_else(|| Refusal(timeline_not_found(tenant_id, timeline_id)))?;
        // Nothing is ever collected, so that a lease need not be remembered.
        let kept = lsn.align_up().skip_page_header() >= timeline.oldest_lsn();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let until = now.unwrap_or_default().as_millis() + u128::from(LEASE_MS);
        Ok(kept.then(|| until.to_string()))
    }

    /// The timeline, if shard 0 of the tenant is here.
    fn shard_zero(
        &mut self,
        tenant_id: TenantId,
        timeline_id: TimelineId,
    ) -> Result<Arc<Timeline>, Refusal> {
        self.pin(tenant_id)?;
        if self.node.locations.shard_zero(tenant_id).is_none() {
            self.node.metrics.misrouted.inc();
            return Err(Refusal::not_found());
        }
        let timeline = self.node.timelines.find(tenant_id, timeline_id);
        timeline.ok_or_else(Refusal::not_found)
    }

    /// Ties the connection to a tenant.
    pub(super) fn pin(&mut self, tenant_id: TenantId) -> Result<(), Refusal> {
        if *self.tenant_id.get_or_insert(tenant_id) == tenant_id {
            Ok(())
        } else {
            Err(Refusal("reconnect to switch tenant id".to_owned()))
        }
    }

    fn count(&self, command: &str) {
        let commands = &self.node.metrics.commands;
        commands.with_label_values(&[command]).inc();
    }
}

pub(super) fn timeline_not_found(tenant_id: TenantId, timeline_id: TimelineId) -> String {
    format!("Not found: Timeline {tenant_id}/{timeline_id} was not found")
}
