//! The arguments of `headcount update`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use headcount::{ChunkSize, FailOn};

use crate::args::Exporters;
use crate::values::{duration, sql_text};

const EXAMPLES: &str = "\
Examples:
  5,000 orders from one status to the next; keys.txt has one key per line:
    headcount update --table orders --key id --set status=shipped \\
      --expect status=paid --keys keys.txt

  A value per key and an optimistic lock, from a CSV file with the header
  id,status,version:
    headcount update --table orders --key id --set status=@status \\
      --version-column version --expect version=@version \\
      --keys orders.csv --rejects rejects.csv

  Several processes, on any hosts, share the rows of one query:
    headcount update --table orders --key id --set status=archived \\
      --expect status=shipped --claim --connections 4 \\
      --keys-query \"SELECT id FROM orders WHERE status = 'shipped'\"

  All options from a job file; the command line overrides it:
    headcount update --job ship.toml --json

Each key ends in exactly one class:
  updated  the row was changed
  already  the row holds the new values already
  stale    the row holds neither the new nor the expected values
  missing  no row has the key
  failed   the change was refused, with the reason
Run the same command again to finish what is left; done rows are `already`.

Values (--set, --expect): `@column` takes the value from the input, `@@x` is
the text `@x`, `\\N` is NULL (`\\\\N` is the text `\\N`). `NULL` is a text of four
letters.

Keys are CSV as `\\copy ... CSV` reads it: UTF-8, commas, and quotes around
fields with a comma, a quote (doubled) or a line end. A header names the
columns; without one, each line is a key. An empty field is NULL, `\"\"` is an
empty text. A NULL key fails; a NULL value is set, or expected (IS NOT DISTINCT
FROM). A malformed line is an error with its line number, before anything is
changed (from a pipe: as far as it has been read). A key that comes again with
other values fails; the last million keys are remembered for that.";

const EXIT_CODES: &str = "\
Times have a unit: 500ms, 10s, 5m, 2h.

Job file (TOML): task, table, key, version_column, keys or keys_query, claim,
  chunk, connections, attempts, reconnect_wait, cancel_grace, deadline, rejects,
  fail_on, dry_run, and the tables [set] and [expect]. Times are strings
  (\"90s\").

Exit codes:
  0    done: every key is updated, already, stale or missing
  1    the SQL or the connection failed; nothing was changed
  2    wrong usage or configuration: an option, the table, a line of the keys;
       nothing was changed
  4    refused before running: a privilege is missing, the server is a standby,
       or PgBouncer (or another proxy) is in transaction mode
  5    incomplete: keys failed or are left, the deadline passed, or --fail-on
       applies (by default: there were no keys, or no row has any of them)
  6    done, but standard output could not be written
  101  bug in headcount (panic): committed chunks stay; report the message
  130  SIGINT (143: SIGTERM, 129: SIGHUP); committed chunks stay, run it again";

/// `headcount update`.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
    group = ArgGroup::new("source").args(["keys", "keys_query"])
)]
pub(crate) struct UpdateArgs {
    /// Connection string, URL or `key=value` pairs [default: `DATABASE_URL`, else libpq's variables and files]
    #[arg(long, value_name = "DSN", help_heading = "Connection")]
    pub(crate) dsn: Option<String>,
    /// Table to update, as in SQL: `orders`, `schema.table`, `"Quoted Name"`
    #[arg(long, value_name = "TABLE", required_unless_present = "job", help_heading = "Rows and values")]
    pub(crate) table: Option<String>,
    /// Column or columns that identify a row
    #[arg(
        long,
        value_name = "COL[,COL]",
        value_delimiter = ',',
        required_unless_present = "job",
        help_heading = "Rows and values"
    )]
    pub(crate) key: Vec<String>,
    /// New value of a column; may be repeated
    #[arg(long = "set", value_name = "COL=VALUE", value_parser = assignment, required_unless_present = "job", help_heading = "Rows and values")]
    pub(crate) set: Vec<Assignment>,
    /// Update only rows whose column holds this value; may be repeated
    #[arg(long, value_name = "COL=VALUE", value_parser = assignment, help_heading = "Rows and values")]
    pub(crate) expect: Vec<Assignment>,
    /// Integer or numeric column to increase by one with each change of a row; NULL counts as 0
    #[arg(long, alias = "version", value_name = "COL", help_heading = "Rows and values")]
    pub(crate) version_column: Option<String>,
    /// Read the keys from a file, CSV with a header or one key per line; `-` is standard input
    #[arg(long, value_name = "FILE", required_unless_present_any = ["job", "keys_query"], help_heading = "Keys")]
    pub(crate) keys: Option<PathBuf>,
    /// Read the keys from a query
    #[arg(long, value_name = "SQL", help_heading = "Keys", allow_hyphen_values = true, value_parser = sql_text)]
    pub(crate) keys_query: Option<String>,
    /// Share the rows of --keys-query with other processes that run the same update; rows that are gone, or no longer
    /// hold the expected values, are skipped and not counted
    #[arg(long, conflicts_with_all = ["dry_run", "keys"], help_heading = "Keys")]
    pub(crate) claim: bool,
    /// Read options from a job file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) job: Option<PathBuf>,
    /// Keys per transaction, 1 to 10000; `auto` aims at 50 ms per transaction [default: 100]
    #[arg(long, value_name = "KEYS|auto", value_parser = chunk, help_heading = "Chunks and timing")]
    pub(crate) chunk: Option<ChunkSize>,
    /// Connections that work in parallel, 1 to 256 [default: 1]
    #[arg(long, value_name = "N", help_heading = "Chunks and timing")]
    pub(crate) connections: Option<u32>,
    /// Maximum number of transactions per chunk, before it is split or given up; 1 to 100 [default: 5]
    #[arg(long, alias = "max-attempts", value_name = "N", help_heading = "Chunks and timing")]
    pub(crate) attempts: Option<u32>,
    /// How long to try to replace a lost connection [default: 2m]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Chunks and timing")]
    pub(crate) reconnect_wait: Option<Duration>,
    /// How long to wait for a pending COMMIT after a signal or the deadline; the run ends at most twice this time
    /// later [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Chunks and timing")]
    pub(crate) cancel_grace: Option<Duration>,
    /// Time limit of the run: chunks not yet committed are rolled back, and the exit code is 5 [default: none]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Chunks and timing")]
    pub(crate) deadline: Option<Duration>,
    /// Exit with code 5 although no key failed: `empty` (no keys), `all-missing`, `all-stale` (all keys are),
    /// `missing`, `stale` (any key is) or `none` [default: empty,all-missing; with --keys-query all-missing]
    #[arg(long, value_name = "WHAT[,WHAT]", value_delimiter = ',')]
    pub(crate) fail_on: Vec<String>,
    /// Write stale, missing and failed keys to this file (CSV), as input for another run
    #[arg(long, value_name = "FILE", help_heading = "Keys")]
    pub(crate) rejects: Option<PathBuf>,
    /// Change nothing: compare only, and report how each key would end (constraints and triggers are not tried)
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Name of the task in metrics and `application_name` [default: name of the job file, else `update`]
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Option<String>,
    #[command(flatten)]
    pub(crate) exporters: Exporters,
    /// Print the result as one JSON object on standard output, also when the run fails
    #[arg(long, help_heading = "Output")]
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
    pub(super) fn warning(&self) -> Option<String> {
        const MOVING: [&str; 5] = ["now", "now()", "today", "tomorrow", "yesterday"];
        let Self { column, value: Value::Text(text) } = self else { return None };
        let is = |word: &&str| text.trim().eq_ignore_ascii_case(word);
        if is(&"null") {
            return Some(format!(
                "{column}={text} is a text of four letters; NULL is written \\N: '{column}=\\N'"
            ));
        }
        MOVING.iter().any(is).then(|| {
            format!(
                "{column}={text} is another time in each run: if this one has to be repeated, rows that are done are not \
                 `already`, but updated again, or stale with --expect; write the time itself"
            )
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
        let warning = |text| assignment(text).unwrap().warning();
        let expected = r"a=NULL is a text of four letters; NULL is written \N: 'a=\N'";
        assert_eq!(warning("a=NULL").as_deref(), Some(expected));
        assert!(warning("a=null").is_some());
        assert!([r"a=\N", "a=", "a=nul", "a=@NULL"].iter().all(|text| warning(text).is_none()));
    }

    #[test]
    fn a_time_that_moves_is_asked_about() {
        let warning = |text| assignment(text).unwrap().warning();
        assert!(["at=now", "at=NOW", "at=now()", "at=today"].iter().all(|text| {
            warning(text).is_some_and(|doubt| doubt.contains("is another time in each run"))
        }));
        assert!(
            ["at=2026-11-27 02:00+00", "at=nowhere", "at=@now"].iter().all(|text| warning(text).is_none())
        );
    }
}
