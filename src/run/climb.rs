//! The rung that an execution stands on: what bounds its session's workers.

use tokio_postgres::Client;

use super::recorder::ExecutionRecorder;
use crate::event::Event;
use crate::pg::{Failure, ceiling};
use crate::settings::Settings;

/// Reads the ceiling of a session that was made ready for the statement, and tells it. Returns the size of the pool as
/// the session has it, and whether it has raised it.
pub(super) async fn climb(
    client: &Client,
    settings: &Settings,
    recorder: &mut ExecutionRecorder,
) -> Result<(u32, bool), Failure> {
    let ceiling = ceiling::read(client).await?;
    let (rung, asked) = (ceiling.rung(settings.target_workers, settings.reserve), settings.ceiling);
    let pool_size = ceiling.workers.min(ceiling.processes);
    let is_raised = ceiling.workers > ceiling.given;
    recorder.observe(&Event::RungTaken { rung, ceiling, asked });
    Ok((pool_size, is_raised))
}
