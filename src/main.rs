//! The command `headcount`: an adapter. What was typed goes in, an exit code comes out.

mod cli;

use std::process::ExitCode;

use clap::Parser;

use cli::args::Cli;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == cli::WATCHDOG) {
        return cli::watch_over();
    }
    cli::begin();
    match Cli::try_parse() {
        Ok(cli) => cli::main(cli),
        Err(error) => {
            let typed: Vec<String> =
                std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
            cli::usage::refuse(&error, &typed)
        }
    }
}
