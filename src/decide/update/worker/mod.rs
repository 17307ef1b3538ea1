//! One connection's work: chunk after chunk, each in a transaction, through losses.
//!
//! This file is what has happened ([`Worker::on`]) and what is to be said of it. What is done next is [`moves`]; what
//! comes of a chunk [`outcome`]; of a session [`sessions`]; of commits in doubt [`fates`]; of claims [`claiming`].

mod claiming;
mod ending;
mod fates;
mod moves;
mod outcome;
mod sessions;

use std::collections::VecDeque;
use std::time::Duration;

use self::claiming::Hunt;
use super::Class;
use super::action::{Action, Answer, Fact, Fed, Flush, Moment, Report};
use super::chunk::Chunk;
use super::chunk_state::ChunkState;
use super::counted::Counted;
use super::fault_scope::FaultScope;
use super::gate::PipelineGate;
use super::gather::Gathered;
use super::held::Held;
use super::link::Link;
use super::material::{Failed, Material};
use super::pipeline::Pipeline;
use super::queue::Queue;
use super::replay::Replay;
use super::resolver::{Doubt, Resolver, Status};
use super::shared::Shared;
use super::size::Sizer;
use crate::decide::backoff::Backoff;

/// What a run asks of its workers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whom a failure without a SQLSTATE is to be blamed on.
    pub own_failure: FaultScope,
    /// Transactions that a chunk may take, at least 1.
    pub max_attempts: u32,
    /// Pauses between them.
    pub retry: Backoff,
    /// How long to try to get a session, and to wait for the fate of a commit.
    pub reconnect_wait: Duration,
    /// How long a COMMIT may take once the run is stopped; as much again is left to ask what became of it.
    pub cancel_grace: Duration,
    /// The size of the first chunk.
    pub sizer: Sizer,
    /// What it takes to run ahead, at first.
    pub gate: PipelineGate,
}

/// What is awaited beside the pipeline's answers: one thing at a time.
enum Phase<M: Material> {
    None,
    /// A flush. `at_end`: to know that what others did lasts.
    Flushing {
        at_end: bool,
    },
    /// What became of these.
    Resolving(Vec<Doubt<M>>),
    /// The same of chunks that were counted elsewhere.
    Checking(Vec<Counted<M::Kept>>),
    /// Rows, claimed since that time.
    Claiming(Duration),
    /// Whether a row is left; was anybody at work before?
    Looking(bool),
}

/// An answer that is looked at when the COMMIT sent before it is answered for.
enum Reply<M: Material> {
    Flushed(Result<Flush, M::Failure>),
    Fates(Result<Vec<Status>, M::Failure>),
    Claimed(Option<Box<Chunk<M>>>, Result<Vec<M::Item>, M::Failure>),
    Left(Result<Option<M::Key>, M::Failure>),
}

/// What the last COMMIT has to do with the answers behind it.
#[derive(Debug, Clone, Copy, Default)]
struct LastCommit {
    /// The server has refused it: what was sent behind may have met its transaction.
    is_refused: bool,
    /// Its wait for a synchronous standby was cancelled.
    is_unwaited: bool,
}

/// What is known of the source of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Supply {
    Unasked,
    /// Asked for what is there.
    Peeking,
    /// Asked, and waiting for it.
    Waiting,
    /// Nothing was there while the server worked.
    Looked,
    /// Nothing is there at the moment.
    Dry,
    Claim,
    End,
}

/// A fact's moment, and what the workers share.
struct Turn<'t, M: Material> {
    moment: Moment,
    shared: &'t mut Shared<M>,
}

/// The worker of a connection.
pub struct Worker<'a, M: Material> {
    material: &'a M,
    settings: &'a Settings,
    link: Link<M::Failure>,
    /// Whether work may be done twice, as the last session had it.
    replay: Replay,
    pipeline: Pipeline<M>,
    held: Held<M>,
    resolver: Resolver<M>,
    queue: Queue<M>,
    hunt: Hunt<M::Key>,
    sizer: Sizer,
    gate: PipelineGate,
    supply: Supply,
    phase: Phase<M>,
    reply: Option<Reply<M>>,
    last_commit: LastCommit,
    /// Whether the session has a transaction that is to be rolled back.
    must_roll_back: bool,
    /// Whether no chunk is begun any more.
    is_closed: bool,
    /// When the caller wanted the run to end.
    halted: Option<Duration>,
    is_over: bool,
    /// When the last fact came.
    now: Duration,
    messages: VecDeque<Action<M>>,
    reports: VecDeque<Report<M>>,
}

impl<'a, M: Material> Worker<'a, M> {
    /// Without a session yet. A first fact, such as [`Fact::Tick`], has it begin.
    #[must_use]
    pub fn new(material: &'a M, settings: &'a Settings) -> Self {
        Self {
            material,
            settings,
            link: Link::new(),
            replay: Replay::Unsafe,
            pipeline: Pipeline::new(),
            held: Held::new(),
            resolver: Resolver::new(),
            queue: Queue::new(),
            hunt: Hunt::new(),
            sizer: settings.sizer,
            gate: settings.gate.clone(),
            supply: Supply::Unasked,
            phase: Phase::None,
            reply: None,
            last_commit: LastCommit { is_refused: false, is_unwaited: false },
            must_roll_back: false,
            is_closed: false,
            halted: None,
            is_over: false,
            now: Duration::ZERO,
            messages: VecDeque::new(),
            reports: VecDeque::new(),
        }
    }

    /// What is to be done next, messages first. `None`: nothing before another fact.
    pub fn next_action(&mut self) -> Option<Action<M>> {
        let message = self.messages.pop_front();
        let report = || self.reports.pop_front().map(Action::Report);
        message.or_else(report).or_else(|| self.is_over.then_some(Action::Done))
    }

    /// When time itself is a fact: later than the last moment, or never.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Duration> {
        let link = self.link.wakes_at(self.halted.map(|since| (since, self.settings.cancel_grace)));
        let pauses = [self.resolver.again, self.hunt.rests_until(), self.queue.due(self.now)];
        link.into_iter().chain(pauses.into_iter().flatten().filter(|until| *until > self.now)).min()
    }

    /// Something has happened.
    pub fn on(&mut self, fact: Fact<M>, moment: Moment, shared: &mut Shared<M>) {
        self.now = moment.now;
        let mut turn = Turn { moment, shared };
        self.hear(fact, &mut turn);
        while self.step(&mut turn) {}
    }

    fn hear(&mut self, fact: Fact<M>, turn: &mut Turn<'_, M>) {
        match fact {
            Fact::Connected(session) => self.on_connected(session, turn),
            Fact::NotConnected(failure) => self.on_not_connected(failure, turn),
            Fact::Began(id) => {
                self.on_answer(id.as_ref().err());
                self.pipeline.on_began(id);
            }
            Fact::Worked(chunk, worked) => {
                self.on_answer(worked.as_ref().err());
                if let Ok(answer) = &worked {
                    let is_whole = match answer {
                        Answer::Told(_, classes) => classes.iter().all(|class| *class == Class::Updated),
                        Answer::Whole(_) => true,
                    };
                    self.gate.on_worked(is_whole);
                }
                self.pipeline.on_worked(chunk, worked);
            }
            Fact::Committed(committed) => {
                self.on_answer(committed.as_ref().err());
                self.pipeline.on_committed(committed);
            }
            Fact::RolledBack(rolled_back) => self.on_answer(rolled_back.as_ref().err()),
            Fact::BrokenOff => self.on_answer(None),
            Fact::Flushed(flushed) => {
                self.link.on_answered();
                self.reply = Some(Reply::Flushed(flushed));
            }
            Fact::Fates(fates) => {
                self.on_answer(fates.as_ref().err());
                self.reply = Some(Reply::Fates(fates));
            }
            Fact::Claimed(chunk, rows) => {
                self.on_answer(rows.as_ref().err());
                self.reply = Some(Reply::Claimed(chunk, rows));
            }
            Fact::Left(left) => {
                self.on_answer(left.as_ref().err());
                self.reply = Some(Reply::Left(left));
            }
            Fact::Fed(fed) => self.on_fed(fed, turn),
            Fact::Closing => self.is_closed = true,
            Fact::Halted => {
                self.is_closed = true;
                self.halted = Some(*turn.shared.halted.get_or_insert(turn.moment.now));
            }
            Fact::Tick => {}
        }
    }

    /// A message was answered.
    fn on_answer(&mut self, failure: Option<&M::Failure>) {
        self.link.on_answered();
        if let Some(failure) = failure.filter(|failure| failure.is_lost()) {
            self.lose(failure);
        }
    }

    fn on_fed(&mut self, fed: Fed<M>, turn: &mut Turn<'_, M>) {
        let is_working = self.link.is_waiting();
        self.supply = match fed {
            Fed::Items(gathered) => {
                let chunk = self.chunk(gathered, turn);
                self.queue.put_fresh(Box::new(chunk));
                Supply::Unasked
            }
            // Asked ahead of time: it is asked again.
            _ if is_working => Supply::Looked,
            Fed::Claim if turn.shared.is_exhausted() => Supply::End,
            Fed::Claim => Supply::Claim,
            Fed::End => Supply::End,
            Fed::Nothing => Supply::Dry,
        };
    }

    /// A new chunk, with a number and a budget of its own.
    fn chunk(&self, gathered: Gathered<M::Item>, turn: &mut Turn<'_, M>) -> Chunk<M> {
        let Settings { max_attempts, retry, .. } = *self.settings;
        let Gathered { items, twins } = gathered;
        Chunk {
            number: turn.shared.number(),
            offset: 0,
            items,
            twins,
            state: ChunkState::new(max_attempts, retry),
            due: turn.moment.now,
            is_claimed: false,
            reread: false,
            counted: Vec::new(),
            attempt: super::chunk::Attempt::default(),
        }
    }

    fn send(&mut self, message: Action<M>) {
        debug_assert!(self.link.is_up() || matches!(message, Action::BreakOff), "a message needs a session");
        self.link.on_sent();
        self.messages.push_back(message);
    }

    fn report(&mut self, report: Report<M>) {
        self.reports.push_back(report);
    }
}
