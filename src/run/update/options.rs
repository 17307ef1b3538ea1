//! The options that every chunked run has.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::chunk_work::ChunkWork;
use crate::decide::backoff::Backoff;
use crate::decide::update::gate::PipelineGate;
use crate::decide::update::size::{MOST, Sizer};
use crate::decide::update::worker::Settings;
use crate::error::Error;
use crate::settings::{check_task, duration, within};

/// How many keys a chunk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkSize {
    /// So many; 1 to 10,000.
    Keys(u32),
    /// As many as take about 50 ms, 10 to 10,000: grows and shrinks by a quarter at a time, and halves
    /// when a chunk has to be tried again.
    Auto,
}

/// The options that updates and batches share.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) task: String,
    pub(crate) chunk: ChunkSize,
    pub(crate) connections: u32,
    pub(crate) max_attempts: u32,
    pub(crate) retry_delay: Duration,
    pub(crate) reconnect_wait: Duration,
    pub(crate) cancel_grace: Duration,
    pub(crate) deadline: Option<Duration>,
    pub(crate) stop: CancellationToken,
}

impl Options {
    pub(super) fn new(task: &str) -> Self {
        Self {
            task: task.to_owned(),
            chunk: ChunkSize::Keys(100),
            connections: 1,
            max_attempts: 5,
            retry_delay: Duration::from_secs(2),
            reconnect_wait: Duration::from_mins(2),
            cancel_grace: Duration::from_secs(5),
            deadline: None,
            stop: CancellationToken::new(),
        }
    }

    /// Does the work, and stops it in good order when its time is over, after that was said.
    pub(super) async fn in_time<T>(&self, work: impl Future<Output = T>, say: impl FnOnce(Duration)) -> T {
        let Some(limit) = self.deadline else { return work.await };
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = sleep(limit) => {}
        }
        say(limit);
        self.stop.cancel();
        work.await
    }

    /// What a worker of that work is asked for.
    pub(super) fn settings<W: ChunkWork>(&self, work: &W) -> Settings {
        Settings {
            replay: work.replay(),
            own_failure: W::OWN_FAILURE,
            max_attempts: self.max_attempts,
            retry: Backoff::up_to(self.retry_delay),
            reconnect_wait: self.reconnect_wait,
            cancel_grace: self.cancel_grace,
            sizer: match self.chunk {
                ChunkSize::Keys(keys) => Sizer::fixed(keys),
                ChunkSize::Auto => Sizer::auto(),
            },
            gate: PipelineGate::new(),
        }
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        check_task(&self.task)?;
        if let ChunkSize::Keys(keys) = self.chunk {
            within("chunk", keys, 1, MOST)?;
        }
        within("connections", self.connections, 1, 256)?;
        within("max_attempts", self.max_attempts, 1, 100)?;
        if let Some(deadline) = self.deadline {
            duration("deadline", deadline, Duration::from_millis(1), Duration::from_hours(24 * 365))?;
        }
        duration("retry_delay", self.retry_delay, Duration::ZERO, Duration::from_hours(1))?;
        duration("reconnect_wait", self.reconnect_wait, Duration::ZERO, Duration::from_hours(24))?;
        duration("cancel_grace", self.cancel_grace, Duration::from_millis(10), Duration::from_hours(1))
    }
}

/// The options of [`Update`] and [`Batch`] that are the same, as methods.
macro_rules! shared_options {
    () => {
        /// The task's name: metric label, span attribute and part of `application_name`. 1 to 52 characters
        /// of `A-Z a-z 0-9 _ . -`. Keep it constant from run to run.
        #[must_use]
        pub fn task(mut self, name: &str) -> Self {
            self.options.task = name.to_owned();
            self
        }

        /// How many keys a transaction has. Default 100.
        #[must_use]
        pub const fn chunk(mut self, size: ChunkSize) -> Self {
            self.options.chunk = size;
            self
        }

        /// So many sessions work at once; 1 to 256. Default 1. Each chunk belongs to one of them.
        #[must_use]
        pub const fn connections(mut self, connections: u32) -> Self {
            self.options.connections = connections;
            self
        }

        /// Transactions that a chunk may take; 1 to 100. Default 5. A chunk that needs more is halved, until the keys
        /// that are to blame stand alone; they are reported, and all others go on. One that no retry can help (a
        /// constraint, a value that does not parse, an error of a trigger) is halved at once. Where 100 keys in a
        /// row fail alone with what may be wrong with all of them (a missing right), the run stops.
        #[must_use]
        pub const fn max_attempts(mut self, attempts: u32) -> Self {
            self.options.max_attempts = attempts;
            self
        }

        /// The longest pause before a chunk is tried again; up to 1 h. Default 2 s. The first is an eighth
        /// of it; half of each is drawn at random.
        #[must_use]
        pub const fn retry_delay(mut self, longest: Duration) -> Self {
            self.options.retry_delay = longest;
            self
        }

        /// How long to try to get a session back, and how long to wait for the fate of a commit in
        /// doubt; up to 24 h. Default 2 min. After that the keys at hand count as failed.
        #[must_use]
        pub const fn reconnect_wait(mut self, longest: Duration) -> Self {
            self.options.reconnect_wait = longest;
            self
        }

        /// How long a COMMIT under way may take once the run is stopped; 10 ms to 1 h. Default 5 s. After as much time
        /// again the run ends: what could not be learned till then is reported as
        /// [unresolved](crate::InDoubt::unresolved).
        #[must_use]
        pub const fn cancel_grace(mut self, grace: Duration) -> Self {
            self.options.cancel_grace = grace;
            self
        }

        /// How long it may take; up to a year. Default: no bound. After that it is stopped as by [`stop`](Self::stop).
        #[must_use]
        pub const fn deadline(mut self, limit: Duration) -> Self {
            self.options.deadline = Some(limit);
            self
        }

        /// Cancelling the token stops the run in good order: a chunk whose COMMIT was not sent is cancelled and rolled
        /// back, no further one is begun, and the report says what is left. See
        /// [`cancel_grace`](Self::cancel_grace). What comes before the first chunk is broken off. Running again
        /// finishes the rest.
        #[must_use]
        pub fn stop(mut self, token: CancellationToken) -> Self {
            self.options.stop = token;
            self
        }
    };
}
pub(super) use shared_options;
