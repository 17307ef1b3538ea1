//! What a server says beside its answers, as far as it changes what an answer is worth.
//!
//! COMMIT waits for a synchronous standby after it took effect. An administrator may end the wait; then COMMIT is
//! answered as ever, and only a warning says that the standby may not have it (manual, "Synchronous Replication").
//! Warnings come in the session's language, and this one has no code of its own. The name of the function that
//! it comes from is the same everywhere (manual, "Error and Notice Message Fields").

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::error::DbError;

/// The function of the server that waits.
const WAITS: &str = "SyncRepWaitForLSN";

/// Has the server say so, whatever the session's settings, or a trigger's, keep from the client (`client_min_messages`).
macro_rules! hear {
    () => {
        "SET LOCAL client_min_messages TO warning"
    };
}
/// In a transaction, before its COMMIT.
pub(crate) const HEAR: &str = hear!();
/// A COMMIT that is heard.
pub(crate) const HEARD_COMMIT: &str = concat!(hear!(), "; COMMIT");

/// Shared by a session and what drives it. A warning is heard before the answer that it belongs to is given out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<AtomicBool>);

impl Heard {
    pub(super) fn notice(&self, notice: &DbError) {
        if notice.routine() == Some(WAITS) {
            self.0.store(true, Ordering::Release);
        }
    }

    /// Whether a wait for a standby has been cancelled since the last time.
    pub(crate) fn take_unreplicated(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}
