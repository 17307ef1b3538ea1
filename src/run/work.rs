//! What an attempt runs: one statement, a script, rows that stream, or the caller's closure.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, RowStream, SimpleQueryMessage};
use tracing::Span;

use crate::error::Source;
use crate::pg::Failure;
use crate::pg::plan::{self, Strings};
use crate::telemetry::{sql_comment, trace_context};

/// Parameters as tokio-postgres takes them.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Something to run on a session, once an attempt.
pub(crate) trait Work {
    type Value;

    /// Whether the value is handed over at the verdict, unfinished.
    const HANDS_OVER: bool = false;

    /// Whether it waits for nothing but the server, as a caller's closure may.
    const WAITS_FOR_SERVER: bool = true;

    /// Learns from the session what it must know before it runs.
    async fn prepare(&mut self, _client: &Client) -> Result<(), Failure> {
        Ok(())
    }

    /// Statements that it runs one after the other.
    fn steps(&self) -> usize {
        1
    }

    /// Runs these of its statements.
    async fn run(&self, client: &Client, steps: Range<usize>) -> Result<Self::Value, Failure>;

    /// The text of one of them, where it has one.
    fn step(&self, _step: usize) -> Option<&str> {
        None
    }

    /// The statement to inspect, where there is one.
    fn statement(&self) -> Option<(&str, Params<'_>)> {
        None
    }

    /// Whether the server is known to have begun.
    fn has_started(&self) -> bool {
        false
    }

    /// The verdict allows it: return as soon as there is something to hand over.
    fn allow_hand_over(&self) {}

    /// A cancel is on its way: read on to its error, and keep nothing.
    fn discard(&self) {}
}

/// No work: a session that only has to be committed or cleared away.
pub(crate) struct Nothing;

impl Work for Nothing {
    type Value = ();

    async fn run(&self, _client: &Client, _steps: Range<usize>) -> Result<(), Failure> {
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

    async fn run(&self, client: &Client, _steps: Range<usize>) -> Result<u64, Failure> {
        Ok(client.execute(&*commented(self.sql, self.trace_comment), self.params).await?)
    }

    fn statement(&self) -> Option<(&str, Params<'_>)> {
        Some((self.sql, self.params))
    }
}

/// One or several statements without parameters, by the simple protocol. The value is the number of
/// rows of the last statement.
pub(crate) struct Script<'a> {
    sql: &'a str,
    statements: Vec<&'a str>,
    trace_comment: bool,
    /// Each in a message of its own: together they would be one transaction, which VACUUM refuses.
    apart: bool,
}

impl<'a> Script<'a> {
    pub(crate) fn new(sql: &'a str, trace_comment: bool, apart: bool) -> Self {
        Self { sql, statements: plan::split_as(sql, Strings::Standard), trace_comment, apart }
    }
}

impl Work for Script<'_> {
    type Value = u64;

    async fn prepare(&mut self, client: &Client) -> Result<(), Failure> {
        self.statements = plan::split_as(self.sql, plan::strings_of(client, self.sql).await?);
        Ok(())
    }

    fn steps(&self) -> usize {
        self.statements.len()
    }

    async fn run(&self, client: &Client, steps: Range<usize>) -> Result<u64, Failure> {
        let first = steps.start;
        let statements = self.statements.get(steps).unwrap_or_default();
        if !self.apart {
            let (rows, ended) = complete(client, &statements.join(BETWEEN), self.trace_comment).await;
            let at = |failure| self.located(failure, first, rows.len());
            return ended.map(|()| rows.last().copied().unwrap_or(0)).map_err(at);
        }
        let mut last = 0;
        for (index, statement) in (first..).zip(statements) {
            let (rows, ended) = complete(client, statement, self.trace_comment).await;
            ended.map_err(|failure| self.located(failure, index, 0))?;
            last = rows.last().copied().unwrap_or(last);
        }
        Ok(last)
    }

    fn step(&self, step: usize) -> Option<&str> {
        self.statements.get(step).copied()
    }

    fn statement(&self) -> Option<(&str, Params<'_>)> {
        Some((self.sql, &[]))
    }
}

impl Script<'_> {
    /// The failure with the statement and the line that it comes from. What was sent began with statement `first`, and
    /// `done` statements of it had completed.
    fn located(&self, failure: Failure, first: usize, done: usize) -> Failure {
        let Some(position) = failure.position() else {
            return plan::located(failure, self.sql, &self.statements, first + done, None);
        };
        // Characters of the text that was sent, from 1.
        let mut left = position.saturating_sub(1) as usize;
        for (at, statement) in self.statements.iter().enumerate().skip(first) {
            let length = statement.chars().count();
            if left <= length {
                return plan::located(failure, self.sql, &self.statements, at, Some(left));
            }
            left = left.saturating_sub(length + BETWEEN.len());
        }
        failure
    }
}

/// Runs a text by the simple protocol: the rows of each statement that completed, and how it ended.
async fn complete(client: &Client, text: &str, trace_comment: bool) -> (Vec<u64>, Result<(), Failure>) {
    let mut rows = Vec::new();
    let ended = async {
        let stream = client.simple_query_raw(&commented(text, trace_comment)).await?;
        let mut stream = std::pin::pin!(stream);
        while let Some(message) = stream.next().await {
            if let SimpleQueryMessage::CommandComplete(count) = message? {
                rows.push(count);
            }
        }
        Ok(())
    };
    let ended = ended.await;
    (rows, ended)
}

/// What stands between the statements of a script that are sent together.
const BETWEEN: &str = "\n;\n";

/// Rows held until the verdict. More than these wait in the socket: the server stops sending, and
/// its workers stay where the monitor can see them.
const HELD: usize = 256;

/// A statement whose rows are handed over at the verdict.
pub(crate) struct Query<'a> {
    sql: &'a str,
    params: Params<'a>,
    trace_comment: bool,
    mode: watch::Sender<Mode>,
    started: AtomicBool,
}

/// What to do with rows that arrive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// No verdict yet: hold them back.
    SessionGuard,
    /// Hand them over.
    Accept,
    /// A cancel is on its way: read on to its error, and keep nothing.
    Discard,
}

/// Rows on their way.
#[derive(Default)]
pub(crate) struct Flow {
    pub(crate) held: VecDeque<Row>,
    /// `None` after the last row.
    pub(crate) stream: Option<Pin<Box<RowStream>>>,
}

impl<'a> Query<'a> {
    pub(crate) fn new(sql: &'a str, params: Params<'a>, trace_comment: bool) -> Self {
        Self {
            sql,
            params,
            trace_comment,
            mode: watch::Sender::new(Mode::SessionGuard),
            started: AtomicBool::new(false),
        }
    }
}

impl Work for Query<'_> {
    type Value = Flow;

    const HANDS_OVER: bool = true;

    async fn run(&self, client: &Client, _steps: Range<usize>) -> Result<Flow, Failure> {
        self.started.store(false, Ordering::Relaxed);
        self.mode.send_replace(Mode::SessionGuard);
        let mut mode = self.mode.subscribe();
        let sql = commented(self.sql, self.trace_comment);
        let mut stream = Box::pin(client.query_raw(&*sql, self.params.iter().copied()).await?);
        let mut held = VecDeque::new();
        loop {
            let now = *mode.borrow_and_update();
            match now {
                Mode::Accept if !held.is_empty() => return Ok(Flow { held, stream: Some(stream) }),
                Mode::SessionGuard if held.len() >= HELD => {
                    // The sender lives as long as this work does.
                    let _ = mode.changed().await;
                    continue;
                }
                Mode::SessionGuard | Mode::Accept | Mode::Discard => {}
            }
            let row = tokio::select! {
                row = stream.next() => row,
                Ok(()) = mode.changed() => continue,
            };
            self.started.store(true, Ordering::Relaxed);
            match row {
                Some(Ok(row)) if now != Mode::Discard => held.push_back(row),
                Some(Ok(_)) => held.clear(),
                Some(Err(error)) => return Err(error.into()),
                None if now == Mode::Discard => return Err(Failure::client("the rows were discarded")),
                None => return Ok(Flow { held, stream: None }),
            }
        }
    }

    fn statement(&self) -> Option<(&str, Params<'_>)> {
        Some((self.sql, self.params))
    }

    fn has_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    fn allow_hand_over(&self) {
        self.mode.send_replace(Mode::Accept);
    }

    fn discard(&self) {
        self.mode.send_replace(Mode::Discard);
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

    const WAITS_FOR_SERVER: bool = false;

    async fn run(&self, client: &Client, _steps: Range<usize>) -> Result<T, Failure> {
        (self.work)(client).await.map_err(|error| Failure::from(error.into()))
    }
}

/// The statement with the trace context as a comment, when that is asked for: that of our own span where
/// spans are exported, else the scheduler's.
fn commented(sql: &str, with_trace: bool) -> std::borrow::Cow<'_, str> {
    let context = || sql_comment(&Span::current()).or_else(|| Some(trace_context()?.sql_comment()));
    match with_trace.then(context).flatten() {
        Some(comment) => {
            format!("{}\n{comment}", sql.trim_end_matches(|c: char| c == ';' || c.is_whitespace())).into()
        }
        None => sql.into(),
    }
}
