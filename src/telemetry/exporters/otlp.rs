//! Spans over OTLP: gRPC or HTTP, counted on the way out.
//!
//! The SDK answers Ok to a shutdown whose last batch went nowhere, and drops spans from a full queue
//! with a log line. So we count ourselves: spans that ended, and spans that a receiver took. What is
//! between the two at the end is lost, whatever the reason, and is said.
//!
//! Of the environment the SDK reads headers, timeouts, the sampler and the limits of the batch; the
//! switches it leaves out (`OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER`) are read here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::Counter;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use reqwest::Url;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::http;
use crate::error::Error;
use crate::telemetry::TARGET;

/// How long one batch may take over HTTP, unless the environment says otherwise.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const EXAMPLE: &str = "not a URL with a scheme, as in http://127.0.0.1:4318 or grpc://127.0.0.1:4317";

/// Where spans go.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// gRPC, or protobuf over HTTP.
    pub grpc: bool,
    /// With the path, for HTTP.
    endpoint: String,
}

impl Target {
    /// Decides from the option `--otlp` and the environment. `None`: no export.
    ///
    /// `OTEL_SDK_DISABLED=true` switches all off. The option comes before
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, that before `OTEL_EXPORTER_OTLP_ENDPOINT`; with neither, spans are
    /// sent to the local collector only if `OTEL_TRACES_EXPORTER=otlp` asks for it. The protocol is what
    /// `OTEL_EXPORTER_OTLP_(TRACES_)PROTOCOL` says, else gRPC for `grpc://`, `grpcs://` and port 4317, else HTTP.
    ///
    /// # Errors
    ///
    /// A configuration error that names the option or the variable.
    pub fn resolve(
        option: Option<&str>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Error> {
        let env =
            |name: &str| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        if env("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let exporters = env("OTEL_TRACES_EXPORTER");
        let asked =
            exporters.as_deref().is_some_and(|list| list.split(',').any(|name| name.trim() == "otlp"));
        if option.is_none() && exporters.is_some() && !asked {
            return Ok(None);
        }
        let found = (option.map(|url| (url.to_owned(), "--otlp")))
            .or_else(|| env(TRACES).map(|url| (url, TRACES)))
            .or_else(|| env(ALL).map(|url| (url, ALL)));
        let protocol = protocol(env)?;
        let (url, field) = match found {
            Some(found) => found,
            None if asked && protocol == Some(true) => ("http://localhost:4317".to_owned(), ALL),
            None if asked => ("http://localhost:4318".to_owned(), ALL),
            None => return Ok(None),
        };
        Self::parse(&url, field, protocol, field == TRACES).map(Some)
    }

    fn parse(text: &str, field: &str, grpc: Option<bool>, path_as_is: bool) -> Result<Self, Error> {
        let wrong = |problem: &str| Error::configuration(field, problem);
        let (rest, scheme_says) = match text.split_once("://") {
            Some(("grpc", rest)) => (format!("http://{rest}"), Some(true)),
            Some(("grpcs", rest)) => (format!("https://{rest}"), Some(true)),
            Some(("http" | "https", _)) => (text.to_owned(), None),
            _ => return Err(wrong(EXAMPLE)),
        };
        let mut url = Url::parse(&rest).map_err(|_| wrong(EXAMPLE))?;
        let grpc = scheme_says.or(grpc).unwrap_or(url.port() == Some(4317));
        if !grpc && !path_as_is && !url.path().ends_with("/v1/traces") {
            let base = url.path().trim_end_matches('/').to_owned();
            url.set_path(&format!("{base}/v1/traces"));
        }
        Ok(Self { grpc, endpoint: url.into() })
    }

    /// The address, without credentials and query.
    #[must_use]
    pub fn shown(&self) -> String {
        Url::parse(&self.endpoint).as_ref().map(http::shown).unwrap_or_default()
    }

    fn is_tls(&self) -> bool {
        self.endpoint.starts_with("https://")
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({}, {})", if self.grpc { "grpc" } else { "http" }, self.shown())
    }
}

/// Whether the environment asks for gRPC.
fn protocol(env: impl Fn(&str) -> Option<String>) -> Result<Option<bool>, Error> {
    for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        match env(name).as_deref() {
            None => (),
            Some("grpc") => return Ok(Some(true)),
            Some("http/protobuf") => return Ok(Some(false)),
            Some(other) => {
                return Err(Error::configuration(
                    name,
                    format!("`{other}` is neither grpc nor http/protobuf"),
                ));
            }
        }
    }
    Ok(None)
}

/// What happened to the spans of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// Taken by the receiver.
    pub exported: u64,
    /// Ended, but not taken.
    pub lost: u64,
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
        let wrong = |problem: String| Error::configuration("--otlp", problem);
        let builder = opentelemetry_otlp::SpanExporter::builder();
        let exporter = if target.grpc {
            let mut builder = builder.with_tonic().with_endpoint(&target.endpoint);
            if target.is_tls() {
                builder = builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
            }
            builder.build()
        } else {
            builder
                .with_http()
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
        .map_err(|_| Error::configuration("--otlp", "no HTTP client could be made"))?
        .map_err(|error| Error::other("cannot make an HTTP client", error.without_url()))
}

/// Spans on their way.
struct Tally {
    ended: AtomicU64,
    exported: AtomicU64,
    /// Counted as lost already.
    failed: AtomicU64,
    lost: Counter,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            ended: AtomicU64::default(),
            exported: AtomicU64::default(),
            failed: AtomicU64::default(),
            lost: Counter::noop(),
        }
    }
}

impl Tally {
    fn settle(&self) -> Flushed {
        let exported = self.exported.load(Ordering::SeqCst);
        let lost = self.ended.load(Ordering::SeqCst).saturating_sub(exported);
        let counted = self.failed.swap(lost, Ordering::SeqCst);
        self.lost.increment(lost.saturating_sub(counted));
        Flushed { exported, lost }
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
        if result.is_ok() {
            self.tally.exported.fetch_add(spans, Ordering::SeqCst);
        } else {
            self.tally.failed.fetch_add(spans, Ordering::SeqCst);
            self.tally.lost.increment(spans);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected` as in `Debug`; the empty text means no export.
    fn check(option: Option<&str>, env: &[(&str, &str)], expected: &str) {
        let get = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let target = Target::resolve(option, get).unwrap();
        assert_eq!(
            target.map(|target| format!("{target:?}")).unwrap_or_default(),
            expected,
            "{option:?} {env:?}"
        );
    }

    #[test]
    fn scheme_and_port_choose_the_protocol() {
        check(Some("http://h:4318"), &[], "Target(http, http://h:4318/v1/traces)");
        check(Some("http://h:4317"), &[], "Target(grpc, http://h:4317/)");
        check(Some("grpc://h:14317"), &[], "Target(grpc, http://h:14317/)");
        check(Some("grpcs://h"), &[], "Target(grpc, https://h/)");
        check(Some("https://h/otlp/"), &[], "Target(http, https://h/otlp/v1/traces)");
        check(Some("http://h/v1/traces"), &[], "Target(http, http://h/v1/traces)");
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        check(Some("http://h:9"), &[grpc], "Target(grpc, http://h:9/)");
        check(
            Some("http://h:9"),
            &[grpc, ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")],
            "Target(http, http://h:9/v1/traces)",
        );
    }

    #[test]
    fn the_option_comes_before_the_environment() {
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/in"),
        ];
        check(Some("http://h:4318"), &env, "Target(http, http://h:4318/v1/traces)");
        check(None, &env, "Target(http, http://traces:4318/in)");
        check(None, &env[..1], "Target(http, http://all:4318/v1/traces)");
    }

    #[test]
    fn nothing_is_sent_unless_asked_and_the_switches_hold() {
        check(None, &[], "");
        check(None, &[("OTEL_TRACES_EXPORTER", "otlp")], "Target(http, http://localhost:4318/v1/traces)");
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318");
        check(None, &[endpoint, ("OTEL_TRACES_EXPORTER", "none")], "");
        check(None, &[endpoint, ("OTEL_TRACES_EXPORTER", "console")], "");
        check(Some("http://h:9"), &[("OTEL_TRACES_EXPORTER", "none")], "Target(http, http://h:9/v1/traces)");
        check(Some("http://h:4318"), &[("OTEL_SDK_DISABLED", "true")], "");
    }

    #[test]
    fn a_wrong_target_names_its_origin_and_no_password() {
        let refused = |option: Option<&str>, name: &str, value: &str| {
            let get = |key: &str| (key == name).then(|| value.to_owned());
            Target::resolve(option, get).unwrap_err().to_string()
        };
        assert!(refused(Some("h:4317"), "", "").starts_with("--otlp: "));
        let text = refused(None, "OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://me:secret@h");
        assert!(text.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: ") && !text.contains("secret"), "{text}");
        assert!(refused(Some("http://h"), "OTEL_EXPORTER_OTLP_PROTOCOL", "http/json").contains("http/json"));
        let target = Target::resolve(Some("http://me:secret@h:9"), |_| None).unwrap().unwrap();
        assert_eq!(format!("{target:?}"), "Target(http, http://h:9/v1/traces)");
    }
}
