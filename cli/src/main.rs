//! The command `headcount`: what was typed, a library call, words for people, a result, an exit code.

mod advice;
mod args;
mod demo;
mod doctor;
mod exit;
mod explain;
mod names;
mod object;
mod options;
mod output;
mod panics;
mod progress;
mod run;
mod secret;
#[allow(dead_code, unreachable_pub, reason = "the tests use all of it, the demo a part")]
mod server;
mod shell;
mod signals;
mod stdout;
mod telemetry;
mod update;
mod usage;
mod values;
mod watch;
mod watchdog;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Command};
use self::exit::Failed;
use self::signals::Signals;

/// The argument that makes this process the watchdog of another one.
const WATCHDOG: &str = "watchdog";

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == WATCHDOG) {
        return on_runtime(Command::Watchdog, &args::Words::default()).into();
    }
    object::begin();
    panics::catch();
    match Cli::try_parse() {
        Ok(cli) => run_command(cli),
        Err(error) => {
            let typed: Vec<String> =
                std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
            usage::refuse(&error, &typed)
        }
    }
}

/// Runs the command that was typed.
fn run_command(cli: Cli) -> ExitCode {
    let Cli { command, words } = cli;
    let code = match command {
        Command::Completions { shell } => shell::completions(shell),
        Command::Man => shell::man(),
        command => on_runtime(command, &words),
    };
    if code == exit::DONE && !output::arrived() { exit::UNWRITTEN.into() } else { code.into() }
}

/// One thread is enough for a statement and its monitor, and starts sooner than several.
fn on_runtime(command: Command, words: &args::Words) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return unusable(&error),
    };
    let code = runtime.block_on(async {
        let mut signals = match Signals::catch() {
            Ok(signals) => signals,
            Err(error) => return unusable(&error),
        };
        let json = command.prints_json();
        let working = Box::pin(async {
            match command {
                Command::Run(args) => run::run(&args, words, &mut signals).await,
                Command::Update(args) => update::run(&args, words, &mut signals).await,
                Command::Explain(args) => explain::run(&args, words, &mut signals).await,
                Command::Watch(args) => watch::run(&args, &mut signals).await,
                Command::Demo(args) => demo::run(&args, words.clone(), &mut signals).await,
                Command::Doctor(args) => doctor::run(&args, &mut signals).await,
                Command::Watchdog => watchdog::run().await,
                Command::Completions { .. } | Command::Man => exit::DONE,
            }
        });
        match panics::caught(working).await {
            Ok(code) => code,
            Err(panic) => panicked(&panic.into(), json),
        }
    });
    // A thread that still reads standard input, or a name server, must not keep the process.
    runtime.shutdown_background();
    code
}

/// What a command is told that could not put itself in order.
fn panicked(failed: &Failed, json: bool) -> u8 {
    output::complain(failed);
    if json {
        object::print_failure(failed.reason(), &failed.to_string(), failed.code());
    }
    failed.code()
}

fn unusable(error: &std::io::Error) -> u8 {
    output::say(&format!("headcount: cannot start: {error}"));
    exit::FAILED
}
