//! Servers with a pool of six, the command in processes of its own, and looks at the fleet.

use std::process::Stdio;
use std::time::Duration;

use headcount::server::Endpoint;
use headcount::server::fleet::{Fleet, Watcher};
use rustix::process::Signal;
use serde_json::Value;
use testkit::server::PrivateServer;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio_postgres::Client;

use crate::versions::programs;

const SCHEMA: &str = include_str!("schema.sql");

/// Each row takes so many milliseconds; five processes share two hundred.
pub(crate) fn rows_of(ms: u32) -> String {
    format!("SELECT count(*) FROM slow WHERE doze({})", f64::from(ms) / 1000.0)
}

/// A server and a session that looks at its fleet.
pub(crate) struct Lab {
    pub(crate) server: PrivateServer,
    pub(crate) client: Client,
    watcher: Watcher,
}

impl Lab {
    pub(crate) async fn start(version: u32) -> Self {
        let server = PrivateServer::builder()
            .binaries(programs(version))
            .setting("max_parallel_workers", "6")
            .setting("max_worker_processes", "16")
            .setting("max_connections", "300")
            // What each session did, in order: claims about "at once" need no clock.
            .setting("log_line_prefix", "[%a] ")
            .setting("log_statement", "all")
            .setting("log_disconnections", "on")
            .setting("parallel_setup_cost", "0")
            .setting("parallel_tuple_cost", "0")
            .setting("min_parallel_table_scan_size", "0")
            .start()
            .await
            .unwrap();
        let endpoint = Endpoint::from_dsn(&server.dsn()).unwrap();
        let client = endpoint.client("test").await.unwrap();
        // What the test asks is to take no worker either.
        client.batch_execute("SET max_parallel_workers_per_gather = 0").await.unwrap();
        client.batch_execute(SCHEMA).await.unwrap();
        let watcher = Watcher::connect(&endpoint, "postgres", "headcount").await.unwrap();
        Self { server, client, watcher }
    }

    /// The command, with a place in the fleet. It has no patience for a machine under load.
    pub(crate) fn job(&self, task: &str, sql: &str, more: &[&str]) -> Job {
        self.job_at(&self.server.dsn(), task, sql, more)
    }

    pub(crate) fn job_at(&self, dsn: &str, task: &str, sql: &str, more: &[&str]) -> Job {
        let more: Vec<_> = ["--json", "--log-format", "text"].iter().chain(more).copied().collect();
        Self::command(dsn, task, sql, &more)
    }

    /// The command as people type it: it tells its story.
    pub(crate) fn told(&self, task: &str, sql: &str, more: &[&str]) -> Job {
        Self::command(&self.server.dsn(), task, sql, more)
    }

    fn command(dsn: &str, task: &str, sql: &str, more: &[&str]) -> Job {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.args(["run", "--dsn", dsn, "--task", task, "--sql", sql, "--settle", "5s"]).args(more);
        Job::start(command)
    }

    /// `headcount update`, which tells also what is for developers.
    pub(crate) fn update_at(dsn: &str, more: &[&str]) -> Job {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.args(["update", "--dsn", dsn, "--json", "--log-format", "text"]).args(more);
        command.env("RUST_LOG", "headcount=debug").stdin(Stdio::null());
        Job::start(command)
    }

    /// A look at another fleet of this server.
    pub(crate) async fn look_at(&self, database: &str, space: &str) -> Fleet {
        let endpoint = Endpoint::from_dsn(&self.server.dsn()).unwrap();
        Watcher::connect(&endpoint, database, space).await.unwrap().look().await.unwrap()
    }

    /// Waits until the fleet looks as the claim says; a look takes the place of a sleep.
    pub(crate) async fn until(&self, claim: &str, holds: impl Fn(&Fleet) -> bool) -> Fleet {
        let looking = async {
            loop {
                let fleet = self.watcher.look().await.unwrap();
                if holds(&fleet) {
                    return fleet;
                }
                self.client.batch_execute("SELECT pg_sleep(0.01)").await.unwrap();
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), looking).await {
            Ok(fleet) => fleet,
            Err(_) => panic!("never: {claim}; {:?}", self.watcher.look().await),
        }
    }

    /// Waits until a job of this name has its slots, and its workers.
    pub(crate) async fn until_running(&self, task: &str) -> Fleet {
        let runs = |fleet: &Fleet| {
            fleet
                .leaders
                .iter()
                .any(|leader| leader.task.as_deref() == Some(task) && leader.workers == Some(4))
        };
        self.until(&format!("{task} runs with four workers"), runs).await
    }

    /// A job that has four of the six slots, and its workers, until it is stopped.
    pub(crate) async fn holder(&self) -> Job {
        let holder = self.job("holder", &rows_of(10_000), &["--reserve"]);
        self.until_running("holder").await;
        holder
    }

    /// A job that is one of so many in the queue.
    pub(crate) async fn queued(&self, task: &str, count: usize) -> Job {
        let job = self.job(task, &rows_of(5), &["--reserve"]);
        self.until_queued(count).await;
        job
    }

    /// What the sessions of jobs did, in order.
    pub(crate) fn deeds(&self) -> Vec<(String, Deed)> {
        self.log().lines().filter_map(deed).collect()
    }

    /// How often sessions whose name begins with this asked the server something.
    pub(crate) fn asked(&self, name: &str) -> usize {
        let asks = |line: &&str| {
            line.strip_prefix('[').is_some_and(|line| line.starts_with(name))
                && line.contains("] LOG:  statement: ")
        };
        self.log().lines().filter(asks).count()
    }

    /// What the server's log says.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.server.socket_folder().join("log")).unwrap()
    }

    /// Waits until so many stand in the queue.
    pub(crate) async fn until_queued(&self, count: usize) -> Fleet {
        self.until(&format!("{count} wait"), |fleet| fleet.queue.len() == count).await
    }
}

/// What the log of the server says of a job's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// It joined the queue.
    Joins,
    /// It looked at the slots, as only the head does.
    Looks,
    /// It took slots.
    Takes,
    /// One of its sessions ended; its locks and its workers went before.
    Leaves,
}

/// The task of a session that did something, from `[name] LOG:  statement: ...`.
fn deed(line: &str) -> Option<(String, Deed)> {
    let (name, said) = line.strip_prefix('[')?.split_once("] LOG:  ")?;
    let task = name.split(' ').find_map(|word| word.strip_prefix("headcount:"))?;
    let deed = match said {
        _ if said.starts_with("disconnection: ") => Deed::Leaves,
        _ if said.contains("pg_advisory_lock(") => Deed::Joins,
        _ if said.contains("locks AS MATERIALIZED") => Deed::Looks,
        _ if said.contains("WITH taken AS MATERIALIZED") => Deed::Takes,
        _ => return None,
    };
    Some((task.to_owned(), deed))
}

/// The tasks that hold slots.
pub(crate) fn holders(fleet: &Fleet) -> Vec<String> {
    let holding = fleet.leaders.iter().filter(|leader| leader.slots > 0);
    holding.map(|leader| leader.task.clone().unwrap_or_default()).collect()
}

/// The tasks that wait, the next one first.
pub(crate) fn queue(fleet: &Fleet) -> Vec<&str> {
    fleet.queue.iter().filter_map(|waiting| waiting.task.as_deref()).collect()
}

/// The command, running.
pub(crate) struct Job {
    child: Child,
    words: BufReader<ChildStderr>,
    said: String,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) json: Value,
    pub(crate) said: String,
}

impl Job {
    fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let words = BufReader::new(child.stderr.take().unwrap());
        Self { child, words, said: String::new() }
    }

    /// `kill -9`.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Reads what it says until a line contains this.
    pub(crate) async fn hear(&mut self, words: &str) {
        let hearing = async {
            loop {
                let mut line = String::new();
                let read = self.words.read_line(&mut line).await.unwrap();
                assert!(read > 0, "it ended without saying {words:?}:\n{}", self.said);
                self.said.push_str(&line);
                if line.contains(words) {
                    return;
                }
            }
        };
        let heard = tokio::time::timeout(Duration::from_mins(1), hearing).await;
        assert!(heard.is_ok(), "never: {words}; it said\n{}", self.said);
    }

    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) async fn end(mut self) -> Ended {
        let mut rest = String::new();
        let (output, read) =
            tokio::join!(self.child.wait_with_output(), self.words.read_to_string(&mut rest));
        read.unwrap();
        let (output, said) = (output.unwrap(), self.said + &rest);
        let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no result: {said}"));
        Ended { code: output.status.code(), json, said }
    }

    /// It ended on target at its first attempt, with four workers.
    pub(crate) async fn end_well(self) -> Ended {
        self.end_with(4).await
    }

    /// The same with so many.
    pub(crate) async fn end_with(self, workers: u32) -> Ended {
        let ended = self.end().await;
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        assert_eq!(ended.json["outcome"], "on_target", "{ended:#?}");
        assert_eq!(ended.json["attempt_count"], 1, "{ended:#?}");
        assert_eq!(ended.json["wasted_seconds"], 0.0, "{ended:#?}");
        assert_eq!(ended.json["achieved_workers"], workers, "{ended:#?}");
        assert_eq!(ended.json["reserved_slots"], workers, "{ended:#?}");
        ended
    }
}
