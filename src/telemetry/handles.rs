//! Handles of registered metrics: made once, so that one event costs an addition.
//!
//! A handle keeps the recorder that was there when it was made. That is why the handles of a task are
//! made when it is announced, after the process has installed its recorder.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, with_recorder};

use super::names::{self, ATTEMPT_ENDS, Downgrade, Exporter, Kind, Metric, ROW_CLASSES, SQLSTATE_CLASSES};
use crate::decide::attempt::Outcome;
use crate::decide::ceiling::Rung;
use crate::decide::gathering::GatheringEnd;
use crate::decide::reservation::Granted;
use crate::decide::verdict::{ShortReason, Verdict};
use crate::event::{CancelMethod, CancelResult, ChunkEnd, FailReason, Resolution};

/// Where handles come from.
#[derive(Clone)]
pub(super) enum Source {
    /// The recorder that the process installed, or a local one; none at all counts nothing.
    Global,
    /// One of our own.
    Own(Arc<dyn Recorder + Send + Sync>),
}

impl Source {
    fn with<T>(&self, f: impl FnOnce(&dyn Recorder) -> T) -> T {
        match self {
            Self::Global => with_recorder(f),
            Self::Own(recorder) => f(recorder),
        }
    }

    pub(super) fn counter(&self, metric: &Metric, labels: Vec<Label>) -> Counter {
        self.with(|recorder| recorder.register_counter(&key(metric, labels), &METADATA))
    }

    fn gauge(&self, metric: &Metric, labels: Vec<Label>) -> Gauge {
        self.with(|recorder| recorder.register_gauge(&key(metric, labels), &METADATA))
    }

    fn histogram(&self, metric: &Metric, labels: Vec<Label>) -> Histogram {
        self.with(|recorder| recorder.register_histogram(&key(metric, labels), &METADATA))
    }

    /// Tells the recorder the unit and help text of every metric.
    pub(super) fn describe_all(&self) {
        self.with(|recorder| {
            for metric in names::ALL {
                let (name, unit) = (KeyName::from_const_str(metric.name), Some(metric.unit));
                match metric.kind {
                    Kind::Counter => recorder.describe_counter(name, unit, metric.help.into()),
                    Kind::Gauge => recorder.describe_gauge(name, unit, metric.help.into()),
                    Kind::Histogram(_) => recorder.describe_histogram(name, unit, metric.help.into()),
                }
            }
        });
    }
}

const METADATA: Metadata<'static> = Metadata::new(super::TARGET, Level::INFO, None);

fn key(metric: &Metric, labels: Vec<Label>) -> Key {
    debug_assert!(labels.iter().map(Label::key).eq(metric.labels.iter().copied()), "{}", metric.name);
    Key::from_parts(metric.name, labels)
}

fn label(name: &'static str, word: &'static str) -> Label {
    Label::from_static_parts(name, word)
}

/// The time, in seconds since 1970; 0 before that.
pub(super) fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Since when this process counts for a task, `None` for itself; in seconds since 1970.
///
/// The same for all who ask: several [`Metrics`](super::Metrics) may feed one recorder, whose counters go
/// on. A later time would say that they began anew.
fn counts_since(task: Option<&Arc<str>>) -> f64 {
    static SINCE: Mutex<BTreeMap<Option<Arc<str>>, f64>> = Mutex::new(BTreeMap::new());
    let mut since = SINCE.lock().unwrap_or_else(PoisonError::into_inner);
    *since.entry(task.cloned()).or_insert_with(unix_now)
}

/// One handle for each value of a closed set.
#[derive(Debug)]
pub(super) struct Family<K, H>(Vec<(K, H)>);

impl<K: Copy + PartialEq, H> Family<K, H> {
    fn new(keys: impl IntoIterator<Item = K>, make: impl Fn(K) -> H) -> Self {
        Self(keys.into_iter().map(|key| (key, make(key))).collect())
    }

    /// The sets have fewer than ten values: a scan beats a hash.
    pub(super) fn get(&self, key: K) -> Option<&H> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, handle)| handle)
    }
}

impl<K: Copy + PartialEq> Family<K, Counter> {
    pub(super) fn add(&self, key: K, value: u64) {
        debug_assert!(self.get(key).is_some(), "a label value outside its closed set");
        if let Some(counter) = self.get(key) {
            counter.increment(value);
        }
    }
}

/// The metrics that belong to no task.
#[derive(Debug)]
pub(super) struct ProcessHandles {
    pub(super) cancels: Family<(CancelMethod, CancelResult), Counter>,
    pub(super) ticks_ok: Counter,
    pub(super) ticks_lost: Counter,
    pub(super) tick: Histogram,
    pub(super) blind: Histogram,
    /// Used and size; only once the pool was seen, since an unseen pool is not an empty one.
    pool: OnceLock<(Gauge, Gauge)>,
    /// Only once something was reserved.
    reserved: OnceLock<Gauge>,
    /// Only once a slot was held idle.
    gathered: OnceLock<Gauge>,
    /// The time since when the monitor has no connection, in seconds since 1970; 0 when it has one, or
    /// never lost it. Said from the start: a Pushgateway keeps what an earlier run pushed until a later one
    /// pushes it anew.
    pub(super) blind_since: Gauge,
}

impl ProcessHandles {
    pub(super) fn new(source: &Source) -> Self {
        let ticks = |word| source.counter(&names::MONITOR_TICKS, vec![label("result", word)]);
        for exporter in Exporter::ALL {
            drop(lost(source, exporter));
        }
        source.gauge(&names::START, Vec::new()).set(counts_since(None));
        let pairs = CancelMethod::ALL.into_iter().flat_map(|m| CancelResult::ALL.map(|r| (m, r)));
        Self {
            cancels: Family::new(pairs, |(method, result)| {
                let labels = vec![label("method", method.as_str()), label("result", result.as_str())];
                source.counter(&names::CANCELS, labels)
            }),
            ticks_ok: ticks("ok"),
            ticks_lost: ticks("lost"),
            tick: source.histogram(&names::MONITOR_TICK, Vec::new()),
            blind: source.histogram(&names::MONITOR_BLIND, Vec::new()),
            pool: OnceLock::new(),
            reserved: OnceLock::new(),
            gathered: OnceLock::new(),
            // Not set: another of our kind may count with the same recorder, and know of a loss.
            blind_since: source.gauge(&names::MONITOR_LOST, Vec::new()),
        }
    }

    pub(super) fn pool(&self, source: &Source) -> &(Gauge, Gauge) {
        self.pool.get_or_init(|| {
            let gauge = |word| source.gauge(&names::POOL_WORKERS, vec![label("state", word)]);
            (gauge("used"), gauge("size"))
        })
    }

    pub(super) fn reserved(&self, source: &Source) -> &Gauge {
        self.reserved.get_or_init(|| source.gauge(&names::POOL_WORKERS, vec![label("state", "reserved")]))
    }

    pub(super) fn gathered(&self, source: &Source) -> &Gauge {
        self.gathered.get_or_init(|| source.gauge(&names::POOL_WORKERS, vec![label("state", "gathered")]))
    }
}

/// The counter of what an exporter could not deliver.
pub(super) fn lost(source: &Source, exporter: Exporter) -> Counter {
    source.counter(&names::TELEMETRY_LOST, vec![label("exporter", exporter.as_str())])
}

/// The metrics of one task.
#[derive(Debug)]
pub(super) struct TaskHandles {
    task: Arc<str>,
    pub(super) executions: Counter,
    pub(super) successful: Counter,
    pub(super) failed: Family<FailReason, Counter>,
    pub(super) attempts_used: Histogram,
    pub(super) achieved: Histogram,
    pub(super) duration: Histogram,
    pub(super) admission: Histogram,
    pub(super) reserved_wait: Histogram,
    pub(super) reservations: Family<Granted, Counter>,
    pub(super) gatherings: Family<GatheringEnd, Counter>,
    pub(super) gathering: Histogram,
    pub(super) gathered_idle: Histogram,
    pub(super) retry_delay: Histogram,
    pub(super) attempts: Family<(&'static str, &'static str), Counter>,
    pub(super) verdict: Family<&'static str, Histogram>,
    pub(super) wasted: Histogram,
    pub(super) outcomes: Family<Outcome, Counter>,
    pub(super) short_launches: Family<ShortReason, Counter>,
    pub(super) unjudged: Counter,
    pub(super) rungs: Family<Rung, Counter>,
    pub(super) downgrades: Family<Downgrade, Counter>,
    pub(super) cleanups: Family<bool, Counter>,
    pub(super) chunks: Family<&'static str, Counter>,
    pub(super) rows: Family<&'static str, Counter>,
    pub(super) chunk_duration: Histogram,
    pub(super) chunk_rows: Histogram,
    pub(super) reconnects: Family<&'static str, Counter>,
    pub(super) in_doubt: Family<Resolution, Counter>,
    last_run: OnceLock<LastRun>,
    last_workers: OnceLock<LastWorkers>,
    last_success: OnceLock<Gauge>,
}

/// Gauges of the last run of any kind.
#[derive(Debug)]
pub(super) struct LastRun {
    pub(super) timestamp: Gauge,
    pub(super) success: Gauge,
    pub(super) duration: Gauge,
}

/// Gauges of the last guarded execution.
#[derive(Debug)]
pub(super) struct LastWorkers {
    pub(super) achieved: Gauge,
    pub(super) target: Gauge,
    pub(super) minimum: Gauge,
    pub(super) attempts: Gauge,
    pub(super) below_minimum: Gauge,
    pub(super) finished_short: Gauge,
    pub(super) lowered: Gauge,
    pub(super) wasted: Gauge,
}

impl TaskHandles {
    pub(super) fn new(source: &Source, task: &Arc<str>) -> Self {
        let own = || Label::new("task", Arc::clone(task));
        let counter = |metric| source.counter(metric, vec![own()]);
        let by = |metric, name, word| source.counter(metric, vec![own(), label(name, word)]);
        let histogram = |metric| source.histogram(metric, vec![own()]);
        source.gauge(&names::TASK_START, vec![own()]).set(counts_since(Some(task)));
        Self {
            task: Arc::clone(task),
            executions: counter(&names::EXECUTIONS),
            successful: counter(&names::EXECUTIONS_SUCCESSFUL),
            failed: Family::new(FailReason::ALL, |r| by(&names::EXECUTIONS_FAILED, "reason", r.as_str())),
            attempts_used: histogram(&names::EXECUTION_ATTEMPTS),
            achieved: histogram(&names::ACHIEVED_WORKERS),
            duration: histogram(&names::EXECUTION_DURATION),
            admission: histogram(&names::ADMISSION_WAIT),
            reserved_wait: histogram(&names::RESERVED_WAIT),
            reservations: Family::new(Granted::ALL, |end| by(&names::RESERVATIONS, "end", end.as_str())),
            gatherings: Family::new(GatheringEnd::ALL, |end| by(&names::GATHERINGS, "end", end.as_str())),
            gathering: histogram(&names::GATHERING),
            gathered_idle: histogram(&names::GATHERED_IDLE),
            retry_delay: histogram(&names::RETRY_DELAY),
            attempts: Family::new(ATTEMPT_ENDS, |(verdict, reason)| {
                let labels = vec![own(), label("verdict", verdict), label("reason", reason)];
                source.counter(&names::ATTEMPTS_ENDED, labels)
            }),
            verdict: Family::new(Verdict::WORDS, |word| {
                source.histogram(&names::VERDICT, vec![own(), label("verdict", word)])
            }),
            wasted: histogram(&names::WASTED),
            rungs: Family::new(Rung::ALL, |r| by(&names::RUNGS, "rung", r.as_str())),
            outcomes: Family::new(Outcome::ALL, |o| by(&names::OUTCOMES, "outcome", o.as_str())),
            short_launches: Family::new(ShortReason::ALL, |r| {
                by(&names::SHORT_LAUNCHES, "reason", r.as_str())
            }),
            unjudged: counter(&names::UNJUDGED_STATEMENTS),
            downgrades: Family::new(Downgrade::ALL, |d| by(&names::DOWNGRADES, "bucket", d.as_str())),
            cleanups: Family::new([true, false], |ok| {
                by(&names::CLEANUPS, "result", if ok { "ok" } else { "failed" })
            }),
            chunks: Family::new(ChunkEnd::WORDS, |word| by(&names::CHUNKS_ENDED, "result", word)),
            rows: Family::new(ROW_CLASSES, |word| by(&names::CHUNK_ROWS_TOTAL, "class", word)),
            chunk_duration: histogram(&names::CHUNK_DURATION),
            chunk_rows: histogram(&names::CHUNK_ROWS),
            reconnects: Family::new(SQLSTATE_CLASSES, |w| by(&names::RECONNECTS, "sqlstate_class", w)),
            in_doubt: Family::new(Resolution::ALL, |r| by(&names::IN_DOUBT, "resolution", r.as_str())),
            last_run: OnceLock::new(),
            last_workers: OnceLock::new(),
            last_success: OnceLock::new(),
        }
    }

    fn gauge(&self, source: &Source, metric: &Metric) -> Gauge {
        source.gauge(metric, vec![Label::new("task", Arc::clone(&self.task))])
    }

    pub(super) fn last_run(&self, source: &Source) -> &LastRun {
        self.last_run.get_or_init(|| LastRun {
            timestamp: self.gauge(source, &names::LAST_TIMESTAMP),
            success: self.gauge(source, &names::LAST_SUCCESS),
            duration: self.gauge(source, &names::LAST_DURATION),
        })
    }

    pub(super) fn last_workers(&self, source: &Source) -> &LastWorkers {
        self.last_workers.get_or_init(|| LastWorkers {
            achieved: self.gauge(source, &names::LAST_ACHIEVED),
            target: self.gauge(source, &names::LAST_TARGET),
            minimum: self.gauge(source, &names::LAST_MINIMUM),
            attempts: self.gauge(source, &names::LAST_ATTEMPTS),
            below_minimum: self.gauge(source, &names::LAST_BELOW_MINIMUM),
            finished_short: self.gauge(source, &names::LAST_FINISHED_SHORT),
            lowered: self.gauge(source, &names::LAST_LOWERED),
            wasted: self.gauge(source, &names::LAST_WASTED),
        })
    }

    pub(super) fn last_success(&self, source: &Source) -> &Gauge {
        self.last_success.get_or_init(|| self.gauge(source, &names::LAST_SUCCESS_TIMESTAMP))
    }
}
