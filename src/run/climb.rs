//! The rung that an execution stands on: what bounds its session's workers, and how it comes by them.

use std::time::Duration;

use futures_util::future::join;
use tokio::time::timeout;

use super::executor::Stand;
use super::gatherer::slots_left_to_others;
use super::monitor::{Observation, Watch};
use super::narrow::no_guarantee;
use super::recorder::ExecutionRecorder;
use super::session_guard::SessionGuard;
use super::slots::{is_pooled, refuse_pooled};
use crate::decide::ceiling::{Raise, Rung};
use crate::decide::guarantee::{Ground, Guarantee, guarantee};
use crate::error::Error;
use crate::event::Event;
use crate::pg::ceiling;

/// How long the monitor may take to say how large its pool is.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Reads the ceiling of a session that was made ready for the statement, raises it where that is the surest way to the
/// workers that are to be guaranteed, and tells it.
///
/// # Errors
/// A refusal where nothing can guarantee them.
pub(super) async fn climb(
    guard: &mut SessionGuard,
    recorder: &mut ExecutionRecorder,
) -> Result<Stand, Error> {
    let failed = |failure| Error::sql("inspecting the session", failure);
    let settings = guard.settings.clone();
    let monitors_pool = monitors_pool(guard.inner.monitor.watch_pool(LOOK_LIMIT));
    let (ceiling, monitors_pool) = join(ceiling::read(guard.client().map_err(failed)?), monitors_pool).await;
    let mut ceiling = ceiling.map_err(failed)?;
    let mut rung = ceiling.rung(settings.target_workers, settings.gather, settings.reserve);
    if settings.guarantee {
        let mut ground = Ground {
            ceiling: &ceiling,
            need: settings.target_workers,
            leave: settings.leave,
            leave_slots: slots_left_to_others(&guard.inner, &settings),
            above_role: settings.above_role,
            may_gather: true,
        };
        if guarantee(&ground) == Guarantee::Gather {
            ground.may_gather = !is_behind_pool(guard).await;
        }
        rung = match guarantee(&ground) {
            Guarantee::Role => Rung::Role,
            Guarantee::Ceiling => Rung::Ceiling,
            Guarantee::Gather => Rung::Gather,
            Guarantee::Nothing(obstacles) => return Err(no_guarantee(&ground, obstacles)),
        };
        if rung == Rung::Ceiling && guard.raise.is_none() {
            guard.raise = Some(Raise::Auto);
            let client = guard.client().map_err(failed)?;
            let raise = ceiling::raise(Raise::Auto, &settings);
            client.batch_execute(&raise).await.map_err(|error| failed(error.into()))?;
            ceiling = ceiling::read(client).await.map_err(failed)?;
        }
    }
    if settings.gather && is_behind_pool(guard).await {
        return Err(refuse_pooled(&guard.inner.watched.describe()));
    }
    let pool_size = ceiling.workers.min(ceiling.processes);
    let stand = Stand {
        pool_size,
        apart: monitors_pool != Some(pool_size),
        raised: ceiling.workers > ceiling.given,
        gathers: rung == Rung::Gather,
    };
    recorder.observe(&Event::RungTaken { rung, ceiling, asked: settings.ceiling });
    Ok(stand)
}

/// Whether a proxy that keeps no lock and no setting lies before the server. One that does not answer is asked again when
/// slots are wanted.
async fn is_behind_pool(guard: &SessionGuard) -> bool {
    let endpoint = guard.inner.watched.with_database(&guard.settings.reserve_database);
    is_pooled(&guard.inner, &endpoint).await.unwrap_or(false)
}

/// The pool's size as the monitor's session is configured; `None` where it does not see the pool.
async fn monitors_pool(mut watch: Watch) -> Option<u32> {
    match timeout(LOOK_LIMIT, watch.next()).await {
        Ok(Observation::Seen(seen)) => seen.pool.map(|pool| pool.size),
        Ok(Observation::Blind) | Err(_) => None,
    }
}
