//! Telemetry from the event to what an operator's own programs receive.
//!
//! - the contract: the table of names against what two real exporters gather, in both directions
//! - what alerts rest on: zeros from the start, gauges of the last run
//! - the cost of an event
//! - Prometheus: `promtool check metrics`, a scrape, a real Pushgateway, the textfile
//! - OTLP over gRPC and HTTP: names, parents, attributes, the joined trace, a receiver that is gone
//! - log lines: level and sentence
#![cfg(all(feature = "cli", feature = "otlp", feature = "prometheus-registry"))]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headcount::decide::admission::Admitted;
use headcount::decide::verdict::{LeaderState, Pool, ShortReason, Tick, Verdict};
use headcount::event::{
    AttemptEnd, AttemptFacts, CancelMethod, CancelResult, ChunkEnd, ChunkFacts, ExecutionFacts, FailReason,
    Resolution, RowCounts, Scope, SqlState, UpdateFacts,
};
use headcount::telemetry::exporters::{LogFormat, LogOptions, Options, Telemetry, prometheus};
use headcount::telemetry::names::{self, Exporter, Kind};
use headcount::telemetry::spans::{self, Server};
use headcount::telemetry::{Metrics, SpanAttributes, TraceContext, sql_comment, traceparent_of};
use headcount::{Event, Observer, Outcome};
use mock_collector::{MockServer, Protocol, ServerHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

// The script: every event once, as a short attempt and then a good one would bring them.

const MS: Duration = Duration::from_millis(1);
const POOL: Pool = Pool { used: 6, size: 8 };
const NOW: f64 = 1_800_000_000.5;

fn scope(task: &str) -> Scope {
    Scope { task: task.into() }
}

fn ended(end: Result<Outcome, FailReason>, achieved: u32) -> Event {
    Event::ExecutionEnded(ExecutionFacts {
        end,
        target: 4,
        minimum: 2,
        achieved,
        attempts: 2,
        took: 1250 * MS,
        waited: 400 * MS,
        ran: 700 * MS,
        wasted: 150 * MS,
        ended_at_unix: NOW,
    })
}

fn attempt_ended(attempt: u32, end: AttemptEnd, workers: u32) -> Event {
    Event::AttemptEnded(AttemptFacts { attempt, bar: 4, end, workers, ran: 150 * MS })
}

fn verdict(attempt: u32, verdict: Verdict, workers: u32) -> Event {
    Event::VerdictReached { attempt, bar: 4, verdict, workers, after: 130 * MS }
}

fn chunk(end: ChunkEnd) -> Event {
    let rows = RowCounts { updated: 97, already: 1, stale: 1, missing: 1 };
    let rows = if end == ChunkEnd::Committed { rows } else { RowCounts::default() };
    Event::ChunkEnded(ChunkFacts { chunk: 1, attempt: 1, end, size: 100, rows, took: 3 * MS })
}

fn sample(workers: u32) -> Tick {
    Tick { at: 20 * MS, workers, leader: LeaderState::Active, pool: Some(POOL) }
}

fn script() -> Vec<Event> {
    let lost = SqlState::CONNECTION_FAILURE;
    let short = ShortReason::PoolExhausted;
    vec![
        Event::ExecutionStarted { target: 4, minimum: 2, max_attempts: 5 },
        Event::PlanInspected { planned: 4 },
        Event::AdmissionStarted { attempt: 1, bar: 4, pool: POOL },
        Event::AdmissionEnded { attempt: 1, waited: 400 * MS, end: Admitted::TimedOut, pool: Some(POOL) },
        Event::AttemptStarted { attempt: 1, max_attempts: 5, bar: 4, pid: 4711 },
        Event::MonitorPolled { took: MS, pool: Some(POOL) },
        Event::TickTaken { attempt: 1, bar: 4, tick: sample(2) },
        verdict(1, Verdict::Short(short), 2),
        Event::CancelAnswered { attempt: 1, method: CancelMethod::Cancel, result: CancelResult::Sent },
        Event::WorkersDrained { attempt: 1, waited: 5 * MS, left: 0 },
        Event::CleanupEnded { attempt: 1, took: MS, ok: true },
        attempt_ended(1, AttemptEnd::Rejected(short), 2),
        Event::RetryDelayed { attempt: 2, waited: 250 * MS },
        Event::SessionLost { sqlstate: lost },
        Event::SessionRestored { sqlstate: lost },
        Event::MonitorLost { cause: "connection closed".to_owned() },
        Event::MonitorRestored { blind_for: 50 * MS },
        verdict(2, Verdict::Enough, 4),
        attempt_ended(2, AttemptEnd::Accepted(Verdict::Enough), 4),
        Event::CommitInDoubt,
        Event::CommitResolved { resolution: Resolution::Committed },
        ended(Ok(Outcome::OnTarget), 4),
        Event::UpdateStarted { connections: 2 },
        chunk(ChunkEnd::Retried(lost)),
        chunk(ChunkEnd::Committed),
        chunk(ChunkEnd::Failed(lost)),
        Event::UpdateEnded(UpdateFacts {
            complete: false,
            rows: RowCounts { updated: 97, already: 1, stale: 1, missing: 1 },
            chunks: 1,
            failed_chunks: 1,
            took: 10 * MS,
            ended_at_unix: NOW,
        }),
    ]
}

// The contract.

type Contract = BTreeMap<String, (&'static str, BTreeSet<String>)>;

fn promised() -> Contract {
    let row = |metric: &names::Metric| {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        (metric.name.to_owned(), (kind, metric.labels.iter().map(ToString::to_string).collect()))
    };
    names::ALL.iter().map(row).collect()
}

/// What a text of Prometheus' format has; each series of a metric has the same label names.
fn found(text: &str) -> Contract {
    let scrape = prometheus_parse::Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap();
    let mut found = Contract::new();
    for sample in &scrape.samples {
        let (name, kind) = match &sample.value {
            prometheus_parse::Value::Counter(_) => (&sample.metric, "counter"),
            prometheus_parse::Value::Gauge(_) => (&sample.metric, "gauge"),
            prometheus_parse::Value::Histogram(_) => (&sample.metric, "histogram"),
            // The parser hands over sums and counts as series of their own.
            prometheus_parse::Value::Untyped(_) if sample.metric.ends_with("_sum") => continue,
            prometheus_parse::Value::Untyped(_) if sample.metric.ends_with("_count") => continue,
            other => panic!("{}: {other:?}", sample.metric),
        };
        let labels = sample.labels.keys().cloned().collect();
        assert!(scrape.docs.contains_key(name), "{name} has no HELP");
        let first = found.entry(name.clone()).or_insert_with(|| (kind, BTreeSet::clone(&labels)));
        assert_eq!(*first, (kind, labels), "{name}");
    }
    found
}

/// The value of one series, without its sign: `name{label="word"}`.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn feed(metrics: &Metrics, events: &[Event]) {
    for event in &events {
        metrics.observe(&scope("rollup"), event);
    }
}

fn rendered(events: &[Event]) -> String {
    let recorder = Arc::new(prometheus::recorder().unwrap());
    let handle = recorder.handle();
    let metrics = Metrics::with_recorder(recorder);
    metrics.announce(&scope("rollup"));
    feed(&metrics, events);
    handle.render()
}

fn good() -> Event {
    ended(Ok(Outcome::OnTarget), 4)
}

#[test]
fn the_exporter_has_the_contract_and_nothing_else() {
    let mut events = script();
    events.push(good());
    assert_eq!(found(&rendered(&events)), promised());
}

#[test]
fn an_embedders_registry_has_the_contract_and_nothing_else() {
    let registry = ::prometheus::Registry::new();
    let metrics = Metrics::in_registry(registry.clone()).unwrap();
    feed(&metrics, &script());
    let text = ::prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert_eq!(found(&text), promised());
    assert_eq!(value(&text, "headcount_wasted_seconds_sum{task=\"rollup\"}"), Some(0.15));

    let gathered = registry.gather();
    for metric in names::ALL {
        let Kind::Histogram(buckets) = metric.kind else { continue };
        let family = gathered.iter().find(|family| family.name() == metric.name).unwrap();
        let histogram = family.get_metric()[0].get_histogram();
        let bounds: Vec<f64> =
            histogram.get_bucket().iter().map(::prometheus::proto::Bucket::upper_bound).collect();
        assert_eq!(bounds, buckets, "{}", metric.name);
    }
}

#[test]
fn a_second_claim_to_a_registry_is_refused() {
    let registry = ::prometheus::Registry::new();
    let _first = Metrics::in_registry(registry.clone()).unwrap();
    assert!(Metrics::in_registry(registry).unwrap_err().is_configuration());
}

// What alerts rest on.

#[test]
fn counters_are_zero_from_the_start_and_gauges_are_absent_until_known() {
    let text = rendered(&[]);
    let mut expected = promised();
    expected.retain(|_, (kind, _)| *kind != "gauge");
    assert_eq!(found(&text), expected);
    for series in [
        "headcount_executions_failed_total{task=\"rollup\",reason=\"below_minimum\"}",
        "headcount_attempts_total{task=\"rollup\",verdict=\"short\",reason=\"pool_exhausted\"}",
        "headcount_downgrades_total{task=\"rollup\",bucket=\"serial\"}",
        "headcount_in_doubt_commits_total{task=\"rollup\",resolution=\"unresolved\"}",
        "headcount_chunks_total{task=\"rollup\",result=\"failed\"}",
        "headcount_telemetry_lost_total{exporter=\"otlp\"}",
    ] {
        assert_eq!(value(&text, series), Some(0.0), "{series}");
    }
}

#[test]
fn a_failed_run_is_counted_and_leaves_the_last_success_alone() {
    let text = rendered(&[ended(Err(FailReason::BelowMinimum), 1)]);
    let check = |series: &str, expected| {
        assert_eq!(value(&text, &format!("{series}{{task=\"rollup\"}}")), expected, "{series}");
    };
    check("headcount_executions_total", Some(1.0));
    check("headcount_executions_successful_total", Some(0.0));
    check("headcount_last_run_success", Some(0.0));
    check("headcount_last_run_achieved_workers", Some(1.0));
    check("headcount_last_run_min_workers", Some(2.0));
    check("headcount_last_run_timestamp_seconds", Some(NOW));
    check("headcount_last_success_timestamp_seconds", None);
    let failed = "headcount_executions_failed_total{task=\"rollup\",reason=\"below_minimum\"}";
    assert_eq!(value(&text, failed), Some(1.0));
}

#[test]
fn the_outcome_below_minimum_is_a_failure_too() {
    let text = rendered(&[ended(Ok(Outcome::BelowMinimum), 1)]);
    let failed = "headcount_executions_failed_total{task=\"rollup\",reason=\"below_minimum\"}";
    assert_eq!(value(&text, failed), Some(1.0));
    assert_eq!(value(&text, "headcount_last_run_success{task=\"rollup\"}"), Some(0.0));
}

#[test]
fn only_executions_whose_workers_are_known_are_downgraded() {
    let serial = "headcount_downgrades_total{task=\"rollup\",bucket=\"serial\"}";
    let quarter = "headcount_downgrades_total{task=\"rollup\",bucket=\"1-25\"}";
    let check = |end, achieved, series, expected| {
        assert_eq!(value(&rendered(&[ended(end, achieved)]), series), Some(expected), "{end:?} {achieved}");
    };
    check(Ok(Outcome::AboveMinimum), 0, serial, 1.0);
    check(Ok(Outcome::FinishedEarly), 3, quarter, 1.0);
    check(Ok(Outcome::FinishedEarly), 0, serial, 0.0);
    check(Ok(Outcome::Unverified), 0, serial, 0.0);
    check(Err(FailReason::Sql), 0, serial, 0.0);
}

#[test]
fn the_pool_is_absent_until_it_is_seen() {
    let unseen = rendered(&[Event::MonitorPolled { took: MS, pool: None }]);
    assert!(!unseen.contains("headcount_pool_workers{"), "{unseen}");
    let seen = rendered(&[Event::MonitorPolled { took: MS, pool: Some(POOL) }]);
    assert_eq!(value(&seen, "headcount_pool_workers{state=\"used\"}"), Some(6.0));
    assert_eq!(value(&seen, "headcount_pool_workers{state=\"size\"}"), Some(8.0));
}

// The cost of an event.

#[test]
fn an_event_allocates_nothing_in_steady_state() {
    let metrics = Metrics::in_registry(::prometheus::Registry::new()).unwrap();
    let scope = scope("rollup");
    let events = script();
    // The first success makes the last gauge.
    events.iter().chain([&good()]).for_each(|event| metrics.observe(&scope, event));
    for event in &events {
        let info = allocation_counter::measure(|| metrics.observe(&scope, event));
        assert_eq!(info.count_total, 0, "{event:?}");
    }
}

// Prometheus' own programs.

/// Installs what is missing, once.
fn observability() {
    static READY: std::sync::Once = std::sync::Once::new();
    READY.call_once(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/observability.sh");
        assert!(Command::new("sh").arg(script).status().unwrap().success(), "see the message above");
    });
}

#[test]
fn promtool_finds_no_fault() {
    observability();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(rendered(&script()).as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn silent(_: &str) -> Option<String> {
    None
}

async fn start(configure: impl FnOnce(&mut Options)) -> Telemetry {
    let mut options = Options::new("rollup");
    configure(&mut options);
    Telemetry::start(options, silent).await.unwrap()
}

fn observe(telemetry: &Telemetry, task: &str, events: &[Event]) {
    for observer in telemetry.observers() {
        observer.announce(&scope(task));
        for event in &events {
            observer.observe(&scope(task), event);
        }
    }
}

#[tokio::test]
async fn a_scrape_reads_the_metrics_while_the_job_runs() {
    let telemetry = start(|options| options.listen = Some("127.0.0.1:0".parse().unwrap())).await;
    observe(&telemetry, "rollup", &script());
    let address = telemetry.metrics_address().unwrap();
    let answer = get(address, "/metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("headcount_executions_total{task=\"rollup\"} 1"), "{body}");
    assert!(get(address, "/").await.starts_with("HTTP/1.1 404 "));
    assert!(telemetry.finish().await.is_empty());
}

/// A real Pushgateway on loopback, stopped when dropped.
struct Pushgateway {
    child: Child,
    address: SocketAddr,
}

impl Pushgateway {
    fn start() -> Self {
        observability();
        let mut child = Command::new("prometheus-pushgateway")
            .arg("--web.listen-address=127.0.0.1:0")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = |line: std::io::Result<String>| {
            let line = line.unwrap();
            line.contains("msg=\"Listening on\"")
                .then(|| line.split("address=").nth(1)?.trim().parse().ok())?
        };
        let address = lines.find_map(said).expect("it says where it listens");
        Self { child, address }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Pushgateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn push(url: &str, task: &str, events: &[Event]) -> Vec<String> {
    let mut options = Options::new(task);
    options.push = Some(url.to_owned());
    let telemetry = Telemetry::start(options, silent).await.unwrap();
    observe(&telemetry, task, events);
    telemetry.finish().await.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn tasks_that_push_do_not_overwrite_each_other_and_a_failure_keeps_the_last_success() {
    let gateway = Pushgateway::start();
    let polled = Event::MonitorPolled { took: MS, pool: Some(POOL) };
    for task in ["a", "b", ".."] {
        assert_eq!(push(&gateway.url(), task, &[polled.clone(), good()]).await, Vec::<String>::new());
    }
    let failed = ended(Err(FailReason::Sql), 0);
    assert_eq!(push(&gateway.url(), "a", &[failed]).await, Vec::<String>::new());

    let text = get(gateway.address, "/metrics").await;
    let read = |name: &str, task: &str| {
        let series = format!("{name}{{instance=\"\",job=\"headcount\",task=\"{task}\"}}");
        value(&text, &series).unwrap_or_else(|| panic!("no {series}"))
    };
    for task in ["a", "b", ".."] {
        assert!((read("headcount_last_success_timestamp_seconds", task) - NOW).abs() < 1.0, "{task}");
    }
    assert_eq!(
        ["a", "b", ".."].map(|task| read("headcount_last_run_success", task) > 0.0),
        [false, true, true]
    );
}

#[tokio::test]
async fn a_push_that_is_refused_is_said_and_counted_without_the_password() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rollup.prom");
    let telemetry = start(|options| {
        options.push = Some(format!("http://me:secret@{gone}"));
        options.textfile = Some(file.clone());
    })
    .await;
    let losses = telemetry.finish().await;
    assert_eq!(
        losses.iter().map(|loss| (loss.exporter, loss.count)).collect::<Vec<_>>(),
        [(Exporter::Push, 1)]
    );
    let sentence = losses[0].to_string();
    assert!(sentence.contains(&gone.to_string()) && sentence.contains("refused"), "{sentence}");
    assert!(!sentence.contains("secret"), "{sentence}");
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(value(&text, "headcount_telemetry_lost_total{exporter=\"push\"}"), Some(1.0));
}

#[tokio::test]
async fn a_gateways_refusal_is_passed_on() {
    let gateway = Pushgateway::start();
    let losses = push(&format!("{}/metrics/job/x/task", gateway.url()), "a", &[]).await;
    assert_eq!(losses.len(), 1);
    assert!(losses[0].contains("it answered 4"), "{losses:?}");
}

// Spans.

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A rejected, a failed and an accepted attempt, a tick under each, in the trace of a scheduler.
fn record_execution(telemetry: &Telemetry) {
    let server = Server { address: "db.example".to_owned(), port: 5433, namespace: "shop|public".to_owned() };
    let sql = "SELECT count(*) FROM orders WHERE secret = 'x'";
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let scheduler = TraceContext::from_env(|name| (name == "TRACEPARENT").then(|| parent.clone())).unwrap();
    let say = |event: &Event| SpanAttributes.observe(&scope("rollup"), event);
    let ends = [
        AttemptEnd::Rejected(ShortReason::PoolExhausted),
        AttemptEnd::Failed(SqlState::new("40001")),
        AttemptEnd::Accepted(Verdict::Enough),
    ];
    tracing::dispatcher::with_default(telemetry.dispatch(), || {
        let execution = spans::execution("rollup");
        scheduler.adopt(&execution);
        execution.in_scope(|| {
            say(&Event::ExecutionStarted { target: 4, minimum: 2, max_attempts: 5 });
            for (number, end) in (1..).zip(ends) {
                let attempt = spans::attempt("rollup", number, &server, Some(sql), number == 3);
                let tick = spans::tick(&attempt);
                spans::record_tick(&tick, &sample(number));
                attempt.in_scope(|| {
                    say(&Event::AttemptStarted { attempt: number, max_attempts: 5, bar: 4, pid: 4711 });
                    assert!(traceparent_of(&attempt).unwrap().starts_with(&format!("00-{TRACE}-")));
                    assert!(sql_comment(&attempt).unwrap().starts_with("/*traceparent='00-"));
                    say(&attempt_ended(number, end, number));
                });
            }
            say(&good());
        });
        // Neither theirs nor a log line is ours to export.
        tracing::info_span!(target: "hyper", "not ours").in_scope(|| tracing::error!("not a span"));
    });
}

#[derive(Debug, Clone)]
struct Received {
    name: String,
    id: Vec<u8>,
    parent: Vec<u8>,
    trace: String,
    kind: i32,
    status: i32,
    events: usize,
    attributes: BTreeMap<String, String>,
    service: String,
}

impl Received {
    /// The attribute with its type on the wire, as in `IntValue(4)`.
    fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

async fn received(server: &ServerHandle) -> Vec<Received> {
    server
        .with_collector(|collector| {
            collector
                .spans()
                .iter()
                .map(|test| {
                    let span = test.span();
                    let shown = |value: &dyn std::fmt::Debug| {
                        let text = format!("{value:?}");
                        text.trim_start_matches("Some(AnyValue { value: Some(")
                            .trim_end_matches(") })")
                            .to_owned()
                    };
                    let service =
                        test.resource_attrs().iter().find(|pair| pair.key == "service.name").unwrap();
                    Received {
                        name: span.name.clone(),
                        id: span.span_id.clone(),
                        parent: span.parent_span_id.clone(),
                        trace: span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect(),
                        kind: span.kind,
                        status: span.status.as_ref().map_or(0, |status| status.code),
                        events: span.events.len(),
                        attributes: span
                            .attributes
                            .iter()
                            .map(|pair| (pair.key.clone(), shown(&pair.value)))
                            .collect(),
                        service: shown(&service.value),
                    }
                })
                .collect()
        })
        .await
}

async fn check_spans(protocol: Protocol, scheme: &str) {
    let server = MockServer::builder().protocol(protocol).start().await.unwrap();
    let telemetry = start(|options| options.otlp = Some(format!("{scheme}://{}", server.addr()))).await;
    record_execution(&telemetry);
    assert_eq!(telemetry.finish().await, []);

    let spans = received(&server).await;
    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let (executions, attempts, ticks) =
        (named("headcount.execution"), named("headcount.attempt"), named("headcount.monitor.tick"));
    assert_eq!((executions.len(), attempts.len(), ticks.len(), spans.len()), (1, 3, 3, 7));
    assert!(spans.iter().all(|span| span.trace == TRACE && span.service == "StringValue(\"headcount\")"));
    assert!(spans.iter().all(|span| span.events == 0));

    let execution = executions[0];
    assert_eq!(execution.parent, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
    assert_eq!((execution.kind, execution.status), (1, 0));
    assert_eq!(execution.attribute("headcount.target_workers"), "IntValue(4)");
    assert_eq!(execution.attribute("headcount.achieved_workers"), "IntValue(4)");
    assert_eq!(execution.attribute("headcount.outcome"), "StringValue(\"on_target\")");
    assert_eq!(execution.attribute("headcount.target_met"), "BoolValue(true)");
    assert_eq!(execution.attribute("headcount.wasted_seconds"), "DoubleValue(0.15)");

    let attempt = |number: u32| {
        let wanted = format!("IntValue({number})");
        *attempts.iter().find(|span| span.attribute("headcount.attempt") == wanted).unwrap()
    };
    for number in 1..=3 {
        let span = attempt(number);
        assert_eq!((&span.parent, span.kind), (&execution.id, 3));
        for (key, expected) in [
            ("db.system.name", "StringValue(\"postgresql\")"),
            ("db.namespace", "StringValue(\"shop|public\")"),
            ("db.operation.name", "StringValue(\"SELECT\")"),
            ("db.query.summary", "StringValue(\"SELECT orders\")"),
            ("server.address", "StringValue(\"db.example\")"),
            ("server.port", "IntValue(5433)"),
            ("headcount.pid", "IntValue(4711)"),
            ("headcount.bar", "IntValue(4)"),
        ] {
            assert_eq!(span.attribute(key), expected, "{key}");
        }
        let tick = ticks.iter().find(|tick| tick.parent == span.id).unwrap();
        assert_eq!(tick.attribute("headcount.workers"), format!("IntValue({number})"));
        assert_eq!(tick.attribute("headcount.pool_used"), "IntValue(6)");
        assert_eq!(tick.attribute("headcount.leader_state"), "StringValue(\"active\")");
        for noise in ["thread.id", "code.file.path", "busy_ns", "target", "level"] {
            assert_eq!(span.attribute(noise), "");
        }
    }
    let status = |number| (attempt(number).status, attempt(number).attribute("error.type").to_owned());
    assert_eq!(status(1), (0, String::new()));
    assert_eq!(attempt(1).attribute("headcount.reason"), "StringValue(\"pool_exhausted\")");
    assert_eq!(status(2), (2, "StringValue(\"40001\")".to_owned()));
    assert_eq!(attempt(2).attribute("db.response.status_code"), "StringValue(\"40001\")");
    assert_eq!(status(3), (0, String::new()));
    let text = |number| attempt(number).attribute("db.query.text").to_owned();
    assert_eq!(text(1), "");
    assert!(text(3).contains("FROM orders"));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn spans_arrive_over_grpc_with_parents_and_typed_attributes() {
    check_spans(Protocol::Grpc, "grpc").await;
}

#[tokio::test]
async fn spans_arrive_over_http_with_parents_and_typed_attributes() {
    check_spans(Protocol::HttpBinary, "http").await;
}

#[tokio::test]
async fn an_update_without_all_chunks_is_an_error_and_its_failed_chunk_too() {
    let server = MockServer::builder().protocol(Protocol::Grpc).start().await.unwrap();
    let telemetry = start(|options| options.otlp = Some(format!("grpc://{}", server.addr()))).await;
    tracing::dispatcher::with_default(telemetry.dispatch(), || {
        let say = |event: &Event| SpanAttributes.observe(&scope("orders"), event);
        let update = spans::update("orders");
        let sql = "UPDATE orders SET status = $1";
        let one = spans::chunk(&update, "orders", 7, 100, &Server::default(), sql);
        one.in_scope(|| say(&chunk(ChunkEnd::Failed(SqlState::new("23514").unwrap()))));
        update.in_scope(|| say(script().last().unwrap()));
    });
    assert_eq!(telemetry.finish().await, []);
    let spans = received(&server).await;
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (update, chunk) = (named("headcount.update"), named("headcount.chunk"));
    assert_eq!((update.status, chunk.status, &chunk.parent), (2, 2, &update.id));
    assert_eq!(update.attribute("headcount.failed_chunks"), "IntValue(1)");
    assert_eq!(chunk.attribute("db.operation.batch.size"), "IntValue(100)");
    assert_eq!(chunk.attribute("headcount.chunk"), "IntValue(7)");
    assert_eq!(chunk.attribute("db.query.summary"), "StringValue(\"UPDATE orders\")");
    assert_eq!(chunk.attribute("db.response.status_code"), "StringValue(\"23514\")");
    server.shutdown().await.unwrap();
}

/// What is said and counted when nobody takes the spans.
async fn check_loss(url: String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rollup.prom");
    let telemetry = start(|options| {
        options.otlp = Some(url.clone());
        options.textfile = Some(file.clone());
        options.flush_limit = 300 * MS;
    })
    .await;
    record_execution(&telemetry);
    let losses = telemetry.finish().await;
    assert_eq!(
        losses.iter().map(|loss| (loss.exporter, loss.count)).collect::<Vec<_>>(),
        [(Exporter::Otlp, 7)]
    );
    assert!(
        losses[0].to_string().starts_with("7 of 7 spans were not delivered to http://127.0.0.1:"),
        "{url}"
    );
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(value(&text, "headcount_telemetry_lost_total{exporter=\"otlp\"}"), Some(7.0), "{url}");
}

#[tokio::test]
async fn spans_for_a_receiver_that_is_gone_are_counted_and_said() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    check_loss(format!("grpc://{gone}")).await;
    check_loss(format!("http://{gone}")).await;
}

#[tokio::test]
async fn a_receiver_that_never_answers_does_not_hold_the_job() {
    // The kernel accepts, nobody reads.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    check_loss(format!("grpc://{}", mute.local_addr().unwrap())).await;
    check_loss(format!("http://{}", mute.local_addr().unwrap())).await;
}

// Log lines.

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_event_is_a_line_whose_level_says_who_must_act() {
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let log = LogOptions {
        format: LogFormat::Json,
        filter: "headcount=trace".to_owned(),
        writer: tracing_subscriber::fmt::writer::BoxMakeWriter::new(move || writer.clone()),
    };
    let telemetry = start(|options| options.log = Some(log)).await;
    let mut events = script();
    events.push(ended(Err(FailReason::Sql), 0));
    events.push(ended(Ok(Outcome::AboveMinimum), 3));
    tracing::dispatcher::with_default(telemetry.dispatch(), || observe(&telemetry, "rollup", &events));

    let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), events.len());
    assert!(lines.iter().all(|line| line["task"] == "rollup" && line["target"] == "headcount"));
    let level = |sentence: &str| {
        let line = lines.iter().find(|line| line["message"] == sentence);
        line.unwrap_or_else(|| panic!("no line says `{sentence}`"))["level"].as_str().unwrap().to_owned()
    };
    for (sentence, expected) in [
        ("started", "INFO"),
        ("the pool is still full; starting all the same", "WARN"),
        ("attempt started", "DEBUG"),
        ("workers seen", "TRACE"),
        ("too few workers", "WARN"),
        ("cancelled", "DEBUG"),
        ("cleaned up", "DEBUG"),
        ("connected again", "WARN"),
        ("enough workers", "INFO"),
        ("finished on target", "INFO"),
        ("finished below the target", "WARN"),
        ("gave up", "ERROR"),
        ("chunk given up", "ERROR"),
        ("update is incomplete", "ERROR"),
    ] {
        assert_eq!(level(sentence), expected, "{sentence}");
    }
    let started = lines.iter().find(|line| line["message"] == "attempt started").unwrap();
    assert_eq!(
        (&started["attempt"], &started["max_attempts"], &started["pid"]),
        (&1.into(), &5.into(), &4711.into())
    );
}
