//! The line between the worker and the server: sessions, and all that goes wrong on it.

use std::time::Duration;

use crate::decide::chunk::survival::{History, Lsn, Survival, survival};
use crate::decide::failure::{FailureClass, Signal, classify};

use super::world::{Due, World};
use super::{Kind, Setup, Tape};

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: Option<&'static str>,
}

/// How work fails that changes all or nothing.
pub(super) const PARTED: Failure = error("22P02");
pub(super) const LOST: Failure = Failure { code: None };

/// An answer of the server, or of a proxy, that says ERROR.
pub(super) const fn error(code: &'static str) -> Failure {
    Failure { code: Some(code) }
}

impl Failure {
    pub(super) fn class(self) -> FailureClass {
        classify(match self.code {
            Some(code) => Signal::SqlState { code, message: "", survived: true },
            None => Signal::ConnectionLost,
        })
    }

    pub(super) fn is_connection_lost(self) -> bool {
        self.class().is_session_lost()
    }

    /// Whether a COMMIT that failed so may have taken effect all the same.
    pub(super) fn leaves_commit_open(self) -> bool {
        self.is_connection_lost() || self.code.is_none_or(|code| code.starts_with("08"))
    }
}

/// What a session has said of its server when it was had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) life: u32,
    history: History,
}

impl Session {
    pub(super) fn survival(&self, earlier: &Self, written: Option<Lsn>) -> Survival {
        survival(&earlier.history, &self.history, written)
    }

    /// Whether both are of one cluster, as far as they tell.
    pub(super) fn is_akin(&self, other: &Self) -> bool {
        self.history.system == other.history.system
    }
}

#[derive(Debug, Clone, Copy)]
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

#[derive(Debug)]
pub(super) struct Line {
    pub(super) world: World,
    pub(super) tape: Tape,
    pub(super) kind: Kind,
    /// Whether the role may not ask where the log is.
    pub(super) is_blind: bool,
    /// The session that there is.
    pub(super) session: Option<Session>,
    /// It is gone, and nobody has noticed yet.
    pub(super) is_closed: bool,
    pub(super) now: Duration,
    /// The server's last life in which a session was had.
    pub(super) seen: u32,
}

impl Line {
    pub(super) fn new(setup: &Setup, tape: Tape) -> Self {
        Self {
            world: World::new(&setup.rows, setup.is_synchronous),
            tape,
            kind: setup.kind,
            is_blind: setup.is_blind,
            session: None,
            is_closed: false,
            now: Duration::ZERO,
            seen: 1,
        }
    }

    /// Whether commits are answered before they are on the disk.
    pub(super) fn is_lazy(&self) -> bool {
        self.kind == Kind::Lazy
    }

    pub(super) fn is_of(&self, life: Option<&Session>) -> bool {
        matches!((life, &self.session), (Some(was), Some(is)) if was.life == is.life)
    }

    /// A session, or none this time; `None` when patience ends.
    pub(super) fn connect(&mut self) -> Option<bool> {
        self.pass();
        match self.tape.one_of(0, 70, &[1, 2, 3, 4, 5]) {
            0 => {}
            1 => return Some(false),
            2 => return None,
            end => {
                self.end_life(match end {
                    3 => Crash,
                    4 => Failover,
                    _ => RestartBehind,
                });
                return Some(false);
            }
        }
        let history = if self.is_blind { History::default() } else { self.world.history() };
        self.session = Some(Session { life: self.world.life, history });
        self.is_closed = false;
        self.seen = self.world.life;
        self.tape.say("a session", &self.session);
        self.world.end_remnant(&mut self.tape);
        Some(true)
    }

    pub(super) fn lose(&mut self) {
        self.session = None;
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
        // What a second end leaves of the first, nobody can say: see `mod.rs`.
        if self.seen != self.world.life && self.kind.counts() {
            return;
        }
        self.tape.say("the server's life ends", how);
        match how {
            Failover | FailoverBehind => self.world.fail_over(&mut self.tape),
            RestartBehind => self.world.restart(),
            _ => self.world.crash(&mut self.tape),
        }
    }

    /// The line is cut; what was under way goes on as is said.
    pub(super) fn cut<T>(&mut self, due: Due) -> Result<T, Failure> {
        self.world.leave(due);
        self.is_closed = true;
        Err(LOST)
    }
}
