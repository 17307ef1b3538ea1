//! The values that all keys share: what the server makes of them, asked once, before anything is changed.
//!
//! One that the server cannot read is a mistake in the command, and not a failure of each key. Each is written as the
//! server writes it back: a word such as `now`, wherever it stands in the value, is taken at its first meaning.
//! Otherwise a row that was updated would not hold the new value a second later. The session writes what it reads as
//! the same value ([exact](super::exact)); of a `bpchar` without a length the blanks at its end are lost, which do not
//! count there.

use futures_util::future::{join, try_join_all};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::catalog::{Column, Equality, Table};
use super::statement::{Assign, Wish};
use crate::error::Error;
use crate::pg::Failure;

const DOING: &str = "reading the values";

impl Wish {
    /// Has the server read the values; the wish with them as it writes them.
    pub(crate) async fn spell_out(&self, client: &Client, table: &Table) -> Result<Self, Error> {
        let set = read_all(client, table, "set", &self.set);
        let expect = read_all(client, table, "expect", &self.expect);
        // The mistake that is told is that in `set`.
        let (set, expect) = join(set, expect).await;
        Ok(Self { set: set?, expect: expect?, ..self.clone() })
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
                if column.is_integer() {
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
            Assign::Value(Some(text)) => Assign::Value(Some(read(client, field, column, text).await?)),
            other => other.clone(),
        };
        Ok((name.clone(), assign))
    }))
    .await
}

async fn read(client: &Client, field: &'static str, column: &Column, text: &str) -> Result<String, Error> {
    const TEXT: &str = "CAST($1 AS pg_catalog.text)";
    let (value, fits) = match field {
        "set" => (column.assigned(TEXT), column.fits(TEXT)),
        _ => (format!("CAST({TEXT} AS {})", column.cast), "true".to_owned()),
    };
    let sql = format!("SELECT ({value})::pg_catalog.text, {fits}");
    match client.query_typed(&sql, &[(&text, Type::TEXT)]).await {
        Ok(rows) if rows[0].get(1) => Ok(rows[0].get(0)),
        Ok(_) => {
            let problem = format!("column {}: the value is too long for {}", column.name, column.type_name());
            Err(Error::configuration(field, problem))
        }
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
    match client.query_typed(&sql, &[(&assigned, Type::TEXT), (&expected, Type::TEXT)]).await {
        Ok(rows) => Ok(rows.iter().all(|row| row.get(0))),
        // A domain does not want it, and will say so for each row.
        Err(error) if error.code().is_some_and(|code| *code != SqlState::UNDEFINED_FUNCTION) => Ok(false),
        Err(error) => Err(Error::sql(DOING, error.into())),
    }
}
