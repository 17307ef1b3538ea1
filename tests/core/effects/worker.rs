//! The worker of the driver, call by call, on a line that breaks.

use std::time::Duration;

use crate::decide::backoff::Backoff;
use crate::decide::chunk::Class;
use crate::decide::chunk::blame::Streak;
use crate::decide::chunk::course::{Course, Replay};
use crate::decide::chunk::gather::{Gathered, Twin, gather};
use crate::decide::chunk::pace::Pace;
use crate::decide::chunk::size::Sizer;
use crate::decide::chunk::survival::Lsn;

use super::line::{LOST, Line, PARTED, Session};
use super::world::Answer;
use super::{Books, Item, Kind, Setup, Told};

const RETRY: Backoff = Backoff { first: Duration::from_millis(10), cap: Duration::from_millis(80) };

pub(super) struct Chunk {
    pub(super) items: Vec<Item>,
    pub(super) twins: Vec<Twin<Item>>,
    pub(super) course: Course,
    pub(super) due: Duration,
    /// It may have taken effect: its rows are to be read.
    pub(super) reread: bool,
    /// What it counted as on a server that was replaced.
    pub(super) counted: Vec<Class>,
    pub(super) attempt: Attempt,
}

#[derive(Default)]
pub(super) struct Attempt {
    pub(super) began: Duration,
    pub(super) id: Option<u64>,
    pub(super) written: Option<Lsn>,
    pub(super) life: Option<Session>,
    pub(super) classes: Vec<Class>,
}

/// A chunk that was counted: what was done, and on which server.
pub(super) struct Counted {
    pub(super) life: Session,
    pub(super) id: Option<u64>,
    pub(super) written: Option<Lsn>,
    pub(super) done: Vec<(Item, Class)>,
}

pub(super) struct Worker {
    kind: Kind,
    course: Course,
    pub(super) replay: Replay,
    pub(super) line: Line,
    pub(super) books: Books,
    feed: Vec<Item>,
    pub(super) stopped: bool,
    pub(super) sizer: Sizer,
    pub(super) pace: Pace,
    pub(super) streak: Streak,
    lost: bool,
    pub(super) open: Option<Chunk>,
    pub(super) held: Vec<Chunk>,
    pub(super) doubtful: Option<Chunk>,
    pub(super) again: Vec<Chunk>,
    pub(super) past: Vec<Counted>,
    pub(super) flush_failures: u32,
    pub(super) flushes_lost: u32,
    pub(super) max_attempts: u32,
}

impl Worker {
    pub(super) fn new(setup: &Setup, line: Line) -> Self {
        let mut pace = Pace::new();
        (0..8).filter(|_| setup.is_ahead).for_each(|_| pace.on_worked(true));
        Self {
            kind: setup.kind,
            replay: setup.replay(),
            course: Course::new(setup.max_attempts, RETRY, setup.replay()),
            line,
            books: Books(vec![None; setup.items.len()]),
            feed: setup.items.iter().rev().copied().collect(),
            stopped: false,
            sizer: Sizer::fixed(setup.size),
            pace,
            streak: Streak::default(),
            lost: false,
            open: None,
            held: Vec::new(),
            doubtful: None,
            again: Vec::new(),
            past: Vec::new(),
            flush_failures: 0,
            flushes_lost: 0,
            max_attempts: setup.max_attempts,
        }
    }

    pub(super) fn run(mut self) -> (Books, Line) {
        loop {
            self.stopped |= self.line.tape.one_of(false, 6, &[true]);
            match self.ensure_line() {
                Ok(()) => {}
                Err(is_down) => return self.leave_off(is_down),
            }
            if self.doubtful.is_some() {
                self.settle_doubt();
                continue;
            }
            if !self.check_held() || !self.check_past() {
                continue;
            }
            let is_due = self.is_flush_due();
            let next = self.again.iter().rposition(|chunk| !self.stopped || chunk.reread);
            match next {
                _ if is_due => self.settle(),
                Some(next) if self.is_unsettled() && self.again[next].due > self.line.now => self.settle(),
                Some(next) => {
                    self.line.now = self.line.now.max(self.again[next].due);
                    let chunk = self.again.remove(next);
                    self.work(chunk);
                }
                None if self.stopped || !self.again.is_empty() || self.feed.is_empty() => {
                    if !self.is_unsettled() {
                        return self.leave_off(false);
                    }
                    self.settle();
                }
                None if self.is_unsettled() && self.line.tape.one_of(false, 60, &[true]) => self.settle(),
                None => {
                    let chunk = self.next_chunk();
                    self.work(chunk);
                }
            }
        }
    }

    fn leave_off(mut self, is_down: bool) -> (Books, Line) {
        let unresolved = self.doubtful.take().into_iter().chain(std::mem::take(&mut self.held));
        unresolved.for_each(|chunk| self.books.tell_all(&chunk, Told::Unresolved));
        for chunk in std::mem::take(&mut self.again) {
            let told = match is_down {
                true if chunk.reread => Told::Unresolved,
                true => Told::Failed,
                false => Told::Left,
            };
            self.books.tell_all(&chunk, told);
        }
        assert!(self.open.is_none() && (is_down || self.stopped || self.feed.is_empty()));
        std::mem::take(&mut self.feed).iter().for_each(|item| self.books.tell(item, Told::Left));
        for counted in std::mem::take(&mut self.past) {
            // Another server was met, and it could not be looked after there.
            if counted.life.life != self.line.seen {
                counted.done.iter().for_each(|(item, _)| {
                    self.books.untell(item);
                    self.books.tell(item, Told::Unresolved);
                });
            }
        }
        (self.books, self.line)
    }

    fn next_chunk(&mut self) -> Chunk {
        let size = (self.sizer.next() as usize).min(self.feed.len());
        let items: Vec<Item> = self.feed.drain(self.feed.len() - size..).rev().collect();
        let Gathered { items, twins } = match self.kind {
            Kind::Closure => Gathered { items, twins: Vec::new() },
            _ => gather(items, |item| &item.key, |_, _| true),
        };
        self.chunk(items, twins)
    }

    pub(super) fn chunk(&self, items: Vec<Item>, twins: Vec<Twin<Item>>) -> Chunk {
        let (course, due) = (self.course.clone(), self.line.now);
        Chunk { items, twins, course, due, reread: false, counted: Vec::new(), attempt: Attempt::default() }
    }
}

impl Chunk {
    /// All that it answers for.
    pub(super) fn lines(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().chain(self.twins.iter().map(|twin| &twin.item))
    }
}

// --- The session ------------------------------------------------------------------------------------------------------

impl Worker {
    /// Whether there is none any more, as the error.
    fn ensure_line(&mut self) -> Result<(), bool> {
        if self.line.session.is_some() && self.line.is_closed {
            self.lose();
        }
        if self.line.session.is_some() {
            return Ok(());
        }
        if let Some(chunk) = self.open.take() {
            self.on_failure(chunk, LOST);
        }
        loop {
            let is_needless = self.stopped || (self.lost && self.again.is_empty() && self.feed.is_empty());
            if is_needless && !self.is_bound() {
                return Err(false);
            }
            match self.line.connect() {
                Some(true) => return Ok(()),
                Some(false) => {}
                None => return Err(true),
            }
        }
    }

    fn is_bound(&self) -> bool {
        let is_behind = self.past.iter().any(|counted| counted.life.life != self.line.seen);
        is_behind
            || self.doubtful.is_some()
            || !self.held.is_empty()
            || self.again.iter().any(|chunk| chunk.reread)
    }

    pub(super) fn lose(&mut self) {
        self.line.lose();
        self.lost = true;
    }

    // --- The round trips ----------------------------------------------------------------------------------------------

    pub(super) fn commit_next(&mut self) -> Option<Chunk> {
        let mut chunk = self.open.take()?;
        chunk.course.on_commit_sent(!self.line.is_lazy());
        Some(chunk)
    }

    fn begin(&self, chunk: &mut Chunk) {
        chunk.course.on_begin();
        assert!(chunk.course.attempt() <= self.max_attempts);
        chunk.attempt = Attempt { began: self.line.now, ..Attempt::default() };
    }

    fn work(&mut self, mut chunk: Chunk) {
        let is_new = chunk.course.attempt() == 0 && !chunk.reread && self.again.is_empty();
        if is_new && self.pace.is_ahead() && self.line.is_lazy() {
            return self.go_ahead(chunk);
        }
        let commit = self.commit_next();
        self.begin(&mut chunk);
        let committed = self.line.send_commit(commit.is_some());
        let worked = self.line.send_work(&chunk.items);
        let first = self.again.len();
        let refused = self.on_commit(commit, committed);
        let second = self.again.len();
        if (refused || second > first) && self.line.session.is_some() {
            self.withdraw(chunk);
        } else {
            self.on_work(chunk, worked);
        }
        self.again[first..].rotate_left(second - first);
    }

    /// COMMIT is sent behind work that changes all or nothing, before that is answered for.
    fn go_ahead(&mut self, mut chunk: Chunk) {
        let commit = self.commit_next();
        self.begin(&mut chunk);
        let committed = self.line.send_commit(commit.is_some());
        let refused = self.on_commit(commit, committed);
        if refused || !self.again.is_empty() || self.line.session.is_none() {
            return self.withdraw(chunk);
        }
        let id = match self.line.send_begin() {
            Ok(id) => id,
            Err(failure) => return self.on_failure(chunk, failure),
        };
        let worked = self.line.send_whole(&chunk.items);
        chunk.attempt.id = Some(id);
        chunk.attempt.life = self.line.session.clone();
        chunk.attempt.classes = vec![Class::Updated; chunk.items.len()];
        let committed = match worked {
            // Not every key was there to be updated.
            Err(failure) if failure == PARTED => {
                self.pace.on_parted();
                return self.withdraw(chunk);
            }
            Err(failure) if !failure.leaves_commit_open() => {
                self.line.roll_back();
                return self.on_failure(chunk, failure);
            }
            Err(failure) => Err(failure),
            Ok(Answer { written, .. }) => {
                chunk.attempt.written = written;
                self.line.send_commit(true)
            }
        };
        chunk.course.on_worked(true);
        chunk.course.on_commit_sent(!self.line.is_lazy());
        self.on_commit(Some(chunk), committed);
    }
}
