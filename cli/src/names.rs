//! The options of this command, for what the library says of its own.
//!
//! The library names an option in backquotes, as a field of [`Settings`](headcount::Settings) or a method. People who
//! typed this command read the option that they can type.

use headcount::{Error, Fix};

/// Where the option has another name than the library's. The others have the same, with hyphens.
const RENAMED: [(&str, &str); 7] = [
    ("endpoint", "--dsn"),
    ("max_attempts", "--attempts"),
    ("min_workers", "--min"),
    ("monitor", "--monitor-dsn"),
    ("settings", "--set"),
    ("target_workers", "--target"),
    ("version", "--version-column"),
];

/// Those that differ in hyphens alone, or not at all.
const SAME: [&str; 30] = [
    "above_role",
    "admission_wait",
    "cancel_grace",
    "ceiling",
    "chunk",
    "cleanup",
    "cleanup_limit",
    "deadline",
    "degrade_after",
    "every_launch",
    "expect",
    "gather",
    "gather_after",
    "gather_at_most",
    "guarantee",
    "launch_wait",
    "leave",
    "listen",
    "monitor_interval",
    "no_transaction",
    "otlp",
    "pool_size",
    "push",
    "reserve",
    "reserve_database",
    "reserve_wait",
    "retry_delay",
    "settle",
    "strict",
    "task",
];

/// The option with that name in the library.
fn option(name: &str) -> Option<String> {
    if let Some((name, value)) = name.strip_prefix("settings.").and_then(|it| it.split_once(" = ")) {
        return Some(setting(name, value));
    }
    if let Some(name) = name.strip_prefix("settings.") {
        return Some(format!("--set {name}"));
    }
    let renamed =
        RENAMED.iter().find(|(library, _)| *library == name).map(|(_, option)| (*option).to_owned());
    renamed.or_else(|| SAME.contains(&name).then(|| format!("--{}", name.replace('_', "-"))))
}

fn setting(name: &str, value: &str) -> String {
    if value.contains(' ') { format!("--set '{name}={value}'") } else { format!("--set {name}={value}") }
}

/// The same text with this command's options.
pub(crate) fn in_options(text: &str) -> String {
    let mut parts = text.split('`');
    let mut said = parts.next().unwrap_or_default().to_owned();
    // Every other part is in backquotes, if they come in pairs.
    while let Some(quoted) = parts.next() {
        match (option(quoted), parts.next()) {
            (Some(option), Some(after)) => said.extend([option.as_str(), after]),
            (None, Some(after)) => said.extend(["`", quoted, "`", after]),
            (_, None) => said.extend(["`", quoted]),
        }
    }
    said
}

/// The error and its causes in one line, in which a wrong option has the name that was typed. A job file has the
/// library's, so that stands there, too, where they differ.
pub(crate) fn chain(error: &Error) -> String {
    let chain = in_options(&error.chain());
    let Some(field) = error.field() else { return chain };
    let Some(rest) = chain.strip_prefix(field) else { return chain };
    match option(field) {
        Some(option) if RENAMED.iter().any(|(library, _)| *library == field) => {
            format!("{field} ({option}){rest}")
        }
        Some(option) => format!("{option}{rest}"),
        None => chain,
    }
}

/// The same fix with this command's options, for an object that is serialized whole.
pub(crate) fn fix_in_options(fix: &Fix) -> Fix {
    match fix {
        Fix::Advice(clause) => Fix::Advice(in_options(clause)),
        Fix::None(why) => Fix::None(in_options(why)),
        typed_here => Fix::Sql(typed(typed_here)),
    }
}

/// What helps, as it is typed here; advice is a comment (`-- ...`).
pub(crate) fn typed(fix: &Fix) -> String {
    match fix {
        Fix::SetLocal(settings) => {
            let settings: Vec<String> = settings.iter().map(|(name, value)| setting(name, value)).collect();
            settings.join(" ")
        }
        other => in_options(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_library_names_is_named_as_it_is_typed() {
        let said = [
            "set `monitor` to connect to the server directly",
            "wait longer (`reserve_wait`), or accept less (`min_workers`)",
            "leave it out, and add `settings.transaction_isolation = repeatable read` `settings.a = on`",
            "the host without `-pooler` is the server itself",
            "syntax error at or near \"`\"",
            "`headcount watch` shows who",
        ]
        .map(in_options);
        assert_eq!(
            said,
            [
                "set --monitor-dsn to connect to the server directly",
                "wait longer (--reserve-wait), or accept less (--min)",
                "leave it out, and add --set 'transaction_isolation=repeatable read' --set a=on",
                "the host without `-pooler` is the server itself",
                "syntax error at or near \"`\"",
                "`headcount watch` shows who",
            ]
        );
    }

    #[test]
    fn a_fix_is_an_option_where_there_is_one() {
        let both =
            ["parallel_setup_cost", "parallel_tuple_cost"].map(|name| (name.to_owned(), "0".to_owned()));
        assert_eq!(
            typed(&Fix::SetLocal(both.into())),
            "--set parallel_setup_cost=0 --set parallel_tuple_cost=0"
        );
        assert_eq!(typed(&Fix::Advice("accept less (`min_workers`)".into())), "-- accept less (--min)");
        assert_eq!(typed(&Fix::None("it is too small".into())), "-- none: it is too small");
        assert_eq!(typed(&Fix::Sql("ANALYZE".into())), "ANALYZE");
    }
}
