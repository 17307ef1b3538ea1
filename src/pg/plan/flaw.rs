//! What makes a text impossible to run as it is typed: pure.
//!
//! Each is found before anything is sent, and named with its line: the server would find it only when the
//! statements ahead of it have run for hours, or never say what was meant.

use super::control;
use super::lexer::{Lexer, Strings, Token};
use super::statements::{Place, cut, place, readings};
use super::text::{Kind, Text};
use crate::error::Error;

/// How a text is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// In a transaction of ours, which must end with it.
    Transaction,
    /// Each statement by itself.
    Apart,
    /// Not at all: it is only explained.
    Explained,
}

impl Manner {
    /// What [`Settings::transaction`](crate::Settings::transaction) says.
    pub(crate) const fn of(transaction: bool) -> Self {
        if transaction { Self::Transaction } else { Self::Apart }
    }
}

/// Refuses a text that cannot run as it is typed: it has a NUL or a command of psql's, leaves a transaction open, takes
/// part in COPY... `transaction`: whether it is run in a transaction of ours; `None` where it is only explained.
/// [`Job`](crate::Job) asks the same before anything is run; this needs no server.
///
/// # Errors
/// A configuration error that names what is wrong, and the line of it where there are several.
pub fn check(sql: &str, transaction: Option<bool>) -> Result<(), Error> {
    let manner = transaction.map_or(Manner::Explained, Manner::of);
    flaw(sql, manner, false).map_or(Ok(()), |problem| Err(Error::configuration("sql", problem)))
}

/// What is wrong with a script or a statement, as a clause, whatever the session is like. `parameters`: it has values
/// for some.
pub(crate) fn flaw(sql: &str, manner: Manner, parameters: bool) -> Option<String> {
    let each: Option<Vec<String>> =
        readings(sql).iter().map(|strings| flaw_as(sql, *strings, manner, parameters)).collect();
    each?.into_iter().next()
}

/// The same of what undoes an attempt.
pub(crate) fn flaw_of_cleanup(sql: &str) -> Option<String> {
    flaw(sql, Manner::Apart, false)
}

/// The same where the session is known to read strings so.
pub(crate) fn flaw_as(sql: &str, strings: Strings, manner: Manner, parameters: bool) -> Option<String> {
    if let Some(at) = sql.find('\0') {
        return Some(format!("it has a NUL character{}, which PostgreSQL takes in no text", place(sql, at)));
    }
    let statements = cut(sql, strings);
    if let Some((at, flaw)) = meta_command(sql, strings) {
        // What looks like a command may be the data of a COPY before it, or the end of them.
        let mut before = statements.iter().filter(|statement| statement.at() < at);
        let copy =
            before.find_map(|statement| copy_flaw(statement.text, statement.strings, statement.place(sql)));
        return Some(copy.unwrap_or(flaw));
    }
    if statements.is_empty() {
        return Some("there is no statement in it".to_owned());
    }
    let flawed = statements.iter().find_map(|statement| {
        let place = statement.place(sql);
        if manner == Manner::Apart && takes_what_is_there(statement.text, statement.strings) {
            return Some(format!(
                "CREATE INDEX CONCURRENTLY IF NOT EXISTS{place} takes an invalid index, which a cancelled attempt leaves \
                 behind, for the one that is wanted: leave out IF NOT EXISTS"
            ));
        }
        copy_flaw(statement.text, statement.strings, place)
            .or_else(|| missing_value(statement.text, statement.strings, place).filter(|_| !parameters))
    });
    flawed.or_else(|| control::flaw(sql, &statements, manner).filter(|_| manner != Manner::Explained))
}

/// CREATE INDEX CONCURRENTLY IF NOT EXISTS, which asks nobody whether the index that exists is valid.
fn takes_what_is_there(statement: &str, strings: Strings) -> bool {
    let words: Vec<String> = Lexer::read_as(statement, strings)
        .map_while(|token| match token {
            Token::Word(word) => Some(word),
            _ => None,
        })
        .take(7)
        .collect();
    let wanted = ["index", "concurrently", "if", "not", "exists"];
    words.first().is_some_and(|word| word == "create") && words.windows(wanted.len()).any(|run| run == wanted)
}

/// A command of psql's, which begins with a backslash outside of all strings.
fn meta_command(sql: &str, strings: Strings) -> Option<(usize, String)> {
    let mut lexer = Lexer::read_as(sql, strings);
    lexer.find(|token| *token == Token::Mark('\\'))?;
    let at = lexer.read() - 1;
    let command = sql[at..].split(|c: char| c.is_whitespace() || c == ';').next().unwrap_or("\\");
    let flaw = format!(
        "`{command}`{} is a command of psql, which the server does not know: leave it out, or run that file with psql",
        place(sql, at)
    );
    Some((at, flaw))
}

/// COPY between server and client: there is no client at the other end.
fn copy_flaw(statement: &str, strings: Strings, place: Place<'_>) -> Option<String> {
    let mut lexer = Lexer::read_as(statement, strings);
    lexer.next().filter(|first| matches!(first, Token::Word(word) if word == "copy"))?;
    let mut depth = 0;
    // The query and the columns stand in parentheses; FROM or TO comes after them.
    lexer.find(|token| {
        match token {
            Token::Mark('(') => depth += 1,
            Token::Mark(')') => depth -= 1,
            Token::Word(word) => return depth == 0 && matches!(word.as_str(), "from" | "to"),
            _ => {}
        }
        false
    })?;
    let Some(Token::Word(stream)) = lexer.next() else { return None };
    let instead = match stream.as_str() {
        "stdin" => {
            "needs a client that sends the data: have the server read them (COPY ... FROM a file there, or FROM PROGRAM), \
             load them with psql before this, or write them as INSERT ... VALUES (`pg_dump --inserts`)"
        }
        "stdout" => {
            "needs a client that takes the data: have the server write them (COPY ... TO a file there, or TO PROGRAM), or \
             fetch them with psql"
        }
        _ => return None,
    };
    Some(format!("COPY with {}{place} {instead}", stream.to_uppercase()))
}

/// The first `$1`.
fn missing_value(statement: &str, strings: Strings, place: Place<'_>) -> Option<String> {
    // PREPARE, and the body of a routine, have parameters of their own.
    let query = matches!(Text::read_as(statement, strings).kind(), Kind::Query | Kind::Cursor);
    let mut lexer = Lexer::read_as(statement, strings);
    loop {
        let before = lexer.read();
        let token = lexer.next().filter(|_| query)?;
        let text = lexer.token_since(before);
        let number =
            text.strip_prefix('$').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if token == Token::Value && number {
            return Some(format!(
                "{text}{place} is a parameter, and there is no value for it: write the value"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sql: &str) -> Option<String> {
        flaw(sql, Manner::Apart, false)
    }

    fn check(sql: &str, words: &str) {
        let flaw = found(sql).unwrap_or_else(|| panic!("nothing is said of {sql}"));
        assert!(flaw.contains(words), "{sql}: {flaw}");
    }

    #[test]
    fn what_cannot_run_as_typed_is_said_with_its_line() {
        check("; -- c", "no statement");
        check("select 1; select a /* $7 */ from t where b = $2 and c = $1", "$2 is a parameter");
        check("select 1;\nselect 2;\n\nselect $1", "$1 (line 4) is a parameter");
        check("create unique index concurrently if not exists i on t (a)", "leave out IF NOT EXISTS");
        check("copy t to stdout", "STDOUT");
        check("select 1;\nCOPY t (a) FROM STDIN WITH (FORMAT csv)", "STDIN (line 2)");
        check("copy (select 1 as a) to stdout", "STDOUT");
        check("copy binary t from stdin", "STDIN");
        check("select 1;\nselect '\0'", "NUL character (line 2)");
    }

    #[test]
    fn a_command_of_psql_is_named() {
        check("\\set ON_ERROR_STOP on\nselect 1", "`\\set` (line 1) is a command of psql");
        check("select 1;\n\\copy t from 'f'", "`\\copy` (line 2)");
        check("select 1 \\gset", "`\\gset` is");
        check("\\i a.sql;", "`\\i`");
        check("copy t from '/f';\n1\t2\n\\.\n", "`\\.` (line 3)");
        // Whatever the data look like.
        check(
            "select 1;\ncopy t from stdin;\n1\t2\n\\.\nselect 2",
            "COPY with STDIN (line 2) needs a client that sends",
        );
        check("copy t (a) from stdin with (format text);\nit's\t\\N\n\\.\n", "COPY with STDIN (line 1)");
        check("\\set x 1\ncopy t from stdin;\n1\n\\.\n", "`\\set` (line 1)");
    }

    #[test]
    fn nothing_is_said_of_what_can_run() {
        for sql in [
            "prepare p as select $1; execute p(1)",
            "create function f(int) returns int language sql return $1 + 1",
            "do $$ begin perform 1; end $$",
            "select $a$ $1 \\set $a$, '$1', \"$1 \\x\", e'\\n' -- \\set\n /* \\i */",
            "copy t to '/tmp/stdout'",
            "copy (select 1 as stdout) to '/tmp/f'",
            "copy stdout to '/tmp/f'",
            "copy stdin (stdout) from '/tmp/f' with (format csv)",
            "copy t to program 'cat > stdout'",
            "copy (select a from stdin) to '/tmp/f'",
            "select stdout from t",
            "select 'c:\\'; select 1",
            "select 'it\\'s; \\set'",
        ] {
            assert_eq!(found(sql), None, "{sql}");
        }
        assert_eq!(flaw("select $1", Manner::Transaction, true), None);
    }

    #[test]
    fn a_text_that_reads_two_ways_is_judged_when_the_session_is_known() {
        let text = "select 'it\\'s; commit'";
        let as_read = |strings| flaw_as(text, strings, Manner::Transaction, false);
        assert_eq!(flaw(text, Manner::Transaction, false), None);
        assert!(as_read(Strings::Standard).unwrap().contains("COMMIT"));
        assert_eq!(as_read(Strings::Escaped), None);
    }

    /// Long scripts are what `pg_dump --inserts` writes.
    #[test]
    fn a_long_script_is_read_in_a_time_that_grows_with_it_and_not_with_its_square() {
        let took = |statements: usize| {
            let script = "INSERT INTO t VALUES (1, 'a text as long as a short row');\n".repeat(statements);
            let once = || {
                let began = std::time::Instant::now();
                assert_eq!(flaw(&script, Manner::Apart, false), None);
                began.elapsed()
            };
            (0..3).map(|_| once()).min().unwrap()
        };
        let (short, long) = (took(500), took(10_000));
        assert!(long < short * 20 * 5, "{short:?} for 500 statements, {long:?} for 10,000");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(sql in "[a-z()';$\"/*\\-. E\\\\é1]{0,60}") {
            for manner in [Manner::Transaction, Manner::Apart] {
                let _ = flaw(&sql, manner, false);
            }
        }
    }
}
