//! Who hears of events, and whose they are.

use std::sync::Arc;

use super::Event;

/// Whose event it is.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The configured task name; the only free text that becomes a label.
    pub task: Arc<str>,
}

/// Receives every event of the executions it was given to.
pub trait Observer: Send + Sync {
    /// A task was configured, and may run later: the moment to export its counters as 0.
    fn announce(&self, _scope: &Scope) {}

    /// Something happened. Called on the job's own task: do not block.
    fn observe(&self, scope: &Scope, event: &Event);
}

/// Hands each event to several observers, in order.
#[derive(Clone, Default)]
pub struct Observers(Arc<[Arc<dyn Observer>]>);

impl Observers {
    /// The observers in the order in which they hear of an event.
    #[must_use]
    pub fn new(observers: Vec<Arc<dyn Observer>>) -> Self {
        Self(observers.into())
    }
}

impl std::fmt::Debug for Observers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Observers({})", self.0.len())
    }
}

impl Observer for Observers {
    fn announce(&self, scope: &Scope) {
        self.0.iter().for_each(|observer| observer.announce(scope));
    }

    fn observe(&self, scope: &Scope, event: &Event) {
        self.0.iter().for_each(|observer| observer.observe(scope, event));
    }
}
