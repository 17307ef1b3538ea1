//! The update against a model of its effects: what the report says of each key, and what is in the table.
//!
//! The worker is the one of production ([`Worker`](crate::decide::update::worker::Worker)); here is what it is connected to.
//! Nothing here keeps work from being done twice. The server ([`world`], [`others`]) does what it is told: a
//! compare-and-set changes a row that holds what is expected, a trigger counts each time, a commit is there when its record
//! is in the log, and what a crash cuts off is gone, ids included. The line ([`line`], [`messages`]) breaks with each
//! message, before and behind what takes effect. And [`driver`] carries the actions out, and tells the worker what has
//! happened: answers in any order, time, signals. After each history, and a crash or a failover at its end, the
//! report is compared with the table.
//!
//! Three things are known not to hold, and are kept out:
//!
//! - Where each COMMIT waits for the disk, rows that others have changed and not flushed count as they are found.
//! - A claimed row that somebody else has changed is stale, and claimed again if a failover takes that change back.
//! - A second line of a key keeps its class when the first is taken back after a failover.

mod driver;
mod line;
mod messages;
mod others;
mod steady;
mod taken_over;
mod world;

use std::cell::RefCell;
use std::sync::Arc;

use crate::decide::update::Class;
use crate::decide::update::ending::Tally;
use crate::decide::update::gather::Twin;
use crate::decide::update::material::Material;
use crate::decide::update::replay::Replay;
use proptest::prelude::*;
use proptest::test_runner::RngAlgorithm;

use self::driver::{is_done, play};
use self::line::{Failure, Line};
use self::world::{Row, Value};

/// A line of the input: its number, and the place of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    line: usize,
    key: usize,
}

/// What is done with a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Compare and set, committed without waiting for the disk.
    Lazy,
    /// Compare and set, waiting.
    Waiting,
    /// The same where a trigger counts each time.
    Trigger,
    /// A caller's closure, which inserts.
    Closure,
    /// Compare and set, waiting; the rows are claimed.
    Claims,
}

impl Kind {
    /// Whether it counts twice when it is done twice.
    const fn counts(self) -> bool {
        matches!(self, Self::Trigger | Self::Closure)
    }

    const fn replay(self) -> Replay {
        if self.counts() { Replay::Unsafe } else { Replay::Safe }
    }
}

/// What a history begins with.
#[derive(Debug, Clone)]
struct Setup {
    kind: Kind,
    rows: Vec<Row>,
    items: Vec<Item>,
    size: u32,
    max_attempts: u32,
    workers: usize,
    is_synchronous: bool,
    /// Whether the role may not ask where the log is.
    is_blind: bool,
    /// Whether chunks are sent ahead of the answers.
    is_ahead: bool,
}

/// What happens next, drawn from a list of bytes: one that is shorter, or has smaller bytes, is a quieter history.
#[derive(Debug)]
struct Tape {
    bytes: Vec<u8>,
    /// What has happened, in words, where somebody wants to read it.
    story: Option<Vec<String>>,
}

impl Tape {
    fn say(&mut self, what: &str, how: impl std::fmt::Debug) {
        if let Some(story) = &mut self.story {
            story.push(format!("{what}: {how:?}"));
        }
    }

    /// 0 when nothing is left.
    fn byte(&mut self) -> u8 {
        self.bytes.pop().unwrap_or_default()
    }

    /// Something else than what is fine, in `odds` of 256 cases.
    fn one_of<T: Copy>(&mut self, fine: T, odds: u8, others: &[T]) -> T {
        let (rest, odds) = (usize::from(255 - self.byte()), usize::from(odds));
        if rest < odds { others[rest * others.len() / odds] } else { fine }
    }
}

/// What the report says of a line of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Counted(Class),
    Failed,
    /// Failed, as one whose fate is not known.
    Unresolved,
}

/// The report. A line has one class, unless its class is taken back.
#[derive(Debug)]
struct Books {
    told: Vec<Option<Told>>,
    /// Lines that nobody has worked on.
    left: usize,
    /// Whether what was stale may be claimed again.
    may_return: bool,
    /// Lines that are told twice, until the first is taken back: another worker may be faster.
    twice: Vec<usize>,
}

impl Books {
    fn tell(&mut self, item: &Item, told: Told) {
        let before = self.told[item.line].replace(told);
        let returns = self.may_return && before == Some(Told::Counted(Class::Stale));
        self.twice.extend((before.is_some() && !returns).then_some(item.line));
    }

    /// What it was told as first is taken back.
    fn untell(&mut self, item: &Item) {
        match self.twice.iter().position(|line| *line == item.line) {
            Some(place) => drop(self.twice.remove(place)),
            None => assert!(self.told[item.line].take().is_some()),
        }
    }
}

/// What the worker works with.
#[derive(Debug, Default)]
struct Rows {
    /// Lines that were counted, and are to count anew.
    restored: RefCell<Vec<Item>>,
}

impl Material for Rows {
    type Item = Item;
    type Key = usize;
    type Kept = Vec<Item>;
    type Failure = Failure;
    type Scope = ();

    fn keys(&self, items: &[Item]) -> Vec<usize> {
        items.iter().map(|item| item.key).collect()
    }

    fn keep(&self, items: Vec<Item>, classes: &[Class]) -> Option<(Vec<Item>, usize)> {
        let done = items.into_iter().zip(classes).filter(|(_, class)| is_done(**class));
        let done: Vec<Item> = done.map(|(item, _)| item).collect();
        (!done.is_empty()).then_some((done, 1))
    }

    fn restore(&self, kept: Vec<Item>) -> Vec<Item> {
        self.restored.borrow_mut().extend(&kept);
        kept
    }

    fn label(&self, _items: &[Item], _twins: &[Twin<Item>]) -> Option<Arc<str>> {
        None
    }
}

fn row() -> impl Strategy<Value = Row> {
    prop_oneof![
        8 => Just(Row::Holds(Value::Old)),
        2 => Just(Row::Holds(Value::New)),
        1 => Just(Row::Holds(Value::Other)),
        1 => Just(Row::Missing),
        1 => Just(Row::Poisoned("23505")),
        1 => Just(Row::Poisoned("42501")),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let kind = prop_oneof![
        4 => Just(Kind::Lazy), 1 => Just(Kind::Waiting), 2 => Just(Kind::Trigger), 2 => Just(Kind::Closure),
        3 => Just(Kind::Claims),
    ];
    let rows = proptest::collection::vec(row(), 1..8);
    (kind, rows, 1u32..5, 1u32..4, 0u8..16, 0usize..8, 1usize..3).prop_map(
        |(kind, rows, size, max_attempts, flags, twice, workers)| {
            let may_repeat = !kind.counts() && kind != Kind::Claims;
            let again = Some(twice).filter(|twice| may_repeat && *twice < rows.len());
            let items = (0..rows.len()).chain(again).enumerate().map(|(line, key)| Item { line, key });
            let (is_synchronous, is_blind, is_ahead) = (flags & 3 == 1, flags & 12 == 4, flags & 12 == 8);
            Setup {
                items: items.collect(),
                kind,
                rows,
                size,
                max_attempts,
                workers,
                is_synchronous,
                is_blind,
                is_ahead,
            }
        },
    )
}

/// Plays a history to its end, and compares the report with the table.
fn check(setup: &Setup, bytes: &[u8], story: Option<Vec<String>>) -> Result<(), TestCaseError> {
    // The last comes first.
    let tape = Tape { bytes: bytes.to_vec(), story };
    let (books, mut line) = play(setup, &Rows::default(), Line::new(setup, tape));
    // What was lost when another server took over, and nobody saw it any more, nobody could tell.
    let is_known = line.is_known();
    let has_failed_over = line.world.failovers > 0;
    line.world.settle_orphans();
    // What has waited for the standby is there.
    if setup.is_synchronous && !matches!(setup.kind, Kind::Waiting | Kind::Claims) {
        line.world.fail_over(&mut line.tape);
    } else {
        line.world.crash(&mut line.tape);
    }
    let world = &line.world;
    let is_claimed = setup.kind == Kind::Claims;
    let count = |of: &[Told]| books.told.iter().flatten().filter(|told| of.contains(told)).count() as u64;
    let [updated, already, stale, missing, _] = Class::ALL.map(|class| count(&[Told::Counted(class)]));
    let failed = count(&[Told::Failed, Told::Unresolved]);
    let tally = Tally { done: updated + already, stale, missing, failed, unfinished: books.left > 0 };
    if !is_claimed {
        let told = tally.done + stale + missing;
        prop_assert_eq!(tally.end(&[]).1, told == setup.items.len() as u64);
        prop_assert_eq!((told + failed) as usize + books.left, setup.items.len(), "no line is forgotten");
    }
    let story = line.tape.story.iter().flatten().cloned().collect::<Vec<_>>().join("\n");
    prop_assert!(books.twice.is_empty(), "told twice: {:?}\n{story}", books.twice);
    for Item { line, key } in setup.items.iter().copied() {
        let told = books.told[line];
        if line >= setup.rows.len() && has_failed_over {
            continue;
        }
        let value = world.value(key);
        let is_others = world.others[key];
        let what = format!("line {line}, told as {told:?}, holds {value:?}\n{story}\n");
        let effects = world.effects(line);
        prop_assert!(effects <= 1, "{what}: done {effects} times");
        let is_done = matches!(told, Some(Told::Counted(Class::Updated | Class::Already)));
        if is_done && is_known {
            prop_assert!(value == Some(Value::New) || (is_others && value == Some(Value::Other)), "{what}");
            let updated = told == Some(Told::Counted(Class::Updated));
            // Whose value it is that is found when rows are read again, nobody can say.
            let mut lines = setup.items.iter().filter(|item| item.key == key).map(|item| item.line);
            let ours = lines.any(|line| world.has_changed(line)) || (is_others && !setup.kind.counts());
            prop_assert!(!updated || ours, "{what}: by somebody else");
            prop_assert!(!updated || !setup.kind.counts() || effects == 1, "{what}: lost");
        }
        match told {
            None | Some(Told::Failed) => {
                prop_assert!(effects == 0 && !world.has_changed(line), "{what}: done all the same");
            }
            Some(Told::Counted(Class::Stale)) => {
                prop_assert!(is_others || value == Some(Value::Other), "{what}")
            }
            Some(Told::Counted(Class::Missing)) => prop_assert_eq!(value, None, "{}", what),
            Some(_) => {}
        }
    }
    Ok(())
}

/// As many histories as take a few seconds; a thousand times `HEADCOUNT_SOAK_RUNS`; or as `PROPTEST_CASES` says. Most of
/// the time would go into the usual dice.
fn histories() -> ProptestConfig {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let soak = number("HEADCOUNT_SOAK_RUNS").map(|runs| runs.saturating_mul(1_000));
    let cases = number("PROPTEST_CASES").or(soak).unwrap_or(100_000);
    let rng_algorithm = RngAlgorithm::XorShift;
    ProptestConfig { cases, rng_algorithm, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(histories())]

    #[test]
    fn what_is_told_of_a_key_is_what_is_there_and_nothing_is_done_twice(
        setup in setup(),
        bytes in proptest::collection::vec(any::<u8>(), 0..240),
    ) {
        if check(&setup, &bytes, None).is_err() {
            check(&setup, &bytes, Some(Vec::new()))?;
        }
    }
}
