//! Claims: chunks whose rows are had in the transaction that changes them.
//!
//! An empty claim is no proof that nothing is left: others may hold rows that they will give back. So one *looks* whether a
//! row is locked, and if so *waits* for it. Only a look without locks that sees no row proves it, made while none of this
//! process is at work, and once what others have done lasts.
//!
//! A row that this process has counted can be claimed once more when another server has taken over, and lacks the commit.
//! So nobody claims before what was counted is looked after: either that count is taken back first, or the row is somebody
//! else's again.

use std::time::Duration;

use super::super::action::{Action, Ask, Opening, Reason};
use super::super::chunk::Chunk;
use super::super::gather::Gathered;
use super::super::material::{Failed, Material};
use super::{Phase, Turn, Worker};

/// Between two looks where others are at work, or have just been.
const PAUSE: Duration = Duration::from_millis(50);
/// Looks in a row, with a pause after each, at one row that nobody has locked and nobody can lock.
const STUCK: u32 = 40;
/// Claims in a row that may fail for a reason that passes, before any row was had.
const CLAIMS: u32 = 100;
/// Somebody has the row (`lock_not_available`), or had it for too long (`query_canceled`).
const BUSY: [&str; 2] = ["55P03", "57014"];

/// What the next claim asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// What is free.
    Free,
    /// Nothing was free: whether somebody has something.
    Unlocked,
    /// Somebody had: to wait for it.
    WaitedFor,
}

pub(super) struct Hunt<K> {
    wanted: Wanted,
    /// A row that is left and cannot be claimed, and how often it was met.
    stuck: Option<K>,
    met: u32,
    failures: u32,
    rests_until: Option<Duration>,
}

impl<K> Hunt<K> {
    pub(super) const fn new() -> Self {
        Self { wanted: Wanted::Free, stuck: None, met: 0, failures: 0, rests_until: None }
    }

    /// Whether nobody else should be kept waiting meanwhile.
    pub(super) fn may_wait(&self) -> bool {
        self.wanted != Wanted::Free
    }

    pub(super) const fn rests_until(&self) -> Option<Duration> {
        self.rests_until
    }
}

impl<M: Material> Worker<'_, M> {
    /// Whether a pause between claims lasts.
    pub(super) fn is_resting(&mut self, now: Duration) -> bool {
        let closed = self.is_closed;
        self.hunt.rests_until = self.hunt.rests_until.filter(|until| *until > now && !closed);
        self.hunt.rests_until.is_some()
    }

    /// Commits the open chunk and claims the next, in one round trip; works on it in a second.
    pub(super) fn claim(&mut self, turn: &mut Turn<'_, M>) -> bool {
        let Some(claims) = &turn.shared.claims else { return false };
        if !turn.shared.past.is_settled() {
            // Another worker asks.
            self.hunt.rests_until = Some(turn.moment.now + PAUSE);
            return self.is_unsettled() && self.settle();
        }
        let others = claims.left_out();
        let ask = match self.hunt.wanted {
            Wanted::Free => Ask::Free(self.sizer.next(), others),
            Wanted::Unlocked => Ask::Unlocked(others),
            Wanted::WaitedFor => Ask::WaitedFor(others),
        };
        self.claim_these(ask, turn)
    }

    /// The same for a chunk that was claimed before, and whose rows are free since its transaction ended. What others
    /// have done is theirs.
    pub(super) fn claim_again(&mut self, mut chunk: Box<Chunk<M>>, turn: &Turn<'_, M>) -> bool {
        chunk.begin(turn.moment.now);
        self.claim_these(Ask::Again(chunk), turn)
    }

    fn claim_these(&mut self, ask: Ask<M>, turn: &Turn<'_, M>) -> bool {
        self.commit_open();
        self.phase = Phase::Claiming(turn.moment.now);
        self.send(Action::Claim(ask));
        true
    }

    pub(super) fn on_claimed(
        &mut self,
        chunk: Option<Box<Chunk<M>>>,
        rows: Result<Vec<M::Item>, M::Failure>,
        since: Duration,
        turn: &mut Turn<'_, M>,
    ) {
        // There is no transaction for them: the COMMIT before was refused, or the wait was broken off.
        let is_void = std::mem::take(&mut self.last_commit).is_refused;
        if is_void || (self.is_closed && !self.link.is_up()) {
            if let Some(chunk) = chunk {
                self.take_back(chunk, false);
            }
            self.must_roll_back |= is_void;
            return;
        }
        let lost = || M::Failure::lost("the session was lost with the claim");
        let rows = if self.link.is_up() { rows } else { rows.and_then(|_| Err(lost())) };
        match (chunk, rows) {
            (None, Ok(rows)) => self.on_new_rows(rows, since, turn),
            (None, Err(failure)) => self.on_no_rows(&failure, turn),
            (Some(chunk), Ok(rows)) => self.on_old_rows(chunk, rows, turn),
            (Some(chunk), Err(failure)) => {
                self.must_roll_back |= self.link.is_up();
                self.fail(chunk, failure, turn);
            }
        }
    }

    fn on_new_rows(&mut self, mut items: Vec<M::Item>, since: Duration, turn: &mut Turn<'_, M>) {
        self.hunt.failures = 0;
        if !turn.shared.past.is_settled() {
            self.must_roll_back = true;
            return;
        }
        if let Some(claims) = &mut turn.shared.claims {
            let mut keys = self.material.keys(&items).into_iter();
            items.retain(|_| keys.next().is_some_and(|key| claims.take_on(&key)));
        }
        if items.is_empty() {
            self.must_roll_back = true;
            match self.hunt.wanted {
                Wanted::Free => self.hunt.wanted = Wanted::Unlocked,
                Wanted::WaitedFor => self.hunt.wanted = Wanted::Free,
                Wanted::Unlocked => self.look(turn),
            }
            return;
        }
        (self.hunt.stuck, self.hunt.met, self.hunt.wanted) = (None, 0, Wanted::Free);
        let mut chunk = self.chunk(Gathered { items, twins: Vec::new() }, turn);
        chunk.is_claimed = true;
        chunk.begin(since);
        self.work_inside(Box::new(chunk));
    }

    fn on_old_rows(&mut self, mut chunk: Box<Chunk<M>>, items: Vec<M::Item>, turn: &mut Turn<'_, M>) {
        let ours = self.material.keys(&items);
        let mut theirs = self.material.keys(&std::mem::replace(&mut chunk.items, items));
        theirs.retain(|key| !ours.contains(key));
        turn.shared.claims.iter_mut().for_each(|claims| claims.let_go(&theirs));
        if chunk.items.is_empty() {
            self.must_roll_back = true;
        } else {
            self.work_inside(chunk);
        }
    }

    fn work_inside(&mut self, chunk: Box<Chunk<M>>) {
        self.pipeline.send(&chunk, false);
        self.send(Action::SendWork(chunk, Opening::Inside));
    }

    fn on_no_rows(&mut self, failure: &M::Failure, turn: &Turn<'_, M>) {
        let is_busy = failure.sqlstate().is_some_and(|code| BUSY.contains(&code));
        if self.hunt.may_wait() && is_busy {
            let waited = self.hunt.wanted == Wanted::WaitedFor;
            self.hunt.wanted = if waited { Wanted::Free } else { Wanted::WaitedFor };
            self.must_roll_back = true;
        } else {
            self.claim_failed(failure, turn);
        }
    }

    /// A look met neither a row nor a lock. Nothing is left if nobody of us is at work and no row is to be seen.
    fn look(&mut self, turn: &Turn<'_, M>) {
        self.hunt.wanted = Wanted::Free;
        let Some(claims) = &turn.shared.claims else { return };
        self.phase = Phase::Looking(claims.is_anybody_at_work());
        self.must_roll_back = false;
        self.send(Action::RollBack);
        self.send(Action::Look(claims.given_up()));
    }

    pub(super) fn on_left(
        &mut self,
        left: Result<Option<M::Key>, M::Failure>,
        at_work: bool,
        turn: &mut Turn<'_, M>,
    ) {
        if self.is_closed && !self.link.is_up() {
            return;
        }
        let lost = || M::Failure::lost("the session was lost with the look");
        match if self.link.is_up() { left } else { left.and_then(|_| Err(lost())) } {
            // What was found done may be another's, and not yet on the disk.
            Ok(None) if !at_work => self.flush_at_end(turn),
            Ok(left) => {
                let again = left.is_some() && left == self.hunt.stuck;
                self.hunt.met = if again && !at_work { self.hunt.met + 1 } else { 0 };
                self.hunt.stuck = left;
                if let (Some(key), STUCK..) = (&self.hunt.stuck, self.hunt.met) {
                    self.stop(Reason::Stuck(key.clone()));
                }
                self.hunt.rests_until = Some(turn.moment.now + PAUSE);
            }
            Err(failure) => self.claim_failed(&failure, turn),
        }
    }

    /// No rows were had, so there is nothing to report but the failure itself.
    fn claim_failed(&mut self, failure: &M::Failure, turn: &Turn<'_, M>) {
        self.hunt.failures += 1;
        if failure.is_lost() {
            self.lose(failure);
        } else {
            self.must_roll_back = true;
        }
        // Nothing was had, so nothing is lost by another try.
        let tries = if failure.is_lost() { self.settings.max_attempts } else { CLAIMS };
        if failure.may_pass() && self.hunt.failures < tries {
            let pause = self.settings.retry.delay(self.hunt.failures, turn.moment.draw);
            self.hunt.rests_until = Some(turn.moment.now + pause);
        } else {
            self.stop(Reason::Claiming(failure.clone()));
        }
    }
}
