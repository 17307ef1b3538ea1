//! Where a process sends its telemetry, and what it says of what did not arrive.
//!
//! A job must not fail because a collector is down, and must not keep quiet about it either. So an
//! exporter's failure is a [`Loss`]: counted in `headcount_telemetry_lost_total`, and a sentence for
//! people. The order at the end follows from that: spans first, then the push, then the textfile, so that
//! each can still report the loss of those before. The listener stays up to the last.
//!
//! A new exporter is a module here, a field of [`Options`], a variant of [`Exporter`], and its part in
//! [`Telemetry::start`] and [`Telemetry::finish`].

mod http;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod prometheus;
pub mod push;
#[cfg(feature = "otlp")]
pub mod target;
pub mod textfile;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};
use tokio::task::JoinHandle;
use tracing::Dispatch;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use self::prometheus::Listener;
use self::push::Push;
use super::handles::{self, Source};
use super::names::Exporter;
use super::{Log, Metrics, SpanAttributes};
use crate::error::Error;
use crate::event::Observer;

/// The default for [`Options::flush_limit`].
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How often samples of histograms are folded into their buckets when nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Log lines: which, how and where to.
#[derive(Debug)]
pub struct LogOptions {
    /// How they look. Default: text.
    pub format: LogFormat,
    /// Which to write, in `RUST_LOG`'s language. Default `headcount=info`.
    pub filter: String,
    /// Where to. Default: standard error.
    pub writer: BoxMakeWriter,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: format!("{}=info", super::TARGET),
            writer: BoxMakeWriter::new(std::io::stderr),
        }
    }
}

/// Where telemetry goes. All off by default.
#[derive(Debug)]
pub struct Options {
    /// The task that runs: part of the group that is pushed to.
    pub task: String,
    /// Where `/metrics` is served; see [`prometheus::parse_listen`].
    pub listen: Option<SocketAddr>,
    /// A Pushgateway to push to at the end; see [`Push::new`].
    pub push: Option<String>,
    /// A file for `node_exporter`'s textfile collector, written at the end; its name should end in `.prom`.
    pub textfile: Option<PathBuf>,
    /// An OTLP receiver. It takes precedence over the one that the environment names.
    pub otlp: Option<String>,
    /// Log lines.
    pub log: Option<LogOptions>,
    /// The most time that the spans and the push may take at the end, each. Default 5 s: a job that is
    /// done should not wait long for a collector that is down.
    pub flush_limit: Duration,
}

impl Options {
    /// Nothing is sent anywhere, for a task of this name.
    #[must_use]
    pub fn new(task: impl Into<String>) -> Self {
        Self {
            task: task.into(),
            listen: None,
            push: None,
            textfile: None,
            otlp: None,
            log: None,
            flush_limit: FLUSH_LIMIT,
        }
    }
}

/// Telemetry that did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Which exporter lost it.
    pub exporter: Exporter,
    /// How much: spans, pushes or files.
    pub count: u64,
    /// What to tell people: one sentence, without a password.
    pub sentence: String,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// The running exporters of one command.
pub struct Telemetry {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    metrics: Arc<Metrics>,
    dispatch: Dispatch,
    listener: Option<Listener>,
    push: Option<Push>,
    /// With the task whose file it is.
    textfile: Option<(PathBuf, String)>,
    #[cfg(feature = "otlp")]
    otlp: Option<otlp::Otlp>,
    #[cfg(feature = "otlp")]
    flush_limit: Duration,
    upkeep: JoinHandle<()>,
    warning: Option<String>,
}

impl Telemetry {
    /// Starts the exporters; nothing global is touched until [`install`](Self::install). Call it inside
    /// the runtime. `env` looks up variables of the environment.
    ///
    /// # Errors
    ///
    /// A configuration error that names the option; nothing is left running then. What is wrong in the
    /// environment is a warning: that was set for many programs, and no job must fail of it.
    pub async fn start(options: Options, env: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let Options { task, listen, push, textfile, otlp, log, flush_limit } = options;
        let push = push.map(|url| Push::new(&url, &task, flush_limit)).transpose()?;
        let log = log.map(log_layer).transpose()?;
        let recorder = Arc::new(prometheus::recorder()?);
        let handle = recorder.handle();
        let metrics = Arc::new(Metrics::with_recorder(Arc::clone(&recorder) as _));
        #[cfg(feature = "otlp")]
        let (receiver, warning) = target(otlp.as_deref(), env)?;
        #[cfg(not(feature = "otlp"))]
        let warning = None;
        #[cfg(feature = "otlp")]
        let otlp = receiver.map(|it| otlp::Otlp::start(&it, lost(&recorder, Exporter::Otlp))).transpose()?;
        #[cfg(not(feature = "otlp"))]
        no_otlp(otlp.as_deref(), env)?;
        let listener = match listen {
            Some(address) => Some(Listener::start(address, handle.clone()).await?),
            None => None,
        };

        #[cfg_attr(not(feature = "otlp"), allow(unused_mut, reason = "one layer less"))]
        let mut layers: Vec<BoxedLayer> = log.into_iter().collect();
        #[cfg(feature = "otlp")]
        layers.extend(otlp.as_ref().map(|otlp| otlp.layer().boxed()));
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(layers));
        let upkeep = tokio::spawn(upkeep(handle.clone()));
        Ok(Self {
            recorder,
            handle,
            metrics,
            dispatch,
            listener,
            push,
            textfile: textfile.map(|path| (path, task)),
            #[cfg(feature = "otlp")]
            otlp,
            #[cfg(feature = "otlp")]
            flush_limit,
            upkeep,
            warning,
        })
    }

    /// Makes its recorder and its subscriber those of the process. Once a process.
    ///
    /// # Errors
    ///
    /// A configuration error if the process has one already.
    pub fn install(&self) -> Result<(), Error> {
        let taken =
            || Error::configuration("telemetry", "this process has a recorder or a subscriber already");
        metrics::set_global_recorder(Arc::clone(&self.recorder)).map_err(|_| taken())?;
        tracing::dispatcher::set_global_default(self.dispatch.clone()).map_err(|_| taken())
    }

    /// The observers that feed it: metrics, span attributes and log lines.
    #[must_use]
    pub fn observers(&self) -> Vec<Arc<dyn Observer>> {
        vec![Arc::clone(&self.metrics) as _, Arc::new(SpanAttributes), Arc::new(Log)]
    }

    /// The subscriber, for those who do not want it globally.
    #[must_use]
    pub const fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }

    /// What the environment asks for and cannot be done: a sentence.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Whether spans are exported.
    #[must_use]
    pub const fn exports_spans(&self) -> bool {
        #[cfg(feature = "otlp")]
        return self.otlp.is_some();
        #[cfg(not(feature = "otlp"))]
        false
    }

    /// Where `/metrics` is served, with the port that is bound.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(Listener::address)
    }

    /// The metrics now, as a scrape would see them.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Sends what is left and stops: spans, then the push, then the textfile. Bounded by twice
    /// [`Options::flush_limit`], and the time to write a small file. Returns what did not arrive.
    #[must_use = "what did not arrive must be said"]
    pub async fn finish(mut self) -> Vec<Loss> {
        let mut losses = Vec::new();
        #[cfg(feature = "otlp")]
        losses.extend(self.flush_spans().await);
        losses.extend(self.push().await);
        losses.extend(self.write_textfile().await);
        losses
    }

    #[cfg(feature = "otlp")]
    async fn flush_spans(&mut self) -> Option<Loss> {
        let otlp = self.otlp.take()?;
        let to = otlp.shown().to_owned();
        let flushed = otlp.flush(self.flush_limit).await;
        let otlp::Flushed { exported, lost, cause } = flushed;
        let cause = cause.unwrap_or_else(|| "no answer in time".to_owned());
        // Counted by the export itself.
        (lost > 0).then(|| Loss {
            exporter: Exporter::Otlp,
            count: lost,
            sentence: format!("{lost} of {} spans were not delivered to {to}: {cause}", exported + lost),
        })
    }

    async fn push(&self) -> Option<Loss> {
        let push = self.push.as_ref()?;
        let error = push.send(self.handle.render()).await.err()?;
        Some(self.lost(Exporter::Push, format!("the metrics were not pushed to {}: {error}", push.shown())))
    }

    async fn write_textfile(&mut self) -> Option<Loss> {
        let (path, task) = self.textfile.take()?;
        let (text, shown) = (textfile::of_task(&task, &self.handle.render()), path.display().to_string());
        let writing = move || textfile::write(&path, &textfile::keeping_success(&path, &task, text));
        let written = tokio::task::spawn_blocking(writing).await;
        let error = match written {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Some(self.lost(Exporter::Textfile, format!("the metrics were not written to {shown}: {error}")))
    }

    fn lost(&self, exporter: Exporter, sentence: String) -> Loss {
        lost(&self.recorder, exporter).increment(1);
        Loss { exporter, count: 1, sentence }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("listener", &self.listener)
            .field("push", &self.push)
            .field("textfile", &self.textfile)
            .finish_non_exhaustive()
    }
}

fn lost(recorder: &Arc<PrometheusRecorder>, exporter: Exporter) -> metrics::Counter {
    handles::lost(&Source::Own(Arc::clone(recorder) as _), exporter)
}

/// Between two scrapes samples pile up; a job of hours that nobody scrapes must not grow with them.
async fn upkeep(handle: PrometheusHandle) {
    let mut interval = tokio::time::interval(UPKEEP);
    loop {
        interval.tick().await;
        handle.run_upkeep();
    }
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// The receiver of spans. Where the environment is wrong the option alone decides.
#[cfg(feature = "otlp")]
fn target(
    option: Option<&str>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<(Option<target::Target>, Option<String>), Error> {
    let wrong = match target::Target::resolve(option, env) {
        Ok(target) => return Ok((target, None)),
        Err(error) => error,
    };
    let target = target::Target::resolve(option, |_| None)?;
    let so = if target.is_some() { "it is ignored" } else { "no spans are sent" };
    let warning = format!("{wrong}; {so}");
    Ok((target, Some(warning)))
}

/// Checks a filter in `RUST_LOG`'s language.
///
/// # Errors
/// A configuration error.
pub fn check_filter(filter: &str) -> Result<(), Error> {
    parse_filter(filter).map(drop)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder().parse(filter).map_err(|error| Error::configuration("log filter", error.to_string()))
}

fn log_layer(options: LogOptions) -> Result<BoxedLayer, Error> {
    let filter = parse_filter(&options.filter)?;
    // Spans have an exporter of their own; their dozens of fields before each line would drown it.
    let filter = filter.and(filter_fn(|metadata| !metadata.is_span()));
    let layer = tracing_subscriber::fmt::layer().with_writer(options.writer).with_ansi(false);
    Ok(match options.format {
        LogFormat::Text => layer.with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    })
}

#[cfg(not(feature = "otlp"))]
fn no_otlp(option: Option<&str>, _: impl Fn(&str) -> Option<String>) -> Result<(), Error> {
    match option {
        None => Ok(()),
        Some(_) => Err(Error::configuration("otlp", "this program was built without the feature `otlp`")),
    }
}
