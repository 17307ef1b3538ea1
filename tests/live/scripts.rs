//! Scripts and REFRESH, inspected before anything of them runs, on each version.

use headcount::server::{Explanation, ReasonKind, Statement, explain};

use crate::harness::texts;
use crate::plan::Bench;
use crate::versions::versions;

/// The most workers of each statement, `None` where nothing is certain.
async fn check(bench: &mut Bench, sql: &str, reachable: &[Option<u32>]) -> Explanation {
    let explanation = bench.explain(sql).await;
    let found: Vec<_> = explanation.statements.iter().map(Statement::reachable).collect();
    assert_eq!(found, reachable, "{sql}: {explanation:#?}");
    explanation
}

#[tokio::test]
async fn each_statement_of_a_script_is_inspected_and_nothing_runs() {
    for major in versions() {
        let mut bench = Bench::new(major, "script_each").await;
        let fast = "SELECT grp, count(*) FROM big GROUP BY grp";
        let locked = "SELECT id FROM small FOR UPDATE";
        let script = format!("DROP TABLE IF EXISTS a; CREATE TABLE a AS {fast}; {locked}");
        let explanation = check(&mut bench, &script, &[Some(0), Some(4), Some(0)]).await;
        assert!(explanation.reasons.is_empty(), "one of them reaches the target");
        let script = "TRUNCATE small; INSERT INTO small SELECT id FROM big";
        let explanation = check(&mut bench, script, &[Some(0), Some(0)]).await;
        assert_eq!(explanation.reasons[0].kind, ReasonKind::DataModifying);
        assert!(explanation.reasons[0].explanation.starts_with("statement 2: "), "{explanation:#?}");
        let left = bench.client.query_one("SELECT count(*) FROM small WHERE id > 0", &[]).await.unwrap();
        assert_eq!(left.get::<_, i64>(0), 1000, "{major}: nothing of it was run");
    }
}

#[tokio::test]
async fn what_a_statement_ahead_may_change_is_not_certain() {
    for major in versions() {
        let mut bench = Bench::new(major, "script_doubt").await;
        bench
            .run("CREATE FUNCTION fill() RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS 'BEGIN RETURN 1; END'")
            .await;
        let serial = "SELECT count(*) FROM small";
        bench.set("parallel_setup_cost", "1000");
        check(&mut bench, &format!("{serial}; {serial}"), &[Some(0), Some(0)]).await;
        for ahead in [
            "INSERT INTO small SELECT id FROM big",
            "ALTER TABLE small SET (parallel_workers = 4)",
            "SELECT fill()",
            "SELECT set_config('parallel_setup_cost', '0', true)",
            "DO $$ BEGIN END $$",
            "TRUNCATE small",
        ] {
            let script = format!("{ahead}; {serial}");
            let explanation = bench.explain(&script).await;
            assert_eq!(explanation.statements[1].reachable(), None, "{script}: {explanation:#?}");
            assert!(explanation.reasons.is_empty(), "{script}");
        }
        // What it needs is not there yet; that is no error, unless nothing ahead can make it.
        check(&mut bench, "CREATE TABLE made (id int); SELECT * FROM made", &[Some(0), None]).await;
        let lost = format!("{serial}; SELECT * FROM made");
        let error = explain(&mut bench.client, &lost, &[], &[], 4).await.unwrap_err();
        assert_eq!(error.sqlstate(), Some("42P01"), "{major}");
        // What a trigger runs is not known.
        check(&mut bench, "DROP TABLE small; DELETE FROM big", &[Some(0), Some(0)]).await;
        bench
            .run(
                "CREATE FUNCTION on_truncate() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                   CREATE TRIGGER t BEFORE TRUNCATE ON small EXECUTE FUNCTION on_truncate()",
            )
            .await;
        check(&mut bench, "TRUNCATE small; DELETE FROM big", &[None, Some(0)]).await;
        bench.run("DROP TRIGGER t ON small").await;
    }
}

#[tokio::test]
async fn a_setting_of_the_script_counts_for_what_follows_and_is_gone_afterwards() {
    for major in versions() {
        let mut bench = Bench::new(major, "script_set").await;
        let counting = "SELECT count(*) FROM big";
        let script = format!("{counting}; SET max_parallel_workers_per_gather = 1; {counting}");
        let explanation = check(&mut bench, &script, &[Some(4), Some(0), Some(1)]).await;
        assert_eq!(explanation.statements[2].reasons[0].kind, ReasonKind::GatherLimit);
        assert_eq!(bench.reachable(counting).await, 4, "{major}");
        // A statement that fails is not the end of the walk.
        let script = format!("CREATE TABLE made (id int); SELECT * FROM made; {counting}");
        let explanation = bench.explain(&script).await;
        assert_eq!(explanation.statements[2].plan.as_ref().unwrap().reachable, 4);
    }
}

#[tokio::test]
async fn a_refresh_has_the_plan_of_its_view_where_the_server_allows_workers() {
    for major in versions() {
        let mut bench = Bench::new(major, "script_refresh").await;
        bench.run("CREATE MATERIALIZED VIEW \"Mine\" AS SELECT grp, count(*) FROM big GROUP BY grp").await;
        let refresh = "REFRESH MATERIALIZED VIEW \"Mine\" WITH DATA";
        let explanation = bench.explain(refresh).await;
        let plan = explanation.plan.unwrap();
        if major >= 14 {
            assert_eq!(plan.reachable, 4);
            bench.set("max_parallel_workers_per_gather", "1");
            let explanation = bench.explain(refresh).await;
            assert_eq!(explanation.reasons[0].kind, ReasonKind::GatherLimit);
        } else {
            assert_eq!(plan.reachable, 0);
            assert_eq!(explanation.reasons[0].kind, ReasonKind::SerialRefresh);
        }
        // Its indexes are built anew, with workers of their own, unless that is done concurrently.
        bench.run("CREATE UNIQUE INDEX ON \"Mine\" (grp)").await;
        bench.set("max_parallel_maintenance_workers", "3");
        bench.set("max_parallel_workers_per_gather", "0");
        assert_eq!(bench.reachable(refresh).await, 3, "{major}");
        assert_eq!(bench.reachable("REFRESH MATERIALIZED VIEW CONCURRENTLY \"Mine\"").await, 0);
        let error =
            explain(&mut bench.client, "REFRESH MATERIALIZED VIEW gone", &[], &[], 4).await.unwrap_err();
        assert_eq!(error.sqlstate(), Some("42P01"), "{major}");
    }
}

#[tokio::test]
async fn one_partition_with_the_workers_demanded_is_enough() {
    for major in versions() {
        let mut bench = Bench::new(major, "script_parts").await;
        bench
            .run(
                "CREATE TABLE parts (id int) PARTITION BY RANGE (id);
                 CREATE TABLE p1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);
                 CREATE TABLE p2 PARTITION OF parts FOR VALUES FROM (1000) TO (9000);
                 INSERT INTO parts SELECT g FROM generate_series(0, 8999) g; ANALYZE parts;",
            )
            .await;
        bench.set("min_parallel_table_scan_size", "8MB");
        bench.set("parallel_setup_cost", "0");
        let explanation = bench.explain("SELECT count(*) FROM parts").await;
        let small = explanation.reasons.iter().find(|reason| reason.kind == ReasonKind::SmallTable).unwrap();
        bench.run(&small.fixes[0].to_string()).await;
        assert_eq!(bench.reachable("SELECT count(*) FROM parts").await, 4, "{major}");
    }
}

#[tokio::test]
async fn vacuum_has_a_worker_for_each_large_index_but_one() {
    for major in versions() {
        let mut bench = Bench::new(major, "script_vacuum").await;
        bench.set("max_parallel_maintenance_workers", "4");
        bench
            .run(
                "CREATE TABLE parts (id int, grp int) PARTITION BY RANGE (id);
                 CREATE TABLE part PARTITION OF parts DEFAULT;
                 INSERT INTO parts SELECT id, grp FROM big;
                 CREATE INDEX ON parts (id); CREATE INDEX ON parts (grp); CREATE INDEX ON parts (id, grp);
                 CREATE INDEX ON big (id); CREATE INDEX ON big (grp); CREATE INDEX ON big (id) WHERE id < 10;
                 CREATE INDEX ON big (grp) WHERE grp < 0; CREATE INDEX ON big (id) WHERE id < 0",
            )
            .await;
        for (sql, most) in [
            ("VACUUM small", 0),
            ("VACUUM big", 1),
            ("VACUUM (ANALYZE) small, \"big\" (id)", 1),
            ("VACUUM parts", 2),
            ("VACUUM (PARALLEL 1) script_vacuum.parts", 1),
            // It builds the indexes anew, each with as many.
            ("VACUUM FULL small", 4),
            ("VACUUM (FULL off) small", 0),
            ("VACUUM", 4),
        ] {
            assert_eq!(bench.reachable(sql).await, most, "{major}: {sql}");
        }
        let explanation = bench.explain("VACUUM big").await;
        let [reason] = &*explanation.reasons else { panic!("{explanation:#?}") };
        assert!(
            reason.explanation.contains("of the 5 of script_vacuum.big, 2 have min_parallel_index_scan_size"),
            "{reason:?}"
        );
        assert_eq!(texts(&reason.fixes), ["SET LOCAL min_parallel_index_scan_size = 0"]);
        bench.run("CREATE TABLE two AS SELECT 1 AS id; CREATE INDEX ON two (id); CREATE INDEX ON two ((id + 1))").await;
        let fewer = &bench.explain("VACUUM two").await.reasons[0].fixes;
        let demand =
            "-- demand 1 worker with min_parallel_index_scan_size = 0: there are no more indexes to share";
        assert_eq!(texts(fewer), [demand]);
        bench.set("min_parallel_index_scan_size", "0");
        assert!(bench.explain("VACUUM big").await.reasons.is_empty(), "{major}: it helps");
        let fewer = &bench.explain("VACUUM parts").await.reasons[0].fixes;
        assert_eq!(texts(fewer), ["-- demand 2 workers: there are no more indexes to share"]);
        bench.set("max_parallel_maintenance_workers", "1");
        let none = &bench.explain("VACUUM small").await.reasons;
        assert!(none[0].explanation.ends_with("script_vacuum.small has no index"), "{none:?}");
        assert_eq!(texts(&none[0].fixes), ["-- none: it runs in the leader alone"]);
        assert_eq!(none.len(), 1, "no fix that cannot help: {none:?}");
    }
}

#[tokio::test]
async fn maintenance_has_a_bound_and_no_more() {
    for major in versions() {
        let mut bench = Bench::new(major, "script_maintenance").await;
        bench.set("max_parallel_maintenance_workers", "3");
        bench.set("maintenance_work_mem", "160MB");
        for column in ["id", "grp", "pad", "id, grp", "grp, id"] {
            bench.run(&format!("CREATE INDEX ON big ({column})")).await;
        }
        for (sql, most, words) in [
            ("CREATE UNIQUE INDEX ON big (id)", 3, "max_parallel_maintenance_workers = 3"),
            ("VACUUM big", 3, "max_parallel_maintenance_workers = 3"),
            ("VACUUM (PARALLEL 2, VERBOSE) big", 2, "VACUUM (PARALLEL 2)"),
        ] {
            let explanation = bench.explain(sql).await;
            assert_eq!(explanation.plan.as_ref().unwrap().reachable, most, "{major}: {sql}");
            assert!(explanation.reasons.iter().all(|reason| reason.kind == ReasonKind::MaintenanceLimit));
            assert!(
                explanation.reasons.iter().any(|reason| reason.explanation.contains(words)),
                "{explanation:#?}"
            );
        }
        bench.set("max_parallel_maintenance_workers", "4");
        assert!(bench.explain("VACUUM big").await.reasons.is_empty(), "{major}");
        bench.set("min_parallel_table_scan_size", "1MB");
        let script = "CREATE INDEX ON small (id); VACUUM small; SELECT count(*) FROM small";
        // What the tables allow may be changed by what comes first; what the settings allow is not.
        check(&mut bench, script, &[Some(0), Some(4), None]).await;
        let script = "CREATE TABLE made AS SELECT 1 AS id; CREATE INDEX ON made (id)";
        check(&mut bench, script, &[Some(0), Some(4)]).await;
        // What the index calls may run queries, whose workers are beyond that bound.
        bench.set("max_parallel_maintenance_workers", "1");
        bench.run("CREATE FUNCTION seen(int) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN (SELECT count(*) FROM small); END'").await;
        assert_eq!(
            bench.explain("CREATE INDEX ON big (seen(id))").await.unseen,
            ["script_maintenance.seen(integer)"]
        );
    }
}

#[tokio::test]
async fn a_script_of_hundreds_of_statements_is_planned_to_its_end() {
    let mut bench = Bench::new(versions()[0], "script_long").await;
    let selects: Vec<String> =
        (0..400).map(|n| format!("SELECT count(*) FROM small WHERE id = {n}")).collect();
    let explanation = bench.explain(&selects.join(";\n")).await;
    assert_eq!(explanation.statements.len(), 400);
    assert!(explanation.statements.iter().all(|statement| statement.plan.is_some()));
    let reasons = explanation.statements.iter().filter(|statement| !statement.reasons.is_empty()).count();
    assert_eq!(reasons, 20, "each takes several plans, and nobody reads more");
    assert!(!explanation.reasons.is_empty() && explanation.unseen.is_empty());
}
