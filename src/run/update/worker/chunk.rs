//! A chunk on its way: its items, the course of its attempts, the transaction under way.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;

use super::super::books::Closing;
use super::super::labor::Labor;
use super::Shop;
use crate::decide::chunk::Class;
use crate::decide::chunk::course::Course;
use crate::decide::chunk::gather::Twin;
use crate::pg::era::Life;
use crate::pg::update::Mark;
use crate::telemetry::spans;

pub(super) struct Chunk<T> {
    pub(super) number: u64,
    pub(super) items: Vec<T>,
    pub(super) twins: Vec<Twin<T>>,
    pub(super) course: Course,
    /// No new attempt before.
    pub(super) due: Instant,
    pub(super) claimed: bool,
    /// It may have taken effect: what is in its rows is to be read, whoever wrote it.
    pub(super) reread: bool,
    /// What a transaction that may have taken effect has made of its keys; empty where there was none.
    pub(super) counted: Vec<Class>,
    pub(super) attempt: Attempt,
}

/// The transaction under way.
pub(super) struct Attempt {
    pub(super) span: Span,
    pub(super) began: Instant,
    /// Up to the answer to COMMIT.
    pub(super) took: Option<Duration>,
    pub(super) mark: Mark,
    /// Which server gave the id; in another one's life it says nothing by itself.
    pub(super) life: Option<Arc<Life>>,
    pub(super) classes: Vec<Class>,
}

impl<L: Labor> Shop<'_, L> {
    /// A new chunk, with a number and a budget of its own.
    pub(super) fn chunk(
        &self,
        items: Vec<L::Item>,
        twins: Vec<Twin<L::Item>>,
        claimed: bool,
    ) -> Chunk<L::Item> {
        let course = Course::new(self.max_attempts, self.retry, self.labor.replay());
        let number = self.books.number();
        let (due, attempt) = (Instant::now(), Attempt::none());
        Chunk { number, items, twins, course, due, claimed, reread: false, counted: Vec::new(), attempt }
    }

    /// Opens an attempt, and its span.
    pub(super) fn begin(&self, chunk: &mut Chunk<L::Item>) {
        let Shop { span, task, server, labor, .. } = *self;
        chunk.course.on_begin();
        let size = chunk.items.len() as u32;
        let span = spans::chunk(span, task, chunk.number, size, server, labor.sql());
        chunk.attempt = Attempt { span, ..Attempt::none() };
    }
}

impl<T> Chunk<T> {
    /// Two halves in the place of a chunk; the lower first.
    pub(super) fn halves(self) -> [Self; 2] {
        let Self { number, mut items, twins, course, claimed, reread, mut counted, .. } = self;
        let middle = items.len().div_ceil(2);
        let upper = items.split_off(middle);
        let upper_counted = counted.split_off(middle.min(counted.len()));
        let (mut low, mut high) = (Vec::new(), Vec::new());
        for twin in twins {
            if twin.of < middle {
                low.push(twin);
            } else {
                high.push(Twin { of: twin.of - middle, ..twin });
            }
        }
        [(items, low, counted), (upper, high, upper_counted)].map(|(items, twins, counted)| {
            let course = course.half(items.len());
            let (due, attempt) = (Instant::now(), Attempt::none());
            Self { number, items, twins, course, due, claimed, reread, counted, attempt }
        })
    }

    /// What the books want to know at an attempt's end.
    pub(super) fn closing(&self) -> Closing<'_, T> {
        Closing {
            chunk: self.number,
            attempt: self.course.attempt(),
            took: self.attempt.took.unwrap_or_else(|| self.attempt.began.elapsed()),
            items: &self.items,
            twins: &self.twins,
        }
    }

    /// Whether its rows, ours while a transaction lasted, have to be claimed anew before they are worked on.
    pub(super) const fn is_to_be_claimed(&self) -> bool {
        self.claimed && !self.reread
    }

    /// The classes, where those that it may have changed before are changed: by this run.
    pub(super) fn settle_counted(&mut self) {
        for (class, counted) in self.attempt.classes.iter_mut().zip(&self.counted) {
            if (*class, *counted) == (Class::Already, Class::Updated) {
                *class = Class::Updated;
            }
        }
    }

    /// How many keys it answers for.
    pub(super) fn len(&self) -> usize {
        self.items.len() + self.twins.len()
    }
}

impl Attempt {
    /// Before the first, and between two.
    pub(super) fn none() -> Self {
        Self {
            span: Span::none(),
            began: Instant::now(),
            took: None,
            mark: Mark::default(),
            life: None,
            classes: Vec::new(),
        }
    }
}
