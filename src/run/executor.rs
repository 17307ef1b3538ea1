//! What the driver needs of the world, as one trait.
//!
//! The driver decides nothing about PostgreSQL and knows no client: it plays attempts on an executor.
//! [`OwnedSession`](super::owned_session::OwnedSession) is the real one; driver tests bring a scripted one and paused time.

use std::ops::Range;
use std::time::Duration;

use tracing::Span;

use super::committing::Committing;
use super::gatherer::{Gathered, Wish};
use super::monitor::Watch;
use super::recorder::ExecutionRecorder;
use super::slots::Slots;
use crate::decide::counters::LaunchCounters;
use crate::decide::reservation::PlanWorkers;
use crate::decide::script::StatementCapacity;
use crate::decide::verdict::Pool;
use crate::error::Error;
use crate::event::{CancelMethod, CancelResult, Resolution};
use crate::pg::Failure;
use crate::pg::session::Identity;

/// What the plan and the server allow, learned before the first attempt.
#[derive(Debug, Clone, Default)]
pub(crate) struct PlanCapacity {
    /// What is known of each statement; empty when there was nothing to inspect.
    pub(crate) statements: Vec<StatementCapacity>,
    /// The most workers the plan can have at once, in the pool as it was.
    pub(crate) planned: Option<u32>,
    /// The same in any pool; `None`, too, where a function is known to run queries that the plan does not show.
    pub(crate) asked: Option<u32>,
    /// Gathers of one statement that may have workers at once.
    pub(crate) gathers: u32,
    /// The pool's size as the leader's session was configured then.
    pub(crate) pool_size: Option<u32>,
    /// The same where it hides the server's: a setting of the session, its role or its database. Asked only for
    /// who takes slots.
    pub(crate) own_pool: Option<u32>,
    /// Whether the monitor's session was configured otherwise: one of them has a size of its own.
    pub(crate) apart: bool,
    /// Whether the session has raised its ceiling: it leaves some processes to others.
    pub(crate) raised: bool,
    /// Whether slots are gathered where there is too little room.
    pub(crate) gathers_slots: bool,
}

/// What bounds a session's workers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stand {
    /// The size of the pool as the session has it.
    pub(crate) pool_size: u32,
    /// Whether the monitor's session has another.
    pub(crate) apart: bool,
    /// Whether it has raised it.
    pub(crate) raised: bool,
    /// Whether slots are gathered where there is too little room.
    pub(crate) gathers: bool,
}

impl PlanCapacity {
    /// The pool as the leader's session has it. That is what the monitor sees now, since a reload may change it
    /// while we run; unless their sessions are configured apart, by SET or for a role.
    pub(crate) fn resize(&self, pool: Pool) -> Pool {
        let own = self.pool_size.filter(|_| self.apart);
        Pool { size: own.unwrap_or(pool.size), ..pool }
    }

    /// The same while a statement runs: those ahead of it may have set another size.
    pub(crate) fn resize_for(&self, statement: &StatementCapacity, pool: Pool) -> Pool {
        match statement.pool_size {
            Some(size) if Some(size) != self.pool_size => Pool { size, ..pool },
            _ => self.resize(pool),
        }
    }

    /// The same of a session whose ceiling is higher by as many slots as are held for it.
    pub(crate) fn with_held(&self, slots: u32) -> Self {
        if slots == 0 {
            return self.clone();
        }
        let raise = |size: Option<u32>| size.map(|size| size.saturating_add(slots));
        let statement = |known: &StatementCapacity| StatementCapacity {
            pool_size: raise(known.pool_size),
            ..known.clone()
        };
        Self {
            statements: self.statements.iter().map(statement).collect(),
            pool_size: raise(self.pool_size),
            apart: true,
            ..self.clone()
        }
    }

    /// The slots to gather for an attempt that requires so many workers: one launch takes what it finds, several that may
    /// run at once leave each other what is beyond.
    pub(crate) fn to_gather(&self, required: u32) -> u32 {
        if self.gathers > 1 { self.at_once(required) } else { required }
    }

    /// The workers to have room for before an attempt that requires so many: those that the plan may have at once.
    pub(crate) fn at_once(&self, required: u32) -> u32 {
        if required == 0 { 0 } else { self.planned.map_or(required, |planned| planned.max(required)) }
    }

    /// Whether a statement that reads tables is known not to be able to have so many workers.
    pub(crate) fn is_short_of(&self, target: u32) -> bool {
        self.statements.iter().any(|known| known.is_short_of(target))
    }

    /// What is known of the statement at that place.
    pub(crate) fn statement(&self, place: usize) -> StatementCapacity {
        self.statements.get(place).cloned().unwrap_or_default()
    }

    /// Whether a launch asks for more workers than its session's pool has: all of its plan, or, where launches are not
    /// known, if the target had to be lowered (`is_lowered`).
    pub(crate) fn asks_beyond_pool(&self, is_lowered: bool) -> bool {
        let most = self.pool_size.unwrap_or(u32::MAX);
        let asks_beyond = |known: &StatementCapacity| match &known.planned {
            Some(launches) => launches.iter().any(|launch| launch.workers > most),
            None => is_lowered,
        };
        if self.statements.is_empty() { is_lowered } else { self.statements.iter().any(asks_beyond) }
    }

    /// What a statement may start at once, which is what must be reserved.
    pub(crate) const fn plan_workers(&self) -> PlanWorkers {
        PlanWorkers { workers: self.asked, gathers: self.gathers, own_pool: self.own_pool }
    }

    /// The most workers that any attempt can have; `None` when there is no bound to know of.
    pub(crate) fn most(&self) -> Option<u32> {
        match (self.planned, self.pool_size) {
            (Some(planned), Some(size)) => Some(planned.min(size)),
            (planned, size) => planned.or(size),
        }
    }
}

/// How a commit can go wrong.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// It did not take effect.
    Failed(Failure),
    /// It was sent and its answer was lost.
    InDoubt { xid: String, cause: Failure },
}

/// What clearing away came to.
#[derive(Debug)]
pub(crate) struct Cleared {
    /// The cleanup's end; of none, that of nothing to do.
    pub(crate) cleanup: Result<(), Failure>,
    /// Processes that neither a cancel nor its own end had stopped in time; `None` where nobody could look.
    pub(crate) left: Option<u32>,
}

impl Cleared {
    /// There was nothing to clear away.
    pub(crate) const NOTHING: Self = Self { cleanup: Ok(()), left: Some(0) };
}

/// A place where attempts are played. All of it is cancel-safe by [`Executor::clear_away`].
pub(crate) trait Executor {
    /// What the statement returns.
    type Value;

    /// Where its slots of the pool are from.
    type Slots: Slots;

    /// Whether the value is handed over at the verdict, unfinished: rows that stream.
    const HANDS_OVER: bool = false;

    /// The span of an attempt; child of the current one.
    fn span(&self, attempt: u32) -> Span;

    /// Connects to who watches the leader. A server that has no session to give, or is still starting, is asked again.
    async fn connect(&mut self, _recorder: &mut ExecutionRecorder) -> Result<(), Error> {
        Ok(())
    }

    /// Checks versions and rights and inspects the plan. Nothing is executed.
    async fn inspect(&mut self, recorder: &mut ExecutionRecorder) -> Result<PlanCapacity, Error>;

    /// Refuses, with reasons and fixes, when it is proven that no attempt can have `required` workers.
    async fn check_capacity(
        &mut self,
        capacity: &PlanCapacity,
        required: u32,
        recorder: &mut ExecutionRecorder,
    ) -> Result<(), Error>;

    /// The slots that the statement runs on.
    fn slots(&mut self) -> &mut Self::Slots;

    /// A session, ready for the statement; connects anew if the old one is gone. Returns its backend. The
    /// session says which attempt it is.
    async fn begin(&mut self, attempt: u32) -> Result<Identity, Failure>;

    /// Statements that an attempt runs one after the other, or one closure.
    fn steps(&self) -> usize {
        1
    }

    /// Runs these statements, or the caller's closure.
    async fn work(&self, steps: Range<usize>) -> Result<Self::Value, Failure>;

    /// What is known of a statement now that those ahead of it have run.
    async fn inspect_step(&mut self, _step: usize) -> Result<StatementCapacity, Failure> {
        Ok(StatementCapacity::default())
    }

    /// Whether a rejected statement can be run again alone, while what ran before it stays. Not with a cleanup, which
    /// might wait for the locks of what stays.
    fn keeps_steps(&self) -> bool {
        false
    }

    /// Whether its last COMMIT was to wait for a synchronous standby.
    fn waits_for_standbys(&self) -> bool {
        false
    }

    /// Whether a point before that statement is still there after it: not where it goes back to an earlier one.
    fn outlives(&self, _step: usize) -> bool {
        true
    }

    /// Makes a point to come back to, where a statement is to be judged.
    async fn mark(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// The statement is done: there is nothing to come back to.
    async fn unmark(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Goes back to before the statement, and waits until its workers are gone; `None` where that is not possible, and
    /// all of the attempt has to be abandoned. Returns how many workers are left.
    async fn rewind(&mut self, _grace: Duration) -> Option<u32> {
        None
    }

    /// Goes on after [`Executor::rewind`], as that attempt, before that statement.
    async fn resume(&mut self, attempt: u32, _step: usize) -> Result<Identity, Failure> {
        self.begin(attempt).await
    }

    /// Whether the statement is known to have reached the server: [`Executor::hand_over`] has a value.
    fn has_started(&self) -> bool {
        false
    }

    /// Gathers slots of a busy pool for so many workers, or after a while for so many fewer, at most for that long.
    async fn gather(&mut self, _wish: Wish, _limit: Duration) -> Result<Gathered, Error> {
        Ok(Gathered::TimedOut)
    }

    /// Nothing that was gathered is of use any more.
    async fn ungather(&mut self) {}

    /// A judged statement is about to start: slots that have to be given back before it are.
    async fn make_way(&mut self) {}

    /// What was gathered is no longer needed: the workers are there, or the statement has ended.
    fn give_way(&self) {}

    /// The verdict allows [`Executor::work`] to return as soon as it has something to hand over. Only where
    /// [`Executor::HANDS_OVER`].
    fn allow_hand_over(&self) {}

    /// The monitor saw the leader in a statement that began then, or after it.
    fn saw(&self, _statement: Option<i64>) {}

    /// Watches the leader.
    fn watch(&self, interval: Duration) -> Watch;

    /// Watches the pool.
    fn watch_pool(&self, interval: Duration) -> Watch;

    /// What the server has counted of parallel workers by now; `None` where it does not count, or cannot be asked.
    /// `flush`: the statement has ended and was committed, and what it counted is to be among it.
    async fn launch_counters(&self, _flush: bool) -> Option<LaunchCounters> {
        None
    }

    /// Whether the leader's backend runs statements of another client: a request to stop it names the one that the
    /// monitor [saw](Executor::saw).
    const SHARES_BACKEND: bool = false;

    /// Asks the server to stop the leader, and awaits the answer.
    async fn stop(&self, method: CancelMethod) -> CancelResult;

    /// Commits; an answer that is late is a lost one. Returns whether nobody cancelled its wait for a synchronous standby.
    async fn commit(&mut self, committing: &Committing) -> Result<bool, CommitError>;

    /// Learns the fate of a commit in doubt.
    async fn resolve(&mut self, xid: &str) -> Resolution;

    /// Rolls back, stops what still runs if the session was lost, and waits until the leader's
    /// workers are gone, at most `grace`. Returns how many are left.
    async fn abandon(&mut self, grace: Duration) -> u32;

    /// Runs the cleanup action in a transaction of its own; `None` when there is none.
    async fn cleanup(&mut self) -> Option<Result<(), Failure>>;

    /// Whether there is a cleanup action.
    fn cleans_up(&self) -> bool;

    /// Stops whatever is under way, in any state: cancel, roll back, drain, clean up.
    async fn clear_away(&mut self) -> Cleared;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_asks_for_more_than_the_pool_by_its_plan_or_where_the_target_was_lowered() {
        let of = |planned: Option<&[u32]>, is_lowered| {
            let planned = planned.map(|launches| launches.iter().copied().map(Into::into).collect());
            let statements = vec![StatementCapacity { planned, ..StatementCapacity::default() }];
            let capacity = PlanCapacity { statements, pool_size: Some(3), ..PlanCapacity::default() };
            capacity.asks_beyond_pool(is_lowered)
        };
        assert!(of(Some(&[2, 4]), false) && of(None, true));
        assert!(!of(Some(&[2, 3]), true) && !of(None, false));
        assert!(PlanCapacity::default().asks_beyond_pool(true), "nothing was inspected");
    }
}
