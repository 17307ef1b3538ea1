//! Keys: from a file, standard input, a query or an iterator, a few at a time.
//!
//! However many there are, memory holds a few chunks of them: a file is read by a thread that waits
//! when it is ahead. A query's answer is written to a temporary file first (deleted as soon as it is open), before
//! anything is changed. That costs a pass over the keys, and buys three things: the query's snapshot is
//! not held while the update runs, a connection lost halfway costs only the query, and the number of
//! keys is known.

mod lines;
mod opened;
mod records;
mod refused;
mod repeats;
mod row;
mod spool;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, stream};

pub(super) use self::opened::{Opened, aside};
pub(super) use self::refused::{Refused, holds_other_time, marked};
pub use self::row::Row;
pub(super) use self::spool::{Spool, named};
use super::item_source::Items;

/// A key, and the values that go with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Where it came from: the line of a file, the place in a stream; from 1, 0 if it has none.
    pub(crate) line: u64,
    /// The key's columns, then those that values are taken from. `None` is NULL.
    pub(crate) fields: Box<[Option<Box<str>>]>,
    /// Why it is not even worked on.
    pub(crate) refused: Option<Refused>,
}

impl Item {
    pub(crate) const fn new(line: u64, fields: Box<[Option<Box<str>>]>) -> Self {
        Self { line, fields, refused: None }
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn weight(&self) -> usize {
        self.fields.iter().flatten().map(|field| field.len()).sum::<usize>() + 16 * (self.fields.len() + 1)
    }
}

/// What is to be had from the input.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The columns: the key's, then those that values are taken from.
    pub(super) inputs: Vec<String>,
    /// The types of those that are the key's, as object identifiers.
    pub(super) key_types: Vec<u32>,
    /// The places of values that hold times.
    pub(super) times: Vec<usize>,
}

/// `int8`, `int2`, `int4` and `oid` (`pg_type.dat`).
const INTEGERS: [u32; 4] = [20, 21, 23, 26];

impl Wanted {
    /// Whether the first line of an input without a header can be a key. Where keys are numbers, a name is none.
    fn may_be_key(&self, text: &str) -> bool {
        !self.key_types.iter().all(|key| INTEGERS.contains(key))
            || !text.starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

/// Where keys come from.
///
/// A file or reader is CSV as `\copy ... CSV` reads it: fields are separated by commas, and stand in quotes where they
/// have a comma, a quote (twice) or a line end. Its header names the key's columns (and those that values are taken
/// from), in any order, beside any others. Without a header it is one key a line, where the key is one column and
/// nothing else is taken from the input. An empty field is NULL, and `""` is an empty text. Text is UTF-8. Blank lines are
/// skipped.
///
/// Whatever does not fit is an error that names its line: a quote that is never closed, a row with a field too few or
/// too many, another separator, a line longer than 16 MiB. A file is read to its end before anything is changed. Of
/// a pipe so are the first 10,000 keys, as far as they come within 200 ms; an error further on stops the run.
///
/// ```
/// use headcount::Keys;
///
/// let few = Keys::rows([17, 42]);
/// let export = Keys::file("/var/spool/export/submitted.csv");
/// let found = Keys::query("SELECT id FROM orders WHERE shipped_at < now() - interval '1 day'");
/// ```
pub struct Keys {
    pub(super) source: Source,
}

pub(super) enum Source {
    File(PathBuf),
    Reader(Box<dyn Read + Send>),
    Stdin,
    Query(String),
    Claims(String),
    Rows(Items<Box<[Option<Box<str>>]>>),
}

impl Keys {
    /// From a file.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { source: Source::File(path.into()) }
    }

    /// From standard input.
    #[must_use]
    pub fn stdin() -> Self {
        Self { source: Source::Stdin }
    }

    /// From anything that can be read; a thread of its own reads it.
    #[must_use]
    pub fn reader(reader: impl Read + Send + 'static) -> Self {
        Self { source: Source::Reader(Box::new(reader)) }
    }

    /// From a query that yields the input's columns by name; a single column may have any name.
    #[must_use]
    pub fn query(sql: impl Into<String>) -> Self {
        Self { source: Source::Query(sql.into()) }
    }

    /// From a query, shared out among all processes that run the same update at once: each chunk locks
    /// its rows with `FOR UPDATE SKIP LOCKED` in its own transaction, so that none is done twice, and the run ends when
    /// none is left. Rows that hold the new value, or not the expected one, are passed over. A chunk in which a row
    /// would be claimed again after its update is taken back, and the run ends: it would go on for ever.
    ///
    /// Where the query yields a row more than once, the first one counts, whatever values the others have.
    ///
    /// A key that fails is reported by each process that has tried it; with a `LIMIT` in the query, what has failed
    /// keeps its place in it. Keys to be tried again are looked up in the query: by an index where it yields them in
    /// the column's own type, else by reading it from end to end. Each chunk waits for the disk; of the one per
    /// connection whose COMMIT a crash of the server has caught, the keys are compared again, and *already* when they
    /// are done, also by another claimer.
    #[must_use]
    pub fn claim(sql: impl Into<String>) -> Self {
        Self { source: Source::Claims(sql.into()) }
    }

    /// From an iterator. Each row has the key's columns, then those that values are taken from, in the
    /// order in which they were named.
    pub fn rows<I>(rows: I) -> Self
    where
        I: IntoIterator<IntoIter: Send + 'static, Item: Row>,
    {
        Self::stream(stream::iter(rows))
    }

    /// From a stream of rows; see [`rows`](Self::rows).
    pub fn stream<S>(rows: S) -> Self
    where
        S: futures_util::Stream<Item: Row> + Send + 'static,
    {
        Self { source: Source::Rows(Box::pin(rows.map(|row| Ok(row.fields())))) }
    }
}

impl Keys {
    /// Where the file is that they are read from, if it is one.
    pub(super) fn file_name(&self) -> Option<&Path> {
        match &self.source {
            Source::File(path) => Some(path),
            Source::Stdin => Some(Path::new("/dev/stdin")),
            _ => None,
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.source {
            Source::File(_) => "Keys(file)",
            Source::Reader(_) => "Keys(reader)",
            Source::Stdin => "Keys(standard input)",
            Source::Query(_) => "Keys(query)",
            Source::Claims(_) => "Keys(claim)",
            Source::Rows(_) => "Keys(rows)",
        })
    }
}
