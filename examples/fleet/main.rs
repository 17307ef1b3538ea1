//! A night of batch jobs in virtual time, under all three policies.
//!
//! The very code that decides in production plays fleets of up to ten thousand jobs on pools of up to 1,024
//! slots, in seconds; the same seed gives the same night. It prints what became of the jobs, and draws the plot
//! of the README.
//!
//! `cargo run --release --example fleet [FILE.svg [SEED]]`
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::print_stdout,
    reason = "an example speaks, and has no public items"
)]

mod audit;
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the very code that decides, which nobody else may name"
)]
#[path = "../../src/decide/mod.rs"]
mod decide;
mod night;
mod plot;
mod server;
mod simulator;
mod workload;

use crate::decide::attempt::Outcome;
use night::{End, Fate, Night, Plan, Policy, Scenario};
use simulator::play;
use workload::{Arrivals, Workload};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().unwrap_or_else(|| "examples/fleet/fleet.svg".to_owned());
    let seed = arguments.next().map_or(Ok(7), |text| text.parse())?;

    println!(
        "| fleet | policy | on target | above minimum | failed | attempts a job | wasted | median wait | p99 wait | makespan |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    compare("6 jobs of 4 workers at once, pool of 6", &crowd(6));
    let night = Workload::plain(1_000, 64, Arrivals::Steady, seed);
    compare("1,000 jobs through the night, pool of 64, load 0.8", &night.scenario());
    let waves = Workload { arrivals: Arrivals::Waves, ..night };
    compare("1,000 jobs in four waves, pool of 64", &waves.scenario());
    let rough = Workload { outsiders: 0.25, crashes: 0.02, priority: 0.1, ..night };
    compare("1,000 jobs through the night with outsiders, crashes and priority", &rough.scenario());
    let large = Workload { widest: 32, load: 1.0, ..Workload::plain(10_000, 1_024, Arrivals::Steady, seed) };
    compare("10,000 jobs of up to 32 workers, pool of 1,024, load 1", &large.scenario());

    plot::draw(&file, &contention())?;
    println!("\nplot: {file}");
    Ok(())
}

/// Jobs of four workers that start together on a pool of six, 5 s of five processes each.
fn crowd(jobs: u64) -> Scenario {
    let plan = |n| Plan { arrives: n, target: 4, minimum: 2, work: 25_000, priority: false, dies: None };
    Scenario {
        pool: 6,
        jobs: (0..jobs).map(plan).collect(),
        reserve_wait: 24 * 3_600_000,
        ..Scenario::default()
    }
}

/// More and more jobs at once on a pool of 16: for each policy, (jobs, share on target, share of time wasted).
fn contention() -> Vec<plot::Line> {
    let points = |policy| {
        let point = |jobs: usize| {
            let workload = Workload { widest: 4, ..Workload::plain(jobs, 16, Arrivals::Burst, 11) };
            let figures = Figures::of(&play(&workload.scenario(), policy));
            (jobs as f64, figures.on_target * 100.0, figures.wasted_share * 100.0)
        };
        [2, 4, 6, 8, 12, 16, 24, 32, 48, 64].map(point).to_vec()
    };
    Policy::ALL.map(|policy| (policy, points(policy))).to_vec()
}

fn compare(fleet: &str, scenario: &Scenario) {
    for policy in Policy::ALL {
        let figures = Figures::of(&play(scenario, policy));
        println!(
            "| {fleet} | {} | {:.1} % | {:.1} % | {:.1} % | {:.2} | {:.1} % ({:.0} s) | {:.1} s | {:.0} s | {:.0} s |",
            policy.as_str(),
            100.0 * figures.on_target,
            100.0 * figures.above_minimum,
            100.0 * figures.failed,
            figures.attempts,
            100.0 * figures.wasted_share,
            figures.wasted,
            figures.median_wait,
            figures.p99_wait,
            figures.makespan,
        );
    }
}

/// A night in numbers; shares are of the jobs that nobody killed, times in seconds.
struct Figures {
    on_target: f64,
    above_minimum: f64,
    failed: f64,
    /// The mean.
    attempts: f64,
    /// Worker and leader time of attempts that were not kept.
    wasted: f64,
    wasted_share: f64,
    median_wait: f64,
    p99_wait: f64,
    makespan: f64,
}

impl Figures {
    fn of(night: &Night) -> Self {
        let alive: Vec<_> = night.fates.iter().filter(|fate| fate.end != End::Died).collect();
        let share = |outcome: &dyn Fn(Outcome) -> bool| {
            let count =
                alive.iter().filter(|fate| matches!(fate.end, End::Ended(end) if outcome(end))).count();
            count as f64 / alive.len().max(1) as f64
        };
        let mut waits: Vec<u64> = alive.iter().map(|fate| fate.waited).collect();
        waits.sort_unstable();
        let wait = |percent: usize| {
            waits.get(waits.len().saturating_sub(1) * percent / 100).map_or(0.0, |&wait| wait as f64 / 1000.0)
        };
        let sum = |of: fn(&Fate) -> u64| alive.iter().map(|fate| of(fate)).sum::<u64>() as f64 / 1000.0;
        let (wasted, useful) = (sum(|fate| fate.wasted), sum(|fate| fate.useful));
        Self {
            on_target: share(&|end| end == Outcome::OnTarget),
            above_minimum: share(&|end| end.is_accepted() && end != Outcome::OnTarget),
            attempts: alive.iter().map(|fate| f64::from(fate.attempts)).sum::<f64>()
                / alive.len().max(1) as f64,
            failed: share(&|end| !end.is_accepted()),
            wasted,
            wasted_share: wasted / (wasted + useful).max(f64::EPSILON),
            median_wait: wait(50),
            p99_wait: wait(99),
            makespan: night.fates.iter().map(|fate| fate.ended).max().unwrap_or(0) as f64 / 1000.0,
        }
    }
}
