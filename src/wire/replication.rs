//! The messages of a physical replication stream, as PostgreSQL and safekeepers
//! send them, and the replies of whoever reads it. All big-endian.
//!
//! Layouts: PostgreSQL documentation, "Streaming Replication Protocol";
//! `safekeeper/src/send_wal.rs` of Neon for what a safekeeper adds.

use bytes::{BufMut, Bytes, BytesMut};

pub use super::DecodeError;
use super::reader::{Endian, Reader};
use super::safekeeper::PageserverFeedback;
use crate::lsn::Lsn;

/// Most WAL bytes in one message of a stream that any known sender makes
/// (`MAX_SEND_SIZE`, 16 pages).
pub const MAX_CHUNK_SIZE: usize = 128 * 1024;

/// From the sender of WAL to its reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderMessage {
    /// A piece of WAL.
    XLogData {
        /// Position of its first byte.
        start_lsn: Lsn,
        /// End of the WAL that the sender has.
        end_lsn: Lsn,
        /// When it was sent, in microseconds since 2000-01-01 UTC.
        timestamp: i64,
        /// The piece.
        wal: Bytes,
    },
    /// A sign of life.
    KeepAlive {
        /// End of the WAL that the sender has sent (PostgreSQL) or could send
        /// (safekeeper).
        end_lsn: Lsn,
        /// When it was sent, in microseconds since 2000-01-01 UTC.
        timestamp: i64,
        /// Whether the sender wants an answer now.
        reply_requested: bool,
    },
}

/// From the reader of WAL to its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReaderMessage {
    /// How far the reader is.
    StatusUpdate(StatusUpdate),
    /// What a hot standby needs to be kept.
    HotStandbyFeedback {
        /// When it was sent, in microseconds since 2000-01-01 UTC.
        timestamp: i64,
        /// Oldest full transaction id (epoch and xid) that must be kept.
        xmin: u64,
        /// The same for catalogs.
        catalog_xmin: u64,
    },
    /// A pageserver's report; only to a safekeeper.
    PageserverFeedback(PageserverFeedback),
}

/// How far a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatusUpdate {
    /// End of the WAL that it has received.
    pub write_lsn: Lsn,
    /// End of the WAL that it has made durable.
    pub flush_lsn: Lsn,
    /// End of the WAL that it has replayed.
    pub apply_lsn: Lsn,
    /// When it was sent, in microseconds since 2000-01-01 UTC.
    pub timestamp: i64,
    /// Whether it wants an answer now.
    pub reply_requested: bool,
}

impl SenderMessage {
    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::XLogData {
                start_lsn,
                end_lsn,
                timestamp,
                wal,
            } => {
                out.reserve(25 + wal.len());
                out.put_u8(b'w');
                out.put_u64(start_lsn.0);
                out.put_u64(end_lsn.0);
                out.put_i64(*timestamp);
                out.put_slice(wal);
            }
            Self::KeepAlive {
                end_lsn,
                timestamp,
                reply_requested,
            } => {
                out.put_u8(b'k');
                out.put_u64(end_lsn.0);
                out.put_i64(*timestamp);
                out.put_u8((*reply_requested).into());
            }
        }
    }

    /// Decodes the body of one `CopyData`. WAL is a slice of `body`.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body, Endian::Big);
        match r.u8("tag")? {
            b'w' => {
                let start_lsn = r.lsn("start_lsn")?;
                let end_lsn = r.lsn("end_lsn")?;
                let timestamp = r.i64("timestamp")?;
                let size = r.remaining();
                Ok(Self::XLogData {
                    start_lsn,
                    end_lsn,
                    timestamp,
                    wal: r.bytes("wal", size)?,
                })
            }
            b'k' => {
                let message = Self::KeepAlive {
                    end_lsn: r.lsn("end_lsn")?,
                    timestamp: r.i64("timestamp")?,
                    reply_requested: r.bool("reply_requested")?,
                };
                r.finish()?;
                Ok(message)
            }
            tag => Err(DecodeError::UnknownTag { tag: tag.into() }),
        }
    }
}

impl ReaderMessage {
    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::StatusUpdate(m) => {
                out.put_u8(b'r');
                out.put_u64(m.write_lsn.0);
                out.put_u64(m.flush_lsn.0);
                out.put_u64(m.apply_lsn.0);
                out.put_i64(m.timestamp);
                out.put_u8(m.reply_requested.into());
            }
            Self::HotStandbyFeedback {
                timestamp,
                xmin,
                catalog_xmin,
            } => {
                out.put_u8(b'h');
                out.put_i64(*timestamp);
                put_full_xid(out, *xmin);
                put_full_xid(out, *catalog_xmin);
            }
            Self::PageserverFeedback(feedback) => {
                out.put_u8(b'z');
                let start = out.len();
                out.put_u64(0);
                feedback.encode(out);
                let length = (out.len() - start - 8) as u64;
                out[start..start + 8].copy_from_slice(&length.to_be_bytes());
            }
        }
    }

    /// Decodes the body of one `CopyData`.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body, Endian::Big);
        let message = match r.u8("tag")? {
            b'r' => Self::StatusUpdate(StatusUpdate {
                write_lsn: r.lsn("write_lsn")?,
                flush_lsn: r.lsn("flush_lsn")?,
                apply_lsn: r.lsn("apply_lsn")?,
                timestamp: r.i64("timestamp")?,
                reply_requested: r.u8("reply_requested")? != 0,
            }),
            b'h' => Self::HotStandbyFeedback {
                timestamp: r.i64("timestamp")?,
                xmin: read_full_xid(&mut r, "xmin")?,
                catalog_xmin: read_full_xid(&mut r, "catalog_xmin")?,
            },
            b'z' => {
                r.skip("length", 8)?;
                Self::PageserverFeedback(PageserverFeedback::read(&mut r)?)
            }
            tag => return Err(DecodeError::UnknownTag { tag: tag.into() }),
        };
        r.finish()?;
        Ok(message)
    }
}

/// On this stream a transaction id stands before its epoch.
fn put_full_xid(out: &mut BytesMut, full_xid: u64) {
    out.put_u32(full_xid as u32);
    out.put_u32((full_xid >> 32) as u32);
}

fn read_full_xid(r: &mut Reader, field: &'static str) -> Result<u64, DecodeError> {
    let xid = u64::from(r.u32(field)?);
    let epoch = u64::from(r.u32(field)?);
    Ok(epoch << 32 | xid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(encode: impl FnOnce(&mut BytesMut)) -> Bytes {
        let mut out = BytesMut::new();
        encode(&mut out);
        out.freeze()
    }

    #[test]
    fn recorded_messages_of_a_safekeeper_are_read_and_written_alike() {
        let wal = "180000000000000018e14e010000000020000000091236be";
        let hex = format!("7700000000014ee15000000000014ee1680002d79883d20000{wal}");
        let body = Bytes::from(hex::decode(hex).unwrap());
        let message = SenderMessage::decode(body.clone()).unwrap();
        assert_eq!(
            message,
            SenderMessage::XLogData {
                start_lsn: Lsn(0x14E_E150),
                end_lsn: Lsn(0x14E_E168),
                timestamp: 0x0002_d798_83d2_0000,
                wal: Bytes::from(hex::decode(wal).unwrap()),
            }
        );
        assert_eq!(encoded(|out| message.encode(out)), body);

        let body = Bytes::from(hex::decode("6b00000000014ee1680002d79883d2000001").unwrap());
        let message = SenderMessage::decode(body.clone()).unwrap();
        assert_eq!(encoded(|out| message.encode(out)), body);
    }

    #[test]
    fn a_status_update_is_34_bytes_and_hot_standby_feedback_25() {
        let status = ReaderMessage::StatusUpdate(StatusUpdate::default());
        assert_eq!(encoded(|out| status.encode(out)).len(), 34);
        let feedback = ReaderMessage::HotStandbyFeedback {
            timestamp: 0,
            xmin: 730,
            catalog_xmin: 0x1_0000_02D8,
        };
        let body = encoded(|out| feedback.encode(out));
        assert_eq!(body.len(), 25);
        assert_eq!(&body[9..17], &[0, 0, 2, 218, 0, 0, 0, 0]);
        for cut in 0..body.len() {
            assert!(ReaderMessage::decode(body.slice(..cut)).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn messages_round_trip(
            a: u64, b: u64, c: u64, time: i64, flag: bool, shard: u32,
            wal in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let sent = [
                SenderMessage::XLogData { start_lsn: Lsn(a), end_lsn: Lsn(b), timestamp: time, wal: wal.into() },
                SenderMessage::KeepAlive { end_lsn: Lsn(a), timestamp: time, reply_requested: flag },
            ];
            for message in sent {
                prop_assert_eq!(SenderMessage::decode(encoded(|o| message.encode(o))), Ok(message));
            }
            let read = [
                ReaderMessage::StatusUpdate(StatusUpdate {
                    write_lsn: Lsn(a), flush_lsn: Lsn(b), apply_lsn: Lsn(c), timestamp: time, reply_requested: flag,
                }),
                ReaderMessage::HotStandbyFeedback { timestamp: time, xmin: a, catalog_xmin: b },
                ReaderMessage::PageserverFeedback(PageserverFeedback {
                    current_timeline_size: a, last_received_lsn: Lsn(b), disk_consistent_lsn: Lsn(c),
                    remote_consistent_lsn: Lsn(a), reply_time: time, shard_number: shard, corruption_detected: flag,
                }),
            ];
            for message in read {
                prop_assert_eq!(ReaderMessage::decode(encoded(|o| message.encode(o))), Ok(message));
            }
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let body = Bytes::from(bytes);
            let _ = SenderMessage::decode(body.clone());
            let _ = ReaderMessage::decode(body);
        }
    }
}
