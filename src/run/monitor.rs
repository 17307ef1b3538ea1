//! One monitor for all guarded queries of a process.
//!
//! One connection polls for every watch: one statement a tick answers for all leaders and the pool.
//! It polls at the pace of the most impatient watch, and not at all when nothing is watched. It
//! reconnects by itself; until it is back each watch is told that it is blind, which keeps verdicts
//! open. The same connection carries cancels, so what is seen and what is stopped have one order; while it is away, a
//! cancel gets a connection of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, OnceCell, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::Span;

use crate::decide::backoff::Backoff;
use crate::decide::counters::LaunchCounters;
use crate::decide::verdict::{LeaderState, Pool, Tick};
use crate::event::{CancelMethod, CancelResult, Event, Observer, Observers, Scope};
use crate::pg::activity::{self, SeenLeader, View};
use crate::pg::connect::Endpoint;
use crate::pg::privileges::{self, Rights};
use crate::pg::session::{Identity, Session};
use crate::pg::{Failure, cancel, counters, slots};
use crate::telemetry::spans;

/// Sights a watch may have unread; more are dropped, the watcher is not looking anyway.
const UNREAD: usize = 64;
/// A poll that takes longer counts as a lost connection.
const POLL_LIMIT: Duration = Duration::from_secs(5);
/// Between two tries to reconnect.
const RECONNECT: Backoff = Backoff { first: Duration::from_millis(20), cap: Duration::from_secs(2) };

/// How often to ask for the first connection, and how long to pause between.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) attempts: u32,
    pub(crate) retry_delay: Duration,
}

/// What a watch is told.
#[derive(Debug, Clone)]
pub(crate) enum Observation {
    /// A poll saw this.
    Seen(Seen),
    /// The monitor's connection is away, or its role may not see the leader's row.
    Blind,
}

/// What a poll saw of one leader, and of the room for workers.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) leader: SeenLeader,
    pub(crate) pool: Option<Pool>,
    pub(crate) processes: Option<Pool>,
    /// Workers that autovacuum has.
    pub(crate) autovacuum: u32,
}

impl Seen {
    /// The same as a tick of an attempt that began then.
    pub(crate) fn tick(&self, began: Instant) -> Tick {
        Tick {
            at: self.at.saturating_duration_since(began),
            workers: u32::try_from(self.leader.workers.len()).unwrap_or(u32::MAX),
            leader: self.leader.state,
            pool: self.pool,
            processes: self.processes,
        }
    }
}

/// The handle. It connects when it is needed first; the polling task ends with it.
#[derive(Debug)]
pub(crate) struct Monitor {
    shared: Arc<Shared>,
    polling: OnceCell<Polling>,
}

/// What there is since the first connection.
#[derive(Debug)]
struct Polling {
    /// `server_version_num`.
    version: i32,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    observers: Observers,
    scope: Scope,
    watches: Mutex<HashMap<u64, Watched>>,
    next_id: AtomicU64,
    /// What quiet looks are aligned to.
    epoch: Instant,
    changed: Notify,
    /// The connection while it works.
    session: Mutex<Option<Arc<Session>>>,
}

#[derive(Debug)]
struct Watched {
    leader: Option<Identity>,
    span: Span,
    interval: Duration,
    due: Instant,
    /// Nothing is to be decided: looks of all such watches are taken together, and a look has a span only when it
    /// shows something new.
    quiet: bool,
    /// What the last look showed.
    last: Option<SeenLeader>,
    observations: mpsc::Sender<Observation>,
}

impl Watched {
    /// Takes what a look shows; whether it is new.
    fn learn(&mut self, seen: &SeenLeader) -> bool {
        let known = self.last.replace(seen.clone());
        known.is_none_or(|known| known.state != seen.state || known.workers != seen.workers)
    }
}

/// A watch whose look is due.
struct Due {
    id: u64,
    leader: Option<Identity>,
    /// Of a look that has one in any case.
    span: Option<Span>,
}

impl Monitor {
    pub(crate) fn new(endpoint: Endpoint, observers: Observers) -> Self {
        let shared = Arc::new(Shared {
            endpoint,
            observers,
            scope: Scope { task: "monitor".into() },
            watches: Mutex::default(),
            next_id: AtomicU64::new(0),
            epoch: Instant::now(),
            changed: Notify::new(),
            session: Mutex::new(None),
        });
        Self { shared, polling: OnceCell::new() }
    }

    /// Connects unless it has done so before; from then on it polls while something is watched.
    pub(crate) async fn connect(&self, patience: Patience, say: impl FnMut(&Event)) -> Result<(), Failure> {
        let Self { shared, polling } = self;
        let starting = async {
            let session = open_within(&shared.endpoint, patience, say).await?;
            let version = session.version;
            shared.set_session(Some(Arc::new(session)));
            shared.observe(&Event::MonitorStarted { server_version: version.unsigned_abs() });
            Ok(Polling { version, task: tokio::spawn(poll_for_ever(shared.clone())) })
        };
        polling.get_or_try_init(|| starting).await.map(drop)
    }

    /// What its own events belong to.
    pub(crate) fn scope(&self) -> &Scope {
        &self.shared.scope
    }

    /// Whether it has connected before.
    pub(crate) fn has_connected(&self) -> bool {
        self.polling.initialized()
    }

    /// `server_version_num` when it connected; 0 before.
    pub(crate) fn version(&self) -> i32 {
        self.polling.get().map_or(0, |polling| polling.version)
    }

    /// Watches a leader; ticks become child spans of the current span.
    pub(crate) fn watch(&self, leader: Identity, interval: Duration) -> Watch {
        self.shared.register(Some(leader), interval, false)
    }

    /// The same where nothing is to be decided: all such watches are looked at together.
    pub(crate) fn watch_quietly(&self, leader: Identity, interval: Duration) -> Watch {
        self.shared.register(Some(leader), interval, true)
    }

    /// Watches the pool alone.
    pub(crate) fn watch_pool(&self, interval: Duration) -> Watch {
        self.shared.register(None, interval, false)
    }

    /// Looks at these backends, and at the pool, at once.
    pub(crate) async fn look_at(&self, backends: &[Identity]) -> Result<View, Failure> {
        let pids: Vec<i32> = backends.iter().map(|backend| backend.pid).collect();
        self.shared
            .with_session(|session| {
                let pids = pids.clone();
                Box::pin(async move { activity::look(session, &pids).await })
            })
            .await
    }

    /// The monitor's rights over a leader; `None` when the leader is gone.
    pub(crate) async fn rights_over(&self, leader: Identity) -> Result<Option<Rights>, Failure> {
        self.shared.with_session(|session| Box::pin(privileges::over(session, leader))).await
    }

    /// What the server counted of parallel workers in the leader's database.
    pub(crate) async fn launch_counters(&self, leader: Identity) -> Result<Option<LaunchCounters>, Failure> {
        self.shared.with_session(|session| Box::pin(counters::read(session, leader))).await
    }

    /// The backend that has that pid now.
    pub(crate) async fn identify(&self, pid: i32) -> Result<Identity, Failure> {
        self.shared.with_session(|session| Box::pin(activity::identify(session.client(), pid))).await
    }

    /// Asks the server to stop a leader, whatever it runs. Returns when the server has answered.
    pub(crate) async fn stop(&self, leader: Identity, method: CancelMethod) -> CancelResult {
        self.stop_statement(leader, method, None).await
    }

    /// The same, only while it runs the statement that began then; see [`SeenLeader::statement`].
    pub(crate) async fn stop_statement(
        &self,
        leader: Identity,
        method: CancelMethod,
        statement: Option<i64>,
    ) -> CancelResult {
        self.shared
            .with_session(|session| Box::pin(cancel::stop(session.client(), leader, method, statement)))
            .await
            .unwrap_or_else(|failure| match failure.sqlstate() {
                Some("42501") => CancelResult::Denied,
                _ => CancelResult::Failed,
            })
    }

    /// How many are before that session in the queue for what it waits for.
    pub(crate) async fn ahead_of(&self, pid: i32) -> Result<u32, Failure> {
        self.shared.with_session(|session| Box::pin(slots::ahead_of(session.client(), pid))).await
    }

    /// Who holds the locks that this backend waits for, or waits for them before it.
    pub(crate) async fn blockers(&self, pid: i32) -> Result<Vec<i32>, Failure> {
        self.shared.with_session(|session| Box::pin(activity::blockers(session.client(), pid))).await
    }

    /// Workers left of that leader, and whether its backend is still there.
    pub(crate) async fn left(&self, leader: Identity) -> Result<(u32, bool), Failure> {
        self.shared.with_session(|session| Box::pin(activity::left(session, leader))).await
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects; asks a server again that has no session to give, or is still starting. One that is not there may be
/// a mistake in the DSN: that is told at once.
async fn open_within(
    endpoint: &Endpoint,
    patience: Patience,
    mut say: impl FnMut(&Event),
) -> Result<Session, Failure> {
    let began = Instant::now();
    let backoff = Backoff::patient(patience.retry_delay, true);
    let mut asked = 0;
    loop {
        asked += 1;
        match open(endpoint).await {
            Err(failure) if failure.class().needs_longer() && asked < patience.attempts => {
                say(&Event::StartHindered { cause: failure.to_string(), waited: began.elapsed() });
                sleep(backoff.delay(asked, fastrand::f64())).await;
            }
            opened => return opened,
        }
    }
}

async fn open(endpoint: &Endpoint) -> Result<Session, Failure> {
    Session::stand_by(endpoint, "headcount:monitor").await
}

impl Shared {
    fn register(self: &Arc<Self>, leader: Option<Identity>, interval: Duration, quiet: bool) -> Watch {
        let (observations, inbox) = mpsc::channel(UNREAD);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (span, now) = (Span::current(), Instant::now());
        let due = if quiet { self.aligned(now, interval) } else { now };
        let watched = Watched { leader, span, interval, due, quiet, last: None, observations };
        self.watches().insert(id, watched);
        self.changed.notify_one();
        Watch { inbox, registered: Some(Registered { id, shared: self.clone() }) }
    }

    fn watches(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Watched>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> Option<Arc<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_session(&self, session: Option<Arc<Session>>) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    /// Runs a statement on the monitor's connection, or on one of its own while that is away.
    async fn with_session<T, F>(&self, ask: F) -> Result<T, Failure>
    where
        F: for<'a> Fn(&'a Session) -> BoxFuture<'a, Result<T, Failure>>,
    {
        if let Some(session) = self.session() {
            match timeout(POLL_LIMIT, ask(&session)).await {
                Ok(Err(failure)) if failure.is_connection_lost() => {}
                Ok(answer) => return answer,
                Err(_) => {}
            }
        }
        let session = open(&self.endpoint).await?;
        ask(&session).await
    }

    /// The watches that are due, with a span for each that has a leader and something to decide.
    fn due(&self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        for (&id, watched) in self.watches().iter_mut().filter(|(_, watched)| watched.due <= now) {
            watched.due =
                if watched.quiet { self.aligned(now, watched.interval) } else { now + watched.interval };
            let span = watched.leader.filter(|_| !watched.quiet).map(|_| spans::tick(&watched.span));
            due.push(Due { id, leader: watched.leader, span });
        }
        due
    }

    /// The next of the moments that all quiet watches of this pace look at.
    fn aligned(&self, now: Instant, interval: Duration) -> Instant {
        let passed = now.saturating_duration_since(self.epoch).as_nanos();
        let interval = interval.as_nanos().max(1);
        let rest = u64::try_from(interval - passed % interval).unwrap_or(u64::MAX);
        now + Duration::from_nanos(rest)
    }

    /// The span of a quiet look that shows something new.
    fn changed_span(&self, id: u64, seen: &SeenLeader) -> Option<Span> {
        let mut watches = self.watches();
        let it = watches.get_mut(&id)?;
        (it.learn(seen) && it.quiet).then(|| spans::tick(&it.span))
    }

    fn tell(&self, id: u64, observation: Observation) {
        if let Some(watched) = self.watches().get(&id) {
            // A full inbox means that nobody is looking; the peak that counts was seen before.
            let _ = watched.observations.try_send(observation);
        }
    }

    fn observe(&self, event: &Event) {
        self.observers.observe(&self.scope, event);
    }

    /// One poll for all that are due.
    async fn poll(&self, session: &Session) -> Result<(), Failure> {
        let began = Instant::now();
        let due = self.due(began);
        let leaders: Vec<i32> = due.iter().filter_map(|due| due.leader.map(|leader| leader.pid)).collect();
        let looked = timeout(POLL_LIMIT, activity::look(session, &leaders)).await;
        let view = looked.unwrap_or_else(|_| Err(Failure::lost("the monitor's poll was not answered")))?;
        let at = Instant::now();
        self.observe(&Event::MonitorPolled { took: at - began, pool: view.pool });
        for Due { id, leader, span } in due {
            let observation = observation(at, leader, &view);
            if let (Some(_), Observation::Seen(seen)) = (leader, &observation)
                && let Some(span) = self.changed_span(id, &seen.leader).or(span)
            {
                spans::record_tick(&span, &seen.tick(began));
            }
            self.tell(id, observation);
        }
        Ok(())
    }

    /// Tells all watches that nothing is seen, and comes back with a new connection.
    async fn reconnect(&self, failure: &Failure) {
        let lost_at = Instant::now();
        self.set_session(None);
        self.observe(&Event::MonitorLost { cause: failure.to_string() });
        let mut tries = 0;
        let session = loop {
            for watched in self.watches().values() {
                let _ = watched.observations.try_send(Observation::Blind);
            }
            tries += 1;
            sleep(RECONNECT.delay(tries, fastrand::f64())).await;
            if let Ok(session) = open(&self.endpoint).await {
                break session;
            }
        };
        self.set_session(Some(Arc::new(session)));
        self.observe(&Event::MonitorRestored { blind_for: lost_at.elapsed() });
    }
}

fn observation(at: Instant, leader: Option<Identity>, view: &View) -> Observation {
    let View { pool, processes, autovacuum, .. } = *view;
    let nobody = || SeenLeader { state: LeaderState::Idle, ..SeenLeader::gone() };
    match leader.map_or_else(|| Some(nobody()), |leader| view.of(leader)) {
        None => Observation::Blind,
        Some(leader) => Observation::Seen(Seen { at, leader, pool, processes, autovacuum }),
    }
}

async fn poll_for_ever(shared: Arc<Shared>) {
    loop {
        let next = shared.watches().values().map(|watched| watched.due).min();
        let Some(next) = next else {
            shared.changed.notified().await;
            continue;
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = shared.changed.notified() => continue,
        }
        let polled = match shared.session() {
            Some(session) => shared.poll(&session).await,
            None => Err(Failure::lost("the monitor is not connected")),
        };
        if let Err(failure) = polled {
            shared.reconnect(&failure).await;
        }
    }
}

/// A subscription to what the monitor sees; ends when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    inbox: mpsc::Receiver<Observation>,
    registered: Option<Registered>,
}

#[derive(Debug)]
struct Registered {
    id: u64,
    shared: Arc<Shared>,
}

impl Watch {
    /// A watch whose sights a test writes.
    #[cfg(test)]
    pub(crate) const fn scripted(inbox: mpsc::Receiver<Observation>) -> Self {
        Self { inbox, registered: None }
    }

    /// The next sight. Cancel-safe. Waits for ever when the monitor ended.
    pub(crate) async fn next(&mut self) -> Observation {
        match self.inbox.recv().await {
            Some(observation) => observation,
            None => std::future::pending().await,
        }
    }

    /// A sight that is there already.
    pub(crate) fn try_next(&mut self) -> Option<Observation> {
        self.inbox.try_recv().ok()
    }

    /// Looks at another pace from now on; `quiet`, when nothing is to be decided.
    pub(crate) fn pace(&self, interval: Duration, quiet: bool) {
        let Some(Registered { id, shared }) = &self.registered else { return };
        {
            let mut watches = shared.watches();
            let Some(it) = watches.get_mut(id) else { return };
            if (it.interval, it.quiet) == (interval, quiet) {
                return;
            }
            (it.interval, it.quiet) = (interval, quiet);
            let now = Instant::now();
            it.due = if quiet { shared.aligned(now, interval) } else { now + interval };
        }
        shared.changed.notify_one();
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.watches().remove(&self.id);
    }
}
