//! Taking slots of the pool before the first attempt.
//!
//! The slots live as long as [`Reserved`] does, and that is part of the session's
//! [`Hold`]: it goes where the session goes, and is dropped after everything was cleared away, and the
//! workers are gone ([`release`](super::release)).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::headcount::Inner;
use super::hold::Hold;
use super::ledger::Ledger;
use super::narrow::too_few_slots;
use super::queue::{Grant, Queue, wait};
use super::release::Straggler;
use crate::decide::backoff::Backoff;
use crate::decide::reservation::{Granted, Launch, Reservation, Slots};
use crate::error::{Error, Refusal};
use crate::event::{CancelMethod, Event, Observer, Scope};
use crate::pg::Failure;
use crate::pg::label;
use crate::pg::pooling::Pooling;
use crate::pg::slots::SlotSession;
use crate::settings::{PlanShortfall, Settings};
use crate::telemetry::spans;

/// Between two tries to get a session for the queue.
const RETURN: Backoff = Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(2) };

/// Slots that are held. Dropping it gives them back.
pub(crate) struct Reserved {
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
    pub(super) stragglers: Vec<Straggler>,
}

/// Whether fewer slots than all that are wanted will do after a patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insistence {
    /// They will.
    No,
    /// They did not: the plan within them could not have the minimum. The wait goes on for what was left of it.
    Resumes(Duration),
    /// They have not before.
    Yes,
}

/// What an execution wants slots for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) launch: Launch,
    pub(crate) target: u32,
    /// The backend that will lead.
    pub(crate) leader: i32,
}

impl Wanted {
    fn demand(&self) -> u32 {
        self.launch.demand(self.target)
    }
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

    async fn look(&self) -> Result<Slots, Failure> {
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

impl Hold {
    /// Takes slots for this execution, unless it holds them already; `None` when none are asked for.
    pub(crate) async fn reserve(
        &mut self,
        wanted: Wanted,
        ledger: &mut Ledger,
    ) -> Result<Option<Grant>, Error> {
        if !self.settings.reserve {
            return Ok(None);
        }
        if let Some(reserved) = &self.reserved {
            if !reserved.is_lost() {
                return Ok(Some(reserved.grant));
            }
            self.reserved = None;
        }
        let span = spans::reserve(&self.settings.task, wanted.demand());
        let grant = self.stand_in_queue(wanted, ledger).instrument(span).await?;
        Ok(Some(grant))
    }

    /// A connection that is lost while it waits costs the place in the queue, not the wait. What hinders it is
    /// said when it begins and when it changes: the wait may last for hours.
    async fn stand_in_queue(&mut self, wanted: Wanted, ledger: &mut Ledger) -> Result<Grant, Error> {
        let began = Instant::now();
        let limit = match self.insistence {
            Insistence::Resumes(left) => left,
            Insistence::No | Insistence::Yes => self.settings.reserve_wait,
        };
        if self.insistence != Insistence::No {
            self.insistence = Insistence::Yes;
        }
        let (mut tries, mut told) = (0, None);
        loop {
            match self.wait_for_slots(wanted, began, limit, ledger).await? {
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
                        ledger.observe(&event);
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
        ledger: &mut Ledger,
    ) -> Result<Result<Grant, Failure>, Error> {
        let Wanted { launch, target, leader } = wanted;
        let demand = wanted.demand();
        let session = match self.slot_session(demand, leader).await? {
            Ok(session) => session,
            Err(failure) => return Ok(Err(failure)),
        };
        self.check_pool(launch, session.pool)?;
        let Settings { degrade_after, priority, .. } = *self.settings;
        let degrade_after = degrade_after.filter(|_| self.insistence == Insistence::No);
        let minimum = self.settings.minimum();
        let wish = Reservation::new(launch, target, minimum, limit, degrade_after).with_priority(priority);
        // Before 14 a server does not notice that who waits in its queue has died. A wait that is broken off stays
        // announced: the place is given up by a task, and whoever outlives this process looks after it.
        self.engage(session.identity);
        let inner = self.inner.clone();
        let mut place = Place { inner: &inner, session, leaving: true };
        let granted = wait(&place, &wish, began, ledger).await;
        self.rest();
        place.leaving = granted.is_err();
        if let Ok(grant) = granted
            && grant.end != Granted::GaveUp
        {
            self.reserved = Some(Reserved {
                inner: self.inner.clone(),
                task: self.settings.task.as_str().into(),
                session: place.session.clone(),
                grant,
                demand,
                since: Instant::now(),
                left: wish.left(began.elapsed()),
                told: (leader, 1),
                stragglers: Vec::new(),
            });
        }
        Ok(granted)
    }

    /// Refuses to wait for what the server does not have while the leader's own session looks as if it had.
    fn check_pool(&self, launch: Launch, size: u32) -> Result<(), Error> {
        let settings = &self.settings;
        let lower = settings.plan_shortfall == PlanShortfall::Lower;
        let bar = if lower { settings.minimum() } else { settings.target_workers };
        let hidden = launch.own_pool.is_some_and(|own| own > size);
        if hidden && size < bar && !settings.ignores_shortfall() {
            Err(too_few_slots(size, bar))
        } else {
            Ok(())
        }
    }

    /// A session in the fleet's database, past the check that it keeps its backend.
    async fn slot_session(&self, demand: u32, leader: i32) -> Result<Result<SlotSession, Failure>, Error> {
        let settings = &*self.settings;
        let endpoint = self.inner.watched.with_database(&settings.reserve_database);
        let open = async {
            let pooled = match self.inner.pooled.get() {
                Some(pooled) => *pooled,
                None => Pooling::at(&endpoint).await?.shares_backends(),
            };
            if pooled {
                return Ok(None);
            }
            let _ = self.inner.pooled.set(false);
            let name = label::serving(demand, leader, 1, &settings.task);
            let space = &settings.reserve_space;
            SlotSession::open(&endpoint, space, &name, settings.pool_size, settings.priority).await.map(Some)
        };
        match open.await {
            Ok(Some(session)) => Ok(Ok(session)),
            Ok(None) => Err(pooled(&endpoint.describe())),
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

    /// An attempt begins on that backend: the server is told whom the slots serve, in passing.
    pub(crate) fn serve(&mut self, leader: i32, attempt: u32) {
        let Some(reserved) = &mut self.reserved else { return };
        if reserved.told == (leader, attempt) {
            return;
        }
        reserved.told = (leader, attempt);
        let name = label::serving(reserved.demand, leader, attempt, &self.settings.task);
        let session = reserved.session.clone();
        self.inner.tracker.spawn(async move { session.relabel(&name).await });
    }

    /// The most workers that each Gather may ask for; `None` when all that the statement may start is
    /// reserved, or all that there is.
    pub(crate) fn worker_limit(&self) -> Option<u32> {
        self.reserved.as_ref()?.grant.share
    }

    /// Whether the server has given its slots to others.
    pub(crate) fn has_lost_slots(&self) -> bool {
        self.reserved.as_ref().is_some_and(Reserved::is_lost)
    }

    /// Gives fewer slots than all back, and wants all or none from now on; see [`Stage::insist`](super::stage::Stage::insist).
    pub(crate) fn insist(&mut self) -> bool {
        let left = self.reserved.as_ref().map_or(Duration::ZERO, |reserved| reserved.left);
        if self.insistence != Insistence::No || left.is_zero() {
            return false;
        }
        self.reserved = None;
        self.insistence = Insistence::Resumes(left);
        true
    }

    /// What gives it more slots than it has.
    pub(crate) fn more_slots(&self) -> &'static str {
        match self.reserved.as_ref().map(|reserved| reserved.grant.end) {
            Some(Granted::Degraded) => "wait longer for all slots (--reserve-wait)",
            _ => "let the fleet have more slots (--pool-size, max_parallel_workers)",
        }
    }

    /// Lowers that limit.
    pub(crate) const fn narrow(&mut self, share: u32) {
        if let Some(reserved) = &mut self.reserved {
            reserved.grant.share = Some(share);
        }
    }
}

impl Reserved {
    /// Slots that are held.
    pub(super) const fn taken(&self) -> u32 {
        self.grant.taken
    }

    /// Whether the server has given them to others.
    pub(super) fn is_lost(&self) -> bool {
        self.session.is_closed()
    }

    pub(super) fn observe(&self, event: &Event) {
        self.inner.observers.observe(&Scope { task: self.task.clone() }, event);
    }
}

impl Drop for Reserved {
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
                early: !self.stragglers.is_empty(),
            }
        };
        self.observe(&event);
    }
}

fn pooled(server: &str) -> Error {
    Error::refused(
        Refusal::PooledConnection,
        format!("a proxy at {server} pools transactions or statements, and slots are held by a session"),
        vec![
            "-- let --monitor-dsn lead to the server itself, or to a pool with pool_mode = session; the statement may stay behind the proxy"
                .to_owned(),
        ],
    )
}
