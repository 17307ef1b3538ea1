//! A text of one or several statements: which of them are judged, what each must reach, and what all of
//! them together came to.
//!
//! Each statement is judged by its own plan: it needs what the attempt requires, or what its plan can have if
//! that is less. A statement whose plan has fewer workers than the minimum is not judged, since no attempt
//! would help it: a script has many that are small. But the one with the greatest planner cost always is: it is
//! what the script is for.

use std::time::Duration;

use super::counters::Told;
use super::launch::{Demand, PlannedLaunch, Shortfall};
use super::verdict::{ShortReason, Verdict, Window};

/// What is known of one statement's workers before it runs.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "facts, each by itself")]
pub struct StatementCapacity {
    /// Its launches; `None` when they are not known for certain.
    pub planned: Option<Vec<PlannedLaunch>>,
    /// The most workers at once, over the plan and the pool; `None` when that is not certain.
    pub most: Option<u32>,
    /// The pool's size as the session is configured when it runs; `None` when that is not known.
    pub pool_size: Option<u32>,
    /// The planner's cost.
    pub cost: f64,
    /// Whether what is known holds whatever the statements ahead of it do.
    pub certain: bool,
    /// Whether it reads tables.
    pub reads: bool,
    /// Whether it calls functions that run queries of their own: those may have workers that its plan does not show.
    pub calls: bool,
    /// Whether it has a plan, or a bound, certain or not.
    pub explained: bool,
}

impl StatementCapacity {
    /// Whether it reads tables and is known not to be able to have so many workers.
    #[must_use]
    pub fn is_short_of(&self, workers: u32) -> bool {
        self.reads && self.most.is_some_and(|most| most < workers)
    }
}

/// What the last attempt requires, and all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirement {
    /// Workers that this attempt must reach.
    pub required: u32,
    /// Workers demanded of all attempts but the last.
    pub target: u32,
    /// Workers demanded of the last attempt.
    pub minimum: u32,
}

/// The statements of one text, as far as they concern each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Script {
    alone: bool,
    greatest: Option<usize>,
    /// Whether one of them is known to be able to have the minimum.
    has_main: bool,
}

impl Script {
    /// The statements of a text, in order.
    #[must_use]
    pub fn new(statements: &[StatementCapacity], minimum: u32) -> Self {
        let explained = statements.iter().enumerate().filter(|(_, statement)| statement.explained);
        let greatest = explained.max_by(|(_, a), (_, b)| a.cost.total_cmp(&b.cost)).map(|(place, _)| place);
        let minimum = minimum.max(1);
        let has_main = statements.iter().any(|statement| statement.most.is_some_and(|most| most >= minimum));
        Self { alone: statements.len() < 2, greatest, has_main }
    }

    /// What the statement at that place must reach; `None` when it is not judged.
    #[must_use]
    pub fn demand(
        &self,
        place: usize,
        statement: &StatementCapacity,
        attempt: Requirement,
    ) -> Option<Demand> {
        let Requirement { required, target, minimum } = attempt;
        // What it calls may have more than its plan shows.
        let most = statement.most.filter(|_| !statement.calls);
        let demand = Demand {
            required,
            target,
            planned: statement.planned.clone(),
            at_once: most,
            expects_workers: true,
        };
        if self.alone {
            return Some(demand);
        }
        let can_have = |workers: u32| most.map_or(workers, |most| most.min(workers));
        if can_have(minimum) < minimum && self.greatest != Some(place) {
            return None;
        }
        // Among others that are known to have workers, one of which nothing is known may well have none.
        let expects_workers = most.is_some() || !self.has_main;
        Some(Demand { required: can_have(required), target: can_have(target), expects_workers, ..demand })
    }
}

/// What the windows of one attempt's statements came to, together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts, each by itself")]
pub struct Evidence {
    verdicts: Vec<Verdict>,
    /// Whether there was a statement that can have no workers.
    had_nothing_to_have: bool,
    /// The most workers seen at once.
    pub most: u32,
    /// The most that are known to have been at work for one launch.
    reached: u32,
    /// The smallest share of what a launch needed, as workers of the target; with the launch.
    worst: Option<(u32, Shortfall)>,
    /// The smallest share that a statement was accepted with.
    least: Option<u32>,
    /// Time at work of what was judged.
    active: Duration,
    /// That of statements that ended with fewer workers than their plan can have, before anything was proven.
    early: Duration,
    /// The smallest share of such a statement.
    early_share: Option<u32>,
    /// Launches that were proven short.
    pub short_launches: u32,
    /// Statements whose plan has fewer workers than the minimum: they were not judged.
    pub unjudged: u32,
    /// Whether "enough" rests on launches that were alive together, each of which may lack a worker.
    pub concurrent_unproven: bool,
    /// The most workers that the plans of what was judged can have, up to the target.
    pub within: u32,
    /// Whether several launches may have come: one that nobody saw may have had no worker.
    unknown: bool,
    /// Whether launches that nobody could foresee may have had no worker.
    pub launches_unproven: bool,
}

impl Evidence {
    /// A statement ended, or was stopped.
    pub fn take(&mut self, window: &Window, target: u32) {
        self.within = self.within.max(window.target());
        self.unknown |= window.has_several_launches() || window.has_unmet_launches();
        // Of what can have no workers nothing was demanded, and it proves nothing of the others.
        self.verdicts.extend(window.proven().filter(|_| window.target() > 0));
        self.had_nothing_to_have |= window.target() == 0 && window.verdict() == Some(Verdict::Enough);
        self.see(window.most_workers());
        self.reached = self.reached.max(window.reached());
        self.short_launches += window.short_launches();
        self.concurrent_unproven |= window.is_concurrent_unproven();
        self.launches_unproven |= window.has_unproven_launches();
        self.least = self.least.into_iter().chain(window.accepted_share(target)).min();
        self.active += window.active();
        if let Some(share) = window.early_share(target) {
            self.early += window.active();
            self.early_share = self.early_share.into_iter().chain([share]).min();
        }
        if let Some(short) = window.shortfall() {
            let share = short.of_target(target);
            if self.worst.is_none_or(|(worst, _)| share < worst) {
                self.worst = Some((share, short));
            }
        }
    }

    /// So many workers were seen at once.
    pub fn see(&mut self, workers: u32) {
        self.most = self.most.max(workers);
    }

    /// The launch that had the smallest share of what it needed, of those that were proven short.
    #[must_use]
    pub fn shortfall(&self) -> Option<Shortfall> {
        self.worst.map(|(_, short)| short)
    }

    /// Workers achieved: the smallest share of a launch that was proven short, or of a statement that was accepted, or
    /// ended, with less than its plan can have, in workers of the target; without one the most workers seen at once.
    #[must_use]
    pub fn achieved(&self) -> u32 {
        let worst = self.worst.map(|(share, _)| share);
        let early = self.early_share.filter(|_| self.ended_early());
        worst
            .into_iter()
            .chain(self.least)
            .chain(early)
            .chain([self.reached.max(self.most)])
            .min()
            .unwrap_or(0)
    }

    /// Whether statements of which nothing was proven are a tenth of the work or more: a script has many small ones.
    fn ended_early(&self) -> bool {
        self.early > Duration::ZERO && self.early >= self.active / 10
    }

    /// Whether the server's own counters could say more: nothing was proven, or only by the absence of workers, or there
    /// may have been launches that nobody knew of.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        let absent = self.worst.is_some_and(|(_, short)| short.got == 0);
        let open = self.unknown || self.launches_unproven || self.verdict() == Verdict::FinishedEarly;
        absent || (self.worst.is_none() && open)
    }

    /// Takes in what the server counted while the statements ran. Counters that grew alike clear a doubt; others name
    /// a shortage that room did not show. Not where launches ask for more than the session's pool has (`is_capped`).
    pub fn hear(&mut self, told: Told, target: u32, is_capped: bool) {
        match told {
            Told::AllLaunched => {
                (self.worst, self.short_launches, self.launches_unproven) = (None, 0, false);
            }
            Told::Short { launched, asked } if self.worst.is_none() && target > 0 && !is_capped => {
                // The counters are sums: at the worst one launch lacked all that is missing.
                let got = target.saturating_sub(asked - launched);
                let short = Shortfall { reason: ShortReason::UnderLaunched, got, needed: target };
                self.worst = Some((short.of_target(target), short));
                self.short_launches += 1;
            }
            Told::Short { .. } | Told::Unknown => {}
        }
    }

    /// One verdict for all: a proven shortage, or a monitor that could not see, outweighs what others had; and a
    /// statement that had enough outweighs those that were too quick to tell, if they are less than a tenth of the work.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let has = |wanted: fn(&Verdict) -> bool| self.verdicts.iter().copied().find(wanted);
        has(|verdict| matches!(verdict, Verdict::Short(_)))
            .or_else(|| has(|verdict| *verdict == Verdict::Unverified))
            .or_else(|| has(|verdict| *verdict == Verdict::Enough).filter(|_| !self.ended_early()))
            .or_else(|| (self.verdicts.is_empty() && self.had_nothing_to_have).then_some(Verdict::Enough))
            .unwrap_or(Verdict::FinishedEarly)
    }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::{LeaderState, Patience, Pool, Tick};
    use super::*;

    const FIRST: Requirement = Requirement { required: 4, target: 4, minimum: 2 };
    const LAST: Requirement = Requirement { required: 2, target: 4, minimum: 2 };

    fn planned(workers: u32, cost: f64) -> StatementCapacity {
        let planned = Some(vec![workers.into()]);
        StatementCapacity {
            planned,
            most: Some(workers),
            cost,
            certain: true,
            reads: true,
            explained: true,
            ..StatementCapacity::default()
        }
    }

    fn required(statements: &[StatementCapacity], attempt: Requirement) -> Vec<Option<u32>> {
        let script = Script::new(statements, attempt.minimum);
        let demand =
            |(place, statement)| script.demand(place, statement, attempt).map(|demand| demand.required);
        statements.iter().enumerate().map(demand).collect()
    }

    #[test]
    fn each_statement_needs_what_its_plan_can_have() {
        let statements = [planned(2, 10.0), planned(4, 100.0), planned(8, 50.0)];
        assert_eq!(required(&statements, FIRST), [Some(2), Some(4), Some(4)]);
        assert_eq!(required(&statements, LAST), [Some(2), Some(2), Some(2)]);
    }

    #[test]
    fn one_that_cannot_have_the_minimum_is_not_judged_unless_it_is_the_greatest() {
        assert_eq!(required(&[planned(1, 10.0), planned(4, 100.0)], FIRST), [None, Some(4)]);
        assert_eq!(required(&[planned(1, 500.0), planned(4, 100.0)], FIRST), [Some(1), Some(4)]);
    }

    #[test]
    fn one_that_calls_what_may_have_workers_is_not_bounded_by_its_plan() {
        let calls = StatementCapacity { planned: None, calls: true, ..planned(0, 10.0) };
        assert_eq!(required(&[calls.clone(), planned(4, 100.0)], FIRST), [Some(4), Some(4)]);
        let beside = Script::new(&[calls.clone(), planned(4, 100.0)], 2);
        assert!(!beside.demand(0, &calls, FIRST).unwrap().expects_workers, "it may as well have none");
        let demand = Script::new(&[calls.clone(), planned(0, 1.0)], 2).demand(0, &calls, FIRST).unwrap();
        assert_eq!((demand.at_once, demand.expects_workers), (None, true));
    }

    #[test]
    fn what_can_have_no_workers_proves_nothing_of_the_others() {
        let patience = Patience::Prompt { settle: Duration::ZERO, launch_wait: Duration::ZERO };
        let look =
            Tick { at: Duration::ZERO, workers: 0, leader: LeaderState::Active, pool: None, processes: None };
        let mut evidence = Evidence::default();
        let mut serial = Window::new(Demand::of(0, &[]), patience);
        serial.on_tick(look, &[]);
        evidence.take(&serial, 4);
        assert_eq!(evidence.verdict(), Verdict::Enough);
        let mut early = Window::new(Demand::of(2, &[2]), patience);
        early.on_end();
        evidence.take(&early, 4);
        assert_eq!((evidence.verdict(), evidence.achieved()), (Verdict::FinishedEarly, 0));
    }

    #[test]
    fn a_statement_that_ended_with_too_few_is_not_hidden_by_one_that_had_enough() {
        let patience =
            Patience::Prompt { settle: Duration::from_millis(100), launch_wait: Duration::from_secs(1) };
        let ran = |workers: u32, millis: u64| {
            let pids: Vec<i32> = (1..).take(workers as usize).collect();
            let mut window = Window::new(Demand::of(4, &[4]), patience);
            for at in (0..=millis).step_by(10).map(Duration::from_millis) {
                let (leader, pool) = (LeaderState::Active, Some(Pool { used: workers, size: 8 }));
                window.on_tick(Tick { at, workers, leader, pool, processes: None }, &pids);
            }
            window.on_end();
            window
        };
        for (had, millis, verdict, achieved) in [
            (2, 300, Verdict::FinishedEarly, 2),
            (0, 300, Verdict::FinishedEarly, 0),
            (4, 300, Verdict::Enough, 4),
            // A small part of the script.
            (0, 20, Verdict::Enough, 4),
        ] {
            let mut evidence = Evidence::default();
            evidence.take(&ran(had, millis), 4);
            evidence.take(&ran(4, 300), 4);
            assert_eq!(
                (evidence.verdict(), evidence.achieved()),
                (verdict, achieved),
                "{had} for {millis} ms"
            );
        }
    }

    #[test]
    fn a_statement_alone_is_judged_by_the_whole_requirement() {
        assert_eq!(required(&[planned(1, 10.0)], FIRST), [Some(4)]);
    }

    #[test]
    fn the_servers_counters_clear_what_was_concluded_from_absence_and_name_what_nobody_saw() {
        let short = Shortfall { reason: ShortReason::PoolExhausted, got: 0, needed: 4 };
        let absent = Evidence { most: 4, worst: Some((0, short)), short_launches: 1, ..Evidence::default() };
        let heard = |mut evidence: Evidence, told| {
            assert!(evidence.is_doubtful());
            evidence.hear(told, 4, false);
            (evidence.achieved(), evidence.short_launches)
        };
        assert_eq!(heard(absent.clone(), Told::AllLaunched), (4, 0));
        assert_eq!(heard(absent.clone(), Told::Short { launched: 4, asked: 8 }), (0, 1));
        assert_eq!(heard(absent, Told::Unknown), (0, 1));
        // Four are asked for in a pool of three: one is always missing.
        let mut capped = Evidence { most: 3, unknown: true, ..Evidence::default() };
        capped.hear(Told::Short { launched: 6, asked: 8 }, 3, true);
        assert_eq!((capped.achieved(), capped.short_launches), (3, 0));
        let unproven = Evidence { most: 2, ..Evidence::default() };
        assert_eq!(heard(unproven.clone(), Told::Short { launched: 1, asked: 4 }), (1, 1));
        let once = Evidence { most: 4, ..Evidence::default() };
        assert_eq!(
            heard(once, Told::Short { launched: 4, asked: 8 }),
            (0, 1),
            "one of two launches had none"
        );
        assert_eq!(heard(unproven, Told::AllLaunched), (2, 0));
        let seen = Shortfall { got: 2, ..short };
        assert!(!Evidence { worst: Some((2, seen)), ..Evidence::default() }.is_doubtful());
    }

    #[test]
    fn an_unknown_statement_beside_a_known_one_is_not_expected_to_have_workers() {
        let statements = [StatementCapacity::default(), planned(4, 100.0)];
        let script = Script::new(&statements, 2);
        assert!(!script.demand(0, &statements[0], FIRST).unwrap().expects_workers);
        let statements = [StatementCapacity::default(), planned(1, 100.0)];
        let script = Script::new(&statements, 2);
        assert!(script.demand(0, &statements[0], FIRST).unwrap().expects_workers);
    }
}
