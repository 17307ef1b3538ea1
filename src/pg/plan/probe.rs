//! Trying a change: EXPLAIN again under other settings, in a savepoint that is rolled back.
//!
//! The planner does not say why it left workers out. But it can be asked what it would do if a
//! setting were different. A setting is named as a cause only when that answer shows it: with all
//! settings as permissive as they can be the plan has `most_possible` workers; a setting is *binding* when
//! taking back its change alone loses workers again. Where two settings are each enough by
//! themselves, neither is binding, so each change is also tried alone.

use tokio_postgres::Client;

use super::server::Setting;
use super::tree::Tree;
use super::{Failure, Params, plan_tree};

/// Settings that are changed together, because they are one cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Knob {
    /// `max_parallel_workers_per_gather`.
    GatherLimit,
    /// `min_parallel_table_scan_size`, `min_parallel_index_scan_size`.
    ScanSize,
    /// `enable_...` that is off.
    Methods,
    /// `parallel_setup_cost`, `parallel_tuple_cost`.
    Costs,
}

impl Knob {
    const ALL: [Self; 4] = [Self::GatherLimit, Self::ScanSize, Self::Methods, Self::Costs];

    /// What makes it as permissive as it can be; empty when it is already.
    fn changes(self, settings: &[Setting], target: u32) -> Vec<(String, String)> {
        let wanted = |name: &str| match self {
            Self::GatherLimit => (name == "max_parallel_workers_per_gather").then_some(f64::from(target)),
            Self::ScanSize => {
                matches!(name, "min_parallel_table_scan_size" | "min_parallel_index_scan_size").then_some(0.0)
            }
            Self::Costs => matches!(name, "parallel_setup_cost" | "parallel_tuple_cost").then_some(0.0),
            Self::Methods => None,
        };
        let change = |setting: &Setting| {
            if self == Self::Methods {
                return setting.name.starts_with("enable_").then(|| (setting.name.clone(), "on".to_owned()));
            }
            let wanted = wanted(&setting.name)?;
            let now = setting.number();
            let permissive = if self == Self::GatherLimit { now >= wanted } else { now <= wanted };
            (!permissive).then(|| (setting.name.clone(), wanted.to_string()))
        };
        settings.iter().filter_map(change).collect()
    }
}

/// What the planner answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Probe {
    /// The most workers with every setting as permissive as it can be.
    pub(super) most_possible: u32,
    /// The causes that the planner confirmed.
    pub(super) causes: Vec<Knob>,
    /// The most workers without Parallel Append, if the plan has one.
    pub(super) without_parallel_append: u32,
}

impl Probe {
    /// `tree` is the plan as the settings stand.
    pub(super) async fn read(
        client: &Client,
        sql: &str,
        params: Params<'_>,
        settings: &[Setting],
        tree: &Tree,
        target: u32,
    ) -> Result<Self, Failure> {
        let now = tree.reachable;
        let changes: Vec<_> = Knob::ALL
            .into_iter()
            .map(|knob| (knob, knob.changes(settings, target)))
            .filter(|(_, changes)| !changes.is_empty())
            .collect();
        let under = async |keep: &(dyn Fn(Knob) -> bool + Sync)| {
            let kept = changes.iter().filter(|(knob, _)| keep(*knob)).flat_map(|(_, changes)| changes);
            reachable_under(client, sql, params, kept).await
        };
        let most_possible = under(&|_| true).await?;
        let mut causes = Vec::new();
        if most_possible > now {
            for (knob, _) in &changes {
                if under(&|other| other != *knob).await? < most_possible.min(target) {
                    causes.push(*knob);
                }
            }
        }
        if most_possible > now && causes.is_empty() {
            for (knob, _) in &changes {
                if under(&|other| other == *knob).await? > now {
                    causes.push(*knob);
                }
            }
        }
        let mut without_parallel_append = 0;
        if tree.parallel_append {
            let off = [("enable_parallel_append".to_owned(), "off".to_owned())];
            without_parallel_append = reachable_under(client, sql, params, off.iter()).await?;
        }
        Ok(Self { most_possible, causes, without_parallel_append })
    }
}

async fn reachable_under(
    client: &Client,
    sql: &str,
    params: Params<'_>,
    changes: impl Iterator<Item = &(String, String)>,
) -> Result<u32, Failure> {
    use std::fmt::Write as _;
    let mut set = String::from("SAVEPOINT headcount_plan");
    for (name, value) in changes {
        // Names are the server's own, values our own.
        let _ = write!(set, "; SET LOCAL {name} = {value}");
    }
    client.batch_execute(&set).await?;
    let tree = plan_tree(client, sql, params).await;
    client.batch_execute("ROLLBACK TO SAVEPOINT headcount_plan; RELEASE SAVEPOINT headcount_plan").await?;
    Ok(tree?.map_or(0, |tree| tree.reachable))
}
