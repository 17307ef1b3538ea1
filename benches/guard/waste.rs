//! Leader time wasted by a short attempt, under both policies.

use std::time::Duration;

use headcount::Policy;

use crate::server::{POOL, SLOW, Server, connect};
use crate::table::{Table, median, ratio};

pub async fn measure(server: &Server, table: &mut Table, rounds: usize) {
    // Six of eight slots are taken: two are left for a target of four.
    let hog = connect(&server.private).await;
    let cancel = hog.cancel_token();
    let holding = tokio::spawn(async move {
        hog.batch_execute("SET max_parallel_workers_per_gather = 6; SET parallel_leader_participation = off; SELECT count(*) FROM slow WHERE doze(0.05)")
            .await
    });
    let looker = connect(&server.private).await;
    let look = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'";
    while looker.query_one(look, &[]).await.unwrap().get::<_, i64>(0) < i64::from(POOL - 2) {}
    let mut wasted = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (policy, wasted) in [Policy::Prompt, Policy::Classic].into_iter().zip(&mut wasted) {
            let mut job = server.headcount.task("waste").target(4).minimum(4).attempts(2).policy(policy);
            job.settings_mut().admission_wait = Duration::ZERO;
            let run = job.execute(SLOW, &[]).await.unwrap();
            assert!(!run.outcome.is_accepted(), "{run:?}");
            wasted.extend(run.attempts.iter().map(|attempt| attempt.ran));
        }
    }
    cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
    let _ = holding.await;
    let [prompt, classic] = [median(&wasted[0]), median(&wasted[1])];
    table.row(
        "wasted per short attempt, prompt / classic",
        format!("1/{:.0}", ratio(classic, prompt)),
        "<= 1/10",
        format!("medians of {}: {prompt:.1?} / {classic:.1?}", wasted[0].len()),
    );
}
