//! Grafana's JSON by rule, since no Grafana runs here.

use std::collections::BTreeSet;
use std::convert::Infallible;

use promql_parser::parser::{Expr, parse};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

use super::{contract, read, recorded};

const FILES: [&str; 2] = ["overview", "task"];

/// Prometheus' own series of alerts.
const FOREIGN: [&str; 1] = ["ALERTS"];

fn dashboard(name: &str) -> Value {
    serde_json::from_str(&read(&format!("dashboards/grafana/dashboards/{name}.json"))).unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn panels(board: &Value) -> impl Iterator<Item = &Value> {
    list(board, "panels").iter().filter(|panel| text(panel, "type") != "row")
}

/// What Grafana makes of an expression before it sends it.
fn interpolated(expr: &str, task: &str) -> String {
    expr.replace("$__rate_interval", "5m").replace("$task", task)
}

/// An expression of a dashboard, as Prometheus receives it.
pub(crate) struct Expression {
    /// Where it stands.
    pub(crate) place: String,
    pub(crate) promql: String,
}

/// All of both dashboards, for a task that was chosen there.
pub(crate) fn expressions(task: &str) -> Vec<Expression> {
    let mut found = Vec::new();
    for name in FILES {
        let board = dashboard(name);
        for panel in panels(&board) {
            for target in prometheus_targets(panel) {
                let place = format!("{name}: {} {}", text(panel, "title"), text(target, "refId"));
                found.push(Expression { place, promql: interpolated(text(target, "expr"), task) });
            }
        }
        for annotation in annotations(&board) {
            let place = format!("{name}: {}", text(annotation, "name"));
            found.push(Expression { place, promql: interpolated(text(annotation, "expr"), task) });
        }
    }
    found
}

fn prometheus_targets(panel: &Value) -> impl Iterator<Item = &Value> {
    list(panel, "targets").iter().filter(|target| target["datasource"]["type"] == "prometheus")
}

/// Ours: Grafana's own one is always there.
fn annotations(board: &Value) -> impl Iterator<Item = &Value> {
    list(&board["annotations"], "list").iter().filter(|annotation| annotation["builtIn"] != 1)
}

struct Selectors(BTreeSet<String>);

impl ExprVisitor for Selectors {
    type Error = Infallible;

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, Infallible> {
        match expr {
            Expr::VectorSelector(selector) => self.0.extend(selector.name.clone()),
            Expr::MatrixSelector(selector) => self.0.extend(selector.vs.name.clone()),
            _ => (),
        }
        Ok(true)
    }
}

fn selected(place: &str, expr: &str) -> BTreeSet<String> {
    let parsed = parse(expr).unwrap_or_else(|error| panic!("{place}: {error}\n{expr}"));
    let mut selectors = Selectors(BTreeSet::new());
    let Ok(_) = walk_expr(&mut selectors, &parsed);
    assert!(!selectors.0.is_empty(), "{place} asks for nothing");
    selectors.0
}

#[test]
fn every_expression_parses_and_names_only_what_exists() {
    let known: BTreeSet<String> =
        contract().into_iter().chain(recorded()).chain(FOREIGN.map(ToOwned::to_owned)).collect();
    let all = expressions("rollup");
    assert!(all.len() > 60, "{}", all.len());
    for Expression { place, promql: expr } in &all {
        assert!(!expr.contains('$'), "{place}: a variable that no test replaces: {expr}");
        let unknown: Vec<_> =
            selected(place, expr).into_iter().filter(|name| !known.contains(name)).collect();
        assert!(unknown.is_empty(), "{place}: {unknown:?}");
    }
}

/// Whatever an expression takes a difference of, with how it chooses the series.
struct Ranges(Vec<String>);

impl ExprVisitor for Ranges {
    type Error = Infallible;

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, Infallible> {
        if let Expr::MatrixSelector(selector) = expr {
            self.0.push(selector.vs.to_string());
        }
        Ok(true)
    }
}

#[test]
fn no_rate_is_taken_of_what_runs_have_left_behind() {
    // The figures of two runs lie side by side; between them nothing has increased.
    let mut found = 0;
    for Expression { place, promql } in expressions("rollup") {
        let mut ranges = Ranges(Vec::new());
        let Ok(_) = walk_expr(&mut ranges, &parse(&promql).unwrap());
        for range in ranges.0 {
            let gauge = range.contains("headcount_last_run_timestamp_seconds");
            assert!(gauge || range.contains("instance!=\"\""), "{place}: {range}");
            found += 1;
        }
    }
    assert!(found > 30, "{found}");
}

#[test]
fn the_pool_is_shown_only_where_somebody_looks_now() {
    let all = expressions("rollup");
    let pools: Vec<_> = all.iter().filter(|one| one.promql.contains("headcount_pool_workers")).collect();
    assert!(!pools.is_empty());
    for Expression { place, promql } in pools {
        assert!(promql.contains("headcount_pool_workers{instance!=\"\""), "{place}: {promql}");
    }
}

#[test]
fn every_metric_of_the_contract_is_shown_somewhere() {
    let rules = read("dashboards/prometheus/rules/recording.yml");
    let shown: BTreeSet<_> =
        expressions("rollup").iter().flat_map(|one| selected(&one.place, &one.promql)).collect();
    for metric in headcount::telemetry::names::ALL {
        let direct = shown.iter().any(|name| name.starts_with(metric.name));
        // Through a recording rule.
        let recorded = rules.split("- record: ").skip(1).any(|rule| {
            rule.contains(metric.name) && shown.contains(rule.lines().next().unwrap_or_default())
        });
        assert!(direct || recorded, "{} is on no dashboard", metric.name);
    }
}

#[test]
fn a_panel_says_what_it_shows_in_which_unit_and_when_it_is_bad() {
    for name in FILES {
        let board = dashboard(name);
        let mut ids = BTreeSet::new();
        for panel in list(&board, "panels") {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: an id twice");
            assert!(!text(panel, "title").is_empty(), "{name}: a panel without a title");
        }
        for panel in panels(&board) {
            let title = text(panel, "title");
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(text(panel, "description").ends_with('.'), "{name}: {title} has no description");
            assert!(!text(defaults, "unit").is_empty(), "{name}: {title} has no unit");
            assert!(!list(&defaults["thresholds"], "steps").is_empty(), "{name}: {title} has no thresholds");
            for target in prometheus_targets(panel) {
                let expr = text(target, "expr");
                if expr.contains("rate(") || expr.contains("increase(") || expr.contains("changes(") {
                    assert!(expr.contains("[$__rate_interval]"), "{name}: {title}: a window of its own");
                }
            }
        }
    }
}

#[test]
fn panels_lie_side_by_side_and_the_top_row_says_whether_all_is_well() {
    for name in FILES {
        let board = dashboard(name);
        let mut cells = BTreeSet::new();
        for panel in list(&board, "panels") {
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{name}: {} is too wide", text(panel, "title"));
            for cell in
                (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
            {
                assert!(cells.insert(cell), "{name}: {} lies over another panel", text(panel, "title"));
            }
        }
        let top: Vec<_> = panels(&board).filter(|panel| panel["gridPos"]["y"].as_u64() == Some(1)).collect();
        assert!(top.len() >= 4 && top.iter().all(|panel| text(panel, "type") == "stat"), "{name}");
    }
}

#[test]
fn data_sources_and_tasks_are_variables() {
    for name in FILES {
        let board = dashboard(name);
        assert_eq!(board["schemaVersion"], 42);
        assert_eq!(text(&board, "uid"), format!("headcount-{name}"));
        let variables = list(&board["templating"], "list");
        let kinds: Vec<_> = variables.iter().map(|v| (text(v, "name"), text(v, "type"))).collect();
        assert_eq!(kinds, [("datasource", "datasource"), ("traces", "datasource"), ("task", "query")]);

        let mut places: Vec<&Value> = annotations(&board).collect();
        places.push(&variables[2]);
        places.extend(panels(&board));
        places.extend(panels(&board).flat_map(|panel| list(panel, "targets")));
        for place in places {
            let uid = text(&place["datasource"], "uid");
            let wanted = if place["datasource"]["type"] == "tempo" { "${traces}" } else { "${datasource}" };
            assert_eq!(uid, wanted, "{name}: {place}");
        }
    }
}

/// The links of a panel: of its values, or of one of its columns.
fn links(panel: &Value) -> impl Iterator<Item = &Value> {
    let config = &panel["fieldConfig"];
    let columns = list(config, "overrides").iter().flat_map(|column| list(column, "properties"));
    let of_columns =
        columns.filter(|property| property["id"] == "links").flat_map(|links| list(links, "value"));
    list(&config["defaults"], "links").iter().chain(of_columns)
}

#[test]
fn every_panel_leads_to_traces_and_rejected_attempts_are_marked() {
    for name in FILES {
        let board = dashboard(name);
        for panel in panels(&board) {
            let to_traces = links(panel).any(|link| {
                let url = text(link, "url");
                url.starts_with("/explore?")
                    && url.contains("${traces}")
                    && url.contains("span.headcount.task")
            });
            assert!(to_traces, "{name}: {} leads to no traces", text(panel, "title"));
        }
        // What counts on and what was pushed need an expression each; see the chain's tests for both. Of what
        // counts on, one that sees attempts before the first scrape, too.
        for wanted in [
            "instance:headcount_counters:added{counter=\"headcount_attempts_total\", verdict=\"short\"",
            "headcount_attempts_total{verdict=\"short\", instance=\"\"",
        ] {
            assert!(annotations(&board).any(|mark| text(mark, "expr").contains(wanted)), "{name}: {wanted}");
        }
    }
}

/// A link to traces has JSON in it, and in that `TraceQL`: a backslash, as `${task:regex}` puts before a dot, is
/// neither's.
#[test]
fn links_to_traces_hold_json_whatever_the_tasks_are_called() {
    for name in FILES {
        let board = dashboard(name);
        let mut found = 0;
        for link in panels(&board).flat_map(links) {
            let url = text(link, "url");
            for format in url.split("${").skip(1).filter_map(|rest| rest.split_once('}')?.0.split_once(':')) {
                assert!(["pipe", "queryparam"].contains(&format.1), "{name}: {format:?} in {url}");
            }
            let Some((_, panes)) = url.split_once("&panes=") else { continue };
            let chosen = panes
                .replace("${task:pipe}", "sales.report|ship-all")
                .replace("$task", "sales.report")
                .replace("${__field.labels.task}", "sales.report")
                .replace("${__value.text}", "sales.report");
            let decoded = percent_encoding::percent_decode_str(&chosen).decode_utf8().unwrap();
            let panes: Value =
                serde_json::from_str(&decoded).unwrap_or_else(|error| panic!("{name}: {error}: {decoded}"));
            let query = panes["traces"]["queries"][0]["query"].as_str().unwrap();
            assert!(query.contains("sales.report") && !query.contains('\\'), "{name}: {query}");
            found += 1;
        }
        assert!(found > 20, "{name}: {found}");
    }
}

#[test]
fn what_the_provisioning_names_is_what_is_mounted() {
    let compose = read("docker-compose.yml");
    let provider = read("dashboards/grafana/provisioning/dashboards/dashboards.yml");
    let path = super::values(&provider, "path").next().unwrap();
    assert!(compose.contains(&format!("./dashboards/grafana/dashboards:{path}:ro")));
    let sources = read("dashboards/grafana/provisioning/datasources/datasources.yml");
    let kinds: Vec<_> = super::values(&sources, "type").collect();
    assert_eq!(kinds, ["prometheus", "tempo"]);
    let scrape = read("dashboards/prometheus/prometheus.yml");
    let interval = super::values(&scrape, "scrape_interval").next().unwrap();
    assert_eq!(super::values(&sources, "timeInterval").next(), Some(interval));
}
