//! Why a plan does not have more workers, and what to type to give it more.
//!
//! A reason is named only when the server shows it: in the plan, in the catalog, in a setting that is
//! below the target, or in a second plan that is made with the obstacle removed (`probe`). Serializable isolation is not
//! a reason: since version 12 it allows workers. If nothing is found, the reason is `unknown`.

use tokio_postgres::Client;

use super::probe::{Knob, Probe};
use super::reason::{Diagnosis, Reason, ReasonKind};
use super::routines::{Hazard, Routine, Routines};
use super::server::{self, Setting, Table, threshold_for, workers_for};
use super::text::{Kind, Text};
use super::tree::Tree;
use super::{Failure, Nature, Params, Plan};
use crate::fix::Fix;

/// Finds the reasons why `plan` cannot reach `target`, in the transaction that the plan was made in.
pub(super) async fn diagnose(
    client: &Client,
    sql: &str,
    params: Params<'_>,
    plan: &Plan,
    target: u32,
) -> Result<Diagnosis, Failure> {
    let settings = server::settings(client).await?;
    match &plan.nature {
        Nature::Query => {}
        Nature::SerialRefresh => {
            let serial = reason(
                ReasonKind::SerialRefresh,
                "REFRESH MATERIALIZED VIEW has no workers before PostgreSQL 14",
                Fix::advice(
                    "make a table of the view's query with CREATE TABLE ... AS, or upgrade the server",
                ),
            );
            return Ok(Diagnosis { reasons: vec![serial], unseen: Vec::new() });
        }
        Nature::Maintenance(bound) => {
            let unseen = Routines::read(client, sql, &plan.tree).await?.unseen;
            if let Some(serial) = bound.serial() {
                return Ok(Diagnosis { reasons: vec![serial], unseen });
            }
            let mut reasons: Vec<Reason> =
                pool_reason(&settings, plan.pool_size, target).into_iter().collect();
            reasons.extend(bound.reasons(&settings, target));
            return Ok(Diagnosis { reasons, unseen });
        }
    }
    let sql = plan.query.as_deref().unwrap_or(sql);
    let tables = server::tables(client, &plan.tree.tables).await?;
    let routines = Routines::read(client, sql, &plan.tree).await?;
    let probe = Probe::read(client, sql, params, &settings, &plan.tree, target).await?;
    let cursor = Text::new(sql).kind() == Kind::Cursor;
    let facts = Facts {
        target,
        tree: &plan.tree,
        pool_size: plan.pool_size,
        cursor,
        settings,
        tables,
        hazards: routines.hazards,
        probe,
    };
    Ok(Diagnosis { reasons: facts.reasons(), unseen: routines.unseen })
}

/// All that was found out; the rest is pure.
struct Facts<'a> {
    target: u32,
    tree: &'a Tree,
    pool_size: u32,
    cursor: bool,
    settings: Vec<Setting>,
    tables: Vec<Table>,
    hazards: Vec<Routine>,
    probe: Probe,
}

fn reason(kind: ReasonKind, explanation: impl Into<String>, fix: Fix) -> Reason {
    Reason { kind, explanation: explanation.into(), fixes: vec![fix] }
}

pub(super) fn number(settings: &[Setting], name: &str) -> u64 {
    settings.iter().find(|setting| setting.name == name).map_or(0, |setting| setting.number() as u64)
}

/// Why the pool is too small for the target, whatever the plan is; `None` when it is not.
pub(crate) async fn diagnose_pool(client: &Client, target: u32) -> Result<Option<Reason>, Failure> {
    let settings = server::settings(client).await?;
    Ok(pool_reason(&settings, super::pool_size(client).await?, target))
}

/// Processes for replication, extensions and autovacuum beside those for workers: as many as the server's own defaults for
/// logical replication may take.
pub(crate) const BESIDE: u64 = 4;

/// What to type where there are too few processes for so many workers, which takes a restart: once, so those that others
/// take count, too. `None` where it is `max_parallel_workers` alone that is too small.
pub(crate) fn raise_processes(processes: u64, workers: u64, target: u32) -> Option<String> {
    if processes >= u64::from(target) {
        return None;
    }
    let also = if workers >= u64::from(target) {
        String::new()
    } else {
        format!(" ALTER SYSTEM SET max_parallel_workers = {target};")
    };
    let enough = workers.max(target.into()) + BESIDE;
    Some(format!(
        "ALTER SYSTEM SET max_worker_processes = {enough};{also} -- or more, and restart the server"
    ))
}

fn pool_reason(settings: &[Setting], size: u32, target: u32) -> Option<Reason> {
    if size >= target {
        return None;
    }
    let (processes, workers) =
        (number(settings, "max_worker_processes"), number(settings, "max_parallel_workers"));
    let fix = raise_processes(processes, workers, target)
        .map_or_else(|| Fix::set("max_parallel_workers", target), Fix::Sql);
    let explanation = format!(
        "the pool has {size} slots: max_parallel_workers = {workers}, max_worker_processes = {processes}"
    );
    Some(reason(ReasonKind::PoolSize, explanation, fix))
}

impl Facts<'_> {
    fn reasons(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        self.statement(&mut reasons);
        if !reasons.is_empty() {
            // No setting and no table gives it workers, so none is named.
            return reasons;
        }
        self.functions(&mut reasons);
        let forbidden = !reasons.is_empty();
        self.limits(&mut reasons, forbidden);
        self.scans(&mut reasons, forbidden);
        if !forbidden && self.out_of_reach() {
            self.leader_only(&mut reasons);
        }
        self.choices(&mut reasons);
        if reasons.is_empty() {
            reasons.push(reason(
                ReasonKind::Unknown,
                "the planner preferred a plan with fewer workers; no single cause was found",
                Fix::advice(if self.probe.most_possible == 0 {
                    "what reads few rows, by an index for example, gains nothing by workers: leave it to one process"
                        .to_owned()
                } else {
                    format!(
                        "compare with the plan under parallel_setup_cost = 0, parallel_tuple_cost = 0 \
                         and ALTER TABLE ... SET (parallel_workers = {})",
                        self.target
                    )
                }),
            ));
        }
        reasons.sort_by_key(|reason| reason.kind);
        if self.is_hopeless(&reasons) {
            for fix in reasons.iter_mut().flat_map(|reason| &mut reason.fixes) {
                if fix.is_typed() {
                    *fix = Fix::advice(format!("and after that {fix}"));
                }
            }
        }
        reasons
    }

    /// Whether no SQL fix helps until the statement itself is changed.
    fn is_hopeless(&self, reasons: &[Reason]) -> bool {
        let advice = |reason: &Reason| reason.fixes.iter().all(|fix| !fix.is_typed());
        let has = |kind| reasons.iter().any(|reason| reason.kind == kind && advice(reason));
        let shared = self.tables.iter().any(|table| !table.temporary && !table.foreign);
        let alone =
            has(ReasonKind::TemporaryTable) || has(ReasonKind::ForeignTable) || has(ReasonKind::NoTable);
        has(ReasonKind::UnsafeFunction) || (alone && !shared)
    }

    /// Whether no setting brings the target within reach.
    const fn out_of_reach(&self) -> bool {
        self.probe.most_possible < self.target
    }

    fn setting(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }

    fn number(&self, name: &str) -> u64 {
        number(&self.settings, name)
    }

    /// Kinds of statements that never have workers, whatever they call and read.
    fn statement(&self, reasons: &mut Vec<Reason>) {
        if self.tree.has("ModifyTable") {
            reasons.push(reason(
                ReasonKind::DataModifying,
                "a statement that modifies rows, at its top or in a CTE, has no workers",
                Fix::advice("collect the rows first with CREATE TABLE ... AS SELECT, which can have workers, then modify from that table"),
            ));
        }
        if self.tree.has("LockRows") {
            reasons.push(reason(
                ReasonKind::RowLocking,
                "SELECT ... FOR UPDATE or FOR SHARE has no workers",
                Fix::advice("leave out FOR UPDATE or FOR SHARE, or lock the rows in a statement of its own"),
            ));
        }
        if self.cursor {
            reasons.push(reason(
                ReasonKind::Cursor,
                "the query of a cursor has no workers",
                Fix::advice(
                    "run the query itself, or CREATE TABLE ... AS it and declare the cursor on that table",
                ),
            ));
        }
    }

    /// Functions that forbid workers for the whole statement.
    fn functions(&self, reasons: &mut Vec<Reason>) {
        // If any plan has workers, the unsafe function that was found by its name is another overload.
        if self.probe.most_possible == 0 {
            let hazards = self.hazards.iter().filter(|routine| routine.hazard == Hazard::Unsafe);
            reasons.extend(hazards.map(unsafe_function));
        }
    }

    fn limits(&self, reasons: &mut Vec<Reason>, forbidden: bool) {
        let target = self.target;
        reasons.extend(pool_reason(&self.settings, self.pool_size, target));
        let Some(limit) = self.setting("max_parallel_workers_per_gather") else { return };
        let (value, source) = (limit.number() as u64, &limit.source);
        let matters = value == 0 || forbidden || self.probe.causes.contains(&Knob::GatherLimit);
        if value < u64::from(target) && matters {
            reasons.push(reason(
                ReasonKind::GatherLimit,
                format!("max_parallel_workers_per_gather = {value} (set by: {source})"),
                Fix::set("max_parallel_workers_per_gather", target),
            ));
        }
    }

    /// What the tables allow.
    fn scans(&self, reasons: &mut Vec<Reason>, forbidden: bool) {
        let target = self.target;
        if self.tables.is_empty() {
            if !forbidden && self.out_of_reach() {
                reasons.push(reason(
                    ReasonKind::NoTable,
                    "the plan reads no table, so there is nothing to share among workers",
                    Fix::none("the statement runs in the leader alone"),
                ));
            }
            return;
        }
        if forbidden || self.out_of_reach() {
            for table in &self.tables {
                let Some(workers) = table.parallel_workers.filter(|workers| *workers < target) else {
                    continue;
                };
                let name = &table.name;
                reasons.push(reason(
                    ReasonKind::TableParallelWorkers,
                    format!("{name} has the storage parameter parallel_workers = {workers}"),
                    Fix::sql(format!("ALTER TABLE {name} SET (parallel_workers = {target})")),
                ));
            }
        }
        // Where the plan has no worker however small a table may be, it is not the size: an index finds few rows, say.
        let may_be_small = self.out_of_reach() && self.probe.most_possible > 0;
        if forbidden || may_be_small || self.probe.causes.contains(&Knob::ScanSize) {
            reasons.extend(self.small_table());
        }
    }

    /// The largest table that the planner counts workers for, when even that counts for too few.
    fn small_table(&self) -> Option<Reason> {
        let target = self.target;
        let shared = |table: &&Table| !table.temporary && !table.foreign && table.parallel_workers.is_none();
        let table = self.tables.iter().filter(shared).max_by_key(|table| table.bytes)?;
        let block = self.number("block_size").max(1);
        let pages = table.bytes / block;
        let threshold = self.setting("min_parallel_table_scan_size")?;
        let workers = workers_for(pages, threshold.number() as u64);
        if workers >= target {
            return None;
        }
        let (name, size, threshold) = (&table.name, size(table.bytes), &threshold.value);
        let mut fixes = Vec::new();
        // The server's own catalogs are not to be altered.
        if !name.starts_with("pg_") {
            fixes.push(Fix::sql(format!("ALTER TABLE {name} SET (parallel_workers = {target})")));
        }
        if let Some(pages) = threshold_for(pages, target) {
            fixes.push(Fix::set("min_parallel_table_scan_size", format!("{}kB", pages * block / 1024)));
        }
        if fixes.is_empty() {
            fixes.push(Fix::none("it is too small to be shared, and a catalog of the server's own"));
        }
        // Those that it does not count workers for may be larger.
        let largest = if self.tables.iter().all(|other| other.bytes <= table.bytes) {
            ", the largest table that the plan reads,"
        } else {
            ""
        };
        let explanation = format!(
            "{name}{largest} has {size}: at that size the planner allows {workers} workers with \
             min_parallel_table_scan_size = {threshold}"
        );
        Some(Reason { kind: ReasonKind::SmallTable, explanation, fixes })
    }

    /// What only the leader may do.
    fn leader_only(&self, reasons: &mut Vec<Reason>) {
        for table in self.tables.iter().filter(|table| table.temporary) {
            let name = &table.name;
            reasons.push(reason(
                ReasonKind::TemporaryTable,
                format!("{name} is a temporary table, which only the leader can read"),
                Fix::advice("create it with CREATE UNLOGGED TABLE instead of CREATE TEMPORARY TABLE"),
            ));
        }
        for table in self.tables.iter().filter(|table| table.foreign) {
            let name = &table.name;
            reasons.push(reason(
                ReasonKind::ForeignTable,
                format!("{name} is a foreign table, which the leader reads"),
                Fix::advice(format!("copy it first: CREATE UNLOGGED TABLE ... AS SELECT * FROM {name}")),
            ));
        }
        if self.tree.has("CTE Scan") || self.tree.has("WorkTable Scan") {
            // A recursive one cannot be anything else.
            let advice = if self.tree.has("Recursive Union") {
                Fix::advice("make the result of the recursive CTE a table first, and read that")
            } else {
                Fix::advice("write WITH name AS NOT MATERIALIZED (...), or make the CTE a table first")
            };
            reasons.push(reason(
                ReasonKind::CteScan,
                "the plan reads the result of a CTE, which only the leader can",
                advice,
            ));
        }
        for routine in self.hazards.iter().filter(|routine| routine.hazard == Hazard::Restricted) {
            let name = &routine.name;
            let fix = if routine.builtin {
                Fix::advice(format!(
                    "compute {name} in a later statement, or above the rows that workers should produce"
                ))
            } else {
                mark_safe(routine)
            };
            reasons.push(reason(
                ReasonKind::RestrictedFunction,
                format!(
                    "{name} is PARALLEL RESTRICTED: the part of the plan that calls it runs in the leader"
                ),
                fix,
            ));
        }
    }

    /// What the planner could have done otherwise.
    fn choices(&self, reasons: &mut Vec<Reason>) {
        let apart = self.probe.without_parallel_append;
        if apart > self.tree.reachable {
            reasons.push(reason(
                ReasonKind::ParallelAppend,
                format!(
                    "branches of a UNION ALL, or partitions, share the workers of one Gather, whose number follows \
                     the number of branches; tried: without Parallel Append the plan has {apart}"
                ),
                Fix::set("enable_parallel_append", "off"),
            ));
        }
        if self.probe.causes.contains(&Knob::Methods) {
            let off = self.settings.iter().filter(|setting| setting.name.starts_with("enable_"));
            let off: Vec<&str> = off.map(|setting| setting.name.as_str()).collect();
            let on = off.iter().map(|&name| (name.to_owned(), "on".to_owned())).collect();
            reasons.push(reason(
                ReasonKind::MethodDisabled,
                format!("{} off; tried: with that on, the plan has more workers", off.join(", ")),
                Fix::SetLocal(on),
            ));
        }
        if self.probe.causes.contains(&Knob::Costs) {
            let value = |name: &str| self.setting(name).map_or("", |setting| &setting.value);
            let limit = if self.tree.has("Limit") { " (a LIMIT makes a quick start cheap)" } else { "" };
            reasons.push(reason(
                ReasonKind::Costs,
                format!(
                    "parallel_setup_cost = {} and parallel_tuple_cost = {} outweigh what workers would save on a \
                     plan of cost {:.0}{limit}; tried: with both at 0 the plan has more workers",
                    value("parallel_setup_cost"),
                    value("parallel_tuple_cost"),
                    self.tree.cost
                ),
                Fix::SetLocal(
                    ["parallel_setup_cost", "parallel_tuple_cost"].map(|cost| (cost.into(), "0".into())).into(),
                ),
            ));
        }
        let debug = self.setting("debug_parallel_query").or_else(|| self.setting("force_parallel_mode"));
        if let Some(debug) = debug.filter(|debug| debug.raw == "regress" || self.tree.single_copy) {
            reasons.push(reason(
                ReasonKind::DebugParallelQuery,
                format!("{} = {} runs a serial plan in one worker, as a test", debug.name, debug.value),
                Fix::advice(format!(
                    "leave {} off: its worker does the leader's work and shares none",
                    debug.name
                )),
            ));
        }
    }
}

fn unsafe_function(routine: &Routine) -> Reason {
    let name = &routine.name;
    let fix = if routine.builtin {
        Fix::advice(format!("leave {name} out of the statement, or call it in a statement of its own"))
    } else {
        mark_safe(routine)
    };
    let explanation = format!("{name} is PARALLEL UNSAFE, which forbids workers for the whole statement");
    reason(ReasonKind::UnsafeFunction, explanation, fix)
}

fn mark_safe(routine: &Routine) -> Fix {
    let name = &routine.name;
    if routine.aggregate {
        return Fix::advice(format!(
            "CREATE OR REPLACE AGGREGATE {name} with PARALLEL = SAFE, if that is true of it"
        ));
    }
    Fix::sql(format!("ALTER FUNCTION {name} PARALLEL SAFE; -- if that is true of it"))
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} kB", bytes.div_ceil(1024)),
        _ => format!("{} MB", bytes / 1_048_576),
    }
}

#[cfg(test)]
mod tests;
