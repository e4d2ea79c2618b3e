//! Follows Secrets on the API server by name, each by a watch of its own: a Role can
//! then name the Secrets that a compute may read.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Secret as SecretObject;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::secret_set::{SecretSet, SecretState};
use crate::api::failure::{Failure, FailureKind};
use crate::secret::Secret;

type Event = Result<watcher::Event<SecretObject>, watcher::Error>;

/// The Secrets that are followed.
pub(super) struct SecretWatch {
    api: Api<SecretObject>,
    followed: BTreeMap<String, Followed>,
    streams: SelectAll<BoxStream<'static, (String, Event)>>,
}

struct Followed {
    /// What is known of it; `None` until the API server has said.
    state: Option<SecretState>,
    /// What a list that is under way has found.
    listed: Option<SecretState>,
    /// Why the API server has not said.
    trouble: Option<String>,
    /// Ends the watch when it is followed no longer.
    _end: DropGuard,
}

impl SecretWatch {
    /// Follows none yet.
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            followed: BTreeMap::new(),
            streams: SelectAll::new(),
        }
    }

    /// Follows these and no others.
    pub(super) fn follow(&mut self, names: &BTreeSet<String>) {
        self.followed.retain(|name, _| names.contains(name));
        for name in names {
            if !self.followed.contains_key(name) {
                let followed = self.begin(name);
                self.followed.insert(name.clone(), followed);
            }
        }
    }

    fn begin(&mut self, name: &str) -> Followed {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let end = CancellationToken::new();
        let owned = name.to_owned();
        let stream = watcher(self.api.clone(), config)
            .default_backoff()
            .map(move |event| (owned.clone(), event))
            .take_until(end.clone().cancelled_owned().boxed());
        self.streams.push(stream.boxed());
        Followed {
            state: None,
            listed: None,
            trouble: None,
            _end: end.drop_guard(),
        }
    }

    /// Waits until something is known that was not before. Cancel safe. Never ends
    /// while none is followed.
    pub(super) async fn changed(&mut self) {
        loop {
            let Some((name, event)) = self.streams.next().await else {
                return std::future::pending().await;
            };
            let Some(followed) = self.followed.get_mut(&name) else {
                continue;
            };
            if followed.take(&name, event) {
                return;
            }
        }
    }

    /// What is known, when all of it is; otherwise what is missing and why.
    pub(super) fn known(&self) -> Result<SecretSet, String> {
        let mut set = SecretSet::default();
        for (name, followed) in &self.followed {
            let Some(state) = &followed.state else {
                let why = followed.trouble.as_deref().unwrap_or("no answer yet");
                return Err(format!("read the Secret {name}: {why}"));
            };
            set.insert(name, state.clone());
        }
        Ok(set)
    }
}

impl Followed {
    /// Whether what is known has changed.
    fn take(&mut self, name: &str, event: Event) -> bool {
        let state = match event {
            Ok(watcher::Event::Init) => {
                self.listed = None;
                return false;
            }
            Ok(watcher::Event::InitApply(secret)) => {
                self.listed = Some(present(secret));
                return false;
            }
            Ok(watcher::Event::InitDone) => self.listed.take().unwrap_or(SecretState::Missing),
            Ok(watcher::Event::Apply(secret)) => present(secret),
            Ok(watcher::Event::Delete(_)) => SecretState::Missing,
            Err(error) => return self.fail(name, &error.into()),
        };
        self.trouble = None;
        self.state.replace(state.clone()) != Some(state)
    }

    fn fail(&mut self, name: &str, failure: &Failure) -> bool {
        debug!(secret = name, error = %failure, "watch a Secret");
        let forbidden = failure.kind == FailureKind::Forbidden;
        let text = failure.to_string();
        let news = self.trouble.as_ref() != Some(&text);
        self.trouble = Some(text.clone());
        match &self.state {
            // What was read once stays good for as long as nobody says otherwise.
            Some(SecretState::Present(_) | SecretState::Missing) => {
                if forbidden && news {
                    warn!(secret = name, "a Secret can be read no longer: {text}");
                }
                false
            }
            _ if forbidden => {
                let advice = format!(
                    "{text}: allow get, list and watch of the Secret to the compute's ServiceAccount, \
                     or mount it and pass --secrets-dir"
                );
                let state = SecretState::Unreadable(advice);
                self.state.replace(state.clone()) != Some(state)
            }
            _ => news,
        }
    }
}

pub(super) fn present(secret: SecretObject) -> SecretState {
    let keys = secret.data.unwrap_or_default().into_iter();
    let keys = keys.map(|(key, value)| (key, String::from_utf8(value.0).ok().map(Secret::new)));
    SecretState::Present(keys.collect())
}
