//! What comes of a chunk's work and of its COMMIT, and what its state says to that.

use super::super::action::{Flush, Reason, Report, Retried};
use super::super::chunk::Chunk;
use super::super::chunk_state::{Fault, Next, NoFlush};
use super::super::fault_scope::fault_scope;
use super::super::gate::PARTED;
use super::super::held::Flushed;
use super::super::material::{CANCELLED, Failed, Material};
use super::super::pipeline::Ended;
use super::super::replay::Replay;
use super::super::resolver::{Resolution, Unresolved};
use super::{Turn, Worker};

impl<M: Material> Worker<'_, M> {
    pub(super) fn on_ended(&mut self, ended: Ended<M>, turn: &mut Turn<'_, M>) {
        match ended {
            Ended::Committed(chunk, committed) => self.on_commit(chunk, committed, turn),
            Ended::Withdrawn(chunk) => self.take_back(chunk, true),
            Ended::Failed { chunk, failure, is_ahead, open } => {
                if is_ahead && failure.sqlstate() == Some(PARTED) {
                    // It is made again the plain way, which tells its keys apart.
                    self.gate.on_parted();
                    self.take_back(chunk, open);
                } else {
                    self.must_roll_back |= open;
                    self.fail(chunk, failure, turn);
                }
                // Of duplicate keys the later line is the last word.
                if self.queue.has_again() || !self.link.is_up() {
                    self.pipeline.withdraw();
                }
            }
        }
    }

    fn on_commit(
        &mut self,
        mut chunk: Box<Chunk<M>>,
        committed: Result<bool, M::Failure>,
        turn: &mut Turn<'_, M>,
    ) {
        match committed {
            Ok(waited) => {
                self.last_commit.is_unwaited = !waited;
                chunk.ended(turn.moment.now);
                let took = chunk.attempt.took.unwrap_or_default();
                self.sizer.on_committed(chunk.items.len() as u32, took);
                turn.shared.streak.on_success();
                match chunk.state.on_committed(waited) {
                    Next::Hold => self.held.push(chunk),
                    _ => self.count(chunk, turn),
                }
            }
            Err(failure) => {
                if !failure.leaves_commit_open() {
                    // A COMMIT that is cancelled before it begins leaves the transaction open.
                    (self.must_roll_back, self.last_commit.is_refused) = (true, true);
                    self.fail(chunk, failure, turn);
                } else if failure.is_lost() {
                    self.fail(chunk, failure, turn);
                } else {
                    self.fail(chunk, M::Failure::lost(&failure.message()), turn);
                }
                self.pipeline.withdraw();
            }
        }
    }

    /// It took effect, and lasts.
    fn count(&mut self, mut chunk: Box<Chunk<M>>, turn: &mut Turn<'_, M>) {
        chunk.ended(turn.moment.now);
        turn.shared.let_go(self.material, &chunk.items);
        self.report(Report::Count(chunk));
    }

    /// It is rolled back, by our own will, or for no fault of its own.
    pub(super) fn take_back(&mut self, mut chunk: Box<Chunk<M>>, is_open: bool) {
        self.must_roll_back |= is_open;
        chunk.withdraw();
        self.queue.put_back(chunk);
    }

    pub(super) fn fail(&mut self, mut chunk: Box<Chunk<M>>, failure: M::Failure, turn: &mut Turn<'_, M>) {
        let mut innocent = self.was_cancelled(&chunk, &failure);
        if failure.is_lost() {
            self.lose(&failure);
            // It was sent behind a COMMIT, and lost with that.
            innocent |= !self.resolver.is_empty();
        }
        if innocent {
            return self.take_back(chunk, false);
        }
        let scope = failure.sqlstate().map_or(self.settings.own_failure, |code| fault_scope(Some(code)));
        let fault = Fault { class: failure.class(), scope };
        let mut next = chunk.state.on_failed(fault, chunk.items.len(), turn.moment.draw);
        if next == Next::GiveUp && !failure.class().is_retryable() && turn.shared.streak.on_given_up(scope) {
            next = Next::Stop;
        }
        self.go_on(chunk, next, failure, turn);
    }

    /// Whether it failed since the run is stopped: it is left then, and has not failed.
    fn was_cancelled(&self, chunk: &Chunk<M>, failure: &M::Failure) -> bool {
        let cancelled = failure.sqlstate() == Some(CANCELLED);
        self.halted.is_some()
            && (cancelled || (failure.is_lost() && !chunk.reread && !chunk.state.is_committing()))
    }

    /// Carries out what the chunk's state says after a failure.
    pub(super) fn go_on(
        &mut self,
        mut chunk: Box<Chunk<M>>,
        next: Next,
        failure: M::Failure,
        turn: &mut Turn<'_, M>,
    ) {
        chunk.ended(turn.moment.now);
        match next {
            Next::Done => self.count(chunk, turn),
            Next::Hold => self.held.push(chunk),
            Next::Ask(_) => {
                self.report(Report::InDoubt(chunk.attempt.scope.clone()));
                self.resolver.add(chunk, failure);
            }
            Next::Retry(pause) => {
                self.retried(&chunk, failure);
                self.sizer.on_retried();
                chunk.due = turn.moment.now + pause;
                chunk.attempt = super::super::chunk::Attempt::default();
                self.keep(chunk, turn);
            }
            Next::Split => {
                self.retried(&chunk, failure);
                chunk.halves(turn.moment.now).into_iter().for_each(|half| self.keep(Box::new(half), turn));
            }
            Next::GiveUp => self.give_up(chunk, failure, turn),
            Next::Unresolved => self.unresolved(chunk, self.forgotten(), failure, turn),
            Next::Stop => {
                self.stop(Reason::Failure(failure.clone()));
                if chunk.reread {
                    self.unresolved(chunk, self.forgotten(), failure, turn);
                } else {
                    self.give_up(chunk, failure, turn);
                }
            }
        }
    }

    fn retried(&mut self, chunk: &Chunk<M>, failure: M::Failure) {
        self.report(Report::Retried(Retried {
            number: chunk.number,
            attempts: chunk.attempts(),
            size: chunk.len(),
            took: chunk.attempt.took.unwrap_or_default(),
            label: self.material.label(&chunk.items, &chunk.twins),
            scope: chunk.attempt.scope.clone(),
            failure,
        }));
    }

    /// Will try a chunk again; nobody else of this process is to claim its rows.
    fn keep(&mut self, chunk: Box<Chunk<M>>, turn: &mut Turn<'_, M>) {
        if let (true, Some(claims)) = (chunk.is_to_be_claimed(), &mut turn.shared.claims) {
            claims.wait(&self.material.keys(&chunk.items));
        }
        self.queue.put_back(chunk);
    }

    /// What to say where no server has said what became of it.
    const fn forgotten(&self) -> Unresolved {
        match self.replay {
            Replay::Safe => Unresolved::Unread,
            Replay::Unsafe => Unresolved::Forgotten,
        }
    }

    /// Nobody knows what became of the chunk, or whether it lasts.
    pub(super) fn unresolved(
        &mut self,
        mut chunk: Box<Chunk<M>>,
        why: Unresolved,
        failure: M::Failure,
        turn: &mut Turn<'_, M>,
    ) {
        chunk.ended(turn.moment.now);
        let resolution = match why {
            Unresolved::Unreplicated => Resolution::Unreplicated,
            _ => Resolution::Unresolved,
        };
        self.report(Report::Resolved(chunk.attempt.scope.clone(), resolution));
        self.given_up(&chunk, turn);
        self.report(Report::Unresolved(chunk, why, failure));
    }

    pub(super) fn give_up(&mut self, mut chunk: Box<Chunk<M>>, failure: M::Failure, turn: &mut Turn<'_, M>) {
        chunk.ended(turn.moment.now);
        self.given_up(&chunk, turn);
        self.report(Report::GaveUp(chunk, failure));
    }

    fn given_up(&mut self, chunk: &Chunk<M>, turn: &mut Turn<'_, M>) {
        if let Some(claims) = &mut turn.shared.claims
            && !claims.give_up(&self.material.keys(&chunk.items))
        {
            self.stop(Reason::GivenUp);
        }
    }

    /// No chunk is begun any more, by any worker.
    pub(super) fn stop(&mut self, reason: Reason<M>) {
        self.is_closed = true;
        self.report(Report::Stopped(reason));
    }

    // --- Flushes ------------------------------------------------------------------------------------------------------

    pub(super) fn on_flushed(
        &mut self,
        flushed: Result<Flush, M::Failure>,
        at_end: bool,
        turn: &mut Turn<'_, M>,
    ) {
        let last = std::mem::take(&mut self.last_commit);
        // After a COMMIT that was refused the mark may have met its transaction; there will be another.
        if last.is_refused && flushed.is_err() {
            return;
        }
        // The warning may be heard after both are answered.
        let flushed = flushed.map(|flush| Flush { waited: flush.waited && !last.is_unwaited, ..flush });
        // Where the session has broken meanwhile, only the loss counts: somebody may break each one over its flush.
        let Some(session) = self.link.last_session().filter(|_| self.link.is_up() || flushed.is_err()) else {
            return;
        };
        match self.held.on_flush(flushed, session, self.settings.max_attempts) {
            Flushed::Lasts => {
                for mut chunk in self.held.take() {
                    chunk.state.on_flushed();
                    self.count(chunk, turn);
                }
                if let (true, Some(claims)) = (at_end, &mut turn.shared.claims) {
                    claims.are_over(true);
                }
            }
            Flushed::Again => {}
            Flushed::Lose(failure) => self.lose(&failure),
            Flushed::Never { why, failure, lose } => {
                if lose {
                    self.lose(&failure);
                }
                self.held.take().into_iter().for_each(|chunk| self.unflushed(chunk, why, &failure, turn));
            }
        }
    }

    /// No flush is to be had of a chunk that is held.
    fn unflushed(
        &mut self,
        mut chunk: Box<Chunk<M>>,
        why: NoFlush,
        failure: &M::Failure,
        turn: &mut Turn<'_, M>,
    ) {
        let next = chunk.state.on_unflushed(why, self.replay, chunk.items.len(), turn.moment.draw);
        if why == NoFlush::Refused {
            self.report(Report::InDoubt(chunk.attempt.scope.clone()));
        }
        let resolution = match next {
            Next::Unresolved => {
                let what = match why {
                    NoFlush::Refused => Unresolved::Unflushed,
                    NoFlush::Unreplicated => Unresolved::Unreplicated,
                };
                return self.unresolved(chunk, what, failure.clone(), turn);
            }
            Next::Done => Resolution::Committed,
            _ => {
                chunk.read_again();
                Resolution::Reread
            }
        };
        self.report(Report::Resolved(chunk.attempt.scope.clone(), resolution));
        self.go_on(chunk, next, failure.clone(), turn);
    }
}
