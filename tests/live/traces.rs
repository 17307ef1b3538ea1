//! Records what the monitor sees of real statements, for `tests/core/recorded.rs`:
//! `HEADCOUNT_TEST_PG=18 cargo test --all-features --test live -- --ignored record_traces`.
//!
//! A trace begins with what is known before the statement runs. Then it has a line for each look, and behind it what the
//! look proved. See `tests/core/traces/README.md`.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headcount::event::{LeaderState, Pool, Scope, Verdict};
use headcount::{Event, Headcount, Job, Observer};

use crate::harness::{Bench, POOL, endpoint, eventually, main_version, quick};

const TABLES: &str = "
CREATE TABLE t2 (id int, pad char(600)) WITH (fillfactor = 10, parallel_workers = 2);
CREATE TABLE t4 (id int, pad char(600)) WITH (fillfactor = 10, parallel_workers = 4);
INSERT INTO t2 SELECT g, 'x' FROM generate_series(1, 60) g;
INSERT INTO t4 SELECT g, 'x' FROM generate_series(1, 60) g;
GRANT SELECT ON t2, t4 TO PUBLIC;
ANALYZE t2; ANALYZE t4;";

#[derive(Debug, Default)]
struct Trace(Mutex<String>);

fn pool(pool: Option<Pool>) -> String {
    pool.map_or_else(|| "-".to_owned(), |pool| format!("{}/{}", pool.used, pool.size))
}

const fn leader(state: LeaderState) -> &'static str {
    match state {
        LeaderState::Active => "active",
        LeaderState::WaitingForLock => "locked",
        LeaderState::Idle => "idle",
        LeaderState::Gone => "gone",
    }
}

impl Observer for Trace {
    fn observe(&self, _scope: &Scope, event: &Event) {
        let mut lines = self.0.lock().unwrap();
        let written = match event {
            Event::AdmissionEnded { pool: Some(pool), .. } => writeln!(lines, "free {}", pool.free()),
            Event::TickTaken { tick, pids, .. } => {
                let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
                let pids = if pids.is_empty() { "-".to_owned() } else { pids.join(",") };
                let (at, state) = (tick.at.as_micros(), leader(tick.leader));
                writeln!(lines, "look {at} {state} {} {} {pids}", pool(tick.pool), pool(tick.processes))
            }
            Event::VerdictReached { verdict, .. } => {
                let reason = if let Verdict::Short(reason) = verdict { reason.as_str() } else { "-" };
                writeln!(lines, "verdict {} {reason}", verdict.as_str())
            }
            Event::LaunchShort { short, .. } => {
                writeln!(lines, "later {} {} {}", short.reason.as_str(), short.got, short.needed)
            }
            _ => Ok(()),
        };
        written.unwrap();
    }
}

/// What a trace is of: its name, the launches of its plan (`?`: not known), and the statement.
type Case = (&'static str, &'static str, &'static str);

const SMALL_THEN_LARGE: Case = (
    "small_then_large",
    "2 4",
    "SELECT count(*) FROM t4 WHERE nap(id, 20) AND id > (SELECT count(*) FROM t2 WHERE nap(id, 10)) - 10000",
);
const PROCEDURE: Case = (
    "queries_of_a_block",
    "?",
    "DO $$ BEGIN PERFORM count(*) FROM t2 WHERE nap(id, 10); PERFORM count(*) FROM t4 WHERE nap(id, 20); END $$",
);
const STARVED: Case = ("starved_wholly", "4", "SELECT count(*) FROM t4 WHERE nap(id, 50)");
const STARVED_IN_PART: Case = ("starved_in_part", "4", "SELECT count(*) FROM t4 WHERE nap(id, 50)");
const LATER: Case = (
    "a_later_gather_starves",
    "4 4",
    "SELECT count(*) FROM t4 WHERE nap(id, 30) AND id > (SELECT count(*) FROM t4 WHERE nap(id, 20)) - 10000",
);
const FULL_FOR_A_MOMENT: Case = (
    "full_for_a_moment",
    "4",
    "WITH b AS MATERIALIZED (SELECT pg_sleep(2)) SELECT count(*) FROM t4 WHERE nap(id, 20) AND id > (SELECT 0 FROM b)",
);
const UNSEEN: Case = ("small_then_large_without_rights", "2 4", SMALL_THEN_LARGE.2);

struct Recording<'a> {
    bench: &'a Bench,
    trace: Arc<Trace>,
    job: Job,
}

impl<'a> Recording<'a> {
    async fn of(bench: &'a Bench, role: &str) -> Self {
        let trace = Arc::<Trace>::default();
        let endpoint = || endpoint(&bench.dsn_of(role, bench.server().port()));
        let headcount = Headcount::builder(endpoint())
            .monitor(endpoint())
            .without_default_observers()
            .observer(bench.recorder.clone())
            .observer(trace.clone())
            .connect()
            .await
            .unwrap();
        let mut job = quick(headcount.task("traced")).minimum(4).attempts(1);
        job.settings_mut().admission_wait = Duration::from_millis(100);
        let job = job.set("parallel_setup_cost", "0").set("parallel_tuple_cost", "0");
        Self { bench, trace, job }
    }

    async fn record(&self, (name, launches, sql): Case, rivals: impl Future<Output = ()>) {
        self.trace.0.lock().unwrap().clear();
        let (run, ()) = tokio::join!(self.job.execute(sql, &[]), rivals);
        let run = run.unwrap();
        let lines = std::mem::take(&mut *self.trace.0.lock().unwrap());
        let major = self.bench.server().major();
        let head = format!("# PostgreSQL {major}, pool of {POOL}: {sql}\nlaunches {launches}\nrequired 4\n");
        let (outcome, short) = (run.outcome.as_str(), run.short_launches);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/core/traces");
        let text = format!("{head}{lines}end {outcome} {short}\n");
        std::fs::write(folder.join(format!("{name}.txt")), text).unwrap();
    }

    fn attempts(&self) -> usize {
        self.bench.recorder.count(|event| matches!(event, Event::AttemptStarted { .. }))
    }
}

#[tokio::test]
#[ignore = "writes tests/core/traces"]
async fn record_traces() {
    let bench = Bench::alone(main_version()).await;
    bench.run(TABLES).await;
    let recording = Recording::of(&bench, "postgres").await;
    for case in [SMALL_THEN_LARGE, PROCEDURE] {
        recording.record(case, async {}).await;
    }
    for (case, workers) in [(STARVED, POOL), (STARVED_IN_PART, POOL - 2)] {
        let hog = bench.hog(workers).await;
        recording.record(case, async {}).await;
        hog.release().await;
    }
    let rival = async {
        let before = bench.recorder.count(|event| matches!(event, Event::VerdictReached { .. }));
        eventually("the first Gather has its workers", async || {
            bench.recorder.count(|event| matches!(event, Event::VerdictReached { .. })) > before
        })
        .await;
        let hog = bench.hog(POOL - 4).await;
        let grown = bench.hog_beyond_the_pool(4).await;
        eventually("the run is over", async || {
            let running = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'headcount:traced%' AND state = 'active'";
            bench.number(running).await == 0
        })
        .await;
        grown.release().await;
        hog.release().await;
    };
    recording.record(LATER, rival).await;
    let before = recording.attempts();
    let moments = async {
        eventually("the attempt has begun", async || recording.attempts() > before).await;
        for _ in 0..2 {
            let hog = bench.hog(POOL).await;
            bench.recorder.wait_for_polls(5).await;
            hog.release().await;
            bench.recorder.wait_for_polls(5).await;
        }
    };
    recording.record(FULL_FOR_A_MOMENT, moments).await;
    bench.run("CREATE ROLE plain LOGIN").await;
    Recording::of(&bench, "plain").await.record(UNSEEN, async {}).await;
}
