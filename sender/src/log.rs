//! The server log: one line per event on stderr, in PostgreSQL's form.
//!
//! ```text
//! 2026-11-21 02:25:23.123 UTC [4711] LOG:  database system is ready to accept connections
//! ```
//!
//! Events are `tracing`'s; its levels stand for PostgreSQL's: ERROR, WARN = WARNING, INFO = LOG, DEBUG = DEBUG1,
//! TRACE = DEBUG2. FATAL and PANIC are errors with a field `severity`. Each event is one write(2), so lines of several
//! processes don't mix. A detail or hint is further lines of the message; a hint may also come as a field `hint`. A message
//! that repeats what a client sent may be as long as that was: what is beyond [`MESSAGE_BYTES_MAX`] is cut off.
//!
//! Follows PostgreSQL 15 src/backend/utils/error/elog.c with log_line_prefix '%m [%p] '.

use std::fmt;
use std::sync::OnceLock;

use settings::table::MessageLevel;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};
use wal::timestamp::Timestamp;

use crate::backend_status::cut;

/// Most bytes of a message, its detail and hint included.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

struct PostgresFormat;

#[derive(Default)]
struct Line {
    severity: Option<String>,
    message: String,
    hint: Option<String>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "severity" => self.severity = Some(format!("{value:?}")),
            "hint" => self.hint = Some(format!("{value:?}")),
            name => self.message.push_str(&format!(" {name}={value:?}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            "severity" => self.severity = Some(value.to_owned()),
            "hint" => self.hint = Some(value.to_owned()),
            name => self.message.push_str(&format!(" {name}={value}")),
        }
    }
}

fn severity_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "LOG",
        Level::DEBUG => "DEBUG1",
        Level::TRACE => "DEBUG2",
    }
}

impl<S, N> FormatEvent<S, N> for PostgresFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let severity = line.severity.as_deref().unwrap_or_else(|| severity_of(*event.metadata().level()));
        let now = Timestamp::from_unix_micros(sys::clock::unix_micros()).to_string();
        // "2026-11-21 02:25:23.123456+00": the log shows milliseconds.
        let millis = now.get(..23).unwrap_or(&now);
        // A multi-line message continues behind a tab, as PostgreSQL's log does.
        let mut message = line.message;
        if let Some(hint) = line.hint {
            message.push_str("\nHINT:  ");
            message.push_str(&hint);
        }
        let kept = cut(&message, MESSAGE_BYTES_MAX);
        if kept.len() < message.len() {
            message = format!("{kept}… ({} bytes more)", message.len() - kept.len());
        }
        let message = message.replace('\n', "\n\t");
        writeln!(writer, "{millis} UTC [{}] {severity}:  {message}", sys::process::current_pid())
    }
}

/// Changes what is logged; set by [`init`].
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Starts logging to stderr: what `log_min_messages` says by default, until [`set_level`]. Once, before the first fork.
pub fn init() {
    let (level, handle) = reload::Layer::new(LevelFilter::INFO);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).event_format(PostgresFormat);
    // A second call (a test in one process) keeps the first.
    if tracing::subscriber::set_global_default(Registry::default().with(level).with(lines)).is_ok() {
        let _first = LEVEL.set(handle);
    }
}

/// From now on this process logs what is at least this severe.
pub fn set_level(log_min_messages: MessageLevel) {
    let level = match log_min_messages {
        MessageLevel::Debug => LevelFilter::DEBUG,
        MessageLevel::Log | MessageLevel::Notice => LevelFilter::INFO,
        MessageLevel::Warning => LevelFilter::WARN,
        MessageLevel::Error => LevelFilter::ERROR,
    };
    if let Some(handle) = LEVEL.get() {
        handle.reload(level).expect("the subscriber lives as long as the process");
    }
}

/// Logs a PANIC and aborts this process: shared memory or durable data is in doubt, and the postmaster ends
/// all others and recovers.
pub fn panic_severity(message: &str) -> ! {
    tracing::error!(severity = "PANIC", "{message}");
    std::process::abort()
}

/// Logs a FATAL: this process ends, by the caller's return.
pub fn fatal(message: &str) {
    tracing::error!(severity = "FATAL", "{message}");
}
