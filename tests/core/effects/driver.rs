//! Carries out what the worker says, and tells it what has happened, in whatever order that may be heard.

use std::sync::Arc;
use std::time::Duration;

use crate::decide::backoff::Backoff;
use crate::decide::update::Class;
use crate::decide::update::action::{Action, Fact, Fed, Moment, Report};
use crate::decide::update::chunk::Chunk;
use crate::decide::update::fault_scope::FaultScope;
use crate::decide::update::gate::PipelineGate;
use crate::decide::update::gather::{Gathered, gather};
use crate::decide::update::shared::Shared;
use crate::decide::update::size::Sizer;
use crate::decide::update::worker::{Settings, Worker};

use super::line::{Failure, Line, Message};
use super::{Books, Item, Kind, Rows, Setup, Told};

/// Nothing takes more facts.
const MOST: usize = 5_000;

impl Setup {
    pub(super) fn settings(&self) -> Settings {
        let mut gate = PipelineGate::new();
        (0..8).filter(|_| self.is_ahead).for_each(|_| gate.on_worked(true));
        Settings {
            replay: self.replay(),
            own_failure: FaultScope::Run,
            max_attempts: self.max_attempts,
            retry: Backoff { first: Duration::from_millis(10), cap: Duration::from_millis(80) },
            reconnect_wait: Duration::from_millis(300),
            cancel_grace: Duration::from_millis(100),
            sizer: Sizer::fixed(self.size),
            gate,
        }
    }
}

/// The run of one worker; and of another one, where the first had not seen what became of all.
struct Run<'s> {
    setup: &'s Setup,
    rows: &'s Rows,
    line: Line,
    books: Books,
    shared: Shared<Rows>,
    items: Vec<Item>,
    /// What was asked for and is not answered.
    connecting: Option<Duration>,
    feeding: Option<(u32, bool)>,
    is_closing: bool,
    is_halted: bool,
}

/// Plays a history to the end of the run.
pub(super) fn play(setup: &Setup, rows: &Rows, line: Line) -> (Books, Line) {
    let settings = setup.settings();
    let items = if setup.kind == Kind::Claims { Vec::new() } else { setup.items.clone() };
    let mut run = Run {
        setup,
        rows,
        line,
        books: Books { told: vec![None; setup.items.len()], left: 0, may_return: false, twice: Vec::new() },
        shared: Shared::new(setup.kind == Kind::Claims),
        items: items.into_iter().rev().collect(),
        connecting: None,
        feeding: None,
        is_closing: false,
        is_halted: false,
    };
    run.work(&settings);
    if run.shared.past.is_behind() {
        run.work(&settings);
    }
    run.end()
}

impl Run<'_> {
    fn work(&mut self, settings: &Settings) {
        let mut worker = Worker::new(self.rows, settings);
        (self.is_closing, self.is_halted) = (self.is_closing || self.is_halted, false);
        let mut told_closing = false;
        let mut fact = Fact::Tick;
        for _ in 0..MOST {
            let is_cut = self.line.is_up && self.line.is_cut;
            let moment = Moment { now: self.line.now, draw: 0.5, is_cut };
            worker.on(fact, moment, &mut self.shared);
            self.rows.restored.borrow_mut().drain(..).for_each(|item| self.books.untell(&item));
            while let Some(action) = worker.next_action() {
                if matches!(action, Action::Done) {
                    self.line.abandon();
                    (self.line.is_up, self.connecting, self.feeding) = (false, None, None);
                    self.line.heard.clear();
                    return;
                }
                self.carry_out(action);
            }
            fact = if self.is_closing && !told_closing {
                told_closing = true;
                Fact::Closing
            } else {
                self.next_fact(worker.wakes_at())
            };
        }
        panic!("the worker goes round in circles");
    }

    fn carry_out(&mut self, action: Action<Rows>) {
        match action {
            Action::Report(report) => self.report(report),
            Action::Connect { deadline, .. } => {
                assert!(!self.line.is_up, "one session at a time");
                self.connecting = Some(deadline);
            }
            Action::Feed { size, wait } => {
                assert!(self.feeding.is_none(), "one question at a time");
                self.feeding = Some((size, wait));
            }
            Action::Disconnect => self.line.disconnect(),
            Action::Abandon => self.line.abandon(),
            Action::Cancel => self.line.cancel(),
            Action::Done => {}
            message => {
                assert!(self.line.is_up, "a message without a session");
                self.line.sent.push_back(Message::of(message));
            }
        }
    }

    /// One of the things that may happen now. As a rule the server is faster than all else.
    fn next_fact(&mut self, wake: Option<Duration>) -> Fact<Rows> {
        loop {
            if !self.is_halted && self.line.tape.one_of(false, 3, &[true]) {
                self.is_halted = true;
                return Fact::Halted;
            }
            let mut may: Vec<u8> = Vec::new();
            may.extend((!self.line.heard.is_empty()).then_some(0));
            may.extend((!self.line.sent.is_empty()).then_some(1));
            may.extend(self.connecting.map(|_| 2));
            may.extend(self.feeding.map(|_| 3));
            may.extend(wake.map(|_| 4));
            assert!(!may.is_empty(), "nothing will ever happen");
            let place = self.line.tape.one_of(0, 80, &[1, 2, 3, 4]);
            match may[place % may.len()] {
                0 => {
                    let last = self.line.heard.len() - 1;
                    let place = self.line.tape.one_of(0, 40, &[1, 2]).min(last);
                    if let Some(fact) = self.line.heard.remove(place) {
                        return fact;
                    }
                }
                1 => self.line.turn_to_next(),
                2 => return self.line.connect(self.connecting.take().unwrap_or_default()),
                3 => return self.feed(),
                _ => {
                    // A session may break while nothing is on its way.
                    if self.line.is_up && self.line.tape.one_of(false, 20, &[true]) {
                        self.line.abandon();
                    }
                    self.line.now = self.line.now.max(wake.unwrap_or_default());
                    return Fact::Tick;
                }
            }
        }
    }

    fn feed(&mut self) -> Fact<Rows> {
        let (size, wait) = self.feeding.take().unwrap_or_default();
        if !wait && self.line.tape.one_of(false, 40, &[true]) {
            return Fact::Fed(Fed::Nothing);
        }
        if self.setup.kind == Kind::Claims {
            return Fact::Fed(Fed::Claim);
        }
        let size = (size as usize).min(self.items.len());
        let items: Vec<Item> = self.items.drain(self.items.len() - size..).rev().collect();
        self.shared.is_exhausted = self.items.is_empty();
        if items.is_empty() {
            return Fact::Fed(Fed::End);
        }
        Fact::Fed(Fed::Items(match self.setup.kind {
            Kind::Closure => Gathered { items, twins: Vec::new() },
            _ => gather(items, |item| &item.key, |_, _| true),
        }))
    }

    fn report(&mut self, report: Report<Rows>) {
        self.books.may_return = self.setup.kind == Kind::Claims && self.line.world.failovers > 0;
        match report {
            Report::Count(chunk) => {
                self.line.tape.say("counted", (&chunk.items, &chunk.attempt.classes));
                for (item, class) in chunk.items.iter().zip(&chunk.attempt.classes) {
                    self.books.tell(item, Told::Counted(*class));
                }
                for twin in &chunk.twins {
                    self.books.tell(&twin.item, Told::Counted(twin.class(chunk.attempt.classes[twin.of])));
                }
                self.shared.keep(self.rows, *chunk);
            }
            Report::Retried(retried) => {
                self.line.tape.say("comes again", retried.failure);
                assert!(retried.attempts <= self.setup.max_attempts);
            }
            Report::GaveUp(chunk, failure) => self.tell_all(&chunk, Told::Failed, failure),
            Report::Unresolved(chunk, why, failure) => {
                self.line.tape.say("unresolved", why);
                self.tell_all(&chunk, Told::Unresolved, failure);
            }
            Report::LeftBehind(keys) => self.books.left += keys,
            Report::Stopped(_) => self.is_closing = true,
            Report::Forget { .. } => unreachable!("so many keys are kept"),
            _ => {}
        }
    }

    fn tell_all(&mut self, chunk: &Chunk<Rows>, told: Told, failure: Failure) {
        self.line.tape.say("given up", (&chunk.items, told, failure));
        let twins = chunk.twins.iter().map(|twin| &twin.item);
        chunk.items.iter().chain(twins).for_each(|item| self.books.tell(item, told));
    }

    fn end(mut self) -> (Books, Line) {
        self.books.left += self.items.len();
        // Another server was met, and it could not be looked after there.
        if let Some(life) = self.line.life.clone() {
            let (counted, _) = self.shared.past.take(&Arc::clone(&life));
            for item in counted.into_iter().flat_map(|counted| counted.kept) {
                self.books.untell(&item);
                self.books.tell(&item, Told::Unresolved);
            }
        }
        (self.books, self.line)
    }
}

/// Items of these classes count as done.
pub(super) const fn is_done(class: Class) -> bool {
    matches!(class, Class::Updated | Class::Already)
}
