//! This crate's proposer against these safekeepers, over sockets.

use glowplug::lsn::Lsn;
use glowplug::safekeeper::sync::{SyncConfig, sync};
use glowplug::spec::SafekeeperSet;
use glowplug::storage::safekeeper::{Safekeeper, TimelineKey};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::proposer::Push;
use crate::transcript::START;
use crate::{LIMIT, TENANT, safekeeper_config};

const TIMELINE: &str = "71fc9bdcf086a54cd5970c5fc8a62d06";
/// Ends of records: near the start, later, and in the second segment.
const EARLY: Lsn = Lsn(0x151_2358);
const LATER: Lsn = Lsn(0x151_36F0);
const SECOND_SEGMENT: Lsn = Lsn(0x200_1FA8);

fn key() -> TimelineKey {
    TimelineKey {
        tenant_id: TENANT.parse().unwrap(),
        timeline_id: TIMELINE.parse().unwrap(),
    }
}

struct Quorum {
    nodes: Vec<Safekeeper>,
    /// Of all, also those that are down.
    endpoints: Vec<String>,
    _directory: TempDir,
}

impl Quorum {
    async fn start(size: u64) -> Self {
        let directory = TempDir::new().unwrap();
        let mut nodes = Vec::new();
        for id in 1..=size {
            let mut config = safekeeper_config(id, directory.path().join(id.to_string()));
            config.fsync = false;
            let started = Safekeeper::start(config, &CancellationToken::new()).await;
            nodes.push(started.unwrap());
        }
        Self {
            endpoints: nodes
                .iter()
                .map(|node| node.pg_addr().to_string())
                .collect(),
            nodes,
            _directory: directory,
        }
    }

    /// Gives a safekeeper WAL of one term.
    async fn fill(&self, index: usize, term: u64, end: Lsn) {
        let address = self.nodes[index].pg_addr();
        let mut push = Push::lead(address, TIMELINE, term, START).await;
        push.append(START, end).await;
        push.await_flush(end).await;
    }

    async fn sync(&self) -> Lsn {
        let config = SyncConfig {
            tenant_id: key().tenant_id,
            timeline_id: key().timeline_id,
            safekeepers: SafekeeperSet {
                generation: None,
                endpoints: self.endpoints.clone(),
            },
            access: glowplug::access::Access::default(),
            pg_version: 150_020,
            system_id: 0,
            always_elect: true,
            connect_timeout: LIMIT,
            deadline: LIMIT,
        };
        let synced = sync(&config, &CancellationToken::new()).await;
        synced.unwrap().commit_lsn
    }

    fn wal(&self, index: usize, end: Lsn) -> Vec<u8> {
        let config = self.nodes[index].config();
        let mut wal = Vec::new();
        let dir = config.dir.join(key().to_string());
        let mut reader = glowplug::storage::wal_store::WalReader::new(&dir);
        while START.0 + (wal.len() as u64) < end.0 {
            let at = Lsn(START.0 + wal.len() as u64);
            let chunk = reader.read(at, (end.0 - at.0) as usize).unwrap();
            assert!(!chunk.is_empty(), "no WAL at {at}");
            wal.extend_from_slice(&chunk);
        }
        wal
    }

    async fn all_are_at(&self, end: Lsn) -> bool {
        for node in &self.nodes {
            let status = node.timeline(key()).await.unwrap();
            if (status.flush_lsn, status.persisted_commit_lsn) != (end, end) {
                return false;
            }
        }
        true
    }

    /// All get the same log up to `end`, committed. A sync waits for a majority, and
    /// not for long for the others: the next one finds them where they were left.
    async fn assert_equal(&self, end: Lsn) {
        let all = async {
            while !self.all_are_at(end).await {
                assert_eq!(self.sync().await, end);
            }
        };
        timeout(LIMIT, all)
            .await
            .expect("a safekeeper stays behind");
        let expected = crate::transcript::wal(START, end);
        for index in 0..self.nodes.len() {
            assert!(self.wal(index, end) == expected, "safekeeper {index}");
        }
    }
}

#[tokio::test]
async fn a_new_timeline_syncs_to_nothing() {
    let quorum = Quorum::start(3).await;
    assert_eq!(quorum.sync().await, Lsn::INVALID);
}

#[tokio::test]
async fn an_empty_and_a_lagging_safekeeper_get_the_whole_log_over_a_segment() {
    // Whichever three of the five vote, one of them has the whole log.
    let quorum = Quorum::start(5).await;
    for index in 0..3 {
        quorum.fill(index, 1, SECOND_SEGMENT).await;
    }
    quorum.fill(3, 1, EARLY).await;
    assert_eq!(quorum.sync().await, SECOND_SEGMENT);
    quorum.assert_equal(SECOND_SEGMENT).await;
    assert_eq!(
        quorum.sync().await,
        SECOND_SEGMENT,
        "again, with nothing to do"
    );
}

#[tokio::test]
async fn a_longer_log_of_an_older_term_is_cut() {
    // Whichever two of the three vote, one of them has the newer term.
    let quorum = Quorum::start(3).await;
    quorum.fill(0, 1, SECOND_SEGMENT).await;
    quorum.fill(1, 2, LATER).await;
    quorum.fill(2, 2, LATER).await;
    assert_eq!(quorum.sync().await, LATER);
    quorum.assert_equal(LATER).await;
}

#[tokio::test]
async fn a_minority_that_is_down_or_silent_does_not_matter() {
    let mut quorum = Quorum::start(3).await;
    for index in 0..3 {
        quorum.fill(index, 1, LATER).await;
    }
    quorum.nodes[2].set_faults(|faults| faults.paused = true);
    assert_eq!(quorum.sync().await, LATER);
    let down = quorum.nodes.pop().unwrap();
    let config = down.stop().await;
    assert_eq!(quorum.sync().await, LATER);
    let back = Safekeeper::start(config, &CancellationToken::new()).await;
    quorum.nodes.push(back.unwrap());
    assert_eq!(quorum.sync().await, LATER);
    quorum.assert_equal(LATER).await;
}
