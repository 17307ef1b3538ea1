//! What the tests of this binary stand on: servers, scarcity, faults, and ways to wait for facts.

mod bench;
mod hog;
mod outsiders;
mod proxy;
mod recorder;
mod servers;

use std::time::Duration;

#[path = "../../../benches/update/delay.rs"]
#[allow(unreachable_pub, reason = "a benchmark has it, too")]
pub(crate) mod delay;

pub(crate) use crate::versions::{main_version, on_each_version, on_oldest_and_latest};
pub(crate) use bench::{Bench, endpoint, quick};
pub(crate) use hog::Hog;
pub(crate) use outsiders::Outsiders;
pub(crate) use proxy::{CommitFault, Proxy};
pub(crate) use recorder::Recorder;
pub(crate) use servers::{POOL, client, plain_server};

/// How often a claim is tried in a soak (`HEADCOUNT_SOAK_RUNS`); `None` in any other run.
pub(crate) fn soak_runs() -> Option<u32> {
    std::env::var("HEADCOUNT_SOAK_RUNS").ok()?.parse().ok()
}

/// How many runs in a row must succeed: in a soak a quarter of its runs, since each claim is tried on four versions.
pub(crate) fn runs() -> u32 {
    soak_runs().map_or(12, |runs| runs.div_ceil(4))
}

/// Longest wait for anything that must happen. It only bounds a failing test.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Asks again until the answer is yes. Only for facts that a server tells when asked and announces
/// to nobody: the one place in these tests that paces itself.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let asking = async {
        while !is_so().await {
            pace.tick().await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, asking).await.is_ok(), "still not so after {LIMIT:?}: {what}");
}

/// Awaits something that must come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let within = tokio::time::timeout(LIMIT, future).await;
    within.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"))
}

/// Fixes as they are shown.
pub(crate) fn texts(fixes: &[headcount::Fix]) -> Vec<String> {
    fixes.iter().map(ToString::to_string).collect()
}

/// The error and all its causes, as a command prints them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
