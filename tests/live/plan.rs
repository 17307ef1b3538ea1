//! Plan inspection, on each version.
//!
//! - the plan: kinds of statements, parameters, what EXPLAIN cannot take, nothing is executed
//! - the reasons: each one found, named and fixed; where the fix is a setting, it is tried
//! - proof: a function that runs queries of its own forbids a refusal

use headcount::server::{Explanation, ReasonKind, explain};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::harness::{client, plain_server};
use crate::versions::{main_version, versions};

/// A session in a schema of its own, with `big` (100,000 rows, about 10 MB) and `small` (1,000 rows).
pub(crate) struct Bench {
    pub(crate) client: Client,
    settings: Vec<(String, String)>,
    target: u32,
}

impl Bench {
    pub(crate) async fn new(major: u32, schema: &str) -> Self {
        let client = client(&plain_server(major).await.dsn()).await;
        let setup = format!(
            "DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}; SET search_path = {schema};
             CREATE TABLE big AS SELECT g AS id, g % 100 AS grp, repeat('x', 60) AS pad
               FROM generate_series(1, 100000) g;
             CREATE TABLE small AS SELECT g AS id FROM generate_series(1, 1000) g;
             ANALYZE big; ANALYZE small;"
        );
        client.batch_execute(&setup).await.unwrap();
        let mut bench = Self { client, settings: Vec::new(), target: 4 };
        bench.set("max_parallel_workers_per_gather", "4");
        bench.set("min_parallel_table_scan_size", "64kB");
        bench.set("parallel_setup_cost", "10");
        bench.set("parallel_tuple_cost", "0.001");
        bench
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub(crate) async fn explain(&mut self, sql: &str) -> Explanation {
        self.explain_with(sql, &[]).await
    }

    async fn explain_with(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Explanation {
        let answer = explain(&mut self.client, sql, params, &self.settings, self.target).await;
        answer.unwrap_or_else(|error| panic!("{sql}: {error}: {:?}", std::error::Error::source(&error)))
    }

    pub(crate) async fn reachable(&mut self, sql: &str) -> u32 {
        let explanation = self.explain(sql).await;
        explanation.plan.unwrap_or_else(|| panic!("no plan: {sql}")).reachable
    }

    /// Exactly these kinds, in this order.
    async fn check(&mut self, sql: &str, kinds: &[ReasonKind]) -> Explanation {
        let explanation = self.explain(sql).await;
        let found: Vec<_> = explanation.reasons.iter().map(|reason| reason.kind).collect();
        assert_eq!(found, kinds, "{sql}: {explanation:#?}");
        explanation
    }
}

fn says(explanation: &Explanation, kind: ReasonKind, words: &str, fix: &str) {
    let reason = explanation.reasons.iter().find(|reason| reason.kind == kind).unwrap();
    assert!(reason.explanation.contains(words), "{reason:?}");
    assert!(reason.fixes.iter().any(|it| it.to_string().contains(fix)), "{reason:?}");
}

#[tokio::test]
async fn each_kind_of_query_shows_its_workers() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_kinds").await;
        bench.run("PREPARE p(int) AS SELECT count(*) FROM big WHERE id > $1").await;
        for sql in [
            "SELECT count(*) FROM big",
            "-- a comment\n (SELECT count(*) FROM big);",
            "WITH x AS (SELECT grp FROM big) SELECT grp, count(*) FROM x GROUP BY grp",
            "CREATE TABLE made AS SELECT grp, count(*) FROM big GROUP BY grp",
            "CREATE UNLOGGED TABLE made (a, b) AS SELECT grp, count(*) FROM big GROUP BY grp WITH DATA",
            "SELECT grp, count(*) INTO made FROM big GROUP BY grp",
            "CREATE MATERIALIZED VIEW made AS SELECT grp, count(*) FROM big GROUP BY grp",
            "EXECUTE p(3)",
        ] {
            let explanation = bench.explain(sql).await;
            let plan = explanation.plan.unwrap();
            assert_eq!(plan.reachable, 4, "{major}: {sql}");
            assert!(explanation.reasons.is_empty());
        }
        assert_eq!(
            bench.reachable("SELECT (SELECT count(*) FROM big) + (SELECT count(*) FROM big)").await,
            8
        );
        let made = bench.client.query_one("SELECT to_regclass('made') IS NULL", &[]).await.unwrap();
        assert!(made.get::<_, bool>(0), "{major}: EXPLAIN has executed a statement");
    }
}

#[tokio::test]
async fn branches_that_share_one_gather_are_told_from_branches_with_their_own() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_branches").await;
        let branches = "SELECT count(*) FROM big UNION ALL SELECT count(*) FROM big";
        let explanation = bench.check(branches, &[ReasonKind::ParallelAppend]).await;
        says(
            &explanation,
            ReasonKind::ParallelAppend,
            "plan has 4",
            "SET LOCAL enable_parallel_append = off",
        );
        bench.set("enable_parallel_append", "off");
        let plan = bench.explain(branches).await.plan.unwrap();
        assert_eq!((plan.launches, plan.reachable), (vec![4, 4], 4), "{major}");
    }
}

#[tokio::test]
async fn parameters_are_planned_with_their_values() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_params").await;
        for sql in [
            "SELECT count(*) FROM big WHERE id > $1 AND pad <> $2",
            "CREATE TABLE made AS SELECT grp, count(*) FROM big WHERE id > $1 AND pad <> $2 GROUP BY grp",
        ] {
            let explanation = bench.explain_with(sql, &[&10_i32, &"y"]).await;
            assert_eq!(explanation.plan.unwrap().reachable, 4, "{major}: {sql}");
        }
        bench.set("max_parallel_workers_per_gather", "0");
        let explanation = bench.explain_with("SELECT count(*) FROM big WHERE id > $1", &[&10_i32]).await;
        let kinds: Vec<_> = explanation.reasons.iter().map(|reason| reason.kind).collect();
        assert_eq!(kinds, [ReasonKind::GatherLimit]);
        bench.set("plan_cache_mode", "force_generic_plan");
        let explanation = bench.explain_with("SELECT count(*) FROM big WHERE id > $1", &[&10_i32]).await;
        assert!(explanation.not_explainable.unwrap().contains("force_generic_plan"));
    }
}

#[tokio::test]
async fn what_explain_cannot_take_is_said_and_the_session_goes_on() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_opaque").await;
        for sql in ["DROP TABLE small", "EXPLAIN ANALYZE DELETE FROM small", "DO $$ BEGIN END $$"] {
            let explanation = bench.explain(sql).await;
            assert!(explanation.plan.is_none() && explanation.not_explainable.is_some(), "{major}: {sql}");
            assert!(explanation.reasons.is_empty());
        }
        for (sql, sqlstate) in [
            ("SELECT * FROM nowhere", "42P01"),
            ("SELECT FROM WHERE", "42601"),
            ("SELEC 1", "42601"),
            ("SELECT 1; SELEC 2", "42601"),
            ("(ANALYZE) DELETE FROM small", "42601"),
        ] {
            let error = explain(&mut bench.client, sql, &[], &[], 4).await.unwrap_err();
            assert_eq!(error.sqlstate(), Some(sqlstate), "{major}: {sql}");
        }
        let rows = bench.client.query_one("SELECT count(*) FROM small", &[]).await.unwrap();
        assert_eq!(rows.get::<_, i64>(0), 1000, "nothing of it was run");
        assert_eq!(bench.reachable("SELECT count(*) FROM big").await, 4);
    }
}

#[tokio::test]
async fn a_serializable_transaction_is_no_reason() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_serializable").await;
        bench.run("SET default_transaction_isolation = 'serializable'").await;
        assert_eq!(bench.reachable("SELECT count(*) FROM big").await, 4);
    }
}

#[tokio::test]
async fn statements_that_never_have_workers_are_named() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_statements").await;
        for sql in [
            "INSERT INTO small SELECT id FROM big",
            "UPDATE big SET grp = 0",
            "DELETE FROM big",
            "WITH gone AS (DELETE FROM small RETURNING id) SELECT count(*) FROM big",
        ] {
            let explanation = bench.check(sql, &[ReasonKind::DataModifying]).await;
            says(&explanation, ReasonKind::DataModifying, "modifies", "CREATE TABLE");
        }
        bench.check("SELECT id FROM big FOR UPDATE", &[ReasonKind::RowLocking]).await;
        bench.check("DECLARE c CURSOR FOR SELECT count(*) FROM big", &[ReasonKind::Cursor]).await;
        bench.check("SELECT 1", &[ReasonKind::NoTable]).await;
        if major >= 15 {
            let merge = "MERGE INTO small s USING big b ON s.id = b.id WHEN MATCHED THEN DO NOTHING";
            bench.check(merge, &[ReasonKind::DataModifying]).await;
        }
    }
}

#[tokio::test]
async fn an_unsafe_function_is_named_wherever_it_hides() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_unsafe").await;
        bench
            .run(
                "CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
                 CREATE FUNCTION slow(int, int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN RETURN $1; END';
                 CREATE FUNCTION inlined(int) RETURNS int LANGUAGE sql AS 'SELECT $1 + 1';
                 CREATE FUNCTION \"Odd Name\"(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
                 CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int);
                 CREATE VIEW inner_view AS SELECT inlined(id) AS id FROM big;
                 CREATE VIEW outer_view AS SELECT id FROM inner_view;
                 CREATE SEQUENCE numbers;
                 CREATE FUNCTION near(int, int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
                 CREATE OPERATOR <~> (FUNCTION = near, LEFTARG = int, RIGHTARG = int);",
            )
            .await;
        for (sql, name, fix) in [
            (
                "SELECT count(plan_unsafe.slow(id)) FROM big",
                "plan_unsafe.slow(integer)",
                "ALTER FUNCTION plan_unsafe.slow(integer) PARALLEL SAFE",
            ),
            ("SELECT sum(inlined(id)) FROM big", "plan_unsafe.inlined(integer)", "ALTER FUNCTION"),
            ("SELECT sum(\"Odd Name\" (id)) FROM big", "plan_unsafe.\"Odd Name\"(integer)", "ALTER FUNCTION"),
            ("SELECT total(id) FROM big", "plan_unsafe.total(integer)", "-- CREATE OR REPLACE AGGREGATE"),
            ("SELECT sum(id) FROM outer_view", "plan_unsafe.inlined(integer)", "ALTER FUNCTION"),
            ("SELECT sum(nextval('numbers')) FROM big", "pg_catalog.nextval(regclass)", "-- leave"),
            (
                "SELECT count(*) FROM big WHERE id <~> grp",
                "plan_unsafe.near(integer, integer)",
                "ALTER FUNCTION",
            ),
        ] {
            let explanation = bench.check(sql, &[ReasonKind::UnsafeFunction]).await;
            says(&explanation, ReasonKind::UnsafeFunction, name, fix);
            assert!(explanation.unseen.is_empty(), "{major}: {sql}");
        }
        assert_eq!(bench.reachable("SELECT count(slow(id, id)) FROM big").await, 4);
    }
}

/// However small or large the table, it has nothing to share among workers.
#[tokio::test]
async fn a_lookup_by_an_index_is_not_blamed_on_the_size_of_its_table() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_lookup").await;
        bench
            .run("CREATE TABLE keyed AS SELECT * FROM big; CREATE UNIQUE INDEX ON keyed (id); ANALYZE keyed")
            .await;
        let explanation = bench.check("SELECT * FROM keyed WHERE id = 1", &[ReasonKind::Unknown]).await;
        says(&explanation, ReasonKind::Unknown, "no single cause", "-- what reads few rows");
    }
}

#[tokio::test]
async fn settings_below_the_target_are_named_with_the_value_that_helps() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_settings").await;
        let sql = "SELECT count(*) FROM big";

        for value in ["0", "2"] {
            bench.set("max_parallel_workers_per_gather", value);
            let explanation = bench.check(sql, &[ReasonKind::GatherLimit]).await;
            let fix = "SET LOCAL max_parallel_workers_per_gather = 4";
            says(&explanation, ReasonKind::GatherLimit, &format!("= {value} (set by: session)"), fix);
        }
        bench.set("max_parallel_workers_per_gather", "4");

        bench.set("max_parallel_workers", "3");
        let explanation = bench.check(sql, &[ReasonKind::PoolSize]).await;
        assert_eq!((explanation.pool_size, explanation.plan.as_ref().unwrap().reachable), (3, 3));
        says(&explanation, ReasonKind::PoolSize, "3 slots", "SET LOCAL max_parallel_workers = 4");
        bench.set("max_parallel_workers", "64");
        bench.target = 32;
        bench.set("max_parallel_workers_per_gather", "32");
        let explanation = bench.explain(sql).await;
        says(&explanation, ReasonKind::PoolSize, "slots", "ALTER SYSTEM SET max_worker_processes = 68");
        bench.target = 4;
        bench.set("max_parallel_workers_per_gather", "4");

        bench.set("parallel_setup_cost", "1000000");
        let explanation = bench.check(sql, &[ReasonKind::Costs]).await;
        says(&explanation, ReasonKind::Costs, "1e+06", "SET LOCAL parallel_setup_cost = 0");
        bench.set("parallel_setup_cost", "10");

        bench.set("enable_gathermerge", "off");
        bench.set("parallel_tuple_cost", "0.5");
        let top = "SELECT pad, id FROM big ORDER BY pad, id LIMIT 10";
        let explanation = bench.check(top, &[ReasonKind::MethodDisabled, ReasonKind::Costs]).await;
        says(
            &explanation,
            ReasonKind::MethodDisabled,
            "enable_gathermerge",
            "SET LOCAL enable_gathermerge = on",
        );
        says(&explanation, ReasonKind::Costs, "LIMIT", "parallel_tuple_cost = 0");
    }
}

#[tokio::test]
async fn a_catalog_of_the_servers_own_is_not_to_be_altered() {
    let mut bench = Bench::new(main_version(), "plan_catalog").await;
    bench.set("min_parallel_table_scan_size", "8MB");
    let explanation = bench.explain("SELECT count(*) FROM pg_class").await;
    let small = explanation.reasons.iter().find(|reason| reason.kind == ReasonKind::SmallTable).unwrap();
    assert!(small.explanation.contains("pg_catalog.pg_class, the largest"), "{small:?}");
    assert!(
        !small.fixes.is_empty() && small.fixes.iter().all(|fix| !fix.to_string().contains("ALTER")),
        "{small:?}"
    );
}

#[tokio::test]
async fn a_small_table_is_named_with_its_size_and_both_fixes_work() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_small").await;
        let sql = "SELECT count(*) FROM big";
        bench.set("min_parallel_table_scan_size", "4MB");
        let explanation = bench.check(sql, &[ReasonKind::SmallTable]).await;
        says(
            &explanation,
            ReasonKind::SmallTable,
            "plan_small.big, the largest table",
            "parallel_workers = 4",
        );
        let [table, size] = &*explanation.reasons[0].fixes else { panic!("{:?}", explanation.reasons) };
        let (table, typed) = (table.to_string(), size.to_string());
        let size = typed.split('\'').nth(1).unwrap_or_else(|| panic!("no size in {size}"));
        bench.set("min_parallel_table_scan_size", size);
        assert_eq!(bench.reachable(sql).await, 4, "{major}: {size}");

        bench.set("min_parallel_table_scan_size", "8MB");
        bench.run(&table).await;
        assert_eq!(bench.reachable(sql).await, 4, "{major}");

        bench.run("ALTER TABLE big SET (parallel_workers = 1)").await;
        let explanation = bench.check(sql, &[ReasonKind::TableParallelWorkers]).await;
        let (words, fix) =
            ("plan_small.big has the storage", "ALTER TABLE plan_small.big SET (parallel_workers = 4)");
        says(&explanation, ReasonKind::TableParallelWorkers, words, fix);

        bench.set("parallel_setup_cost", "1000");
        let explanation = bench.explain("SELECT count(*) FROM small").await;
        let kinds: Vec<_> = explanation.reasons.iter().map(|reason| reason.kind).collect();
        assert_eq!(kinds, [ReasonKind::SmallTable, ReasonKind::Costs], "{explanation:#?}");
    }
}

#[tokio::test]
async fn what_only_the_leader_can_read_is_named() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_leader").await;
        bench
            .run(
                "CREATE TEMPORARY TABLE scratch AS SELECT * FROM big; ANALYZE scratch;
                 CREATE FUNCTION limited(int) RETURNS int LANGUAGE plpgsql PARALLEL RESTRICTED
                   AS 'BEGIN RETURN $1; END';",
            )
            .await;
        let explanation = bench.check("SELECT count(*) FROM scratch", &[ReasonKind::TemporaryTable]).await;
        says(&explanation, ReasonKind::TemporaryTable, "scratch", "UNLOGGED");

        let recursive = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) SELECT count(*) FROM n";
        let explanation = bench.explain(recursive).await;
        assert!(
            explanation.reasons.iter().any(|reason| reason.kind == ReasonKind::CteScan),
            "{explanation:#?}"
        );

        let explanation = bench
            .check("SELECT count(*) FROM big WHERE limited(id) > 0", &[ReasonKind::RestrictedFunction])
            .await;
        let fix = "ALTER FUNCTION plan_leader.limited(integer) PARALLEL SAFE";
        says(&explanation, ReasonKind::RestrictedFunction, "plan_leader.limited(integer)", fix);
    }
}

#[tokio::test]
async fn a_forced_gather_is_told_from_a_parallel_plan() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_forced").await;
        let name = if major >= 16 { "debug_parallel_query" } else { "force_parallel_mode" };
        bench.set("parallel_setup_cost", "1000000");
        for value in ["on", "regress"] {
            bench.set(name, value);
            let explanation = bench.explain("SELECT count(*) FROM small").await;
            assert_eq!(explanation.plan.as_ref().unwrap().reachable, 1, "{major}: {value}");
            says(&explanation, ReasonKind::DebugParallelQuery, name, &format!("-- leave {name} off"));
        }
    }
}

#[tokio::test]
async fn a_function_that_runs_queries_forbids_a_refusal() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_unseen").await;
        bench
            .run(
                "CREATE FUNCTION counts() RETURNS bigint LANGUAGE plpgsql
                   AS 'BEGIN RETURN (SELECT count(*) FROM big); END';
                 CREATE FUNCTION calls_it() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN counts(); END';
                 CREATE FUNCTION on_insert() RETURNS trigger LANGUAGE plpgsql
                   AS 'BEGIN PERFORM count(*) FROM big; RETURN NEW; END';
                 CREATE TRIGGER t BEFORE INSERT ON small FOR EACH ROW EXECUTE FUNCTION on_insert();
                 CREATE FUNCTION rows_of_big() RETURNS SETOF int LANGUAGE sql STABLE PARALLEL SAFE
                   AS 'SELECT id FROM big';",
            )
            .await;
        for (sql, name) in [
            ("SELECT counts()", "plan_unseen.counts()"),
            ("SELECT calls_it()", "plan_unseen.counts()"),
            ("INSERT INTO small VALUES (1)", "plan_unseen.on_insert()"),
        ] {
            assert_eq!(bench.explain(sql).await.unseen, [name], "{major}: {sql}");
        }
        let explanation = bench.explain("SELECT count(*) FROM rows_of_big()").await;
        assert_eq!(explanation.plan.unwrap().reachable, 4, "inlined, so its scan is in the plan");
        bench.set("max_parallel_workers_per_gather", "1");
        let explanation = bench.explain("SELECT count(*) FROM rows_of_big()").await;
        assert!(explanation.unseen.is_empty(), "{explanation:#?}");
    }
}

/// Each starts a query with workers of its own, and no text names it.
#[tokio::test]
async fn what_runs_queries_behind_a_table_or_a_type_forbids_a_refusal() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_hidden").await;
        bench
            .run(
                "CREATE FUNCTION looks(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE
                   AS 'BEGIN RETURN (SELECT count(*) >= 0 FROM plan_hidden.big); END';
                 CREATE FUNCTION adds(bigint, int) RETURNS bigint LANGUAGE plpgsql
                   AS 'BEGIN PERFORM count(*) FROM plan_hidden.big; RETURN $1 + $2; END';
                 CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql
                   AS 'BEGIN PERFORM count(*) FROM plan_hidden.big; RETURN NULL; END';
                 CREATE FUNCTION fine(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1; END';

                 CREATE TABLE parts (id int) PARTITION BY RANGE (id);
                 CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
                 CREATE TABLE part2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
                 CREATE TRIGGER t AFTER INSERT ON part2 FOR EACH ROW EXECUTE FUNCTION fires();
                 CREATE TABLE old (id int); CREATE TABLE child () INHERITS (old);
                 CREATE TRIGGER t AFTER UPDATE ON child FOR EACH ROW EXECUTE FUNCTION fires();
                 CREATE TABLE top (id int PRIMARY KEY);
                 CREATE TABLE mid (id int PRIMARY KEY REFERENCES top ON DELETE CASCADE);
                 CREATE TABLE low (id int REFERENCES mid ON DELETE SET NULL);
                 CREATE TRIGGER t AFTER UPDATE ON low FOR EACH ROW EXECUTE FUNCTION fires();
                 CREATE TABLE checked (id int CHECK (looks(id)));
                 CREATE TABLE made (id int, twice boolean GENERATED ALWAYS AS (looks(id)) STORED);
                 CREATE TABLE sorted (id int); CREATE INDEX ON sorted (looks(id));
                 CREATE DOMAIN seen AS int CHECK (looks(VALUE));
                 CREATE DOMAIN seen_too AS seen;
                 CREATE TABLE typed (id seen_too);
                 CREATE TABLE listed (ids seen[]);
                 CREATE FUNCTION takes(seen) RETURNS int LANGUAGE sql AS 'SELECT 1';
                 CREATE TYPE odd AS (id int);
                 CREATE FUNCTION to_odd(int) RETURNS odd LANGUAGE plpgsql
                   AS 'BEGIN PERFORM count(*) FROM plan_hidden.big; RETURN ROW($1); END';
                 CREATE CAST (int AS odd) WITH FUNCTION to_odd(int) AS ASSIGNMENT;
                 CREATE TABLE odds (id odd);
                 CREATE AGGREGATE total(int) (SFUNC = adds, STYPE = bigint, INITCOND = 0);
                 CREATE FUNCTION defaulted(a boolean DEFAULT looks(1)) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
                 CREATE TABLE plain (id int PRIMARY KEY CHECK (fine(id) > 0));
                 CREATE TABLE behind (id int REFERENCES plain);
                 CREATE TRIGGER t AFTER UPDATE ON behind FOR EACH ROW EXECUTE FUNCTION fires();",
            )
            .await;
        for (sql, name) in [
            ("INSERT INTO parts SELECT 15", "fires()"),
            ("UPDATE old SET id = 1", "fires()"),
            ("DELETE FROM top", "fires()"),
            ("INSERT INTO checked VALUES (1)", "looks(integer)"),
            ("INSERT INTO made VALUES (1)", "looks(integer)"),
            ("INSERT INTO sorted VALUES (1)", "looks(integer)"),
            ("INSERT INTO typed VALUES (1)", "looks(integer)"),
            ("INSERT INTO listed VALUES (ARRAY[1])", "looks(integer)"),
            ("SELECT id::seen_too FROM small", "looks(integer)"),
            ("SELECT CAST(id AS plan_hidden.seen) FROM small", "looks(integer)"),
            ("SELECT takes(id) FROM small", "looks(integer)"),
            ("SELECT id::odd FROM small", "to_odd(integer)"),
            ("INSERT INTO odds SELECT id FROM small", "to_odd(integer)"),
            ("SELECT total(id) FROM small", "adds(bigint, integer)"),
            ("SELECT defaulted() FROM small", "looks(integer)"),
        ] {
            let unseen = bench.explain(sql).await.unseen;
            assert_eq!(unseen, [format!("plan_hidden.{name}")], "{major}: {sql}");
            // A script is no way around it.
            let script = bench.explain(&format!("{sql}; {sql}")).await;
            assert!(!script.unseen.is_empty() || script.reasons.is_empty(), "{major}: {sql}: {script:#?}");
        }
        // Somebody's cast may be in any statement; without one the others are found by their types.
        bench.run("DROP CAST (int AS plan_hidden.odd)").await;
        for (sql, name) in [
            ("SELECT id::seen_too FROM small", "looks(integer)"),
            ("SELECT id FROM typed", "looks(integer)"),
            ("SELECT total(id) FROM small", "adds(bigint, integer)"),
            ("INSERT INTO checked VALUES (1)", "looks(integer)"),
        ] {
            let unseen = bench.explain(sql).await.unseen;
            assert_eq!(unseen, [format!("plan_hidden.{name}")], "{major}: {sql}");
        }
        // What the same catalog shows to run none is refused as before.
        for sql in ["INSERT INTO plain VALUES (1)", "DELETE FROM plain", "SELECT id FROM checked", "SELECT 1"]
        {
            let explanation = bench.explain(sql).await;
            assert!(
                explanation.unseen.is_empty() && !explanation.reasons.is_empty(),
                "{major}: {sql}: {explanation:#?}"
            );
        }
    }
}

#[tokio::test]
async fn what_cannot_help_a_statement_that_modifies_is_not_proposed() {
    for major in versions() {
        let mut bench = Bench::new(major, "plan_modifies").await;
        bench.set("max_parallel_workers_per_gather", "1");
        bench.set("min_parallel_table_scan_size", "8MB");
        let sql = "WITH s AS (SELECT grp, count(*) AS c FROM big GROUP BY 1) UPDATE small SET id = s.c FROM s WHERE s.grp = small.id";
        let explanation = bench.check(sql, &[ReasonKind::DataModifying]).await;
        assert!(explanation.reasons[0].fixes.iter().all(|fix| !fix.is_typed()), "{major}: {explanation:#?}");
        for sql in ["SELECT id FROM small FOR UPDATE", "DECLARE c CURSOR FOR SELECT id FROM small"] {
            assert_eq!(bench.explain(sql).await.reasons.len(), 1, "{major}: {sql}");
        }
    }
}
