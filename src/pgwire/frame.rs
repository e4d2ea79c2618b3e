//! Splitting a byte stream into backend messages.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use fallible::fields;
use postgres_protocol::message::backend::Message;

use super::ServerError;

/// Largest message accepted from a peer, in bytes: its length is named by the peer.
/// WAL and basebackup chunks stay below 1 MiB.
pub const MAX_FRAME: usize = 64 * 1024 * 1024;

const COPY_BOTH_RESPONSE_TAG: u8 = b'W';
const ERROR_RESPONSE_TAG: u8 = b'E';
const COPY_DATA_TAG: u8 = b'd';
const COPY_DONE_TAG: u8 = b'c';

/// A message from the backend.
pub enum Frame {
    /// Switches to streaming in both directions.
    CopyBothResponse,
    /// A piece of a stream.
    CopyData(Bytes),
    /// End of a stream.
    CopyDone,
    /// The peer refuses.
    Error(Box<ServerError>),
    /// Anything else.
    Message(Message),
}

impl Frame {
    /// Takes the first whole message off `buffer`; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// A length below 4 or above [`MAX_FRAME`], or a body that does not parse.
    pub fn parse(buffer: &mut BytesMut) -> io::Result<Option<Self>> {
        let [tag, a, b, c, d, ..] = **buffer else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(4..=MAX_FRAME).contains(&length) {
            return Err(invalid(format!(
                "a message '{}' of {length} bytes",
                tag.escape_ascii()
            )));
        }
        if buffer.len() <= length {
            buffer.reserve(length + 1 - buffer.len());
            return Ok(None);
        }
        match tag {
            COPY_BOTH_RESPONSE_TAG => {
                buffer.advance(length + 1);
                Ok(Some(Self::CopyBothResponse))
            }
            COPY_DATA_TAG => {
                let mut message = buffer.split_to(length + 1);
                message.advance(5);
                Ok(Some(Self::CopyData(message.freeze())))
            }
            COPY_DONE_TAG => {
                buffer.advance(length + 1);
                Ok(Some(Self::CopyDone))
            }
            ERROR_RESPONSE_TAG => match Message::parse(buffer)? {
                Some(Message::ErrorResponse(body)) => {
                    Ok(Some(Self::Error(Box::new(fields(&mut body.fields())?))))
                }
                _ => Err(invalid("an error message that does not parse".to_owned())),
            },
            _ => Ok(Message::parse(buffer)?.map(Self::Message)),
        }
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

mod fallible {
    //! `postgres-protocol` iterates over fields with a fallible iterator.

    use std::io;

    use fallible_iterator::FallibleIterator;
    use postgres_protocol::message::backend::ErrorFields;

    use super::ServerError;

    pub(super) fn fields(source: &mut ErrorFields<'_>) -> io::Result<ServerError> {
        let mut error = ServerError::default();
        while let Some(field) = source.next()? {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'S' => error.severity = text,
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
        Ok(error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::parse(&mut buffer) {}
        }
    }

    #[test]
    fn a_length_that_a_peer_cannot_mean_is_refused_before_anything_is_reserved() {
        for length in [0_u32, 3, MAX_FRAME as u32 + 1, u32::MAX] {
            let mut buffer = BytesMut::from(&[b'd'][..]);
            buffer.extend_from_slice(&length.to_be_bytes());
            assert!(Frame::parse(&mut buffer).is_err(), "{length}");
        }
    }

    #[test]
    fn copy_data_is_split_off_whole() {
        let mut buffer = BytesMut::from(&b"d\0\0\0\x07abc"[..]);
        assert!(
            matches!(Frame::parse(&mut buffer), Ok(Some(Frame::CopyData(d))) if &d[..] == b"abc")
        );
        assert!(buffer.is_empty());
        buffer.extend_from_slice(b"d\0\0\0\x07ab");
        assert!(matches!(Frame::parse(&mut buffer), Ok(None)));
        assert_eq!(buffer.len(), 7);
    }
}
