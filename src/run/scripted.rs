//! Driver tests: a scripted executor, paused time, and the sequence of events.

mod cut;
mod doubt;
mod plans;
mod pools;
mod recorder;
mod slots;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::committing::Committing;
use super::execution::{Driven, drive};
use super::executor::{Cleared, CommitError, Executor, PlanCapacity};
use super::monitor::{Observation, Seen, Watch};
use super::recorder::ExecutionRecorder;
use super::slots::Grant;
use crate::decide::attempt::Outcome;
use crate::decide::launch::PlannedLaunch;
use crate::decide::reservation::Granted;
use crate::decide::script::StatementCapacity;
use crate::decide::short_reason::ShortReason;
use crate::decide::verdict::{LeaderState, Pool};
use crate::error::{Error, Refusal};
use crate::event::{AttemptVerdict, CancelMethod, CancelResult, Observers, Resolution};
use crate::pg::Failure;
use crate::pg::activity::SeenLeader;
use crate::pg::session::Identity;
use crate::report::Execution;
use crate::settings::{PlanShortfall, Settings};

use self::recorder::Recorder;

/// What one attempt does on the scripted server.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "what may go wrong, each by itself")]
struct Act {
    /// Workers that the monitor shows from the first look on.
    workers: u32,
    /// Other people's workers.
    others: u32,
    /// How long the statement runs.
    runs: Duration,
    /// How it ends by itself.
    result: Result<u64, Failure>,
    /// Whether the monitor sees anything when it looks.
    sighted: bool,
    /// Whether it looks at all.
    looks: bool,
    /// Whether a cancel ends the statement; a terminate always does unless `immortal`.
    heeds_cancel: bool,
    immortal: bool,
    /// What COMMIT does.
    commit: Commit,
}

#[derive(Clone, Copy)]
enum Commit {
    Works,
    Takes(Duration),
    InDoubt(Resolution),
}

const POOL: u32 = 8;
/// What it takes to learn what became of a commit: longer than any attempt here.
const ANSWER: Duration = Duration::from_mins(1);

fn act(workers: u32) -> Act {
    Act {
        workers,
        others: POOL - workers,
        runs: Duration::from_secs(10),
        result: Ok(7),
        sighted: true,
        looks: true,
        heeds_cancel: true,
        immortal: false,
        commit: Commit::Works,
    }
}

fn lost() -> Failure {
    Failure::lost("connection closed")
}

/// A statement whose plan has these launches.
fn launches(planned: &[u32]) -> StatementCapacity {
    StatementCapacity {
        planned: Some(planned.iter().copied().map(PlannedLaunch::from).collect()),
        most: Some(planned.iter().sum()),
        certain: true,
        reads: true,
        explained: true,
        ..StatementCapacity::default()
    }
}

/// What a poll sees now.
fn seen(state: LeaderState, workers: u32, pool: Option<Pool>) -> Observation {
    let workers = (1..).take(workers as usize).collect();
    let leader = SeenLeader { state, statement: None, workers };
    Observation::Seen(Seen { at: Instant::now(), leader, pool, processes: None, autovacuum: 0 })
}

struct Script {
    acts: Vec<Act>,
    attempt: usize,
    capacity: PlanCapacity,
    cleanup: Option<Result<(), Failure>>,
    stopped: tokio::sync::watch::Sender<bool>,
    cleared: u32,
    /// How long it takes to connect the monitor.
    connecting: Duration,
    /// How long it takes to clear away.
    clearing: Duration,
    grant: Option<Grant>,
    /// What is granted when less will not do.
    in_full: Option<Grant>,
    /// How often slots are taken, and how many of those times they are lost during admission.
    reservations: u32,
    losses: u32,
    /// What later inspections find.
    later: Vec<PlanCapacity>,
    narrowed: Vec<u32>,
}

impl Script {
    fn new(acts: Vec<Act>) -> Self {
        let (planned, asked, pool_size) = (Some(4), Some(4), Some(POOL));
        let statements = vec![launches(&[4])];
        let capacity =
            PlanCapacity { statements, planned, asked, gathers: 1, pool_size, ..PlanCapacity::default() };
        let stopped = tokio::sync::watch::Sender::new(false);
        Self {
            acts,
            attempt: 0,
            capacity,
            cleanup: Some(Ok(())),
            stopped,
            cleared: 0,
            connecting: Duration::ZERO,
            clearing: Duration::from_secs(10),
            grant: None,
            in_full: None,
            reservations: 0,
            losses: 0,
            later: vec![],
            narrowed: vec![],
        }
    }

    fn act(&self) -> &Act {
        &self.acts[self.attempt - 1]
    }

    /// A watch that shows the same sight at each interval.
    fn shows(interval: Duration, observation: impl Fn() -> Observation + Send + 'static) -> Watch {
        let (observations, inbox) = mpsc::channel(1);
        tokio::spawn(async move {
            while observations.send(observation()).await.is_ok() {
                sleep(interval).await;
            }
        });
        Watch::scripted(inbox)
    }
}

impl Executor for Script {
    type Value = u64;
    type Slots = Self;

    fn span(&self, _attempt: u32) -> Span {
        Span::none()
    }

    async fn connect(&mut self, _recorder: &mut ExecutionRecorder) -> Result<(), Error> {
        sleep(self.connecting).await;
        Ok(())
    }

    async fn inspect(&mut self, _ledger: &mut ExecutionRecorder) -> Result<PlanCapacity, Error> {
        let found = self.capacity.clone();
        if !self.later.is_empty() {
            self.capacity = self.later.remove(0);
        }
        Ok(found)
    }

    async fn check_capacity(
        &mut self,
        _reach: &PlanCapacity,
        required: u32,
        _ledger: &mut ExecutionRecorder,
    ) -> Result<(), Error> {
        Err(Error::refused(Refusal::PlanTooNarrow, format!("{required} are demanded"), vec![]))
    }

    fn slots(&mut self) -> &mut Self {
        self
    }

    async fn begin(&mut self, _attempt: u32) -> Result<Identity, Failure> {
        self.attempt += 1;
        self.stopped.send_replace(false);
        Ok(Identity { pid: 100, started: 0 })
    }

    async fn work(&self, _steps: Range<usize>) -> Result<u64, Failure> {
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            () = sleep(self.act().runs) => self.act().result.clone(),
            _ = stopped.wait_for(|stopped| *stopped) => Err(Failure::lost("canceling statement due to user request")),
        }
    }

    fn watch(&self, interval: Duration) -> Watch {
        let Act { workers, others, sighted, .. } = *self.act();
        let pool = Some(Pool { used: workers + others, size: POOL });
        if !self.act().looks {
            return Watch::scripted(mpsc::channel(1).1);
        }
        Self::shows(interval, move || {
            if !sighted {
                return Observation::Blind;
            }
            seen(LeaderState::Active, workers, pool)
        })
    }

    fn watch_pool(&self, interval: Duration) -> Watch {
        Self::shows(interval, || seen(LeaderState::Idle, 0, Some(Pool { used: 0, size: POOL })))
    }

    async fn stop(&self, method: CancelMethod) -> CancelResult {
        let ends = !self.act().immortal && (self.act().heeds_cancel || method == CancelMethod::Terminate);
        self.stopped.send_replace(ends);
        CancelResult::Sent
    }

    async fn commit(&mut self, committing: &Committing) -> Result<bool, CommitError> {
        match self.act().commit {
            Commit::Works => Ok(true),
            Commit::Takes(time) => {
                let in_doubt = || CommitError::InDoubt { xid: "742".into(), cause: lost() };
                committing.answer(sleep(time)).await.map(|()| true).ok_or_else(in_doubt)
            }
            Commit::InDoubt(_) => Err(CommitError::InDoubt { xid: "742".into(), cause: lost() }),
        }
    }

    async fn resolve(&mut self, _xid: &str) -> Resolution {
        match self.act().commit {
            Commit::Works | Commit::Takes(_) => Resolution::Unresolved,
            Commit::InDoubt(resolution) => {
                sleep(ANSWER).await;
                resolution
            }
        }
    }

    async fn abandon(&mut self, _grace: Duration) -> u32 {
        0
    }

    async fn cleanup(&mut self) -> Option<Result<(), Failure>> {
        self.cleanup.clone()
    }

    fn cleans_up(&self) -> bool {
        self.cleanup.is_some()
    }

    async fn clear_away(&mut self) -> Cleared {
        self.cleared += 1;
        // Neither leader time nor a wait.
        sleep(self.clearing).await;
        Cleared { cleanup: self.cleanup.clone().unwrap_or(Ok(())), left: Some(0) }
    }
}

struct Played {
    words: Vec<String>,
    result: Result<Execution<u64>, Error>,
    cleared: u32,
    narrowed: Vec<u32>,
    reservations: u32,
}

async fn play(script: Script, change: impl FnOnce(&mut Settings)) -> Played {
    play_until(script, &CancellationToken::new(), change).await
}

async fn play_until(
    mut script: Script,
    stop: &CancellationToken,
    change: impl FnOnce(&mut Settings),
) -> Played {
    let mut settings = Settings::new("rollup");
    change(&mut settings);
    let events = Arc::new(Recorder::default());
    let mut recorder = ExecutionRecorder::new("rollup", Observers::new(vec![events.clone()]));
    let driven = drive(&mut script, &mut recorder, &settings, stop).await;
    let result = driven.map(|Driven { outcome, value, .. }| recorder.execution(outcome, value));
    let words = events.0.lock().expect("the driver has ended").clone();
    let Script { cleared, narrowed, reservations, .. } = script;
    Played { words, result, cleared, narrowed, reservations }
}

async fn check(acts: Vec<Act>, expected: &[&str]) -> Played {
    let played = play(Script::new(acts), |_| {}).await;
    assert_eq!(played.words, expected);
    played
}

const REJECTED: [&str; 4] = ["cancel", "drained", "cleaned up", "ended short"];

fn rejected(attempt: u32, required: u32, workers: u32) -> Vec<String> {
    let mut words = vec![format!("attempt {attempt} required {required}"), format!("short {workers}")];
    words.extend(REJECTED.map(str::to_owned));
    words
}

#[tokio::test(start_paused = true)]
async fn workers_at_the_first_try_take_one_attempt_and_no_cleanup() {
    let played =
        check(vec![act(4)], &["attempt 1 required 4", "enough 4", "ended enough", "on_target"]).await;
    let run = played.result.unwrap();
    assert_eq!((run.outcome, run.value, run.attempt_count), (Outcome::OnTarget, Some(7), 1));
    assert_eq!((run.ran, run.wasted), (Duration::from_secs(10), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_short_attempt_is_cancelled_drained_cleaned_up_and_tried_again() {
    let mut expected = rejected(1, 4, 2);
    expected.extend(
        ["delayed", "attempt 2 required 4", "enough 4", "ended enough", "on_target"].map(str::to_owned),
    );
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let run = check(vec![act(2), act(4)], &expected).await.result.unwrap();
    assert!(
        run.wasted <= Duration::from_millis(20),
        "a full pool is proven in two looks, not {:?}",
        run.wasted
    );
    assert_eq!(run.attempts[0].reason, Some(ShortReason::PoolExhausted));
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_is_accepted_at_the_minimum() {
    let acts = vec![act(1), act(2), act(3), act(2), act(3)];
    let played = play(Script::new(acts), |_| {}).await;
    let run = played.result.unwrap();
    assert_eq!((run.outcome, run.achieved_workers, run.target_met), (Outcome::AboveMinimum, 3, false));
    assert_eq!(played.words.iter().filter(|word| *word == "cleaned up").count(), 4);
}

#[tokio::test(start_paused = true)]
async fn below_the_minimum_is_an_outcome_with_a_history_and_no_value() {
    let played = play(Script::new(vec![act(1); 5]), |_| {}).await;
    assert_eq!(played.words.last().unwrap(), "failed below_minimum");
    let run = played.result.unwrap();
    assert_eq!((run.outcome, run.value, run.achieved_workers), (Outcome::BelowMinimum, None, 1));
    assert_eq!(run.attempts.len(), 5);
    assert_eq!(played.words.iter().filter(|word| *word == "cleaned up").count(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_is_not_heeded_is_followed_by_a_terminate() {
    let stubborn = Act { heeds_cancel: false, ..act(1) };
    let played = play(Script::new(vec![stubborn, act(4)]), |_| {}).await;
    let asked = played.words[2..].iter().map(String::as_str);
    let asked: Vec<_> = asked.take_while(|word| ["cancel", "terminate"].contains(word)).collect();
    assert_eq!(played.words[1], "short 1");
    assert_eq!(asked.iter().filter(|word| **word == "terminate").count(), 1, "{asked:?}");
    assert_eq!((asked[0], *asked.last().unwrap()), ("cancel", "terminate"));
    assert_eq!(played.result.unwrap().outcome, Outcome::OnTarget);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_be_stopped_is_reported() {
    let stuck = Act { immortal: true, runs: Duration::from_hours(1), ..act(1) };
    let played = play(Script::new(vec![stuck]), |_| {}).await;
    let error = played.result.unwrap_err();
    assert!(error.to_string().contains("backend 100 did not end"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_result_that_arrives_during_its_cancel_is_kept() {
    let quick = Act { heeds_cancel: false, runs: Duration::from_millis(100), ..act(1) };
    let words = ["attempt 1 required 4", "short 1", "cancel", "ended short", "finished_short"];
    let run = check(vec![quick], &words).await.result.unwrap();
    assert_eq!((run.value, run.outcome), (Some(7), Outcome::FinishedShort));
}

#[tokio::test(start_paused = true)]
async fn without_sight_nothing_is_cancelled_and_the_result_is_unverified() {
    let blind = Act { sighted: false, ..act(0) };
    let words = ["attempt 1 required 4", "unverified 0", "ended unverified", "unverified"];
    check(vec![blind], &words).await.result.unwrap().required().unwrap();
}

/// The process was stopped while the statement ran.
#[tokio::test(start_paused = true)]
async fn what_nobody_looked_at_is_not_verified() {
    let unseen = Act { looks: false, ..act(4) };
    let words = ["attempt 1 required 4", "unverified 0", "ended unverified", "unverified"];
    check(vec![unseen], &words).await.result.unwrap().required().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_uses_up_an_attempt_and_is_replaced() {
    let broken = Act { result: Err(lost()), runs: Duration::from_millis(5), ..act(4) };
    let played = play(Script::new(vec![broken, act(4)]), |_| {}).await;
    let words: Vec<_> = played.words.iter().map(String::as_str).collect();
    assert_eq!(
        words[words.len() - 7..],
        [
            "session lost",
            "delayed",
            "session restored",
            "attempt 2 required 4",
            "enough 4",
            "ended enough",
            "on_target"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_commit_in_doubt_that_took_effect_is_not_repeated() {
    let doubtful = Act { commit: Commit::InDoubt(Resolution::Committed), ..act(4) };
    let words = ["attempt 1 required 4", "enough 4", "in doubt", "committed", "ended enough", "on_target"];
    check(vec![doubtful], &words).await.result.unwrap().required().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_commit_in_doubt_that_did_not_take_effect_is_tried_again() {
    let doubtful = Act { commit: Commit::InDoubt(Resolution::Aborted), ..act(4) };
    let run = play(Script::new(vec![doubtful, act(4)]), |_| {}).await.result.unwrap();
    assert_eq!((run.attempt_count, run.value), (2, Some(7)));
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_fate_is_not_known_is_an_error_and_is_never_repeated() {
    let doubtful = Act { commit: Commit::InDoubt(Resolution::Unresolved), ..act(4) };
    let played = play(Script::new(vec![doubtful]), |_| {}).await;
    assert_eq!(played.words.last().unwrap(), "failed in_doubt");
    assert!(played.result.unwrap_err().is_in_doubt());
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_was_sent_before_the_deadline_has_its_say_for_a_while() {
    for (takes, last) in [(2, "on_target"), (20, "failed in_doubt")] {
        let commit = Commit::Takes(Duration::from_secs(takes));
        let script = Script::new(vec![Act { commit, ..act(4) }]);
        let played = play(script, |s| s.deadline = Some(Duration::from_secs(11))).await;
        assert_eq!(played.words.last().unwrap(), last, "{takes} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_clears_away_what_runs() {
    let played = play(Script::new(vec![act(4)]), |s| s.deadline = Some(Duration::from_secs(3))).await;
    assert_eq!(played.words.last().unwrap(), "failed deadline");
    assert_eq!(played.cleared, 1);
    assert!(played.result.unwrap_err().is_deadline());
}

#[tokio::test(start_paused = true)]
async fn a_cleanup_that_fails_ends_the_execution() {
    let mut script = Script::new(vec![act(1), act(4)]);
    script.cleanup =
        Some(Err(Failure::from(Box::<dyn std::error::Error + Send + Sync>::from("no such table"))));
    let played = play(script, |_| {}).await;
    assert!(played.words.contains(&"cleanup failed".to_owned()));
    assert_eq!(played.result.unwrap_err().to_string(), "the cleanup failed");
}

#[tokio::test(start_paused = true)]
async fn an_execution_that_is_dropped_says_that_it_was_interrupted() {
    let events = Arc::new(Recorder::default());
    let mut recorder = ExecutionRecorder::new("rollup", Observers::new(vec![events.clone()]));
    let settings = Settings::new("rollup");
    let mut script = Script::new(vec![act(4)]);
    let dropped = tokio::time::timeout(
        Duration::from_secs(1),
        drive(&mut script, &mut recorder, &settings, &CancellationToken::new()),
    )
    .await;
    assert!(dropped.is_err());
    drop(recorder);
    assert_eq!(events.0.lock().unwrap().last().unwrap(), "failed interrupted");
}
