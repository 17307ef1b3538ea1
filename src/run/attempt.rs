//! One attempt: play it, keep or undo it, and say so.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;

use super::committing::Committing;
use super::ledger::Ledger;
use super::race::{Finish, Race};
use super::stage::{CommitError, Reach, Stage};
use crate::decide::attempt::Ended;
use crate::decide::verdict::{ShortReason, Verdict};
use crate::error::{Error, human};
use crate::event::{AttemptEnd, AttemptFacts, Event, Resolution, SqlState};
use crate::pg::Failure;
use crate::pg::session::Identity;
use crate::settings::Settings;

/// What an attempt came to.
pub(crate) struct Played<T> {
    pub(crate) ended: Ended,
    /// The result, when it is kept.
    pub(crate) value: Option<T>,
    /// Why it failed by itself.
    pub(crate) failure: Option<Failure>,
    /// Whether the monitor saw the pool.
    pub(crate) pool_seen: bool,
    /// Set when the value was handed over unfinished: the attempt ends when the value does.
    pub(crate) open: Option<OpenAttempt>,
}

/// An accepted attempt whose rows still flow.
#[derive(Debug)]
pub(crate) struct OpenAttempt {
    pub(crate) span: Span,
    pub(crate) began: Instant,
    pub(crate) facts: AttemptFacts,
}

/// Plays one attempt to its end, cleanup included.
///
/// An error ends the whole execution: a leader that cannot be stopped, a commit whose fate is not
/// known, a cleanup that failed.
pub(crate) async fn play<S: Stage>(
    stage: &mut S,
    ledger: &mut Ledger,
    settings: &Settings,
    reach: &Reach,
    (number, bar): (u32, u32),
    lost: &mut Option<SqlState>,
    committing: &Committing,
) -> Result<Played<S::Value>, Error> {
    let mut facts =
        AttemptFacts { attempt: number, bar, end: AttemptEnd::Failed(None), workers: 0, ran: Duration::ZERO };
    let Identity { pid, started: backend_start } = match stage.begin(number).await {
        Ok(backend) => backend,
        Err(failure) => {
            facts.end = AttemptEnd::Failed(failure.event_sqlstate());
            return Ok(close(ledger, facts, Kept::Failed(failure), false));
        }
    };
    if let Some(sqlstate) = lost.take() {
        ledger.observe(&Event::SessionRestored { sqlstate });
    }
    let max_attempts = settings.max_attempts;
    ledger.observe(&Event::AttemptStarted { attempt: number, max_attempts, bar, pid, backend_start });
    let began = Instant::now();
    let mut race = Race::new(facts, settings, reach);
    let finish = race.run(&*stage, ledger).await;
    facts.workers = race.most_workers();
    let kept = match finish {
        Finish::Kept(value, verdict) if S::HANDS_OVER => Kept::Flowing(value, verdict),
        Finish::Kept(value, verdict) => {
            let _sent = committing.begin().await;
            match commit(stage, ledger, committing).await? {
                Ok(()) => Kept::Value(value, verdict),
                Err(failure) => Kept::Failed(failure),
            }
        }
        Finish::Rejected(reason) => Kept::Nothing(reason),
        Finish::Failed(failure) => Kept::Failed(failure),
        Finish::Stuck => {
            let grace = human(settings.cancel_grace);
            return Err(Error::stuck(format!("backend {pid} did not end within {grace} of its termination")));
        }
    };
    facts.ran = ledger.ran(began);
    facts.end = match &kept {
        Kept::Value(_, verdict) | Kept::Flowing(_, verdict) => AttemptEnd::Accepted(*verdict),
        Kept::Nothing(reason) => AttemptEnd::Rejected(*reason),
        Kept::Failed(failure) => AttemptEnd::Failed(failure.event_sqlstate()),
    };
    if !facts.end.is_accepted()
        && let Err(uncleaned) = undo(stage, ledger, settings, number).await
    {
        ledger.observe(&Event::AttemptEnded(facts));
        return Err(match kept {
            // What failed first is what there is to correct.
            Kept::Failed(failure) => Error::sql("the statement", failure).with_cleanup_failure(&uncleaned),
            _ => Error::uncleaned(uncleaned),
        });
    }
    let pool_seen = race.pool_seen();
    if let Kept::Flowing(value, verdict) = kept {
        let ended = Ended::Finished(verdict, facts.workers);
        let open = Some(OpenAttempt { span: Span::current(), began, facts });
        return Ok(Played { ended, value: Some(value), failure: None, pool_seen, open });
    }
    Ok(close(ledger, facts, kept, pool_seen))
}

/// What is kept of an attempt.
enum Kept<T> {
    Value(T, Verdict),
    Flowing(T, Verdict),
    Nothing(ShortReason),
    Failed(Failure),
}

fn close<T>(ledger: &mut Ledger, facts: AttemptFacts, kept: Kept<T>, pool_seen: bool) -> Played<T> {
    ledger.observe(&Event::AttemptEnded(facts));
    let (ended, value, failure) = match kept {
        Kept::Value(value, verdict) | Kept::Flowing(value, verdict) => {
            (Ended::Finished(verdict, facts.workers), Some(value), None)
        }
        Kept::Nothing(reason) => (Ended::Rejected(reason, facts.workers), None, None),
        Kept::Failed(failure) => (Ended::Failed(failure.class()), None, Some(failure)),
    };
    Played { ended, value, failure, pool_seen, open: None }
}

/// Commits, and resolves a commit in doubt. The inner failure means that it did not take effect.
pub(crate) async fn commit<S: Stage>(
    stage: &mut S,
    ledger: &mut Ledger,
    committing: &Committing,
) -> Result<Result<(), Failure>, Error> {
    match stage.commit(committing).await {
        Ok(()) => Ok(Ok(())),
        Err(CommitError::Failed(failure)) => Ok(Err(failure)),
        Err(CommitError::InDoubt { xid, cause }) => {
            ledger.observe(&Event::CommitInDoubt);
            let fate = committing.fate(stage.resolve(&xid)).await;
            let resolution = fate.unwrap_or(Resolution::Unresolved);
            ledger.observe(&Event::CommitResolved { resolution });
            match resolution {
                Resolution::Committed => Ok(Ok(())),
                Resolution::Aborted => Ok(Err(cause)),
                Resolution::Reread | Resolution::Unresolved => Err(Error::in_doubt(xid, cause)),
            }
        }
    }
}

/// Rolls back, waits for the workers to leave, and runs the cleanup action, which may fail.
async fn undo<S: Stage>(
    stage: &mut S,
    ledger: &mut Ledger,
    settings: &Settings,
    attempt: u32,
) -> Result<(), Failure> {
    let began = Instant::now();
    let left = stage.abandon(settings.cancel_grace).await;
    ledger.observe(&Event::WorkersDrained { attempt, waited: began.elapsed(), left });
    let began = Instant::now();
    let Some(cleaned) = stage.cleanup().await else { return Ok(()) };
    ledger.observe(&Event::CleanupEnded { attempt, took: began.elapsed(), ok: cleaned.is_ok() });
    cleaned
}
