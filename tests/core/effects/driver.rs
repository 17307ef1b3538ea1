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

use super::line::{Failure, Line, Message, Side};
use super::{Books, Item, Kind, Rows, Setup, Told};

/// Nothing takes more facts.
const MOST: usize = 5_000;

impl Setup {
    pub(super) fn settings(&self) -> Settings {
        let mut gate = PipelineGate::new();
        (0..8).filter(|_| self.is_ahead).for_each(|_| gate.on_worked(true));
        Settings {
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

/// A worker, while the other one is at work.
#[derive(Default)]
struct Parked {
    side: Side,
    asked: Asked,
}

/// What a worker has asked for, and what it was told.
#[derive(Default)]
struct Asked {
    connecting: Option<Duration>,
    feeding: Option<(u32, bool)>,
    told_closing: bool,
    told_halted: bool,
    is_over: bool,
}

/// The run of one worker or two; and of another one, where they had not seen what became of all.
struct Run<'s> {
    setup: &'s Setup,
    rows: &'s Rows,
    line: Line,
    asked: Asked,
    parked: Parked,
    books: Books,
    shared: Shared<Rows>,
    items: Vec<Item>,
    is_closing: bool,
    is_halted: bool,
    /// How often in a row nothing could be done, since one worker waits for the other.
    blocked: u32,
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
        asked: Asked::default(),
        parked: Parked::default(),
        is_closing: false,
        is_halted: false,
        blocked: 0,
    };
    run.work(&settings, setup.workers);
    if run.shared.past.is_behind() {
        run.work(&settings, 1);
    }
    run.end()
}

impl Run<'_> {
    fn work(&mut self, settings: &Settings, number: usize) {
        let mut workers: Vec<_> = (0..number).map(|_| Worker::new(self.rows, settings)).collect();
        (self.asked, self.parked) = (Asked::default(), Parked::default());
        let mut at = 0;
        for _ in 0..number {
            self.tell(&mut workers[at], Fact::Tick);
            at = self.switch(at, number);
        }
        for _ in 0..MOST {
            if self.asked.is_over || self.line.tape.one_of(false, 90, &[true]) {
                at = self.switch(at, number);
            }
            if self.asked.is_over && (number == 1 || self.parked.asked.is_over) {
                return;
            }
            match self.next_fact(workers[at].wakes_at()) {
                Some(fact) => {
                    let passes = matches!(fact, Fact::Tick);
                    self.tell(&mut workers[at], fact);
                    // While one waits, the other is answered.
                    if passes {
                        at = self.switch(at, number);
                    }
                }
                None => at = self.switch(at, number),
            }
        }
        panic!("the workers go round in circles");
    }

    fn switch(&mut self, at: usize, number: usize) -> usize {
        if number > 1 && !self.parked.asked.is_over {
            self.line.switch(&mut self.parked.side);
            std::mem::swap(&mut self.asked, &mut self.parked.asked);
            return 1 - at;
        }
        at
    }

    fn tell(&mut self, worker: &mut Worker<'_, Rows>, fact: Fact<Rows>) {
        let is_cut = self.line.side.is_up && self.line.side.is_cut;
        worker.on(fact, Moment { now: self.line.now, draw: 0.5, is_cut }, &mut self.shared);
        self.rows.restored.borrow_mut().drain(..).for_each(|item| self.books.untell(&item));
        while let Some(action) = worker.next_action() {
            if matches!(action, Action::Done) {
                self.line.abandon();
                self.line.side = Side::default();
                self.asked.is_over = true;
                return;
            }
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action<Rows>) {
        match action {
            Action::Report(report) => self.report(report),
            Action::Connect { deadline, .. } => {
                assert!(!self.line.side.is_up, "one session at a time");
                self.asked.connecting = Some(deadline);
            }
            Action::Feed { size, wait } => {
                assert!(self.asked.feeding.is_none(), "one question at a time");
                self.asked.feeding = Some((size, wait));
            }
            Action::Disconnect => self.line.disconnect(),
            Action::Abandon => self.line.abandon(),
            Action::Cancel => self.line.cancel(),
            Action::Done => {}
            message => {
                assert!(self.line.side.is_up, "a message without a session");
                self.line.side.sent.push_back(Message::of(message));
            }
        }
    }

    /// One of the things that may happen to a worker now. As a rule the server is faster than all else. `None`: nothing.
    fn next_fact(&mut self, wake: Option<Duration>) -> Option<Fact<Rows>> {
        if self.is_closing && !std::mem::replace(&mut self.asked.told_closing, true) {
            return Some(Fact::Closing);
        }
        self.is_halted |= self.line.tape.one_of(false, 3, &[true]);
        if self.is_halted && !std::mem::replace(&mut self.asked.told_halted, true) {
            return Some(Fact::Halted);
        }
        let mut may: Vec<u8> = Vec::new();
        may.extend((!self.line.side.heard.is_empty()).then_some(0));
        may.extend((!self.line.side.sent.is_empty()).then_some(1));
        may.extend(self.asked.connecting.map(|_| 2));
        may.extend(self.asked.feeding.map(|_| 3));
        may.extend(wake.map(|_| 4));
        assert!(!may.is_empty(), "nothing will ever happen");
        let place = self.line.tape.one_of(0, 80, &[1, 2, 3, 4]);
        match may[place % may.len()] {
            0 => {
                let last = self.line.side.heard.len() - 1;
                let place = self.line.tape.one_of(0, 40, &[1, 2]).min(last);
                self.line.side.heard.remove(place)
            }
            1 if self.line.is_blocked() => {
                self.blocked += 1;
                if self.blocked > 20 {
                    self.line.end_deadlock();
                }
                None
            }
            1 => {
                self.blocked = 0;
                self.line.turn_to_next();
                None
            }
            2 => Some(self.line.connect(self.asked.connecting.take().unwrap_or_default())),
            3 => Some(self.feed()),
            _ => {
                // A session may break while nothing is on its way.
                if self.line.side.is_up && self.line.tape.one_of(false, 20, &[true]) {
                    self.line.abandon();
                }
                self.line.now = self.line.now.max(wake.unwrap_or_default());
                Some(Fact::Tick)
            }
        }
    }

    fn feed(&mut self) -> Fact<Rows> {
        let (size, wait) = self.asked.feeding.take().unwrap_or_default();
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
