//! Values travel as texts, from a query or a claimed row to the server again. The text must stand for the same value.
//!
//! Two settings of a role, a database or the server can spoil that: with `extra_float_digits` below 1 a `float8` loses
//! its last digits, and a `DateStyle` other than ISO writes the names of time zones, which may be ambiguous. The order
//! of day and month, which also says how texts from elsewhere are read, stays as it is.

use tokio_postgres::Client;

use crate::pg::Failure;

/// Makes a session write values so that it reads the same ones (manual, "Locale and Formatting").
pub(super) const EXACT: &str = "SELECT pg_catalog.set_config('extra_float_digits', '3', false), \
                                pg_catalog.set_config('datestyle', 'ISO', false)";

/// Readies a session that reads keys or values.
pub(crate) async fn keep_exact(client: &Client) -> Result<(), Failure> {
    Ok(client.batch_execute(EXACT).await?)
}
