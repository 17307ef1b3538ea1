//! One round trip: COMMIT of the chunk before, BEGIN and the work of the next.

use futures_util::future::join3;

use super::super::labor::Labor;
use super::Worker;
use super::chunk::{Attempt, Chunk};

impl<L: Labor> Worker<'_, L> {
    /// The open chunk, whose COMMIT is about to be sent.
    pub(super) fn commit_next(&mut self) -> Option<Chunk<L::Item>> {
        let mut chunk = self.open.take()?;
        chunk.course.on_commit_sent(self.line.as_ref().is_none_or(|line| !line.is_lazy));
        Some(chunk)
    }

    /// Commits the open chunk and works on the next, in one round trip.
    pub(super) async fn work(&mut self, mut chunk: Chunk<L::Item>) {
        if self.may_go_ahead(&chunk) {
            return self.go_ahead(chunk).await;
        }
        let shop = self.shop;
        let commit = self.commit_next();
        shop.begin(&mut chunk);
        let Some(line) = &self.line else { return };
        let work = shop.labor.work(&line.client, &line.desk, &chunk.items);
        // Polled in order: COMMIT is sent first, and while the server works the next chunk is put together.
        let commit_sent = line.send_commit(commit.is_some());
        let (committed, worked, ahead) = join3(commit_sent, work, self.look_ahead()).await;
        let first = self.again.len();
        let refused = self.on_commit(commit, committed).await;
        let second = self.again.len();
        if (refused || second > first) && self.line.is_some() {
            self.withdraw(chunk).await;
        } else {
            self.on_work(chunk, worked).await;
        }
        // The last is next. What comes again keeps its order, and goes before what is new.
        self.again[first..].rotate_left(second - first);
        self.again.splice(0..0, ahead);
    }

    /// Takes back the work on a chunk whose predecessor has to come again: of duplicate keys the later line is
    /// the last word.
    pub(super) async fn withdraw(&mut self, chunk: Chunk<L::Item>) {
        self.roll_back().await;
        self.take_back(chunk);
    }

    /// The open chunk, whose session is gone or going.
    pub(super) fn withdraw_open(&mut self) {
        if let Some(chunk) = self.open.take() {
            self.take_back(chunk);
        }
    }

    /// A chunk that is rolled back, by our own will.
    pub(super) fn take_back(&mut self, mut chunk: Chunk<L::Item>) {
        chunk.course.on_withdrawn();
        chunk.attempt = Attempt::none();
        self.again.push(chunk);
    }
}
