//! Version 2 of the protocol: little-endian images of C structs, eight bytes of
//! tag, no membership. Decoded messages have generation 0.

use bytes::{BufMut, Bytes, BytesMut};

use super::v3::{read_append_size, read_feedback, read_hot_standby, read_term_history};
use super::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, DecodeError, Elected,
    Membership, ProposerGreeting, ProposerMessage, TermHistory, VoteRequest, VoteResponse, tag,
};
use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;
use crate::wire::reader::{Endian, Reader};

/// `proposerId`: 16 bytes that nobody reads any more.
const NO_PROPOSER_ID: [u8; 16] = [0; 16];
/// PostgreSQL's own timeline number, which is always 1 on Neon's storage.
const TLI: u32 = 1;

pub(super) fn encode_proposer(message: &ProposerMessage, out: &mut BytesMut) {
    match message {
        ProposerMessage::Greeting(m) => {
            put_tag(out, tag::GREETING);
            out.put_u32_le(2);
            out.put_u32_le(m.pg_version);
            out.put_slice(&NO_PROPOSER_ID);
            out.put_u64_le(m.system_id);
            out.put_slice(&m.timeline_id.0);
            out.put_slice(&m.tenant_id.0);
            out.put_u32_le(TLI);
            out.put_u32_le(m.wal_segment_size);
        }
        ProposerMessage::VoteRequest(m) => {
            put_tag(out, tag::VOTE);
            out.put_u64_le(m.term);
            out.put_slice(&NO_PROPOSER_ID);
        }
        ProposerMessage::Elected(m) => {
            put_tag(out, tag::ELECTED);
            out.put_u64_le(m.term);
            out.put_u64_le(m.start_streaming_at.0);
            put_term_history(out, &m.term_history);
            let timeline_start_lsn = m.term_history.0.first().map_or(Lsn::INVALID, |e| e.lsn);
            out.put_u64_le(timeline_start_lsn.0);
        }
        ProposerMessage::AppendRequest(m) => {
            out.reserve(72 + m.wal.len());
            put_tag(out, tag::APPEND);
            out.put_u64_le(m.term);
            out.put_u64_le(0); // epochStartLsn
            out.put_u64_le(m.begin_lsn.0);
            out.put_u64_le(m.end_lsn().0);
            out.put_u64_le(m.commit_lsn.0);
            out.put_u64_le(m.truncate_lsn.0);
            out.put_slice(&NO_PROPOSER_ID);
            out.put_slice(&m.wal);
        }
    }
}

pub(super) fn decode_proposer(body: Bytes) -> Result<ProposerMessage, DecodeError> {
    let mut r = Reader::new(body, Endian::Little);
    match read_tag(&mut r)? {
        tag::GREETING => read_greeting(&mut r).map(ProposerMessage::Greeting),
        tag::VOTE => Ok(ProposerMessage::VoteRequest(VoteRequest {
            generation: 0,
            term: r.u64("term")?,
        })),
        tag::ELECTED => {
            let elected = Elected {
                generation: 0,
                term: r.u64("term")?,
                start_streaming_at: r.lsn("start_streaming_at")?,
                term_history: read_term_history(&mut r)?,
            };
            r.lsn("timeline_start_lsn")?;
            Ok(ProposerMessage::Elected(elected))
        }
        tag::APPEND => {
            let term = r.u64("term")?;
            r.lsn("epoch_start_lsn")?;
            let begin_lsn = r.lsn("begin_lsn")?;
            let size = read_append_size(&mut r, begin_lsn)?;
            let commit_lsn = r.lsn("commit_lsn")?;
            let truncate_lsn = r.lsn("truncate_lsn")?;
            r.array::<16>("proposer_id")?;
            Ok(ProposerMessage::AppendRequest(AppendRequest {
                generation: 0,
                term,
                begin_lsn,
                commit_lsn,
                truncate_lsn,
                wal: r.bytes("wal", size)?,
            }))
        }
        tag => Err(DecodeError::UnknownTag { tag: tag.into() }),
    }
}

fn read_greeting(r: &mut Reader) -> Result<ProposerGreeting, DecodeError> {
    // The safekeeper does not look at it: the option of START_WAL_PUSH counts.
    r.u32("protocol_version")?;
    let pg_version = r.u32("pg_version")?;
    r.array::<16>("proposer_id")?;
    let system_id = r.u64("system_id")?;
    let timeline_id = TimelineId(r.array("timeline_id")?);
    let tenant_id = TenantId(r.array("tenant_id")?);
    r.u32("tli")?;
    Ok(ProposerGreeting {
        tenant_id,
        timeline_id,
        membership: Membership::default(),
        pg_version,
        system_id,
        wal_segment_size: r.u32("wal_seg_size")?,
    })
}

pub(super) fn encode_acceptor(message: &AcceptorMessage, out: &mut BytesMut) {
    match message {
        AcceptorMessage::Greeting(m) => {
            put_tag(out, tag::GREETING);
            out.put_u64_le(m.term);
            out.put_u64_le(m.node_id);
        }
        AcceptorMessage::VoteResponse(m) => {
            put_tag(out, tag::VOTE);
            out.put_u64_le(m.term);
            out.put_u64_le(m.vote_given.into());
            out.put_u64_le(m.flush_lsn.0);
            out.put_u64_le(m.truncate_lsn.0);
            put_term_history(out, &m.term_history);
            out.put_u64_le(0); // timeline_start_lsn, which safekeepers no longer tell
        }
        AcceptorMessage::AppendResponse(m) => {
            put_tag(out, tag::APPEND);
            out.put_u64_le(m.term);
            out.put_u64_le(m.flush_lsn.0);
            out.put_u64_le(m.commit_lsn.0);
            out.put_i64_le(m.hot_standby.timestamp);
            out.put_u64_le(m.hot_standby.xmin);
            out.put_u64_le(m.hot_standby.catalog_xmin);
            if let Some(feedback) = &m.pageserver_feedback {
                feedback.encode(out);
            }
        }
    }
}

pub(super) fn decode_acceptor(body: Bytes) -> Result<AcceptorMessage, DecodeError> {
    let mut r = Reader::new(body, Endian::Little);
    let message = match read_tag(&mut r)? {
        tag::GREETING => {
            let term = r.u64("term")?;
            AcceptorMessage::Greeting(AcceptorGreeting {
                node_id: r.u64("node_id")?,
                membership: Membership::default(),
                term,
            })
        }
        tag::VOTE => {
            let term = r.u64("term")?;
            let vote_given = read_flag(&mut r, "vote_given")?;
            let response = VoteResponse {
                generation: 0,
                term,
                vote_given,
                flush_lsn: r.lsn("flush_lsn")?,
                truncate_lsn: r.lsn("truncate_lsn")?,
                term_history: read_term_history(&mut r)?,
            };
            r.lsn("timeline_start_lsn")?;
            AcceptorMessage::VoteResponse(response)
        }
        tag::APPEND => AcceptorMessage::AppendResponse(AppendResponse {
            generation: 0,
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

fn put_tag(out: &mut BytesMut, tag: u8) {
    out.put_u64_le(tag.into());
}

fn read_tag(r: &mut Reader) -> Result<u8, DecodeError> {
    let tag = r.u64("tag")?;
    u8::try_from(tag).map_err(|_| DecodeError::UnknownTag { tag })
}

fn read_flag(r: &mut Reader, field: &'static str) -> Result<bool, DecodeError> {
    let offset = r.offset();
    match r.u64(field)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid {
            field,
            offset,
            problem: "neither 0 nor 1",
        }),
    }
}

fn put_term_history(out: &mut BytesMut, history: &TermHistory) {
    out.put_u32_le(history.0.len() as u32);
    for entry in &history.0 {
        out.put_u64_le(entry.term);
        out.put_u64_le(entry.lsn.0);
    }
}
