//! The functions that a statement calls, and what they do to its workers.
//!
//! The names come from three texts: the statement, the plan's expressions (row-level security,
//! generated expressions), and the definitions of the views that the statement names, since an
//! unsafe function that is inlined is gone from the plan and still forbids workers. What no text names,
//! [`hidden`](super::hidden) finds. The catalog then
//! says which of the names are functions. An overload is told by its schema and by its number of
//! arguments; where that leaves several, all are named.

use std::collections::{BTreeSet, HashMap};

use futures_util::future::join4;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::Failure;
use super::hidden::{FIRST_OWN, Touched, hidden, may_hide};
use super::text::{Call, Text};
use super::tree::Tree;

/// Views within views, and functions called by functions, are followed this deep.
const MAX_DEPTH: usize = 8;

/// A function, procedure or aggregate: a row of `pg_proc`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "columns of a catalog, not states")]
pub(super) struct Routine {
    oid: u32,
    /// Qualified, with the types of its arguments.
    pub(super) name: String,
    pub(super) hazard: Hazard,
    pub(super) aggregate: bool,
    /// The server's own, or made one: nobody alters those.
    pub(super) builtin: bool,
    schema: String,
    plain_name: String,
    arguments: usize,
    defaults: usize,
    variadic: bool,
    visible: bool,
    language: String,
    source: String,
}

/// `pg_proc.proparallel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hazard {
    Safe,
    /// Only in the leader.
    Restricted,
    /// Forbids workers for the whole statement.
    Unsafe,
}

/// What the functions of a statement mean for its workers.
#[derive(Debug, Clone, Default)]
pub(super) struct Routines {
    /// PARALLEL UNSAFE or RESTRICTED ones.
    pub(super) hazards: Vec<Routine>,
    /// Functions that run queries of their own, by name.
    pub(super) unseen: Vec<String>,
    /// Whether what is called may change data, definitions or settings.
    pub(super) may_change: bool,
}

const COLUMNS: &str = concat!(
    "
    WITH ",
    serial!(),
    "
    SELECT pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.oidvectortypes(p.proargtypes)),
           p.proparallel::text, p.prokind = 'a', p.oid < 16384 OR n.nspname = 'pg_catalog', n.nspname::text, p.proname::text,
           p.pronargs::int, p.pronargdefaults::int, p.provariadic <> 0,
           pg_catalog.pg_function_is_visible(p.oid), l.lanname::text, p.prosrc, p.oid
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_catalog.pg_language l ON l.oid = p.prolang"
);

const BY_NAME: &str = "WHERE p.proname = ANY ($1::pg_catalog.name[])";

// Built-in operators are all safe.
const BY_OPERATOR: &str = "
    WHERE p.oid IN (SELECT o.oprcode FROM pg_catalog.pg_operator o
                    WHERE o.oprname::text = ANY ($1) AND o.oid >= 16384 AND pg_catalog.pg_operator_is_visible(o.oid))";

const BY_OID: &str = "WHERE p.oid = ANY ($1::oid[])";

const VIEWS: &str = concat!(
    "
    WITH ",
    serial!(),
    "
    SELECT c.relname::text, pg_catalog.pg_get_viewdef(c.oid)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'v' AND c.relname::text = ANY ($1)
      AND (pg_catalog.pg_table_is_visible(c.oid) OR n.nspname::text = ANY ($1))"
);

/// What is asked of the catalog for one statement.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Question {
    calls: [BTreeSet<Call>; 2],
    names: [BTreeSet<String>; 2],
    operators: [BTreeSet<String>; 2],
    tables: [Vec<(String, String)>; 2],
}

impl Question {
    fn new(said: &Text, shown: &[Text], tree: &Tree) -> Self {
        Self {
            calls: [said.calls(), shown.iter().flat_map(Text::calls).collect()],
            names: [said.names(), shown.iter().flat_map(Text::names).collect()],
            operators: [said.operators(), shown.iter().flat_map(Text::operators).collect()],
            tables: [tree.tables.clone(), tree.written.clone()],
        }
    }
}

/// Answers that hold for as long as nothing is changed: the statements of a long script mostly ask the same.
#[derive(Debug, Default)]
pub(super) struct Answers(HashMap<Question, Routines>);

impl Answers {
    /// As [`Routines::read`].
    pub(super) async fn read(
        &mut self,
        client: &Client,
        sql: &str,
        tree: &Tree,
    ) -> Result<Routines, Failure> {
        let (said, shown) = texts(sql, tree);
        let question = Question::new(&said, &shown, tree);
        if let Some(known) = self.0.get(&question) {
            return Ok(known.clone());
        }
        let found = Routines::look_up(client, said, &shown, tree).await?;
        self.0.insert(question, found.clone());
        Ok(found)
    }

    /// Names may mean something else from now on.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

/// What the statement says, and what its plan shows.
fn texts(sql: &str, tree: &Tree) -> (Text, Vec<Text>) {
    (Text::new(sql), tree.expressions.iter().map(|text| Text::new(text)).collect())
}

impl Routines {
    /// Looks up what the statement calls.
    pub(super) async fn read(client: &Client, sql: &str, tree: &Tree) -> Result<Self, Failure> {
        let (said, shown) = texts(sql, tree);
        Self::look_up(client, said, &shown, tree).await
    }

    async fn look_up(client: &Client, said: Text, shown: &[Text], tree: &Tree) -> Result<Self, Failure> {
        let mut said = vec![said];
        let shown_calls: BTreeSet<Call> = shown.iter().flat_map(Text::calls).collect();
        let calls = |said: &[Text]| -> BTreeSet<Call> {
            shown_calls.iter().cloned().chain(said.iter().flat_map(Text::calls)).collect()
        };
        let operators = |said: &[Text]| said.iter().chain(shown).flat_map(Text::operators).collect();
        // Mostly it names no view, and one round trip answers for all.
        let (first_calls, first_operators) = (calls(&said), operators(&said));
        let (views, first_called, by_operator, may_hide) = join4(
            views(client, &said[0]),
            by_calls(client, &first_calls),
            by_names(client, BY_OPERATOR, &first_operators),
            may_hide(client, &touched_by(tree, said.iter().chain(shown), &[])),
        )
        .await;
        let (views, mut called) = (views?, first_called?);
        called.extend(by_operator?);
        let may_hide =
            may_hide? || !views.is_empty() || called.iter().any(|routine| routine.oid >= FIRST_OWN);
        if !views.is_empty() {
            said.extend(views);
            called = by_calls(client, &calls(&said)).await?;
            called.extend(by_names(client, BY_OPERATOR, &operators(&said)).await?);
        }
        let hazards = called.iter().filter(|routine| routine.hazard != Hazard::Safe).cloned().collect();

        // The server's own are PARALLEL UNSAFE when they change something: set_config, setval...
        let may_change = called.iter().any(|routine| !routine.builtin || routine.hazard == Hazard::Unsafe);

        let hidden = if may_hide {
            let touched = touched_by(tree, said.iter().chain(shown), &called);
            by_oids(client, &hidden(client, &touched).await?).await?
        } else {
            Vec::new()
        };
        // A function in SQL that the planner inlined is no call any more: its query is in the plan.
        called.retain(|routine| {
            routine.language != "sql" || shown_calls.iter().any(|call| routine.is_called_by(call))
        });
        called.extend(hidden);
        let unseen = that_run_queries(client, called).await?;
        Ok(Self { hazards, unseen, may_change })
    }
}

impl Routine {
    /// One of a test's.
    #[cfg(test)]
    pub(super) fn scripted(name: &str, hazard: Hazard) -> Self {
        let plain_name = name.split(['.', '(']).nth(1).unwrap_or(name).to_owned();
        Self {
            oid: 0,
            name: name.to_owned(),
            hazard,
            aggregate: false,
            builtin: false,
            schema: "public".to_owned(),
            plain_name,
            arguments: 1,
            defaults: 0,
            variadic: false,
            visible: true,
            language: "plpgsql".to_owned(),
            source: String::new(),
        }
    }

    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let count = |column| row.try_get::<_, i32>(column).map(|n| usize::try_from(n).unwrap_or(0));
        Ok(Self {
            name: row.try_get(0)?,
            hazard: match row.try_get(1)? {
                "s" => Hazard::Safe,
                "r" => Hazard::Restricted,
                _ => Hazard::Unsafe,
            },
            aggregate: row.try_get(2)?,
            builtin: row.try_get(3)?,
            schema: row.try_get(4)?,
            plain_name: row.try_get(5)?,
            arguments: count(6)?,
            defaults: count(7)?,
            variadic: row.try_get(8)?,
            visible: row.try_get(9)?,
            language: row.try_get(10)?,
            source: row.try_get(11)?,
            oid: row.try_get(12)?,
        })
    }

    fn is_called_by(&self, call: &Call) -> bool {
        let reached = call.schema.as_ref().map_or(self.visible, |schema| *schema == self.schema);
        let least = self.arguments.saturating_sub(self.defaults + usize::from(self.variadic));
        let fits = call.arguments.is_none_or(|given| {
            given >= least && (given <= self.arguments || self.variadic)
                // percentile_cont(0.5) WITHIN GROUP (ORDER BY x) has an argument outside the parenthesis.
                || self.aggregate
        });
        reached && fits && self.plain_name == call.name
    }

    /// Whether it may run a query that reads a relation, as far as its source shows.
    fn runs_queries(&self) -> bool {
        match self.language.as_str() {
            "internal" => {
                self.plain_name.contains("_to_xml")
                    || matches!(self.plain_name.as_str(), "ts_stat" | "ts_rewrite")
            }
            "c" => !self.builtin && self.hazard == Hazard::Unsafe,
            "sql" | "plpgsql" => {
                let keywords =
                    ["from", "execute", "table", "refresh", "create", "alter", "reindex", "cluster"];
                // BEGIN ATOMIC (14+) leaves no source text.
                !self.builtin && (self.source.is_empty() || Text::new(&self.source).mentions(&keywords))
            }
            _ => true,
        }
    }
}

/// The definitions of the views that a text names, and of the views that they name.
async fn views(client: &Client, text: &Text) -> Result<Vec<Text>, Failure> {
    let mut names = text.names();
    let mut known = BTreeSet::new();
    let mut definitions = Vec::new();
    for _ in 0..MAX_DEPTH {
        let asked: Vec<&String> = names.iter().collect();
        let mut found = Vec::new();
        for row in client.query_typed(VIEWS, &[(&asked, Type::TEXT_ARRAY)]).await? {
            if known.insert(row.try_get::<_, String>(0)?) {
                found.push(Text::new(row.try_get(1)?));
            }
        }
        if found.is_empty() {
            break;
        }
        names = found.iter().flat_map(Text::names).collect();
        definitions.extend(found);
    }
    Ok(definitions)
}

async fn by_calls(client: &Client, calls: &BTreeSet<Call>) -> Result<Vec<Routine>, Failure> {
    let names = calls.iter().map(|call| call.name.clone()).collect();
    let mut routines = by_names(client, BY_NAME, &names).await?;
    routines.retain(|routine| calls.iter().any(|call| routine.is_called_by(call)));
    Ok(routines)
}

async fn by_names(
    client: &Client,
    condition: &str,
    names: &BTreeSet<String>,
) -> Result<Vec<Routine>, Failure> {
    let names: Vec<&String> = names.iter().collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!("{COLUMNS} {condition} ORDER BY 1");
    let rows = client.query_typed(&sql, &[(&names, Type::TEXT_ARRAY)]).await?;
    Ok(rows.iter().map(Routine::from_row).collect::<Result<_, _>>()?)
}

async fn by_oids(client: &Client, oids: &[u32]) -> Result<Vec<Routine>, Failure> {
    if oids.is_empty() {
        return Ok(Vec::new());
    }
    let rows =
        client.query_typed(&format!("{COLUMNS} {BY_OID} ORDER BY 1"), &[(&oids, Type::OID_ARRAY)]).await?;
    Ok(rows.iter().map(Routine::from_row).collect::<Result<_, _>>()?)
}

/// What a statement touches, by its plan and by the texts that it is known from.
fn touched_by<'a>(tree: &Tree, texts: impl Iterator<Item = &'a Text>, called: &[Routine]) -> Touched {
    let names: BTreeSet<String> = texts.flat_map(Text::names).collect();
    Touched {
        written: tree.written.clone(),
        read: tree.tables.clone(),
        names: names.into_iter().collect(),
        called: called.iter().map(|routine| routine.oid).collect(),
    }
}

/// Functions that no text names, but that come with those.
async fn hidden_in(client: &Client, called: &[u32]) -> Result<Vec<Routine>, Failure> {
    let touched = Touched { called: called.to_vec(), ..Touched::default() };
    by_oids(client, &hidden(client, &touched).await?).await
}

/// Those that run queries, themselves or through what they call.
async fn that_run_queries(client: &Client, called: Vec<Routine>) -> Result<Vec<String>, Failure> {
    let mut unseen = Vec::new();
    let mut known = BTreeSet::new();
    let mut routines = called;
    for depth in 0..MAX_DEPTH {
        let (mut calls, mut parts) = (BTreeSet::new(), Vec::new());
        for routine in routines {
            if !known.insert(routine.name.clone()) {
                continue;
            }
            if routine.runs_queries() {
                unseen.push(routine.name);
            } else if !routine.builtin {
                // What the statement calls itself was asked about already.
                parts.extend((depth > 0).then_some(routine.oid));
                if matches!(routine.language.as_str(), "sql" | "plpgsql") {
                    calls.extend(Text::new(&routine.source).calls());
                }
            }
        }
        if calls.is_empty() && parts.is_empty() {
            return Ok(unseen);
        }
        routines = by_calls(client, &calls).await?;
        if !parts.is_empty() {
            routines.extend(hidden_in(client, &parts).await?);
        }
    }
    // Not followed any deeper: nothing is known of these.
    unseen.extend(routines.into_iter().map(|routine| routine.name).filter(|name| !known.contains(name)));
    Ok(unseen)
}
