//! The chunk machine against a server in memory that loses connections at every point.

use std::time::Duration;

use headcount::decide::backoff::Backoff;
use headcount::decide::chunk::blame::Blame;
use headcount::decide::chunk::course::{Course, Fault, Next, NoFlush, Replay, Status};
use headcount::decide::failure::FailureClass;
use proptest::prelude::*;

const RETRY: Backoff = Backoff { first: Duration::from_millis(10), cap: Duration::from_millis(80) };
const LOST: Fault = Fault { class: FailureClass::NewSession, blame: Blame::Run };
const DEADLOCK: Fault = Fault { class: FailureClass::NewTransaction, blame: Blame::Run };
const POISON: Fault = Fault { class: FailureClass::Never, blame: Blame::Keys };
const UNCLEAR: Fault = Fault { class: FailureClass::Never, blame: Blame::Unclear };
const NONSENSE: Fault = Fault { class: FailureClass::Never, blame: Blame::Run };

/// What happens to one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Luck {
    Fine,
    /// Committed without waiting for the disk; of work that must not be done twice, with waiting. Before the flush the
    /// server crashes or not; what it says then.
    Lazy {
        crash: Option<Status>,
    },
    /// The wait for a synchronous standby is cancelled; the next flush has it, or none ever does.
    Unwaited {
        flushed: bool,
    },
    Deadlock,
    LostAtWork,
    /// COMMIT does not arrive.
    LostBeforeCommit,
    /// COMMIT takes effect, its answer is lost.
    LostAfterCommit,
    /// The same, or not, and nobody can say.
    Forgotten {
        committed: bool,
    },
}

fn luck() -> impl Strategy<Value = Luck> {
    let crash = prop_oneof![Just(Status::Committed), Just(Status::Aborted), Just(Status::Unknown)];
    prop_oneof![
        3 => Just(Luck::Fine),
        2 => proptest::option::of(crash).prop_map(|crash| Luck::Lazy { crash }),
        1 => any::<bool>().prop_map(|flushed| Luck::Unwaited { flushed }),
        1 => Just(Luck::Deadlock),
        1 => Just(Luck::LostAtWork),
        1 => Just(Luck::LostBeforeCommit),
        1 => Just(Luck::LostAfterCommit),
        1 => any::<bool>().prop_map(|committed| Luck::Forgotten { committed }),
    ]
}

/// A row per key, and how often the work was done to it. Safe work leaves alone what is done. Nothing else keeps a
/// row from being changed twice.
struct Rows {
    changes: Vec<u32>,
    poisoned: Vec<usize>,
    replay: Replay,
}

impl Rows {
    fn change(&mut self, keys: &[usize]) {
        for &key in keys {
            let is_done = self.changes[key] > 0;
            self.changes[key] += u32::from(self.replay == Replay::Unsafe || !is_done);
        }
    }
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Failed,
    Unresolved,
}

/// One transaction of a chunk, and what its course says in the end.
fn transact(rows: &mut Rows, keys: &[usize], course: &mut Course, luck: Luck) -> Next {
    let (size, draw) = (keys.len(), 0.5);
    course.on_begin();
    let poisoned = keys.iter().any(|key| rows.poisoned.contains(key));
    match luck {
        Luck::LostAtWork => return course.on_failed(LOST, size, draw),
        Luck::Deadlock => return course.on_failed(DEADLOCK, size, draw),
        _ if poisoned => return course.on_failed(POISON, size, draw),
        _ => {}
    }
    let lasting = rows.replay == Replay::Unsafe || !matches!(luck, Luck::Lazy { .. });
    course.on_worked(true);
    course.on_commit_sent(lasting);
    let status = match luck {
        Luck::Fine => {
            rows.change(keys);
            return course.on_committed(true);
        }
        Luck::Unwaited { flushed } => {
            rows.change(keys);
            assert_eq!(course.on_committed(false), Next::Hold);
            return if flushed {
                course.on_flushed()
            } else {
                course.on_unflushed(NoFlush::Unreplicated, size, draw)
            };
        }
        Luck::Lazy { .. } if lasting => {
            rows.change(keys);
            return course.on_committed(true);
        }
        Luck::Lazy { crash } => {
            assert_eq!(course.on_committed(true), Next::Hold);
            // Where nobody knows, it is gone as often as not.
            if crash != Some(Status::Aborted) && (crash != Some(Status::Unknown) || keys[0].is_multiple_of(2))
            {
                rows.change(keys);
            }
            let Some(status) = crash else { return course.on_flushed() };
            let next = course.on_status(status, false, size, draw);
            return if next == Next::Hold { course.on_flushed() } else { next };
        }
        Luck::LostBeforeCommit => Status::Aborted,
        Luck::Forgotten { committed: false } => Status::Unknown,
        Luck::Forgotten { committed: true } => {
            rows.change(keys);
            Status::Unknown
        }
        _ => {
            rows.change(keys);
            Status::Committed
        }
    };
    assert_eq!(course.on_failed(LOST, size, draw), Next::Ask(Duration::ZERO));
    assert!(course.is_in_doubt());
    assert!(matches!(course.on_status(Status::InProgress, true, size, draw), Next::Ask(_)));
    let next = course.on_status(status, true, size, draw);
    if next == Next::Hold { course.on_flushed() } else { next }
}

/// Drives chunks to their ends as the worker does.
fn drive(
    rows: &mut Rows,
    chunks: Vec<Vec<usize>>,
    max_attempts: u32,
    mut luck: impl Iterator<Item = Luck>,
) -> Vec<Vec<End>> {
    let mut ends = vec![Vec::new(); rows.changes.len()];
    let course = Course::new(max_attempts, RETRY, rows.replay);
    let mut todo: Vec<(Vec<usize>, Course)> = chunks.into_iter().map(|keys| (keys, course.clone())).collect();
    while let Some((keys, mut course)) = todo.pop() {
        let next = transact(rows, &keys, &mut course, luck.next().unwrap_or(Luck::Fine));
        assert!(course.attempt() <= max_attempts);
        let end = match next {
            Next::Done => End::Done,
            Next::Retry(pause) => {
                assert!(pause <= RETRY.cap);
                todo.push((keys, course));
                continue;
            }
            Next::Split => {
                let (low, high) = keys.split_at(keys.len().div_ceil(2));
                todo.extend([low, high].map(|half| (half.to_vec(), course.half(half.len()))));
                continue;
            }
            Next::GiveUp => {
                assert_eq!(keys.len(), 1, "no key fails for another one");
                End::Failed
            }
            Next::Unresolved => End::Unresolved,
            Next::Ask(_) | Next::Hold | Next::Stop => panic!("{next:?}"),
        };
        keys.iter().for_each(|&key| ends[key].push(end));
    }
    ends
}

proptest! {
    #[test]
    fn each_key_ends_once_and_none_is_changed_twice(
        sizes in proptest::collection::vec(1usize..12, 1..8),
        poisoned in proptest::collection::vec(0usize..40, 0..4),
        max_attempts in 1u32..6,
        is_safe in any::<bool>(),
        lucks in proptest::collection::vec(luck(), 0..60),
    ) {
        let total: usize = sizes.iter().sum();
        let mut keys = 0..total;
        let chunks = sizes.iter().map(|&size| keys.by_ref().take(size).collect()).collect();
        let replay = if is_safe { Replay::Safe } else { Replay::Unsafe };
        let mut rows = Rows { changes: vec![0; total], poisoned, replay };
        let troubled = lucks.iter().any(|&luck| luck != Luck::Fine);
        let ends = drive(&mut rows, chunks, max_attempts, lucks.into_iter());
        for (key, ends) in ends.iter().enumerate() {
            prop_assert_eq!(ends.len(), 1, "key {}", key);
            prop_assert!(rows.changes[key] <= 1, "key {} was changed {} times", key, rows.changes[key]);
            // What counts as done was changed, what failed was not, and a poisoned key never was.
            prop_assert!(ends[0] != End::Done || rows.changes[key] == 1);
            prop_assert!(!rows.poisoned.contains(&key) || (ends[0] == End::Failed && rows.changes[key] == 0));
            // Without trouble only the poisoned keys fail.
            prop_assert!(troubled || (ends[0] == End::Failed) == rows.poisoned.contains(&key));
        }
    }
}

fn begun(max_attempts: u32, replay: Replay) -> Course {
    let mut course = Course::new(max_attempts, RETRY, replay);
    course.on_begin();
    course
}

fn committing(replay: Replay) -> Course {
    let mut course = begun(5, replay);
    course.on_worked(true);
    course.on_commit_sent(true);
    course
}

fn in_doubt(replay: Replay) -> Course {
    let mut course = committing(replay);
    assert_eq!(course.on_failed(LOST, 10, 0.5), Next::Ask(Duration::ZERO));
    course
}

#[test]
fn a_commit_that_the_server_rejects_is_no_doubt() {
    let mut course = committing(Replay::Safe);
    assert_eq!(course.on_failed(POISON, 10, 0.5), Next::Split);
    assert!(!course.is_in_doubt());
}

#[test]
fn a_transaction_that_wrote_nothing_is_never_in_doubt() {
    let mut course = begun(5, Replay::Unsafe);
    course.on_worked(false);
    course.on_commit_sent(true);
    assert!(matches!(course.on_failed(LOST, 10, 0.5), Next::Retry(_)));
}

#[test]
fn a_loss_before_commit_was_sent_is_no_doubt() {
    let mut course = begun(5, Replay::Unsafe);
    course.on_worked(true);
    assert!(matches!(course.on_failed(LOST, 10, 0.5), Next::Retry(_)));
}

#[test]
fn a_transaction_that_stays_in_progress_is_unresolved_when_patience_ends() {
    let mut course = in_doubt(Replay::Safe);
    for _ in 0..100 {
        let Next::Ask(pause) = course.on_status(Status::InProgress, true, 10, 0.5) else { panic!() };
        assert!(pause <= Duration::from_secs(1));
    }
    assert_eq!(course.on_status(Status::InProgress, false, 10, 0.5), Next::Unresolved);
}

#[test]
fn work_of_unknown_fate_is_done_again_only_where_that_is_safe() {
    let mut safe = in_doubt(Replay::Safe);
    assert!(matches!(safe.on_status(Status::Unknown, true, 10, 0.5), Next::Retry(_)));
    let mut not = in_doubt(Replay::Unsafe);
    assert_eq!(not.on_status(Status::Unknown, true, 10, 0.5), Next::Unresolved);
    let mut not = in_doubt(Replay::Unsafe);
    assert!(matches!(not.on_status(Status::Aborted, true, 10, 0.5), Next::Retry(_)), "that is certain");
}

#[test]
fn an_answer_that_makes_no_sense_stops_the_run_and_a_code_that_is_nobodys_halves_the_chunk() {
    assert_eq!(begun(5, Replay::Safe).on_failed(NONSENSE, 10, 0.5), Next::Stop);
    assert_eq!(begun(5, Replay::Safe).on_failed(UNCLEAR, 10, 0.5), Next::Split);
    assert_eq!(begun(5, Replay::Safe).on_failed(UNCLEAR, 1, 0.5), Next::GiveUp);
}

#[test]
fn a_chunk_that_fails_as_often_as_it_may_is_halved_and_its_halves_are_tried_once() {
    let mut course = begun(2, Replay::Safe);
    assert!(matches!(course.on_failed(DEADLOCK, 10, 0.5), Next::Retry(_)));
    course.on_begin();
    assert_eq!(course.on_failed(DEADLOCK, 10, 0.5), Next::Split);
    let mut half = course.half(5);
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
    let mut course = begun(1, Replay::Safe);
    assert_eq!(course.on_failed(LOST, 2, 0.5), Next::Split);
    let mut single = course.half(1);
    single.on_begin();
    assert_eq!(single.on_failed(LOST, 1, 0.5), Next::GiveUp);
}

#[test]
fn a_single_key_is_given_up_and_a_budget_ends() {
    assert_eq!(begun(1, Replay::Safe).on_failed(POISON, 1, 0.5), Next::GiveUp);
    assert_eq!(begun(1, Replay::Safe).on_failed(DEADLOCK, 1, 0.5), Next::GiveUp);
}

#[test]
fn a_commit_that_may_be_lost_counts_after_the_flush_however_it_was_learned() {
    let mut answered = begun(5, Replay::Safe);
    answered.on_worked(true);
    answered.on_commit_sent(false);
    let mut lost = answered.clone();
    assert_eq!(answered.on_committed(true), Next::Hold);
    assert_eq!(answered.on_flushed(), Next::Done);
    assert_eq!(lost.on_failed(LOST, 10, 0.5), Next::Ask(Duration::ZERO));
    assert_eq!(lost.on_status(Status::Committed, true, 10, 0.5), Next::Hold);
    assert!(matches!(lost.on_status(Status::Aborted, false, 10, 0.5), Next::Retry(_)), "a crash came first");
    // What one that waits had waited for is not known.
    let mut lasting = in_doubt(Replay::Unsafe);
    assert_eq!(lasting.on_status(Status::Committed, true, 10, 0.5), Next::Hold);
    let mut cancelled = committing(Replay::Unsafe);
    assert_eq!(cancelled.on_committed(false), Next::Hold);
    assert_eq!(cancelled.on_unflushed(NoFlush::Unreplicated, 10, 0.5), Next::Unresolved);
}

#[test]
fn crashes_cost_a_chunk_no_attempt_and_flushes_that_fail_do() {
    for (crashed, expected) in [(true, None), (false, Some(5))] {
        let mut course = Course::new(5, RETRY, Replay::Safe);
        let given_up = (1..=100).find(|_| {
            course.on_begin();
            course.on_worked(true);
            course.on_commit_sent(false);
            course.on_committed(true);
            let next = match crashed {
                true => course.on_status(Status::Unknown, false, 1, 0.5),
                false => course.on_unflushed(NoFlush::Refused, 1, 0.5),
            };
            next == Next::GiveUp
        });
        assert_eq!(given_up, expected, "crashed: {crashed}");
    }
}

#[test]
fn a_transaction_that_wrote_nothing_waits_for_no_flush() {
    let mut course = begun(5, Replay::Safe);
    course.on_worked(false);
    course.on_commit_sent(false);
    assert_eq!(course.on_committed(true), Next::Done);
}
