//! Version 3 of the protocol: big-endian, packed, one byte of tag.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, DecodeError, Elected,
    HotStandbyFeedback, MAX_APPEND_SIZE, Member, Membership, PageserverFeedback, ProposerGreeting,
    ProposerMessage, TermHistory, TermLsn, VoteRequest, VoteResponse, tag,
};
use crate::lsn::Lsn;
use crate::wire::reader::{Endian, Reader};

/// Bytes of a term history's entry, in both versions.
pub(super) const TERM_LSN_SIZE: usize = 16;
/// Node id, an empty host with its end, and a port.
const MIN_MEMBER_SIZE: usize = 8 + 1 + 2;

pub(super) fn encode_proposer(message: &ProposerMessage, out: &mut BytesMut) {
    match message {
        ProposerMessage::Greeting(m) => {
            out.put_u8(tag::GREETING);
            put_c_string(out, &m.tenant_id.to_string());
            put_c_string(out, &m.timeline_id.to_string());
            put_membership(out, &m.membership);
            out.put_u32(m.pg_version);
            out.put_u64(m.system_id);
            out.put_u32(m.wal_segment_size);
        }
        ProposerMessage::VoteRequest(m) => {
            out.put_u8(tag::VOTE);
            out.put_u32(m.generation);
            out.put_u64(m.term);
        }
        ProposerMessage::Elected(m) => {
            out.put_u8(tag::ELECTED);
            out.put_u32(m.generation);
            out.put_u64(m.term);
            out.put_u64(m.start_streaming_at.0);
            put_term_history(out, &m.term_history);
        }
        ProposerMessage::AppendRequest(m) => {
            out.reserve(45 + m.wal.len());
            out.put_u8(tag::APPEND);
            out.put_u32(m.generation);
            out.put_u64(m.term);
            out.put_u64(m.begin_lsn.0);
            out.put_u64(m.end_lsn().0);
            out.put_u64(m.commit_lsn.0);
            out.put_u64(m.truncate_lsn.0);
            out.put_slice(&m.wal);
        }
    }
}

pub(super) fn decode_proposer(body: Bytes) -> Result<ProposerMessage, DecodeError> {
    let mut r = Reader::new(body, Endian::Big);
    match r.u8("tag")? {
        tag::GREETING => Ok(ProposerMessage::Greeting(ProposerGreeting {
            tenant_id: read_id(&mut r, "tenant_id")?,
            timeline_id: read_id(&mut r, "timeline_id")?,
            membership: read_membership(&mut r)?,
            pg_version: r.u32("pg_version")?,
            system_id: r.u64("system_id")?,
            wal_segment_size: r.u32("wal_seg_size")?,
        })),
        tag::VOTE => Ok(ProposerMessage::VoteRequest(VoteRequest {
            generation: r.u32("generation")?,
            term: r.u64("term")?,
        })),
        tag::ELECTED => Ok(ProposerMessage::Elected(Elected {
            generation: r.u32("generation")?,
            term: r.u64("term")?,
            start_streaming_at: r.lsn("start_streaming_at")?,
            term_history: read_term_history(&mut r)?,
        })),
        tag::APPEND => {
            let generation = r.u32("generation")?;
            let term = r.u64("term")?;
            let begin_lsn = r.lsn("begin_lsn")?;
            let size = read_append_size(&mut r, begin_lsn)?;
            Ok(ProposerMessage::AppendRequest(AppendRequest {
                generation,
                term,
                begin_lsn,
                commit_lsn: r.lsn("commit_lsn")?,
                truncate_lsn: r.lsn("truncate_lsn")?,
                wal: r.bytes("wal", size)?,
            }))
        }
        tag => Err(DecodeError::UnknownTag { tag: tag.into() }),
    }
}

pub(super) fn encode_acceptor(message: &AcceptorMessage, out: &mut BytesMut) {
    match message {
        AcceptorMessage::Greeting(m) => {
            out.put_u8(tag::GREETING);
            out.put_u64(m.node_id);
            put_membership(out, &m.membership);
            out.put_u64(m.term);
        }
        AcceptorMessage::VoteResponse(m) => {
            out.put_u8(tag::VOTE);
            out.put_u32(m.generation);
            out.put_u64(m.term);
            out.put_u8(m.vote_given.into());
            out.put_u64(m.flush_lsn.0);
            out.put_u64(m.truncate_lsn.0);
            put_term_history(out, &m.term_history);
        }
        AcceptorMessage::AppendResponse(m) => {
            out.put_u8(tag::APPEND);
            out.put_u32(m.generation);
            out.put_u64(m.term);
            out.put_u64(m.flush_lsn.0);
            out.put_u64(m.commit_lsn.0);
            out.put_i64(m.hot_standby.timestamp);
            out.put_u64(m.hot_standby.xmin);
            out.put_u64(m.hot_standby.catalog_xmin);
            if let Some(feedback) = &m.pageserver_feedback {
                feedback.encode(out);
            }
        }
    }
}

pub(super) fn decode_acceptor(body: Bytes) -> Result<AcceptorMessage, DecodeError> {
    let mut r = Reader::new(body, Endian::Big);
    let message = match r.u8("tag")? {
        tag::GREETING => AcceptorMessage::Greeting(AcceptorGreeting {
            node_id: r.u64("node_id")?,
            membership: read_membership(&mut r)?,
            term: r.u64("term")?,
        }),
        tag::VOTE => AcceptorMessage::VoteResponse(VoteResponse {
            generation: r.u32("generation")?,
            term: r.u64("term")?,
            vote_given: r.bool("vote_given")?,
            flush_lsn: r.lsn("flush_lsn")?,
            truncate_lsn: r.lsn("truncate_lsn")?,
            term_history: read_term_history(&mut r)?,
        }),
        tag::APPEND => AcceptorMessage::AppendResponse(AppendResponse {
            generation: r.u32("generation")?,
            term: r.u64("term")?,
            flush_lsn: r.lsn("flush_lsn")?,
            commit_lsn: r.lsn("commit_lsn")?,
            hot_standby: read_hot_standby(&mut r)?,
            pageserver_feedback: read_feedback(&mut r)?,
        }),
        tag => return Err(DecodeError::UnknownTag { tag: tag.into() }),
    };
    r.finish()?;
    Ok(message)
}

/// Reads `end_lsn` and returns how many bytes of WAL there must be.
pub(super) fn read_append_size(r: &mut Reader, begin_lsn: Lsn) -> Result<usize, DecodeError> {
    let (field, offset) = ("end_lsn", r.offset());
    let end_lsn = r.lsn(field)?;
    let Some(size) = end_lsn.0.checked_sub(begin_lsn.0) else {
        let problem = "below begin_lsn";
        return Err(DecodeError::Invalid {
            field,
            offset,
            problem,
        });
    };
    if size > MAX_APPEND_SIZE as u64 {
        return Err(DecodeError::TooLarge {
            field: "WAL of an AppendRequest",
            offset,
            value: size,
            limit: MAX_APPEND_SIZE as u64,
        });
    }
    Ok(size as usize)
}

pub(super) fn read_hot_standby(r: &mut Reader) -> Result<HotStandbyFeedback, DecodeError> {
    Ok(HotStandbyFeedback {
        timestamp: r.i64("hot_standby.timestamp")?,
        xmin: r.u64("hot_standby.xmin")?,
        catalog_xmin: r.u64("hot_standby.catalog_xmin")?,
    })
}

pub(super) fn read_feedback(r: &mut Reader) -> Result<Option<PageserverFeedback>, DecodeError> {
    if r.remaining() == 0 {
        return Ok(None);
    }
    PageserverFeedback::read(r).map(Some)
}

pub(super) fn read_term_history(r: &mut Reader) -> Result<TermHistory, DecodeError> {
    let count = r.count("term_history.count", TERM_LSN_SIZE)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(TermLsn {
            term: r.u64("term_history.term")?,
            lsn: r.lsn("term_history.lsn")?,
        });
    }
    Ok(TermHistory(entries))
}

fn put_term_history(out: &mut BytesMut, history: &TermHistory) {
    out.reserve(4 + history.0.len() * TERM_LSN_SIZE);
    out.put_u32(history.0.len() as u32);
    for entry in &history.0 {
        out.put_u64(entry.term);
        out.put_u64(entry.lsn.0);
    }
}

fn read_id<T: std::str::FromStr>(r: &mut Reader, field: &'static str) -> Result<T, DecodeError> {
    let offset = r.offset();
    let invalid = |_| DecodeError::Invalid {
        field,
        offset,
        problem: "not 32 hex digits",
    };
    r.c_string(field)?.parse().map_err(invalid)
}

fn put_membership(out: &mut BytesMut, membership: &Membership) {
    out.put_u32(membership.generation);
    put_members(out, &membership.members);
    put_members(out, &membership.new_members);
}

fn put_members(out: &mut BytesMut, members: &[Member]) {
    out.put_u32(members.len() as u32);
    for member in members {
        out.put_u64(member.node_id);
        put_c_string(out, &member.host);
        out.put_u16(member.pg_port);
    }
}

fn put_c_string(out: &mut BytesMut, text: &str) {
    out.extend(text.bytes().map(|byte| if byte == 0 { b'?' } else { byte }));
    out.put_u8(0);
}

fn read_membership(r: &mut Reader) -> Result<Membership, DecodeError> {
    let generation = r.u32("membership.generation")?;
    let offset = r.offset();
    let members = read_members(r, "membership.members")?;
    if generation != 0 && members.is_empty() {
        return Err(DecodeError::Invalid {
            field: "membership.members",
            offset,
            problem: "empty, although the configuration has a generation",
        });
    }
    Ok(Membership {
        generation,
        members,
        new_members: read_members(r, "membership.new_members")?,
    })
}

fn read_members(r: &mut Reader, field: &'static str) -> Result<Vec<Member>, DecodeError> {
    let offset = r.offset();
    let count = r.count(field, MIN_MEMBER_SIZE)?;
    let mut members: Vec<Member> = Vec::with_capacity(count);
    for _ in 0..count {
        let member = Member {
            node_id: r.u64("membership.node_id")?,
            host: r.c_string("membership.host")?,
            pg_port: r.u16("membership.pg_port")?,
        };
        members.push(member);
    }
    let mut ids: Vec<u64> = members.iter().map(|member| member.node_id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(DecodeError::Invalid {
            field,
            offset,
            problem: "a set that names one node twice",
        });
    }
    Ok(members)
}
