//! Chunks sent ahead of the answers, so that the server need not wait for us.
//!
//! In a plain [`trip`](super::trip) COMMIT is sent when the work is answered for, and the server is idle for as long
//! as both travel. Here COMMIT and the next chunk are sent while the server still works, which takes two things:
//!
//! - A transaction's id is asked for before its work, and answered while the server works. So it is known before
//!   COMMIT is sent, as ever.
//! - The work updates every key or fails. So where the commit took effect, whoever says so, all keys were updated; and
//!   where it did not, none.
//!
//! A chunk whose work fails for that reason is made again the plain way, which tells its keys apart. When it is worth
//! a try is said by [`Pace`](crate::decide::chunk::pace::Pace).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::{join, join3};
use tokio::time::Instant;

use super::super::labor::Labor;
use super::chunk::{Attempt, Chunk};
use super::line::{Committed, Line};
use super::{Shop, Worker};
use crate::decide::chunk::Class;
use crate::decide::chunk::survival::Lsn;
use crate::pg::Failure;
use crate::pg::update::{Answer, Mark, is_parted};

/// A chunk, and what the work on it came to.
type Worked<T> = (Chunk<T>, Result<Option<Lsn>, Failure>);

/// Work that was sent.
enum Work<W: Future> {
    Going(Pin<Box<W>>),
    Done(W::Output),
}

/// A chunk whose work was sent.
struct Sent<W: Future> {
    work: Work<W>,
    /// Its transaction's id.
    began: Result<String, Failure>,
    /// When the server turned to it: the one before was committed.
    since: Option<Instant>,
}

/// The chunk before.
enum Before<T, W: Future> {
    None,
    /// Its work is answered for.
    Worked(Chunk<T>),
    Sent(Sent<W>),
}

/// What became of it.
enum Ended<T> {
    None,
    /// COMMIT was sent, and answered so.
    Committing(Chunk<T>, Result<Committed, Failure>),
    /// Its work failed; there was nothing to commit.
    Failed(Chunk<T>, Failure),
}

impl<L: Labor> Worker<'_, L> {
    /// Whether the chunk may go ahead, and others behind it. One that was tried before is told apart.
    pub(super) fn may_go_ahead(&self, chunk: &Chunk<L::Item>) -> bool {
        let Some(line) = &self.line else { return false };
        let is_new = chunk.course.attempt() == 0 && !chunk.reread && self.again.is_empty();
        is_new && self.pace.is_ahead() && line.is_lazy && self.shop.labor.whole(&line.desk).is_some()
    }

    /// Commits the open chunk, and works on this one and on those that follow, until something is in the way or
    /// a flush is due. The last one is left open.
    pub(super) async fn go_ahead(&mut self, mut chunk: Chunk<L::Item>) {
        let shop = self.shop;
        let commit = self.commit_next();
        let Some(line) = self.line.take() else { return };
        let mut before = commit.map_or(Before::None, Before::Worked);
        let (ended, last, next) = loop {
            shop.begin(&mut chunk);
            let work = Box::pin(work(shop, &line, chunk));
            // Polled in order: COMMIT is sent first, the work last.
            let trip = join3(end(before, &line), begin(shop, &line), self.look_ahead());
            let ((ended, began, next), work) = alongside(trip, work).await;
            let sent = Sent { work, began, since: ended.committed_at() };
            if !ended.is_well() || sent.began.is_err() {
                break (ended, sent, next);
            }
            self.on_ended(ended).await;
            match next {
                Some(next) if !self.is_flush_due() => (before, chunk) = (Before::Sent(sent), next),
                next => break (Ended::None, sent, next),
            }
        };
        let (last, worked) = last.answered(&line).await;
        self.line = Some(line);
        let refused = self.on_ended(ended).await;
        let again = self.again.len();
        if (refused || again > 0) && self.line.is_some() {
            self.withdraw(last).await;
        } else {
            self.on_work_ahead(last, worked).await;
        }
        // The last is next; this goes before what is new.
        self.again.rotate_left(again);
        self.again.splice(0..0, next);
    }

    /// Returns whether the session has no transaction then that could be gone on with.
    async fn on_ended(&mut self, ended: Ended<L::Item>) -> bool {
        match ended {
            Ended::None => false,
            Ended::Committing(chunk, committed) => self.on_commit(Some(chunk), committed).await,
            Ended::Failed(mut chunk, failure) if is_parted(&failure) => {
                self.pace.on_parted();
                chunk.course.on_withdrawn();
                chunk.attempt = Attempt::none();
                self.again.push(chunk);
                false
            }
            Ended::Failed(chunk, failure) => {
                self.on_failure(chunk, failure);
                false
            }
        }
    }

    /// The work on the last one, whose COMMIT was not sent.
    async fn on_work_ahead(&mut self, chunk: Chunk<L::Item>, worked: Result<Option<Lsn>, Failure>) {
        match worked {
            Err(failure) if is_parted(&failure) => {
                self.pace.on_parted();
                self.withdraw(chunk).await;
            }
            worked => {
                let Attempt { mark, classes, .. } = &chunk.attempt;
                let answer = Answer { mark: mark.clone(), classes: classes.clone() };
                self.on_work(chunk, worked.map(|_| answer)).await;
            }
        }
    }
}

/// Sends BEGIN, and has the transaction's id.
async fn begin<L: Labor>(shop: &Shop<'_, L>, line: &Line<L::Desk>) -> Result<String, Failure> {
    let (whole, _) = shop.labor.whole(&line.desk).ok_or_else(nothing_whole)?;
    whole.begin(&line.client).await
}

/// Sends the work on a chunk; the chunk, and what came of it.
async fn work<L: Labor>(shop: &Shop<'_, L>, line: &Line<L::Desk>, chunk: Chunk<L::Item>) -> Worked<L::Item> {
    let worked = async {
        let (whole, statements) = shop.labor.whole(&line.desk).ok_or_else(nothing_whole)?;
        let items = chunk.items.iter().filter_map(|item| shop.labor.show(item));
        let rows: Vec<_> = items.map(|item| &*item.fields).collect();
        whole.work(&line.client, statements, &rows).await
    };
    let worked = worked.await;
    (chunk, worked)
}

/// Whoever goes ahead has asked before.
fn nothing_whole() -> Failure {
    Failure::client("the chunk cannot be updated as a whole")
}

/// Sends COMMIT of the chunk before.
async fn end<T, D, W>(before: Before<T, W>, line: &Line<D>) -> Ended<T>
where
    W: Future<Output = Worked<T>>,
{
    match before {
        Before::None => Ended::None,
        Before::Worked(chunk) => Ended::Committing(chunk, line.send_commit(true).await),
        Before::Sent(sent) => {
            let ((mut chunk, worked), committed) = join(sent.answered(line), line.send_commit(true)).await;
            match worked {
                Err(failure) if !failure.leaves_commit_open() => Ended::Failed(chunk, failure),
                // Done, or lost together with the COMMIT behind it.
                worked => {
                    chunk.course.on_worked(true);
                    chunk.course.on_commit_sent(!line.is_lazy);
                    Ended::Committing(chunk, worked.map(drop).and(committed))
                }
            }
        }
    }
}

impl<T, W: Future<Output = Worked<T>>> Sent<W> {
    /// The chunk, with all that a commit in doubt needs to know, and what its work came to.
    async fn answered<D>(self, line: &Line<D>) -> Worked<T> {
        let (mut chunk, worked) = match self.work {
            Work::Going(work) => work.await,
            Work::Done(worked) => worked,
        };
        let size = chunk.items.len();
        let attempt = &mut chunk.attempt;
        attempt.began = self.since.unwrap_or(attempt.began);
        attempt.life = Some(Arc::clone(&line.life));
        attempt.classes = vec![Class::Updated; size];
        match self.began {
            Ok(xid) => {
                attempt.mark = Mark { xid: Some(xid), written: worked.as_ref().ok().copied().flatten() };
                (chunk, worked)
            }
            Err(failure) => (chunk, Err(failure)),
        }
    }
}

impl<T> Ended<T> {
    /// Whether nothing is in the way of the next chunk.
    const fn is_well(&self) -> bool {
        matches!(self, Self::None | Self::Committing(_, Ok(_)))
    }

    fn committed_at(&self) -> Option<Instant> {
        match self {
            Self::Committing(_, Ok(committed)) => Some(committed.at),
            _ => None,
        }
    }
}

/// Waits for the one, and goes on with the work meanwhile.
async fn alongside<M: Future, W: Future>(main: M, mut work: Pin<Box<W>>) -> (M::Output, Work<W>) {
    let mut main = pin!(main);
    let mut answer = None;
    let done = poll_fn(|context| {
        let done = main.as_mut().poll(context);
        if answer.is_none()
            && let Poll::Ready(worked) = work.as_mut().poll(context)
        {
            answer = Some(worked);
        }
        done
    });
    let done = done.await;
    (done, answer.map_or(Work::Going(work), Work::Done))
}
