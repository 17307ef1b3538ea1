//! The password file (`~/.pgpass`), as the manual's section "The Password File" has it.
//!
//! Lines are `host:port:database:user:password`; a field may be `*`; `\` stands before a literal `:`
//! or `\`. The first line that fits wins. A file that others may read is not used, and said so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What a line has to fit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The name as given; `localhost` for a socket in the default folder.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) database: &'a str,
    pub(crate) user: &'a str,
}

/// The password of the first line that fits. `None` as well when there is no such file. Why a file is
/// not used is added to the warnings.
pub(crate) fn password(file: &Path, wanted: Wanted<'_>, warnings: &mut Vec<String>) -> Option<String> {
    let metadata = fs::metadata(file).ok()?;
    if !metadata.is_file() {
        warn(warnings, file, "it is not a plain file");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        warn(warnings, file, "others may read it; chmod 0600 helps");
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| password_of(line, wanted))
}

/// Once, however many hosts it was read for.
fn warn(warnings: &mut Vec<String>, file: &Path, problem: &str) {
    let warning = format!("password file {} is not used: {problem}", file.display());
    if !warnings.contains(&warning) {
        tracing::warn!("{warning}");
        warnings.push(warning);
    }
}

fn password_of(line: &str, wanted: Wanted<'_>) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    let port = wanted.port.to_string();
    for value in [wanted.host, &port, wanted.database, wanted.user] {
        let (field, escaped, after) = field(rest);
        let fits = field == value || (field == "*" && !escaped);
        rest = after.filter(|_| fits)?;
    }
    // A `:` in the password needs no escape, though it may have one.
    let mut password = String::new();
    let mut characters = rest.chars();
    while let Some(character) = characters.next() {
        password.push(if character == '\\' { characters.next()? } else { character });
    }
    (!password.is_empty()).then_some(password)
}

/// The next field without its escapes, whether it had any, and what follows its colon.
fn field(text: &str) -> (String, bool, Option<&str>) {
    let (mut field, mut escaped) = (String::new(), false);
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            ':' => return (field, escaped, Some(&text[at + 1..])),
            '\\' => {
                escaped = true;
                field.extend(characters.next().map(|(_, literal)| literal));
            }
            _ => field.push(character),
        }
    }
    (field, escaped, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'static> = Wanted { host: "db", port: 5432, database: "shop", user: "ann" };

    #[test]
    fn a_line_fits_field_by_field_and_stars_fit_all() {
        for (line, expected) in [
            ("db:5432:shop:ann:secret", Some("secret")),
            ("*:*:*:*:secret", Some("secret")),
            ("db:*:shop:*:se:cr:et", Some("se:cr:et")),
            (r"db:*:*:ann:a\:b\\c", Some(r"a:b\c")),
            ("db:5433:shop:ann:secret", None),
            ("other:*:*:*:secret", None),
            ("db:5432:shop:bob:secret", None),
            (r"\*:*:*:*:secret", None),
            ("#*:*:*:*:secret", None),
            ("db:5432:shop:ann", None),
            ("db:5432:shop:ann:", None),
            ("", None),
        ] {
            assert_eq!(password_of(line, WANTED).as_deref(), expected, "{line}");
        }
        let ipv6 = Wanted { host: "::1", ..WANTED };
        assert_eq!(password_of(r"\:\:1:*:*:*:six", ipv6).as_deref(), Some("six"));
    }

    #[test]
    fn a_file_that_others_may_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pgpass");
        let mut warnings = Vec::new();
        assert_eq!(password(&file, WANTED, &mut warnings), None);
        assert!(warnings.is_empty(), "there is no such file");
        fs::write(&file, "no:*:*:*:first\n*:*:*:ann:second\n*:*:*:*:third\n").unwrap();
        for (mode, expected) in
            [(0o600, Some("second")), (0o400, Some("second")), (0o640, None), (0o604, None)]
        {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let mut warnings = Vec::new();
            for _ in 0..2 {
                assert_eq!(password(&file, WANTED, &mut warnings).as_deref(), expected, "{mode:o}");
            }
            assert_eq!(warnings.len(), usize::from(expected.is_none()), "{mode:o}: {warnings:?}");
        }
        assert_eq!(password(folder.path(), WANTED, &mut warnings), None);
        assert!(warnings[0].contains("not a plain file"), "{warnings:?}");
    }
}
