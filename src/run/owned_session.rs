//! The real executor: attempts on a session of our own.

use std::ops::Range;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tracing::Span;

use super::climb::climb;
use super::committing::{Committing, ended_ours, left_open};
use super::executor::{Cleared, CommitError, Executor, PlanCapacity, Stand};
use super::fit::{check_rights, check_version};
use super::gatherer::{Gathered, Wish};
use super::lost_answer::answered;
use super::monitor::Watch;
use super::narrow::{too_narrow, too_narrow_within};
use super::recorder::ExecutionRecorder;
use super::session_guard::SessionGuard;
use super::slots::Lease;
use super::work::{Nothing, Params, Work};
use crate::decide::counters::LaunchCounters;
use crate::decide::script::StatementCapacity;
use crate::decide::update::material::Failed;
use crate::error::{Error, Refusal};
use crate::event::{CancelMethod, CancelResult, Event, Resolution};
use crate::fix::Fix;
use crate::pg::heard::HEARD_COMMIT;
use crate::pg::life::LifeId;
use crate::pg::plan::{self, Explanation, Manner};
use crate::pg::pooling::Pooling;
use crate::pg::session::Identity;
use crate::pg::xact::{self, TransactionState};
use crate::pg::{Failure, counters};
use crate::settings::{PlanShortfall, Settings};
use crate::telemetry::spans;

/// How long planning may take until somebody is asked what it waits for; then between two questions.
const LOOK_FOR_LOCKS: Duration = Duration::from_millis(250);
/// How long the server's counters may take.
const LOOK_LIMIT: Duration = Duration::from_secs(1);
/// How long to ask for the fate of a commit in doubt.
const IN_DOUBT_LIMIT: Duration = Duration::from_mins(1);

/// A session and what it runs.
pub(crate) struct OwnedSession<W> {
    pub(crate) guard: SessionGuard,
    work: W,
    /// When the transaction that is to be committed got its id.
    life_id: Option<LifeId>,
    /// Whether its COMMIT waits for a synchronous standby.
    replicates: bool,
}

impl<W> OwnedSession<W> {
    pub(crate) const fn new(guard: SessionGuard, work: W) -> Self {
        Self { guard, work, life_id: None, replicates: false }
    }

    /// The same session with nothing left to run.
    pub(crate) fn rest(self) -> OwnedSession<Nothing> {
        OwnedSession { guard: self.guard, work: Nothing, life_id: None, replicates: false }
    }
}

impl<W: Work> OwnedSession<W> {
    /// Why the statement's transaction could not begin: mostly one of the caller's settings, or what lies between.
    fn unready(&self, failure: Failure) -> Error {
        let settings = &self.guard.settings.settings;
        let refused = settings.iter().find(|(name, _)| failure.is_about_setting(name));
        match refused {
            Some((name, _)) => Error::setting(name, failure.to_string()),
            None if failure.refuses_to_begin() => pools_statements(&self.guard.inner.endpoint.describe()),
            None => Error::sql("beginning the transaction", failure),
        }
    }

    /// Outside a transaction a proxy may give the settings to one backend and the statement to another.
    async fn check_line(&self) -> Result<(), Error> {
        let endpoint = &self.guard.inner.endpoint;
        let client = self.guard.client().map_err(|failure| Error::connect(endpoint.describe(), failure))?;
        if !Pooling::of(client, endpoint).await.is_ok_and(Pooling::shares_backends) {
            return Ok(());
        }
        Err(Error::refused(
            Refusal::PooledConnection,
            format!(
                "a proxy at {} pools transactions, and outside of one nobody knows which backend runs the statement",
                endpoint.describe()
            ),
            vec![Fix::advice("connect to the server itself, or to a pool with pool_mode = session")],
        ))
    }

    /// What the plan and the pool allow, inside a transaction with the statement's settings.
    async fn capacity(&mut self, recorder: &mut ExecutionRecorder) -> Result<PlanCapacity, Error> {
        let sql = |failure| Error::sql("inspecting the statement", failure);
        let client = self.guard.client().map_err(sql)?;
        self.work.prepare(client).await.map_err(sql)?;
        let Settings { reserve, target_workers: target, .. } = *self.guard.settings;
        let Stand { pool_size, apart, raised, gathers } = climb(&mut self.guard, recorder).await?;
        let client = self.guard.client().map_err(sql)?;
        let pool_size = Some(pool_size);
        let own = reserve && plan::has_own_pool(client).await.map_err(sql)?;
        let own_pool = pool_size.filter(|_| own);
        let Some((statement, params)) = self.work.statement() else {
            return Ok(PlanCapacity {
                pool_size,
                own_pool,
                apart,
                raised,
                gathers_slots: gathers,
                ..PlanCapacity::default()
            });
        };
        let failed = |failure| Error::sql("the statement", failure);
        let strings = plan::strings_of(client, statement).await.map_err(failed)?;
        let manner = Manner::of(self.guard.settings.transaction);
        if let Some(flaw) = plan::flaw_as(statement, strings, manner, !params.is_empty()) {
            return Err(Error::configuration("sql", flaw));
        }
        let planning = Box::pin(plan::survey(client, statement, params, None));
        let survey = self.attended(|event| recorder.observe(event), planning).await;
        let survey = survey.map_err(failed)?;
        // Slots are taken for what the plan shows, so what it does not show has to be known of.
        let suspect = reserve && survey.reachable().is_some_and(|most| most < target);
        let complete = !suspect || shows_all(client, statement, params, target).await.map_err(failed)?;
        Ok(PlanCapacity {
            planned: survey.reachable(),
            asked: survey.asked().filter(|_| complete),
            gathers: survey.gathers(),
            statements: survey.statements(),
            pool_size,
            own_pool,
            apart,
            raised,
            gathers_slots: gathers,
        })
    }

    /// Says so when planning waits for a lock: EXPLAIN takes those of the statement, and somebody who alters
    /// the table may hold them for hours.
    async fn attended<T>(&self, mut say: impl FnMut(&Event), planning: impl Future<Output = T>) -> T {
        let mut planning = std::pin::pin!(planning);
        let began = Instant::now();
        let leader = self.guard.leader().map_or(0, |leader| leader.pid);
        let mut said = false;
        loop {
            tokio::select! {
                planned = &mut planning => return planned,
                () = sleep(LOOK_FOR_LOCKS), if !said => {
                    let blockers = self.guard.inner.monitor.blockers(leader).await.unwrap_or_default();
                    if let Some(&by) = blockers.first() {
                        let waited = began.elapsed();
                        say(&Event::PlanBlocked { pid: leader, by, waited });
                        said = true;
                    }
                }
            }
        }
    }

    /// How many workers a statement can have and why not more, in a transaction that is rolled back.
    pub(crate) async fn explain(&mut self, sql: &str, params: Params<'_>) -> Result<Explanation, Error> {
        let server = self.guard.inner.endpoint.describe();
        self.guard.session().await.map_err(|failure| Error::connect(server, failure))?;
        if let Err(failure) = self.guard.begin(None).await {
            return Err(self.unready(failure));
        }
        let failed = |failure| Error::sql("explaining the statement", failure);
        let client = self.guard.client().map_err(failed)?;
        let planning = Box::pin(plan::describe(client, sql, params, self.guard.settings.target_workers));
        let explanation = self.attended(|event| self.guard.observe(event), planning).await;
        self.guard.look_away(self.guard.settings.cancel_grace).await;
        explanation.map_err(failed)
    }

    /// Why the plan cannot have the target; `None` when nothing proves that it cannot.
    async fn diagnose(
        &mut self,
        target: u32,
        recorder: &mut ExecutionRecorder,
    ) -> Result<Option<Vec<plan::Reason>>, Failure> {
        self.guard.begin(None).await?;
        let client = self.guard.client()?;
        if !self.guard.settings.transaction {
            client.batch_execute("BEGIN").await?; // for savepoints
        }
        let Some((statement, params)) = self.work.statement() else { return Ok(None) };
        let planning = Box::pin(plan::survey(client, statement, params, Some(target)));
        let survey = self.attended(|event| recorder.observe(event), planning).await?;
        let refuses = self.guard.settings.plan_shortfall == PlanShortfall::Refuse;
        let one_is_short = refuses && survey.statements().iter().any(|known| known.is_short_of(target));
        if !one_is_short && survey.reachable().is_none_or(|most| most >= target) {
            return Ok(None);
        }
        let diagnosis = survey.diagnosis();
        Ok(diagnosis.is_proof().then_some(diagnosis.reasons))
    }

    /// Why no plan at all can have the target; `None` when the pool has grown meanwhile.
    async fn diagnose_pool(&mut self, target: u32) -> Result<Option<Vec<plan::Reason>>, Failure> {
        self.guard.begin(None).await?;
        let reason = plan::diagnose_pool(self.guard.client()?, target).await?;
        Ok(reason.map(|reason| vec![reason]))
    }
}

impl<W: Work> Executor for OwnedSession<W> {
    type Value = W::Value;
    type Slots = Lease;

    const HANDS_OVER: bool = W::HANDS_OVER;

    fn span(&self, attempt: u32) -> Span {
        let sql = self.work.statement().map(|(sql, _)| sql);
        spans::attempt(&self.guard.settings.task, attempt, &self.guard.inner.server, sql, false)
    }

    async fn connect(&mut self, recorder: &mut ExecutionRecorder) -> Result<(), Error> {
        self.guard.connect_monitor(|event| recorder.observe(event)).await
    }

    async fn inspect(&mut self, recorder: &mut ExecutionRecorder) -> Result<PlanCapacity, Error> {
        let server = self.guard.inner.endpoint.describe();
        let session = self.guard.session().await.map_err(|failure| Error::connect(server, failure))?;
        let (identity, version) = (session.identity, session.version);
        let lost = |failure| Error::sql("inspecting the statement", failure);
        check_version(version)?;
        if let Err(refused) = check_rights(&self.guard, identity).await {
            // The monitor sees nothing of a backend that has gone.
            let client = self.guard.client().map_err(lost)?;
            client.simple_query("").await.map_err(|error| lost(error.into()))?;
            return Err(refused);
        }
        if !self.guard.settings.transaction {
            self.check_line().await?;
        }
        if let Err(failure) = self.guard.begin(None).await {
            return Err(self.unready(failure));
        }
        let capacity = self.capacity(recorder).await;
        self.guard.look_away(self.guard.settings.cancel_grace).await;
        capacity
    }

    async fn check_capacity(
        &mut self,
        capacity: &PlanCapacity,
        required: u32,
        recorder: &mut ExecutionRecorder,
    ) -> Result<(), Error> {
        let diagnosis = match capacity.planned {
            None => self.diagnose_pool(required).await,
            Some(_) => self.diagnose(required, recorder).await,
        };
        self.guard.look_away(self.guard.settings.cancel_grace).await;
        let Some(mut reasons) =
            diagnosis.map_err(|failure| Error::sql("inspecting the statement", failure))?
        else {
            return Ok(());
        };
        // Slots are the server's, unless the session has too small a pool of its own.
        if self.guard.settings.reserve && capacity.own_pool.is_none() {
            reasons = reasons.into_iter().map(|reason| reason.for_all_sessions(required)).collect();
        }
        if self.guard.raise.is_some() {
            reasons = reasons.into_iter().map(plan::Reason::for_a_raised_ceiling).collect();
        }
        Err(match self.guard.slots.worker_limit() {
            Some(share) => {
                too_narrow_within(share, self.guard.slots.more_slots(), capacity, required, reasons)
            }
            None => too_narrow(capacity, required, &reasons),
        })
    }

    fn slots(&mut self) -> &mut Lease {
        &mut self.guard.slots
    }

    async fn begin(&mut self, attempt: u32) -> Result<Identity, Failure> {
        self.guard.begin(Some(attempt)).await
    }

    async fn gather(&mut self, wish: Wish, limit: Duration) -> Result<Gathered, Error> {
        let leader = self.guard.leader().map_or(0, |leader| leader.pid);
        let SessionGuard { inner, settings, held_slots, .. } = &mut self.guard;
        held_slots.gather(inner, settings, Wish { leader, ..wish }, limit).await
    }

    async fn ungather(&mut self) {
        self.guard.held_slots.let_go().await;
    }

    async fn make_way(&mut self) {
        self.guard.held_slots.make_way().await;
    }

    fn give_way(&self) {
        self.guard.held_slots.give_way();
    }

    fn steps(&self) -> usize {
        self.work.steps()
    }

    async fn work(&self, steps: Range<usize>) -> Result<W::Value, Failure> {
        let ran = self.work.run(self.guard.client()?, steps);
        if !W::WAITS_FOR_SERVER {
            return ran.await;
        }
        answered(&self.guard, ran).await
    }

    async fn inspect_step(&mut self, step: usize) -> Result<StatementCapacity, Failure> {
        let Some(sql) = self.work.step(step) else { return Ok(StatementCapacity::default()) };
        plan::look_ahead(self.guard.client()?, sql).await
    }

    fn keeps_steps(&self) -> bool {
        !self.guard.cleans_up()
    }

    fn waits_for_standbys(&self) -> bool {
        self.replicates
    }

    fn outlives(&self, step: usize) -> bool {
        !self.work.step(step).is_some_and(plan::is_savepoint)
    }

    async fn mark(&mut self) -> Result<(), Failure> {
        self.guard.mark().await
    }

    async fn unmark(&mut self) -> Result<(), Failure> {
        self.guard.unmark().await
    }

    async fn rewind(&mut self, grace: Duration) -> Option<u32> {
        self.guard.rewind(grace).await
    }

    async fn resume(&mut self, attempt: u32, step: usize) -> Result<Identity, Failure> {
        if self.guard.settings.transaction {
            return self.guard.resume(attempt).await;
        }
        let before = self.guard.leader();
        let identity = self.guard.begin(Some(attempt)).await?;
        if before != Some(identity) {
            // What ran before is done and stays; what it set is gone with the old session.
            for earlier in 0..step {
                if self.work.step(earlier).is_some_and(plan::is_setting) {
                    self.work.run(self.guard.client()?, earlier..earlier + 1).await?;
                }
            }
        }
        Ok(identity)
    }

    fn has_started(&self) -> bool {
        self.work.has_started()
    }

    fn allow_hand_over(&self) {
        self.work.allow_hand_over();
    }

    fn watch(&self, interval: Duration) -> Watch {
        let nobody = Identity { pid: 0, started: 0 };
        self.guard.inner.monitor.watch(self.guard.leader().unwrap_or(nobody), interval)
    }

    fn watch_pool(&self, interval: Duration) -> Watch {
        self.guard.inner.monitor.watch_pool(interval)
    }

    async fn stop(&self, method: CancelMethod) -> CancelResult {
        let result = self.guard.stop(method).await;
        if result == CancelResult::Sent {
            self.work.discard();
        }
        result
    }

    async fn launch_counters(&self, flush: bool) -> Option<LaunchCounters> {
        if self.guard.inner.monitor.version() < counters::SINCE {
            return None;
        }
        let asking = async {
            if flush {
                counters::flush(self.guard.client().ok()?).await.ok()?;
            }
            self.guard.inner.monitor.launch_counters(self.guard.leader()?).await.ok()?
        };
        timeout(LOOK_LIMIT, asking).await.ok()?
    }

    async fn commit(&mut self, committing: &Committing) -> Result<bool, CommitError> {
        let client = self.guard.client().map_err(CommitError::Failed)?;
        let late = || Failure::lost("the server did not answer in time");
        if !self.guard.settings.transaction {
            // What it had to do is done, unless it waits for a COMMIT that never comes.
            let state = committing.answer(TransactionState::of(client)).await.unwrap_or_else(|| Err(late()));
            return match state {
                Ok(state) if state.in_block => Err(CommitError::Failed(left_open())),
                Err(failure) if failure.sqlstate() == Some("25P02") => Err(CommitError::Failed(left_open())),
                Ok(_) | Err(_) => {
                    self.guard.unset().await;
                    let waited = self.guard.has_waited();
                    self.guard.rest();
                    Ok(waited)
                }
            };
        }
        let known = answered(&self.guard, async {
            let TransactionState { in_block, id: xid, replicates } = TransactionState::of(client).await?;
            if !in_block {
                return Err(ended_ours());
            }
            let life_id = if xid.is_some() { Some(LifeId::now(client).await?) } else { None };
            Ok((xid, life_id, replicates))
        });
        let known = committing.answer(known).await.unwrap_or_else(|| Err(late()));
        let (xid, life_id, replicates) = known.map_err(CommitError::Failed)?;
        let committed =
            answered(&self.guard, async { client.batch_execute(HEARD_COMMIT).await.map_err(Failure::from) });
        let committed = committing.answer(committed).await.unwrap_or_else(|| Err(late()));
        (self.life_id, self.replicates) = (life_id, replicates);
        match (committed, xid) {
            (Ok(()), _) => {}
            (Err(failure), _) if !failure.leaves_commit_open() => return Err(CommitError::Failed(failure)),
            // It wrote nothing: there is nothing to lose.
            (Err(_), None) => {}
            (Err(cause), Some(xid)) => {
                self.guard.lose_session();
                self.guard.rest();
                return Err(CommitError::InDoubt { xid, cause });
            }
        }
        let waited = self.guard.has_waited();
        self.guard.rest();
        Ok(waited)
    }

    async fn resolve(&mut self, xid: &str) -> Resolution {
        // A line that died in silence leaves the transaction open for hours. Its session is of no use to
        // anybody: ended, it has committed or it never will.
        self.guard.stop(CancelMethod::Terminate).await;
        xact::resolve(&self.guard.inner.endpoint, xid, self.life_id.as_ref(), IN_DOUBT_LIMIT).await
    }

    async fn abandon(&mut self, grace: Duration) -> u32 {
        self.guard.abandon(grace).await
    }

    async fn cleanup(&mut self) -> Option<Result<(), Failure>> {
        self.guard.cleanup().await
    }

    fn cleans_up(&self) -> bool {
        self.guard.cleans_up()
    }

    async fn clear_away(&mut self) -> Cleared {
        self.guard.clear_away().await
    }
}

/// Whether no function of the statement is known to run queries that the plan does not show. Asked last, and in
/// the transaction alone that only looks: what it asks the catalog may have no workers, for they would have no slots.
async fn shows_all(
    client: &Client,
    statement: &str,
    params: plan::Params<'_>,
    target: u32,
) -> Result<bool, Failure> {
    client.batch_execute("SET LOCAL max_parallel_workers TO 0").await?;
    let survey = plan::survey(client, statement, params, Some(target)).await?;
    Ok(survey.0.iter().all(|statement| statement.unseen.is_empty()))
}

/// The refusal of a line on which no transaction can begin.
fn pools_statements(server: &str) -> Error {
    Error::refused(
        Refusal::PooledConnection,
        format!("a proxy at {server} pools statements, and an attempt is a transaction"),
        vec![Fix::advice(
            "connect to the server itself, or to a pool with pool_mode = session; with pool_mode = transaction, \
             set `monitor` to connect to the server directly",
        )],
    )
}
