//! What is sent on the line, and what comes back.

use crate::decide::chunk::Class;
use crate::decide::chunk::course::Status;

use super::Item;
use super::line::Trouble::{
    Crash, CrashBehind, CrashWithin, Cut, CutBehind, Failover, FailoverBehind, Late, None as Fine, Proxy,
    Refused, RestartBehind, Unwaited, Waits,
};
use super::line::{Failure, LOST, Line, PARTED, error};
use super::world::{Answer, Due};

/// A flush that was answered: on which server, and whether nobody cancelled its wait.
pub(super) struct Flush {
    pub(super) life: u32,
    pub(super) waited: bool,
}

impl Line {
    /// Sends COMMIT, if there is something to commit. Whether it has waited for the standby, as far as it has to.
    pub(super) fn send_commit(&mut self, any: bool) -> Result<bool, Failure> {
        if !any {
            return Ok(true);
        }
        if self.is_closed {
            return Err(LOST);
        }
        let waits = !self.is_lazy();
        let reaches = waits && self.world.is_synchronous;
        let troubles = [
            Cut,
            CutBehind,
            Late,
            Waits,
            Unwaited,
            Refused("23505"),
            Refused("40001"),
            Proxy(true),
            Proxy(false),
            Crash,
            CrashWithin,
            CrashBehind,
            Failover,
            FailoverBehind,
            RestartBehind,
        ];
        let trouble = self.tape.one_of(Fine, 120, &troubles);
        self.tape.say("COMMIT", trouble);
        match trouble {
            Fine => self.world.commit(waits, false),
            Unwaited => {
                self.world.commit(waits, true);
                return Ok(!reaches);
            }
            Refused(code) => {
                self.world.roll_back();
                return Err(error(code));
            }
            Proxy(took) => {
                if took {
                    self.world.commit(waits, false);
                }
                self.world.roll_back();
                return Err(error("08006"));
            }
            Cut => return self.cut(Due::Leaves),
            Late => return self.cut(Due::Commits { waits }),
            Waits if reaches => return self.cut(Due::Waits),
            CutBehind | Waits => {
                self.world.commit(waits, false);
                return self.cut(Due::Leaves);
            }
            Crash | Failover => {
                self.end_life(trouble);
                return self.cut(Due::Leaves);
            }
            CrashWithin => {
                self.world.commit(false, false);
                self.end_life(trouble);
                return self.cut(Due::Leaves);
            }
            CrashBehind | FailoverBehind | RestartBehind => {
                self.world.commit(waits, false);
                self.end_life(trouble);
                return self.cut(Due::Leaves);
            }
        }
        Ok(true)
    }

    /// Sends BEGIN and the work behind it; `ahead`, with the transaction's id asked for between them.
    pub(super) fn send_work(&mut self, items: &[Item]) -> Result<Answer, Failure> {
        if self.is_closed {
            return Err(LOST);
        }
        self.pass();
        let troubles =
            [Cut, Late, Refused("40P01"), Refused("57014"), Refused("42501"), Proxy(true), Crash, Failover];
        let trouble = self.tape.one_of(Fine, 80, &troubles);
        self.tape.say("BEGIN, work", (items, trouble));
        if let Refused(code) = trouble {
            // BEGIN fails, and the work behind it arrives.
            self.world.roll_back();
            assert!(self.do_work(items).is_err(), "no work outside of a transaction");
            return Err(error(code));
        }
        self.world.begin();
        let answer = self.do_work(items);
        match trouble {
            Proxy(_) => Err(error("08006")),
            Cut | Late => self.cut(Due::Leaves),
            Crash | Failover => {
                self.end_life(trouble);
                self.cut(Due::Leaves)
            }
            _ => answer,
        }
    }

    /// Sends BEGIN, and has the transaction's id.
    pub(super) fn send_begin(&mut self) -> Result<u64, Failure> {
        if self.is_closed {
            return Err(LOST);
        }
        match self.tape.one_of(0, 30, &[1, 2]) {
            1 => Err(error("57014")),
            2 => self.cut(Due::Leaves),
            _ => {
                self.world.begin();
                Ok(self.world.take_id())
            }
        }
    }

    /// Sends work that changes all or nothing, and COMMIT behind it.
    pub(super) fn send_whole(&mut self, items: &[Item]) -> Result<Answer, Failure> {
        let answer = self.do_work(items)?;
        if answer.classes.iter().any(|class| *class != Class::Updated) {
            self.world.roll_back();
            return Err(PARTED);
        }
        let trouble = self.tape.one_of(Fine, 40, &[Cut, CutBehind, Late, CrashWithin, Proxy(true)]);
        self.tape.say("work, COMMIT", (items, trouble));
        match trouble {
            Fine => return Ok(answer),
            Cut => return self.cut(Due::Leaves),
            Late => return self.cut(Due::Commits { waits: false }),
            _ => self.world.commit(false, false),
        }
        match trouble {
            Proxy(_) => return Err(error("08006")),
            CrashWithin => self.end_life(trouble),
            _ => {}
        }
        self.cut(Due::Leaves)
    }

    fn do_work(&mut self, items: &[Item]) -> Result<Answer, Failure> {
        let rows: Vec<_> = items.iter().map(|item| (item.line, item.key)).collect();
        let answer = self.world.work(self.kind, &rows).map_err(error)?;
        Ok(if self.is_blind { Answer { written: None, ..answer } } else { answer })
    }

    pub(super) fn roll_back(&mut self) {
        self.world.roll_back();
    }

    /// Waits until all that was committed lasts.
    pub(super) fn send_flush(&mut self) -> Result<Flush, Failure> {
        if self.is_closed {
            return Err(LOST);
        }
        let troubles =
            [Cut, CutBehind, Unwaited, Refused("57014"), Crash, CrashWithin, CrashBehind, Failover];
        let trouble = self.tape.one_of(Fine, 90, &troubles);
        self.tape.say("flush", trouble);
        let is_synchronous = self.world.is_synchronous;
        match trouble {
            Cut => return self.cut(Due::Leaves),
            Refused(code) => return Err(error(code)),
            Crash | Failover => {
                self.end_life(trouble);
                return self.cut(Due::Leaves);
            }
            // A proxy keeps the crash from us.
            CrashWithin if self.seen == self.world.life => self.end_life(trouble),
            _ => {}
        }
        self.world.mark(!matches!(trouble, Unwaited));
        if matches!(trouble, CrashBehind) {
            self.end_life(trouble);
        }
        if matches!(trouble, CutBehind | CrashBehind) {
            return self.cut(Due::Leaves);
        }
        Ok(Flush { life: self.world.life, waited: !is_synchronous || !matches!(trouble, Unwaited) })
    }

    /// What the server says of a transaction.
    pub(super) fn ask(&mut self, id: u64) -> Result<Status, Failure> {
        self.pass();
        match self.tape.one_of(0, 60, &[1, 2, 3]) {
            1 => self.cut(Due::Leaves),
            2 => {
                self.end_life(Crash);
                self.cut(Due::Leaves)
            }
            // It is too old.
            3 => Ok(Status::Unknown),
            _ => {
                let status = self.world.status(id);
                self.tape.say("status", (id, status));
                Ok(status)
            }
        }
    }
}
