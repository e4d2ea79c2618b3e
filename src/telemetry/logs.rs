//! Decides how log events look: one line for people, or one JSON object for machines;
//! and that no secret is in them.
//!
//! Two things guard the last. Whatever is written passes [`redact`]. And libraries that
//! are known to log what servers answered, whole, are not listened to.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::str::FromStr;

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::Error;
use super::correlation::Correlation;
use super::json_line::JsonLine;
use super::redact::redact;
use super::terminal::Terminal;
use super::traces::Traces;

/// Libraries that log bodies of answers, of Secrets among them, when they cannot read them
/// or are refused (`kube-client/src/client/mod.rs`, `kube-runtime/src/watcher.rs`). What
/// goes wrong with their requests is logged by who makes them.
const TALKATIVE: [&str; 2] = ["kube_client", "kube_runtime"];

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

/// How a process logs.
#[derive(Debug, Clone, Default)]
pub struct LogConfig {
    /// How events look.
    pub format: LogFormat,
    /// A level, or `TARGET=LEVEL` separated by commas.
    pub filter: String,
    /// Fields of every JSON event.
    pub correlation: Correlation,
}

/// Sends log events to the terminal, or to what stderr is instead, and panics too; spans
/// go to `traces`. Once per process.
pub fn init(config: LogConfig, traces: &Traces, terminal: Terminal) -> Result<LogFilter, Error> {
    let colors = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (subscriber, handle) = subscriber(config, traces, colors, terminal)?;
    subscriber.try_init().map_err(Error::AlreadySetUp)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(handle)
}

fn subscriber<W>(
    config: LogConfig,
    traces: &Traces,
    colors: bool,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync, LogFilter), Error>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse(&config.filter)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Redacting(writer))
        .with_ansi(colors);
    let correlation = config.correlation;
    let lines = match config.format {
        LogFormat::Text => lines.event_format(OneLine).boxed(),
        LogFormat::Json => lines
            .fmt_fields(JsonFields::new())
            .event_format(JsonLine { correlation })
            .boxed(),
    };
    let lines = lines.with_filter(filter_fn(is_discreet));
    let subscriber = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(traces.layer());
    Ok((subscriber, LogFilter(handle)))
}

/// Whether an event is not one of those that may hold a whole answer.
fn is_discreet(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let talkative = TALKATIVE.iter().any(|library| target.starts_with(library));
    !talkative || *metadata.level() == Level::ERROR
}

/// Takes secrets out of what is written. An event is written whole, at once.
struct Redacting<W>(W);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for Redacting<W> {
    type Writer = RedactingWriter<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        RedactingWriter(self.0.make_writer())
    }

    fn make_writer_for(&'w self, metadata: &Metadata<'_>) -> Self::Writer {
        RedactingWriter(self.0.make_writer_for(metadata))
    }
}

struct RedactingWriter<W>(W);

impl<W: io::Write> io::Write for RedactingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.0.write_all(redact(text).as_bytes())?,
            Err(_) => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
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
        let config = LogConfig {
            format,
            filter: filter.to_owned(),
            correlation: Correlation::default(),
        };
        config.correlation.set(vec![("compute_id", "c".to_owned())]);
        let (subscriber, handle) =
            subscriber(config, &Traces::off(), false, move || writer.clone()).unwrap();
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
        assert_eq!(lines[0]["span"]["name"], "basebackup");
        assert_eq!(lines[0]["compute_id"], "c");
        assert!(text.starts_with("{\"timestamp\":\"20"), "{text}");
        assert_eq!(lines[1]["target"], "postgres");
    }

    #[test]
    fn an_event_says_better_than_the_process_what_it_is_about() {
        let text = logged(LogFormat::Json, "info", |_| {
            tracing::info!(compute_id = "other", state = "x", level = 3, "m");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["compute_id"], "other");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["event_level"], 3);
        assert_eq!(text.matches("compute_id").count(), 1);
    }

    #[test]
    fn secrets_are_taken_out_of_both_forms() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged(format, "trace", |_| {
                tracing::info!(statement = "ALTER ROLE a PASSWORD 'MARK'", "password=MARK");
                tracing::warn!(target: "kube_client::client", "{{\"data\":\"MARK\"}}");
                tracing::debug!(target: "kube_runtime::watcher", "MARK");
            });
            assert!(!text.contains("MARK"), "{text}");
            assert!(text.contains("ALTER ROLE"), "{text}");
        }
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
