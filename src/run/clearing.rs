//! An execution without a result is cleared away, in bounded time whatever the server does.
//!
//! What is told of it is what was seen: a cleanup that nobody gave has not failed, and where nobody could look, nobody
//! says that nothing runs any more.

use std::time::Duration;

use tokio::time::timeout;

use super::executor::{Cleared, Executor};
use crate::pg::Failure;
use crate::settings::Settings;

/// How long a server may be away, beyond what the options allow, before an execution that ends leaves it alone.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Clears away, within what a cancel, a rollback, its own end and a cleanup, if there is one, may take.
pub(super) async fn cleared<S: Executor>(executor: &mut S, settings: &Settings) -> Cleared {
    let cleanup = if executor.cleans_up() { settings.cleanup_limit } else { Duration::ZERO };
    let limit = 3 * settings.cancel_grace + cleanup + ANSWER_LIMIT;
    if let Ok(cleared) = timeout(limit, executor.clear_away()).await {
        return cleared;
    }
    let unanswered = || Failure::lost(format!("the server did not answer within {limit:?}"));
    Cleared { cleanup: if executor.cleans_up() { Err(unanswered()) } else { Ok(()) }, left: None }
}
