//! `headcount doctor`: the answers of [`headcount::server::doctor`], a line each.

use headcount::Fix;
use headcount::server::doctor::{self, Finding, Level};
use serde::Serialize;

use super::args::DoctorArgs;
use super::exit::{self, Failed};
use super::names;
use super::object;
use super::output;
use super::run::endpoints;
use super::signals::Signals;

/// Examines, and returns the exit code.
pub(crate) async fn run(args: &DoctorArgs, signals: &mut Signals) -> u8 {
    let examined = match signals.unless(Box::pin(examine(args))).await {
        Ok(examined) => examined,
        Err(code) => return code,
    };
    match examined {
        Ok(findings) => {
            let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
            let code = if worst == Level::Fail { exit::REFUSED } else { exit::DONE };
            if args.json {
                object::print_result(&Report { result: worst, findings: &findings, error: None }, code);
            } else {
                output::print(&findings.iter().flat_map(lines).collect::<Vec<_>>().join("\n"));
            }
            code
        }
        Err(failed) => {
            output::complain(&failed);
            if args.json {
                let error = Some(failed.to_string());
                let report = Report { result: Level::Fail, findings: &[], error };
                object::print_result(&report, failed.code());
            }
            failed.code()
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    result: Level,
    findings: &'a [Finding],
    error: Option<String>,
}

async fn examine(args: &DoctorArgs) -> Result<Vec<Finding>, Failed> {
    let (endpoint, monitor) = endpoints(&args.server)?;
    let fleet = args.reserve_database.as_deref();
    let mut findings = doctor::examine(&endpoint, monitor.as_ref(), args.target, fleet).await?;
    for finding in &mut findings {
        finding.text = names::in_options(&finding.text);
        finding.fix = finding.fix.as_ref().map(names::fix_in_options);
    }
    Ok(findings)
}

fn lines(finding: &Finding) -> Vec<String> {
    let Finding { check, level, text, fix, .. } = finding;
    let mut lines = vec![format!("{:<4}  {check}: {text}", level.as_str())];
    let advised = |fix: &Fix| match level {
        Level::Ok => format!("      to have that: {fix}"),
        Level::Warn | Level::Fail => format!("      {}", output::remedy(fix)),
    };
    lines.extend(fix.as_ref().map(advised));
    lines
}
