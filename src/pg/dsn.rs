//! A connection string, taken apart.
//!
//! `tokio_postgres::Config` parses both forms too, but it stops at the first key that it does not
//! know, and it does not know `sslmode=verify-full`, `sslrootcert`, `passfile` or `service`. So the
//! text becomes key and value here, in the order written, and what they mean is decided elsewhere.
//!
//! A URL is split where libpq splits it (`conninfo_uri_parse`): at the first `@` that comes before any `/`. Where
//! that can leave a piece of a password in what is shown (the host, the database), the text is refused.
//! No message repeats a piece of the text: a string that is written wrongly can have its password
//! anywhere.

use percent_encoding::percent_decode_str;

use crate::Error;

/// Keys and values, decoded; a later one of the same key wins.
pub(crate) type Pairs = Vec<(String, String)>;

/// What is said of a URL whose user, password or database has a character that ends it.
const ENCODE: &str = "in a URL, `/`, `@` and `%` inside a password are written as %2F, %40 and %25 (in a user or database \
     `:`, `?`, `#` and `[`, too, as %3A, %3F, %23 and %5B); or give the password as PGPASSWORD, in the password file, or as \
     password='...' in keyword form";

/// Parses `postgresql://user@host:port/database?key=value` or `host=... dbname=...` (the manual's
/// section "Connection Strings"). Keys are not checked.
pub(crate) fn parse(text: &str) -> Result<Pairs, Error> {
    let text = text.trim();
    for scheme in ["postgresql://", "postgres://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return url(rest);
        }
    }
    match text.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => Err(wrong(other_scheme(scheme))),
        _ => keywords(text),
    }
}

/// Whether a key of the string can be repeated: it is no piece of a password that ends sooner than was meant.
pub(crate) fn may_name(text: &str, pairs: &Pairs, at: usize) -> bool {
    let key = &pairs[at].0;
    if text.contains("://") {
        // The host comes after the password.
        let after = text.rsplit_once('@').map_or(text, |(_, after)| after);
        let named = after.find(&format!("{key}="));
        // What an `&` cuts off of a password that is a parameter looks like another one.
        return named
            .is_some_and(|at| !after[..at].contains("password=") && !after[..at].contains("secret="));
    }
    pairs[..at].iter().all(|(key, _)| !key.contains("password") && !key.contains("secret"))
}

/// Whether a text is a URL's scheme, or several (`jdbc:postgresql`), and no `key=value`.
fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.:".contains(&byte))
}

/// What to change in the URL of another driver.
fn other_scheme(scheme: &str) -> &'static str {
    let scheme = scheme.to_ascii_lowercase();
    if scheme.starts_with("jdbc:") {
        "this is a JDBC URL: leave out `jdbc:`, write user and password before the host (`user:password@`), and \
         parameters as libpq names them (sslmode, application_name, options=-c%20name%3Dvalue)"
    } else if scheme.starts_with("postgresql+") || scheme.starts_with("postgres+") {
        "this is a URL of SQLAlchemy or the like: leave out the `+` and the driver's name, so that it starts with \
         `postgresql://`"
    } else if ["postgresql", "postgres"].contains(&scheme.as_str()) {
        "`postgresql://` is written in small letters"
    } else {
        "a URL starts with `postgresql://` or `postgres://`"
    }
}

fn url(text: &str) -> Result<Pairs, Error> {
    let mut pairs = Pairs::new();
    let mut rest = text;
    // A `?` ends neither user nor password, a `/` does, and what comes after an `@` is no longer password.
    if let Some(at) = text.find(['@', '/']).filter(|&at| text[at..].starts_with('@')) {
        let (user, password) = text[..at].split_once(':').unwrap_or((&text[..at], ""));
        push(&mut pairs, "user", user)?;
        push(&mut pairs, "password", password)?;
        rest = &text[at + 1..];
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    loop {
        let (name, after) = host_name(rest)?;
        let (port, after) = match after.strip_prefix(':') {
            Some(after) => until(after, &['/', '?', ',']),
            None => ("", after),
        };
        names.push(name);
        ports.push(port);
        rest = after;
        let Some(next) = rest.strip_prefix(',') else { break };
        rest = next;
    }
    let (path, query) = rest.split_once('?').map_or((rest, ""), |(path, query)| (path, query));
    let database = path.strip_prefix('/').unwrap_or_default();
    // A password with an `@` or a `/` that is not encoded ends among these, and all of them are shown.
    if names.iter().chain(&ports).any(|part| part.contains('@')) || database.contains('@') {
        return Err(wrong(ENCODE));
    }
    push(&mut pairs, "host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        push(&mut pairs, "port", &ports.join(","))?;
    }
    push(&mut pairs, "dbname", database)?;
    for item in query.split('&').filter(|item| !item.is_empty()) {
        pairs.push(parameter(item)?);
    }
    Ok(pairs)
}

/// One `key=value` after the `?`.
fn parameter(item: &str) -> Result<(String, String), Error> {
    let (key, value) = match item.split_once('=') {
        Some((_, value)) if value.contains('=') => {
            return Err(wrong(
                "a parameter after `?` has two `=`; one that is part of the value is written %3D",
            ));
        }
        Some(pair) => pair,
        None if item.contains('@') => return Err(wrong(ENCODE)),
        None => return Err(wrong("a parameter after `?` has no `=` and value")),
    };
    Ok(match (decode(key)?.trim(), decode(value)?.trim()) {
        // As the JDBC driver writes it; libpq reads it, too.
        ("ssl", "true") => ("sslmode".into(), "require".into()),
        (key, value) => (key.to_owned(), value.to_owned()),
    })
}

/// A host's name, or an address in brackets, and what follows it.
fn host_name(text: &str) -> Result<(&str, &str), Error> {
    let Some(rest) = text.strip_prefix('[') else { return Ok(until(text, &[':', '/', '?', ','])) };
    let (address, rest) = rest.split_once(']').ok_or_else(|| wrong("an IPv6 address lacks its `]`"))?;
    if address.is_empty() {
        return Err(wrong("the brackets for an IPv6 address are empty"));
    }
    if !rest.is_empty() && !rest.starts_with([':', '/', '?', ',']) {
        return Err(wrong("after an IPv6 address comes `:` and the port, `/`, `?`, `,` or nothing"));
    }
    Ok((address, rest))
}

/// Up to the first of those characters, and from there.
fn until<'a>(text: &'a str, ends: &[char]) -> (&'a str, &'a str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// Decodes and keeps what is not empty: an empty part of a URL means that it was not given.
fn push(pairs: &mut Pairs, key: &str, encoded: &str) -> Result<(), Error> {
    if !encoded.is_empty() {
        pairs.push((key.to_owned(), decode(encoded)?));
    }
    Ok(())
}

fn decode(text: &str) -> Result<String, Error> {
    let broken = || wrong("a `%` in a URL is followed by two hexadecimal digits, and encodes UTF-8");
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let digits = rest.as_bytes().get(at + 1..at + 3).ok_or_else(broken)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(broken());
        }
        rest = &rest[at + 3..];
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| broken())?;
    if decoded.contains('\0') {
        return Err(wrong("a value contains a zero byte"));
    }
    Ok(decoded.into_owned())
}

fn keywords(text: &str) -> Result<Pairs, Error> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .ok_or_else(|| wrong("expected `key=value` pairs or a URL; a value with spaces needs quotes"))?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(wrong("a word has no `=`; a value with spaces needs quotes"));
        }
        let (value, after) = value(after.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// One value, quoted or up to white space, with `\` before a literal character; and what follows.
fn value(text: &str) -> Result<(String, &str), Error> {
    let quoted = text.strip_prefix('\'');
    let text = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, literal)| literal)),
            '\'' if quoted.is_some() => return Ok((value, &text[at + 1..])),
            _ if quoted.is_none() && character.is_whitespace() => return Ok((value, &text[at..])),
            _ => value.push(character),
        }
    }
    if quoted.is_some() {
        return Err(wrong("a quoted value lacks its closing quote"));
    }
    Ok((value, ""))
}

fn wrong(problem: &str) -> Error {
    Error::configuration("connection string", problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let pairs = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(pairs.join(" "), expected, "{text}");
    }

    /// The inputs of PostgreSQL's own regression test of URIs (`src/interfaces/libpq/t/001_uri.pl`).
    #[test]
    fn urls_are_read_as_libpqs_own_table_has_them() {
        for (text, expected) in [
            (
                "postgresql://uri-user:secret@host:12345/db",
                "user=uri-user password=secret host=host port=12345 dbname=db",
            ),
            ("postgresql://uri-user@host:12345/db", "user=uri-user host=host port=12345 dbname=db"),
            ("postgresql://uri-user@host/db", "user=uri-user host=host dbname=db"),
            ("postgresql://host:12345/db", "host=host port=12345 dbname=db"),
            ("postgresql://host/db", "host=host dbname=db"),
            ("postgresql://uri-user@host:12345/", "user=uri-user host=host port=12345"),
            ("postgresql://uri-user@host/", "user=uri-user host=host"),
            ("postgresql://uri-user@", "user=uri-user"),
            ("postgresql://host:12345/", "host=host port=12345"),
            ("postgresql://host:12345", "host=host port=12345"),
            ("postgresql://host/", "host=host"),
            ("postgresql://host", "host=host"),
            ("postgresql://", ""),
            ("postgresql://?hostaddr=127.0.0.1", "hostaddr=127.0.0.1"),
            ("postgresql://example.com?hostaddr=63.1.2.4", "host=example.com hostaddr=63.1.2.4"),
            ("postgresql://%68ost/", "host=host"),
            ("postgresql://host/db?user=uri-user", "host=host dbname=db user=uri-user"),
            ("postgresql://host/db?user=uri-user&port=12345", "host=host dbname=db user=uri-user port=12345"),
            (
                "postgresql://host/db?u%73er=someotheruser&port=12345",
                "host=host dbname=db user=someotheruser port=12345",
            ),
            ("postgresql://host:12345?user=uri-user", "host=host port=12345 user=uri-user"),
            ("postgresql://host?user=uri-user", "host=host user=uri-user"),
            ("postgresql://host?", "host=host"),
            ("postgresql://[::1]:12345/db", "host=::1 port=12345 dbname=db"),
            ("postgresql://[::1]/db", "host=::1 dbname=db"),
            ("postgresql://[2001:db8::1234]/", "host=2001:db8::1234"),
            ("postgresql://[200z:db8::1234]/", "host=200z:db8::1234"),
            ("postgresql://[::1]", "host=::1"),
            ("postgres://", ""),
            ("postgres:///", ""),
            ("postgres:///db", "dbname=db"),
            ("postgres://uri-user@/db", "user=uri-user dbname=db"),
            ("postgres://?host=/path/to/socket/dir", "host=/path/to/socket/dir"),
            ("postgres://@host", "host=host"),
            ("postgres://host:/", "host=host"),
            ("postgres://:12345/", "port=12345"),
            ("postgres://otheruser@?host=/no/such/directory", "user=otheruser host=/no/such/directory"),
            ("postgres://otheruser@/?host=/no/such/directory", "user=otheruser host=/no/such/directory"),
            (
                "postgres://otheruser@:12345?host=/no/such/socket/path",
                "user=otheruser port=12345 host=/no/such/socket/path",
            ),
            (
                "postgres://otheruser@:12345/db?host=/path/to/socket",
                "user=otheruser port=12345 dbname=db host=/path/to/socket",
            ),
            ("postgres://:12345/db?host=/path/to/socket", "port=12345 dbname=db host=/path/to/socket"),
            ("postgres://:12345?host=/path/to/socket", "port=12345 host=/path/to/socket"),
            ("postgres://%2Fvar%2Flib%2Fpostgresql/dbname", "host=/var/lib/postgresql dbname=dbname"),
            ("postgresql://host?sslmode=disable", "host=host sslmode=disable"),
            ("postgresql://host?sslmode=prefer", "host=host sslmode=prefer"),
            ("postgresql://host?sslmode=verify-full", "host=host sslmode=verify-full"),
            // A parameter that nobody knows is refused where parameters have a meaning, see `lookup`.
            (
                "postgresql://host/db?u%7aer=someotheruser&port=12345",
                "host=host dbname=db uzer=someotheruser port=12345",
            ),
            ("postgresql://host?uzer=", "host=host uzer="),
        ] {
            check(text, expected);
        }
        for text in [
            "postgre://",
            "postgres://[::1",
            "postgres://[]",
            "postgres://[::1]z",
            "postgresql://host?zzz",
            "postgresql://host?value1&value2",
            "postgresql://host?key=key=value",
            "postgres://host?dbname=%XXfoo",
            "postgresql://a%00b",
            "postgresql://%zz",
            "postgresql://%1",
            "postgresql://%",
        ] {
            assert!(parse(text).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn urls_are_split_where_libpq_splits_them() {
        for (text, expected) in [
            ("postgresql://u:a?b@h/d", "user=u password=a?b host=h dbname=d"),
            ("postgresql://u:a#b@h/d", "user=u password=a#b host=h dbname=d"),
            ("postgresql://u:a:b@h/d", "user=u password=a:b host=h dbname=d"),
            ("postgresql://u:[a]b@h/d", "user=u password=[a]b host=h dbname=d"),
            ("postgresql://u: a b @h/d", "user=u password= a b  host=h dbname=d"),
            ("postgresql://u:p%40%3a%2F@h/my%20db", "user=u password=p@:/ host=h dbname=my db"),
            ("postgresql://:pw@h", "password=pw host=h"),
            ("postgresql://u:@h", "user=u host=h"),
            ("postgresql://h?user=a@b", "user=h?user=a host=b"),
            ("postgresql://h/?user=a@b&password=c@d/e", "host=h user=a@b password=c@d/e"),
            ("postgresql://h/d/e#f", "host=h dbname=d/e#f"),
            ("postgresql://a:1,b,[2001:db8::1]:3/d", "host=a,b,2001:db8::1 port=1,,3 dbname=d"),
            ("postgresql://a,b/d", "host=a,b dbname=d"),
            ("postgresql:///d?host=/tmp&ssl=true", "dbname=d host=/tmp sslmode=require"),
            ("postgresql://u@/d?options=-c%20a%3Db", "user=u dbname=d options=-c a=b"),
            (" postgresql://h/d?user=a&&port=3& \n", "host=h dbname=d user=a port=3"),
        ] {
            check(text, expected);
        }
    }

    #[test]
    fn keywords_may_be_quoted_escaped_and_spaced() {
        for (text, expected) in [
            ("", ""),
            ("host=h port=5433", "host=h port=5433"),
            ("  host = h  dbname='my db' ", "host=h dbname=my db"),
            (r"password='it\'s \\ here' user=a\ b", r"password=it's \ here user=a b"),
            (r"password=a\", "password=a"),
            ("password=a'b'c=d host=h", "password=a'b'c=d host=h"),
            ("password='a'host=h", "password=a host=h"),
            ("password='' user=u", "password= user=u"),
            ("password=ab://cd host=h", "password=ab://cd host=h"),
            ("host=h options='-c a=http://x'", "host=h options=-c a=http://x"),
        ] {
            check(text, expected);
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_repeating_it() {
        for text in [
            "mysql://u:hunter2@h/d",
            "postgresql://u:hunter2%@h/d",
            "postgresql://u:hunter2%zz@h/d",
            "postgresql://u:hunter2@[::1/d",
            "postgresql://u:hunter2@[::1]x/d",
            "postgresql://u:hunter2@h/d?sslmode",
            "postgresql://u:hunter2%00@h/d",
            "postgresql://u:hunter2%ff@h/d",
            "u:hunter2@h/d",
            "password='hunter2",
            "password=a hunter2 host=h",
            "host=h hunter2",
            "postgresql://u:/hunter2@h/d",
            "postgresql://u:7/hunter2@h/d",
            "postgresql://u:hunter2@x@h/d",
            "postgresql://u:x@hunter2@h/d",
            "postgresql://u:x@hunter2/y@h/d",
            "postgresql://u:x@y,hunter2@h/d",
            "postgresql://u:x@y:hunter2@h/d",
            "postgresql://u:x/y?hunter2@h/d",
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.is_configuration());
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_key_is_named_where_no_password_can_reach() {
        for (text, named) in [
            ("postgres://u:a@h/d?colour=x", true),
            ("postgres://h/d?colour=x", true),
            ("postgres://u:5/d?colour=x@h/d", false),
            ("colour=x host=h", true),
            ("host=h colour=x password=y", true),
            ("password=a colour=x", false),
        ] {
            let pairs = parse(text).unwrap();
            let at = pairs.iter().position(|(key, _)| key == "colour").unwrap();
            assert_eq!(may_name(text, &pairs, at), named, "{text}");
        }
    }

    #[test]
    fn the_url_of_another_driver_is_told_from_a_wrong_one() {
        for (text, said) in [
            ("jdbc:postgresql://h/d?user=u", "JDBC"),
            ("postgresql+psycopg2://u:p@h/d", "SQLAlchemy"),
            ("postgres+asyncpg://u:p@h/d", "SQLAlchemy"),
            ("PostgreSQL://h/d", "small letters"),
            ("postgre://h/d", "a URL starts with `postgresql://`"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
