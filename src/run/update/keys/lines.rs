//! The lines of a file as items: CSV with a header, or one key a line.

use std::io::{BufReader, Read};

use super::records::{Fault, Record, Records};
use super::{Item, Wanted};
use crate::error::Error;

/// What separates columns in files that are not CSV.
const SEPARATORS: [(char, &str); 4] =
    [(';', "semicolons"), ('\t', "tabs"), ('|', "vertical bars"), (':', "colons")];

/// The rows of an input, as items.
pub(super) struct Lines {
    records: Records,
    record: Record,
    /// Where it comes from, for messages; empty for a caller's own reader.
    source: String,
    /// The header's names; none where the input is a list of keys.
    names: Vec<String>,
    /// The places of the input's columns in a record.
    places: Vec<usize>,
    /// Whether the record at hand is the first key: a list has no header.
    first: bool,
    over: bool,
}

impl Lines {
    /// Reads the header, or finds that there is none.
    pub(super) fn new(
        reader: impl Read + Send + 'static,
        source: &str,
        wanted: &Wanted,
    ) -> Result<Self, Error> {
        let inputs = &wanted.inputs;
        let records = Records::new(Box::new(BufReader::with_capacity(1 << 16, reader)));
        let mut lines = Self {
            records,
            record: Record::default(),
            source: source.to_owned(),
            names: Vec::new(),
            places: vec![0],
            first: false,
            over: false,
        };
        match lines.records.read(&mut lines.record) {
            Ok(true) => {}
            Ok(false) => {
                lines.over = true;
                return Ok(lines);
            }
            Err(fault) => {
                // Names in quotes, for one, are not well-formed where something else than a comma follows.
                let separated = separated_otherwise(&lines.records.line(), inputs);
                return Err(separated.map_or_else(
                    || lines.fault(&fault),
                    |problem| lines.problem(fault.line, None, &problem),
                ));
            }
        }
        let header: Vec<String> = lines.record.texts().map(|name| name.trim().to_owned()).collect();
        let places: Result<Vec<Option<usize>>, String> =
            inputs.iter().map(|input| place(&header, input)).collect();
        let places = places.map_err(|problem| lines.header(&problem))?;
        if let Some(places) = places.iter().copied().collect::<Option<Vec<usize>>>() {
            (lines.names, lines.places) = (header, places);
            return Ok(lines);
        }
        if let Some(problem) = separated_otherwise(&header.join(","), inputs) {
            return Err(lines.header(&problem));
        }
        if let ([name], [first]) = (&**inputs, &*header)
            && wanted.key_types.len() == 1
        {
            if !wanted.may_be_key(first) {
                let problem = format!("`{first}` is neither a key nor the name of the key's column, {name}");
                return Err(lines.header(&problem));
            }
            lines.first = true;
            return Ok(lines);
        }
        let missing = inputs.iter().zip(&places).filter(|(_, place)| place.is_none());
        let missing: Vec<&str> = missing.map(|(name, _)| name.as_str()).collect();
        let what = if missing.len() < inputs.len() { "the header" } else { "the first line" };
        let is = if missing.len() < inputs.len() { "" } else { ", so it is no header" };
        Err(lines.header(&format!("{what} has no column {}{is}", missing.join(", "))))
    }

    /// Reads to the end, and says how many rows there are.
    pub(super) fn count(mut self) -> Result<u64, Error> {
        let mut rows = 0;
        while self.advance()? {
            rows += 1;
        }
        Ok(rows)
    }

    /// Has the next row in `record`.
    fn advance(&mut self) -> Result<bool, Error> {
        if self.over || (!std::mem::take(&mut self.first) && !self.read()?) {
            self.over = true;
            return Ok(false);
        }
        let (fields, width) = (self.record.len(), self.names.len().max(1));
        if fields == width {
            return Ok(true);
        }
        let field = if fields == 1 { "field" } else { "fields" };
        let problem = if self.names.is_empty() {
            format!("{fields} fields in place of one key; a key that has a comma is written in quotes")
        } else if fields < width {
            format!("{fields} {field}, and the header has {width}")
        } else {
            format!(
                "{fields} fields, and the header has {width}; a field that has a comma is written in quotes"
            )
        };
        Err(self.problem(self.record.line, None, &problem))
    }

    fn read(&mut self) -> Result<bool, Error> {
        self.records.read(&mut self.record).map_err(|fault| self.fault(&fault))
    }

    fn fault(&self, fault: &Fault) -> Error {
        self.problem(fault.line, fault.field, &fault.kind.to_string())
    }

    fn item(&self) -> Item {
        // As COPY reads CSV by default: NULL is an empty field without quotes.
        let field = |&place: &usize| match self.record.get(place) {
            None | Some(("", false)) => None,
            Some((text, _)) => Some(text.into()),
        };
        Item::new(self.record.line, self.places.iter().map(field).collect())
    }

    /// Something is wrong with the first row.
    fn header(&self, problem: &str) -> Error {
        self.problem(self.record.line, None, problem)
    }

    fn problem(&self, line: u64, field: Option<usize>, problem: &str) -> Error {
        let of = if self.source.is_empty() { String::new() } else { format!("{}, ", self.source) };
        let field = match field.map(|field| (field, self.names.get(field))) {
            Some((_, Some(name))) if !name.is_empty() => format!(", column {name}"),
            Some((field, _)) => format!(", field {}", field + 1),
            None => String::new(),
        };
        Error::configuration("keys", format!("{of}line {line}{field}: {problem}"))
    }
}

impl Iterator for Lines {
    type Item = Result<Item, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.advance() {
            Ok(true) => Some(Ok(self.item())),
            Ok(false) => None,
            Err(error) => {
                self.over = true;
                Some(Err(error))
            }
        }
    }
}

/// Where a column stands in the header: under its name, else under its name in other letters.
fn place(header: &[String], input: &str) -> Result<Option<usize>, String> {
    let among = |is: &dyn Fn(&str) -> bool| {
        let mut places = header.iter().enumerate().filter(|(_, name)| is(name)).map(|(place, _)| place);
        match (places.next(), places.next()) {
            (Some(first), Some(second)) => Err(format!(
                "column {input} is named twice, in fields {} and {}; leave one of them",
                first + 1,
                second + 1
            )),
            (first, _) => Ok(first),
        }
    };
    match among(&|name| name == input)? {
        Some(place) => Ok(Some(place)),
        None => among(&|name| name.eq_ignore_ascii_case(input)),
    }
}

/// What is wrong with a first line that has a wanted column between other separators than commas.
fn separated_otherwise(line: &str, inputs: &[String]) -> Option<String> {
    if let [b's' | b'S', b'e' | b'E', b'p' | b'P', b'=', separator] = line.as_bytes() {
        let separator = char::from(*separator);
        return Some(format!(
            "`{line}` is no header; leave this line out, and have commas in place of `{separator}` between the columns"
        ));
    }
    let wanted = |name: &str| {
        let name = name.trim().trim_matches('"');
        inputs.iter().any(|input| input.eq_ignore_ascii_case(name))
    };
    let (_, separators) = SEPARATORS
        .into_iter()
        .find(|(separator, _)| line.contains(*separator) && line.split(*separator).any(wanted))?;
    Some(format!("the columns are separated by {separators}; have commas in their place"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Line = (u64, Vec<Option<String>>);

    fn check(text: &'static str, inputs: &[&str], keys: usize) -> Result<Vec<Line>, Error> {
        let inputs = inputs.iter().map(|&name| name.to_owned()).collect();
        let wanted = Wanted { inputs, key_types: vec![20; keys], times: Vec::new() };
        let rows = Lines::new(text.as_bytes(), "orders.csv", &wanted)?;
        let rows: Result<Vec<Line>, Error> = rows
            .map(|item| {
                let item = item?;
                Ok((item.line, item.fields.iter().map(|field| field.as_deref().map(str::to_owned)).collect()))
            })
            .collect();
        let counted = Lines::new(text.as_bytes(), "orders.csv", &wanted)?.count();
        assert_eq!(counted.ok(), rows.as_ref().ok().map(|rows| rows.len() as u64), "{text}");
        rows
    }

    fn some(fields: &[&str]) -> Vec<Option<String>> {
        fields.iter().map(|&field| Some(field.to_owned())).collect()
    }

    fn problem(text: &'static str, inputs: &[&str], keys: usize) -> String {
        check(text, inputs, keys).unwrap_err().to_string()
    }

    #[test]
    fn a_file_without_a_header_is_one_key_a_line() {
        let keys = check("7\n\n8\r\n\"a,b\"\n9", &["id"], 1).unwrap();
        let expected = [(1, some(&["7"])), (3, some(&["8"])), (4, some(&["a,b"])), (5, some(&["9"]))];
        assert_eq!(keys, expected);
        assert_eq!(check("", &["id"], 1).unwrap(), []);
        assert_eq!(check("\u{feff}\r\n", &["id", "status"], 1).unwrap(), []);
        assert_eq!(check("\n\nid\n", &["id"], 1).unwrap(), []);
    }

    #[test]
    fn a_header_names_the_columns_in_any_order_and_case() {
        let keys = check("note,status,id\nx,P,7\n\"a,\nb\",\"\",8\ny,Q,9\n", &["id", "status"], 1).unwrap();
        let expected = [(2, some(&["7", "P"])), (3, some(&["8", ""])), (5, some(&["9", "Q"]))];
        assert_eq!(keys, expected);
        let keys = check("\u{feff}\"amount\n(EUR)\", ID ,ID2\n5,A1,x\n", &["id"], 1).unwrap();
        assert_eq!(keys, [(3, some(&["A1"]))]);
        assert_eq!(check("ID,id\n1,2\n", &["id"], 1).unwrap(), [(2, some(&["2"]))]);
    }

    #[test]
    fn an_empty_field_is_null_unless_it_is_in_quotes_and_a_backslash_is_a_character() {
        let text = "id,a,b\n1,,\"\"\n2,\\N,\"\\N\"\n,NULL, \n3,\"\",\r\n";
        let one = |text: &str| Some(text.to_owned());
        let expected = [
            (2, vec![one("1"), None, one("")]),
            (3, vec![one("2"), one(r"\N"), one(r"\N")]),
            (4, vec![None, one("NULL"), one(" ")]),
            (5, vec![one("3"), one(""), None]),
        ];
        assert_eq!(check(text, &["id", "a", "b"], 1).unwrap(), expected);
        let keys = check("\"\"\n\n\\N\n", &["code"], 1).unwrap();
        assert_eq!(keys, [(1, some(&[""])), (3, some(&[r"\N"]))]);
    }

    #[test]
    fn a_row_that_does_not_fit_is_named_and_so_is_every_kind_of_header_that_does_not() {
        let twice =
            "keys: orders.csv, line 1: column id is named twice, in fields 1 and 3; leave one of them";
        assert_eq!(problem("id,note,id\n1,x,2\n", &["id"], 1), twice);
        assert!(problem("Id,ID\n1,2\n", &["id"], 1).contains("named twice"));
        assert_eq!(
            problem("id,note\n1,x\n", &["id", "status"], 1),
            "keys: orders.csv, line 1: the header has no column status"
        );
        let none = "keys: orders.csv, line 1: the first line has no column id, so it is no header";
        assert_eq!(problem("1,x\n2,y\n", &["id"], 1), none);
        assert_eq!(
            problem("id,status\n1,P\n\n2\n", &["id", "status"], 1),
            "keys: orders.csv, line 4: 1 field, and the header has 2"
        );
        assert_eq!(
            problem("id,status\r\n1,\"a\r\nb\"\r\n2,P,x\r\n", &["id"], 1),
            "keys: orders.csv, line 4: 3 fields, and the header has 2; a field that has a comma is written in quotes"
        );
        assert_eq!(
            problem("1\n2\n3,50\n", &["id"], 1),
            "keys: orders.csv, line 3: 2 fields in place of one key; a key that has a comma is written in quotes"
        );
        assert_eq!(
            problem("id,note\n1,\"5 inch\n2,b\n3,c\n", &["id"], 1),
            "keys: orders.csv, line 2, column note: the quote that opens the field is never closed"
        );
    }

    #[test]
    fn other_separators_are_named() {
        let separated = |text, inputs: &[&str], separators: &str| {
            let expected = format!(
                "keys: orders.csv, line 1: the columns are separated by {separators}; have commas in their place"
            );
            assert_eq!(problem(text, inputs, 1), expected);
        };
        separated("code;status\nA1;x\n", &["code"], "semicolons");
        separated("\"status\";\"Code\"\nA1;x\n", &["code"], "semicolons");
        separated("code\tstatus\nA1\tx\n", &["code", "status"], "tabs");
        separated("code|note, long\nA1|x\n", &["code"], "vertical bars");
        assert!(problem("sep=;\ncode;status\nA1;x\n", &["code"], 1).contains("line 1: `sep=;` is no header"));
        // A key may look like that.
        assert_eq!(check("1;A\n2;B\n", &["code"], 1).unwrap().len(), 2);
    }
}
