//! The arguments of `headcount update`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use headcount::ChunkSize;

use crate::cli::args::{Exporters, duration};

const EXAMPLES: &str = "\
Examples:
  5,000 orders from one status to the next, the keys one a line:
    headcount update --table orders --key id --set status=shipped --expect status=paid --keys ids.txt

  A value per key and an optimistic lock, from a CSV file with a header (id,status,version):
    headcount update --table orders --key id --set status=@status \\
      --version version --expect version=@version --keys orders.csv --rejects rejects.csv

  Several of these at once, on any hosts, share the rows of one query:
    headcount update --table orders --key id --set status=archived --expect status=shipped \\
      --keys-query \"SELECT id FROM orders WHERE status = 'shipped'\" --claim --connections 4

Each key ends as updated, already (it holds the new value), stale (it holds another value than expected),
missing, or failed. Exit code 5 when some failed or are left; running the same again finishes the rest.
VALUE: `@column` takes it from the input, `@@x` is the text `@x`, `\\N` is NULL.";

/// `headcount update`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("source").required(true).args(["keys", "keys_query"]))]
pub(crate) struct UpdateArgs {
    /// Connection string: a URL, or `key=value` pairs. Default: `DATABASE_URL`, else libpq's variables and files
    #[arg(long, value_name = "URL")]
    pub(crate) dsn: Option<String>,
    /// The table: its name, or as in SQL (`schema.table`, `"Quoted Name"`)
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: String,
    /// The column or columns that name a row
    #[arg(long, value_name = "COL[,COL]", value_delimiter = ',', required = true)]
    pub(crate) key: Vec<String>,
    /// A new value; may be repeated
    #[arg(long = "set", value_name = "COL=VALUE", value_parser = assignment, required = true)]
    pub(crate) set: Vec<Assignment>,
    /// Update only rows that hold this value; may be repeated
    #[arg(long, value_name = "COL=VALUE", value_parser = assignment)]
    pub(crate) expect: Vec<Assignment>,
    /// A column that grows by one with each change
    #[arg(long, value_name = "COL")]
    pub(crate) version: Option<String>,
    /// A file of keys: CSV with a header, or one key a line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// A query that yields the keys
    #[arg(long, value_name = "SQL")]
    pub(crate) keys_query: Option<String>,
    /// Share the query's rows with other processes that run the same update
    #[arg(long, conflicts_with_all = ["dry_run", "keys"])]
    pub(crate) claim: bool,
    /// Keys per transaction, or `auto` for as many as take about 50 ms
    #[arg(long, value_name = "KEYS|auto", value_parser = chunk, default_value = "100")]
    pub(crate) chunk: ChunkSize,
    /// Sessions that work at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) connections: u32,
    /// Transactions that a chunk may take before its keys are given up
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) max_attempts: u32,
    /// How long to try to get a lost session back. Default 2m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) reconnect_wait: Option<Duration>,
    /// Write the keys that were not updated to this file (CSV)
    #[arg(long, value_name = "FILE")]
    pub(crate) rejects: Option<PathBuf>,
    /// Change nothing: say how each key would end
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The task's name, in metrics and in `application_name`
    #[arg(long, value_name = "NAME", default_value = "update")]
    pub(crate) task: String,
    #[command(flatten)]
    pub(crate) exporters: Exporters,
    /// Print one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// A column and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) column: String,
    pub(crate) value: Value,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Text(String),
    Input(String),
}

fn assignment(text: &str) -> Result<Assignment, String> {
    let Some((column, value)) = text.split_once('=').filter(|(column, _)| !column.trim().is_empty()) else {
        return Err(format!("`{text}` is not COL=VALUE"));
    };
    let value = match (value, value.strip_prefix('@')) {
        (r"\N", _) => Value::Null,
        (_, Some(literal)) if literal.starts_with('@') => Value::Text(literal.to_owned()),
        (_, Some("")) => return Err(format!("`{text}` names no column of the input")),
        (_, Some(input)) => Value::Input(input.to_owned()),
        (text, None) => Value::Text(text.to_owned()),
    };
    Ok(Assignment { column: column.trim().to_owned(), value })
}

fn chunk(text: &str) -> Result<ChunkSize, String> {
    if text == "auto" {
        return Ok(ChunkSize::Auto);
    }
    text.parse().map(ChunkSize::Keys).map_err(|_| format!("`{text}` is neither a number of keys nor `auto`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_a_text_null_or_a_column_of_the_input() {
        let value = |text| assignment(text).map(|assignment| assignment.value);
        assert_eq!(value("a=b=c"), Ok(Value::Text("b=c".into())));
        assert_eq!(value("a="), Ok(Value::Text(String::new())));
        assert_eq!(value(r"a=\N"), Ok(Value::Null));
        assert_eq!(value("a=@b"), Ok(Value::Input("b".into())));
        assert_eq!(value("a=@@b"), Ok(Value::Text("@b".into())));
        assert!(value("a=@").is_err() && value("a").is_err() && value("=b").is_err());
    }
}
