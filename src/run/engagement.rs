//! The backend that observers are told of, so that whoever outlives this process can stop it.

use std::sync::Arc;

use super::headcount::Inner;
use crate::event::{Event, Observer, Scope};
use crate::pg::session::Identity;

/// At most one backend at a time: the leader, where a cleanup runs, or what waits for slots.
pub(crate) struct Engagement {
    inner: Arc<Inner>,
    task: Arc<str>,
    backend: Option<Identity>,
}

impl Engagement {
    pub(crate) const fn new(inner: Arc<Inner>, task: Arc<str>) -> Self {
        Self { inner, task, backend: None }
    }

    /// This backend may run something of ours from now on.
    pub(crate) fn begin(&mut self, backend: Identity) {
        let before = self.backend.replace(backend);
        if before != Some(backend) {
            let Identity { pid, started: backend_start } = backend;
            self.observe(&Event::BackendEngaged { pid, backend_start });
            if let Some(before) = before {
                self.released(before);
            }
        }
    }

    /// Nothing is left there to stop.
    pub(crate) fn end(&mut self) {
        if let Some(backend) = self.backend.take() {
            self.released(backend);
        }
    }

    fn released(&self, Identity { pid, started: backend_start }: Identity) {
        self.observe(&Event::BackendReleased { pid, backend_start });
    }

    /// Moves it out; what is left has nothing to end.
    pub(crate) fn take(&mut self) -> Self {
        Self { inner: self.inner.clone(), task: self.task.clone(), backend: self.backend.take() }
    }

    pub(crate) fn observe(&self, event: &Event) {
        self.inner.observers.observe(&Scope { task: self.task.clone() }, event);
    }
}
