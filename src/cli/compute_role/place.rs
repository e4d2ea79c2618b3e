//! Where a compute's spec comes from, and so where its status and its Events go.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::args::ComputeArgs;
use crate::cli::split_name;
use crate::compute::LookAgain;
use crate::compute::launch::Launched;
use crate::report::config_map::ConfigMapSink;
use crate::report::events::{Publisher, RegardingKind};
use crate::report::metrics::WriteMetrics;
use crate::report::resource::ResourceSink;
use crate::report::status_file::FileSink;
use crate::report::{status_writer, write_policy};
use crate::secret::Secret;
use crate::source::control_plane::ControlPlane;
use crate::source::{self, TokenReader};
use crate::spec::revision::SourceEvent;
use crate::telemetry::metrics::Metrics;

/// Events of the source that may wait for the owner.
const SOURCE_QUEUE: usize = 16;
/// Questions to the source that may wait; one refresh runs at a time.
const QUESTION_QUEUE: usize = 1;
/// The variable that holds the control plane's token, as for `compute_ctl`.
const CONTROL_PLANE_TOKEN: &str = "NEON_CONTROL_PLANE_TOKEN";

/// Where the spec comes from, with what it takes to read and to tell.
pub(super) enum Place {
    File(PathBuf),
    ControlPlane(Box<ControlPlane>),
    Resource {
        client: kube::Client,
        namespace: String,
        name: String,
    },
    ConfigMap {
        client: kube::Client,
        namespace: String,
        name: String,
        key: Option<String>,
    },
}

/// A source that runs.
pub(super) struct Watched {
    pub(super) source: mpsc::Receiver<SourceEvent>,
    /// For a source that is asked rather than watched.
    pub(super) look_again: Option<mpsc::Sender<LookAgain>>,
}

impl Place {
    /// The one that the flags name.
    pub(super) async fn of(
        args: &ComputeArgs,
        compute_id: &str,
        http: &reqwest::Client,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        if let Some(path) = args.spec_path.as_ref().or(args.config.as_ref()) {
            return Ok(Self::File(path.clone()));
        }
        if let Some(base) = &args.control_plane_uri {
            let token = std::env::var(CONTROL_PLANE_TOKEN).ok();
            let token = token.filter(|token| !token.is_empty()).map(Secret::new);
            let requests = metrics.upstream.control_plane_requests.clone();
            let place = ControlPlane::new(http.clone(), base, compute_id, token, requests)?;
            return Ok(Self::ControlPlane(Box::new(place)));
        }
        if let Some(text) = &args.resource {
            let (namespace, name) = split_name(text)?;
            return Ok(Self::Resource {
                client: source::client::client(None).await?,
                namespace,
                name,
            });
        }
        if let Some(text) = &args.config_map {
            let (namespace, rest) = split_name(text)?;
            let (name, key) = match rest.split_once('/') {
                Some((name, key)) => (name.to_owned(), Some(key.to_owned())),
                None => (rest, None),
            };
            return Ok(Self::ConfigMap {
                client: source::client::client(None).await?,
                namespace,
                name,
                key,
            });
        }
        bail!(
            "no source of the spec: give one of --resource, --config-map, --spec-path, --config, \
             --control-plane-uri"
        )
    }

    /// Starts the task that watches it.
    pub(super) fn watch(
        &self,
        options: source::Options,
        cancel: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Watched {
        let (events, source) = mpsc::channel(SOURCE_QUEUE);
        let cancel = cancel.clone();
        let mut look_again = None;
        match self {
            Self::File(path) => {
                tasks.spawn(source::file::run(path.clone(), options, events, cancel));
            }
            Self::ControlPlane(place) => {
                let (ask, questions) = mpsc::channel(QUESTION_QUEUE);
                look_again = Some(ask);
                let place = (**place).clone();
                let run = source::control_plane::run(place, options, events, questions, cancel);
                tasks.spawn(run);
            }
            Self::Resource {
                client,
                namespace,
                name,
            } => {
                let (client, namespace, name) = (client.clone(), namespace.clone(), name.clone());
                let run = source::resource::run(client, namespace, name, options, events, cancel);
                tasks.spawn(run);
            }
            Self::ConfigMap {
                client,
                namespace,
                name,
                key,
            } => {
                let (client, namespace) = (client.clone(), namespace.clone());
                let (name, key) = (name.clone(), key.clone());
                let run =
                    source::config_map::run(client, namespace, name, key, options, events, cancel);
                tasks.spawn(run);
            }
        }
        Watched { source, look_again }
    }

    /// Reads the storage token anew, for when storage refuses the one in hand.
    pub(super) fn token_reader(&self, options: &source::Options) -> Arc<TokenReader> {
        match self {
            Self::File(path) => TokenReader::new(source::file::reader(path.clone()), options, None),
            Self::ControlPlane(place) => {
                let read = source::control_plane::reader((**place).clone());
                TokenReader::new(read, options, None)
            }
            Self::Resource {
                client,
                namespace,
                name,
            } => {
                let read = source::resource::reader(client, namespace, name);
                TokenReader::new(read, options, Some((client.clone(), namespace)))
            }
            Self::ConfigMap {
                client,
                namespace,
                name,
                key,
            } => {
                let read = source::config_map::reader(client, namespace, name, key.clone());
                TokenReader::new(read, options, Some((client.clone(), namespace)))
            }
        }
    }

    /// Who tells Events, where anybody can.
    pub(super) fn publisher(&self, compute_id: &str) -> Option<Publisher> {
        let (client, kind, namespace, name) = match self {
            Self::Resource {
                client,
                namespace,
                name,
            } => (client, RegardingKind::ComputeSpec, namespace, name),
            Self::ConfigMap {
                client,
                namespace,
                name,
                ..
            } => (client, RegardingKind::ConfigMap, namespace, name),
            Self::File(_) | Self::ControlPlane(_) => return None,
        };
        let pod = pod_name().map(|pod| ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(pod),
            ..ObjectReference::default()
        });
        Some(Publisher {
            client: client.clone(),
            kind,
            namespace: namespace.clone(),
            name: name.clone(),
            pod,
            instance: pod_name().unwrap_or_else(|| compute_id.to_owned()),
        })
    }

    /// Has the status written where the spec's readers look for it.
    pub(super) fn tell(
        &self,
        launched: &Launched,
        status_file: Option<&Path>,
        metrics: &Metrics,
    ) -> anyhow::Result<()> {
        let options = |limits, metrics| status_writer::Options {
            limits,
            pod_name: pod_name(),
            metrics,
        };
        let api = || -> anyhow::Result<_> {
            let writes = WriteMetrics::new()?;
            metrics.register(writes.clone())?;
            Ok(options(write_policy::Limits::API_SERVER, Some(writes)))
        };
        match self {
            Self::Resource {
                client,
                namespace,
                name,
            } => {
                launched.tell(ResourceSink::new(client.clone(), namespace, name), api()?);
            }
            Self::ConfigMap {
                client,
                namespace,
                name,
                ..
            } => {
                launched.tell(ConfigMapSink::new(client.clone(), namespace, name), api()?);
            }
            Self::File(_) | Self::ControlPlane(_) => {}
        }
        if let Some(path) = status_file {
            launched.tell(
                FileSink::new(path),
                options(write_policy::Limits::FILE, None),
            );
        }
        Ok(())
    }
}

fn pod_name() -> Option<String> {
    std::env::var("POD_NAME")
        .ok()
        .filter(|name| !name.is_empty())
}
