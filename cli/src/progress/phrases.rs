//! Parts of the sentences that progress is told in.

use std::time::Duration;

use headcount::event::{Admitted, CancelMethod, CancelResult, Granted, Pool, Resolution, Slots};
use headcount::{Ceiling, Raise};

use crate::output::{count, time_text};

/// Which statement of a script it is about.
pub(super) fn of(statement: Option<u32>) -> String {
    statement.map(|number| format!("statement {number}: ")).unwrap_or_default()
}

pub(super) const fn slots_are(count: u32) -> &'static str {
    if count == 1 { "slot is" } else { "slots are" }
}

pub(super) fn free(slots: Slots) -> String {
    let outsiders = match slots.outsiders {
        Some(outsiders) if outsiders > 0 => format!(", {outsiders} are used without a slot"),
        _ => String::new(),
    };
    format!("{} of {} are free ({} held{outsiders})", slots.free(), slots.size, slots.held)
}

pub(super) fn too_small(minimum: u32, slots: Slots) -> String {
    format!(
        "the pool has {} {}, the minimum is {minimum}",
        slots.size,
        if slots.size == 1 { "slot" } else { "slots" }
    )
}

pub(super) fn reserved(
    demand: u32,
    taken: u32,
    end: Granted,
    waited: Duration,
    slots: Option<Slots>,
) -> String {
    let why = match slots {
        Some(slots) if slots.are_too_few_for(demand) => format!(": {}", too_small(demand, slots)),
        Some(slots) => format!(": {}", free(slots)),
        None => String::new(),
    };
    let after = time_text(waited);
    match end {
        Granted::Full => format!("{taken} slots reserved after {after}"),
        Granted::Degraded => format!("only {taken} of {demand} slots reserved after {after}{why}"),
        Granted::GaveUp => format!("no slots after {after}{why}; giving up"),
        Granted::Interrupted => format!("left the queue for slots after {after}{why}"),
    }
}

pub(super) fn admitted(
    waited: Duration,
    end: Admitted,
    pool: Option<Pool>,
    processes: Option<Pool>,
) -> Option<String> {
    let waited_text = time_text(waited);
    match (end, pool) {
        (Admitted::Room, Some(pool)) => {
            let waited = if waited < Duration::from_millis(20) {
                String::new()
            } else {
                format!(" after {waited_text}")
            };
            let scarce = processes.filter(|processes| processes.free() < pool.free());
            Some(match scarce {
                Some(processes) => format!(
                    "starting{waited}: {} of {} processes (max_worker_processes) are in use, {} can start",
                    processes.used,
                    processes.size,
                    count(u64::from(processes.free()), "worker")
                ),
                None => format!("the pool has room{waited}: {} of {} slots are in use", pool.used, pool.size),
            })
        }
        (Admitted::TimedOut, _) => {
            Some(format!("the pool still has too little room after {waited_text}; starting all the same"))
        }
        (Admitted::Gathered, _) => Some(format!("slots gathered after {waited_text}; starting")),
        (Admitted::Room | Admitted::Unseen, _) => None,
    }
}

pub(super) fn cancelled(method: CancelMethod, result: CancelResult) -> Option<String> {
    match (method, result) {
        (CancelMethod::Cancel, CancelResult::Sent) => Some("cancelled".to_owned()),
        (CancelMethod::Terminate, CancelResult::Sent) => Some("its session was terminated".to_owned()),
        (_, CancelResult::Failed) => Some("the request to cancel failed; asking again".to_owned()),
        (_, CancelResult::Denied) => {
            Some("the monitor's role may not cancel it (GRANT pg_signal_backend); asking again".to_owned())
        }
        (_, CancelResult::Missed) => None,
    }
}

pub(super) const fn resolved(resolution: Resolution) -> &'static str {
    match resolution {
        Resolution::Committed => "it was committed",
        Resolution::Aborted => "it was not committed",
        Resolution::Reread => "the rows were read again",
        Resolution::Unresolved => "nobody knows what became of it",
        Resolution::Unreplicated => {
            "it is committed, and its synchronous standby may not have it: a failover may undo it"
        }
    }
}

/// What came of --ceiling.
pub(super) fn raised(ceiling: &Ceiling, asked: Raise) -> String {
    let Ceiling { workers, given, processes, .. } = ceiling;
    if workers > given {
        let cut = matches!(asked, Raise::To(wanted) if wanted > *workers);
        let cut = if cut {
            "; more is not allowed (max_worker_processes, --leave, or what was set for the role)"
        } else {
            ""
        };
        return format!("ceiling raised from {given} to {workers} workers of all sessions together{cut}");
    }
    let why = match (asked, ceiling.of_role.or(ceiling.of_database)) {
        (Raise::To(wanted), _) if wanted <= *given => format!("{wanted} is not above that"),
        (_, Some(_)) => {
            "that was set for the role or the database, and --above-role was not given".to_owned()
        }
        (_, None) => format!("max_worker_processes = {processes} has no room beyond that"),
    };
    format!("ceiling not raised, it stays at {given} workers: {why}")
}
