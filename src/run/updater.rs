//! The handle of a process that only updates: a server and observers, but no monitor.

use std::fmt;
use std::sync::Arc;

use super::update::{Batch, Site, Update};
use crate::event::{Observer, Observers};
use crate::pg::connect::Endpoint;
use crate::telemetry::spans::{Server, SpanAttributes};
use crate::telemetry::{Log, Metrics};

/// A server to run chunked updates on. Cheap to clone. It connects when an update runs; a process that
/// also runs guarded queries uses [`Headcount::update`](super::Headcount::update).
#[derive(Clone)]
pub struct Updater {
    site: Site,
}

impl Updater {
    /// With the built-in observers: span attributes, log lines and metrics (the `metrics` recorder that is
    /// installed by now), and these.
    #[must_use]
    pub fn new(endpoint: Endpoint, observers: Vec<Arc<dyn Observer>>) -> Self {
        Self::on(endpoint, defaults().into_iter().chain(observers).collect())
    }

    /// With these observers only.
    #[must_use]
    pub fn without_default_observers(endpoint: Endpoint, observers: Vec<Arc<dyn Observer>>) -> Self {
        Self::on(endpoint, observers)
    }

    fn on(endpoint: Endpoint, observers: Vec<Arc<dyn Observer>>) -> Self {
        let (server, observers) = (server(&endpoint), Observers::new(observers));
        Self { site: Site { endpoint, server, observers } }
    }

    /// An update of this table: its name as in the catalog, or as in SQL (schema-qualified, quoted).
    #[must_use]
    pub fn update(&self, table: &str) -> Update {
        Update::new(&self.site, table)
    }

    /// Work of the caller's own, in chunks, under this task name.
    #[must_use]
    pub fn batch(&self, task: &str) -> Batch {
        Batch::new(&self.site, task)
    }
}

/// The built-in observers.
pub(super) fn defaults() -> Vec<Arc<dyn Observer>> {
    vec![Arc::new(SpanAttributes), Arc::new(Log), Arc::new(Metrics::new())]
}

/// The endpoint as span attributes name it.
pub(super) fn server(endpoint: &Endpoint) -> Server {
    Server {
        address: endpoint.host().to_owned(),
        port: endpoint.port(),
        namespace: endpoint.database().to_owned(),
    }
}

impl fmt::Debug for Updater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updater").field("server", &self.site.endpoint.describe()).finish_non_exhaustive()
    }
}
