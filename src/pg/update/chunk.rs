//! One chunk's work inside its transaction, and the server's answer.

use futures_util::future::{join, try_join};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::statement::{BEGIN, Statements};
use crate::decide::update::Class;
use crate::decide::update::life::Mark;
use crate::pg::Failure;

/// Rounds of lock and judge. A second one is needed only for rows that appear, or return to the expected value,
/// within the first: from then on they are locked.
const ROUNDS: u32 = 3;

/// What is still to be updated then is not to be had: a trigger skips the row, a policy lets the row be seen and
/// not be changed.
fn withheld() -> Failure {
    Failure::found("09000", "the row was not changed: a trigger or a row-level security policy withholds it")
}

/// What the work came to, before COMMIT.
#[derive(Debug)]
pub(crate) struct Worked {
    /// What its fate will be known by.
    pub(crate) mark: Mark,
    /// One a key.
    pub(crate) classes: Vec<Class>,
}

/// The statements on one session.
#[derive(Debug)]
pub(crate) struct PreparedUpdate {
    fast: Option<Statement>,
    lock: Statement,
    judge: Statement,
    /// Nothing shall change.
    dry: bool,
}

/// The keys of a chunk, each with a field per column.
pub(super) type Rows<'r, 'f> = &'r [&'f [Option<Box<str>>]];

/// The input of a chunk: an array per column.
pub(super) type Columns<'f> = Vec<Vec<Option<&'f str>>>;

impl PreparedUpdate {
    /// Prepares them, in one round trip or two.
    pub(crate) async fn new(client: &Client, sql: &Statements, dry: bool) -> Result<Self, Failure> {
        let fast = async {
            match &sql.fast {
                Some(fast) if !dry => Ok(Some(client.prepare(fast).await?)),
                _ => Ok(None),
            }
        };
        let judge = client.prepare(if dry { &sql.look } else { &sql.judge });
        let ((fast, lock), judge) = try_join(try_join(fast, client.prepare(&sql.lock)), judge).await?;
        Ok(Self { fast, lock, judge, dry })
    }

    /// What opens the transaction.
    pub(crate) const fn begin(&self) -> &'static str {
        if self.dry { "BEGIN READ ONLY" } else { BEGIN }
    }

    /// Opens a transaction and works on the keys. One round trip where every key is updated. COMMIT is left to the caller.
    pub(crate) async fn work(
        &self,
        client: &Client,
        sql: &Statements,
        rows: Rows<'_, '_>,
    ) -> Result<Worked, Failure> {
        // Polled in order: BEGIN is sent first. Where it fails the work does, too.
        let (began, answer) =
            join(client.batch_execute(self.begin()), self.work_inside(client, sql, rows)).await;
        began?;
        answer
    }

    /// The same inside a transaction that is open.
    pub(crate) async fn work_inside(
        &self,
        client: &Client,
        sql: &Statements,
        rows: Rows<'_, '_>,
    ) -> Result<Worked, Failure> {
        let mut answer = Worked { mark: Mark::default(), classes: vec![Class::Failed; rows.len()] };
        let mut rest: Vec<usize> = (0..rows.len()).collect();
        if let Some(fast) = &self.fast {
            let row = one(client, fast, &columns(rows, &rest, sql), sql).await?;
            answer.mark = Mark::of(&row, 0)?;
            let Some(updated) = row.try_get::<_, Option<Vec<i64>>>(1)? else {
                answer.classes.fill(Class::Updated);
                return Ok(answer);
            };
            for place in updated {
                let place = usize::try_from(place - 1).unwrap_or(usize::MAX);
                *answer.classes.get_mut(place).ok_or_else(unexpected)? = Class::Updated;
            }
            rest.retain(|&place| answer.classes[place] != Class::Updated);
        }
        for _ in 0..ROUNDS {
            let columns = columns(rows, &rest, sql);
            let row = if self.dry {
                one(client, &self.judge, &columns, sql).await?
            } else {
                let (lock, judge) =
                    join(one(client, &self.lock, &columns, sql), one(client, &self.judge, &columns, sql))
                        .await;
                lock?;
                judge?
            };
            answer.mark = Mark::of(&row, 0)?;
            let verdicts: Option<Vec<i32>> = row.try_get(1)?;
            let verdicts = verdicts.unwrap_or_default();
            if verdicts.len() != rest.len() {
                return Err(unexpected());
            }
            let mut again = Vec::new();
            for (place, verdict) in rest.iter().copied().zip(verdicts) {
                answer.classes[place] = match verdict {
                    0 => Class::Updated,
                    1 => Class::Already,
                    2 => Class::Stale,
                    3 => Class::Missing,
                    4 => {
                        again.push(place);
                        Class::Failed
                    }
                    _ => return Err(Failure::found("21000", "a key matches more than one row")),
                };
            }
            rest = again;
            if rest.is_empty() {
                if answer.mark.xid.is_none() && !self.dry && answer.classes.contains(&Class::Updated) {
                    return Err(unexpected());
                }
                return Ok(answer);
            }
        }
        Err(withheld())
    }
}

fn unexpected() -> Failure {
    Failure::client("the server's answer does not fit the chunk")
}

pub(super) fn columns<'f>(rows: Rows<'_, 'f>, places: &[usize], sql: &Statements) -> Columns<'f> {
    let column = |n: usize| places.iter().map(|&place| rows[place].get(n)?.as_deref()).collect();
    (0..sql.inputs.len()).map(column).collect()
}

pub(super) async fn one(
    client: &Client,
    statement: &Statement,
    columns: &Columns<'_>,
    sql: &Statements,
) -> Result<Row, Failure> {
    let arrays = columns.iter().map(|column| column as &(dyn ToSql + Sync));
    let shared = sql.shared.iter().map(|value| value as &(dyn ToSql + Sync));
    let parameters: Vec<_> = arrays.chain(shared).collect();
    Ok(client.query_one(statement, &parameters).await?)
}
