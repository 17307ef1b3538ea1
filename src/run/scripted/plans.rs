//! Executions whose plan cannot have the target.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_plan_out_of_reach_is_refused_before_anything_runs() {
    let mut script = Script::new(vec![]);
    script.reach.planned = Some(3);
    let played = play(script, |_| {}).await;
    assert_eq!(played.words, ["failed refused"]);
    assert_eq!(played.result.unwrap_err().refusal(), Some(Refusal::PlanTooNarrow));
}

#[tokio::test(start_paused = true)]
async fn a_plan_out_of_reach_lowers_the_target_when_that_is_allowed() {
    let mut script = Script::new(vec![act(3)]);
    script.reach.planned = Some(3);
    let played = play(script, |s| s.plan_shortfall = PlanShortfall::Lower).await;
    assert_eq!(played.words, ["lowered to 3", "attempt 1 bar 3", "enough 3", "ended enough", "on_target"]);
}

#[tokio::test(start_paused = true)]
async fn lowering_never_goes_under_the_minimum() {
    let mut script = Script::new(vec![]);
    script.reach.planned = Some(1);
    let played = play(script, |s| s.plan_shortfall = PlanShortfall::Lower).await;
    assert_eq!(played.words, ["failed refused"]);
}
