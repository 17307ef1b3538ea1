//! What is made to last, and what another life of the server says of it.

use crate::decide::chunk::Class;
use crate::decide::chunk::course::{Next, NoFlush, Replay, Status};
use crate::decide::chunk::flush;
use crate::decide::chunk::survival::{Survival, fate};

use super::line::Failure;
use super::outcome::DRAW;
use super::trips::Flush;
use super::worker::{Attempt, Chunk, Counted, Worker};
use super::{Item, Told};

/// Flushes in a row that may fail while the session lives.
const FLUSHES: u32 = 3;
/// Questions about a transaction in progress before patience ends.
const PATIENCE: u32 = 3;

impl Worker {
    pub(super) const fn is_unsettled(&self) -> bool {
        self.open.is_some() || !self.held.is_empty()
    }

    pub(super) fn is_flush_due(&self) -> bool {
        let keys = self.held.iter().map(|chunk| chunk.items.len() + chunk.twins.len()).sum();
        self.held.first().is_some_and(|oldest| flush::is_due(keys, self.line.now - oldest.attempt.began))
    }

    pub(super) fn settle(&mut self) {
        let commit = self.commit_next();
        let committed = self.line.send_commit(commit.is_some());
        if self.held.is_empty() && !self.line.is_lazy() {
            self.on_commit(commit, committed);
            return;
        }
        let flushed = self.line.send_flush();
        let waited = committed.is_ok_and(|waited| waited);
        let refused = self.on_commit(commit, committed);
        if !refused || flushed.is_ok() {
            self.on_flush(flushed.map(|flush| Flush { waited: flush.waited && waited, ..flush }));
        }
    }

    fn on_flush(&mut self, flushed: Result<Flush, Failure>) {
        let Some(session) = &self.line.session else { return };
        match flushed {
            Ok(Flush { life, waited: true }) if life == session.life => {
                (self.flush_failures, self.flushes_lost) = (0, 0);
                for mut chunk in std::mem::take(&mut self.held) {
                    chunk.course.on_flushed();
                    self.committed(chunk);
                }
            }
            Ok(Flush { life, .. }) if life == session.life => self.on_no_flush(),
            Ok(_) => self.lose(),
            Err(failure) if failure.is_connection_lost() => {
                self.flushes_lost += 1;
                let why = self.why_not();
                self.lose();
                if self.flushes_lost >= self.max_attempts {
                    self.flushes_lost = 0;
                    self.unflushed(why);
                }
            }
            Err(_) => self.on_no_flush(),
        }
    }

    fn on_no_flush(&mut self) {
        self.flush_failures += 1;
        if self.flush_failures < FLUSHES {
            return;
        }
        self.flush_failures = 0;
        let why = self.why_not();
        if why == NoFlush::Refused {
            self.lose();
        }
        self.unflushed(why);
    }

    fn why_not(&self) -> NoFlush {
        if self.line.world.is_synchronous { NoFlush::Unreplicated } else { NoFlush::Refused }
    }

    fn unflushed(&mut self, why: NoFlush) {
        for mut chunk in std::mem::take(&mut self.held).into_iter().rev() {
            let next = chunk.course.on_unflushed(why, chunk.items.len(), DRAW);
            if !matches!(next, Next::Unresolved | Next::Done) {
                chunk.reread = true;
                chunk.counted.clone_from(&chunk.attempt.classes);
            }
            self.go_on(chunk, next);
        }
    }

    // --- What another life of the server says -------------------------------------------------------------------------

    pub(super) fn settle_doubt(&mut self) {
        for asked in 1.. {
            let Some(chunk) = self.doubtful.take() else { return };
            match self.fate(&chunk) {
                Ok(status) => self.on_status(chunk, status, asked < PATIENCE),
                Err(_) => {
                    self.doubtful = Some(chunk);
                    return self.lose();
                }
            }
        }
    }

    fn on_status(&mut self, mut chunk: Chunk, status: Status, patient: bool) {
        let next = chunk.course.on_status(status, patient, chunk.items.len(), DRAW);
        if let Next::Ask(_) = next {
            self.doubtful = Some(chunk);
            return;
        }
        if status == Status::Unknown {
            chunk.reread = true;
            chunk.counted.clone_from(&chunk.attempt.classes);
        }
        chunk.attempt.life = self.line.session.clone();
        self.go_on(chunk, next);
    }

    fn fate(&mut self, chunk: &Chunk) -> Result<Status, Failure> {
        let Attempt { id, written, life, .. } = &chunk.attempt;
        let (Some(id), Some(life), Some(now)) = (id, life, self.line.session.clone()) else {
            return Ok(Status::Unknown);
        };
        let is_same = life.life == now.life;
        let survival = now.survival(life, *written);
        if !is_same && survival == Survival::Gone {
            return Ok(Status::Aborted);
        }
        let status = self.line.ask(*id)?;
        Ok(if is_same { status } else { fate(survival, status, now.is_akin(life), self.replay) })
    }

    pub(super) fn check_held(&mut self) -> bool {
        let mut held = std::mem::take(&mut self.held);
        while let Some(chunk) = held.pop() {
            if self.line.is_of(chunk.attempt.life.as_ref()) {
                self.held.insert(0, chunk);
                continue;
            }
            match self.fate(&chunk) {
                Ok(status) => self.on_status(chunk, status, false),
                Err(_) => {
                    held.push(chunk);
                    self.held.splice(0..0, held);
                    self.lose();
                    return false;
                }
            }
        }
        true
    }

    pub(super) fn check_past(&mut self) -> bool {
        let Some(now) = self.line.session.clone() else { return false };
        for counted in std::mem::take(&mut self.past) {
            if counted.life.life == now.life {
                self.past.push(counted);
                continue;
            }
            let survival = match now.survival(&counted.life, counted.written) {
                Survival::Gone if counted.id.is_none() => Survival::Unknown,
                survival => survival,
            };
            let status = counted.id.map_or(Status::Committed, |id| self.line.world.status(id));
            match (survival, status) {
                (Survival::Told, Status::Committed) => {
                    self.past.push(Counted { life: now.clone(), ..counted });
                }
                (Survival::Gone, _) | (Survival::Told, Status::Aborted) => {
                    self.count_anew(counted.done, false)
                }
                _ => self.count_anew(counted.done, true),
            }
        }
        true
    }

    fn count_anew(&mut self, done: Vec<(Item, Class)>, is_unknown: bool) {
        let (items, classes): (Vec<_>, Vec<_>) = done.into_iter().unzip();
        items.iter().for_each(|item| self.books.untell(item));
        let mut chunk = self.chunk(items, Vec::new());
        if is_unknown && self.replay == Replay::Unsafe {
            return self.books.tell_all(&chunk, Told::Unresolved);
        }
        if is_unknown {
            chunk.reread = true;
            chunk.course = chunk.course.unsure();
            chunk.counted = classes;
        }
        self.again.push(chunk);
    }
}
