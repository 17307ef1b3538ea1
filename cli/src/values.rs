//! What the values of options look like: workers and shares, times, pairs, addresses.

use std::net::SocketAddr;
use std::time::Duration;

use headcount::telemetry::exporters::prometheus::parse_listen;
use headcount::{Minimum, Raise};

/// `2` or `50%`.
pub(crate) fn minimum(text: &str) -> Result<Minimum, String> {
    let number = |digits: &str| {
        digits
            .trim()
            .parse()
            .map_err(|_| format!("`{text}` is neither a number of workers nor a percentage such as 50%"))
    };
    match text.strip_suffix('%') {
        Some(percent) => number(percent).map(Minimum::Percent),
        None => number(text).map(Minimum::Workers),
    }
}

/// SQL, which may begin with a comment. `--json` is none: a value was forgotten.
pub(crate) fn sql_text(text: &str) -> Result<String, String> {
    if text.starts_with('-') && !text.contains(char::is_whitespace) {
        return Err("this is an option, and no SQL: a value is missing before it".to_owned());
    }
    Ok(text.to_owned())
}

/// `500ms`, `2s`, `1m`, `2h`. A bare number is refused: nobody knows whose seconds they are.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|_| format!("`{text}` is no time with a unit, such as 500ms, 2s, 1m or 2h"))
}

/// `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

/// An address to listen on.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    // The library's sentence without the option's name, which clap says.
    parse_listen(text).map_err(|error| error.to_string().trim_start_matches("--listen: ").to_owned())
}

/// How far a ceiling is raised.
pub(crate) fn raise(text: &str) -> Result<Raise, String> {
    match text {
        "auto" => Ok(Raise::Auto),
        _ => text
            .parse()
            .map(Raise::To)
            .map_err(|_| format!("`{text}` is neither `auto` nor a number of workers")),
    }
}

/// A factor for the amount of data.
pub(crate) fn scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(factor) if (0.001..=10.0).contains(&factor) => Ok(factor),
        _ => Err(format!("`{text}` is not within 0.001 to 10")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_its_unit() {
        let parsed: Vec<_> =
            ["500ms", "2s", "1m", "2h"].map(|text| duration(text).unwrap().as_millis()).into();
        assert_eq!(parsed, [500, 2_000, 60_000, 7_200_000]);
        assert!(duration("60").unwrap_err().contains("60s") || duration("60").unwrap_err().contains("2s"));
    }

    #[test]
    fn a_minimum_is_workers_or_a_share() {
        assert_eq!(minimum("2"), Ok(Minimum::Workers(2)));
        assert_eq!(minimum("50%"), Ok(Minimum::Percent(50)));
        assert!(minimum("half").is_err());
        assert!(minimum("-1").is_err());
    }
}
