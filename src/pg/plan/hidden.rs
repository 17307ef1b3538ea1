//! The functions that a statement starts although no text names them.
//!
//! A row that is written is checked, defaulted, indexed and passed through triggers, on the table that the statement
//! names and on all that it reaches: partitions, children, and the tables behind the foreign keys that cascade to
//! them. A type may be a domain with a CHECK, a cast may be a function, and an aggregate is made of several. What these
//! run has workers of its own, so a statement that starts one is never refused for its plan. The catalog keeps which
//! object depends on which function (`pg_depend`); only the server's own are not in there, and they run no queries.
//!
//! It errs on one side: a function counts although its trigger is for another event, or the cast is not made.

use futures_util::future::join3;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::Failure;

/// What a statement touches, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Touched {
    /// Relations that are written: schema and name.
    pub(super) written: Vec<(String, String)>,
    /// Relations that are read.
    pub(super) read: Vec<(String, String)>,
    /// Every name in the statement, its views and its plan: a type may be among them.
    pub(super) names: Vec<String>,
    /// The functions that it is known to call.
    pub(super) called: Vec<u32>,
}

/// The functions, by their oids.
const HIDDEN: &str = concat!(
    "
    WITH RECURSIVE ",
    serial!(),
    ", written AS (
        SELECT pg_catalog.to_regclass(pg_catalog.format('%I.%I', t.schema, t.name))::oid AS oid
        FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS t (schema, name)
        UNION
        SELECT next.oid FROM written w, LATERAL (
            SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = w.oid
            UNION ALL
            SELECT k.conrelid FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND k.confrelid = w.oid
              AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))) AS next (oid)),
    touched AS (
        SELECT oid FROM written
        UNION
        SELECT pg_catalog.to_regclass(pg_catalog.format('%I.%I', t.schema, t.name))::oid
        FROM ROWS FROM (pg_catalog.unnest($3::text[]), pg_catalog.unnest($4::text[])) AS t (schema, name)),
    types AS (
        SELECT t.oid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
        WHERE t.typname = ANY ($5::text[]) AND (pg_catalog.pg_type_is_visible(t.oid) OR n.nspname = ANY ($5::text[]))
        UNION
        SELECT a.atttypid FROM touched JOIN pg_catalog.pg_attribute a ON a.attrelid = touched.oid
        WHERE a.attnum > 0 AND NOT a.attisdropped
        UNION
        SELECT pg_catalog.unnest(p.proargtypes || p.prorettype) FROM pg_catalog.pg_proc p WHERE p.oid = ANY ($6::oid[])),
    based AS (
        SELECT oid FROM types
        UNION
        SELECT next.oid FROM based JOIN pg_catalog.pg_type t ON t.oid = based.oid,
          LATERAL (VALUES (t.typbasetype), (t.typelem)) AS next (oid) WHERE next.oid <> 0),
    objects AS (
        SELECT 'pg_catalog.pg_constraint'::regclass AS class, k.oid FROM pg_catalog.pg_constraint k
        WHERE k.conrelid IN (SELECT oid FROM written) OR k.contypid IN (SELECT oid FROM based WHERE oid <> 0)
        UNION ALL
        -- Generated columns, and the keys that partitions are chosen by.
        SELECT 'pg_catalog.pg_class'::regclass, oid FROM written
        UNION ALL
        SELECT 'pg_catalog.pg_attrdef'::regclass, d.oid FROM pg_catalog.pg_attrdef d
        WHERE d.adrelid IN (SELECT oid FROM written)
        UNION ALL
        SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid FROM pg_catalog.pg_index i
        WHERE i.indrelid IN (SELECT oid FROM written)
        UNION ALL
        SELECT 'pg_catalog.pg_policy'::regclass, p.oid FROM pg_catalog.pg_policy p
        WHERE p.polrelid IN (SELECT oid FROM written)
        UNION ALL
        SELECT 'pg_catalog.pg_rewrite'::regclass, r.oid FROM pg_catalog.pg_rewrite r
        WHERE r.ev_class IN (SELECT oid FROM written)
        UNION ALL
        SELECT 'pg_catalog.pg_proc'::regclass, called FROM pg_catalog.unnest($6::oid[]) AS called)
    SELECT d.refobjid FROM objects JOIN pg_catalog.pg_depend d ON d.classid = objects.class AND d.objid = objects.oid
    WHERE d.refclassid = 'pg_catalog.pg_proc'::regclass
    UNION
    SELECT g.tgfoid FROM pg_catalog.pg_trigger g
    WHERE g.tgrelid IN (SELECT oid FROM written) AND NOT g.tgisinternal AND g.tgenabled <> 'D'
    UNION
    SELECT c.castfunc FROM pg_catalog.pg_cast c
    WHERE c.castfunc >= 16384
      AND (c.castsource < 16384 AND c.casttarget < 16384
           OR EXISTS (SELECT FROM based WHERE based.oid >= 16384 AND based.oid IN (c.castsource, c.casttarget)))
    UNION
    SELECT part FROM pg_catalog.pg_aggregate a,
      pg_catalog.unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn,
                   a.aggminvtransfn, a.aggmfinalfn]::oid[]) AS part
    WHERE a.aggfnoid::oid = ANY ($6::oid[]) AND part <> 0",
);

/// The first oid of what is not the server's own (`FirstNormalObjectId`).
pub(super) const FIRST_OWN: u32 = 16_384;

/// Whether [`HIDDEN`] can find anything but the server's own functions for a statement that writes nothing and calls only
/// those: a cast of somebody's, or a type that is no table's row. Far cheaper than looking.
const MAY_HIDE: &str = concat!(
    "
    WITH ",
    serial!(),
    ", read AS (
        SELECT pg_catalog.to_regclass(pg_catalog.format('%I.%I', t.schema, t.name))::oid AS oid
        FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS t (schema, name))
    SELECT EXISTS (SELECT FROM pg_catalog.pg_cast c WHERE c.castfunc >= 16384)
        OR EXISTS (SELECT FROM pg_catalog.pg_type t
                   WHERE t.oid >= 16384 AND t.typtype <> 'c' AND t.typname = ANY ($3::pg_catalog.name[]))
        OR EXISTS (SELECT FROM read JOIN pg_catalog.pg_attribute a ON a.attrelid = read.oid
                   WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384)",
);

/// Whether more than the server's own functions may come with what is touched, those that are called aside.
pub(super) async fn may_hide(client: &Client, touched: &Touched) -> Result<bool, Failure> {
    if !touched.written.is_empty() {
        return Ok(true);
    }
    let (read_in, read): (Vec<String>, Vec<String>) = touched.read.iter().cloned().unzip();
    let values: [(&(dyn ToSql + Sync), Type); 3] =
        [(&read_in, Type::TEXT_ARRAY), (&read, Type::TEXT_ARRAY), (&touched.names, Type::TEXT_ARRAY)];
    let rows = client.query_typed(MAY_HIDE, &values).await?;
    rows.first().map_or(Ok(true), |row| Ok(row.try_get(0)?))
}

/// Inside a transaction: outside of one neither has an effect.
const JIT_OFF: &str = "SELECT pg_catalog.set_config('headcount.jit', pg_catalog.current_setting('jit'), true), \
                              pg_catalog.set_config('jit', 'off', true)";
const JIT_BACK: &str =
    "SELECT pg_catalog.set_config('jit', pg_catalog.current_setting('headcount.jit'), true)";

/// Asks the catalog.
pub(super) async fn hidden(client: &Client, touched: &Touched) -> Result<Vec<u32>, Failure> {
    let names =
        |relations: &[(String, String)]| -> (Vec<String>, Vec<String>) { relations.iter().cloned().unzip() };
    let ((written_in, written), (read_in, read)) = (names(&touched.written), names(&touched.read));
    let values: [(&(dyn ToSql + Sync), Type); 6] = [
        (&written_in, Type::TEXT_ARRAY),
        (&written, Type::TEXT_ARRAY),
        (&read_in, Type::TEXT_ARRAY),
        (&read, Type::TEXT_ARRAY),
        (&touched.names, Type::TEXT_ARRAY),
        (&touched.called, Type::OID_ARRAY),
    ];
    // The planner takes it for expensive, and would compile it for seconds.
    let (_, rows, _) = join3(
        client.batch_execute(JIT_OFF),
        client.query_typed(HIDDEN, &values),
        client.batch_execute(JIT_BACK),
    )
    .await;
    let rows = rows?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}
