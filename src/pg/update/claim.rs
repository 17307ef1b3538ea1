//! Keys from a query, shared out among processes by the locks on their rows.
//!
//! A claim locks the next rows that nobody else has locked (`SKIP LOCKED`) and that are still to be
//! updated, inside the transaction that then updates them. A process that dies gives its rows back with
//! its locks. An empty claim does not mean that nothing is left: others may hold rows that they will
//! give back. So one more *looks* whether a row is locked, and if so the next *waits* for it, without skipping. That
//! a look meets neither a row nor a lock is no proof either: with a `LIMIT` in the query, all that it saw may have been
//! done by others at that moment. Only a look without locks that sees no row proves that none is left.
//!
//! Rows are only ours while their transaction lasts. A chunk that has to be tried again is claimed *again*, so that
//! what others have done meanwhile is theirs.

use futures_util::future::try_join5;
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

use super::statement::{INSIDE, KeyPart, Statements, rows_of};
use crate::error::Error;
use crate::pg::Failure;

/// The claiming statements on one session.
#[derive(Debug)]
pub(crate) struct Claim {
    free: Statement,
    unlocked: Statement,
    waited_for: Statement,
    again: Statement,
    left: Statement,
}

/// What opens a claim's transaction, whatever the session's default. The locks decide who has a row, and each statement
/// must see what others have committed up to then. A snapshot for the whole transaction, as of the levels above, makes
/// each row that somebody was faster with a failure (40001) in place of one to pass over.
pub(crate) const BEGIN_CLAIM: &str = "BEGIN ISOLATION LEVEL READ COMMITTED DEFERRABLE";

/// Which rows to claim.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which<'a> {
    /// So many at most that nobody has locked, none of these keys.
    Free(u32, &'a [Key]),
    /// One, none of these keys; fails (55P03) where somebody has locked it.
    Unlocked(&'a [Key]),
    /// The same, and waits for the lock.
    WaitedFor(&'a [Key]),
    /// All of these keys that are still to be updated; waits for their locks.
    Again(&'a [Key]),
    /// One, none of these keys, locked or not; it is only looked at.
    Left(&'a [Key]),
}

/// The values of a key's columns.
pub(crate) type Key = Vec<Option<Box<str>>>;

/// A claimed row's input columns.
pub(crate) type Fields = Box<[Option<Box<str>>]>;

impl Claim {
    /// `query` yields the input's columns by name.
    pub(crate) async fn new(client: &Client, sql: &Statements, query: &str) -> Result<Self, Failure> {
        let yielded = client.prepare(query).await?;
        let types: Vec<u32> = yielded.columns().iter().map(|column| column.type_().oid()).collect();
        let write = |listed, inside| write(sql, query, &types, listed, inside);
        let lock = format!("FOR {} OF t", sql.parts.lock);
        let (others, these) = (write(false, INSIDE), write(true, INSIDE));
        let prepare = async |sql: String| client.prepare(&sql).await;
        let (free, unlocked, waited_for, again, left) = try_join5(
            prepare(format!("{others} {lock} SKIP LOCKED")),
            prepare(format!("{others} {lock} NOWAIT")),
            prepare(format!("{others} {lock}")),
            prepare(format!("{these} {lock}")),
            prepare(write(false, "true")),
        )
        .await?;
        Ok(Self { free, unlocked, waited_for, again, left })
    }

    /// Locks rows that are still to be updated, or looks at one.
    pub(crate) async fn take(
        &self,
        client: &Client,
        sql: &Statements,
        which: Which<'_>,
    ) -> Result<Vec<Fields>, Failure> {
        let (statement, keys, size) = match which {
            Which::Free(size, keys) => (&self.free, keys, i64::from(size)),
            Which::Unlocked(keys) => (&self.unlocked, keys, 1),
            Which::WaitedFor(keys) => (&self.waited_for, keys, 1),
            Which::Again(keys) => (&self.again, keys, i64::MAX),
            Which::Left(keys) => (&self.left, keys, 1),
        };
        let keys: Vec<Vec<Option<&str>>> =
            (0..sql.parts.key.len()).map(|n| keys.iter().map(|key| key[n].as_deref()).collect()).collect();
        let nothing: Vec<Option<&str>> = Vec::new();
        let mut parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = Vec::new();
        for n in 0..sql.inputs.len() {
            parameters.push(keys.get(n).unwrap_or(&nothing));
        }
        parameters.extend(sql.shared.iter().map(|value| value as &(dyn tokio_postgres::types::ToSql + Sync)));
        parameters.push(&size);
        let rows = client.query(statement, &parameters).await?;
        let fields = |row: &tokio_postgres::Row| {
            (0..sql.inputs.len()).map(|n| Ok(row.try_get::<_, Option<String>>(n)?.map(Into::into))).collect()
        };
        rows.iter().map(fields).collect()
    }
}

/// Refuses a query to claim from that locks rows itself. What it passes over (`SKIP LOCKED`), or waits for, the look that
/// proves that none is left would pass over and wait for as well. The plan says so in a node; in its JSON no other
/// text of the query's has quotes that are not escaped.
pub(crate) async fn refuse_locks(client: &Client, query: &str) -> Result<(), Error> {
    let plan = client.simple_query(&format!("EXPLAIN (FORMAT JSON) {query}")).await;
    let plan = plan.map_err(|error| Error::sql("the query for the keys", error.into()))?;
    let locks = plan.iter().any(|message| match message {
        SimpleQueryMessage::Row(row) => {
            row.get(0).is_some_and(|plan| plan.contains(r#""Node Type": "LockRows""#))
        }
        _ => false,
    });
    if !locks {
        return Ok(());
    }
    let problem = "the query of the keys locks rows; leave the locking clause out: a claim locks them itself";
    Err(Error::configuration("keys", problem))
}

/// Parameters: those of the update's statements (the arrays hold the keys that are `listed`, or are not), then the
/// limit.
///
/// A column of the query that has the key's own type (`types` are the query's) is compared as it is. So the planner can
/// start from the listed keys, and find the query's rows by an index. Of any other type it is compared as text, and
/// the query is read from end to end.
///
/// The keys to leave out are hashed once a statement (`NOT IN` of values that are never NULL), not compared with each
/// row: there may be thousands. For listed keys that no index
/// helps to find, `IS TRUE` has the planner do the same in place of a join. And `coalesce` keeps it from estimating
/// from statistics that hardly any row of the table is to be updated: it would look through the whole query for each.
fn write(sql: &Statements, query: &str, types: &[u32], listed: bool, inside: &str) -> String {
    let parts = &sql.parts;
    let quote = crate::pg::privileges::quote;
    let is_own = |n: usize| types.get(n) == Some(&parts.key[n].type_oid);
    // The query's columns under names of our own, as texts: the eligibility speaks of `i.c1`..
    let texts = sql.inputs.iter().zip(1..);
    let texts = texts.map(|(input, n)| format!("q.{}::pg_catalog.text AS c{n}", quote(input)));
    let keys = parts.key.iter().zip(&sql.inputs).enumerate().map(|(n, (key, input))| {
        let text = if is_own(n) { "" } else { "::pg_catalog.text" };
        format!("CAST(q.{}{text} AS {}) AS k{}", quote(input), key.cast, n + 1)
    });
    let renamed: Vec<String> = texts.chain(keys).collect();
    let outputs: Vec<String> = (1..=sql.inputs.len())
        .map(|n| match parts.key.get(n - 1) {
            Some(key) => format!("{}::pg_catalog.text", key.operand),
            None => format!("i.c{n}"),
        })
        .collect();
    let with_keys = |write: &dyn Fn(&KeyPart, usize) -> String, between: &str| {
        parts.key.iter().zip(1..).map(|(key, n)| write(key, n)).collect::<Vec<_>>().join(between)
    };
    let columns: Vec<String> = (1..=sql.inputs.len()).map(|n| format!("c{n}")).collect();
    let (among, hashed) = match listed {
        false => ("NOT IN", ""),
        true if (0..parts.key.len()).all(is_own) => ("IN", ""),
        true => ("IN", " IS TRUE"),
    };
    format!(
        "SELECT {outputs} FROM (SELECT {renamed} FROM ({query}\n) AS q) AS i JOIN {table} AS t ON {matches} \
         WHERE {inside} AND coalesce({eligible}, false) \
         AND (({keys}) {among} (SELECT {values} FROM {rows} AS g({columns}))){hashed} \
         LIMIT ${limit}::pg_catalog.int8",
        outputs = outputs.join(", "),
        renamed = renamed.join(", "),
        query = query.trim_end().trim_end_matches(';'),
        table = parts.table,
        matches = with_keys(&|key, n| format!("{} = i.k{n}", key.operand), " AND "),
        eligible = parts.eligible,
        keys = with_keys(&|_, n| format!("i.k{n}"), ", "),
        values = with_keys(&|key, n| format!("CAST(g.c{n} AS {})", key.cast), ", "),
        rows = rows_of(sql.inputs.len()),
        columns = columns.join(", "),
        limit = sql.inputs.len() + sql.shared.len() + 1,
    )
}
