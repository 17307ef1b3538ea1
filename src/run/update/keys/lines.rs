//! The lines of a file as items: CSV with a header, or one key a line.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use super::Item;
use crate::error::Error;

pub(super) fn count_lines(file: File) -> std::io::Result<u64> {
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
pub(super) enum Lines {
    /// One key a line; the number of lines read.
    Plain(Box<dyn BufRead + Send>, u64),
    /// The places of the input's columns in a record.
    Csv(Box<csv::Reader<Box<dyn BufRead + Send>>>, Vec<usize>, csv::StringRecord),
}

impl Lines {
    pub(super) fn new(
        reader: impl Read + Send + 'static,
        inputs: &[String],
        keys: usize,
    ) -> Result<Self, Error> {
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

    pub(super) const fn has_header(&self) -> bool {
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
