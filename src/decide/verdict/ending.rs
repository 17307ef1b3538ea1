//! What a statement's end says of launches that nobody saw.

use std::time::Duration;

use super::{Patience, ShortReason, Verdict, Window};
use crate::decide::launch::{Demand, LONGEST_GAP, PendingLaunches, PlannedLaunch, Shortfall};
use crate::decide::matching::Matching;

impl Window {
    /// The verdict as it stands when the statement has ended. A last attempt is accepted as soon as it has the minimum: where
    /// fewer than the target were seen, and there was room for more all around that launch, nothing proves that it had
    /// fewer, as nothing would in any other attempt.
    #[must_use]
    pub fn proven(&self) -> Option<Verdict> {
        let open = self.accepted_with_room && self.accepted.is_none() && self.reached() < self.demand.target;
        self.verdict.map(|verdict| match verdict {
            Verdict::Enough if open => Verdict::FinishedEarly,
            verdict => verdict,
        })
    }

    /// Whether launches may have had no worker at all, and nobody can tell. Those that nobody can foresee (CALL, DO,
    /// functions, a Gather below a nested loop): the statement ran without a worker while there was no room, for as long
    /// as would have condemned it, or was long and met a full pool before it had any; it may as well have had no launch
    /// then. Or those of a plan: the statement was too short to be condemned, and there was no room at any look; or one
    /// that nobody saw came right after another whose workers had left no room. Or all of them, where nobody saw the room.
    #[must_use]
    pub const fn has_unproven_launches(&self) -> bool {
        self.launches_unproven
    }

    /// Whether a launch of the plan that was to take a tenth of the time or more was never seen.
    #[must_use]
    pub const fn has_unmet_launches(&self) -> bool {
        self.unmet
    }

    /// Whether more than one launch may have come.
    #[must_use]
    pub const fn has_several_launches(&self) -> bool {
        self.several
    }

    /// Why a launch of the plan had no worker, if it came at all: there was no room at any look at a statement that ended
    /// too soon to be condemned.
    #[must_use]
    pub const fn suspicion(&self) -> Option<ShortReason> {
        self.suspicion
    }

    /// What it was accepted with, in workers of `target`, where less was required than its plan can have.
    #[must_use]
    pub fn accepted_share(&self, target: u32) -> Option<u32> {
        let Demand { required, target: wanted, .. } = self.demand;
        let may_have = self.launched || self.demand.at_once.is_some_and(|most| most > 0);
        let lowered = self.proven() == Some(Verdict::Enough) && required < wanted && may_have;
        let open = self.launch.as_ref().filter(|launch| launch.accepted && !launch.settled);
        let open = open.map(|launch| launch.size.max(required)).filter(|&size| size < wanted);
        // Who accepts a serial run looks at no launch.
        let least =
            if required == 0 { Some(self.reached()) } else { self.accepted.into_iter().chain(open).min() };
        least.filter(|_| lowered).map(|least| least.min(wanted) * target / wanted)
    }

    /// What it had, in workers of `target`, where it ended before anything was proven, and its plan can have more.
    #[must_use]
    pub fn early_share(&self, target: u32) -> Option<u32> {
        let Demand { target: wanted, expects_workers, .. } = self.demand;
        let may_have = self.launched || (expects_workers && self.demand.at_once != Some(0));
        let is_early = self.proven() == Some(Verdict::FinishedEarly) && may_have;
        (is_early && self.reached() < wanted).then(|| self.reached() * target / wanted)
    }

    /// What became of launches that nobody saw.
    pub(super) fn judge_end(&mut self) {
        let Patience::Prompt { settle, launch_wait } = self.patience else { return };
        if self.blind || self.demand.required == 0 {
            return;
        }
        if let Some(mut launch) = self.launch.take() {
            self.close(&mut launch);
            if self.pending.explains(launch.size) {
                launch.use_up(&mut self.pending);
            }
            self.launch = Some(launch);
        }
        if self.launched && !matches!(self.verdict, Some(Verdict::Short(_))) {
            self.judge_rest(launch_wait);
        }
        self.judge_absent(settle, launch_wait);
        self.judge_unseen(settle);
        // Where nobody sees the room, workers are all there is to see.
        let may_have = self.pending.largest(|_| true).is_some() || self.demand.is_of_unknown();
        self.launches_unproven |=
            self.verdict.is_none() && !self.saw_pool && may_have && self.active >= settle;
    }

    /// A launch of the plan that nobody saw, though it was to take a tenth of the time or more; others were seen. It may
    /// never have come, or was over between two looks. But it may have had no worker, if there was no room at some look
    /// without a worker, or nobody saw the room; or if the workers before it had left no room: they give it back a moment
    /// after they have gone.
    fn judge_rest(&mut self, launch_wait: Duration) {
        self.unmet = self.pending.largest(|launch| launch.heavy && launch.once).is_some();
        let may_lack = self.alone_after_full || self.mistakable || !self.saw_pool;
        self.launches_unproven |= self.unmet && may_lack;
        // Of launches that nobody can foresee, nobody knows whether one was to come.
        let long = self.alone >= launch_wait.max(self.active / 10);
        self.launches_unproven |= !self.saw_pool && self.demand.is_of_unknown() && long;
    }

    /// Launches that left no trace, for all that is known, and may have had no room. Of those that nobody can foresee, or
    /// that may come again, there may have been one for as long as the statement had no worker and the pool no room.
    fn judge_unseen(&mut self, settle: Duration) {
        if matches!(self.verdict, Some(Verdict::Short(_))) {
            return;
        }
        let plan = PendingLaunches::new(self.demand.planned.clone());
        let long = self.longest_lack >= settle.max(self.active / 10);
        let foreseen = plan.is_known() && !plan.may_repeat();
        self.launches_unproven |= long && !foreseen && self.demand.expects_workers;
        // Its first launch may have found the slots of those before not free yet.
        let may_have =
            self.demand.at_once != Some(0) && (!plan.is_known() || plan.largest(|_| true).is_some());
        let starved =
            self.began_full && !self.launched && self.alone_in_total >= settle.max(self.active / 10);
        self.launches_unproven |= starved && may_have && self.demand.expects_workers;
        let planned = self.demand.planned.as_deref().filter(|_| self.launched && plan.has_several());
        let Some(planned) = planned else { return };
        let target = self.demand.target;
        let may_matter = |launch: &PlannedLaunch| {
            launch.heavy && self.fewest_free.is_none_or(|free| free < launch.workers.min(target))
        };
        let seen: Vec<u32> =
            self.seen.iter().copied().chain(self.launch.as_ref().map(|it| it.size)).collect();
        let matching = Matching::new(planned, &seen);
        // One without a worker would have taken the leader its share of the time.
        let unmet = self.alone_in_total >= self.active / 10 && matching.may_lack_one(may_matter);
        let is_told = self.short_launches > 0 || self.accepted.is_some();
        // A launch stops at the first slot that it is refused.
        let was_full = self.fewest_free.is_none_or(|free| free == 0);
        let shows_fewer = was_full && !is_told && matching.shows_fewer(target, |launch| launch.heavy);
        self.unmet |= unmet;
        self.launches_unproven |= unmet || shows_fewer;
    }

    /// Whether there was no room for others when its last workers were seen. They do not all go at the same tick.
    pub(super) fn was_left_crowded(&self, settle: Duration) -> bool {
        let near = |(crowded, seen): (Duration, Duration)| {
            seen.saturating_sub(crowded) <= LONGEST_GAP.max(2 * settle)
        };
        self.full_beside_worker_at.zip(self.seen_at).is_some_and(near)
    }

    /// A statement none of whose launches had a worker that anybody saw, while there was no room at some look. If it ran
    /// for long, the launch of its plan came at that moment.
    fn judge_absent(&mut self, settle: Duration, launch_wait: Duration) {
        let open = self.verdict.is_none() && !self.launched;
        let Some(reason) = self.lack_without_worker.filter(|_| open) else { return };
        let long = self.active >= launch_wait;
        match self.pending.largest(|launch| launch.heavy && launch.once) {
            Some(needed) if long => {
                self.record_shortfall(Shortfall { reason, got: 0, needed: needed.min(self.demand.target) });
            }
            known if !self.saw_room && (known.is_some() || !self.pending.is_known()) => {
                self.launches_unproven = true;
                // What may have workers for certain.
                let planned = known.is_some() || self.demand.at_once.is_some_and(|most| most > 0);
                self.suspicion = planned.then_some(reason);
            }
            // It would have been seen, unless it came at that moment.
            Some(_) if self.active >= settle => self.launches_unproven = true,
            _ => {}
        }
    }
}
