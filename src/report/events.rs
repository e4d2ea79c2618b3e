//! Tells what happened: as Kubernetes Events (`events.k8s.io/v1`) and in the log.
//!
//! Events are best effort: one that the API server does not take is lost, and its
//! cause still stands in a condition. The log has them all.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use k8s_openapi::api::events::v1::{Event as EventObject, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::api_call::{REQUEST_LIMIT, within};
use super::event_budget::{EventBudget, Verdict};
use super::resource::compute_spec_kind;
use super::{Event, EventKind};
use crate::api::failure::Failure;
use crate::error::{chain, truncate};

/// Longest note that the API server accepts, in bytes.
const MAX_NOTE: usize = 1024;
/// Longest part of the object's name that goes into an Event's.
const MAX_NAME: usize = 200;
/// How long the object's uid is believed.
const UID_LIFE: Duration = Duration::from_mins(1);
/// Time for the events that are left when the compute ends.
const LAST_EVENTS_LIMIT: Duration = Duration::from_secs(2);

/// What the events are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegardingKind {
    /// A ComputeSpec.
    ComputeSpec,
    /// A ConfigMap that holds a spec.
    ConfigMap,
}

/// Where events are published, and as whose.
#[derive(Clone)]
pub struct Publisher {
    /// Client of the API server.
    pub client: Client,
    /// Kind of the object that they regard.
    pub kind: RegardingKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The pod that the compute runs in, if it is known.
    pub pod: Option<ObjectReference>,
    /// Which compute says so: the pod's name, or the compute's id.
    pub instance: String,
}

/// Logs each event, and publishes it where there is a publisher, until `cancel` or
/// until all senders are gone; those that wait then get two seconds.
pub async fn run(
    publisher: Option<Publisher>,
    mut events: mpsc::Receiver<Event>,
    cancel: CancellationToken,
) {
    let mut teller = Teller {
        publisher,
        budget: EventBudget::default(),
        regarding: None,
    };
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            event = events.recv() => match event {
                Some(event) => tokio::select! {
                    biased;
                    () = cancel.cancelled() => break,
                    () = teller.tell(event) => {}
                },
                None => return,
            }
        }
    }
    events.close();
    let rest = async {
        while let Some(event) = events.recv().await {
            teller.tell(event).await;
        }
    };
    if tokio::time::timeout(LAST_EVENTS_LIMIT, rest).await.is_err() {
        debug!("the last events were not published in time");
    }
}

struct Teller {
    publisher: Option<Publisher>,
    budget: EventBudget,
    /// The object, with its uid, and when it was asked for.
    regarding: Option<(ObjectReference, Instant)>,
}

impl Teller {
    async fn tell(&mut self, mut event: Event) {
        match event.kind {
            EventKind::Normal => info!(reason = event.reason, "{}", event.note),
            EventKind::Warning => warn!(reason = event.reason, "{}", event.note),
        }
        let Some(publisher) = self.publisher.clone() else {
            return;
        };
        event.note = truncate(&event.note, MAX_NOTE);
        let result = match self.budget.decide(&event, Instant::now()) {
            Verdict::Suppress => Ok(()),
            Verdict::Create => self.create(&publisher, &event).await,
            Verdict::Repeat { name, count } => repeat(&publisher, &name, count).await,
        };
        if let Err(failure) = result {
            debug!(
                reason = event.reason,
                error = chain(&failure),
                "an event was not published"
            );
        }
    }

    async fn create(&mut self, publisher: &Publisher, event: &Event) -> Result<(), Failure> {
        let regarding = self.regarding(publisher).await?;
        let object = event_object(publisher, regarding, event, Timestamp::now());
        let name = object.name_any();
        within(
            REQUEST_LIMIT,
            publisher.events().create(&PostParams::default(), &object),
        )
        .await?;
        self.budget.created(event, name, Instant::now());
        Ok(())
    }

    /// The object with the uid that it has now: `kubectl describe` finds events by it.
    async fn regarding(&mut self, publisher: &Publisher) -> Result<ObjectReference, Failure> {
        match &self.regarding {
            Some((reference, asked)) if asked.elapsed() < UID_LIFE => Ok(reference.clone()),
            _ => {
                let reference = publisher.reference().await?;
                self.regarding = Some((reference.clone(), Instant::now()));
                Ok(reference)
            }
        }
    }
}

impl Publisher {
    fn events(&self) -> Api<EventObject> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn reference(&self) -> Result<ObjectReference, Failure> {
        let client = self.client.clone();
        let (api_version, kind, uid) = match self.kind {
            RegardingKind::ComputeSpec => {
                let kind = compute_spec_kind();
                let api = Api::<DynamicObject>::namespaced_with(client, &self.namespace, &kind);
                let object = within(REQUEST_LIMIT, api.get_metadata(&self.name)).await?;
                (kind.api_version, kind.kind, object.metadata.uid)
            }
            RegardingKind::ConfigMap => {
                let api = Api::<ConfigMap>::namespaced(client, &self.namespace);
                let object = within(REQUEST_LIMIT, api.get_metadata(&self.name)).await?;
                ("v1".to_owned(), "ConfigMap".to_owned(), object.metadata.uid)
            }
        };
        Ok(ObjectReference {
            api_version: Some(api_version),
            kind: Some(kind),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid,
            ..ObjectReference::default()
        })
    }
}

fn event_object(
    publisher: &Publisher,
    regarding: ObjectReference,
    event: &Event,
    now: Timestamp,
) -> EventObject {
    let type_ = match event.kind {
        EventKind::Normal => "Normal",
        EventKind::Warning => "Warning",
    };
    let stem: String = publisher.name.chars().take(MAX_NAME).collect();
    EventObject {
        metadata: ObjectMeta {
            name: Some(format!("{stem}.{:x}", now.as_nanosecond())),
            namespace: Some(publisher.namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(type_.to_owned()),
        reason: Some(event.reason.to_owned()),
        action: Some("Reconcile".to_owned()),
        note: Some(event.note.clone()),
        regarding: Some(regarding),
        related: publisher.pod.clone(),
        reporting_controller: Some("glowplug.dev/compute".to_owned()),
        reporting_instance: Some(publisher.instance.clone()),
        ..EventObject::default()
    }
}

async fn repeat(publisher: &Publisher, name: &str, count: i32) -> Result<(), Failure> {
    let series = EventSeries {
        count,
        last_observed_time: MicroTime(Timestamp::now()),
    };
    let patch = Patch::Merge(json!({ "series": series }));
    within(
        REQUEST_LIMIT,
        publisher
            .events()
            .patch(name, &PatchParams::default(), &patch),
    )
    .await
    .map(drop)
}
