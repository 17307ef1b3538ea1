//! The command, as its users see it: arguments and signals in, words, a result and an exit code out.
//! Against real servers, each private to its test.
//!
//! - `usage`: what was typed wrong; one clear line, code 1 or 2, no password
//! - `run`: on target, above the minimum, below it, refused; what is left behind: nothing
//! - `outcomes`: lowered, finished short; `--every-launch` and `--strict`
//! - `panics`: told as any failure, and nothing is left
//! - `scripts`: what a text of SQL may hold, and how it must leave its session
//! - `signals`: SIGINT, SIGTERM, a second one, SIGKILL
//! - `cleanups`: one that does not end
//! - `crowded`: a server whose connections are all taken
//! - `deadlines`: they hold on a line that goes silent
//! - `environment`: what its variables and files ask for, and what of that cannot be had
//! - `exporters`: `--listen`, `--push`, `--textfile`, and what did not arrive
//! - `first_steps`: what the README tells a newcomer to paste
//! - `secrets`: no piece of a password, wherever it stands
//! - `tools`: explain, doctor, demo, completions, man
//! - `lab`: a server with a hog on it, and the command under test

mod cleanups;
mod crowded;
mod deadlines;
mod environment;
mod exporters;
mod first_steps;
mod lab;
mod line;
mod outcomes;
mod panics;
#[path = "../live/harness/port.rs"]
mod port;
mod run;
mod scripts;
mod secrets;
mod signals;
#[path = "../live/harness/stopped.rs"]
mod stopped;
mod tools;
mod usage;
#[path = "../servers/versions.rs"]
mod versions;
