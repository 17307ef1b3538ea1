//! A session ready for work, and what is sent on it.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::{join, join3, try_join3};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{CancelToken, Client};

use super::RunContext;
use super::chunk_work::ChunkWork;
use crate::decide::update::Class;
use crate::decide::update::action::{Answer, Ask, Flush, Opening, Session};
use crate::decide::update::replay::Replay;
use crate::decide::update::resolver::Status;
use crate::pg::activity::Doing;
use crate::pg::connect::Endpoint;
use crate::pg::heard::{HEAR, HEARD_COMMIT, Heard, Meaning};
use crate::pg::life::{LifeId, Ready};
use crate::pg::session::{Identity, tidy};
use crate::pg::silence::{self, LOOK_AFTER, LOST_ANSWER, UNANSWERED};
use crate::pg::update::{Key, Remnant, Which, has_deferred_triggers};
use crate::pg::{Failure, backend_key, xact};

/// `sql_routine_exception`.
const BAD_ROUTINE: &str = "2F000";
/// How long a request to cancel may take until it is on its way.
const CANCEL: Duration = Duration::from_millis(250);

pub(super) struct Connection<P> {
    client: Client,
    driver: JoinHandle<()>,
    prepared: P,
    session: Session,
    /// How a commit waits that is to last: `synchronous_commit`.
    waiting: String,
    /// What commits a chunk: one message, of which the server runs nothing behind what fails.
    commit: String,
    heard: Heard,
    /// What texts mean on it. A trigger may change that.
    meaning: Meaning,
    identity: Identity,
    lent: bool,
    /// Whether a trigger may run in COMMIT itself, and have it not wait.
    is_weak: bool,
    messages: Arc<Messages>,
}

/// How many are not answered yet, and how many were.
#[derive(Default)]
struct Messages {
    unanswered: AtomicU32,
    answered: AtomicU32,
}

/// A message that is not answered yet.
pub(super) struct Unanswered(Arc<Messages>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Relaxed);
        self.0.unanswered.fetch_sub(1, Relaxed);
    }
}

impl<P> Drop for Connection<P> {
    fn drop(&mut self) {
        // Dropping the client sends Terminate; a driver stuck on a dead line must not outlive us.
        if self.client.is_closed() {
            self.driver.abort();
        }
    }
}

/// Has the server cancel what a session does.
pub(super) async fn cancel(endpoint: &Endpoint, token: &CancelToken) {
    if !matches!(timeout(CANCEL, endpoint.cancel_by(token)).await, Ok(Ok(()))) {
        tracing::debug!("the request to cancel was not delivered");
    }
}

/// A COMMIT that waits as the session does, whatever a trigger, or a function elsewhere, has set `synchronous_commit` to;
/// longer, if that asks for it.
fn firm_commit(waiting: &str) -> String {
    let set = "pg_catalog.current_setting('synchronous_commit')";
    let levels = ["off", "local", "remote_write", "on", "remote_apply"];
    let longer = levels.into_iter().skip_while(|level| *level != waiting).skip(1);
    let longer = longer.map(|level| format!("'{level}'")).collect::<Vec<_>>().join(", ");
    let level = if longer.is_empty() {
        format!("'{waiting}'")
    } else {
        format!("CASE WHEN {set} IN ({longer}) THEN {set} ELSE '{waiting}' END")
    };
    format!("{HEAR}; SELECT pg_catalog.set_config('synchronous_commit', {level}, true); COMMIT")
}

impl<P> Connection<P> {
    /// Opens one, and ends the last, where the server still has it.
    pub(super) async fn open<W: ChunkWork<Prepared = P>>(
        run: &RunContext<'_, W>,
        last: Option<Remnant>,
        doubt: Option<u64>,
    ) -> Result<Self, Failure> {
        let heard = Heard::default();
        let (client, driver) = run.endpoint.open_heard(&format!("headcount:{}", run.task), &heard).await?;
        let key = backend_key::process_id(&client).await;
        // Asked in this order, and together: the way may be long.
        let asked = try_join3(
            LifeId::ready(&client, key, run.work.writes()),
            run.work.replay(&client),
            run.work.prepare(&client),
        );
        let (ready, replay, prepared) = run.endpoint.unless_silent(key, asked).await?;
        let Ready { life, waiting, has_standby, may_mark, identity, lent } = ready;
        let is_safe = replay == Replay::Safe;
        let is_lazy = may_mark && run.work.may_be_lazy() && is_safe;
        let be_lazy = async {
            if is_lazy {
                client.batch_execute("SET synchronous_commit TO off").await?;
            }
            Ok(())
        };
        let is_weak = async { Ok(!is_safe && may_mark && has_deferred_triggers(&client).await?) };
        let end_last = async {
            match last {
                Some(last) => last.end(&client, doubt).await,
                None => Ok(()),
            }
        };
        let asked = try_join3(be_lazy, is_weak, end_last);
        let ((), is_weak, ()) = run.endpoint.unless_silent(key, asked).await?;
        let may_go_ahead = run.work.goes_ahead(&prepared) && is_safe;
        let commit = match (is_lazy, may_go_ahead) {
            (true, _) => "COMMIT".to_owned(),
            (false, true) => HEARD_COMMIT.to_owned(),
            (false, false) => firm_commit(&waiting),
        };
        let session = Session { life: Arc::new(life), replay, may_mark, has_standby, is_lazy, may_go_ahead };
        Ok(Self {
            client,
            driver,
            prepared,
            session,
            waiting,
            commit,
            meaning: heard.meaning(),
            heard,
            identity,
            lent,
            is_weak,
            messages: Arc::default(),
        })
    }

    pub(super) fn session(&self) -> Session {
        self.session.clone()
    }

    /// Who it is, for the next one to end.
    pub(super) fn remnant(&self) -> Remnant {
        Remnant { identity: self.identity, lent: self.lent }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Gives it up: all that was asked of it is answered as by one that has broken.
    pub(super) fn abandon(&self) {
        self.driver.abort();
    }

    /// A message is sent; it is answered when what is returned is dropped.
    pub(super) fn send(&self) -> Unanswered {
        self.messages.unanswered.fetch_add(1, Relaxed);
        Unanswered(Arc::clone(&self.messages))
    }

    /// Gives it up when the server has done what it was asked, and nothing arrives: what lies between may keep a line open
    /// that carries nothing any more. Says so when the server waits for a lock. Of a proxy's backend nobody knows whose
    /// work it does. Never ends.
    pub(super) async fn look_after<W: ChunkWork>(&self, run: &RunContext<'_, W>) {
        if self.lent {
            pending::<()>().await;
        }
        let (mut answers, mut waited) = (0, Duration::ZERO);
        let (mut silent, mut is_told) = (Duration::ZERO, false);
        loop {
            sleep(LOOK_AFTER).await;
            let Messages { unanswered, answered } = &*self.messages;
            let before = std::mem::replace(&mut answers, answered.load(Relaxed));
            if unanswered.load(Relaxed) == 0 || before != answers {
                (waited, silent, is_told) = (Duration::ZERO, Duration::ZERO, false);
                continue;
            }
            waited += LOOK_AFTER;
            match timeout(LOOK_AFTER, silence::look(run.endpoint, self.identity)).await {
                Ok(Ok(Doing::Nothing)) => silent += LOOK_AFTER,
                Ok(Ok(Doing::WaitingFor(by))) => {
                    silent = Duration::ZERO;
                    if !std::mem::replace(&mut is_told, true) {
                        run.blocked(self.identity.pid, by, waited);
                    }
                }
                _ => silent = Duration::ZERO,
            }
            if silent >= UNANSWERED {
                tracing::debug!(LOST_ANSWER);
                self.abandon();
            }
        }
    }

    /// Ends it. A proxy's backend is left as it was had.
    pub(super) async fn close(&self) {
        if self.lent && !self.is_closed() {
            tidy(&self.client).await;
        }
    }

    /// Whom to ask for a cancel.
    pub(super) fn cancel_token(&self) -> CancelToken {
        self.client.cancel_token()
    }

    pub(super) async fn begin<W: ChunkWork<Prepared = P>>(&self, work: &W) -> Result<u64, Failure> {
        work.begin(&self.client, &self.prepared).await
    }

    pub(super) async fn work<W: ChunkWork<Prepared = P>>(
        &self,
        work: &W,
        items: &[W::Item],
        opening: Opening,
    ) -> Result<Answer, Failure> {
        let worked = work.work(&self.client, &self.prepared, items, opening).await;
        if worked.as_ref().is_err_and(Failure::is_unprepared) {
            self.abandon();
            return Err(Failure::lost(
                "somebody has taken its prepared statements (DEALLOCATE ALL, DISCARD)",
            ));
        }
        // Keys that were looked at again may have been read as something else.
        let changed = self.meaning.differs_in(&self.heard.meaning());
        match (worked, changed) {
            (Ok(Answer::Told(_, classes)), Some(name))
                if classes.iter().any(|class| *class != Class::Updated) =>
            {
                Err(Failure::found(BAD_ROUTINE, format!("a trigger has changed {name} of the session")))
            }
            (worked, _) => worked,
        }
    }

    /// Whether it is known to last: nobody cancelled a wait for the disk or for a synchronous standby.
    pub(super) async fn commit(&self, lasting: bool) -> Result<bool, Failure> {
        let committed = self.commit_as_it_is(lasting).await;
        // At once: the next chunk may be under way on it, and must not be committed.
        if let Some(name) = self.meaning.differs_in(&self.heard.meaning()) {
            tracing::debug!(
                setting = name,
                "a trigger has changed a setting of the session, which is replaced"
            );
            self.abandon();
        }
        committed
    }

    async fn commit_as_it_is(&self, lasting: bool) -> Result<bool, Failure> {
        let commit = self.client.batch_execute(&self.commit);
        if !self.is_weak || !lasting {
            commit.await?;
            return Ok(!lasting || !self.heard.take_unreplicated());
        }
        // A transaction without a trigger waits for all that was committed before. Polled in order, and before the next
        // chunk is sent.
        let (committed, flushed) = join(commit, self.flush()).await;
        committed?;
        match flushed {
            Ok(Flush { life_id, waited }) if self.session.life.is_in(&life_id) => Ok(waited),
            Ok(_) => Err(Failure::lost("another server answers, or this one has crashed")),
            Err(failure) if failure.is_connection_lost() => Err(failure),
            Err(_) => Ok(false),
        }
    }

    pub(super) async fn roll_back(&self) -> Result<(), Failure> {
        Ok(self.client.batch_execute("ROLLBACK").await?)
    }

    /// Waits until all that was committed lasts: a transaction of its own, which waits for the disk. It writes a mark, since
    /// PostgreSQL does not flush for a commit without a record in the log, which the commit of a chunk may well be: of an
    /// unlogged table, or of rows that all hold the new value. Readers of the log that do not ask for messages never see
    /// it (manual, "Replication Management Functions"). In that transaction the server also says in which life it is: a
    /// crash that a proxy kept from us would otherwise let us believe in a log that no longer has our chunks.
    pub(super) async fn flush(&self) -> Result<Flush, Failure> {
        let Self { client, waiting, .. } = self;
        let mark = format!(
            "BEGIN; {HEAR}; SET LOCAL synchronous_commit TO {waiting}; \
             SELECT pg_catalog.pg_logical_emit_message(true, 'headcount', '')"
        );
        // Polled in order: they are sent in this order. COMMIT does not say that something before it has failed.
        let (marked, life_id, committed) =
            join3(client.batch_execute(&mark), LifeId::now(client), client.batch_execute("COMMIT")).await;
        marked?;
        let life_id = life_id?;
        committed?;
        Ok(Flush { life_id, waited: !self.heard.take_unreplicated() })
    }

    pub(super) async fn fates(&self, xids: &[u64]) -> Result<Vec<Status>, Failure> {
        xact::statuses(&self.client, xids).await
    }

    /// Rows that are had.
    pub(super) async fn claim<W: ChunkWork<Prepared = P>>(
        &self,
        work: &W,
        ask: &Ask<W>,
    ) -> Result<Vec<W::Item>, Failure> {
        let Self { client, prepared, .. } = self;
        match ask {
            Ask::Free(size, others) => work.claim(client, prepared, Which::Free(*size, others)).await,
            Ask::Unlocked(others) => work.claim(client, prepared, Which::Unlocked(others)).await,
            Ask::WaitedFor(others) => work.claim(client, prepared, Which::WaitedFor(others)).await,
            Ask::Again(chunk) => {
                let keys = work.keys(&chunk.items);
                work.claim(client, prepared, Which::Again(&keys)).await
            }
        }
    }

    /// A key that is left, whoever has it; none of those given up.
    pub(super) async fn left<W: ChunkWork<Prepared = P>>(
        &self,
        work: &W,
        given_up: &[Key],
    ) -> Result<Option<Key>, Failure> {
        let left = work.claim(&self.client, &self.prepared, Which::Left(given_up)).await?;
        Ok(work.keys(&left).into_iter().next())
    }
}
