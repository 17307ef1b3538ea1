//! What this session may do with a table, and what of it it sees.
//!
//! The server tells when the first row is to be changed, in words that fit its statements and not ours: "cannot execute
//! SELECT in a read-only transaction". Of rows that a policy hides it tells nothing. So it is asked before.

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::catalog::Table;
use super::statement::Wish;
use crate::error::{Error, Refusal};
use crate::fix::Fix;
use crate::pg::Failure;
use crate::pg::failure::Unfit;
use crate::pg::privileges::quote;

/// `$1` is the table, `$2` the columns that are read, `$3` those that are changed, all quoted. A foreign table among the
/// partitions or children (the first in the order of names) has its rows on another server.
const RIGHTS: &str = concat!(
    "\
WITH RECURSIVE ",
    serial!(),
    ", family AS (
    SELECT $1::pg_catalog.text::pg_catalog.regclass::oid AS oid
    UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN family f ON f.oid = i.inhparent),
named AS (
    SELECT a.attnum, '\"' || pg_catalog.replace(a.attname, '\"', '\"\"') || '\"' AS name
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = $1::pg_catalog.text::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped)
SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only') = 'on',
       current_user::pg_catalog.text,
       pg_catalog.row_security_active($1::pg_catalog.text::pg_catalog.regclass),
       (SELECT pg_catalog.min(c.oid::pg_catalog.regclass::pg_catalog.text) FROM family f
          JOIN pg_catalog.pg_class c ON c.oid = f.oid WHERE c.relkind = 'f'),
       ARRAY(SELECT name FROM named WHERE name = ANY ($2::pg_catalog.text[])
             AND NOT pg_catalog.has_column_privilege($1::pg_catalog.text::pg_catalog.regclass, attnum, 'SELECT')
             ORDER BY attnum),
       ARRAY(SELECT name FROM named WHERE name = ANY ($3::pg_catalog.text[])
             AND NOT pg_catalog.has_column_privilege($1::pg_catalog.text::pg_catalog.regclass, attnum, 'UPDATE')
             ORDER BY attnum)",
);

/// See the module.
#[derive(Debug)]
pub(crate) struct Rights {
    in_recovery: bool,
    read_only: bool,
    role: String,
    /// Whether row-level security may hide rows from this role.
    pub(crate) hides_rows: bool,
    foreign: Option<String>,
    unreadable: Vec<String>,
    unchangeable: Vec<String>,
}

/// Refuses an update where nothing can be written.
pub(crate) fn refuse(why: Unfit, problem: impl Into<String>, role: &str) -> Error {
    let fixes = match why {
        Unfit::Standby => {
            vec![Fix::advice(
                "let `endpoint` lead to the primary, or name all hosts: the one that writes is found",
            )]
        }
        Unfit::ReadOnly => vec![
            Fix::sql(format!("ALTER ROLE {} SET default_transaction_read_only = off", quote(role))),
            Fix::advice("or connect as a role that may write"),
        ],
    };
    Error::refused(Refusal::ReadOnly, problem, fixes)
}

impl Rights {
    pub(crate) async fn of(client: &Client, wish: &Wish, table: &Table) -> Result<Self, Error> {
        let named = |field, name: &String| table.column(field, name).map(|column| column.name.clone());
        let changed: Result<Vec<String>, Error> = wish
            .set
            .iter()
            .map(|(name, _)| ("set", name))
            .chain(wish.version.iter().map(|name| ("version", name)))
            .map(|(field, name)| named(field, name))
            .collect();
        let changed = changed?;
        let keys = wish.key.iter().map(|name| named("key", name));
        let expected = wish.expect.iter().map(|(name, _)| named("expect", name));
        let mut read = keys.chain(expected).collect::<Result<Vec<String>, Error>>()?;
        read.extend(changed.iter().cloned());
        let failed = |failure| Error::sql("looking up what the role may do", failure);
        let facts: [(&(dyn ToSql + Sync), Type); 3] =
            [(&table.name, Type::TEXT), (&read, Type::TEXT_ARRAY), (&changed, Type::TEXT_ARRAY)];
        let rows = client.query_typed(RIGHTS, &facts).await.map_err(|error| failed(error.into()))?;
        let row = rows.first().ok_or_else(|| failed(Failure::client("the server answered without a row")))?;
        Ok(Self {
            in_recovery: row.get(0),
            read_only: row.get(1),
            role: row.get(2),
            hides_rows: row.get(3),
            foreign: row.get(4),
            unreadable: row.get(5),
            unchangeable: row.get(6),
        })
    }

    /// Refuses what cannot succeed.
    pub(crate) fn check(&self, table: &Table, dry_run: bool) -> Result<(), Error> {
        let (name, role) = (&table.name, quote(&self.role));
        if let Some(foreign) = &self.foreign {
            let problem = format!(
                "{name} has a foreign table in it, {foreign}: its rows are another server's, and what becomes of a \
                 commit there cannot be learned; name the table or partition whose rows are here"
            );
            return Err(Error::configuration("table", problem));
        }
        if self.in_recovery && !dry_run {
            return Err(refuse(Unfit::Standby, "the server is a standby, which changes nothing", &self.role));
        }
        if self.read_only && !dry_run {
            let problem = format!("role {role} can only read here: default_transaction_read_only is on");
            return Err(refuse(Unfit::ReadOnly, problem, &self.role));
        }
        let lacks = |what: &str, columns: &[String]| {
            (!columns.is_empty()).then(|| format!("{what} ({})", columns.join(", ")))
        };
        let changes = lacks("UPDATE", &self.unchangeable).filter(|_| !dry_run);
        let lacking: Vec<String> = lacks("SELECT", &self.unreadable).into_iter().chain(changes).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let lacking = lacking.join(", ");
        Err(Error::refused(
            Refusal::MayNotUpdate,
            format!("role {role} lacks a right on {name}: {lacking}"),
            vec![Fix::sql(format!("GRANT {lacking} ON {name} TO {role}"))],
        ))
    }
}
