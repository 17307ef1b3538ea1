//! The spans of real runs of the command, as a receiver that is not ours gets them.

use mock_collector::{MockServer, Protocol, ServerHandle};

use super::crowd::{Crowded, STATEMENT};
use super::programs::headcount;
use super::receiver::{Received, received};

/// The scheduler's trace, and the span in it that starts the command.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const STARTER: [u8; 8] = [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31];
const TRACEPARENT: (&str, &str) = ("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");

/// The command's exit code, what it said, and what arrived by then: it ends when its spans are delivered.
async fn traced(
    protocol: Protocol,
    crowded: &Crowded,
    arguments: &[&str],
) -> (Option<i32>, String, Vec<Received>) {
    let server = MockServer::builder().protocol(protocol).start().await.unwrap();
    let (dsn, url) = (crowded.dsn(), url(protocol, &server));
    let arguments = [arguments, &["--dsn", &dsn, "--otlp", &url]].concat();
    let (code, said) = headcount(&arguments, &[TRACEPARENT]).await;
    let spans = received(&server).await;
    server.shutdown().await.unwrap();
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    // Log lines are no events of spans.
    assert!(spans.iter().all(|span| span.events == 0), "{spans:#?}");
    assert!(spans.iter().all(|span| span.service == "StringValue(\"headcount\")"), "{spans:#?}");
    (code, said, spans)
}

fn url(protocol: Protocol, server: &ServerHandle) -> String {
    let scheme = if matches!(protocol, Protocol::Grpc) { "grpc" } else { "http" };
    format!("{scheme}://{}", server.addr())
}

fn named<'a>(spans: &'a [Received], name: &str) -> Vec<&'a Received> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn check(span: &Received, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(span.attribute(key), *value, "{key} of {span:#?}");
    }
}

/// The stable attributes of a database client's span.
fn check_database(span: &Received, crowded: &Crowded, operation: &str, summary: &str) {
    assert_eq!(span.kind, 3, "{span:#?}");
    check(
        span,
        &[
            ("db.system.name", "StringValue(\"postgresql\")"),
            ("db.namespace", "StringValue(\"postgres\")"),
            ("db.operation.name", &format!("StringValue({operation:?})")),
            ("db.query.summary", &format!("StringValue({summary:?})")),
            ("server.address", "StringValue(\"127.0.0.1\")"),
            ("server.port", &format!("IntValue({})", crowded.server.port())),
            // Literals may be personal data.
            ("db.query.text", ""),
        ],
    );
}

/// A pool with room for one: the first attempt wants four workers and is rejected, the last takes one.
async fn check_run(protocol: Protocol) {
    let crowded = Crowded::start().await;
    let neighbour = crowded.neighbour().await;
    let job = ["run", "--task", "rollup", "--sql", STATEMENT, "--target", "4", "--admission-wait", "0s"];
    let (code, said, spans) =
        traced(protocol, &crowded, &[&job[..], &["--min", "1", "--attempts", "2"]].concat()).await;
    assert_eq!(code, Some(0), "{said}");

    let (executions, attempts, ticks) = (
        named(&spans, "headcount.execution"),
        named(&spans, "headcount.attempt"),
        named(&spans, "headcount.monitor.tick"),
    );
    assert_eq!((executions.len(), attempts.len()), (1, 2), "{spans:#?}");
    assert_eq!(1 + 2 + ticks.len(), spans.len(), "{spans:#?}");

    let execution = executions[0];
    assert_eq!(execution.parent, STARTER);
    // The rejected attempt is its history, not its failure.
    assert_eq!((execution.kind, execution.status), (1, 0));
    check(
        execution,
        &[
            ("headcount.task", "StringValue(\"rollup\")"),
            ("headcount.target_workers", "IntValue(4)"),
            ("headcount.min_workers", "IntValue(1)"),
            ("headcount.max_attempts", "IntValue(2)"),
            ("headcount.planned_workers", "IntValue(4)"),
            ("headcount.achieved_workers", "IntValue(1)"),
            ("headcount.attempts", "IntValue(2)"),
            ("headcount.outcome", "StringValue(\"above_minimum\")"),
            ("headcount.target_met", "BoolValue(false)"),
            ("error.type", ""),
        ],
    );
    assert!(execution.attribute("headcount.wasted_seconds").starts_with("DoubleValue("));

    let attempt = |number: u32| {
        let number = format!("IntValue({number})");
        *attempts.iter().find(|span| span.attribute("headcount.attempt") == number).unwrap()
    };
    for (number, expected) in [
        (
            1,
            [
                ("headcount.required_workers", "IntValue(4)"),
                ("headcount.verdict", "StringValue(\"short\")"),
                ("headcount.reason", "StringValue(\"pool_exhausted\")"),
                ("headcount.accepted", "BoolValue(false)"),
                ("headcount.cancel_method", "StringValue(\"cancel\")"),
            ],
        ),
        (
            2,
            [
                ("headcount.required_workers", "IntValue(1)"),
                ("headcount.verdict", "StringValue(\"enough\")"),
                ("headcount.reason", ""),
                ("headcount.accepted", "BoolValue(true)"),
                ("headcount.cancel_method", ""),
            ],
        ),
    ] {
        let span = attempt(number);
        assert_eq!((&span.parent, span.status), (&execution.id, 0), "{span:#?}");
        check_database(span, &crowded, "SELECT", "SELECT pages");
        check(span, &expected);
        check(span, &[("headcount.task", "StringValue(\"rollup\")"), ("headcount.workers", "IntValue(1)")]);
        let pid = span.attribute("headcount.pid");
        assert!(pid.starts_with("IntValue("), "{pid}");

        // What convinced the verdict was seen by a tick of this very attempt.
        let own: Vec<_> = ticks.iter().filter(|tick| tick.parent == span.id).collect();
        let seen = own.iter().find(|tick| tick.attribute("headcount.workers") == "IntValue(1)");
        let seen = seen.unwrap_or_else(|| panic!("no tick of attempt {number} saw a worker: {own:#?}"));
        check(
            seen,
            &[
                ("headcount.leader_state", "StringValue(\"active\")"),
                ("headcount.pool_used", "IntValue(4)"),
                ("headcount.pool_size", "IntValue(4)"),
            ],
        );
    }
    let parents = [&attempt(1).id, &attempt(2).id];
    assert!(ticks.iter().all(|tick| parents.contains(&&tick.parent)), "{ticks:#?}");

    // The same without an attempt that may take one worker: now the execution is the error.
    let (code, said, spans) =
        traced(protocol, &crowded, &[&job[..], &["--min", "2", "--attempts", "1"]].concat()).await;
    assert_eq!(code, Some(3), "{said}");
    let execution = named(&spans, "headcount.execution")[0];
    assert_eq!((&execution.parent[..], execution.status), (&STARTER[..], 2));
    check(execution, &[("error.type", "StringValue(\"below_minimum\")")]);
    assert_eq!(named(&spans, "headcount.attempt")[0].status, 0);
    crowded.leave(neighbour).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_run_is_traced_over_grpc_down_to_each_look_at_each_attempt() {
    check_run(Protocol::Grpc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_run_is_traced_over_http_down_to_each_look_at_each_attempt() {
    check_run(Protocol::HttpBinary).await;
}

/// Eight keys in three chunks; of the last there is no row.
async fn check_update(protocol: Protocol) {
    let crowded = Crowded::with_orders(7).await;
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "1\n2\n3\n4\n5\n6\n7\n8\n").unwrap();
    let keys = keys.path().to_str().unwrap();
    let ship = ["update", "--task", "ship", "--table", "orders", "--key", "id", "--set", "status=shipped"];
    let (code, said, spans) =
        traced(protocol, &crowded, &[&ship[..], &["--keys", keys, "--chunk", "3"]].concat()).await;
    assert_eq!(code, Some(0), "{said}");

    let (updates, chunks) = (named(&spans, "headcount.update"), named(&spans, "headcount.chunk"));
    assert_eq!((updates.len(), chunks.len(), spans.len()), (1, 3, 4), "{spans:#?}");
    let update = updates[0];
    assert_eq!((&update.parent[..], update.kind, update.status), (&STARTER[..], 1, 0));
    check(
        update,
        &[
            ("headcount.task", "StringValue(\"ship\")"),
            ("headcount.connections", "IntValue(1)"),
            ("headcount.complete", "BoolValue(true)"),
            ("headcount.chunks", "IntValue(3)"),
            ("headcount.failed_chunks", "IntValue(0)"),
            ("headcount.updated", "IntValue(7)"),
            ("headcount.missing", "IntValue(1)"),
        ],
    );
    let mut sizes = Vec::new();
    for chunk in chunks {
        assert_eq!((&chunk.parent, chunk.status), (&update.id, 0), "{chunk:#?}");
        check_database(chunk, &crowded, "UPDATE", "UPDATE \"public\".\"orders\"");
        check(
            chunk,
            &[
                ("headcount.task", "StringValue(\"ship\")"),
                ("headcount.attempt", "IntValue(1)"),
                ("headcount.result", "StringValue(\"committed\")"),
                ("headcount.stale", "IntValue(0)"),
            ],
        );
        sizes.push((chunk.attribute("headcount.chunk"), chunk.attribute("db.operation.batch.size")));
    }
    sizes.sort_unstable();
    assert_eq!(
        sizes.iter().map(|(_, size)| *size).collect::<Vec<_>>(),
        ["IntValue(3)", "IntValue(3)", "IntValue(2)"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_update_is_traced_over_grpc_chunk_by_chunk() {
    check_update(Protocol::Grpc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_update_is_traced_over_http_chunk_by_chunk() {
    check_update(Protocol::HttpBinary).await;
}
