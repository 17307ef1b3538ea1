//! Records of CSV, as `\copy ... CSV` reads them, and no more lenient.
//!
//! A lenient reader loses rows without a word: a quote that is never closed swallows what follows, a row with a field
//! too few shifts its values, a carriage return alone joins two lines. Each of these is an error here that names its
//! line and its field. So is what `\copy` reads and nobody means: a quote in the middle of a field, which it drops.
//!
//! A line ends in LF or CR LF. Blank lines are skipped, and counted: COPY would read a NULL, or miss a column. Nothing longer than [`LONGEST`] is read.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::ops::Range;

/// The longest record, in bytes: a missing quote or line end would have the whole file kept in memory.
const LONGEST: usize = 16 << 20;
/// UTF-8's byte order mark, which many programs write before the first character.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// One record; its buffers are used again for the next one.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// The line on which it begins, from 1.
    pub(super) line: u64,
    /// As it is read, then taken over as `text`.
    bytes: Vec<u8>,
    text: String,
    fields: Vec<Field>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    range: Range<usize>,
    quoted: bool,
}

impl Record {
    /// How many fields it has.
    pub(super) fn len(&self) -> usize {
        self.fields.len()
    }

    /// A field's text, and whether it was written in quotes.
    pub(super) fn get(&self, place: usize) -> Option<(&str, bool)> {
        let field = self.fields.get(place)?;
        Some((&self.text[field.range.clone()], field.quoted))
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|place| self.get(place)).map(|(text, _)| text)
    }

    fn clear(&mut self) {
        self.bytes = std::mem::take(&mut self.text).into_bytes();
        self.bytes.clear();
        self.fields.clear();
    }

    fn end_field(&mut self, start: usize, end: usize, quoted: bool) {
        self.fields.push(Field { range: start..end, quoted });
    }
}

/// What is wrong with the input, and where.
#[derive(Debug)]
pub(super) struct Fault {
    /// From 1.
    pub(super) line: u64,
    /// The field's place in the record, where it is about one.
    pub(super) field: Option<usize>,
    pub(super) kind: FaultKind,
}

#[derive(Debug)]
pub(super) enum FaultKind {
    /// The quote that opens the field is never closed.
    OpenQuote,
    /// A quote where a field does not begin.
    QuoteInside,
    /// Something follows the quote that closes a field.
    AfterQuote,
    CarriageReturn,
    NotUtf8(u8),
    Utf16,
    Gzip,
    Nul,
    /// `quoted`: a quote was open.
    TooLong {
        quoted: bool,
    },
    Io(io::Error),
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenQuote => f.write_str("the quote that opens the field is never closed"),
            Self::QuoteInside => f.write_str(
                "a quote in a field that does not begin with one; write the field in quotes, and each quote in it twice",
            ),
            Self::AfterQuote => f.write_str(
                "text after the quote that closes the field; a quote inside a field in quotes is written twice",
            ),
            Self::CarriageReturn => f.write_str(
                "a carriage return without a line feed; end the lines in LF or CR LF, and write a field that has one in \
                 quotes",
            ),
            Self::NotUtf8(byte) => {
                write!(f, "byte 0x{byte:02x} is not UTF-8; convert the input from what it is in (`iconv -f WINDOWS-1252 -t UTF-8`, for example)")
            }
            Self::Utf16 => f.write_str("this is UTF-16; convert the input to UTF-8 (`iconv -f UTF-16 -t UTF-8`)"),
            Self::Gzip => f.write_str("this is compressed (gzip); unpack it first, as with `gunzip -c`"),
            Self::Nul => f.write_str("a zero byte, which no text of PostgreSQL can hold"),
            Self::TooLong { quoted } => {
                let why = if *quoted { "a quote may never be closed" } else { "a line end may be missing" };
                write!(f, "more than {} MiB in one row; {why}", LONGEST >> 20)
            }
            Self::Io(error) => error.fmt(f),
        }
    }
}

/// Where the reading of a record stands.
#[derive(Clone, Copy)]
enum State {
    /// Nothing of the field was read.
    Start,
    Bare,
    Quoted,
    /// Behind a quote that closes the field, if no second one follows.
    Closed,
}

/// Reads records one after the other.
pub(super) struct Records {
    reader: Box<dyn BufRead + Send>,
    /// Lines read.
    lines: u64,
    /// The physical line at hand, with its end.
    raw: Vec<u8>,
}

impl Records {
    pub(super) fn new(reader: Box<dyn BufRead + Send>) -> Self {
        Self { reader, lines: 0, raw: Vec::new() }
    }

    /// The line that was read last, as far as it is text.
    pub(super) fn line(&self) -> String {
        String::from_utf8_lossy(content(&self.raw)).into_owned()
    }

    /// Reads the next one; `false` at the end.
    pub(super) fn read(&mut self, record: &mut Record) -> Result<bool, Fault> {
        loop {
            record.clear();
            if !self.next_line(0, false)? {
                return Ok(false);
            }
            record.line = self.lines;
            if self.raw.contains(&b'"') {
                self.read_quoted(record)?;
            } else {
                self.read_bare(record)?;
            }
            let blank = matches!(&*record.fields, [Field { range, quoted: false }] if range.is_empty());
            if !blank {
                Self::take_text(record)?;
                return Ok(true);
            }
        }
    }

    /// A line without quotes, which most are.
    fn read_bare(&mut self, record: &mut Record) -> Result<(), Fault> {
        let length = content(&self.raw).len();
        self.raw.truncate(length);
        std::mem::swap(&mut record.bytes, &mut self.raw);
        let mut start = 0;
        for end in 0..length {
            match record.bytes[end] {
                b',' => {
                    record.end_field(start, end, false);
                    start = end + 1;
                }
                b'\r' => {
                    return Err(self.fault(record.fields.len(), FaultKind::CarriageReturn));
                }
                _ => {}
            }
        }
        record.end_field(start, length, false);
        Ok(())
    }

    /// A record with quotes, and so perhaps of several lines.
    fn read_quoted(&mut self, record: &mut Record) -> Result<(), Fault> {
        let (mut state, mut start, mut quoted, mut opened) = (State::Start, 0, false, self.lines);
        loop {
            let content = content(&self.raw).len();
            for at in 0..self.raw.len() {
                let byte = self.raw[at];
                let place = record.fields.len();
                state = match (state, byte) {
                    (State::Quoted, b'"') => State::Closed,
                    (State::Quoted, _) => {
                        record.bytes.push(byte);
                        State::Quoted
                    }
                    // The end of the line is the end of the record.
                    (_, _) if at >= content => break,
                    (State::Start, b'"') => {
                        (quoted, opened) = (true, self.lines);
                        State::Quoted
                    }
                    (State::Closed, b'"') => {
                        record.bytes.push(b'"');
                        State::Quoted
                    }
                    (_, b',') => {
                        record.end_field(start, record.bytes.len(), quoted);
                        (start, quoted) = (record.bytes.len(), false);
                        State::Start
                    }
                    (_, b'\r') => return Err(self.fault(place, FaultKind::CarriageReturn)),
                    (State::Closed, _) => return Err(self.fault(place, FaultKind::AfterQuote)),
                    (_, b'"') => return Err(self.fault(place, FaultKind::QuoteInside)),
                    (State::Start | State::Bare, _) => {
                        record.bytes.push(byte);
                        State::Bare
                    }
                };
            }
            if !matches!(state, State::Quoted) {
                record.end_field(start, record.bytes.len(), quoted);
                return Ok(());
            }
            let field = Some(record.fields.len());
            match self.next_line(record.bytes.len(), true) {
                Ok(true) => {}
                Ok(false) => return Err(Fault { line: opened, field, kind: FaultKind::OpenQuote }),
                Err(Fault { kind: kind @ FaultKind::TooLong { .. }, .. }) => {
                    return Err(Fault { line: opened, field, kind });
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Has the next physical line in `raw`, its end included; `before` bytes of the record are read already.
    fn next_line(&mut self, before: usize, quoted: bool) -> Result<bool, Fault> {
        self.raw.clear();
        // One more than may be: the bound itself is no error.
        let most = (LONGEST + 1).saturating_sub(before) as u64;
        let too_long = |line, quoted| Fault { line, field: None, kind: FaultKind::TooLong { quoted } };
        if most == 0 {
            return Err(too_long(self.lines, quoted));
        }
        let read = self.reader.by_ref().take(most).read_until(b'\n', &mut self.raw);
        let read =
            read.map_err(|error| Fault { line: self.lines + 1, field: None, kind: FaultKind::Io(error) })?;
        if read == 0 {
            return Ok(false);
        }
        self.lines += 1;
        if self.lines == 1 {
            self.drop_mark()?;
        }
        if self.raw.len() as u64 == most && self.raw.last() != Some(&b'\n') {
            if !quoted && self.raw.contains(&b'\r') {
                return Err(Fault { line: self.lines, field: None, kind: FaultKind::CarriageReturn });
            }
            let odd = self.raw.iter().fold(false, |odd, byte| odd != (*byte == b'"'));
            return Err(too_long(self.lines, quoted != odd));
        }
        Ok(true)
    }

    fn drop_mark(&mut self) -> Result<(), Fault> {
        if self.raw.starts_with(&[0xff, 0xfe]) || self.raw.starts_with(&[0xfe, 0xff]) {
            return Err(Fault { line: 1, field: None, kind: FaultKind::Utf16 });
        }
        if self.raw.starts_with(&[0x1f, 0x8b]) {
            return Err(Fault { line: 1, field: None, kind: FaultKind::Gzip });
        }
        if self.raw.starts_with(MARK) {
            self.raw.drain(..MARK.len());
        }
        Ok(())
    }

    /// Makes a text of what was read. Fields end at ASCII characters: where the whole is UTF-8, each of them is.
    fn take_text(record: &mut Record) -> Result<(), Fault> {
        let (bytes, at, kind) = match String::from_utf8(std::mem::take(&mut record.bytes)) {
            Ok(text) => {
                let Some(at) = text.find('\0') else {
                    record.text = text;
                    return Ok(());
                };
                (text.into_bytes(), at, FaultKind::Nul)
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let kind = FaultKind::NotUtf8(error.as_bytes()[at]);
                (error.into_bytes(), at, kind)
            }
        };
        let field = record.fields.iter().position(|field| at < field.range.end);
        // A field in quotes may have lines of its own.
        let before = bytes[..at].split(|byte| *byte == b'\n').skip(1).count() as u64;
        Err(Fault { line: record.line + before, field, kind })
    }

    const fn fault(&self, field: usize, kind: FaultKind) -> Fault {
        Fault { line: self.lines, field: Some(field), kind }
    }
}

/// A line without its end. The last one of a file may have lost half of it.
fn content(raw: &[u8]) -> &[u8] {
    let line = raw.strip_suffix(b"\n").unwrap_or(raw);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Row = (u64, Vec<String>);

    fn records(text: &[u8]) -> Result<Vec<Row>, String> {
        let mut records = Records::new(Box::new(io::Cursor::new(text.to_vec())));
        let (mut record, mut rows) = (Record::default(), Vec::new());
        loop {
            match records.read(&mut record) {
                Ok(true) => rows.push((record.line, record.texts().map(str::to_owned).collect())),
                Ok(false) => return Ok(rows),
                Err(Fault { line, field, kind }) => {
                    let field = field.map(|field| format!(", field {}", field + 1)).unwrap_or_default();
                    return Err(format!("line {line}{field}: {kind}"));
                }
            }
        }
    }

    fn check(text: &[u8], expected: &[(u64, &[&str])]) {
        let expected: Vec<Row> = expected
            .iter()
            .map(|(line, fields)| (*line, fields.iter().map(|&field| field.to_owned()).collect()))
            .collect();
        assert_eq!(records(text), Ok(expected), "{}", String::from_utf8_lossy(text));
    }

    fn check_fault(text: &[u8], expected: &str) {
        let fault = records(text).expect_err("it is not well-formed");
        assert!(fault.starts_with(expected), "{}: {fault}", String::from_utf8_lossy(text));
    }

    #[test]
    fn lines_are_numbered_whatever_ends_them_and_whatever_is_in_quotes() {
        check(b"", &[]);
        check(b"\n\r\n\n", &[]);
        check(b"a,b\n1,2\n", &[(1, &["a", "b"]), (2, &["1", "2"])]);
        check(b"a,b\r\n1,2\r\n3,4", &[(1, &["a", "b"]), (2, &["1", "2"]), (3, &["3", "4"])]);
        check(b"a\n\n\nb\r\n\r\nc", &[(1, &["a"]), (4, &["b"]), (6, &["c"])]);
        check(b"a,\"x\r\n\ny\"\r\nb,z\r\n", &[(1, &["a", "x\r\n\ny"]), (4, &["b", "z"])]);
        check(b"\"\"\n\"\"\"\"\n\"a\"\"b\",\n", &[(1, &[""]), (2, &["\""]), (3, &["a\"b", ""])]);
        check(b"\xef\xbb\xbf\"id\",b\n\xef\xbb\xbfx,\n", &[(1, &["id", "b"]), (2, &["\u{feff}x", ""])]);
        check(b"7\r", &[(1, &["7"])]);
    }

    #[test]
    fn what_is_not_well_formed_is_named_with_line_and_field() {
        check_fault(
            b"id,note\n1,\"5 inch\n2,b\n3,c\n",
            "line 2, field 2: the quote that opens the field is never",
        );
        check_fault(b"a,\"x\ny\",\"z\n\n", "line 2, field 3: the quote that opens");
        check_fault(b"a\nb,5\" pipe\n", "line 2, field 2: a quote in a field");
        check_fault(b"\"a\"b\n", "line 1, field 1: text after the quote");
        check_fault(b"\"a\n\"b,c\n", "line 2, field 1: text after the quote");
        check_fault(b"id\r1\r2\r", "line 1, field 1: a carriage return");
        check_fault(b"a\nb,\"c\"\rd\n", "line 2, field 2: a carriage return");
        check_fault(b"a,b\nc,\xe4\n", "line 2, field 2: byte 0xe4 is not UTF-8");
        check_fault(b"a,b\n\"x\n\xe4\",c\n", "line 3, field 1: byte 0xe4 is not UTF-8");
        check_fault(b"a,b\nc,x\0y\n", "line 2, field 2: a zero byte");
        check_fault(b"\xff\xfea\0\n\0", "line 1: this is UTF-16");
    }

    #[test]
    fn nothing_is_longer_than_the_bound() {
        let long = vec![b'x'; LONGEST + 1];
        check_fault(&long, "line 1: more than 16 MiB in one row; a line end may be missing");
        assert_eq!(records(&long[1..]).map(|rows| rows.len()), Ok(1));
        let lines = b"id,n\n1,\"".iter().copied().chain(b"2,3\n".iter().copied().cycle().take(LONGEST));
        check_fault(
            &lines.collect::<Vec<_>>(),
            "line 2, field 2: more than 16 MiB in one row; a quote may never",
        );
        let mut old = b"1\r2\r".repeat(LONGEST / 4);
        old.extend(b"3\r4");
        check_fault(&old, "line 1: a carriage return");
    }

    proptest! {
        /// What is written as the manual of COPY has it is read as it was.
        #[test]
        fn every_text_comes_back(rows in proptest::collection::vec(
            proptest::collection::vec("[a\",\r\n ä\\\\]{0,4}", 1..4), 0..6), crlf: bool) {
            let mut text = Vec::new();
            for row in &rows {
                let fields = row.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\"")));
                text.extend(fields.collect::<Vec<_>>().join(",").into_bytes());
                text.extend(if crlf { "\r\n".as_bytes() } else { b"\n" });
            }
            let read = records(&text).unwrap();
            prop_assert_eq!(read.iter().map(|(_, fields)| fields.clone()).collect::<Vec<_>>(), rows.clone());
            let mut line = 1;
            for ((at, _), row) in read.iter().zip(&rows) {
                prop_assert_eq!(*at, line);
                line += 1 + row.iter().flat_map(|field| field.bytes()).filter(|&byte| byte == b'\n').count() as u64;
            }
        }

        /// No byte string makes it panic, and none of its bytes is lost without an error.
        #[test]
        fn anything_is_read_or_refused(text: Vec<u8>) {
            if let Ok(rows) = records(&text) {
                let kept: usize = rows.iter().flat_map(|(_, fields)| fields).map(String::len).sum();
                let framing = text.iter().filter(|byte| b",\"\r\n".contains(byte)).count() + MARK.len();
                prop_assert!(kept + framing >= text.len());
            }
        }
    }
}
