//! VACUUM: what it is about, and how many workers it can have for that.
//!
//! Its workers share the indexes of one table after the other: one each that has
//! `min_parallel_index_scan_size`, but for the leader's own (vacuumparallel.c,
//! `parallel_vacuum_compute_workers`). A partitioned table stands for its partitions, and since 18 any table for
//! those that inherit from it (vacuum.c, `expand_vacuum_rel`). FULL builds the indexes anew instead.

use std::fmt::Write as _;

use tokio_postgres::Client;

use super::Failure;
use super::lexer::{Lexer, Token};
use super::reason::{Reason, ReasonKind};
use super::server::Setting;
use crate::fix::Fix;

/// The server's own words for a table that is not there.
const LOOK_UP: &str = "SELECT name::pg_catalog.regclass FROM pg_catalog.unnest($1::text[]) AS name";

/// The table among these, or among those that they stand for, whose indexes keep the most workers busy.
const INDEXES: &str = concat!(
    "
    WITH RECURSIVE ",
    serial!(),
    ", parts AS (
        SELECT pg_catalog.to_regclass(name)::oid AS oid FROM pg_catalog.unnest($1::text[]) AS name
        UNION
        SELECT i.inhrelid FROM parts JOIN pg_catalog.pg_inherits i ON i.inhparent = parts.oid
        JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
        WHERE p.relkind = 'p' OR pg_catalog.current_setting('server_version_num')::int >= 180000),
    least AS (SELECT setting::bigint * pg_catalog.current_setting('block_size')::bigint AS bytes
              FROM pg_catalog.pg_settings WHERE name = 'min_parallel_index_scan_size')
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.count(i.indexrelid), pg_catalog.count(i.indexrelid) FILTER (
             WHERE pg_catalog.pg_relation_size(i.indexrelid) >= (SELECT bytes FROM least))
    FROM parts JOIN pg_catalog.pg_class c ON c.oid = parts.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_index i ON i.indrelid = parts.oid
    GROUP BY 1 ORDER BY 3 DESC, 2 DESC LIMIT 1",
);

/// VACUUM, as far as tokens tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Vacuum {
    /// Quoted. None: all of the database.
    tables: Vec<String>,
    full: bool,
    /// The number in PARALLEL.
    pub(super) parallel: Option<u32>,
}

impl Vacuum {
    /// `None` for another statement.
    pub(super) fn new(sql: &str) -> Option<Self> {
        let mut lexer = Lexer::new(sql);
        lexer.next().filter(|first| is(first, &["vacuum"]))?;
        let mut vacuum = Self { tables: Vec::new(), full: false, parallel: None };
        let mut name = String::new();
        let mut depth = 0;
        while let Some(token) = lexer.next() {
            match token {
                Token::Mark('(') => depth += 1,
                Token::Mark(')') => depth -= 1,
                // In parentheses are options before the tables, and columns after one.
                Token::Word(word) if depth > 0 && name.is_empty() => vacuum.option(&word, lexer.clone()),
                _ if depth > 0 => {}
                Token::Mark(',') => vacuum.tables.push(std::mem::take(&mut name)),
                Token::Mark('.') => name.push('.'),
                ref full if is(full, &["full"]) => vacuum.full = true,
                ref flag if is(flag, &["freeze", "verbose", "analyze", "analyse", "only"]) => {}
                Token::Word(part) | Token::Quoted(part) => {
                    let _ = write!(name, "\"{}\"", part.replace('"', "\"\""));
                }
                _ => {}
            }
        }
        if !name.is_empty() {
            vacuum.tables.push(name);
        }
        Some(vacuum)
    }

    /// `rest` is what follows its name. FULL without a value is on (define.c, `defGetBoolean`).
    fn option(&mut self, name: &str, mut rest: Lexer<'_>) {
        let before = rest.read();
        rest.next();
        let value = rest.token_since(before).trim_matches(['\'', '"']).to_lowercase();
        match name {
            "full" => self.full = !matches!(value.as_str(), "off" | "false" | "0"),
            "parallel" => self.parallel = value.parse().ok(),
            _ => {}
        }
    }
}

fn is(token: &Token, words: &[&str]) -> bool {
    matches!(token, Token::Word(word) if words.contains(&word.as_str()))
}

/// The indexes of a table that VACUUM is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Indexes {
    table: String,
    all: u32,
    /// Those that a worker may take.
    large: u32,
}

impl Indexes {
    /// `None` where no table bounds it: all tables, and FULL. An error where one is not there.
    pub(super) async fn read(client: &Client, vacuum: &Vacuum) -> Result<Option<Self>, Failure> {
        client.query(LOOK_UP, &[&vacuum.tables]).await?;
        if vacuum.full || vacuum.tables.is_empty() {
            return Ok(None);
        }
        let Some(row) = client.query_opt(INDEXES, &[&vacuum.tables]).await? else { return Ok(None) };
        let number =
            |column| Ok::<_, Failure>(u32::try_from(row.try_get::<_, i64>(column)?).unwrap_or(u32::MAX));
        Ok(Some(Self { table: row.try_get(0)?, all: number(1)?, large: number(2)? }))
    }

    pub(super) const fn workers(&self) -> u32 {
        self.large.saturating_sub(1)
    }

    /// Why it has no workers whatever is set; `None` where it may have some.
    pub(super) fn serial(&self) -> Option<Reason> {
        let found = match self.all {
            0 => "no index",
            1 => "one index",
            _ => return None,
        };
        Some(Reason {
            kind: ReasonKind::MaintenanceLimit,
            explanation: format!("{SHARE}: {} has {found}", self.table),
            fixes: vec![Fix::none("it runs in the leader alone")],
        })
    }

    /// The most that any setting gives it.
    pub(super) const fn most(&self) -> u32 {
        self.all.saturating_sub(1)
    }

    pub(super) fn reason(&self, least: Option<&Setting>, target: u32) -> Option<Reason> {
        if self.workers() >= target {
            return None;
        }
        let Self { table, all, large } = self;
        let size = least.map_or("?", |setting| &setting.value);
        let most = self.most();
        let fix = if most >= target {
            Fix::set("min_parallel_index_scan_size", 0)
        } else {
            let workers = if most == 1 { "worker" } else { "workers" };
            let with = if large < all { " with min_parallel_index_scan_size = 0" } else { "" };
            Fix::advice(format!("demand {most} {workers}{with}: there are no more indexes to share"))
        };
        let explanation =
            format!("{SHARE}: of the {all} of {table}, {large} have min_parallel_index_scan_size = {size}");
        Some(Reason { kind: ReasonKind::MaintenanceLimit, explanation, fixes: vec![fix] })
    }
}

const SHARE: &str = "VACUUM has a worker for each index but the leader's own";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_that_vacuum_names_are_found_and_nothing_else() {
        let found = |sql| Vacuum::new(sql).unwrap().tables.join(" ");
        assert_eq!(found("vacuum S.\"a\"\"b\""), r#""s"."a""b""#);
        assert_eq!(found("VACUUM (PARALLEL 2, ANALYZE true) a (x, y), public.b;"), r#""a" "public"."b""#);
        assert_eq!(found("vacuum full freeze verbose analyze only a *"), r#""a""#);
        assert_eq!((found("vacuum"), found("vacuum (verbose)")), (String::new(), String::new()));
        assert_eq!(Vacuum::new("analyze a"), None);
    }

    #[test]
    fn full_is_an_option_that_can_be_off() {
        let full = |sql| Vacuum::new(sql).unwrap().full;
        for sql in ["vacuum full a", "vacuum (full, verbose) a", "vacuum (FULL on) a", "vacuum (full 1)"] {
            assert!(full(sql), "{sql}");
        }
        for sql in [
            "vacuum (full off) a",
            "vacuum (full 'FALSE') a",
            "vacuum (verbose, full 0) a",
            "vacuum a (\"full\")",
        ] {
            assert!(!full(sql), "{sql}");
        }
    }

    #[test]
    fn the_workers_that_vacuum_is_given_are_read() {
        let parallel = |sql| Vacuum::new(sql).unwrap().parallel;
        assert_eq!(parallel("VACUUM (VERBOSE, PARALLEL 3) t"), Some(3));
        assert_eq!(parallel("vacuum (parallel /* none */ 0, analyze) t"), Some(0));
        for sql in ["vacuum \"parallel\"", "vacuum (parallel) t", "vacuum parallel"] {
            assert_eq!(parallel(sql), None, "{sql}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(sql in "vacuum [a-z()';$\"/*\\-., E\\\\é1]{0,40}") {
            let _ = Vacuum::new(&sql);
        }
    }
}
