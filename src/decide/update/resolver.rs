//! What became of commits in doubt. [`pg::xact`](crate::pg::xact) asks the server; this says what its answer is worth.
//!
//! An update asks after three kinds of commits, each on the session that there is now:
//!
//! | commit | question | if the server's answer proves nothing |
//! |---|---|---|
//! | its answer was lost | did it take effect? | the rows are compared again, or it is unresolved |
//! | answered, not flushed, before a restart | is it still there? | the rows are compared again, or it is unresolved |
//! | reported, before a restart or failover | does this server have it? | as above; it was flushed, so "committed" is believed |
//!
//! Unknown is never taken for aborted: that would do work twice.

use std::collections::VecDeque;
use std::time::Duration;

use super::chunk::Chunk;
use super::counted::Counted;
use super::life::{Life, Mark};
use super::material::Material;
use super::survival::{Survival, fate};

/// What the server says of a transaction (`pg_xact_status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It took effect.
    Committed,
    /// It left nothing behind.
    Aborted,
    /// Its backend has not noticed yet that the client is gone, or is just committing.
    InProgress,
    /// Too old, or this server never knew it (a standby that was promoted).
    Unknown,
}

/// What became of a commit whose answer was lost, or that waited in vain for its synchronous standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// `pg_xact_status` says that it took effect.
    Committed,
    /// `pg_xact_status` says that it did not.
    Aborted,
    /// The server does not know any more; the rows are compared again.
    Reread,
    /// It could not be found out.
    Unresolved,
    /// It took effect on this server, but may be missing on a synchronous standby, because the wait for it was cancelled, or
    /// may have been cut short with the session (manual, "Synchronous Replication"). A failover may undo it.
    Unreplicated,
}

impl Resolution {
    /// All of them, for counters that exist as 0 from the start.
    pub const ALL: [Self; 5] =
        [Self::Committed, Self::Aborted, Self::Reread, Self::Unresolved, Self::Unreplicated];

    /// The word for labels, attributes and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Reread => "reread",
            Self::Unresolved => "unresolved",
            Self::Unreplicated => "unreplicated",
        }
    }
}

/// Why nobody knows what became of a chunk, or whether it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unresolved {
    /// No server says whether it was committed, and it may not be done twice.
    Forgotten,
    /// Nor could its rows be read again.
    Unread,
    /// There was no session to ask on.
    NobodyAsked,
    /// It is committed, and may not be on the disk.
    Unflushed,
    /// It is committed, and may not be where a synchronous standby has to have it.
    Unreplicated,
    /// It was counted, on a server that another one has replaced.
    Replaced,
}

/// What is known of a commit without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Its fate.
    Known(Status),
    /// The id to ask after.
    Ask(u64),
}

/// Whether a commit that no flush has covered has to be asked after, on a server in that life.
#[must_use]
pub fn question(mark: Mark, life: Option<&Life>, now: &Life) -> Question {
    let (Some(xid), Some(life)) = (mark.xid, life) else { return Question::Known(Status::Unknown) };
    if !life.is_same(now) && now.survival(life, mark.written) == Survival::Gone {
        return Question::Known(Status::Aborted);
    }
    Question::Ask(xid)
}

/// What became of it, given what the server says.
#[must_use]
pub fn answer(mark: Mark, life: Option<&Life>, now: &Life, says: Status) -> Status {
    match life {
        Some(life) if life.is_same(now) => says,
        Some(life) => fate(now.survival(life, mark.written), says, now.is_akin(life)),
        None => Status::Unknown,
    }
}

/// What became of a commit that must not be repeated. `None`: it is in progress on a server that has not restarted; ask
/// again. `is_same`: whether the server has not restarted since the id was assigned. If it has, only "aborted" is believed.
#[must_use]
pub const fn resolved(says: Status, is_same: bool) -> Option<Resolution> {
    match (says, is_same) {
        (Status::Aborted, _) => Some(Resolution::Aborted),
        (Status::Committed, true) => Some(Resolution::Committed),
        (Status::InProgress, true) => None,
        (Status::Unknown, _) | (_, false) => Some(Resolution::Unresolved),
    }
}

/// Whether a chunk that was counted on another server has to be asked after.
#[must_use]
pub fn question_counted<K>(counted: &Counted<K>, now: &Life) -> Question {
    match (now.survival(&counted.life, counted.mark.written), counted.mark.xid) {
        (Survival::Told, Some(xid)) => Question::Ask(xid),
        (Survival::Told, None) => Question::Known(Status::Committed),
        // Without an id the rows were others' work, somewhere before in the log.
        (Survival::Gone, Some(_)) => Question::Known(Status::Aborted),
        (Survival::Gone, None) | (Survival::Unknown, _) => Question::Known(Status::Unknown),
    }
}

/// A commit in doubt, and what made it so.
pub(super) struct Doubt<M: Material> {
    pub(super) chunk: Box<Chunk<M>>,
    pub(super) failure: M::Failure,
}

/// The commits whose fate is yet to be learned.
pub(super) struct Resolver<M: Material> {
    doubts: VecDeque<Doubt<M>>,
    /// When this session was first asked.
    since: Option<Duration>,
    /// Not to be asked again before.
    pub(super) again: Option<Duration>,
}

impl<M: Material> Resolver<M> {
    pub(super) const fn new() -> Self {
        Self { doubts: VecDeque::new(), since: None, again: None }
    }

    pub(super) fn add(&mut self, chunk: Box<Chunk<M>>, failure: M::Failure) {
        self.doubts.push_back(Doubt { chunk, failure });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.doubts.is_empty()
    }

    /// Which transaction a session that is left behind may still be in.
    pub(super) fn xid(&self) -> Option<u64> {
        self.doubts.front().and_then(|doubt| doubt.chunk.attempt.mark.xid)
    }

    /// There is another session to ask on.
    pub(super) const fn on_session(&mut self) {
        (self.since, self.again) = (None, None);
    }

    /// All that is to be cleared up now.
    pub(super) fn take(&mut self, now: Duration) -> Vec<Doubt<M>> {
        self.again = None;
        self.since.get_or_insert(now);
        self.drain()
    }

    /// Whether a transaction in progress may still be waited for: this session was asked for so long at most.
    pub(super) fn is_patient(&self, now: Duration, wait: Duration, end: Option<Duration>) -> bool {
        let is_in_time = end.is_none_or(|end| now < end);
        is_in_time && self.since.is_none_or(|since| now.saturating_sub(since) < wait)
    }

    /// It is in progress: it is to be asked after again then.
    pub(super) fn ask_again(&mut self, chunk: Box<Chunk<M>>, failure: M::Failure, at: Duration) {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
        self.add(chunk, failure);
    }

    /// Those that were not answered for.
    pub(super) fn put_back(&mut self, doubts: Vec<Doubt<M>>) {
        doubts.into_iter().rev().for_each(|doubt| self.doubts.push_front(doubt));
    }

    /// Nobody will be asked any more.
    pub(super) fn drain(&mut self) -> Vec<Doubt<M>> {
        std::mem::take(&mut self.doubts).into()
    }
}
