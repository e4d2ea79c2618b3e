//! Turns what a source finds into events, and says nothing twice.
//!
//! One per source. It resolves documents, guards the identity of the compute, and
//! falls back on the last good copy while nothing was accepted yet.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::last_good::{GoodCopy, LastGood};
use super::secret_set::{SecretSet, resolve_with};
use super::{Options, Resolve};
use crate::error::chain;
use crate::spec::revision::{Rejection, Revision, SourceEvent};
use crate::spec::{self, ComputeSpec, Errors, FieldError, change};

/// Nobody listens any more: the source may end.
#[derive(Debug)]
pub(super) struct Closed;

/// One version of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    /// Its text, in a form that [`Resolve`] reads.
    pub(super) text: String,
    /// Its generation, where the place has one; otherwise distinct texts are counted.
    pub(super) generation: Option<i64>,
}

/// Where a source's findings go.
pub(super) struct Intake {
    origin: String,
    resolve: Resolve,
    last_good: Option<LastGood>,
    events: mpsc::Sender<SourceEvent>,
    /// What the receiver was told last.
    told: Option<SourceEvent>,
    /// The newest accepted spec.
    accepted: Option<Arc<ComputeSpec>>,
    /// The document that was counted last, and the count.
    counted: (String, i64),
}

impl Intake {
    /// For the source that people know as `origin`.
    pub(super) fn new(
        origin: String,
        options: &Options,
        events: mpsc::Sender<SourceEvent>,
    ) -> Self {
        Self {
            origin,
            resolve: Arc::clone(&options.resolve),
            last_good: options.last_good_dir.as_deref().map(LastGood::in_directory),
            events,
            told: None,
            accepted: None,
            counted: (String::new(), 0),
        }
    }

    /// The newest accepted spec.
    pub(super) fn accepted(&self) -> Option<Arc<ComputeSpec>> {
        self.accepted.clone()
    }

    /// How documents are read.
    pub(super) fn resolve(&self) -> &Resolve {
        &self.resolve
    }

    /// Takes the document that stands there now, with its Secrets.
    pub(super) async fn offer(
        &mut self,
        document: Document,
        secrets: &SecretSet,
    ) -> Result<(), Closed> {
        let generation = match document.generation {
            Some(generation) => generation,
            None => self.count(&document.text),
        };
        match self.judge(&document.text, generation, secrets) {
            Ok(Some((revision, copy))) => self.accept(revision, copy).await,
            Ok(None) => self.absent().await,
            Err(errors) => self.refuse(generation, &errors).await,
        }
    }

    /// Takes note of a document that cannot even be put together.
    pub(super) async fn refuse_text(
        &mut self,
        text: &str,
        error: FieldError,
    ) -> Result<(), Closed> {
        let generation = self.count(text);
        self.refuse(generation, &error.into()).await
    }

    /// There is nothing, or nothing yet.
    pub(super) async fn absent(&mut self) -> Result<(), Closed> {
        self.tell(SourceEvent::Absent {
            origin: self.origin.clone(),
        })
        .await
    }

    /// The place does not answer.
    pub(super) async fn unreachable(&mut self, message: String) -> Result<(), Closed> {
        self.fall_back().await?;
        self.tell(SourceEvent::Unreachable { message }).await
    }

    /// Whether the receiver believes that the place does not answer.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self.told, Some(SourceEvent::Unreachable { .. }))
    }

    fn count(&mut self, text: &str) -> i64 {
        if self.counted.1 == 0 || self.counted.0 != text {
            self.counted = (text.to_owned(), self.counted.1 + 1);
        }
        self.counted.1
    }

    /// `None` if the document says that there is no spec yet.
    fn judge(
        &self,
        text: &str,
        generation: i64,
        secrets: &SecretSet,
    ) -> Result<Option<(Revision, GoodCopy)>, Errors> {
        let (result, used) = resolve_with(&self.resolve, text, secrets);
        let Some(spec) = result? else {
            return Ok(None);
        };
        if let Some(accepted) = &self.accepted {
            change::between(accepted, &spec)?;
        }
        let revision = Revision {
            hash: spec::hash(&spec),
            spec: Arc::new(spec),
            generation,
            origin: self.origin.clone(),
        };
        let copy = GoodCopy {
            origin: self.origin.clone(),
            generation,
            text: text.to_owned(),
            secrets: used,
        };
        Ok(Some((revision, copy)))
    }

    async fn accept(&mut self, revision: Revision, copy: GoodCopy) -> Result<(), Closed> {
        let event = SourceEvent::Accepted(revision.clone());
        if self.told.as_ref() == Some(&event) {
            return Ok(());
        }
        self.accepted = Some(Arc::clone(&revision.spec));
        if let Some(last_good) = &self.last_good
            && let Err(error) = last_good.save(&copy).await
        {
            warn!(
                error = chain(&error),
                "a start without the spec's source will not be possible"
            );
        }
        self.tell(event).await
    }

    async fn refuse(&mut self, generation: i64, errors: &Errors) -> Result<(), Closed> {
        self.fall_back().await?;
        self.tell(SourceEvent::Rejected(Rejection {
            generation,
            origin: self.origin.clone(),
            reason: errors.reason().as_str(),
            message: errors.to_string(),
        }))
        .await
    }

    /// Tells the last good copy, if nothing was accepted yet and there is one.
    async fn fall_back(&mut self) -> Result<(), Closed> {
        if self.accepted.is_some() {
            return Ok(());
        }
        let Some(last_good) = self.last_good.clone() else {
            return Ok(());
        };
        let copy = match last_good.load(&self.origin).await {
            Ok(Some(copy)) => copy,
            Ok(None) => return Ok(()),
            Err(error) => {
                warn!(error = chain(&error), "the last good spec is not used");
                return Ok(());
            }
        };
        let secrets = SecretSet::of_references(copy.secrets);
        match self.judge(&copy.text, copy.generation, &secrets) {
            Ok(None) => Ok(()),
            Ok(Some((mut revision, _))) => {
                revision.origin = format!("last good copy of {}", self.origin);
                info!(
                    generation = revision.generation,
                    "starting from the {}", revision.origin
                );
                self.accepted = Some(Arc::clone(&revision.spec));
                self.tell(SourceEvent::Accepted(revision)).await
            }
            Err(errors) => {
                warn!(
                    error = chain(&errors),
                    "the last good spec is not good any more"
                );
                Ok(())
            }
        }
    }

    async fn tell(&mut self, event: SourceEvent) -> Result<(), Closed> {
        if self.told.as_ref() == Some(&event) {
            return Ok(());
        }
        self.events.send(event.clone()).await.map_err(|_| Closed)?;
        self.told = Some(event);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
