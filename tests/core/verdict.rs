//! Each rule of the verdict as a claim; then what must hold for any ticks.

use headcount::decide::verdict::{LeaderState, ShortReason, Tick, Verdict, Window};
use proptest::prelude::*;

use crate::ticks::{CLASSIC, PROMPT, first_verdict, ms, tick};

const ROOM: Option<(u32, u32)> = Some((0, 8));
const FULL: Option<(u32, u32)> = Some((8, 8));

fn window(bar: u32) -> Window {
    Window::new(bar, PROMPT, &[])
}

/// Milliseconds, workers, and the pool as `(used, size)`.
type Look = (u64, u32, Option<(u32, u32)>);

/// A window for `bar` that sees this decides `expected` at that time.
fn check(bar: u32, ticks: &[Look], expected: Option<(u64, Verdict)>) {
    let ticks = ticks.iter().map(|&(at, workers, pool)| tick(at, workers, pool));
    let verdict = first_verdict(&mut window(bar), ticks);
    assert_eq!(verdict, expected.map(|(at, verdict)| (ms(at), verdict)));
}

#[test]
fn the_bar_reached_is_enough_at_once() {
    check(4, &[(0, 0, ROOM), (10, 4, Some((4, 8)))], Some((10, Verdict::Enough)));
}

#[test]
fn more_than_the_bar_is_enough_too() {
    check(4, &[(10, 7, Some((7, 8)))], Some((10, Verdict::Enough)));
}

#[test]
fn a_count_that_still_grows_is_not_short() {
    let ticks = [(0, 1, ROOM), (90, 2, ROOM), (180, 3, ROOM), (270, 4, ROOM)];
    check(4, &ticks, Some((270, Verdict::Enough)));
}

#[test]
fn a_count_that_stands_still_with_room_is_under_launched_after_settle() {
    let ticks = [(0, 2, Some((2, 8))), (99, 2, Some((2, 8))), (100, 2, Some((2, 8)))];
    check(4, &ticks, Some((100, Verdict::Short(ShortReason::UnderLaunched))));
}

#[test]
fn a_count_that_stands_still_without_sight_of_the_pool_is_under_launched() {
    check(4, &[(0, 2, None), (100, 2, None)], Some((100, Verdict::Short(ShortReason::UnderLaunched))));
}

#[test]
fn a_pool_without_a_free_slot_settles_it_with_the_second_tick() {
    check(
        4,
        &[(0, 0, ROOM), (10, 2, FULL), (20, 2, FULL)],
        Some((20, Verdict::Short(ShortReason::PoolExhausted))),
    );
}

#[test]
fn one_inconsistent_tick_of_a_full_pool_proves_nothing() {
    let ticks = [(0, 3, FULL), (10, 3, Some((7, 8))), (20, 4, FULL)];
    check(4, &ticks, Some((20, Verdict::Enough)));
}

#[test]
fn two_ticks_of_a_full_pool_with_an_unseen_one_between_confirm_nothing() {
    check(2, &[(1, 1, FULL), (2, 0, None), (3, 1, FULL), (4, 2, FULL)], Some((4, Verdict::Enough)));
}

#[test]
fn a_full_pool_that_leaves_slots_free_for_fewer_still_settles_first() {
    let busy = Some((6, 8));
    let ticks: Vec<_> = (0..=10).map(|n| (n * 10, 1, busy)).collect();
    check(4, &ticks, Some((100, Verdict::Short(ShortReason::PoolExhausted))));
}

#[test]
fn idle_pool_keeps_waiting_for_a_late_gather() {
    let serial = (0..100_000).step_by(10).map(|at| tick(at, 0, ROOM));
    let launch = [tick(100_000, 4, Some((4, 8)))];
    let verdict = first_verdict(&mut window(4), serial.chain(launch));
    assert_eq!(verdict, Some((ms(100_000), Verdict::Enough)));
}

#[test]
fn no_worker_in_a_full_pool_is_pool_exhausted_after_launch_wait() {
    let ticks: Vec<_> = (0..=200).map(|n| (n * 10, 0, FULL)).collect();
    check(4, &ticks, Some((1000, Verdict::Short(ShortReason::PoolExhausted))));
}

#[test]
fn a_pool_that_was_full_once_may_have_been_met_by_the_gather() {
    let ticks: Vec<_> = (0..=200).map(|n| (n * 10, 0, if n == 3 { FULL } else { ROOM })).collect();
    check(4, &ticks, Some((1000, Verdict::Short(ShortReason::PoolExhausted))));
}

#[test]
fn classic_without_a_worker_in_a_pool_with_room_is_no_matter_of_sight() {
    let mut classic = Window::new(4, CLASSIC, &[]);
    let ticks = (0..=20).map(|n| tick(n * 100, 0, ROOM));
    let verdict = Verdict::Short(ShortReason::UnderLaunched);
    assert_eq!(first_verdict(&mut classic, ticks), Some((ms(2000), verdict)));
}

#[test]
fn no_worker_and_no_sight_of_the_pool_is_no_launch_after_launch_wait() {
    let ticks: Vec<_> = (0..=200).map(|n| (n * 10, 0, None)).collect();
    check(4, &ticks, Some((1000, Verdict::Short(ShortReason::NoLaunch))));
}

#[test]
fn time_waiting_for_a_lock_does_not_count() {
    let mut window = window(4);
    let waiting =
        (0..60_000).step_by(10).map(|at| Tick { leader: LeaderState::WaitingForLock, ..tick(at, 0, FULL) });
    assert_eq!(first_verdict(&mut window, waiting), None);
    let then = (60_000..70_000).step_by(10).map(|at| tick(at, 0, FULL));
    assert_eq!(
        first_verdict(&mut window, then),
        Some((ms(61_000), Verdict::Short(ShortReason::PoolExhausted)))
    );
}

#[test]
fn a_worker_that_vanishes_within_milliseconds_is_no_launch() {
    // CREATE TABLE AS builds the TOAST index of its table in parallel before it reaches its own Gather.
    let blip = [(0, 0, ROOM), (10, 1, ROOM), (20, 0, ROOM)];
    let later: Vec<_> = (3..300).map(|n| (n * 10, 0, ROOM)).collect();
    check(4, &[&blip[..], &later[..]].concat(), None);
    check(4, &[&blip[..], &[(200, 4, ROOM)]].concat(), Some((200, Verdict::Enough)));
}

#[test]
fn a_smaller_gather_of_the_plan_is_waited_out_while_there_is_room() {
    let mut window = Window::new(4, PROMPT, &[2, 4]);
    let small = (0..1000).step_by(10).map(|at| tick(at, 2, Some((2, 8))));
    assert_eq!(first_verdict(&mut window, small), None);
    assert_eq!(window.on_tick(tick(1000, 4, ROOM)), Some(Verdict::Enough));
}

#[test]
fn a_smaller_gather_excuses_nothing_once_the_pool_had_no_room() {
    let mut window = Window::new(4, PROMPT, &[2, 4]);
    let busy = (0..1000).step_by(10).map(|at| tick(at, 2, Some((7, 8))));
    assert_eq!(first_verdict(&mut window, busy), Some((ms(100), Verdict::Short(ShortReason::PoolExhausted))));
}

#[test]
fn a_statement_that_ends_undecided_finished_early() {
    let mut window = window(4);
    window.on_tick(tick(0, 2, ROOM));
    assert_eq!(window.on_end(), Verdict::FinishedEarly);
}

#[test]
fn a_statement_that_ends_while_the_monitor_is_blind_is_unverified() {
    let mut window = window(4);
    window.on_tick(tick(0, 2, ROOM));
    window.on_blind();
    assert_eq!(window.on_end(), Verdict::Unverified);
}

#[test]
fn a_monitor_that_came_back_verifies_again() {
    let mut window = window(4);
    window.on_blind();
    assert_eq!(window.on_tick(tick(5000, 4, ROOM)), Some(Verdict::Enough));
    assert_eq!(window.on_end(), Verdict::Enough);
}

#[test]
fn time_spent_blind_does_not_count_as_active() {
    let mut window = window(4);
    window.on_tick(tick(0, 0, FULL));
    window.on_blind();
    assert_eq!(window.on_tick(tick(60_000, 0, FULL)), None);
}

#[test]
fn a_bar_of_zero_accepts_a_serial_run_at_the_first_look() {
    check(0, &[(10, 0, FULL)], Some((10, Verdict::Enough)));
}

#[test]
fn a_verdict_never_changes() {
    let mut window = window(2);
    assert_eq!(window.on_tick(tick(0, 2, ROOM)), Some(Verdict::Enough));
    assert_eq!(window.on_tick(tick(10, 0, FULL)), None);
    assert_eq!(window.on_end(), Verdict::Enough);
    assert_eq!(window.most_workers(), 2);
}

/// Milliseconds since the last tick, workers, the leader, and the pool.
type Step = (u64, u32, LeaderState, Option<(u32, u32)>);

fn any_tick() -> impl Strategy<Value = Step> {
    let leader = prop_oneof![
        6 => Just(LeaderState::Active),
        2 => Just(LeaderState::WaitingForLock),
        1 => Just(LeaderState::Idle),
    ];
    (1u64..400, 0u32..6, leader, proptest::option::of((0u32..10, 1u32..10)))
}

fn timeline(steps: &[Step]) -> Vec<Tick> {
    let mut at = 0;
    steps
        .iter()
        .map(|&(step, workers, leader, pool)| {
            at += step;
            Tick { leader, ..tick(at, workers, pool.map(|(used, size)| (used.min(size), size))) }
        })
        .collect()
}

proptest! {
    #[test]
    fn a_bar_that_was_reached_is_never_rejected(steps in prop::collection::vec(any_tick(), 1..60), bar in 0u32..6) {
        let mut window = window(bar);
        for tick in timeline(&steps) {
            let open = window.verdict().is_none();
            let verdict = window.on_tick(tick);
            if open && tick.workers >= bar {
                prop_assert_eq!(verdict, Some(Verdict::Enough));
            }
        }
    }

    #[test]
    fn no_short_verdict_without_evidence(steps in prop::collection::vec(any_tick(), 1..60), bar in 1u32..6) {
        let mut window = window(bar);
        let ticks = timeline(&steps);
        for (n, tick) in ticks.iter().enumerate() {
            let Some(Verdict::Short(reason)) = window.on_tick(*tick) else { continue };
            let seen = &ticks[..=n];
            let no_room = |t: &Tick| t.pool.is_some_and(|pool| !pool.has_room_for(bar, t.workers));
            prop_assert!(tick.workers < bar);
            prop_assert_eq!(reason == ShortReason::PoolExhausted, seen.iter().any(no_room));
            if tick.workers == 0 {
                // Nobody is blamed for a Gather that may not have been reached.
                prop_assert!(seen.iter().any(no_room) || tick.pool.is_none());
                prop_assert!(tick.at - seen[0].at >= ms(1000));
            } else {
                let settled = tick.at - seen[0].at >= ms(100);
                let full_twice = n > 0 && seen[n - 1..].iter().all(|t| t.pool.is_some_and(|pool| pool.free() == 0));
                prop_assert!(settled || full_twice);
            }
        }
    }

    #[test]
    fn the_most_workers_seen_is_what_was_seen(steps in prop::collection::vec(any_tick(), 1..60), bar in 0u32..6) {
        let mut window = window(bar);
        let ticks = timeline(&steps);
        ticks.iter().for_each(|tick| { window.on_tick(*tick); });
        prop_assert_eq!(Some(window.most_workers()), ticks.iter().map(|tick| tick.workers).max());
    }

    #[test]
    fn an_idle_or_waiting_leader_without_workers_is_never_short(
        steps in prop::collection::vec(any_tick(), 1..60), bar in 1u32..6
    ) {
        let mut window = window(bar);
        for tick in timeline(&steps) {
            let leader = if tick.leader == LeaderState::Active { LeaderState::Idle } else { tick.leader };
            prop_assert_eq!(window.on_tick(Tick { workers: 0, leader, ..tick }), None);
        }
    }
}
