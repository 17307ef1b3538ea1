//! What this process knows of keys that are claimed.
//!
//! A claimed row is ours while its transaction lasts. When that fails, the server frees the row at once, and
//! whoever looks next may have it. So that each key keeps its budget of attempts and is counted once, a worker *takes
//! on* the keys that it claims, until it has said what became of them. The other workers of this process leave them
//! alone, and so they do with those that were *given up*.
//!
//! Other processes know nothing of that. What they take meanwhile is theirs.

use std::collections::HashSet;
use std::hash::Hash;

/// Keys given up that later claims leave out; a run that has more stops.
const GIVEN_UP: usize = 10_000;

/// Shared by the workers of a run.
#[derive(Debug)]
pub struct Claims<K> {
    is_over: bool,
    /// By a worker, and not yet counted.
    taken_on: HashSet<K>,
    /// Of these, those whose rows are free: a worker will try again.
    waiting: HashSet<K>,
    given_up: HashSet<K>,
}

impl<K: Clone + Eq + Hash> Claims<K> {
    /// Nothing is claimed yet.
    #[must_use]
    pub fn new() -> Self {
        Self { is_over: false, taken_on: HashSet::new(), waiting: HashSet::new(), given_up: HashSet::new() }
    }

    /// Keys that a claim need not ask the server for.
    #[must_use]
    pub fn left_out(&self) -> Vec<K> {
        self.given_up.iter().chain(&self.waiting).cloned().collect()
    }

    /// Keys that nobody will try again.
    #[must_use]
    pub fn given_up(&self) -> Vec<K> {
        self.given_up.iter().cloned().collect()
    }

    /// Takes a key on whose row was had; `false` where it is another worker's, or nobody's.
    pub fn take_on(&mut self, key: &K) -> bool {
        !self.given_up.contains(key) && self.taken_on.insert(key.clone())
    }

    /// They were taken on, their rows are free, and they will be tried again.
    pub fn wait(&mut self, keys: &[K]) {
        self.waiting.extend(keys.iter().cloned());
    }

    /// They were counted, or are left to whoever comes.
    pub fn let_go(&mut self, gone: &[K]) {
        for key in gone {
            self.taken_on.remove(key);
            self.waiting.remove(key);
        }
    }

    /// Returns whether the run may go on.
    pub fn give_up(&mut self, gone: &[K]) -> bool {
        self.let_go(gone);
        self.given_up.extend(gone.iter().cloned());
        self.given_up.len() < GIVEN_UP
    }

    /// Whether some worker has keys that are not counted yet.
    #[must_use]
    pub fn is_anybody_at_work(&self) -> bool {
        !self.taken_on.is_empty()
    }

    /// Nothing is left to claim; or what was done is gone, and is left to do.
    pub const fn are_over(&mut self, over: bool) {
        self.is_over = over;
    }

    /// Whether nothing is left to claim.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.is_over
    }
}

impl<K: Clone + Eq + Hash> Default for Claims<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_workers_until_it_is_counted_and_nobodys_once_it_is_given_up() {
        let mut claims = Claims::new();
        assert!(claims.take_on(&"a") && !claims.take_on(&"a"));
        claims.wait(&["a"]);
        assert_eq!((claims.left_out(), claims.is_anybody_at_work()), (vec!["a"], true));
        claims.let_go(&["a"]);
        assert!(claims.left_out().is_empty() && !claims.is_anybody_at_work());
        assert!(claims.take_on(&"a") && claims.give_up(&["a"]));
        assert!(!claims.take_on(&"a") && !claims.is_anybody_at_work());
        assert_eq!((claims.left_out(), claims.given_up()), (vec!["a"], vec!["a"]));
    }
}
