//! VACUUM and CREATE INDEX: they have no plan, but a bound.
//!
//! Both take workers from the pool up to `max_parallel_maintenance_workers` (manual, "Resource
//! Consumption"). What else bounds them stands in the catalog, for each in its own way (`vacuum`, `build`). How
//! many they ask for within that depends on what is looked at while they run: the bound refuses what can
//! never be, and promises nothing.

use tokio_postgres::Client;

use super::build::Build;
use super::reason::{Reason, ReasonKind};
use super::server::{self, Setting};
use super::tree::Tree;
use super::vacuum::{Indexes, Vacuum};
use super::{Failure, Inspection, Nature, Plan, Session, parse};
use crate::fix::Fix;

const VERSION: &str = "SELECT pg_catalog.current_setting('server_version_num')::int";

/// What bounds it, beside the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bound {
    /// VACUUM's own PARALLEL.
    asked: Option<u32>,
    indexes: Option<Indexes>,
    build: Option<Build>,
}

impl Bound {
    /// With what the catalog says of its tables, if that is `settled`.
    async fn read(client: &Client, sql: &str, settled: bool) -> Result<Self, Failure> {
        if let Some(vacuum) = Vacuum::new(sql) {
            let indexes = if settled { Indexes::read(client, &vacuum).await? } else { None };
            return Ok(Self { asked: vacuum.parallel, indexes, ..Self::default() });
        }
        if !settled {
            return Ok(Self::default());
        }
        let version = client.query_one(VERSION, &[]).await?.try_get(0)?;
        Ok(Self { build: Build::read(client, sql, version).await?, ..Self::default() })
    }

    fn workers(&self, settings: &[Setting]) -> u32 {
        let bounds = [
            limit(settings).map(|limit| limit.number() as u32),
            self.asked,
            self.indexes.as_ref().map(Indexes::workers),
            self.build.as_ref().map(|build| build.workers(settings)),
        ];
        bounds.into_iter().flatten().min().unwrap_or(u32::MAX)
    }

    /// Why it runs in the leader alone, whatever is set.
    pub(super) fn serial(&self) -> Option<Reason> {
        let indexes = self.indexes.as_ref().and_then(Indexes::serial);
        indexes.or_else(|| self.build.as_ref().and_then(Build::serial))
    }

    /// Why it is below the target.
    pub(super) fn reasons(&self, settings: &[Setting], target: u32) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let mut add = |explanation, fix| {
            reasons.push(Reason { kind: ReasonKind::MaintenanceLimit, explanation, fixes: vec![fix] });
        };
        // A limit is named where raising it gives more workers.
        let most = self.indexes.as_ref().map_or(target, |indexes| indexes.most().min(target));
        if let Some(limit) = limit(settings).filter(|limit| limit.number() < f64::from(most)) {
            add(
                format!("{} = {} (set by: {})", limit.name, limit.value, limit.source),
                Fix::set(&limit.name, target),
            );
        }
        if let Some(asked) = self.asked.filter(|asked| *asked < target) {
            add(
                format!("VACUUM (PARALLEL {asked}) has no more workers than that"),
                Fix::advice(format!("write PARALLEL {target}")),
            );
        }
        let least = settings.iter().find(|setting| setting.name == "min_parallel_index_scan_size");
        let shared = self.indexes.as_ref().and_then(|indexes| indexes.reason(least, target));
        let built = self.build.as_ref().map(|build| build.reasons(settings, target));
        shared.into_iter().chain(reasons).chain(built.into_iter().flatten()).collect()
    }
}

fn limit(settings: &[Setting]) -> Option<&Setting> {
    settings.iter().find(|setting| setting.name == "max_parallel_maintenance_workers")
}

/// The bound, as a plan without a Gather. `settled`: no statement ahead may change its tables. A table that is not
/// there is an error then.
pub(super) async fn inspect(client: &Client, sql: &str, settled: bool) -> Result<Inspection, Failure> {
    parse(client, sql).await?;
    let bound = Bound::read(client, sql, settled).await?;
    let reachable = bound.workers(&server::settings(client).await?);
    let plan = Session::read(client).await?.plan(Tree { reachable, ..Tree::default() });
    Ok(Inspection::Planned(Box::new(Plan { nature: Nature::Maintenance(bound), ..plan })))
}
