//! The one JSON object of a command: its result, and what a program that keeps many of them has to know besides.
//!
//! `schema_version` goes up when a field changes its meaning or goes away; a new field leaves it as it is.

use std::sync::OnceLock;
use std::time::SystemTime;

use headcount::event::Scope;
use headcount::telemetry::{trace_context, trace_id_of};
use headcount::{Event, Observer};
use serde::Serialize;
use tracing::Span;

use super::output::{print, say};

const SCHEMA_VERSION: u32 = 1;
const HEADCOUNT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// When this process began, and the trace that its work belongs to.
static BEGAN: OnceLock<SystemTime> = OnceLock::new();
static TRACE: OnceLock<String> = OnceLock::new();

/// The process begins now.
pub(crate) fn begin() {
    BEGAN.get_or_init(SystemTime::now);
}

/// Prints the object of a command that has nothing to tell but what went wrong.
pub(crate) fn print_failure(reason: &str, error: &str, exit_code: u8) {
    print_result(&serde_json::json!({ "outcome": "failed", "reason": reason, "error": error }), exit_code);
}

#[derive(Serialize)]
struct Object<'a, T> {
    #[serde(flatten)]
    result: &'a T,
    exit_code: u8,
    began_at: String,
    ended_at: String,
    trace_id: Option<String>,
    schema_version: u32,
    headcount_version: &'static str,
}

/// Prints the result of a command that ends with this code.
pub(crate) fn print_result(result: &impl Serialize, exit_code: u8) {
    let trace_id = TRACE.get().cloned().or_else(|| Some(trace_context()?.trace_id().to_owned()));
    let (began_at, ended_at) = (time(*BEGAN.get_or_init(SystemTime::now)), time(SystemTime::now()));
    print_json(&Object {
        result,
        exit_code,
        began_at,
        ended_at,
        trace_id,
        schema_version: SCHEMA_VERSION,
        headcount_version: HEADCOUNT_VERSION,
    });
}

#[derive(Serialize)]
struct Look<'a, T> {
    #[serde(flatten)]
    seen: &'a T,
    at: String,
    schema_version: u32,
    headcount_version: &'static str,
}

/// Prints what a command saw that goes on looking.
pub(crate) fn print_look(seen: &impl Serialize) {
    let at = time(SystemTime::now());
    print_json(&Look { seen, at, schema_version: SCHEMA_VERSION, headcount_version: HEADCOUNT_VERSION });
}

fn print_json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => print(&text),
        Err(error) => say(&format!("headcount: the result has no JSON form: {error}")),
    }
}

/// RFC 3339, in UTC.
fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// Learns the trace of the work from the span that it runs in.
#[derive(Debug)]
pub(crate) struct TraceId;

impl Observer for TraceId {
    fn observe(&self, _: &Scope, event: &Event) {
        if matches!(event, Event::ExecutionStarted { .. } | Event::UpdateStarted { .. })
            && let Some(id) = trace_id_of(&Span::current())
        {
            let _ = TRACE.set(id);
        }
    }
}
