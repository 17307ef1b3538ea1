//! An observer that remembers, so that a test can wait for an event instead of for time.

use std::sync::{Mutex, PoisonError};

use headcount::event::{CancelMethod, CancelResult, ExecutionFacts, Scope};
use headcount::{Event, Observer};
use tokio::sync::watch;

use super::LIMIT;

/// Every event so far, ticks left out: thousands of them say nothing that the verdict does not.
#[derive(Debug)]
pub(crate) struct Recorder {
    events: Mutex<Vec<Event>>,
    /// How many there are, and how many polls of the monitor.
    count: watch::Sender<(usize, usize)>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { events: Mutex::default(), count: watch::Sender::new((0, 0)) }
    }
}

impl Recorder {
    /// Waits until an event like this one has happened; looks at those from before the call, too.
    pub(crate) async fn wait_for(&self, is_it: impl Fn(&Event) -> bool) -> Event {
        let mut count = self.count.subscribe();
        let waiting = async {
            loop {
                count.mark_unchanged();
                if let Some(event) = self.find(&is_it) {
                    return event;
                }
                let _ = count.changed().await;
            }
        };
        let came = tokio::time::timeout(LIMIT, waiting).await;
        came.unwrap_or_else(|_| panic!("the event never came; these did: {:#?}", self.all()))
    }

    /// Waits for this many more polls of the monitor.
    pub(crate) async fn wait_for_polls(&self, more: usize) {
        let mut count = self.count.subscribe();
        let until = count.borrow().1 + more;
        super::soon("polls of the monitor", count.wait_for(|(_, polls)| *polls >= until)).await.unwrap();
    }

    /// Polls of the monitor so far.
    pub(crate) fn polls(&self) -> usize {
        self.count.borrow().1
    }

    /// The first event like this one.
    pub(crate) fn find(&self, is_it: impl Fn(&Event) -> bool) -> Option<Event> {
        self.events().iter().find(|event| is_it(event)).cloned()
    }

    /// How many events like this one there were.
    pub(crate) fn count(&self, is_it: impl Fn(&Event) -> bool) -> usize {
        self.events().iter().filter(|event| is_it(event)).count()
    }

    /// Each execution's end.
    pub(crate) fn executions(&self) -> Vec<ExecutionFacts> {
        let pick = |event: &Event| match event {
            Event::ExecutionEnded(facts) => Some(facts.clone()),
            _ => None,
        };
        self.events().iter().filter_map(pick).collect()
    }

    /// Whether a leader was asked to stop in this way, successfully.
    pub(crate) fn stopped_by(&self, method: CancelMethod) -> bool {
        let is_it = |event: &Event| {
            matches!(event, Event::CancelAnswered { method: asked, result: CancelResult::Sent, .. }
                if *asked == method)
        };
        self.find(is_it).is_some()
    }

    /// The pid of the leader in the last attempt that began.
    pub(crate) fn pid(&self) -> i32 {
        let pid = |event: &Event| match event {
            Event::AttemptStarted { pid, .. } => Some(*pid),
            _ => None,
        };
        self.events().iter().rev().find_map(pid).expect("an attempt")
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Event> {
        self.events().clone()
    }

    fn events(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Recorder {
    fn observe(&self, _scope: &Scope, event: &Event) {
        match event {
            Event::TickTaken { .. } => {}
            Event::MonitorPolled { .. } => self.count.send_modify(|(_, polls)| *polls += 1),
            event => {
                self.events().push(event.clone());
                self.count.send_modify(|(events, _)| *events += 1);
            }
        }
    }
}
