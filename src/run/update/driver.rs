//! The driver of a worker: it carries out what the [machine](crate::decide::update) says, and tells it what has happened.
//!
//! Messages are futures that are first polled in the order of the actions, which is when they are sent. While some are
//! answered others may be sent.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::yield_now;
use tokio::time::{sleep_until, timeout_at};

use super::RunContext;
use super::chunk_work::ChunkWork;
use super::connection::{Connection, cancel};
use crate::decide::update::action::{Action, Ask, Fact};
use crate::decide::update::worker::Worker;
use crate::pg::update::Remnant;

/// What has happened; with the connection, if one was opened.
type Heard<W> = (Fact<W>, Option<Arc<Connection<<W as ChunkWork>::Prepared>>>);

/// Works until nothing is left, the run is stopped, or no session can be had any more.
pub(super) async fn drive<W: ChunkWork>(run: &RunContext<'_, W>) {
    let mut worker = Worker::new(run.work, run.settings);
    let mut connection: Option<Arc<Connection<W::Prepared>>> = None;
    // One, of that connection; it never ends.
    let mut lookouts = FuturesUnordered::new();
    let mut last: Option<Remnant> = None;
    let mut messages = FuturesUnordered::new();
    let (mut is_closing, mut is_halted) = (false, false);
    let mut fact = Fact::Tick;
    loop {
        let is_cut = connection.as_ref().is_some_and(|connection| connection.is_closed());
        worker.on(fact, run.moment(is_cut), &mut run.shared());
        while let Some(action) = worker.next_action() {
            match action {
                Action::Report(report) => run.report(report),
                Action::Disconnect => {
                    lookouts.clear();
                    last = connection.take().map(|connection| connection.remnant()).or(last);
                }
                Action::Abandon => connection.iter().for_each(|connection| connection.abandon()),
                Action::Done => {
                    if let Some(connection) = connection {
                        connection.close().await;
                    }
                    return;
                }
                // Who waits for something else keeps no session open.
                message @ (Action::Connect { .. } | Action::Feed { .. }) => {
                    messages.push(carry_out(run, None, last.clone(), message));
                }
                message => messages.push(carry_out(run, connection.clone(), None, message)),
            }
        }
        let wake = worker.wakes_at();
        fact = tokio::select! {
            biased;
            () = run.halted.cancelled(), if !is_halted => {
                (is_halted, is_closing) = (true, true);
                Fact::Halted
            }
            () = run.closing.cancelled(), if !is_closing => {
                is_closing = true;
                Fact::Closing
            }
            Some((fact, opened)) = messages.next() => {
                if let Some(opened) = opened {
                    lookouts.clear();
                    lookouts.push(look_after(run, Arc::clone(&opened)));
                    (connection, last) = (Some(opened), None);
                }
                fact
            }
            Some(()) = lookouts.next() => Fact::Tick,
            () = sleep_until(run.at(wake.unwrap_or_default())), if wake.is_some() => Fact::Tick,
        };
    }
}

async fn look_after<W: ChunkWork>(run: &RunContext<'_, W>, connection: Arc<Connection<W::Prepared>>) {
    connection.look_after(run).await;
}

/// Sends a message, and hears the answer.
async fn carry_out<W: ChunkWork>(
    run: &RunContext<'_, W>,
    connection: Option<Arc<Connection<W::Prepared>>>,
    last: Option<Remnant>,
    message: Action<W>,
) -> Heard<W> {
    let (message, connection) = match (message, connection) {
        (Action::Connect { deadline, doubt }, _) => {
            let opened = Box::pin(Connection::open(run, last, doubt));
            return match timeout_at(run.at(deadline), opened).await {
                Ok(Ok(connection)) => (Fact::Connected(connection.session()), Some(Arc::new(connection))),
                Ok(Err(failure)) => (Fact::NotConnected(Some(failure)), None),
                Err(_) => (Fact::NotConnected(None), None),
            };
        }
        (Action::Feed { size, wait }, _) => {
            // What is to be sent goes first.
            yield_now().await;
            return (Fact::Fed(run.feed(size, wait).await), None);
        }
        (message, Some(connection)) => (message, connection),
        (_, None) => return (Fact::Tick, None),
    };
    let _unanswered = connection.send();
    let fact = match message {
        Action::SendBegin => Fact::Began(connection.begin(run.work).await),
        Action::SendWork(mut chunk, opening) => {
            run.enter(&mut chunk);
            let worked = connection.work(run.work, &chunk.items, opening).await;
            Fact::Worked(chunk, worked)
        }
        Action::SendCommit { lasting } => Fact::Committed(connection.commit(lasting).await),
        Action::Flush => Fact::Flushed(connection.flush().await),
        Action::RollBack => Fact::RolledBack(connection.roll_back().await),
        Action::AskFate(xids) => Fact::Fates(connection.fates(&xids).await),
        Action::Claim(mut ask) => {
            if let Ask::Again(chunk) = &mut ask {
                run.enter(chunk);
            }
            let claimed = connection.claim(run.work, &ask).await;
            Fact::Claimed(if let Ask::Again(chunk) = ask { Some(chunk) } else { None }, claimed)
        }
        Action::Look(given_up) => Fact::Left(connection.left(run.work, &given_up).await),
        Action::BreakOff => {
            cancel(run.endpoint, &connection.cancel_token()).await;
            connection.abandon();
            Fact::BrokenOff
        }
        Action::Cancel => {
            let token = connection.cancel_token();
            drop(connection);
            cancel(run.endpoint, &token).await;
            Fact::Tick
        }
        _ => Fact::Tick,
    };
    (fact, None)
}
