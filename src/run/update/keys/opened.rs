//! An opened source: a stream of items.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use super::super::feed::Items;
use super::Item;
use super::lines::{Lines, count_lines};
use crate::error::Error;

/// An opened source.
pub(in crate::run::update) struct Opened {
    pub(in crate::run::update) items: Items<Item>,
    /// How many, where that is known.
    pub(in crate::run::update) total: Option<u64>,
    /// Whether reading on to the end is quick, so that what is left can be counted.
    pub(in crate::run::update) countable: bool,
}

impl Opened {
    pub(in crate::run::update) async fn file(
        path: &Path,
        inputs: &[String],
        keys: usize,
    ) -> Result<Self, Error> {
        let cannot = |error: std::io::Error| {
            Error::configuration("keys", format!("cannot read {}: {error}", path.display()))
        };
        let open = || File::open(path).map_err(cannot);
        let file = open()?;
        if !file.metadata().map_err(cannot)?.is_file() {
            // A pipe gives each byte once, to whoever reads first.
            return Self::reader(Box::new(file), inputs, keys).await;
        }
        let header = Lines::new(file, inputs, keys)?.has_header();
        let total = count_lines(open()?).map_err(cannot)?.saturating_sub(u64::from(header));
        let (outbox, items) = post();
        let file = open()?;
        let whole = Whole { left: file.metadata().map_err(cannot)?.len(), inner: file };
        let lines = Lines::new(Announced { inner: whole, outbox: outbox.clone() }, inputs, keys)?;
        std::thread::spawn(move || outbox.post_all(lines));
        Ok(Self { items, total: Some(total), countable: true })
    }

    pub(in crate::run::update) async fn reader(
        reader: Box<dyn Read + Send>,
        inputs: &[String],
        keys: usize,
    ) -> Result<Self, Error> {
        let (outbox, items) = post();
        let reader = Announced { inner: reader, outbox: outbox.clone() };
        // The first line may be long in coming.
        let (inputs, opened) = (inputs.to_vec(), tokio::sync::oneshot::channel());
        std::thread::spawn(move || opened.0.send(Lines::new(reader, &inputs, keys)));
        let lines = opened.1.await.map_err(|error| Error::other("reading the keys broke off", error))??;
        std::thread::spawn(move || outbox.post_all(lines));
        Ok(Self { items, total: None, countable: false })
    }

    pub(in crate::run::update) fn rows(rows: Items<Box<[Option<Box<str>>]>>, inputs: usize) -> Self {
        let mut line = 0;
        let items = rows.map(move |fields| {
            line += 1;
            let fields = fields?;
            if fields.len() == inputs {
                return Ok(Item { line, fields });
            }
            let problem = format!("row {line} has {} fields in place of {inputs}", fields.len());
            Err(Error::configuration("keys", problem))
        });
        Self { items: Box::pin(items), total: None, countable: false }
    }
}

/// Items per message of the reading thread at most, and messages that it may be ahead.
const BATCH: usize = 256;
const AHEAD: usize = 4;

type Batch = Vec<Result<Item, Error>>;

/// What was read and not yet sent. The reading thread ends with the stream; one that waits for a terminal does
/// not keep the process alive.
#[derive(Clone)]
struct Outbox {
    batch: Arc<Mutex<Batch>>,
    sender: mpsc::Sender<Batch>,
}

fn post() -> (Outbox, Items<Item>) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let batches = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|batch: Batch| (batch, receiver))
    });
    (Outbox { batch: Arc::default(), sender }, Box::pin(batches.flat_map(stream::iter)))
}

impl Outbox {
    fn post_all(self, lines: Lines) {
        for item in lines {
            let full = {
                let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
                batch.push(item);
                batch.len() >= BATCH
            };
            if full && !self.post() {
                return;
            }
        }
        self.post();
    }

    /// Sends what there is; `false` when nobody wants it any more.
    fn post(&self) -> bool {
        let batch = std::mem::take(&mut *self.batch.lock().unwrap_or_else(PoisonError::into_inner));
        batch.is_empty() || self.sender.blocking_send(batch).is_ok()
    }
}

/// A file that must have at least the bytes that it had when it was opened: what is missing would be keys.
struct Whole<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if length == 0 && self.left > 0 && !buffer.is_empty() {
            let problem = format!("{} bytes of the file are gone since it was opened", self.left);
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, problem));
        }
        self.left = self.left.saturating_sub(length as u64);
        Ok(length)
    }
}

/// A reader that sends what is in the outbox before it reads on, which may take as long as its writer likes.
struct Announced<R> {
    inner: R,
    outbox: Outbox,
}

impl<R: Read> Read for Announced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.outbox.post();
        self.inner.read(buffer)
    }
}
