//! A pool of workers with its rivals, and a statement with several Gathers in it: what the looks of a monitor say against
//! what really happened.
//!
//! The pool is PostgreSQL's: a Gather gets the slots that are free when it is reached, and no more later. A worker shows
//! itself a moment after that. It is seen no more a moment before its slot is free, since the postmaster has to notice.

use crate::decide::attempt::{Attempts, Finished, Outcome, Spacing};
use crate::decide::launch::{Demand, PlannedLaunch};
use crate::decide::pace;
use crate::decide::script::Evidence;
use crate::decide::verdict::{LeaderState, News, Pool, Tick, Verdict, Window};
use proptest::prelude::*;

use crate::ticks::{PROMPT, ms};

/// A worker: when it shows itself, when it has gone, and when its slot is free. Its slot is taken from `taken` on.
#[derive(Debug, Clone, Copy)]
struct Worker {
    pid: i32,
    taken: u64,
    seen: u64,
    gone: u64,
    free: u64,
}

/// Others that take workers at some moment, for longer than it takes from one look to the next.
#[derive(Debug, Clone, Copy)]
struct Rival {
    at: u64,
    lasts: u64,
    workers: u32,
}

/// A phase of the statement: so long without a Gather, then one with so many workers planned for so long.
#[derive(Debug, Clone, Copy)]
struct Phase {
    serial: u64,
    planned: u32,
    lasts: u64,
    /// Whether all workers but one find nothing to do, and leave at once.
    is_skewed: bool,
}

#[derive(Debug, Clone)]
struct Night {
    size: u32,
    rivals: Vec<Rival>,
    phases: Vec<Phase>,
    /// Draws of a few milliseconds, used in turn.
    moments: Vec<u64>,
    /// What the attempt must reach; the target is the largest Gather of the plan.
    minimum: u32,
    is_last: bool,
    sees_pool: bool,
}

/// What a Gather got of what it planned.
#[derive(Debug, Clone, Copy)]
struct Got {
    planned: u32,
    workers: u32,
}

struct World {
    workers: Vec<Worker>,
    own: Vec<Worker>,
    got: Vec<Got>,
    end: u64,
}

impl Night {
    fn target(&self) -> u32 {
        self.phases.iter().map(|phase| phase.planned).max().unwrap_or(0)
    }

    /// Lets it all happen.
    fn play(&self) -> World {
        let mut draws = self.moments.iter().cycle().copied();
        let mut draw = |most: u64| draws.next().unwrap_or_default() % (most + 1);
        let mut world = World { workers: Vec::new(), own: Vec::new(), got: Vec::new(), end: 0 };
        let mut rivals = self.rivals.clone();
        rivals.sort_by_key(|rival| rival.at);
        let mut rivals = rivals.into_iter().peekable();
        let mut now = 100;
        let mut arrive = |world: &mut World, until: u64, draw: &mut dyn FnMut(u64) -> u64| {
            while let Some(rival) = rivals.next_if(|rival| rival.at <= until) {
                let workers = rival.workers.min(world.free(self.size, rival.at));
                world.launch(rival.at, workers, rival.lasts, [false; 2], draw);
            }
        };
        for phase in &self.phases {
            now += phase.serial;
            arrive(&mut world, now, &mut draw);
            let workers = phase.planned.min(world.free(self.size, now));
            let lasted = phase.lasts * u64::from(phase.planned + 1) / u64::from(workers + 1);
            world.got.push(Got { planned: phase.planned, workers });
            world.launch(now, workers, lasted, [true, phase.is_skewed], &mut draw);
            now += lasted + 5;
        }
        arrive(&mut world, now, &mut draw);
        world.end = now;
        world
    }
}

impl World {
    fn free(&self, size: u32, at: u64) -> u32 {
        size - self.workers.iter().filter(|worker| worker.taken <= at && at < worker.free).count() as u32
    }

    fn launch(
        &mut self,
        at: u64,
        workers: u32,
        lasts: u64,
        [own, is_skewed]: [bool; 2],
        draw: &mut dyn FnMut(u64) -> u64,
    ) {
        for place in 0..workers {
            let pid = self.workers.len() as i32 + 1000;
            let seen = at + draw(8);
            let gone = if is_skewed && place > 0 { seen + draw(25) } else { at + lasts + draw(4) };
            let worker = Worker { pid, taken: at, seen, gone, free: gone + draw(30) };
            self.workers.push(worker);
            if own {
                self.own.push(worker);
            }
        }
    }
}

/// What the monitor makes of it: the window, and the worst that it said.
fn watch(night: &Night, world: &World) -> (Outcome, Option<News>) {
    let target = night.target();
    let required = if night.is_last { night.minimum } else { target };
    let total: u64 = night.phases.iter().map(|phase| phase.serial + phase.lasts).sum();
    let planned = |phase: &Phase| PlannedLaunch {
        workers: phase.planned,
        once: true,
        heavy: phase.lasts * 10 >= total,
    };
    let demand = Demand {
        required,
        target,
        planned: Some(night.phases.iter().map(planned).collect()),
        at_once: Some(target),
        expects_workers: true,
    };
    let is_seen = |worker: &&Worker, at: u64| worker.seen <= at && at < worker.gone;
    let look = |at: u64| {
        let used = world.workers.iter().filter(|worker| is_seen(worker, at)).count() as u32;
        Pool { used, size: night.size }
    };
    // The attempt begins at 100 ms; admission looked shortly before.
    let free = night.sees_pool.then(|| look(95).free());
    let mut window = Window::new(demand, PROMPT).with_free(free);
    let (mut at, mut grew, mut known, mut first) = (101, 0, 0, None);
    while at < world.end {
        let pids: Vec<i32> =
            world.own.iter().filter(|worker| is_seen(worker, at)).map(|worker| worker.pid).collect();
        let tick = Tick {
            at: ms(at - 100),
            workers: pids.len() as u32,
            leader: LeaderState::Active,
            pool: night.sees_pool.then(|| look(at)),
            processes: None,
        };
        if let Some(pid) = pids.iter().max().filter(|&&pid| pid > known) {
            (known, grew) = (*pid, at);
        }
        match window.on_tick(tick, &pids) {
            Some(news @ News::Verdict(Verdict::Short(_))) => {
                return (Outcome::BelowMinimum, Some(news));
            }
            Some(news @ News::LaterLaunch(_)) => first = first.or(Some(news)),
            _ => {}
        }
        let step = match window.verdict() {
            None => 10,
            Some(_) => {
                let (elapsed, since_growth) = (ms(at - 100), ms(at - grew));
                pace::interval(window.outlook(), elapsed, since_growth, ms(100), ms(10)).as_millis() as u64
            }
        };
        at += step;
    }
    window.on_end();
    let mut evidence = Evidence::default();
    evidence.take(&window, target);
    let mut attempts = Attempts::new(target, night.minimum, 1, Spacing::Jittered(ms(100)));
    attempts.begin();
    let outcome = attempts.outcome(Finished {
        verdict: evidence.verdict(),
        achieved: evidence.achieved(),
        short: evidence.short_launches > 0,
        unproven: evidence.launches_unproven,
        within: evidence.within,
    });
    (outcome, first)
}

fn any_night() -> impl Strategy<Value = Night> {
    let rival =
        (0u64..3000, 150u64..2000, 1u32..6).prop_map(|(at, lasts, workers)| Rival { at, lasts, workers });
    let phase = (prop_oneof![Just(0u64), 0u64..600], 1u32..5, 150u64..800, prop::bool::weighted(0.2))
        .prop_map(|(serial, planned, lasts, is_skewed)| Phase { serial, planned, lasts, is_skewed });
    (
        2u32..10,
        prop::collection::vec(rival, 0..5),
        prop::collection::vec(phase, 1..4),
        prop::collection::vec(0u64..1000, 7),
        1u32..4,
        any::<bool>(),
        prop::bool::weighted(0.8),
    )
        .prop_map(|(size, mut rivals, phases, moments, minimum, is_last, sees_pool)| {
            // Whoever has gone just before the first look has been seen by nobody.
            rivals.iter_mut().filter(|rival| (50..100).contains(&(rival.at + rival.lasts))).for_each(
                |rival| {
                    rival.lasts += 60;
                },
            );
            // Two that take turns between two looks look like one.
            let ends: Vec<u64> = rivals.iter().map(|rival| rival.at + rival.lasts).collect();
            rivals.retain(|rival| ends.iter().all(|end| rival.at.abs_diff(*end) > 130));
            let mut night = Night { size, rivals, phases, moments, minimum, is_last, sees_pool };
            night.minimum = night.minimum.min(night.target());
            night
        })
}

/// `make soak` plays more of them.
fn nights() -> u32 {
    let soak = std::env::var("HEADCOUNT_SOAK_RUNS").ok().and_then(|runs| runs.parse::<u32>().ok());
    soak.map_or(3_000, |runs| runs * 300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(nights()))]

    #[test]
    fn only_what_starved_is_called_short(mut night in any_night()) {
        // A worker that leaves at once in a crowd is not told from one that never came.
        night.phases.iter_mut().for_each(|phase| phase.is_skewed = false);
        let world = night.play();
        let (outcome, news) = watch(&night, &world);
        let short = |got: &Got| got.workers < got.planned;
        if let Some(news) = news {
            prop_assert!(world.got.iter().any(short), "{:?}: {:?} of {:?}", news, world.got, night);
        }
        if matches!(outcome, Outcome::AboveMinimum | Outcome::FinishedShort) && night.sees_pool {
            prop_assert!(world.got.iter().any(short), "{:?}: {:?} of {:?}", outcome, world.got, night);
        }
    }

    #[test]
    fn what_starved_is_never_called_on_target(mut night in any_night()) {
        night.phases.iter_mut().for_each(|phase| phase.is_skewed = false);
        let world = night.play();
        let (outcome, _) = watch(&night, &world);
        // Which of two that are alike a launch was, nobody knows: each must be worth a word.
        let total: u64 = night.phases.iter().map(|phase| phase.serial + phase.lasts).sum();
        let all_are_heavy = night.phases.iter().all(|phase| phase.lasts * 10 >= total);
        if all_are_heavy && world.got.iter().any(|got| got.workers < got.planned) {
            let told = matches!(
                outcome,
                Outcome::BelowMinimum | Outcome::AboveMinimum | Outcome::FinishedShort | Outcome::Unverified
            );
            prop_assert!(told, "{:?}: {:?} of {:?}", outcome, world.got, night);
        }
    }

    #[test]
    fn with_room_for_all_nothing_is_in_doubt(night in any_night()) {
        let rivals: u32 = night.rivals.iter().map(|rival| rival.workers).sum();
        let own: u32 = night.phases.iter().map(|phase| phase.planned).sum();
        let night = Night { size: rivals + own + 1, sees_pool: true, ..night };
        let world = night.play();
        let (outcome, news) = watch(&night, &world);
        let fine = matches!(outcome, Outcome::OnTarget | Outcome::FinishedEarly);
        prop_assert!(news.is_none() && fine, "{:?}: {:?} of {:?}", outcome, world.got, night);
    }
}

/// What the launches of a night came to, and what was said of it.
fn told(night: &Night) -> (Vec<(u32, u32)>, Outcome) {
    let world = night.play();
    let got = world.got.iter().map(|got| (got.planned, got.workers)).collect();
    (got, watch(night, &world).0)
}

#[test]
fn a_launch_without_a_worker_behind_one_that_left_no_room_is_told_however_small() {
    let phase = |planned, lasts| Phase { serial: 0, planned, lasts, is_skewed: false };
    let night = Night {
        size: 7,
        rivals: vec![Rival { at: 547, lasts: 150, workers: 4 }],
        phases: vec![phase(3, 442), phase(1, 150)],
        moments: vec![0, 6, 191, 0, 41, 98, 0],
        minimum: 1,
        is_last: false,
        sees_pool: true,
    };
    assert_eq!(told(&night), (vec![(3, 3), (1, 0)], Outcome::Unverified));
}
