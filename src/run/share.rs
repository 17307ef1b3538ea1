//! The plan within a share of the slots.
//!
//! Where the slots are fewer than the workers of a plan, each Gather may ask for its share only
//! (`max_parallel_workers_per_gather`). The planner goes by that limit, and may make another plan: one of fewer
//! workers than the share, none at all, or of more Gathers, which have to share anew. So it is asked again
//! before an attempt is started under a limit, and attempts are judged by what it says then.

use super::execution::inspect;
use super::ledger::Ledger;
use super::queue::Grant;
use super::stage::{Reach, Stage};
use crate::error::Error;
use crate::settings::Settings;

/// The plan that attempts run, and the limit that it was made under.
pub(crate) struct Shared {
    pub(crate) reach: Reach,
    share: Option<u32>,
}

impl Shared {
    /// The plan under no limit.
    pub(crate) const fn unlimited(reach: Reach) -> Self {
        Self { reach, share: None }
    }

    /// The plan under the limit of a grant; asks for it when the limit is another. Refuses one that cannot have
    /// the minimum.
    pub(crate) async fn under<S: Stage>(
        self,
        grant: Grant,
        stage: &mut S,
        ledger: &mut Ledger,
        (settings, minimum): (&Settings, u32),
    ) -> Result<Self, Error> {
        let mut share = grant.share;
        if share == self.share {
            return Ok(self);
        }
        loop {
            let reach = inspect(stage, ledger, settings).await?;
            // Its Gathers are limited already, so that only more of them can be too many.
            let fewer = reach.launch().share(grant.taken, u32::MAX).filter(|&fewer| Some(fewer) < share);
            let Some(fewer) = fewer else {
                check_minimum(stage, &reach, (settings, minimum), ledger).await?;
                return Ok(Self { reach, share });
            };
            stage.narrow(fewer);
            share = Some(fewer);
        }
    }

    /// The most workers that an attempt may be asked for, with so many slots.
    pub(crate) fn bar(&self, taken: u32) -> u32 {
        let Some(share) = self.share else { return taken };
        // A Gather may be alone, and may have planned fewer.
        let launch = self.reach.launch();
        self.reach.planned.filter(|_| launch.workers.is_some()).map_or(share, |planned| planned.min(share))
    }
}

async fn check_minimum<S: Stage>(
    stage: &mut S,
    reach: &Reach,
    (settings, minimum): (&Settings, u32),
    ledger: &mut Ledger,
) -> Result<(), Error> {
    if settings.ignores_shortfall() || reach.planned.is_none_or(|planned| planned >= minimum) {
        return Ok(());
    }
    stage.check_reach(reach, minimum, ledger).await
}
