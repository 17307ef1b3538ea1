//! The contract.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use headcount::event::FailReason;
use headcount::event::Granted;
use headcount::telemetry::Metrics;
use headcount::telemetry::exporters::prometheus;
use headcount::telemetry::names::{self, Kind};
use headcount::{Event, Observer, Outcome};

use crate::script::{MS, NOW, POOL, ended, feed, good, never_began, rendered, scope, script, value};

const MONITOR_LOST: &str = "headcount_monitor_lost_timestamp_seconds";

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

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

#[test]
fn counters_are_zero_from_the_start_and_gauges_are_absent_until_known() {
    let text = rendered(&[]);
    let known = |name: &str| name.ends_with("_start_timestamp_seconds") || name == MONITOR_LOST;
    let mut expected = promised();
    expected.retain(|name, (kind, _)| *kind != "gauge" || known(name));
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
fn it_is_said_since_when_a_process_and_each_of_its_tasks_count_and_that_does_not_move() {
    let recorder = Arc::new(prometheus::recorder().unwrap());
    let handle = recorder.handle();
    let since = |series: &str| value(&handle.render(), &format!("headcount_{series}"));
    let [early, late] =
        ["early", "late"].map(|task| format!("task_start_timestamp_seconds{{task=\"{task}\"}}"));
    let before = now();
    let metrics = Metrics::with_recorder(Arc::clone(&recorder) as _);
    let process = since("start_timestamp_seconds");
    // Tests that share this process may have counted before.
    assert!(process > Some(0.0) && process <= Some(now()), "{process:?}");
    metrics.announce(&scope("early"));
    let begun = since(&early);
    assert!(begun >= Some(before) && begun <= Some(now()), "{begun:?}");

    // As an updater beside a guarded query does it, with the same recorder.
    let second = Metrics::with_recorder(recorder);
    second.announce(&scope("early"));
    second.announce(&scope("late"));
    assert_eq!((since("start_timestamp_seconds"), since(&early)), (process, begun));
    assert!(since(&late) > begun);
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
    check("headcount_last_run_below_minimum", Some(1.0));
    check("headcount_last_run_achieved_workers", Some(1.0));
    check("headcount_last_run_min_workers", Some(2.0));
    check("headcount_last_run_timestamp_seconds", Some(NOW));
    check("headcount_last_success_timestamp_seconds", None);
    let failed = "headcount_executions_failed_total{task=\"rollup\",reason=\"below_minimum\"}";
    assert_eq!(value(&text, failed), Some(1.0));
}

#[test]
fn an_update_that_could_not_begin_is_a_run_that_failed() {
    let text = rendered(&[never_began()]);
    let last = |what: &str| value(&text, &format!("headcount_last_{what}{{task=\"rollup\"}}"));
    assert_eq!((last("run_success"), last("run_timestamp_seconds")), (Some(0.0), Some(NOW)));
    assert_eq!(last("success_timestamp_seconds"), None);
    assert_eq!(value(&text, "headcount_executions_total{task=\"rollup\"}"), Some(0.0));
}

#[test]
fn only_a_lack_of_workers_makes_the_last_run_below_its_minimum() {
    let below = |end| {
        let text = rendered(&[ended(Err(FailReason::BelowMinimum), 1), ended(end, 0)]);
        value(&text, "headcount_last_run_below_minimum{task=\"rollup\"}")
    };
    assert_eq!(below(Err(FailReason::Sql)), Some(0.0));
    assert_eq!(below(Ok(Outcome::FinishedEarly)), Some(0.0));
    assert_eq!(below(Ok(Outcome::BelowMinimum)), Some(1.0));
}

#[test]
fn a_result_that_is_short_or_lowered_has_its_outcome_and_marks_the_last_run() {
    let seen = |end, name: &str| {
        let text =
            rendered(&[ended(Ok(Outcome::FinishedShort), 1), ended(Ok(Outcome::Lowered), 2), ended(end, 2)]);
        value(&text, &format!("headcount_{name}"))
    };
    let (short, lowered) = ("last_run_finished_short{task=\"rollup\"}", "last_run_lowered{task=\"rollup\"}");
    for (end, marks) in [
        (Outcome::FinishedShort, [1.0, 0.0]),
        (Outcome::Lowered, [0.0, 1.0]),
        (Outcome::OnTarget, [0.0; 2]),
        (Outcome::BelowMinimum, [0.0; 2]),
    ] {
        assert_eq!([short, lowered].map(|name| seen(Ok(end), name)), marks.map(Some), "{end:?}");
    }
    let good = Ok(Outcome::OnTarget);
    for outcome in ["finished_short", "lowered", "on_target"] {
        let counted = format!("outcomes_total{{task=\"rollup\",outcome=\"{outcome}\"}}");
        assert_eq!(seen(good, &counted), Some(1.0), "{outcome}");
    }
    assert_eq!(seen(good, "executions_successful_total{task=\"rollup\"}"), Some(3.0));
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

#[test]
fn a_monitor_that_is_away_says_since_when_until_it_is_back() {
    let lost = || Event::MonitorLost { cause: "connection closed".to_owned() };
    let before = now();
    let away = value(&rendered(&[lost()]), MONITOR_LOST).unwrap();
    assert!((before..=now()).contains(&away), "{away}");
    let back = rendered(&[lost(), Event::MonitorRestored { blind_for: MS }]);
    assert_eq!(value(&back, MONITOR_LOST), Some(0.0));
    let anew = rendered(&[lost(), Event::MonitorStarted { server_version: 180_000 }]);
    assert_eq!(value(&anew, MONITOR_LOST), Some(0.0), "one that ended without a connection has a successor");
    let again = rendered(&[lost(), Event::MonitorRestored { blind_for: MS }, lost()]);
    assert!(value(&again, MONITOR_LOST).unwrap() >= before);
}

/// Else the Pushgateway goes on saying what a run before said.
#[test]
fn a_run_that_never_lost_its_monitor_says_so_and_takes_nothing_back_of_what_another_observer_saw() {
    assert_eq!(value(&rendered(&[good()]), MONITOR_LOST), Some(0.0));
    let registry = ::prometheus::Registry::new();
    let _metrics = Metrics::in_registry(registry.clone()).unwrap();
    let text = ::prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert_eq!(value(&text, MONITOR_LOST), Some(0.0));

    let recorder = Arc::new(prometheus::recorder().unwrap());
    let handle = recorder.handle();
    feed(&Metrics::with_recorder(Arc::clone(&recorder) as _), &[Event::MonitorLost { cause: String::new() }]);
    Metrics::with_recorder(recorder).announce(&scope("rollup"));
    assert!(value(&handle.render(), MONITOR_LOST) > Some(0.0));
}

#[test]
fn slots_reserved_by_this_process_are_a_state_of_the_pool_until_they_are_given_back() {
    let reserved = "headcount_pool_workers{state=\"reserved\"}";
    let taken =
        |taken, end| Event::ReservationEnded { demand: 4, taken, ahead: 0, end, waited: MS, slots: None };
    let text = rendered(&[
        taken(4, Granted::Full),
        taken(0, Granted::GaveUp),
        taken(2, Granted::Degraded),
        taken(0, Granted::Interrupted),
    ]);
    assert_eq!(value(&text, reserved), Some(6.0));
    for end in ["full", "gave_up", "degraded", "interrupted"] {
        let series = format!("headcount_reservations_total{{task=\"rollup\",end=\"{end}\"}}");
        assert_eq!(value(&text, &series), Some(1.0), "{end}");
    }
    let given_back = Event::ReservationReleased { taken: 4, held: MS, early: false };
    let lost = Event::ReservationLost { taken: 2 };
    let text = rendered(&[taken(4, Granted::Full), given_back, taken(2, Granted::Degraded), lost]);
    assert_eq!(value(&text, reserved), Some(0.0));
}

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
