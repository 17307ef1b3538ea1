//! The server of a night: its table of locks and its pool of workers, and nothing about jobs.
//!
//! It keeps its promises (a lock has one holder, a session that ends gives its locks back, no more workers
//! than the pool has) unless a [`Defect`] is put in. Whether they are kept is not for it to say: the
//! [`audit`](super::audit) has books of its own.

use super::night::Defect;

pub struct Server {
    defect: Option<Defect>,
    /// The locks 1 to N, and the session that holds each: the number of its job.
    locks: Vec<Option<usize>>,
    held: u32,
    used: u32,
}

impl Server {
    pub fn new(pool: u32, defect: Option<Defect>) -> Self {
        Self { defect, locks: vec![None; pool as usize], held: 0, used: 0 }
    }

    pub const fn size(&self) -> u32 {
        self.locks.len() as u32
    }

    /// Locks that are held, as a look at `pg_locks` counts them.
    pub fn held(&self) -> u32 {
        if self.defect == Some(Defect::LocksAreShared) { 0 } else { self.held }
    }

    /// Locks that this session holds.
    pub fn held_by(&self, session: usize) -> u32 {
        if self.held == 0 {
            return 0;
        }
        self.locks.iter().filter(|&&holder| holder == Some(session)).count() as u32
    }

    /// Takes so many locks for a session, or none.
    pub fn take(&mut self, session: usize, demand: u32) -> bool {
        if self.defect == Some(Defect::LocksAreShared) {
            self.locks.iter_mut().take(demand as usize).for_each(|lock| *lock = Some(session));
            self.held = self.locks.iter().flatten().count() as u32;
            return true;
        }
        let free: Vec<usize> =
            (0..self.locks.len()).filter(|&lock| self.locks[lock].is_none()).take(demand as usize).collect();
        let enough = free.len() == demand as usize;
        if enough {
            free.iter().for_each(|&lock| self.locks[lock] = Some(session));
            self.held += demand;
        }
        enough
    }

    /// A session ends in good order.
    pub fn close(&mut self, session: usize) {
        for lock in self.locks.iter_mut().filter(|lock| **lock == Some(session)) {
            *lock = None;
            self.held = self.held.saturating_sub(1);
        }
    }

    /// A session's client died.
    pub fn cut(&mut self, session: usize) {
        if self.defect != Some(Defect::LocksOutliveTheirClient) {
            self.close(session);
        }
    }

    /// Parallel workers that run.
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// Starts as many of the workers asked for as the pool has left; returns how many.
    pub fn launch(&mut self, asked: u32) -> u32 {
        let room = match self.defect {
            Some(Defect::PoolIsOverbooked) => asked,
            _ => self.size().saturating_sub(self.used),
        };
        let started = asked.min(room);
        self.used += started;
        started
    }

    /// Workers end.
    pub const fn exit(&mut self, workers: u32) {
        self.used -= workers;
    }
}
