//! Prometheus' own programs.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use headcount::Event;
use headcount::event::FailReason;
use headcount::telemetry::exporters::{Options, Telemetry};
use headcount::telemetry::names::Exporter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::script::{MS, NOW, POOL, ended, good, observe, rendered, script, silent, start, value};

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
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_scrape_reads_the_metrics_while_the_job_runs() {
    let telemetry = start(|options| options.listen = Some("127.0.0.1:0".parse().unwrap())).await;
    observe(&telemetry, "rollup", &script());
    let address = telemetry.metrics_address().unwrap();
    let answer = get(address, "/metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 ") && head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("headcount_executions_total{task=\"rollup\"} 1"), "{body}");
    assert!(get(address, "/").await.lines().next().unwrap().contains(" 404 "));
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
            .args(["--web.listen-address=127.0.0.1:0", "--persistence.file="])
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
        // It dies of a closed pipe at its next log line, so somebody must go on reading.
        std::thread::spawn(move || lines.for_each(drop));
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
        let at = read("headcount_last_success_timestamp_seconds", task);
        assert!((at - NOW).abs() < 1.0, "{task}: {at}");
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
    assert_eq!(value(&text, "headcount_telemetry_lost_total{task=\"rollup\",exporter=\"push\"}"), Some(1.0));
}

#[tokio::test]
async fn a_gateways_refusal_is_passed_on() {
    let gateway = Pushgateway::start();
    let losses = push(&format!("{}/metrics/job/x/task", gateway.url()), "a", &[]).await;
    assert_eq!(losses.len(), 1);
    assert!(losses[0].contains("it answered 4"), "{losses:?}");
}
