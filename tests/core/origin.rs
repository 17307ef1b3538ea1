//! The four scenarios of the executor that this crate replaces: target 4, minimum 2, five attempts.

use std::time::Duration;

use crate::decide::attempt::{Attempts, Ended, Finished, Next, Outcome, Pause, Spacing};
use crate::decide::launch::Demand;
use crate::decide::verdict::{Patience, Tick, Verdict, Window};

use crate::ticks::{CLASSIC, PROMPT, first_verdict, ms, tick};

const TWO_SECONDS: Duration = Duration::from_secs(2);

/// What the monitor shows in one attempt: outsiders leave `workers` of 8 slots, and those start 30 ms in.
fn look_every(interval: u64, workers: u32) -> impl Iterator<Item = Tick> {
    let outsiders = 8 - workers;
    (0..=20_000).step_by(interval as usize).map(move |at| {
        let now = if at < 30 { 0 } else { workers };
        tick(at, now, Some((outsiders + now, 8)))
    })
}

struct Story {
    outcome: Option<Outcome>,
    attempts: u32,
    best: u32,
    verdicts: Vec<(Duration, Verdict)>,
    pauses: Vec<Pause>,
}

/// Plays attempts that can have these numbers of workers, one after the other.
fn play(patience: Patience, interval: u64, spacing: Spacing, workers: &[u32]) -> Story {
    let mut attempts = Attempts::new(4, 2, 5, spacing);
    let mut story = Story { outcome: None, attempts: 0, best: 0, verdicts: vec![], pauses: vec![] };
    for &count in workers {
        let (_, required) = attempts.begin();
        let mut window = Window::new(Demand { target: 4, ..Demand::of(required, &[4]) }, patience);
        let (at, verdict) = first_verdict(&mut window, look_every(interval, count)).expect("a verdict");
        story.verdicts.push((at, verdict));
        let ended = match verdict {
            Verdict::Short(reason) => Ended::Rejected(reason, window.most_workers()),
            verdict => Ended::Finished(Finished {
                verdict,
                achieved: window.achieved(),
                short: false,
                unproven: false,
                within: 4,
            }),
        };
        match attempts.on_ended(ended, true, 0.5) {
            Next::Accept(outcome) => story.outcome = Some(outcome),
            Next::BelowMinimum => story.outcome = Some(Outcome::BelowMinimum),
            Next::Retry(pause) => story.pauses.push(pause),
            Next::Fail => panic!("nothing failed"),
        }
        story.attempts = attempts.current();
        story.best = attempts.best();
    }
    story
}

fn classic(workers: &[u32]) -> Story {
    let story = play(CLASSIC, 500, Spacing::Fixed(TWO_SECONDS), workers);
    assert!(story.pauses.iter().all(|&pause| pause == Pause::For(TWO_SECONDS)), "the origin sleeps 2 s");
    for (at, verdict) in &story.verdicts {
        let expected = if *verdict == Verdict::Enough { ms(1000) } else { ms(2000) };
        assert_eq!(*at, expected, "it decides at the first look, or when its window ends");
    }
    story
}

fn prompt(workers: &[u32]) -> Story {
    let story = play(PROMPT, 10, Spacing::Jittered(TWO_SECONDS), workers);
    for (at, verdict) in &story.verdicts {
        // Two more looks confirm a pool without a free slot; no worker at all takes the whole `launch_wait`.
        let expected = [ms(30), ms(50), ms(1000)];
        assert!(expected.contains(at), "{verdict:?} at {at:?}");
    }
    story
}

fn check(workers: &[u32], outcome: Outcome, attempts: u32, best: u32) {
    for story in [classic(workers), prompt(workers)] {
        assert_eq!((story.outcome, story.attempts, story.best), (Some(outcome), attempts, best));
        assert_eq!(story.pauses.len() as u32, attempts - 1);
    }
}

#[test]
fn four_workers_at_the_first_try() {
    check(&[4], Outcome::OnTarget, 1, 4);
}

#[test]
fn two_then_three_then_four() {
    check(&[2, 3, 4], Outcome::OnTarget, 3, 4);
}

#[test]
fn best_three_after_five_attempts_is_accepted_on_the_last() {
    check(&[1, 2, 3, 2, 3], Outcome::AboveMinimum, 5, 3);
}

#[test]
fn best_one_after_five_attempts_fails() {
    check(&[1, 0, 1, 1, 1], Outcome::BelowMinimum, 5, 1);
}
