//! Each statement of a text, looked at in turn before any of it runs.
//!
//! The statements of a script build on each other: one fills the table that the next one reads. So a
//! plan made beforehand is *certain* only when no statement ahead can change what it rests on, and a
//! statement that cannot be planned yet is unknown and no error. A script is too narrow only when all
//! of its statements are certain and none reaches the target.
//!
//! What a statement may change is told with coarse means that err on the safe side. DROP TABLE and the
//! like change what they name. A query changes the table that it makes. Whatever modifies rows, calls a
//! function of a user's, or cannot be explained may change anything. SET alone is executed, in the
//! transaction that is rolled back: the plans of what follows depend on it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::routines::{Answers, Routines};
use super::statements::{Cut, cut, failed_in, misread, query_of};
use super::text::{Kind, Text};
use super::{Diagnosis, Failure, Inspection, Nature, Params, Plan, Reason, ReasonKind};
use super::{Session, diagnose, inspect, maintenance, parse, plan_in, strings_of};
use crate::decide::script::StatementCapacity;
use crate::fix::Fix;

/// A statement, and what is known of its workers before it runs.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "facts, each by itself")]
pub struct Statement {
    /// Its text.
    pub sql: String,
    /// Its plan; `None` when it has none, or none can be had.
    pub plan: Option<Plan>,
    /// Why nothing is known of its workers.
    pub not_explainable: Option<&'static str>,
    /// Whether what is known will hold whatever the statements ahead of it do.
    pub certain: bool,
    /// Every reason why the target is out of its reach, the hardest first.
    pub reasons: Vec<Reason>,
    /// Functions that run queries of their own, which may have workers that the plan does not show.
    pub unseen: Vec<String>,
    /// Whether the table or view that it makes is there already: its query is explained, and running it fails.
    pub taken: bool,
    /// Whether the plan shows all launches: nothing that it calls is known to run queries of its own.
    #[serde(skip)]
    complete: bool,
    /// Whether it calls functions that run queries of their own.
    #[serde(skip)]
    calls: bool,
}

impl Statement {
    fn new(sql: &str) -> Self {
        let sql = sql.to_owned();
        Self {
            sql,
            plan: None,
            not_explainable: None,
            certain: false,
            reasons: Vec::new(),
            unseen: Vec::new(),
            taken: false,
            complete: false,
            calls: false,
        }
    }

    fn unknown(sql: &str, why: &'static str) -> Self {
        Self { not_explainable: Some(why), ..Self::new(sql) }
    }

    fn of(sql: &str, inspection: Inspection) -> Self {
        match inspection {
            Inspection::Planned(plan) => Self { plan: Some(*plan), certain: true, ..Self::new(sql) },
            Inspection::NotExplainable { why } => Self::unknown(sql, why),
        }
    }

    /// What its attempts are judged by.
    pub(crate) fn reach(&self) -> StatementCapacity {
        let plan = self.plan.as_ref();
        let serial = self.certain && plan.is_none();
        StatementCapacity {
            planned: match plan {
                Some(plan) if self.complete && self.certain => Some(plan.tree.planned.clone()),
                _ => serial.then(Vec::new),
            },
            most: self.most(|plan| plan.reachable),
            pool_size: plan.map(|plan| plan.pool_size),
            cost: plan.map_or(0.0, |plan| plan.tree.cost),
            certain: self.certain,
            reads: plan.is_some_and(|plan| plan.nature != Nature::Query || !plan.tree.tables.is_empty()),
            calls: plan.is_some() && self.calls,
            explained: plan.is_some(),
        }
    }

    /// The most workers that it can have at once; `None` when there is no bound to rely on.
    #[must_use]
    pub fn reachable(&self) -> Option<u32> {
        self.most(|plan| plan.reachable)
    }

    fn most(&self, workers: impl Fn(&Plan) -> u32) -> Option<u32> {
        self.certain.then(|| self.plan.as_ref().map_or(0, workers))
    }
}

/// What is known of a whole text.
#[derive(Debug)]
pub(crate) struct Survey(pub(crate) Vec<Statement>);

impl Survey {
    /// What the attempts of each statement are judged by.
    pub(crate) fn statements(&self) -> Vec<StatementCapacity> {
        self.0.iter().map(Statement::reach).collect()
    }

    /// Gathers that may have workers at once: statements run one after the other.
    pub(crate) fn gathers(&self) -> u32 {
        let plans = self.0.iter().filter_map(|statement| statement.plan.as_ref());
        plans.map(|plan| plan.gathers).max().unwrap_or(0)
    }

    /// The most workers at once: statements run one after the other.
    pub(crate) fn reachable(&self) -> Option<u32> {
        self.most(|plan| plan.reachable)
    }

    /// The same in a pool that has enough for all Gathers.
    pub(crate) fn asked(&self) -> Option<u32> {
        self.most(|plan| plan.asked)
    }

    fn most(&self, workers: impl Fn(&Plan) -> u32) -> Option<u32> {
        let each: Option<Vec<u32>> = self.0.iter().map(|statement| statement.most(&workers)).collect();
        each?.into_iter().max()
    }

    /// Why the target is out of reach of all of it. With more than one statement each reason says whose it
    /// is.
    pub(crate) fn diagnosis(&self) -> Diagnosis {
        let mut diagnosis = Diagnosis::default();
        for (number, statement) in self.0.iter().enumerate() {
            for reason in &statement.reasons {
                let mut reason = reason.clone();
                if self.0.len() > 1 {
                    reason.explanation = format!("statement {}: {}", number + 1, reason.explanation);
                }
                diagnosis.reasons.push(reason);
            }
            diagnosis.unseen.extend(statement.unseen.iter().cloned());
        }
        if self.0.iter().all(|statement| statement.plan.is_none()) {
            diagnosis.reasons.push(Reason {
                kind: ReasonKind::NoTable,
                explanation: "no statement of it runs a query".to_owned(),
                fixes: vec![Fix::none("it runs in the leader alone")],
            });
        }
        diagnosis
    }
}

/// Looks at each statement. With a target, says why it is out of reach of those that it is out of reach
/// of. The caller has opened the transaction and made its settings.
pub(crate) async fn survey(
    client: &Client,
    sql: &str,
    params: Params<'_>,
    target: Option<u32>,
) -> Result<Survey, Failure> {
    look_through(client, sql, params, target, false).await
}

/// The same of what is not to be run. A name that is taken keeps nobody from explaining the query.
pub(crate) async fn explain_each(
    client: &Client,
    sql: &str,
    params: Params<'_>,
    target: u32,
) -> Result<Survey, Failure> {
    look_through(client, sql, params, Some(target), true).await
}

async fn look_through(
    client: &Client,
    sql: &str,
    params: Params<'_>,
    target: Option<u32>,
    only_explained: bool,
) -> Result<Survey, Failure> {
    let statements = cut(sql, strings_of(client, sql).await?);
    if let (true, [alone], []) = (only_explained, &*statements, params)
        && query_of(alone.text).is_some()
    {
        let mut walk = Walk::start(client).await?;
        walk.only_explained = true;
        return match walk.step(*alone, target).await {
            Err(failure) if failure.is_not_utf8() => Ok(Survey(vec![Statement::unknown(sql, NOT_UTF8)])),
            statement => Ok(Survey(vec![statement?])),
        };
    }
    if statements.len() < 2 || !params.is_empty() {
        let plan = match inspect(client, sql, params).await {
            // A name in it that is not UTF-8 does not keep the statement from running.
            Err(failure) if failure.is_not_utf8() => {
                return Ok(Survey(vec![Statement::unknown(sql, NOT_UTF8)]));
            }
            plan => plan.map_err(|failure| failed_in(failure, sql, &statements, 0))?,
        };
        let mut statement = Statement::of(sql, plan);
        if let Some(plan) = statement.plan.as_ref().filter(|plan| plan.nature == Nature::Query) {
            let routines = Routines::read(client, sql, &plan.tree).await?;
            statement.complete = is_complete(plan, &routines);
            statement.calls = !routines.unseen.is_empty();
        }
        explain_shortfall(client, &mut statement, params, target).await?;
        return Ok(Survey(vec![statement]));
    }
    parse(client, sql).await.map_err(|failure| misread(failure, sql, &statements))?;
    let mut walk = Walk::start(client).await?;
    walk.only_explained = only_explained;
    let mut seen = Vec::new();
    for (at, statement) in statements.iter().enumerate() {
        let looked = walk.step(*statement, target).await;
        seen.push(looked.map_err(|failure| failed_in(failure, sql, &statements, at))?);
    }
    Ok(Survey(seen))
}

/// What is known of one statement of a script at the moment before it runs. It cannot be planned is no error: running
/// it will say what is wrong.
pub(crate) async fn look_ahead(client: &Client, sql: &str) -> Result<StatementCapacity, Failure> {
    let Some(statement) = cut(sql, strings_of(client, sql).await?).into_iter().next() else {
        return Ok(StatementCapacity::default());
    };
    let mut walk = Walk::start(client).await?;
    let looked = walk.step(statement, None).await;
    if walk.in_block {
        let end = if looked.is_ok() { "" } else { "ROLLBACK TO SAVEPOINT headcount_script; " };
        client.batch_execute(&format!("{end}RELEASE SAVEPOINT headcount_script")).await?;
    }
    match looked {
        Ok(statement) => Ok(statement.reach()),
        Err(failure) if failure.is_connection_lost() => Err(failure),
        Err(_) => Ok(StatementCapacity::default()),
    }
}

/// A trigger of a table that is written may run queries, too.
fn is_complete(plan: &Plan, routines: &Routines) -> bool {
    routines.unseen.is_empty() && plan.tree.written.is_empty()
}

async fn explain_shortfall(
    client: &Client,
    statement: &mut Statement,
    params: Params<'_>,
    target: Option<u32>,
) -> Result<(), Failure> {
    let (Some(target), Some(plan)) = (target, &statement.plan) else { return Ok(()) };
    if plan.reachable < target {
        let Diagnosis { reasons, unseen } = diagnose(client, &statement.sql, params, plan, target).await?;
        (statement.reasons, statement.unseen) = (reasons, unseen);
    }
    Ok(())
}

/// Whether definitions start functions, which may run queries.
const TRIGGERS: &str = concat!(
    "
    WITH ",
    serial!(),
    "
    SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D')
        OR EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgtype & 32 <> 0 AND NOT tgisinternal)",
);

/// Time spent on planning the statements of one script, from which on the rest is not planned. What waits for a lock
/// counts no more than a second.
const LONGEST: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Statements whose reasons are looked for: each takes several plans, and more are read by nobody.
const DIAGNOSED: usize = 20;

const NOT_UTF8: &str = "a name in its plan is not UTF-8";
const NO_TIME: &str = "planning those ahead of it took so long that it was left out";
const NOT_YET: &str = "it cannot be planned before the statements ahead of it have run";

struct Walk<'a> {
    client: &'a Client,
    in_block: bool,
    triggers: bool,
    only_explained: bool,
    /// The session, until a statement changes it.
    session: Option<Session>,
    answers: Answers,
    spent: Duration,
    diagnosed: usize,
    /// Names of what the statements so far may have changed; `None`: anything.
    changed: Option<BTreeSet<String>>,
}

impl<'a> Walk<'a> {
    async fn start(client: &'a Client) -> Result<Self, Failure> {
        let triggers = client.query_one(TRIGGERS, &[]).await?.try_get(0)?;
        let in_block = client.batch_execute("SAVEPOINT headcount_script").await.is_ok();
        Ok(Self {
            client,
            in_block,
            triggers,
            only_explained: false,
            session: None,
            answers: Answers::default(),
            spent: Duration::ZERO,
            diagnosed: 0,
            changed: Some(BTreeSet::new()),
        })
    }

    async fn step(&mut self, statement: Cut<'_>, target: Option<u32>) -> Result<Statement, Failure> {
        let sql = statement.text;
        if self.spent > LONGEST {
            self.changed = None;
            return Ok(Statement::unknown(sql, NO_TIME));
        }
        let began = Instant::now();
        let text = Text::read_as(sql, statement.strings);
        let looked = match text.kind() {
            // What it reads was planned for a cursor. What that calls may change anything.
            Kind::Opaque(_) if text.reads_a_cursor() => {
                self.changed = None;
                Ok(Statement { certain: true, ..Statement::new(sql) })
            }
            Kind::Opaque(why) => Ok(Statement::unknown(sql, why)),
            Kind::Definition if self.triggers => Ok(Statement::unknown(sql, "it may fire triggers")),
            Kind::Definition => Ok(Statement { certain: true, ..Statement::new(sql) }),
            // Outside a transaction block it would outlive the question.
            Kind::Setting if !self.in_block => {
                Ok(Statement::unknown(sql, "a setting is not changed outside a transaction block"))
            }
            Kind::Setting => self.set(sql).await,
            Kind::Query | Kind::Cursor | Kind::Refresh => self.plan(sql, &text, target).await,
            Kind::Maintenance => self.maintain(sql, &text, target).await,
        };
        self.spent += began.elapsed().min(LONGEST_WAIT);
        let statement = match looked {
            Ok(statement) => statement,
            // One ahead of it may make what it misses.
            Err(failure) if !failure.is_connection_lost() && self.touches(&text.names()) => {
                Statement::unknown(sql, NOT_YET)
            }
            Err(failure) => return Err(failure),
        };
        // VACUUM, which may name nothing, changes statistics.
        let vacuums = text.kind() == Kind::Maintenance && !text.mentions(&["create"]);
        if statement.not_explainable.is_some() || vacuums {
            self.changed = None;
        }
        if let Some(changed) = &mut self.changed
            && text.kind() != Kind::Setting
        {
            changed.extend(text.changed());
        }
        Ok(statement)
    }

    /// Whether a statement ahead may have changed one of these.
    fn touches(&self, names: &BTreeSet<String>) -> bool {
        self.changed.as_ref().is_none_or(|changed| !changed.is_disjoint(names))
    }

    async fn set(&mut self, sql: &str) -> Result<Statement, Failure> {
        self.session = None;
        self.answers.forget();
        self.apart(async || Ok(self.client.batch_execute(sql).await?)).await?;
        Ok(Statement { certain: true, ..Statement::new(sql) })
    }

    /// Its bound rests on settings, and on the tables that it names unless a statement ahead may change them.
    async fn maintain(&self, sql: &str, text: &Text, target: Option<u32>) -> Result<Statement, Failure> {
        let settled = !self.touches(&text.names());
        let bounded = async || {
            let inspection = maintenance::inspect(self.client, sql, settled).await?;
            let mut statement = Statement::of(sql, inspection);
            statement.certain = self.changed.is_some();
            if statement.certain {
                explain_shortfall(self.client, &mut statement, &[], target).await?;
            }
            Ok(statement)
        };
        self.apart(bounded).await
    }

    async fn plan(&mut self, sql: &str, text: &Text, target: Option<u32>) -> Result<Statement, Failure> {
        let looked = match text.kind() {
            Kind::Query | Kind::Cursor => self.explain(sql).await,
            _ => self.apart(async || inspect(self.client, sql, &[]).await).await,
        };
        let query = query_of(sql).filter(|_| text.creates_from_query());
        let mut taken = false;
        let inspection = match (looked, query) {
            (Err(failure), Some(query)) if failure.sqlstate() == Some(SqlState::DUPLICATE_TABLE.code()) => {
                // Unless a statement ahead may drop it.
                taken = !self.touches(&text.names());
                if taken && !self.only_explained {
                    return Err(failure);
                }
                match self.apart(async || inspect(self.client, query, &[]).await).await? {
                    Inspection::Planned(mut plan) => {
                        plan.query = Some(query.to_owned());
                        Inspection::Planned(plan)
                    }
                    unknown @ Inspection::NotExplainable { .. } => unknown,
                }
            }
            (looked, _) => looked?,
        };
        let mut statement = Statement::of(sql, inspection);
        statement.taken = taken;
        let Some(plan) = &statement.plan else { return Ok(statement) };

        let modifies = plan.tree.has("ModifyTable");
        let never = modifies || plan.tree.has("LockRows") || text.kind() == Kind::Cursor;
        let mut names = query.map_or_else(|| text.names(), |query| Text::new(query).names());
        names.extend(plan.tree.tables.iter().map(|(_, table)| table.clone()));
        statement.certain = never || !self.touches(&names);
        let out_of_reach = target.is_some_and(|target| plan.reachable < target);
        let routines = self.answers.read(self.client, sql, &plan.tree).await?;
        // What modifies may change anything, whatever it calls.
        let may_change = modifies || routines.may_change;
        let (complete, calls) = (is_complete(plan, &routines), !routines.unseen.is_empty());
        if statement.certain && out_of_reach {
            statement.unseen = routines.unseen;
            self.diagnosed += 1;
        }
        if statement.certain && out_of_reach && self.diagnosed <= DIAGNOSED {
            let explained = async || {
                let mut statement = statement.clone();
                explain_shortfall(self.client, &mut statement, &[], target).await?;
                Ok(statement)
            };
            statement = self.apart(explained).await?;
        }
        (statement.complete, statement.calls) = (complete, calls);
        if may_change {
            self.changed = None;
        }
        Ok(statement)
    }

    /// Asks for the plan, in one round trip where nothing goes wrong.
    async fn explain(&mut self, sql: &str) -> Result<Inspection, Failure> {
        let session = match self.session.take() {
            Some(session) => session,
            None => Session::read(self.client).await?,
        };
        let explained = if self.in_block {
            let begin = self.client.batch_execute("SAVEPOINT headcount_statement");
            let end = self.client.batch_execute("RELEASE headcount_statement");
            // Sent in this order, each before the answer to the one ahead is there.
            let (opened, explained, _) =
                tokio::join!(biased; begin, plan_in(self.client, &session, sql, &[]), end);
            opened?;
            if explained.as_ref().is_err_and(|failure| !failure.is_connection_lost()) {
                let undo = "ROLLBACK TO headcount_statement; RELEASE headcount_statement";
                self.client.batch_execute(undo).await?;
            }
            explained
        } else {
            plan_in(self.client, &session, sql, &[]).await
        };
        self.session = Some(session);
        explained
    }

    /// Lets it fail without aborting the transaction.
    async fn apart<T>(&self, ask: impl AsyncFnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        if !self.in_block {
            return ask().await;
        }
        self.client.batch_execute("SAVEPOINT headcount_statement").await?;
        let answer = ask().await;
        let end = match &answer {
            Ok(_) => "RELEASE headcount_statement",
            Err(failure) if failure.is_connection_lost() => return answer,
            Err(_) => "ROLLBACK TO headcount_statement; RELEASE headcount_statement",
        };
        self.client.batch_execute(end).await?;
        answer
    }
}
