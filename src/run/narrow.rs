//! The refusal of a statement that no attempt can give its workers: the reasons as one clause, and each fix once.

use super::stage::Reach;
use crate::error::{Error, Refusal};
use crate::pg::plan;

/// The refusal of a statement that cannot have `bar` workers.
pub(super) fn too_narrow(reach: &Reach, bar: u32, reasons: &[plan::Reason]) -> Error {
    let mut fixes: Vec<String> = Vec::new();
    for fix in reasons.iter().flat_map(|reason| &reason.fixes) {
        if !fixes.contains(fix) {
            fixes.push(fix.clone());
        }
    }
    let mut explanation = match reach.planned {
        Some(planned) => format!("the plan can have {planned} of the {bar} workers demanded"),
        None => format!("{bar} workers are demanded"),
    };
    for reason in reasons {
        explanation.push_str("; ");
        explanation.push_str(&reason.explanation);
    }
    Error::refused(Refusal::PlanTooNarrow, explanation, fixes)
}

/// The same where slots are wanted in a pool that has too few. The leader's session may have set a larger one for
/// itself, and the wait would have no end.
pub(super) fn too_few_slots(size: u32, bar: u32) -> Error {
    let reach = Reach { planned: Some(size), ..Reach::default() };
    too_narrow(&reach, bar, &[plan::Reason::server_pool(size, bar)])
}

/// The same for a statement whose Gathers share the slots that it holds. What limits them is no mistake of the
/// caller's, who can ask for more slots, or for less of them.
pub(super) fn too_narrow_within(
    share: u32,
    more: &str,
    reach: &Reach,
    bar: u32,
    mut reasons: Vec<plan::Reason>,
) -> Error {
    reasons.retain(|reason| reason.kind != plan::ReasonKind::GatherLimit);
    reasons.insert(
        0,
        plan::Reason {
            kind: plan::ReasonKind::GatherLimit,
            explanation: format!("its slots leave each Gather {share} workers"),
            fixes: vec![format!("-- {more}, or accept less (--min)")],
        },
    );
    too_narrow(reach, bar, &reasons)
}
