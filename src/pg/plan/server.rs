//! What the server says about the settings and the tables that decide on workers.

use serde::Serialize;
use tokio_postgres::Client;

use super::Failure;

/// A setting as it stands in the statement's transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value, with its unit.
    pub value: String,
    /// Where it comes from (`pg_settings.source`): default, configuration file, user, database, session...
    pub source: String,
    #[serde(skip)]
    pub(super) raw: String,
}

impl Setting {
    /// The value in the setting's own unit.
    pub(super) fn number(&self) -> f64 {
        self.raw.parse().unwrap_or(0.0)
    }
}

const SETTINGS: &str = "
    SELECT name, pg_catalog.current_setting(name), source, setting
    FROM pg_catalog.pg_settings
    WHERE name = ANY (ARRAY['max_parallel_workers_per_gather', 'max_parallel_workers', 'max_worker_processes',
                            'min_parallel_table_scan_size', 'min_parallel_index_scan_size',
                            'max_parallel_maintenance_workers', 'maintenance_work_mem',
                            'parallel_setup_cost', 'parallel_tuple_cost', 'parallel_leader_participation',
                            'debug_parallel_query', 'force_parallel_mode', 'block_size'])
       OR name LIKE 'enable\\_%' AND setting = 'off' AND boot_val = 'on'
    ORDER BY name";

/// The settings that decide on workers, and each `enable_...` that is off though it is on by default.
pub(super) async fn settings(client: &Client) -> Result<Vec<Setting>, Failure> {
    let rows = client.query(SETTINGS, &[]).await?;
    let setting = |row: &tokio_postgres::Row| {
        Ok(Setting {
            name: row.try_get(0)?,
            value: row.try_get(1)?,
            source: row.try_get(2)?,
            raw: row.try_get(3)?,
        })
    };
    rows.iter().map(setting).collect()
}

/// A table that the plan reads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "columns of a catalog, not states")]
pub(super) struct Table {
    /// Qualified and quoted.
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) temporary: bool,
    pub(super) foreign: bool,
    /// Stored by the server's own table access method.
    pub(super) heap: bool,
    /// Never vacuumed or analyzed, as far as its statistics tell.
    pub(super) fresh: bool,
    /// The storage parameter `parallel_workers`.
    pub(super) parallel_workers: Option<u32>,
}

const TABLES: &str = concat!(
    "
    WITH ",
    serial!(),
    "
    SELECT pg_catalog.format('%I.%I', t.schema, t.name), c.relpersistence = 't', c.relkind = 'f',
           CASE WHEN c.relkind IN ('r', 'm', 't') THEN pg_catalog.pg_relation_size(c.oid) ELSE 0 END,
           (SELECT option_value::int FROM pg_catalog.pg_options_to_table(c.reloptions)
            WHERE option_name = 'parallel_workers'),
           c.relam = 2, c.relpages = 0 OR c.reltuples < 0
    FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS t (schema, name)
    JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', t.schema, t.name))",
);

pub(super) async fn tables(client: &Client, names: &[(String, String)]) -> Result<Vec<Table>, Failure> {
    let (schemas, names): (Vec<_>, Vec<_>) = names.iter().cloned().unzip();
    let rows = client.query(TABLES, &[&schemas, &names]).await?;
    let table = |row: &tokio_postgres::Row| {
        Ok(Table {
            name: row.try_get(0)?,
            temporary: row.try_get(1)?,
            foreign: row.try_get(2)?,
            bytes: row.try_get::<_, Option<i64>>(3)?.and_then(|bytes| bytes.try_into().ok()).unwrap_or(0),
            parallel_workers: row.try_get::<_, Option<i32>>(4)?.and_then(|n| n.try_into().ok()),
            heap: row.try_get(5)?,
            fresh: row.try_get(6)?,
        })
    };
    rows.iter().map(table).collect()
}

/// Workers that the planner counts for a table of this many pages: none below the threshold, one
/// from there on, one more each time it triples (allpaths.c, `compute_parallel_worker`).
pub(super) fn workers_for(pages: u64, threshold: u64) -> u32 {
    if pages < threshold {
        return 0;
    }
    let mut workers = 1;
    let mut step = threshold.max(1);
    while let Some(next) = step.checked_mul(3) {
        if pages < next {
            break;
        }
        (workers, step) = (workers + 1, next);
    }
    workers
}

/// The largest threshold, in pages, that gives a table this many workers; `None` when none does.
pub(super) fn threshold_for(pages: u64, workers: u32) -> Option<u64> {
    let threshold = pages / 3_u64.checked_pow(workers.saturating_sub(1))?;
    (threshold > 0).then_some(threshold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_one_more_worker_each_time_it_triples() {
        // 8 MB is 1024 pages.
        for (pages, workers) in [(1023, 0), (1024, 1), (3071, 1), (3072, 2), (9216, 3), (27_648, 4)] {
            assert_eq!(workers_for(pages, 1024), workers, "{pages}");
        }
        assert_eq!(workers_for(0, 0), 1);
        assert_eq!(workers_for(81, 0), 5);
        assert!(workers_for(u64::MAX, 1) > 30);
    }

    #[test]
    fn the_threshold_named_as_a_fix_gives_the_workers_asked_for() {
        for pages in [27, 100, 5_000, 1_000_000] {
            for workers in 1..=4 {
                let threshold = threshold_for(pages, workers).unwrap();
                assert!(workers_for(pages, threshold) >= workers, "{pages} {workers}");
                assert!(workers_for(pages, threshold + 1) < workers, "{pages} {workers}");
            }
        }
        assert_eq!(threshold_for(26, 4), None);
    }
}
