//! A statement in a few words: the operation and the table, never a literal.
//!
//! `db.query.summary` groups traces, so it must have few values: the text itself has one for every
//! date that a job puts into it. A real parser would refuse half of what batch jobs run (VACUUM,
//! REFRESH, DO), so this reads only the words outside comments, strings and parentheses.

/// The longest summary, in characters.
const MAX: usize = 120;
/// Words looked at: enough to find the FROM of a long select list.
const MAX_WORDS: usize = 2000;

/// `SELECT orders`, `CREATE TABLE AS`, `VACUUM orders`: the operation of the first statement of `sql`,
/// and its table where it has one name. Empty for a text without a word.
#[must_use]
pub fn query_summary(sql: &str) -> String {
    let words: Vec<Word<'_>> = Words { rest: sql, depth: 0 }.take(MAX_WORDS).collect();
    let (operation, target) = summarize(&words);
    let mut summary = operation;
    if let Some(target) = target {
        summary.push(' ');
        summary.push_str(target);
    }
    if summary.chars().count() > MAX {
        summary = summary.chars().take(MAX).collect();
    }
    summary
}

/// The operation alone: `CREATE TABLE AS`, `SELECT`.
#[must_use]
pub(super) fn operation(sql: &str) -> String {
    let words: Vec<Word<'_>> = Words { rest: sql, depth: 0 }.take(MAX_WORDS).collect();
    summarize(&words).0
}

/// One word and how deep in parentheses it stands.
#[derive(Debug, Clone, Copy)]
struct Word<'a> {
    text: &'a str,
    depth: u32,
}

impl Word<'_> {
    fn is(&self, keyword: &str) -> bool {
        self.depth == 0 && self.text.eq_ignore_ascii_case(keyword)
    }
}

fn summarize<'a>(words: &[Word<'a>]) -> (String, Option<&'a str>) {
    let Some(first) = words.first() else { return (String::new(), None) };
    // A select may begin with a parenthesis.
    let verb = first.text.to_ascii_uppercase();
    let after = |keyword: &str| position(words, keyword).and_then(|at| name(&words[at + 1..]));
    match verb.as_str() {
        "WITH" => {
            if let Some(write) = first_write(words) {
                return summarize(&write);
            }
            let main = words.iter().skip(1).position(|w| MAIN_VERBS.iter().any(|verb| w.is(verb)));
            main.map_or((verb, None), |at| summarize(&words[at + 1..]))
        }
        "SELECT" if position(words, "INTO").is_some() => ("SELECT INTO".to_owned(), None),
        "SELECT" | "DELETE" => (verb, after("FROM")),
        "INSERT" | "MERGE" => (verb, after("INTO")),
        "UPDATE" | "ANALYZE" | "TRUNCATE" | "REINDEX" | "CLUSTER" | "COPY" | "VACUUM" => {
            (verb, name(&words[1..]))
        }
        "REFRESH" => ("REFRESH MATERIALIZED VIEW".to_owned(), after("VIEW")),
        // What is created often bears a date; what is altered or dropped likewise.
        "CREATE" | "ALTER" | "DROP" => (object(&verb, words), None),
        _ if verb.chars().all(|c| c.is_ascii_alphabetic()) => (verb, None),
        _ => (String::new(), None),
    }
}

const MAIN_VERBS: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE"];
/// The verbs that change rows, in a WITH too.
const WRITES: [&str; 4] = ["INSERT", "UPDATE", "DELETE", "MERGE"];

/// The first statement in a WITH that changes rows, as if it stood alone. The SELECT around it only reads
/// what that returns: `WITH changed AS (UPDATE orders ...) SELECT ...`.
fn first_write<'a>(words: &[Word<'a>]) -> Option<Vec<Word<'a>>> {
    let is_write =
        |word: &Word<'_>| word.depth == 1 && WRITES.iter().any(|verb| word.text.eq_ignore_ascii_case(verb));
    // After AS: not the UPDATE of FOR UPDATE.
    let at = words.windows(2).position(|pair| pair[0].is("AS") && is_write(&pair[1]))? + 1;
    let inside = words[at..].iter().take_while(|word| word.depth > 0);
    Some(inside.map(|word| Word { depth: word.depth - 1, ..*word }).collect())
}

/// Words that may stand between a verb and what it works on.
const FILLERS: [&str; 14] = [
    "ONLY",
    "TABLE",
    "INDEX",
    "CONCURRENTLY",
    "FULL",
    "FREEZE",
    "VERBOSE",
    "ANALYZE",
    "LATERAL",
    "SCHEMA",
    "DATABASE",
    "SYSTEM",
    "IF",
    "EXISTS",
];

fn position(words: &[Word<'_>], keyword: &str) -> Option<usize> {
    words.iter().position(|word| word.is(keyword))
}

/// The first name outside parentheses, unless a subquery stands there.
fn name<'a>(words: &[Word<'a>]) -> Option<&'a str> {
    let next = words.iter().find(|w| w.depth > 0 || !FILLERS.iter().any(|filler| w.is(filler)))?;
    // VACUUM (ANALYZE) orders: its options are in parentheses, and its name follows.
    let next = if next.depth > 0 && OPTIONS.iter().any(|o| next.text.eq_ignore_ascii_case(o)) {
        words.iter().find(|word| word.depth == 0)?
    } else {
        next
    };
    (next.depth == 0).then_some(next.text)
}

const OPTIONS: [&str; 8] = [
    "ANALYZE",
    "FULL",
    "FREEZE",
    "VERBOSE",
    "PARALLEL",
    "INDEX_CLEANUP",
    "SKIP_LOCKED",
    "DISABLE_PAGE_SKIPPING",
];

fn object(verb: &str, words: &[Word<'_>]) -> String {
    const OBJECTS: [&str; 8] =
        ["TABLE", "INDEX", "VIEW", "SCHEMA", "FUNCTION", "SEQUENCE", "TYPE", "EXTENSION"];
    let Some(at) = words.iter().position(|w| OBJECTS.iter().any(|object| w.is(object))) else {
        return verb.to_owned();
    };
    let object = words[at].text.to_ascii_uppercase();
    let materialized = at > 0 && words[at - 1].is("MATERIALIZED");
    let of_a_query = object == "TABLE" && verb == "CREATE" && position(words, "AS").is_some();
    format!(
        "{verb}{} {object}{}",
        if materialized { " MATERIALIZED" } else { "" },
        if of_a_query { " AS" } else { "" }
    )
}

/// Words, dotted and quoted names of a statement; stops at its semicolon.
struct Words<'a> {
    rest: &'a str,
    depth: u32,
}

impl Words<'_> {
    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or("");
    }

    /// Past the end of what `close` closes; past everything when it is not closed.
    fn skip_past(&mut self, from: usize, close: &str) {
        let end = self.rest.get(from..).and_then(|tail| tail.find(close));
        self.skip(end.map_or(self.rest.len(), |at| from + at + close.len()));
    }

    fn skip_block_comment(&mut self) {
        let (mut at, mut open) = (2, 1);
        while open > 0 && at < self.rest.len() {
            let tail = &self.rest.as_bytes()[at..];
            if tail.starts_with(b"*/") {
                (at, open) = (at + 2, open - 1);
            } else if tail.starts_with(b"/*") {
                (at, open) = (at + 2, open + 1);
            } else {
                at += 1;
            }
        }
        self.skip(at);
    }

    /// A string; with backslash escapes if it began with E. A doubled quote reads as two strings.
    fn skip_string(&mut self, escapes: bool) {
        let bytes = self.rest.as_bytes();
        let mut at = 1;
        while at < bytes.len() && bytes[at] != b'\'' {
            at += if escapes && bytes[at] == b'\\' { 2 } else { 1 };
        }
        self.skip(at + 1);
    }

    /// `$tag$ ... $tag$`; or a parameter, `$1`.
    fn skip_dollar(&mut self) {
        let tag = self.rest[1..].find('$').map(|end| &self.rest[..end + 2]);
        match tag {
            Some(tag) if tag[1..tag.len() - 1].chars().all(|c| c.is_alphanumeric() || c == '_') => {
                self.skip_past(tag.len(), tag);
            }
            _ => self.skip(1),
        }
    }

    /// The length of a name, `schema.table` and `"My Table"` included.
    fn name_len(&self) -> usize {
        let bytes = self.rest.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'"' => at += 2 + self.rest[at + 1..].find('"').unwrap_or(self.rest.len() - at - 1),
                b if b.is_ascii_alphanumeric() || b == b'_' || b == b'.' || b == b'$' || b >= 0x80 => at += 1,
                _ => break,
            }
        }
        at.min(self.rest.len())
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        loop {
            let bytes = self.rest.as_bytes();
            match *bytes.first()? {
                b';' => return None,
                b'-' if bytes.starts_with(b"--") => self.skip_past(2, "\n"),
                b'/' if bytes.starts_with(b"/*") => self.skip_block_comment(),
                b'\'' => self.skip_string(false),
                b'e' | b'E' if bytes.get(1) == Some(&b'\'') => {
                    self.skip(1);
                    self.skip_string(true);
                }
                b'$' => self.skip_dollar(),
                b'(' => {
                    self.depth += 1;
                    self.skip(1);
                }
                b')' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.skip(1);
                }
                b if b.is_ascii_alphabetic() || b == b'_' || b == b'"' || b >= 0x80 => {
                    let text = &self.rest[..self.name_len()];
                    self.skip(text.len());
                    return Some(Word { text, depth: self.depth });
                }
                // A number with what sticks to it, or a sign.
                b if b.is_ascii_digit() => self.skip(self.name_len().max(1)),
                _ => self.skip(1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(sql: &str, expected: &str) {
        assert_eq!(query_summary(sql), expected, "{sql}");
    }

    #[test]
    fn the_operation_and_its_one_table_are_named() {
        check("SELECT count(*) FROM orders WHERE id = 7", "SELECT orders");
        check(
            "select extract(year from d), sum(x) from sales.orders o join l on true",
            "SELECT sales.orders",
        );
        check("UPDATE ONLY \"My Orders\" SET a = 1", "UPDATE \"My Orders\"");
        check("INSERT INTO t SELECT * FROM u", "INSERT t");
        check("DELETE FROM t USING u", "DELETE t");
        check("REFRESH MATERIALIZED VIEW CONCURRENTLY rollup", "REFRESH MATERIALIZED VIEW rollup");
        check("VACUUM (PARALLEL 4, ANALYZE) orders", "VACUUM orders");
        check("ANALYZE", "ANALYZE");
    }

    #[test]
    fn what_is_created_is_not_named() {
        check("CREATE TABLE rollup_20260101 AS SELECT * FROM orders", "CREATE TABLE AS");
        check("CREATE UNLOGGED TABLE t (a int)", "CREATE TABLE");
        check("CREATE MATERIALIZED VIEW v AS SELECT 1", "CREATE MATERIALIZED VIEW");
        check("CREATE UNIQUE INDEX CONCURRENTLY i ON orders (id)", "CREATE INDEX");
        check("SELECT * INTO t_20260101 FROM orders", "SELECT INTO");
    }

    #[test]
    fn a_with_query_is_named_by_its_main_statement() {
        check("WITH a AS (SELECT * FROM x) SELECT * FROM a", "SELECT a");
        check("WITH a AS (SELECT 1) UPDATE t SET b = 2", "UPDATE t");
    }

    #[test]
    fn a_with_query_that_changes_rows_is_named_by_that() {
        check("WITH a AS (UPDATE t SET b = 2 FROM (SELECT 1) c RETURNING id) SELECT * FROM a", "UPDATE t");
        check("WITH i AS (SELECT 1), a AS (DELETE FROM t RETURNING *) INSERT INTO u TABLE a", "DELETE t");
        check("WITH a AS (SELECT * FROM t FOR UPDATE) SELECT * FROM a", "SELECT a");
        check("WITH a AS (SELECT x AS update FROM t) SELECT * FROM a", "SELECT a");
    }

    #[test]
    fn comments_strings_and_subqueries_name_nothing() {
        check("-- FROM secret\n/* FROM /* nested */ secret */ SELECT 'it''s FROM secret', 1", "SELECT");
        check(r"SELECT E'\' FROM secret', 2 FROM orders", "SELECT orders");
        check("SELECT $x$ FROM secret $x$ FROM orders WHERE a = $1", "SELECT orders");
        check("SELECT * FROM (SELECT * FROM orders) s", "SELECT");
        check("SELECT 1; DROP TABLE t", "SELECT");
        check("", "");
        check("'secret'", "");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_no_summary_is_long(sql in "\\PC{0,200}") {
            prop_assert!(query_summary(&sql).chars().count() <= MAX);
        }

        #[test]
        fn a_literal_never_shows(literal in "[a-z]{8}", tag in "[a-z]{0,3}") {
            let sql = format!("SELECT '{literal}', ${tag}${literal}${tag}$ FROM t WHERE a = '{literal}'");
            prop_assert_eq!(query_summary(&sql), "SELECT t");
        }
    }
}
