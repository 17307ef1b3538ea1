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
    let mut secret: Vec<&str> =
        typed.iter().filter(|word| is_secret(word)).flat_map(|word| parts(word)).collect();
    // A word before its parts.
    secret.sort_by_key(|word| std::cmp::Reverse(word.len()));
    for word in secret {
        message = message.replace(word, STARS);
    }
    message
}

/// What a message may repeat of a word: all of it, or the value of an option.
fn parts(word: &str) -> impl Iterator<Item = &str> {
    let value = word.split_once('=').filter(|_| word.starts_with('-')).map(|(_, value)| value);
    std::iter::once(word).chain(value).filter(|part| !part.is_empty())
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
            "--password=geheim",
            "password=geheim",
            "PGPASSWORD=geheim",
            "me:geheim@db",
        ] {
            let typed = ["doctor".to_owned(), word.to_owned()];
            for shown in super::parts(word) {
                let said = redacted(&format!("unexpected argument '{shown}' found"), &typed);
                assert_eq!(said, "unexpected argument '***' found", "{word}");
            }
        }
        let harmless = ["see".to_owned(), "a=b".to_owned()];
        assert_eq!(redacted("a=b is no argument", &harmless), "a=b is no argument");
    }
}
