//! What a server says beside its answers, as far as it changes what an answer is worth.
//!
//! COMMIT waits for a synchronous standby after it took effect. An administrator may end the wait; then COMMIT is
//! answered as ever, and only a warning says that the standby may not have it (manual, "Synchronous Replication").
//! Warnings come in the session's language, and this one has no code of its own. The name of the function that
//! it comes from is the same everywhere (manual, "Error and Notice Message Fields").

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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

/// Settings that say what a text means or what a session may do, of those that a server reports (`ParameterStatus`; manual,
/// "Asynchronous Operations"). Older servers report fewer.
const MEANING: [&str; 8] = [
    "client_encoding",
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "search_path",
    "session_authorization",
    "is_superuser",
    "default_transaction_read_only",
];

/// What these are; `None` where the server does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Meaning([Option<Box<str>>; MEANING.len()]);

impl Meaning {
    /// The first that is another one.
    pub(crate) fn differs_in(&self, other: &Self) -> Option<&'static str> {
        let places = self.0.iter().zip(&other.0).zip(MEANING);
        places.filter(|((one, other), _)| one != other).map(|(_, name)| name).next()
    }
}

/// Shared by a session and what drives it. What belongs to an answer is heard before that is given out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<Said>);

#[derive(Debug, Default)]
struct Said {
    unreplicated: AtomicBool,
    meaning: Mutex<Meaning>,
}

impl Heard {
    pub(super) fn notice(&self, notice: &DbError) {
        if notice.routine() == Some(WAITS) {
            self.0.unreplicated.store(true, Ordering::Release);
        }
    }

    /// The settings as they were reported last.
    pub(super) fn report<'a>(&self, parameter: impl Fn(&str) -> Option<&'a str>) {
        let mut meaning = self.0.meaning.lock().unwrap_or_else(PoisonError::into_inner);
        for (known, name) in meaning.0.iter_mut().zip(MEANING) {
            let now = parameter(name);
            if known.as_deref() != now {
                *known = now.map(Into::into);
            }
        }
    }

    /// What texts mean on the session now.
    pub(crate) fn meaning(&self) -> Meaning {
        self.0.meaning.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a wait for a standby has been cancelled since the last time.
    pub(crate) fn take_unreplicated(&self) -> bool {
        self.0.unreplicated.swap(false, Ordering::AcqRel)
    }
}
