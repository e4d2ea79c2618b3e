//! What the answer to a probe says of a shard: whether it is served, why not, and what
//! to do about it. Pure.

use std::fmt;
use std::time::Duration;

use crate::id::ShardIndex;

/// What a pageserver that answered said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It serves the shard.
    Serving {
        /// From connecting to the answer.
        latency: Duration,
    },
    /// It does not have the shard, or not the timeline: look for the shard elsewhere.
    Misrouted,
    /// It has the tenant's shard, but not the timeline.
    TimelineNotFound,
    /// It is shutting down.
    GoingAway,
    /// It is the right one, but what the LSN needs is gone.
    LsnCollected {
        /// What it said.
        message: String,
    },
    /// It is the right one, but cannot answer.
    Failing {
        /// What it said.
        message: String,
    },
}

/// What a probe of one shard found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardProbe {
    /// The shard.
    pub shard: ShardIndex,
    /// Id of the pageserver node, where it is known.
    pub node_id: Option<u64>,
    /// `host:port` that was asked.
    pub pageserver: String,
    /// How long it took to find out.
    pub took: Duration,
    /// What it said, or why it said nothing.
    pub answer: Result<ProbeOutcome, Unanswered>,
}

/// Why a pageserver did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// The error's category.
    pub category: &'static str,
    /// The error and its causes.
    pub text: String,
}

impl ShardProbe {
    /// Whether the pageserver serves the shard.
    pub const fn is_serving(&self) -> bool {
        matches!(self.answer, Ok(ProbeOutcome::Serving { .. }))
    }

    /// A PascalCase token: reason of a condition, label of a metric.
    pub const fn reason(&self) -> &'static str {
        match &self.answer {
            Ok(ProbeOutcome::Serving { .. }) => "Serving",
            Ok(ProbeOutcome::Misrouted) => "Misrouted",
            Ok(ProbeOutcome::TimelineNotFound) => "TimelineNotFound",
            Ok(ProbeOutcome::GoingAway) => "ShuttingDown",
            Ok(ProbeOutcome::LsnCollected { .. }) => "LsnCollected",
            Ok(ProbeOutcome::Failing { .. }) => "ServerError",
            Err(unanswered) => unanswered.category,
        }
    }

    /// What was found, for people.
    pub fn finding(&self) -> String {
        match &self.answer {
            Ok(ProbeOutcome::Serving { .. }) => "serves the shard".to_owned(),
            Ok(ProbeOutcome::Misrouted) => {
                "does not have the shard, or not the timeline".to_owned()
            }
            Ok(ProbeOutcome::TimelineNotFound) => {
                "has the tenant, but no such timeline, or it is archived".to_owned()
            }
            Ok(ProbeOutcome::GoingAway) => "is shutting down".to_owned(),
            Ok(ProbeOutcome::LsnCollected { message }) => {
                format!("no longer has what the LSN needs: {message}")
            }
            Ok(ProbeOutcome::Failing { message }) => format!("cannot answer: {message}"),
            Err(unanswered) => unanswered.text.clone(),
        }
    }

    /// What to do about it; `None` if nothing.
    pub fn advice(&self) -> Option<&'static str> {
        match &self.answer {
            Ok(ProbeOutcome::Serving { .. }) => None,
            Ok(ProbeOutcome::Misrouted) => Some(
                "the shard has moved: name the storage controller in the spec, which knows \
                 where to, or correct the shard's address",
            ),
            Ok(ProbeOutcome::TimelineNotFound) => {
                Some("check the timeline id; an archived timeline has to be unarchived first")
            }
            Ok(ProbeOutcome::GoingAway) => {
                Some("wait for it to come back, or for its shards to be moved")
            }
            Ok(ProbeOutcome::LsnCollected { .. }) => {
                Some("choose a newer LSN; only a lease keeps an old one")
            }
            Ok(ProbeOutcome::Failing { .. }) => Some("see the pageserver's log"),
            Err(unanswered) => Some(match unanswered.category {
                "AuthFailed" => "give the storage token of this tenant",
                "InvalidLocation" => "correct the shard's address in the spec",
                "Timeout" => "it may be starting or overloaded: see its log and load",
                _ => "check that the pageserver runs and can be reached from here",
            }),
        }
    }

    /// Whether the shard may be elsewhere by now: worth asking the storage controller.
    pub fn may_have_moved(&self) -> bool {
        match &self.answer {
            Ok(outcome) => matches!(outcome, ProbeOutcome::Misrouted | ProbeOutcome::GoingAway),
            Err(unanswered) => unanswered.category != "AuthFailed",
        }
    }
}

/// `shard 0102 at ps-1:6400: …; …` for the shards that are not served; empty if all are.
pub fn report(shards: &[ShardProbe]) -> String {
    let missing = shards.iter().filter(|probe| !probe.is_serving());
    let lines: Vec<_> = missing.map(ToString::to_string).collect();
    lines.join("; ")
}

impl fmt::Display for ShardProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {} at {}", self.shard, self.pageserver)?;
        if let Some(node_id) = self.node_id {
            write!(f, " (node {node_id})")?;
        }
        write!(f, ": {}", self.finding())?;
        match self.advice() {
            Some(advice) => write!(f, " ({advice})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(answer: Result<ProbeOutcome, Unanswered>) -> ShardProbe {
        ShardProbe {
            shard: ShardIndex {
                number: 1,
                count: 2,
            },
            node_id: Some(7),
            pageserver: "ps-1:6400".to_owned(),
            took: Duration::ZERO,
            answer,
        }
    }

    fn unanswered(category: &'static str) -> Result<ProbeOutcome, Unanswered> {
        Err(Unanswered {
            category,
            text: "connection refused".to_owned(),
        })
    }

    #[test]
    fn a_report_names_what_is_not_served_and_what_to_do() {
        let serving = probe(Ok(ProbeOutcome::Serving {
            latency: Duration::ZERO,
        }));
        assert_eq!(report(std::slice::from_ref(&serving)), "");
        assert_eq!(
            report(&[serving, probe(unanswered("Unreachable"))]),
            "shard 0102 at ps-1:6400 (node 7): connection refused (check that the pageserver \
             runs and can be reached from here)"
        );
    }

    #[test]
    fn only_what_may_be_elsewhere_is_looked_for() {
        assert!(probe(Ok(ProbeOutcome::Misrouted)).may_have_moved());
        assert!(probe(Ok(ProbeOutcome::GoingAway)).may_have_moved());
        assert!(probe(unanswered("Unreachable")).may_have_moved());
        assert!(!probe(unanswered("AuthFailed")).may_have_moved());
        assert!(!probe(Ok(ProbeOutcome::TimelineNotFound)).may_have_moved());
    }
}
