//! The messages of a pagestream, in protocol versions 2 and 3: how postgres, and a
//! probe, ask a pageserver for pages and sizes.
//!
//! One message is the body of one `CopyData`, all integers are big-endian. Version 3
//! adds a request id and repeats the request in its answer; version 2 answers carry
//! nothing but the answer, in the order of the requests. Layouts:
//! `libs/pageserver_api/src/pagestream_api.rs` of Neon.

#[cfg(test)]
mod tests;

use bytes::{BufMut, Bytes, BytesMut};

pub use super::DecodeError;
use super::reader::{Endian, Reader};
use crate::id::{TenantId, TimelineId};
use crate::lsn::Lsn;

/// Size of a page, in bytes (`BLCKSZ`).
pub const PAGE_SIZE: usize = 8192;

/// `request_lsn` of a request for the latest version.
pub const LATEST: Lsn = Lsn(u64::MAX);

/// Tablespace of ordinary relations (`DEFAULTTABLESPACE_OID`).
pub const DEFAULT_TABLESPACE: u32 = 1663;

mod tag {
    pub(super) const EXISTS: u8 = 0;
    pub(super) const NBLOCKS: u8 = 1;
    pub(super) const GET_PAGE: u8 = 2;
    pub(super) const DB_SIZE: u8 = 3;
    pub(super) const GET_SLRU_SEGMENT: u8 = 4;
    pub(super) const EXISTS_ANSWER: u8 = 100;
    pub(super) const NBLOCKS_ANSWER: u8 = 101;
    pub(super) const GET_PAGE_ANSWER: u8 = 102;
    pub(super) const ERROR_ANSWER: u8 = 103;
    pub(super) const DB_SIZE_ANSWER: u8 = 104;
    pub(super) const GET_SLRU_SEGMENT_ANSWER: u8 = 105;
}

/// Version of the protocol, part of the command that starts the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Without request ids.
    V2,
    /// With request ids; answers repeat their request.
    V3,
}

impl Version {
    /// The command that starts a stream of this version. The tenant is named
    /// without a shard: the server knows which shards it holds.
    pub fn command(self, tenant_id: TenantId, timeline_id: TimelineId) -> String {
        let word = match self {
            Self::V2 => "pagestream_v2",
            Self::V3 => "pagestream_v3",
        };
        format!("{word} {tenant_id} {timeline_id}")
    }
}

/// What every request starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the client; version 2 has none, it reads as 0.
    pub request_id: u64,
    /// As of when to answer; [`LATEST`] for the newest version.
    pub request_lsn: Lsn,
    /// The client knows that nothing it asks for changed after this. The server
    /// waits until it has received WAL up to here.
    pub not_modified_since: Lsn,
}

/// A fork of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelTag {
    /// Tablespace.
    pub spcnode: u32,
    /// Database.
    pub dbnode: u32,
    /// File number of the relation.
    pub relnode: u32,
    /// 0 main, 1 free space map, 2 visibility map, 3 init.
    pub forknum: u8,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// Whether a relation exists.
    Exists(RelTag),
    /// Its size in pages.
    Nblocks(RelTag),
    /// One page.
    GetPage {
        /// Of which relation.
        rel: RelTag,
        /// Which page.
        blkno: u32,
    },
    /// Size of a database in bytes.
    DbSize {
        /// The database.
        dbnode: u32,
    },
    /// A segment of a transaction status log.
    GetSlruSegment {
        /// 0 clog, 1 multixact members, 2 multixact offsets.
        kind: u8,
        /// Which segment.
        segno: u32,
    },
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What it starts with.
    pub header: Header,
    /// What it asks.
    pub query: Query,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Query::Exists`].
    Exists(bool),
    /// To [`Query::Nblocks`].
    Nblocks(u32),
    /// To [`Query::GetPage`]: [`PAGE_SIZE`] bytes.
    Page(Bytes),
    /// To [`Query::DbSize`].
    DbSize(i64),
    /// To [`Query::GetSlruSegment`]: whole pages.
    SlruSegment(Bytes),
    /// To any: the server cannot answer this request; the stream goes on.
    Error(String),
}

/// An answer, with what version 3 repeats of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Header of the request; `None` in version 2.
    pub header: Option<Header>,
    /// The request's own fields; `None` in version 2 and with an error.
    pub query: Option<Query>,
    /// The answer.
    pub answer: Answer,
}

impl Request {
    /// Appends the request to `out`, without a frame around it.
    pub fn encode(&self, version: Version, out: &mut BytesMut) {
        out.put_u8(self.query.tag());
        self.header.encode(version, out);
        self.query.encode(out);
    }

    /// Reads the body of one `CopyData`.
    pub fn decode(version: Version, body: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body, Endian::Big);
        let tag = r.u8("tag")?;
        let header = Header::decode(version, &mut r)?;
        let query = Query::decode(tag, &mut r)?;
        r.finish()?;
        Ok(Self { header, query })
    }

    /// Appends the answer to this request to `out`, without a frame around it.
    pub fn encode_answer(&self, version: Version, answer: &Answer, out: &mut BytesMut) {
        out.put_u8(answer.tag());
        if version == Version::V3 {
            self.header.encode(version, out);
            if !matches!(answer, Answer::Error(_)) {
                self.query.encode(out);
            }
        }
        answer.encode(out);
    }
}

impl Response {
    /// Reads the body of one `CopyData`.
    pub fn decode(version: Version, body: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body, Endian::Big);
        let tag = r.u8("tag")?;
        let (mut header, mut query) = (None, None);
        if version == Version::V3 {
            header = Some(Header::decode(version, &mut r)?);
            query = match asked(tag) {
                Some(asked) => Some(Query::decode(asked, &mut r)?),
                None => None,
            };
        }
        let answer = Answer::decode(tag, &mut r)?;
        r.finish()?;
        Ok(Self {
            header,
            query,
            answer,
        })
    }
}

/// Tag of the request that an answer's tag belongs to; an error belongs to any.
const fn asked(answer: u8) -> Option<u8> {
    match answer {
        tag::EXISTS_ANSWER => Some(tag::EXISTS),
        tag::NBLOCKS_ANSWER => Some(tag::NBLOCKS),
        tag::GET_PAGE_ANSWER => Some(tag::GET_PAGE),
        tag::DB_SIZE_ANSWER => Some(tag::DB_SIZE),
        tag::GET_SLRU_SEGMENT_ANSWER => Some(tag::GET_SLRU_SEGMENT),
        _ => None,
    }
}

impl Header {
    fn encode(&self, version: Version, out: &mut BytesMut) {
        if version == Version::V3 {
            out.put_u64(self.request_id);
        }
        out.put_u64(self.request_lsn.0);
        out.put_u64(self.not_modified_since.0);
    }

    fn decode(version: Version, r: &mut Reader) -> Result<Self, DecodeError> {
        let request_id = match version {
            Version::V2 => 0,
            Version::V3 => r.u64("reqid")?,
        };
        Ok(Self {
            request_id,
            request_lsn: r.lsn("request_lsn")?,
            not_modified_since: r.lsn("not_modified_since")?,
        })
    }
}

impl RelTag {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32(self.spcnode);
        out.put_u32(self.dbnode);
        out.put_u32(self.relnode);
        out.put_u8(self.forknum);
    }

    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            spcnode: r.u32("spcnode")?,
            dbnode: r.u32("dbnode")?,
            relnode: r.u32("relnode")?,
            forknum: r.u8("forknum")?,
        })
    }
}

impl Query {
    const fn tag(&self) -> u8 {
        match self {
            Self::Exists(_) => tag::EXISTS,
            Self::Nblocks(_) => tag::NBLOCKS,
            Self::GetPage { .. } => tag::GET_PAGE,
            Self::DbSize { .. } => tag::DB_SIZE,
            Self::GetSlruSegment { .. } => tag::GET_SLRU_SEGMENT,
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Exists(rel) | Self::Nblocks(rel) => rel.encode(out),
            Self::GetPage { rel, blkno } => {
                rel.encode(out);
                out.put_u32(*blkno);
            }
            Self::DbSize { dbnode } => out.put_u32(*dbnode),
            Self::GetSlruSegment { kind, segno } => {
                out.put_u8(*kind);
                out.put_u32(*segno);
            }
        }
    }

    fn decode(tag: u8, r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match tag {
            tag::EXISTS => Self::Exists(RelTag::decode(r)?),
            tag::NBLOCKS => Self::Nblocks(RelTag::decode(r)?),
            tag::GET_PAGE => Self::GetPage {
                rel: RelTag::decode(r)?,
                blkno: r.u32("blkno")?,
            },
            tag::DB_SIZE => Self::DbSize {
                dbnode: r.u32("dbnode")?,
            },
            tag::GET_SLRU_SEGMENT => Self::GetSlruSegment {
                kind: r.u8("kind")?,
                segno: r.u32("segno")?,
            },
            tag => return Err(DecodeError::UnknownTag { tag: tag.into() }),
        })
    }
}

impl Answer {
    const fn tag(&self) -> u8 {
        match self {
            Self::Exists(_) => tag::EXISTS_ANSWER,
            Self::Nblocks(_) => tag::NBLOCKS_ANSWER,
            Self::Page(_) => tag::GET_PAGE_ANSWER,
            Self::DbSize(_) => tag::DB_SIZE_ANSWER,
            Self::SlruSegment(_) => tag::GET_SLRU_SEGMENT_ANSWER,
            Self::Error(_) => tag::ERROR_ANSWER,
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Exists(exists) => out.put_u8((*exists).into()),
            Self::Nblocks(blocks) => out.put_u32(*blocks),
            Self::Page(page) => out.put_slice(page),
            Self::DbSize(bytes) => out.put_i64(*bytes),
            Self::SlruSegment(pages) => {
                out.put_u32((pages.len() / PAGE_SIZE) as u32);
                out.put_slice(pages);
            }
            Self::Error(message) => {
                out.put_slice(message.as_bytes());
                out.put_u8(0);
            }
        }
    }

    fn decode(tag: u8, r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match tag {
            tag::EXISTS_ANSWER => Self::Exists(r.bool("exists")?),
            tag::NBLOCKS_ANSWER => Self::Nblocks(r.u32("n_blocks")?),
            tag::GET_PAGE_ANSWER => Self::Page(r.bytes("page", PAGE_SIZE)?),
            tag::DB_SIZE_ANSWER => Self::DbSize(r.i64("db_size")?),
            tag::GET_SLRU_SEGMENT_ANSWER => {
                let pages = r.count("segment", PAGE_SIZE)?;
                Self::SlruSegment(r.bytes("segment", pages * PAGE_SIZE)?)
            }
            tag::ERROR_ANSWER => Self::Error(r.c_string("message")?),
            tag => return Err(DecodeError::UnknownTag { tag: tag.into() }),
        })
    }
}
