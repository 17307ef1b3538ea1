//! House rules: what keeps the layers apart, checked by reading the sources.

#![allow(missing_docs, clippy::pedantic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has sources");
    found
}

/// The code of a file: without comments, and without its unit tests, which come last.
fn code(text: &str) -> String {
    let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = shipped.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// No source of `folder` contains one of `words`, but for the files that `except` names.
fn check(folder: &str, words: &[&str], except: &[&str]) {
    let mut broken = Vec::new();
    for (path, text) in sources(folder) {
        if except.iter().any(|part| path.to_string_lossy().contains(part)) {
            continue;
        }
        let code = code(&text);
        for word in words.iter().filter(|word| code.contains(**word)) {
            broken.push(format!("{} has {word}", path.display()));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_pure_core_neither_awaits_nor_reads_a_clock_nor_draws_nor_logs_nor_counts() {
    let impure =
        [".await", "async ", "tokio", "Instant", "SystemTime", "rand", "tracing", "metrics", "println"];
    check("src/decide", &impure, &[]);
}

#[test]
fn the_pure_core_names_nothing_else_of_the_crate() {
    for (path, text) in sources("src/decide") {
        let foreign: Vec<_> = code(&text)
            .lines()
            .filter(|line| line.contains("crate::") && !line.contains("crate::decide::"))
            .map(str::to_owned)
            .collect();
        assert!(foreign.is_empty(), "{}: {foreign:?}", path.display());
    }
}

#[test]
fn the_vocabulary_names_only_the_value_types_of_the_core() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/event.rs");
    let mut texts = vec![fs::read_to_string(root).unwrap()];
    texts.extend(sources("src/event").into_iter().map(|(_, text)| text));
    let lines = texts.iter().flat_map(|text| text.lines());
    let used: Vec<_> = lines.filter(|line| line.starts_with("use crate::")).collect();
    assert!(used.iter().all(|line| line.starts_with("use crate::decide::")), "{used:?}");
}

#[test]
fn only_telemetry_names_a_metric() {
    let macros = ["counter!(", "gauge!(", "histogram!(", "\"headcount_"];
    check("src", &macros, &["src/telemetry/"]);
}

#[test]
fn drivers_read_the_runtime_clock_only() {
    check("src/run", &["std::time::Instant", "thread::sleep"], &[]);
}

#[test]
fn layers_point_downwards() {
    check("src/pg", &["crate::run"], &[]);
    check("src/telemetry", &["crate::run"], &[]);
}

#[test]
fn only_one_query_counts_workers() {
    check("src", &["'parallel worker'"], &["src/pg/mod.rs"]);
}

/// A role's `search_path` may put functions of the same name before them.
#[test]
fn our_queries_name_the_servers_functions_with_their_schema() {
    let functions = [
        "current_setting(",
        "set_config(",
        "round(",
        "count(",
        "sum(",
        "min(",
        "max(",
        "array_agg(",
        "string_agg(",
        "bool_or(",
        "bool_and(",
        "unnest(",
        "cardinality(",
        "clock_timestamp(",
        "has_function_privilege(",
    ];
    for (path, text) in sources("src/pg").into_iter().chain(sources("src/run")) {
        let code = code(&text).replace("'\"'", "").replace("\\\"", "");
        for string in code.split('"').skip(1).step_by(2) {
            for function in functions {
                for (at, _) in string.match_indices(function) {
                    let before = string[..at].chars().next_back();
                    let named = before.is_some_and(|c| ".'_".contains(c) || c.is_alphanumeric());
                    assert!(named, "{}: {function} without pg_catalog: {string}", path.display());
                }
            }
        }
    }
}

#[test]
fn the_library_prints_nothing() {
    check("src", &["println!", "eprintln!", "print!("], &[]);
}

/// In a database where parallel plans cost nothing, a question about the pool would take workers of it.
#[test]
fn our_joins_of_the_catalog_take_no_workers() {
    let mut checked = 0;
    for (path, text) in sources("src/pg") {
        let code = code(&text);
        for query in code.split("const ").skip(1).filter_map(|rest| rest.split_once(": &str =")) {
            let query = query.1.split(";\n\n").next().unwrap_or_default();
            if query.contains("JOIN pg_catalog.pg_") {
                // Which is what keeps such a query from them: a function that is parallel unsafe.
                let serial = query.contains("serial!()") || query.contains("set_config(");
                assert!(serial, "{}: {query}", path.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 5, "{checked}");
}

#[test]
fn each_item_of_the_librarys_index_has_an_example() {
    let index = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let uses = index.split("pub use ").skip(1).map(|rest| rest.split(';').next().unwrap());
    let names: Vec<String> = uses
        .flat_map(|path| path.rsplit("::").next().unwrap().trim_matches(['{', '}']).split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    assert!(names.len() > 20 && names.len() < 40, "it fits on a page: {names:?}");
    let sources = sources("src");
    for name in names {
        let kinds = ["struct", "enum", "trait"].map(|kind| format!("pub {kind} {name}"));
        let shown = sources.iter().any(|(_, text)| {
            let places = kinds.iter().flat_map(|item| text.match_indices(item.as_str()));
            places.map(|(place, _)| &text[..place]).any(|before| {
                let own = before.rsplit("\n\n").next().unwrap_or_default();
                own.contains("/// ```")
            })
        });
        assert!(shown, "{name}");
    }
}

/// Its user may have no command line: it names its own options, and the command translates (`cli/src/names.rs`).
#[test]
fn the_library_names_no_option_of_the_command() {
    let is_option = |word: &str| {
        let name = word.trim_start_matches(|c: char| !c.is_alphanumeric() && c != '-').strip_prefix("--");
        name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    for (path, text) in sources("src").into_iter().filter(|(path, _)| !path.ends_with("tests.rs")) {
        // What begins a comment of SQL has a space behind it.
        let code = code(&text);
        let options = code.split_whitespace().filter(|word| is_option(word));
        // Of pg_dump.
        let options: Vec<&str> = options.filter(|word| !word.starts_with("--inserts")).collect();
        assert!(options.is_empty(), "{}: {options:?}", path.display());
    }
}

#[test]
fn files_stay_small_enough_to_read() {
    for (path, text) in sources("src").into_iter().chain(sources("cli/src")) {
        let lines = text.lines().count();
        assert!(lines <= 500, "{} has {lines} lines", path.display());
    }
}

#[test]
fn every_test_binary_is_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    let script = read("tests/run.sh");
    let all = script.lines().find(|line| line.contains("|| set -- live")).unwrap();
    for manifest in ["Cargo.toml", "cli/Cargo.toml"] {
        let manifest = read(manifest);
        for test in manifest.split("[[test]]").skip(1) {
            let name = test.lines().find_map(|line| line.strip_prefix("name = ")).unwrap().trim_matches('"');
            assert!(all.split_whitespace().any(|word| word == name), "{name} is not among: {all}");
        }
    }
}

/// A number in a test is a version that `make matrix` cannot choose.
#[test]
fn tests_take_their_servers_from_the_list_of_versions() {
    let fixed = [
        "Binaries::all()",
        "Binaries::version(",
        "Lab::start(1",
        "Bench::new(1",
        "Bench::alone(1",
        "of_version(1",
        "programs(1",
    ];
    for (path, text) in sources("tests") {
        let chosen: Vec<_> =
            text.lines().filter(|line| fixed.iter().any(|words| line.contains(words))).collect();
        assert!(chosen.is_empty() || path.ends_with("house/main.rs"), "{}: {chosen:?}", path.display());
    }
}

#[test]
fn tests_wait_for_events_and_never_for_time() {
    for (path, text) in sources("tests") {
        let sleeps: Vec<_> =
            text.lines().filter(|line| line.contains("::sleep(") || line.contains(" sleep(")).collect();
        assert!(sleeps.is_empty() || path.ends_with("house/main.rs"), "{}: {sleeps:?}", path.display());
    }
}

/// `tests/mutations.sh` breaks promises on purpose: it must not go stale, nor the table of what it breaks.
#[test]
fn each_mutation_finds_its_text_and_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let run = |what| {
        let script = Command::new("bash").arg(root.join("tests/mutations.sh")).arg(what).output().unwrap();
        assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
        String::from_utf8(script.stdout).unwrap()
    };
    run("check");
    let table = fs::read_to_string(root.join("tests/README.md")).unwrap();
    assert!(table.ends_with(&run("list")), "tests/README.md ends with what `tests/mutations.sh list` prints");
}
