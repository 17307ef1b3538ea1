//! The refusal of a statement that no attempt can give its workers: the reasons as one clause, and each fix once.

use super::executor::PlanCapacity;
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
