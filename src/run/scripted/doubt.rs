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
