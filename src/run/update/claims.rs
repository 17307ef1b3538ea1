//! What this process knows of keys that are claimed.
//!
//! A claimed row is ours while its transaction lasts. When that fails, the server frees the row at once, and
//! whoever looks next may have it. So that each key keeps its budget of attempts, and is counted once:
//!
//! - *Kept* are the keys of chunks that will be tried again. The other workers of this process leave them alone.
//! - *Given up* are keys that used their budget up. A key is given up while its row is locked by us (it is
//!   claimed once more for that), so that nobody can be updating it meanwhile.
//!
//! Both are looked at before a claim, to spare the server the rows, and again when the rows are had.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pg::update::Key;

/// Keys given up that later claims leave out; a run that has more stops.
const GIVEN_UP: usize = 10_000;

/// One chunk in so many is looked at once more, beginning with the first.
const SAMPLE: u64 = 32;

/// Shared by the workers of a run.
#[derive(Default)]
pub(crate) struct Claims {
    over: AtomicBool,
    worked: AtomicU64,
    left_out: Mutex<LeftOut>,
}

#[derive(Default)]
struct LeftOut {
    given_up: HashSet<Key>,
    /// By how many chunks.
    kept: HashMap<Key, u32>,
}

impl Claims {
    /// Keys that a claim must leave out.
    pub(crate) fn left_out(&self) -> Vec<Key> {
        let left_out = self.lock();
        left_out.given_up.iter().chain(left_out.kept.keys()).cloned().collect()
    }

    /// Whether a row that was had must be left to another, or to nobody.
    pub(crate) fn leaves_out(&self, key: &[Option<Box<str>>]) -> bool {
        let left_out = self.lock();
        left_out.given_up.contains(key) || left_out.kept.contains_key(key)
    }

    /// Whether nobody is to try it any more.
    pub(crate) fn has_given_up(&self, key: &[Option<Box<str>>]) -> bool {
        self.lock().given_up.contains(key)
    }

    /// Somebody will try these again.
    pub(crate) fn keep(&self, keys: Vec<Key>) {
        let mut left_out = self.lock();
        for key in keys {
            *left_out.kept.entry(key).or_default() += 1;
        }
    }

    /// Undoes [`keep`](Self::keep).
    pub(crate) fn release(&self, keys: &[Key]) {
        let mut left_out = self.lock();
        for key in keys {
            if let Some(count) = left_out.kept.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    left_out.kept.remove(key);
                }
            }
        }
    }

    /// Returns whether the run may go on.
    pub(crate) fn give_up(&self, keys: Vec<Key>) -> bool {
        let mut left_out = self.lock();
        left_out.given_up.extend(keys);
        left_out.given_up.len() < GIVEN_UP
    }

    /// Whether a chunk is one of those whose rows are looked at once more: would they be claimed for ever?
    pub(crate) fn is_sample(&self) -> bool {
        self.worked.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLE)
    }

    /// Nothing is left to claim.
    pub(crate) fn are_over(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Somebody leaves behind what was kept from the others.
    pub(crate) fn are_not_over(&self) {
        self.over.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, LeftOut> {
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        vec![Some(text.into())]
    }

    #[test]
    fn a_key_is_left_out_until_the_last_who_keeps_it_lets_go_or_for_good() {
        let claims = Claims::default();
        claims.keep(vec![key("a"), key("b")]);
        claims.keep(vec![key("b")]);
        claims.release(&[key("a"), key("b")]);
        assert!(!claims.leaves_out(&key("a")) && claims.leaves_out(&key("b")));
        assert!(claims.give_up(vec![key("b")]));
        claims.release(&[key("b")]);
        assert!(claims.leaves_out(&key("b")) && claims.has_given_up(&key("b")));
        assert_eq!(claims.left_out(), [key("b")]);
    }
}
