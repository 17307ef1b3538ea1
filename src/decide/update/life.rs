//! One life of a server, and what a commit in it will be known by.
//!
//! Transaction ids are only good within one life: from the server's start, or its recovery from a crash, to the next. A
//! crash forgets what was not flushed, an id that was handed out included, and the next life hands it out again. So
//! whoever asks for the fate of a transaction compares lives first. A standby that was promoted is another life, too.

use super::survival::{History, Lsn, Survival, survival};

/// Tells one life from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifeId {
    /// When the server was started, in microseconds since 1970.
    pub started: i64,
    /// The server's own processes. Some come and go within a life, the checkpointer stays.
    pub own: Vec<i32>,
}

impl LifeId {
    /// Whether the server has lived on from one to the other.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        // Where nobody may see the server's own processes, its start must do.
        let hidden = self.own.is_empty() && other.own.is_empty();
        self.started == other.started && (hidden || self.own.iter().any(|pid| other.own.contains(pid)))
    }
}

/// A life, and what its log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Which life it is.
    pub id: LifeId,
    /// Empty where the role may not ask.
    pub history: History,
}

impl Life {
    /// Whether that is this life.
    #[must_use]
    pub fn is_in(&self, id: &LifeId) -> bool {
        self.id.is_same(id)
    }

    /// Whether the server has lived on from one to the other.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.id.is_same(&other.id)
    }

    /// What this life's server can say of a commit in an earlier one.
    #[must_use]
    pub fn survival(&self, earlier: &Self, written: Option<Lsn>) -> Survival {
        survival(&earlier.history, &self.history, written)
    }

    /// Whether both are of one cluster, as far as they tell.
    #[must_use]
    pub fn is_akin(&self, other: &Self) -> bool {
        self.history.system == other.history.system
    }
}

/// What the fate of a transaction will be known by. It is asked for before COMMIT is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// The transaction's id; `None` if it wrote nothing.
    pub xid: Option<u64>,
    /// Where the log was between its work and its COMMIT; `None` where the role may not ask.
    pub written: Option<Lsn>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(started: i64, own: &[i32]) -> LifeId {
        LifeId { started, own: own.to_vec() }
    }

    #[test]
    fn a_restart_a_crash_and_another_server_are_other_eras() {
        let now = id(15, &[10, 11, 12]);
        assert!(now.is_same(&now) && now.is_same(&id(15, &[10, 11, 40])));
        assert!(!now.is_same(&id(25, &[10, 11, 12])), "restarted, in a container with the same pids");
        assert!(!now.is_same(&id(15, &[60, 61, 62])), "a backend crashed");
        assert!(id(15, &[]).is_same(&id(15, &[])));
    }
}
