//! A server of the test's own, somebody who takes its workers, and the command under test.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use testkit::server::{Builder, PrivateServer};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use crate::versions::{main_version, oldest_and_newest, programs};

const PROGRAM: &str = env!("CARGO_BIN_EXE_headcount");

/// Bounds each wait for an event; far above what any of them takes.
const PATIENCE: Duration = Duration::from_mins(1);

/// All parallel workers of a server, for [`Lab::count`].
pub(crate) const WORKERS: &str = "pg_stat_activity WHERE backend_type = 'parallel worker'";

/// Runs for about 25 s with four workers, and is cancelled at any moment.
pub(crate) const SLOW: &str = "CREATE TABLE rollup AS SELECT id % 10 AS bucket, count(*) FROM measurements \
     WHERE pg_sleep(0.005) IS NOT NULL GROUP BY 1";

/// The same, done in half a second: every fiftieth row takes time, so that no worker is done before the others.
pub(crate) const QUICK: &str = "CREATE TABLE rollup AS SELECT id % 10 AS bucket, count(*) FROM measurements \
     WHERE id % 50 <> 0 OR pg_sleep(0.005) IS NOT NULL GROUP BY 1";

/// A server with a pool of six, and 20,000 rows that up to six workers read.
pub(crate) struct Lab {
    pub(crate) runtime: Runtime,
    server: PrivateServer,
    client: Client,
}

impl Lab {
    pub(crate) fn start() -> Self {
        Self::on(main_version())
    }

    pub(crate) fn on(version: u32) -> Self {
        Self::with(PrivateServer::builder().binaries(programs(version)))
    }

    /// Another one whose background processes take from the few that there are: one slot less than the pool
    /// shows.
    pub(crate) fn with_processes(number: u32) -> Self {
        Self::furnish(scarce(PrivateServer::builder()).setting("max_worker_processes", number.to_string()))
    }

    pub(crate) fn with(builder: Builder) -> Self {
        Self::furnish(scarce(builder))
    }

    fn furnish(builder: Builder) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(builder.start()).unwrap();
        let client = connect(&runtime, &server.dsn());
        let lab = Self { runtime, server, client };
        lab.sql(
            "CREATE TABLE measurements AS SELECT id FROM generate_series(1, 20000) AS id;
             ALTER TABLE measurements SET (parallel_workers = 6);
             CREATE TABLE cleanups (at timestamptz DEFAULT now());
             ANALYZE",
        );
        lab
    }

    pub(crate) fn dsn(&self) -> String {
        self.server.dsn()
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port()
    }

    /// A server that follows this one, and only reads.
    pub(crate) fn standby(&self) -> PrivateServer {
        self.runtime.block_on(scarce(PrivateServer::builder()).standby_of(&self.server).start()).unwrap()
    }

    pub(crate) fn dsn_for(&self, role: &str) -> String {
        self.server.dsn_for(role, "postgres")
    }

    pub(crate) fn sql(&self, sql: &str) {
        self.runtime.block_on(self.client.batch_execute(sql)).unwrap();
    }

    pub(crate) fn count(&self, of: &str) -> i64 {
        self.number(&format!("SELECT count(*) FROM {of}"))
    }

    /// What a query says, which is one bigint.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.runtime.block_on(self.client.query_one(sql, &[])).unwrap().get(0)
    }

    /// Waits until a count is what it should be.
    pub(crate) fn wait(&self, of: &str, expected: i64) {
        assert!(self.comes_to(of, expected, PATIENCE), "{of} did not come to {expected}");
    }

    /// Whether a count is what it should be within that time.
    fn comes_to(&self, of: &str, expected: i64, within: Duration) -> bool {
        let began = Instant::now();
        while self.count(of) != expected {
            if began.elapsed() > within {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// Nothing of the command is left on the server: no session, no worker, no table.
    pub(crate) fn wait_for_nothing_left(&self) {
        self.wait(WORKERS, 0);
        self.wait("pg_stat_activity WHERE application_name LIKE 'headcount%'", 0);
        assert_eq!(self.count("pg_class WHERE relname = 'rollup'"), 0);
    }

    /// Somebody who holds so many workers until it is dropped. The slot of a worker that has ended is free a moment
    /// after `pg_stat_activity` has forgotten it, so whoever did not get all of them starts again.
    pub(crate) fn hog(&self, workers: u32) -> Hog<'_> {
        let client = Arc::new(connect(&self.runtime, &self.dsn()));
        let setup = format!(
            "SET application_name = 'hog'; SET max_parallel_workers_per_gather = {workers};
             SET parallel_leader_participation = off"
        );
        self.runtime.block_on(client.batch_execute(&setup)).unwrap();
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let session = Arc::clone(&client);
            let holding = self.runtime.spawn(async move {
                let sql = "SELECT count(*) FROM measurements WHERE pg_sleep(0.05) IS NOT NULL";
                assert!(session.batch_execute(sql).await.is_err(), "the hog was not hungry enough");
            });
            let hog = Hog(self);
            if self.comes_to(WORKERS, workers.into(), Duration::from_secs(3)) {
                return hog;
            }
            drop(hog);
            self.runtime.block_on(holding).unwrap();
        }
        panic!("the hog did not get {workers} workers");
    }

    /// Somebody who holds the strongest lock on that table until it is dropped.
    pub(crate) fn locks(&self, table: &str) -> Client {
        let client = connect(&self.runtime, &self.dsn());
        let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        self.runtime.block_on(client.batch_execute(&lock)).unwrap();
        client
    }

    /// Everybody whom the server still has a connection for.
    pub(crate) fn crowd(&self) -> Vec<Client> {
        let dsn = self.dsn();
        let arrive = || self.runtime.block_on(tokio_postgres::connect(&dsn, NoTls)).ok();
        let client = |(client, connection)| {
            self.runtime.spawn(connection);
            client
        };
        std::iter::from_fn(|| arrive().map(client)).collect()
    }

    /// The command, against this server.
    pub(crate) fn headcount(&self, arguments: &[&str]) -> Ran {
        finish(self.spawn(arguments))
    }

    /// The command, while it runs.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Running {
        spawn(arguments, &[("DATABASE_URL", &self.dsn())])
    }

    /// The same, started by another program that becomes it: `nohup`, `env`, `sh`.
    pub(crate) fn spawn_by(&self, starter: &[&str], arguments: &[&str]) -> Running {
        let mut command = Command::new(starter[0]);
        command.args(&starter[1..]).arg(PROGRAM).args(arguments);
        start(command, &[("DATABASE_URL", &self.dsn())])
    }

    /// The command, with more in its environment.
    pub(crate) fn headcount_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Ran {
        let dsn = self.dsn();
        let mut all = vec![("DATABASE_URL", dsn.as_str())];
        all.extend(environment);
        finish(spawn(arguments, &all))
    }
}

/// Any table is worth workers, and there are six of them.
fn scarce(builder: Builder) -> Builder {
    builder
        .setting("max_parallel_workers", "6")
        .setting("max_worker_processes", "16")
        .setting("parallel_setup_cost", "0")
        .setting("parallel_tuple_cost", "0")
        .setting("min_parallel_table_scan_size", "0")
}

/// See [`Lab::hog`].
pub(crate) struct Hog<'a>(&'a Lab);

impl Drop for Hog<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'hog' AND leader_pid IS NULL");
        }
    }
}

/// The oldest version and the newest.
pub(crate) fn each_version(test: impl Fn(Lab)) {
    for version in oldest_and_newest() {
        test(Lab::on(version));
    }
}

fn connect(runtime: &Runtime, dsn: &str) -> Client {
    let (client, connection) = runtime.block_on(tokio_postgres::connect(dsn, NoTls)).unwrap();
    runtime.spawn(connection);
    client
}

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    words: BufReader<ChildStderr>,
    said: String,
}

/// A command that has ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) said: String,
}

/// Starts the command with nothing in its environment but this.
pub(crate) fn spawn(arguments: &[&str], environment: &[(&str, &str)]) -> Running {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    start(command, environment)
}

fn start(mut command: Command, environment: &[(&str, &str)]) -> Running {
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(std::env::var_os("HEADCOUNT_PG_BIN").map(|bin| ("HEADCOUNT_PG_BIN", bin)));
    command.envs(environment.iter().copied()).process_group(0);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let words = BufReader::new(child.stderr.take().unwrap());
    Running { child, words, said: String::new() }
}

/// Runs the command without a server.
pub(crate) fn headcount(arguments: &[&str]) -> Ran {
    finish(spawn(arguments, &[]))
}

/// Waits for the end.
pub(crate) fn finish(mut running: Running) -> Ran {
    let (status, out) = running.end();
    Ran { code: status.code(), out, said: std::mem::take(&mut running.said) }
}

impl Running {
    /// Reads what is said until a line contains `text`; returns that line.
    pub(crate) fn hear(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.words.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended without saying {text:?}; it said:\n{}", self.said);
            self.said.push_str(&line);
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// As `| head` does.
    pub(crate) fn stop_reading(&mut self) {
        self.child.stdout = None;
    }

    /// SIGKILL, to the command and whatever is in its process group.
    pub(crate) fn kill_group(&self) {
        kill_process_group(Pid::from_child(&self.child), Signal::KILL).unwrap();
    }

    fn end(&mut self) -> (ExitStatus, String) {
        self.words.read_to_string(&mut self.said).unwrap();
        let mut out = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut out).unwrap();
        }
        (self.child.wait().unwrap(), out)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only a test that failed leaves it running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ran {
    /// Checks the exit code.
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.said);
        self
    }

    /// The one JSON object on standard output.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.trim_end().lines().count(), 1, "{}", self.out);
        serde_json::from_str(&self.out).unwrap()
    }
}
