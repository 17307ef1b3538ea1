//! The arguments of `headcount update`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use headcount::{ChunkSize, FailOn};

use crate::args::Exporters;
use crate::values::duration;

const EXAMPLES: &str = "\
Examples:
  5,000 orders from one status to the next, the keys one a line:
    headcount update --table orders --key id --set status=shipped \\
      --expect status=paid --keys ids.txt

  A value per key and an optimistic lock, from a CSV file with a header
  (id,status,version):
    headcount update --table orders --key id --set status=@status \\
      --version version --expect version=@version --keys orders.csv \\
      --rejects rejects.csv

  Several of these at once, on any hosts, share the rows of one query:
    headcount update --table orders --key id --set status=archived \\
      --expect status=shipped --claim --connections 4 \\
      --keys-query \"SELECT id FROM orders WHERE status = 'shipped'\"

  Everything in a job file; what is typed wins over it:
    headcount update --job ship.toml --json

Each key ends as updated, already (it holds the new value), stale (it holds
another value than expected), missing, or failed. Running the same again
finishes the rest; what is done then is `already`, which is done.

VALUE: `@column` takes it from the input, `@@x` is the text `@x`, `\\N` is NULL
(`\\\\N` is the text `\\N`); `NULL` is a text of four letters.

Keys are CSV as `\\copy ... CSV` reads it: UTF-8, commas, quotes around a field
that has a comma, a quote (twice) or a line end. A header names the columns;
without one it is one key a line. An empty field is NULL, `\"\"` an empty text: a
key that is NULL fails, a value that is NULL is set, or expected (IS NOT
DISTINCT FROM). What does not fit is an error with its line, before anything is
changed (of a pipe, as far as it is there). A key that comes again with other
values fails; a million keys are remembered for that.";

const EXIT_CODES: &str = "\
Job file (TOML): task, table, key, version, keys or keys_query, claim, chunk,
  connections, max_attempts, reconnect_wait, cancel_grace, deadline, rejects,
  fail_on, dry_run, and the tables [set] and [expect]. Durations are texts
  (\"90s\").

Exit codes:
  0    done: each key is updated, already, stale or missing
  1    the SQL or the connection failed for good; nothing was changed
  2    wrong usage or configuration: an option, the table, a line of the keys;
       nothing was changed
  4    refused before running: a right is missing, the server is a standby, a
       proxy pools transactions
  5    incomplete: keys failed or are left, or the deadline passed; or what
       --fail-on names is the case: by default, there was no key, or no row has
       any of the keys
  6    done, but standard output could not be written
  130  interrupted (143: terminated, 129: hung up); what was committed stays,
       run it again";

/// `headcount update`.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
    group = ArgGroup::new("source").args(["keys", "keys_query"])
)]
pub(crate) struct UpdateArgs {
    /// Connection string: a URL, or `key=value` pairs. Default: `DATABASE_URL`, else libpq's variables and files
    #[arg(long, value_name = "URL")]
    pub(crate) dsn: Option<String>,
    /// The table: its name, or as in SQL (`schema.table`, `"Quoted Name"`)
    #[arg(long, value_name = "TABLE", required_unless_present = "job")]
    pub(crate) table: Option<String>,
    /// The column or columns that name a row
    #[arg(long, value_name = "COL[,COL]", value_delimiter = ',', required_unless_present = "job")]
    pub(crate) key: Vec<String>,
    /// A new value; may be repeated
    #[arg(long = "set", value_name = "COL=VALUE", value_parser = assignment, required_unless_present = "job")]
    pub(crate) set: Vec<Assignment>,
    /// Update only rows that hold this value; may be repeated
    #[arg(long, value_name = "COL=VALUE", value_parser = assignment)]
    pub(crate) expect: Vec<Assignment>,
    /// A column that grows by one with each change
    #[arg(long, value_name = "COL")]
    pub(crate) version: Option<String>,
    /// A file of keys: CSV with a header, or one key a line; `-` is standard input
    #[arg(long, value_name = "FILE", required_unless_present_any = ["job", "keys_query"])]
    pub(crate) keys: Option<PathBuf>,
    /// A query that yields the keys
    #[arg(long, value_name = "SQL")]
    pub(crate) keys_query: Option<String>,
    /// Share the query's rows with other processes that run the same update: rows that are there and hold what is
    /// expected are claimed, others are not counted
    #[arg(long, conflicts_with_all = ["dry_run", "keys"])]
    pub(crate) claim: bool,
    /// A job file (TOML) with all of this
    #[arg(long, value_name = "FILE")]
    pub(crate) job: Option<PathBuf>,
    /// Keys per transaction, or `auto` for as many as take about 50 ms. Default 100
    #[arg(long, value_name = "KEYS|auto", value_parser = chunk)]
    pub(crate) chunk: Option<ChunkSize>,
    /// Sessions that work at once. Default 1
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<u32>,
    /// Transactions that a chunk may take before its keys are given up. Default 5
    #[arg(long, value_name = "N")]
    pub(crate) max_attempts: Option<u32>,
    /// How long to try to get a lost session back. Default 2m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) reconnect_wait: Option<Duration>,
    /// How long a COMMIT under way may take after a signal or the deadline; the run ends after as much time again. Default
    /// 5s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) cancel_grace: Option<Duration>,
    /// How long it may take: what is not committed is taken back then, and it ends with code 5 and what is left. Default:
    /// no bound
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) deadline: Option<Duration>,
    /// What ends with code 5 although no key failed: `empty` (there is no key), `all-missing`, `all-stale` (all keys
    /// are), `missing`, `stale` (a key is), or `none`. Default: `empty,all-missing`; `empty` does not count for a query
    #[arg(long, value_name = "WHAT[,WHAT]", value_delimiter = ',')]
    pub(crate) fail_on: Vec<String>,
    /// Write the keys that are stale, missing or failed to this file (CSV), for the next run
    #[arg(long, value_name = "FILE")]
    pub(crate) rejects: Option<PathBuf>,
    /// Change nothing: say how each key would end, as far as comparing tells: constraints and triggers are not tried
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The task's name, in metrics and in `application_name`. Default: the job file's name, else `update`
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Option<String>,
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
    Ok(Assignment { column: column.trim().to_owned(), value: value_of(value)? })
}

/// Where a value comes from, as it is written.
pub(super) fn value_of(text: &str) -> Result<Value, String> {
    Ok(match (text, text.strip_prefix('@')) {
        (r"\N", _) => Value::Null,
        // One backslash less, so that every text can be said.
        (escaped, _) if escaped.strip_suffix('N').is_some_and(is_backslashes) => {
            Value::Text(escaped[1..].to_owned())
        }
        (_, Some(literal)) if literal.starts_with('@') => Value::Text(literal.to_owned()),
        (_, Some("")) => return Err(format!("`{text}` names no column of the input")),
        (_, Some(input)) => Value::Input(input.to_owned()),
        (text, None) => Value::Text(text.to_owned()),
    })
}

fn is_backslashes(text: &str) -> bool {
    text.len() > 1 && text.bytes().all(|byte| byte == b'\\')
}

impl Assignment {
    /// What is probably not meant so.
    pub(super) fn doubt(&self) -> Option<String> {
        let Self { column, value: Value::Text(text) } = self else { return None };
        text.eq_ignore_ascii_case("null").then(|| {
            format!("{column}={text} is a text of four letters; NULL is written \\N: '{column}=\\N'")
        })
    }
}

/// What is to count as a failure, in words.
pub(super) fn fail_on(words: &[String]) -> Result<Vec<FailOn>, String> {
    if let [none] = words
        && none == "none"
    {
        return Ok(Vec::new());
    }
    let known = || FailOn::ALL.map(FailOn::as_str).join(", ");
    let read = words.iter().map(|word| {
        let found = FailOn::ALL.into_iter().find(|what| what.as_str() == word.trim());
        found.ok_or_else(|| match word.trim() {
            "none" => "`none` stands alone".to_owned(),
            word => format!("`{word}` is none of {}, and not `none`", known()),
        })
    });
    read.collect()
}

pub(super) fn chunk(text: &str) -> Result<ChunkSize, String> {
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
        assert_eq!(value(r"a=\\N"), Ok(Value::Text(r"\N".into())));
        assert_eq!(value(r"a=\\\N"), Ok(Value::Text(r"\\N".into())));
        assert_eq!(value(r"a=\n"), Ok(Value::Text(r"\n".into())));
        assert_eq!(value("a=NULL"), Ok(Value::Text("NULL".into())));
        assert_eq!(value("a=@b"), Ok(Value::Input("b".into())));
        assert_eq!(value("a=@@b"), Ok(Value::Text("@b".into())));
        assert!(value("a=@").is_err() && value("a").is_err() && value("=b").is_err());
    }

    #[test]
    fn a_text_that_looks_like_null_is_asked_about() {
        let doubt = |text| assignment(text).unwrap().doubt();
        let expected = r"a=NULL is a text of four letters; NULL is written \N: 'a=\N'";
        assert_eq!(doubt("a=NULL").as_deref(), Some(expected));
        assert!(doubt("a=null").is_some());
        assert!([r"a=\N", "a=", "a=nul", "a=@NULL"].iter().all(|text| doubt(text).is_none()));
    }
}
