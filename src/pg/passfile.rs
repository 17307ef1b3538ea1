//! The password file (`~/.pgpass`), as the manual's section "The Password File" has it.
//!
//! Lines are `host:port:database:user:password`; a field may be `*`; `\` stands before a literal `:`
//! or `\`. The first line that fits wins. A file that others may read is not used, and said so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::hosts::Password;

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
pub(crate) fn password(file: &Path, wanted: Wanted<'_>, warnings: &mut Vec<String>) -> Option<Password> {
    let metadata = fs::metadata(file).ok()?;
    if !metadata.is_file() {
        warn(warnings, file, "it is not a plain file");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        warn(warnings, file, "others may read it; chmod 0600 helps");
        return None;
    }
    match fs::read(file) {
        Ok(text) => {
            text.split(|byte| *byte == b'\n').find_map(|line| password_of(line, wanted)).map(Password)
        }
        Err(error) => {
            warn(warnings, file, &error.to_string());
            None
        }
    }
}

/// Once, however many hosts it was read for.
fn warn(warnings: &mut Vec<String>, file: &Path, problem: &str) {
    let warning = format!("password file {} is not used: {problem}", file.display());
    if !warnings.contains(&warning) {
        tracing::warn!("{warning}");
        warnings.push(warning);
    }
}

/// A line may have any bytes: the password of one need not be in the encoding of another's.
fn password_of(line: &[u8], wanted: Wanted<'_>) -> Option<Vec<u8>> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.starts_with(b"#") {
        return None;
    }
    let mut rest = line;
    let port = wanted.port.to_string();
    for value in [wanted.host, &port, wanted.database, wanted.user] {
        let (field, escaped, after) = field(rest);
        let fits = field == value.as_bytes() || (field == b"*" && !escaped);
        rest = after.filter(|_| fits)?;
    }
    // A `:` in the password needs no escape, though it may have one. A last `\` stands for itself.
    let mut password = Vec::new();
    let mut bytes = rest.iter().copied();
    while let Some(byte) = bytes.next() {
        password.push(if byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte });
    }
    (!password.is_empty()).then_some(password)
}

/// The next field without its escapes, whether it had any, and what follows its colon.
fn field(text: &[u8]) -> (Vec<u8>, bool, Option<&[u8]>) {
    let (mut field, mut escaped) = (Vec::new(), false);
    let mut bytes = text.iter().copied().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b':' => return (field, escaped, Some(&text[at + 1..])),
            b'\\' => {
                escaped = true;
                field.extend(bytes.next().map(|(_, literal)| literal));
            }
            _ => field.push(byte),
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
            (r"db:*:*:ann:a\", Some(r"a\")),
            ("db:5432:shop:ann:secret\r", Some("secret")),
            ("db:5433:shop:ann:secret", None),
            ("other:*:*:*:secret", None),
            ("db:5432:shop:bob:secret", None),
            (r"\*:*:*:*:secret", None),
            ("#*:*:*:*:secret", None),
            ("db:5432:shop:ann", None),
            ("db:5432:shop:ann:", None),
            ("", None),
        ] {
            let found = password_of(line.as_bytes(), WANTED);
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{line}");
        }
        let ipv6 = Wanted { host: "::1", ..WANTED };
        assert_eq!(password_of(br"\:\:1:*:*:*:six", ipv6).as_deref(), Some(&b"six"[..]));
    }

    #[test]
    fn a_file_that_others_may_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pgpass");
        let mut warnings = Vec::new();
        assert_eq!(password(&file, WANTED, &mut warnings), None);
        assert!(warnings.is_empty(), "there is no such file");
        fs::write(&file, b"no:*:*:*:\xe4\n*:*:*:ann:second\n*:*:*:*:third\n").unwrap();
        for (mode, expected) in
            [(0o600, Some("second")), (0o400, Some("second")), (0o640, None), (0o604, None)]
        {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let mut warnings = Vec::new();
            for _ in 0..2 {
                let found = password(&file, WANTED, &mut warnings);
                assert_eq!(found, expected.map(|text: &str| Password(text.into())), "{mode:o}");
            }
            assert_eq!(warnings.len(), usize::from(expected.is_none()), "{mode:o}: {warnings:?}");
        }
        assert_eq!(password(folder.path(), WANTED, &mut warnings), None);
        assert!(warnings[0].contains("not a plain file"), "{warnings:?}");
    }
}
