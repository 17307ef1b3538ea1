//! Reasons from facts: what is named, what is not, and what can be typed.

use super::*;

const DEFAULTS: [(&str, &str); 7] = [
    ("block_size", "8192"),
    ("max_parallel_workers", "8"),
    ("max_parallel_workers_per_gather", "4"),
    ("max_worker_processes", "8"),
    ("min_parallel_table_scan_size", "1024"),
    ("parallel_setup_cost", "1000"),
    ("parallel_tuple_cost", "0.1"),
];

fn setting((name, value): (&str, &str)) -> Setting {
    let [name, value, source] = [name, value, "default"].map(str::to_owned);
    Setting { name, raw: value.clone(), value, source }
}

fn table(bytes: u64) -> Table {
    let name = "public.big".to_owned();
    Table { name, bytes, temporary: false, foreign: false, heap: true, fresh: false, parallel_workers: None }
}

/// The kinds found for a target of 4, after a change to facts in which nothing stands in the way.
fn check(change: impl FnOnce(&mut Facts<'_>, &mut Tree), expected: &[ReasonKind]) -> Vec<Reason> {
    let probe = Probe { most_possible: 4, ..Probe::default() };
    let nothing = Tree::default();
    let mut tree = Tree::default();
    let mut facts = Facts {
        target: 4,
        tree: &nothing,
        pool_size: 8,
        cursor: false,
        settings: DEFAULTS.map(setting).to_vec(),
        tables: vec![table(1 << 30)],
        hazards: Vec::new(),
        probe,
    };
    change(&mut facts, &mut tree);
    let facts = Facts { tree: &tree, ..facts };
    let reasons = facts.reasons();
    assert_eq!(reasons.iter().map(|reason| reason.kind).collect::<Vec<_>>(), expected);
    reasons
}

#[test]
fn where_nothing_is_found_that_is_said() {
    let reasons = check(|_, _| {}, &[ReasonKind::Unknown]);
    assert!(reasons[0].explanation.contains("no single cause was found"));
}

#[test]
fn the_hardest_reason_comes_first_and_what_cannot_help_is_not_named() {
    use ReasonKind::{DataModifying, GatherLimit, PoolSize, SmallTable, UnsafeFunction};

    let change = |facts: &mut Facts<'_>, _: &mut Tree| {
        facts.settings[2] = setting(("max_parallel_workers_per_gather", "2"));
        facts.pool_size = 2;
        facts.tables = vec![table(8192)];
        facts.probe.most_possible = 0;
        facts.hazards = vec![Routine::scripted("public.slow(integer)", Hazard::Unsafe)];
    };
    check(change, &[UnsafeFunction, PoolSize, GatherLimit, SmallTable]);
    let modifies = |facts: &mut Facts<'_>, tree: &mut Tree| {
        change(facts, tree);
        tree.nodes = vec!["ModifyTable".to_owned()];
    };
    let reasons = check(modifies, &[DataModifying]);
    assert!(reasons[0].fixes.iter().all(|fix| !fix.is_typed()), "nothing to type: {reasons:?}");
}

#[test]
fn what_helps_only_when_the_statement_is_another_one_cannot_be_typed() {
    use ReasonKind::{GatherLimit, TemporaryTable, UnsafeFunction};

    let limited = |facts: &mut Facts<'_>| {
        facts.settings[2] = setting(("max_parallel_workers_per_gather", "0"));
        facts.probe.most_possible = 0;
    };
    let builtin = |facts: &mut Facts<'_>, _: &mut Tree| {
        limited(facts);
        let mut nextval = Routine::scripted("pg_catalog.nextval(regclass)", Hazard::Unsafe);
        nextval.builtin = true;
        facts.hazards = vec![nextval];
    };
    let temporary = |facts: &mut Facts<'_>, _: &mut Tree| {
        limited(facts);
        facts.tables = vec![Table { temporary: true, ..table(1 << 30) }];
    };
    for reasons in
        [check(builtin, &[UnsafeFunction, GatherLimit]), check(temporary, &[GatherLimit, TemporaryTable])]
    {
        assert!(reasons.iter().flat_map(|reason| &reason.fixes).all(|fix| !fix.is_typed()), "{reasons:?}");
    }
}

#[test]
fn only_the_largest_table_is_called_the_largest() {
    let tables = |own: Option<u32>| {
        move |facts: &mut Facts<'_>, _: &mut Tree| {
            let larger = Table { parallel_workers: own, name: "public.larger".to_owned(), ..table(1 << 40) };
            facts.tables = vec![larger, table(8192)];
            facts.probe.causes = vec![Knob::ScanSize];
        }
    };
    let reasons = check(tables(Some(4)), &[ReasonKind::SmallTable]);
    assert!(reasons[0].explanation.starts_with("public.big has 8 kB: "), "{reasons:?}");
    check(tables(None), &[ReasonKind::Unknown]);
}

#[test]
fn a_limit_that_several_gathers_make_up_for_is_no_reason() {
    let change = |facts: &mut Facts<'_>, _: &mut Tree| {
        facts.settings[2] = setting(("max_parallel_workers_per_gather", "2"));
        facts.probe.causes = vec![Knob::Costs];
    };
    check(change, &[ReasonKind::Costs]);
}

#[test]
fn a_foreign_table_is_named_only_when_no_setting_helps() {
    let foreign = |most_possible| {
        move |facts: &mut Facts<'_>, _: &mut Tree| {
            facts.tables = vec![Table { foreign: true, ..table(0) }];
            facts.probe = Probe { most_possible, causes: vec![Knob::Costs], ..Probe::default() };
        }
    };
    check(foreign(4), &[ReasonKind::Costs]);
    let reasons = check(foreign(0), &[ReasonKind::ForeignTable, ReasonKind::Costs]);
    assert!(reasons[0].fixes[0].to_string().contains("SELECT * FROM public.big"));
}
