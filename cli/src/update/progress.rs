//! Progress of an update: a line for each trouble, and a live line with rate and time left.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use headcount::event::{ChunkEnd, Resolution, Scope};
use headcount::{Event, Observer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{count, say, time_text};
use crate::progress::console_is_terminal;

/// Troubles that get a line of their own; the others are counted.
const LINES: u32 = 20;

/// Tells an update's story on standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    story: Mutex<Story>,
    bar: Option<ProgressBar>,
}

#[derive(Debug)]
struct Story {
    began: Instant,
    total: Option<u64>,
    keys: u64,
    failed: u64,
    lines: u32,
}

impl Progress {
    /// With a live line if standard error is a terminal.
    pub(crate) fn new() -> Self {
        let bar = console_is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        let story = Story { began: Instant::now(), total: None, keys: 0, failed: 0, lines: 0 };
        Self { story: Mutex::new(story), bar }
    }
}

impl Observer for Progress {
    fn observe(&self, _: &Scope, event: &Event) {
        let mut story = self.story.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = story.tell(event) {
            match &self.bar {
                Some(bar) => bar.suspend(|| say(&line)),
                None => say(&line),
            }
        }
        let Some(bar) = &self.bar else { return };
        if matches!(event, Event::UpdateEnded(_)) {
            bar.finish_and_clear();
        } else {
            bar.set_message(story.present(story.began.elapsed()));
            bar.tick();
        }
    }
}

impl Story {
    fn tell(&mut self, event: &Event) -> Option<String> {
        let line = match event {
            Event::UpdateStarted { keys, .. } => {
                (self.began, self.total) = (Instant::now(), *keys);
                return None;
            }
            Event::ChunkEnded(facts) => match facts.end {
                ChunkEnd::Committed => {
                    self.keys += u64::from(facts.size);
                    self.failed += facts.rows.failed;
                    return None;
                }
                ChunkEnd::Retried(code) => {
                    let keys = facts.keys.as_ref().map(|keys| format!(": {keys}")).unwrap_or_default();
                    format!("chunk {}: tried again (SQLSTATE {}){keys}", facts.chunk, code.as_str())
                }
                ChunkEnd::Failed(code) => {
                    self.keys += u64::from(facts.size);
                    self.failed += u64::from(facts.size);
                    let keys = facts.keys.as_ref().map(|keys| format!(": {keys}")).unwrap_or_default();
                    format!(
                        "chunk {}: {} given up (SQLSTATE {}){keys}",
                        facts.chunk,
                        count(facts.size.into(), "key"),
                        code.as_str()
                    )
                }
            },
            Event::StartHindered { cause, .. } => format!("cannot start yet: {cause}; trying again"),
            Event::UpdateBlocked { pid, by, .. } => {
                format!("waiting for a lock: backend {pid} is blocked by backend {by}")
            }
            Event::SessionLost { sqlstate } => format!("connection lost (SQLSTATE {})", sqlstate.as_str()),
            Event::SessionRestored { .. } => "connected again".to_owned(),
            Event::CommitInDoubt => "the answer to COMMIT was lost; asking what became of it".to_owned(),
            Event::CommitResolved { resolution } => match resolution {
                Resolution::Committed => "it was committed".to_owned(),
                Resolution::Aborted => "it was not committed; again".to_owned(),
                Resolution::Reread => "the server has forgotten; comparing the rows".to_owned(),
                Resolution::Unresolved => "nobody knows what became of it".to_owned(),
                Resolution::Unreplicated => {
                    "committed, and its synchronous standby may not have it: a failover may undo it"
                        .to_owned()
                }
            },
            _ => return None,
        };
        self.lines += 1;
        match self.lines {
            0..LINES => Some(line),
            LINES => Some(format!("{line}; further troubles are only counted")),
            _ => None,
        }
    }

    /// The live line: so far, rate, time left.
    fn present(&self, elapsed: Duration) -> String {
        let Self { total, keys, failed, .. } = *self;
        let rate = keys as f64 / elapsed.as_secs_f64().max(1e-3);
        let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
        let left = match total {
            Some(total) if rate > 0.0 => {
                let left = Duration::from_secs_f64(total.saturating_sub(keys) as f64 / rate);
                format!(" · {} left", time_text(left))
            }
            _ => String::new(),
        };
        let failed = if failed > 0 { format!(" · {failed} failed") } else { String::new() };
        format!("{keys}{of} keys · {rate:.0}/s · {}{left}{failed}", time_text(elapsed))
    }
}

#[cfg(test)]
mod tests {
    use headcount::event::{ChunkFacts, RowCounts, SqlState};

    use super::*;

    #[test]
    fn the_live_line_says_rate_and_time_left() {
        let mut story = Story { began: Instant::now(), total: Some(5_000), keys: 1_000, failed: 0, lines: 0 };
        assert_eq!(story.present(Duration::from_secs(2)), "1000 of 5000 keys · 500/s · 2.0 s · 8.0 s left");
        (story.total, story.failed) = (None, 3);
        assert_eq!(story.present(Duration::from_secs(2)), "1000 keys · 500/s · 2.0 s · 3 failed");
    }

    #[test]
    fn a_chunk_in_trouble_is_told_with_its_keys_where_they_have_a_text() {
        let mut story = Story { began: Instant::now(), total: None, keys: 0, failed: 0, lines: 0 };
        let mut told = |end, keys: Option<&str>| {
            let (rows, keys) = (RowCounts::default(), keys.map(Into::into));
            let facts = ChunkFacts { chunk: 7, attempt: 1, end, size: 100, rows, took: Duration::ZERO, keys };
            story.tell(&Event::ChunkEnded(facts)).unwrap()
        };
        let code = SqlState::new("40P01").unwrap();
        let named = told(ChunkEnd::Retried(code), Some("601 (line 602) and 99 more"));
        assert_eq!(named, "chunk 7: tried again (SQLSTATE 40P01): 601 (line 602) and 99 more");
        assert_eq!(told(ChunkEnd::Failed(code), None), "chunk 7: 100 keys given up (SQLSTATE 40P01)");
    }

    #[test]
    fn trouble_without_end_does_not_fill_the_terminal() {
        let mut story = Story { began: Instant::now(), total: None, keys: 0, failed: 0, lines: 0 };
        let told = (0..1000).filter_map(|_| story.tell(&Event::CommitInDoubt)).count();
        assert_eq!(told, LINES as usize);
    }
}
