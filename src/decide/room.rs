//! The room for workers around a launch: slots of the pool and processes of the server that are free.
//!
//! Room that is seen is an upper bound: workers without a database are not in `pg_stat_activity`, and the slot of a worker
//! that has gone is free only once the postmaster has noticed.

use std::collections::VecDeque;
use std::time::Duration;

use super::short_reason::ShortReason;
use super::tick::{Pool, Tick};

/// What one tick shows of the room for workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// The monitor's role does not see it.
    Unseen,
    /// At least one more worker could start.
    Left,
    /// No other worker can start.
    Lacking(ShortReason),
}

impl Room {
    pub(super) fn seen(pool: Option<Pool>, processes: Option<Pool>) -> Self {
        match (pool, processes) {
            (None, _) => Self::Unseen,
            (Some(pool), _) if pool.free() == 0 => Self::Lacking(ShortReason::PoolExhausted),
            (_, Some(processes)) if processes.free() == 0 => Self::Lacking(ShortReason::ProcessesExhausted),
            _ => Self::Left,
        }
    }

    pub(super) const fn lack(self) -> Option<ShortReason> {
        match self {
            Self::Lacking(reason) => Some(reason),
            Self::Unseen | Self::Left => None,
        }
    }
}

/// What a look showed of the room.
#[derive(Debug, Clone, Copy)]
struct Glance {
    at: Duration,
    lack: Option<ShortReason>,
    free: Option<u32>,
    /// The same without the slots of workers that had gone since the looks before: they may not be free yet.
    free_at_least: Option<u32>,
    /// Workers of others.
    others: u32,
}

impl Glance {
    /// How many of the slots that were `free` others have not taken since.
    fn left(&self, free: Option<u32>, tick: &Tick) -> Option<u32> {
        Some(free?.saturating_sub(tick.others().saturating_sub(self.others)))
    }
}

/// The room of the last ticks, as far back as a bracket may reach.
#[derive(Debug, Clone, Default)]
pub(super) struct Lately(VecDeque<Glance>);

impl Lately {
    /// What was free before the statement began.
    pub(super) fn begin(free: Option<u32>) -> Self {
        let glance = Glance { at: Duration::ZERO, lack: None, free, free_at_least: free, others: u32::MAX };
        Self(free.map(|_| glance).into_iter().collect())
    }

    pub(super) fn note(&mut self, tick: &Tick, room: Room, settle: Duration) {
        let (at, free) = (tick.at, tick.free());
        let earlier = self.0.iter().filter_map(|glance| glance.left(glance.free, tick)).min();
        let free_at_least = free.map(|free| earlier.map_or(free, |earlier| earlier.min(free)));
        self.0.push_back(Glance { at, lack: room.lack(), free, free_at_least, others: tick.others() });
        // Two at least: what has changed between looks that are far apart may have changed together.
        while self.0.len() > 2 && self.0.front().is_some_and(|glance| at.saturating_sub(glance.at) > settle) {
            self.0.pop_front();
        }
    }

    /// The fewest slots that were free at a look.
    pub(super) fn least_free(&self) -> Option<u32> {
        self.0.iter().filter_map(|glance| glance.free_at_least).min()
    }

    /// The fewest slots that were free at a look, and that others have not taken since.
    pub(super) fn least_left(&self, tick: &Tick) -> Option<u32> {
        self.0.iter().filter_map(|glance| glance.left(glance.free_at_least, tick)).min()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What was lacking at a look no longer than `settle` before the last one.
    pub(super) fn lack(&self, settle: Duration) -> Option<ShortReason> {
        let last = self.last()?;
        self.0.iter().filter(|glance| last.saturating_sub(glance.at) <= settle).find_map(|glance| glance.lack)
    }

    pub(super) fn last(&self) -> Option<Duration> {
        self.0.back().map(|glance| glance.at)
    }
}
