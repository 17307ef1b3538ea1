//! REFRESH MATERIALIZED VIEW: EXPLAIN does not take it, but the view's query it does.
//!
//! Since 14 the query may have workers. Without CONCURRENTLY the indexes are built anew afterwards, each
//! with workers up to `max_parallel_maintenance_workers` (cluster.c, `finish_heap_swap`), on 13 too.

use tokio_postgres::Client;

use super::text::Text;
use super::tree::Tree;
use super::{Failure, Inspection, Nature, Session, plan_tree};

/// The view's query; whether it has indexes; the bound for building one.
const VIEW: &str = concat!(
    "
    WITH ",
    serial!(),
    "
    SELECT pg_catalog.pg_get_viewdef(c.oid), c.relhasindex,
           pg_catalog.current_setting('max_parallel_maintenance_workers')::int,
           pg_catalog.current_setting('server_version_num')::int >= 140000
    FROM pg_catalog.pg_class c WHERE c.oid = $1::text::regclass AND c.relkind = 'm'",
);

/// Asks for the plan of the query that fills the view.
pub(super) async fn inspect(client: &Client, text: &Text) -> Result<Inspection, Failure> {
    let unknown = |why| Ok(Inspection::NotExplainable { why });
    let Some((view, concurrently)) = text.refreshed() else { return unknown(super::text::NO_PLAN) };
    let rows = client.query(VIEW, &[&view]).await?;
    let Some(row) = rows.first() else { return unknown("it is not the name of a materialized view") };
    let query: String = row.try_get(0)?;
    let query = query.trim_end_matches(';').to_owned();
    let builds_indexes = row.try_get::<_, bool>(1)? && !concurrently;
    let building = if builds_indexes { u32::try_from(row.try_get::<_, i32>(2)?).unwrap_or(0) } else { 0 };
    let parallel: bool = row.try_get(3)?;

    let session = Session::read(client).await?;
    let planned = if parallel { plan_tree(client, &query, &[]).await? } else { Some(Tree::default()) };
    let Some(mut tree) = planned else { return unknown("EXPLAIN shows no plan for its query") };
    tree.reachable = tree.reachable.max(building);
    let mut plan = session.plan(tree);
    plan.query = Some(query);
    if !parallel {
        plan.nature = Nature::SerialRefresh;
    }
    Ok(Inspection::Planned(Box::new(plan)))
}
