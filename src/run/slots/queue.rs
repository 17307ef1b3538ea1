//! The wait for slots: in the queue, at its head, until they are taken or the wait is over.
//!
//! [`decide::reservation`](crate::decide::reservation) decides at each look; this waits, looks and takes, and
//! says what happens. It knows a queue as a trait: the server's is in [`pg::slots`](crate::pg::slots), which also keeps its
//! order (that of an advisory lock), a test's below.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::decide::reservation::{Granted, Move, Reservation, Slots};
use crate::event::Event;
use crate::pg::Failure;
use crate::run::recorder::ExecutionRecorder;

/// Between two looks from the head of the queue, and the same after a while: a head may stand there for hours,
/// and a look reads the server's whole table of locks. There is one head on a server.
const LOOK: Duration = Duration::from_millis(20);
const LONG_LOOK: Duration = Duration::from_millis(100);
const LONG_AFTER: Duration = Duration::from_secs(10);
/// Until the place in the queue is asked for, by whom did not go through at once, and between two questions.
const FIRST_PLACE: Duration = Duration::from_millis(50);
const PLACE: Duration = Duration::from_millis(500);

/// What a wait for slots came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grant {
    pub(crate) taken: u32,
    pub(crate) end: Granted,
    /// The most workers that each Gather may ask for, so that all stay within what was taken; `None` where the
    /// plan cannot have more, and where there is no more.
    pub(crate) share: Option<u32>,
}

/// A place to wait for slots: the server's, or a test's.
pub(crate) trait Queue {
    /// Waits until this is the head; `false` when the limit passed.
    async fn enter(&self, limit: Duration) -> Result<bool, Failure>;

    /// How many are before it while it waits; `None` when that cannot be asked.
    async fn ahead(&self) -> Option<u32>;

    async fn look(&self) -> Result<Slots, Failure>;

    /// Takes all of `demand` of `size` slots, or none; takes it out of the queue if all.
    async fn take(&self, demand: u32, size: u32) -> Result<bool, Failure>;
}

/// Waits in the queue and at its head until the wish is granted, or given up. `began`: when the wait did.
pub(crate) async fn wait<Q: Queue>(
    queue: &Q,
    wish: &Reservation,
    began: Instant,
    recorder: &mut ExecutionRecorder,
) -> Result<Grant, Failure> {
    let mut ahead = 0;
    let (taken, end, slots) = if enter(queue, wish, began, &mut ahead, recorder).await? {
        let (taken, end, slots) = at_the_head(queue, wish, began, recorder).await?;
        (taken, end, Some(slots))
    } else {
        (0, Granted::GaveUp, None)
    };
    let demand = slots.map_or(wish.demand(), |slots| wish.demand_of(slots.size));
    let waited = began.elapsed();
    recorder.observe(&Event::ReservationEnded { demand, taken, ahead, end, waited, slots });
    let pool = slots.map_or(u32::MAX, |slots| slots.pool);
    Ok(Grant { taken, end, share: wish.plan().share(taken, pool) })
}

/// Looks until enough is free, or the wait is over; with the last look.
async fn at_the_head<Q: Queue>(
    queue: &Q,
    wish: &Reservation,
    began: Instant,
    recorder: &mut ExecutionRecorder,
) -> Result<(u32, Granted, Slots), Failure> {
    let (since, mut shown) = (Instant::now(), None::<Slots>);
    loop {
        let slots = queue.look().await?;
        let waited = began.elapsed();
        match wish.on_look(waited, slots) {
            Move::Take(taken) if queue.take(taken, slots.size).await? => {
                return Ok((taken, wish.granted(taken, slots.size), slots));
            }
            // Somebody in the other queue was quicker.
            Move::Take(_) | Move::Wait => {}
            Move::GiveUp => return Ok((0, Granted::GaveUp, slots)),
        }
        if shown != Some(slots) {
            let demand = wish.demand_of(slots.size);
            let again = shown.is_some_and(|last| slots.is_short_as(last));
            recorder.observe(&Event::ReservationShort { demand, again, slots, waited });
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
    recorder: &mut ExecutionRecorder,
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
            recorder.observe(&Event::ReservationQueued {
                demand: wish.demand(),
                ahead,
                waited: began.elapsed(),
            });
            last = ahead;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::decide::reservation::PlanWorkers;
    use crate::event::{Observer, Observers, Scope};

    /// A queue in paused time: when it lets us through, and what each look shows.
    struct Script {
        enters_after: Duration,
        ahead: u32,
        looks: Vec<Slots>,
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
            *look += 1;
            Ok(self.looks[(*look).min(self.looks.len()) - 1])
        }

        async fn take(&self, _demand: u32, _size: u32) -> Result<bool, Failure> {
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
                Event::ReservationShort { demand, slots, again, .. } => {
                    let of = if slots.are_too_few_for(*demand) {
                        format!(" of {} where {demand} are the least", slots.size)
                    } else {
                        String::new()
                    };
                    format!("{} free{of}{}", slots.free(), if *again { " still" } else { "" })
                }
                Event::ReservationEnded { taken, end, waited, .. } => {
                    format!("{} {taken} after {} ms", end.as_str(), waited.as_millis())
                }
                _ => return,
            };
            self.0.lock().unwrap().push(word);
        }
    }

    /// Held, and used without a slot, of six.
    fn of_six((held, outsiders): (u32, u32)) -> Slots {
        Slots { pool: 6, size: 6, held, outsiders: Some(outsiders), priority_waits: false }
    }

    fn script(looks: &[(u32, u32)]) -> Script {
        Script {
            enters_after: Duration::ZERO,
            ahead: 0,
            looks: looks.iter().copied().map(of_six).collect(),
            quicker: Mutex::new(0),
            look: Mutex::new(0),
        }
    }

    async fn check(script: Script, limit: u64, patience: Option<u64>, expected: &[&str]) {
        let events = Arc::new(Recorder::default());
        let mut recorder = ExecutionRecorder::new("rollup", Observers::new(vec![events.clone()]));
        let (limit, patience) = (Duration::from_millis(limit), patience.map(Duration::from_millis));
        let wish = Reservation::new(PlanWorkers::default(), 4, 2, limit, patience);
        wait(&script, &wish, Instant::now(), &mut recorder).await.unwrap();
        assert_eq!(*events.0.lock().unwrap(), expected);
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
        check(script(&looks), 60_000, None, &["0 free", "3 free still", "full 4 after 80 ms"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn outsiders_shrink_it_when_its_patience_is_over() {
        check(script(&[(0, 4)]), 60_000, Some(100), &["2 free", "degraded 2 after 100 ms"]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_shrank_below_the_minimum_is_waited_for_and_taken_when_it_grew_again() {
        let mut shrunk = script(&[(3, 0), (0, 0), (0, 0), (0, 0)]);
        shrunk.looks[1].size = 1;
        shrunk.looks[2].size = 1;
        let waits = ["3 free", "1 free of 1 where 2 are the least", "full 4 after 60 ms"];
        check(shrunk, 60_000, None, &waits).await;
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
