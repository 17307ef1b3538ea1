//! VACUUM and CREATE INDEX: they have no plan, but a bound.
//!
//! Both take workers from the pool up to `max_parallel_maintenance_workers` (manual, "Resource
//! Consumption"), VACUUM up to its own option `PARALLEL n`, too. Its workers share the indexes of one table after
//! the other: one each that has `min_parallel_index_scan_size`, but for the leader's own (vacuumparallel.c,
//! `parallel_vacuum_compute_workers`), so the catalog bounds it as well. How many they ask for within that depends
//! on what is looked at while they run: the bound refuses what can never be, and promises nothing.

use tokio_postgres::Client;

use super::reason::{Reason, ReasonKind};
use super::server::Setting;
use super::statements::parallel_option;
use super::text::Text;
use super::tree::Tree;
use super::{Failure, Inspection, Nature, Plan, Session, parse};

const LIMIT: &str = "SELECT pg_catalog.current_setting('max_parallel_maintenance_workers')::int";

/// The table among these, or among their partitions, whose indexes keep the most workers busy. No row if one of
/// them is not there: the server will say so.
const INDEXES: &str = "
    WITH named AS (SELECT pg_catalog.to_regclass(name) AS oid FROM unnest($1::text[]) AS name),
    parts AS (SELECT oid FROM named UNION SELECT relid FROM named, pg_catalog.pg_partition_tree(named.oid)),
    least AS (SELECT setting::bigint * pg_catalog.current_setting('block_size')::bigint AS bytes
              FROM pg_catalog.pg_settings WHERE name = 'min_parallel_index_scan_size')
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), count(i.indexrelid), count(i.indexrelid) FILTER (
             WHERE pg_catalog.pg_relation_size(i.indexrelid) >= (SELECT bytes FROM least))
    FROM parts JOIN pg_catalog.pg_class c ON c.oid = parts.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_index i ON i.indrelid = parts.oid
    WHERE NOT EXISTS (SELECT FROM named WHERE oid IS NULL)
    GROUP BY 1 ORDER BY 3 DESC, 2 DESC LIMIT 1";

/// The indexes of a table that VACUUM is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Indexes {
    table: String,
    all: u32,
    /// Those that a worker may take.
    large: u32,
}

impl Indexes {
    /// `None` where no table bounds it: all tables, and FULL, which builds indexes anew.
    async fn read(client: &Client, sql: &str) -> Result<Option<Self>, Failure> {
        let Some(tables) = Text::new(sql).vacuumed() else { return Ok(None) };
        let Some(row) = client.query_opt(INDEXES, &[&tables]).await? else { return Ok(None) };
        let number =
            |column| Ok::<_, Failure>(u32::try_from(row.try_get::<_, i64>(column)?).unwrap_or(u32::MAX));
        Ok(Some(Self { table: row.try_get(0)?, all: number(1)?, large: number(2)? }))
    }

    const fn workers(&self) -> u32 {
        self.large.saturating_sub(1)
    }

    fn reason(&self, least: Option<&Setting>, target: u32) -> Option<Reason> {
        if self.workers() >= target {
            return None;
        }
        let Self { table, all, large } = self;
        let size = least.map_or("?", |setting| &setting.value);
        let share = "VACUUM has a worker for each index but the leader's own";
        let (explanation, fix) = match all {
            0 | 1 => {
                let found = if *all == 0 { "no index" } else { "one index" };
                (format!("{share}: {table} has {found}"), "-- none: it runs in the leader alone".to_owned())
            }
            _ => {
                let fix = if *all > target {
                    "SET LOCAL min_parallel_index_scan_size = 0".to_owned()
                } else {
                    format!("-- demand {} workers: there are no more indexes to share", all - 1)
                };
                let found =
                    format!("of the {all} of {table}, {large} have min_parallel_index_scan_size = {size}");
                (format!("{share}: {found}"), fix)
            }
        };
        let fixes = vec![fix];
        Some(Reason { kind: ReasonKind::MaintenanceLimit, explanation, fixes })
    }
}

/// The bound, as a plan without a Gather.
pub(super) async fn inspect(client: &Client, sql: &str) -> Result<Inspection, Failure> {
    parse(client, sql).await?;
    let limit: i32 = client.query_one(LIMIT, &[]).await?.try_get(0)?;
    let limit = u32::try_from(limit).unwrap_or(0);
    let asked = parallel_option(sql);
    let indexes = Indexes::read(client, sql).await?;
    let each = indexes.as_ref().map_or(limit, Indexes::workers);
    let tree = Tree { reachable: limit.min(asked.unwrap_or(limit)).min(each), ..Tree::default() };
    let plan = Session::read(client).await?.plan(tree);
    Ok(Inspection::Planned(Box::new(Plan { nature: Nature::Maintenance { asked, indexes }, ..plan })))
}

/// Why the bound is below the target.
pub(super) fn reasons(
    settings: &[Setting],
    asked: Option<u32>,
    indexes: Option<&Indexes>,
    target: u32,
) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut add = |explanation, fix| {
        reasons.push(Reason { kind: ReasonKind::MaintenanceLimit, explanation, fixes: vec![fix] });
    };
    let named = |name| settings.iter().find(|setting| setting.name == name);
    let least = named("min_parallel_index_scan_size");
    let shared = indexes.and_then(|indexes| indexes.reason(least, target));
    let limit = named("max_parallel_maintenance_workers");
    if let Some(limit) = limit.filter(|limit| limit.number() < f64::from(target)) {
        add(
            format!("{} = {} (set by: {})", limit.name, limit.value, limit.source),
            format!("SET LOCAL {} = {target}", limit.name),
        );
    }
    if let Some(asked) = asked.filter(|asked| *asked < target) {
        add(
            format!("VACUUM (PARALLEL {asked}) has no more workers than that"),
            format!("-- write PARALLEL {target}"),
        );
    }
    shared.into_iter().chain(reasons).collect()
}
