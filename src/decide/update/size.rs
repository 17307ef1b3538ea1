//! How many keys a chunk should have.
//!
//! A small chunk pays a commit for few rows; a large one holds its locks long and loses much when the
//! connection dies. Time is what locks and losses are felt in, so `auto` aims at a duration. It grows
//! and shrinks gently, as one slow commit proves nothing, but halves at once when a chunk had to be
//! tried again: that is what waiting for locks looks like.

use std::time::Duration;

/// The size of the next chunk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizer {
    size: f64,
    aim: Option<Duration>,
}

/// The duration of a chunk that [`Sizer::auto`] aims at.
pub const AIM: Duration = Duration::from_millis(50);
/// No chunk of [`Sizer::auto`] is smaller.
pub const LEAST: u32 = 10;
/// No chunk is larger.
pub const MOST: u32 = 10_000;

impl Sizer {
    /// Always so many keys, 1 to [`MOST`].
    #[must_use]
    pub fn fixed(size: u32) -> Self {
        Self { size: f64::from(size.clamp(1, MOST)), aim: None }
    }

    /// From 100, whatever makes a chunk last about [`AIM`].
    #[must_use]
    pub fn auto() -> Self {
        Self { size: 100.0, aim: Some(AIM) }
    }

    /// Keys for the next chunk.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.size.round() as u32
    }

    /// A chunk of so many keys was committed after `took`. Chunks far from the present size (the last
    /// one of a stream, a half) teach nothing.
    pub fn on_committed(&mut self, keys: u32, took: Duration) {
        let Some(aim) = self.aim else { return };
        if f64::from(keys) < self.size / 2.0 {
            return;
        }
        let ratio = aim.as_secs_f64() / took.as_secs_f64().max(1e-6);
        // A quarter up or down at a time.
        self.resize(self.size * ratio.clamp(0.8, 1.25));
    }

    /// A chunk has to be tried again.
    pub fn on_retried(&mut self) {
        if self.aim.is_some() {
            self.resize(self.size / 2.0);
        }
    }

    const fn resize(&mut self, size: f64) {
        self.size = size.clamp(LEAST as f64, MOST as f64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fixed_size_stays() {
        let mut sizer = Sizer::fixed(100);
        sizer.on_committed(100, Duration::from_secs(9));
        sizer.on_retried();
        assert_eq!(sizer.next(), 100);
    }

    #[test]
    fn auto_settles_where_a_chunk_lasts_as_long_as_aimed_at() {
        let mut sizer = Sizer::auto();
        // 1 ms for the commit, 20 µs a row: 2,450 rows last 50 ms.
        for _ in 0..60 {
            let size = sizer.next();
            sizer.on_committed(size, Duration::from_millis(1) + Duration::from_micros(20) * size);
        }
        assert!((2400..2500).contains(&sizer.next()), "{}", sizer.next());
    }

    #[test]
    fn the_rest_of_a_stream_teaches_nothing() {
        let mut sizer = Sizer::auto();
        sizer.on_committed(3, Duration::from_millis(1));
        assert_eq!(sizer.next(), 100);
    }

    proptest! {
        #[test]
        fn a_size_moves_gently_within_its_bounds(steps in proptest::collection::vec(0u64..1_000_000, 0..200)) {
            let mut sizer = Sizer::auto();
            for micros in steps {
                let before = sizer.next();
                sizer.on_committed(before, Duration::from_micros(micros));
                let after = f64::from(sizer.next());
                prop_assert!((f64::from(LEAST)..=f64::from(MOST)).contains(&after));
                prop_assert!(after <= f64::from(before) * 1.25 + 1.0 && after >= f64::from(before) * 0.8 - 1.0);
                if micros % 7 == 0 {
                    sizer.on_retried();
                }
            }
        }
    }
}
