//! What helps, as a value: who shows it decides how it is typed.

use std::fmt;

use serde::{Serialize, Serializer};

/// What helps against a refusal, a narrow plan or a finding of [`doctor`](crate::server::doctor).
///
/// `Display`, and a string in JSON, is SQL that can be pasted; what is no SQL is a comment (`-- ...`). A name in
/// backquotes is an option of this library: a field of [`Settings`](crate::Settings), or a method with that name.
///
/// ```
/// use headcount::Fix;
///
/// let fix = Fix::SetLocal(vec![("work_mem".into(), "64MB".into())]);
/// assert_eq!(fix.to_string(), "SET LOCAL work_mem = '64MB'");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fix {
    /// Server settings (name, value) for the statement's transaction: [`Settings::settings`](crate::Settings::settings).
    SetLocal(Vec<(String, String)>),
    /// SQL for somebody who may run it, perhaps with a comment at its end.
    Sql(String),
    /// What has to be done by hand: a clause.
    Advice(String),
    /// Nothing helps: a clause that says why.
    None(String),
}

impl Fix {
    pub(crate) fn set(name: &str, value: impl fmt::Display) -> Self {
        Self::SetLocal(vec![(name.to_owned(), value.to_string())])
    }

    pub(crate) fn sql(sql: impl Into<String>) -> Self {
        Self::Sql(sql.into())
    }

    pub(crate) fn advice(clause: impl Into<String>) -> Self {
        Self::Advice(clause.into())
    }

    pub(crate) fn none(why: impl Into<String>) -> Self {
        Self::None(why.into())
    }

    /// Whether it can be typed as it is.
    #[must_use]
    pub const fn is_typed(&self) -> bool {
        matches!(self, Self::SetLocal(_) | Self::Sql(_))
    }
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetLocal(settings) => {
                for (place, (name, value)) in settings.iter().enumerate() {
                    let separator = if place == 0 { "" } else { "; " };
                    let plain =
                        !value.is_empty() && value.parse::<f64>().is_ok() || value == "on" || value == "off";
                    let quote = if plain { "" } else { "'" };
                    write!(f, "{separator}SET LOCAL {name} = {quote}{}{quote}", value.replace('\'', "''"))?;
                }
                Ok(())
            }
            Self::Sql(sql) => f.write_str(sql),
            Self::Advice(clause) => write!(f, "-- {clause}"),
            Self::None(why) => write!(f, "-- none: {why}"),
        }
    }
}

impl Serialize for Fix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_sql_and_what_is_none_is_a_comment() {
        let said = [
            Fix::set("max_parallel_workers", 8),
            Fix::set("enable_hashjoin", "on"),
            Fix::SetLocal(vec![("a".into(), "0".into()), ("b.c".into(), "it's".into())]),
            Fix::advice("upgrade the server"),
            Fix::none("the leader runs it alone"),
        ]
        .map(|fix| fix.to_string());
        assert_eq!(
            said,
            [
                "SET LOCAL max_parallel_workers = 8",
                "SET LOCAL enable_hashjoin = on",
                "SET LOCAL a = 0; SET LOCAL b.c = 'it''s'",
                "-- upgrade the server",
                "-- none: the leader runs it alone"
            ]
        );
    }
}
