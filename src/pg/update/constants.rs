//! The values that all keys share: what the server makes of them, asked once, before anything is changed.
//!
//! One that the server cannot read is a mistake in the command, and not a failure of each key. A word such as `now`
//! is taken at its first meaning: otherwise a row that was updated would not hold the new value a second later.

use futures_util::future::try_join_all;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::catalog::{Column, Equality, Table};
use super::statement::{Assign, Wish};
use crate::error::Error;
use crate::pg::Failure;

const DOING: &str = "reading the values";

impl Wish {
    /// Has the server read the values; the wish with those of dates and times spelled out.
    pub(crate) async fn spell_out(&self, client: &Client, table: &Table) -> Result<Self, Error> {
        let mut wish = self.clone();
        wish.set = read_all(client, table, "set", &self.set).await?;
        wish.expect = read_all(client, table, "expect", &self.expect).await?;
        Ok(wish)
    }

    /// Whether no row that was updated is still to be updated: what is expected of a column is not what is set
    /// there, and nobody else has a say in what the row holds then.
    pub(crate) async fn is_undone_by_itself(&self, client: &Client, table: &Table) -> Result<bool, Error> {
        if table.has_triggers {
            return Ok(false);
        }
        for (name, expected) in &self.expect {
            let column = table.column("expect", name)?;
            let is = |other: &String| table.column("set", other).is_ok_and(|other| other.name == column.name);
            if self.version.as_ref().is_some_and(is) {
                // NULL does not grow.
                let never_null = column.is_not_null || matches!(expected, Assign::Value(Some(_)));
                if never_null {
                    return Ok(true);
                }
            } else if let Assign::Value(expected) = expected
                && let Some((_, Assign::Value(new))) = self.set.iter().find(|(set, _)| is(set))
                && differs(client, column, new.as_deref(), expected.as_deref()).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

async fn read_all(
    client: &Client,
    table: &Table,
    field: &'static str,
    assigns: &[(String, Assign)],
) -> Result<Vec<(String, Assign)>, Error> {
    try_join_all(assigns.iter().map(async |(name, assign)| {
        let column = table.column(field, name)?;
        let assign = match assign {
            Assign::Value(Some(text)) => {
                let cast = if field == "set" { &column.assigned } else { &column.cast };
                Assign::Value(Some(read(client, field, column, cast, text).await?))
            }
            other => other.clone(),
        };
        Ok((name.clone(), assign))
    }))
    .await
}

async fn read(
    client: &Client,
    field: &'static str,
    column: &Column,
    cast: &str,
    text: &str,
) -> Result<String, Error> {
    let sql = format!("SELECT CAST(CAST($1 AS pg_catalog.text) AS {cast})::pg_catalog.text");
    match client.query_one(&sql, &[&text]).await {
        Ok(row) if column.is_time => row.try_get(0).map_err(|error| Error::sql(DOING, error.into())),
        Ok(_) => Ok(text.to_owned()),
        Err(error) => match error.as_db_error() {
            // Data exceptions: the text is no value of the type.
            Some(problem) if problem.code().code().starts_with("22") => {
                Err(Error::configuration(field, format!("column {}: {}", column.name, problem.message())))
            }
            _ => Err(Error::sql(DOING, Failure::from(error))),
        },
    }
}

/// Whether a row that was assigned the one does not hold the other.
async fn differs(
    client: &Client,
    column: &Column,
    assigned: Option<&str>,
    expected: Option<&str>,
) -> Result<bool, Error> {
    let Column { stored, cast, equality, .. } = column;
    let text = if *equality == Equality::None { "::pg_catalog.text COLLATE pg_catalog.\"C\"" } else { "" };
    let sql = format!(
        "SELECT CAST(CAST(CAST($1 AS pg_catalog.text) AS {stored}) AS {cast}){text} \
         IS DISTINCT FROM CAST(CAST($2 AS pg_catalog.text) AS {cast}){text}"
    );
    match client.query_one(&sql, &[&assigned, &expected]).await {
        Ok(row) => Ok(row.get(0)),
        // A domain does not want it, and will say so for each row.
        Err(error) if error.code().is_some_and(|code| *code != SqlState::UNDEFINED_FUNCTION) => Ok(false),
        Err(error) => Err(Error::sql(DOING, error.into())),
    }
}
