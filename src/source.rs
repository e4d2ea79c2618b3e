//! Where a spec comes from; each source is a stream of events.
//!
//! A source watches one place and tells, over a bounded channel, what the newest
//! document there means: accepted, refused, absent, out of reach. It repeats
//! nothing: an event is sent when it differs from the one before.
//!
//! # Guarantees
//!
//! 1. A document is looked at as a whole, with every Secret that it refers to; a
//!    change of either is told.
//! 2. The tenant and timeline of the first accepted document stand for as long as the
//!    process runs: a document with others is refused as `ImmutableFieldChanged`.
//! 3. Where a directory for it is given, the last accepted document outlives the
//!    process: it is told when the place is out of reach at the
//!    start, or holds a document that is refused. What comes from the place itself
//!    later replaces it.

pub mod client;
pub mod config_map;
pub mod control_plane;
pub(crate) mod directory_watch;
mod error;
pub mod file;
mod intake;
mod last_good;
pub mod resource;
mod secret_directory;
mod secret_set;
mod secret_watch;
#[cfg(test)]
mod testing;
mod token_reader;
mod watched_object;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use error::Error;
pub use secret_directory::secret_in;
pub use token_reader::{ReadDocument, TokenReader};

use crate::spec::{ComputeSpec, Errors, Secrets};

/// Turns the text of a document into the internal specification, asking for the
/// Secrets that it refers to; `None` for an envelope of Neon's that holds no spec.
///
/// It is called more than once for one document, the first time with placeholders
/// for the Secrets, to find out which these are.
pub type Resolve =
    Arc<dyn Fn(&str, &Secrets<'_>) -> Result<Option<ComputeSpec>, Errors> + Send + Sync>;

/// What all sources are told alike.
#[derive(Clone)]
pub struct Options {
    /// How to read a document.
    pub resolve: Resolve,
    /// Directory with a subdirectory for each Secret and a file for each key, as
    /// Kubernetes mounts them. Where it is given, no Secret is read from the API
    /// server.
    pub secrets_dir: Option<PathBuf>,
    /// Directory where the last accepted document is kept, Secrets included, readable
    /// by the compute's user alone. It should outlive the process, and not the pod.
    pub last_good_dir: Option<PathBuf>,
    /// How long to wait for the place at the start until it counts as out of reach.
    pub start_limit: Duration,
}

impl Options {
    /// How long the place may fail to answer, once it did, until that is told.
    const OUTAGE_LIMIT: Duration = Duration::from_secs(10);
}
