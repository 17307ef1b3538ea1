//! What comes of a chunk's work and of its COMMIT.

use crate::decide::chunk::Class;
use crate::decide::chunk::blame::blame;
use crate::decide::chunk::course::{Fault, Next};
use crate::decide::chunk::gather::Twin;

use super::Told;
use super::line::{Failure, LOST};
use super::worker::{Attempt, Chunk, Counted, Worker};
use super::world::Answer;

pub(super) const DRAW: f64 = 0.5;

impl Worker {
    pub(super) fn on_work(&mut self, mut chunk: Chunk, worked: Result<Answer, Failure>) {
        match worked {
            Ok(Answer { id, written, classes }) => {
                self.pace.on_worked(classes.iter().all(|class| *class == Class::Updated));
                chunk.course.on_worked(id.is_some());
                let life = self.line.session.clone();
                self.line.tape.say("worked", (id, written, &classes));
                chunk.attempt = Attempt { id, written, life, classes, ..chunk.attempt };
                chunk.settle_counted();
                self.open = Some(chunk);
            }
            Err(failure) => {
                if !failure.is_connection_lost() {
                    self.line.roll_back();
                }
                self.on_failure(chunk, failure);
            }
        }
    }

    /// Whether the server has refused to commit.
    pub(super) fn on_commit(&mut self, chunk: Option<Chunk>, committed: Result<bool, Failure>) -> bool {
        let Some(mut chunk) = chunk else { return false };
        match committed {
            Ok(waited) => {
                self.streak.on_success();
                match chunk.course.on_committed(waited) {
                    Next::Hold => self.held.push(chunk),
                    _ => self.committed(chunk),
                }
                false
            }
            Err(failure) if failure.leaves_commit_open() => {
                self.on_failure(chunk, LOST);
                false
            }
            Err(failure) => {
                self.line.roll_back();
                self.on_failure(chunk, failure);
                true
            }
        }
    }

    pub(super) fn committed(&mut self, chunk: Chunk) {
        let Chunk { items, twins, attempt: Attempt { id, written, life, classes, .. }, .. } = chunk;
        for (item, class) in items.iter().zip(&classes) {
            self.books.tell(item, Told::Counted(*class));
        }
        for twin in &twins {
            self.books.tell(&twin.item, Told::Counted(twin.class(classes[twin.of])));
        }
        let done = items.into_iter().zip(classes);
        let done: Vec<_> =
            done.filter(|(_, class)| matches!(class, Class::Updated | Class::Already)).collect();
        if let (Some(life), false) = (life, done.is_empty()) {
            self.past.push(Counted { life, id, written, done });
        }
    }

    pub(super) fn on_failure(&mut self, mut chunk: Chunk, failure: Failure) {
        if failure.is_connection_lost() {
            self.lose();
            // It was sent behind a COMMIT, and lost with that.
            if self.doubtful.is_some() {
                return self.take_back(chunk);
            }
        }
        let blame = blame(failure.code);
        let fault = Fault { class: failure.class(), blame };
        let mut next = chunk.course.on_failed(fault, chunk.items.len(), DRAW);
        if next == Next::GiveUp && !failure.class().is_retryable() && self.streak.on_given_up(blame) {
            next = Next::Stop;
        }
        self.go_on(chunk, next);
    }

    pub(super) fn withdraw(&mut self, chunk: Chunk) {
        self.line.roll_back();
        self.take_back(chunk);
    }

    fn take_back(&mut self, mut chunk: Chunk) {
        chunk.course.on_withdrawn();
        chunk.attempt = Attempt::default();
        self.again.push(chunk);
    }

    pub(super) fn go_on(&mut self, mut chunk: Chunk, next: Next) {
        self.line.tape.say("goes on", (&chunk.items, next));
        match next {
            Next::Done => self.committed(chunk),
            Next::Hold => self.held.push(chunk),
            Next::Ask(_) => self.doubtful = Some(chunk),
            Next::Retry(pause) => {
                self.sizer.on_retried();
                chunk.due = self.line.now + pause;
                chunk.attempt = Attempt::default();
                self.again.push(chunk);
            }
            Next::Split => self.again.extend(chunk.halves().into_iter().rev()),
            Next::GiveUp => self.books.tell_all(&chunk, Told::Failed),
            Next::Unresolved => self.books.tell_all(&chunk, Told::Unresolved),
            Next::Stop => {
                self.books.tell_all(&chunk, if chunk.reread { Told::Unresolved } else { Told::Failed });
                self.stopped = true;
            }
        }
    }
}

impl Chunk {
    fn halves(self) -> [Self; 2] {
        let Self { mut items, twins, course, due, reread, mut counted, .. } = self;
        let middle = items.len().div_ceil(2);
        let upper = items.split_off(middle);
        let upper_counted = counted.split_off(middle.min(counted.len()));
        let (low, high): (Vec<_>, Vec<_>) = twins.into_iter().partition(|twin| twin.of < middle);
        let high = high.into_iter().map(|twin| Twin { of: twin.of - middle, ..twin }).collect();
        [(items, low, counted), (upper, high, upper_counted)].map(|(items, twins, counted)| {
            let course = course.half(items.len());
            Self { items, twins, course, due, reread, counted, attempt: Attempt::default() }
        })
    }

    fn settle_counted(&mut self) {
        for (class, counted) in self.attempt.classes.iter_mut().zip(&self.counted) {
            if (*class, *counted) == (Class::Already, Class::Updated) {
                *class = Class::Updated;
            }
        }
    }
}
