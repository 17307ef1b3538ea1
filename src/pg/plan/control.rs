//! How a script leaves its session: pure.
//!
//! What a script does to transactions and roles must be over when it is. In a transaction of ours nothing may begin
//! or end one: a rejected attempt is rolled back with it. Apart from one, a transaction that is begun and not ended
//! would be rolled back when the session ends, and a prepared one would keep its locks for ever; neither is "done
//! and kept". A role that is left set would run what comes next, the look at the fate of a commit among it.
//!
//! All of these are statements of their own, which no function can run, but for the role. So the text tells,
//! before anything runs.

use super::flaw::Manner;
use super::lexer::{Lexer, Token};
use super::statements::Cut;

/// What a statement does to transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Control {
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END, ROLLBACK, ABORT.
    End {
        /// AND CHAIN: the next one begins at once.
        chain: bool,
    },
    /// PREPARE TRANSACTION.
    Prepare(String),
    /// COMMIT PREPARED, ROLLBACK PREPARED.
    EndPrepared(String),
}

/// The first words of a statement, and its values, as far as they matter here.
struct Words {
    words: Vec<String>,
    /// The last value: the name in PREPARE TRANSACTION.
    value: String,
}

impl Words {
    fn of(statement: &Cut<'_>) -> Self {
        let mut lexer = Lexer::read_as(statement.text, statement.strings);
        let (mut words, mut value) = (Vec::new(), String::new());
        // The longest of these statements has fewer.
        while words.len() < 12 {
            let before = lexer.read();
            match lexer.next() {
                Some(Token::Word(word)) => words.push(word),
                // A role in double quotes is no keyword.
                Some(Token::Quoted(name)) => words.push(format!("\"{name}\"")),
                Some(Token::Value) => {
                    lexer.token_since(before).clone_into(&mut value);
                    words.push("'".to_owned());
                }
                Some(_) => words.push("=".to_owned()),
                None => break,
            }
        }
        Self { words, value }
    }

    fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", String::as_str)
    }

    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|found| found == word)
    }

    fn control(&self) -> Option<Control> {
        Some(match (self.word(0), self.word(1)) {
            ("prepare", "transaction") => Control::Prepare(self.value.clone()),
            ("commit" | "rollback", "prepared") => Control::EndPrepared(self.value.clone()),
            ("begin" | "start", _) => Control::Begin,
            // ROLLBACK TO a savepoint.
            ("rollback" | "abort", _) if self.has("to") => return None,
            ("commit" | "end" | "abort" | "rollback", _) => {
                Control::End { chain: self.has("chain") && !self.has("no") }
            }
            _ => return None,
        })
    }

    /// The keywords of that, as they are read.
    fn keywords(&self) -> String {
        let second = Some(self.word(1)).filter(|word| matches!(*word, "transaction" | "prepared"));
        let both = [Some(self.word(0)), second];
        both.into_iter().flatten().map(str::to_uppercase).collect::<Vec<_>>().join(" ")
    }

    /// Whether it sets a role (`Some(true)`) or takes it back, for longer than a transaction.
    fn role(&self) -> Option<bool> {
        let scoped = matches!(self.word(1), "session" | "local") && self.word(2) != "authorization";
        let name = 1 + usize::from(scoped);
        if self.word(1) == "local" {
            return None;
        }
        match (self.word(0), self.word(name)) {
            ("discard", "all") | ("reset", "role" | "session") => Some(false),
            ("set", "role") => Some(!self.names_nobody(name + 1)),
            ("set", "session") if self.word(2) == "authorization" => Some(!self.names_nobody(3)),
            ("set", "session_authorization") => Some(!self.names_nobody(name + 1)),
            _ => None,
        }
    }

    /// SET ROLE NONE, SET role TO 'none', SET SESSION AUTHORIZATION DEFAULT.
    fn names_nobody(&self, at: usize) -> bool {
        let at = at + usize::from(matches!(self.word(at), "to" | "="));
        matches!(self.word(at), "none" | "default") || self.value.eq_ignore_ascii_case("'none'")
    }
}

/// What the script would leave behind, or do to a transaction that is not its own, as a clause.
pub(super) fn flaw(script: &str, statements: &[Cut<'_>], manner: Manner) -> Option<String> {
    let mut open: Option<&Cut<'_>> = None;
    let mut prepared: Vec<(String, &Cut<'_>)> = Vec::new();
    let mut role: Option<&Cut<'_>> = None;
    for statement in statements {
        let words = Words::of(statement);
        match words.role() {
            Some(true) => role = Some(statement),
            Some(false) => role = None,
            None => {}
        }
        let Some(control) = words.control() else { continue };
        if manner == Manner::Transaction {
            let place = statement.place(script);
            let keywords = words.keywords();
            return Some(format!(
                "{keywords}{place} would end the transaction that a rejected attempt is rolled back with; leave it out"
            ));
        }
        match control {
            Control::Begin | Control::End { chain: true } => open = Some(statement),
            Control::End { chain: false } => open = None,
            Control::Prepare(name) => {
                open = None;
                prepared.push((name, statement));
            }
            Control::EndPrepared(name) => prepared.retain(|(known, _)| *known != name),
        }
    }
    if let Some(statement) = open {
        let place = statement.place(script);
        return Some(format!(
            "the transaction that it begins{place} is not ended, and what it does would be rolled back: end it with COMMIT"
        ));
    }
    if let Some((name, statement)) = prepared.first() {
        let place = statement.place(script);
        return Some(format!(
            "PREPARE TRANSACTION{place} would leave a transaction that keeps its locks until somebody ends it: \
             add COMMIT PREPARED {name}, or leave it out"
        ));
    }
    let place = role?.place(script);
    Some(format!(
        "a role is left set{place}: write SET LOCAL ROLE in its place, say --set role=..., or end with RESET ROLE"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::lexer::Strings;
    use super::super::statements::cut;
    use super::*;

    fn found(sql: &str, manner: Manner) -> Option<String> {
        flaw(sql, &cut(sql, Strings::Standard), manner)
    }

    #[test]
    fn what_begins_or_ends_a_transaction_is_refused_in_one_of_ours() {
        let check = |sql: &str, keywords: &str| {
            let flaw = found(sql, Manner::Transaction).unwrap_or_else(|| panic!("nothing is said of {sql}"));
            assert!(flaw.starts_with(&format!("{keywords} would end")), "{sql}: {flaw}");
        };
        check("select 1; COMMIT; select 2", "COMMIT");
        check("/* nightly */ Begin; select 1", "BEGIN");
        check("select 1; rollback", "ROLLBACK");
        check("start transaction read only; select 1", "START TRANSACTION");
        check("end", "END");
        check("abort", "ABORT");
        check("select 1; prepare transaction 'a'", "PREPARE TRANSACTION");
        check("commit prepared 'a'", "COMMIT PREPARED");
        check("create function f() returns int begin atomic select 1; end; end", "END");
        let lines = found("select 1;\n\ncommit", Manner::Transaction).unwrap();
        assert!(lines.starts_with("COMMIT (line 3) "), "{lines}");
        for sql in [
            "savepoint a; delete from t; rollback to a; rollback transaction to savepoint a; release a",
            "select 'commit'; select \"commit\" from t -- commit",
            "create function f() returns int begin atomic select 1; end; select f()",
            "do $$ begin perform 1; end $$",
            "prepare transactions as select 1; execute transactions",
        ] {
            assert_eq!(found(sql, Manner::Transaction), None, "{sql}");
        }
    }

    #[test]
    fn what_is_begun_has_to_be_ended() {
        let check = |sql: &str, words: &str| {
            let flaw = found(sql, Manner::Apart).unwrap_or_else(|| panic!("nothing is said of {sql}"));
            assert!(flaw.contains(words), "{sql}: {flaw}");
        };
        check("begin; select 1", "begins is not ended");
        check("update t set a = 1; COMMIT; BEGIN; update t set a = 2", "is not ended");
        check("begin; select 1; commit and chain; select 2", "is not ended");
        check("begin;\ncommit;\nstart transaction;\nselect 1", "begins (line 3)");
        check("begin; select 1; prepare transaction 'a'", "add COMMIT PREPARED 'a'");
        check(
            "begin; prepare transaction 'a'; begin; prepare transaction 'b'; commit prepared 'a'",
            "PREPARED 'b'",
        );
        for sql in [
            "begin; select 1; commit",
            "begin; select 1; rollback to a; end; select 2",
            "begin; select 1; commit and no chain",
            "begin; prepare transaction 'a'; rollback prepared 'a'",
            "commit",
            "vacuum",
        ] {
            assert_eq!(found(sql, Manner::Apart), None, "{sql}");
        }
    }

    #[test]
    fn a_role_is_not_left_set() {
        for manner in [Manner::Transaction, Manner::Apart] {
            for sql in [
                "set role app; select 1",
                "select 1; SET SESSION ROLE \"none\"",
                "set role = 'app'",
                "set role to app; reset role; set role b",
                "set session authorization app",
                "set local role a; set role b",
            ] {
                assert!(found(sql, manner).is_some_and(|flaw| flaw.contains("role is left set")), "{sql}");
            }
            for sql in [
                "set local role app; select 1",
                "set role app; select 1; reset role",
                "set role app; set role none",
                "set role app; set role to 'NONE'",
                "set session authorization app; reset session authorization",
                "set session authorization app; set session authorization default",
                "set roles = 1; set search_path to role",
                "set session characteristics as transaction read only",
            ] {
                assert_eq!(found(sql, manner), None, "{sql}");
            }
        }
    }
}
