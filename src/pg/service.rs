//! The connection service file (`pg_service.conf`): a name that stands for parameters.
//!
//! The manual's section "The Connection Service File". Sections are `[name]`, lines `key=value` without
//! quotes, `#` starts a comment line. LDAP lookups, which it also allows, are not supported.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::dsn::Pairs;
use super::libpq;
use crate::Error;

/// The parameters of service `name`, from the first of `files` that has it. A file that is not there has none.
pub(crate) fn lookup(name: &str, files: &[PathBuf]) -> Result<Pairs, Error> {
    for file in files {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                let problem = format!("{} cannot be read: {error}", file.display());
                return Err(Error::configuration("service", problem));
            }
        };
        if let Some(pairs) = section(name, &text, file)? {
            return Ok(pairs);
        }
    }
    // Whoever puts a whole connection string there does not want to read its password.
    let plain = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' '));
    let shown = if plain { format!("`{name}`") } else { "a service of that name".to_owned() };
    let looked: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    Err(Error::configuration("service", format!("{shown} is not defined in {}", looked.join(" or "))))
}

fn section(name: &str, text: &str, file: &Path) -> Result<Option<Pairs>, Error> {
    let mut found: Option<Pairs> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if title.strip_suffix(']') == Some(name) {
                found = Some(Pairs::new());
            }
        } else if let Some(pairs) = &mut found {
            let wrong = |problem: &str| {
                let place = format!("{}:{}", file.display(), number + 1);
                Err(Error::configuration("service", format!("{place}: {problem}")))
            };
            if line.starts_with("ldap://") {
                return wrong("a lookup by LDAP is not supported: write the parameters themselves");
            }
            match line.split_once('=') {
                Some(("service" | "servicefile", _)) => {
                    return wrong("a service cannot refer to another one");
                }
                Some((key, _)) if libpq::find(key).is_none() => {
                    return wrong(&format!("the parameter is not known; {}", libpq::advice(key)));
                }
                // The first one counts, as in libpq.
                Some((key, value)) if !pairs.iter().any(|(known, _)| known == key) => {
                    pairs.push((key.to_owned(), value.to_owned()));
                }
                Some(_) => {}
                None => return wrong("expected `key=value`"),
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# ours\n[a]\nhost=one\n\n[b]\n# note\nhost=two\nport=5433\nhost=three\npassword=a=b c\n\n[c]\nnonsense\n[d]\nservice=a\n";

    #[test]
    fn a_section_ends_where_the_next_begins_and_its_first_line_of_a_key_counts() {
        let pairs = section("b", TEXT, Path::new("f")).unwrap().unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("host", "two"), ("port", "5433"), ("password", "a=b c")]);
        assert!(section("x", TEXT, Path::new("f")).unwrap().is_none());
    }

    #[test]
    fn a_wrong_line_is_named_by_file_and_number_only() {
        let error = section("c", TEXT, Path::new("f")).unwrap_err().to_string();
        assert!(error.contains("f:13") && !error.contains("nonsense"), "{error}");
        assert!(section("d", TEXT, Path::new("f")).unwrap_err().to_string().contains("f:15"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_and_no_connection_string_is_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let error = lookup("x", &[folder.path().into()]).unwrap_err().to_string();
        assert!(error.contains("cannot be read"), "{error}");
        let error = lookup("postgres://u:hunter2@h/d", &["/no/such/file".into()]).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        let error =
            section("e", "[e]\nldap://h/dc=x?d?one?(cn=y)\n", Path::new("f")).unwrap_err().to_string();
        assert!(error.contains("LDAP"), "{error}");
    }

    #[test]
    fn a_service_that_no_file_defines_is_an_error_that_says_where_was_looked() {
        let error = lookup("x", &["/no/such/file".into()]).unwrap_err().to_string();
        assert!(error.contains("`x`") && error.contains("/no/such/file"), "{error}");
    }
}
