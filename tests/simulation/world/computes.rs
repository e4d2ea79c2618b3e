//! Computes: their proposers, their postgres, and how they come and go.

use bytes::Bytes;
use glowplug::lsn::Lsn;
use glowplug::safekeeper::proposer::{Failure, Input, Output, Source, Synced};
use glowplug::wire::safekeeper::ProposerMessage;

use super::{Event, World, node_of};
use crate::compute::{Compute, Fetch};
use crate::network::Ends;
use crate::oracle::Verdict;

/// Most WAL that a compute writes ahead of what is committed, in bytes.
const UNCOMMITTED: u64 = 8000;
/// A segment of which less is left may be switched: zeros are WAL, too.
const SWITCHABLE: u64 = 30_000;

impl World {
    pub(super) fn compute(&mut self, index: usize, life: u64) -> Option<&mut Compute> {
        let compute = self.computes[index].as_mut();
        compute.filter(|compute| compute.life == life)
    }

    pub(super) fn input(&mut self, index: usize, life: u64, input: Input) -> Verdict {
        let now = self.instant(index);
        if let Some(compute) = self.compute(index, life) {
            compute.proposer.handle(now, input);
        }
        self.pump(index, life)
    }

    /// Carries out what the proposer wants, hands in WAL, sends what it has to say.
    fn pump(&mut self, index: usize, life: u64) -> Verdict {
        let now = self.instant(index);
        loop {
            while let Some(output) = self
                .compute(index, life)
                .and_then(|compute| compute.proposer.poll_output())
            {
                self.perform(index, life, output)?;
            }
            if !self.feed(index, life) {
                break;
            }
        }
        let Some(compute) = self.compute(index, life) else {
            return Ok(());
        };
        for (slot, id) in compute.connections.clone() {
            while let Some(message) = self
                .compute(index, life)
                .and_then(|compute| compute.proposer.poll_message(now, slot))
            {
                self.send_to_node(id, message)?;
            }
        }
        self.note_commit(index, life)?;
        self.note_end(index, life)?;
        self.wake_when_due(index, life);
        Ok(())
    }

    fn wake_when_due(&mut self, index: usize, life: u64) {
        let (epoch, now, ahead) = (self.epoch, self.now, self.clocks[index]);
        let Some(compute) = self.compute(index, life) else {
            return;
        };
        let Some(deadline) = compute.proposer.deadline() else {
            return;
        };
        let due = deadline.saturating_duration_since(epoch).as_micros() as u64 + 1;
        let due = due.saturating_sub(ahead).max(now + 1);
        if compute.wakes_at.is_none_or(|at| at > due || at <= now) {
            compute.wakes_at = Some(due);
            self.at(due, Event::Wake(index, life));
        }
    }

    pub(super) fn wake(&mut self, index: usize, life: u64) -> Verdict {
        let now = self.instant(index);
        let Some(compute) = self.compute(index, life) else {
            return Ok(());
        };
        compute.wakes_at = None;
        if compute
            .proposer
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            return self.input(index, life, Input::Deadline);
        }
        self.wake_when_due(index, life);
        Ok(())
    }

    fn perform(&mut self, index: usize, life: u64, output: Output) -> Verdict {
        self.trace(|| format!("proposer {life}: {output:?}"));
        match output {
            Output::Connect {
                slot,
                endpoint,
                greeting,
                ..
            } => {
                let id = self.network.connect(Ends {
                    compute: index,
                    life,
                    slot,
                    node: node_of(&endpoint),
                });
                if let Some(compute) = self.compute(index, life) {
                    compute.connections.insert(slot, id);
                }
                let greeting = ProposerMessage::Greeting(*greeting);
                self.send_to_node(id, greeting)?;
            }
            Output::Disconnect(slot) => {
                let id = self
                    .compute(index, life)
                    .and_then(|c| c.connections.remove(&slot));
                if let Some(id) = id {
                    self.hang_up(id);
                }
            }
            Output::Fetch {
                slot,
                from,
                until,
                source,
            } => {
                self.statistics.count(match source {
                    Source::Donor { .. } => "fetched from donor",
                    Source::Local => "fetched locally",
                });
                let fetch = Fetch {
                    position: from,
                    until,
                    source,
                };
                if let Some(compute) = self.compute(index, life) {
                    compute.fetches.insert(slot, fetch);
                }
                let delay = self.delay();
                self.after(delay, Event::Fetch(index, life, slot));
            }
            Output::StopFetch(slot) => {
                if let Some(compute) = self.compute(index, life) {
                    compute.fetches.remove(&slot);
                }
            }
            Output::Elected {
                term,
                term_start_lsn,
            } => {
                self.statistics.count("elected");
                if let Some(compute) = self.compute(index, life) {
                    compute.term_start_lsn = term_start_lsn;
                }
                self.oracle.elected(term, life, term_start_lsn)?;
            }
            Output::Finished(result) => {
                if let Some(compute) = self.compute(index, life) {
                    compute.finished = Some(result);
                }
            }
        }
        Ok(())
    }

    /// Hands in WAL of the local postgres, in a piece that ends anywhere; false if
    /// there is none, or no room for it.
    fn feed(&mut self, index: usize, life: u64) -> bool {
        let now = self.instant(index);
        let size = self.random.within(1..1500);
        let Some(compute) = self.compute(index, life) else {
            return false;
        };
        let Some(log) = &compute.log else {
            return false;
        };
        let start_lsn = compute.proposer.wal_position();
        let end = log.end().min(Lsn(start_lsn.0 + size));
        if end <= start_lsn || !compute.proposer.wants_wal() {
            return false;
        }
        let wal = Bytes::copy_from_slice(log.read(start_lsn, end));
        compute.proposer.handle(now, Input::Wal { start_lsn, wal });
        compute.proposer.wal_position() > start_lsn
    }

    /// Postgres writes a record.
    pub(super) fn write(&mut self, index: usize, life: u64) -> Verdict {
        let size = match self.random.within(0..20) {
            0 => self.random.within(1000..9000),
            1..4 => self.random.within(16..300),
            // Mostly of one size, so that different writers' records end alike.
            _ => 40,
        };
        let delay = self.random.within(200..8000);
        let switches = self.random.one_in(4);
        let compute = self.computes[index].as_mut();
        let Some(compute) = compute.filter(|compute| compute.life == life) else {
            return Ok(());
        };
        if let Some(log) = &mut compute.log
            && log.end().bytes_since(compute.committed.max(log.start)) < UNCOMMITTED
        {
            compute.records += 1;
            if switches && log.left_in_segment() < SWITCHABLE {
                log.switch_segment();
                self.statistics.count("segment switched");
            } else {
                log.append(life, compute.records, size as usize);
            }
            self.oracle.write(life, log);
        }
        self.after(delay, Event::Write(index, life));
        self.pump(index, life)
    }

    fn note_commit(&mut self, index: usize, life: u64) -> Verdict {
        let false_commit = self.false_commit(index);
        let Some(compute) = self.compute(index, life) else {
            return Ok(());
        };
        let Some(term) = compute.proposer.leading_term() else {
            return Ok(());
        };
        let commit_lsn = compute.proposer.commit_lsn().max(false_commit);
        if commit_lsn <= compute.committed {
            return Ok(());
        }
        let generation = compute.generation;
        compute.committed = commit_lsn;
        let mut sets = self.controller.sets(generation);
        if sets.is_empty() {
            sets.push(self.oracle.entrusted().collect());
        }
        self.trace(|| format!("proposer {life}: committed {commit_lsn} by {sets:?}"));
        self.statistics.count("committed");
        self.oracle.commit(term, commit_lsn, sets)
    }

    fn note_end(&mut self, index: usize, life: u64) -> Verdict {
        let Some(compute) = self.compute(index, life) else {
            return Ok(());
        };
        let before = compute.committed_before;
        match compute.finished.take() {
            None => Ok(()),
            Some(Ok(synced)) => self.take_over(index, before, synced),
            Some(Err(failure)) => {
                let diverged = matches!(failure, Failure::Diverged { .. });
                if diverged && self.oracle.is_alone(life) {
                    return Err(format!(
                        "proposer {life} gives up, although it is alone: {failure}"
                    ));
                }
                self.statistics.count(match failure {
                    Failure::NewerTerm { .. } => "fenced",
                    Failure::Diverged { .. } => "diverged",
                    Failure::Contended { .. } => "contended",
                    other => return Err(format!("proposer {life} gives up: {other}")),
                });
                let pause = self.random.within(1000..300_000);
                self.kill(index);
                self.after(pause, Event::StartCompute(index));
                Ok(())
            }
        }
    }

    /// A sync has ended: postgres starts from there.
    fn take_over(&mut self, index: usize, before: Lsn, synced: Synced) -> Verdict {
        let kind = if synced.by_votes_alone {
            "synced by votes"
        } else {
            "synced in full"
        };
        self.statistics.count(kind);
        let is_new = !synced.commit_lsn.is_valid();
        let end = if is_new {
            self.start
        } else {
            synced.commit_lsn
        };
        if end < before {
            return Err(format!(
                "a sync ends at {end}, although {before} was committed before it"
            ));
        }
        let Some(log) = self.oracle.committed_until(end) else {
            return Err(format!("a sync ends at {end}, which is not committed"));
        };
        self.kill(index);
        self.lives += 1;
        let life = self.lives;
        self.oracle.write(life, &log);
        let compute = Compute::streaming(life, self.endpoints.clone(), self.instant(index), log);
        self.computes[index] = Some(compute);
        self.after(500, Event::Write(index, life));
        self.pump(index, life)
    }

    pub(super) fn start_compute(&mut self, index: usize) -> Verdict {
        if self.computes[index].is_some() || (index > 0 && !self.faulty) {
            return Ok(());
        }
        self.lives += 1;
        let life = self.lives;
        let mut compute = Compute::syncing(life, self.endpoints.clone(), self.instant(index));
        compute.committed_before = self.oracle.committed_end();
        self.computes[index] = Some(compute);
        self.pump(index, life)
    }

    /// The spec has changed; each compute learns it in its own time.
    pub(super) fn tell_endpoints(&mut self) {
        for index in 0..self.computes.len() {
            let delay = self
                .random
                .within(1..if self.faulty { 150_000 } else { 2000 });
            self.after(delay, Event::Endpoints(index));
        }
    }

    /// The order of the list means nothing.
    pub(super) fn learn_endpoints(&mut self, index: usize) -> Verdict {
        let mut list = self.endpoints.clone();
        for last in (1..list.endpoints.len()).rev() {
            let other = self.random.within(0..last as u64 + 1) as usize;
            list.endpoints.swap(last, other);
        }
        let Some(compute) = &self.computes[index] else {
            return Ok(());
        };
        let life = compute.life;
        if compute.log.is_none() {
            // A start that is under way begins anew.
            self.kill(index);
            return self.start_compute(index);
        }
        self.statistics.count("list changed");
        self.trace(|| format!("proposer {life} learns of {list:?}"));
        self.input(index, life, Input::Endpoints(list))
    }

    /// What it has sent may still arrive.
    pub(super) fn kill(&mut self, index: usize) {
        if let Some(compute) = self.computes[index].take() {
            for id in compute.connections.into_values() {
                self.hang_up(id);
            }
        }
    }
}
