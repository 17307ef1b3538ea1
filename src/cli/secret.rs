//! Passwords in text that was not ours to write.
//!
//! The library never shows one. But a usage error repeats what was typed, and what was typed may be a
//! connection string where none belongs.

/// What a secret is replaced by.
const STARS: &str = "***";

/// The text without the passwords of the URLs and `password=` pairs in it.
pub(crate) fn redacted(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_inclusive(|c: char| c.is_whitespace() || matches!(c, '\'' | '"')) {
        out.push_str(&pair(&url(word)));
    }
    out
}

fn url(word: &str) -> String {
    let Some(start) = word.find("://").map(|at| at + 3) else { return word.to_owned() };
    let Some(end) = word.rfind('@').filter(|&at| at > start) else { return word.to_owned() };
    match word[start..end].find(':') {
        Some(colon) => format!("{}{STARS}{}", &word[..=start + colon], &word[end..]),
        None => word.to_owned(),
    }
}

fn pair(word: &str) -> String {
    const NAME: &str = "password=";
    let Some(start) = word.find(NAME).map(|at| at + NAME.len()) else { return word.to_owned() };
    let end = word[start..].find(['&', '\'', '"', ' ', '\n']).map_or(word.len(), |at| start + at);
    format!("{}{STARS}{}", &word[..start], &word[end..])
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn a_password_in_the_wrong_place_is_not_repeated() {
        let text = "unexpected argument 'postgres://me:ge:he@im@db/x?password=geheim&a=b' found\n  host=db password=geheim";
        let expected =
            "unexpected argument 'postgres://me:***@db/x?password=***&a=b' found\n  host=db password=***";
        assert_eq!(redacted(text), expected);
        assert_eq!(redacted("see http://example.org/a b@c"), "see http://example.org/a b@c");
    }
}
