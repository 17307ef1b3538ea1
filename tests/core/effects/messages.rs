//! What the server makes of each message.

use crate::decide::update::Class;
use crate::decide::update::action::{Answer, Ask, Fact, Flush, Opening};
use crate::decide::update::gate::PARTED;
use crate::decide::update::life::Mark;
use crate::decide::update::resolver::Status;

use super::line::Trouble::{
    Crash, CrashBehind, CrashWithin, Cut, CutBehind, Failover, FailoverBehind, Late, None as Fine, Proxy,
    Refused, RestartBehind, Unwaited, Waits,
};
use super::line::{Failure, LOST, Line, Message, Trouble, error, places};
use super::world::{self, Due};
use super::{Item, Rows};

impl Line {
    /// The server turns to the next message, and answers; or not.
    pub(super) fn turn_to_next(&mut self) {
        let Some(message) = self.side.sent.pop_front() else { return };
        if self.side.is_cut {
            return self.side.heard.push_back(message.failed(LOST));
        }
        let is_cancelled = std::mem::take(&mut self.side.is_cancelled);
        let answer = match message {
            Message::BreakOff => {
                self.abandon();
                Fact::BrokenOff
            }
            message if is_cancelled && !matches!(message, Message::RollBack) => {
                self.world.fail();
                message.failed(error("57014"))
            }
            Message::Begin => Fact::Began(self.begin()),
            Message::Work(chunk, opening) => {
                let worked = self.work(&chunk.items, opening);
                self.tape.say("worked", (opening, &chunk.items, &worked));
                Fact::Worked(chunk, worked)
            }
            Message::Commit(lasting) => Fact::Committed(self.commit(lasting)),
            Message::Flush => Fact::Flushed(self.flush()),
            Message::RollBack => {
                self.world.roll_back();
                Fact::RolledBack(Ok(()))
            }
            Message::Ask(ids) => Fact::Fates(ids.into_iter().map(|id| self.ask(id)).collect()),
            Message::Claim(ask) => {
                let rows = self.claim(&ask);
                self.tape.say("claimed", &rows);
                Fact::Claimed(if let Ask::Again(chunk) = ask { Some(chunk) } else { None }, rows)
            }
            Message::Look(given_up) => Fact::Left(self.look(&given_up)),
        };
        self.side.heard.push_back(answer);
    }

    fn lose<T>(&mut self, due: Due) -> Result<T, Failure> {
        self.cut(due);
        Err(LOST)
    }

    fn begin(&mut self) -> Result<u64, Failure> {
        match self.tape.one_of(0, 30, &[1, 2]) {
            1 => {
                self.world.fail();
                Err(error("57014"))
            }
            2 => self.lose(Due::Leaves),
            _ => {
                self.world.begin().map_err(error)?;
                Ok(self.world.take_id())
            }
        }
    }

    fn work(&mut self, items: &[Item], opening: Opening) -> Result<Answer, Failure> {
        self.pass();
        let troubles =
            [Cut, Late, Refused("40P01"), Refused("57014"), Refused("42501"), Proxy(true), Crash, Failover];
        let trouble = self.tape.one_of(Fine, 80, &troubles);
        if let Refused(code) = trouble {
            if opening == Opening::Begin && self.tape.one_of(false, 128, &[true]) {
                // BEGIN fails, and the work behind it arrives.
                assert!(
                    self.do_work(items).is_err() || self.world.is_inside(),
                    "work outside of a transaction"
                );
            }
            self.world.fail();
            return Err(error(code));
        }
        if opening == Opening::Begin {
            self.world.begin().map_err(error)?;
        }
        let mut answer = self.do_work(items);
        let is_parted = |answer: &world::Answer| answer.classes.iter().any(|class| *class != Class::Updated);
        if opening == Opening::Whole && answer.as_ref().is_ok_and(is_parted) {
            self.world.fail();
            answer = Err(error(PARTED));
        }
        match trouble {
            Proxy(_) => Err(error("08006")),
            Cut | Late => self.lose(Due::Leaves),
            Crash | Failover => {
                self.end_life(trouble);
                self.lose(Due::Leaves)
            }
            _ if opening == Opening::Whole => answer.map(|answer| Answer::Whole(answer.written)),
            _ => answer.map(|world::Answer { id, written, classes }| {
                Answer::Told(Mark { xid: id, written }, classes)
            }),
        }
    }

    fn do_work(&mut self, items: &[Item]) -> Result<world::Answer, Failure> {
        let answer = self.world.work(self.kind, &places(items)).map_err(error)?;
        Ok(if self.is_blind { world::Answer { written: None, ..answer } } else { answer })
    }

    fn commit(&mut self, waits: bool) -> Result<bool, Failure> {
        let reaches = waits && self.world.is_synchronous;
        let troubles: [Trouble; 16] = [
            Cut,
            CutBehind,
            Late,
            Waits,
            Unwaited,
            Refused("23505"),
            Refused("40001"),
            Refused("57014"),
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
            // It was cancelled before it began: the transaction is aborted, and not over.
            Refused("57014") => {
                self.world.fail();
                return Err(error("57014"));
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
            Cut => return self.lose(Due::Leaves),
            Late => return self.lose(Due::Commits { waits }),
            Waits if reaches => return self.lose(Due::Waits),
            CutBehind | Waits => {
                self.world.commit(waits, false);
                return self.lose(Due::Leaves);
            }
            Crash | Failover => {
                self.end_life(trouble);
                return self.lose(Due::Leaves);
            }
            CrashWithin => {
                self.world.commit(false, false);
                self.end_life(trouble);
                return self.lose(Due::Leaves);
            }
            CrashBehind | FailoverBehind | RestartBehind => {
                self.world.commit(waits, false);
                self.end_life(trouble);
                return self.lose(Due::Leaves);
            }
        }
        Ok(true)
    }

    /// All that was committed is made to last.
    fn flush(&mut self) -> Result<Flush, Failure> {
        // BEGIN fails, and COMMIT rolls back.
        if self.world.is_failed() {
            self.world.roll_back();
            return Err(error("25P02"));
        }
        let troubles =
            [Cut, CutBehind, Unwaited, Refused("57014"), Crash, CrashWithin, CrashBehind, Failover];
        let trouble = self.tape.one_of(Fine, 90, &troubles);
        self.tape.say("flush", trouble);
        let is_synchronous = self.world.is_synchronous;
        match trouble {
            Cut => return self.lose(Due::Leaves),
            Refused(code) => return Err(error(code)),
            Crash | Failover => {
                self.end_life(trouble);
                return self.lose(Due::Leaves);
            }
            // A proxy keeps the crash from us.
            CrashWithin if self.seen == self.world.life => self.end_life(trouble),
            _ => {}
        }
        // What is open is committed with it.
        self.world.commit(true, matches!(trouble, Unwaited));
        self.world.mark(!matches!(trouble, Unwaited));
        if matches!(trouble, CrashBehind) {
            self.end_life(trouble);
        }
        if matches!(trouble, CutBehind | CrashBehind) {
            return self.lose(Due::Leaves);
        }
        Ok(Flush { life_id: self.world.life_id(), waited: !is_synchronous || !matches!(trouble, Unwaited) })
    }

    /// What the server says of a transaction.
    fn ask(&mut self, id: u64) -> Result<Status, Failure> {
        if self.side.is_cut {
            return Err(LOST);
        }
        self.pass();
        match self.tape.one_of(0, 60, &[1, 2, 3]) {
            1 => self.lose(Due::Leaves),
            2 => {
                self.end_life(Crash);
                self.lose(Due::Leaves)
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

    // --- Claims -------------------------------------------------------------------------------------------------------

    fn claim(&mut self, ask: &Ask<Rows>) -> Result<Vec<Item>, Failure> {
        self.pass();
        let troubles = [Cut, Refused("40P01"), Refused("57014"), Crash, Failover];
        match self.tape.one_of(Fine, 60, &troubles) {
            Refused(code) => {
                self.world.fail();
                return Err(error(code));
            }
            trouble @ (Crash | Failover) => {
                self.end_life(trouble);
                return self.lose(Due::Leaves);
            }
            Cut => return self.lose(Due::Leaves),
            _ => {}
        }
        self.world.begin().map_err(error)?;
        let had = match ask {
            Ask::Free(size, others) => self.world.claim(*size as usize, |key| !others.contains(&key)),
            Ask::Unlocked(others) | Ask::WaitedFor(others) => {
                let waits = matches!(ask, Ask::WaitedFor(_));
                let Some(key) = self.world.first_eligible(others) else { return Ok(Vec::new()) };
                if waits {
                    self.world.release(key);
                } else if self.world.is_anybodys(key) {
                    self.world.fail();
                    return Err(error("55P03"));
                }
                self.world.claim(1, |other| other == key)
            }
            Ask::Again(chunk) => {
                let keys: Vec<usize> = chunk.items.iter().map(|item| item.key).collect();
                keys.iter().for_each(|key| self.world.release(*key));
                self.world.claim(usize::MAX, |key| keys.contains(&key))
            }
        };
        Ok(had.into_iter().map(|key| Item { line: key, key }).collect())
    }

    fn look(&mut self, given_up: &[usize]) -> Result<Option<usize>, Failure> {
        if self.tape.one_of(false, 20, &[true]) {
            return self.lose(Due::Leaves);
        }
        Ok(self.world.first_eligible(given_up))
    }
}
