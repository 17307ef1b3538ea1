//! The refusal of a statement that no attempt can give its workers: the reasons as one clause, and each fix once.

use super::executor::PlanCapacity;
use crate::decide::guarantee::{GatheringObstacle, Ground, Obstacles, Raising};
use crate::error::{Error, Refusal};
use crate::fix::Fix;
use crate::pg::plan;

/// The refusal of a statement that cannot have `required` workers.
pub(super) fn too_narrow(capacity: &PlanCapacity, required: u32, reasons: &[plan::Reason]) -> Error {
    let mut fixes: Vec<Fix> = Vec::new();
    for fix in reasons.iter().flat_map(|reason| &reason.fixes) {
        if !fixes.contains(fix) {
            fixes.push(fix.clone());
        }
    }
    let mut explanation = match capacity.planned {
        Some(planned) => format!("the plan can have {planned} of the {required} workers demanded"),
        None => format!("{required} workers are demanded"),
    };
    for reason in reasons {
        explanation.push_str("; ");
        explanation.push_str(&reason.explanation);
    }
    Error::refused(Refusal::PlanTooNarrow, explanation, fixes)
}

/// The same where slots are wanted in a pool that has too few. The leader's session may have set a larger one for
/// itself, and the wait would have no end.
pub(super) fn too_few_slots(size: u32, required: u32) -> Error {
    let capacity = PlanCapacity { planned: Some(size), ..PlanCapacity::default() };
    too_narrow(&capacity, required, &[plan::Reason::server_pool(size, required)])
}

/// The same for a statement whose Gathers share the slots that it holds. What limits them is no mistake of the
/// caller's, who can ask for more slots, or for less of them.
pub(super) fn too_narrow_within(
    share: u32,
    more: &str,
    capacity: &PlanCapacity,
    required: u32,
    mut reasons: Vec<plan::Reason>,
) -> Error {
    reasons.retain(|reason| reason.kind != plan::ReasonKind::GatherLimit);
    reasons.insert(
        0,
        plan::Reason {
            kind: plan::ReasonKind::GatherLimit,
            explanation: format!("its slots leave each Gather {share} workers"),
            fixes: vec![Fix::advice(format!("{more}, or accept less (`min_workers`)"))],
        },
    );
    too_narrow(capacity, required, &reasons)
}

/// The refusal where nothing can guarantee the workers: for each way why it cannot, and what would let it.
pub(super) fn no_guarantee(ground: &Ground<'_>, obstacles: Obstacles) -> Error {
    let Ground { ceiling, need, leave, .. } = *ground;
    let Obstacles { kept_free, raising, gathering } = obstacles;
    let mut fixes = vec![Fix::advice(
        "workers that others leave to this role: `headcount doctor` prints the statements for this server",
    )];
    let kept = match kept_free {
        Some(kept) => format!("others leave {kept} workers to the role by their limits"),
        None => "how many workers others leave to the role is not known".to_owned(),
    };
    let raised = match raising {
        Raising::OfRole(own) => {
            fixes.push(Fix::advice(
                "`above_role`, which lets the session exceed what was set for its role or database",
            ));
            format!(
                "its own limit may not be raised above {own}, which ALTER ROLE or ALTER DATABASE set (max_parallel_workers)"
            )
        }
        Raising::Processes(processes) => {
            fixes.push(Fix::sql(format!(
                "ALTER SYSTEM SET max_worker_processes = {processes}; -- needs a restart"
            )));
            format!(
                "raising its own limit would need {processes} processes, {leave} of them for others, and there are {} \
                 (max_worker_processes)",
                ceiling.processes
            )
        }
    };
    let gathered = match gathering {
        GatheringObstacle::Pooled => {
            fixes.push(Fix::advice("`monitor`: a connection to the server itself, past the proxy"));
            "slots cannot be held through a proxy that pools transactions".to_owned()
        }
        GatheringObstacle::Slots(slots) => {
            format!(
                "no more than {slots} slots can be held, of {} of the pool (max_parallel_workers) and {} processes, {leave} of \
                 them for others",
                ceiling.given, ceiling.processes
            )
        }
    };
    let explanation = format!("nothing guarantees {need} workers: {kept}; {raised}; {gathered}");
    Error::refused(Refusal::NoGuarantee, explanation, fixes)
}
