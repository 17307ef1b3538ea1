//! Whole fleets in virtual time: what a queue of slots promises, whatever the night.

#[allow(dead_code, unreachable_pub, reason = "shared with the example")]
#[path = "../../examples/fleet/audit.rs"]
mod audit;
#[allow(dead_code, unreachable_pub, reason = "shared with the example, which shows more of it")]
#[path = "../../examples/fleet/night.rs"]
mod night;
#[allow(dead_code, unreachable_pub, reason = "shared with the example")]
#[path = "../../examples/fleet/server.rs"]
mod server;
#[allow(dead_code, unreachable_pub, reason = "shared with the example")]
#[path = "../../examples/fleet/simulator.rs"]
mod simulator;
#[allow(dead_code, unreachable_pub, reason = "shared with the example")]
#[path = "../../examples/fleet/workload.rs"]
mod workload;

use crate::decide::attempt::Outcome;
use night::{Defect, End, Grab, Night, Plan, Policy, Scenario, Violation};
use proptest::prelude::*;
use simulator::play;
use workload::{Arrivals, Workload};

/// Those of one queue, in the order in which they came, and in which they got their slots.
fn orders(scenario: &Scenario, night: &Night, priority: bool) -> (Vec<usize>, Vec<usize>) {
    let of_queue = |list: &[usize]| -> Vec<usize> {
        list.iter().copied().filter(|&n| scenario.jobs[n].priority == priority).collect()
    };
    let granted = of_queue(&night.granted);
    let joined = of_queue(&night.joined).into_iter().filter(|n| granted.contains(n)).collect();
    (joined, granted)
}

/// What holds in every night under every policy, outsiders and crashes included.
fn check_books(scenario: &Scenario, policy: Policy) -> Night {
    // `play` itself panics when a job never ends: no deadlock.
    let night = play(scenario, policy);
    assert_eq!(night.fates.len(), scenario.jobs.len());
    assert_eq!(night.violations, [], "{policy:?}");
    night
}

/// What holds with reservation besides.
fn check(scenario: &Scenario) -> Night {
    let night = check_books(scenario, Policy::Reserve);
    for priority in [false, true] {
        let (joined, granted) = orders(scenario, &night, priority);
        assert_eq!(joined, granted, "first come, first served");
    }
    night
}

fn workload() -> impl Strategy<Value = Workload> {
    let arrivals = prop_oneof![Just(Arrivals::Burst), Just(Arrivals::Steady), Just(Arrivals::Waves)];
    let shares = (0.0..0.6_f64, 0.0..0.3_f64, 0.0..0.5_f64);
    (1usize..80, 1u32..64, arrivals, 0.2..3.0_f64, 1u32..40, shares, any::<u64>()).prop_map(
        |(jobs, pool, arrivals, load, widest, (outsiders, crashes, priority), seed)| Workload {
            jobs,
            pool,
            arrivals,
            load,
            widest,
            outsiders,
            crashes,
            priority,
            seed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_deadlock_no_slot_held_by_the_dead_and_first_come_first_served(
        workload in workload(), patience in proptest::option::of(0u64..600_000), limit in 0u64..3_600_000,
        gathers in 1u32..4,
    ) {
        let scenario = Scenario { degrade_after: patience, reserve_wait: limit, gathers, ..workload.scenario() };
        check(&scenario);
    }

    #[test]
    fn nobody_starves_when_the_limit_is_far(workload in workload()) {
        let scenario = workload.scenario();
        let night = check(&scenario);
        let all = scenario.jobs.iter().enumerate();
        for (n, _) in all.filter(|(n, _)| night.fates[*n].end != End::Died) {
            prop_assert!(night.granted.contains(&n), "job {n} never got its turn");
        }
    }

    #[test]
    fn among_themselves_members_never_waste_an_attempt(workload in workload()) {
        let alone = Workload { outsiders: 0.0, crashes: 0.0, ..workload };
        let night = check(&alone.scenario());
        for fate in &night.fates {
            prop_assert_eq!((fate.attempts, fate.wasted), (1, 0));
            prop_assert!(matches!(fate.end, End::Ended(Outcome::OnTarget | Outcome::FinishedEarly)));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_night(workload in workload()) {
        let scenario = workload.scenario();
        for policy in Policy::ALL {
            let [one, two] = [(), ()].map(|()| play(&scenario, policy));
            prop_assert_eq!(format!("{one:?}"), format!("{two:?}"));
        }
    }
}

/// The crowd that was measured on real servers: six jobs that want four of six.
#[test]
fn six_jobs_of_four_fight_under_the_origins_algorithm_and_not_with_a_queue() {
    let plan = |n| Plan { arrives: n, target: 4, minimum: 2, work: 25_000, priority: false, dies: None };
    let scenario = Scenario {
        pool: 6,
        jobs: (0..6).map(plan).collect(),
        reserve_wait: 86_400_000,
        ..Scenario::default()
    };
    let failed = |night: &Night| {
        let below = End::Ended(Outcome::BelowMinimum);
        night.fates.iter().filter(|fate| fate.end == below).count()
    };
    let wasted = |night: &Night| night.fates.iter().map(|fate| fate.wasted).sum::<u64>();
    let [classic, prompt, reserve] = Policy::ALL.map(|policy| play(&scenario, policy));
    assert!(failed(&classic) > 0 && wasted(&classic) > 20_000);
    assert!(wasted(&prompt) < wasted(&classic) / 2);
    assert_eq!((failed(&reserve), wasted(&reserve)), (0, 0));
}

#[test]
fn a_wide_job_is_not_overtaken_by_narrow_ones() {
    let narrow =
        |n: u64| Plan { arrives: n * 50, target: 1, minimum: 1, work: 10_000, priority: false, dies: None };
    let mut jobs: Vec<_> = (0..200).map(narrow).collect();
    jobs[20] = Plan { target: 8, minimum: 8, ..jobs[20] };
    let scenario = Scenario { pool: 8, jobs, reserve_wait: 86_400_000, ..Scenario::default() };
    let night = check(&scenario);
    assert_eq!(night.granted.iter().position(|&n| n == 20), Some(20));
}

/// A thousand slots, ten thousand jobs, and all that can happen to them.
#[test]
fn ten_thousand_jobs_on_a_thousand_slots_under_all_policies() {
    let night = Workload {
        widest: 32,
        outsiders: 0.1,
        crashes: 0.01,
        priority: 0.05,
        ..Workload::plain(10_000, 1_024, Arrivals::Steady, 3)
    };
    let scenario = night.scenario();
    // What the dead had done is lost under any policy.
    let wasted = |night: &Night| {
        night.fates.iter().filter(|fate| fate.end != End::Died).map(|fate| fate.wasted).sum::<u64>()
    };
    let reserve = wasted(&check(&scenario));
    for policy in [Policy::Classic, Policy::Prompt] {
        let fighting = wasted(&check_books(&scenario, policy));

        assert!(fighting > 10 * reserve, "{policy:?}: {fighting} against {reserve}");
    }
}

/// Six slots; the first job dies while it holds four, and an outsider slips in while others start.
fn rough() -> Scenario {
    let plan =
        |n: u64| Plan { arrives: n * 10, target: 4, minimum: 2, work: 25_000, priority: false, dies: None };
    let mut jobs: Vec<_> = (0..4).map(plan).collect();
    jobs[0].dies = Some(2_000);
    let grabs = (0..20).map(|n| Grab { at: 15 + n * 1_000, workers: 4, lasts: 500 }).collect();
    Scenario { pool: 6, jobs, grabs, reserve_wait: 86_400_000, ..Scenario::default() }
}

fn check_found(defect: Defect, violation: Violation) {
    let night = play(&Scenario { defect: Some(defect), ..rough() }, Policy::Reserve);
    assert!(night.violations.contains(&violation), "{defect:?}: {:?}", night.violations);
}

/// The second job takes two slots when its patience is over; the first one leaves before it starts its workers.
#[test]
fn the_gathers_of_a_job_share_what_it_was_granted() {
    let plan = |arrives| Plan { arrives, target: 4, minimum: 1, work: 500, priority: false, dies: None };
    let scenario = Scenario {
        pool: 6,
        jobs: vec![plan(0), plan(5)],
        reserve_wait: 86_400_000,
        degrade_after: Some(100),
        gathers: 2,
        ..Scenario::default()
    };
    let night = check(&scenario);
    assert_eq!(night.fates[1].end, End::Ended(Outcome::AboveMinimum));
    let greedy = Scenario { defect: Some(Defect::EachGatherHasAll), ..scenario };
    assert_eq!(play(&greedy, Policy::Reserve).violations, [Violation::WorkersWithoutSlots]);
}

#[test]
fn the_audit_finds_each_defect_that_is_put_in_and_nothing_without_one() {
    check(&rough());
    check_found(Defect::LocksOutliveTheirClient, Violation::SlotsOfTheDead);
    check_found(Defect::LocksAreShared, Violation::MoreSlotsThanThePool);
    check_found(Defect::LocksAreShared, Violation::SlotsAstray);
    check_found(Defect::PoolIsOverbooked, Violation::MoreWorkersThanThePool);
    check_found(Defect::SlotsAreFreedEarly, Violation::WorkersWithoutSlots);
}
