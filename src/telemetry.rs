//! Logs, traces and metric families of the process.
//!
//! Nothing here is global but what the libraries make so: the subscriber of
//! `tracing`, and the panic hook. Metric families belong to a [`metrics::Metrics`],
//! which is passed to who counts.

pub mod correlation;
mod json_line;
pub mod logs;
pub mod metrics;
pub mod redact;
pub mod terminal;
pub mod traces;

use crate::error::{Category, Retry};

/// What can go wrong while setting up logs and metrics.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter does not parse.
    #[error(
        "log filter {filter:?} is malformed: write a level, or TARGET=LEVEL separated by commas, \
         such as info,glowplug::safekeeper=debug"
    )]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something installed a subscriber before.
    #[error("logs are set up already")]
    AlreadySetUp(#[source] tracing_subscriber::util::TryInitError),
    /// The log filter cannot be replaced any more.
    #[error("the log filter cannot be changed")]
    Reload(#[source] tracing_subscriber::reload::Error),
    /// A metric family is malformed, or two have one name.
    #[error("metric family {name} cannot be registered")]
    Register {
        /// Name of the family.
        name: String,
        /// What is wrong with it.
        #[source]
        source: prometheus::Error,
    },
    /// The metric families could not be written as text.
    #[error("metrics cannot be rendered")]
    Render(#[source] prometheus::Error),
}

impl Category for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Filter { .. } => "InvalidArgument",
            Self::AlreadySetUp(_) | Self::Reload(_) | Self::Register { .. } | Self::Render(_) => {
                "TelemetryFailed"
            }
        }
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }
}
