//! What a worker does next, seen from what it holds and what has been answered.

use super::super::action::{Action, Opening};
use super::super::chunk::Chunk;
use super::super::link::{Need, Stop};
use super::super::material::{Failed, Material};
use super::super::queue::Next;
use super::{Phase, Reply, Supply, Turn, Worker};

impl<M: Material> Worker<'_, M> {
    /// Does one thing. `false` when nothing is to be done before another fact.
    pub(super) fn step(&mut self, turn: &mut Turn<'_, M>) -> bool {
        if self.is_over {
            return false;
        }
        if turn.moment.is_cut && !self.link.is_waiting() {
            self.lose(&M::Failure::lost("the connection was closed"));
        }
        self.mind_the_stop(turn);
        let life = self.link.life();
        if let Some(ended) = life.and_then(|life| self.pipeline.next_ended(&life, turn.moment.now)) {
            self.on_ended(ended, turn);
            return true;
        }
        if !self.pipeline.is_committing()
            && let Some(reply) = self.reply.take()
        {
            self.on_reply(reply, turn);
            return true;
        }
        if self.link.is_down() && self.is_needless(turn) {
            self.leave_off(None, turn);
            return false;
        }
        match self.link.need(turn.moment.now, self.settings.reconnect_wait, self.end()) {
            Need::Work if self.link.is_waiting() => self.use_the_wait(turn),
            Need::Work => self.next_move(turn),
            Need::Wait => false,
            need => self.tend(need, turn),
        }
    }

    fn on_reply(&mut self, reply: Reply<M>, turn: &mut Turn<'_, M>) {
        let phase = std::mem::replace(&mut self.phase, Phase::None);
        match (reply, phase) {
            (Reply::Flushed(flushed), Phase::Flushing { at_end }) => self.on_flushed(flushed, at_end, turn),
            (Reply::Fates(fates), Phase::Resolving(doubts)) => self.on_fates(fates, doubts, turn),
            (Reply::Fates(fates), Phase::Checking(counted)) => {
                self.on_fates_of_counted(fates, counted, turn);
            }
            (Reply::Claimed(chunk, rows), Phase::Claiming(since)) => {
                self.on_claimed(chunk, rows, since, turn);
            }
            (Reply::Left(left), Phase::Looking(at_work)) => self.on_left(left, at_work, turn),
            (_, phase) => {
                debug_assert!(false, "an answer that nobody waits for");
                self.phase = phase;
            }
        }
    }

    /// The caller's word, and the run's: what waits for locks need not be waited for.
    fn mind_the_stop(&mut self, turn: &Turn<'_, M>) {
        let waits_for_rows =
            matches!(self.phase, Phase::Claiming(_) | Phase::Looking(_)) && self.reply.is_none();
        if self.is_closed && waits_for_rows && !self.pipeline.is_committing() && self.link.leave() {
            self.send(Action::BreakOff);
        }
        let Some(since) = self.halted else { return };
        let is_bound = matches!(self.phase, Phase::Flushing { .. }) || self.pipeline.is_committing_for_long();
        match self.link.stop(turn.moment.now, since, self.settings.cancel_grace, is_bound) {
            Stop::Nothing => {}
            Stop::Cancel => self.messages.push_back(Action::Cancel),
            Stop::Abandon => self.messages.push_back(Action::Abandon),
            Stop::TakeBack => {
                if let Some(chunk) = self.pipeline.take_open() {
                    self.take_back(chunk, true);
                }
            }
            Stop::Leave => {
                self.link.leave();
            }
        }
    }

    /// The server works. The next chunk is put together meanwhile, and sent where it need not wait for an answer.
    fn use_the_wait(&mut self, turn: &mut Turn<'_, M>) -> bool {
        if !matches!(self.phase, Phase::None)
            || self.must_roll_back
            || self.is_closed
            || self.queue.has_again()
        {
            return false;
        }
        if self.queue.has_fresh() {
            let is_free = self.pipeline.may_commit_ahead() && !self.held.is_due(turn.moment.now);
            return is_free
                && self.goes_ahead()
                && self.queue.take_fresh().is_some_and(|chunk| self.work(chunk, turn));
        }
        if self.supply == Supply::Unasked && turn.shared.claims.is_none() && !self.pipeline.is_empty() {
            self.ask_source(false);
        }
        false
    }

    /// Nothing is on its way, but for one chunk that is open.
    fn next_move(&mut self, turn: &mut Turn<'_, M>) -> bool {
        if self.must_roll_back {
            self.must_roll_back = false;
            self.send(Action::RollBack);
            return true;
        }
        if self.look_after_commits(turn) {
            return true;
        }
        let now = turn.moment.now;
        if self.resolver.again.is_some() || self.is_resting(now) {
            return false;
        }
        if self.held.is_due(now) {
            return self.settle();
        }
        match self.queue.next(self.is_closed, now) {
            Next::Now(chunk) if chunk.is_to_be_claimed() => self.claim_again(chunk, turn),
            Next::Now(chunk) => self.work(chunk, turn),
            // No transaction stays open through a pause.
            Next::Later => self.is_unsettled() && self.settle(),
            Next::Nothing if self.is_closed => self.settle_or_leave(turn),
            Next::Nothing => self.ask_for_more(turn),
        }
    }

    fn ask_for_more(&mut self, turn: &mut Turn<'_, M>) -> bool {
        let supply = std::mem::replace(&mut self.supply, Supply::Unasked);
        match supply {
            Supply::Peeking | Supply::Waiting => {
                self.supply = supply;
                false
            }
            Supply::Unasked | Supply::Looked => {
                self.ask_source(!self.is_unsettled());
                false
            }
            // Whoever holds rows locked, or has something to report, does not wait for keys.
            Supply::Dry if self.is_unsettled() => self.settle(),
            Supply::Dry => {
                self.ask_source(true);
                false
            }
            Supply::Claim if self.hunt.may_wait() && self.is_unsettled() => self.settle(),
            Supply::Claim => self.claim(turn),
            Supply::End => self.settle_or_leave(turn),
        }
    }

    fn ask_source(&mut self, wait: bool) {
        self.supply = if wait { Supply::Waiting } else { Supply::Peeking };
        self.messages.push_back(Action::Feed { size: self.sizer.next(), wait });
    }

    /// Whether something is to be committed, or to be flushed.
    pub(super) fn is_unsettled(&self) -> bool {
        self.pipeline.is_open() || !self.held.is_empty()
    }

    fn settle_or_leave(&mut self, turn: &mut Turn<'_, M>) -> bool {
        if self.is_unsettled() {
            return self.settle();
        }
        self.leave_off(None, turn);
        false
    }

    /// Commits the open chunk, if any, and makes all that was committed last, in one round trip.
    pub(super) fn settle(&mut self) -> bool {
        self.commit_open();
        if !self.held.is_empty() || self.is_lazy() {
            self.flush(false);
        }
        true
    }

    fn flush(&mut self, at_end: bool) {
        self.phase = Phase::Flushing { at_end };
        self.send(Action::Flush);
    }

    /// Nothing is left to claim. That is so for good once what others have done lasts.
    pub(super) fn flush_at_end(&mut self, turn: &mut Turn<'_, M>) {
        self.last_commit = super::LastCommit::default();
        match (self.link.session(), &mut turn.shared.claims) {
            (Some(session), _) if session.may_mark => self.flush(true),
            // Who may not set a mark can do no more than hope.
            (Some(_), Some(claims)) => claims.are_over(true),
            _ => {}
        }
    }

    /// Sends COMMIT of the last chunk, if there is one to commit.
    pub(super) fn commit_open(&mut self) {
        self.last_commit = super::LastCommit::default();
        let lasting = !self.is_lazy();
        if self.pipeline.commit(lasting) {
            self.send(Action::SendCommit { lasting });
        }
    }

    /// Commits the chunk before, and works on this one.
    fn work(&mut self, mut chunk: Box<Chunk<M>>, turn: &Turn<'_, M>) -> bool {
        // One that was tried before is told apart.
        let is_new = chunk.attempts() == 0 && !chunk.reread && !self.queue.has_again();
        let is_ahead = is_new && self.goes_ahead();
        self.commit_open();
        chunk.begin(turn.moment.now);
        self.pipeline.send(&chunk, is_ahead);
        if is_ahead {
            self.send(Action::SendBegin);
        }
        self.send(Action::SendWork(chunk, if is_ahead { Opening::Whole } else { Opening::Begin }));
        if self.supply == Supply::Looked {
            self.supply = Supply::Unasked;
        }
        true
    }

    /// Whether a new chunk may be sent ahead.
    fn goes_ahead(&self) -> bool {
        let may = self.link.session().is_some_and(|session| session.is_lazy && session.may_go_ahead);
        may && self.gate.is_ahead()
    }

    fn is_lazy(&self) -> bool {
        self.link.session().is_some_and(|session| session.is_lazy)
    }
}
