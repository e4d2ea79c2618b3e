//! The file that holds what an acceptor must not forget.
//!
//! One line names the format and a CRC-32C of the rest, which is JSON: a person can
//! read it, and a damaged one is noticed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, files};
use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::storage::acceptor::{ControlState, ServerInfo};
use crate::storage::membership::MembershipDocument;
use crate::wire::safekeeper::{TermHistory, TermLsn};

const NAME: &str = "safekeeper.control";
const MAGIC: &str = "glowplug safekeeper 1";
/// Far above any real one: a history of a million terms.
const MAX_SIZE: u64 = 64 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Document {
    tenant_id: TenantId,
    timeline_id: TimelineId,
    membership: MembershipDocument,
    term: u64,
    term_history: Vec<(u64, Lsn)>,
    pg_version: u32,
    system_id: u64,
    wal_segment_size: u32,
    timeline_start_lsn: Lsn,
    local_start_lsn: Lsn,
    commit_lsn: Lsn,
    peer_horizon_lsn: Lsn,
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// Replaces the control file as a whole.
pub(super) fn write(dir: &Path, control: &ControlState, fsync: bool) -> Result<(), Error> {
    let path = path(dir);
    let temporary = path.with_extension("control.new");
    let made = File::create(&temporary);
    let mut file = made.map_err(files::failed("make", &temporary))?;
    let written = file.write_all(encode(control).as_bytes());
    written.map_err(files::failed("write", &temporary))?;
    if fsync {
        file.sync_all().map_err(files::failed("sync", &temporary))?;
    }
    files::rename(&temporary, &path, fsync)
}

/// Reads the control file.
pub(super) fn read(dir: &Path) -> Result<ControlState, Error> {
    let path = path(dir);
    let length = fs::metadata(&path)
        .map_err(files::failed("read", &path))?
        .len();
    let damaged = |problem: String| Error::Damaged {
        path: path.clone(),
        problem,
    };
    if length > MAX_SIZE {
        return Err(damaged(format!("{length} bytes long")));
    }
    let bytes = fs::read(&path).map_err(files::failed("read", &path))?;
    decode(&bytes).map_err(damaged)
}

fn encode(control: &ControlState) -> String {
    let history = control.term_history.0.iter();
    let document = Document {
        tenant_id: control.tenant_id,
        timeline_id: control.timeline_id,
        membership: (&control.membership).into(),
        term: control.term,
        term_history: history.map(|entry| (entry.term, entry.lsn)).collect(),
        pg_version: control.server.pg_version,
        system_id: control.server.system_id,
        wal_segment_size: control.server.wal_segment_size,
        timeline_start_lsn: control.timeline_start_lsn,
        local_start_lsn: control.local_start_lsn,
        commit_lsn: control.commit_lsn,
        peer_horizon_lsn: control.peer_horizon_lsn,
    };
    #[expect(
        clippy::expect_used,
        reason = "a struct of numbers and texts always serializes"
    )]
    let body = serde_json::to_string_pretty(&document).expect("a plain struct serializes");
    format!("{MAGIC} {:08x}\n{body}\n", crc32c::crc32c(body.as_bytes()))
}

/// Reads the content of a control file.
///
/// # Errors
///
/// What is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<ControlState, String> {
    let text = str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
    let (head, body) = text.split_once('\n').ok_or("it has no second line")?;
    let body = body.strip_suffix('\n').ok_or("its end is missing")?;
    let checksum = head
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.strip_prefix(' '))
        .ok_or_else(|| format!("it does not begin with '{MAGIC}'"))?;
    if checksum != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
        return Err("its checksum does not fit".to_owned());
    }
    let document: Document = serde_json::from_str(body).map_err(|error| error.to_string())?;
    let entry = |(term, lsn)| TermLsn { term, lsn };
    Ok(ControlState {
        tenant_id: document.tenant_id,
        timeline_id: document.timeline_id,
        membership: document.membership.into(),
        term: document.term,
        term_history: TermHistory(document.term_history.into_iter().map(entry).collect()),
        server: ServerInfo {
            pg_version: document.pg_version,
            system_id: document.system_id,
            wal_segment_size: document.wal_segment_size,
        },
        timeline_start_lsn: document.timeline_start_lsn,
        local_start_lsn: document.local_start_lsn,
        commit_lsn: document.commit_lsn,
        peer_horizon_lsn: document.peer_horizon_lsn,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::safekeeper::{Member, Membership};

    fn control(numbers: [u64; 7], history: Vec<(u64, u64)>) -> ControlState {
        let member = Member {
            node_id: numbers[0],
            host: "sk-1".to_owned(),
            pg_port: 5454,
        };
        let entry = |(term, lsn)| TermLsn {
            term,
            lsn: Lsn(lsn),
        };
        ControlState {
            tenant_id: TenantId([1; 16]),
            timeline_id: TimelineId([2; 16]),
            membership: Membership {
                generation: 3,
                members: vec![member.clone()],
                new_members: vec![member],
            },
            term: numbers[1],
            term_history: TermHistory(history.into_iter().map(entry).collect()),
            server: ServerInfo {
                pg_version: 150_020,
                system_id: numbers[2],
                wal_segment_size: 16 * 1024 * 1024,
            },
            timeline_start_lsn: Lsn(numbers[3]),
            local_start_lsn: Lsn(numbers[4]),
            commit_lsn: Lsn(numbers[5]),
            peer_horizon_lsn: Lsn(numbers[6]),
        }
    }

    proptest! {
        #[test]
        fn state_round_trips(numbers: [u64; 7], history in prop::collection::vec(any::<(u64, u64)>(), 0..5)) {
            let control = control(numbers, history);
            prop_assert_eq!(decode(encode(&control).as_bytes()), Ok(control));
        }

        #[test]
        fn any_changed_byte_is_noticed(at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut bytes = encode(&control([7; 7], vec![(1, 2)])).into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&bytes).is_err());
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let text = encode(&control([7; 7], vec![(1, 2)]));
        for end in 0..text.len() {
            assert!(decode(&text.as_bytes()[..end]).is_err(), "{end}");
        }
    }
}
