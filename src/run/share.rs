//! The plan within a share of the slots.
//!
//! Where the slots are fewer than the workers of a plan, each Gather may ask for its share only
//! (`max_parallel_workers_per_gather`). The planner goes by that limit, and may make another plan: one of fewer
//! workers than the share, none at all, or of more Gathers, which have to share anew. So it is asked again
//! before an attempt is started under a limit, and attempts are judged by what it says then.

use super::execution::inspect;
use super::executor::{Executor, PlanCapacity};
use super::recorder::ExecutionRecorder;
use super::slots::{Grant, Slots};
use crate::error::Error;
use crate::settings::Settings;

/// The plan that attempts run, and the limit that it was made under.
pub(crate) struct Shared {
    pub(crate) capacity: PlanCapacity,
    share: Option<u32>,
}

impl Shared {
    /// The plan under no limit.
    pub(crate) const fn unlimited(capacity: PlanCapacity) -> Self {
        Self { capacity, share: None }
    }

    /// The plan under the limit of a grant; asks for it when the limit is another. Refuses one that cannot have
    /// the minimum.
    pub(crate) async fn under<S: Executor>(
        self,
        grant: Grant,
        executor: &mut S,
        recorder: &mut ExecutionRecorder,
        (settings, minimum): (&Settings, u32),
    ) -> Result<Self, Error> {
        let mut share = grant.share;
        if share == self.share {
            return Ok(self);
        }
        loop {
            let capacity = inspect(executor, recorder, settings).await?;
            // Its Gathers are limited already, so that only more of them can be too many.
            let fewer =
                capacity.plan_workers().share(grant.taken, u32::MAX).filter(|&fewer| Some(fewer) < share);
            let Some(fewer) = fewer else {
                check_minimum(executor, &capacity, (settings, minimum), recorder).await?;
                return Ok(Self { capacity, share });
            };
            executor.slots().narrow(fewer);
            share = Some(fewer);
        }
    }

    /// The most workers that an attempt may be asked for, with so many slots.
    pub(crate) fn required(&self, taken: u32) -> u32 {
        let Some(share) = self.share else { return taken };
        // A Gather may be alone, and may have planned fewer.
        let plan = self.capacity.plan_workers();
        self.capacity.planned.filter(|_| plan.workers.is_some()).map_or(share, |planned| planned.min(share))
    }
}

async fn check_minimum<S: Executor>(
    executor: &mut S,
    capacity: &PlanCapacity,
    (settings, minimum): (&Settings, u32),
    recorder: &mut ExecutionRecorder,
) -> Result<(), Error> {
    if settings.ignores_shortfall() || capacity.planned.is_none_or(|planned| planned >= minimum) {
        return Ok(());
    }
    executor.check_capacity(capacity, minimum, recorder).await
}
