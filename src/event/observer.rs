//! Observers of events, and the task that an event belongs to.

use std::sync::Arc;

use super::Event;

/// The task that an event belongs to.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The configured task name; the only free text that becomes a label.
    pub task: Arc<str>,
}

/// Receives every event of the executions it was given to.
///
/// ```
/// use headcount::event::Scope;
/// use headcount::{Event, Observer};
///
/// struct Pager;
///
/// impl Observer for Pager {
///     fn observe(&self, scope: &Scope, event: &Event) {
///         if let Event::LaunchShort { short, .. } = event {
///             println!("{}: a launch had {} of {} workers", scope.task, short.got, short.needed);
///         }
///     }
/// }
/// ```
pub trait Observer: Send + Sync {
    /// A task was configured and may run later. Called so that its counters can be exported as 0.
    fn announce(&self, _scope: &Scope) {}

    /// An event happened. Called on the job's own task: it must not block.
    fn observe(&self, scope: &Scope, event: &Event);
}

/// Passes each event to several observers, in order.
#[derive(Clone, Default)]
pub struct Observers(Arc<[Arc<dyn Observer>]>);

impl Observers {
    /// Makes one observer of several. They receive each event in this order.
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
