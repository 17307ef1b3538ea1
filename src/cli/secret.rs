//! Passwords in text that was not ours to write.
//!
//! The library never shows one. But a usage error repeats what was typed, and what was typed may be a
//! connection string where none belongs.

/// What a secret is replaced by.
const STARS: &str = "***";

/// The parser's message without the passwords of what was typed. A word that has one is replaced as a whole where
/// the message repeats it, so that it does not matter which characters the password has.
pub(crate) fn redacted(message: &str, typed: &[String]) -> String {
    let mut message = message.to_owned();
    let values = typed.iter().filter_map(|word| word.split_once('=').map(|(_, value)| value));
    let mut secret: Vec<&str> =
        typed.iter().map(String::as_str).chain(values).filter(|word| is_secret(word)).collect();
    // A word before its parts.
    secret.sort_by_key(|word| std::cmp::Reverse(word.len()));
    for word in secret {
        message = message.replace(word, STARS);
    }
    message
}

/// Whether a word is, or has in it, something that a password may stand in.
fn is_secret(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    word.contains("://") || word.contains("password") || (word.contains(':') && word.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn a_word_with_a_password_is_not_repeated() {
        for word in [
            "postgres://me:ge:he@im@db/x?a=b",
            "postgres://me:ge'he\"im  /x@db",
            "--nope=postgres://me:geheim@db",
            "password=geheim",
            "PGPASSWORD=geheim",
            "me:geheim@db",
        ] {
            let value = word.split_once('=').map_or(word, |(_, value)| value);
            let typed = ["doctor".to_owned(), word.to_owned()];
            for shown in [word, value] {
                let said = redacted(&format!("unexpected argument '{shown}' found"), &typed);
                assert_eq!(said, "unexpected argument '***' found", "{word}");
            }
        }
        let harmless = ["see".to_owned(), "a=b".to_owned()];
        assert_eq!(redacted("a=b is no argument", &harmless), "a=b is no argument");
    }
}
