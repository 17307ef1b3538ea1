//! The line between the worker and the server: sessions, messages, and all that goes wrong on it.
//!
//! Messages wait until the server turns to them, one after the other; answers wait until they are heard. So a message may
//! be sent while others are on their way, and the line may break with any of them in it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::decide::failure::{FailureClass, Signal, classify};
use crate::decide::update::action::{Action, Ask, Fact, Opening, Session};
use crate::decide::update::chunk::Chunk;
use crate::decide::update::life::{Life, LifeId};
use crate::decide::update::material::Failed;
use crate::decide::update::survival::History;

use super::world::{Due, World};
use super::{Item, Kind, Rows, Setup, Tape};

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: Option<&'static str>,
}

pub(super) const LOST: Failure = Failure { code: None };

/// An answer of the server, or of a proxy, that says ERROR.
pub(super) const fn error(code: &'static str) -> Failure {
    Failure { code: Some(code) }
}

impl Failed for Failure {
    fn lost(_message: &str) -> Self {
        LOST
    }

    fn unreplicated() -> Self {
        error("01000")
    }

    fn message(&self) -> String {
        format!("{self:?}")
    }

    fn class(&self) -> FailureClass {
        classify(match self.code {
            Some(code) => Signal::SqlState { code, message: "", survived: true },
            None => Signal::ConnectionLost,
        })
    }

    fn sqlstate(&self) -> Option<&str> {
        self.code
    }
}

/// What is on its way to the server.
pub(super) enum Message {
    Begin,
    Work(Box<Chunk<Rows>>, Opening),
    Commit(bool),
    Flush,
    RollBack,
    Ask(Vec<u64>),
    Claim(Ask<Rows>),
    Look(Vec<usize>),
    BreakOff,
}

impl Message {
    pub(super) fn of(action: Action<Rows>) -> Self {
        match action {
            Action::SendBegin => Self::Begin,
            Action::SendWork(chunk, opening) => Self::Work(chunk, opening),
            Action::SendCommit { lasting } => Self::Commit(lasting),
            Action::Flush => Self::Flush,
            Action::RollBack => Self::RollBack,
            Action::AskFate(ids) => Self::Ask(ids),
            Action::Claim(ask) => Self::Claim(ask),
            Action::Look(keys) => Self::Look(keys),
            Action::BreakOff => Self::BreakOff,
            _ => unreachable!("no message"),
        }
    }

    /// The answer, where that is a failure.
    pub(super) fn failed(self, failure: Failure) -> Fact<Rows> {
        match self {
            Self::Begin => Fact::Began(Err(failure)),
            Self::Work(chunk, _) => Fact::Worked(chunk, Err(failure)),
            Self::Commit(_) => Fact::Committed(Err(failure)),
            Self::Flush => Fact::Flushed(Err(failure)),
            Self::RollBack => Fact::RolledBack(Err(failure)),
            Self::Ask(_) => Fact::Fates(Err(failure)),
            Self::Claim(Ask::Again(chunk)) => Fact::Claimed(Some(chunk), Err(failure)),
            Self::Claim(_) => Fact::Claimed(None, Err(failure)),
            Self::Look(_) => Fact::Left(Err(failure)),
            Self::BreakOff => Fact::BrokenOff,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Trouble {
    None,
    /// The server says ERROR; nothing has happened.
    Refused(&'static str),
    /// So does a proxy, whatever has happened.
    Proxy(bool),
    /// It does not arrive.
    Cut,
    /// It took effect, and the answer is lost.
    CutBehind,
    /// It has arrived, and is carried out later.
    Late,
    /// It is in the log, and waits for the standby.
    Waits,
    /// Somebody cancels the wait for the standby.
    Unwaited,
    Crash,
    /// It is in the log, and perhaps not on the disk.
    CrashWithin,
    CrashBehind,
    Failover,
    FailoverBehind,
    RestartBehind,
}

use Trouble::{Crash, Failover, FailoverBehind, RestartBehind};

/// The session of a worker.
#[derive(Default)]
pub(super) struct Side {
    /// Whether there is one.
    pub(super) is_up: bool,
    /// It is gone, whether that was noticed or not.
    pub(super) is_cut: bool,
    /// What it does is to be cancelled.
    pub(super) is_cancelled: bool,
    /// In which life of the server it was had.
    of: u32,
    pub(super) sent: VecDeque<Message>,
    pub(super) heard: VecDeque<Fact<Rows>>,
    /// Its transaction, and whether that has failed, while the other worker is at work.
    own: (Option<usize>, bool),
}

pub(super) struct Line {
    pub(super) side: Side,
    pub(super) world: World,
    pub(super) tape: Tape,
    pub(super) kind: Kind,
    /// Whether the role may not ask where the log is.
    pub(super) is_blind: bool,
    pub(super) now: Duration,
    /// The server's last life in which a session was had.
    pub(super) seen: u32,
    pub(super) life: Option<Arc<Life>>,
    /// The last life in which the other worker had a session.
    other_of: u32,
}

impl Line {
    pub(super) fn new(setup: &Setup, tape: Tape) -> Self {
        Self {
            world: World::new(&setup.rows, setup.is_synchronous),
            tape,
            kind: setup.kind,
            is_blind: setup.is_blind,
            side: Side::default(),
            now: Duration::ZERO,
            seen: 1,
            life: None,
            other_of: 0,
        }
    }

    /// Whether commits are answered before they are on the disk.
    pub(super) fn is_lazy(&self) -> bool {
        self.kind == Kind::Lazy
    }

    /// A session, or none this time; none any more once `deadline` is reached.
    pub(super) fn connect(&mut self, deadline: Duration) -> Fact<Rows> {
        self.pass();
        match self.tape.one_of(0, 70, &[1, 2, 3, 4, 5]) {
            0 => {}
            1 => return Fact::NotConnected(Some(LOST)),
            2 => {
                self.now = self.now.max(deadline);
                return Fact::NotConnected(None);
            }
            end => {
                self.end_life(match end {
                    3 => Crash,
                    4 => Failover,
                    _ => RestartBehind,
                });
                return Fact::NotConnected(Some(LOST));
            }
        }
        let history = if self.is_blind { History::default() } else { self.world.history() };
        let life = Arc::new(Life { id: self.world.life_id(), history });
        self.tape.say("a session", &life);
        self.side = Side { is_up: true, of: self.world.life, ..Side::default() };
        self.seen = self.world.life;
        self.world.end_remnant(&mut self.tape);
        self.life = Some(Arc::clone(&life));
        Fact::Connected(Session {
            life,
            replay: self.kind.replay(),
            may_mark: true,
            has_standby: self.world.is_synchronous,
            is_lazy: self.is_lazy(),
            may_go_ahead: self.is_lazy(),
        })
    }

    /// Another worker is at work.
    pub(super) fn switch(&mut self, other: &mut Side) {
        self.side.own = (self.world.own, self.world.own_failed);
        std::mem::swap(&mut self.side, other);
        self.other_of = other.of;
        (self.world.own, self.world.own_failed) = (None, false);
        self.world.parked = other.own.0.filter(|_| other.is_up && other.of == self.world.life);
        if self.side.is_up && self.side.of != self.world.life {
            if !self.side.is_cut {
                self.cut(Due::Leaves);
            }
        } else {
            (self.world.own, self.world.own_failed) = self.side.own;
        }
    }

    /// Whether the next message waits for a row that the other worker has locked.
    pub(super) fn is_blocked(&self) -> bool {
        let keys = match self.side.sent.front() {
            Some(Message::Work(chunk, _) | Message::Claim(Ask::Again(chunk))) => {
                chunk.items.iter().map(|item| item.key).collect()
            }
            Some(Message::Claim(Ask::WaitedFor(others))) => {
                self.world.first_eligible(others).into_iter().collect()
            }
            _ => Vec::new(),
        };
        !self.side.is_cut
            && !self.side.is_cancelled
            && keys.into_iter().any(|key| self.world.is_parked_on(key))
    }

    /// Two workers wait for each other, and this one is told.
    pub(super) fn end_deadlock(&mut self) {
        let Some(message) = self.side.sent.pop_front() else { return };
        self.world.fail();
        self.side.heard.push_back(message.failed(error("40P01")));
    }

    /// The worker gives the session up.
    pub(super) fn disconnect(&mut self) {
        assert!(
            self.side.sent.is_empty() && self.side.heard.is_empty(),
            "all is answered before a session is given up"
        );
        self.side.is_up = false;
        self.world.leave(Due::Leaves);
    }

    /// Whether a session was had since another server took over, if one did.
    pub(super) fn is_known(&self) -> bool {
        self.world.failovers == 0 || self.seen == self.world.life
    }

    /// Time passes, and others go on.
    pub(super) fn pass(&mut self) {
        self.now += Duration::from_millis(self.tape.one_of(1, 40, &[60, 150]));
        self.world.go_on(self.is_lazy(), &mut self.tape);
    }

    pub(super) fn end_life(&mut self, how: Trouble) {
        self.tape.say("the server's life ends", how);
        match how {
            Failover | FailoverBehind => self.world.fail_over(&mut self.tape),
            RestartBehind => self.world.restart(),
            _ => self.world.crash(&mut self.tape),
        }
    }

    /// The line is cut; what was under way goes on as is said. What was sent behind does not arrive.
    pub(super) fn cut(&mut self, due: Due) {
        self.world.leave(due);
        self.side.is_cut = true;
        let lost = std::mem::take(&mut self.side.sent).into_iter().map(|message| message.failed(LOST));
        self.side.heard.extend(lost);
    }

    /// The worker gives up the connection.
    pub(super) fn abandon(&mut self) {
        if !self.side.is_cut {
            // The server may not have heard of it, and turn to the first that has arrived.
            let arrives = self.tape.one_of(false, 60, &[true]);
            match self.side.sent.front() {
                Some(Message::Commit(lasting)) if arrives => self.cut(Due::Commits { waits: *lasting }),
                _ => self.cut(Due::Leaves),
            }
        }
    }

    /// What the session does is cancelled, now or when it begins.
    pub(super) fn cancel(&mut self) {
        let may_not = |message: &Message| matches!(message, Message::Commit(true) | Message::Flush);
        assert!(!self.side.sent.iter().any(may_not), "a COMMIT that waits may not be cancelled");
        self.side.is_cancelled = true;
    }
}

/// How a life is known.
impl World {
    pub(super) fn life_id(&self) -> LifeId {
        LifeId { started: i64::from(self.life), own: Vec::new() }
    }
}

/// The places of lines, and of their rows.
pub(super) fn places(items: &[Item]) -> Vec<(usize, usize)> {
    items.iter().map(|item| (item.line, item.key)).collect()
}
