//! What a worker says of what it still has when it leaves.

use super::super::action::Report;
use super::super::material::{Failed, Material};
use super::super::resolver::Unresolved;
use super::{Turn, Worker};

impl<M: Material> Worker<'_, M> {
    /// Reports what is still at hand: as failed where no session can be had, else as left.
    pub(super) fn leave_off(&mut self, failure: Option<&M::Failure>, turn: &mut Turn<'_, M>) {
        self.is_over = true;
        if let Some(failure) = failure {
            self.report(Report::NoSession(failure.clone()));
        }
        let unheard = || M::Failure::lost("no session");
        for doubt in self.resolver.drain() {
            let (why, lost) = if doubt.chunk.state.is_in_doubt() {
                (Unresolved::NobodyAsked, doubt.failure)
            } else {
                (Unresolved::Unflushed, failure.cloned().unwrap_or_else(unheard))
            };
            self.unresolved(doubt.chunk, why, lost, turn);
        }
        for chunk in self.held.take() {
            self.report(Report::InDoubt(chunk.attempt.scope.clone()));
            let failure = failure.cloned().unwrap_or_else(unheard);
            self.unresolved(chunk, Unresolved::Unflushed, failure, turn);
        }
        for chunk in self.queue.drain() {
            match failure {
                Some(failure) if chunk.reread => {
                    self.unresolved(chunk, Unresolved::NobodyAsked, failure.clone(), turn);
                }
                // Its rows are free for others, and if there are none, the claims are not over.
                Some(_) if chunk.is_to_be_claimed() => turn.shared.let_go(self.material, &chunk.items),
                Some(failure) if self.halted.is_none() => self.give_up(chunk, failure.clone(), turn),
                _ => {
                    turn.shared.let_go(self.material, &chunk.items);
                    self.report(Report::LeftBehind(chunk.len()));
                }
            }
        }
    }
}
