//! The observability stack: the very files that users deploy, in real programs.
//!
//! - `dashboards`: rules for Grafana's JSON; every expression parses and names only what exists
//! - `rules`: alerts have their tests, their severity and their page in the runbook; Prometheus' own
//!   tools find no fault in rules, rule tests and configurations
//! - `chain`: a run below its minimum, pushed, wakes somebody through a real Prometheus and a
//!   real Alertmanager, and a good run resolves it; so does one that leaves a textfile
//! - `panels`: a service, an update and a pushed run fill every expression of the dashboards
//! - `spans`: real runs and updates of the command, received over OTLP: parents, attributes, the joined trace
//! - `trial`: `make stack` is started, looked at, and leaves nothing behind
//! - `picture`: makes the README's picture, when asked to
//! - `programs`, `port`, `webhook`, `crowd`, `service`: how the tests start those programs, and where, listen to
//!   Alertmanager, keep a server's pool busy, and embed the library
//!
//! No time is asserted. Waiting is for an event, with a limit that only a broken chain reaches.

mod chain;
mod crowd;
mod dashboards;
#[allow(dead_code, reason = "other tests break it in more ways")]
#[path = "../live/harness/proxy.rs"]
mod line;
mod panels;
mod picture;
#[path = "../live/harness/port.rs"]
mod port;
mod programs;
#[path = "../telemetry/receiver.rs"]
mod receiver;
mod rules;
mod service;
mod spans;
mod trial;
mod webhook;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use headcount::telemetry::names::{self, Kind};

/// A file or folder of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Each series of the contract, as Prometheus stores it.
fn contract() -> BTreeSet<String> {
    let series = |metric: &names::Metric| match metric.kind {
        Kind::Histogram(_) => {
            ["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", metric.name)).to_vec()
        }
        _ => vec![metric.name.to_owned()],
    };
    names::ALL.iter().flat_map(series).collect()
}

/// The values of `key: value` lines in a YAML file of ours, list items included.
fn values<'a>(yaml: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    yaml.lines().filter_map(move |line| {
        let line = line.trim_start().trim_start_matches("- ");
        line.strip_prefix(key)?.strip_prefix(": ").map(str::trim)
    })
}

/// What our recording rules, and the schedule that users fill in, record.
fn recorded() -> BTreeSet<String> {
    let rules = read("dashboards/prometheus/rules/recording.yml");
    let mut names: BTreeSet<String> = values(&rules, "record").map(ToOwned::to_owned).collect();
    names.insert("task:headcount_expected_interval_seconds:schedule".to_owned());
    names
}
