//! What this process knows of keys that are claimed.
//!
//! A claimed row is ours while its transaction lasts. When that fails, the server frees the row at once, and
//! whoever looks next may have it. So that each key keeps its budget of attempts and is counted once, a worker *takes
//! on* the keys that it claims, until it has said what became of them. The other workers of this process leave them
//! alone, and so they do with those that were *given up*.
//!
//! Other processes know nothing of that. What they take meanwhile is theirs.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pg::update::Key;

/// Keys given up that later claims leave out; a run that has more stops.
const GIVEN_UP: usize = 10_000;

/// Shared by the workers of a run.
#[derive(Default)]
pub(crate) struct Claims {
    over: AtomicBool,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    /// By a worker, and not yet counted.
    taken_on: HashSet<Key>,
    /// Of these, those whose rows are free: a worker will try again.
    waiting: HashSet<Key>,
    given_up: HashSet<Key>,
}

impl Claims {
    /// Keys that a claim need not ask the server for.
    pub(crate) fn left_out(&self) -> Vec<Key> {
        let keys = self.lock();
        keys.given_up.iter().chain(&keys.waiting).cloned().collect()
    }

    /// Keys that nobody will try again.
    pub(crate) fn given_up(&self) -> Vec<Key> {
        self.lock().given_up.iter().cloned().collect()
    }

    /// Takes a key on whose row was had; `false` where it is another worker's, or nobody's.
    pub(crate) fn take_on(&self, key: &[Option<Box<str>>]) -> bool {
        let mut keys = self.lock();
        !keys.given_up.contains(key) && keys.taken_on.insert(key.to_vec())
    }

    /// They were taken on, their rows are free, and they will be tried again.
    pub(crate) fn wait(&self, keys: Vec<Key>) {
        self.lock().waiting.extend(keys);
    }

    /// They were counted, or are left to whoever comes.
    pub(crate) fn let_go(&self, gone: &[Key]) {
        let mut keys = self.lock();
        for key in gone {
            keys.taken_on.remove(key);
            keys.waiting.remove(key);
        }
    }

    /// Returns whether the run may go on.
    pub(crate) fn give_up(&self, gone: Vec<Key>) -> bool {
        self.let_go(&gone);
        let mut keys = self.lock();
        keys.given_up.extend(gone);
        keys.given_up.len() < GIVEN_UP
    }

    /// Whether some worker has keys that are not counted yet.
    pub(crate) fn is_anybody_at_work(&self) -> bool {
        !self.lock().taken_on.is_empty()
    }

    /// Nothing is left to claim.
    pub(crate) fn are_over(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// What was done is gone, and is left to do.
    pub(crate) fn are_not_over(&self) {
        self.over.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        vec![Some(text.into())]
    }

    #[test]
    fn a_key_is_one_workers_until_it_is_counted_and_nobodys_once_it_is_given_up() {
        let claims = Claims::default();
        assert!(claims.take_on(&key("a")) && !claims.take_on(&key("a")));
        claims.wait(vec![key("a")]);
        assert_eq!((claims.left_out(), claims.is_anybody_at_work()), (vec![key("a")], true));
        claims.let_go(&[key("a")]);
        assert!(claims.left_out().is_empty() && !claims.is_anybody_at_work());
        assert!(claims.take_on(&key("a")) && claims.give_up(vec![key("a")]));
        assert!(!claims.take_on(&key("a")) && !claims.is_anybody_at_work());
        assert_eq!((claims.left_out(), claims.given_up()), (vec![key("a")], vec![key("a")]));
    }
}
