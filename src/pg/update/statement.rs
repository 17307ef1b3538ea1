//! The statements of one chunk.
//!
//! Most chunks meet what they expect: every key has its row, every row its expected value. For them
//! there is one statement, *fast*: it updates, and returns the transaction's id, and the places of the keys
//! that it updated unless these were all. A row that somebody changed since the statement's snapshot is compared
//! again in its current version before it is changed (manual, "Read Committed Isolation Level").
//!
//! *Whole* is for who cannot wait for such an answer before he commits: it updates every key, or fails.
//!
//! Only the keys that *fast* left alone need to be told apart, and only from what their rows hold now.
//! So *lock* locks those rows, in the order of the keys, and *judge*, whose snapshot is newer than the
//! locks, updates what has become eligible and classes the rest. Both are sent at once.
//!
//! Where no unique index proves that a key has one row, *fast* is not used: *judge* counts the rows.
//!
//! Parameters: one array of texts per input column (`$1`..), then the values that all keys share.

use tokio_postgres::Client;

use super::catalog::{Column, Equality, Table};
use super::exact::EXACT;
use crate::error::Error;
use crate::pg::Failure;

/// Where a new or an expected value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Assign {
    /// The same for all keys; `None` is NULL.
    Value(Option<String>),
    /// A column of the input.
    Input(String),
}

/// What to change, in the caller's words.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    pub(crate) table: String,
    pub(crate) key: Vec<String>,
    pub(crate) set: Vec<(String, Assign)>,
    pub(crate) expect: Vec<(String, Assign)>,
    pub(crate) version: Option<String>,
}

/// The statements that come of it.
#[derive(Debug, Clone)]
pub(crate) struct Statements {
    /// `None` where no index proves that a key has one row.
    pub(crate) fast: Option<String>,
    /// Likewise.
    pub(crate) whole: Option<String>,
    pub(crate) lock: String,
    pub(crate) judge: String,
    /// *judge* without a change.
    pub(crate) look: String,
    /// The values that all keys share, in the order of their parameters.
    pub(crate) shared: Vec<Option<String>>,
    /// The input's columns: the key's first.
    pub(crate) inputs: Vec<String>,
    /// The places among them of values that hold times.
    pub(crate) times: Vec<usize>,
    /// Session settings that keep each statement on the index, in the order of the keys.
    settings: Option<&'static str>,
    pub(crate) parts: Parts,
}

/// Pieces that a claim is made of, too.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) table: String,
    pub(crate) key: Vec<KeyPart>,
    /// True of a row that is to be updated; `t` is the row, `i` the input's.
    pub(crate) eligible: String,
    /// How rows are locked.
    pub(crate) lock: &'static str,
}

/// Rows are found by index, one key after the other: locks are taken in the order of the keys, and a
/// table that grew since the plan was made is not read from end to end. Not where triggers run: their
/// queries would suffer from it. A scan that cannot be avoided is priced beyond all measure then, so nothing is to be
/// compiled (`jit`) for it: that takes longer than most statements here. Settings that a version does not have are left
/// out.
const BY_INDEX: &str = "\
SELECT pg_catalog.set_config(name, CASE name WHEN 'plan_cache_mode' THEN 'force_generic_plan' ELSE 'off' END, false)
FROM pg_catalog.unnest(ARRAY['enable_seqscan', 'enable_hashjoin', 'enable_mergejoin', 'enable_memoize', 'jit',
                             'plan_cache_mode']) AS name
WHERE pg_catalog.current_setting(name, true) IS NOT NULL";

/// A column of the key.
#[derive(Debug, Clone)]
pub(crate) struct KeyPart {
    /// Its value in the row.
    pub(crate) operand: String,
    /// What a text is cast to.
    pub(crate) cast: String,
    /// The same as an object identifier.
    pub(crate) type_oid: u32,
}

/// True inside a transaction that [`BEGIN`] or its like has opened; fails outside.
///
/// BEGIN and work travel together, and BEGIN can fail alone: a timeout strikes while the server writes it to its log, or
/// somebody cancels it. The work behind it would commit by itself, and nobody would know its id. So each statement that
/// changes rows looks whether it is inside. What tells is a property of the transaction that BEGIN itself sets, and that
/// means nothing to one that writes (manual, "SET TRANSACTION"); sessions are readied so that no other transaction
/// has it. It fails, and does not only pass over the rows, since triggers run once a statement, also without rows.
pub(super) const INSIDE: &str = "CAST(pg_catalog.replace(pg_catalog.current_setting('transaction_deferrable'), 'off', \
    'headcount: BEGIN has failed, and nothing is changed without it') AS pg_catalog.bool)";

/// What opens a transaction that changes rows.
pub(crate) const BEGIN: &str = "BEGIN DEFERRABLE";

impl Wish {
    /// The columns that the input must have: the key's, then those that values are taken from.
    pub(crate) fn inputs(&self) -> Vec<String> {
        let mut inputs = self.key.clone();
        for (_, assign) in self.set.iter().chain(&self.expect) {
            if let Assign::Input(name) = assign
                && !inputs.contains(name)
            {
                inputs.push(name.clone());
            }
        }
        inputs
    }
}

/// The wish in SQL: `t` is the row, `i` the input's.
struct Terms<'a> {
    key: Vec<&'a Column>,
    /// `column = value`, one each.
    sets: Vec<String>,
    /// True of a row that holds the new values.
    already: String,
    /// True of a row that holds what is expected.
    expected: String,
    shared: Vec<Option<String>>,
    inputs: Vec<String>,
    times: Vec<usize>,
    /// Whether the rows can be found by a list of keys, if there is one key column. It takes that no value comes
    /// from the input, and a type that lists can be made of (there are none of arrays).
    by_list: bool,
    /// How rows are locked that are to be changed so.
    lock: &'static str,
}

impl<'a> Terms<'a> {
    /// Fails when a column does not exist or cannot serve.
    fn of(wish: &Wish, table: &'a Table) -> Result<Self, Error> {
        let inputs = wish.inputs();
        let (mut shared, mut times) = (Vec::new(), Vec::new());
        let mut text = |assign: &Assign, column: &Column| match assign {
            Assign::Input(name) => {
                let place = inputs.iter().position(|input| input == name).unwrap_or_default();
                times.extend(column.holds_time.then_some(place));
                format!("i.c{}", place + 1)
            }
            Assign::Value(value) => {
                shared.push(value.clone());
                format!("CAST(${} AS pg_catalog.text)", inputs.len() + shared.len())
            }
        };
        let mut key: Vec<&Column> = Vec::new();
        for name in &wish.key {
            let column = table.column("key", name)?;
            once("key", "named", key.iter().map(|column| &column.name), column)?;
            if column.equality == Equality::None {
                let problem = format!(
                    "column {} is of type {}, which has no equality operator",
                    column.name, column.cast
                );
                return Err(Error::configuration("key", problem));
            }
            key.push(column);
        }
        let keeps_key = |column: &Column| {
            if key.iter().all(|key| key.name != column.name) {
                return Ok(());
            }
            let problem =
                format!("column {} is part of the key; what it holds now belongs to expect", column.name);
            Err(Error::configuration("set", problem))
        };
        let mut changed: Vec<&String> = Vec::new();
        let mut by_list = key.iter().all(|key| !key.cast.ends_with("[]")) && !table.has_triggers;
        let (mut sets, mut already, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        for (name, assign) in &wish.set {
            let column = table.writable("set", name)?;
            keeps_key(column)?;
            once("set", "set", changed.iter().copied(), column)?;
            changed.push(&column.name);
            let text = text(assign, column);
            let value = match assign {
                Assign::Input(_) => column.assigned(&text),
                // It fits.
                Assign::Value(_) => format!("CAST({text} AS {})", column.assigned),
            };
            already.push(same(column, column.equality == Equality::Exact, &value));
            sets.push(format!("{} = {value}", column.name));
            by_list &= matches!(assign, Assign::Value(_));
        }
        for (name, assign) in &wish.expect {
            let column = table.column("expect", name)?;
            let value = format!("CAST({} AS {})", text(assign, column), column.cast);
            expected.push(same(column, column.equality != Equality::None, &value));
            by_list &= matches!(assign, Assign::Value(_));
        }
        if let Some(name) = &wish.version {
            let column = table.writable("version", name)?;
            keeps_key(column)?;
            once("version", "set", changed.iter().copied(), column)?;
            column.check_number("version")?;
            changed.push(&column.name);
            let Column { name, is_not_null, .. } = column;
            let before = if *is_not_null { format!("t.{name}") } else { format!("coalesce(t.{name}, 0)") };
            sets.push(format!("{name} = {before} + 1"));
        }
        let already = already.join(" AND ");
        let expected = if expected.is_empty() { "true".to_owned() } else { expected.join(" AND ") };
        let lock = table.lock(changed.into_iter());
        Ok(Self { key, sets, already, expected, shared, inputs, times, by_list, lock })
    }
}

/// Refuses a column that is among those before, in whichever spelling.
fn once<'a>(
    field: &str,
    verb: &str,
    mut before: impl Iterator<Item = &'a String>,
    column: &Column,
) -> Result<(), Error> {
    if before.all(|name| *name != column.name) {
        return Ok(());
    }
    Err(Error::configuration(field, format!("column {} is {verb} twice", column.name)))
}

impl Statements {
    /// Readies a session that they run on.
    pub(crate) async fn settle(&self, client: &Client) -> Result<(), Failure> {
        Ok(client.batch_execute(&format!("{EXACT}; {}", self.settings.unwrap_or_default())).await?)
    }

    /// The same statements beside a query of the caller's, on one session: planned as that is.
    pub(crate) fn beside_a_query(self) -> Self {
        Self { settings: None, ..self }
    }

    /// Writes them; fails when a column does not exist or cannot serve.
    pub(crate) fn write(wish: &Wish, table: &Table) -> Result<Self, Error> {
        let Terms { key, sets, already, expected, shared, inputs, times, by_list, lock } =
            Terms::of(wish, table)?;
        let eligible = format!("NOT ({already}) AND {expected}");
        let columns: Vec<String> = (1..=inputs.len()).map(|n| format!("c{n}")).collect();
        let columns = columns.join(", ");
        let input = format!("{} WITH ORDINALITY AS i({columns}, n)", rows_of(inputs.len()));
        let matches: Vec<String> = key
            .iter()
            .zip(1..)
            .map(|(column, n)| format!("{} = CAST(i.c{n} AS {})", column.operand(), column.cast))
            .collect();
        let matches = matches.join(" AND ");
        let (name, sets) = (&table.name, sets.join(", "));
        let changed = format!(
            "WITH changed AS (UPDATE {name} AS t SET {sets} FROM {input} \
             WHERE {INSIDE} AND {matches} AND {eligible} RETURNING i.n)"
        );
        let mark = mark(table);
        let [fast, whole] = match &*key {
            // A tenth cheaper than a join. Two texts may be one key: its row counts for one of them.
            [column] if by_list => {
                let (cast, key) = (&column.cast, column.operand());
                let changed = format!(
                    "WITH changed AS (UPDATE {name} AS t SET {sets} \
                     WHERE {INSIDE} AND {key} = ANY (CAST($1::pg_catalog.text[] AS {cast}[])) AND {eligible} \
                     RETURNING {key} AS key)"
                );
                let places = format!(
                    "SELECT pg_catalog.min(i.n) FROM changed AS c JOIN {input} ON c.key = CAST(i.c1 AS {cast}) GROUP BY c.key"
                );
                [done(&changed, &mark, &places), all_or_none(&changed, table)]
            }
            _ => [done(&changed, &mark, "SELECT n FROM changed"), all_or_none(&changed, table)],
        };
        let names: Vec<String> = key.iter().map(|column| column.name.clone()).collect();
        let unique = table.is_unique(&names);
        // Of a row that was found no key is NULL.
        let found = key.first().map_or_else(String::new, |column| column.operand());
        // In the order of enum `Verdict`.
        let judge = |with: &str, updated: &str, join: &str, eligible: &str| {
            format!(
                "{with}SELECT {mark}, pg_catalog.array_agg(j.verdict ORDER BY j.n) FROM (\
                 SELECT i.n, CASE WHEN pg_catalog.count({found}) > 1 THEN 5 WHEN {updated} THEN 0 \
                 WHEN pg_catalog.count({found}) = 0 THEN 3 WHEN pg_catalog.bool_and({already}) THEN 1 \
                 WHEN NOT pg_catalog.bool_and({expected}) THEN 2 ELSE {eligible} END AS verdict \
                 FROM {input} LEFT JOIN {name} AS t ON {matches}{join} GROUP BY i.n) j"
            )
        };
        // Parameters that a statement does not use would have no type: name them all, once.
        let typed: Vec<String> = (1..=shared.len())
            .map(|n| format!("CAST(${} AS pg_catalog.text) IS NULL", inputs.len() + n))
            .collect();
        let typed = if typed.is_empty() {
            String::new()
        } else {
            format!(", pg_catalog.bool_or({})", typed.join(" OR "))
        };
        Ok(Self {
            fast: unique.then_some(fast),
            whole: unique.then_some(whole),
            lock: format!(
                "SELECT pg_catalog.count(*){typed} FROM (SELECT FROM {input} JOIN {name} AS t ON {matches} \
                 ORDER BY i.n FOR {lock} OF t) AS locked"
            ),
            judge: judge(
                &format!("{changed} "),
                "pg_catalog.bool_or(c.n IS NOT NULL)",
                " LEFT JOIN (SELECT DISTINCT n FROM changed) AS c ON c.n = i.n",
                "4",
            ),
            look: judge("", "false", "", "0"),
            shared,
            inputs,
            times,
            settings: (unique && !table.has_triggers).then_some(BY_INDEX),
            parts: Parts {
                table: name.clone(),
                key: key.iter().map(|column| KeyPart::of(column)).collect(),
                eligible,
                lock,
            },
        })
    }
}

impl KeyPart {
    fn of(column: &Column) -> Self {
        Self { operand: column.operand(), cast: column.cast.clone(), type_oid: column.type_oid }
    }
}

/// What the fate of the transaction will be known by ([`Mark`](crate::decide::update::life::Mark)), asked when the rows
/// are changed.
fn mark(table: &Table) -> String {
    let xid = "pg_catalog.pg_current_xact_id_if_assigned()::text";
    if table.is_logged { format!("coalesce({xid}, '') || ' ' || {POSITION}") } else { xid.to_owned() }
}

/// Where the server's log is.
const POSITION: &str = "pg_catalog.pg_current_wal_insert_lsn()::text";

/// Ends a statement that has `changed` rows: the transaction's mark, and the `places` of their keys in the input,
/// NULL when they are all.
fn done(changed: &str, mark: &str, places: &str) -> String {
    format!(
        "{changed} SELECT {mark}, CASE WHEN d.n < pg_catalog.cardinality($1::pg_catalog.text[]) THEN ARRAY({places}) END \
         FROM (SELECT pg_catalog.count(*) AS n FROM changed) AS d"
    )
}

/// Ends a statement that has `changed` rows: fails ([`PARTED`](crate::decide::update::gate::PARTED)) where they are fewer
/// than the keys, else says where the log is. The server's log quotes the text, and its reader may wonder.
fn all_or_none(changed: &str, table: &Table) -> String {
    let position = if table.is_logged { POSITION } else { "CAST(NULL AS pg_catalog.text)" };
    format!(
        "{changed} SELECT CASE WHEN d.n < pg_catalog.cardinality($1::pg_catalog.text[]) THEN CAST('headcount: ' || d.n \
         || ' of ' || pg_catalog.cardinality($1::pg_catalog.text[]) || ' rows are as expected; they are looked at one by one' \
         AS pg_catalog.bool) END, {position} FROM (SELECT pg_catalog.count(*) AS n FROM changed) AS d"
    )
}

/// True when the row holds the value, NULL included: by the type's operator, or as text.
fn same(column: &Column, by_operator: bool, value: &str) -> String {
    let name = column.operand();
    if by_operator {
        format!("{name} IS NOT DISTINCT FROM {value}")
    } else {
        format!(
            "{name}::pg_catalog.text COLLATE pg_catalog.\"C\" IS NOT DISTINCT FROM ({value})::pg_catalog.text"
        )
    }
}

/// The rows of the arrays that are the first so many parameters, one array a column. A list in `unnest` itself would be
/// shorter, but is understood only without a schema before it.
pub(super) fn rows_of(columns: usize) -> String {
    let arrays: Vec<String> =
        (1..=columns).map(|n| format!("pg_catalog.unnest(${n}::pg_catalog.text[])")).collect();
    format!("ROWS FROM ({})", arrays.join(", "))
}
