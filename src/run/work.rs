//! What an attempt runs: one statement, a script, rows that stream, or the caller's closure.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, Notify, watch};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, RowStream, SimpleQueryMessage};
use tracing::Span;

use crate::error::Source;
use crate::pg::Failure;
use crate::telemetry::sql_comment;

/// Parameters as tokio-postgres takes them.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Something to run on a session, once an attempt.
pub(crate) trait Work {
    type Value;

    /// Whether the value is handed over at the verdict, unfinished.
    const HANDS_OVER: bool = false;

    async fn run(&self, client: &Client) -> Result<Self::Value, Failure>;

    /// The statement to inspect, where there is one.
    fn statement(&self) -> Option<(&str, Params<'_>)> {
        None
    }

    /// Whether the server is known to have begun.
    fn has_started(&self) -> bool {
        false
    }

    /// Waits until the server is known to have begun. Cancel-safe.
    async fn started(&self) {
        std::future::pending::<()>().await;
    }

    /// What was gathered so far, for a value that is handed over.
    fn hand_over(&mut self) -> Option<Self::Value> {
        None
    }

    /// A cancel is on its way: read on to its error, and keep nothing.
    fn discard(&self) {}
}

/// No work: a session that only has to be committed or cleared away.
pub(crate) struct Nothing;

impl Work for Nothing {
    type Value = ();

    async fn run(&self, _client: &Client) -> Result<(), Failure> {
        Ok(())
    }
}

/// One statement whose rows are counted. The extended protocol without a row limit: with one, the
/// server starts no workers.
pub(crate) struct Statement<'a> {
    pub(crate) sql: &'a str,
    pub(crate) params: Params<'a>,
    pub(crate) trace_comment: bool,
}

impl Work for Statement<'_> {
    type Value = u64;

    async fn run(&self, client: &Client) -> Result<u64, Failure> {
        Ok(client.execute(&*commented(self.sql, self.trace_comment), self.params).await?)
    }

    fn statement(&self) -> Option<(&str, Params<'_>)> {
        Some((self.sql, self.params))
    }
}

/// One or several statements without parameters, by the simple protocol. The value is the number of
/// rows of the last statement.
pub(crate) struct Script<'a> {
    pub(crate) sql: &'a str,
    pub(crate) trace_comment: bool,
}

impl Work for Script<'_> {
    type Value = u64;

    async fn run(&self, client: &Client) -> Result<u64, Failure> {
        let stream = client.simple_query_raw(&commented(self.sql, self.trace_comment)).await?;
        let mut stream = std::pin::pin!(stream);
        let mut rows = 0;
        while let Some(message) = stream.next().await {
            if let SimpleQueryMessage::CommandComplete(count) = message? {
                rows = count;
            }
        }
        Ok(rows)
    }

    fn statement(&self) -> Option<(&str, Params<'_>)> {
        Some((self.sql, &[]))
    }
}

/// Rows held until the verdict. More than these wait in the socket: the server stops sending, and
/// its workers stay where the monitor can see them.
const HELD: usize = 256;

/// A statement whose rows are handed over at the verdict.
pub(crate) struct Query<'a> {
    sql: &'a str,
    params: Params<'a>,
    trace_comment: bool,
    flow: Mutex<Flow>,
    started: watch::Sender<bool>,
    discarding: AtomicBool,
    discard: Notify,
}

/// Rows on their way.
#[derive(Default)]
pub(crate) struct Flow {
    pub(crate) held: VecDeque<Row>,
    pub(crate) stream: Option<Pin<Box<RowStream>>>,
}

impl<'a> Query<'a> {
    pub(crate) fn new(sql: &'a str, params: Params<'a>, trace_comment: bool) -> Self {
        Self {
            sql,
            params,
            trace_comment,
            flow: Mutex::default(),
            started: watch::Sender::new(false),
            discarding: AtomicBool::new(false),
            discard: Notify::new(),
        }
    }
}

impl Work for Query<'_> {
    type Value = Flow;

    const HANDS_OVER: bool = true;

    async fn run(&self, client: &Client) -> Result<Flow, Failure> {
        self.started.send_replace(false);
        self.discarding.store(false, Ordering::Relaxed);
        let mut flow = self.flow.lock().await;
        let sql = commented(self.sql, self.trace_comment);
        *flow = Flow::default();
        flow.stream = Some(Box::pin(client.query_raw(&*sql, self.params.iter().copied()).await?));
        self.started.send_replace(true);
        loop {
            if flow.held.len() >= HELD {
                self.discard.notified().await;
            }
            let row = match flow.stream.as_mut() {
                Some(stream) => stream.next().await,
                None => None,
            };
            match row {
                None if self.discarding.load(Ordering::Relaxed) => {
                    return Err(Failure::lost("the rows were discarded"));
                }
                None => {
                    flow.stream = None;
                    return Ok(std::mem::take(&mut *flow));
                }
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(_)) if self.discarding.load(Ordering::Relaxed) => flow.held.clear(),
                Some(Ok(row)) => flow.held.push_back(row),
            }
        }
    }

    fn statement(&self) -> Option<(&str, Params<'_>)> {
        Some((self.sql, self.params))
    }

    fn has_started(&self) -> bool {
        *self.started.borrow()
    }

    async fn started(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.started.subscribe().wait_for(|started| *started).await;
    }

    fn hand_over(&mut self) -> Option<Flow> {
        let flow = std::mem::take(self.flow.get_mut());
        flow.stream.is_some().then_some(flow)
    }

    fn discard(&self) {
        self.discarding.store(true, Ordering::Relaxed);
        self.discard.notify_one();
    }
}

/// The caller's closure on the session.
pub(crate) struct Closure<F, T, E> {
    work: F,
    result: PhantomData<fn() -> (T, E)>,
}

impl<F, T, E> Closure<F, T, E> {
    pub(crate) const fn new(work: F) -> Self {
        Self { work, result: PhantomData }
    }
}

impl<F, T, E> Work for Closure<F, T, E>
where
    F: for<'a> Fn(&'a Client) -> BoxFuture<'a, Result<T, E>>,
    E: Into<Source>,
{
    type Value = T;

    async fn run(&self, client: &Client) -> Result<T, Failure> {
        (self.work)(client).await.map_err(|error| Failure::from(error.into()))
    }
}

/// The statement with the trace context as a comment, when that is asked for.
fn commented(sql: &str, with_trace: bool) -> std::borrow::Cow<'_, str> {
    match sql_comment(&Span::current()).filter(|_| with_trace) {
        Some(comment) => {
            format!("{}\n{comment}", sql.trim_end_matches(|c: char| c == ';' || c.is_whitespace())).into()
        }
        None => sql.into(),
    }
}
