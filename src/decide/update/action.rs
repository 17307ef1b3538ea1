//! What goes into a worker, and what comes out.

use std::sync::Arc;
use std::time::Duration;

use super::Class;
use super::chunk::Chunk;
use super::gather::Gathered;
use super::life::{Life, LifeId, Mark};
use super::material::Material;
use super::replay::Replay;
use super::resolver::{Resolution, Status, Unresolved};
use super::survival::Lsn;

/// When a fact came, and a number for what is drawn by lot.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Since a moment that is the same for all workers of a run.
    pub now: Duration,
    /// In `0.0..1.0`, another one with each fact.
    pub draw: f64,
    /// Whether the connection is known to be gone.
    pub is_cut: bool,
}

/// What a session is good for.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "what the server and the work say, each for itself")]
pub struct Session {
    /// On which server.
    pub life: Arc<Life>,
    /// Whether work may be done twice, as far as was known when the session was had.
    pub replay: Replay,
    /// Whether its role may write a mark into the log, which a flush needs.
    pub may_mark: bool,
    /// Whether its commits wait for a standby.
    pub has_standby: bool,
    /// Whether its commits are answered before they are on the disk (manual, "Asynchronous Commit").
    pub is_lazy: bool,
    /// Whether it has a statement that changes all keys of a chunk or none.
    pub may_go_ahead: bool,
}

/// The answer to a chunk's work.
#[derive(Debug, Clone)]
pub enum Answer {
    /// What the fate of the transaction will be known by, and a class for each key.
    Told(Mark, Vec<Class>),
    /// Sent ahead: every key was changed. Where the log is then, if that may be asked.
    Whole(Option<Lsn>),
}

/// A flush that was answered.
#[derive(Debug, Clone)]
pub struct Flush {
    /// In which life the server was when it was made.
    pub life_id: LifeId,
    /// Whether nobody cancelled its wait for a synchronous standby.
    pub waited: bool,
}

/// What the source of items has.
pub enum Fed<M: Material> {
    /// Items for one chunk.
    Items(Gathered<M::Item>),
    /// Items are claimed.
    Claim,
    /// Nothing more will come.
    End,
    /// Nothing at the moment.
    Nothing,
}

/// What has happened. Each message of an [`Action`] is answered by one of these, also when the session is lost.
pub enum Fact<M: Material> {
    /// A session was had.
    Connected(Session),
    /// None was had; `None` where there was no time left.
    NotConnected(Option<M::Failure>),
    /// To [`Action::SendBegin`]: the transaction's id.
    Began(Result<u64, M::Failure>),
    /// To [`Action::SendWork`].
    Worked(Box<Chunk<M>>, Result<Answer, M::Failure>),
    /// To [`Action::SendCommit`]: whether nobody cancelled its wait for a synchronous standby.
    Committed(Result<bool, M::Failure>),
    /// To [`Action::Flush`].
    Flushed(Result<Flush, M::Failure>),
    /// To [`Action::RollBack`].
    RolledBack(Result<(), M::Failure>),
    /// To [`Action::AskFate`], in its order.
    Fates(Result<Vec<Status>, M::Failure>),
    /// To [`Action::Feed`].
    Fed(Fed<M>),
    /// To [`Action::Claim`]: rows that were locked, each once, in the order of their keys.
    Claimed(Option<Box<Chunk<M>>>, Result<Vec<M::Item>, M::Failure>),
    /// To [`Action::Look`]: a key that is left.
    Left(Result<Option<M::Key>, M::Failure>),
    /// To [`Action::BreakOff`].
    BrokenOff,
    /// No worker is to begin another chunk.
    Closing,
    /// The caller wants the run to end.
    Halted,
    /// Time has passed.
    Tick,
}

/// Which rows to claim.
pub enum Ask<M: Material> {
    /// At most so many that nobody else has, none of these keys.
    Free(u32, Vec<M::Key>),
    /// One; fails (55P03) where somebody has it.
    Unlocked(Vec<M::Key>),
    /// One; waits for whoever has it.
    WaitedFor(Vec<M::Key>),
    /// The chunk's, had before, as far as they are still to be updated; waits for whoever has them.
    Again(Box<Chunk<M>>),
}

/// How work finds its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// BEGIN travels with it.
    Begin,
    /// [`Action::SendBegin`] went ahead, and all keys are changed or none.
    Whole,
    /// A claim has opened it.
    Inside,
}

/// What is to be done next. Messages are sent in the order in which they come.
pub enum Action<M: Material> {
    /// Open a session until then, and end the last one, if the server still has it; of a proxy's backend only if it is in
    /// that transaction.
    Connect {
        /// No try takes longer.
        deadline: Duration,
        /// The transaction in doubt.
        doubt: Option<u64>,
    },
    /// Give the session up. Who it was is to be remembered, so that the next one can end it.
    Disconnect,
    /// Cancel what the session does.
    Cancel,
    /// Give up the connection: all that was asked of it is answered as by one that has broken.
    Abandon,
    /// Cancel what the session waits for, then give up its connection.
    BreakOff,
    /// Open a transaction, and have its id.
    SendBegin,
    /// Work on the chunk, which comes back with the answer.
    SendWork(Box<Chunk<M>>, Opening),
    /// Commit; a lasting one waits for the disk, and where else it has to be.
    SendCommit {
        /// Whether it waits.
        lasting: bool,
    },
    /// Make all that was committed last.
    Flush,
    /// Roll back.
    RollBack,
    /// Ask what became of these transactions.
    AskFate(Vec<u64>),
    /// Ask the source for that many items, once what was sent is on its way.
    Feed {
        /// How many at most.
        size: u32,
        /// Whether to wait for them.
        wait: bool,
    },
    /// Open a transaction and lock rows.
    Claim(Ask<M>),
    /// Look for a row that is left, none of these keys.
    Look(Vec<M::Key>),
    /// Tell the run.
    Report(Report<M>),
    /// The worker is done. What the session has is left as it was had.
    Done,
}

/// What the run is to know.
pub enum Report<M: Material> {
    /// A chunk took effect, and lasts. It is to be counted, and kept with [`Shared::keep`](super::shared::Shared::keep).
    Count(Box<Chunk<M>>),
    /// An attempt left nothing behind, and its keys come again.
    Retried(Retried<M>),
    /// Keys have failed.
    GaveUp(Box<Chunk<M>>, M::Failure),
    /// It is not known what became of keys, or whether that lasts.
    Unresolved(Box<Chunk<M>>, Unresolved, M::Failure),
    /// Nobody knows whether a commit took effect, or lasts.
    InDoubt(M::Scope),
    /// That is known now.
    Resolved(M::Scope, Resolution),
    /// The session was lost, with this.
    SessionLost(M::Failure),
    /// There is another; the last was lost with this.
    Reconnected(M::Failure),
    /// There is no session, and will be none.
    NoSession(M::Failure),
    /// The run is to end, for this reason.
    Stopped(Reason<M>),
    /// So many keys were taken, and are left.
    LeftBehind(usize),
    /// Keys that were counted will count anew.
    Uncount {
        /// How many as updated.
        updated: u64,
        /// How many as already.
        already: u64,
    },
    /// Keys that were counted may be gone, and nobody remembers which they are.
    Forget {
        /// How many as updated.
        updated: u64,
        /// How many as already.
        already: u64,
    },
}

/// An attempt that comes again.
pub struct Retried<M: Material> {
    /// The chunk's number.
    pub number: u64,
    /// Transactions begun for it.
    pub attempts: u32,
    /// How many keys it has.
    pub size: usize,
    /// How long this one took.
    pub took: Duration,
    /// Which keys it is about.
    pub label: Option<Arc<str>>,
    /// The caller's own.
    pub scope: M::Scope,
    /// What failed.
    pub failure: M::Failure,
}

/// Why a run is to end.
pub enum Reason<M: Material> {
    /// No chunk can succeed.
    Failure(M::Failure),
    /// Claiming rows failed, again and again.
    Claiming(M::Failure),
    /// A row can be seen and not be claimed.
    Stuck(M::Key),
    /// Too many keys were given up to go on claiming.
    GivenUp,
}
