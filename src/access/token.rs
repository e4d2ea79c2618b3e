//! The storage token as it is now: a token that storage refuses is read again from its
//! source, once, before the refusal counts.
//!
//! Tokens expire and are rotated. Whoever was refused asks for another one by
//! [`StorageToken::after_refusal`], and connects again if there is one. However many
//! are refused at once, the source is read once for them all.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::secret::Secret;

/// How long reading the source may take. Nothing else happens meanwhile for whoever
/// was refused.
const READ_LIMIT: Duration = Duration::from_secs(3);
/// How often the source is read at most. What changes in between is told by the source
/// itself.
const READ_INTERVAL: Duration = Duration::from_secs(5);

/// Reads the token from where the spec's source has it.
pub trait ReadToken: Send + Sync {
    /// The token as it is now; `None` if it cannot be read, or there is none.
    fn read(&self) -> Pin<Box<dyn Future<Output = Option<Secret>> + Send + '_>>;
}

/// A token that may be replaced. Clones share it.
#[derive(Clone)]
pub struct StorageToken {
    held: Arc<watch::Sender<Held>>,
    source: Option<Arc<dyn ReadToken>>,
}

#[derive(Default)]
struct Held {
    token: Option<Secret>,
    /// Somebody reads the source.
    reading: bool,
    read_at: Option<Instant>,
}

impl StorageToken {
    /// A token without a source.
    pub fn fixed(token: Option<Secret>) -> Self {
        Self {
            held: Arc::new(watch::Sender::new(Held {
                token,
                ..Held::default()
            })),
            source: None,
        }
    }

    /// A token that is not known yet, of this source.
    pub fn from_source(source: Arc<dyn ReadToken>) -> Self {
        Self {
            source: Some(source),
            ..Self::fixed(None)
        }
    }

    /// The token as it is now.
    pub fn current(&self) -> Option<Secret> {
        self.held.borrow().token.clone()
    }

    /// Replaces the token.
    pub fn replace(&self, token: Option<Secret>) {
        self.held.send_if_modified(|held| {
            let differs = held.token != token;
            held.token = token;
            differs
        });
    }

    /// Another token than the one that was just refused, if there is one: a newer one
    /// that is known already, or one that the source has now.
    pub async fn after_refusal(&self, refused: Option<&Secret>) -> Option<Secret> {
        let another = |token: Option<Secret>| token.filter(|token| Some(token) != refused);
        if let Some(newer) = another(self.current()) {
            return Some(newer);
        }
        let mut changes = self.held.subscribe();
        if let Some(turn) = self.claim() {
            let token = timeout(READ_LIMIT, turn.source.read()).await;
            if let Ok(Some(token)) = token {
                self.replace(Some(token));
            }
        } else {
            let _ = timeout(READ_LIMIT, changes.wait_for(|held| !held.reading)).await;
        }
        another(self.current())
    }

    /// Runs an attempt with the token as it is now, and once more with another one if
    /// `refused` says that the first was refused, and there is another.
    ///
    /// # Errors
    ///
    /// That of the last attempt.
    pub async fn attempt<T, E, F>(
        &self,
        mut attempt: impl FnMut(Option<Secret>) -> F,
        refused: impl Fn(&E) -> bool,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let token = self.current();
        match attempt(token.clone()).await {
            Err(error) if refused(&error) => match self.after_refusal(token.as_ref()).await {
                Some(another) => attempt(Some(another)).await,
                None => Err(error),
            },
            result => result,
        }
    }

    /// The right to read the source, if nobody does, and nobody has just now.
    fn claim(&self) -> Option<Turn> {
        let source = self.source.clone()?;
        let now = Instant::now();
        let claimed = self.held.send_if_modified(|held| {
            let recent = held.read_at.is_some_and(|at| now < at + READ_INTERVAL);
            if held.reading || recent {
                return false;
            }
            held.reading = true;
            held.read_at = Some(now);
            true
        });
        claimed.then(|| Turn {
            held: self.held.clone(),
            source,
        })
    }
}

/// The right to read the source; ends when dropped, also half-way.
struct Turn {
    held: Arc<watch::Sender<Held>>,
    source: Arc<dyn ReadToken>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held.send_modify(|held| held.reading = false);
    }
}

impl Default for StorageToken {
    fn default() -> Self {
        Self::fixed(None)
    }
}

impl fmt::Debug for StorageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.held.borrow().token.is_some() {
            "<redacted>"
        } else {
            "<none>"
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Source {
        token: Option<&'static str>,
        reads: AtomicU32,
    }

    impl ReadToken for Source {
        fn read(&self) -> Pin<Box<dyn Future<Output = Option<Secret>> + Send + '_>> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            Box::pin(async {
                tokio::task::yield_now().await;
                self.token.map(Secret::new)
            })
        }
    }

    fn source(token: Option<&'static str>) -> (Arc<Source>, StorageToken) {
        let reads = AtomicU32::new(0);
        let source = Arc::new(Source { token, reads });
        let held = StorageToken::from_source(source.clone());
        held.replace(Some(Secret::new("old")));
        (source, held)
    }

    #[tokio::test]
    async fn a_refused_token_is_read_again_once_for_all() {
        let (source, token) = source(Some("new"));
        let old = Secret::new("old");
        let (a, b, c) = tokio::join!(
            token.after_refusal(Some(&old)),
            token.after_refusal(Some(&old)),
            token.after_refusal(Some(&old)),
        );
        let new = Some(Secret::new("new"));
        assert_eq!([&a, &b, &c], [&new, &new, &new]);
        assert_eq!(token.current(), new);
        assert_eq!(source.reads.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_has_nothing_new_is_not_asked_again_at_once() {
        for unchanged in [Some("old"), None] {
            let (source, token) = source(unchanged);
            let old = Secret::new("old");
            assert_eq!(token.after_refusal(Some(&old)).await, None);
            assert_eq!(token.after_refusal(Some(&old)).await, None);
            assert_eq!(source.reads.load(Ordering::Relaxed), 1);
            tokio::time::advance(READ_INTERVAL).await;
            assert_eq!(token.after_refusal(Some(&old)).await, None);
            assert_eq!(source.reads.load(Ordering::Relaxed), 2);
        }
    }

    #[tokio::test]
    async fn a_newer_token_that_is_known_already_is_used() {
        let (source, token) = source(Some("newest"));
        let older = Secret::new("older");
        let old = Some(Secret::new("old"));
        assert_eq!(token.after_refusal(Some(&older)).await, old);
        assert_eq!(source.reads.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn an_attempt_is_repeated_once_and_only_with_another_token() {
        let (_, token) = source(Some("new"));
        let tried = std::cell::RefCell::new(Vec::new());
        let refuse = |token: Option<Secret>| {
            tried.borrow_mut().push(token.unwrap().reveal().to_owned());
            std::future::ready(Err::<(), _>("refused"))
        };
        let result = token.attempt(refuse, |error| *error == "refused").await;
        assert_eq!(result, Err("refused"));
        assert_eq!(*tried.borrow(), ["old", "new"]);
        let broken = |_| std::future::ready(Err::<(), _>("broken"));
        let result = token.attempt(broken, |error| *error == "refused").await;
        assert_eq!(result, Err("broken"));
    }

    #[tokio::test]
    async fn a_reader_that_gives_up_leaves_the_turn_to_others() {
        struct Never;
        impl ReadToken for Never {
            fn read(&self) -> Pin<Box<dyn Future<Output = Option<Secret>> + Send + '_>> {
                Box::pin(std::future::pending())
            }
        }
        let token = StorageToken::from_source(Arc::new(Never));
        let given_up = timeout(Duration::from_millis(1), token.after_refusal(None)).await;
        assert!(given_up.is_err());
        assert!(!token.held.borrow().reading);
    }
}
