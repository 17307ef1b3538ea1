//! What one look of the monitor shows.

use std::time::Duration;

/// The leader as one tick saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaderState {
    /// It runs a statement.
    Active,
    /// It runs a statement that waits for a lock (`wait_event_type = 'Lock'`).
    WaitingForLock,
    /// It runs no statement: the statement has not arrived yet, has ended, or a closure pauses.
    Idle,
    /// No backend has that pid and start time.
    Gone,
}

/// The server's pool of parallel workers: `least(max_parallel_workers, max_worker_processes)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Pool {
    /// Parallel workers running now, of everybody, ours included.
    pub used: u32,
    /// Slots in all.
    pub size: u32,
}

impl Pool {
    /// Slots that nobody uses.
    #[must_use]
    pub const fn free(self) -> u32 {
        self.size.saturating_sub(self.used)
    }

    /// Whether a leader that has `own` workers already could have `required`.
    #[must_use]
    pub const fn has_room_for(self, required: u32, own: u32) -> bool {
        self.free() + own >= required
    }
}

/// One sample of the monitor for one leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Since the attempt began.
    pub at: Duration,
    /// Parallel workers whose `leader_pid` is the leader.
    pub workers: u32,
    /// The leader's own state.
    pub leader: LeaderState,
    /// The pool as the leader's session is configured, if the monitor's role may see it.
    pub pool: Option<Pool>,
    /// The processes that a worker needs one of (`max_worker_processes`), as far as they are seen: those that
    /// serve no database are not. `None` with the pool.
    pub processes: Option<Pool>,
}

impl Tick {
    /// Workers that could still start, if that is seen.
    #[must_use]
    pub fn free(&self) -> Option<u32> {
        free(self.pool, self.processes)
    }

    /// Workers of others in the pool; none where it is not seen.
    #[must_use]
    pub fn others(&self) -> u32 {
        self.pool.map_or(0, |pool| pool.used.saturating_sub(self.workers))
    }
}

/// Workers that a pool and the processes of its server leave room for, if that is seen.
#[must_use]
pub fn free(pool: Option<Pool>, processes: Option<Pool>) -> Option<u32> {
    let pool = pool?.free();
    Some(processes.map_or(pool, |processes| processes.free().min(pool)))
}
