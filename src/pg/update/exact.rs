//! Values travel as texts, from a query or a claimed row to the server again. The text must stand for the same value.
//!
//! Two settings of a role, a database or the server can spoil that: with `extra_float_digits` below 1 a `float8` loses
//! its last digits, and a `DateStyle` other than ISO writes the names of time zones, which may be ambiguous. The order
//! of day and month, which also says how texts from elsewhere are read, stays as it is.

use tokio_postgres::Client;

use crate::pg::Failure;

/// Makes a session write values so that it reads the same ones (manual, "Locale and Formatting"), and compare them by the
/// server's own operators: who names `pg_catalog` behind other schemas may have operators there that hide them.
pub(super) const EXACT: &str = "SELECT pg_catalog.set_config('extra_float_digits', '3', false), \
    pg_catalog.set_config('datestyle', 'ISO', false), \
    CASE WHEN pg_catalog.strpos(pg_catalog.current_setting('search_path'), 'pg_catalog') OPERATOR(pg_catalog.>) 1 \
         THEN pg_catalog.set_config('search_path', pg_catalog.concat('pg_catalog, ', pg_catalog.current_setting('search_path')), false) END";

/// Readies a session that reads keys or values.
pub(crate) async fn keep_exact(client: &Client) -> Result<(), Failure> {
    Ok(client.batch_execute(EXACT).await?)
}
