//! An opened source: a stream of items.
//!
//! Whatever may block, for as long as somebody else likes, is done on a thread of its own: a named pipe that nobody
//! writes to cannot even be opened. Who waits for such a thread can stop waiting; it ends with what it waits for, or
//! with the process.
//!
//! A file is read twice. The first pass finds what is wrong with it before anything is changed, and how many keys it
//! has. What comes through a pipe can be read once; of that, as much is looked at first as is there at once.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::super::item_source::Items;
use super::lines::Lines;
use super::{Item, Wanted};
use crate::error::Error;

/// An opened source.
pub(in crate::run::update) struct Opened {
    pub(in crate::run::update) items: Items<Item>,
    /// How many, where that is known.
    pub(in crate::run::update) total: Option<u64>,
    /// Whether reading on to the end is quick, so that what is left can be counted.
    pub(in crate::run::update) countable: bool,
}

/// Items, and for how long, that are looked at before anything is changed where there is no second pass.
const FIRST: usize = 10_000;
const FIRST_BYTES: usize = 4 << 20;
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// Does on a thread of its own what may block.
pub(in crate::run::update) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let broke_off = "what waits on a thread of its own broke off";
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().spawn(move || sender.send(work()));
    thread.map_err(|error| Error::other("cannot start a thread", error))?;
    receiver.await.map_err(|error| Error::other(broke_off, error))?
}

impl Opened {
    pub(in crate::run::update) async fn file(path: &Path, wanted: &Wanted) -> Result<Self, Error> {
        let name = path.display().to_string();
        let opened = {
            let (path, name) = (path.to_owned(), name.clone());
            aside(move || {
                let cannot =
                    |error: io::Error| Error::configuration("keys", format!("cannot read {name}: {error}"));
                let file = File::open(&path).map_err(cannot)?;
                let metadata = file.metadata().map_err(cannot)?;
                if metadata.is_dir() {
                    return Err(cannot(io::ErrorKind::IsADirectory.into()));
                }
                Ok((file, metadata.is_file()))
            })
        };
        let (file, is_file) = opened.await?;
        // A pipe gives each byte once, to whoever reads first.
        if is_file { Self::twice(file, name, wanted).await } else { Self::once(file, name, wanted).await }
    }

    /// Standard input is a file where one was redirected to it.
    pub(in crate::run::update) async fn stdin(wanted: &Wanted) -> Result<Self, Error> {
        let name = "standard input".to_owned();
        let file = io::stdin().as_fd().try_clone_to_owned().map(File::from);
        match file {
            Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => {
                Self::twice(file, name, wanted).await
            }
            _ => Self::once(io::stdin(), name, wanted).await,
        }
    }

    pub(in crate::run::update) async fn reader(
        reader: Box<dyn Read + Send>,
        wanted: &Wanted,
    ) -> Result<Self, Error> {
        Self::once(reader, String::new(), wanted).await
    }

    /// What is there from the file's place to its end.
    async fn twice(mut file: File, name: String, wanted: &Wanted) -> Result<Self, Error> {
        // Whoever no longer waits for the first pass need not have it finished.
        let stop = CancellationToken::new();
        let _guard = stop.clone().drop_guard();
        let wanted = wanted.clone();
        let opening = aside(move || {
            let cannot =
                |error: io::Error| Error::configuration("keys", format!("cannot read {name}: {error}"));
            let start = file.stream_position().map_err(cannot)?;
            let first = Whole::of(&file, start).map_err(cannot)?;
            let total = Lines::new(Stoppable { inner: first, stop }, &name, &wanted)?.count()?;
            let whole = Whole::of(&file, start).map_err(cannot)?;
            file.seek(SeekFrom::Start(start)).map_err(cannot)?;
            let (outbox, items) = post();
            let lines = Lines::new(Announced { inner: whole, outbox: outbox.clone() }, &name, &wanted)?;
            Ok((lines, outbox, items, total))
        });
        let (lines, outbox, items, total) = opening.await?;
        std::thread::spawn(move || outbox.post_all(lines));
        Ok(Self { items, total: Some(total), countable: true })
    }

    async fn once(reader: impl Read + Send + 'static, name: String, wanted: &Wanted) -> Result<Self, Error> {
        let (outbox, items) = post();
        let reader = Announced { inner: reader, outbox: outbox.clone() };
        let wanted = wanted.clone();
        // The first line may be long in coming.
        let lines = aside(move || Lines::new(reader, &name, &wanted)).await?;
        std::thread::spawn(move || outbox.post_all(lines));
        Self { items, total: None, countable: false }.looked_at().await
    }

    pub(in crate::run::update) async fn rows(
        rows: Items<Box<[Option<Box<str>>]>>,
        inputs: usize,
    ) -> Result<Self, Error> {
        let mut line = 0;
        let items = rows.map(move |fields| {
            line += 1;
            let fields = fields?;
            if fields.len() == inputs {
                return Ok(Item::new(line, fields));
            }
            let problem = format!("row {line} has {} fields in place of {inputs}", fields.len());
            Err(Error::configuration("keys", problem))
        });
        Self { items: Box::pin(items), total: None, countable: false }.looked_at().await
    }

    /// The same once its first items are there, and none of them is wrong.
    async fn looked_at(mut self) -> Result<Self, Error> {
        let (mut first, mut bytes) = (Vec::new(), 0);
        let mut until: Option<Instant> = None;
        while first.len() < FIRST && bytes < FIRST_BYTES {
            let next = match until {
                None => self.items.next().await,
                Some(until) => match timeout_at(until, self.items.next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
            };
            let Some(item) = next.transpose()? else {
                let (total, items) = (Some(first.len() as u64), stream::iter(first).map(Ok));
                return Ok(Self { items: Box::pin(items), total, countable: true });
            };
            until.get_or_insert_with(|| Instant::now() + FIRST_WAIT);
            bytes += item.weight();
            first.push(item);
        }
        let items = stream::iter(first).map(Ok).chain(self.items);
        Ok(Self { items: Box::pin(items), total: None, countable: false })
    }
}

/// Items per message of the reading thread at most, and messages that it may be ahead.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
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
        let mut bytes = 0;
        for item in lines {
            bytes += item.as_ref().map_or(0, Item::weight);
            let length = {
                let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
                batch.push(item);
                batch.len()
            };
            if length >= BATCH || bytes >= BATCH_BYTES {
                bytes = 0;
                if !self.post() {
                    return;
                }
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
struct Whole {
    inner: File,
    left: u64,
}

impl Whole {
    /// The file from `start` on; the place is shared with the other handles.
    fn of(file: &File, start: u64) -> io::Result<Self> {
        Ok(Self { left: file.metadata()?.len().saturating_sub(start), inner: file.try_clone()? })
    }
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if length == 0 && self.left > 0 && !buffer.is_empty() {
            let problem = format!("{} bytes of the file are gone since it was opened", self.left);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
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
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.outbox.post();
        self.inner.read(buffer)
    }
}

/// A reader that fails once nobody waits for what is read.
struct Stoppable<R> {
    inner: R,
    stop: CancellationToken,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        self.inner.read(buffer)
    }
}
