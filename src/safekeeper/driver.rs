//! Carries out what a [`Proposer`] decides: connects, sends, reads back WAL, and
//! hands in what arrives and when. Contains no decision of its own.

use std::collections::BTreeMap;
use std::time::Instant;

use tracing::{debug, info, warn};

use super::address::Introduction;
use super::fetch::{FetchEvent, Fetches};
use super::link::{LinkEvent, Links};
use super::proposer::{
    ConfigError, Endpoints, Failure, Input, Loss, Output, Proposer, ProposerConfig, Slot, Synced,
};
use crate::pgwire::ConnectConfig;

/// A proposer and its connections.
pub(super) struct Driver {
    pub(super) proposer: Proposer,
    links: Links,
    fetches: Fetches,
    finished: Option<Result<Synced, Failure>>,
    /// What was last logged of a safekeeper that is away: it is tried again and
    /// again, and told of once.
    away: BTreeMap<Slot, Loss>,
}

/// Something for the proposer.
pub(super) enum Event {
    Link(LinkEvent),
    Fetch(FetchEvent),
    Deadline,
}

impl Driver {
    pub(super) fn new(
        config: ProposerConfig,
        list: Endpoints,
        introduction: Introduction,
        local: Option<ConnectConfig>,
    ) -> Result<Self, ConfigError> {
        let proposer = Proposer::new(config, list, Instant::now(), rand::random())?;
        Ok(Self {
            proposer,
            links: Links::new(introduction.clone()),
            fetches: Fetches::new(introduction, local),
            finished: None,
            away: BTreeMap::new(),
        })
    }

    /// Carries out all that is to be done, and buffers messages for every
    /// connection with room. The result, once there is one.
    pub(super) fn pump(&mut self) -> Option<&Result<Synced, Failure>> {
        let now = Instant::now();
        while let Some(output) = self.proposer.poll_output() {
            self.perform(output);
        }
        for index in 0..self.proposer.peer_count() {
            let slot = Slot(index);
            while self.links.has_room(slot) {
                let Some(message) = self.proposer.poll_message(now, slot) else {
                    break;
                };
                self.links.send(slot, &message);
            }
        }
        self.finished.as_ref()
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Connect {
                slot,
                endpoint,
                greeting,
                may_create_timeline,
            } => {
                debug!(safekeeper = endpoint, "connecting");
                self.links
                    .open(slot, endpoint, *greeting, may_create_timeline);
            }
            Output::Disconnect(slot) => self.links.close(slot),
            Output::Fetch {
                slot,
                from,
                until,
                source,
            } => {
                let safekeeper = self.endpoint(slot);
                info!(safekeeper, %from, %until, ?source, "reading WAL back for a safekeeper that lags");
                self.fetches.start(slot, from, until, source);
            }
            Output::StopFetch(slot) => self.fetches.stop(slot),
            Output::Elected {
                term,
                term_start_lsn,
            } => info!(term, %term_start_lsn, "elected"),
            Output::Finished(result) => self.finished = Some(result),
        }
    }

    /// Waits for something to happen. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        let deadline = self.proposer.deadline().map(tokio::time::Instant::from_std);
        let due = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let proposer = &self.proposer;
        tokio::select! {
            event = self.links.next() => Event::Link(event),
            event = self.fetches.next(|slot| proposer.wants_fetched(slot)) => Event::Fetch(event),
            () = due => Event::Deadline,
        }
    }

    /// Hands in what happened.
    pub(super) fn handle(&mut self, event: Event) {
        let input = match event {
            Event::Link(LinkEvent::Received(slot, message)) => {
                if self.away.remove(&slot).is_some() {
                    info!(safekeeper = self.endpoint(slot), "safekeeper answers");
                }
                Input::Received(slot, message)
            }
            Event::Link(LinkEvent::Lost(slot, loss)) => {
                if self.away.get(&slot) != Some(&loss) {
                    warn!(safekeeper = self.endpoint(slot), "no connection: it {loss}");
                    self.away.insert(slot, loss.clone());
                }
                Input::Lost(slot, loss)
            }
            // There is nothing to hand in: the next pump finds the room.
            Event::Link(LinkEvent::Room) => return,
            Event::Fetch(FetchEvent::Fetched {
                slot,
                start_lsn,
                wal,
            }) => Input::Fetched {
                slot,
                start_lsn,
                wal,
            },
            Event::Fetch(FetchEvent::Failed { slot, message }) => {
                debug!(
                    safekeeper = self.endpoint(slot),
                    message, "reading WAL back failed"
                );
                Input::FetchFailed { slot, message }
            }
            Event::Deadline => Input::Deadline,
        };
        self.proposer.handle(Instant::now(), input);
    }

    /// Writes what is left, and closes all connections.
    pub(super) async fn close(&mut self) {
        self.links.finish().await;
    }

    fn endpoint(&self, slot: Slot) -> String {
        let status = self.proposer.peers().nth(slot.0);
        status.map(|status| status.endpoint).unwrap_or_default()
    }
}
