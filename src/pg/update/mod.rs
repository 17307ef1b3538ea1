//! The SQL of a chunked update: the table as the catalog knows it, the statements, their answers.
//!
//! Names are looked up in the catalog and quoted from what is found there; values only ever travel as
//! parameters, as text, and the server casts them to the column's type. So nothing that a user writes
//! becomes part of a statement, but for the query that he gives as a query.

mod catalog;
mod chunk;
mod claim;
mod constants;
mod exact;
mod mark;
mod remnant;
mod rights;
mod statement;
mod whole;

pub(crate) use self::catalog::{Table, has_deferred_triggers, has_triggers};
pub(crate) use self::chunk::{PreparedUpdate, Worked};
pub(crate) use self::claim::{BEGIN_CLAIM, Claim, Key, Which, refuse_locks};
pub(crate) use self::exact::keep_exact;
pub(crate) use self::remnant::Remnant;
pub(crate) use self::rights::{Rights, refuse};
pub(crate) use self::statement::{Assign, Statements, Wish};
pub(crate) use self::whole::Whole;
