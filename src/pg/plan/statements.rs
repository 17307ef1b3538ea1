//! Cutting a script into its statements, and a statement down to its query: pure.
//!
//! The server cuts a script by its grammar, psql by counting (psqlscan.l); this counts as psql does: a
//! semicolon ends a statement unless it stands in parentheses (CREATE RULE) or in the body of a
//! routine (`BEGIN ATOMIC ... END`, 14+). Where that is wrong, EXPLAIN fails and nothing is concluded.

use super::lexer::{Lexer, Token};
use super::text::{Kind, Text};

/// The statements, each without its semicolon and the blanks around it; empty ones are left out.
/// Comments stay: hints are written in them.
pub(crate) fn split(sql: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut lexer = Lexer::new(sql);
    let mut begin = 0;
    let mut current = Current::default();
    while let Some(token) = lexer.next() {
        if token != Token::Mark(';') || current.is_inside() {
            current.read(&token);
            continue;
        }
        if current.tokens > 0 {
            found.push(sql[begin..lexer.read() - 1].trim());
        }
        begin = lexer.read();
        current = Current::default();
    }
    if current.tokens > 0 {
        found.push(sql[begin..].trim());
    }
    found
}

/// The statement that is being read.
#[derive(Default)]
struct Current {
    tokens: usize,
    parentheses: i32,
    /// CREATE FUNCTION or PROCEDURE, whose body may have statements.
    routine: bool,
    blocks: i32,
}

impl Current {
    fn read(&mut self, token: &Token) {
        self.tokens += 1;
        match token {
            Token::Mark('(') => self.parentheses += 1,
            Token::Mark(')') => self.parentheses -= 1,
            // CREATE OR REPLACE FUNCTION: the fourth word at the latest.
            Token::Word(word) if self.tokens <= 4 && matches!(word.as_str(), "function" | "procedure") => {
                self.routine = true;
            }
            Token::Word(word) if self.routine => match word.as_str() {
                "begin" => self.blocks += 1,
                "case" if self.blocks > 0 => self.blocks += 1,
                "end" if self.blocks > 0 => self.blocks -= 1,
                _ => {}
            },
            _ => {}
        }
    }

    const fn is_inside(&self) -> bool {
        self.parentheses > 0 || self.blocks > 0
    }
}

/// The query of CREATE TABLE ... AS: what is left where the table's name is taken by what an earlier
/// statement drops.
pub(super) fn query_of(sql: &str) -> Option<&str> {
    let mut lexer = Lexer::new(sql);
    let (mut depth, mut begin) = (0, None);
    // Where the last three words end: WITH NO DATA, WITH DATA.
    let mut tail: Vec<(usize, Token)> = Vec::new();
    loop {
        let before = lexer.read();
        let Some(token) = lexer.next() else { break };
        match &token {
            Token::Mark('(') => depth += 1,
            Token::Mark(')') => depth -= 1,
            Token::Word(word) if word == "as" && depth == 0 && begin.is_none() => begin = Some(lexer.read()),
            _ => {}
        }
        tail.push((before, token));
        if tail.len() > 3 {
            tail.remove(0);
        }
    }
    let word = |at: usize, expected: &str| {
        tail.len() >= at && matches!(&tail[tail.len() - at].1, Token::Word(word) if word == expected)
    };
    let end = match word(1, "data") {
        true if word(2, "with") => tail[tail.len() - 2].0,
        true if word(3, "with") && word(2, "no") => tail[tail.len() - 3].0,
        _ => sql.len(),
    };
    sql.get(begin?..end).map(str::trim)
}

/// What makes a script impossible to run as it is typed, as a clause.
pub(crate) fn flaw(sql: &str) -> Option<String> {
    let statements = split(sql);
    if statements.is_empty() {
        return Some("there is no statement in it".to_owned());
    }
    statements.into_iter().find_map(|statement| {
        if let Some(flaw) = copy_flaw(statement) {
            return Some(flaw);
        }
        let parameter = parameter(statement)?;
        // PREPARE, and the body of a routine, have parameters of their own.
        let query = matches!(Text::new(statement).kind(), Kind::Query | Kind::Cursor);
        query.then(|| format!("{parameter} is a parameter, and there is no value for it: write the value"))
    })
}

/// COPY between server and client: there is no client at the other end.
pub(crate) fn copy_flaw(statement: &str) -> Option<String> {
    let text = Text::new(statement);
    let stream = ["stdout", "stdin"].into_iter().find(|stream| text.mentions(&[stream]))?;
    let copies = matches!(Lexer::new(statement).next(), Some(Token::Word(word)) if word == "copy");
    copies.then(|| {
        let stream = stream.to_uppercase();
        format!(
            "COPY with {stream} needs a client that takes part: let it be a file on the server, or use psql"
        )
    })
}

/// The first `$1`.
fn parameter(statement: &str) -> Option<&str> {
    let mut lexer = Lexer::new(statement);
    loop {
        let before = lexer.read();
        let token = lexer.next()?;
        let text = lexer.token_since(before);
        if token == Token::Value
            && text.starts_with('$')
            && text[1..].starts_with(|c: char| c.is_ascii_digit())
        {
            return Some(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_semicolon_ends_a_statement_where_the_server_says_so() {
        let script = "-- first;\nselect ';' ;; /* ; */ create rule r as on insert to t do also (select 1; select 2);
            create or replace function f() returns int begin atomic select case when true then 1 end; select 2; end;
            create table \"a;b\" as select $$;$$ ; -- the end;";
        let found = split(script);
        assert_eq!(found.len(), 4, "{found:#?}");
        assert_eq!(found[0], "-- first;\nselect ';'");
        assert!(found[1].ends_with("(select 1; select 2)"));
        assert!(found[2].ends_with("select 2; end"));
        assert_eq!(found[3], "create table \"a;b\" as select $$;$$");
    }

    #[test]
    fn what_only_comments_is_no_statement() {
        assert!(split(" ; -- nothing\n ; /* ; */ ").is_empty());
    }

    #[test]
    fn a_table_is_told_from_the_query_that_fills_it() {
        assert_eq!(query_of("create table a (x) as select 1 as one with data"), Some("select 1 as one"));
        assert_eq!(query_of("CREATE TABLE a AS (TABLE b) WITH NO DATA"), Some("(TABLE b)"));
        assert_eq!(query_of("create table a as table data"), Some("table data"));
        assert_eq!(query_of("create table a (x int)"), None);
    }

    #[test]
    fn what_cannot_run_as_typed_is_said_and_nothing_else() {
        let check = |sql: &str, words: &str| assert!(flaw(sql).unwrap().contains(words), "{sql}");
        check("; -- c", "no statement");
        check("select 1; select a /* $7 */ from t where b = $2 and c = $1", "$2 is a parameter");
        check("copy t to stdout", "STDOUT");
        check("COPY t (a) FROM STDIN WITH (FORMAT csv)", "STDIN");
        for sql in [
            "prepare p as select $1; execute p(1)",
            "create function f(int) returns int language sql return $1 + 1",
            "do $$ begin perform 1; end $$",
            "select $a$ $1 $a$, '$1', \"$1\"",
            "copy t to '/tmp/stdout'",
            "select stdout from t",
        ] {
            assert_eq!(flaw(sql), None, "{sql}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_cutter_panic(sql in "[a-z()';$\"/*\\-. E\\\\é1]{0,60}") {
            let _ = (split(&sql), query_of(&sql), flaw(&sql));
        }
    }
}
