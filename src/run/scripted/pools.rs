//! Which pool an attempt is judged by: as it is now, or as the leader's session has it.

use super::*;

/// What a rejected attempt is blamed on, in a pool that the plan was inspected with.
async fn check_blame(pool_size: u32, apart: bool, act: Act, expected: Option<ShortReason>) {
    let script = Script::new(vec![act; 5]);
    let capacity = PlanCapacity { pool_size: Some(pool_size), apart, ..script.capacity.clone() };
    let ignore = |settings: &mut Settings| settings.plan_shortfall = PlanShortfall::Ignore;
    let run = play(Script { capacity, ..script }, ignore).await.result.unwrap();
    assert_eq!(run.attempts[0].reason, expected);
}

#[tokio::test(start_paused = true)]
async fn a_short_attempt_is_judged_by_the_pool_as_it_is_now() {
    check_blame(POOL + 4, false, act(2), Some(ShortReason::PoolExhausted)).await;
    check_blame(3, false, Act { others: 1, ..act(2) }, None).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_with_a_pool_size_of_its_own_is_judged_by_that() {
    check_blame(3, true, Act { others: 1, ..act(2) }, Some(ShortReason::PoolExhausted)).await;
}
