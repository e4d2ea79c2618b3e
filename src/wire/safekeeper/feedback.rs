//! What a pageserver reports through a safekeeper: a block of named values.
//!
//! Layout: `libs/utils/src/pageserver_feedback.rs` of Neon. It is big-endian in
//! both versions of the protocol, and readers skip names that they do not know.

use bytes::{BufMut, BytesMut};

use super::DecodeError;
use crate::lsn::Lsn;
use crate::wire::reader::{Endian, Reader};

/// A pageserver's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageserverFeedback {
    /// Logical size of the timeline, in bytes; only one shard reports it, others 0.
    pub current_timeline_size: u64,
    /// End of the WAL that it has received.
    pub last_received_lsn: Lsn,
    /// End of the WAL that it has made durable locally.
    pub disk_consistent_lsn: Lsn,
    /// End of the WAL that it has uploaded.
    pub remote_consistent_lsn: Lsn,
    /// When it reported, in microseconds since 2000-01-01 UTC.
    pub reply_time: i64,
    /// Which shard reports.
    pub shard_number: u32,
    /// Whether it found its data corrupt.
    pub corruption_detected: bool,
}

impl PageserverFeedback {
    /// Appends the block to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let count = 5 + u8::from(self.shard_number > 0) + u8::from(self.corruption_detected);
        out.put_u8(count);
        put(
            out,
            "current_timeline_size",
            &self.current_timeline_size.to_be_bytes(),
        );
        put(out, "ps_writelsn", &self.last_received_lsn.0.to_be_bytes());
        put(
            out,
            "ps_flushlsn",
            &self.disk_consistent_lsn.0.to_be_bytes(),
        );
        put(
            out,
            "ps_applylsn",
            &self.remote_consistent_lsn.0.to_be_bytes(),
        );
        put(out, "ps_replytime", &self.reply_time.to_be_bytes());
        if self.shard_number > 0 {
            put(out, "shard_number", &self.shard_number.to_be_bytes());
        }
        if self.corruption_detected {
            put(out, "corruption_detected", &[1]);
        }
    }

    /// Reads a block up to its end.
    pub(in crate::wire) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        reader.set_endian(Endian::Big);
        let mut feedback = Self::default();
        for _ in 0..reader.u8("feedback.count")? {
            feedback.read_value(reader)?;
        }
        Ok(feedback)
    }

    fn read_value(&mut self, reader: &mut Reader) -> Result<(), DecodeError> {
        let name = reader.c_string("feedback.name")?;
        let field = "feedback.value_length";
        let offset = reader.offset();
        let length = reader.u32(field)? as usize;
        let expected = match name.as_str() {
            "shard_number" => 4,
            "corruption_detected" => 1,
            "current_timeline_size"
            | "ps_writelsn"
            | "last_received_lsn"
            | "ps_flushlsn"
            | "disk_consistent_lsn"
            | "ps_applylsn"
            | "remote_consistent_lsn"
            | "ps_replytime"
            | "replytime" => 8,
            _ => return reader.skip("feedback.value", length),
        };
        if length != expected {
            let problem = "not the size of this value";
            return Err(DecodeError::Invalid {
                field,
                offset,
                problem,
            });
        }
        let field = "feedback.value";
        match name.as_str() {
            "shard_number" => self.shard_number = reader.u32(field)?,
            "corruption_detected" => self.corruption_detected = reader.u8(field)? != 0,
            "current_timeline_size" => self.current_timeline_size = reader.u64(field)?,
            "ps_writelsn" | "last_received_lsn" => self.last_received_lsn = reader.lsn(field)?,
            "ps_flushlsn" | "disk_consistent_lsn" => {
                self.disk_consistent_lsn = reader.lsn(field)?;
            }
            "ps_applylsn" | "remote_consistent_lsn" => {
                self.remote_consistent_lsn = reader.lsn(field)?;
            }
            _ => self.reply_time = reader.i64(field)?,
        }
        Ok(())
    }
}

fn put(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_u8(0);
    out.put_u32(value.len() as u32);
    out.put_slice(value);
}
