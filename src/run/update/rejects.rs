//! The keys that are still to be seen to, in a file that can be the input of the next run: stale, missing and failed
//! ones.
//!
//! CSV: the input's columns under their names, then `class`, `line` and `reason`.
//!
//! A pipe is written to on a thread of its own: its reader may take as long as he likes, and neither a chunk nor a
//! signal is to wait for him. What he has not read yet is bounded: the workers get no new keys meanwhile ([`Backlog`]).

use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::keys::{Item, aside};
use crate::decide::update::Class;
use crate::error::Error;

/// How much a pipe's reader may be behind, in bytes.
const BEHIND: usize = 1 << 20;
/// How long a run that is stopped waits for him.
const GRACE: Duration = Duration::from_secs(2);

pub(crate) struct Rejects {
    sink: Sink,
    row: Vec<u8>,
    /// Once writing has failed nothing more is written, and the run says so.
    problem: Option<io::Error>,
}

enum Sink {
    File(BufWriter<File>),
    Pipe { rows: mpsc::Sender<Vec<u8>>, backlog: Arc<Backlog>, written: oneshot::Receiver<io::Result<()>> },
}

/// What is yet to be written to a pipe.
#[derive(Default)]
pub(crate) struct Backlog {
    bytes: AtomicUsize,
    shrunk: Notify,
}

impl Backlog {
    /// Waits until the reader is not far behind.
    pub(crate) async fn is_small(&self) {
        loop {
            let shrunk = self.shrunk.notified();
            if self.bytes.load(Ordering::Relaxed) < BEHIND {
                return;
            }
            shrunk.await;
        }
    }
}

impl Rejects {
    /// Replaces the file; its header is written at once.
    pub(crate) async fn create(path: &Path, inputs: &[String]) -> Result<Self, Error> {
        let (path, inputs) = (path.to_owned(), inputs.to_vec());
        // A pipe opens when somebody reads it.
        let created = aside(move || {
            let cannot = |error: io::Error| {
                Error::configuration("rejects", format!("cannot write {}: {error}", path.display()))
            };
            let mut file = File::create(&path).map_err(cannot)?;
            let own = ["class", "line", "reason"].map(|name| {
                // Else it could not be told apart in the next run.
                if inputs.iter().any(|input| input == name) {
                    format!("reject_{name}")
                } else {
                    name.to_owned()
                }
            });
            let mut row = Vec::new();
            spell(&mut row, inputs.iter().chain(&own).map(|name| Some(name.as_str())));
            file.write_all(&row).map_err(cannot)?;
            let is_file = file.metadata().map_err(cannot)?.is_file();
            Ok((file, is_file))
        });
        let (file, is_file) = created.await?;
        let sink = if is_file { Sink::File(BufWriter::new(file)) } else { Sink::pipe(file)? };
        Ok(Self { sink, row: Vec::new(), problem: None })
    }

    /// Refuses a file that the keys are read from: it would be emptied before it is read.
    pub(crate) fn check(path: &Path, keys: &Path) -> Result<(), Error> {
        let of =
            |path: &Path| path.metadata().ok().filter(Metadata::is_file).map(|file| (file.dev(), file.ino()));
        match (of(path), of(keys)) {
            (Some(rejects), Some(keys)) if rejects == keys => {
                Err(Error::configuration("rejects", format!("the keys are read from {}", path.display())))
            }
            _ => Ok(()),
        }
    }

    /// What its reader has not read yet, where it has one.
    pub(crate) fn backlog(&self) -> Option<Arc<Backlog>> {
        match &self.sink {
            Sink::File(_) => None,
            Sink::Pipe { backlog, .. } => Some(Arc::clone(backlog)),
        }
    }

    pub(crate) fn write(&mut self, item: &Item, class: Class, reason: &str) {
        if self.problem.is_some() {
            return;
        }
        let line = item.line.to_string();
        let fields = item.fields.iter().map(Option::as_deref);
        let reason = Some(reason).filter(|reason| !reason.is_empty());
        self.row.clear();
        spell(&mut self.row, fields.chain([Some(class.as_str()), Some(&line), reason]));
        let written = match &mut self.sink {
            Sink::File(file) => file.write_all(&self.row),
            Sink::Pipe { rows, backlog, .. } => {
                backlog.bytes.fetch_add(self.row.len(), Ordering::Relaxed);
                // Why the thread has ended it says at the end.
                let _ = rows.send(self.row.clone());
                Ok(())
            }
        };
        self.problem = written.err();
    }

    /// Writes what is held back; a run that is stopped does not wait for long.
    pub(crate) async fn finish(mut self, stop: &CancellationToken) -> Result<(), io::Error> {
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        match self.sink {
            Sink::File(mut file) => file.flush(),
            Sink::Pipe { rows, written, .. } => {
                drop(rows);
                let given_up = async {
                    stop.cancelled().await;
                    sleep(GRACE).await;
                };
                tokio::select! {
                    biased;
                    written = written => written.unwrap_or_else(|error| Err(io::Error::other(error))),
                    () = given_up => Err(io::Error::new(io::ErrorKind::TimedOut, "its reader has stopped reading")),
                }
            }
        }
    }
}

impl Sink {
    fn pipe(mut file: File) -> Result<Self, Error> {
        let (rows, to_write) = mpsc::channel::<Vec<u8>>();
        let (sender, written) = oneshot::channel();
        let backlog: Arc<Backlog> = Arc::default();
        let behind = Arc::clone(&backlog);
        let thread = std::thread::Builder::new().spawn(move || {
            let mut result = Ok(());
            for row in to_write {
                if result.is_ok() {
                    result = file.write_all(&row);
                }
                behind.bytes.fetch_sub(row.len(), Ordering::Relaxed);
                behind.shrunk.notify_waiters();
            }
            sender.send(result)
        });
        thread.map_err(|error| Error::other("cannot start a thread", error))?;
        Ok(Self::Pipe { rows, backlog, written })
    }
}

/// Adds a row of CSV. NULL is an empty field, and an empty text is in quotes.
fn spell<'a>(row: &mut Vec<u8>, fields: impl Iterator<Item = Option<&'a str>>) {
    for (place, field) in fields.enumerate() {
        if place > 0 {
            row.push(b',');
        }
        match field {
            None => {}
            Some(text) if text.is_empty() || text.contains([',', '"', '\r', '\n']) => {
                row.push(b'"');
                row.extend(text.replace('"', "\"\"").bytes());
                row.push(b'"');
            }
            Some(text) => row.extend(text.bytes()),
        }
    }
    row.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_spelled_so_that_it_is_read_again_as_it_was() {
        let mut row = Vec::new();
        spell(&mut row, [Some("a"), None, Some(r"\N"), Some("x,\"y\"\r\n"), Some("")].into_iter());
        spell(&mut row, [None, Some("b")].into_iter());
        assert_eq!(String::from_utf8(row).unwrap(), "a,,\\N,\"x,\"\"y\"\"\r\n\",\"\"\n,b\n");
    }
}
