//! Tokens of SQL, as the server's own scanner cuts them (scan.l).
//!
//! What a plain string holds depends on a setting: `standard_conforming_strings` is on by default since 9.1
//! and cannot be off since 19; where it is off, a backslash in one is an escape. Who knows the session says so
//! ([`Strings`]); a text that has no backslash reads the same either way.

/// How plain strings are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Strings {
    /// `standard_conforming_strings = on`: a backslash is a character as any other.
    #[default]
    Standard,
    /// `off`: a backslash is an escape, as in `E'...'`.
    Escaped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword or an identifier, as the server folds it.
    Word(String),
    /// An identifier in double quotes, never a keyword.
    Quoted(String),
    /// One of `( ) [ ] , ; .`, and what the server does not know, such as a backslash.
    Mark(char),
    Operator(String),
    /// A string, a number or a parameter.
    Value,
}

/// Cuts a text into tokens; comments and blanks are none.
#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    rest: &'a str,
    strings: Strings,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self::read_as(text, Strings::Standard)
    }

    pub(super) const fn read_as(text: &'a str, strings: Strings) -> Self {
        Self { text, rest: text, strings }
    }

    /// From here on plain strings are read so.
    pub(super) const fn change_strings(&mut self, strings: Strings) {
        self.strings = strings;
    }

    /// How many bytes are read by now.
    pub(super) const fn read(&self) -> usize {
        self.text.len() - self.rest.len()
    }

    /// Where the token begins that was read since `before`.
    pub(super) fn begin_since(&self, before: usize) -> usize {
        let mut start = Self::read_as(&self.text[before..self.read()], self.strings);
        start.skip_blanks();
        before + start.read()
    }

    /// The text of the token that was read since `before`.
    pub(super) fn token_since(&self, before: usize) -> &'a str {
        &self.text[self.begin_since(before)..self.read()]
    }

    /// Takes as many characters as the test allows.
    fn eat(&mut self, test: impl Fn(char) -> bool) -> &'a str {
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
            self.eat(is_blank);
            if self.rest.starts_with("--") {
                self.eat(|c| !ends_line(c));
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

    /// A string; the opening quote is taken already. Where another one follows on a later line, it goes on there,
    /// with the same escapes.
    fn string(&mut self, escapes: bool) -> Token {
        self.quoted('\'', escapes);
        while let Some(rest) = self.continued() {
            self.rest = rest;
            self.quoted('\'', escapes);
        }
        Token::Value
    }

    /// What follows the opening quote of a string's continuation, if there is one.
    fn continued(&self) -> Option<&'a str> {
        let mut ahead = self.clone();
        let mut next_line = false;
        loop {
            next_line |= ahead.eat(is_blank).contains(ends_line);
            if !ahead.rest.starts_with("--") {
                break;
            }
            ahead.eat(|c| !ends_line(c));
        }
        ahead.rest.strip_prefix('\'').filter(|_| next_line)
    }

    /// `$1`, `$tag$ ... $tag$`, or a stray `$`, which is taken already.
    fn dollar(&mut self) -> Token {
        if self.rest.starts_with(|c: char| c.is_ascii_digit()) {
            self.eat(|c| c.is_ascii_digit());
            return Token::Value;
        }
        let mut ahead = self.clone();
        let tag = ahead.eat(|c| begins_name(c) || c.is_ascii_digit());
        let Some(rest) = ahead.rest.strip_prefix('$') else { return Token::Mark('$') };
        self.rest = rest;
        self.skip_to(&format!("${tag}$"));
        Token::Value
    }

    /// The escape character of what was just read: that of UESCAPE, if it follows, else the backslash.
    fn escape(&mut self) -> char {
        let mut ahead = self.clone();
        if ahead.next() != Some(Token::Word("uescape".to_owned())) {
            return '\\';
        }
        let before = ahead.read();
        ahead.next();
        let escape = ahead.token_since(before).trim_matches('\'').chars().next();
        *self = ahead;
        escape.unwrap_or('\\')
    }

    /// What comes of a name directly before a quote: `E'...'`, `U&"..."`; `None` where it is a name.
    fn prefixed(&mut self, word: &str) -> Option<Token> {
        let quote = match word {
            "e" | "b" | "x" | "n" => "'",
            "u" if self.rest.starts_with("&'") => "&'",
            "u" => "&\"",
            _ => return None,
        };
        self.rest = self.rest.strip_prefix(quote)?;
        let escapes = word == "e" || (word == "n" && self.strings == Strings::Escaped);
        Some(match quote {
            "&\"" => {
                let name = self.quoted('"', false);
                Token::Quoted(decoded(&name, self.escape()))
            }
            _ => self.string(escapes),
        })
    }
}

pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

const fn ends_line(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

/// Whatever is not ASCII is a letter to the server, blanks of other alphabets, too.
const fn begins_name(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

/// The name of `U&"d\0061ta"`.
fn decoded(name: &str, escape: char) -> String {
    let mut text = String::new();
    let mut rest = name;
    while let Some((before, escaped)) = rest.split_once(escape) {
        text.push_str(before);
        let (digits, skipped) = match escaped.strip_prefix('+') {
            Some(digits) => (digits.get(..6), 7),
            None => (escaped.get(..4), 4),
        };
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32);
        rest = if let Some(c) = code {
            text.push(c);
            &escaped[skipped..]
        } else {
            text.push(escape);
            escaped.strip_prefix(escape).unwrap_or(escaped)
        };
    }
    text + rest
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_blanks();
        let mut chars = self.rest.chars();
        let first = chars.next()?;
        if begins_name(first) {
            // Unquoted names fold as ASCII does; other letters are left alone in UTF-8 databases.
            let word = self.eat(|c| begins_name(c) || c.is_ascii_digit() || c == '$').to_ascii_lowercase();
            return Some(self.prefixed(&word).unwrap_or(Token::Word(word)));
        }
        if first.is_ascii_digit() {
            self.eat(|c| c.is_alphanumeric() || matches!(c, '.' | '_'));
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
            '\'' => self.string(self.strings == Strings::Escaped),
            '$' => self.dollar(),
            mark => Token::Mark(mark),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words and marks as they are, values as `_`.
    fn cut(text: &str, strings: Strings) -> String {
        let shown = |token| match token {
            Token::Word(word) | Token::Operator(word) => word,
            Token::Quoted(name) => format!("\"{name}\""),
            Token::Mark(mark) => mark.to_string(),
            Token::Value => "_".to_owned(),
        };
        Lexer::read_as(text, strings).map(shown).collect::<Vec<_>>().join(" ")
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(cut(text, Strings::Standard), expected, "{text}");
        assert_eq!(cut(text, Strings::Escaped), expected, "{text}");
    }

    #[test]
    fn strings_of_each_kind_hide_what_is_in_them() {
        check(
            "select 'a;b' || 'it''s;' || e'\\';' || E'\\\\' || b'1;' || X'a;' ;",
            "select _ || _ || _ || _ || _ || _ ;",
        );
        check("select U&'d\\0061;' || U&\"d\\0061t\\+000061\"", "select _ || \"data\"");
        check("select U&\"d!0061ta!!\" uescape '!' ;", "select \"data!\" ;");
        check("select n';' u & ';'", "select _ u & _");
        check("select $$;$$, $a$ $b$; $$ $a$, $Ü$;$Ü$, a$b$c, $1", "select _ , _ , _ , a$b$c , _");
        check("select $1$2, $ 3", "select _ _ , $ _");
        check("select abce';'", "select abce _");
    }

    #[test]
    fn a_string_goes_on_in_the_next_line_with_its_escapes() {
        check("select e'a'\n  '\\';b' ;", "select _ ;");
        check("select e'a' -- ' \n -- ;\n '\\';b' ;", "select _ ;");
        assert_eq!(cut("select e'a' '\\';", Strings::Standard), "select _ _ ;", "not in the same line");
    }

    #[test]
    fn a_backslash_in_a_plain_string_is_read_as_the_session_says() {
        let text = "select 'it\\'s; commit', n'\\';'";
        assert_eq!(cut(text, Strings::Escaped), "select _ , _");
        assert!(cut(text, Strings::Standard).starts_with("select _ s ; commit"));
        assert_eq!(cut("select 'c:\\'; commit", Strings::Standard), "select _ ; commit");
    }

    #[test]
    fn comments_nest_and_end_with_their_line() {
        check("a /* ; /* ' */ ; */ b -- ' ;\rc --;\nd", "a b c d");
        check("a /* unclosed ;", "a");
    }

    #[test]
    fn blanks_of_other_alphabets_are_letters() {
        check("sel\u{a0}ect\u{3000} a", "sel\u{a0}ect\u{3000} a");
        check("a\x0bb\x0cc", "a b c");
    }

    #[test]
    fn what_the_server_does_not_know_is_a_mark() {
        check("select 1 \\gset a", "select _ \\ gset a");
    }
}
