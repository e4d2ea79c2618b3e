//! Turns what a source finds into events, and says nothing twice.
//!
//! One per source. It resolves documents, guards the identity of the compute, and
//! falls back on the last good copy while nothing was accepted yet.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::fingerprint::Fingerprinter;
use super::last_good::{GoodCopy, LastGood};
use super::secret_set::{SecretSet, resolve_with};
use super::{Options, Resolve};
use crate::error::chain;
use crate::id::{TenantId, TimelineId};
use crate::spec::revision::{Rejection, Revision, SourceEvent};
use crate::spec::{ComputeSpec, Errors, FieldError, Reason};

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
    /// Whether the text holds no secret itself.
    pub(super) is_public: bool,
}

/// Where a source's findings go.
pub(super) struct Intake {
    origin: String,
    resolve: Resolve,
    fingerprinter: Fingerprinter,
    last_good: Option<LastGood>,
    events: mpsc::Sender<SourceEvent>,
    /// What the receiver was told last.
    told: Option<SourceEvent>,
    /// Tenant and timeline of the first accepted document.
    identity: Option<(TenantId, TimelineId)>,
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
            fingerprinter: Fingerprinter::new(rand::random()),
            last_good: options.last_good_dir.as_deref().map(LastGood::in_directory),
            events,
            told: None,
            identity: None,
            counted: (String::new(), 0),
        }
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
        match self.judge(&document, generation, secrets) {
            Ok((revision, copy)) => self.accept(revision, copy).await,
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

    /// There is nothing.
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

    fn judge(
        &self,
        document: &Document,
        generation: i64,
        secrets: &SecretSet,
    ) -> Result<(Revision, GoodCopy), Errors> {
        let Document {
            text, is_public, ..
        } = document;
        let (result, used) = resolve_with(&self.resolve, text, secrets);
        let spec = result?;
        self.check_identity(&spec)?;
        let revision = Revision {
            spec: Arc::new(spec),
            generation,
            hash: self.fingerprinter.fingerprint(text, *is_public, &used),
            origin: self.origin.clone(),
        };
        let copy = GoodCopy {
            origin: self.origin.clone(),
            generation,
            text: text.clone(),
            is_public: *is_public,
            secrets: used,
        };
        Ok((revision, copy))
    }

    fn check_identity(&self, spec: &ComputeSpec) -> Result<(), Errors> {
        let Some((tenant_id, timeline_id)) = self.identity else {
            return Ok(());
        };
        let changed = |path: &str, from: String, to: String| {
            let problem = format!("it changed from {from} to {to}, and this compute serves {from}");
            let advice = "change it back, or start another compute";
            FieldError::new(path, problem, advice).because(Reason::ImmutableFieldChanged)
        };
        let mut errors = Vec::new();
        if spec.tenant_id != tenant_id {
            errors.push(changed(
                "spec.tenantId",
                tenant_id.to_string(),
                spec.tenant_id.to_string(),
            ));
        }
        if spec.timeline_id != timeline_id {
            let (from, to) = (timeline_id.to_string(), spec.timeline_id.to_string());
            errors.push(changed("spec.timelineId", from, to));
        }
        Errors::check(errors)
    }

    async fn accept(&mut self, revision: Revision, copy: GoodCopy) -> Result<(), Closed> {
        let event = SourceEvent::Accepted(revision.clone());
        if self.told.as_ref() == Some(&event) {
            return Ok(());
        }
        self.identity = Some((revision.spec.tenant_id, revision.spec.timeline_id));
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
        if self.identity.is_some() {
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
        let document = Document {
            text: copy.text,
            generation: None,
            is_public: copy.is_public,
        };
        match self.judge(&document, copy.generation, &secrets) {
            Ok((mut revision, _)) => {
                revision.origin = format!("last good copy of {}", self.origin);
                info!(
                    generation = revision.generation,
                    "starting from the {}", revision.origin
                );
                self.identity = Some((revision.spec.tenant_id, revision.spec.timeline_id));
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
