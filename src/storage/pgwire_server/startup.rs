//! Reads what a client sends before it is authenticated.

use bytes::{Buf, BytesMut};

/// Largest start-up packet accepted, in bytes (PostgreSQL's
/// `MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_STARTUP: usize = 10_000;

const MIN_STARTUP: usize = 8;
const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// A packet that has no type byte.
#[derive(Debug, PartialEq, Eq)]
pub enum StartupPacket {
    /// SSLRequest: answered with one byte.
    Tls,
    /// GSSENCRequest: refused with one byte.
    GssEncryption,
    /// CancelRequest: the connection is closed without an answer.
    Cancel,
    /// A session is wanted.
    Startup(Startup),
}

/// The parameters of a StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Startup {
    parameters: Vec<(String, String)>,
}

impl Startup {
    /// A parameter such as `user`, `application_name` or `options`; the last one
    /// of that name.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let named = |(n, _): &&(String, String)| n == name;
        self.parameters
            .iter()
            .rev()
            .find(named)
            .map(|(_, value)| value.as_str())
    }

    /// The `key=value` words of the parameter `options`, in order.
    ///
    /// Split as upstream does (`libs/pq_proto/src/lib.rs`, `options_raw`): at ASCII
    /// white space that no backslash precedes; the backslash stays. Words without
    /// `=` (such as `-c`) are left out.
    pub fn options(&self) -> Vec<(&str, &str)> {
        let text = self.parameter("options").unwrap_or_default();
        let mut after_backslash = false;
        text.split(move |c: char| {
            let escaped = after_backslash;
            after_backslash = c == '\\' && !escaped;
            c.is_ascii_whitespace() && !escaped
        })
        .filter_map(|word| word.split_once('='))
        .collect()
    }

    /// The value of one of the [`options`](Self::options); the last one of that key.
    pub fn option(&self, key: &str) -> Option<&str> {
        let options = self.options();
        options
            .iter()
            .rev()
            .find(|(k, _)| *k == key)
            .map(|(_, value)| *value)
    }
}

impl StartupPacket {
    /// Takes the first whole packet off `buffer`; `None` if there is none yet. The
    /// protocol's version number is not looked at, as upstream does not.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(buffer: &mut BytesMut) -> Result<Option<Self>, String> {
        let [a, b, c, d, ..] = **buffer else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(MIN_STARTUP..=MAX_STARTUP).contains(&length) {
            return Err(format!("a start-up packet of {length} bytes"));
        }
        if buffer.len() < length {
            return Ok(None);
        }
        let mut packet = buffer.split_to(length);
        packet.advance(4);
        match packet.get_u32() {
            SSL_REQUEST => Ok(Some(Self::Tls)),
            GSSENC_REQUEST => Ok(Some(Self::GssEncryption)),
            CANCEL_REQUEST => Ok(Some(Self::Cancel)),
            _ => Ok(Some(Self::Startup(parse_parameters(&packet)?))),
        }
    }
}

fn parse_parameters(mut packet: &[u8]) -> Result<Startup, String> {
    let mut parameters = Vec::new();
    while !packet.is_empty() && packet != [0] {
        let name = take_string(&mut packet)?;
        let value = take_string(&mut packet)?;
        parameters.push((name, value));
    }
    Ok(Startup { parameters })
}

fn take_string(packet: &mut &[u8]) -> Result<String, String> {
    let end = packet.iter().position(|byte| *byte == 0);
    let (text, rest) = end
        .and_then(|end| packet.split_at_checked(end))
        .ok_or("a start-up parameter without an end")?;
    *packet = &rest[1..];
    String::from_utf8(text.to_vec()).map_err(|_| "a start-up parameter that is not UTF-8".into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn startup(options: &str) -> Startup {
        Startup {
            parameters: vec![("options".to_owned(), options.to_owned())],
        }
    }

    #[test]
    fn options_are_words_with_an_equals_sign() {
        let given = startup("-c timeline_id=ab tenant_id=cd\t-ctenant_id=ef tenant_id=gh=i");
        assert_eq!(given.option("timeline_id"), Some("ab"));
        assert_eq!(given.option("tenant_id"), Some("gh=i"));
        assert_eq!(given.option("-ctenant_id"), Some("ef"));
        assert_eq!(given.option("-c"), None);
    }

    #[test]
    fn a_backslash_keeps_white_space_in_a_word_and_stays() {
        assert_eq!(startup(r"a=b\ c d=e").option("a"), Some(r"b\ c"));
        assert_eq!(startup(r"a=b\\ d=e").option("d"), Some("e"));
    }

    #[test]
    fn lengths_out_of_range_are_refused() {
        for length in [0_u32, 7, 10_001, 0x1603_0100, u32::MAX] {
            let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
            assert!(StartupPacket::parse(&mut buffer).is_err(), "{length}");
        }
    }

    #[test]
    fn a_parameter_without_an_end_is_refused() {
        let mut buffer = BytesMut::from(&b"\0\0\0\x0c\0\x03\0\0user"[..]);
        assert!(StartupPacket::parse(&mut buffer).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&[0, 0, 0, bytes.len() as u8 + 4][..]);
            buffer.extend_from_slice(&bytes);
            if let Ok(Some(StartupPacket::Startup(startup))) = StartupPacket::parse(&mut buffer) {
                let _ = startup.options();
            }
        }
    }
}
