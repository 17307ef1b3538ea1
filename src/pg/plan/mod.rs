//! Plan inspection: how many workers a statement can have, and why not more.
//!
//! No retry gives a statement more workers than its plan asks for, nor more than the pool has slots.
//! Both are known before anything runs. [`Plan::reachable`] is an upper bound that is never too low,
//! because a refusal rests on it; `tree` says how it is found. A refusal also needs [`Diagnosis`]:
//! a function that runs queries of its own has plans that EXPLAIN does not show, and
//! [`Diagnosis::is_proof`] is false then.
//!
//! EXPLAIN never executes the statement here: it goes through the extended protocol, which takes one
//! statement at a time (`survey` takes a script apart), and never with ANALYZE. The planner may call IMMUTABLE and STABLE functions
//! on constants, as it will when the statement runs. What EXPLAIN cannot take is known by its leading
//! keyword, so that the caller's transaction is not aborted by a question.
//!
//! Parameters: EXPLAIN plans with their values. That is the plan that runs when the statement is
//! prepared anew (the server makes custom plans for the first five executions of a prepared
//! statement) and always the plan of CREATE TABLE AS. From the sixth execution of one prepared
//! statement on, the server may take a generic plan, which may differ. With `plan_cache_mode =
//! force_generic_plan` it is generic at once: then a statement with parameters counts as not
//! explainable.
//!
//! The plan can still change between EXPLAIN and the statement, when new statistics arrive.
//!
//! Sources: execParallel.c, nodeGather.c, nodeHashjoin.c, clauses.c (`max_parallel_hazard`),
//! allpaths.c (`compute_parallel_worker`), and the manual's chapter "Parallel Query".

mod build;
mod control;
mod diagnose;
mod flaw;
mod hidden;
mod lexer;
mod maintenance;
mod probe;
mod reason;
mod refresh;
mod routines;
mod server;
mod statements;
mod survey;
mod text;
mod tree;
mod vacuum;

use serde::Serialize;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql, Type};

use self::maintenance::Bound;
use self::text::{Kind, Text};
use self::tree::Tree;
use super::Failure;
use crate::error::Error;

pub use self::flaw::check;
pub use self::reason::{Diagnosis, Reason, ReasonKind};
pub use self::server::Setting;
pub use self::survey::Statement;

pub(crate) use self::diagnose::{BESIDE, diagnose_pool, raise_processes};
pub(crate) use self::flaw::{Manner, flaw, flaw_as, flaw_of_cleanup};
pub(crate) use self::lexer::Strings;
pub(crate) use self::statements::{located, split_as};
pub(crate) use self::survey::{explain_each, look_ahead, survey};

use self::diagnose::diagnose;

/// The values of a statement's parameters.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// What EXPLAIN said about a statement.
#[derive(Debug, Clone)]
pub(crate) enum Inspection {
    /// It has a plan.
    Planned(Box<Plan>),
    /// It cannot be explained: nothing is known of its workers.
    NotExplainable {
        /// Why, as a clause.
        why: &'static str,
    },
}

/// How many workers a plan can have.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// `Workers Planned`, one a Gather or Gather Merge, from the root down.
    pub launches: Vec<u32>,
    /// The most workers at once: an upper bound, over the plan and the pool's size.
    pub reachable: u32,
    /// The most Gathers that may have workers at once.
    pub gathers: u32,
    /// Slots of the pool in this session: `least(max_parallel_workers, max_worker_processes)`.
    pub pool_size: u32,
    /// The same over the plan alone: the pool may have another size by the time that it runs.
    #[serde(skip)]
    asked: u32,
    #[serde(skip)]
    tree: Tree,
    /// The query that was explained in place of the statement.
    #[serde(skip)]
    query: Option<String>,
    #[serde(skip)]
    nature: Nature,
}

/// What a bound on workers rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Nature {
    /// A plan of the planner's.
    Query,
    /// REFRESH on a server that has no workers for it.
    SerialRefresh,
    /// What the settings and the catalog leave to VACUUM or CREATE INDEX.
    Maintenance(Bound),
}

/// A plan, and why it has not more workers: what `headcount explain` prints.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// Workers asked for.
    pub target_workers: u32,
    /// The plan; `None` when the statement cannot be explained, and for several statements.
    pub plan: Option<Plan>,
    /// Why there is no plan.
    pub not_explainable: Option<&'static str>,
    /// Slots of the pool: `least(max_parallel_workers, max_worker_processes)`.
    pub pool_size: u32,
    /// Every reason why the target is out of reach, the hardest first; empty when it is in reach, or
    /// when that is not certain.
    pub reasons: Vec<Reason>,
    /// Functions that run queries of their own, which may have workers that the plan does not show.
    pub unseen: Vec<String>,
    /// The settings that decide on workers, as they stand for the statement.
    pub settings: Vec<Setting>,
    /// Each statement of the text.
    pub statements: Vec<Statement>,
}

/// Explains a statement as it would run with these settings (name and value), without running it.
///
/// Works in a transaction of its own and rolls it back. The client must not be inside one.
///
/// # Errors
/// When the statement or a setting is wrong, or the connection is lost.
pub async fn explain(
    client: &mut Client,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
    settings: &[(String, String)],
    target: u32,
) -> Result<Explanation, Error> {
    let failed = |failure: Failure| Error::sql("explaining the statement", failure);
    let transaction = client.transaction().await.map_err(|error| failed(error.into()))?;
    for (name, value) in settings {
        let set = transaction.execute("SELECT pg_catalog.set_config($1, $2, true)", &[name, value]).await;
        set.map_err(|error| Error::setting(name, Failure::from(error).to_string()))?;
    }
    let explanation = describe(transaction.client(), sql, params, target).await.map_err(failed)?;
    transaction.rollback().await.map_err(|error| failed(error.into()))?;
    Ok(explanation)
}

/// The same in the caller's transaction, with the settings that it made.
pub(crate) async fn describe(
    client: &Client,
    sql: &str,
    params: Params<'_>,
    target: u32,
) -> Result<Explanation, Failure> {
    let settings = server::settings(client).await?;
    let pool_size = pool_size(client).await?;
    let survey = explain_each(client, sql, params, target).await?;
    let out_of_reach = survey.reachable().is_some_and(|most| most < target);
    let diagnosis = if out_of_reach { survey.diagnosis() } else { Diagnosis::default() };
    let (plan, not_explainable) = match &*survey.0 {
        [alone] => (alone.plan.clone(), alone.not_explainable),
        _ => (None, Some("several statements, each explained by itself")),
    };
    Ok(Explanation {
        target_workers: target,
        plan,
        not_explainable,
        pool_size,
        reasons: diagnosis.reasons,
        unseen: diagnosis.unseen,
        settings,
        statements: survey.0,
    })
}

/// Slots of the pool in this session: `least(max_parallel_workers, max_worker_processes)`.
pub(crate) async fn pool_size(client: &Client) -> Result<u32, Failure> {
    Ok(Session::read(client).await?.pool_size)
}

/// Whether the pool's size is this session's, its role's or its database's own (`pg_settings.source`).
pub(crate) async fn has_own_pool(client: &Client) -> Result<bool, Failure> {
    let sql = "SELECT source NOT IN ('default', 'environment variable', 'configuration file', 'command line')
               FROM pg_catalog.pg_settings WHERE name = 'max_parallel_workers'";
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

/// Asks for the plan of one statement. The caller has opened the transaction and made its settings.
async fn inspect(client: &Client, sql: &str, params: Params<'_>) -> Result<Inspection, Failure> {
    let text = Text::new(sql);
    match text.kind() {
        Kind::Query | Kind::Cursor => {}
        Kind::Refresh => return refresh::inspect(client, &text).await,
        Kind::Maintenance => return maintenance::inspect(client, sql, true).await,
        Kind::Setting | Kind::Definition => {
            parse(client, sql).await?;
            return Ok(Inspection::NotExplainable { why: text::NO_PLAN });
        }
        Kind::Opaque(why) => {
            parse(client, sql).await?;
            return Ok(Inspection::NotExplainable { why });
        }
    }
    // One after the other: a syntax error must be reported as such, not as an aborted transaction.
    let session = Session::read(client).await?;
    plan_in(client, &session, sql, params).await
}

/// The same of a statement that EXPLAIN takes, in a session that is known.
async fn plan_in(
    client: &Client,
    session: &Session,
    sql: &str,
    params: Params<'_>,
) -> Result<Inspection, Failure> {
    if session.generic_plans && !params.is_empty() {
        let why = "plan_cache_mode = force_generic_plan makes a plan that does not know the parameters";
        return Ok(Inspection::NotExplainable { why });
    }
    let Some(tree) = plan_tree(client, sql, params).await? else {
        return Ok(Inspection::NotExplainable { why: "EXPLAIN shows no plan for it" });
    };
    Ok(Inspection::Planned(Box::new(session.plan(tree))))
}

/// Lets the server read what it cannot explain: a typing error is to be found before any wait.
async fn parse(client: &Client, sql: &str) -> Result<(), Failure> {
    // Outside a transaction block nothing is aborted, and there are no savepoints.
    let in_block = client.batch_execute("SAVEPOINT headcount_parse").await.is_ok();
    let parsed = client.prepare(sql).await;
    if in_block {
        client.batch_execute("ROLLBACK TO headcount_parse; RELEASE headcount_parse").await?;
    }
    match parsed {
        Ok(_) => Ok(()),
        // "cannot insert multiple commands into a prepared statement": all of them were read, and were
        // well-formed. An error in the text has a position.
        Err(error)
            if error.as_db_error().is_some_and(|server| {
                *server.code() == SqlState::SYNTAX_ERROR && server.position().is_none()
            }) =>
        {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// How plain strings of a text are read on this session. It is asked only where that makes a difference.
pub(crate) async fn strings_of(client: &Client, sql: &str) -> Result<Strings, Failure> {
    const STANDARD: &str = "SELECT pg_catalog.current_setting('standard_conforming_strings') = 'on'";
    if !sql.contains('\\') || client.query_one(STANDARD, &[]).await?.try_get(0)? {
        Ok(Strings::Standard)
    } else {
        Ok(Strings::Escaped)
    }
}

/// Whether a statement does nothing but set something for the session.
pub(crate) fn is_setting(sql: &str) -> bool {
    Text::new(sql).kind() == Kind::Setting
}

/// Whether a statement makes a savepoint, gives one up or goes back to one.
pub(crate) fn is_savepoint(sql: &str) -> bool {
    Text::new(sql).is_about_savepoints()
}

/// What the session adds to a plan.
struct Session {
    pool_size: u32,
    /// `debug_parallel_query = regress` may add a Gather of one worker that EXPLAIN does not show.
    hides_gather: bool,
    generic_plans: bool,
}

impl Session {
    /// A plan as this session would run it.
    fn plan(&self, tree: Tree) -> Plan {
        let bound = if self.hides_gather { tree.reachable.max(1) } else { tree.reachable };
        Plan {
            launches: tree.launches.clone(),
            reachable: bound.min(self.pool_size),
            asked: bound,
            gathers: tree.gathers,
            pool_size: self.pool_size,
            tree,
            query: None,
            nature: Nature::Query,
        }
    }

    // The parameter was named force_parallel_mode before 16.
    const SQL: &str = concat!(
        "SELECT ",
        pool!(),
        ", coalesce(pg_catalog.current_setting('debug_parallel_query', true),
                        pg_catalog.current_setting('force_parallel_mode', true)) = 'regress',
               pg_catalog.current_setting('plan_cache_mode') = 'force_generic_plan'"
    );

    async fn read(client: &Client) -> Result<Self, Failure> {
        let rows = client.query_typed(Self::SQL, &[]).await?;
        let row =
            rows.first().ok_or_else(|| Failure::client("the server did not say how large its pool is"))?;
        Ok(Self {
            pool_size: u32::try_from(row.try_get::<_, i32>(0)?).unwrap_or(0),
            hides_gather: row.try_get::<_, Option<bool>>(1)?.unwrap_or(false),
            generic_plans: row.try_get(2)?,
        })
    }
}

async fn plan_tree(client: &Client, sql: &str, params: Params<'_>) -> Result<Option<Tree>, Failure> {
    const EXPLAIN: &str = "EXPLAIN (VERBOSE, FORMAT JSON) ";
    let explain = format!("{EXPLAIN}{sql}");
    // One round trip where there is nothing to ask the types of. Both take one statement and no more.
    let rows = match params {
        [] => client.query_typed(&explain, &[]).await,
        _ => client.query(&explain, params).await,
    };
    let rows = rows.map_err(|error| Failure::from(error).behind(EXPLAIN))?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Tree::read(&row.try_get::<_, JsonText>(0)?.0))
}

/// A value of type json as the text it is.
struct JsonText(String);

impl<'a> FromSql<'a> for JsonText {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSON
    }
}
