//! When the commits of many chunks are made to last.
//!
//! A COMMIT that waits for the disk takes as long as a hundred rows do. Whoever waits once for many chunks pays
//! that once: the write-ahead log is one stream, so a flush covers all that was committed before, by any
//! session. In between, chunks are committed without waiting, and held: none counts before a flush has
//! covered it. A crash of the server in between costs a second look at the rows of the chunks that were held.
//!
//! Held chunks take memory, and their keys are not yet in the report, the files and the metrics. So there
//! is a bound for both.

use std::time::Duration;

/// Keys that are held at most, and the chunk that comes on top.
pub const KEYS: usize = 10_000;
/// How long a chunk is held at most while there is other work.
pub const AGE: Duration = Duration::from_millis(100);

/// Whether to flush now, with so many keys in the chunks that are held, the oldest for so long.
#[must_use]
pub const fn is_due(keys: usize, oldest: Duration) -> bool {
    keys >= KEYS || (keys > 0 && oldest.as_nanos() >= AGE.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_keys_or_much_time_ask_for_a_flush_and_nothing_held_never_does() {
        assert!(!is_due(0, Duration::MAX));
        assert!(!is_due(100, Duration::from_millis(99)));
        assert!(is_due(100, AGE));
        assert!(is_due(KEYS, Duration::ZERO));
    }
}
