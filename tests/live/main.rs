//! Live tests: every claim about a server is put to real servers.
//!
//! | module | what it claims |
//! |---|---|
//! | [`verdicts`] | target met, at once or later; above the minimum; below it, and nothing left behind |
//! | [`patience`] | serial phases and lock waits are not held against a statement; a full pool is |
//! | [`launches`] | each launch is judged by itself, and each statement of a script |
//! | [`ceiling`] | a session with a higher ceiling than the others' has its workers whoever holds the pool |
//! | [`gathering`] | slots of a pool that others never leave alone are held until there are enough; what is guaranteed |
//! | [`statements`] | each kind of statement that can have workers, closures, foreign clients |
//! | [`rows`] | rows are streamed once the verdict is in, and never from a rejected attempt |
//! | [`rights`] | who may see and stop whom; pools and servers that cannot be seen |
//! | [`refusals`] | what cannot have its workers is refused before anything runs |
//! | [`cancels`] | a cancel hits the statement that was meant, or none |
//! | [`faults`] | lost sessions, monitors, servers and commits; futures dropped; cleanups that fail |
//! | [`monitor`] | one monitor for all, silent when nothing is watched |
//! | [`edge`] | private servers; connecting with passwords, files, TLS |
//! | [`hosts`] | which of several servers is taken, by what it may do |
//! | [`tls`] | certificates of the manual's recipes, revoked ones, versions of TLS, the client's own |
//! | [`plan`] | the plan, and each reason why it has too few workers |
//! | [`maintenance`] | the bounds of VACUUM and CREATE INDEX, and that the server asks for no more |
//! | [`traces`] | what the monitor sees of real statements, recorded for the tests of the pure core |
//! | [`scripts`] | each statement of a script, and REFRESH, inspected before anything runs |
//!
//! Most claims are tried on each version (see `versions`); `harness` starts one server a version and
//! lends its whole pool to one test at a time. Nothing here sleeps to let something happen: tests
//! wait for events, and ask the server until it says so.

mod cancels;
mod ceiling;
mod edge;
mod faults;
mod gathering;
mod harness;
mod hosts;
mod launches;
mod maintenance;
mod monitor;
mod patience;
mod plan;
mod refusals;
mod rights;
mod rows;
mod scripts;
mod statements;
mod tls;
mod traces;
mod verdicts;
#[path = "../servers/versions.rs"]
mod versions;
