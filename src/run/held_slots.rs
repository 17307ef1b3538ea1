//! The slots that are held for an execution's statement until it has its workers, and how much higher its session's ceiling
//! is for that.

use std::sync::Arc;
use std::time::Duration;

use super::gatherer::{Gathered, Gatherer, Wish};
use super::headcount::Inner;
use crate::decide::gathering::{GatheringEnd, HandOver};
use crate::error::Error;
use crate::settings::Settings;

/// None, before some are asked for.
#[derive(Default)]
pub(super) struct HeldSlots {
    gatherer: Option<Gatherer>,
    /// By how many workers the session's ceiling is higher, since as many slots are held while it starts.
    pub(super) beyond: u32,
}

impl HeldSlots {
    /// Gathers for this attempt.
    pub(super) async fn gather(
        &mut self,
        inner: &Arc<Inner>,
        settings: &Arc<Settings>,
        wish: Wish,
        limit: Duration,
    ) -> Result<Gathered, Error> {
        let gatherer = self.gatherer.get_or_insert_with(|| Gatherer::new(inner.clone(), settings.clone()));
        let end = gatherer.gather(wish, limit).await?;
        self.beyond = match end {
            Gathered::Held(slots, HandOver::WhileHeld) => slots,
            _ => 0,
        };
        Ok(end)
    }

    /// Gives back what is held; the ceiling is as it was.
    pub(super) async fn let_go(&mut self) {
        self.beyond = 0;
        if let Some(gatherer) = &mut self.gatherer {
            gatherer.let_go(GatheringEnd::Interrupted).await;
        }
    }

    /// The statement is about to start.
    pub(super) async fn make_way(&mut self) {
        if let Some(gatherer) = &mut self.gatherer {
            gatherer.make_way().await;
        }
    }

    /// The statement has its workers, or has ended.
    pub(super) fn give_way(&self) {
        self.gatherer.iter().for_each(Gatherer::give_way);
    }
}
