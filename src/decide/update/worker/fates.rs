//! What became of commits: in doubt, not flushed, or counted on a server that another one has replaced.
//!
//! Of what was counted, what is there stays as it was counted. What is certainly gone is done again, as if it had never
//! been. Of the rest the rows are read, where that cannot do the work twice; else it is unresolved. Either way it counts
//! anew.

use std::sync::Arc;

use super::super::action::{Action, Report};
use super::super::chunk_state::Next;
use super::super::counted::Counted;
use super::super::gather::Gathered;
use super::super::life::Life;
use super::super::material::{Failed, Material};
use super::super::replay::Replay;
use super::super::resolver::{
    Doubt, Question, Resolution, Status, Unresolved, answer, question, question_counted,
};
use super::{Phase, Turn, Worker};

/// Transactions asked after at once.
const AT_ONCE: usize = 1_000;

impl<M: Material> Worker<'_, M> {
    /// Whether something was done about commits whose fate is not known.
    pub(super) fn look_after_commits(&mut self, turn: &mut Turn<'_, M>) -> bool {
        let Some(life) = self.link.life() else { return false };
        for chunk in self.held.take_elsewhere(&life) {
            self.report(Report::InDoubt(chunk.attempt.scope.clone()));
            self.resolver.add(chunk, M::Failure::lost("the server crashed after the commit"));
        }
        let now = turn.moment.now;
        if !self.resolver.is_empty() {
            return self.resolver.again.is_none_or(|again| again <= now) && self.ask_after_doubts(turn);
        }
        if !turn.shared.past.is_behind() {
            return false;
        }
        // A question that fails would end the transaction that is open.
        if self.pipeline.is_open() { self.settle() } else { self.ask_after_counted(turn) }
    }

    /// What is certain is not asked: the next session may be less certain of it.
    fn ask_after_doubts(&mut self, turn: &mut Turn<'_, M>) -> bool {
        let Some(life) = self.link.life() else { return false };
        let (mut asked, mut ids) = (Vec::new(), Vec::new());
        for doubt in self.resolver.take(turn.moment.now) {
            let attempt = &doubt.chunk.attempt;
            match question(attempt.mark, attempt.life.as_deref(), &life) {
                Question::Known(status) => self.on_status(doubt, status, false, turn),
                Question::Ask(id) => {
                    asked.push(doubt);
                    ids.push(id);
                }
            }
        }
        if !asked.is_empty() {
            self.phase = Phase::Resolving(asked);
            self.send(Action::AskFate(ids));
        }
        true
    }

    fn ask_after_counted(&mut self, turn: &mut Turn<'_, M>) -> bool {
        let Some(life) = self.link.life() else { return false };
        let (elsewhere, sums) = turn.shared.past.take(&life);
        // Of older chunks only the sums are known.
        let (there, gone): (Vec<_>, Vec<_>) = sums.into_iter().partition(|sum| sum.has_survived(&life));
        there.into_iter().rev().for_each(|sum| turn.shared.past.keep_sum(sum, &life));
        if !gone.is_empty() {
            let updated = gone.iter().map(|sum| sum.updated).sum();
            let already = gone.iter().map(|sum| sum.already).sum();
            self.report(Report::Forget { updated, already });
        }
        let (mut asked, mut ids) = (Vec::new(), Vec::new());
        for counted in elsewhere {
            match question_counted(&counted, &life) {
                Question::Known(status) => self.on_found(counted, status, &life, turn),
                Question::Ask(_) if asked.len() == AT_ONCE => turn.shared.past.keep(counted),
                Question::Ask(id) => {
                    asked.push(counted);
                    ids.push(id);
                }
            }
        }
        if !asked.is_empty() {
            turn.shared.past.asks(asked.len());
            self.phase = Phase::Checking(asked);
            self.send(Action::AskFate(ids));
        }
        true
    }

    /// The server's word on commits in doubt.
    pub(super) fn on_fates(
        &mut self,
        fates: Result<Vec<Status>, M::Failure>,
        doubts: Vec<Doubt<M>>,
        turn: &mut Turn<'_, M>,
    ) {
        let (Ok(fates), Some(life)) = (fates, self.link.life()) else {
            return self.resolver.put_back(doubts);
        };
        let is_patient = self.resolver.is_patient(turn.moment.now, self.settings.reconnect_wait, self.end());
        for (doubt, says) in doubts.into_iter().zip(fates) {
            let attempt = &doubt.chunk.attempt;
            let status = answer(attempt.mark, attempt.life.as_deref(), &life, says);
            self.on_status(doubt, status, is_patient, turn);
        }
    }

    /// The same on commits that were counted.
    pub(super) fn on_fates_of_counted(
        &mut self,
        fates: Result<Vec<Status>, M::Failure>,
        counted: Vec<Counted<M::Kept>>,
        turn: &mut Turn<'_, M>,
    ) {
        turn.shared.past.answered(counted.len());
        match (fates, self.link.life()) {
            (Ok(fates), Some(life)) => {
                for (counted, says) in counted.into_iter().zip(fates) {
                    self.on_found(counted, says, &life, turn);
                }
            }
            _ => counted.into_iter().for_each(|counted| turn.shared.past.keep(counted)),
        }
    }

    fn on_status(&mut self, doubt: Doubt<M>, status: Status, is_patient: bool, turn: &mut Turn<'_, M>) {
        let Doubt { mut chunk, failure } = doubt;
        let is_patient = is_patient && chunk.state.is_in_doubt();
        let (replay, keys) = (self.replay, chunk.items.len());
        let next = chunk.state.on_status(status, replay, is_patient, keys, turn.moment.draw);
        if let Next::Ask(pause) = next {
            self.resolver.ask_again(chunk, failure, turn.moment.now + pause);
            return;
        }
        if status == Status::Unknown {
            chunk.read_again();
        }
        let resolution = match (status, next) {
            (_, Next::Unresolved) => None,
            (Status::Committed, _) => Some(Resolution::Committed),
            (Status::Aborted, _) => Some(Resolution::Aborted),
            _ => Some(Resolution::Reread),
        };
        if let Some(resolution) = resolution {
            self.report(Report::Resolved(chunk.attempt.scope.clone(), resolution));
        }
        // It is of this server's life now: what the server says of it is true, or its rows are read here.
        chunk.attempt.life = self.link.life();
        self.go_on(chunk, next, failure, turn);
    }

    fn on_found(
        &mut self,
        counted: Counted<M::Kept>,
        status: Status,
        life: &Arc<Life>,
        turn: &mut Turn<'_, M>,
    ) {
        match status {
            Status::Committed => turn.shared.past.keep(Counted { life: Arc::clone(life), ..counted }),
            status => self.count_anew(counted, status == Status::Aborted, turn),
        }
    }

    fn count_anew(&mut self, counted: Counted<M::Kept>, is_gone: bool, turn: &mut Turn<'_, M>) {
        let (updated, already) = (counted.done.updated, counted.done.already());
        self.report(Report::Uncount { updated, already });
        let (mut items, mut classes) = (self.material.restore(counted.kept), counted.done.classes());
        if let (Some(claims), false) = (&mut turn.shared.claims, is_gone) {
            // A row that another worker of this process has claimed since is counted by that one.
            let keys = self.material.keys(&items);
            let ours: Vec<bool> = keys.iter().map(|key| claims.take_on(key)).collect();
            let (mut of_items, mut of_classes) = (ours.iter(), ours.iter());
            items.retain(|_| of_items.next() == Some(&true));
            classes.retain(|_| of_classes.next() == Some(&true));
            claims.wait(&self.material.keys(&items));
            if items.is_empty() {
                return;
            }
        }
        self.report(Report::InDoubt(M::Scope::default()));
        let mut chunk = Box::new(self.chunk(Gathered { items, twins: Vec::new() }, turn));
        (chunk.number, chunk.offset) = counted.order;
        let resolution = match (is_gone, self.replay) {
            (true, _) => Resolution::Aborted,
            (false, Replay::Unsafe) => {
                let failure = M::Failure::lost("another server answers");
                return self.unresolved(chunk, Unresolved::Replaced, failure, turn);
            }
            (false, Replay::Safe) => {
                chunk.reread = true;
                chunk.state = chunk.state.unsure();
                chunk.counted = classes;
                Resolution::Reread
            }
        };
        self.report(Report::Resolved(M::Scope::default(), resolution));
        match &mut turn.shared.claims {
            // Whoever comes first may have its rows.
            Some(claims) if !chunk.reread => claims.are_over(false),
            _ => self.queue.put_back(chunk),
        }
    }
}
