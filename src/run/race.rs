//! The race of one statement in one attempt: the statement against its verdict.
//!
//! [`decide::verdict`](crate::decide::verdict) judges; this brings it the facts and stops the
//! statement when it is proven short.

use std::future::Future;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::executor::{Executor, PlanCapacity};
use super::monitor::{Observation, Seen, Watch};
use super::recorder::ExecutionRecorder;
use crate::decide::launch::Demand;
use crate::decide::pace;
use crate::decide::script::StatementCapacity;
use crate::decide::stopping::{Next, Stopping};
use crate::decide::verdict::{LeaderState, News, ShortReason, Verdict, Window};
use crate::event::{CancelResult, Event};
use crate::pg::Failure;
use crate::settings::{Policy, Settings};

/// Nobody has looked for so long.
const UNSEEN: Duration = Duration::from_secs(2);

/// How the race ended.
pub(crate) enum Finish<T> {
    /// The statement ended, or its rows may be handed over: the result is kept.
    Kept(T, Verdict),
    /// It was short and was stopped.
    Rejected(ShortReason),
    /// It failed by itself.
    Failed(Failure),
    /// It was short and could not be stopped. `denied`: for want of a right.
    Stuck { denied: bool },
}

/// Which statement of which attempt, and what it is judged by.
pub(crate) struct Entry<'a> {
    pub(crate) attempt: u32,
    /// From 1; `None` where there is only one.
    pub(crate) statement: Option<u32>,
    pub(crate) demand: Demand,
    /// Workers that could have started at the last look before it.
    pub(crate) free: Option<u32>,
    pub(crate) known: StatementCapacity,
    pub(crate) settings: &'a Settings,
    pub(crate) capacity: &'a PlanCapacity,
}

/// The facts of the race so far.
pub(crate) struct Race<'a> {
    entry: Entry<'a>,
    pub(crate) window: Window,
    began: Instant,
    /// When the leader was seen last.
    looked_at: Instant,
    /// When the last new worker was seen.
    grew_at: Instant,
    pids: std::sync::Arc<[i32]>,
    pub(crate) pool_seen: bool,
}

impl<'a> Race<'a> {
    pub(crate) fn new(entry: Entry<'a>) -> Self {
        let window = Window::new(entry.demand.clone(), entry.settings.patience()).with_free(entry.free);
        let began = Instant::now();
        let pids = std::sync::Arc::default();
        Self { entry, window, began, looked_at: began, grew_at: began, pids, pool_seen: false }
    }

    /// Runs the statement, and judges each tick meanwhile, until it ends or is stopped.
    pub(crate) async fn run<S: Executor>(
        &mut self,
        executor: &S,
        steps: Range<usize>,
        recorder: &mut ExecutionRecorder,
    ) -> Finish<S::Value> {
        let mut watch = executor.watch(self.entry.settings.undecided_interval());
        let mut work = pin!(executor.work(steps));
        loop {
            let observation = tokio::select! {
                biased;
                result = &mut work => return self.on_result(result, recorder),
                observation = watch.next() => observation,
            };
            let idle = is_idle(&observation);
            if let Observation::Seen(seen) = &observation {
                executor.saw(seen.leader.statement);
            }
            let news = self.on_observation(observation, recorder);
            if self.window.verdict().is_none() && idle && executor.has_started() {
                let verdict = self.window.on_end();
                self.announce(verdict, recorder);
                executor.give_way();
                executor.allow_hand_over();
            }
            match news {
                Some(News::Verdict(verdict)) => {
                    self.announce(verdict, recorder);
                    executor.give_way();
                    match verdict {
                        Verdict::Short(reason) => return self.reject(executor, work, reason, recorder).await,
                        _ => executor.allow_hand_over(),
                    }
                }
                Some(News::LaterLaunch(short))
                    if self.entry.settings.every_launch && !self.window.accepts(short) =>
                {
                    return self.reject(executor, work, short.reason, recorder).await;
                }
                Some(News::LaterLaunch(_)) | None => {}
            }
            self.pace(&watch);
        }
    }

    /// Takes a look in, and says what it brought.
    pub(crate) fn on_observation(
        &mut self,
        observation: Observation,
        recorder: &mut ExecutionRecorder,
    ) -> Option<News> {
        let Observation::Seen(mut seen) = observation else {
            self.window.on_blind();
            return None;
        };
        self.looked_at = seen.at;
        self.pool_seen |= seen.pool.is_some();
        seen.pool = seen.pool.map(|pool| self.entry.capacity.resize_for(&self.entry.known, pool));
        let tick = seen.tick(self.began);
        let (attempt, required) = (self.entry.attempt, self.entry.demand.required);
        let pids = seen.leader.workers.clone();
        recorder.observe(&Event::TickTaken { attempt, required, tick, pids });
        let Seen { at, leader, .. } = seen;
        if leader.workers.iter().any(|pid| !self.pids.contains(pid)) {
            self.grew_at = at;
        }
        let news = self.window.on_tick(tick, &leader.workers);
        self.pids = leader.workers;
        if let Some(News::LaterLaunch(short)) = news {
            let Entry { attempt, statement, .. } = self.entry;
            let after = self.began.elapsed();
            recorder.observe(&Event::LaunchShort { attempt, statement, short, after });
        }
        news
    }

    fn on_result<T>(&mut self, result: Result<T, Failure>, recorder: &mut ExecutionRecorder) -> Finish<T> {
        let value = match result {
            Ok(value) => value,
            Err(failure) => return Finish::Failed(failure),
        };
        let decided = self.window.verdict().is_some();
        let Settings { policy, monitor_interval, .. } = *self.entry.settings;
        // A process that was stopped meanwhile has not looked: what it did not see proves nothing.
        if policy != Policy::Classic && self.looked_at.elapsed() > UNSEEN.max(2 * monitor_interval) {
            self.window.on_blind();
        }
        let verdict = self.window.on_end();
        if !decided {
            self.announce(verdict, recorder);
        }
        Finish::Kept(value, verdict)
    }

    fn announce(&self, verdict: Verdict, recorder: &mut ExecutionRecorder) {
        recorder.observe(&Event::VerdictReached {
            attempt: self.entry.attempt,
            statement: self.entry.statement,
            required: self.entry.demand.required,
            verdict,
            workers: self.window.most_workers(),
            after: self.began.elapsed(),
        });
    }

    /// Sampled at the full rate until the verdict; then as [`pace`] says.
    fn pace(&self, watch: &Watch) {
        let Settings { policy, settle, monitor_interval, .. } = *self.entry.settings;
        if self.window.verdict().is_none() || policy == Policy::Classic {
            return;
        }
        let (elapsed, since_growth) = (self.began.elapsed(), self.grew_at.elapsed());
        let interval = pace::interval(self.window.outlook(), elapsed, since_growth, settle, monitor_interval);
        watch.pace(interval, true);
    }

    /// Stops a short statement, as [`stopping`](crate::decide::stopping) says. The statement's future is not polled while a
    /// request is under way, so nothing new can reach the leader before the server has answered. A
    /// result that arrives all the same is kept: it is paid for.
    async fn reject<S: Executor>(
        &self,
        executor: &S,
        mut work: Pin<&mut impl Future<Output = Result<S::Value, Failure>>>,
        reason: ShortReason,
        recorder: &mut ExecutionRecorder,
    ) -> Finish<S::Value> {
        let Entry { attempt, settings, .. } = self.entry;
        let began = Instant::now();
        let mut stopping = Stopping::new(Duration::ZERO, settings.cancel_grace, S::SHARES_BACKEND);
        while let Some(method) = stopping.ask(began.elapsed()) {
            let result = executor.stop(method).await;
            recorder.observe(&Event::CancelAnswered { attempt, method, result });
            if result == CancelResult::Missed && executor.has_started() {
                executor.allow_hand_over();
            }
            let again = match stopping.on_answer(began.elapsed(), result) {
                Next::WaitUntil(again) => began + again,
                Next::Over => {
                    return match work.await {
                        Ok(value) => Finish::Kept(value, Verdict::Short(reason)),
                        Err(failure) => Finish::Failed(failure),
                    };
                }
            };
            match timeout_at(again, &mut work).await {
                Ok(Ok(value)) => return Finish::Kept(value, Verdict::Short(reason)),
                Ok(Err(_)) if stopping.was_sent() => return Finish::Rejected(reason),
                Ok(Err(failure)) => return Finish::Failed(failure),
                Err(_) => {}
            }
        }
        Finish::Stuck { denied: stopping.was_denied() }
    }
}

/// The leader runs nothing: the statement has ended, or has not arrived.
const fn is_idle(observation: &Observation) -> bool {
    matches!(observation, Observation::Seen(seen) if matches!(seen.leader.state, LeaderState::Idle | LeaderState::Gone))
}
