//! What the README tells a newcomer to paste works, on the server that `headcount demo --keep` leaves running.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::lab::{finish, spawn};

const README: &str = include_str!("../../README.md");

/// The shell commands of the section, without the one that starts the server.
fn steps() -> Vec<&'static str> {
    let section = README.split("\n## First steps\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let fences = section.split("\n```sh\n").skip(1).map(|fence| fence.split("\n```").next().unwrap());
    fences.filter(|commands| !commands.contains("headcount demo")).collect()
}

#[test]
fn the_first_steps_of_the_readme_work_as_pasted_on_the_server_that_the_demo_keeps() {
    let mut demo = spawn(&["demo", "--keep", "--scale", "0.02"], &[]);
    let export = demo.hear("export DATABASE_URL=");
    let dsn = export.trim().strip_prefix("export DATABASE_URL=").unwrap().to_owned();
    let program = Path::new(env!("CARGO_BIN_EXE_headcount"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let paste = |commands: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-ec", commands]).env("PATH", &path).env("DATABASE_URL", &dsn).current_dir(&folder);
        let pasted = shell.output().unwrap();
        let said = String::from_utf8_lossy(&pasted.stdout) + String::from_utf8_lossy(&pasted.stderr);
        assert!(pasted.status.success(), "{commands}\n{said}");
        said.into_owned()
    };
    let steps = steps();
    assert_eq!(steps.len(), 4, "{steps:#?}");
    for (step, words) in steps.iter().zip(["shipping: ", "close_orders: complete", "3 updated", "ok"]) {
        let said = paste(step);
        assert!(said.contains(words), "{step}\n{said}");
    }
    demo.signal(Signal::INT);
    let ran = finish(demo).ended(0);
    assert!(ran.said.ends_with("The server is gone.\n"), "{}", ran.said);
    let gone = Command::new(program).args(["doctor", "--dsn", &dsn]).output().unwrap();
    assert_eq!(gone.status.code(), Some(1));
}
