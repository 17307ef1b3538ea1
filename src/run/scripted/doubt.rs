//! A commit whose answer was lost: whose time the asking is.

use super::*;

#[tokio::test(start_paused = true)]
async fn asking_what_became_of_a_commit_is_no_time_of_its_leader() {
    for resolution in [Resolution::Committed, Resolution::Aborted, Resolution::Unresolved] {
        let doubtful = Act { commit: Commit::InDoubt(resolution), ..act(4) };
        let run = play(Script::new(vec![doubtful, act(4)]), |_| {}).await.result;
        let (wasted, ran) = match &run {
            Ok(run) => (run.wasted, run.ran),
            Err(error) => error.history().map(|history| (history.wasted, history.ran)).unwrap(),
        };
        assert!(wasted + ran > Duration::ZERO && wasted + ran < ANSWER, "{resolution:?}: {wasted:?} {ran:?}");
        assert_eq!(wasted.is_zero(), resolution == Resolution::Committed, "{resolution:?}");
    }
}

/// Ten seconds of work, and a deadline or a stop when its COMMIT is in doubt; with what is known of that after `ANSWER`.
async fn cut_in_doubt(resolution: Resolution, by_deadline: bool) -> Played {
    let doubtful = Act { commit: Commit::InDoubt(resolution), ..act(4) };
    let script = Script { clearing: Duration::ZERO, ..Script::new(vec![doubtful, act(4)]) };
    let soon = Duration::from_secs(15);
    if by_deadline {
        return play(script, |settings| settings.deadline = Some(soon)).await;
    }
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        sleep(soon).await;
        token.cancel();
    });
    play_until(script, &stop, |_| {}).await
}

#[tokio::test(start_paused = true)]
async fn an_execution_that_is_cut_short_while_it_asks_is_in_doubt_and_soon_over() {
    for by_deadline in [false, true] {
        let began = Instant::now();
        let played = cut_in_doubt(Resolution::Committed, by_deadline).await;
        let [.., unresolved, ended, last] = &*played.words else { panic!("{:?}", played.words) };
        assert_eq!([&**unresolved, ended, last], ["unresolved", "ended failed", "failed in_doubt"]);
        assert!(played.result.unwrap_err().is_in_doubt());
        assert_eq!(began.elapsed(), Duration::from_secs(25), "ten seconds more");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_shortly_before_the_fate_is_known_waits_for_it() {
    for (resolution, last) in [(Resolution::Committed, "on_target"), (Resolution::Aborted, "failed deadline")]
    {
        let doubtful = Act { commit: Commit::InDoubt(resolution), ..act(4) };
        let soon = ANSWER + Duration::from_secs(5);
        let played = play(Script::new(vec![doubtful, act(4)]), |s| s.deadline = Some(soon)).await;
        assert_eq!(played.words.last().unwrap(), last);
    }
}
