//! Executions whose plan cannot have the target.

use super::*;

fn planned(script: Script, workers: u32) -> Script {
    let capacity = PlanCapacity {
        planned: Some(workers),
        statements: vec![launches(&[workers])],
        ..script.capacity.clone()
    };
    Script { capacity, ..script }
}

const fn refuse(settings: &mut Settings) {
    settings.plan_shortfall = PlanShortfall::Refuse;
}

#[tokio::test(start_paused = true)]
async fn a_plan_out_of_reach_is_refused_before_anything_runs_where_that_is_wanted() {
    let played = play(planned(Script::new(vec![]), 3), refuse).await;
    assert_eq!(played.words, ["failed refused"]);
    assert_eq!(played.result.unwrap_err().refusal(), Some(Refusal::PlanTooNarrow));
}

#[tokio::test(start_paused = true)]
async fn a_plan_out_of_reach_lowers_the_target_and_the_outcome_says_so() {
    let played = play(planned(Script::new(vec![act(3)]), 3), |_| {}).await;
    assert_eq!(played.words, ["lowered to 3", "attempt 1 required 3", "enough 3", "ended enough", "lowered"]);
    let run = played.result.unwrap();
    assert_eq!((run.lowered_to, run.target_workers, run.target_met), (Some(3), 3, false));
}

#[tokio::test(start_paused = true)]
async fn a_plan_below_the_minimum_lowers_that_too() {
    let played = play(planned(Script::new(vec![act(1)]), 1), |_| {}).await;
    assert_eq!(played.words, ["lowered to 1", "attempt 1 required 1", "enough 1", "ended enough", "lowered"]);
    assert_eq!(played.result.unwrap().min_workers, 1);
}

#[tokio::test(start_paused = true)]
async fn a_serial_plan_runs_without_a_worker_in_a_full_pool() {
    let full = Act { others: POOL, ..act(0) };
    let played = play(planned(Script::new(vec![full]), 0), |_| {}).await;
    assert_eq!(played.words, ["lowered to 0", "attempt 1 required 0", "enough 0", "ended enough", "lowered"]);
}

#[tokio::test(start_paused = true)]
async fn a_minimum_of_zero_is_never_refused() {
    let played = play(planned(Script::new(vec![act(0)]), 0), |settings| {
        refuse(settings);
        settings.min_workers = crate::settings::Minimum::Workers(0);
    })
    .await;
    assert_eq!(played.words.last().unwrap(), "lowered");
}
