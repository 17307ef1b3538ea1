//! Log lines.

use std::io::Write;
use std::sync::{Arc, Mutex};

use headcount::Outcome;
use headcount::event::{FailReason, UpdateOutcome};
use headcount::telemetry::exporters::{LogFormat, LogOptions};
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::script::{ended, never_began, observe, script, start, update_ended};

/// Log lines in memory.
#[derive(Clone, Default)]
pub(crate) struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    pub(crate) fn options(&self, format: LogFormat, filter: &str) -> LogOptions {
        let buffer = self.clone();
        LogOptions { format, filter: filter.to_owned(), writer: BoxMakeWriter::new(move || buffer.clone()) }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_event_is_a_line_whose_level_says_who_must_act() {
    let buffer = Buffer::default();
    let log = buffer.options(LogFormat::Json, "headcount=trace");
    let telemetry = start(|options| options.log = Some(log)).await;
    let mut events = script();
    events.push(ended(Err(FailReason::Sql), 0));
    events.push(ended(Ok(Outcome::AboveMinimum), 3));
    events.push(never_began());
    let none = [
        (UpdateOutcome::Complete, "INFO", "update finished"),
        (UpdateOutcome::Empty, "ERROR", "update had no keys"),
        (UpdateOutcome::AllMissing, "ERROR", "update found none of its keys"),
        (UpdateOutcome::AllStale, "ERROR", "update found no row as expected"),
        (UpdateOutcome::SomeMissing, "ERROR", "update did not find all of its keys"),
        (UpdateOutcome::SomeStale, "ERROR", "update did not find all rows as expected"),
    ];
    events.extend(none.map(|(outcome, level, _)| update_ended(outcome, level == "INFO")));
    tracing::dispatcher::with_default(telemetry.dispatch(), || observe(&telemetry, "rollup", &events));

    let text = buffer.text();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), events.len());
    assert!(lines.iter().all(|line| line["task"] == "rollup" && line["target"] == "headcount"));
    let level = |sentence: &str| {
        let line = lines.iter().find(|line| line["message"] == sentence);
        line.unwrap_or_else(|| panic!("no line says `{sentence}`"))["level"].as_str().unwrap().to_owned()
    };
    for (sentence, expected) in [
        ("started", "INFO"),
        ("the pool still has too little room; starting all the same", "WARN"),
        ("attempt started", "DEBUG"),
        ("workers seen", "TRACE"),
        ("too few workers", "WARN"),
        ("cancelled", "DEBUG"),
        ("cleaned up", "DEBUG"),
        ("connected again", "WARN"),
        ("enough workers", "INFO"),
        ("finished on target", "INFO"),
        ("finished below the target", "WARN"),
        ("gave up", "ERROR"),
        ("chunk given up", "ERROR"),
        ("update is incomplete", "ERROR"),
        ("update could not begin", "ERROR"),
    ] {
        assert_eq!(level(sentence), expected, "{sentence}");
    }
    let gave_up = lines.iter().find(|line| line["message"] == "gave up").unwrap();
    assert_eq!((&gave_up["outcome"], &gave_up["sqlstate"]), (&"sql".into(), &"42P01".into()));
    assert_eq!(gave_up["error"], "the statement failed: no such table (SQLSTATE 42P01)");
    for (outcome, expected, sentence) in none {
        assert_eq!(level(sentence), expected, "{sentence}");
        let line = lines.iter().find(|line| line["message"] == sentence).unwrap();
        assert_eq!(line["outcome"], outcome.as_str());
    }
    // Who gave up says why.
    for (sentence, code, words) in [
        ("update is incomplete", "23514", "check constraint"),
        ("update could not begin", "08006", "refused"),
    ] {
        let line = lines.iter().find(|line| line["message"] == sentence).unwrap();
        assert_eq!(line["sqlstate"], code, "{line}");
        assert!(line["error"].as_str().unwrap().contains(words), "{line}");
    }
    let started = lines.iter().find(|line| line["message"] == "attempt started").unwrap();
    assert_eq!(
        (&started["attempt"], &started["max_attempts"], &started["pid"]),
        (&1.into(), &5.into(), &4711.into())
    );
}
