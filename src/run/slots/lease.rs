//! The slots of one execution.
//!
//! A lease owns its session, and with it its slots. It goes where the statement's session goes, and is dropped after
//! everything was cleared away and the workers are gone ([`lingering`](super::lingering)).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use super::lingering::{self, LingeringBackend};
use super::queue::{Grant, Queue, wait};
use super::{Slots, Wanted};
use crate::decide::backoff::Backoff;
use crate::decide::reservation::{self, Granted, PlanWorkers, Reservation};
use crate::error::{Error, Refusal};
use crate::event::{CancelMethod, Event, Observer, Scope};
use crate::fix::Fix;
use crate::pg::Failure;
use crate::pg::connect::Endpoint;
use crate::pg::label;
use crate::pg::pooling::Pooling;
use crate::pg::slots::SlotSession;
use crate::run::engagement::Engagement;
use crate::run::headcount::Inner;
use crate::run::narrow::too_few_slots;
use crate::run::recorder::ExecutionRecorder;
use crate::settings::{PlanShortfall, Settings};
use crate::telemetry::spans;

/// Between two tries to get a session for the queue.
const RETURN: Backoff = Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(2) };

/// Slots that are held. Dropping it gives them back.
struct Held {
    inner: Arc<Inner>,
    task: Arc<str>,
    session: SlotSession,
    grant: Grant,
    demand: u32,
    since: Instant,
    /// What was left of the wait when they were taken.
    left: Duration,
    /// The leader that they serve, and its attempt, as the server was told.
    told: (i32, u32),
    /// Leaders that had not gone when they should have: the slots are theirs until they have.
    lingering: Vec<LingeringBackend>,
}

/// Whether fewer slots than the statement wants are accepted after [`Settings::degrade_after`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartialGrant {
    /// They are.
    Accepted,
    /// They were refused: the plan within them could not have the minimum. The wait goes on for what was left of it.
    RefusedNow(Duration),
    /// They were refused before, and are not accepted any more.
    Refused,
}

/// The slots of one execution, before it has any, while it holds them, and after it lost them.
pub(crate) struct Lease {
    inner: Arc<Inner>,
    settings: Arc<Settings>,
    waiting: Engagement,
    /// The backend that leads, or is to; 0 before there is one.
    leader: i32,
    /// Given back when this is dropped.
    held: Option<Held>,
    partial_grant: PartialGrant,
}

/// The server's queue, as one execution stands in it. A wait that is broken off leaves the queue at
/// once: the server would notice by itself, but before 14 only when it is the head.
struct Place<'a> {
    inner: &'a Arc<Inner>,
    session: SlotSession,
    leaving: bool,
}

impl Queue for Place<'_> {
    async fn enter(&self, limit: Duration) -> Result<bool, Failure> {
        self.session.enter(limit).await
    }

    async fn ahead(&self) -> Option<u32> {
        self.inner.monitor.ahead_of(self.session.identity.pid).await.ok()
    }

    async fn look(&self) -> Result<reservation::Slots, Failure> {
        self.session.look().await
    }

    async fn take(&self, demand: u32, size: u32) -> Result<bool, Failure> {
        self.session.take(demand, size).await
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.leaving {
            end(self.inner, &self.session);
        }
    }
}

/// Has the server end a session that is no good to us any more, without waiting for it: the server may notice late
/// that nobody is there.
fn end(inner: &Arc<Inner>, session: &SlotSession) {
    if tokio::runtime::Handle::try_current().is_ok() {
        let (inner, identity) = (inner.clone(), session.identity);
        let tracker = inner.tracker.clone();
        tracker.spawn(async move { inner.monitor.stop(identity, CancelMethod::Terminate).await });
    }
}

impl Slots for Lease {
    async fn reserve(
        &mut self,
        wanted: Wanted,
        recorder: &mut ExecutionRecorder,
    ) -> Result<Option<Grant>, Error> {
        // A plan without workers needs no slots.
        if !self.settings.reserve || wanted.demand() == 0 {
            return Ok(None);
        }
        if let Some(held) = &self.held {
            if !held.is_lost() {
                return Ok(Some(held.grant));
            }
            self.held = None;
        }
        let span = spans::reserve(&self.settings.task, wanted.demand());
        let grant = self.stand_in_queue(wanted, recorder).instrument(span).await?;
        Ok(Some(grant))
    }

    fn are_lost(&self) -> bool {
        self.held.as_ref().is_some_and(Held::is_lost)
    }

    fn insist(&mut self) -> bool {
        let left = self.held.as_ref().map_or(Duration::ZERO, |held| held.left);
        if self.partial_grant != PartialGrant::Accepted || left.is_zero() {
            return false;
        }
        self.held = None;
        self.partial_grant = PartialGrant::RefusedNow(left);
        true
    }

    fn narrow(&mut self, share: u32) {
        if let Some(held) = &mut self.held {
            held.grant.share = Some(share);
        }
    }
}

impl Lease {
    /// No slots yet.
    pub(crate) fn new(inner: Arc<Inner>, settings: Arc<Settings>) -> Self {
        let waiting = Engagement::new(inner.clone(), settings.task.as_str().into());
        Self { inner, settings, waiting, leader: 0, held: None, partial_grant: PartialGrant::Accepted }
    }

    /// Moves the slots out; what is left holds none.
    pub(crate) fn take(&mut self) -> Self {
        Self {
            inner: self.inner.clone(),
            settings: self.settings.clone(),
            waiting: self.waiting.take(),
            leader: self.leader,
            held: self.held.take(),
            partial_grant: self.partial_grant,
        }
    }

    /// The backend that leads from now on.
    pub(crate) const fn led_by(&mut self, leader: i32) {
        self.leader = leader;
    }

    /// A connection that is lost while it waits costs the place in the queue, not the wait. What hinders it is
    /// said when it begins and when it changes: the wait may last for hours.
    async fn stand_in_queue(
        &mut self,
        wanted: Wanted,
        recorder: &mut ExecutionRecorder,
    ) -> Result<Grant, Error> {
        let began = Instant::now();
        let limit = match self.partial_grant {
            PartialGrant::RefusedNow(left) => left,
            PartialGrant::Accepted | PartialGrant::Refused => self.settings.reserve_wait,
        };
        if self.partial_grant != PartialGrant::Accepted {
            self.partial_grant = PartialGrant::Refused;
        }
        let (mut tries, mut told) = (0, None);
        loop {
            match self.wait_for_slots(wanted, began, limit, recorder).await? {
                Ok(grant) => return Ok(grant),
                Err(failure) => {
                    tries += 1;
                    let delay = RETURN.delay(tries, fastrand::f64());
                    if !failure.is_retryable() || began.elapsed() + delay > limit {
                        return Err(Error::sql("reserving slots", failure));
                    }
                    let cause = failure.to_string();
                    if told.as_ref() != Some(&cause) {
                        let event =
                            Event::ReservationHindered { cause: cause.clone(), waited: began.elapsed() };
                        recorder.observe(&event);
                        told = Some(cause);
                    }
                    sleep(delay).await;
                }
            }
        }
    }

    async fn wait_for_slots(
        &mut self,
        wanted: Wanted,
        began: Instant,
        limit: Duration,
        recorder: &mut ExecutionRecorder,
    ) -> Result<Result<Grant, Failure>, Error> {
        let Wanted { plan, target } = wanted;
        let leader = self.leader;
        let demand = wanted.demand();
        let name = label::serving(demand, leader, 1, &self.settings.task);
        let session = match slot_session(&self.inner, &self.settings, &name).await? {
            Ok(session) => session,
            Err(failure) => return Ok(Err(failure)),
        };
        self.check_pool(plan, session.pool)?;
        let Settings { degrade_after, priority, .. } = *self.settings;
        let degrade_after = degrade_after.filter(|_| self.partial_grant == PartialGrant::Accepted);
        let minimum = self.settings.minimum();
        let wish = Reservation::new(plan, target, minimum, limit, degrade_after).with_priority(priority);
        // Before 14 a server does not notice that who waits in its queue has died. A wait that is broken off stays
        // announced: the place is given up by a task, and whoever outlives this process looks after it.
        self.waiting.begin(session.identity);
        let inner = self.inner.clone();
        let mut place = Place { inner: &inner, session, leaving: true };
        let granted = wait(&place, &wish, began, recorder).await;
        self.waiting.end();
        place.leaving = granted.is_err();
        if let Ok(grant) = granted
            && grant.end != Granted::GaveUp
        {
            self.held = Some(Held {
                inner: self.inner.clone(),
                task: self.settings.task.as_str().into(),
                session: place.session.clone(),
                grant,
                demand,
                since: Instant::now(),
                left: wish.left(began.elapsed()),
                told: (leader, 1),
                lingering: Vec::new(),
            });
        }
        Ok(granted)
    }

    /// Refuses to wait for what the server does not have while the leader's own session looks as if it had.
    fn check_pool(&self, plan: PlanWorkers, size: u32) -> Result<(), Error> {
        let settings = &self.settings;
        let lower = settings.plan_shortfall == PlanShortfall::Lower;
        let required = if lower { settings.minimum() } else { settings.target_workers };
        let hidden = plan.own_pool.is_some_and(|own| own > size);
        if hidden && size < required && !settings.ignores_shortfall() {
            Err(too_few_slots(size, required))
        } else {
            Ok(())
        }
    }

    /// An attempt begins on that backend: the server is told whom the slots serve, in passing.
    pub(crate) fn serve(&mut self, leader: i32, attempt: u32) {
        self.leader = leader;
        let Some(held) = &mut self.held else { return };
        if held.told == (leader, attempt) {
            return;
        }
        held.told = (leader, attempt);
        let name = label::serving(held.demand, leader, attempt, &self.settings.task);
        let session = held.session.clone();
        self.inner.tracker.spawn(async move { session.relabel(&name).await });
    }

    /// The most workers that each Gather may ask for; `None` when all that the statement may start is
    /// reserved, or all that there is.
    pub(crate) fn worker_limit(&self) -> Option<u32> {
        self.held.as_ref()?.grant.share
    }

    /// What gives it more slots than it has.
    pub(crate) fn more_slots(&self) -> &'static str {
        match self.held.as_ref().map(|held| held.grant.end) {
            Some(Granted::Degraded) => "wait longer for all slots (`reserve_wait`)",
            _ => "let the fleet have more slots (`pool_size`, max_parallel_workers)",
        }
    }

    /// The grace of that backend is over. `left` of its processes were seen; `None` when nobody could look.
    pub(crate) fn leave_behind(&mut self, backend: LingeringBackend, left: Option<u32>) {
        if let Some(held) = &mut self.held
            && left != Some(0)
        {
            held.lingering.push(backend);
        }
    }

    /// Whether slots must outlast this execution.
    pub(crate) fn must_outlast(&self) -> bool {
        self.held.as_ref().is_some_and(|held| !held.lingering.is_empty())
    }

    /// Keeps the slots until nobody is left that was left behind, or the server has taken them back.
    pub(crate) async fn outlast(&mut self) {
        if !self.must_outlast() {
            return;
        }
        let Some(held) = &mut self.held else { return };
        held.observe(&Event::ReservationKept { taken: held.taken() });
        let Held { session, lingering, .. } = held;
        // Over the limit they are dropped as they are, and say so.
        let seen_off = lingering::see_off(lingering, || session.is_closed(), &self.inner.monitor);
        let _ = timeout(lingering::KEPT_LIMIT, seen_off).await;
    }
}

impl Held {
    /// Slots that are held.
    const fn taken(&self) -> u32 {
        self.grant.taken
    }

    /// Whether the server has given them to others.
    fn is_lost(&self) -> bool {
        self.session.is_closed()
    }

    fn observe(&self, event: &Event) {
        self.inner.observers.observe(&Scope { task: self.task.clone() }, event);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let taken = self.taken();
        let event = if self.is_lost() {
            // Perhaps on our side alone.
            end(&self.inner, &self.session);
            Event::ReservationLost { taken }
        } else {
            Event::ReservationReleased {
                taken,
                held: self.since.elapsed(),
                early: !self.lingering.is_empty(),
            }
        };
        self.observe(&event);
    }
}

/// A session in the fleet's database, past the check that it keeps its backend.
pub(crate) async fn slot_session(
    inner: &Inner,
    settings: &Settings,
    label: &str,
) -> Result<Result<SlotSession, Failure>, Error> {
    let endpoint = inner.watched.with_database(&settings.reserve_database);
    let open = async {
        if is_pooled(inner, &endpoint).await? {
            return Ok(None);
        }
        let space = &settings.reserve_space;
        SlotSession::open(&endpoint, space, label, settings.pool_size, settings.priority).await.map(Some)
    };
    match open.await {
        Ok(Some(session)) => Ok(Ok(session)),
        Ok(None) => Err(refuse_pooled(&endpoint.describe())),
        Err(failure) if matches!(failure.sqlstate(), Some("3D000" | "42501" | "28000" | "55000")) => {
            let database = &settings.reserve_database;
            Err(Error::configuration(
                "reserve_database",
                format!(
                    "slots cannot be held in {database}: {failure}; name a database that the whole fleet may connect to"
                ),
            ))
        }
        Err(failure) => Ok(Err(failure)),
    }
}

/// Whether a proxy that pools transactions lies before the server: it keeps no lock and no setting.
pub(crate) async fn is_pooled(inner: &Inner, endpoint: &Endpoint) -> Result<bool, Failure> {
    let pooled = match inner.pooled.get() {
        Some(pooled) => *pooled,
        None => Pooling::at(endpoint).await?.shares_backends(),
    };
    if !pooled {
        let _ = inner.pooled.set(false);
    }
    Ok(pooled)
}

/// The refusal of a line on which no slot can be held.
pub(crate) fn refuse_pooled(server: &str) -> Error {
    Error::refused(
        Refusal::PooledConnection,
        format!("a proxy at {server} pools transactions or statements, and slots are held by a session"),
        vec![Fix::advice(
            "set `monitor` to connect to the server directly, or to a pool with pool_mode = session; the statement may stay behind the proxy",
        )],
    )
}
