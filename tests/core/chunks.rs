//! The chunk machine against a server in memory that loses connections at every point.

use std::time::Duration;

use headcount::decide::backoff::Backoff;
use headcount::decide::chunk::blame::Blame;
use headcount::decide::chunk::course::{Course, Fault, Next, Status};
use headcount::decide::failure::FailureClass;
use proptest::prelude::*;

const RETRY: Backoff = Backoff { first: Duration::from_millis(10), cap: Duration::from_millis(80) };
const LOST: Fault = Fault { class: FailureClass::NewSession, blame: Blame::Run };
const DEADLOCK: Fault = Fault { class: FailureClass::NewTransaction, blame: Blame::Run };
const POISON: Fault = Fault { class: FailureClass::Never, blame: Blame::Keys };
const NO_TABLE: Fault = Fault { class: FailureClass::Never, blame: Blame::Run };

/// What happens to one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Luck {
    Fine,
    /// Committed without waiting for the disk. Before the flush, a crash takes it back, or not.
    Lazy {
        crash: Option<bool>,
    },
    Deadlock,
    LostAtWork,
    /// COMMIT does not arrive.
    LostBeforeCommit,
    /// COMMIT takes effect, its answer is lost.
    LostAfterCommit,
    /// The same, and the server has forgotten the transaction when it is asked.
    Forgotten {
        committed: bool,
    },
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![
        3 => Just(Luck::Fine),
        2 => proptest::option::of(any::<bool>()).prop_map(|crash| Luck::Lazy { crash }),
        1 => Just(Luck::Deadlock),
        1 => Just(Luck::LostAtWork),
        1 => Just(Luck::LostBeforeCommit),
        1 => Just(Luck::LostAfterCommit),
        1 => any::<bool>().prop_map(|committed| Luck::Forgotten { committed }),
    ]
}

/// A row per key: how often it was changed. Only one that was never changed is eligible.
struct Rows {
    changes: Vec<u32>,
    poisoned: Vec<usize>,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Failed,
}

/// Drives chunks to their ends as the worker does.
fn drive(
    rows: &mut Rows,
    chunks: Vec<Vec<usize>>,
    max_attempts: u32,
    mut luck: impl Iterator<Item = Luck>,
) -> Vec<Vec<End>> {
    let mut ends = vec![Vec::new(); rows.changes.len()];
    let mut todo: Vec<(Vec<usize>, Course)> =
        chunks.into_iter().map(|keys| (keys, Course::new(max_attempts, RETRY))).collect();
    while let Some((keys, mut course)) = todo.pop() {
        course.on_begin();
        assert!(course.attempt() <= max_attempts);
        let luck = luck.next().unwrap_or(Luck::Fine);
        let mut commit =
            || keys.iter().for_each(|&key| rows.changes[key] += u32::from(rows.changes[key] == 0));
        let poisoned = keys.iter().any(|key| rows.poisoned.contains(key));
        let next = match luck {
            Luck::LostAtWork => course.on_failed(LOST, keys.len(), 0.5),
            Luck::Deadlock => course.on_failed(DEADLOCK, keys.len(), 0.5),
            _ if poisoned => course.on_failed(POISON, keys.len(), 0.5),
            _ => {
                course.on_worked(true);
                course.on_commit_sent(!matches!(luck, Luck::Lazy { .. }));
                let (took_effect, status) = match luck {
                    Luck::Lazy { crash } => (crash != Some(true), Status::Committed),
                    Luck::LostBeforeCommit => (false, Status::Aborted),
                    Luck::Forgotten { committed } => (committed, Status::Unknown),
                    _ => (true, Status::Committed),
                };
                if took_effect {
                    commit();
                }
                if luck == Luck::Fine {
                    course.on_committed()
                } else if let Luck::Lazy { crash } = luck {
                    assert_eq!(course.on_committed(), Next::Hold);
                    if crash.is_some() { course.on_forgotten(true, 0.5) } else { course.on_flushed() }
                } else {
                    assert_eq!(course.on_failed(LOST, keys.len(), 0.5), Next::Ask(Duration::ZERO));
                    assert!(course.is_in_doubt());
                    assert!(matches!(course.on_status(Status::InProgress, true, 0.5), Next::Ask(_)));
                    course.on_status(status, true, 0.5)
                }
            }
        };
        match next {
            Next::Done => keys.iter().for_each(|&key| ends[key].push(End::Done)),
            Next::Retry(pause) => {
                assert!(pause <= RETRY.cap);
                todo.push((keys, course));
            }
            Next::Split => {
                let (low, high) = keys.split_at(keys.len().div_ceil(2));
                todo.extend([low, high].map(|half| (half.to_vec(), Course::new(max_attempts, RETRY))));
            }
            Next::GiveUp => keys.iter().for_each(|&key| ends[key].push(End::Failed)),
            Next::Ask(_) | Next::Hold | Next::Stop => panic!("{next:?}"),
        }
    }
    ends
}

proptest! {
    #[test]
    fn each_key_ends_once_and_none_is_changed_twice(
        sizes in proptest::collection::vec(1usize..12, 1..8),
        poisoned in proptest::collection::vec(0usize..40, 0..4),
        max_attempts in 1u32..6,
        lucks in proptest::collection::vec(luck(), 0..60),
    ) {
        let total: usize = sizes.iter().sum();
        let mut keys = 0..total;
        let chunks = sizes.iter().map(|&size| keys.by_ref().take(size).collect()).collect();
        let mut rows = Rows { changes: vec![0; total], poisoned };
        let troubled = lucks.iter().any(|&luck| luck != Luck::Fine);
        let ends = drive(&mut rows, chunks, max_attempts, lucks.into_iter());
        for (key, ends) in ends.iter().enumerate() {
            prop_assert_eq!(ends.len(), 1, "key {}", key);
            prop_assert!(rows.changes[key] <= 1);
            // What counts as done was changed, and a poisoned key never was.
            prop_assert!(ends[0] != End::Done || rows.changes[key] == 1);
            prop_assert!(!rows.poisoned.contains(&key) || (ends[0] == End::Failed && rows.changes[key] == 0));
            // Without trouble only the poisoned keys fail.
            prop_assert!(troubled || (ends[0] == End::Failed) == rows.poisoned.contains(&key));
        }
    }
}

fn committing() -> Course {
    let mut course = Course::new(5, RETRY);
    course.on_begin();
    course.on_worked(true);
    course.on_commit_sent(true);
    course
}

#[test]
fn a_commit_that_the_server_rejects_is_no_doubt() {
    let mut course = committing();
    assert_eq!(course.on_failed(POISON, 10, 0.5), Next::Split);
    assert!(!course.is_in_doubt());
}

#[test]
fn a_transaction_that_wrote_nothing_is_never_in_doubt() {
    let mut course = Course::new(5, RETRY);
    course.on_begin();
    course.on_worked(false);
    course.on_commit_sent(true);
    assert!(matches!(course.on_failed(LOST, 10, 0.5), Next::Retry(_)));
}

#[test]
fn a_loss_before_commit_was_sent_is_no_doubt() {
    let mut course = Course::new(5, RETRY);
    course.on_begin();
    course.on_worked(true);
    assert!(matches!(course.on_failed(LOST, 10, 0.5), Next::Retry(_)));
}

#[test]
fn a_transaction_that_stays_in_progress_is_given_up_when_patience_ends() {
    let mut course = committing();
    assert_eq!(course.on_failed(LOST, 10, 0.5), Next::Ask(Duration::ZERO));
    for _ in 0..100 {
        let Next::Ask(pause) = course.on_status(Status::InProgress, true, 0.5) else { panic!() };
        assert!(pause <= Duration::from_secs(1));
    }
    assert_eq!(course.on_status(Status::InProgress, false, 0.5), Next::GiveUp);
}

#[test]
fn what_no_chunk_can_survive_stops_the_run() {
    let mut course = Course::new(5, RETRY);
    course.on_begin();
    assert_eq!(course.on_failed(NO_TABLE, 10, 0.5), Next::Stop);
}

#[test]
fn a_single_key_is_given_up_and_a_budget_ends() {
    let mut course = Course::new(1, RETRY);
    course.on_begin();
    assert_eq!(course.on_failed(POISON, 1, 0.5), Next::GiveUp);
    let mut course = Course::new(1, RETRY);
    course.on_begin();
    assert_eq!(course.on_failed(DEADLOCK, 10, 0.5), Next::GiveUp);
}

#[test]
fn a_commit_that_does_not_wait_for_the_disk_counts_after_the_flush_however_it_was_learned() {
    let mut answered = Course::new(5, RETRY);
    answered.on_begin();
    answered.on_worked(true);
    answered.on_commit_sent(false);
    let mut lost = answered.clone();
    assert_eq!(answered.on_committed(), Next::Hold);
    assert_eq!(answered.on_flushed(), Next::Done);
    assert_eq!(lost.on_failed(LOST, 10, 0.5), Next::Ask(Duration::ZERO));
    assert_eq!(lost.on_status(Status::Committed, true, 0.5), Next::Hold);
    assert!(matches!(lost.on_forgotten(true, 0.5), Next::Retry(_)));
}

#[test]
fn crashes_cost_a_chunk_no_attempt_and_flushes_that_fail_do() {
    for (crashed, expected) in [(true, None), (false, Some(5))] {
        let mut course = Course::new(5, RETRY);
        let given_up = (1..=100).find(|_| {
            course.on_begin();
            course.on_worked(true);
            course.on_commit_sent(false);
            course.on_committed();
            course.on_forgotten(crashed, 0.5) == Next::GiveUp
        });
        assert_eq!(given_up, expected, "crashed: {crashed}");
    }
}

#[test]
fn a_transaction_that_wrote_nothing_waits_for_no_flush() {
    let mut course = Course::new(5, RETRY);
    course.on_begin();
    course.on_worked(false);
    course.on_commit_sent(false);
    assert_eq!(course.on_committed(), Next::Done);
}
