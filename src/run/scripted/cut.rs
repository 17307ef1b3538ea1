//! Executions that are cut short: by a token, or by the deadline.

use super::*;

/// Stops it after so long, or when the deadline passes then: the history must be the same.
async fn cut_short(script: impl Fn() -> Script, after: Duration) -> Execution<()> {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        sleep(after).await;
        token.cancel();
    });
    let stopped = play_until(script(), &stop, |_| {}).await;
    assert_eq!(stopped.words.last().unwrap(), "failed interrupted");
    assert_eq!(stopped.cleared, 1);
    let error = stopped.result.unwrap_err();
    assert!(error.is_stopped());
    let late = play(script(), |settings| settings.deadline = Some(after)).await.result.unwrap_err();
    let [stopped, late] = [error, late].map(|error| error.history().unwrap().clone());
    assert_eq!(format!("{stopped:?}"), format!("{late:?}"));
    stopped
}

#[tokio::test(start_paused = true)]
async fn a_stopped_attempt_counts_with_its_workers_and_its_time() {
    let after = Duration::from_secs(5);
    let run = cut_short(|| Script::new(vec![act(2), act(4)]), after).await;
    assert_eq!((run.attempt_count, run.achieved_workers, run.ran), (2, 4, Duration::ZERO));
    assert_eq!(run.attempts[1].verdict, AttemptVerdict::Failed);
    // All of it was leader time or a wait, to the nanosecond.
    assert_eq!(run.wasted, run.attempts[0].ran + run.attempts[1].ran);
    assert_eq!(run.wasted + run.waited, after);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_wait_counts_as_far_as_it_went() {
    // The pause after a first failure is 125 ms at the least.
    let failing = || Script::new(vec![Act { sighted: false, result: Err(lost()), ..act(0) }]);
    let run = cut_short(failing, Duration::from_millis(10_100)).await;
    assert_eq!((run.attempt_count, run.wasted), (1, Duration::from_secs(10)));
    assert_eq!(run.waited, Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_does_not_keep_the_execution_beyond_its_limits() {
    let began = Instant::now();
    let script = Script { clearing: Duration::MAX, ..Script::new(vec![act(4)]) };
    let error = play(script, |s| s.deadline = Some(Duration::from_secs(3))).await.result.unwrap_err();
    assert!(error.is_deadline());
    assert!(error.cleanup_failure().unwrap().contains("did not answer within 85s"), "{error:?}");
    assert_eq!(began.elapsed(), Duration::from_secs(88));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_bounds_connecting_too_which_is_a_wait() {
    let waited = Duration::from_secs(2);
    let script = Script { connecting: waited, ..Script::new(vec![act(4)]) };
    let driven = play(script, |s| s.deadline = Some(Duration::from_secs(3))).await.result;
    let error = driven.unwrap_err();
    assert!(error.is_deadline());
    let history = error.history().unwrap();
    assert_eq!((history.waited, history.wasted), (waited, Duration::from_secs(1)));
}
