//! Tokens of SQL, as the server's own scanner cuts them (scan.l).
//!
//! Backslashes in plain strings are taken literally (`standard_conforming_strings`, on by default
//! since 9.1).

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
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

/// Cuts a text into tokens; comments and blanks are none.
#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, rest: text }
    }

    /// How many bytes are read by now.
    pub(super) const fn read(&self) -> usize {
        self.text.len() - self.rest.len()
    }

    /// The text of the token that was read since `before`.
    pub(super) fn token_since(&self, before: usize) -> &'a str {
        let mut start = Lexer::new(&self.text[before..self.read()]);
        start.skip_blanks();
        start.rest
    }

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
