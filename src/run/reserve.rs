//! Taking slots of the pool before the first attempt, and giving them back when the workers are gone.
//!
//! [`decide::reservation`](crate::decide::reservation) decides; this stands in the queue, looks, takes, and
//! says what happens. The slots live as long as [`Reserved`] does, and that is part of the session's
//! [`Hold`]: it goes where the session goes, and is dropped after everything was cleared away.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::headcount::Inner;
use super::hold::Hold;
use super::ledger::Ledger;
use crate::decide::backoff::Backoff;
use crate::decide::reservation::{Granted, Move, Reservation, Slots};
use crate::error::{Error, Refusal};
use crate::event::{CancelMethod, Event, Observer, Scope};
use crate::pg::Failure;
use crate::pg::slots::{SlotSession, label, shares_backends};
use crate::settings::Settings;
use crate::telemetry::spans;

/// Between two looks from the head of the queue, and the same after a while: a head may stand there for hours,
/// and a look reads the server's whole table of locks. There is one head on a server.
const LOOK: Duration = Duration::from_millis(20);
const LONG_LOOK: Duration = Duration::from_millis(100);
const LONG_AFTER: Duration = Duration::from_secs(10);
/// Until the place in the queue is asked for, by whom did not go through at once, and between two questions.
const FIRST_PLACE: Duration = Duration::from_millis(50);
const PLACE: Duration = Duration::from_millis(500);
/// Between two tries to get a session for the queue.
const RETURN: Backoff = Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(2) };

/// What a wait for slots came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grant {
    pub(crate) taken: u32,
    pub(crate) end: Granted,
}

/// Slots that are held. Dropping it gives them back.
pub(crate) struct Reserved {
    inner: Arc<Inner>,
    task: Arc<str>,
    session: SlotSession,
    grant: Grant,
    demand: u32,
    since: Instant,
    /// The leader that they serve, and its attempt, as the server was told.
    told: (i32, u32),
    /// Attempts begun, the next one included.
    attempts: u32,
}

/// A place to wait for slots: the server's, or a test's.
pub(crate) trait Queue {
    /// Waits until this is the head; `false` when the limit passed.
    async fn enter(&self, limit: Duration) -> Result<bool, Failure>;

    /// How many are before it while it waits; `None` when that cannot be asked.
    async fn ahead(&self) -> Option<u32>;

    async fn look(&self) -> Result<Slots, Failure>;

    /// Takes all or none; takes it out of the queue if all.
    async fn take(&self, demand: u32) -> Result<bool, Failure>;
}

/// Waits in the queue and at its head until the wish is granted, or given up. `began`: when the wait did.
pub(crate) async fn wait<Q: Queue>(
    queue: &Q,
    wish: &Reservation,
    began: Instant,
    ledger: &mut Ledger,
) -> Result<Grant, Failure> {
    let demand = wish.demand();
    let mut ahead = 0;
    let (grant, slots) = if enter(queue, wish, began, &mut ahead, ledger).await? {
        at_the_head(queue, wish, began, ledger).await?
    } else {
        (Grant { taken: 0, end: Granted::GaveUp }, None)
    };
    let (Grant { taken, end }, waited) = (grant, began.elapsed());
    ledger.observe(&Event::ReservationEnded { demand, taken, ahead, end, waited, slots });
    Ok(grant)
}

/// Looks until enough is free, or the wait is over; with the last look.
async fn at_the_head<Q: Queue>(
    queue: &Q,
    wish: &Reservation,
    began: Instant,
    ledger: &mut Ledger,
) -> Result<(Grant, Option<Slots>), Failure> {
    let demand = wish.demand();
    let (since, mut shown) = (Instant::now(), None);
    loop {
        let slots = queue.look().await?;
        let waited = began.elapsed();
        match wish.on_look(waited, slots) {
            Move::Take(taken) if queue.take(taken).await? => {
                return Ok((Grant { taken, end: wish.granted(taken) }, Some(slots)));
            }
            // Somebody in the other queue was quicker.
            Move::Take(_) | Move::Wait => {}
            Move::GiveUp => return Ok((Grant { taken: 0, end: Granted::GaveUp }, Some(slots))),
        }
        if shown != Some(slots) {
            ledger.observe(&Event::ReservationShort { demand, slots, waited });
            shown = Some(slots);
        }
        sleep(if since.elapsed() < LONG_AFTER { LOOK } else { LONG_LOOK }).await;
    }
}

/// Stands in the queue until it is the head, and says its place whenever that changes. `first` becomes the
/// place that was seen first.
async fn enter<Q: Queue>(
    queue: &Q,
    wish: &Reservation,
    began: Instant,
    first: &mut u32,
    ledger: &mut Ledger,
) -> Result<bool, Failure> {
    let mut entered = std::pin::pin!(queue.enter(wish.left(began.elapsed())));
    let mut last = 0;
    loop {
        let pause = if last == 0 { FIRST_PLACE } else { PLACE };
        let asked = async {
            sleep(pause).await;
            queue.ahead().await
        };
        let ahead = tokio::select! {
            biased;
            entered = &mut entered => return entered,
            ahead = asked => ahead,
        };
        if let Some(ahead) = ahead.filter(|&ahead| ahead != last && ahead > 0) {
            if last == 0 {
                *first = ahead;
            }
            ledger.observe(&Event::ReservationQueued {
                demand: wish.demand(),
                ahead,
                waited: began.elapsed(),
            });
            last = ahead;
        }
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

    async fn take(&self, demand: u32) -> Result<bool, Failure> {
        self.session.take(demand).await
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.leaving && tokio::runtime::Handle::try_current().is_ok() {
            let (inner, identity) = (self.inner.clone(), self.session.identity);
            let tracker = inner.tracker.clone();
            tracker.spawn(async move { inner.monitor.stop(identity, CancelMethod::Terminate).await });
        }
    }
}

impl Hold {
    /// Takes slots for this execution, unless it holds them already; `None` when none are asked for.
    pub(crate) async fn reserve(
        &mut self,
        demand: u32,
        leader: i32,
        ledger: &mut Ledger,
    ) -> Result<Option<Grant>, Error> {
        if !self.settings.reserve {
            return Ok(None);
        }
        if let Some(reserved) = &self.reserved {
            if !reserved.session.is_closed() {
                return Ok(Some(reserved.grant));
            }
            self.reserved = None;
        }
        let span = spans::reserve(&self.settings.task, demand);
        let grant = self.stand_in_queue(demand, leader, ledger).instrument(span).await?;
        Ok(Some(grant))
    }

    /// A connection that is lost while it waits costs the place in the queue, not the wait.
    async fn stand_in_queue(
        &mut self,
        demand: u32,
        leader: i32,
        ledger: &mut Ledger,
    ) -> Result<Grant, Error> {
        let began = Instant::now();
        let mut tries = 0;
        loop {
            match self.wait_for_slots(demand, leader, began, ledger).await? {
                Ok(grant) => return Ok(grant),
                Err(failure) => {
                    tries += 1;
                    let delay = RETURN.delay(tries, fastrand::f64());
                    if !failure.is_retryable() || began.elapsed() + delay > self.settings.reserve_wait {
                        return Err(Error::sql("reserving slots", failure));
                    }
                    sleep(delay).await;
                }
            }
        }
    }

    async fn wait_for_slots(
        &mut self,
        demand: u32,
        leader: i32,
        began: Instant,
        ledger: &mut Ledger,
    ) -> Result<Result<Grant, Failure>, Error> {
        let session = match self.slot_session(demand, leader).await? {
            Ok(session) => session,
            Err(failure) => return Ok(Err(failure)),
        };
        let Settings { reserve_wait, degrade_after, priority, .. } = *self.settings;
        let demand = demand.min(session.size);
        let wish = Reservation::new(demand, self.settings.minimum(), reserve_wait, degrade_after)
            .with_priority(priority);
        let mut place = Place { inner: &self.inner, session, leaving: true };
        let granted = wait(&place, &wish, began, ledger).await;
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
                told: (leader, 1),
                attempts: 1,
            });
        }
        Ok(granted)
    }

    /// A session in the fleet's database, past the check that it keeps its backend.
    async fn slot_session(&self, demand: u32, leader: i32) -> Result<Result<SlotSession, Failure>, Error> {
        let settings = &*self.settings;
        let endpoint = self.inner.watched.with_database(&settings.reserve_database);
        let open = async {
            let pooled = match self.inner.pooled.get() {
                Some(pooled) => *pooled,
                None => shares_backends(&endpoint).await?,
            };
            if pooled {
                return Ok(None);
            }
            let _ = self.inner.pooled.set(false);
            let name = label(demand, leader, 1, &settings.task);
            let space = &settings.reserve_space;
            SlotSession::open(&endpoint, space, &name, settings.pool_size, settings.priority).await.map(Some)
        };
        match open.await {
            Ok(Some(session)) => Ok(Ok(session)),
            Ok(None) => Err(pooled(&endpoint.describe())),
            Err(failure) if matches!(failure.sqlstate(), Some("3D000" | "42501" | "28000")) => {
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
    pub(crate) fn serve(&mut self, leader: i32) {
        let Some(reserved) = &mut self.reserved else { return };
        let attempt = reserved.attempts;
        reserved.attempts += 1;
        if reserved.told == (leader, attempt) {
            return;
        }
        reserved.told = (leader, attempt);
        let name = label(reserved.demand, leader, attempt, &self.settings.task);
        let session = reserved.session.clone();
        self.inner.tracker.spawn(async move { session.relabel(&name).await });
    }

    /// The most workers that the statement may ask for; `None` when all that it wants is reserved.
    pub(crate) fn worker_limit(&self) -> Option<u32> {
        let grant = self.reserved.as_ref()?.grant;
        (grant.end == Granted::Degraded).then_some(grant.taken)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let taken = self.grant.taken;
        let event = if self.session.is_closed() {
            Event::ReservationLost { taken }
        } else {
            Event::ReservationReleased { taken, held: self.since.elapsed() }
        };
        self.inner.observers.observe(&Scope { task: self.task.clone() }, &event);
    }
}

fn pooled(server: &str) -> Error {
    Error::refused(
        Refusal::PooledConnection,
        format!("a proxy at {server} pools transactions, and slots are held by a session"),
        vec![
            "let --monitor-dsn lead to the server itself, or to a pool with pool_mode = session; the statement may stay behind the proxy"
                .to_owned(),
        ],
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::event::Observers;

    /// A queue in paused time: when it lets us through, and what each look shows.
    struct Script {
        enters_after: Duration,
        ahead: u32,
        looks: Vec<(u32, u32)>,
        quicker: Mutex<u32>,
        look: Mutex<usize>,
    }

    impl Queue for Script {
        async fn enter(&self, limit: Duration) -> Result<bool, Failure> {
            sleep(self.enters_after.min(limit)).await;
            Ok(self.enters_after <= limit)
        }

        async fn ahead(&self) -> Option<u32> {
            Some(self.ahead)
        }

        async fn look(&self) -> Result<Slots, Failure> {
            let mut look = self.look.lock().unwrap();
            let (held, outsiders) = self.looks[(*look).min(self.looks.len() - 1)];
            *look += 1;
            Ok(Slots { size: 6, held, outsiders: Some(outsiders), priority_waits: false })
        }

        async fn take(&self, _demand: u32) -> Result<bool, Failure> {
            let mut quicker = self.quicker.lock().unwrap();
            *quicker = quicker.saturating_sub(1);
            Ok(*quicker == 0)
        }
    }

    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl Observer for Recorder {
        fn observe(&self, _: &Scope, event: &Event) {
            let word = match event {
                Event::ReservationQueued { ahead, .. } => format!("{ahead} ahead"),
                Event::ReservationShort { slots, .. } => format!("{} free", slots.free()),
                Event::ReservationEnded { taken, end, waited, .. } => {
                    format!("{} {taken} after {} ms", end.as_str(), waited.as_millis())
                }
                _ => return,
            };
            self.0.lock().unwrap().push(word);
        }
    }

    fn script(looks: &[(u32, u32)]) -> Script {
        Script {
            enters_after: Duration::ZERO,
            ahead: 0,
            looks: looks.to_vec(),
            quicker: Mutex::new(0),
            look: Mutex::new(0),
        }
    }

    async fn check(script: Script, limit: u64, patience: Option<u64>, expected: &[&str]) {
        let recorder = Arc::new(Recorder::default());
        let mut ledger = Ledger::new("rollup", Observers::new(vec![recorder.clone()]));
        let wish = Reservation::new(4, 2, Duration::from_millis(limit), patience.map(Duration::from_millis));
        wait(&script, &wish, Instant::now(), &mut ledger).await.unwrap();
        assert_eq!(*recorder.0.lock().unwrap(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_alone_takes_its_slots_at_the_first_look() {
        check(script(&[(0, 0)]), 60_000, None, &["full 4 after 0 ms"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_place_in_the_queue_is_said_once_it_is_known_and_not_again() {
        let queued = Script { enters_after: Duration::from_secs(3), ahead: 2, ..script(&[(0, 0)]) };
        check(queued, 60_000, None, &["2 ahead", "full 4 after 3000 ms"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_head_takes_when_enough_is_free_and_says_each_change_before() {
        let looks = [(6, 0), (6, 0), (3, 0), (3, 0), (2, 0)];
        check(script(&looks), 60_000, None, &["0 free", "3 free", "full 4 after 80 ms"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn outsiders_shrink_it_when_its_patience_is_over() {
        check(script(&[(0, 4)]), 60_000, Some(100), &["2 free", "degraded 2 after 100 ms"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_looks_again_when_somebody_was_quicker() {
        let contested = Script { quicker: Mutex::new(2), ..script(&[(0, 0)]) };
        check(contested, 60_000, None, &["6 free", "full 4 after 20 ms"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_up_in_the_queue_and_at_its_head() {
        let queued = Script { enters_after: Duration::from_secs(100), ..script(&[(0, 0)]) };
        check(queued, 60_000, None, &["gave_up 0 after 60000 ms"]).await;
        check(script(&[(6, 0)]), 100, None, &["0 free", "gave_up 0 after 100 ms"]).await;
    }
}
