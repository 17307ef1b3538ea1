//! Slots of the pool: waited for in the fleet's queue, held by a lease, given back when the workers are gone.

mod lease;
mod lingering;
mod queue;

pub(crate) use lease::{Lease, is_pooled, refuse_pooled, slot_session};
pub(crate) use lingering::LingeringBackend;
pub(crate) use queue::Grant;

use super::recorder::ExecutionRecorder;
use crate::decide::reservation::PlanWorkers;
use crate::error::Error;

/// What an execution wants slots for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) plan: PlanWorkers,
    pub(crate) target: u32,
}

impl Wanted {
    fn demand(&self) -> u32 {
        self.plan.demand(self.target)
    }
}

/// What the driver asks of slots: those of a [`Lease`], or a test's.
pub(crate) trait Slots {
    /// Takes slots, unless they are held already; `None` when none are asked for.
    async fn reserve(
        &mut self,
        wanted: Wanted,
        recorder: &mut ExecutionRecorder,
    ) -> Result<Option<Grant>, Error>;

    /// Whether the slots that were taken are no longer held.
    fn are_lost(&self) -> bool;

    /// Gives fewer slots than all back, and wants all or none from now on, for what is left of the wait; `false` when
    /// nothing is left, or it was so already.
    fn insist(&mut self) -> bool;

    /// Lets each Gather ask for no more than `share` of the slots that are held, from now on.
    fn narrow(&mut self, share: u32);
}
