//! Keys from a query, shared out among processes by the locks on their rows.
//!
//! A claim locks the next rows that nobody else has locked (`SKIP LOCKED`) and that are still to be
//! updated, inside the transaction that then updates them. A process that dies gives its rows back with
//! its locks. An empty claim does not mean that nothing is left: others may hold rows that they will
//! give back. So the last claims *wait* for one row, without skipping; when that too finds nothing, every
//! row was done by somebody.

use tokio_postgres::{Client, Statement};

use super::statement::Statements;
use crate::pg::Failure;

/// The claiming statements on one session.
#[derive(Debug)]
pub(crate) struct Claim {
    skip: Statement,
    wait: Statement,
}

/// A claimed row's input columns.
pub(crate) type Fields = Vec<Option<Box<str>>>;

impl Claim {
    /// `query` yields the input's columns by name.
    pub(crate) async fn new(client: &Client, sql: &Statements, query: &str) -> Result<Self, Failure> {
        let text = write(sql, query);
        let skip = client.prepare(&format!("{text} SKIP LOCKED")).await?;
        let wait = client.prepare(&text).await?;
        Ok(Self { skip, wait })
    }

    /// The next rows, locked, at most `size`; none of `given_up` (an array per key column).
    /// With `wait`, waits for rows that others hold.
    pub(crate) async fn take(
        &self,
        client: &Client,
        sql: &Statements,
        size: u32,
        wait: bool,
        given_up: &[Vec<Option<Box<str>>>],
    ) -> Result<Vec<Fields>, Failure> {
        let keys: Vec<Vec<Option<&str>>> = (0..sql.parts.key.len())
            .map(|n| given_up.iter().map(|row| row[n].as_deref()).collect())
            .collect();
        let nothing: Vec<Option<&str>> = Vec::new();
        let size = i64::from(size);
        let mut parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = Vec::new();
        for n in 0..sql.inputs.len() {
            parameters.push(keys.get(n).unwrap_or(&nothing));
        }
        parameters.extend(sql.shared.iter().map(|value| value as &(dyn tokio_postgres::types::ToSql + Sync)));
        parameters.push(&size);
        let statement = if wait { &self.wait } else { &self.skip };
        let rows = client.query(statement, &parameters).await?;
        let fields = |row: &tokio_postgres::Row| {
            (0..sql.inputs.len()).map(|n| Ok(row.try_get::<_, Option<String>>(n)?.map(Into::into))).collect()
        };
        rows.iter().map(fields).collect()
    }
}

/// Parameters: those of the update's statements (the arrays hold the keys given up), then the limit.
fn write(sql: &Statements, query: &str) -> String {
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
    let given_up: Vec<String> = parts
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
        "SELECT {outputs} FROM (SELECT q.*, {renamed} FROM ({query}\n) AS q) AS i JOIN {table} AS t ON {matches} \
         WHERE {eligible} AND NOT EXISTS (SELECT FROM unnest({arrays}) AS g({columns}) WHERE {given_up}) \
         LIMIT ${limit}::pg_catalog.int8 FOR UPDATE OF t",
        outputs = outputs.join(", "),
        renamed = renamed.join(", "),
        query = query.trim_end().trim_end_matches(';'),
        table = parts.table,
        matches = matches.join(" AND "),
        eligible = parts.eligible,
        arrays = arrays.join(", "),
        columns = columns.join(", "),
        given_up = given_up.join(" AND "),
        limit = sql.inputs.len() + sql.shared.len() + 1,
    )
}
