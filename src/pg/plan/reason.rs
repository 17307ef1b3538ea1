//! A reason for fewer workers, as people and programs read it: a closed word, what stands in the way,
//! and what helps. The rules that find the reasons are in [`reasons`](super::reasons).

use crate::fix::Fix;
use serde::Serialize;

/// What keeps workers away, the hardest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReasonKind {
    /// INSERT, UPDATE, DELETE or MERGE, at the top or in a CTE.
    DataModifying,
    /// SELECT FOR UPDATE or FOR SHARE.
    RowLocking,
    /// DECLARE: a cursor's query runs in the leader alone.
    Cursor,
    /// REFRESH MATERIALIZED VIEW on a server before 14.
    SerialRefresh,
    /// A function, aggregate or operator that is PARALLEL UNSAFE.
    UnsafeFunction,
    /// The pool has fewer slots than the target.
    PoolSize,
    /// `max_parallel_workers_per_gather`.
    GatherLimit,
    /// `max_parallel_maintenance_workers`, or VACUUM's own PARALLEL.
    MaintenanceLimit,
    /// An index whose access method has no workers to build it.
    AccessMethod,
    /// The plan reads no table.
    NoTable,
    /// The storage parameter `parallel_workers` of a table.
    TableParallelWorkers,
    /// The largest table is small against `min_parallel_table_scan_size`.
    SmallTable,
    /// `maintenance_work_mem` is too little for more workers to build an index.
    MaintenanceMemory,
    /// Temporary tables are read by the leader alone.
    TemporaryTable,
    /// Foreign tables are read by the leader alone unless their wrapper knows better.
    ForeignTable,
    /// The result of a CTE is read by the leader alone.
    CteScan,
    /// A function that is PARALLEL RESTRICTED runs in the leader alone.
    RestrictedFunction,
    /// The branches of a UNION ALL, or the partitions, share the workers of one Gather.
    ParallelAppend,
    /// `enable_...` settings that are off.
    MethodDisabled,
    /// `parallel_setup_cost` and `parallel_tuple_cost` outweigh what workers save.
    Costs,
    /// `debug_parallel_query` (before 16: `force_parallel_mode`) tests parallel query with one worker.
    DebugParallelQuery,
    /// The planner preferred fewer workers and no single cause was found.
    Unknown,
}

impl ReasonKind {
    /// The word for `--json` and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DataModifying => "data_modifying",
            Self::RowLocking => "row_locking",
            Self::Cursor => "cursor",
            Self::SerialRefresh => "serial_refresh",
            Self::UnsafeFunction => "unsafe_function",
            Self::PoolSize => "pool_size",
            Self::GatherLimit => "gather_limit",
            Self::MaintenanceLimit => "maintenance_limit",
            Self::AccessMethod => "access_method",
            Self::NoTable => "no_table",
            Self::TableParallelWorkers => "table_parallel_workers",
            Self::SmallTable => "small_table",
            Self::MaintenanceMemory => "maintenance_memory",
            Self::TemporaryTable => "temporary_table",
            Self::ForeignTable => "foreign_table",
            Self::CteScan => "cte_scan",
            Self::RestrictedFunction => "restricted_function",
            Self::ParallelAppend => "parallel_append",
            Self::MethodDisabled => "method_disabled",
            Self::Costs => "costs",
            Self::DebugParallelQuery => "debug_parallel_query",
            Self::Unknown => "unknown",
        }
    }
}

/// One reason for fewer workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Reason {
    /// The word for it.
    pub kind: ReasonKind,
    /// What stands in the way, with names and numbers: a clause.
    pub explanation: String,
    /// What helps, each by itself.
    pub fixes: Vec<Fix>,
}

impl Reason {
    /// The server has too few slots for this many workers, which no session can change for itself.
    pub(crate) fn server_pool(size: u32, workers: u32) -> Self {
        Self {
            kind: ReasonKind::PoolSize,
            explanation: format!("the server's pool has {size} slots, whatever the session sets for itself"),
            fixes: vec![Self::larger_pool(workers)],
        }
    }

    /// Replaces what helps this session by what helps the server: reserved slots belong to the server's pool.
    pub(crate) fn for_all_sessions(self, workers: u32) -> Self {
        self.instead_of_set(&Self::larger_pool(workers))
    }

    /// The same where the session raises its ceiling itself, as far as it may.
    pub(crate) fn for_a_raised_ceiling(self) -> Self {
        self.instead_of_set(
            &Fix::advice("a larger `ceiling`; where the role or the database has one of its own, `above_role` or ALTER ROLE ... SET \
             max_parallel_workers"),
        )
    }

    /// What is to be done where the session may not set its pool's size for itself.
    fn instead_of_set(mut self, other: &Fix) -> Self {
        let sets_pool =
            |fix: &&mut Fix| matches!(fix, Fix::SetLocal(all) if all[0].0 == "max_parallel_workers");
        for fix in self.fixes.iter_mut().filter(sets_pool) {
            other.clone_into(fix);
        }
        self
    }

    fn larger_pool(workers: u32) -> Fix {
        Fix::sql(format!("ALTER SYSTEM SET max_parallel_workers = {workers}; SELECT pg_reload_conf();"))
    }
}

/// Why a plan cannot reach the target.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// Every reason found; of a query's plan, the hardest first.
    pub reasons: Vec<Reason>,
    /// Functions that run queries of their own, which may have workers that the plan does not show.
    pub unseen: Vec<String>,
}

impl Diagnosis {
    /// Whether the statement can never have more workers than its plan. Only then may it be refused.
    #[must_use]
    pub const fn is_proof(&self) -> bool {
        self.unseen.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_the_same_for_people_and_in_json() {
        for kind in [ReasonKind::DataModifying, ReasonKind::TableParallelWorkers, ReasonKind::Unknown] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
