//! VACUUM and CREATE INDEX: the bound is what the server asks for, and what is missing is said, on each version.

use std::future::poll_fn;

use headcount::server::{Reason, ReasonKind, explain};
use tokio_postgres::{AsyncMessage, NoTls};

use crate::harness::{plain_server, texts};
use crate::plan::Bench;
use crate::versions::{main_version, versions};

/// How many workers the server asks for when it runs this, by its own account.
async fn asked_for(major: u32, schema: &str, settings: &[(&str, &str)], sql: &str) -> u32 {
    let dsn = plain_server(major).await.dsn();
    let (client, mut connection) = tokio_postgres::connect(&dsn, NoTls).await.unwrap();
    let (said, mut notices) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(notice) = message {
                let _ = said.send(notice.message().to_owned());
            }
        }
    });
    client.batch_execute(&format!("SET search_path = {schema}")).await.unwrap();
    for (name, value) in settings {
        client.batch_execute(&format!("SET {name} = '{value}'")).await.unwrap();
    }
    client.batch_execute("SET client_min_messages = debug1; BEGIN").await.unwrap();
    client.batch_execute(sql).await.unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    drop(client);
    let mut most = 0;
    while let Some(notice) = notices.recv().await {
        if let Some((_, request)) = notice.split_once(" with request for ") {
            most = most.max(request.split(' ').next().unwrap().parse().unwrap());
        }
    }
    most
}

async fn reasons(bench: &mut Bench, sql: &str) -> Vec<Reason> {
    bench.explain(sql).await.reasons
}

#[tokio::test]
async fn the_bound_of_create_index_is_what_the_server_asks_for() {
    for major in versions() {
        let schema = "maintenance_bound";
        let mut bench = Bench::new(major, schema).await;
        bench
            .run(
                "CREATE TABLE own AS SELECT id FROM small; ALTER TABLE own SET (parallel_workers = 3);
                 CREATE TABLE fresh (id int);
                 CREATE TABLE parts (id int) PARTITION BY RANGE (id);
                 CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
                 CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (999999);
                 INSERT INTO parts SELECT id FROM big;
                 CREATE MATERIALIZED VIEW seen AS SELECT id FROM big;
                 CREATE TABLE words AS SELECT id, ARRAY[grp] AS few FROM big",
            )
            .await;
        let brin = if major >= 17 { 4 } else { 0 };
        let gin = if major >= 18 { 4 } else { 0 };
        for (memory, least, sql, workers) in [
            // 10 MB are 1280 pages: 8, 24, 72, 216, 648 of them for 1, 2, 3, 4, 5 workers.
            ("160MB", "64kB", "CREATE INDEX ON big (id)", 4),
            ("159MB", "64kB", "CREATE INDEX ON big (id)", 3),
            ("64MB", "64kB", "CREATE INDEX ON big (id)", 1),
            ("63MB", "64kB", "CREATE UNIQUE INDEX ON big (id)", 0),
            ("1GB", "4MB", "CREATE INDEX ON big (id)", 1),
            ("1GB", "1MB", "CREATE INDEX ON small (id)", 0),
            ("1GB", "0", "CREATE INDEX ON small (id)", 2),
            ("1GB", "0", "CREATE INDEX ON fresh (id)", 3),
            ("64MB", "8MB", "CREATE INDEX ON own (id)", 3),
            ("1GB", "64kB", "CREATE INDEX ON parts (id)", 4),
            ("64MB", "64kB", "CREATE INDEX ON parts (id)", 1),
            ("1GB", "64kB", "CREATE INDEX ON seen (id)", 4),
            ("1GB", "64kB", "CREATE INDEX ON big USING hash (id)", 0),
            ("1GB", "64kB", "CREATE INDEX ON big USING gist (point(id, grp))", 0),
            ("1GB", "64kB", "CREATE INDEX ON big USING spgist (point(id, grp))", 0),
            ("1GB", "64kB", "CREATE INDEX ON big USING brin (id)", brin),
            ("1GB", "64kB", "CREATE INDEX ON words USING gin (few)", gin),
        ] {
            let settings = [
                ("maintenance_work_mem", memory),
                ("min_parallel_table_scan_size", least),
                ("max_parallel_maintenance_workers", "4"),
            ];
            for (name, value) in settings {
                bench.set(name, value);
            }
            let asked = asked_for(major, schema, &settings, sql).await;
            assert_eq!(
                (bench.reachable(sql).await, asked),
                (workers, workers),
                "{major}: {memory} {least} {sql}"
            );
        }
    }
}

#[tokio::test]
async fn what_keeps_create_index_from_the_target_is_named_and_the_fix_works() {
    for major in versions() {
        let mut bench = Bench::new(major, "maintenance_reasons").await;
        bench.set("max_parallel_maintenance_workers", "4");
        let sql = "CREATE INDEX ON big (id)";

        bench.set("maintenance_work_mem", "64MB");
        let found = reasons(&mut bench, sql).await;
        let [memory] = &*found else { panic!("{major}: {found:?}") };
        assert_eq!(memory.kind, ReasonKind::MaintenanceMemory);
        assert!(memory.explanation.starts_with("maintenance_work_mem = 64MB is enough for 1 of 4 workers"));
        let alter = "ALTER TABLE maintenance_reasons.big SET (parallel_workers = 4)";
        assert_eq!(texts(&memory.fixes), ["SET LOCAL maintenance_work_mem = '160MB'", alter]);
        bench.set("maintenance_work_mem", "160MB");
        assert!(reasons(&mut bench, sql).await.is_empty(), "{major}: it helps");

        bench.set("min_parallel_table_scan_size", "8MB");
        let found = reasons(&mut bench, sql).await;
        let [small] = &*found else { panic!("{major}: {found:?}") };
        assert_eq!((small.kind, &*small.fixes[0].to_string()), (ReasonKind::SmallTable, alter));
        assert!(small.explanation.contains("that counts for 1 of 4 workers"), "{small:?}");
        let fix = small.fixes[1].to_string();
        let size = fix.split('\'').nth(1).unwrap();
        bench.set("min_parallel_table_scan_size", size);
        assert!(reasons(&mut bench, sql).await.is_empty(), "{major}: {size}");

        bench.set("min_parallel_table_scan_size", "8MB");
        bench.set("maintenance_work_mem", "64MB");
        bench.run(alter).await;
        assert!(
            reasons(&mut bench, sql).await.is_empty(),
            "{major}: the table's own number is all that counts"
        );
        bench.run("ALTER TABLE big SET (parallel_workers = 2)").await;
        let found = reasons(&mut bench, sql).await;
        assert_eq!(found[0].kind, ReasonKind::TableParallelWorkers, "{found:?}");
        assert_eq!((found.len(), texts(&found[0].fixes)), (1, vec![alter.to_owned()]));
    }
}

#[tokio::test]
async fn an_index_that_the_leader_builds_alone_is_told_and_no_setting_is_offered() {
    for major in versions() {
        let mut bench = Bench::new(major, "maintenance_alone").await;
        bench.run("CREATE TEMPORARY TABLE mine AS SELECT id FROM big").await;
        bench.set("max_parallel_maintenance_workers", "1");
        for (sql, kind, fix) in [
            ("CREATE INDEX ON big USING hash (id)", ReasonKind::AccessMethod, "-- none: hash indexes"),
            (
                "CREATE INDEX ON mine (id)",
                ReasonKind::TemporaryTable,
                "-- create it with CREATE UNLOGGED TABLE",
            ),
        ] {
            let found = reasons(&mut bench, sql).await;
            let [alone] = &*found else { panic!("{major}: {found:?}") };
            assert_eq!(alone.kind, kind, "{major}: {sql}");
            assert!(alone.fixes[0].to_string().starts_with(fix), "{alone:?}");
        }
        if major < 17 {
            let found = reasons(&mut bench, "CREATE INDEX ON big USING brin (id)").await;
            assert!(found[0].fixes[0].to_string().contains("PostgreSQL 17 is the first"), "{found:?}");
        }
    }
}

#[tokio::test]
async fn a_table_or_a_column_that_is_not_there_is_the_servers_error() {
    for major in versions() {
        let mut bench = Bench::new(major, "maintenance_missing").await;
        for (sql, sqlstate) in [
            ("VACUUM nope", "42P01"),
            ("VACUUM (FULL) small, nope", "42P01"),
            ("CREATE INDEX ON nope (id)", "42P01"),
            ("CREATE INDEX ON nowhere.nope (lower(id))", "42P01"),
            ("CREATE INDEX ON big (id, \"Nope\" DESC)", "42703"),
            ("CREATE INDEX ON big (id) INCLUDE (nope)", "42703"),
        ] {
            let error = explain(&mut bench.client, sql, &[], &[], 4).await.unwrap_err();
            assert_eq!(error.sqlstate(), Some(sqlstate), "{major}: {sql}");
        }
        let script = "DROP TABLE IF EXISTS nope; CREATE TABLE nope (id int); CREATE INDEX ON nope (id)";
        assert!(explain(&mut bench.client, script, &[], &[], 4).await.is_ok(), "{major}: made ahead of it");
    }
}

#[tokio::test]
async fn a_limit_that_would_give_no_more_is_not_named() {
    let mut bench = Bench::new(main_version(), "maintenance_limit").await;
    bench.set("max_parallel_maintenance_workers", "2");
    bench.set("min_parallel_index_scan_size", "0");
    bench.run("CREATE TABLE two (a int PRIMARY KEY, b int UNIQUE)").await;
    let named = async |bench: &mut Bench| {
        let explanation = bench.explain("VACUUM two").await;
        explanation
            .reasons
            .iter()
            .any(|reason| reason.explanation.contains("max_parallel_maintenance_workers"))
    };
    assert!(!named(&mut bench).await, "one worker is all that two indexes give");
    bench.run("CREATE INDEX ON two (a); CREATE INDEX ON two (b)").await;
    assert!(named(&mut bench).await, "three, if it were not for the limit");
}

#[tokio::test]
async fn vacuum_of_a_parent_is_about_those_that_inherit_from_it_since_18() {
    for major in versions() {
        let mut bench = Bench::new(major, "maintenance_inherit").await;
        bench.set("max_parallel_maintenance_workers", "4");
        bench.set("min_parallel_index_scan_size", "0");
        bench
            .run(
                "CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);
                 CREATE TABLE grandchild () INHERITS (child);
                 CREATE INDEX ON grandchild (id); CREATE INDEX ON grandchild ((id + 1));
                 CREATE INDEX ON grandchild ((id + 2))",
            )
            .await;
        let most = if major >= 18 { 2 } else { 0 };
        assert_eq!(bench.reachable("VACUUM parent").await, most, "{major}");
    }
}
