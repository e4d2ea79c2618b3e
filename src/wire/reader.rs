//! Reads the fields of one message off its bytes, and never past their end.
//!
//! Each read names its field, so that an error says which field, and where.

use bytes::{Buf, Bytes};

use crate::lsn::Lsn;

/// Why the bytes of a message are not that message. Offsets count from the first
/// byte of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The first field does not name a message of this protocol.
    #[error("unknown message tag 0x{tag:02x}")]
    UnknownTag {
        /// What stands there.
        tag: u64,
    },
    /// The message ends inside a field.
    #[error("message ends inside {field} at byte {offset}: {needed} bytes needed, {left} left")]
    Truncated {
        /// The field.
        field: &'static str,
        /// Where it starts.
        offset: usize,
        /// Bytes that it takes.
        needed: usize,
        /// Bytes that are there.
        left: usize,
    },
    /// A C string has no end.
    #[error("{field} at byte {offset} has no terminating zero byte")]
    Unterminated {
        /// The field.
        field: &'static str,
        /// Where it starts.
        offset: usize,
    },
    /// A text is not UTF-8.
    #[error("{field} at byte {offset} is not UTF-8")]
    NotUtf8 {
        /// The field.
        field: &'static str,
        /// Where it starts.
        offset: usize,
    },
    /// A count or length is above what the protocol, or the rest of the message,
    /// allows.
    #[error("{field} at byte {offset} is {value}, the limit is {limit}")]
    TooLarge {
        /// The field.
        field: &'static str,
        /// Where it starts.
        offset: usize,
        /// Its value.
        value: u64,
        /// Largest value allowed.
        limit: u64,
    },
    /// A field has a value that it cannot have.
    #[error("{field} at byte {offset} is {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// Where it starts.
        offset: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Bytes are left over behind the last field.
    #[error("{count} bytes are left over behind the last field, at byte {offset}")]
    TrailingBytes {
        /// Where they start.
        offset: usize,
        /// How many.
        count: usize,
    },
}

/// Byte order of integers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Endian {
    Big,
    Little,
}

/// A cursor over one message.
pub(super) struct Reader {
    rest: Bytes,
    length: usize,
    endian: Endian,
}

impl Reader {
    pub(super) fn new(message: Bytes, endian: Endian) -> Self {
        Self {
            length: message.len(),
            rest: message,
            endian,
        }
    }

    /// Integers that follow are in this byte order.
    pub(super) fn set_endian(&mut self, endian: Endian) {
        self.endian = endian;
    }

    pub(super) fn offset(&self) -> usize {
        self.length - self.rest.len()
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `needed` bytes, without copying them.
    pub(super) fn bytes(
        &mut self,
        field: &'static str,
        needed: usize,
    ) -> Result<Bytes, DecodeError> {
        self.require(field, needed)?;
        Ok(self.rest.split_to(needed))
    }

    pub(super) fn skip(&mut self, field: &'static str, needed: usize) -> Result<(), DecodeError> {
        self.require(field, needed)?;
        self.rest.advance(needed);
        Ok(())
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        self.require(field, N)?;
        let mut array = [0; N];
        self.rest.copy_to_slice(&mut array);
        Ok(array)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array(field).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        let bytes = self.array(field)?;
        Ok(match self.endian {
            Endian::Big => u16::from_be_bytes(bytes),
            Endian::Little => u16::from_le_bytes(bytes),
        })
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        let bytes = self.array(field)?;
        Ok(match self.endian {
            Endian::Big => u32::from_be_bytes(bytes),
            Endian::Little => u32::from_le_bytes(bytes),
        })
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let bytes = self.array(field)?;
        Ok(match self.endian {
            Endian::Big => u64::from_be_bytes(bytes),
            Endian::Little => u64::from_le_bytes(bytes),
        })
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.u64(field).map(u64::cast_signed)
    }

    pub(super) fn lsn(&mut self, field: &'static str) -> Result<Lsn, DecodeError> {
        self.u64(field).map(Lsn)
    }

    pub(super) fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        let offset = self.offset();
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid {
                field,
                offset,
                problem: "neither 0 nor 1",
            }),
        }
    }

    /// A text that ends with a zero byte.
    pub(super) fn c_string(&mut self, field: &'static str) -> Result<String, DecodeError> {
        let offset = self.offset();
        let end = self.rest.iter().position(|byte| *byte == 0);
        let end = end.ok_or(DecodeError::Unterminated { field, offset })?;
        let text = self.rest.split_to(end);
        self.rest.advance(1);
        match std::str::from_utf8(&text) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(DecodeError::NotUtf8 { field, offset }),
        }
    }

    /// A number of elements that follow, of at least `element_size` bytes each. It
    /// is checked against the bytes that are there before anything is reserved.
    pub(super) fn count(
        &mut self,
        field: &'static str,
        element_size: usize,
    ) -> Result<usize, DecodeError> {
        let offset = self.offset();
        let value = self.u32(field)? as usize;
        let limit = self.remaining() / element_size;
        if value > limit {
            return Err(DecodeError::TooLarge {
                field,
                offset,
                value: value as u64,
                limit: limit as u64,
            });
        }
        Ok(value)
    }

    /// Checks that nothing is left.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::TrailingBytes {
            offset: self.offset(),
            count: self.rest.len(),
        })
    }

    fn require(&self, field: &'static str, needed: usize) -> Result<(), DecodeError> {
        if self.rest.len() >= needed {
            return Ok(());
        }
        Err(DecodeError::Truncated {
            field,
            offset: self.offset(),
            needed,
            left: self.rest.len(),
        })
    }
}
