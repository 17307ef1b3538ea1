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
        while words.len() < 16 {
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

    /// Whether it sets what must be set before the first query of a transaction, or only for those that follow; and the
    /// options that do it. What a transaction has anyway may be set at any time, and READ ONLY, too.
    fn sets_too_late(&self) -> Option<Vec<(&'static str, String)>> {
        if self.word(0) != "set" {
            return None;
        }
        let scoped = matches!(self.word(1), "session" | "local");
        let name = 1 + usize::from(scoped);
        let found = match self.word(name) {
            "transaction" if self.has("snapshot") => return Some(Vec::new()),
            "transaction" => modes(&self.words[name..]),
            "characteristics" if scoped => modes(&self.words[name..]),
            "transaction_isolation" | "default_transaction_isolation" => {
                vec![(ISOLATION, self.assigned(name))]
            }
            "transaction_deferrable" => vec![(DEFERRABLE, self.assigned(name))],
            _ => return None,
        };
        let matters = |(option, value): &(&str, String)| match *option {
            ISOLATION => !matches!(value.as_str(), "read committed" | "default"),
            DEFERRABLE => self.word(name) != "characteristics",
            _ => false,
        };
        found.iter().any(matters).then_some(found)
    }

    /// The value behind TO or `=`.
    fn assigned(&self, name: usize) -> String {
        match self.word(name + 2) {
            "'" => self.value.trim_matches('\'').to_lowercase(),
            _ => self.words[(name + 2).min(self.words.len())..].join(" "),
        }
    }

    /// SET ROLE NONE, SET role TO 'none', SET SESSION AUTHORIZATION DEFAULT.
    fn names_nobody(&self, at: usize) -> bool {
        let at = at + usize::from(matches!(self.word(at), "to" | "="));
        matches!(self.word(at), "none" | "default") || self.value.eq_ignore_ascii_case("'none'")
    }
}

const ISOLATION: &str = "transaction_isolation";
const DEFERRABLE: &str = "transaction_deferrable";

/// The modes of a transaction as settings.
fn modes(words: &[String]) -> Vec<(&'static str, String)> {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let mut found = Vec::new();
    for at in 0..words.len() {
        let not = at > 0 && word(at - 1) == "not";
        match (word(at), word(at + 1)) {
            ("level", first @ ("read" | "repeatable")) => {
                found.push((ISOLATION, format!("{first} {}", word(at + 2))));
            }
            ("level", "serializable") => found.push((ISOLATION, "serializable".to_owned())),
            ("read", "only") => found.push(("transaction_read_only", "on".to_owned())),
            ("read", "write") => found.push(("transaction_read_only", "off".to_owned())),
            ("deferrable", _) => found.push((DEFERRABLE, if not { "off" } else { "on" }.to_owned())),
            _ => {}
        }
    }
    found
}

/// The options that are to be given in place of a statement.
fn instead(options: &[(&str, String)]) -> String {
    let option = |(name, value): &(&str, String)| format!("`settings.{name} = {value}`");
    let options: Vec<String> = options.iter().map(option).collect();
    if options.is_empty() { String::new() } else { format!(", and add {}", options.join(" ")) }
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
        if manner == Manner::Transaction
            && let Some(options) = words.sets_too_late()
        {
            let place = statement.place(script);
            return Some(format!(
                "SET of the transaction's mode{place} comes too late, since Headcount has begun that transaction with \
                 queries of its own; leave it out{}",
                instead(&options)
            ));
        }
        let Some(control) = words.control() else { continue };
        if manner == Manner::Transaction {
            let place = statement.place(script);
            let keywords = words.keywords();
            let options = match control {
                Control::Begin => instead(&modes(&words.words[1..])),
                _ => String::new(),
            };
            return Some(format!(
                "{keywords}{place} would end the transaction that a rejected attempt is rolled back with; leave it \
                 out{options}"
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
        "a role is left set{place}: write SET LOCAL ROLE in its place, add `settings.role = ...`, or end with RESET ROLE"
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
    fn a_mode_that_must_come_before_any_query_is_refused_with_the_option_for_it() {
        let check = |sql: &str, options: &str| {
            let flaw = found(sql, Manner::Transaction).unwrap_or_else(|| panic!("nothing is said of {sql}"));
            assert!(flaw.starts_with("SET of the transaction's mode"), "{sql}: {flaw}");
            let expected =
                if options.is_empty() { "leave it out".to_owned() } else { format!(", and add {options}") };
            assert!(flaw.ends_with(&expected), "{sql}: {flaw}");
        };
        check(
            "set transaction isolation level serializable",
            "`settings.transaction_isolation = serializable`",
        );
        check(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY, NOT DEFERRABLE; select 1",
            "`settings.transaction_isolation = repeatable read` `settings.transaction_read_only = on` `settings.transaction_deferrable = off`",
        );
        check(
            "set local transaction_isolation = 'Serializable'",
            "`settings.transaction_isolation = serializable`",
        );
        check(
            "set transaction_isolation to 'repeatable read'",
            "`settings.transaction_isolation = repeatable read`",
        );
        check("set transaction_deferrable = on", "`settings.transaction_deferrable = on`");
        check(
            "set session characteristics as transaction isolation level serializable",
            "`settings.transaction_isolation = serializable`",
        );
        check(
            "set default_transaction_isolation to serializable",
            "`settings.transaction_isolation = serializable`",
        );
        check("set transaction snapshot '00000003-1'", "");
        let line =
            found("select 1;\nset transaction isolation level serializable", Manner::Transaction).unwrap();
        assert!(line.contains("mode (line 2) comes too late"), "{line}");
        for sql in [
            "set transaction read only",
            "set transaction read write",
            "set transaction isolation level read committed",
            "set local transaction_isolation = 'read committed'",
            "set transaction_isolation to default",
            "set local transaction_timeout = 0",
            "set local work_mem = '1MB'",
            "set default_transaction_read_only = off",
        ] {
            assert_eq!(found(sql, Manner::Transaction), None, "{sql}");
        }
        assert_eq!(found("set transaction isolation level serializable", Manner::Apart), None);
        let begin =
            found("begin isolation level serializable; select 1; commit", Manner::Transaction).unwrap();
        assert!(begin.starts_with("BEGIN would end"), "{begin}");
        assert!(
            begin.ends_with("leave it out, and add `settings.transaction_isolation = serializable`"),
            "{begin}"
        );
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
