//! The messages between a proposer (the side that writes WAL) and an acceptor (a
//! safekeeper) on a `START_WAL_PUSH` stream, in protocol versions 2 and 3.
//!
//! One message is the body of one `CopyData`; a message never spans two of them.
//! Version 3 is big-endian and packed, version 2 little-endian images of C structs
//! without membership. Layouts: `safekeeper/src/safekeeper.rs` and
//! `pgxn/neon/walproposer.c` of Neon.
//!
//! A safekeeper ignores bytes behind the fields of a proposer's message; a proposer
//! must find an acceptor's message consumed exactly. Decoding keeps to that.

mod feedback;
mod history;
mod messages;
mod v2;
mod v3;

#[cfg(test)]
mod tests;

pub use feedback::PageserverFeedback;
pub use messages::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, Elected, HotStandbyFeedback,
    Member, Membership, ProposerGreeting, ProposerMessage, TermHistory, TermLsn, VoteRequest,
    VoteResponse,
};

pub use super::DecodeError;

use bytes::{Bytes, BytesMut};

/// Most WAL bytes that one AppendRequest may carry (`MAX_SEND_SIZE`).
pub const MAX_APPEND_SIZE: usize = 128 * 1024;

/// Version of the protocol on a stream, named by the option `proto_version` of
/// `START_WAL_PUSH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// Little-endian structs; cannot speak to a timeline that has a membership.
    V2,
    /// Big-endian, with membership generations.
    V3,
}

impl ProtocolVersion {
    /// The number that stands in `START_WAL_PUSH`.
    pub const fn number(self) -> u32 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }

    /// The version of this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            2 => Some(Self::V2),
            3 => Some(Self::V3),
            _ => None,
        }
    }
}

/// First byte of each message, in both versions (`u64` in version 2).
mod tag {
    pub(super) const GREETING: u8 = b'g';
    pub(super) const VOTE: u8 = b'v';
    pub(super) const ELECTED: u8 = b'e';
    pub(super) const APPEND: u8 = b'a';
}

impl ProposerMessage {
    /// Appends the message to `out`, without a frame around it. Version 2 leaves
    /// out membership and generations.
    pub fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) {
        match version {
            ProtocolVersion::V2 => v2::encode_proposer(self, out),
            ProtocolVersion::V3 => v3::encode_proposer(self, out),
        }
    }

    /// Decodes the body of one `CopyData`. WAL is a slice of `body`.
    pub fn decode(version: ProtocolVersion, body: Bytes) -> Result<Self, DecodeError> {
        match version {
            ProtocolVersion::V2 => v2::decode_proposer(body),
            ProtocolVersion::V3 => v3::decode_proposer(body),
        }
    }
}

impl AcceptorMessage {
    /// Appends the message to `out`, without a frame around it. Version 2 leaves
    /// out membership and generations.
    pub fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) {
        match version {
            ProtocolVersion::V2 => v2::encode_acceptor(self, out),
            ProtocolVersion::V3 => v3::encode_acceptor(self, out),
        }
    }

    /// Decodes the body of one `CopyData`.
    pub fn decode(version: ProtocolVersion, body: Bytes) -> Result<Self, DecodeError> {
        match version {
            ProtocolVersion::V2 => v2::decode_acceptor(body),
            ProtocolVersion::V3 => v3::decode_acceptor(body),
        }
    }
}
