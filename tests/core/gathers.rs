//! Gathering against outsiders who never leave room at once, in virtual time.
//!
//! The decision is that of production ([`Gathering`]). Here is a pool whose slots go to whoever comes first: outsiders start
//! again and again, take what is free and ask nobody. A placeholder that was begun has its slot some milliseconds later,
//! or finds it taken.

use std::time::Duration;

use crate::decide::gathering::{Bounds, Gathering, HandOver, Look, Step};
use crate::decide::tick::Pool;
use proptest::prelude::*;

/// Between two looks.
const LOOK: u64 = 5;
/// Until a placeholder without a worker is given up.
const TAKEN: u64 = 40;
/// Nothing takes longer.
const LIMIT: u64 = 60_000;

/// One who takes `wants` workers for `runs` milliseconds, and comes again after `rests`.
#[derive(Debug, Clone)]
struct Outsider {
    wants: u32,
    runs: u64,
    rests: u64,
    has: u32,
    until: u64,
}

#[derive(Debug, Clone)]
struct Night {
    size: u32,
    /// Processes beyond the pool's.
    beyond: u32,
    need: u32,
    leave_slots: u32,
    /// Until a placeholder that was begun asks for its slot.
    latency: u64,
    sees: bool,
    outsiders: Vec<Outsider>,
}

/// What a gathering came to.
#[derive(Debug)]
struct Played {
    hand_over: Option<HandOver>,
    /// The most slots that were held at once.
    most: u32,
    /// The longest time in a row in which slots were held.
    idle: u64,
    /// Whether the pool was ever exceeded while it gathered.
    exceeded: bool,
}

impl Night {
    fn used(&self, held: u32) -> u32 {
        self.outsiders.iter().map(|outsider| outsider.has).sum::<u32>() + held
    }

    /// Others go on for a millisecond.
    fn pass(&mut self, now: u64, held: u32) {
        for at in 0..self.outsiders.len() {
            if self.outsiders[at].until > now {
                continue;
            }
            let free = self.size.saturating_sub(self.used(held));
            let outsider = &mut self.outsiders[at];
            if outsider.has > 0 {
                (outsider.has, outsider.until) = (0, now + outsider.rests);
            } else {
                outsider.has = outsider.wants.min(free);
                outsider.until = now + outsider.runs;
            }
        }
    }

    fn play(&mut self, bounds: Bounds) -> Played {
        let mut gathering = Gathering::new(self.need, bounds);
        let (mut held, mut most, mut idle, mut since) = (0, 0, 0, None);
        let mut exceeded = false;
        // When each that was begun asks for its slot, or is given up.
        let mut begun: Vec<u64> = Vec::new();
        let mut given_up: Vec<u64> = Vec::new();
        for now in 0..LIMIT {
            self.pass(now, held);
            begun.retain(|&asks| {
                if asks > now {
                    return true;
                }
                if self.used(held) < self.size {
                    held += 1;
                    gathering.on_held();
                } else {
                    given_up.push(now + TAKEN);
                }
                false
            });
            let before = given_up.len();
            given_up.retain(|&end| end > now);
            if given_up.len() < before {
                gathering.on_taken(Duration::from_millis(now));
            }
            exceeded |= self.used(held) > self.size;
            most = most.max(held);
            since = (held > 0).then(|| since.unwrap_or(now));
            idle = idle.max(since.map_or(0, |since| now - since));
            if now % LOOK > 0 {
                continue;
            }
            let used = self.used(held);
            let (pool, processes) =
                (Pool { used, size: self.size }, Pool { used, size: self.size + self.beyond });
            let look = Look {
                pool: self.sees.then_some(pool),
                processes: self.sees.then_some(processes),
                size: Some(self.size),
                beyond: Some(self.beyond),
                held,
                trying: (begun.len() + given_up.len()) as u32,
            };
            match gathering.on_look(Duration::from_millis(now), look) {
                Step::Hold(more) => begun.extend((0..more).map(|_| now + self.latency)),
                Step::LetGo => {
                    held = 0;
                    begun.clear();
                    given_up.clear();
                }
                Step::Start(hand_over) => {
                    return Played { hand_over: Some(hand_over), most, idle, exceeded };
                }
                Step::Wait | Step::Nothing => {}
            }
        }
        Played { hand_over: None, most, idle, exceeded }
    }
}

fn outsider() -> impl Strategy<Value = Outsider> {
    (1u32..5, 5u64..300, 8u64..40, 0u64..300).prop_map(|(wants, runs, rests, until)| Outsider {
        wants,
        runs,
        rests,
        has: 0,
        until,
    })
}

fn night() -> impl Strategy<Value = Night> {
    let outsiders = proptest::collection::vec(outsider(), 2..7);
    (2u32..10, 0u32..12, 1u32..10, 0u32..3, 1u64..8, any::<bool>(), outsiders).prop_map(
        |(size, beyond, need, leave_slots, latency, sees, outsiders)| Night {
            size,
            beyond,
            need: need.min(size),
            leave_slots,
            latency,
            sees,
            outsiders,
        },
    )
}

const BOUNDS: Bounds =
    Bounds { after: Duration::from_millis(500), at_most: Duration::from_secs(5), leave: 2, leave_slots: 0 };

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn the_pool_is_never_exceeded_while_slots_are_gathered_and_they_are_not_held_for_longer_than_is_allowed(
        night in night(),
    ) {
        let at_most = Duration::from_millis(100);
        let bounds = Bounds { leave_slots: night.leave_slots, at_most, ..BOUNDS };
        let played = night.clone().play(bounds);
        prop_assert!(!played.exceeded);
        prop_assert!(played.most <= night.need, "{played:?}");
        let most = night.size.saturating_sub(night.leave_slots);
        prop_assert!(played.most <= most, "{played:?}");
        prop_assert!(played.idle <= 100 + LOOK + 1, "{played:?}");
    }

    /// Others rest for some milliseconds now and then, each by itself: there is never room for all at once.
    #[test]
    fn single_slots_that_are_free_for_moments_add_up(mut night in night(), greed in proptest::collection::vec((100u64..300, 8u64..20), 6)) {
        (night.sees, night.leave_slots) = (true, 0);
        // Two are left to others.
        night.need = night.size.min((night.size + night.beyond).saturating_sub(2));
        prop_assume!(night.need > 1);
        let greedy = |(runs, rests)| Outsider { wants: 4, runs, rests, has: 0, until: 0 };
        night.outsiders = greed.into_iter().map(greedy).collect();
        let played = night.play(BOUNDS);
        prop_assert!(played.hand_over.is_some(), "{played:?}");
    }
}
