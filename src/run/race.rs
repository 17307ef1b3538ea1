//! The race of one attempt: the statement against its verdict.
//!
//! [`decide::verdict`](crate::decide::verdict) judges; this brings it the facts and stops the
//! statement when it is proven short.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::ledger::Ledger;
use super::monitor::{Sight, Watch};
use super::stage::{Reach, Stage};
use crate::decide::verdict::{LeaderState, ShortReason, Tick, Verdict, Window};
use crate::event::{AttemptFacts, CancelMethod, CancelResult, Event};
use crate::pg::Failure;
use crate::settings::Settings;

/// Between two requests to cancel, when the leader was between two statements at the first one.
const CANCEL_AGAIN: Duration = Duration::from_millis(20);
/// The same when the signal was sent: a statement that ended at that moment left it without effect, and
/// a closure may have sent its next one since.
const SIGNALLED: Duration = Duration::from_millis(500);
/// Between two looks at a leader whose verdict is known.
pub(crate) const DECIDED_INTERVAL: Duration = Duration::from_millis(500);
/// The same after [`LONG_AFTER`], so that the trace of a job of hours stays readable.
const LONG_INTERVAL: Duration = Duration::from_secs(5);
const LONG_AFTER: Duration = Duration::from_mins(1);

/// How the race ended.
pub(crate) enum Finish<T> {
    /// The statement ended, or its rows may be handed over: the result is kept.
    Kept(T, Verdict),
    /// It was short and was stopped.
    Rejected(ShortReason),
    /// It failed by itself.
    Failed(Failure),
    /// It was short and could not be stopped.
    Stuck,
}

/// The facts of the race so far.
pub(crate) struct Race<'a> {
    attempt: u32,
    bar: u32,
    settings: &'a Settings,
    reach: &'a Reach,
    window: Window,
    began: Instant,
    grew_at: Instant,
    pool_seen: bool,
}

impl<'a> Race<'a> {
    pub(crate) fn new(facts: AttemptFacts, settings: &'a Settings, reach: &'a Reach) -> Self {
        let AttemptFacts { attempt, bar, .. } = facts;
        let window = Window::new(bar, settings.patience(), &reach.launches);
        let began = Instant::now();
        Self { attempt, bar, settings, reach, window, began, grew_at: began, pool_seen: false }
    }

    pub(crate) const fn most_workers(&self) -> u32 {
        self.window.most_workers()
    }

    pub(crate) const fn pool_seen(&self) -> bool {
        self.pool_seen
    }

    /// Runs the statement against the ticks until one of them settles the attempt.
    pub(crate) async fn run<S: Stage>(&mut self, stage: &S, ledger: &mut Ledger) -> Finish<S::Value> {
        let mut watch = stage.watch(self.settings.undecided_interval());
        let mut work = pin!(stage.work());
        loop {
            let sight = tokio::select! {
                biased;
                result = &mut work => return self.on_result(result, ledger),
                sight = watch.next() => sight,
            };
            let mut verdict = self.on_sight(sight, ledger);
            if self.window.verdict().is_none() && is_idle(sight) && stage.has_started() {
                verdict = Some(self.window.on_end());
            }
            if let Some(verdict) = verdict {
                self.announce(verdict, ledger);
                match verdict {
                    Verdict::Short(reason) => return self.reject(stage, work, reason, ledger).await,
                    _ => stage.accept(),
                }
            }
            self.pace(&watch);
        }
    }

    fn on_sight(&mut self, sight: Sight, ledger: &mut Ledger) -> Option<Verdict> {
        let Sight::Seen { at, leader, workers, pool } = sight else {
            self.window.on_blind();
            return None;
        };
        self.pool_seen |= pool.is_some();
        let pool = pool.map(|pool| self.reach.resize(pool));
        let tick = Tick { at: at.saturating_duration_since(self.began), workers, leader, pool };
        ledger.observe(&Event::TickTaken { attempt: self.attempt, bar: self.bar, tick });
        if workers > self.window.most_workers() {
            self.grew_at = at;
        }
        self.window.on_tick(tick)
    }

    fn on_result<T>(&mut self, result: Result<T, Failure>, ledger: &mut Ledger) -> Finish<T> {
        let value = match result {
            Ok(value) => value,
            Err(failure) => return Finish::Failed(failure),
        };
        let decided = self.window.verdict().is_some();
        let verdict = self.window.on_end();
        if !decided {
            self.announce(verdict, ledger);
        }
        Finish::Kept(value, verdict)
    }

    fn announce(&self, verdict: Verdict, ledger: &mut Ledger) {
        ledger.observe(&Event::VerdictReached {
            attempt: self.attempt,
            bar: self.bar,
            verdict,
            workers: self.window.most_workers(),
            after: self.began.elapsed(),
        });
    }

    /// Quick looks while undecided and while the count may still grow; slow ones after.
    fn pace(&self, watch: &Watch) {
        if self.window.verdict().is_some() && self.grew_at.elapsed() >= self.settings.settle {
            watch.pace(if self.began.elapsed() < LONG_AFTER { DECIDED_INTERVAL } else { LONG_INTERVAL });
        }
    }

    /// Stops a short statement: cancel, then terminate. The statement's future is not polled while a
    /// request is under way, so nothing new can reach the leader before the server has answered. A
    /// result that arrives all the same is kept: it is paid for.
    async fn reject<S: Stage>(
        &self,
        stage: &S,
        mut work: Pin<&mut impl Future<Output = Result<S::Value, Failure>>>,
        reason: ShortReason,
        ledger: &mut Ledger,
    ) -> Finish<S::Value> {
        let mut sent = false;
        for method in [CancelMethod::Cancel, CancelMethod::Terminate] {
            let until = Instant::now() + self.settings.cancel_grace;
            while Instant::now() < until {
                let result = stage.stop(method).await;
                ledger.observe(&Event::CancelAnswered { attempt: self.attempt, method, result });
                if result == CancelResult::Missed && stage.has_started() {
                    stage.accept();
                }
                sent |= result == CancelResult::Sent;
                let patience = if result == CancelResult::Sent { SIGNALLED } else { CANCEL_AGAIN };
                let again = until.min(Instant::now() + patience);
                match timeout_at(again, &mut work).await {
                    Ok(Ok(value)) => return Finish::Kept(value, Verdict::Short(reason)),
                    Ok(Err(_)) if sent => return Finish::Rejected(reason),
                    Ok(Err(failure)) => return Finish::Failed(failure),
                    Err(_) => {}
                }
            }
        }
        Finish::Stuck
    }
}

/// The leader runs nothing: the statement has ended, or has not arrived.
const fn is_idle(sight: Sight) -> bool {
    matches!(sight, Sight::Seen { leader: LeaderState::Idle | LeaderState::Gone, .. })
}
