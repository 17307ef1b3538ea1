//! Keys: from a file, standard input, a query or an iterator, a few at a time.
//!
//! However many there are, memory holds a few chunks of them: a file is read by a thread that waits
//! when it is ahead. A query's answer is written to a temporary file first (deleted as soon as it is open), before
//! anything is changed. That costs a pass over the keys, and buys three things: the query's snapshot is
//! not held while the update runs, a connection lost halfway costs only the query, and the number of
//! keys is known.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::feed::Items;
use crate::error::Error;
use crate::pg::Failure;
use crate::pg::privileges::quote;

/// A key, and the values that go with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Where it came from: the line of a file, the place in a stream; from 1, 0 if it has none.
    pub(crate) line: u64,
    /// The key's columns, then those that values are taken from. `None` is NULL.
    pub(crate) fields: Box<[Option<Box<str>>]>,
}

/// Where keys come from.
///
/// A file or reader is CSV with a header that names the key's columns (and those that values are taken
/// from), in any order, beside any others. Without a header it is one key a line, where the key is one
/// column and nothing else is taken from the input. `\N` is NULL. Text is UTF-8.
pub struct Keys {
    pub(super) source: Source,
}

pub(super) enum Source {
    File(PathBuf),
    Reader(Box<dyn Read + Send>),
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
        Self::reader(std::io::stdin())
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
    /// none is left. Rows that hold the new value, or not the expected one, are passed over.
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

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.source {
            Source::File(_) => "Keys(file)",
            Source::Reader(_) => "Keys(reader)",
            Source::Query(_) => "Keys(query)",
            Source::Claims(_) => "Keys(claim)",
            Source::Rows(_) => "Keys(rows)",
        })
    }
}

/// A row of the input, as texts that the server casts to the columns' types.
pub trait Row {
    /// One field per column; `None` is NULL.
    fn fields(self) -> Box<[Option<Box<str>>]>;
}

macro_rules! scalar {
    ($($name:ty)+) => {$(
        impl Row for $name {
            fn fields(self) -> Box<[Option<Box<str>>]> {
                [Some(self.to_string().into())].into()
            }
        }
    )+};
}
scalar!(&str String i16 i32 i64 u16 u32 u64);

impl Row for Vec<Option<String>> {
    fn fields(self) -> Box<[Option<Box<str>>]> {
        self.into_iter().map(|field| field.map(Into::into)).collect()
    }
}

macro_rules! tuple {
    ($($name:ident)+) => {
        impl<$($name: ToString),+> Row for ($($name,)+) {
            #[allow(non_snake_case, reason = "a value per type")]
            fn fields(self) -> Box<[Option<Box<str>>]> {
                let ($($name,)+) = self;
                [$(Some($name.to_string().into())),+].into()
            }
        }
    };
}
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);

/// An opened source.
pub(super) struct Opened {
    pub(super) items: Items<Item>,
    /// How many, where that is known.
    pub(super) total: Option<u64>,
    /// Whether reading on to the end is quick, so that what is left can be counted.
    pub(super) countable: bool,
}

impl Opened {
    pub(super) fn file(path: &Path, inputs: &[String], keys: usize) -> Result<Self, Error> {
        let cannot = |error: std::io::Error| {
            Error::configuration("keys", format!("cannot read {}: {error}", path.display()))
        };
        let open = || File::open(path).map_err(cannot);
        let regular = open()?.metadata().map_err(cannot)?.is_file();
        let header = Lines::new(open()?, inputs, keys)?.has_header();
        let total = if regular {
            Some(count_lines(open()?).map_err(cannot)?.saturating_sub(u64::from(header)))
        } else {
            None
        };
        let items = read(Lines::new(open()?, inputs, keys)?);
        Ok(Self { items, total, countable: regular })
    }

    pub(super) async fn reader(
        reader: Box<dyn Read + Send>,
        inputs: &[String],
        keys: usize,
    ) -> Result<Self, Error> {
        // The first line may be long in coming.
        let (inputs, opened) = (inputs.to_vec(), tokio::sync::oneshot::channel());
        std::thread::spawn(move || opened.0.send(Lines::new(reader, &inputs, keys)));
        let lines = opened.1.await.map_err(|error| Error::other("reading the keys broke off", error))??;
        Ok(Self { items: read(lines), total: None, countable: false })
    }

    pub(super) fn rows(rows: Items<Box<[Option<Box<str>>]>>, inputs: usize) -> Self {
        let mut line = 0;
        let items = rows.map(move |fields| {
            line += 1;
            let fields = fields?;
            if fields.len() == inputs {
                return Ok(Item { line, fields });
            }
            let problem = format!("row {line} has {} fields in place of {inputs}", fields.len());
            Err(Error::configuration("keys", problem))
        });
        Self { items: Box::pin(items), total: None, countable: false }
    }
}

/// Items per message of the reading thread, and messages that it may be ahead.
const BATCH: usize = 256;
const AHEAD: usize = 4;

/// Reads in a thread of its own, which ends with the stream; one that waits for a terminal does not
/// keep the process alive.
fn read(lines: Lines) -> Items<Item> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let mut lines = lines.fuse();
        loop {
            let batch: Vec<Result<Item, Error>> = lines.by_ref().take(BATCH).collect();
            if batch.is_empty() || sender.blocking_send(batch).is_err() {
                return;
            }
        }
    });
    let batches = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|batch| (batch, receiver))
    });
    Box::pin(batches.flat_map(stream::iter))
}

fn count_lines(file: File) -> std::io::Result<u64> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut lines, mut last) = (0, b'\n');
    loop {
        let buffer = reader.fill_buf()?;
        let Some(&end) = buffer.last() else { return Ok(lines + u64::from(last != b'\n')) };
        last = end;
        lines += buffer.iter().map(|&byte| u64::from(byte == b'\n')).sum::<u64>();
        let length = buffer.len();
        reader.consume(length);
    }
}

/// The lines of a file, as items.
enum Lines {
    /// One key a line; the number of lines read.
    Plain(Box<dyn BufRead + Send>, u64),
    /// The places of the input's columns in a record.
    Csv(Box<csv::Reader<Box<dyn BufRead + Send>>>, Vec<usize>, csv::StringRecord),
}

impl Lines {
    fn new(reader: impl Read + Send + 'static, inputs: &[String], keys: usize) -> Result<Self, Error> {
        let mut reader = BufReader::with_capacity(1 << 16, reader);
        let mut first = Vec::new();
        let problem = |error: &dyn fmt::Display| Error::configuration("keys", format!("line 1: {error}"));
        reader.read_until(b'\n', &mut first).map_err(|error| problem(&error))?;
        let text = std::str::from_utf8(&first).map_err(|error| problem(&error))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_end_matches(['\r', '\n']);
        let mut header = csv::StringRecord::new();
        let parse = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(text.as_bytes())
            .read_record(&mut header);
        parse.map_err(|error| problem(&error))?;
        let place = |name: &String| header.iter().position(|column| column.trim() == name);
        let places: Vec<Option<usize>> = inputs.iter().map(place).collect();
        if places.iter().all(Option::is_some) {
            let rest: Box<dyn BufRead + Send> = Box::new(reader);
            let csv = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(rest);
            return Ok(Self::Csv(
                Box::new(csv),
                places.into_iter().flatten().collect(),
                csv::StringRecord::new(),
            ));
        }
        let found_some = places.iter().any(Option::is_some);
        if inputs.len() == 1 && keys == 1 && header.len() <= 1 {
            let first: Box<dyn BufRead + Send> = Box::new(std::io::Cursor::new(first).chain(reader));
            return Ok(Self::Plain(first, 0));
        }
        let missing: Vec<&str> = inputs
            .iter()
            .zip(&places)
            .filter(|(_, place)| place.is_none())
            .map(|(name, _)| name.as_str())
            .collect();
        let what = if found_some { "the header" } else { "the first line" };
        Err(Error::configuration("keys", format!("{what} has no column {}", missing.join(", "))))
    }

    const fn has_header(&self) -> bool {
        matches!(self, Self::Csv(..))
    }

    fn plain(reader: &mut dyn BufRead, line: &mut u64) -> Result<Option<Item>, String> {
        let mut text = String::new();
        loop {
            text.clear();
            *line += 1;
            if reader.read_line(&mut text).map_err(|error| format!("line {line}: {error}"))? == 0 {
                return Ok(None);
            }
            let key = text.trim_end_matches(['\r', '\n']).trim_start_matches('\u{feff}');
            if !key.is_empty() {
                return Ok(Some(Item { line: *line, fields: [field(key)].into() }));
            }
        }
    }

    fn record(
        reader: &mut csv::Reader<Box<dyn BufRead + Send>>,
        places: &[usize],
        record: &mut csv::StringRecord,
    ) -> Result<Option<Item>, String> {
        // The header was read before the reader began to count.
        let line = reader.position().line() + 1;
        if !reader.read_record(record).map_err(|error| format!("after line {}: {error}", line - 1))? {
            return Ok(None);
        }
        let line = record.position().map_or(line, |position| position.line() + 1);
        let fields = places.iter().map(|&place| record.get(place).map(field));
        let fields: Option<Box<[_]>> = fields.collect();
        let Some(fields) = fields else {
            return Err(format!("line {line} has only {} fields", record.len()));
        };
        Ok(Some(Item { line, fields }))
    }
}

impl Iterator for Lines {
    type Item = Result<Item, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = match self {
            Self::Plain(reader, line) => Self::plain(&mut **reader, line),
            Self::Csv(reader, places, record) => Self::record(reader, places, record),
        };
        read.map_err(|problem| Error::configuration("keys", problem)).transpose()
    }
}

fn field(text: &str) -> Option<Box<str>> {
    (text != r"\N").then(|| text.into())
}

/// The query with its columns under the input's names; checks that it has them.
pub(super) async fn named(client: &Client, query: &str, inputs: &[String]) -> Result<String, Error> {
    let query = query.trim_end().trim_end_matches(';');
    let prepared =
        client.prepare(&format!("SELECT * FROM (SELECT) AS nothing, LATERAL ({query}\n) AS q")).await;
    let prepared = prepared.map_err(|error| Error::sql("the query for the keys", error.into()))?;
    let names: Vec<&str> = prepared.columns().iter().map(tokio_postgres::Column::name).collect();
    let output = |input: &String| {
        if names.contains(&input.as_str()) {
            return Ok(format!("q.{} AS {}", quote(input), quote(input)));
        }
        if let ([only], 1) = (&*names, inputs.len()) {
            return Ok(format!("q.{} AS {}", quote(only), quote(input)));
        }
        Err(Error::configuration("keys", format!("the query has no column {input}")))
    };
    let outputs: Result<Vec<String>, Error> = inputs.iter().map(output).collect();
    Ok(format!("SELECT {} FROM ({query}\n) AS q", outputs?.join(", ")))
}

/// A query's answer in a temporary file: per field a length (`NULL_FIELD` for NULL) and the text.
pub(super) struct Spool {
    file: BufWriter<File>,
    rows: u64,
}

const NULL_FIELD: u32 = u32::MAX;

impl Spool {
    /// Runs a [`named`] query and keeps its answer.
    pub(super) async fn fill(client: &Client, query: &str, inputs: &[String]) -> Result<Self, Failure> {
        let outputs: Vec<String> =
            inputs.iter().map(|name| format!("k.{}::pg_catalog.text", quote(name))).collect();
        let sql = format!("SELECT {} FROM ({query}) AS k", outputs.join(", "));
        let local = |error: std::io::Error| {
            Failure::client(format!("cannot keep the keys in a temporary file: {error}"))
        };
        let mut spool = Self { file: BufWriter::new(tempfile::tempfile().map_err(local)?), rows: 0 };
        let rows = client.query_raw(&sql, std::iter::empty::<&str>()).await?;
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.next().await {
            let row = row?;
            for n in 0..inputs.len() {
                spool.write(row.try_get(n)?).map_err(local)?;
            }
            spool.rows += 1;
        }
        Ok(spool)
    }

    fn write(&mut self, field: Option<&str>) -> std::io::Result<()> {
        let length = field.map_or(NULL_FIELD, |text| text.len() as u32);
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(field.unwrap_or_default().as_bytes())
    }

    /// Reads it back.
    pub(super) fn open(self, inputs: usize) -> Result<Opened, Error> {
        let cannot = |error: std::io::Error| Error::other("cannot read the keys back", error);
        let mut file = self.file.into_inner().map_err(|error| cannot(error.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(cannot)?;
        let (total, mut reader) = (self.rows, BufReader::with_capacity(1 << 16, file));
        let rows = (1..=total).map(move |line| {
            let fields: std::io::Result<Box<[_]>> = (0..inputs).map(|_| read_field(&mut reader)).collect();
            Ok(Item { line, fields: fields.map_err(cannot)? })
        });
        Ok(Opened { items: Box::pin(stream::iter(rows)), total: Some(total), countable: true })
    }
}

fn read_field(reader: &mut impl Read) -> std::io::Result<Option<Box<str>>> {
    let mut length = [0; 4];
    reader.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length == NULL_FIELD {
        return Ok(None);
    }
    let mut text = vec![0; length as usize];
    reader.read_exact(&mut text)?;
    let text = String::from_utf8(text).map_err(std::io::Error::other)?;
    Ok(Some(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Line = (u64, Vec<Option<String>>);

    fn check(text: &'static str, inputs: &[&str], keys: usize) -> Result<Vec<Line>, Error> {
        let inputs: Vec<String> = inputs.iter().map(|&name| name.to_owned()).collect();
        let rows = Lines::new(text.as_bytes(), &inputs, keys)?;
        rows.map(|item| {
            let item = item?;
            Ok((item.line, item.fields.iter().map(|field| field.as_deref().map(str::to_owned)).collect()))
        })
        .collect()
    }

    fn some(fields: &[&str]) -> Vec<Option<String>> {
        fields.iter().map(|&field| Some(field.to_owned())).collect()
    }

    #[test]
    fn a_file_without_a_header_is_one_key_a_line() {
        let keys = check("7\n\n8\r\n9", &["id"], 1).unwrap();
        assert_eq!(keys, [(1, some(&["7"])), (3, some(&["8"])), (4, some(&["9"]))]);
        assert_eq!(check("", &["id"], 1).unwrap(), []);
    }

    #[test]
    fn a_header_names_the_columns_in_any_order() {
        let keys = check("note,status,id\nx,P,7\n\"a,\nb\",\\N,8\ny,Q,9\n", &["id", "status"], 1).unwrap();
        assert_eq!(keys, [(2, some(&["7", "P"])), (3, vec![Some("8".into()), None]), (5, some(&["9", "Q"]))]);
    }

    #[test]
    fn a_missing_column_or_field_is_named() {
        let problem = |text, inputs: &[&str], keys| check(text, inputs, keys).unwrap_err().to_string();
        assert_eq!(problem("id,note\n1,x\n", &["id", "status"], 1), "keys: the header has no column status");
        assert_eq!(problem("a,b\n1,x\n", &["id"], 1), "keys: the first line has no column id");
        assert_eq!(problem("id,status\n1,P\n2\n", &["id", "status"], 1), "keys: line 3 has only 1 fields");
    }

    #[test]
    fn lines_are_counted_with_or_without_a_last_newline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        for (text, lines) in [("", 0), ("1", 1), ("1\n2", 2), ("1\n2\n", 2)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(count_lines(File::open(&path).unwrap()).unwrap(), lines, "{text:?}");
        }
    }
}
