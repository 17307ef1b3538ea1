//! Launches: what new worker processes say about one Gather.
//!
//! A *launch* is one Gather, Gather Merge or parallel maintenance step, executed once. It registers its
//! workers in one go and stops at the first refusal (parallel.c, nodeGather.c), so it is either whole or
//! was refused for lack of a slot. Which of the two cannot be told by a count alone: with launches of 2
//! and 4 planned, two workers are a whole small launch or a starved large one. The evidence is the *room*
//! around the launch: slots of the pool and processes of the server that were still free.
//!
//! - Workers that were not seen before, no more than `settle` apart, are one launch. Those that have left
//!   again count in its size. But where several launches may come, workers that meet none of those before them
//!   are another launch: a Gather below a nested loop starts its workers again and again.
//! - Room at every tick of its bracket: the launch is whole, whatever was planned. But where it took all the slots that
//!   were free at some look shortly before, they may have been all that it could have: ambiguous. The slot of a worker that
//!   has gone is free only once the postmaster has noticed.
//! - No room, and launches of the plan explain the size: ambiguous. Once other workers follow, it was those launches: no
//!   other explanation is better.
//! - No room, and nothing explains the size: short.
//! - Room that cannot be seen proves nothing: a worker without work is gone within a tick. It stays open.
//! - Launches that are not known (CALL, DO, functions, maintenance, closures): short only by the bracket.
//!
//! The bracket reaches from the first tick of the launch to two ticks after its last new worker. A size that
//! no launches explain is suspect already: its bracket is `settle` wider on both sides.
//!
//! Room that is seen is an upper bound, since workers without a database are not in `pg_stat_activity`. So a lack of
//! room is strong evidence. Room is taken as evidence too, but not where the launch took all of it.

use std::time::Duration;

use super::room::{Lately, Room};
use super::tick::Tick;
use super::verdict::ShortReason;

/// Ticks after the last new worker until a launch is complete.
const COMPLETE: u32 = 2;
/// A gap between two ticks that is longer than this, and than twice `settle`, may have hidden workers.
pub(super) const LONGEST_GAP: Duration = Duration::from_millis(250);

/// A launch that the plan may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct PlannedLaunch {
    /// `Workers Planned`.
    pub workers: u32,
    /// Whether its node runs at most once; one below a nested loop or in a subplan may run again and again.
    pub once: bool,
    /// Whether the planner expects a tenth of the statement's cost or more below it.
    pub heavy: bool,
}

impl From<u32> for PlannedLaunch {
    /// A launch of the statement's main part.
    fn from(workers: u32) -> Self {
        Self { workers, once: true, heavy: true }
    }
}

/// What one statement must reach in one attempt, and what is known of its launches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    /// Workers that a launch must have. Zero accepts a serial run, and judges nothing.
    pub required: u32,
    /// Workers demanded of all attempts but the last: what shares are measured against.
    pub target: u32,
    /// The plan's launches; `None` when they are not known.
    pub planned: Option<Vec<PlannedLaunch>>,
    /// The most workers that the plan can have at once; `None` when that is not known.
    pub at_once: Option<u32>,
    /// Whether a statement whose launches are not known is expected to have one.
    pub expects_workers: bool,
}

impl Demand {
    /// Demands `required` workers of a statement whose launches are not known.
    #[must_use]
    #[allow(dead_code, reason = "for the models of the tests and the example")]
    pub const fn unknown(required: u32) -> Self {
        Self { required, target: required, planned: None, at_once: None, expects_workers: true }
    }

    /// Whether workers are expected, by launches that are not known.
    pub(super) const fn is_of_unknown(&self) -> bool {
        self.expects_workers && self.planned.is_none()
    }

    /// Demands `required` workers of a plan with these launches, each of which runs once.
    #[must_use]
    #[allow(dead_code, reason = "for the models of the tests and the example")]
    pub fn of(required: u32, launches: &[u32]) -> Self {
        let planned = launches.iter().copied().map(PlannedLaunch::from).collect();
        let at_once = launches.iter().copied().sum();
        Self {
            required,
            target: required,
            planned: Some(planned),
            at_once: Some(at_once),
            expects_workers: true,
        }
    }
}

/// A launch that was proven short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    /// What was lacking.
    pub reason: ShortReason,
    /// Workers that it had.
    pub got: u32,
    /// Workers that it needed: the target or, if less, the smallest launch of the plan that explains more workers than it
    /// got; where it got none, the largest launch left.
    pub needed: u32,
}

impl Shortfall {
    /// Its share of what it needed, in workers of a target.
    #[must_use]
    pub const fn of_target(self, target: u32) -> u32 {
        match (target * self.got).checked_div(self.needed) {
            Some(share) => share,
            None => target,
        }
    }
}

/// Launches of a plan that may still come.
#[derive(Debug, Clone)]
pub(super) struct PendingLaunches(Option<Vec<PlannedLaunch>>);

impl PlannedLaunch {
    /// It was met: if it may run again, nobody knows whether it will.
    const fn met(self) -> Self {
        Self { heavy: false, ..self }
    }

    /// Workers of it that may show up later than the others.
    const fn remainder(self, seen: u32) -> Self {
        Self { workers: self.workers - seen, once: true, heavy: false }
    }
}

impl PendingLaunches {
    pub(super) const fn new(planned: Option<Vec<PlannedLaunch>>) -> Self {
        Self(planned)
    }

    /// Whether the plan is known.
    pub(super) const fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// The largest that `may` come.
    pub(super) fn largest(&self, may: impl Fn(&PlannedLaunch) -> bool) -> Option<u32> {
        let launches = self.0.as_ref()?.iter().filter(|launch| may(launch));
        launches.map(|launch| launch.workers).max().filter(|&workers| workers > 0)
    }

    /// The largest one is not awaited any more.
    pub(super) fn forget_largest(&mut self) {
        let Some(launches) = self.0.as_mut() else { return };
        let largest = launches.iter().enumerate().max_by_key(|(_, launch)| launch.workers);
        if let Some((place, _)) = largest {
            launches.remove(place);
        }
    }

    /// Whether launches may come again and again, and nobody knows how often.
    pub(super) fn may_repeat(&self) -> bool {
        self.0.as_ref().is_none_or(|launches| launches.iter().any(|launch| !launch.once))
    }

    /// Whether more than one launch may come.
    pub(super) fn has_several(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|launches| launches.len() > 1 || launches.iter().any(|launch| !launch.once))
    }

    /// The smallest number of workers above `size` that whole launches add up to, but no more than `target`; `None`
    /// where all of them together have no more than `size`: it is another plan that runs.
    pub(super) fn next_above(&self, size: u32, target: u32) -> Option<u32> {
        let Some(launches) = self.0.as_ref() else { return Some(target.max(size + 1)) };
        let largest = launches.iter().map(|launch| launch.workers).max().unwrap_or(0);
        let needed = (size + 1..=size.saturating_add(largest)).find(|&sum| self.explains(sum))?;
        Some(needed.min(target.max(size + 1)))
    }

    /// Whether whole launches add up to that many workers.
    pub(super) fn explains(&self, size: u32) -> bool {
        self.parts_of(size).is_some()
    }

    /// Launches that add up to that many workers, by their places; the fewest that do. One that may run again
    /// stands as often as it is needed.
    pub(super) fn parts_of(&self, size: u32) -> Option<Vec<usize>> {
        let launches = self.0.as_ref()?;
        let size = size as usize;
        let mut sums: Vec<Option<Vec<usize>>> = vec![None; size + 1];
        sums[0] = Some(Vec::new());
        // What runs once first: of two that explain it as well, that one is used up.
        let places = |once| launches.iter().enumerate().filter(move |(_, launch)| launch.once == once);
        for (place, launch) in places(true).chain(places(false)).filter(|(_, launch)| launch.workers > 0) {
            let workers = launch.workers as usize;
            let mut extend = |sum: usize| {
                let Some(mut parts) = sum.checked_sub(workers).and_then(|rest| sums[rest].clone()) else {
                    return;
                };
                parts.push(place);
                if sums[sum].as_ref().is_none_or(|known| known.len() > parts.len()) {
                    sums[sum] = Some(parts);
                }
            };
            if launch.once {
                (1..=size).rev().for_each(&mut extend);
            } else {
                (1..=size).for_each(&mut extend);
            }
        }
        sums.pop()?
    }

    /// Whole launches with that many workers have run: those that run once are no longer left. A launch that
    /// had all it needed, and fewer than its plan, is the smallest one that is large enough.
    pub(super) fn use_up(&mut self, size: u32) {
        let places = self.parts_of(size);
        let Some(launches) = self.0.as_mut() else { return };
        let smallest = || {
            let larger = launches.iter().enumerate().filter(|(_, launch)| launch.workers >= size);
            larger.min_by_key(|(_, launch)| launch.workers).map(|(place, _)| place)
        };
        let mut places = places.unwrap_or_else(|| smallest().into_iter().collect());
        places.sort_unstable();
        let found: u32 =
            places.iter().filter_map(|&place| launches.get(place)).map(|launch| launch.workers).sum();
        for place in places.into_iter().rev() {
            let Some(launch) = launches.get(place).copied() else { continue };
            match (found > size, launch.once) {
                // It had all that it needed. The others of its plan may be slow to start.
                (true, _) => launches[place] = launch.remainder(size),
                (false, true) => drop(launches.remove(place)),
                (false, false) => launches[place] = launch.met(),
            }
        }
    }
}

/// One launch, from its first worker on.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "facts that were seen, each by itself")]
pub(super) struct Launch {
    grown_at: Duration,
    pub(super) size: u32,
    /// The pids of its workers.
    members: Vec<i32>,
    /// How many of them came last.
    latest: u32,
    /// How many of them the last look saw.
    alive: u32,
    /// The most of them that were certainly at work together.
    pub(super) peak: u32,
    /// Ticks since the last new worker.
    quiet: u32,
    /// What was lacking at some tick of the bracket.
    lack_in_bracket: Option<ShortReason>,
    /// The same, also within `settle` on both sides.
    lack_in_wide_bracket: Option<ShortReason>,
    /// What is lacking at every tick since the last new worker.
    lack_since_growth: Option<ShortReason>,
    unseen: bool,
    /// Workers may have come and gone before the first tick.
    unsure: bool,
    /// It may be a part of another.
    is_part: bool,
    /// The looks shortly before.
    before: Lately,
    /// The fewest slots that were free at one of them and that others have not taken since.
    free_before: Option<u32>,
    pub(super) settled: bool,
    /// Whether the launches of the plan that it was are used up.
    used_up: bool,
    /// Whether the attempt was accepted with it.
    pub(super) accepted: bool,
}

/// What a launch turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    Whole,
    Ambiguous,
    Short(ShortReason),
}

impl Launch {
    pub(super) fn begin(tick: &Tick, new: &[i32], room: Room, lately: &Lately, settle: Duration) -> Self {
        let at = tick.at;
        // The attempt began at zero.
        let gap = at.saturating_sub(lately.last().unwrap_or_default());
        let mut launch = Self {
            grown_at: at,
            size: 0,
            members: Vec::new(),
            latest: 0,
            alive: 0,
            peak: 0,
            quiet: 0,
            lack_in_bracket: None,
            lack_in_wide_bracket: lately.lack(settle),
            lack_since_growth: None,
            unseen: false,
            unsure: gap > LONGEST_GAP.max(2 * settle),
            is_part: false,
            before: lately.clone(),
            free_before: None,
            settled: false,
            used_up: false,
            accepted: false,
        };
        launch.grow(tick, new, room);
        launch
    }

    /// Looks which of its workers are still there.
    pub(super) fn look(&mut self, pids: &[i32]) {
        self.alive = self.members.iter().filter(|member| pids.contains(member)).count() as u32;
        self.peak = self.peak.max(self.at_work());
    }

    /// Workers of it that are certainly at work together: where they came one after the other, the first may be the last of
    /// a launch before, until the launch is complete.
    pub(super) const fn at_work(&self) -> u32 {
        let is_one = self.latest as usize == self.members.len();
        if is_one || self.is_complete() { self.alive } else { self.latest }
    }

    /// Whether workers that are new now may belong to it.
    pub(super) fn takes(&self, at: Duration, settle: Duration) -> bool {
        at.saturating_sub(self.grown_at) <= settle
    }

    /// Whether the look before was long enough after its last worker to know them all.
    pub(super) const fn is_complete(&self) -> bool {
        self.quiet >= COMPLETE
    }

    pub(super) fn grow(&mut self, tick: &Tick, new: &[i32], room: Room) {
        self.latest = new.len() as u32;
        self.size += self.latest;
        self.members.extend(new);
        self.free_before = self.free_before.into_iter().chain(self.before.least_left(tick)).min();
        self.grown_at = tick.at;
        self.quiet = 0;
        self.lack_in_bracket = self.lack_in_bracket.or(room.lack());
        self.lack_in_wide_bracket = self.lack_in_wide_bracket.or(room.lack());
        self.lack_since_growth = room.lack();
        self.unseen |= room == Room::Unseen;
    }

    /// A tick without a new worker.
    pub(super) fn on_quiet_tick(&mut self, tick: &Tick, room: Room) {
        self.quiet += 1;
        if self.quiet <= COMPLETE {
            self.free_before = self.free_before.into_iter().chain(self.before.least_left(tick)).min();
            self.lack_in_bracket = self.lack_in_bracket.or(room.lack());
        }
        self.lack_in_wide_bracket = self.lack_in_wide_bracket.or(room.lack());
        self.lack_since_growth = self.lack_since_growth.and(room.lack());
        self.unseen |= room == Room::Unseen;
    }

    /// Some of its workers may not have been counted.
    pub(super) const fn doubt(&mut self) {
        self.unsure = true;
    }

    /// Another one may go on with it.
    pub(super) const fn may_be_part(&mut self) {
        self.is_part = true;
    }

    /// Whether its workers may be more or fewer than one launch's.
    const fn is_doubted(&self) -> bool {
        self.unsure || self.is_part
    }

    /// What it is, as soon as that is known.
    pub(super) fn judge(&self, at: Duration, settle: Duration, pending: &PendingLaunches) -> Option<Finding> {
        if self.quiet < COMPLETE {
            return None;
        }
        let quiet_for = at.saturating_sub(self.grown_at);
        let settled = quiet_for >= settle;
        if pending.is_known() && !pending.explains(self.size) {
            // Nothing more can start, and what did is no launch of the plan.
            if let Some(reason) = self.lack_since_growth.filter(|_| !self.is_doubted()) {
                return Some(Finding::Short(reason));
            }
            return settled.then_some(match (self.lack_in_wide_bracket, self.unseen) {
                _ if self.is_doubted() => Finding::Ambiguous,
                (Some(reason), _) => Finding::Short(reason),
                // Nothing but the number speaks against it: others may have started, and gone between two ticks.
                (None, true) => Finding::Ambiguous,
                (None, false) if self.took_all() => Finding::Ambiguous,
                (None, false) => Finding::Whole,
            });
        }
        if let Some(reason) = self.lack_since_growth.filter(|_| !pending.is_known() && !self.is_doubted()) {
            return Some(Finding::Short(reason));
        }
        settled.then_some(if self.is_whole() { Finding::Whole } else { Finding::Ambiguous })
    }

    /// It has all the slots that were free at some look before, but for those that others have taken.
    fn took_all(&self) -> bool {
        self.free_before.is_some_and(|free| self.size >= free)
    }

    /// There was room at every tick of its bracket so far.
    pub(super) fn is_whole(&self) -> bool {
        self.lack_in_bracket.is_none() && !self.unseen && !self.is_doubted() && !self.took_all()
    }

    /// There was room at every tick around it so far, as far as a bracket may reach.
    pub(super) fn had_room(&self) -> bool {
        self.lack_in_wide_bracket.is_none() && !self.unseen && !self.unsure && !self.took_all()
    }

    /// Launches of the plan that it was are no longer left.
    pub(super) fn use_up(&mut self, pending: &mut PendingLaunches) {
        if !std::mem::replace(&mut self.used_up, true) {
            pending.use_up(self.size);
        }
    }

    /// Other workers have come, and none of its own is there any more. If launches of the plan explain it, it was those:
    /// if not, one of them had too few, and one that is left will show it.
    pub(super) fn give_way(&mut self, pending: &mut PendingLaunches) {
        if pending.explains(self.size) && !self.is_doubted() {
            self.use_up(pending);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(launches: &[(u32, bool)]) -> PendingLaunches {
        let planned = |&(workers, once)| PlannedLaunch { workers, once, heavy: true };
        PendingLaunches::new(Some(launches.iter().map(planned).collect()))
    }

    #[test]
    fn a_sum_of_launches_explains_a_size_and_each_is_used_once() {
        let plan = pending(&[(1, true), (2, true), (4, true)]);
        assert!([1, 2, 3, 4, 5, 6, 7].into_iter().all(|size| plan.explains(size)));
        assert!(!plan.explains(8));
        assert!(!pending(&[(2, true), (4, true)]).explains(3));
        assert!(!pending(&[]).explains(1));
        assert!(!PendingLaunches::new(None).explains(1));
    }

    #[test]
    fn a_launch_that_may_run_again_explains_its_multiples() {
        let plan = pending(&[(2, false)]);
        assert!(plan.explains(2) && plan.explains(6) && !plan.explains(3));
    }

    #[test]
    fn what_ran_whole_is_no_longer_left() {
        let mut plan = pending(&[(2, true), (4, true), (3, false)]);
        plan.use_up(4);
        assert_eq!(plan.largest(|_| true), Some(3));
        plan.use_up(3);
        assert!(plan.explains(3), "it may run again");
        plan.use_up(2);
        assert!(!plan.explains(2));
    }

    #[test]
    fn a_launch_with_enough_of_a_larger_plan_uses_that_up() {
        let mut plan = pending(&[(2, true), (8, true), (6, true)]);
        plan.use_up(5);
        assert_eq!(plan.largest(|_| true), Some(8));
        assert!(plan.explains(1), "the sixth worker may be slow to start");
        plan.use_up(7);
        assert_eq!(plan.largest(|launch| launch.heavy), Some(2));
    }

    #[test]
    fn a_share_is_rounded_down_to_whole_workers() {
        let short = |got, needed| Shortfall { reason: ShortReason::PoolExhausted, got, needed };
        assert_eq!(
            [short(1, 2), short(3, 4), short(0, 4), short(2, 3)].map(|s| s.of_target(4)),
            [2, 3, 0, 2]
        );
    }
}
