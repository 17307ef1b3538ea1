//! Each rule of the verdict as a claim; then what must hold for any ticks.

use crate::decide::launch::{Demand, PlannedLaunch, Shortfall};
use crate::decide::pace::Outlook;
use crate::decide::script::Evidence;
use crate::decide::verdict::{LeaderState, News, Pool, ShortReason, Tick, Verdict, Window};
use proptest::prelude::*;

use crate::ticks::{CLASSIC, PROMPT, feed, first_verdict, judge, ms, tick};

const ROOM: Option<(u32, u32)> = Some((0, 8));
const FULL: Option<(u32, u32)> = Some((8, 8));
const EXHAUSTED: Verdict = Verdict::Short(ShortReason::PoolExhausted);

fn window(required: u32) -> Window {
    Window::new(Demand::of(required, &[4]), PROMPT)
}

fn unknown(required: u32) -> Window {
    Window::new(Demand::unknown(required), PROMPT)
}

/// Milliseconds, workers, and the pool as `(used, size)`.
type Look = (u64, u32, Option<(u32, u32)>);

/// A window that sees this decides `expected` at that time.
fn decides(mut window: Window, looks: &[Look], expected: Option<(u64, Verdict)>) {
    let ticks = looks.iter().map(|&(at, workers, pool)| tick(at, workers, pool));
    let verdict = first_verdict(&mut window, ticks);
    assert_eq!(verdict, expected.map(|(at, verdict)| (ms(at), verdict)));
}

/// The same of a window for `required` workers, and a plan with one launch of four.
fn check(required: u32, looks: &[Look], expected: Option<(u64, Verdict)>) {
    decides(window(required), looks, expected);
}

/// The same look every 10 ms.
fn held(from: u64, to: u64, workers: u32, pool: Option<(u32, u32)>) -> Vec<Look> {
    (from..=to).step_by(10).map(|at| (at, workers, pool)).collect()
}

/// Feeds a window from `at` on with these pids, every 10 ms; what the first news was, and when.
fn show(
    window: &mut Window,
    (from, to): (u64, u64),
    pids: &[i32],
    pool: Option<(u32, u32)>,
) -> Option<(u64, News)> {
    (from..=to).step_by(10).find_map(|at| {
        let tick = tick(at, pids.len() as u32, pool);
        window.on_tick(tick, pids).map(|news| (at, news))
    })
}

#[test]
fn the_bar_reached_is_enough_at_once() {
    check(4, &[(0, 0, ROOM), (10, 4, Some((4, 8)))], Some((10, Verdict::Enough)));
}

#[test]
fn a_plan_whose_workers_are_all_there_does_not_grow() {
    use Outlook::{Growth, Launches, Nothing};
    let again = |launch| PlannedLaunch { once: false, ..launch };
    // Which launches, the most at once, and what may follow while they are there, and when they have left.
    for (planned, at_once, then, after) in [
        (vec![6.into()], Some(6), Nothing, Nothing),
        (vec![4.into(), 2.into()], Some(6), Nothing, Nothing),
        (vec![again(6.into())], Some(6), Launches, Growth),
        (vec![6.into(), 6.into()], Some(6), Launches, Growth),
        (vec![6.into()], None, Growth, Growth),
    ] {
        let mut window =
            Window::new(Demand { at_once, planned: Some(planned), ..Demand::of(4, &[]) }, PROMPT);
        assert_eq!(window.outlook(), Growth);
        show(&mut window, (0, 0), &[1, 2, 3, 4, 5], ROOM);
        assert_eq!(window.outlook(), Growth);
        show(&mut window, (10, 10), &[1, 2, 3, 4, 5, 6], ROOM);
        assert_eq!(window.outlook(), then);
        show(&mut window, (20, 20), &[], ROOM);
        assert_eq!(window.outlook(), after);
    }
    assert_eq!(unknown(4).outlook(), Growth);
}

#[test]
fn more_than_the_bar_is_enough_too() {
    check(4, &[(10, 7, Some((7, 8)))], Some((10, Verdict::Enough)));
}

#[test]
fn workers_that_left_again_count_in_the_size_of_their_launch() {
    let mut window = window(4);
    assert_eq!(show(&mut window, (0, 10), &[], ROOM), None);
    assert_eq!(show(&mut window, (20, 20), &[1, 2], Some((6, 8))), None);
    assert_eq!(show(&mut window, (30, 30), &[3, 4], FULL), Some((30, News::Verdict(Verdict::Enough))));
    assert_eq!(window.most_workers(), 2);
}

#[test]
fn a_count_that_still_grows_is_not_short() {
    let looks = [(0, 1, ROOM), (90, 2, ROOM), (180, 3, ROOM), (270, 4, ROOM)];
    check(4, &looks, Some((270, Verdict::Enough)));
}

#[test]
fn a_launch_with_room_at_every_look_is_whole_whatever_was_planned() {
    check(4, &held(0, 10_000, 2, Some((2, 8))), None);
}

#[test]
fn a_size_that_no_launch_explains_proves_nothing_where_room_cannot_be_seen() {
    // The others may have had no work, and gone between two looks.
    check(4, &held(0, 10_000, 2, None), None);
}

#[test]
fn a_launch_in_a_pool_without_a_free_slot_is_short_two_looks_later() {
    check(4, &[(0, 0, ROOM), (10, 2, FULL), (20, 2, FULL), (30, 2, FULL)], Some((30, EXHAUSTED)));
}

#[test]
fn a_server_without_a_process_left_is_told_from_a_full_pool() {
    let looks =
        (0..10).map(|n| Tick { processes: Some(Pool { used: 8, size: 8 }), ..tick(n * 10, 2, Some((2, 8))) });
    let verdict = first_verdict(&mut window(4), looks);
    assert_eq!(verdict, Some((ms(20), Verdict::Short(ShortReason::ProcessesExhausted))));
}

#[test]
fn a_look_at_a_full_pool_before_workers_are_complete_proves_nothing() {
    let looks = [(0, 3, FULL), (10, 3, Some((7, 8))), (20, 4, FULL)];
    check(4, &looks, Some((20, Verdict::Enough)));
}

#[test]
fn a_pool_that_was_full_shortly_before_an_unexplained_launch_is_evidence() {
    let looks: Vec<_> = [held(0, 40, 0, FULL), held(50, 300, 3, Some((6, 8)))].concat();
    check(4, &looks, Some((150, EXHAUSTED)));
}

#[test]
fn a_pool_that_was_full_long_before_a_launch_is_none() {
    let looks: Vec<_> =
        [held(0, 40, 0, FULL), held(50, 200, 0, ROOM), held(210, 900, 3, Some((6, 8)))].concat();
    check(4, &looks, None);
}

#[test]
fn idle_pool_keeps_waiting_for_a_late_gather() {
    let looks: Vec<_> = [held(0, 99_990, 0, ROOM), vec![(100_000, 4, Some((4, 8)))]].concat();
    check(4, &looks, Some((100_000, Verdict::Enough)));
}

#[test]
fn no_worker_in_a_full_pool_is_pool_exhausted_after_launch_wait() {
    check(4, &held(0, 2000, 0, FULL), Some((1000, EXHAUSTED)));
}

#[test]
fn a_pool_that_lacks_a_slot_for_the_bar_but_not_for_one_worker_is_no_evidence() {
    // A launch would have taken the two slots, and been seen.
    check(4, &held(0, 20_000, 0, Some((6, 8))), None);
}

#[test]
fn a_pool_that_is_full_for_a_moment_now_and_then_condemns_no_serial_phase() {
    // Full for 0.3 s of every 1.5 s, for 9 s.
    let full = |at: u64| if at % 1500 < 300 { FULL } else { ROOM };
    let looks: Vec<_> = (0..9000).step_by(10).map(|at| (at, 0, full(at))).collect();
    check(4, &looks, None);
}

#[test]
fn a_long_serial_phase_is_given_a_tenth_of_its_time() {
    let serial = held(0, 60_000, 0, ROOM);
    let looks: Vec<_> = [serial, held(60_010, 70_000, 0, FULL)].concat();
    // Full since 60,010 ms, and a tenth of the time then is seven seconds.
    let verdict = first_verdict(&mut window(4), looks.iter().map(|&(at, w, pool)| tick(at, w, pool)));
    let (at, verdict) = verdict.unwrap();
    assert_eq!(verdict, EXHAUSTED);
    assert!((ms(66_600)..ms(66_800)).contains(&at), "{at:?}");
}

#[test]
fn no_worker_and_no_sight_of_the_pool_is_no_launch_after_launch_wait() {
    check(4, &held(0, 2000, 0, None), Some((1000, Verdict::Short(ShortReason::NoLaunch))));
}

#[test]
fn a_statement_of_which_nothing_is_known_stays_open_where_room_cannot_be_seen() {
    decides(unknown(4), &held(0, 60_000, 0, None), None);
    decides(unknown(4), &held(0, 60_000, 2, None), None);
}

#[test]
fn a_plan_without_a_launch_is_never_short_for_having_none() {
    decides(Window::new(Demand::of(4, &[]), PROMPT), &held(0, 60_000, 0, FULL), None);
}

#[test]
fn time_waiting_for_a_lock_does_not_count() {
    let mut window = window(4);
    let waiting =
        (0..60_000).step_by(10).map(|at| Tick { leader: LeaderState::WaitingForLock, ..tick(at, 0, FULL) });
    assert_eq!(first_verdict(&mut window, waiting), None);
    let then = (60_000..70_000).step_by(10).map(|at| tick(at, 0, FULL));
    assert_eq!(first_verdict(&mut window, then), Some((ms(61_000), EXHAUSTED)));
}

#[test]
fn a_worker_that_vanishes_within_milliseconds_condemns_nothing() {
    // CREATE TABLE AS builds the TOAST index of its table in parallel before it reaches its own Gather.
    let blip = [(0, 0, ROOM), (10, 1, ROOM), (20, 0, ROOM)];
    check(4, &[&blip[..], &held(30, 3000, 0, ROOM)].concat(), None);
    check(4, &[&blip[..], &[(200, 4, ROOM)]].concat(), Some((200, Verdict::Enough)));
}

#[test]
fn a_smaller_launch_of_the_plan_is_waited_out_even_when_it_takes_the_last_slots() {
    for pool in [Some((2, 8)), FULL] {
        let mut window = Window::new(Demand::of(4, &[2, 4]), PROMPT);
        assert_eq!(show(&mut window, (0, 990), &[1, 2], pool), None);
        let enough = Some((1000, News::Verdict(Verdict::Enough)));
        assert_eq!(show(&mut window, (1000, 1000), &[3, 4, 5, 6], Some((4, 8))), enough);
    }
}

#[test]
fn two_small_launches_alive_at_once_are_no_starved_large_one() {
    let mut window = Window::new(Demand::of(4, &[1, 2, 4]), PROMPT);
    assert_eq!(show(&mut window, (0, 500), &[1, 2, 3], Some((3, 8))), None);
    assert_eq!(show(&mut window, (510, 900), &[], ROOM), None);
    let enough = Some((910, News::Verdict(Verdict::Enough)));
    assert_eq!(show(&mut window, (910, 910), &[4, 5, 6, 7], Some((4, 8))), enough);
}

#[test]
fn a_launch_that_ran_whole_does_not_explain_the_next_one() {
    let mut window = Window::new(Demand::of(4, &[2, 4]), PROMPT);
    assert_eq!(show(&mut window, (0, 300), &[1, 2], Some((2, 8))), None);
    assert_eq!(show(&mut window, (310, 600), &[], ROOM), None);
    // Two again, in a full pool: the small one has run.
    assert_eq!(show(&mut window, (610, 900), &[3, 4], FULL), Some((630, News::Verdict(EXHAUSTED))));
}

#[test]
fn launches_of_which_nothing_is_known_are_short_only_while_there_is_no_room() {
    decides(unknown(4), &held(0, 3000, 2, Some((2, 8))), None);
    decides(unknown(4), &held(0, 3000, 2, FULL), Some((20, EXHAUSTED)));
    // Others took the last slots after it had started.
    let looks: Vec<_> = [held(0, 10, 2, Some((7, 8))), held(20, 3000, 2, FULL)].concat();
    decides(unknown(4), &looks, None);
}

#[test]
fn launches_alive_together_are_enough_and_marked_where_one_may_lack_a_worker() {
    let demand = || Demand::of(4, &[4, 4]);
    let mut window = Window::new(demand(), PROMPT);
    assert_eq!(show(&mut window, (0, 10), &[], ROOM), None);
    assert_eq!(show(&mut window, (20, 40), &[1, 2], Some((5, 8))), None);
    // More than `settle` later: a launch of its own.
    assert_eq!(show(&mut window, (50, 140), &[1, 2], Some((5, 8))), None);
    let enough = Some((220, News::Verdict(Verdict::Enough)));
    assert_eq!(show(&mut window, (200, 220), &[1, 2, 3, 4], FULL), enough);
    assert!(window.is_concurrent_unproven());
    let mut window = Window::new(Demand::of(4, &[2, 2]), PROMPT);
    assert_eq!(show(&mut window, (0, 200), &[1, 2], Some((2, 8))), None);
    show(&mut window, (210, 230), &[1, 2, 3, 4], FULL).unwrap();
    assert!(!window.is_concurrent_unproven(), "it cannot have more at once");
}

/// As seen on 14, 16 and 18: the last worker of one Gather is still there while those of the next begin, in the slots that
/// the others of it have left.
#[test]
fn workers_that_are_leaving_are_none_of_the_launch_behind_them() {
    let mut window = Window::new(Demand::of(4, &[1, 4]), PROMPT);
    assert_eq!(show(&mut window, (0, 290), &[1], Some((1, 4))), None);
    assert_eq!(show(&mut window, (300, 300), &[1, 2, 3, 4], Some((4, 4))), None);
    let short = show(&mut window, (310, 600), &[2, 3, 4], Some((3, 4)));
    assert!(matches!(short, Some((_, News::Verdict(Verdict::Short(_))))), "{short:?}");
    assert_eq!(window.achieved(), 3);

    // Within `settle` of each other.
    for (before, then) in [(vec![1, 2], vec![2, 3, 4]), (vec![1], vec![1, 2, 3, 4])] {
        let mut window = Window::new(Demand::of(4, &[before.len() as u32, 4]), PROMPT);
        assert_eq!(show(&mut window, (0, 10), &before, FULL), None);
        assert_eq!(show(&mut window, (20, 20), &then, FULL), None);
        assert_eq!(show(&mut window, (30, 400), &then[1..], FULL), None);
        window.on_end();
        assert_eq!(window.verdict(), Some(Verdict::FinishedEarly));
        assert_eq!(window.achieved() as usize, then.len() - 1);
        assert!(window.has_unproven_launches(), "it may have been the whole one");
    }
}

#[test]
fn a_later_launch_that_is_short_is_told_and_changes_no_verdict() {
    let mut window = Window::new(Demand::of(4, &[4, 4]), PROMPT);
    assert_eq!(show(&mut window, (0, 10), &[], ROOM), None);
    show(&mut window, (20, 20), &[1, 2, 3, 4], Some((4, 8))).unwrap();
    assert_eq!(show(&mut window, (30, 500), &[1, 2, 3, 4], Some((4, 8))), None);
    assert_eq!(show(&mut window, (510, 700), &[], ROOM), None);
    let short = Shortfall { reason: ShortReason::PoolExhausted, got: 2, needed: 4 };
    assert_eq!(show(&mut window, (710, 900), &[5, 6], FULL), Some((730, News::LaterLaunch(short))));
    assert_eq!(window.verdict(), Some(Verdict::Enough));
    assert_eq!((window.achieved(), window.most_workers(), window.short_launches()), (2, 4, 1));
}

#[test]
fn a_later_launch_without_any_worker_is_told_once() {
    let mut window = Window::new(Demand::of(4, &[4, 4]), PROMPT);
    show(&mut window, (0, 20), &[1, 2, 3, 4], Some((4, 8))).unwrap();
    assert_eq!(show(&mut window, (30, 500), &[1, 2, 3, 4], Some((4, 8))), None);
    let (_, news) = show(&mut window, (510, 5000), &[], FULL).unwrap();
    let short = Shortfall { reason: ShortReason::PoolExhausted, got: 0, needed: 4 };
    assert_eq!(news, News::LaterLaunch(short));
    assert_eq!(show(&mut window, (5010, 60_000), &[], FULL), None);
    assert_eq!(window.achieved(), 0);
}

#[test]
fn what_has_run_is_not_awaited_again_when_the_pool_is_full_later() {
    // A serial phase at the end, while others hold the pool.
    let mut window = Window::new(Demand::of(4, &[4]), PROMPT);
    show(&mut window, (0, 0), &[1, 2, 3, 4], FULL).unwrap();
    assert_eq!(show(&mut window, (10, 500), &[1, 2, 3, 4], FULL), None);
    assert_eq!(show(&mut window, (510, 60_000), &[], FULL), None);
    assert_eq!(window.achieved(), 4);
}

#[test]
fn a_small_part_of_the_plan_is_not_missed_after_the_verdict() {
    let light = PlannedLaunch { heavy: false, ..4.into() };
    let again = PlannedLaunch { once: false, ..4.into() };
    for other in [light, again] {
        let planned = Some(vec![other, 4.into()]);
        let mut window = Window::new(Demand { planned, ..Demand::of(4, &[4, 4]) }, PROMPT);
        show(&mut window, (0, 0), &[1, 2, 3, 4], Some((4, 8))).unwrap();
        assert_eq!(show(&mut window, (10, 500), &[1, 2, 3, 4], Some((4, 8))), None);
        show(&mut window, (510, 800), &[5, 6, 7, 8], Some((4, 8)));
        assert_eq!(show(&mut window, (810, 60_000), &[], FULL), None, "{other:?}");
    }
}

#[test]
fn a_worker_that_starts_late_is_no_launch_of_its_own() {
    for pool in [None, Some((7, 8))] {
        let mut window = Window::new(Demand { target: 4, ..Demand::of(2, &[4]) }, PROMPT);
        assert_eq!(show(&mut window, (0, 10), &[], Some((3, 8))), None);
        show(&mut window, (20, 20), &[1, 2, 3], pool).unwrap();
        assert_eq!(show(&mut window, (30, 300), &[1, 2, 3], pool), None);
        assert_eq!(show(&mut window, (310, 2000), &[1, 2, 3, 4], pool), None);
        assert_eq!(window.achieved(), 4);
    }
}

#[test]
fn the_last_attempt_tells_of_a_later_launch_below_the_target_and_keeps_it() {
    for plan in [Demand::of(2, &[4, 4]), Demand::unknown(2)] {
        let mut window = Window::new(Demand { target: 4, ..plan }, PROMPT);
        show(&mut window, (0, 0), &[1, 2, 3, 4], Some((4, 4))).unwrap();
        assert_eq!(show(&mut window, (10, 500), &[1, 2, 3, 4], Some((4, 4))), None);
        let (_, news) = show(&mut window, (510, 900), &[5, 6], Some((4, 4))).unwrap();
        let short = Shortfall { reason: ShortReason::PoolExhausted, got: 2, needed: 4 };
        assert_eq!(news, News::LaterLaunch(short));
        assert!(window.accepts(short) && window.condemned().is_none());
        // What has run is not missed when the rest is serial.
        assert_eq!(show(&mut window, (910, 60_000), &[], Some((4, 4))), None);
        assert_eq!((window.achieved(), window.short_launches()), (2, 1));
    }
}

/// Our two have gone when three others come: at that moment one of seven slots is free. No look shows that.
#[test]
fn slots_that_may_still_be_held_are_no_room() {
    let mut window = Window::new(Demand::of(2, &[2, 2]), PROMPT);
    show(&mut window, (0, 0), &[1, 2], Some((3, 7))).unwrap();
    assert_eq!(show(&mut window, (10, 300), &[1, 2], Some((3, 7))), None);
    assert_eq!(show(&mut window, (400, 400), &[], Some((4, 7))), None);
    assert_eq!(show(&mut window, (500, 700), &[3], Some((4, 7))), None);
    window.on_end();
    assert!(window.has_unproven_launches() && window.short_launches() == 0);
}

/// The plan has one Gather of two: of two launches with two workers, one is of the Gather of four.
#[test]
fn a_launch_that_met_no_room_explains_no_other_one() {
    let mut window = Window::new(Demand::of(4, &[2, 4]), PROMPT);
    assert_eq!(show(&mut window, (0, 500), &[1, 2], FULL), None, "it may be the small one");
    let news = show(&mut window, (510, 900), &[3, 4], FULL);
    assert_eq!(news, Some((530, News::Verdict(EXHAUSTED))));
}

#[test]
fn what_the_last_attempt_was_accepted_with_is_not_hidden_by_a_whole_launch() {
    let mut window = Window::new(Demand { target: 4, ..Demand::of(2, &[4, 4]) }, PROMPT);
    show(&mut window, (0, 0), &[1, 2], FULL).unwrap();
    assert_eq!(show(&mut window, (10, 500), &[1, 2], FULL), None, "it is told by the outcome");
    assert_eq!(show(&mut window, (510, 1000), &[3, 4, 5, 6], Some((4, 8))), None);
    window.on_end();
    let mut evidence = Evidence::default();
    evidence.take(&window, 4);
    assert_eq!((evidence.achieved(), evidence.short_launches), (2, 1));
    assert!(window.condemned().is_none(), "it had what this attempt requires");
}

/// It is accepted at two of four; whether the other two had started, too, depends on the room.
#[test]
fn the_last_attempt_is_below_the_target_only_where_there_was_no_room_for_more() {
    let end = |pools: &[Option<(u32, u32)>], blind: bool| {
        let mut window = Window::new(Demand { target: 4, ..Demand::of(2, &[4]) }, PROMPT);
        show(&mut window, (0, 10), &[], ROOM);
        let mut at = 20;
        for &pool in pools {
            show(&mut window, (at, at), &[1, 2], pool);
            at += 10;
        }
        if blind {
            window.on_blind();
        }
        assert_eq!(window.on_end(), Verdict::Enough, "it is not cancelled");
        let mut evidence = Evidence::default();
        evidence.take(&window, 4);
        assert_eq!(evidence.achieved(), 2);
        evidence.verdict()
    };
    let some = Some((2, 8));
    assert_eq!(end(&[some], false), Verdict::FinishedEarly);
    assert_eq!(end(&[some; 100], false), Verdict::FinishedEarly);
    assert_eq!(end(&[some], true), Verdict::Enough);
    assert_eq!(end(&[FULL], false), Verdict::Enough);
    assert_eq!(end(&[some, FULL, some], false), Verdict::Enough);
    assert_eq!(end(&[some, None, some], false), Verdict::Enough, "the pool was not seen");
    let mut late = vec![some; 80];
    late.extend([FULL; 80]);
    assert_eq!(end(&late, false), Verdict::FinishedEarly, "others came long after");
}

#[test]
fn a_later_launch_without_room_is_told_of_a_last_attempt_that_had_room_before() {
    let mut window = Window::new(Demand { target: 4, ..Demand::of(2, &[4, 4]) }, PROMPT);
    show(&mut window, (0, 0), &[1, 2], Some((2, 8))).unwrap();
    assert_eq!(show(&mut window, (10, 500), &[1, 2], Some((2, 8))), None);
    let (_, news) = show(&mut window, (510, 5000), &[], FULL).unwrap();
    assert_eq!(news, News::LaterLaunch(Shortfall { reason: ShortReason::PoolExhausted, got: 0, needed: 4 }));
    let mut evidence = Evidence::default();
    evidence.take(&window, 4);
    assert_eq!((evidence.achieved(), evidence.shortfall().is_some()), (0, true));
}

/// The workers of the first give their slots back a moment after they have gone.
#[test]
fn a_planned_launch_that_nobody_saw_behind_one_that_left_no_room_is_unproven() {
    let end = |planned: &[u32], pool: (u32, u32), serial: u64| {
        let mut window = Window::new(Demand::of(4, planned), PROMPT);
        show(&mut window, (0, 0), &[1, 2, 3, 4], Some(pool)).unwrap();
        assert_eq!(show(&mut window, (10, 480), &[1, 2, 3, 4], Some(pool)), None);
        // They do not all go at once.
        assert_eq!(show(&mut window, (490, 500), &[3], Some((1, pool.1))), None);
        assert_eq!(show(&mut window, (510, 500 + serial), &[], Some((0, pool.1))), None);
        assert_eq!(window.on_end(), Verdict::Enough);
        let mut evidence = Evidence::default();
        evidence.take(&window, 4);
        (window.has_unproven_launches(), evidence.is_doubtful())
    };
    assert_eq!(end(&[4, 4], (4, 4), 2000), (true, true));
    assert_eq!(
        end(&[4, 4], (4, 8), 2000),
        (false, true),
        "there was room for it: the server's counters may tell"
    );
    assert_eq!(end(&[4], (4, 4), 2000), (false, false), "there was no other");
    assert_eq!(end(&[4, 4], (4, 4), 20), (false, true), "no time for it to be the one that ran alone");
}

/// From when to when, the pids, and the pool.
type Looks<'a> = ((u64, u64), &'a [i32], (u32, u32));

/// Whether launches are in doubt after these looks.
fn is_in_doubt(demand: Demand, looks: &[Looks<'_>]) -> bool {
    let mut window = Window::new(demand, PROMPT);
    for &((from, until), pids, pool) in looks {
        for at in (from..=until).step_by(10) {
            window.on_tick(tick(at, pids.len() as u32, Some(pool)), pids);
        }
    }
    window.on_end();
    let mut evidence = Evidence::default();
    evidence.take(&window, 4);
    window.has_unproven_launches()
}

#[test]
fn a_launch_that_may_have_been_another_one_of_the_plan_proves_neither() {
    // A launch of two was whole, or the one of four had two: the other one left no trace.
    let last = |planned: &[u32]| Demand { target: 4, ..Demand::of(2, planned) };
    let two = |pool: (u32, u32)| [((0, 200), &[1, 2][..], pool), ((210, 600), &[], (pool.0 - 2, pool.1))];
    assert!(is_in_doubt(last(&[2, 4]), &two((5, 5))));
    assert!(is_in_doubt(last(&[2, 2, 4]), &two((3, 3))));
    assert!(!is_in_doubt(last(&[2, 4]), &two((5, 12))), "there was room for the other one all the time");
    // Four workers are no launch of two, which is a small part of the plan.
    let light = PlannedLaunch { heavy: false, ..2.into() };
    let demand = Demand { planned: Some(vec![light, 4.into()]), ..Demand::of(4, &[2, 4]) };
    let four = [((0, 200), &[1, 2, 3, 4][..], (4, 4)), ((210, 600), &[], (0, 4))];
    assert!(!is_in_doubt(demand, &four));
    // Seven at once are one launch of four, and nobody knows what the other had.
    let seven = [((0, 200), &[1, 2, 3, 4, 5, 6, 7][..], (7, 7)), ((210, 600), &[], (0, 7))];
    assert!(is_in_doubt(Demand::of(4, &[4, 4]), &seven));
    let eight = [((0, 200), &[1, 2, 3, 4, 5, 6, 7, 8][..], (8, 8)), ((210, 600), &[], (0, 8))];
    assert!(!is_in_doubt(Demand::of(4, &[4, 4]), &eight));
}

#[test]
fn a_launch_that_may_come_again_or_that_nobody_foresees_is_in_doubt_where_there_was_no_room_for_it() {
    let again = PlannedLaunch { once: false, ..4.into() };
    let repeated = || Demand { planned: Some(vec![again]), ..Demand::of(4, &[4]) };
    let starved = [((0, 700), &[][..], (6, 6))];
    assert!(is_in_doubt(repeated(), &starved), "a Gather below a nested loop that never had a worker");
    let late = [((0, 300), &[1, 2, 3, 4][..], (4, 6)), ((310, 800), &[], (6, 6))];
    assert!(is_in_doubt(repeated(), &late) && is_in_doubt(Demand::unknown(4), &late));
    let roomy = [((0, 300), &[1, 2, 3, 4][..], (4, 6)), ((310, 800), &[], (2, 6))];
    assert!(!is_in_doubt(repeated(), &roomy) && !is_in_doubt(Demand::unknown(4), &roomy));
    // The inner side of a nested loop left no trace behind an outer one that had all slots.
    let inner = PlannedLaunch { once: false, ..2.into() };
    let both = Demand { planned: Some(vec![4.into(), inner]), at_once: Some(4), ..Demand::of(4, &[]) };
    assert!(is_in_doubt(both, &[((0, 130), &[1, 2, 3, 4][..], (4, 4)), ((140, 540), &[], (0, 4))]));
    let brief = [((0, 3000), &[1, 2, 3, 4][..], (4, 6)), ((3010, 3200), &[], (6, 6))];
    assert!(!is_in_doubt(Demand::unknown(4), &brief), "less than a tenth of its time");
}

/// The slots of the statement before are free a moment after its workers have gone.
#[test]
fn a_statement_that_began_without_a_free_slot_and_never_had_a_worker_is_in_doubt() {
    let in_doubt = |demand: Demand, free: u32, until: u64| {
        let mut window = Window::new(demand, PROMPT).with_free(Some(free));
        for at in (0..=until).step_by(10) {
            window.on_tick(tick(at, 0, Some((0, 8))), &[]);
        }
        window.on_end();
        window.has_unproven_launches()
    };
    let index = || Demand { at_once: Some(4), ..Demand::unknown(4) };
    assert!(in_doubt(index(), 0, 700) && in_doubt(Demand::of(4, &[4]), 0, 700));
    assert!(!in_doubt(index(), 4, 700) && !in_doubt(index(), 0, 50));
    assert!(!in_doubt(Demand { at_once: Some(0), ..Demand::unknown(4) }, 0, 700), "it can have none");
}

#[test]
fn where_nobody_sees_the_room_a_statement_without_enough_workers_is_unproven_not_early() {
    let end = |demand: Demand, pids: &[i32], until: u64| {
        let mut window = Window::new(demand, PROMPT);
        assert_eq!(show(&mut window, (0, until), pids, None), None);
        assert_eq!(window.on_end(), Verdict::FinishedEarly);
        window.has_unproven_launches()
    };
    assert!(end(Demand::of(4, &[4]), &[], 400), "it was looked at forty times");
    assert!(end(Demand::unknown(4), &[], 3000));
    assert!(end(Demand::unknown(3), &[1, 2], 3000));
    assert!(end(Demand::of(4, &[4]), &[1], 400), "one of four");
    assert!(!end(Demand::of(4, &[4]), &[], 20), "too short to have seen its workers start");
    assert!(!end(Demand::of(4, &[]), &[], 400), "it has none");
}

#[test]
fn a_launch_that_may_run_again_is_missed_if_it_never_came() {
    let again = PlannedLaunch { once: false, ..4.into() };
    let planned = Some(vec![4.into(), again]);
    let mut window = Window::new(Demand { planned, ..Demand::of(4, &[4, 4]) }, PROMPT);
    show(&mut window, (0, 0), &[1, 2, 3, 4], Some((4, 8))).unwrap();
    assert_eq!(show(&mut window, (10, 500), &[1, 2, 3, 4], Some((4, 8))), None);
    let (_, news) = show(&mut window, (510, 5000), &[], FULL).unwrap();
    assert!(matches!(news, News::LaterLaunch(short) if short.got == 0), "{news:?}");
}

#[test]
fn a_launch_that_runs_again_and_again_is_whole_each_time() {
    let planned = Some(vec![PlannedLaunch { once: false, ..2.into() }, 4.into()]);
    let mut window = Window::new(Demand { planned, ..Demand::of(4, &[2, 4]) }, PROMPT);
    for round in 0..50 {
        let (at, pid) = (u64::from(round as u16) * 40, round * 2 + 1);
        assert_eq!(show(&mut window, (at, at + 20), &[pid, pid + 1], FULL), None, "round {round}");
        assert_eq!(show(&mut window, (at + 30, at + 30), &[], Some((6, 8))), None, "round {round}");
    }
}

#[test]
fn a_gap_between_looks_may_have_hidden_workers() {
    // Four started and two left between two looks.
    let looks = [(0, 0, ROOM), (1000, 2, FULL), (1010, 2, FULL), (1020, 2, FULL), (1200, 2, FULL)];
    check(4, &looks, None);
}

#[test]
fn a_statement_that_ends_undecided_finished_early() {
    let mut window = window(4);
    feed(&mut window, tick(0, 2, ROOM));
    assert_eq!(window.on_end(), Verdict::FinishedEarly);
}

#[test]
fn a_long_statement_without_any_worker_is_short_at_its_end_if_there_was_no_room_for_a_moment() {
    let end = |looks: &[Look], demand: Demand| {
        let mut window = Window::new(demand, PROMPT);
        let ticks = looks.iter().map(|&(at, workers, pool)| tick(at, workers, pool));
        assert_eq!(first_verdict(&mut window, ticks), None);
        assert_eq!(window.on_end(), Verdict::FinishedEarly);
        window.shortfall().map(|short| (short.reason, short.got, short.needed))
    };
    let starved = [held(0, 700, 0, FULL), held(710, 5000, 0, ROOM)].concat();
    assert_eq!(end(&starved, Demand::of(4, &[4])), Some((ShortReason::PoolExhausted, 0, 4)));
    assert_eq!(end(&held(0, 5000, 0, ROOM), Demand::of(4, &[4])), None, "there was room all the time");
    assert_eq!(end(&held(0, 700, 0, FULL), Demand::of(4, &[4])), None, "too quick to tell");
    assert_eq!(end(&starved, Demand { planned: None, ..Demand::of(4, &[]) }), None, "nothing is known of it");
}

#[test]
fn a_statement_that_ends_while_the_monitor_is_blind_is_unverified() {
    let mut window = window(4);
    feed(&mut window, tick(0, 2, ROOM));
    window.on_blind();
    assert_eq!(window.on_end(), Verdict::Unverified);
}

#[test]
fn a_monitor_that_came_back_verifies_again() {
    let mut window = window(4);
    window.on_blind();
    assert_eq!(judge(&mut window, tick(5000, 4, ROOM)), Some(Verdict::Enough));
    assert_eq!(window.on_end(), Verdict::Enough);
}

#[test]
fn a_launch_that_the_monitor_was_blind_to_is_not_condemned() {
    let mut window = window(4);
    show(&mut window, (0, 10), &[], ROOM);
    show(&mut window, (20, 20), &[1], FULL);
    window.on_blind();
    assert_eq!(show(&mut window, (100, 2000), &[1, 2], FULL), None);
}

#[test]
fn time_spent_blind_does_not_count_as_active() {
    let mut window = window(4);
    feed(&mut window, tick(0, 0, FULL));
    window.on_blind();
    assert_eq!(judge(&mut window, tick(60_000, 0, FULL)), None);
}

#[test]
fn a_bar_of_zero_accepts_a_serial_run_at_the_first_look_and_misses_nothing() {
    let mut window = window(0);
    assert_eq!(judge(&mut window, tick(10, 0, FULL)), Some(Verdict::Enough));
    assert_eq!(show(&mut window, (20, 20_000), &[], FULL), None);
}

#[test]
fn a_verdict_never_changes() {
    let mut window = window(2);
    assert_eq!(judge(&mut window, tick(0, 2, ROOM)), Some(Verdict::Enough));
    assert_eq!(judge(&mut window, tick(10, 0, FULL)), None);
    assert_eq!(window.on_end(), Verdict::Enough);
    assert_eq!(window.most_workers(), 2);
}

#[test]
fn classic_counts_and_knows_of_no_launches() {
    let mut classic = Window::new(Demand::of(4, &[2, 4]), CLASSIC);
    let ticks = (0..=20).map(|n| tick(n * 100, 2, ROOM));
    let verdict = Verdict::Short(ShortReason::UnderLaunched);
    assert_eq!(first_verdict(&mut classic, ticks), Some((ms(2000), verdict)));
}

/// Milliseconds since the last tick, the workers by bits, the leader, and the pool.
type Step = (u64, u8, LeaderState, Option<(u32, u32)>);

fn any_step() -> impl Strategy<Value = Step> {
    let leader = prop_oneof![
        6 => Just(LeaderState::Active),
        2 => Just(LeaderState::WaitingForLock),
        1 => Just(LeaderState::Idle),
    ];
    (1u64..400, any::<u8>(), leader, proptest::option::of((0u32..10, 1u32..10)))
}

fn timeline(steps: &[Step]) -> Vec<(Tick, Vec<i32>)> {
    let mut at = 0;
    let look = |&(step, bits, leader, pool): &Step| {
        at += step;
        let pids: Vec<i32> = (0..8).filter(|bit| bits & bits.rotate_left(3) & (1 << bit) != 0).collect();
        let pool = pool.map(|(used, size): (u32, u32)| (used.min(size), size));
        (Tick { leader, ..tick(at, pids.len() as u32, pool) }, pids)
    };
    steps.iter().map(look).collect()
}

fn any_plan() -> impl Strategy<Value = Option<Vec<u32>>> {
    proptest::option::of(prop::collection::vec(1u32..6, 0..4))
}

fn any_window(required: u32, plan: Option<&Vec<u32>>) -> Window {
    Window::new(
        plan.map_or_else(|| Demand::unknown(required), |launches| Demand::of(required, launches)),
        PROMPT,
    )
}

proptest! {
    #[test]
    fn a_bar_that_is_reached_is_never_rejected(
        steps in prop::collection::vec(any_step(), 1..60), required in 0u32..6, plan in any_plan()
    ) {
        let mut window = any_window(required, plan.as_ref());
        for (tick, pids) in timeline(&steps) {
            let open = window.verdict().is_none();
            let news = window.on_tick(tick, &pids);
            if open && tick.workers >= required {
                prop_assert!(!matches!(news, Some(News::Verdict(Verdict::Short(_)))));
                // Where several launches may come, some may be the last of another.
                let sure = !window.has_several_launches() || required == 0;
                prop_assert!(!sure || news == Some(News::Verdict(Verdict::Enough)));
            }
        }
    }

    #[test]
    fn no_launch_is_short_while_there_is_room_at_every_look(
        steps in prop::collection::vec(any_step(), 1..80), required in 1u32..6, plan in any_plan(), free in 1u32..9
    ) {
        let mut window = any_window(required, plan.as_ref());
        for (tick, pids) in timeline(&steps) {
            let tick = Tick { pool: Some(Pool { used: tick.workers, size: tick.workers + free }), ..tick };
            let news = window.on_tick(tick, &pids);
            prop_assert!(matches!(news, None | Some(News::Verdict(Verdict::Enough))), "{:?}", news);
        }
    }

    #[test]
    fn a_lack_of_room_is_named_only_where_it_was_seen(
        steps in prop::collection::vec(any_step(), 1..60), required in 1u32..6, plan in any_plan()
    ) {
        let mut window = any_window(required, plan.as_ref());
        let mut lacked = false;
        for (tick, pids) in timeline(&steps) {
            lacked |= tick.pool.is_some_and(|pool| pool.free() == 0);
            let reason = match window.on_tick(tick, &pids) {
                Some(News::Verdict(Verdict::Short(reason))) => reason,
                Some(News::LaterLaunch(short)) => short.reason,
                _ => continue,
            };
            prop_assert!(reason != ShortReason::ProcessesExhausted);
            prop_assert!(reason != ShortReason::PoolExhausted || lacked);
            prop_assert!(reason == ShortReason::PoolExhausted || plan.is_some(), "an unknown plan is not judged by itself");
        }
    }

    #[test]
    fn the_most_workers_seen_is_what_was_seen(
        steps in prop::collection::vec(any_step(), 1..60), required in 0u32..6, plan in any_plan()
    ) {
        let mut window = any_window(required, plan.as_ref());
        let looks = timeline(&steps);
        for (tick, pids) in &looks {
            window.on_tick(*tick, pids);
        }
        let most = looks.iter().map(|(tick, _)| tick.workers).max().unwrap_or(0);
        prop_assert!(window.most_workers() == most || (window.has_several_launches() && window.most_workers() < most));
        prop_assert!(window.shortfall().is_none_or(|short| short.got < short.needed));
    }

    #[test]
    fn an_idle_or_waiting_leader_without_workers_is_never_short(
        steps in prop::collection::vec(any_step(), 1..60), required in 1u32..6, plan in any_plan()
    ) {
        let mut window = any_window(required, plan.as_ref());
        for (tick, _) in timeline(&steps) {
            let leader = if tick.leader == LeaderState::Active { LeaderState::Idle } else { tick.leader };
            prop_assert_eq!(window.on_tick(Tick { workers: 0, leader, ..tick }, &[]), None);
        }
    }
}

#[test]
fn a_statement_that_is_unknown_beside_others_and_has_no_worker_while_there_is_no_room_is_unproven() {
    let beside = Demand { expects_workers: false, ..Demand::unknown(4) };
    let mut window = Window::new(beside.clone(), PROMPT);
    assert_eq!(show(&mut window, (0, 2000), &[], FULL), None, "nothing says that it has a launch");
    assert_eq!(window.on_end(), Verdict::FinishedEarly);
    assert!(window.has_unproven_launches());
    // With room it had none, and needs no word.
    let mut window = Window::new(beside, PROMPT);
    assert_eq!(show(&mut window, (0, 2000), &[], ROOM), None);
    window.on_end();
    assert!(!window.has_unproven_launches());
    // Of what can have none nothing is in doubt: an INSERT.
    let mut window = Window::new(Demand { required: 0, ..Demand::unknown(4) }, PROMPT);
    show(&mut window, (0, 0), &[], FULL).unwrap();
    assert_eq!(show(&mut window, (10, 2000), &[], FULL), None);
    window.on_end();
    assert!(!window.has_unproven_launches());
}

#[test]
fn a_long_statement_that_met_a_full_pool_and_never_had_a_worker_is_unproven_if_nobody_knows_its_launches() {
    let mut window = Window::new(Demand::unknown(4), PROMPT);
    assert_eq!(show(&mut window, (0, 300), &[], FULL), None);
    assert_eq!(show(&mut window, (310, 2000), &[], ROOM), None);
    assert_eq!(window.on_end(), Verdict::FinishedEarly);
    assert!(window.has_unproven_launches() && window.suspicion().is_none());
    // However short, if there was no room at any look.
    for (at_once, suspicion) in [(None, None), (Some(4), Some(ShortReason::PoolExhausted))] {
        let mut window = Window::new(Demand { at_once, ..Demand::unknown(4) }, PROMPT);
        assert_eq!(show(&mut window, (0, 300), &[], FULL), None);
        window.on_end();
        assert!(window.has_unproven_launches());
        assert_eq!(window.suspicion(), suspicion, "an index build has its workers for certain");
    }
}

#[test]
fn workers_that_left_before_all_were_there_count_in_what_was_achieved() {
    let mut window = Window::new(Demand::of(2, &[2]), PROMPT);
    assert_eq!(show(&mut window, (0, 0), &[1], ROOM), None);
    assert_eq!(show(&mut window, (10, 10), &[2], ROOM), Some((10, News::Verdict(Verdict::Enough))));
    assert_eq!((window.most_workers(), window.achieved()), (1, 2));
}

#[test]
fn a_planned_launch_without_room_at_any_look_is_suspect_however_short_the_statement_was() {
    let mut window = Window::new(Demand::of(4, &[4]), PROMPT);
    assert_eq!(show(&mut window, (0, 500), &[], FULL), None);
    assert_eq!(window.on_end(), Verdict::FinishedEarly);
    assert_eq!(window.suspicion(), Some(ShortReason::PoolExhausted));
    assert!(window.has_unproven_launches() && window.shortfall().is_none());
    // Its launch may have come and gone while there was room.
    for room in [ROOM, None] {
        let mut window = Window::new(Demand::of(4, &[4]), PROMPT);
        show(&mut window, (0, 30), &[], room);
        show(&mut window, (40, 80), &[], FULL);
        window.on_end();
        assert!(window.suspicion().is_none() && !window.has_unproven_launches());
        // One that takes longer would have been seen then.
        let mut window = Window::new(Demand::of(4, &[4]), PROMPT);
        show(&mut window, (0, 30), &[], room);
        show(&mut window, (40, 80), &[], FULL);
        show(&mut window, (90, 500), &[], ROOM);
        window.on_end();
        assert!(window.suspicion().is_none() && window.has_unproven_launches());
    }
}

#[test]
fn what_one_statement_of_several_was_accepted_with_counts_for_all() {
    let mut all = Evidence::default();
    let mut full = Window::new(Demand::of(4, &[4]), PROMPT);
    show(&mut full, (0, 0), &[1, 2, 3, 4], Some((4, 8))).unwrap();
    all.take(&full, 4);
    assert_eq!(all.achieved(), 4);
    // The last attempt is content with two, or with none.
    for (required, workers) in [(2, &[1, 2][..]), (0, &[])] {
        let mut all = all.clone();
        let mut window = Window::new(Demand { required, ..Demand::of(4, &[4]) }, PROMPT);
        show(&mut window, (0, 0), workers, FULL).unwrap();
        all.take(&window, 4);
        assert_eq!((all.achieved(), all.short_launches), (workers.len() as u32, 0));
    }
    // One that has no plan with workers lowers nothing.
    let mut window = Window::new(Demand { required: 0, ..Demand::unknown(4) }, PROMPT);
    show(&mut window, (0, 0), &[], FULL).unwrap();
    all.take(&window, 4);
    assert_eq!(all.achieved(), 4);
}
