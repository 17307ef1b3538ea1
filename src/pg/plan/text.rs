//! Reading a statement's text: pure, and no parser.
//!
//! Two questions are asked of the text. Whether EXPLAIN takes the statement: asking the server
//! would abort the caller's transaction with a syntax error. And which names it calls: the server
//! drops an unsafe function that it inlines from the plan, but not from the text. Tokens are enough
//! for both; a parser of one's own would lag behind each server version.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::lexer::{Lexer, Strings, Token};

/// What EXPLAIN can do with a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It has a plan.
    Query,
    /// DECLARE: it has a plan, never a parallel one.
    Cursor,
    /// REFRESH MATERIALIZED VIEW: it runs the view's query.
    Refresh,
    /// VACUUM and CREATE INDEX: no plan, but a bound.
    Maintenance,
    /// SET or RESET: it changes the plans of what follows in a script.
    Setting,
    /// It starts no worker, and changes only what it names: DROP TABLE, TRUNCATE, CREATE TABLE without a
    /// query...
    Definition,
    /// It cannot be explained, and why.
    Opaque(&'static str),
}

pub(super) const NO_PLAN: &str = "EXPLAIN does not take this kind of statement";

/// A name followed by arguments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
        Self::read_as(text, Strings::Standard)
    }

    /// The same where strings are read so.
    pub(super) fn read_as(text: &str, strings: Strings) -> Self {
        Self(Lexer::read_as(text, strings).collect())
    }

    /// What one statement is, by its leading keywords.
    pub(super) fn kind(&self) -> Kind {
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
            "vacuum" => Kind::Maintenance,
            "create" if self.is_about(&["index"]) => Kind::Maintenance,
            "refresh" if self.refreshed().is_some() => Kind::Refresh,
            "set" | "reset" if !self.changes_roles() => Kind::Setting,
            "drop" | "truncate" if self.mentions(&["cascade"]) => Kind::Opaque(NO_PLAN),
            "truncate" | "comment" | "grant" | "revoke" | "lock" | "savepoint" | "release" => {
                Kind::Definition
            }
            "drop" if self.is_about(&["table", "view", "materialized", "index", "sequence"]) => {
                Kind::Definition
            }
            "create" if self.is_about(&["table", "sequence"]) => Kind::Definition,
            _ => Kind::Opaque(NO_PLAN),
        }
    }

    /// SAVEPOINT, RELEASE, ROLLBACK TO.
    pub(super) fn is_about_savepoints(&self) -> bool {
        let Some(Token::Word(first)) = self.0.first() else { return false };
        match first.as_str() {
            "savepoint" | "release" => true,
            "rollback" | "abort" => self.mentions(&["to"]),
            _ => false,
        }
    }

    /// FETCH and MOVE: the query of a cursor never has workers.
    pub(super) fn reads_a_cursor(&self) -> bool {
        matches!(self.0.first(), Some(Token::Word(first)) if ["fetch", "move"].contains(&first.as_str()))
    }

    /// DROP or CREATE of such an object.
    fn is_about(&self, kinds: &[&str]) -> bool {
        let flags = ["global", "local", "temp", "temporary", "unlogged", "unique"];
        let mut words = self.0.iter().skip(1);
        let kind = words.find(|token| !matches!(token, Token::Word(word) if flags.contains(&word.as_str())));
        matches!(kind, Some(Token::Word(word)) if kinds.contains(&word.as_str()))
    }

    /// SET or RESET of who runs what follows, or of the transaction, and not of a setting.
    fn changes_roles(&self) -> bool {
        let others = ["role", "authorization", "transaction", "characteristics", "constraints"];
        self.0
            .iter()
            .skip(1)
            .take(2)
            .any(|token| matches!(token, Token::Word(word) if others.contains(&word.as_str())))
    }

    /// The materialized view that REFRESH fills, quoted, and whether it is done CONCURRENTLY. `None` for
    /// WITH NO DATA, which empties it.
    pub(super) fn refreshed(&self) -> Option<(String, bool)> {
        let word = |at: usize| match self.0.get(at) {
            Some(Token::Word(word)) => word.as_str(),
            _ => "",
        };
        if (word(1), word(2)) != ("materialized", "view") {
            return None;
        }
        let concurrently = word(3) == "concurrently";
        let mut name = String::new();
        for (position, token) in self.0.iter().enumerate().skip(3 + usize::from(concurrently)) {
            match token {
                Token::Mark('.') => name.push('.'),
                Token::Word(word) if word == "with" => {
                    let emptied = matches!(self.0.get(position + 1), Some(Token::Word(no)) if no == "no");
                    return (!emptied).then_some((name, concurrently));
                }
                Token::Word(part) | Token::Quoted(part) => {
                    let _ = write!(name, "\"{}\"", part.replace('"', "\"\""));
                }
                _ => {}
            }
        }
        Some((name, concurrently))
    }

    /// The names of what it makes or changes, when it is no more than that: for a query, the table that
    /// it makes, if it makes one.
    pub(super) fn changed(&self) -> BTreeSet<String> {
        let end = match self.kind() {
            Kind::Query if self.creates_from_query() => {
                self.0.iter().position(|token| matches!(token, Token::Word(word) if word == "as"))
            }
            // Where SELECT INTO has its table needs a parser.
            Kind::Query if !self.mentions(&["into"]) => Some(0),
            _ => None,
        };
        let end = end.unwrap_or(self.0.len());
        let word = |position: usize| match &self.0[position] {
            Token::Word(word) => word.as_str(),
            _ => "",
        };
        // IF EXISTS stands in queries, too.
        let keyword = |position: usize| match word(position) {
            "table" | "create" => true,
            "exists" => position > 0 && matches!(word(position - 1), "if" | "not"),
            _ => false,
        };
        let names = (0..end).filter(|position| !keyword(*position));
        names.filter_map(|position| self.name(position)).map(str::to_owned).collect()
    }

    /// CREATE TABLE ... AS or CREATE MATERIALIZED VIEW ... AS.
    pub(super) fn creates_from_query(&self) -> bool {
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
            "create view v as select 1",
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
            "call p()",
            "do $$ begin end $$",
            "explain analyze select 1",
            "analyze select 1",
            "(analyze) delete from t",
            "/* unclosed",
            "refresh materialized view m with no data",
            "set role app",
            "drop table t cascade",
            "drop function f()",
        ] {
            assert!(is_opaque(sql), "{sql}");
        }
    }

    #[test]
    fn what_starts_no_worker_is_told_from_what_may() {
        for sql in [
            "drop table if exists t",
            "truncate t, u",
            "create table x (a int generated always as (1) stored)",
            "create temp table \"as\" (a int)",
        ] {
            assert_eq!(kind(sql), Kind::Definition, "{sql}");
        }
        for sql in
            ["vacuum (parallel 2) t", "create index on t (a)", "create unique index concurrently i on t (a)"]
        {
            assert_eq!(kind(sql), Kind::Maintenance, "{sql}");
        }
        for sql in ["set local work_mem = '1GB'", "SET search_path TO a, b", "reset all"] {
            assert_eq!(kind(sql), Kind::Setting, "{sql}");
        }
        let refreshed = |sql| Text::new(sql).refreshed();
        assert_eq!(
            refreshed("refresh materialized view S.\"a\"\"b\""),
            Some((r#""s"."a""b""#.to_owned(), false))
        );
        assert_eq!(
            refreshed("refresh materialized view concurrently m with data"),
            Some((r#""m""#.to_owned(), true))
        );
    }

    #[test]
    fn a_query_changes_no_more_than_the_table_that_it_makes() {
        let changed = |sql| Text::new(sql).changed().into_iter().collect::<Vec<_>>();
        assert_eq!(changed("select a from b"), [""; 0]);
        assert_eq!(changed("create table s.a as select b as c from d"), ["a", "s"]);
        assert!(changed("select a into made from b").contains(&"made".to_owned()));
        assert_eq!(changed("drop table if exists t"), ["drop", "if", "t"]);
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
