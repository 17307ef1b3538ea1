//! Executions with slots: a degraded share of them, and the plan within it.

use super::*;
use crate::run::slots::{Slots, Wanted};

impl Slots for Script {
    async fn reserve(
        &mut self,
        _wanted: Wanted,
        _ledger: &mut ExecutionRecorder,
    ) -> Result<Option<Grant>, Error> {
        self.reservations += 1;
        Ok(self.grant)
    }

    fn are_lost(&self) -> bool {
        self.reservations <= self.losses
    }

    fn insist(&mut self) -> bool {
        let insists = self.in_full.is_some();
        self.grant = self.in_full.take().or(self.grant);
        insists
    }

    fn narrow(&mut self, share: u32) {
        self.narrowed.push(share);
    }
}

#[tokio::test(start_paused = true)]
async fn a_degraded_reservation_lowers_the_bar_and_not_the_target() {
    let mut script = Script::new(vec![act(3)]);
    script.grant = Some(Grant { taken: 3, end: Granted::Degraded, share: Some(3) });
    let played = play(script, |_| {}).await;
    assert_eq!(played.words, ["attempt 1 required 3", "enough 3", "ended enough", "above_minimum"]);
    let run = played.result.unwrap();
    assert_eq!((run.target_workers, run.target_met, run.value), (4, false, Some(7)));
}

#[tokio::test(start_paused = true)]
async fn without_slots_nothing_runs_and_the_outcome_is_below_the_minimum() {
    let mut script = Script::new(vec![]);
    script.grant = Some(Grant { taken: 0, end: Granted::GaveUp, share: None });
    let played = play(script, |_| {}).await;
    assert_eq!(played.words, ["failed below_minimum"]);
    assert_eq!(played.result.unwrap().attempt_count, 0);
}

#[tokio::test(start_paused = true)]
async fn slots_that_are_lost_during_admission_are_taken_again_before_the_attempt() {
    let mut script = Script::new(vec![act(4)]);
    script.grant = Some(Grant { taken: 4, end: Granted::Full, share: None });
    script.losses = 2;
    let played = play(script, |_| {}).await;
    assert_eq!(played.reservations, 3);
    assert_eq!(played.words, ["attempt 1 required 4", "enough 4", "ended enough", "on_target"]);
}

fn within(taken: u32, share: u32, later: &[PlanCapacity]) -> Script {
    let grant = Some(Grant { taken, end: Granted::Degraded, share: Some(share) });
    Script { grant, later: later.to_vec(), ..Script::new(vec![act(3)]) }
}

fn plan(launches: &[u32]) -> PlanCapacity {
    let (planned, gathers) = (Some(launches.iter().sum()), launches.len() as u32);
    let pool_size = Some(POOL);
    PlanCapacity {
        statements: vec![super::launches(launches)],
        planned,
        asked: planned,
        gathers,
        pool_size,
        ..PlanCapacity::default()
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_judged_by_the_plan_that_its_share_leaves() {
    let played = play(within(3, 3, &[plan(&[2])]), |_| {}).await;
    assert_eq!(played.words, ["attempt 1 required 2", "enough 3", "ended enough", "above_minimum"]);
    assert_eq!(played.result.unwrap().planned_workers, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_plan_below_the_minimum_within_its_share_is_refused_before_anything_runs() {
    let played = play(within(3, 3, &[plan(&[1])]), |_| {}).await;
    assert_eq!(played.words, ["failed refused"]);
    let ignored = play(within(3, 3, &[plan(&[1])]), |s| s.plan_shortfall = PlanShortfall::Ignore).await;
    assert_eq!(ignored.words[0], "attempt 1 required 2");
}

#[tokio::test(start_paused = true)]
async fn a_plan_below_the_minimum_within_its_share_goes_on_waiting_for_all_slots() {
    let mut script = within(3, 3, &[plan(&[1])]);
    script.acts = vec![act(4)];
    script.in_full = Some(Grant { taken: 4, end: Granted::Full, share: None });
    let played = play(script, |_| {}).await;
    assert_eq!(played.words, ["attempt 1 required 4", "enough 4", "ended enough", "on_target"]);
}

#[tokio::test(start_paused = true)]
async fn more_gathers_within_a_share_share_anew_until_their_workers_have_slots() {
    let played = play(within(6, 3, &[plan(&[3, 3, 3]), plan(&[2, 2, 2])]), |_| {}).await;
    assert_eq!((&*played.words[0], played.narrowed), ("attempt 1 required 2", vec![2]));
    let fewer = play(within(6, 3, &[plan(&[3, 3])]), |_| {}).await;
    assert_eq!((&*fewer.words[0], fewer.narrowed), ("attempt 1 required 3", vec![]));
}
