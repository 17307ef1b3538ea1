//! What a stranger gets who adds the library, and what is linked into the command.

#![allow(missing_docs, clippy::pedantic, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs cargo in the folder of the package; what it printed.
fn cargo(arguments: &[&str]) -> String {
    let cargo = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&cargo.stderr));
    String::from_utf8(cargo.stdout).unwrap()
}

/// The crates that a package links with these features, itself among them.
fn linked(package: &str, features: &[&str]) -> BTreeSet<String> {
    let tree = ["tree", "--edges", "normal", "--prefix", "none", "--package", package];
    let printed = cargo(&[&tree, features].concat());
    printed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn whoever_adds_the_library_gets_few_crates_and_none_of_the_commands() {
    let crates = linked("headcount", &[]);
    assert!(crates.len() <= 120, "{} crates: {crates:?}", crates.len());
    for unwanted in ["clap", "indicatif", "tpchgen", "hyper", "reqwest", "toml", "opentelemetry", "testkit"] {
        assert!(!crates.contains(unwanted), "{unwanted}");
    }
}

#[test]
fn the_command_needs_nothing_of_the_tests() {
    let crates = linked("headcount-cli", &[]);
    assert!(crates.contains("clap") && !crates.contains("testkit"), "{crates:?}");
}

/// `deny.toml` says what may be linked; `cargo deny check licenses bans` reads the same file.
#[test]
fn each_dependency_has_a_licence_that_is_allowed_and_none_is_banned() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules: toml::Table = std::fs::read_to_string(root.join("deny.toml")).unwrap().parse().unwrap();
    let allowed: Vec<&str> = rules["licenses"]["allow"]
        .as_array()
        .unwrap()
        .iter()
        .map(|licence| licence.as_str().unwrap())
        .collect();
    let banned: Vec<&str> =
        rules["bans"]["deny"].as_array().unwrap().iter().map(|ban| ban["crate"].as_str().unwrap()).collect();
    let host = host();
    let metadata = ["metadata", "--format-version", "1", "--all-features", "--filter-platform", &host];
    let metadata: Value = serde_json::from_str(&cargo(&metadata)).unwrap();
    let shipped: BTreeSet<String> = ["headcount", "headcount-cli"]
        .iter()
        .flat_map(|package| linked(package, &["--all-features"]))
        .collect();
    let mut checked = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if !shipped.contains(name) {
            continue;
        }
        checked += 1;
        assert!(!banned.contains(&name), "{name} is banned");
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
        let expression = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX).unwrap();
        let fits =
            expression.evaluate(|wanted| wanted.license.id().is_some_and(|id| allowed.contains(&id.name)));
        assert!(fits, "{name}: {licence}");
    }
    assert!(checked >= shipped.len(), "{checked} of {}", shipped.len());
}

fn host() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let said = Command::new(rustc).arg("-vV").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    said.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}
