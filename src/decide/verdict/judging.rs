//! Which launch the workers that are seen belong to, and what becomes of it.

use std::time::Duration;

use super::{ShortReason, Window};
use crate::decide::launch::{Demand, Finding, Launch, Shortfall};
use crate::decide::room::Room;
use crate::decide::tick::Tick;

impl Window {
    /// The workers that were not seen before, and whether one that was is still there.
    pub(super) fn new_workers(&mut self, at: Duration, pids: &[i32], settle: Duration) -> (Vec<i32>, bool) {
        let new: Vec<i32> =
            pids.iter().copied().filter(|pid| self.known.insert(*pid, at).is_none()).collect();
        // A pid that has been away for longer may be another worker's.
        self.known.retain(|_, seen| at.saturating_sub(*seen) <= settle);
        let met = new.len() < pids.len();
        (new, met)
    }

    /// `met`: whether a worker of an earlier look is still there.
    pub(super) fn assign(&mut self, tick: Tick, (new, met): (&[i32], bool), room: Room, settle: Duration) {
        let at = tick.at;
        if new.is_empty() {
            if let Some(launch) = &mut self.launch {
                launch.on_quiet_tick(&tick, room);
            }
            return;
        }
        let several = self.pending.has_several();
        match &mut self.launch {
            Some(launch) if launch.takes(at, settle) && (met || !several) => launch.grow(&tick, new, room),
            current => {
                let mut begun = Launch::begin(&tick, new, room, &self.lately, settle);
                if let Some(mut over) = current.take() {
                    self.seen.push(over.size);
                    // Both may be parts of one, unless that has all that the plan can have.
                    let may_go_on = self.demand.at_once.is_none_or(|most| over.size < most);
                    if may_go_on && over.takes(at, settle) && !over.is_complete() {
                        begun.may_be_part();
                    }
                    self.close(&mut over);
                    if !met {
                        over.give_way(&mut self.pending);
                    } else if over.accepted && self.demand.at_once.is_some_and(|most| tick.workers >= most) {
                        // It has all that the plan can have: the last of them were slow to start.
                        self.accepted = None;
                    }
                }
                self.launch = Some(begun);
                self.launched = true;
            }
        }
    }

    /// A launch is over, or as good as over, and nothing proves it short.
    pub(super) fn close(&mut self, launch: &mut Launch) {
        if std::mem::replace(&mut launch.settled, true) {
            return;
        }
        let Demand { required, target, .. } = self.demand;
        let had_room = launch.had_room();
        let is_explained = self.pending.explains(launch.size);
        if launch.is_whole() || (required > 0 && launch.size >= required) {
            launch.use_up(&mut self.pending);
        }
        if launch.accepted {
            self.reached = self.reached.max(self.had(launch).min(target));
        }
        if launch.size >= target {
            // They may as well be the last of one and the first of another.
            self.launches_unproven |= self.had(launch) < target;
            return;
        }
        // It may as well have been a larger one that had too few, if another then has fewer than its plan.
        self.mistakable |= is_explained && !had_room;
        self.launches_unproven |= !is_explained && had_room && self.mistakable;
        match launch.accepted {
            true if had_room => self.accepted_with_room = true,
            _ if is_explained || had_room => {}
            true => {
                // Several that were alive together may have been enough.
                let size = launch.size.max(required);
                self.accepted = Some(self.accepted.map_or(size, |least| least.min(size)));
            }
            false => self.launches_unproven = true,
        }
    }

    /// The current launch, where it is proven short.
    pub(super) fn judge_launch(&mut self, at: Duration, settle: Duration) -> Option<Shortfall> {
        let mut launch = self.launch.take_if(|launch| !launch.settled)?;
        let short = match launch.judge(at, settle, &self.pending) {
            Some(Finding::Short(reason)) if launch.size < self.demand.target => {
                self.close_as_short(&mut launch, reason)
            }
            Some(_) if !launch.takes(at, settle) => {
                self.close(&mut launch);
                None
            }
            _ => None,
        };
        let accepted = launch.accepted;
        self.launch = Some(launch);
        // The last attempt may have less than the target: that is told by its outcome, and is no reason to reject it.
        if let Some(short) = short.filter(|_| accepted) {
            self.record_shortfall(short);
            return None;
        }
        short
    }

    /// A launch has run, with fewer workers than it needed.
    fn close_as_short(&mut self, launch: &mut Launch, reason: ShortReason) -> Option<Shortfall> {
        launch.settled = true;
        let got = launch.size;
        let needed = self.pending.next_above(got, self.demand.target)?;
        self.pending.use_up(needed);
        Some(Shortfall { reason, got, needed })
    }
}
