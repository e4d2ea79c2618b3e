//! Decides how log events look: one line for people, or one JSON object for machines.

use std::fmt;
use std::io::IsTerminal as _;
use std::str::FromStr;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::Error;
use super::terminal::Terminal;

/// Target of the events that forward postgres' own log.
const POSTGRES: &str = "postgres";

/// How log events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One line of text; the texts of postgres may have several.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("unknown log format {other:?}: write text or json")),
        }
    }
}

/// Changes what is logged while the program runs.
#[derive(Debug, Clone)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// Replaces the filter: a level, or `TARGET=LEVEL` separated by commas.
    pub fn set(&self, filter: &str) -> Result<(), Error> {
        self.0.reload(parse(filter)?).map_err(Error::Reload)
    }
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    let parsed = EnvFilter::builder().parse(filter);
    parsed.map_err(|source| Error::Filter {
        filter: filter.to_owned(),
        source,
    })
}

/// Sends log events to the terminal, or to what stderr is instead, and panics too.
/// Once per process.
pub fn init(format: LogFormat, filter: &str, terminal: Terminal) -> Result<LogFilter, Error> {
    let colors = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (subscriber, handle) = subscriber(format, filter, colors, terminal)?;
    subscriber.try_init().map_err(Error::AlreadySetUp)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(handle)
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    colors: bool,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync, LogFilter), Error>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(colors);
    let lines = match format {
        LogFormat::Text => lines.event_format(OneLine).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    Ok((subscriber, LogFilter(handle)))
}

/// A panic is a defect, and unwinds to the task's owner, who reports it: here is
/// where it happened.
fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("of unknown kind");
    let location = info.location().map(ToString::to_string);
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        tracing::error!(location, %backtrace, "panic: {message}");
    } else {
        tracing::error!(location, "panic: {message}");
    }
}

/// `TIME LEVEL span{field=value}: message field=value`. The target is left out but
/// for postgres', whose events are not ours.
struct OneLine;

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        paint(&mut writer, DIM, |writer| SystemTime.format_time(writer))?;
        writer.write_char(' ')?;
        let level = *metadata.level();
        paint(&mut writer, color(level), |writer| {
            write!(writer, "{level:>5}")
        })?;
        writer.write_char(' ')?;
        let spans = context.event_scope().into_iter();
        for span in spans.flat_map(tracing_subscriber::registry::Scope::from_root) {
            writer.write_str(span.name())?;
            let extensions = span.extensions();
            let fields = extensions.get::<tracing_subscriber::fmt::FormattedFields<N>>();
            if let Some(fields) = fields.filter(|fields| !fields.is_empty()) {
                write!(writer, "{{{fields}}}")?;
            }
            writer.write_str(": ")?;
        }
        if metadata.target() == POSTGRES {
            writer.write_str("postgres: ")?;
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

const DIM: &str = "\x1b[2m";

const fn color(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

fn paint(
    writer: &mut Writer<'_>,
    color: &str,
    write: impl FnOnce(&mut Writer<'_>) -> fmt::Result,
) -> fmt::Result {
    if !writer.has_ansi_escapes() {
        return write(writer);
    }
    writer.write_str(color)?;
    write(writer)?;
    writer.write_str("\x1b[0m")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, log: impl FnOnce(&LogFilter)) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let (subscriber, handle) =
            subscriber(format, filter, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || log(&handle));
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn events(_: &LogFilter) {
        let span = tracing::info_span!("basebackup", lsn = "0/16B9188");
        let _in_span = span.enter();
        tracing::info!(bytes = 12, "unpacked");
        tracing::debug!("hidden");
        tracing::warn!(target: "postgres", "[7] ERROR:  relation \"x\" does not exist\n\tat all");
    }

    #[test]
    fn text_is_for_people() {
        let text = logged(LogFormat::Text, "info", events);
        let untimed: Vec<&str> = text
            .lines()
            .map(|line| line.split_once("Z ").map_or(line, |(_, rest)| rest))
            .collect();
        assert_eq!(
            untimed,
            [
                " INFO basebackup{lsn=\"0/16B9188\"}: unpacked bytes=12",
                " WARN basebackup{lsn=\"0/16B9188\"}: postgres: [7] ERROR:  relation \"x\" does not exist",
                "\tat all",
            ]
        );
    }

    #[test]
    fn json_is_one_object_per_line() {
        let text = logged(LogFormat::Json, "info", events);
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["message"], "unpacked");
        assert_eq!(lines[0]["bytes"], 12);
        assert_eq!(lines[0]["span"]["lsn"], "0/16B9188");
        assert_eq!(lines[1]["target"], "postgres");
    }

    #[test]
    fn the_filter_changes_while_running() {
        let text = logged(LogFormat::Text, "error", |filter| {
            tracing::info!("before");
            filter.set("info").unwrap();
            tracing::info!("after");
        });
        assert!(!text.contains("before"), "{text}");
        assert!(text.contains("after"), "{text}");
    }

    #[test]
    fn a_malformed_filter_says_what_to_write() {
        let error = parse("glowplug=loud").unwrap_err();
        assert!(error.to_string().contains("write a level"), "{error}");
    }
}
