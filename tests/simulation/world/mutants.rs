//! What proposers send, hear and count as committed; those that are broken on
//! purpose do it differently.

use glowplug::lsn::Lsn;
use glowplug::safekeeper::proposer::Slot;
use glowplug::wire::safekeeper::{AcceptorMessage, ProposerMessage, TermHistory, VoteResponse};

use super::World;
use crate::bug::Bug;
use crate::compute::Compute;
use crate::network::Ends;

impl World {
    /// Takes note of a message of a proposer, and changes what its bug changes.
    pub(super) fn note_sent(&mut self, ends: Ends, message: &mut ProposerMessage) {
        let false_commit = self.false_commit(ends.compute);
        let Some(compute) = self.compute(ends.compute, ends.life) else {
            return;
        };
        match message {
            ProposerMessage::Greeting(_) => {
                compute.asked.remove(&ends.slot);
            }
            ProposerMessage::VoteRequest(request) => {
                compute.generation = request.generation;
                compute.asked.insert(ends.slot);
            }
            ProposerMessage::Elected(elected) => compute.generation = elected.generation,
            ProposerMessage::AppendRequest(append) => {
                compute.generation = append.generation;
                append.commit_lsn = append.commit_lsn.max(false_commit);
            }
        }
    }

    /// What a proposer hears when this message arrives.
    pub(super) fn hear(
        &mut self,
        ends: Ends,
        mut message: AcceptorMessage,
    ) -> Vec<(Slot, AcceptorMessage)> {
        let bug = self.bug;
        let Some(compute) = self.compute(ends.compute, ends.life) else {
            return Vec::new();
        };
        match &mut message {
            AcceptorMessage::AppendResponse(response) if bug == Some(Bug::IgnoresGeneration) => {
                response.generation = compute.generation;
            }
            AcceptorMessage::VoteResponse(response) => {
                let is_awaited = compute.asked.remove(&ends.slot);
                if bug == Some(Bug::ElectsItself) {
                    if !is_awaited {
                        return Vec::new();
                    }
                    if response.vote_given {
                        let votes = made_up_votes(compute, response);
                        return votes.chain([(ends.slot, message)]).collect();
                    }
                }
            }
            AcceptorMessage::Greeting(_) | AcceptorMessage::AppendResponse(_) => {}
        }
        vec![(ends.slot, message)]
    }

    /// What a broken proposer counts as committed.
    pub(super) fn false_commit(&self, index: usize) -> Lsn {
        let Some(compute) = &self.computes[index] else {
            return Lsn::INVALID;
        };
        let peers = compute.proposer.peers();
        match self.bug {
            Some(Bug::CommitsWithMinority) => {
                let flushed = peers.map(|peer| peer.flush_lsn);
                flushed.max().unwrap_or_default()
            }
            Some(Bug::CommitsWithOldMembers) => {
                let sets = self.controller.sets(compute.generation);
                let [old, _new] = &sets[..] else {
                    return Lsn::INVALID;
                };
                let flushed = |node: &usize| {
                    let id = Some(*node as u64 + 1);
                    let mut peers = compute.proposer.peers();
                    let peer = peers.find(|peer| peer.node_id == id);
                    let flush_lsn = peer.map_or(Lsn::INVALID, |peer| peer.flush_lsn);
                    Some(flush_lsn)
                        .filter(|lsn| *lsn >= compute.term_start_lsn)
                        .unwrap_or_default()
                };
                majority(old.iter().map(flushed).collect())
            }
            _ => Lsn::INVALID,
        }
    }
}

/// What more than half of these have.
fn majority(mut flushed: Vec<Lsn>) -> Lsn {
    flushed.sort_unstable();
    flushed[(flushed.len() - 1) / 2]
}

/// The votes of all who were asked, and have not answered.
fn made_up_votes(
    compute: &mut Compute,
    like: &VoteResponse,
) -> impl Iterator<Item = (Slot, AcceptorMessage)> + use<> {
    let vote = VoteResponse {
        flush_lsn: Lsn::INVALID,
        truncate_lsn: Lsn::INVALID,
        term_history: TermHistory::default(),
        ..like.clone()
    };
    let asked = std::mem::take(&mut compute.asked);
    asked
        .into_iter()
        .map(move |slot| (slot, AcceptorMessage::VoteResponse(vote.clone())))
}
