//! Splits a byte stream into the messages of a client.

use bytes::{Buf, Bytes, BytesMut};

/// Largest message accepted from a client, in bytes. The largest one that storage
/// has a use for is 128 KiB of WAL with its header.
pub const MAX_FRAME: usize = 1024 * 1024;

/// A message from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frontend {
    /// A simple query.
    Query(String),
    /// A piece of a stream.
    CopyData(Bytes),
    /// End of a stream.
    CopyDone,
    /// The client gives a stream up, and says why.
    CopyFail(String),
    /// A password, without its final zero byte.
    Password(Bytes),
    /// End of the session.
    Terminate,
    /// End of a group of extended-query messages.
    Sync,
    /// Parse, Bind, Describe, Execute, Close or Flush: the extended protocol.
    Extended(u8),
}

impl Frontend {
    /// Takes the first whole message off `buffer`; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// What is wrong: an unknown type, a length below 4 or above [`MAX_FRAME`], a
    /// query that is not UTF-8.
    pub fn parse(buffer: &mut BytesMut) -> Result<Option<Self>, String> {
        let [tag, a, b, c, d, ..] = **buffer else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(4..=MAX_FRAME).contains(&length) {
            return Err(format!(
                "a message '{}' of {length} bytes",
                tag.escape_ascii()
            ));
        }
        if buffer.len() <= length {
            buffer.reserve(length + 1 - buffer.len());
            return Ok(None);
        }
        let mut body = buffer.split_to(length + 1);
        body.advance(5);
        Self::decode(tag, body).map(Some)
    }

    fn decode(tag: u8, body: BytesMut) -> Result<Self, String> {
        match tag {
            b'd' => Ok(Self::CopyData(body.freeze())),
            b'Q' => text(&body).map(Self::Query),
            b'c' => Ok(Self::CopyDone),
            b'f' => text(&body).map(Self::CopyFail),
            b'p' => {
                // Upstream drops the last byte unseen.
                let mut password = body.freeze();
                password.truncate(password.len().saturating_sub(1));
                Ok(Self::Password(password))
            }
            b'X' => Ok(Self::Terminate),
            b'S' => Ok(Self::Sync),
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' => Ok(Self::Extended(tag)),
            _ => Err(format!(
                "a message of the unknown type '{}'",
                tag.escape_ascii()
            )),
        }
    }
}

fn text(body: &[u8]) -> Result<String, String> {
    let text = body.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8(text.to_vec()).map_err(|_| "a text that is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_taken_whole_or_not_at_all() {
        let whole = b"Q\0\0\0\x06x\0c\0\0\0\x04";
        for end in 0..7 {
            let mut buffer = BytesMut::from(&whole[..end]);
            assert_eq!(Frontend::parse(&mut buffer), Ok(None));
            assert_eq!(buffer.len(), end);
        }
        let mut buffer = BytesMut::from(&whole[..]);
        assert_eq!(
            Frontend::parse(&mut buffer),
            Ok(Some(Frontend::Query("x".to_owned())))
        );
        assert_eq!(Frontend::parse(&mut buffer), Ok(Some(Frontend::CopyDone)));
        assert!(buffer.is_empty());
    }

    #[test]
    fn lengths_out_of_range_are_refused() {
        for length in [0_u32, 3, MAX_FRAME as u32 + 1, u32::MAX] {
            let mut buffer = BytesMut::from(&[b'd'][..]);
            buffer.extend_from_slice(&length.to_be_bytes());
            assert!(Frontend::parse(&mut buffer).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frontend::parse(&mut buffer) {}
        }
    }
}
