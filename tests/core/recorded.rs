//! What the monitor saw of real statements, look by look, and what it was taken for: the traces of `traces/`.
//!
//! `tests/live/traces.rs` records them. The core must come to the same at the same look, however its rules are written.

use std::time::Duration;

use crate::decide::launch::{Demand, Shortfall};
use crate::decide::verdict::{LeaderState, News, Pool, ShortReason, Tick, Verdict, Window};
use crate::ticks::PROMPT;

fn pool(text: &str) -> Option<Pool> {
    let (used, size) = text.split_once('/')?;
    Some(Pool { used: used.parse().unwrap(), size: size.parse().unwrap() })
}

fn reason(word: &str) -> ShortReason {
    ShortReason::ALL.into_iter().find(|reason| reason.as_str() == word).unwrap()
}

fn look(words: &[&str]) -> (Tick, Vec<i32>) {
    let [at, state, slots, processes, pids] = words else { panic!("{words:?}") };
    let leader = match *state {
        "active" => LeaderState::Active,
        "locked" => LeaderState::WaitingForLock,
        "idle" => LeaderState::Idle,
        "gone" => LeaderState::Gone,
        other => panic!("{other}"),
    };
    let pids: Vec<i32> = pids.split(',').filter_map(|pid| pid.parse().ok()).collect();
    let at = Duration::from_micros(at.parse().unwrap());
    let workers = pids.len() as u32;
    (Tick { at, workers, leader, pool: pool(slots), processes: pool(processes) }, pids)
}

fn news(words: &[&str]) -> News {
    match words {
        ["verdict", "enough", _] => News::Verdict(Verdict::Enough),
        ["verdict", "short", word] => News::Verdict(Verdict::Short(reason(word))),
        ["later", word, got, needed] => News::LaterLaunch(Shortfall {
            reason: reason(word),
            got: got.parse().unwrap(),
            needed: needed.parse().unwrap(),
        }),
        other => panic!("{other:?}"),
    }
}

/// Plays a trace to its end; the window then, the verdict, and how often each kind of news came.
fn replay(trace: &str) -> (Window, Verdict, [u32; 2]) {
    let (mut launches, mut required, mut free, mut window) = (Vec::new(), 0, None, None);
    let (mut told, mut at, mut counts) = (None, Duration::ZERO, [0, 0]);
    let mut ended = None;
    for line in trace.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let begun = || {
            let demand = match &launches[..] {
                ["?"] => Demand::unknown(required),
                known => {
                    Demand::of(required, &known.iter().map(|n| n.parse().unwrap()).collect::<Vec<u32>>())
                }
            };
            Window::new(demand, PROMPT).with_free(free)
        };
        match words[0] {
            "launches" => launches = words[1..].to_vec(),
            "required" => required = words[1].parse().unwrap(),
            "free" => free = words[1].parse().ok(),
            "look" => {
                assert_eq!(told, None, "at {at:?}, where nothing was told");
                let (tick, pids) = look(&words[1..]);
                at = tick.at;
                told = window.get_or_insert_with(begun).on_tick(tick, &pids);
            }
            "verdict" if told.is_none() => {
                let verdict = window.get_or_insert_with(begun).on_end();
                assert_eq!(verdict.as_str(), words[1], "at the end");
            }
            "verdict" | "later" => {
                assert_eq!(told.take(), Some(news(&words)), "at {at:?}");
                counts[usize::from(words[0] == "later")] += 1;
            }
            "end" => ended = window.take().map(|mut window| (window.on_end(), window)),
            other => panic!("{other}"),
        }
    }
    let (verdict, window) = ended.expect("an end");
    (window, verdict, counts)
}

fn is_whole(trace: &str) {
    let (window, verdict, counts) = replay(trace);
    assert_eq!((verdict, counts), (Verdict::Enough, [1, 0]));
    assert_eq!((window.condemned(), window.suspicion()), (None, None));
}

#[test]
fn a_small_gather_before_a_large_one_is_no_starved_large_one() {
    is_whole(include_str!("traces/small_then_large.txt"));
}

#[test]
fn a_small_gather_is_waited_out_where_the_pool_was_not_seen() {
    is_whole(include_str!("traces/small_then_large_without_rights.txt"));
}

#[test]
fn queries_of_a_block_are_launches_of_their_own() {
    is_whole(include_str!("traces/queries_of_a_block.txt"));
}

#[test]
fn a_pool_that_was_full_for_a_moment_condemned_no_serial_phase() {
    is_whole(include_str!("traces/full_for_a_moment.txt"));
}

#[test]
fn starvation_that_room_proves_is_caught() {
    for trace in [include_str!("traces/starved_wholly.txt"), include_str!("traces/starved_in_part.txt")] {
        let (_, verdict, counts) = replay(trace);
        assert_eq!((verdict, counts), (Verdict::Short(ShortReason::PoolExhausted), [1, 0]));
    }
}

#[test]
fn a_later_gather_that_starved_was_told_after_the_verdict() {
    let (window, verdict, counts) = replay(include_str!("traces/a_later_gather_starves.txt"));
    assert_eq!((verdict, counts), (Verdict::Enough, [1, 1]));
    assert_eq!(window.condemned(), Some(ShortReason::PoolExhausted));
}
