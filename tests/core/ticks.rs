//! Ticks as a test writes them.

use std::time::Duration;

use crate::decide::verdict::{LeaderState, News, Patience, Pool, Tick, Verdict, Window};

pub(crate) const PROMPT: Patience =
    Patience::Prompt { settle: Duration::from_millis(100), launch_wait: Duration::from_secs(1) };

pub(crate) const CLASSIC: Patience =
    Patience::Classic { wait: Duration::from_secs(1), window: Duration::from_secs(2) };

pub(crate) const fn ms(at: u64) -> Duration {
    Duration::from_millis(at)
}

/// A tick of an active leader; the pool is `(used, size)`.
pub(crate) fn tick(at: u64, workers: u32, pool: Option<(u32, u32)>) -> Tick {
    let pool = pool.map(|(used, size)| Pool { used, size });
    Tick { at: ms(at), workers, leader: LeaderState::Active, pool, processes: None }
}

/// Feeds a tick whose workers are the first ones of always the same.
pub(crate) fn feed(window: &mut Window, tick: Tick) -> Option<News> {
    let pids: Vec<i32> = (1..).take(tick.workers as usize).collect();
    window.on_tick(tick, &pids)
}

/// The verdict that a tick brings.
pub(crate) fn judge(window: &mut Window, tick: Tick) -> Option<Verdict> {
    match feed(window, tick)? {
        News::Verdict(verdict) => Some(verdict),
        News::LaterLaunch(_) => None,
    }
}

/// Feeds ticks until one brings the verdict; returns its time and the verdict.
pub(crate) fn first_verdict(
    window: &mut Window,
    ticks: impl IntoIterator<Item = Tick>,
) -> Option<(Duration, Verdict)> {
    ticks.into_iter().find_map(|tick| judge(window, tick).map(|verdict| (tick.at, verdict)))
}
