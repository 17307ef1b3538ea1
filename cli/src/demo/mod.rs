//! `headcount demo`: the story on a private server, with real data and real rivals.
//!
//! Each act is a file; this one sets the stage, keeps `/metrics` open, and clears everything away.

mod data;
mod line;
mod orders;
mod rollup;
mod server;

use std::fmt;
use std::time::Instant;

use crate::server::Binaries;
use headcount::Execution;
use headcount::telemetry::exporters::Telemetry;
use headcount::telemetry::names;

use self::server::Stage;
use super::args::{DemoArgs, Exporters, Words};
use super::exit::{self, Failed};
use super::object;
use super::output::{self, say, time_text};
use super::signals::Signals;
use super::telemetry;

/// The attempts that the demo's run may make; the library's default.
const MAX_ATTEMPTS: u32 = 5;

/// Plays it, and returns the exit code.
pub(crate) async fn run(args: &DemoArgs, words: Words, signals: &mut Signals) -> u8 {
    let began = Instant::now();
    match play(args, &words, signals).await {
        Ok(run) => {
            let took = if args.keep {
                String::new()
            } else {
                format!("The demo took {}. ", time_text(began.elapsed()))
            };
            tell(&format!("{took}The server is gone."));
            let code = if run.outcome.is_accepted() { exit::DONE } else { exit::BELOW_MINIMUM };
            if args.json {
                object::print_result(&run, code);
            } else {
                output::print(&output::summary(&run, MAX_ATTEMPTS, true).join("\n"));
            }
            code
        }
        Err(Trouble::Interrupted(code)) => {
            tell("Interrupted. The server is gone.");
            code
        }
        Err(Trouble::Failed(failed)) => {
            output::complain(&failed);
            if args.json {
                object::print_result(&output::FailedRun::new(&failed, "rollup", None), failed.code());
            }
            failed.code()
        }
        Err(Trouble::Story(problem)) => {
            say(&format!("headcount: the demo broke off: {problem}"));
            if args.json {
                object::print_failure("demo", &problem, exit::FAILED);
            }
            exit::FAILED
        }
    }
}

async fn play(args: &DemoArgs, words: &Words, signals: &mut Signals) -> Result<Execution<u64>, Trouble> {
    // Before an address is told where nothing will be.
    let binaries = Binaries::find()?;
    let exporters = Exporters { listen: Some(args.listen), ..Exporters::default() };
    let telemetry = telemetry::start("rollup", &exporters, words).await?;
    // Its start takes a second, and is not broken off: half a server would leave its folder behind.
    let stage = Stage::start(binaries).await?;
    signals.unless(Box::pin(furnish(&stage, args.scale))).await.map_err(Trouble::Interrupted)??;
    let played = acts(&stage, &telemetry, signals).await;
    let kept = match (&played, args.keep_metrics) {
        (Ok(_), _) if args.keep => {
            tell(&invitation(&stage.dsn()));
            // The signal is how it is meant to end.
            signals.next().await;
            tell("Stopping the server...");
            Ok(())
        }
        (Ok(_), Some(time)) => {
            tell(&format!("Metrics stay up for {}; Ctrl-C ends that.", time_text(time)));
            signals.unless(tokio::time::sleep(time)).await.map_err(Trouble::Interrupted)
        }
        _ => Ok(()),
    };
    signals.or_leave(stage.stop()).await?;
    signals.or_leave(telemetry::finish(telemetry)).await;
    kept?;
    played
}

/// What to type while the server is kept.
fn invitation(dsn: &str) -> String {
    format!(
        "The server keeps running until Ctrl-C, on 127.0.0.1 and without a password. To use it from another terminal:\n\
         \n  export DATABASE_URL={dsn}\n"
    )
}

/// Loads the data.
async fn furnish(stage: &Stage, scale: f64) -> Result<(), Trouble> {
    let began = Instant::now();
    tell(&format!(
        "PostgreSQL {} on port {}, for this demo alone; its pool has {} slots. Loading TPC-H data...",
        stage.major(),
        stage.port(),
        server::POOL
    ));
    let (lineitem, orders) = Box::pin(data::load(&stage.endpoint, scale)).await?;
    tell(&format!(
        "{lineitem} rows of lineitem and {orders} of orders after {}.",
        time_text(began.elapsed())
    ));
    Ok(())
}

async fn acts(
    stage: &Stage,
    telemetry: &Telemetry,
    signals: &mut Signals,
) -> Result<Execution<u64>, Trouble> {
    signals.unless(Box::pin(rollup::unguarded(stage))).await.map_err(Trouble::Interrupted)??;
    let run = rollup::guarded(stage, telemetry, signals).await?;
    if run.outcome.is_accepted() {
        tell(&format!("   {}.", rollup::proof(stage).await?));
    }
    orders::shipped(stage, telemetry, signals).await?.complete()?;
    tell("4. What /metrics says about it:");
    for line in telling_metrics(&telemetry.render()) {
        tell(&format!("   {line}"));
    }
    Ok(run)
}

/// The series that tell the story, where they are not zero.
fn telling_metrics(text: &str) -> Vec<&str> {
    const TELLING: [names::Metric; 8] = [
        names::ATTEMPTS_ENDED,
        names::CANCELS,
        names::LAST_WASTED,
        names::LAST_ACHIEVED,
        names::LAST_TARGET,
        names::CHUNKS_ENDED,
        names::CHUNK_ROWS_TOTAL,
        names::IN_DOUBT,
    ];
    let is = |line: &str, name: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
    let telling = |line: &&str| TELLING.iter().any(|metric| is(line, metric.name)) && !line.ends_with(" 0");
    text.lines().filter(telling).collect()
}

fn tell(text: &str) {
    say(text);
}

/// Why the story ended before its end.
#[derive(Debug)]
enum Trouble {
    Failed(Failed),
    Story(String),
    Interrupted(u8),
}

impl Trouble {
    fn story(problem: impl fmt::Display) -> Self {
        Self::Story(problem.to_string())
    }
}

impl From<headcount::Error> for Trouble {
    fn from(error: headcount::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<crate::server::Error> for Trouble {
    fn from(error: crate::server::Error) -> Self {
        if error.is_configuration() {
            return Self::Failed(Failed::usage(error.to_string()));
        }
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Self::Story(format!("{error}{}", cause.unwrap_or_default()))
    }
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed)
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        // The driver's own text is only its preface where the server said something.
        Self::Story(error.as_db_error().map_or_else(|| error.to_string(), |said| said.message().to_owned()))
    }
}
