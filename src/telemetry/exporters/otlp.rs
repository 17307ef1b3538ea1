//! Spans over OTLP: gRPC or HTTP, counted on the way out.
//!
//! The SDK answers Ok to a shutdown whose last batch went nowhere, and drops spans from a full queue
//! with a log line. So we count ourselves: spans that ended, and spans that a receiver took. What is
//! between the two at the end is lost, whatever the reason, and is said. A batch that fails is tried three
//! times more within two seconds, for a receiver that restarts; the flush at the end bounds that too.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::Counter;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{Protocol, RetryPolicy, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::http;
use super::target::Target;
use crate::error::Error;
use crate::telemetry::TARGET;

/// How long one batch may take over HTTP, unless the environment says otherwise.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest cause that is kept, in characters.
const MAX_CAUSE: usize = 300;

/// What happened to the spans of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flushed {
    /// Taken by the receiver.
    pub exported: u64,
    /// Ended, but not taken.
    pub lost: u64,
    /// What the last export that failed said; `None` where none failed, or none came to an end in time.
    pub cause: Option<String>,
}

/// A running export. Must be flushed: what is in the queue is lost otherwise.
#[derive(Debug)]
pub struct Otlp {
    provider: SdkTracerProvider,
    tally: Arc<Tally>,
    shown: String,
}

impl Otlp {
    /// Starts the export; call it inside the runtime, which drives gRPC. `lost` counts lost spans while
    /// the run goes on.
    ///
    /// # Errors
    ///
    /// A configuration error that names `--otlp`.
    pub fn start(target: &Target, lost: Counter) -> Result<Self, Error> {
        let wrong = |problem: String| Error::configuration("otlp", problem);
        let builder = opentelemetry_otlp::SpanExporter::builder();
        let exporter = if target.grpc {
            let mut builder = builder
                .with_tonic()
                .with_retry_policy(RetryPolicy::recommended())
                .with_endpoint(&target.endpoint);
            if target.is_tls() {
                builder = builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
            }
            builder.build()
        } else {
            builder
                .with_http()
                .with_retry_policy(RetryPolicy::recommended())
                .with_protocol(Protocol::HttpBinary)
                .with_http_client(blocking_client(target.is_tls())?)
                .with_endpoint(&target.endpoint)
                .build()
        };
        let exporter = exporter.map_err(|error| wrong(error.to_string()))?;
        let tally = Arc::new(Tally { lost, ..Tally::default() });
        let exporter = CountingExporter { inner: exporter, tally: Arc::clone(&tally) };
        let processor = CountingProcessor {
            inner: BatchSpanProcessor::builder(exporter).build(),
            tally: Arc::clone(&tally),
        };
        let provider =
            SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource()).build();
        Ok(Self { provider, tally, shown: target.shown() })
    }

    /// The layer that turns our spans into OpenTelemetry's. Ours only: the exporter's own requests make
    /// spans too, and would trace themselves for ever.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("headcount"))
            .with_threads(false)
            .with_location(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET))
    }

    /// Where spans go.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Sends what is left, for at most `limit`, and ends the export. Does not block the runtime.
    pub async fn flush(self, limit: Duration) -> Flushed {
        let Self { provider, tally, .. } = self;
        // Its answer is not to be trusted; the tally is.
        let _ = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit)).await;
        tally.settle()
    }
}

/// `service.name` is `headcount` unless the environment names it.
fn resource() -> Resource {
    let builder =
        Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    let named = std::env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|list| list.contains("service.name="));
    if named { builder } else { builder.with_service_name("headcount") }.build()
}

/// The SDK exports from a thread of its own without a reactor, so the client must be a blocking one; and
/// one of those may not be made inside a runtime.
fn blocking_client(tls: bool) -> Result<reqwest::blocking::Client, Error> {
    let millis = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"]
        .iter()
        .find_map(|name| std::env::var(name).ok()?.parse().ok());
    let limit = millis.map_or(EXPORT_TIMEOUT, Duration::from_millis);
    std::thread::spawn(move || http::blocking_client(tls).timeout(limit).build())
        .join()
        .map_err(|_| Error::configuration("otlp", "no HTTP client could be made"))?
        .map_err(|error| Error::other("cannot make an HTTP client", error.without_url()))
}

/// Spans on their way.
struct Tally {
    ended: AtomicU64,
    exported: AtomicU64,
    /// Counted as lost already.
    failed: AtomicU64,
    lost: Counter,
    cause: Mutex<Option<String>>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            ended: AtomicU64::default(),
            exported: AtomicU64::default(),
            failed: AtomicU64::default(),
            lost: Counter::noop(),
            cause: Mutex::default(),
        }
    }
}

impl Tally {
    fn settle(&self) -> Flushed {
        let exported = self.exported.load(Ordering::SeqCst);
        let lost = self.ended.load(Ordering::SeqCst).saturating_sub(exported);
        let counted = self.failed.swap(lost, Ordering::SeqCst);
        self.lost.increment(lost.saturating_sub(counted));
        let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner).take();
        Flushed { exported, lost, cause }
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally")
            .field("ended", &self.ended)
            .field("exported", &self.exported)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct CountingExporter<E> {
    inner: E,
    tally: Arc<Tally>,
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let result = self.inner.export(batch).await;
        match &result {
            Ok(()) => {
                self.tally.exported.fetch_add(spans, Ordering::SeqCst);
            }
            Err(error) => {
                self.tally.failed.fetch_add(spans, Ordering::SeqCst);
                self.tally.lost.increment(spans);
                let clause = match error {
                    OTelSdkError::InternalFailure(clause) => clause.clone(),
                    other => other.to_string(),
                };
                let clause = clause.chars().take(MAX_CAUSE).collect();
                *self.tally.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(clause);
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[derive(Debug)]
struct CountingProcessor {
    inner: BatchSpanProcessor,
    tally: Arc<Tally>,
}

impl SpanProcessor for CountingProcessor {
    fn on_start(&self, span: &mut Span, context: &opentelemetry::Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        // Those that are not sampled are not meant to arrive.
        if span.span_context.is_sampled() {
            self.tally.ended.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
