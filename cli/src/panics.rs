//! A panic: a mistake of this program's own, told as one line, one object and one exit code.
//!
//! It ends the command as any failure does: what was under way is dropped, which cancels it on the server; metrics and
//! spans are sent; the line names the place in the source. It has no more words than a constant message, for what was
//! formatted into one may be a password. A panic of a task in the background ends the command, too: whoever waits for
//! that task would wait for ever.

use std::any::Any;
use std::panic::{AssertUnwindSafe, PanicHookInfo, set_hook};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use tokio::sync::Notify;

use super::output::say;

/// The first panic of this process, which the others may follow from.
static FIRST: Mutex<Option<Panic>> = Mutex::new(None);
/// Told of each; how many there were, and how many of them were told to people.
static HEARD: Notify = Notify::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);
static TOLD: AtomicU32 = AtomicU32::new(0);
/// How many wait for one, and would tell it.
static WAITING: AtomicU32 = AtomicU32::new(0);

/// What is told of a panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Panic {
    /// File, line and column.
    place: String,
    /// The message, if it is a constant.
    words: Option<&'static str>,
}

impl Panic {
    fn new(place: String, payload: &(dyn Any + Send)) -> Self {
        Self { place, words: payload.downcast_ref::<&'static str>().copied() }
    }

    /// The line for people.
    pub(crate) fn line(&self) -> String {
        let words = self.words.map(|words| format!(": {words}")).unwrap_or_default();
        format!(
            "a mistake in headcount itself ({}{words}); please report it, and look what took effect before you run it again",
            self.place
        )
    }
}

/// From now on panics are kept for [`caught`], and told at once where nobody waits for them.
pub(crate) fn catch() {
    set_hook(Box::new(hear));
}

fn hear(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(|| "nowhere".to_owned(), ToString::to_string);
    let panic = Panic::new(place, info.payload());
    tracing::error!(target: "headcount", place = panic.place, words = panic.words, "panicked");
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        say(&std::backtrace::Backtrace::force_capture().to_string());
    }
    if WAITING.load(Ordering::Acquire) == 0 {
        say(&format!("headcount: {}", panic.line()));
    }
    FIRST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
    COUNT.fetch_add(1, Ordering::AcqRel);
    HEARD.notify_waiters();
}

/// Waits for a panic that nobody has told.
async fn untold() {
    loop {
        let heard = HEARD.notified();
        if COUNT.load(Ordering::Acquire) > TOLD.load(Ordering::Acquire) {
            return;
        }
        heard.await;
    }
}

/// Does the work unless it panics, or something in the background does; then the work is dropped. Who waits within
/// somebody else's work is told first, and alone.
pub(crate) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panic> {
    WAITING.fetch_add(1, Ordering::AcqRel);
    let done = tokio::select! {
        biased;
        done = AssertUnwindSafe(work).catch_unwind() => done.ok(),
        () = untold() => None,
    };
    WAITING.fetch_sub(1, Ordering::AcqRel);
    done.ok_or_else(|| {
        TOLD.store(COUNT.load(Ordering::Acquire), Ordering::Release);
        let first = FIRST.lock().unwrap_or_else(PoisonError::into_inner).clone();
        first.unwrap_or_else(|| Panic { place: "nowhere".to_owned(), words: None })
    })
}

/// Panics when the first attempt starts, where a test asks for it: a released program has none of this.
#[cfg(debug_assertions)]
#[derive(Debug)]
pub(crate) struct Provoker;

#[cfg(debug_assertions)]
impl headcount::Observer for Provoker {
    fn observe(&self, _: &headcount::event::Scope, event: &headcount::Event) {
        if !matches!(event, headcount::Event::AttemptStarted { .. }) {
            return;
        }
        match std::env::var("HEADCOUNT_TEST_PANIC").as_deref() {
            Ok("job") => panic!("a test wanted it"),
            Ok("task") => {
                let secret = std::env::var("PGPASSWORD").unwrap_or_default();
                tokio::spawn(async move { panic!("a test wanted it, with {secret}") });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_constant_message_is_told() {
        let told = |payload: &(dyn Any + Send)| Panic::new("src/a.rs:1:2".to_owned(), payload).line();
        assert!(told(&"no row").starts_with("a mistake in headcount itself (src/a.rs:1:2: no row); "));
        assert!(told(&"geheim".to_owned()).starts_with("a mistake in headcount itself (src/a.rs:1:2); "));
    }
}
