//! CREATE INDEX: what it builds, and how many workers it can have for that.
//!
//! The planner counts before the build begins (planner.c, `plan_create_index_workers`): none for a temporary
//! table; the table's own `parallel_workers` where it is set, whatever the size and the memory are; else
//! what its size gives, as for a scan, but no more than leave each participant, the leader among them,
//! 32 MB of `maintenance_work_mem`. Of the server's own access methods B-tree has workers, BRIN since 17, GIN
//! since 18. A partitioned table has one index a partition, built one after the other.
//!
//! Expressions and predicates that are not parallel safe forbid workers, too. Which function a name means
//! needs a parser, so that is left out: the bound is never too low.

use std::fmt::Write as _;

use tokio_postgres::Client;

use super::Failure;
use super::diagnose::{number, size};
use super::lexer::{Lexer, Token};
use super::reason::{Reason, ReasonKind};
use super::server::{self, Setting, Table, threshold_for, workers_for};
use crate::fix::Fix;

/// The least that a participant has of `maintenance_work_mem`, in its unit.
const SHARE_KB: u64 = 32 * 1024;

/// The least that the planner takes for a new table (tableam.c, `table_block_relation_estimate_size`).
const LEAST_PAGES: u64 = 10;

/// The first version of which it is not known which access methods have workers.
const UNKNOWN_VERSION: i32 = 200_000;

/// The tables that have storage, and the server's version.
const TABLES: &str = concat!(
    "
    WITH ",
    serial!(),
    ", named AS (SELECT pg_catalog.to_regclass($1) AS oid)
    SELECT n.nspname::text, c.relname::text
    FROM (SELECT oid FROM named UNION SELECT relid FROM named, pg_catalog.pg_partition_tree(named.oid)) AS parts
    JOIN pg_catalog.pg_class c ON c.oid = parts.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm')",
);

/// CREATE INDEX, as far as tokens tell.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// As it is written.
    table: String,
    method: String,
    /// Those that are plain names, quoted.
    columns: Vec<String>,
}

impl Wanted {
    fn read(sql: &str) -> Option<Self> {
        let mut tokens = Tokens::new(sql);
        tokens.find(|(token, _)| is(token, "on"))?;
        tokens.take_word("only");
        let (mut table, mut name) = (String::new(), tokens.next()?);
        loop {
            match name {
                (Token::Word(_), text) => table.push_str(&text),
                (Token::Quoted(name), _) => {
                    let _ = write!(table, "\"{}\"", name.replace('"', "\"\""));
                }
                _ => return None,
            }
            if !tokens.next_is(&Token::Mark('.')) {
                break;
            }
            table.push('.');
            tokens.next();
            name = tokens.next()?;
        }
        let mut method = "btree".to_owned();
        if tokens.take_word("using") {
            let (Token::Word(name) | Token::Quoted(name), _) = tokens.next()? else { return None };
            method = name;
        }
        let mut columns = tokens.columns()?;
        if tokens.take_word("include") {
            columns.extend(tokens.columns()?);
        }
        Some(Self { table, method, columns })
    }

    /// The server's own words for a table or a column that is not there.
    async fn look_up(&self, client: &Client) -> Result<(), Failure> {
        // Reading it needs no right to the rows; nothing is executed.
        client.prepare(&format!("SELECT {} FROM {}", self.columns.join(", "), self.table)).await?;
        Ok(())
    }
}

fn is(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(found) if found == word)
}

/// Tokens with their text, and a look at the next one.
struct Tokens<'a> {
    lexer: Lexer<'a>,
    ahead: Option<(Token, String)>,
}

impl<'a> Tokens<'a> {
    fn new(sql: &'a str) -> Self {
        let mut tokens = Self { lexer: Lexer::new(sql), ahead: None };
        tokens.next();
        tokens
    }

    fn next_is(&self, token: &Token) -> bool {
        self.ahead.as_ref().is_some_and(|(ahead, _)| ahead == token)
    }

    /// Takes this word, if it is the next one.
    fn take_word(&mut self, word: &str) -> bool {
        let found = self.next_is(&Token::Word(word.to_owned()));
        if found {
            self.next();
        }
        found
    }

    /// The plain names of a list in parentheses.
    fn columns(&mut self) -> Option<Vec<String>> {
        self.next().filter(|(token, _)| *token == Token::Mark('('))?;
        let (mut columns, mut depth, mut begins) = (Vec::new(), 0, true);
        loop {
            let (token, _) = self.next()?;
            let plain = match &self.ahead {
                Some((Token::Mark(mark), _)) => matches!(mark, ',' | ')'),
                Some((token, _)) => matches!(token, Token::Word(_) | Token::Quoted(_)),
                None => false,
            };
            match token {
                Token::Mark(')') if depth == 0 => return Some(columns),
                Token::Mark('(' | '[') => depth += 1,
                Token::Mark(')' | ']') => depth -= 1,
                // CURRENT_DATE and the like are functions; other letters than ASCII's fold by the encoding.
                Token::Word(word) if begins && plain && word.is_ascii() && !is_value(&word) => {
                    columns.push(format!("\"{word}\""));
                }
                Token::Quoted(name) if begins && plain => {
                    columns.push(format!("\"{}\"", name.replace('"', "\"\"")));
                }
                Token::Mark(',') if depth == 0 => {
                    begins = true;
                    continue;
                }
                _ => {}
            }
            begins = false;
        }
    }
}

/// Keywords that are expressions by themselves (gram.y, `func_expr_common_subexpr`).
fn is_value(word: &str) -> bool {
    word.starts_with("current_")
        || matches!(word, "localtime" | "localtimestamp" | "session_user" | "system_user" | "user")
}

impl Iterator for Tokens<'_> {
    type Item = (Token, String);

    fn next(&mut self) -> Option<Self::Item> {
        let before = self.lexer.read();
        let ahead = self.lexer.next().map(|token| (token, self.lexer.token_since(before).to_owned()));
        std::mem::replace(&mut self.ahead, ahead)
    }
}

/// Who builds the indexes of an access method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Builds {
    Together,
    /// The leader alone, before this version.
    AloneBefore(u32),
    Alone,
}

impl Builds {
    /// `None` for an access method that is not the server's own, or of a version that is not known.
    fn of(method: &str, version: i32) -> Option<Self> {
        if method == "btree" {
            return Some(Self::Together);
        }
        if version >= UNKNOWN_VERSION {
            return None;
        }
        match method {
            "brin" if version < 170_000 => Some(Self::AloneBefore(17)),
            "gin" if version < 180_000 => Some(Self::AloneBefore(18)),
            "brin" | "gin" => Some(Self::Together),
            "hash" | "gist" | "spgist" => Some(Self::Alone),
            _ => None,
        }
    }
}

/// The indexes that one CREATE INDEX builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Build {
    method: String,
    builds: Builds,
    /// The table, or its partitions.
    tables: Vec<Table>,
}

impl Build {
    /// `None` where no more is known than the settings. An error where the table or a column is not there.
    pub(super) async fn read(client: &Client, sql: &str, version: i32) -> Result<Option<Self>, Failure> {
        let Some(wanted) = Wanted::read(sql) else { return Ok(None) };
        wanted.look_up(client).await?;
        let Some(builds) = Builds::of(&wanted.method, version) else { return Ok(None) };
        let names = client.query(TABLES, &[&wanted.table]).await?;
        let names: Vec<_> =
            names.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, Failure>>()?;
        let tables = server::tables(client, &names).await?;
        Ok((!tables.is_empty()).then_some(Self { method: wanted.method, builds, tables }))
    }

    /// The most that the build of one of them asks for, were there no other limit.
    pub(super) fn workers(&self, settings: &[Setting]) -> u32 {
        if self.builds != Builds::Together {
            return 0;
        }
        self.tables.iter().map(|table| most(table, settings)).max().unwrap_or(u32::MAX)
    }

    /// Why it has no workers whatever is set; `None` where it may have some.
    pub(super) fn serial(&self) -> Option<Reason> {
        let method = &self.method;
        let fix = match self.builds {
            Builds::Together => None,
            Builds::AloneBefore(version) => Some(Fix::none(format!(
                "PostgreSQL {version} is the first to build {method} indexes with workers"
            ))),
            Builds::Alone => Some(Fix::none(format!("{method} indexes are built by the leader alone"))),
        };
        if let Some(fix) = fix {
            let explanation = format!("the access method {method} builds in the leader alone");
            return Some(Reason { kind: ReasonKind::AccessMethod, explanation, fixes: vec![fix] });
        }
        let temporary = self.tables.iter().all(|table| table.temporary);
        temporary.then(|| Reason {
            kind: ReasonKind::TemporaryTable,
            explanation: format!(
                "{} is a temporary table, which only the leader can read",
                self.tables[0].name
            ),
            fixes: vec![Fix::advice(
                "create it with CREATE UNLOGGED TABLE instead of CREATE TEMPORARY TABLE",
            )],
        })
    }

    /// Why the table that can have the most has not the target.
    pub(super) fn reasons(&self, settings: &[Setting], target: u32) -> Vec<Reason> {
        let best = self.tables.iter().max_by_key(|table| (most(table, settings), table.bytes));
        let Some(table) = best.filter(|table| most(table, settings) < target) else { return Vec::new() };
        let name = &table.name;
        let alter = Fix::sql(format!("ALTER TABLE {name} SET (parallel_workers = {target})"));
        if let Some(own) = table.parallel_workers {
            let explanation = format!("{name} has the storage parameter parallel_workers = {own}");
            return vec![Reason { kind: ReasonKind::TableParallelWorkers, explanation, fixes: vec![alter] }];
        }
        let mut reasons = Vec::new();
        let value = |name| settings.iter().find(|setting| setting.name == name).map_or("?", |it| &it.value);
        let sized = by_size(table, settings);
        if sized < target {
            let mut fixes = vec![alter.clone()];
            let block = number(settings, "block_size").max(1);
            if let Some(pages) = threshold_for(pages(table, settings), target) {
                fixes.push(Fix::set("min_parallel_table_scan_size", format!("{}kB", pages * block / 1024)));
            }
            let explanation = format!(
                "{name} has {}: that counts for {sized} of {target} workers with min_parallel_table_scan_size = {}",
                size(table.bytes),
                value("min_parallel_table_scan_size")
            );
            reasons.push(Reason { kind: ReasonKind::SmallTable, explanation, fixes });
        }
        let shared = by_memory(settings);
        if shared < target {
            let explanation = format!(
                "maintenance_work_mem = {} is enough for {shared} of {target} workers: the leader and each worker have 32 MB of it \
                 at least",
                value("maintenance_work_mem")
            );
            let megabytes = u64::from(target).saturating_add(1).saturating_mul(SHARE_KB) / 1024;
            let fixes = vec![Fix::set("maintenance_work_mem", format!("{megabytes}MB")), alter];
            reasons.push(Reason { kind: ReasonKind::MaintenanceMemory, explanation, fixes });
        }
        reasons
    }
}

fn most(table: &Table, settings: &[Setting]) -> u32 {
    match table.parallel_workers {
        _ if table.temporary => 0,
        Some(own) => own,
        None => by_size(table, settings).min(by_memory(settings)),
    }
}

fn pages(table: &Table, settings: &[Setting]) -> u64 {
    let pages = table.bytes / number(settings, "block_size").max(1);
    if table.fresh { pages.max(LEAST_PAGES) } else { pages }
}

/// What its size gives. Only of the server's own kind of table is it known how that is estimated.
fn by_size(table: &Table, settings: &[Setting]) -> u32 {
    if !table.heap {
        return u32::MAX;
    }
    workers_for(pages(table, settings), number(settings, "min_parallel_table_scan_size"))
}

fn by_memory(settings: &[Setting]) -> u32 {
    let participants = number(settings, "maintenance_work_mem") / SHARE_KB;
    u32::try_from(participants.saturating_sub(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_the_method_and_plain_columns_are_read() {
        let check = |sql: &str, table: &str, method: &str, columns: &[&str]| {
            let columns = columns.iter().map(|name| format!("\"{name}\"")).collect();
            let (table, method) = (table.to_owned(), method.to_owned());
            assert_eq!(Wanted::read(sql), Some(Wanted { table, method, columns }), "{sql}");
        };
        check("create index on t (id)", "t", "btree", &["id"]);
        check(
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON ONLY S . \"A.b\" USING gin (Id DESC, \"x y\" gin_ops (a = 1)) \
             INCLUDE (pad) WITH (fillfactor = 70) WHERE z > 0",
            "S.\"A.b\"",
            "gin",
            &["id", "x y", "pad"],
        );
        check(
            "create index on t (lower(a), (b), s.f(c, d), current_date, U&\"\\0065\", g)",
            "t",
            "btree",
            &["e", "g"],
        );
        check("create index on U&\"t\\0061\".\"b\"\"c\" (a)", "\"ta\".\"b\"\"c\"", "btree", &["a"]);
        for sql in ["create index", "create index on t", "create index on t (a", "create index on 'a' (a)"] {
            assert_eq!(Wanted::read(sql), None, "{sql}");
        }
    }

    #[test]
    fn access_methods_that_are_not_known_are_not_judged() {
        for (method, version, builds) in [
            ("btree", 130_000, Some(Builds::Together)),
            ("btree", 190_000, Some(Builds::Together)),
            ("brin", 160_009, Some(Builds::AloneBefore(17))),
            ("brin", 170_000, Some(Builds::Together)),
            ("gin", 170_005, Some(Builds::AloneBefore(18))),
            ("gin", 180_000, Some(Builds::Together)),
            ("hash", 180_000, Some(Builds::Alone)),
            ("hash", 190_000, Some(Builds::Alone)),
            ("gist", 200_000, None),
            ("hnsw", 180_000, None),
        ] {
            assert_eq!(Builds::of(method, version), builds, "{method} {version}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(sql in "(create index )?(on t )?[a-z()';$\"/*\\-., E\\\\é1]{0,40}") {
            let _ = Wanted::read(&sql);
        }
    }
}
