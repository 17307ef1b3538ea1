//! A process that embeds the library, and whose monitor goes by a line that can be cut.

use std::sync::Arc;
use std::time::Duration;

use headcount::event::Scope;
use headcount::server::Endpoint;
use headcount::telemetry::exporters::{Options, Telemetry};
use headcount::{Event, Headcount, Job, Observer, Settings};
use tokio::sync::broadcast;

use super::crowd::Crowded;
use super::line::Proxy;

/// Its task is `rollup`.
pub(crate) struct Service {
    pub(crate) telemetry: Telemetry,
    headcount: Headcount,
    /// The way of its monitor.
    pub(crate) line: Proxy,
    heard: Arc<Heard>,
}

/// Hears when a run begins to wait for room, and when a statement has its verdict.
struct Heard {
    waits: broadcast::Sender<()>,
    verdicts: broadcast::Sender<()>,
}

impl Observer for Heard {
    fn observe(&self, _: &Scope, event: &Event) {
        // Nobody may be listening.
        let _ = match event {
            Event::AdmissionStarted { .. } => self.waits.send(()),
            Event::VerdictReached { .. } => self.verdicts.send(()),
            _ => return,
        };
    }
}

impl Service {
    /// Starts it with these exporters.
    pub(crate) async fn start(crowded: &Crowded, exporters: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new("rollup");
        exporters(&mut options);
        let telemetry = Telemetry::start(options, |_| None).await.unwrap();
        let endpoint = Endpoint::from_dsn(&crowded.dsn()).unwrap();
        let line = Proxy::start(crowded.server.port()).await;
        let monitor = Endpoint::from_dsn(&crowded.dsn_by(&line)).unwrap();
        let heard = Heard { waits: broadcast::channel(16).0, verdicts: broadcast::channel(16).0 };
        let heard = Arc::new(heard);
        let builder = Headcount::builder(endpoint).monitor(monitor).without_default_observers();
        let builder = telemetry.observers().into_iter().fold(builder, headcount::Builder::observer);
        let headcount = builder.observer(heard.clone()).connect().await.unwrap();
        Self { telemetry, headcount, line, heard }
    }

    /// Whatever begins to wait for room from now on.
    pub(crate) fn waits(&self) -> broadcast::Receiver<()> {
        self.heard.waits.subscribe()
    }

    /// Whatever is judged from now on.
    pub(crate) fn verdicts(&self) -> broadcast::Receiver<()> {
        self.heard.verdicts.subscribe()
    }

    /// Its monitor loses its line, and gets no other.
    pub(crate) fn blind(&self) {
        self.line.refuse(true);
        self.line.cut();
    }

    /// Waits at most so long for room in the pool, which is full on purpose.
    pub(crate) fn job(&self, admission_wait: Duration) -> Job {
        let mut settings = Settings::new("rollup");
        settings.max_attempts = 4;
        settings.admission_wait = admission_wait;
        self.headcount.job(settings).target(4).minimum(2).cleanup("SELECT 1")
    }
}
