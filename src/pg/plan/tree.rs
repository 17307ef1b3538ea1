//! Reading a plan: pure, from the text of `EXPLAIN (VERBOSE, FORMAT JSON)`.
//!
//! What is wanted is the most workers that can be alive at once. It must never come out too low,
//! because a refusal rests on it; the sum over all Gathers is such a bound, since a Gather has one
//! set of workers at a time (a rescan ends the old set first) and no
//! worker has workers.
//! But the sum is far too high for a UNION ALL of ten queries. So three numbers per node:
//!
//! - *peak*: the most workers at once while the node runs;
//! - *late*: the most from its first row on;
//! - *rest*: the most that can still be alive after the node returned its last row.
//!
//! A Gather that was read to its end has ended its workers: its rest is 0. That holds through nodes
//! that read their input to the end before they end themselves: Sort, Aggregate, Hash, Result and
//! the like. An Append runs its children one after the other (only foreign scans are asynchronous,
//! and those have no Gather), so its peak is the greatest of child i's peak plus the rests of the
//! children before it, as long as it runs once.
//!
//! A nested loop begins its inner side when it has a row of the outer one. If that comes of a node that reads all its input
//! before, such as a Sort, the outer side's Gathers have ended.
//!
//! All else is summed, and keeps its whole sum as rest. A hash join looks as if it built its inner
//! side first and read the outer after, but it may fetch the first outer row early to see whether
//! the outer side is empty (nodeHashjoin.c), and then both sides have workers. A merge join may stop
//! before one side is read to the end, and leaves that side's workers waiting in a full queue; so
//! does EXISTS, in a `SubPlan` or an `InitPlan`. So does LIMIT: seen on 13, 15 and 18, four workers stay
//! until the end of the query while a later branch of the UNION ALL runs.

use serde_json::{Map, Value};

use crate::decide::launch::PlannedLaunch;

/// A Gather with this part of the whole cost below it, or more, is heavy.
const HEAVY: f64 = 0.1;

/// Facts read from a plan.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Tree {
    /// `Workers Planned`, one a Gather or Gather Merge, from the root down.
    pub(super) launches: Vec<u32>,
    /// The same with what is to be expected of each.
    pub(super) planned: Vec<PlannedLaunch>,
    /// The most workers that can be alive at once.
    pub(super) reachable: u32,
    /// The most Gathers that can have workers at once.
    pub(super) gathers: u32,
    /// Relations that are read: schema and name.
    pub(super) tables: Vec<(String, String)>,
    /// Relations that are written: schema and name.
    pub(super) written: Vec<(String, String)>,
    /// Node types, each once, in the order of their appearance.
    pub(super) nodes: Vec<String>,
    /// Expressions, as the server writes them.
    pub(super) expressions: Vec<String>,
    /// The planner's cost of the whole.
    pub(super) cost: f64,
    /// A Gather that only tests parallel query (`debug_parallel_query`): one worker runs all.
    pub(super) single_copy: bool,
    /// An Append whose children share the workers of the Gather above it.
    pub(super) parallel_append: bool,
}

/// Workers while a node runs, from its first row on, and after its last.
#[derive(Clone, Copy, Default)]
struct Workers {
    peak: u32,
    late: u32,
    rest: u32,
}

impl Tree {
    /// Reads EXPLAIN's answer. `None` when it has no plan (a utility statement) or cannot be read.
    ///
    /// A rule may turn one statement into several; they run one after the other.
    pub(super) fn read(json: &str) -> Option<Self> {
        let answer: Value = serde_json::from_str(json).ok()?;
        let mut tree = Self::default();
        let mut found = false;
        for plan in answer.as_array()?.iter().filter_map(|query| query.get("Plan")) {
            let node = plan.as_object()?;
            found = true;
            tree.walk(node, false, cost(node));
            tree.reachable = tree.reachable.max(at_once(node, false, &|own| own).peak);
            tree.gathers = tree.gathers.max(at_once(node, false, &|own| own.min(1)).peak);
            tree.cost += cost(node);
        }
        found.then_some(tree)
    }

    /// Whether a node of this type is anywhere in the plan.
    pub(super) fn has(&self, node: &str) -> bool {
        self.nodes.iter().any(|known| known == node)
    }

    /// `again`: the node may be run more than once.
    fn walk(&mut self, node: &Map<String, Value>, again: bool, whole: f64) {
        let kind = kind(node);
        if !self.has(kind) {
            self.nodes.push(kind.to_owned());
        }
        self.collect(node);
        if let Some(workers) = planned(node) {
            self.launches.push(workers);
            self.planned.push(PlannedLaunch { workers, once: !again, heavy: cost(node) >= whole * HEAVY });
        }
        self.parallel_append |= kind == "Append" && node.get("Parallel Aware") == Some(&Value::Bool(true));
        self.single_copy |= node.get("Single Copy") == Some(&Value::Bool(true));
        for child in children(node) {
            self.walk(child, again || repeats(node, child), whole);
        }
    }

    fn collect(&mut self, node: &Map<String, Value>) {
        let text = |key: &str| node.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        if node.contains_key("Relation Name") {
            let written = node.get("Node Type").is_some_and(|kind| kind == "ModifyTable");
            let tables = if written { &mut self.written } else { &mut self.tables };
            let table = (text("Schema"), text("Relation Name"));
            if !tables.contains(&table) {
                tables.push(table);
            }
        }
        for (key, value) in node {
            let expression = matches!(key.as_str(), "Output" | "Filter" | "Function Call" | "Run Condition")
                || ["Cond", "Key", "Filter", "Parameters"].iter().any(|end| key.ends_with(end));
            if !expression {
                continue;
            }
            match value {
                Value::String(text) => self.expressions.push(text.clone()),
                Value::Array(list) => {
                    self.expressions.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
                }
                _ => {}
            }
        }
    }
}

fn children(node: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> {
    node.get("Plans").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

fn kind(node: &Map<String, Value>) -> &str {
    node.get("Node Type").and_then(Value::as_str).unwrap_or("")
}

fn relation(node: &Map<String, Value>) -> Option<&str> {
    node.get("Parent Relationship").and_then(Value::as_str)
}

fn cost(node: &Map<String, Value>) -> f64 {
    node.get("Total Cost").and_then(Value::as_f64).unwrap_or(0.0)
}

/// Whether a node may run a child more than once.
fn repeats(node: &Map<String, Value>, child: &Map<String, Value>) -> bool {
    let kind = kind(node);
    match relation(child) {
        // A subquery without outer references, or a CTE, wherever it hangs: its result is kept.
        Some("InitPlan") => false,
        Some("SubPlan") => true,
        // The outer side of a nested loop is read once, the inner one for each of its rows.
        input => {
            let of_each_row = kind == "Nested Loop" && input != Some("Outer");
            let outer = || children(node).find(|child| relation(child) == Some("Outer"));
            let has_one = || outer().is_some_and(has_one_row);
            kind == "Recursive Union" || (of_each_row && !has_one())
        }
    }
}

/// Whether a node never has more than one row.
fn has_one_row(node: &Map<String, Value>) -> bool {
    // A subplan is asked by expressions: its rows are none of the node's.
    let is_input = |child: &&Map<String, Value>| !matches!(relation(child), Some("InitPlan" | "SubPlan"));
    let all = || children(node).filter(is_input).all(has_one_row);
    match kind(node) {
        "Aggregate" => {
            let plain = node.get("Strategy").and_then(Value::as_str) == Some("Plain");
            plain && !node.contains_key("Grouping Sets")
        }
        "Nested Loop" | "Materialize" | "Subquery Scan" | "Limit" => all(),
        _ => false,
    }
}

fn planned(node: &Map<String, Value>) -> Option<u32> {
    node.get("Workers Planned").and_then(Value::as_u64).and_then(|planned| u32::try_from(planned).ok())
}

/// What can be there at once, where a Gather's workers count as `of` says. `again`: the node may be run more
/// than once.
fn at_once(node: &Map<String, Value>, again: bool, of: &impl Fn(u32) -> u32) -> Workers {
    let kind = kind(node);
    let mut members: Vec<Workers> = Vec::new();
    let mut others = 0;
    for child in children(node) {
        let workers = at_once(child, again || repeats(node, child), of);
        match relation(child) {
            Some("InitPlan" | "SubPlan") => others += workers.peak,
            _ => members.push(workers),
        }
    }
    let reads_all = match kind {
        "Sort" | "Hash" => true,
        "Aggregate" => matches!(node.get("Strategy").and_then(Value::as_str), Some("Plain" | "Hashed")),
        _ => false,
    };
    combine(kind, of(planned(node).unwrap_or(0)), &members, others, (again, reads_all))
}

/// `others` are the workers of the subplans and initplans of the node itself. `reads_all`: before its first row.
fn combine(
    kind: &str,
    own: u32,
    members: &[Workers],
    others: u32,
    (again, reads_all): (bool, bool),
) -> Workers {
    let all = |of: fn(&Workers) -> u32| others + members.iter().map(of).sum::<u32>();
    let (sum, rest) = (all(|member| member.peak), all(|member| member.rest));
    match kind {
        // Its own workers are gone once it was read to the end.
        "Gather" | "Gather Merge" => Workers { peak: own + sum, late: own + sum, rest: sum },
        // Run again, its outer side meets what the inner one left behind.
        "Nested Loop" if !again && members.len() == 2 => {
            let late = others + members[0].late + members[1].peak;
            Workers { peak: late.max(others + members[0].peak), late, rest: late }
        }
        // Run again, its first children meet what the last ones left behind.
        "Append" if !again => {
            let (mut peak, mut rest) = (0, 0);
            for member in members {
                peak = peak.max(rest + member.peak);
                rest += member.rest;
            }
            Workers { peak: others + peak, late: others + peak, rest: others + rest }
        }
        "Sort" | "Incremental Sort" | "Aggregate" | "Group" | "Hash" | "Result" | "ProjectSet"
        | "Subquery Scan" | "Unique" => {
            let late = if reads_all { rest } else { all(|member| member.late) };
            Workers { peak: sum, late, rest }
        }
        "Limit" | "Materialize" => Workers { peak: sum, late: all(|member| member.late), rest: sum },
        _ => Workers { peak: sum, late: sum, rest: sum },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plan in short: `kind(children)`; `Gather4` has four workers; a leading `!` marks a subplan, `@` an initplan.
    fn plan(text: &str) -> String {
        fn node(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Value {
            let mut name = String::new();
            while let Some(c) = chars.next_if(|c| !matches!(c, '(' | ')' | ',')) {
                name.push(c);
            }
            let relation = match name.chars().next() {
                Some('!') => "SubPlan",
                Some('@') => "InitPlan",
                _ => "Outer",
            };
            let name = name.trim_start_matches(['!', '@']).trim();
            let workers = name.trim_start_matches(|c: char| !c.is_ascii_digit());
            let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let mut node_json = serde_json::json!({ "Node Type": kind, "Parent Relationship": relation });
            if kind == "Total" {
                (node_json["Node Type"], node_json["Strategy"]) = ("Aggregate".into(), "Plain".into());
            }
            if !workers.is_empty() {
                node_json["Workers Planned"] = workers.parse::<u32>().unwrap().into();
            }
            let mut children = Vec::new();
            if chars.next_if_eq(&'(').is_some() {
                children.push(node(chars));
                while chars.next_if_eq(&',').is_some() {
                    children.push(node(chars));
                }
                assert_eq!(chars.next(), Some(')'));
            }
            if kind == "Nested Loop"
                && let Some(inner) = children.get_mut(1)
            {
                inner["Parent Relationship"] = "Inner".into();
            }
            node_json["Plans"] = children.into();
            node_json
        }
        serde_json::json!([{ "Plan": node(&mut text.chars().peekable()) }]).to_string()
    }

    fn check(text: &str, reachable: u32) {
        assert_eq!(Tree::read(&plan(text)).unwrap().reachable, reachable, "{text}");
    }

    #[test]
    fn a_serial_plan_reaches_nothing() {
        check("Aggregate(Seq Scan)", 0);
    }

    #[test]
    fn gathers_that_run_one_after_the_other_count_once() {
        let gathers = |text: &str| Tree::read(&plan(text)).unwrap().gathers;
        assert_eq!(gathers("Append(Gather2,Gather4,Aggregate(Gather Merge3))"), 1);
        assert_eq!(gathers("Append(Merge Join(Gather2,Gather2),Gather3)"), 3);
        assert_eq!(gathers("Hash Join(Gather2,Hash(Gather4))"), 2);
        assert_eq!(gathers("Aggregate(Seq Scan)"), 0);
    }

    #[test]
    fn union_all_runs_its_branches_one_after_the_other() {
        check("Append(Gather2,Gather4,Aggregate(Gather Merge3))", 4);
    }

    #[test]
    fn a_branch_that_may_leave_workers_behind_counts_for_the_later_ones_only() {
        check("Append(Merge Join(Gather2,Gather2),Gather3)", 7);
        check("Append(Limit(Gather2),Gather4)", 6);
        check("Append(Gather3,Merge Join(Gather2,Gather2))", 4);
        check("Append(Aggregate(Gather2,!Gather2),Gather4)", 6);
    }

    #[test]
    fn both_sides_of_a_join_may_have_workers_at_once() {
        check("Hash Join(Gather2,Hash(Gather4))", 6);
        check("Nested Loop(Gather2,Materialize(Gather1))", 3);
        check("Nested Loop(Append(Sort(Gather2),Sort(Gather4)),Gather1)", 5);
        check("Nested Loop(Limit(Gather2),Gather1)", 3);
        check("Merge Append(Gather2,Gather2)", 4);
    }

    #[test]
    fn what_is_read_before_the_first_row_is_over_when_the_inner_side_of_a_nested_loop_begins() {
        check("Nested Loop(Sort(Gather2),Sort(Gather4))", 4);
        check("Nested Loop(Limit(Sort(Gather4)),Gather2)", 4);
        check("Nested Loop(Nested Loop(Sort(Gather2),Sort(Gather2)),Sort(Gather3))", 5);
        check("Nested Loop(Sort(Merge Join(Gather2,Gather2)),Gather1)", 5);
        check("Nested Loop(Seq Scan,Nested Loop(Sort(Gather2),Gather4))", 6);
    }

    #[test]
    fn a_subplan_adds_to_what_it_belongs_to() {
        check("Gather2(Seq Scan,!Aggregate(Gather4))", 6);
        check("Append(Gather2,!Gather1,Gather2)", 3);
        check("Result(!Append(Gather2,Gather2))", 4);
        check("Nested Loop(Seq Scan,Append(Gather2,Gather2))", 4);
    }

    #[test]
    fn what_hangs_at_a_nested_loop_as_an_initplan_runs_once_and_its_inner_side_again_and_again() {
        let tree = Tree::read(&plan("Nested Loop(Gather2,Gather3,@Gather4,!Gather1)")).unwrap();
        let again: Vec<(u32, bool)> = tree.planned.iter().map(|it| (it.workers, !it.once)).collect();
        assert_eq!(again, [(2, false), (3, true), (4, false), (1, true)]);
    }

    #[test]
    fn the_inner_side_of_one_row_runs_once() {
        let again = |text: &str| -> Vec<bool> {
            Tree::read(&plan(text)).unwrap().planned.iter().map(|it| !it.once).collect()
        };
        assert_eq!(again("Nested Loop(Total(Gather4),Total(Gather2))"), [false, false]);
        assert_eq!(again("Nested Loop(Nested Loop(Total(Gather4),Total(Gather2)),Gather3)"), [false; 3]);
        assert_eq!(again("Nested Loop(Aggregate(Gather4),Total(Gather2))"), [false, true]);
        assert_eq!(again("Nested Loop(Nested Loop(Total(Gather4),Seq Scan),Gather3)"), [false, true]);
        check("Nested Loop(Total(Gather4),Append(Gather2,Total(Gather2)))", 4);
    }

    #[test]
    fn an_answer_without_a_plan_is_no_plan() {
        // REFRESH MATERIALIZED VIEW; CREATE TABLE IF NOT EXISTS of a table that exists (18).
        assert_eq!(Tree::read(r#"["Utility Statement"]"#), None);
        assert_eq!(Tree::read(r#"["CREATE TABLE AS"]"#), None);
        assert_eq!(Tree::read("[]"), None);
        assert_eq!(Tree::read("{"), None);
    }

    /// `SELECT sum(grp) FROM big WHERE id > (SELECT count(*) FROM big)` on 13, 15 and 18, nodes below
    /// the Gathers cut off.
    #[test]
    fn an_initplan_is_read_the_same_on_each_version() {
        let plan = |initplan: &str, gather: &str, filter: &str| {
            format!(
                r#"[{{"Plan": {{"Node Type": "Aggregate", "Strategy": "Plain", "Partial Mode": "Finalize",
                "Parallel Aware": false, "Output": ["sum(big.grp)"], "Total Cost": 8923.01, "Plans": [
                {{"Node Type": "Aggregate", "Partial Mode": "Finalize", "Parent Relationship": "InitPlan",
                  "Subplan Name": "{initplan}", "Output": ["count(*)"], "Plans": [
                  {{"Node Type": "Gather", "Parent Relationship": "Outer", "Output": ["(PARTIAL count(*))"],
                    "Workers Planned": 2, "Single Copy": false, "Plans": []}}]}},
                {{"Node Type": "Gather", "Parent Relationship": "Outer", {gather}
                  "Output": ["(PARTIAL sum(big.grp))"], "Workers Planned": 2, "Single Copy": false, "Plans": [
                  {{"Node Type": "Seq Scan", "Parent Relationship": "Outer", "Parallel Aware": true,
                    "Relation Name": "big", "Schema": "public", "Alias": "big", "Filter": "{filter}"}}]}}
                ]}}}}]"#
            )
        };
        let on_13 = plan("InitPlan 1 (returns $1)", r#""Params Evaluated": ["$1"],"#, "(big.id > $1)");
        let on_15 = plan(
            "InitPlan 1 (returns $1)",
            r#""Async Capable": false, "Params Evaluated": ["$1"],"#,
            "(big.id > $1)",
        );
        let on_18 = plan("InitPlan 1", r#""Disabled": false,"#, "(big.id > (InitPlan 1).col1)");
        for json in [on_13, on_15, on_18] {
            let tree = Tree::read(&json).unwrap();
            assert_eq!(tree.launches, [2, 2]);
            assert_eq!(tree.reachable, 4);
            assert_eq!(tree.tables, [("public".to_owned(), "big".to_owned())]);
            assert!(tree.expressions.iter().any(|text| text.contains("big.id")));
            assert!((tree.cost - 8923.01).abs() < 0.001);
        }
    }

    /// `INSERT INTO small SELECT id FROM big` on 13 ("Member") and 18 ("Outer").
    #[test]
    fn a_data_modifying_plan_shows_its_node() {
        for relationship in ["Member", "Outer"] {
            let json = format!(
                r#"[{{"Plan": {{"Node Type": "ModifyTable", "Operation": "Insert", "Relation Name": "small",
                "Schema": "public", "Alias": "small", "Plans": [{{"Node Type": "Seq Scan",
                "Parent Relationship": "{relationship}", "Relation Name": "big", "Schema": "public"}}]}}}}]"#
            );
            let tree = Tree::read(&json).unwrap();
            assert!(tree.has("ModifyTable") && tree.reachable == 0);
            assert_eq!(tree.written, [("public".to_owned(), "small".to_owned())]);
            assert_eq!(tree.tables, [("public".to_owned(), "big".to_owned())]);
        }
    }
}
