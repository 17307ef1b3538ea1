//! What a driver test hears, as short words.

use std::sync::Mutex;

use crate::event::{Event, Observer, Scope};

/// Remembers each event as a short word.
#[derive(Default)]
pub(super) struct Recorder(pub(super) Mutex<Vec<String>>);

impl Observer for Recorder {
    fn observe(&self, _scope: &Scope, event: &Event) {
        let word = match event {
            Event::TickTaken { .. } | Event::MonitorPolled { .. } => return,
            Event::AttemptStarted { attempt, required, .. } => {
                format!("attempt {attempt} required {required}")
            }
            Event::VerdictReached { verdict, workers, .. } => format!("{} {workers}", verdict.as_str()),
            Event::CancelAnswered { method, .. } => method.as_str().to_owned(),
            Event::WorkersDrained { .. } => "drained".to_owned(),
            Event::CleanupEnded { ok, .. } => if *ok { "cleaned up" } else { "cleanup failed" }.to_owned(),
            Event::AttemptEnded(facts) => format!("ended {}", facts.end.verdict().as_str()),
            Event::RetryDelayed { .. } => "delayed".to_owned(),
            Event::SessionLost { .. } => "session lost".to_owned(),
            Event::SessionRestored { .. } => "session restored".to_owned(),
            Event::CommitInDoubt => "in doubt".to_owned(),
            Event::CommitResolved { resolution } => resolution.as_str().to_owned(),
            Event::TargetLowered { target, .. } => format!("lowered to {target}"),
            Event::ExecutionEnded(facts) => match facts.end {
                Ok(outcome) => outcome.as_str().to_owned(),
                Err(reason) => format!("failed {}", reason.as_str()),
            },
            _ => return,
        };
        self.0.lock().expect("no test panics while recording").push(word);
    }
}
