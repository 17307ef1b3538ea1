//! Gathering: placeholders take what others leave of the pool, until there is enough for the statement.
//!
//! [`decide::gathering`](crate::decide::gathering) decides at each look; this looks, begins and ends them. It owns them:
//! dropped, it has the server end them, and each would end by itself after a while. One execution gathers at a time in a
//! fleet: two that hold half of what each needs would wait for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use super::engagement::Engagement;
use super::headcount::Inner;
use super::slots::slot_session;
use crate::decide::gathering::{Bounds, Gathering, GatheringEnd, HandOver, Look, Step};
use crate::decide::verdict::Pool;
use crate::error::Error;
use crate::event::{CancelMethod, CancelResult, Event, Observer, Scope};
use crate::pg::connect::Endpoint;
use crate::pg::placeholder::Placeholder;
use crate::pg::pooling::Pooling;
use crate::pg::session::Identity;
use crate::pg::slots::SlotSession;
use crate::pg::{Failure, label};
use crate::settings::Settings;
use crate::telemetry::spans;

/// Between two looks: slots are free for moments.
const LOOK: Duration = Duration::from_millis(5);
/// After a failure that may pass.
const HINDERED: Duration = Duration::from_millis(200);
/// Between two tries to become the one that gathers.
const TURN: Duration = Duration::from_millis(50);
/// A placeholder whose worker is not seen after this has none.
const TAKEN: Duration = Duration::from_millis(40);
/// Beyond the time that slots may be held: nothing waits for us that long.
const SPARE: Duration = Duration::from_secs(5);
/// How long a placeholder that was told to end may take.
const WOKEN: Duration = Duration::from_secs(2);
/// A placeholder's statement ends when the postmaster has noticed that its worker is gone; the slot is free a moment later.
const FREED: Duration = Duration::from_micros(500);
/// Requests to end a placeholder that may fail, and the pause between.
const REQUESTS: u32 = 5;
const REQUEST_AGAIN: Duration = Duration::from_millis(100);
/// Connections that gathering leaves to others.
const LEFT_CONNECTIONS: u32 = 3;
/// The server, or the role, has no connection left (`too_many_connections`).
const TOO_MANY: &str = "53300";
/// All slots are left to others (`configuration_limit_exceeded`).
const NOTHING: &str = "53400";
const ALL_LEFT: &str = "no slot can be held: all of max_worker_processes, or of the pool, is left to others";
/// From 19 on autovacuum has workers of the pool, too.
const AUTOVACUUM_HAS_WORKERS: i32 = 190_000;

/// What is wanted, by which attempt of which leader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) attempt: u32,
    pub(crate) need: u32,
    /// As many are enough after a tenth of the time.
    pub(crate) enough: u32,
    /// The size of the pool as the leader has it.
    pub(crate) pool: Option<u32>,
    /// Its process id; the executor knows it.
    pub(crate) leader: i32,
}

/// What gathering came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gathered {
    /// So many slots are held.
    Held(u32, HandOver),
    /// Time is over.
    TimedOut,
    /// No slot can be held now, for want of connections, or since all are left to others.
    Nothing,
}

/// A placeholder that was begun, and what is known of it.
struct Held {
    placeholder: Placeholder,
    began: Instant,
    /// Whether its worker was seen at the last look.
    works: bool,
    /// Whoever outlives this process ends it.
    _engaged: Engaged,
}

/// The observers know of the backend until this is dropped.
struct Engaged(Engagement);

impl Drop for Engaged {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A gathering that was told.
#[derive(Debug, Clone, Copy)]
struct Told {
    wish: Wish,
    since: Instant,
    held: u32,
    /// Slots times the time that they were held.
    idle: Duration,
    /// Up to when that is counted.
    counted: Instant,
}

/// The placeholders of one execution.
pub(crate) struct Gatherer {
    inner: Arc<Inner>,
    settings: Arc<Settings>,
    held: Vec<Held>,
    /// Connected, and asleep no more.
    idle: Vec<Placeholder>,
    decision: Gathering,
    began: Instant,
    /// The lock of who gathers.
    turn: Option<SlotSession>,
    turn_again: Instant,
    /// The pool as a placeholder has it, and how many processes the settings allow beyond.
    size: Option<u32>,
    beyond: Option<u32>,
    /// Whether a proxy that pools transactions lies before the statement's server.
    pools: Option<bool>,
    told: Option<Told>,
    /// How they are handed over, once they are.
    hand_over: Option<HandOver>,
    /// Whether they were told to end, without anybody waiting for it.
    given: AtomicBool,
}

impl Gatherer {
    pub(crate) fn new(inner: Arc<Inner>, settings: Arc<Settings>) -> Self {
        let bounds = Bounds {
            after: settings.gather_after,
            at_most: settings.gather_at_most,
            leave: settings.leave,
            leave_slots: slots_left_to_others(&inner, &settings),
        };
        let decision = Gathering::new(1, bounds);
        let began = Instant::now();
        Self {
            inner,
            settings,
            held: Vec::new(),
            idle: Vec::new(),
            decision,
            began,
            turn: None,
            turn_again: began,
            size: None,
            beyond: None,
            pools: None,
            told: None,
            hand_over: None,
            given: AtomicBool::new(false),
        }
    }

    /// Gathers until enough is held, or the limit has passed. What hinders it, and may pass, is said, and tried again.
    ///
    /// # Errors
    /// When the fleet's database cannot be used.
    pub(crate) async fn gather(&mut self, wish: Wish, limit: Duration) -> Result<Gathered, Error> {
        let span = spans::gather(&self.settings.task, wish.need);
        let gathered = self.try_to_gather(wish, limit).instrument(span.clone()).await;
        let end = match &gathered {
            Ok(Gathered::Held(_, hand_over)) => {
                self.hand_over = Some(*hand_over);
                spans::record_gathering(&span, self.held_now(), GatheringEnd::HandedOver(*hand_over));
                return gathered;
            }
            Ok(Gathered::TimedOut) => GatheringEnd::TimedOut,
            Ok(Gathered::Nothing) | Err(_) => GatheringEnd::Failed,
        };
        spans::record_gathering(&span, self.held_now(), end);
        self.let_go(end).await;
        gathered
    }

    async fn try_to_gather(&mut self, wish: Wish, limit: Duration) -> Result<Gathered, Error> {
        let since = Instant::now();
        let mut hindered = None;
        loop {
            let is_modest = since.elapsed() >= limit / 10;
            self.decision.wants(if is_modest { wish.need.min(wish.enough) } else { wish.need });
            let pause = match self.step(wish).await? {
                Ok(Some(gathered)) => return Ok(gathered),
                Ok(None) => LOOK,
                Err(failure) => {
                    self.let_go(GatheringEnd::Failed).await;
                    self.idle.clear();
                    let cause = failure.to_string();
                    if hindered.as_ref() != Some(&cause) {
                        let waited = since.elapsed();
                        self.observe(&Event::StartHindered { cause: cause.clone(), waited });
                        hindered = Some(cause);
                    }
                    // Others need connections, too.
                    if failure.sqlstate().is_some_and(|code| [TOO_MANY, NOTHING].contains(&code)) {
                        return Ok(Gathered::Nothing);
                    }
                    HINDERED
                }
            };
            if since.elapsed() >= limit {
                return Ok(Gathered::TimedOut);
            }
            sleep(pause).await;
        }
    }

    /// Looks, and does what is to be done.
    async fn step(&mut self, wish: Wish) -> Result<Result<Option<Gathered>, Failure>, Error> {
        let look = match self.look(wish.pool).await {
            Ok(look) => look,
            Err(failure) => return Ok(Err(failure)),
        };
        match self.decision.on_look(self.began.elapsed(), look) {
            Step::Start(hand_over) => {
                self.decision.on_started(self.began.elapsed());
                return Ok(Ok(Some(Gathered::Held(look.held, hand_over))));
            }
            Step::Hold(more) => match self.has_turn(wish).await? {
                Ok(true) => return Ok(self.hold(more, wish).await.map(|()| None)),
                Ok(false) => {}
                Err(failure) => return Ok(Err(failure)),
            },
            Step::LetGo => self.let_go(GatheringEnd::LetGo).await,
            Step::Nothing => return Ok(Err(Failure::found(NOTHING, ALL_LEFT))),
            Step::Wait => {}
        }
        Ok(Ok(None))
    }

    /// Whether this is the one that gathers.
    async fn has_turn(&mut self, wish: Wish) -> Result<Result<bool, Failure>, Error> {
        if self.told.is_some() {
            return Ok(Ok(true));
        }
        if Instant::now() < self.turn_again {
            return Ok(Ok(false));
        }
        self.turn_again = Instant::now() + TURN;
        let turn = if let Some(turn) = self.turn.take().filter(|turn| !turn.is_closed()) {
            turn
        } else {
            let label = label::holding(0, wish.leader, &self.settings.task);
            match slot_session(&self.inner, &self.settings, &label).await? {
                Ok(turn) => turn,
                Err(failure) => return Ok(Err(failure)),
            }
        };
        let asked = async {
            let has = turn.begin_gathering().await?;
            let spare = if has { turn.spare_connections().await? } else { 0 };
            Ok((has, spare))
        };
        let (has, spare) = match asked.await {
            Ok(answer) => answer,
            Err(failure) => return Ok(Err(failure)),
        };
        self.turn = Some(turn);
        let wanted = wish.need.saturating_sub(self.idle.len() as u32);
        if has && spare < wanted + LEFT_CONNECTIONS {
            self.give_turn().await;
            let problem = format!(
                "gathering takes {wanted} connections more and leaves {LEFT_CONNECTIONS} to others, and there are {spare} \
                 (max_connections, CONNECTION LIMIT)"
            );
            return Ok(Err(Failure::found(TOO_MANY, problem)));
        }
        if has {
            let now = Instant::now();
            self.told = Some(Told { wish, since: now, held: 0, idle: Duration::ZERO, counted: now });
            self.given.store(false, Ordering::Relaxed);
            self.observe(&Event::GatheringStarted { attempt: wish.attempt, need: wish.need });
        }
        Ok(Ok(has))
    }

    /// What is there now.
    async fn look(&mut self, pool: Option<u32>) -> Result<Look, Failure> {
        let identities: Vec<_> = self.held.iter().map(|held| held.placeholder.identity).collect();
        let view = self.inner.monitor.look_at(&identities).await?;
        let now = Instant::now();
        let (mut works, mut tries) = (0, 0);
        let mut taken = Vec::new();
        for (place, held) in self.held.iter_mut().enumerate() {
            let has_worker = view.of(held.placeholder.identity).is_some_and(|seen| !seen.workers.is_empty());
            if has_worker && !held.works {
                self.decision.on_held();
            }
            held.works = has_worker;
            if has_worker {
                works += 1;
            } else if !held.placeholder.is_asleep() || now - held.began >= TAKEN {
                taken.push(place);
            } else {
                tries += 1;
            }
        }
        let mut awake = Vec::new();
        for place in taken.into_iter().rev() {
            awake.push(self.held.swap_remove(place).placeholder);
        }
        if !awake.is_empty() {
            self.decision.on_taken(self.began.elapsed());
            self.wake(awake).await;
        }
        self.tell_held(works);
        let size = self.size.or(pool);
        let pool = view.pool.map(|pool| Pool { size: size.unwrap_or(pool.size), ..pool });
        Ok(Look { pool, processes: view.processes, size, beyond: self.beyond, held: works, trying: tries })
    }

    fn held_now(&self) -> u32 {
        self.told.map_or(0, |told| told.held)
    }

    /// So many slots are held from now on.
    fn tell_held(&mut self, held: u32) {
        let Some(told) = &mut self.told else { return };
        told.count();
        let before = std::mem::replace(&mut told.held, held);
        if before != held {
            let Wish { attempt, need, .. } = told.wish;
            self.observe(&Event::SlotsHeld { attempt, held, before, need });
        }
    }

    async fn hold(&mut self, more: u32, wish: Wish) -> Result<(), Failure> {
        let label = label::holding(1, wish.leader, &self.settings.task);
        self.idle.retain(|idle| !idle.is_closed());
        let missing = (more as usize).saturating_sub(self.idle.len());
        let endpoint = self.endpoint().await;
        let opened = join_all((0..missing).map(|_| Placeholder::open(&endpoint, &label))).await;
        self.idle.extend(opened.into_iter().collect::<Result<Vec<_>, _>>()?);
        for mut placeholder in self.idle.drain(..more as usize) {
            (self.size, self.beyond) = (Some(placeholder.pool), Some(placeholder.beyond));
            let mut engaged =
                Engaged(Engagement::new(self.inner.clone(), self.settings.task.as_str().into()));
            engaged.0.begin(placeholder.identity);
            placeholder.hold(self.settings.gather_at_most + SPARE);
            self.held.push(Held { placeholder, began: Instant::now(), works: false, _engaged: engaged });
        }
        Ok(())
    }

    /// Where placeholders connect: as the statement's role, whose pool it is; past a proxy that keeps no setting, as the
    /// monitor.
    async fn endpoint(&mut self) -> Endpoint {
        let Inner { endpoint, watched, .. } = &*self.inner;
        if self.pools.is_none() {
            let pools =
                self.inner.is_apart() && Pooling::at(endpoint).await.is_ok_and(Pooling::shares_backends);
            self.pools = Some(pools);
        }
        if self.pools == Some(true) { watched.clone() } else { endpoint.clone() }
    }

    /// Ends statements, and keeps their sessions.
    async fn wake(&mut self, mut placeholders: Vec<Placeholder>) {
        let asleep = placeholders.iter().filter(|placeholder| placeholder.is_asleep());
        let asleep: Vec<_> = asleep.map(|placeholder| placeholder.identity).collect();
        stop(&self.inner, asleep).await;
        // One that does not end loses its connection.
        let ends = placeholders.iter_mut().map(|placeholder| timeout(WOKEN, placeholder.woken()));
        join_all(ends).await;
        let is_of_use = |placeholder: &Placeholder| !placeholder.is_asleep() && !placeholder.is_closed();
        self.idle.extend(placeholders.into_iter().filter(is_of_use));
    }

    /// Gives all slots back, and waits until they are free.
    pub(crate) async fn let_go(&mut self, end: GatheringEnd) {
        let held: Vec<_> = self.held.drain(..).map(|held| held.placeholder).collect();
        if !held.is_empty() {
            self.wake(held).await;
            sleep(FREED).await;
        }
        let had_turn = self.told.is_some() && !*self.given.get_mut();
        self.tell_end(end);
        self.hand_over = None;
        if had_turn {
            self.give_turn().await;
        }
    }

    /// Lets another execution gather. A session that is lost has lost the lock, too.
    async fn give_turn(&self) {
        if let Some(turn) = self.turn.as_ref().filter(|turn| !turn.is_closed()) {
            let _ = turn.end_gathering().await;
        }
    }

    /// The statement is about to start: the slots are given back where that comes first. The turn is kept until it has
    /// its workers.
    pub(crate) async fn make_way(&mut self) {
        if self.hand_over == Some(HandOver::AfterCancel) && !self.held.is_empty() {
            let held: Vec<_> = self.held.drain(..).map(|held| held.placeholder).collect();
            self.wake(held).await;
            self.tell_held(0);
            sleep(FREED).await;
        }
    }

    /// The statement has its workers, or has ended: has the server end the placeholders, without waiting for it; once.
    pub(crate) fn give_way(&self) {
        let Some(hand_over) = self.hand_over else { return };
        if self.given.swap(true, Ordering::Relaxed) {
            return;
        }
        self.end_told(GatheringEnd::HandedOver(hand_over));
        let identities: Vec<_> = self.held.iter().map(|held| held.placeholder.identity).collect();
        let (inner, turn) = (self.inner.clone(), self.turn.clone());
        self.inner.tracker.spawn(async move {
            stop(&inner, identities).await;
            if let Some(turn) = turn {
                let _ = turn.end_gathering().await;
            }
        });
    }

    fn tell_end(&mut self, end: GatheringEnd) {
        if !self.given.load(Ordering::Relaxed) {
            self.end_told(end);
        }
        self.told = None;
    }

    /// Says how it ended, and that nothing is held any more.
    fn end_told(&self, end: GatheringEnd) {
        let Some(mut told) = self.told else { return };
        told.count();
        let Told { wish: Wish { attempt, need, .. }, since, held, idle, .. } = told;
        if held > 0 {
            self.observe(&Event::SlotsHeld { attempt, held: 0, before: held, need });
        }
        self.observe(&Event::GatheringEnded { attempt, need, held, end, took: since.elapsed(), idle });
    }

    fn observe(&self, event: &Event) {
        self.inner.observers.observe(&Scope { task: self.settings.task.as_str().into() }, event);
    }
}

impl Told {
    fn count(&mut self) {
        let now = Instant::now();
        self.idle += (now - self.counted) * self.held;
        self.counted = now;
    }
}

/// Slots that autovacuum may need; before 19 only queries have workers of the pool.
pub(super) fn slots_left_to_others(inner: &Inner, settings: &Settings) -> u32 {
    if inner.monitor.version() >= AUTOVACUUM_HAS_WORKERS { settings.leave } else { 0 }
}

/// Ends what these backends run; asked again where the request could not be made.
async fn stop(inner: &Inner, backends: Vec<Identity>) {
    let ends = backends.into_iter().map(|backend| async move {
        for _ in 0..REQUESTS {
            if inner.monitor.stop(backend, CancelMethod::Cancel).await != CancelResult::Failed {
                return;
            }
            sleep(REQUEST_AGAIN).await;
        }
    });
    join_all(ends).await;
}

impl Drop for Gatherer {
    fn drop(&mut self) {
        let given = *self.given.get_mut();
        self.tell_end(GatheringEnd::Interrupted);
        let held = std::mem::take(&mut self.held);
        if given || held.is_empty() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (inner, turn) = (self.inner.clone(), self.turn.take());
        let tracker = inner.tracker.clone();
        tracker.spawn(async move {
            stop(&inner, held.iter().map(|held| held.placeholder.identity).collect()).await;
            drop((held, turn));
        });
    }
}
