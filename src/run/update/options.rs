//! The options that every chunked run has.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::decide::backoff::Backoff;
use crate::decide::update::fault_scope::FaultScope;
use crate::decide::update::gate::PipelineGate;
use crate::decide::update::size::{MOST, Sizer};
use crate::decide::update::worker::Settings;
use crate::error::Error;
use crate::settings::{check_task, duration, within};

/// The number of keys per chunk, which is one transaction.
///
/// ```no_run
/// # fn job(headcount: &headcount::Headcount) {
/// use headcount::ChunkSize;
///
/// let update = headcount.update("orders").chunk(ChunkSize::Auto);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkSize {
    /// This many; 1 to 10,000.
    Keys(u32),
    /// As many as take about 50 ms, 10 to 10,000. It grows and shrinks by a quarter at a time, and halves when a chunk
    /// is retried.
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

    /// What a worker is asked for; whom a failure without a SQLSTATE is to be blamed on.
    pub(super) fn settings(&self, own_failure: FaultScope) -> Settings {
        Settings {
            own_failure,
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
        /// Sets the task's name: metric label, span attribute and part of `application_name`. 1 to 52 characters of
        /// `A-Z a-z 0-9 _ . -`. Use the same name for every run of a job.
        #[must_use]
        pub fn task(mut self, name: &str) -> Self {
            self.options.task = name.to_owned();
            self
        }

        /// Sets the number of keys per transaction. Default 100.
        #[must_use]
        pub const fn chunk(mut self, size: ChunkSize) -> Self {
            self.options.chunk = size;
            self
        }

        /// Sets the number of sessions that work in parallel; 1 to 256. Default 1.
        #[must_use]
        pub const fn connections(mut self, connections: u32) -> Self {
            self.options.connections = connections;
            self
        }

        /// Sets the maximum number of transactions per chunk; 1 to 100. Default 5. A chunk that needs more is split, until
        /// the keys that cause the failure stand alone. They are reported, and all others continue. If no retry can help
        /// (a constraint, a value that does not parse, an error of a trigger), the chunk is split at once. If 100 keys in
        /// a row fail alone for a reason that may concern all keys (a missing privilege), the run stops.
        #[must_use]
        pub const fn max_attempts(mut self, attempts: u32) -> Self {
            self.options.max_attempts = attempts;
            self
        }

        /// Sets the maximum pause before a chunk is retried; up to 1 h. Default 2 s. The first pause is an eighth of it;
        /// half of each pause is random.
        #[must_use]
        pub const fn retry_delay(mut self, longest: Duration) -> Self {
            self.options.retry_delay = longest;
            self
        }

        /// Sets how long to try to replace a lost session, and to find out the outcome of a commit whose answer was lost;
        /// up to 24 h. Default 2 min. Then the keys of that chunk count as failed.
        #[must_use]
        pub const fn reconnect_wait(mut self, longest: Duration) -> Self {
            self.options.reconnect_wait = longest;
            self
        }

        /// Sets how long a pending COMMIT may take after the run is stopped; 10 ms to 1 h. Default 5 s. The run ends after
        /// the same time again: commits whose outcome is still unknown are reported as
        /// [unresolved](crate::InDoubt::unresolved).
        #[must_use]
        pub const fn cancel_grace(mut self, grace: Duration) -> Self {
            self.options.cancel_grace = grace;
            self
        }

        /// Sets the time limit of the run; up to a year. Default: none. Then it is stopped as by [`stop`](Self::stop).
        #[must_use]
        pub const fn deadline(mut self, limit: Duration) -> Self {
            self.options.deadline = Some(limit);
            self
        }

        /// Sets a token that stops the run: when it is cancelled, no further chunk begins, chunks whose COMMIT was not
        /// sent are cancelled and rolled back, and the report says what is left. See
        /// [`cancel_grace`](Self::cancel_grace). Run the same update again to finish the rest.
        #[must_use]
        pub fn stop(mut self, token: CancellationToken) -> Self {
            self.options.stop = token;
            self
        }
    };
}
pub(super) use shared_options;
