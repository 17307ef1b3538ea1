//! Cutting a script into its statements, and a statement down to its query: pure.
//!
//! The server cuts a script by its grammar, psql by counting (psqlscan.l); this counts as psql does: a
//! semicolon ends a statement unless it stands in parentheses (CREATE RULE) or in the body of a
//! routine (`BEGIN ATOMIC ... END`, 14+). Where that is wrong, EXPLAIN fails and nothing is concluded.
//!
//! A script that changes `standard_conforming_strings` is read on as it says, since each of its statements is sent
//! by itself.

use std::fmt;

use super::lexer::{Lexer, Strings, Token, is_blank};
use crate::pg::Failure;

/// The statements, each without its semicolon and the blanks around it; empty ones are left out.
/// Comments stay: hints are written in them.
pub(crate) fn split_as(sql: &str, strings: Strings) -> Vec<&str> {
    cut(sql, strings).into_iter().map(|cut| cut.text).collect()
}

/// Both ways to read a text whose session is not known yet; one where they are the same.
pub(super) fn readings(sql: &str) -> &'static [Strings] {
    if sql.contains('\\') { &[Strings::Standard, Strings::Escaped] } else { &[Strings::Standard] }
}

/// A statement, and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut<'a> {
    pub(super) text: &'a str,
    /// The first byte of its first token.
    at: usize,
    pub(super) strings: Strings,
}

impl Cut<'_> {
    /// Where its first token begins.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// Where that is, for people.
    pub(super) const fn place<'s>(&self, script: &'s str) -> Place<'s> {
        place(script, self.at)
    }
}

/// Where a byte stands in a script: shown as ` (line 3)`, or as nothing in a text of one line. The lines are counted when
/// it is shown, since counting them for each statement of a long script would take longer than the script.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    script: &'a str,
    at: usize,
}

pub(super) const fn place(script: &str, at: usize) -> Place<'_> {
    Place { script, at }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |text: &str| text.matches('\n').count() + 1;
        match line(self.script.trim_end()) {
            1 => Ok(()),
            _ => write!(f, " (line {})", line(&self.script[..self.at])),
        }
    }
}

/// As [`split_as`], with the place of each.
pub(super) fn cut(sql: &str, strings: Strings) -> Vec<Cut<'_>> {
    let mut found = Vec::new();
    let mut lexer = Lexer::read_as(sql, strings);
    let mut strings = strings;
    let mut begin = 0;
    let mut current = Current::default();
    loop {
        let before = lexer.read();
        let token = lexer.next();
        let ends = token.as_ref().is_none_or(|token| *token == Token::Mark(';') && !current.is_inside());
        if let Some(token) = token.as_ref().filter(|_| !ends) {
            if current.tokens == 0 {
                current.at = lexer.begin_since(before);
            }
            current.read(token);
            continue;
        }
        let end = if token.is_some() { lexer.read() - 1 } else { sql.len() };
        if current.tokens > 0 {
            found.push(Cut { text: sql[begin..end].trim_matches(is_blank), at: current.at, strings });
        }
        if token.is_none() {
            return found;
        }
        strings = current.strings.unwrap_or(strings);
        lexer.change_strings(strings);
        begin = lexer.read();
        current = Current::default();
    }
}

/// The statement that is being read.
#[derive(Default)]
struct Current {
    tokens: usize,
    at: usize,
    parentheses: i32,
    /// CREATE FUNCTION or PROCEDURE, whose body may have statements.
    routine: bool,
    blocks: i32,
    /// The last two words; nothing where another token stood.
    last: [String; 2],
    /// SET `standard_conforming_strings`.
    sets_strings: bool,
    strings: Option<Strings>,
}

impl Current {
    fn read(&mut self, token: &Token) {
        self.tokens += 1;
        match token {
            Token::Mark('(') => self.parentheses += 1,
            Token::Mark(')') => self.parentheses -= 1,
            Token::Word(word) => self.read_word(word),
            // SET ... = 'off' has a value that is not read: what follows may be read either way.
            _ => {}
        }
        let word = if let Token::Word(word) = token { word.clone() } else { mark(token) };
        let [_, last] = std::mem::take(&mut self.last);
        self.last = [last, word];
    }

    fn read_word(&mut self, word: &str) {
        let [_, last] = &self.last;
        // A column may have any keyword for a name behind AS and a dot.
        let named = matches!(last.as_str(), "as" | ".");
        match word {
            // CREATE OR REPLACE FUNCTION: the fourth word at the latest.
            "function" | "procedure" if self.tokens == 2 && last == "create" => self.routine = true,
            "function" | "procedure" if self.tokens == 4 && last == "replace" => self.routine = true,
            "atomic" if self.routine && self.parentheses == 0 && self.blocks == 0 && last == "begin" => {
                self.blocks = 1;
            }
            "case" if self.blocks > 0 && !named => self.blocks += 1,
            "end" if self.blocks > 0 && !named => self.blocks -= 1,
            "standard_conforming_strings" => {
                self.sets_strings = (self.tokens == 2 && last == "set")
                    || (self.tokens == 3 && matches!(last.as_str(), "session" | "local"));
            }
            "on" | "true" | "yes" | "default" if self.sets_strings => self.strings = Some(Strings::Standard),
            "off" | "false" | "no" if self.sets_strings => self.strings = Some(Strings::Escaped),
            _ => {}
        }
    }

    const fn is_inside(&self) -> bool {
        self.parentheses > 0 || self.blocks > 0
    }
}

/// A mark that counts for the word after it.
fn mark(token: &Token) -> String {
    if *token == Token::Mark('.') { ".".to_owned() } else { String::new() }
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

/// The failure of statement `at` of a script, with its number and line. `within`: where in it, in characters from 0.
/// A text of one line and one statement needs no place.
pub(crate) fn located(
    failure: Failure,
    script: &str,
    statements: &[&str],
    at: usize,
    within: Option<usize>,
) -> Failure {
    let Some(statement) = statements.get(at).filter(|_| failure.sqlstate().is_some()) else { return failure };
    let byte = |within| statement.char_indices().nth(within).map_or(statement.len(), |(byte, _)| byte);
    // Statements are slices of the script.
    let start = (statement.as_ptr() as usize).saturating_sub(script.as_ptr() as usize);
    let Some(before) = script.get(..start + within.map_or(0, byte)) else { return failure };
    let line = before.matches('\n').count() + 1;
    match statements.len() {
        1 if within.is_none() || !script.contains('\n') => failure,
        1 => failure.at(format!("at line {line}")),
        many => failure.at(format!("in statement {} of {many}, at line {line}", at + 1)),
    }
}

/// The failure of one of the statements, with its place.
pub(super) fn failed_in(failure: Failure, sql: &str, statements: &[Cut<'_>], at: usize) -> Failure {
    let within = failure.position().map(|position| position.saturating_sub(1) as usize);
    let texts: Vec<&str> = statements.iter().map(|statement| statement.text).collect();
    located(failure, sql, &texts, at, within)
}

/// The failure to read the whole text, with its place.
pub(super) fn misread(failure: Failure, sql: &str, statements: &[Cut<'_>]) -> Failure {
    let texts: Vec<&str> = statements.iter().map(|statement| statement.text).collect();
    let begins = |text: &str| text.as_ptr() as usize - sql.as_ptr() as usize;
    let place = failure.position().and_then(|position| {
        let (byte, _) = sql.char_indices().nth(position.saturating_sub(1) as usize)?;
        let at = texts.iter().rposition(|text| begins(text) <= byte)?;
        Some((at, sql.get(begins(texts[at])..byte)?.chars().count()))
    });
    match place {
        Some((at, within)) => located(failure, sql, &texts, at, Some(within)),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(sql: &str) -> Vec<&str> {
        split_as(sql, Strings::Standard)
    }

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
    fn the_body_of_a_routine_is_one_with_it_whatever_its_columns_are_called() {
        let count = |sql: &str| split(sql).len();
        let body =
            "begin atomic select 1 as end; select t.end, case when true then 1 end as case from t; end";
        assert_eq!(count(&format!("create procedure p() {body}; select 2")), 2);
        assert_eq!(count("create function begin(begin int) returns int return 1; select 2"), 2);
        assert_eq!(
            count("create function begin.f() returns int language sql as 'a'; begin; select 2; end"),
            4
        );
        assert_eq!(count("drop function begin; select atomic; select 2"), 3);
        assert_eq!(count("create table function (begin int); begin; select 1; end"), 4);
    }

    #[test]
    fn a_script_that_changes_how_strings_are_read_is_read_so() {
        let script = "set standard_conforming_strings = off; select 'it\\'s;'; set local standard_conforming_strings to on;
                      select 'c:\\'; select 2";
        assert_eq!(split(script).len(), 5, "{:#?}", split(script));
        assert_eq!(split_as("select 'it\\'s; commit'; select 1", Strings::Escaped).len(), 2);
    }

    #[test]
    fn what_only_comments_is_no_statement() {
        assert!(split(" ; -- nothing\n ; /* ; */ ").is_empty());
    }

    #[test]
    fn a_place_is_the_line_of_the_first_word_and_only_where_there_are_several() {
        let script = "select 1;\n\n-- two\nselect 2; select 3\n";
        let places = cut(script, Strings::Standard)
            .iter()
            .map(|cut| cut.place(script).to_string())
            .collect::<Vec<_>>();
        assert_eq!(places, [" (line 1)", " (line 4)", " (line 4)"]);
        let alone = "select 1; select 2\n";
        assert_eq!(cut(alone, Strings::Standard)[1].place(alone).to_string(), "");
    }

    #[test]
    fn a_table_is_told_from_the_query_that_fills_it() {
        assert_eq!(query_of("create table a (x) as select 1 as one with data"), Some("select 1 as one"));
        assert_eq!(query_of("CREATE TABLE a AS (TABLE b) WITH NO DATA"), Some("(TABLE b)"));
        assert_eq!(query_of("create table a as table data"), Some("table data"));
        assert_eq!(query_of("create table a (x int)"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_cutter_panic(sql in "[a-z()';$\"/*\\-. E\\\\é1]{0,60}") {
            for strings in [Strings::Standard, Strings::Escaped] {
                let _ = (split_as(&sql, strings), query_of(&sql));
            }
        }
    }
}
