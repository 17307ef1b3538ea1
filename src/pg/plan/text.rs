//! Reading a statement's text: pure, and no parser.
//!
//! Two questions are asked of the text. Whether EXPLAIN takes the statement: asking the server
//! would abort the caller's transaction with a syntax error. And which names it calls: the server
//! drops an unsafe function that it inlines from the plan, but not from the text. Tokens are enough
//! for both; a parser of one's own would lag behind each server version. Backslashes in plain
//! strings are taken literally (`standard_conforming_strings`, on by default since 9.1).

use std::collections::BTreeSet;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A keyword or an identifier, as the server folds it.
    Word(String),
    /// An identifier in double quotes, never a keyword.
    Quoted(String),
    /// One of `( ) [ ] , ; .`
    Mark(char),
    Operator(String),
    /// A string, a number or a parameter.
    Value,
}

/// What EXPLAIN can do with a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It has a plan.
    Query,
    /// DECLARE: it has a plan, never a parallel one.
    Cursor,
    /// It cannot be explained, and why.
    Opaque(&'static str),
}

/// A name followed by arguments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    pub(super) schema: Option<String>,
    pub(super) name: String,
    /// Arguments given; `None` for `f(*)`.
    pub(super) arguments: Option<usize>,
}

/// A text cut into tokens.
#[derive(Debug)]
pub(super) struct Text(Vec<Token>);

impl Text {
    pub(super) fn new(text: &str) -> Self {
        Self(Lexer { rest: text }.collect())
    }

    /// Whether EXPLAIN takes it, by its leading keyword.
    pub(super) fn kind(&self) -> Kind {
        let end = self.0.iter().position(|token| *token == Token::Mark(';')).unwrap_or(self.0.len());
        if self.0[end..].iter().any(|token| *token != Token::Mark(';')) {
            return Kind::Opaque("several statements in one string");
        }
        let mut words = self.0.iter().skip_while(|token| **token == Token::Mark('('));
        let Some(Token::Word(first)) = words.next() else {
            return Kind::Opaque("it does not begin with a keyword");
        };
        match first.as_str() {
            "select" | "with" | "values" | "table" | "insert" | "update" | "delete" | "merge" | "execute" => {
                Kind::Query
            }
            "declare" => Kind::Cursor,
            "create" if self.creates_from_query() => Kind::Query,
            _ => Kind::Opaque("EXPLAIN does not take this kind of statement"),
        }
    }

    /// The first statement that begins or ends a transaction, by its keyword.
    pub(super) fn transaction_control(&self) -> Option<&str> {
        // `BEGIN ATOMIC ... END` is the body of a routine.
        let body = self.mentions(&["atomic"]);
        self.0.split(|token| *token == Token::Mark(';')).find_map(|statement| {
            let [Token::Word(first), rest @ ..] = statement else { return None };
            let savepoint = rest.iter().any(|token| matches!(token, Token::Word(word) if word == "to"));
            match first.as_str() {
                "begin" | "start" | "commit" | "abort" => Some(first.as_str()),
                "end" if !body => Some(first.as_str()),
                "rollback" if !savepoint => Some(first.as_str()),
                _ => None,
            }
        })
    }

    /// CREATE TABLE ... AS or CREATE MATERIALIZED VIEW ... AS.
    fn creates_from_query(&self) -> bool {
        let mut depth = 0_i32;
        let mut table = false;
        for (position, token) in self.0.iter().enumerate().skip(1) {
            match token {
                Token::Mark('(') => depth += 1,
                Token::Mark(')') => depth -= 1,
                Token::Word(word) if depth == 0 => match word.as_str() {
                    "global" | "local" | "temp" | "temporary" | "unlogged" if !table => {}
                    "table" | "materialized" if !table => table = true,
                    "as" if table => return position > 1,
                    _ if table => {}
                    _ => return false,
                },
                _ if table => {}
                _ => return false,
            }
        }
        false
    }

    /// Every name that is followed by `(`. Many are keywords or types; the catalog tells.
    pub(super) fn calls(&self) -> BTreeSet<Call> {
        let mut calls = BTreeSet::new();
        for position in 1..self.0.len() {
            if self.0[position] != Token::Mark('(') {
                continue;
            }
            let Some(name) = self.name(position - 1) else { continue };
            let qualified = position >= 3 && self.0[position - 2] == Token::Mark('.');
            let schema = if qualified { self.name(position - 3) } else { None };
            let arguments = self.arguments(position);
            calls.insert(Call { schema: schema.map(str::to_owned), name: name.to_owned(), arguments });
        }
        calls
    }

    /// Every identifier, keywords among them.
    pub(super) fn names(&self) -> BTreeSet<String> {
        (0..self.0.len()).filter_map(|position| self.name(position)).map(str::to_owned).collect()
    }

    /// Every operator.
    pub(super) fn operators(&self) -> BTreeSet<String> {
        let operators = self.0.iter().filter_map(|token| match token {
            Token::Operator(operator) => Some(operator.clone()),
            _ => None,
        });
        operators.collect()
    }

    /// Whether one of these keywords stands anywhere.
    pub(super) fn mentions(&self, keywords: &[&str]) -> bool {
        self.0.iter().any(|token| matches!(token, Token::Word(word) if keywords.contains(&word.as_str())))
    }

    fn name(&self, position: usize) -> Option<&str> {
        match &self.0[position] {
            Token::Word(name) | Token::Quoted(name) => Some(name),
            _ => None,
        }
    }

    /// Counts the arguments of the parenthesis that opens at `open`.
    fn arguments(&self, open: usize) -> Option<usize> {
        let (mut depth, mut commas, mut any) = (0, 0, false);
        for token in &self.0[open + 1..] {
            match token {
                Token::Operator(star) if star == "*" && !any => return None,
                Token::Mark(')' | ']') if depth == 0 => break,
                Token::Mark('(' | '[') => depth += 1,
                Token::Mark(')' | ']') => depth -= 1,
                Token::Mark(',') if depth == 0 => commas += 1,
                _ => {}
            }
            any = true;
        }
        Some(if any { commas + 1 } else { 0 })
    }
}

struct Lexer<'a> {
    rest: &'a str,
}

impl Lexer<'_> {
    /// Takes as many characters as the test allows.
    fn take(&mut self, test: impl Fn(char) -> bool) -> &str {
        let end = self.rest.find(|c| !test(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn skip_to(&mut self, end: &str) {
        self.rest = self.rest.find(end).map_or("", |at| &self.rest[at + end.len()..]);
    }

    fn skip_blanks(&mut self) {
        loop {
            self.take(char::is_whitespace);
            if self.rest.starts_with("--") {
                self.skip_to("\n");
            } else if self.rest.starts_with("/*") {
                self.skip_comment();
            } else {
                return;
            }
        }
    }

    /// Comments nest.
    fn skip_comment(&mut self) {
        let mut depth = 0;
        while !self.rest.is_empty() {
            if let Some(rest) = self.rest.strip_prefix("/*") {
                (depth, self.rest) = (depth + 1, rest);
            } else if let Some(rest) = self.rest.strip_prefix("*/") {
                (depth, self.rest) = (depth - 1, rest);
                if depth == 0 {
                    return;
                }
            } else {
                let mut chars = self.rest.chars();
                chars.next();
                self.rest = chars.as_str();
            }
        }
    }

    /// The inside of quotes; the opening one is taken already. A doubled quote is one.
    fn quoted(&mut self, quote: char, escapes: bool) -> String {
        let mut inside = String::new();
        let mut chars = self.rest.chars();
        while let Some(c) = chars.next() {
            if c == '\\' && escapes {
                chars.next();
            } else if c != quote {
                inside.push(c);
            } else if chars.as_str().starts_with(quote) {
                chars.next();
                inside.push(quote);
            } else {
                break;
            }
        }
        self.rest = chars.as_str();
        inside
    }

    /// `$1` or `$tag$ ... $tag$`; the first `$` is taken already.
    fn dollar(&mut self) {
        let tag = self.take(|c| c.is_alphanumeric() || c == '_').to_owned();
        if let Some(rest) = self.rest.strip_prefix('$') {
            self.rest = rest;
            self.skip_to(&format!("${tag}$"));
        }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_blanks();
        let mut chars = self.rest.chars();
        let first = chars.next()?;
        if first.is_alphabetic() || first == '_' {
            // Unquoted names fold as ASCII does; other letters are left alone in UTF-8 databases.
            let word = self.take(|c| c.is_alphanumeric() || matches!(c, '_' | '$')).to_ascii_lowercase();
            if let Some(rest) = self.rest.strip_prefix('\'')
                && matches!(word.as_str(), "e" | "b" | "x" | "n")
            {
                self.rest = rest;
                self.quoted('\'', word == "e");
                return Some(Token::Value);
            }
            return Some(Token::Word(word));
        }
        if first.is_ascii_digit() {
            self.take(|c| c.is_alphanumeric() || matches!(c, '.' | '_'));
            return Some(Token::Value);
        }
        let operator = |c: char| "+-*/<>=~!@#%^&|`?:".contains(c);
        if operator(first) {
            // An operator ends where a comment begins.
            let end = self.rest.find(|c| !operator(c)).unwrap_or(self.rest.len());
            let run = &self.rest[..end];
            let end =
                ["--", "/*"].iter().filter_map(|c| run.find(c)).filter(|at| *at > 0).min().unwrap_or(end);
            let (taken, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Some(Token::Operator(taken.to_owned()));
        }
        self.rest = chars.as_str();
        Some(match first {
            '"' => Token::Quoted(self.quoted('"', false)),
            '\'' => {
                self.quoted('\'', false);
                Token::Value
            }
            '$' => {
                self.dollar();
                Token::Value
            }
            mark => Token::Mark(mark),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(sql: &str) -> Kind {
        Text::new(sql).kind()
    }

    fn is_opaque(sql: &str) -> bool {
        matches!(kind(sql), Kind::Opaque(_))
    }

    #[test]
    fn what_explain_takes_is_known_by_its_leading_keyword() {
        for sql in [
            "select 1",
            "  -- a comment; with SQL\n /* and /* nested */ ; */ (SELECT 1);",
            "((select 1) union (select 2))",
            "WITH x AS (SELECT 1) SELECT * FROM x",
            "values (1)",
            "TABLE t;;",
            "insert into t select 1",
            "MERGE INTO t USING s ON true WHEN MATCHED THEN DO NOTHING",
            "EXECUTE p(3)",
            "select ';' || $$;$$ || $a$ ; $$ $a$ || E'\\';' || \"a;b\" from t",
        ] {
            assert_eq!(kind(sql), Kind::Query, "{sql}");
        }
        assert_eq!(kind("declare c cursor for select 1"), Kind::Cursor);
    }

    #[test]
    fn create_is_a_query_only_when_it_is_made_from_one() {
        for sql in [
            "create table x as select 1",
            "CREATE UNLOGGED TABLE IF NOT EXISTS s.\"as\" (a, b) USING heap WITH (fillfactor = 70) AS SELECT 1, 2",
            "create global temp table x on commit drop as execute p(1)",
            "create materialized view m as select 1 with no data",
        ] {
            assert_eq!(kind(sql), Kind::Query, "{sql}");
        }
        for sql in [
            "create table x (a int generated always as (1) stored)",
            "create table \"as\" (a int)",
            "create view v as select 1",
            "create index on t (a)",
            "create function f() returns int language sql as 'select 1'",
            "create",
        ] {
            assert!(is_opaque(sql), "{sql}");
        }
    }

    #[test]
    fn what_explain_would_refuse_or_run_is_never_sent() {
        for sql in [
            "",
            ";",
            "-- nothing",
            "vacuum big",
            "refresh materialized view m",
            "call p()",
            "do $$ begin end $$",
            "explain analyze select 1",
            "analyze select 1",
            "(analyze) delete from t",
            "select 1; drop table t",
            "/* unclosed",
        ] {
            assert!(is_opaque(sql), "{sql}");
        }
    }

    #[test]
    fn what_begins_or_ends_a_transaction_is_found_and_nothing_else() {
        let found = |sql| Text::new(sql).transaction_control().map(str::to_owned);
        assert_eq!(found("select 1; COMMIT; select 2").as_deref(), Some("commit"));
        assert_eq!(found("/* nightly */ Begin; select 1").as_deref(), Some("begin"));
        assert_eq!(found("select 1; rollback").as_deref(), Some("rollback"));
        assert_eq!(found("savepoint a; delete from t; rollback to a; release a"), None);
        assert_eq!(found("select 'commit'; select \"commit\" from t -- commit"), None);
        assert_eq!(found("create function f() returns int begin atomic select 1; end; select f()"), None);
        assert_eq!(found("do $$ begin perform 1; end $$"), None);
    }

    #[test]
    fn calls_are_found_with_schema_and_arguments() {
        let text =
            Text::new(r#"select app.Slow(a, (b, c)), "My Fn"(), count(*), x in (1, 2) from 'f(1)' -- g(1)"#);
        let calls: Vec<_> =
            text.calls().into_iter().map(|call| (call.schema, call.name, call.arguments)).collect();
        let plain = |name: &str, arguments| (None, name.to_owned(), arguments);
        assert_eq!(
            calls,
            [
                plain("My Fn", Some(0)),
                plain("count", None),
                plain("in", Some(2)),
                (Some("app".to_owned()), "slow".to_owned(), Some(2)),
            ]
        );
    }

    #[test]
    fn operators_end_where_a_comment_begins() {
        let text = Text::new("a <-> b =/* x */ c ~~--\n d");
        assert_eq!(text.operators().into_iter().collect::<Vec<_>>(), ["<->", "=", "~~"]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic_or_hang(sql in "[a-z()';$\"/*\\-. E\\\\é1]{0,60}") {
            let text = Text::new(&sql);
            let _ = (text.kind(), text.calls(), text.names());
        }
    }
}
