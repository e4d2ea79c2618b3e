//! Decides which verifier postgres should store for a password. Pure.
//!
//! Postgres never sees a password of the spec: what is sent is a SCRAM-SHA-256
//! verifier (RFC 5803) made here, as libpq's `PQencryptPasswordConn` does. The
//! verifier that postgres has is kept if it was made of the same password: a new
//! salt would change the catalog, and break clients that cache keys, for nothing.

use std::num::NonZeroU32;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::{digest, hmac, pbkdf2};

use super::quote;
use crate::secret::Secret;
use crate::spec::Password;

/// Random bytes that make equal passwords have different verifiers.
pub type Salt = [u8; 16];

/// Prefix of a SCRAM verifier in `pg_authid.rolpassword`.
const SCRAM: &str = "SCRAM-SHA-256$";
/// Prefix of an MD5 verifier, which 32 hexadecimal digits follow.
const MD5: &str = "md5";
/// Rounds of PBKDF2: postgres' default (`scram_iterations`).
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("is not zero");
/// Most rounds of a stored verifier that are worth computing to compare: a hostile
/// one could keep a processor busy for hours.
const MAX_ITERATIONS: u32 = 1_000_000;

/// What `pg_authid.rolpassword` holds, well-formed.
///
/// A malformed one must never be sent: postgres takes it for a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier(Secret);

impl Verifier {
    /// The text to store.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }

    /// Whether it dies with the role's name: MD5 is salted with it.
    pub fn depends_on_name(&self) -> bool {
        self.reveal().starts_with(MD5)
    }
}

/// Why a password cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Postgres treats an empty password as none.
    #[error("the password is empty; leave it out for a role without one")]
    Empty,
    /// Passwords are C strings.
    #[error("the password contains a NUL byte")]
    Nul,
    /// Postgres would store a verifier of this text.
    #[error(
        "the password verifier is neither SCRAM-SHA-256$<rounds>:<salt>$<key>:<key> nor an md5 hash"
    )]
    Malformed,
}

/// The verifier that `role` should have: `stored` if that is good for `password`.
pub fn settle(
    role: &str,
    password: &Password,
    stored: Option<&str>,
    salt: Salt,
) -> Result<Verifier, PasswordError> {
    match password {
        Password::Verifier(text) => parse(text.reveal()),
        Password::Cleartext(text) => {
            let password = text.reveal();
            if password.is_empty() {
                return Err(PasswordError::Empty);
            }
            if !quote::check_text(password) {
                return Err(PasswordError::Nul);
            }
            match stored.filter(|stored| matches(role, password, stored)) {
                Some(stored) => Ok(Verifier(Secret::new(stored))),
                None => Ok(scram(password, salt)),
            }
        }
    }
}

/// A verifier of no password, for plans that nobody carries out.
pub fn stand_in() -> Result<Verifier, PasswordError> {
    Ok(Verifier(Secret::new(SCRAM)))
}

/// Reads a verifier of the spec. Control planes send MD5 hashes without their prefix.
fn parse(text: &str) -> Result<Verifier, PasswordError> {
    let is_md5 = |digits: &str| digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if Scram::parse(text).is_some() || text.strip_prefix(MD5).is_some_and(is_md5) {
        Ok(Verifier(Secret::new(text)))
    } else if is_md5(text) {
        Ok(Verifier(Secret::new(format!("{MD5}{text}"))))
    } else {
        Err(PasswordError::Malformed)
    }
}

/// Whether `stored` is a verifier of `password`.
fn matches(role: &str, password: &str, stored: &str) -> bool {
    if stored.starts_with(MD5) {
        return postgres_protocol::password::md5(password.as_bytes(), role) == stored;
    }
    Scram::parse(stored)
        .filter(|scram| scram.iterations.get() <= MAX_ITERATIONS)
        .is_some_and(|scram| {
            let keys = Keys::derive(password, &scram.salt, scram.iterations);
            keys.stored == scram.stored_key && keys.server == scram.server_key
        })
}

fn scram(password: &str, salt: Salt) -> Verifier {
    let keys = Keys::derive(password, &salt, ITERATIONS);
    Verifier(Secret::new(format!(
        "{SCRAM}{ITERATIONS}:{}${}:{}",
        BASE64_STANDARD.encode(salt),
        BASE64_STANDARD.encode(keys.stored),
        BASE64_STANDARD.encode(keys.server),
    )))
}

/// The parts of a SCRAM verifier.
struct Scram {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

impl Scram {
    /// As postgres reads it (`src/backend/libpq/auth-scram.c: parse_scram_secret`).
    fn parse(text: &str) -> Option<Self> {
        let (parameters, keys) = text.strip_prefix(SCRAM)?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text: &str| {
            let key = BASE64_STANDARD.decode(text).ok()?;
            (key.len() == digest::SHA256_OUTPUT_LEN).then_some(key)
        };
        Some(Self {
            iterations: iterations.parse().ok()?,
            salt: BASE64_STANDARD.decode(salt).ok()?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }
}

/// RFC 5802, section 3.
struct Keys {
    stored: Vec<u8>,
    server: Vec<u8>,
}

impl Keys {
    fn derive(password: &str, salt: &[u8], iterations: NonZeroU32) -> Self {
        // Like postgres, use the bytes as they are where SASLprep refuses them, or
        // leaves none (`src/common/saslprep.c`).
        let prepared = stringprep::saslprep(password).ok();
        let prepared = prepared.filter(|prepared| !prepared.is_empty());
        let prepared = prepared.unwrap_or(password.into());
        let mut salted = [0_u8; digest::SHA256_OUTPUT_LEN];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            prepared.as_bytes(),
            &mut salted,
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client = hmac::sign(&key, b"Client Key");
        Self {
            stored: digest::digest(&digest::SHA256, client.as_ref())
                .as_ref()
                .to_vec(),
            server: hmac::sign(&key, b"Server Key").as_ref().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = *b"sixteen  letters";

    fn cleartext(text: &str) -> Password {
        Password::Cleartext(Secret::new(text))
    }

    fn verifier(text: &str) -> Password {
        Password::Verifier(Secret::new(text))
    }

    #[test]
    fn a_verifier_of_the_same_password_is_kept_whoever_made_it() {
        for password in [
            "pencil",
            "pässwörd",
            "with\u{a0}space",
            "\u{1}control",
            "I\u{ad}X",
        ] {
            let theirs = postgres_protocol::password::scram_sha_256(password.as_bytes());
            let ours = settle("app", &cleartext(password), Some(&theirs), SALT).unwrap();
            assert_eq!(ours.reveal(), theirs);
        }
        let md5 = postgres_protocol::password::md5(b"pencil", "app");
        let kept = settle("app", &cleartext("pencil"), Some(&md5), SALT).unwrap();
        assert_eq!(kept.reveal(), md5);
        assert!(kept.depends_on_name());
    }

    /// Postgres clears a password whose verifier fits the empty one
    /// (`src/backend/commands/user.c`), and would be given it again for ever.
    #[test]
    fn a_password_of_nothing_that_counts_is_not_the_empty_one() {
        for password in ["\u{feff}", "\u{ad}\u{200b}"] {
            let made = scram(password, SALT);
            assert!(matches("app", password, made.reveal()));
            assert!(!matches("app", "", made.reveal()));
        }
    }

    #[test]
    fn another_password_gets_a_new_scram_verifier() {
        let stored = postgres_protocol::password::scram_sha_256(b"pencil");
        for stored in [
            None,
            Some(stored.as_str()),
            Some("md5 nonsense"),
            Some("SCRAM-SHA-256$"),
        ] {
            let made = settle("app", &cleartext("pen"), stored, SALT).unwrap();
            assert!(
                made.reveal()
                    .starts_with("SCRAM-SHA-256$4096:c2l4dGVlbiAgbGV0dGVycw==$")
            );
            assert!(matches("app", "pen", made.reveal()));
            assert!(!matches("app", "pencil", made.reveal()));
        }
    }

    #[test]
    fn a_verifier_with_absurd_rounds_is_replaced_not_computed() {
        let made = scram("pencil", SALT);
        let hostile = made.reveal().replace("4096", "4294967295");
        let settled = settle("app", &cleartext("pencil"), Some(&hostile), SALT).unwrap();
        assert_eq!(settled, made);
    }

    #[test]
    fn md5_hashes_may_lack_their_prefix() {
        let bare = "b3c2f1a09d8e7f6a5b4c3d2e1f009988";
        let prefixed = format!("md5{bare}");
        for text in [bare, &prefixed] {
            let settled = settle("app", &verifier(text), None, SALT).unwrap();
            assert_eq!(settled.reveal(), prefixed);
        }
    }

    #[test]
    fn what_postgres_would_take_for_a_password_is_refused() {
        let good = scram("pencil", SALT);
        for text in [
            "",
            "hunter2",
            "md5xyz",
            "SCRAM-SHA-256$4096:c2FsdA==",
            "SCRAM-SHA-256$0:c2FsdA==$AAAA:AAAA",
            &good.reveal()[..good.reveal().len() - 4],
            &format!("{} ", good.reveal()),
        ] {
            assert_eq!(
                settle("app", &verifier(text), None, SALT),
                Err(PasswordError::Malformed),
                "{text}"
            );
        }
        assert_eq!(
            settle("a", &cleartext(""), None, SALT),
            Err(PasswordError::Empty)
        );
        assert_eq!(
            settle("a", &cleartext("a\0b"), None, SALT),
            Err(PasswordError::Nul)
        );
    }
}
