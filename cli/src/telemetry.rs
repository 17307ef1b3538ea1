//! Telemetry of the command: the exporters that were asked for, started, flushed, and what was lost said.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headcount::Observer;
use headcount::telemetry::exporters::{LogFormat, LogOptions, Options, Telemetry, check_filter};

use super::args::{Exporters, LogStyle, Words};
use super::exit::Failed;
use super::object;
use super::output::say;
use super::progress::{Progress, console_is_terminal};

/// Starts what was asked for, and makes it the process's own.
pub(crate) async fn start(task: &str, exporters: &Exporters, words: &Words) -> Result<Telemetry, Failed> {
    let mut options = Options::new(task);
    options.listen = exporters.listen;
    options.push.clone_from(&exporters.push);
    options.textfile.clone_from(&exporters.textfile);
    options.otlp.clone_from(&exporters.otlp);
    options.log = log(words);
    let telemetry = Telemetry::start(options, |name| std::env::var(name).ok()).await?;
    telemetry.install()?;
    for warning in wrong_filter().as_deref().into_iter().chain(telemetry.warning()) {
        say(&format!("headcount: warning: {warning}"));
    }
    if let Some(address) = telemetry.metrics_address().filter(|_| !words.quiet) {
        say(&format!("metrics: http://{address}/metrics"));
    }
    Ok(telemetry)
}

/// Refuses to write the metrics over a file of the job: `(what it is for, the file)`.
pub(crate) fn check_textfile(
    exporters: &Exporters,
    files: &[(&str, &Option<PathBuf>)],
) -> Result<(), Failed> {
    let Some(metrics) = &exporters.textfile else { return Ok(()) };
    let whereabouts = |path: &Path| {
        let file = path.metadata().ok().filter(Metadata::is_file).map(|file| (file.dev(), file.ino()));
        (file, std::path::absolute(path).ok())
    };
    let (file, place) = whereabouts(metrics);
    for (what, path) in files {
        let Some(path) = path else { continue };
        let (other, there) = whereabouts(path);
        if (file.is_some() && file == other) || (place.is_some() && place == there) {
            return Err(Failed::usage(format!("--textfile: {what} {}", path.display())));
        }
    }
    Ok(())
}

/// Everyone who hears of events: the exporters, and the people in front of the terminal.
pub(crate) fn observers(telemetry: &Telemetry, words: &Words, json: bool) -> Vec<Arc<dyn Observer>> {
    let mut observers = telemetry.observers();
    observers.push(Arc::new(object::TraceId));
    #[cfg(debug_assertions)]
    observers.push(Arc::new(super::panics::Provoker));
    if tells(words, json) {
        observers.push(Arc::new(Progress::new("")));
    }
    observers
}

/// Whether progress is shown: log lines tell the same story, and `--json` in a pipe is for programs.
pub(crate) fn tells(words: &Words, json: bool) -> bool {
    !(words.quiet || log(words).is_some() || (json && !console_is_terminal()))
}

/// Sends what is left. What did not arrive is said; it does not fail the run.
pub(crate) async fn finish(telemetry: Telemetry) {
    for loss in telemetry.finish().await {
        say(&format!("headcount: warning: {loss}"));
    }
}

fn rust_log() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|filter| !filter.trim().is_empty())
}

fn wrong_filter() -> Option<String> {
    let error = check_filter(&rust_log()?).err()?;
    Some(format!("RUST_LOG: {}; it is ignored", error.to_string().trim_start_matches("log filter: ")))
}

fn log(words: &Words) -> Option<LogOptions> {
    let level = match words.verbose {
        0 | 1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let chosen = rust_log().filter(|filter| check_filter(filter).is_ok());
    if words.quiet || (words.verbose == 0 && words.log_format.is_none() && chosen.is_none()) {
        return None;
    }
    let format = match words.log_format {
        Some(LogStyle::Json) => LogFormat::Json,
        Some(LogStyle::Text) | None => LogFormat::Text,
    };
    let filter = chosen.unwrap_or_else(|| format!("headcount={level}"));
    Some(LogOptions { format, filter, ..LogOptions::default() })
}
