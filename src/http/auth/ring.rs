//! The keys in force, which may change while requests are answered.
//!
//! Keys come from places of their own: a file, and the compute's configuration. What a
//! place no longer names is retired: for a while tokens that it signed still pass, since
//! signers and computes learn of a new key at different times.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Denied;
use super::keys::{Key, Keys, verify};

/// Where keys come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `--jwks-file`.
    File,
    /// `compute_ctl_config.jwks` of what the spec's source holds.
    Configuration,
}

/// The keys of one compute. Shared by who changes them and who checks tokens.
#[derive(Debug)]
pub struct KeyRing {
    compute_id: String,
    /// How long a retired key is still accepted.
    overlap: Duration,
    keys: watch::Sender<Arc<Held>>,
}

/// All keys at one moment.
#[derive(Debug, Clone, Default)]
struct Held {
    current: BTreeMap<Origin, Vec<Arc<Key>>>,
    retired: Vec<Retired>,
}

#[derive(Debug, Clone)]
struct Retired {
    key: Arc<Key>,
    until: Instant,
}

impl KeyRing {
    /// No keys yet: nobody gets in.
    pub fn new(compute_id: &str, overlap: Duration) -> Self {
        Self {
            compute_id: compute_id.to_owned(),
            overlap,
            keys: watch::Sender::default(),
        }
    }

    /// From now on these are the keys of that place.
    pub fn replace(&self, origin: Origin, keys: Keys) {
        let (now, overlap) = (Instant::now(), self.overlap);
        self.keys.send_modify(|held| {
            let mut next = (**held).clone();
            next.replace(origin, keys.into_keys(), now, overlap);
            *held = Arc::new(next);
        });
    }

    pub(super) fn authorize(&self, token: &str) -> Result<(), Denied> {
        let held = self.keys.borrow().clone();
        let keys = held.accepted(Instant::now());
        verify(keys, token)?.check(&self.compute_id)
    }
}

impl Held {
    fn replace(&mut self, origin: Origin, keys: Vec<Arc<Key>>, now: Instant, overlap: Duration) {
        let before = self.current.insert(origin, keys).unwrap_or_default();
        let until = now + overlap;
        let is_current = |key: &Key| self.current.values().flatten().any(|held| **held == *key);
        let leaving: Vec<_> = before.into_iter().filter(|key| !is_current(key)).collect();
        self.retired.retain(|retired| retired.until > now);
        let leaving = leaving.into_iter().map(|key| Retired { key, until });
        self.retired.extend(leaving);
    }

    /// Current keys first, then retired ones whose time is not over.
    fn accepted(&self, now: Instant) -> impl Iterator<Item = &Key> + Clone {
        let current = self.current.values().flatten();
        let retired = self
            .retired
            .iter()
            .filter(move |retired| retired.until > now);
        current
            .chain(retired.map(|retired| &retired.key))
            .map(|key| &**key)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const OVERLAP: Duration = Duration::from_mins(1);

    fn jwk(id: &str) -> Value {
        // Any 32 bytes do for a key that verifies nothing here.
        json!({"kty": "OKP", "crv": "Ed25519", "kid": id,
               "x": "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg"})
    }

    fn keys(ids: &[&str]) -> Vec<Arc<Key>> {
        let jwks: Vec<_> = ids.iter().map(|id| jwk(id)).collect();
        Keys::from_jwks(&jwks, "c").unwrap().into_keys()
    }

    fn ids(held: &Held, now: Instant) -> Vec<&str> {
        held.accepted(now).filter_map(Key::id).collect()
    }

    #[test]
    fn a_retired_key_is_accepted_for_the_overlap_and_no_longer() {
        let start = Instant::now();
        let mut held = Held::default();
        held.replace(Origin::File, keys(&["old"]), start, OVERLAP);
        held.replace(Origin::File, keys(&["new"]), start, OVERLAP);
        assert_eq!(ids(&held, start + OVERLAP / 2), ["new", "old"]);
        assert_eq!(ids(&held, start + OVERLAP), ["new"]);
    }

    #[test]
    fn without_an_overlap_a_key_is_revoked_at_once() {
        let start = Instant::now();
        let mut held = Held::default();
        held.replace(Origin::File, keys(&["old"]), start, Duration::ZERO);
        held.replace(Origin::File, keys(&["new"]), start, Duration::ZERO);
        assert_eq!(ids(&held, start), ["new"]);
    }

    #[test]
    fn a_key_that_stays_is_not_retired_and_places_do_not_disturb_each_other() {
        let start = Instant::now();
        let mut held = Held::default();
        held.replace(Origin::File, keys(&["a", "b"]), start, OVERLAP);
        held.replace(Origin::Configuration, keys(&["c"]), start, OVERLAP);
        held.replace(Origin::File, keys(&["b"]), start, OVERLAP);
        assert_eq!(ids(&held, start), ["b", "c", "a"]);
        assert_eq!(ids(&held, start + OVERLAP), ["b", "c"]);
    }
}
