//! The launches that were seen against those of the plan, once a statement has ended.
//!
//! A launch that had too few workers looks like a smaller one that had all. So each that was seen stands for one of the plan
//! and no more, and it may have been any of at least its size.

use std::cmp::Reverse;

use super::launch::{PendingLaunches, PlannedLaunch};

/// The launches of a plan, and what was seen of them.
#[derive(Debug)]
pub(super) struct Matching<'a> {
    planned: &'a [PlannedLaunch],
    /// The workers of each launch that was seen, the largest first.
    parts: Vec<u32>,
}

impl<'a> Matching<'a> {
    /// `seen`: the workers of each launch, or of several at once.
    pub(super) fn new(planned: &'a [PlannedLaunch], seen: &[u32]) -> Self {
        let plan = PendingLaunches::new(Some(planned.to_vec()));
        let largest = planned.iter().map(|launch| launch.workers).max().unwrap_or(0).max(1);
        let mut parts: Vec<u32> = Vec::new();
        for &size in seen {
            match plan.parts_of(size).filter(|_| size > largest) {
                _ if size <= largest => parts.push(size),
                // Several at once.
                Some(places) => parts.extend(places.iter().map(|&place| planned[place].workers)),
                // What is beyond whole ones proves none.
                None => parts.extend((0..size / largest).map(|_| largest)),
            }
        }
        parts.sort_unstable_by_key(|&part| Reverse(part));
        Self { planned, parts }
    }

    /// Whether one of those that `matter` may have had no worker whenever it came: all that was seen may have been others.
    pub(super) fn may_lack_one(&self, matter: impl Fn(&PlannedLaunch) -> bool) -> bool {
        let without = |absent: usize| {
            let others = self.planned.iter().enumerate().filter(|(place, _)| *place != absent);
            let (mut once, again): (Vec<&PlannedLaunch>, Vec<&PlannedLaunch>) =
                others.map(|(_, launch)| launch).partition(|launch| launch.once);
            once.sort_unstable_by_key(|launch| Reverse(launch.workers));
            let repeated = again.iter().map(|launch| launch.workers).max().unwrap_or(0);
            let mut rest = self.parts.iter().filter(|&&part| part > repeated);
            // The largest part to the largest launch, and so on.
            once.iter().zip(rest.by_ref()).all(|(launch, &part)| launch.workers >= part)
                && rest.next().is_none()
        };
        self.planned.iter().enumerate().any(|(place, launch)| matter(launch) && without(place))
    }

    /// Whether each was seen, and one of those that `matter` had fewer workers than its plan and the target.
    pub(super) fn shows_fewer(&self, target: u32, matter: impl Fn(&PlannedLaunch) -> bool) -> bool {
        let mut planned: Vec<&PlannedLaunch> = self.planned.iter().collect();
        planned.sort_unstable_by_key(|launch| Reverse(launch.workers));
        let all = planned.len() == self.parts.len() && planned.iter().all(|launch| launch.once);
        let fewer =
            |(launch, &part): (&&PlannedLaunch, &u32)| matter(launch) && part < launch.workers.min(target);
        all && planned.iter().zip(&self.parts).any(fewer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(launches: &[(u32, bool)]) -> Vec<PlannedLaunch> {
        launches.iter().map(|&(workers, once)| PlannedLaunch { workers, once, heavy: true }).collect()
    }

    #[test]
    fn one_is_missed_when_all_that_was_seen_may_have_been_others() {
        let may_lack = |launches: &[(u32, bool)], seen: &[u32]| {
            Matching::new(&planned(launches), seen).may_lack_one(|_| true)
        };
        let once = |workers| (workers, true);
        assert!(may_lack(&[once(2), once(4)], &[2]) && may_lack(&[once(2), once(4)], &[4]));
        assert!(may_lack(&[once(4), once(4)], &[4]) && may_lack(&[once(4), once(4)], &[7]));
        assert!(!may_lack(&[once(4), once(4)], &[4, 1]) && !may_lack(&[once(4), once(4)], &[8]));
        assert!(!may_lack(&[once(4), once(2)], &[6]));
        // What comes again may have been all that was seen.
        assert!(may_lack(&[once(4), (4, false)], &[4, 4, 4]));
        assert!(may_lack(&[once(4), (2, false)], &[3]) && !may_lack(&[once(4), (2, false)], &[3, 2]));
    }

    #[test]
    fn sizes_show_who_had_fewer_where_each_was_seen() {
        let fewer = |launches: &[u32], seen: &[u32]| {
            let launches: Vec<_> = launches.iter().map(|&workers| (workers, true)).collect();
            Matching::new(&planned(&launches), seen).shows_fewer(4, |_| true)
        };
        assert!(fewer(&[2, 3, 3, 2], &[2, 2, 3, 2]) && !fewer(&[2, 3, 3, 2], &[2, 3, 3, 2]));
        assert!(!fewer(&[8, 4], &[4, 4]), "the target is four");
        assert!(!fewer(&[2, 4], &[2]), "one was not seen");
    }
}
