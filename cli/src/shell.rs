//! `headcount completions` and `headcount man`: what packagers install beside the program.

use clap::CommandFactory;

use super::args::Cli;
use super::{exit, output};

/// Prints a completion script.
pub(crate) fn completions(shell: clap_complete::Shell) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "headcount", &mut script);
    output::print(String::from_utf8_lossy(&script).trim_end());
    exit::DONE
}

/// Prints the manual page: the command, then each subcommand.
pub(crate) fn man() -> u8 {
    let mut page = Vec::new();
    let command = Cli::command();
    let mut rendered = clap_mangen::Man::new(command.clone()).render(&mut page);
    for subcommand in command.get_subcommands() {
        let name = format!("headcount {}", subcommand.get_name());
        let titled = subcommand.clone().bin_name(&name).display_name(name);
        rendered = rendered.and_then(|()| clap_mangen::Man::new(titled).render(&mut page));
    }
    if let Err(error) = rendered {
        output::say(&format!("headcount: cannot write the manual page: {error}"));
        return exit::FAILED;
    }
    output::print(String::from_utf8_lossy(&page).trim_end());
    exit::DONE
}
