//! The worker's session: whether one is needed, and what is lost with it.

use std::time::Duration;

use super::super::action::{Action, Report, Session};
use super::super::link::Need;
use super::super::material::{Failed, Material};
use super::super::replay::Replay;
use super::{Turn, Worker};

impl<M: Material> Worker<'_, M> {
    /// When all has to be over, once that is asked for.
    pub(super) fn end(&self) -> Option<Duration> {
        self.halted.map(|since| since + self.settings.cancel_grace * 2)
    }

    /// Sees to it that there is a session. Returns whether there is more to do now.
    pub(super) fn tend(&mut self, need: Need, turn: &mut Turn<'_, M>) -> bool {
        match need {
            Need::Open(deadline) => {
                self.messages.push_back(Action::Connect { deadline, doubt: self.resolver.xid() });
                false
            }
            Need::Disconnect => {
                self.messages.push_back(Action::Disconnect);
                self.must_roll_back = false;
                match self.pipeline.take_open() {
                    Some(chunk) if self.link.is_cancelled() => self.take_back(chunk, false),
                    Some(chunk) => self.fail(chunk, M::Failure::lost("the connection was closed"), turn),
                    None => {}
                }
                true
            }
            Need::NoTime => {
                let failure = M::Failure::lost("the run was stopped, and had no more time");
                self.leave_off(Some(&failure), turn);
                false
            }
            Need::Work | Need::Wait => false,
        }
    }

    pub(super) fn on_connected(&mut self, session: Session, turn: &mut Turn<'_, M>) {
        turn.shared.past.meets(&session.life);
        self.resolver.on_session();
        debug_assert!(
            !session.is_lazy || session.replay == Replay::Safe,
            "what a crash takes back is done again"
        );
        self.replay = session.replay;
        if let Some(lost) = self.link.on_connected(session, self.halted.is_some()) {
            self.report(Report::Reconnected(lost));
        }
    }

    pub(super) fn on_not_connected(&mut self, failure: Option<M::Failure>, turn: &mut Turn<'_, M>) {
        let moment = turn.moment;
        if let Err(failure) = self.link.on_not_connected(failure, moment.now, moment.draw) {
            self.leave_off(Some(&failure), turn);
        }
    }

    pub(super) fn lose(&mut self, failure: &M::Failure) {
        if self.link.leave() {
            self.link.lost = Some(failure.clone());
            self.report(Report::SessionLost(failure.clone()));
            // What is on its way is answered then.
            if self.link.is_waiting() && self.link.abandon() {
                self.messages.push_back(Action::Abandon);
            }
        }
    }

    /// Whether nobody needs a session: the run is stopped, or others finish what there is. A commit in
    /// doubt always needs one, and what is not flushed, or to be read again.
    pub(super) fn is_needless(&self, turn: &Turn<'_, M>) -> bool {
        let is_bound = !self.resolver.is_empty()
            || !self.held.is_empty()
            || self.queue.has_reread()
            || turn.shared.past.is_behind();
        // The first session of a worker is not worth a wait when others finish without it.
        let others_finish = (self.link.lost.is_some() || self.link.is_pausing())
            && !self.queue.has_again()
            && !self.queue.has_fresh()
            && turn.shared.is_exhausted();
        !is_bound && (self.is_closed || others_finish)
    }
}
