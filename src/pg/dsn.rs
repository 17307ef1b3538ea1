//! A connection string, taken apart.
//!
//! `tokio_postgres::Config` parses both forms too, but it stops at the first key that it does not
//! know, and it does not know `sslmode=verify-full`, `sslrootcert`, `passfile` or `service`. So the
//! text becomes key and value here, in the order written, and what they mean is decided elsewhere.
//!
//! No message repeats a piece of the text: a string that is written wrongly can have its password
//! anywhere.

use percent_encoding::percent_decode_str;

use crate::Error;

/// Keys and values, decoded; a later one of the same key wins.
pub(crate) type Pairs = Vec<(String, String)>;

/// Parses `postgresql://user@host:port/database?key=value` or `host=... dbname=...` (the manual's
/// section "Connection Strings"). Keys are not checked.
pub(crate) fn parse(text: &str) -> Result<Pairs, Error> {
    let text = text.trim();
    for scheme in ["postgresql://", "postgres://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return url(rest);
        }
    }
    if text.contains("://") {
        return Err(wrong("a URL starts with `postgresql://` or `postgres://`"));
    }
    keywords(text)
}

fn url(rest: &str) -> Result<Pairs, Error> {
    let mut pairs = Pairs::new();
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, database) =
        rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
    // The last `@`: people leave one in their password unencoded.
    let mut hosts = authority;
    if let Some((credentials, rest)) = authority.rsplit_once('@') {
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        push(&mut pairs, "user", user)?;
        push(&mut pairs, "password", password)?;
        hosts = rest;
    }

    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = host_and_port(host)?;
        names.push(name);
        ports.push(port);
    }
    push(&mut pairs, "host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        push(&mut pairs, "port", &ports.join(","))?;
    }
    push(&mut pairs, "dbname", database.unwrap_or_default())?;

    for item in query.unwrap_or_default().split('&').filter(|item| !item.is_empty()) {
        let (key, value) =
            item.split_once('=').ok_or_else(|| wrong("a parameter after `?` has no `=` and value"))?;
        match (decode(key)?.as_str(), decode(value)?.as_str()) {
            // As the JDBC driver writes it; libpq reads it, too.
            ("ssl", "true") => pairs.push(("sslmode".into(), "require".into())),
            (key, value) => pairs.push((key.to_owned(), value.to_owned())),
        }
    }
    Ok(pairs)
}

/// `name:port`, `[::1]:port`, either without a port.
fn host_and_port(text: &str) -> Result<(&str, &str), Error> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or_else(|| wrong("an IPv6 address lacks its `]`"))?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, port)),
            None if rest.is_empty() => Ok((address, "")),
            None => Err(wrong("after an IPv6 address comes `:` and the port, or nothing")),
        };
    }
    Ok(text.split_once(':').unwrap_or((text, "")))
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

    fn check(text: &str, expected: &[(&str, &str)]) {
        let pairs = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, expected, "{text}");
    }

    #[test]
    fn urls_are_read_as_libpq_reads_them() {
        check("postgresql://", &[]);
        check("postgres://h", &[("host", "h")]);
        check("postgresql://h:5433/d", &[("host", "h"), ("port", "5433"), ("dbname", "d")]);
        check(
            "postgresql://u:p%40%3a%2F@h/my%20db?connect_timeout=3&sslmode=verify-full",
            &[
                ("user", "u"),
                ("password", "p@:/"),
                ("host", "h"),
                ("dbname", "my db"),
                ("connect_timeout", "3"),
                ("sslmode", "verify-full"),
            ],
        );
        check(
            "postgresql://u@a:1,b:2,c/d",
            &[("user", "u"), ("host", "a,b,c"), ("port", "1,2,"), ("dbname", "d")],
        );
        check(
            "postgresql://[::1]:5433,[2001:db8::1]/d",
            &[("host", "::1,2001:db8::1"), ("port", "5433,"), ("dbname", "d")],
        );
        check(
            "postgresql://%2Fvar%2Frun%2Fpostgresql/d",
            &[("host", "/var/run/postgresql"), ("dbname", "d")],
        );
        check(
            "postgresql:///d?host=/tmp&ssl=true",
            &[("dbname", "d"), ("host", "/tmp"), ("sslmode", "require")],
        );
        check(
            "postgresql://u:a@b@h/d",
            &[("user", "u"), ("password", "a@b"), ("host", "h"), ("dbname", "d")],
        );
        check(
            "postgresql://u@/d?options=-c%20a%3Db",
            &[("user", "u"), ("dbname", "d"), ("options", "-c a=b")],
        );
    }

    #[test]
    fn keywords_may_be_quoted_escaped_and_spaced() {
        check("", &[]);
        check("host=h port=5433", &[("host", "h"), ("port", "5433")]);
        check("  host = h  dbname='my db' ", &[("host", "h"), ("dbname", "my db")]);
        check(r"password='it\'s \\ here' user=a\ b", &[("password", r"it's \ here"), ("user", "a b")]);
        check("password='' user=u", &[("password", ""), ("user", "u")]);
        check("options='-c work_mem=64MB'", &[("options", "-c work_mem=64MB")]);
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
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.is_configuration());
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
}
