//! Follows one object on the API server, and the Secrets that its document refers to.
//!
//! What the watch says is taken when the picture is whole: the object was listed, and
//! each of its Secrets. A watch that failed is set up again by itself, without a word
//! when that works: so after [`Options::OUTAGE_LIMIT`] the object is asked for, and
//! only an answer that does not come is told as an outage.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::{BoxFuture, Fuse, FusedFuture as _};
use futures::{FutureExt as _, StreamExt as _};
use kube::api::DynamicObject;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::directory_watch::{DirectoryWatch, Watched};
use super::intake::{Closed, Document, Intake};
use super::secret_set::{SecretSet, references};
use super::secret_watch::SecretWatch;
use super::{Options, secret_directory};
use crate::api::failure::{Failure, FailureKind};
use crate::backoff::Backoff;
use crate::report::api_call::{REQUEST_LIMIT, within};
use crate::spec::FieldError;
use crate::spec::revision::SourceEvent;

/// The document in an object, or why there is none.
pub(super) type Extract = Box<dyn Fn(&DynamicObject) -> Result<Document, FieldError> + Send + Sync>;

/// Which object to follow.
pub(super) struct Target {
    pub(super) client: Client,
    pub(super) api: Api<DynamicObject>,
    pub(super) namespace: String,
    pub(super) name: String,
    /// For people: `computespec shop/main`.
    pub(super) origin: String,
    pub(super) extract: Extract,
}

/// Follows the object until `cancel` or until nobody listens.
pub(super) async fn run(
    target: Target,
    options: Options,
    events: mpsc::Sender<SourceEvent>,
    cancel: CancellationToken,
) {
    let closed = events.clone();
    let follow = async { Follower::new(target, &options, events).await.follow().await };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = closed.closed() => {}
        Err(Closed) = follow => {}
    }
}

/// What is known of the object.
enum Observed {
    /// The API server has not said yet.
    Unknown,
    Absent,
    Present(Box<DynamicObject>),
}

/// Where Secrets are read.
enum Secrets {
    Api(Box<SecretWatch>),
    Directory(PathBuf, Box<DirectoryWatch>),
}

impl Secrets {
    async fn new(target: &Target, options: &Options) -> Self {
        match options.secrets_dir.clone() {
            Some(path) => {
                let watched = Watched {
                    path: path.clone(),
                    recursive: true,
                };
                Self::Directory(path, Box::new(DirectoryWatch::start(vec![watched]).await))
            }
            None => Self::Api(Box::new(SecretWatch::new(
                target.client.clone(),
                &target.namespace,
            ))),
        }
    }

    async fn changed(&mut self) {
        match self {
            Self::Api(watch) => watch.changed().await,
            Self::Directory(_, watch) => watch.changed().await,
        }
    }

    /// What is known of those that are referred to, or why that is not all yet.
    async fn read(&mut self, references: BTreeSet<(String, String)>) -> Result<SecretSet, String> {
        match self {
            Self::Api(watch) => {
                watch.follow(&references.into_iter().map(|(name, _)| name).collect());
                watch.known()
            }
            Self::Directory(path, _) => Ok(secret_directory::read(path.clone(), references).await),
        }
    }
}

/// Doubt whether the API server answers.
struct Doubt {
    /// When to find out, or to tell.
    tell_at: Instant,
    message: String,
    /// What the API server answered; `None` if it did not.
    answer: Option<FailureKind>,
}

struct Follower {
    target: Target,
    intake: Intake,
    object: Observed,
    /// What a list that is under way has found.
    listed: Option<Box<DynamicObject>>,
    secrets: Secrets,
    /// Whether all that the document needs was seen.
    is_whole: bool,
    doubt: Option<Doubt>,
    /// The answer of the outage that was told last: a change of the words alone is
    /// not worth telling.
    told: Option<FailureKind>,
    backoff: Backoff,
}

type Answer = Result<(), Failure>;

impl Follower {
    async fn new(target: Target, options: &Options, events: mpsc::Sender<SourceEvent>) -> Self {
        Self {
            intake: Intake::new(target.origin.clone(), options, events),
            secrets: Secrets::new(&target, options).await,
            object: Observed::Unknown,
            listed: None,
            is_whole: false,
            doubt: Some(Doubt {
                tell_at: Instant::now() + options.start_limit,
                message: format!("no answer within {:?}", options.start_limit),
                answer: None,
            }),
            told: None,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            target,
        }
    }

    async fn follow(mut self) -> Result<Infallible, Closed> {
        let selector = format!("metadata.name={}", self.target.name);
        let config = watcher::Config::default().fields(&selector);
        let mut objects = watcher(self.target.api.clone(), config)
            .default_backoff()
            .boxed();
        let mut question: Fuse<BoxFuture<'static, Answer>> = Fuse::terminated();
        loop {
            let tell_at = self.doubt.as_ref().map(|doubt| doubt.tell_at);
            tokio::select! {
                Some(event) = objects.next() => self.observe(event).await?,
                () = self.secrets.changed() => self.look().await?,
                answer = &mut question => self.answered(answer).await?,
                () = sleep_until(tell_at.unwrap_or_else(Instant::now)),
                    if tell_at.is_some() && question.is_terminated() =>
                {
                    if self.is_whole {
                        question = self.ask().fuse();
                    } else {
                        self.tell_outage().await?;
                    }
                }
            }
        }
    }

    /// Takes what the watch of the object says.
    async fn observe(
        &mut self,
        event: Result<watcher::Event<DynamicObject>, watcher::Error>,
    ) -> Result<(), Closed> {
        match event {
            Ok(watcher::Event::Init) => self.listed = None,
            Ok(watcher::Event::InitApply(object)) => self.listed = Some(Box::new(object)),
            Ok(watcher::Event::InitDone) => {
                self.object = self
                    .listed
                    .take()
                    .map_or(Observed::Absent, Observed::Present);
                return self.look().await;
            }
            Ok(watcher::Event::Apply(object)) => {
                let is_news = self.is_news(&object);
                self.object = Observed::Present(Box::new(object));
                if is_news || self.intake.is_unreachable() {
                    return self.look().await;
                }
                if self.is_whole {
                    self.settle();
                }
            }
            Ok(watcher::Event::Delete(_)) => {
                self.object = Observed::Absent;
                return self.look().await;
            }
            Err(error) => return self.watch_failed(error.into()).await,
        }
        Ok(())
    }

    /// Whether more than the status or metadata has changed.
    fn is_news(&self, object: &DynamicObject) -> bool {
        let Observed::Present(known) = &self.object else {
            return true;
        };
        if known.metadata.uid != object.metadata.uid {
            info!("{} was deleted and made anew", self.target.origin);
            return true;
        }
        object.metadata.generation.is_none()
            || object.metadata.generation != known.metadata.generation
    }

    async fn watch_failed(&mut self, failure: Failure) -> Result<(), Closed> {
        debug!(origin = self.target.origin, error = %failure, "watch the spec");
        // The list that follows says whether there is an outage.
        if failure.kind == FailureKind::Expired {
            return Ok(());
        }
        self.doubt(explain(&failure), Some(failure.kind));
        if !self.is_whole && self.intake.is_unreachable() {
            return self.tell_outage().await;
        }
        Ok(())
    }

    /// Begins to doubt, or has a better reason to.
    fn doubt(&mut self, message: String, kind: Option<FailureKind>) {
        let tell_at = match &self.doubt {
            Some(doubt) => doubt.tell_at,
            None => Instant::now() + Options::OUTAGE_LIMIT,
        };
        self.doubt = Some(Doubt {
            tell_at,
            message,
            answer: kind.filter(|kind| kind.is_answer()),
        });
    }

    /// Asks for the object, to find out whether the API server answers.
    fn ask(&self) -> BoxFuture<'static, Answer> {
        let (api, name) = (self.target.api.clone(), self.target.name.clone());
        async move {
            within(REQUEST_LIMIT, api.get_metadata_opt(&name))
                .await
                .map(drop)
        }
        .boxed()
    }

    async fn answered(&mut self, answer: Answer) -> Result<(), Closed> {
        match answer {
            Ok(()) if self.intake.is_unreachable() => self.look().await,
            Ok(()) => {
                self.settle();
                Ok(())
            }
            Err(failure) => {
                self.doubt(explain(&failure), Some(failure.kind));
                self.tell_outage().await
            }
        }
    }

    /// Tells that the API server does not answer, and when to doubt that again.
    async fn tell_outage(&mut self) -> Result<(), Closed> {
        let Some(doubt) = self.doubt.take() else {
            return Ok(());
        };
        let Doubt {
            message, answer, ..
        } = &doubt;
        let message = format!("{}: {message}", self.target.origin);
        let is_news = !self.intake.is_unreachable() || self.told != *answer;
        self.told = *answer;
        if self.is_whole {
            let tell_at = Instant::now() + self.backoff.next(rand::random());
            self.doubt = Some(Doubt { tell_at, ..doubt });
        }
        if is_news {
            self.intake.unreachable(message).await
        } else {
            Ok(())
        }
    }

    /// The API server answers.
    fn settle(&mut self) {
        self.doubt = None;
        self.backoff.reset();
    }

    /// Takes the picture as it is now, if it is whole.
    async fn look(&mut self) -> Result<(), Closed> {
        let object = match &self.object {
            Observed::Unknown => return Ok(()),
            Observed::Absent => {
                self.is_whole = true;
                self.settle();
                return self.intake.absent().await;
            }
            Observed::Present(object) => object,
        };
        let document = match (self.target.extract)(object) {
            Ok(document) => document,
            Err(error) => {
                let version = object.metadata.resource_version.clone().unwrap_or_default();
                self.is_whole = true;
                self.settle();
                return self.intake.refuse_text(&version, error).await;
            }
        };
        let references = references(self.intake.resolve(), &document.text);
        match self.secrets.read(references).await {
            Ok(secrets) => {
                self.is_whole = true;
                self.settle();
                self.intake.offer(document, &secrets).await
            }
            Err(missing) => {
                self.is_whole = false;
                self.doubt(missing, None);
                if self.intake.is_unreachable() {
                    self.tell_outage().await
                } else {
                    Ok(())
                }
            }
        }
    }
}

/// What people can do about a watch that fails.
fn explain(failure: &Failure) -> String {
    let advice = match failure.kind {
        FailureKind::NotFound => "; install the CRD: glowplug crd | kubectl apply -f -",
        FailureKind::Forbidden => {
            "; allow get, list and watch of this name to the compute's ServiceAccount"
        }
        _ => "",
    };
    format!("{failure}{advice}")
}
