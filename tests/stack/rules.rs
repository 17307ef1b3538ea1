//! Alerts are tested, explained, and rest only on what exists; the programs accept their files.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use super::programs::{installed, output};
use super::{contract, file, read, recorded, values};

const RULES: &str = "dashboards/prometheus/rules";

/// What Prometheus and the Pushgateway say about themselves.
const FOREIGN: [&str; 3] = ["up", "push_time_seconds", "push_failure_time_seconds"];

/// The lines from each `- alert:` to the next, by the alert's name.
fn alerts() -> BTreeMap<String, String> {
    let text = read(&format!("{RULES}/alerts.yml"));
    let mut alerts = BTreeMap::new();
    for part in text.split("- alert: ").skip(1) {
        let (name, body) = part.split_once('\n').unwrap();
        assert!(alerts.insert(name.to_owned(), body.to_owned()).is_none(), "{name} twice");
    }
    alerts
}

/// The names of metrics in a text: all that has our prefix, recorded ones with their colons.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let code = text.lines().map(|line| line.split_once('#').map_or(line, |(code, _)| code));
    code.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':'))
        .map(|word| word.trim_matches(':'))
        .filter(|word| word.contains("headcount_"))
        .collect()
}

#[test]
fn every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let tests = read(&format!("{RULES}/alerts_test.yml"));
    let mut fires = BTreeSet::new();
    let mut silent = BTreeSet::new();
    for case in tests.split("  - name: ").skip(1) {
        let (name, body) = case.split_once('\n').unwrap();
        let alert = name.split(' ').next().unwrap();
        assert!(values(body, "alertname").all(|asked| asked == alert), "{name} asks for another alert");
        let firing = body.contains("exp_alerts:\n");
        if name.contains("does not fire") {
            assert!(!firing, "{name}");
            silent.insert(alert.to_owned());
        } else {
            assert!(name.contains(" fires ") && firing, "{name}");
            fires.insert(alert.to_owned());
        }
    }
    let all: BTreeSet<_> = alerts().into_keys().collect();
    assert_eq!(fires, all);
    assert_eq!(silent, all);

    let healthy = read(&format!("{RULES}/healthy_test.yml"));
    for alert in &all {
        assert!(
            healthy.contains(&format!("alertname: {alert}, exp_alerts: []")),
            "{alert} in healthy_test.yml"
        );
    }
}

#[test]
fn every_alert_says_how_urgent_it_is_and_has_a_section_in_the_runbook() {
    let runbook = read("dashboards/README.md");
    for (name, body) in alerts() {
        let one = |key| values(&body, key).next().unwrap_or_else(|| panic!("{name} has no {key}"));
        assert!(["page", "ticket"].contains(&one("severity")), "{name}");
        assert!(one("summary").len() > 20 && one("description").len() > 60, "{name}");
        assert_eq!(one("runbook"), format!("dashboards/README.md#{}", name.to_lowercase()));
        assert!(!body.contains("\n        for:"), "{name}: a short process is gone before `for` elapses");

        let section = runbook.split(&format!("\n### {name}\n")).nth(1);
        let section = section.unwrap_or_else(|| panic!("{name} has no section in the runbook"));
        let section = section.split("\n### ").next().unwrap();
        for part in ["**Means:**", "**Look:**", "**Do:**"] {
            assert!(section.contains(part), "the section of {name} lacks {part}");
        }
    }
    assert_eq!(runbook.matches("\n### Headcount").count(), alerts().len(), "a section without its alert");
}

#[test]
fn below_the_minimum_wakes_somebody() {
    assert!(alerts()["HeadcountBelowMinimum"].contains("severity: page"));
}

#[test]
fn rules_and_their_tests_name_only_what_is_exported_or_recorded() {
    let known: BTreeSet<String> = contract().into_iter().chain(recorded()).collect();
    let rules = ["alerts.yml", "recording.yml", "schedule.yml"];
    for name in rules.into_iter().chain(["alerts_test.yml", "healthy_test.yml", "memory_test.yml"]) {
        let text = read(&format!("{RULES}/{name}"));
        let unknown: Vec<_> = metrics_in(&text).into_iter().filter(|word| !known.contains(*word)).collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
    let alerts = read(&format!("{RULES}/alerts.yml"));
    assert!(FOREIGN.iter().all(|name| alerts.contains(name)));
}

#[test]
fn prometheus_accepts_its_configuration_and_its_rules_pass_their_tests() {
    installed();
    let folder = super::programs::Place::new().prometheus_folder();
    output(Command::new("promtool").args(["check", "config"]).arg(folder.path().join("prometheus.yml")));
    for name in ["recording.yml", "alerts.yml", "schedule.yml"] {
        output(Command::new("promtool").args(["check", "rules", "--lint-fatal"]).arg(file(RULES).join(name)));
    }
    for name in ["alerts_test.yml", "healthy_test.yml", "memory_test.yml"] {
        output(Command::new("promtool").args(["test", "rules"]).arg(file(RULES).join(name)));
    }
}

#[test]
fn the_schedule_takes_what_its_comment_shows() {
    installed();
    let text = read(&format!("{RULES}/schedule.yml"));
    let example: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    assert!(example[0].starts_with("- record: "), "{example:?}");
    let rules = example.join("\n      ");
    let filled = text.replace("    rules: []", &format!("    rules:\n      {rules}"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("schedule.yml");
    std::fs::write(&path, filled).unwrap();
    let said = output(Command::new("promtool").args(["check", "rules"]).arg(&path));
    assert!(said.contains("1 rules found"), "{said}");
}

#[test]
fn both_places_of_targets_have_the_same_files() {
    let listed = |place: &str| -> BTreeSet<_> {
        let folder = file("dashboards/prometheus/targets").join(place);
        std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let config = read("dashboards/prometheus/prometheus.yml");
    let wanted: BTreeSet<_> = config
        .split("targets/")
        .skip(2) // the comment
        .filter_map(|rest| rest.split(']').next().map(ToOwned::to_owned))
        .collect();
    assert_eq!(listed("loopback"), wanted);
    assert_eq!(listed("compose"), wanted);
}

#[test]
fn the_demo_of_docker_compose_is_scraped_where_it_listens() {
    let compose = read("docker-compose.yml");
    let demo = compose.split("\n  demo:\n").nth(1).unwrap();
    let listen = values(demo, "LISTEN").next().unwrap();
    let port = listen.strip_prefix("0.0.0.0:").unwrap();
    let targets = read("dashboards/prometheus/targets/compose/headcount.yml");
    assert!(targets.contains(&format!("- targets: [demo:{port}]")), "{targets}");
    let script = read("dashboards/demo.sh");
    let play = script.lines().find(|line| line.trim().starts_with("headcount demo ")).unwrap();
    assert!(play.contains("--listen \"$LISTEN\"") && play.contains("--keep-metrics "), "{play}");
    // Started again, it is not healthy before it is built.
    let first = demo.split("      - |\n").nth(1).unwrap();
    let first = first.lines().find(|line| !line.trim().starts_with('#')).unwrap();
    assert_eq!(first.trim(), "rm -f /tmp/built");
    assert!(demo.contains("test: [CMD, test, -e, /tmp/built]"));
    // It has a server of its own only where the programs for one are.
    assert!(demo.contains("apt-get install -y --no-install-recommends postgresql-"));
    output(Command::new("sh").arg("-n").arg(file("dashboards/demo.sh")));
}

#[test]
fn alertmanager_accepts_its_configuration() {
    installed();
    output(Command::new("amtool").arg("check-config").arg(file("dashboards/alertmanager/alertmanager.yml")));
}

#[test]
fn each_severity_has_its_receiver() {
    installed();
    for severity in ["page", "ticket"] {
        let mut amtool = Command::new("amtool");
        amtool
            .args(["config", "routes", "test", "--config.file"])
            .arg(file("dashboards/alertmanager/alertmanager.yml"));
        // A warning about its own flags may follow.
        let said = output(amtool.arg(format!("severity={severity}")));
        assert_eq!(said.lines().next(), Some(severity));
    }
}

#[test]
fn only_alerts_that_exist_are_muted() {
    let config = read("dashboards/alertmanager/alertmanager.yml");
    let rules = config.split("inhibit_rules:").nth(1).unwrap();
    let named =
        rules.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.starts_with("Headcount"));
    let unknown: Vec<_> = named.filter(|name| !alerts().contains_key(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn docker_compose_accepts_its_file_and_every_mounted_file_is_there() {
    installed();
    let text = read("docker-compose.yml");
    let config =
        output(Command::new("docker-compose").arg("-f").arg(file("docker-compose.yml")).arg("config"));
    for service in [
        "postgres",
        "prometheus",
        "alertmanager",
        "receiver",
        "pushgateway",
        "grafana",
        "tempo",
        "otel-collector",
        "demo",
    ] {
        assert!(config.contains(&format!("\n  {service}:\n")), "{service}");
    }
    for image in values(&text, "image") {
        let tag = image.split_once(':').unwrap_or_else(|| panic!("{image} is not pinned")).1;
        assert!(tag.contains('.') && !tag.contains("latest"), "{image} is not pinned");
    }
    // A path that is missing would be made as an empty folder.
    for source in text.lines().filter_map(|line| line.trim().strip_prefix("- ./")) {
        let path = source.split(':').next().unwrap();
        assert!(file(path).exists(), "{path}");
    }
    // On loopback, and where one is taken, another can be chosen.
    let runbook = read("dashboards/README.md");
    for ports in values(&text, "ports") {
        for port in ports.trim_matches(['[', ']']).split(", ") {
            let port = port.trim_matches('"');
            let chosen = port.strip_prefix("127.0.0.1:${").and_then(|port| port.split_once(":-"));
            let (name, numbers) = chosen.unwrap_or_else(|| panic!("{port} is not on loopback, or fixed"));
            let (default, inside) = numbers.split_once("}:").unwrap();
            assert_eq!(default, inside, "{port}");
            assert!(runbook.contains(&format!("`{name}`")), "{name}");
        }
    }
    // What Alertmanager posts to is on its own host; there the receiver must be.
    let receiver = text.split("\n  receiver:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    assert_eq!(values(receiver, "network_mode").next(), Some("service:alertmanager"));
    for url in values(&read("dashboards/alertmanager/alertmanager.yml"), "url") {
        assert!(url.starts_with("http://127.0.0.1:9095/"), "{url}");
    }
    // All but the one that only copies a file.
    let services = text.matches("\n    image: ").count();
    assert_eq!(text.matches("\n    healthcheck:").count(), services - 1);
}
