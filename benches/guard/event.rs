//! One event with metrics installed: time and allocations.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headcount::event::{AttemptEnd, AttemptFacts, Scope};
use headcount::event::{LeaderState, Pool, Tick};
use headcount::telemetry::Metrics;
use headcount::{Event, Observer};

use crate::table::Table;

const EVENTS: u32 = 1_000_000;

pub fn measure(table: &mut Table) {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let metrics = Metrics::with_recorder(Arc::new(recorder));
    let scope = Scope { task: "rollup".into() };
    metrics.announce(&scope);
    let pool = Some(Pool { used: 4, size: 8 });
    let tick = Tick {
        at: Duration::from_millis(10),
        workers: 4,
        leader: LeaderState::Active,
        pool,
        processes: None,
    };
    let facts = AttemptFacts {
        end: AttemptEnd::Accepted(headcount::event::Verdict::Enough),
        workers: 4,
        achieved: 4,
        ran: Duration::from_secs(2),
        ..AttemptFacts::begun(1, 4)
    };
    let events = [
        Event::MonitorPolled { took: Duration::from_micros(200), pool },
        Event::TickTaken { attempt: 1, required: 4, tick, pids: Arc::from([1, 2, 3, 4]) },
        Event::AttemptEnded(facts),
    ];
    let mut worst = Duration::ZERO;
    let mut allocations = 0;
    for event in &events {
        for _ in 0..10_000 {
            metrics.observe(&scope, event);
        }
        handle.run_upkeep();
        let began = Instant::now();
        let counted = allocation_counter::measure(|| {
            for _ in 0..EVENTS {
                metrics.observe(black_box(&scope), black_box(event));
            }
        });
        worst = worst.max(began.elapsed() / EVENTS);
        allocations = allocations.max(counted.count_total);
        handle.run_upkeep();
    }
    table.row(
        "one event with metrics",
        format!("{worst:.0?}"),
        "<= 1 µs, no allocation",
        format!(
            "the dearest of {} kinds; {:.4} allocations an event",
            events.len(),
            allocations as f64 / f64::from(EVENTS)
        ),
    );
}
