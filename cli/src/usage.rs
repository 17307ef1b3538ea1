//! A command line that cannot be read: one clear line, and with `--json` one object.
//!
//! The parser's own words take several lines, and nothing of them is for programs. A script that reads
//! standard output and the exit code must not have to know at which depth a mistake was found.

use std::process::ExitCode;

use clap::error::ErrorKind;
use serde::Serialize;

use super::exit::{self, Failed};
use super::object;
use super::output::{self, FailedRun};
use super::secret;
use super::update::FailedUpdate;

/// What was typed cannot be meant, or was a request for help. `typed` is the command line without the
/// program's name.
pub(crate) fn refuse(error: &clap::Error, typed: &[String]) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::from(exit::DONE);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        output::say(error.render().to_string().trim_end());
        return ExitCode::from(exit::USAGE);
    }
    let subcommand = typed.iter().find(|word| !word.starts_with('-')).map_or("", String::as_str);
    // The message repeats what was typed, which may be a connection string in the wrong place.
    let problem = sentence(&secret::redacted(&error.render().to_string(), typed));
    let failed = Failed::usage(problem);
    output::complain(&failed);
    if options(typed).any(|word| word == "--json") {
        if matches!(subcommand, "run" | "demo") {
            object::print_result(&FailedRun::new(&failed, task(typed), None), exit::USAGE);
        } else if subcommand == "update" {
            let task = task(typed);
            let task = if task == "adhoc" { "update" } else { task };
            object::print_result(&FailedUpdate::new(&failed, task), exit::USAGE);
        } else {
            let error = failed.to_string();
            let unread = Unread { outcome: "failed", reason: failed.reason(), error, sqlstate: None };
            object::print_result(&unread, exit::USAGE);
        }
    }
    ExitCode::from(exit::USAGE)
}

/// The object of the other subcommands.
#[derive(Serialize)]
struct Unread {
    outcome: &'static str,
    reason: &'static str,
    error: String,
    sqlstate: Option<String>,
}

fn options(typed: &[String]) -> impl Iterator<Item = &String> {
    typed.iter().take_while(|word| *word != "--")
}

fn task(typed: &[String]) -> &str {
    let mut words = options(typed);
    while let Some(word) = words.next() {
        if let Some(name) = word.strip_prefix("--task=") {
            return name;
        }
        if word == "--task" {
            return words.next().map_or("adhoc", String::as_str);
        }
    }
    "adhoc"
}

/// The parser's message and its tips without the usage and the way to the help.
fn sentence(rendered: &str) -> String {
    let joined = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut paragraphs = rendered.trim_start_matches("error: ").split("\n\n");
    let mut line = joined(paragraphs.next().unwrap_or_default());
    for tip in paragraphs.flat_map(str::lines).filter_map(|line| line.trim().strip_prefix("tip: ")) {
        line.push_str("; ");
        line.push_str(&joined(tip));
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn said(words: &[&str]) -> String {
        let all = std::iter::once("headcount").chain(words.iter().copied());
        sentence(&Cli::try_parse_from(all).unwrap_err().render().to_string())
    }

    #[test]
    fn a_mistake_is_one_line_with_the_tip() {
        assert_eq!(said(&["run", "--sql"]), "a value is required for '--sql <SQL>' but none was supplied");
        assert_eq!(
            said(&["run", "--polcy", "x"]),
            "unexpected argument '--polcy' found; a similar argument exists: '--policy'"
        );
        assert_eq!(
            said(&["run", "--policy", "x"]),
            "invalid value 'x' for '--policy <POLICY>' [possible values: prompt, classic]"
        );
    }

    #[test]
    fn the_task_is_the_one_that_was_typed() {
        let typed = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(task(&typed(&["run", "--task", "a"])), "a");
        assert_eq!(task(&typed(&["run", "--task=b", "--json"])), "b");
        assert_eq!(task(&typed(&["run", "--", "--task", "a"])), "adhoc");
    }
}
