//! Spans.

use std::time::Duration;

use headcount::Event;
use headcount::Observer;
use headcount::event::{AttemptEnd, ChunkEnd, SqlState};
use headcount::event::{ShortReason, Verdict};
use headcount::telemetry::exporters::{LogFormat, Telemetry};
use headcount::telemetry::names::Exporter;
use headcount::telemetry::spans::{self, Server};
use headcount::telemetry::{SpanAttributes, TraceContext, sql_comment, traceparent_of};
use mock_collector::{MockServer, Protocol};

use crate::log::Buffer;
use crate::receiver::received;
use crate::script::{MS, attempt_ended, attempt_started, chunk, good, sample, scope, script, start, value};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A rejected, a failed and an accepted attempt, a tick under each, in the trace of a scheduler.
fn record_execution(telemetry: &Telemetry) {
    let server = Server { address: "db.example".to_owned(), port: 5433, namespace: "shop|public".to_owned() };
    let sql = "SELECT count(*) FROM orders WHERE secret = 'x'";
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let scheduler = TraceContext::from_env(|name| (name == "TRACEPARENT").then(|| parent.clone())).unwrap();
    let say = |event: &Event| telemetry.observers().iter().for_each(|o| o.observe(&scope("rollup"), event));
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
                    say(&attempt_started(number));
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

/// Runs itself again with a scheduler's environment: a process cannot change its own safely.
#[tokio::test]
async fn a_trace_in_the_environment_is_joined_unless_a_span_is_open() {
    if std::env::var_os("TRACEPARENT").is_none() {
        let name = "otlp::a_trace_in_the_environment_is_joined_unless_a_span_is_open";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env("TRACEPARENT", format!("00-{TRACE}-b7ad6b7169203331-01"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let server = MockServer::builder().protocol(Protocol::Grpc).start().await.unwrap();
    let telemetry = start(|options| options.otlp = Some(format!("grpc://{}", server.addr()))).await;
    tracing::dispatcher::with_default(telemetry.dispatch(), || {
        let joined = |span: &tracing::Span| traceparent_of(span).unwrap().contains(TRACE);
        assert!(joined(&spans::execution("rollup")));
        assert!(joined(&spans::update("orders")));
        let own = tracing::info_span!(target: "headcount", "embedder");
        assert!(!joined(&own));
        own.in_scope(|| assert!(!joined(&spans::execution("rollup"))));
    });
    assert_eq!(telemetry.finish().await, []);
    server.shutdown().await.unwrap();
}

async fn check_spans(protocol: Protocol, scheme: &str) {
    let server = MockServer::builder().protocol(protocol).start().await.unwrap();
    let lines = Buffer::default();
    let telemetry = start(|options| {
        options.otlp = Some(format!("{scheme}://{}", server.addr()));
        // Lines of INFO do not hide the ticks' spans of DEBUG.
        options.log = Some(lines.options(LogFormat::Text, "headcount=info"));
    })
    .await;
    record_execution(&telemetry);
    assert_eq!(telemetry.finish().await, []);
    let text = lines.text();
    assert!(text.contains("started") && text.contains(TRACE) && !text.contains("db.example"), "{text}");

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
            ("headcount.required_workers", "IntValue(4)"),
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

#[tokio::test]
async fn a_wait_for_slots_is_a_span_beside_the_attempts() {
    let server = MockServer::builder().protocol(Protocol::Grpc).start().await.unwrap();
    let telemetry = start(|options| options.otlp = Some(format!("grpc://{}", server.addr()))).await;
    tracing::dispatcher::with_default(telemetry.dispatch(), || {
        let execution = spans::execution("rollup");
        let waits = execution.in_scope(|| spans::reserve("rollup", 4));
        waits.in_scope(|| {
            for event in &script() {
                if matches!(event, Event::ReservationQueued { .. } | Event::ReservationEnded { .. }) {
                    SpanAttributes.observe(&scope("rollup"), event);
                }
            }
        });
    });
    assert_eq!(telemetry.finish().await, []);
    let spans = received(&server).await;
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let waits = named("headcount.reserve");
    assert_eq!((&waits.parent, waits.kind, waits.status), (&named("headcount.execution").id, 1, 0));
    for (key, expected) in [
        ("headcount.demand", "IntValue(4)"),
        ("headcount.ahead", "IntValue(2)"),
        ("headcount.taken_slots", "IntValue(2)"),
        ("headcount.granted", "StringValue(\"degraded\")"),
        ("headcount.outsiders", "IntValue(2)"),
        ("headcount.waited_seconds", "DoubleValue(0.2)"),
    ] {
        assert_eq!(waits.attribute(key), expected, "{key}");
    }
    server.shutdown().await.unwrap();
}

/// What is said and counted when nobody takes the spans.
async fn check_loss(url: String, limit: Duration, cause: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rollup.prom");
    let telemetry = start(|options| {
        options.otlp = Some(url.clone());
        options.textfile = Some(file.clone());
        options.flush_limit = limit;
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
    assert!(losses[0].to_string().contains(cause), "{}", losses[0]);
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(
        value(&text, "headcount_telemetry_lost_total{task=\"rollup\",exporter=\"otlp\"}"),
        Some(7.0),
        "{url}"
    );
}

#[tokio::test]
async fn spans_for_a_receiver_that_is_gone_are_counted_and_said() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    check_loss(format!("grpc://{gone}"), 10_000 * MS, "Connection refused").await;
    check_loss(format!("http://{gone}"), 10_000 * MS, "network error").await;
}

#[tokio::test]
async fn a_receiver_that_never_answers_does_not_hold_the_job() {
    // The kernel accepts, nobody reads.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    check_loss(format!("grpc://{}", mute.local_addr().unwrap()), 300 * MS, "no answer in time").await;
    check_loss(format!("http://{}", mute.local_addr().unwrap()), 300 * MS, "no answer in time").await;
}
