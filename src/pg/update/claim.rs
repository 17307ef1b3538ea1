//! Keys from a query, shared out among processes by the locks on their rows.
//!
//! A claim locks the next rows that nobody else has locked (`SKIP LOCKED`) and that are still to be
//! updated, inside the transaction that then updates them. A process that dies gives its rows back with
//! its locks. An empty claim does not mean that nothing is left: others may hold rows that they will
//! give back. So the last claims *wait* for one row, without skipping; when that too finds nothing, every
//! row was done by somebody.
//!
//! Rows are only ours while their transaction lasts. A chunk that has to be tried again is claimed *again*, so that what
//! others have taken meanwhile is theirs.

use tokio_postgres::{Client, Statement};

use super::statement::Statements;
use crate::pg::Failure;

/// The claiming statements on one session.
#[derive(Debug)]
pub(crate) struct Claim {
    skip: Statement,
    wait: Statement,
    again: Statement,
}

/// Which rows to claim.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which<'a> {
    /// So many at most that nobody has locked, none of these keys.
    Free(u32, &'a [Key]),
    /// One that others may have locked, none of these keys.
    Locked(&'a [Key]),
    /// Those of these keys that nobody has locked.
    Again(&'a [Key]),
}

/// The values of a key's columns.
pub(crate) type Key = Vec<Option<Box<str>>>;

/// A claimed row.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// The input's columns.
    pub(crate) fields: Box<[Option<Box<str>>]>,
    /// The transaction that wrote it: `xmin`.
    pub(crate) written_by: u32,
}

impl Claim {
    /// `query` yields the input's columns by name.
    pub(crate) async fn new(client: &Client, sql: &Statements, query: &str) -> Result<Self, Failure> {
        let (others, these) = (write(sql, query, "NOT EXISTS"), write(sql, query, "EXISTS"));
        let skip = client.prepare(&format!("{others} SKIP LOCKED")).await?;
        let wait = client.prepare(&others).await?;
        let again = client.prepare(&format!("{these} SKIP LOCKED")).await?;
        Ok(Self { skip, wait, again })
    }

    /// Locks rows that are still to be updated.
    pub(crate) async fn take(
        &self,
        client: &Client,
        sql: &Statements,
        which: Which<'_>,
    ) -> Result<Vec<Claimed>, Failure> {
        let (statement, keys, size) = match which {
            Which::Free(size, keys) => (&self.skip, keys, i64::from(size)),
            Which::Locked(keys) => (&self.wait, keys, 1),
            Which::Again(keys) => (&self.again, keys, i64::MAX),
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
        let claimed = |row: &tokio_postgres::Row| {
            let fields =
                (0..sql.inputs.len()).map(|n| Ok(row.try_get::<_, Option<String>>(n)?.map(Into::into)));
            let fields = fields.collect::<Result<_, tokio_postgres::Error>>()?;
            let written_by = row.try_get::<_, i64>(sql.inputs.len())? as u32;
            Ok(Claimed { fields, written_by })
        };
        rows.iter().map(claimed).collect()
    }
}

/// Parameters: those of the update's statements (the arrays hold the keys that are `listed`, or are not), then the
/// limit.
fn write(sql: &Statements, query: &str, listed: &str) -> String {
    let parts = &sql.parts;
    let quote = crate::pg::privileges::quote;
    let outputs: Vec<String> = sql
        .inputs
        .iter()
        .enumerate()
        .map(|(n, input)| match parts.key.get(n) {
            Some((key, _)) => format!("t.{key}::pg_catalog.text"),
            None => format!("i.{}::pg_catalog.text", quote(input)),
        })
        .collect();
    let matches: Vec<String> = parts
        .key
        .iter()
        .zip(&sql.inputs)
        .map(|((key, _), input)| format!("t.{key} = i.{}", quote(input)))
        .collect();
    let arrays: Vec<String> = (1..=sql.inputs.len()).map(|n| format!("${n}::pg_catalog.text[]")).collect();
    let columns: Vec<String> = (1..=sql.inputs.len()).map(|n| format!("c{n}")).collect();
    let matches_listed: Vec<String> = parts
        .key
        .iter()
        .zip(1..)
        .map(|((key, cast), n)| format!("t.{key} = CAST(g.c{n} AS {cast})"))
        .collect();
    // The eligibility speaks of the input as `i.c1`..: give the query's columns those names.
    let renamed: Vec<String> = sql
        .inputs
        .iter()
        .zip(1..)
        .map(|(input, n)| format!("q.{}::pg_catalog.text AS c{n}", quote(input)))
        .collect();
    format!(
        "SELECT {outputs}, t.xmin::pg_catalog.text::pg_catalog.int8 \
         FROM (SELECT q.*, {renamed} FROM ({query}\n) AS q) AS i JOIN {table} AS t ON {matches} \
         WHERE {eligible} AND {listed} (SELECT FROM unnest({arrays}) AS g({columns}) WHERE {matches_listed}) \
         LIMIT ${limit}::pg_catalog.int8 FOR UPDATE OF t",
        outputs = outputs.join(", "),
        renamed = renamed.join(", "),
        query = query.trim_end().trim_end_matches(';'),
        table = parts.table,
        matches = matches.join(" AND "),
        eligible = parts.eligible,
        arrays = arrays.join(", "),
        columns = columns.join(", "),
        matches_listed = matches_listed.join(" AND "),
        limit = sql.inputs.len() + sql.shared.len() + 1,
    )
}
