//! One connection's work: chunk after chunk, each in a transaction, through losses.
//!
//! In steady state a chunk takes one round trip: the COMMIT of one chunk travels with the BEGIN and the
//! work of the next. A COMMIT is sent only when the answer to its work is there, and with it the
//! transaction's id: without the id a lost answer could not be looked up. Where every row is as expected, the
//! id alone is waited for, and the server works on one chunk while the next is on its way ([`ahead`]).
//!
//! Where a chunk may be worked on twice, these COMMITs do not wait for the disk; many of them are made to last at
//! once ([`held`]).
//!
//! This file is the loop. What it does next is chosen in [`choice`]; a chunk's round trip is [`trip`], [`ahead`] or [`claim`];
//! what comes of it [`outcome`]; a lost session is replaced in [`line`], and a commit in doubt cleared up in [`doubt`].
//! What was counted on a server that another one has replaced is looked after in [`counted`], and how a run that is stopped
//! ends in time is [`halt`].

mod ahead;
mod choice;
mod chunk;
mod claim;
mod counted;
mod doubt;
mod halt;
mod held;
mod line;
mod outcome;
mod trip;

use std::sync::Mutex;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::Span;

use self::choice::Move;
use self::chunk::Chunk;
use self::claim::Hunt;
pub(crate) use self::halt::Halt;
use self::line::Line;
use self::outcome::Unresolved;
use super::books::Books;
use super::feed::Feed;
use super::labor::Labor;
use super::past::Past;
use crate::decide::backoff::Backoff;
use crate::decide::chunk::blame::Streak;
use crate::decide::chunk::pace::Pace;
use crate::decide::chunk::size::Sizer;
use crate::event::{Event, SqlState};
use crate::pg::Failure;
use crate::pg::connect::Endpoint;
use crate::pg::update::{Key, Remnant};
use crate::telemetry::spans::Server;

/// What a run's workers share.
pub(crate) struct Shop<'a, L: Labor> {
    pub(crate) labor: &'a L,
    pub(crate) feed: &'a Feed<L::Item>,
    pub(crate) books: &'a Books,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) server: &'a Server,
    pub(crate) task: &'a str,
    pub(crate) span: &'a Span,
    /// No new chunk once it is cancelled.
    pub(crate) stop: &'a CancellationToken,
    /// The caller's own word.
    pub(crate) halt: &'a Halt,
    pub(crate) past: &'a Past<L::Kept>,
    pub(crate) streak: &'a Mutex<Streak>,
    pub(crate) sizer: Sizer,
    pub(crate) max_attempts: u32,
    pub(crate) retry: Backoff,
    pub(crate) reconnect_wait: Duration,
    pub(crate) keys: usize,
}

pub(crate) struct Worker<'a, L: Labor> {
    shop: &'a Shop<'a, L>,
    line: Option<Line<L::Desk>>,
    /// What the last session was lost with.
    lost: Option<SqlState>,
    /// The last session, which the server may still have.
    remnant: Option<Remnant>,
    sizer: Sizer,
    pace: Pace,
    /// Worked, COMMIT not sent.
    open: Option<Chunk<L::Item>>,
    /// Committed, not yet flushed; the oldest first.
    held: Vec<Chunk<L::Item>>,
    flush_failures: u32,
    flushes_lost: u32,
    /// COMMIT sent, answer lost.
    doubtful: Option<(Chunk<L::Item>, Failure)>,
    /// To be tried again, and one put together ahead of time; the last is next.
    again: Vec<Chunk<L::Item>>,
    hunt: Hunt,
    /// A row that is left and cannot be claimed, and how often it was met.
    stuck: (Option<Key>, u32),
    claim_failures: u32,
}

impl<'a, L: Labor> Worker<'a, L> {
    pub(crate) fn new(shop: &'a Shop<'a, L>) -> Self {
        Self {
            shop,
            line: None,
            lost: None,
            remnant: None,
            sizer: shop.sizer,
            pace: Pace::new(),
            open: None,
            held: Vec::new(),
            flush_failures: 0,
            flushes_lost: 0,
            doubtful: None,
            again: Vec::new(),
            hunt: Hunt::Free,
            stuck: (None, 0),
            claim_failures: 0,
        }
    }

    /// Works until nothing is left, the run is stopped, or no session can be had any more.
    pub(crate) async fn run(mut self) {
        loop {
            self.leave_cancelled();
            if let Err(failure) = self.ensure_line().await {
                self.leave_off(failure.as_ref());
                return;
            }
            if self.doubtful.is_some() {
                self.settle_doubt().await;
                continue;
            }
            if !self.check_held().await || !self.check_past().await {
                continue;
            }
            match self.next().await {
                Move::Leave => {
                    if let Some(line) = self.line.take() {
                        line.close().await;
                    }
                    self.leave_off(None);
                    return;
                }
                Move::Settle => self.settle().await,
                // It broke during a pause, which is no attempt of the chunk's.
                Move::Work(chunk) if self.is_line_closed() => self.again.push(*chunk),
                Move::Work(chunk) if chunk.is_to_be_claimed() => self.claim_again(*chunk).await,
                Move::Work(chunk) => self.work(*chunk).await,
                Move::Claim => self.claim().await,
            }
        }
    }

    /// A session that was told to cancel what it does does nothing more: a cancel may come late.
    fn leave_cancelled(&mut self) {
        if self.line.as_ref().is_some_and(|line| line.under_way.is_cancelled()) {
            self.put_down();
            self.withdraw_open();
        }
    }

    /// Reports what is still at hand: as failed where no session can be had, else as left.
    fn leave_off(mut self, failure: Option<&Failure>) {
        let shop = self.shop;
        if let Some(failure) = failure {
            shop.books.line_down(failure);
        }
        if let Some((chunk, lost)) = self.doubtful.take() {
            self.unresolved(&chunk, Unresolved::NobodyAsked, &lost);
        }
        for chunk in std::mem::take(&mut self.held) {
            shop.books.observe(&Event::CommitInDoubt);
            self.unresolved(&chunk, Unresolved::Unflushed, failure.unwrap_or(&Failure::lost("no session")));
        }
        for chunk in std::mem::take(&mut self.again) {
            match failure {
                Some(failure) if chunk.reread => self.unresolved(&chunk, Unresolved::NobodyAsked, failure),
                // Its rows are free for others, and if there are none, the claims are not over.
                Some(_) if chunk.is_to_be_claimed() => self.let_go(&chunk.items),
                Some(failure) if !shop.halt.is_asked() => self.give_up(&chunk, failure),
                _ => {
                    self.let_go(&chunk.items);
                    shop.books.left_behind(chunk.len());
                }
            }
        }
    }
}
