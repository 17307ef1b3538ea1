//! The chunk machine, step by step: each rule as a claim. What it comes to is in `effects`.

use std::time::Duration;

use crate::decide::backoff::Backoff;
use crate::decide::failure::FailureClass;
use crate::decide::update::chunk_state::{ChunkState, Fault, Next, NoFlush};
use crate::decide::update::fault_scope::FaultScope;
use crate::decide::update::replay::Replay;
use crate::decide::update::resolver::Status;

const RETRY: Backoff = Backoff { first: Duration::from_millis(10), cap: Duration::from_millis(80) };
const LOST: Fault = Fault { class: FailureClass::NewSession, scope: FaultScope::Run };
const DEADLOCK: Fault = Fault { class: FailureClass::NewTransaction, scope: FaultScope::Run };
const POISON: Fault = Fault { class: FailureClass::Never, scope: FaultScope::Keys };
const UNCLEAR: Fault = Fault { class: FailureClass::Never, scope: FaultScope::Unclear };
const NONSENSE: Fault = Fault { class: FailureClass::Never, scope: FaultScope::Run };

fn begun(max_attempts: u32) -> ChunkState {
    let mut state = ChunkState::new(max_attempts, RETRY);
    state.on_begin();
    state
}

fn committing() -> ChunkState {
    let mut state = begun(5);
    state.on_worked(true);
    state.on_commit_sent(true);
    state
}

fn in_doubt() -> ChunkState {
    let mut state = committing();
    assert_eq!(state.on_failed(LOST, 10, 0.5), Next::Ask(Duration::ZERO));
    state
}

#[test]
fn a_commit_that_the_server_rejects_is_no_doubt() {
    let mut state = committing();
    assert_eq!(state.on_failed(POISON, 10, 0.5), Next::Split);
    assert!(!state.is_in_doubt());
}

#[test]
fn a_transaction_that_wrote_nothing_is_never_in_doubt() {
    let mut state = begun(5);
    state.on_worked(false);
    state.on_commit_sent(true);
    assert!(matches!(state.on_failed(LOST, 10, 0.5), Next::Retry(_)));
}

#[test]
fn a_loss_before_commit_was_sent_is_no_doubt() {
    let mut state = begun(5);
    state.on_worked(true);
    assert!(matches!(state.on_failed(LOST, 10, 0.5), Next::Retry(_)));
}

#[test]
fn a_transaction_that_stays_in_progress_is_unresolved_when_patience_ends() {
    let mut state = in_doubt();
    for _ in 0..100 {
        let Next::Ask(pause) = state.on_status(Status::InProgress, Replay::Safe, true, 10, 0.5) else {
            panic!()
        };
        assert!(pause <= Duration::from_secs(1));
    }
    assert_eq!(state.on_status(Status::InProgress, Replay::Safe, false, 10, 0.5), Next::Unresolved);
}

#[test]
fn work_of_unknown_fate_is_done_again_only_where_that_is_safe() {
    let status = |status, replay| in_doubt().on_status(status, replay, true, 10, 0.5);
    assert!(matches!(status(Status::Unknown, Replay::Safe), Next::Retry(_)));
    assert_eq!(status(Status::Unknown, Replay::Unsafe), Next::Unresolved);
    assert!(matches!(status(Status::Aborted, Replay::Unsafe), Next::Retry(_)), "that is certain");
}

#[test]
fn an_answer_that_makes_no_sense_stops_the_run_and_a_code_that_is_nobodys_halves_the_chunk() {
    assert_eq!(begun(5).on_failed(NONSENSE, 10, 0.5), Next::Stop);
    assert_eq!(begun(5).on_failed(UNCLEAR, 10, 0.5), Next::Split);
    assert_eq!(begun(5).on_failed(UNCLEAR, 1, 0.5), Next::GiveUp);
}

#[test]
fn a_chunk_that_fails_as_often_as_it_may_is_halved_and_its_halves_are_tried_once() {
    let mut state = begun(2);
    assert!(matches!(state.on_failed(DEADLOCK, 10, 0.5), Next::Retry(_)));
    state.on_begin();
    assert_eq!(state.on_failed(DEADLOCK, 10, 0.5), Next::Split);
    let mut half = state.half(5);
    half.on_begin();
    assert_eq!(half.on_failed(DEADLOCK, 5, 0.5), Next::Split);
    // One that stands alone has some patience again.
    let mut single = half.half(1);
    single.on_begin();
    assert!(matches!(single.on_failed(DEADLOCK, 1, 0.5), Next::Retry(_)));
    single.on_begin();
    assert_eq!(single.on_failed(DEADLOCK, 1, 0.5), Next::GiveUp);
}

#[test]
fn a_key_that_costs_a_session_each_time_is_tried_once_when_it_stands_alone() {
    let mut state = begun(1);
    assert_eq!(state.on_failed(LOST, 2, 0.5), Next::Split);
    let mut single = state.half(1);
    single.on_begin();
    assert_eq!(single.on_failed(LOST, 1, 0.5), Next::GiveUp);
}

#[test]
fn a_single_key_is_given_up_and_a_budget_ends() {
    assert_eq!(begun(1).on_failed(POISON, 1, 0.5), Next::GiveUp);
    assert_eq!(begun(1).on_failed(DEADLOCK, 1, 0.5), Next::GiveUp);
}

#[test]
fn a_commit_that_may_be_lost_counts_after_the_flush_however_it_was_learned() {
    let mut answered = begun(5);
    answered.on_worked(true);
    answered.on_commit_sent(false);
    let mut lost = answered.clone();
    assert_eq!(answered.on_committed(true), Next::Hold);
    assert_eq!(answered.on_flushed(), Next::Done);
    assert_eq!(lost.on_failed(LOST, 10, 0.5), Next::Ask(Duration::ZERO));
    assert_eq!(lost.on_status(Status::Committed, Replay::Safe, true, 10, 0.5), Next::Hold);
    assert!(
        matches!(lost.on_status(Status::Aborted, Replay::Safe, false, 10, 0.5), Next::Retry(_)),
        "a crash came first"
    );
    // What one that waits had waited for is not known.
    let mut lasting = in_doubt();
    assert_eq!(lasting.on_status(Status::Committed, Replay::Unsafe, true, 10, 0.5), Next::Hold);
    let mut cancelled = committing();
    assert_eq!(cancelled.on_committed(false), Next::Hold);
    assert_eq!(cancelled.on_unflushed(NoFlush::Unreplicated, Replay::Unsafe, 10, 0.5), Next::Unresolved);
}

#[test]
fn crashes_cost_a_chunk_no_attempt_and_flushes_that_fail_do() {
    for (crashed, expected) in [(true, None), (false, Some(5))] {
        let mut state = ChunkState::new(5, RETRY);
        let given_up = (1..=100).find(|_| {
            state.on_begin();
            state.on_worked(true);
            state.on_commit_sent(false);
            state.on_committed(true);
            let next = match crashed {
                true => state.on_status(Status::Unknown, Replay::Safe, false, 1, 0.5),
                false => state.on_unflushed(NoFlush::Refused, Replay::Safe, 1, 0.5),
            };
            next == Next::Unresolved
        });
        assert_eq!(given_up, expected, "crashed: {crashed}");
    }
}

#[test]
fn what_was_read_counts_after_the_flush_where_a_commit_does_not_wait() {
    for (lasting, expected) in [(true, Next::Done), (false, Next::Hold)] {
        let mut state = begun(5);
        state.on_worked(false);
        state.on_commit_sent(lasting);
        assert_eq!(state.on_committed(true), expected);
    }
    // Of nothing written, no standby has to have anything.
    let mut state = begun(5);
    state.on_worked(false);
    state.on_commit_sent(true);
    assert_eq!(state.on_committed(false), Next::Done);
}

#[test]
fn a_key_that_may_have_been_changed_is_unresolved_when_it_cannot_be_read_again() {
    let mut state = in_doubt();
    assert!(matches!(state.on_status(Status::Unknown, Replay::Safe, true, 2, 0.5), Next::Retry(_)));
    state.on_begin();
    assert_eq!(state.on_failed(POISON, 2, 0.5), Next::Split);
    let mut half = state.half(1);
    half.on_begin();
    assert_eq!(half.on_failed(POISON, 1, 0.5), Next::Unresolved);
    let mut unflushed = committing();
    assert_eq!(unflushed.on_committed(false), Next::Hold);
    assert_eq!(unflushed.on_unflushed(NoFlush::Unreplicated, Replay::Safe, 1, 0.5), Next::Unresolved);
    let mut counted = ChunkState::new(1, RETRY).unsure();
    counted.on_begin();
    assert_eq!(counted.on_failed(LOST, 1, 0.5), Next::Unresolved);
}
