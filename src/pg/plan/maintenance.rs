//! VACUUM and CREATE INDEX: they have no plan, but a bound.
//!
//! Both take workers from the pool up to `max_parallel_maintenance_workers` (manual, "Resource
//! Consumption"), VACUUM up to its own option `PARALLEL n`, too. How many they ask for within that depends on
//! sizes that are looked at while they run: the bound refuses what can never be, and promises nothing.

use tokio_postgres::Client;

use super::reason::{Reason, ReasonKind};
use super::server::Setting;
use super::statements::parallel_option;
use super::tree::Tree;
use super::{Failure, Inspection, Nature, Plan, Session, parse};

const LIMIT: &str = "SELECT pg_catalog.current_setting('max_parallel_maintenance_workers')::int";

/// The bound, as a plan without a Gather.
pub(super) async fn inspect(client: &Client, sql: &str) -> Result<Inspection, Failure> {
    parse(client, sql).await?;
    let limit: i32 = client.query_one(LIMIT, &[]).await?.try_get(0)?;
    let limit = u32::try_from(limit).unwrap_or(0);
    let asked = parallel_option(sql);
    let tree = Tree { reachable: limit.min(asked.unwrap_or(limit)), ..Tree::default() };
    let plan = Session::read(client).await?.plan(tree);
    Ok(Inspection::Planned(Plan { nature: Nature::Maintenance { asked }, ..plan }))
}

/// Why the bound is below the target.
pub(super) fn reasons(settings: &[Setting], asked: Option<u32>, target: u32) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut add = |explanation, fix| {
        reasons.push(Reason { kind: ReasonKind::MaintenanceLimit, explanation, fixes: vec![fix] });
    };
    let limit = settings.iter().find(|setting| setting.name == "max_parallel_maintenance_workers");
    if let Some(limit) = limit.filter(|limit| limit.number() < f64::from(target)) {
        add(
            format!("{} = {} (set by: {})", limit.name, limit.value, limit.source),
            format!("SET LOCAL {} = {target}", limit.name),
        );
    }
    if let Some(asked) = asked.filter(|asked| *asked < target) {
        add(
            format!("VACUUM (PARALLEL {asked}) has no more workers than that"),
            format!("-- write PARALLEL {target}; there is at most one worker for each index but the first"),
        );
    }
    reasons
}
