//! An opened source: a stream of items.

use std::fs::File;
use std::io::Read;
use std::path::Path;

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
    pub(in crate::run::update) fn file(path: &Path, inputs: &[String], keys: usize) -> Result<Self, Error> {
        let cannot = |error: std::io::Error| {
            Error::configuration("keys", format!("cannot read {}: {error}", path.display()))
        };
        let open = || File::open(path).map_err(cannot);
        let regular = open()?.metadata().map_err(cannot)?.is_file();
        let header = Lines::new(open()?, inputs, keys)?.has_header();
        let total = if regular {
            Some(count_lines(open()?).map_err(cannot)?.saturating_sub(u64::from(header)))
        } else {
            None
        };
        let items = read(Lines::new(open()?, inputs, keys)?);
        Ok(Self { items, total, countable: regular })
    }

    pub(in crate::run::update) async fn reader(
        reader: Box<dyn Read + Send>,
        inputs: &[String],
        keys: usize,
    ) -> Result<Self, Error> {
        // The first line may be long in coming.
        let (inputs, opened) = (inputs.to_vec(), tokio::sync::oneshot::channel());
        std::thread::spawn(move || opened.0.send(Lines::new(reader, &inputs, keys)));
        let lines = opened.1.await.map_err(|error| Error::other("reading the keys broke off", error))??;
        Ok(Self { items: read(lines), total: None, countable: false })
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

/// Items per message of the reading thread, and messages that it may be ahead.
const BATCH: usize = 256;
const AHEAD: usize = 4;

/// Reads in a thread of its own, which ends with the stream; one that waits for a terminal does not
/// keep the process alive.
fn read(lines: Lines) -> Items<Item> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let mut lines = lines.fuse();
        loop {
            let batch: Vec<Result<Item, Error>> = lines.by_ref().take(BATCH).collect();
            if batch.is_empty() || sender.blocking_send(batch).is_err() {
                return;
            }
        }
    });
    let batches = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|batch| (batch, receiver))
    });
    Box::pin(batches.flat_map(stream::iter))
}
