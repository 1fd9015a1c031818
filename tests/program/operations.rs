//! The files of `tuning/` against the program they are for: the systemd unit against its command
//! line, the dashboard and the alerts against what a running server's `/metrics` exports.
//!
//! Method: the files are read as they are. Where `systemd-analyze` and `promtool` are installed
//! they judge, too. Metrics are scraped after traffic that makes every labelled series that is
//! asked for: clients, errors, refusals, API calls, a backend that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use regex::Regex;
use serde_json::{Value, json};

use crate::support::gateway::{API_KEY, Gateway, PATH};
use crate::support::{PATIENCE, find_program, own_path, run};

const LIMIT: Duration = Duration::from_secs(300);

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn ringhold(arguments: &[&str]) -> crate::support::Finished {
    run(Command::new(env!("CARGO_BIN_EXE_ringhold")).args(arguments), LIMIT)
}

fn temporary(name: &str, text: &str) -> PathBuf {
    let path = own_path(name);
    std::fs::write(&path, text).unwrap();
    path
}

// --- The unit ------------------------------------------------------------------------------------

/// The settings of the unit's `[Service]`.
fn service() -> Vec<(String, String)> {
    let text = file("ringhold.service");
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']) && !line.is_empty());
    let pair = |line: &str| {
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
        (key.to_owned(), value.to_owned())
    };
    lines.map(pair).collect()
}

fn setting(name: &str) -> String {
    let found = service().into_iter().find(|(key, _)| key == name);
    found.unwrap_or_else(|| panic!("the unit has no {name}")).1
}

#[test]
fn the_unit_runs_what_there_is() {
    for key in ["ExecStartPre", "ExecStart"] {
        let line = setting(key);
        let words: Vec<&str> = line.trim_start_matches('-').split_whitespace().collect();
        assert_eq!(words[0], "/usr/local/bin/ringhold", "{line}");
        let help = ringhold(&[words[1], "--help"]);
        help.assert_success();
        let flags: Vec<_> = words.iter().filter(|word| word.starts_with("--")).collect();
        assert!(!flags.is_empty(), "{line}");
        for flag in flags {
            assert!(help.stdout.contains(&format!("{flag} <")), "{line}: {flag}\n{}", help.stdout);
        }
    }
    // Its keys are keys, with such values.
    let line = setting("ExecStart");
    let words: Vec<&str> = line.split_whitespace().collect();
    let sets: Vec<&str> = words.windows(2).filter(|w| w[0] == "--set").map(|w| w[1]).collect();
    assert_eq!(sets.len(), 2, "{line}");
    let mut arguments = vec!["config", "show"];
    arguments.extend(sets.iter().flat_map(|set| ["--set", set]));
    ringhold(&arguments).assert_success();
    arguments.extend(["--set", "engine.pinn=true"]);
    assert!(!ringhold(&arguments).success(), "a wrong key passes");
}

#[test]
fn the_unit_waits_and_allows_io_uring() {
    assert_eq!(setting("Type"), "notify");
    assert_eq!(setting("NotifyAccess"), "main");
    let seconds = |name: &str| -> u64 {
        setting(name).strip_suffix('s').and_then(|n| n.parse().ok()).expect("seconds")
    };
    // Longer than shutdown.timeout, and than the second that a core has to answer.
    assert!(seconds("TimeoutStopSec") > 30 && seconds("WatchdogSec") >= 10);
    assert_eq!(setting("LimitMEMLOCK"), "infinity");
    assert!(setting("LimitNOFILE").parse::<u64>().unwrap() >= 1_048_576);
    // For sd_notify.
    assert!(setting("RestrictAddressFamilies").split(' ').any(|family| family == "AF_UNIX"));
    let filters: Vec<_> =
        service().into_iter().filter(|(key, _)| key == "SystemCallFilter").collect();
    let [(_, filter)] = &filters[..] else { panic!("{filters:?}") };
    assert!(!filter.starts_with('~'), "what is denied may change with systemd: {filter}");
    let Some(analyze) = find_program(&["systemd-analyze"]) else {
        return crate::support::skip("systemd-analyze is not installed");
    };
    let mut allowed = BTreeSet::new();
    expand(&analyze, filter, &mut allowed);
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(allowed.contains(call), "{call} is not in {filter}");
    }
}

/// The system calls of a group, with those of the groups in it.
fn expand(analyze: &Path, group: &str, calls: &mut BTreeSet<String>) {
    let listed = run(Command::new(analyze).args(["syscall-filter", group]), LIMIT);
    listed.assert_success();
    for line in listed.stdout.lines().skip(1).map(str::trim) {
        if line.starts_with('@') && calls.insert(line.to_owned()) {
            expand(analyze, line, calls);
        } else if !line.is_empty() && !line.starts_with('#') {
            calls.insert(line.to_owned());
        }
    }
}

#[test]
fn systemd_understands_the_unit() {
    let Some(analyze) = find_program(&["systemd-analyze"]) else {
        return crate::support::skip("systemd-analyze is not installed");
    };
    // It looks for the program.
    let text = file("ringhold.service");
    let program = env!("CARGO_BIN_EXE_ringhold");
    let unit = |name: &str, text: &str| {
        let path = temporary(name, &text.replace("/usr/local/bin/ringhold", program));
        run(Command::new(&analyze).args(["verify", "--man=no"]).arg(&path), LIMIT)
    };
    let good = unit("ringhold-test.service", &text);
    assert!(good.success() && good.stderr.is_empty(), "{}{}", good.stdout, good.stderr);
    // It would have said so.
    let bad = unit("ringhold-bad.service", &text.replace("ProtectSystem=", "ProtectSistem="));
    assert!(bad.stderr.contains("ProtectSistem"), "{}", bad.stderr);
}

// --- The dashboard and the alerts ----------------------------------------------------------------

/// Every expression of the dashboard, with the labels that its legend names.
fn dashboard() -> Vec<(String, Vec<String>)> {
    let dashboard: Value = serde_json::from_str(&file("grafana-dashboard.json")).unwrap();
    let legend = Regex::new(r"\{\{(\w+)\}\}").unwrap();
    let mut found = Vec::new();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = target["legendFormat"].as_str().unwrap_or_default();
            let labels = legend.captures_iter(text).map(|found| found[1].to_owned()).collect();
            found.push((target["expr"].as_str().unwrap().to_owned(), labels));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            found.push((query.to_owned(), Vec::new()));
        }
    }
    assert!(found.len() > 40, "{}", found.len());
    found
}

/// Every expression of the alerts. The file keeps to a form that needs no parser of YAML.
fn alerts() -> Vec<String> {
    let text = file("prometheus-alerts.yml");
    let mut found = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(first) = line.trim().strip_prefix("expr:") else { continue };
        let mut expression = first.trim().trim_start_matches('|').to_owned();
        let indent = line.len() - line.trim_start().len();
        while let Some(more) = lines.next_if(|more| more.len() - more.trim_start().len() > indent) {
            expression.push(' ');
            expression.push_str(more.trim());
        }
        found.push(expression);
    }
    assert_eq!(found.len(), text.matches("- alert:").count());
    assert!(found.len() > 15, "{}", found.len());
    found
}

/// What an expression says of one metric: its name, and the labels it is chosen by.
fn used(expression: &str) -> Vec<(String, Vec<(String, String)>)> {
    let metric = Regex::new(r"\b((?:ringhold|process)_\w+)(?:\{([^}]*)\})?").unwrap();
    let label = Regex::new(r#"(\w+)=~?"([^"]*)""#).unwrap();
    metric
        .captures_iter(expression)
        .map(|found| {
            let labels = found.get(2).map_or("", |labels| labels.as_str());
            let labels = label.captures_iter(labels);
            let labels = labels.map(|label| (label[1].to_owned(), label[2].to_owned())).collect();
            (found[1].to_owned(), labels)
        })
        .collect()
}

/// What an expression groups by.
fn grouped(expression: &str) -> Vec<String> {
    let by = Regex::new(r"\bby \(([^)]*)\)").unwrap();
    let names = by.captures_iter(expression).flat_map(|found| {
        found[1].split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>()
    });
    names.collect()
}

/// Names that Prometheus gives by itself.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];

const TABLES: &str = r#"
[client]
[client.proxy.connect]
enabled = true
endpoint = "http://127.0.0.1:9/nobody"
[prometheus]
enabled = true
[[channel.namespaces]]
name = "chat"
allow_subscribe_for_client = true
"#;

/// The labels of each series, by the metric's name.
type Series = BTreeMap<String, Vec<BTreeMap<String, String>>>;

/// What a running server exports: all names, and the series that there are.
fn exported() -> (BTreeSet<String>, Series) {
    let gateway = Gateway::start(TABLES);
    let mut session = gateway.connected("ann");
    session.subscribe("chat:a");
    gateway.api("publish", json!({"channel": "chat:a", "data": 1}));
    session.publication("chat:a");
    session.fails("subscribe", json!({"channel": "nowhere:a"}), 102);
    gateway.api_reply("publish", &json!({"channel": "nowhere:a", "data": 1}));
    assert_eq!(gateway.post("publish", "{}", "wrong").0, 401);
    // The backend that is not there.
    gateway.session().fails("connect", json!({}), 100);
    assert_eq!(gateway.upgrade(PATH, &["Origin: https://elsewhere.example"]).0, 403);
    gateway.api("disconnect", json!({"user": "ann"}));
    session.closed(3503);
    let text = scrape(&gateway);
    let mut names = BTreeSet::new();
    let mut series = Series::new();
    let label = Regex::new(r#"(\w+)="([^"]*)""#).unwrap();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let suffixes: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            names.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
        } else if !line.starts_with('#') {
            let (name, _) = line.rsplit_once(' ').unwrap();
            let (base, labels) = name.split_once('{').unwrap_or((name, ""));
            let labels = label.captures_iter(labels);
            let labels = labels.map(|label| (label[1].to_owned(), label[2].to_owned())).collect();
            series.entry(base.to_owned()).or_default().push(labels);
        }
    }
    assert!(names.len() > 100, "{}", names.len());
    (names, series)
}

fn scrape(gateway: &Gateway) -> String {
    let mut stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: test\r\nX-API-Key: {API_KEY}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn every_metric_that_is_drawn_or_watched_is_exported() {
    let (names, series) = exported();
    let mut expressions: Vec<(String, Vec<String>)> = dashboard();
    expressions.extend(alerts().into_iter().map(|expression| (expression, Vec::new())));
    let mut metrics = BTreeSet::new();
    for (expression, mut wanted) in expressions {
        wanted.extend(grouped(&expression));
        wanted.retain(|label| !OF_PROMETHEUS.contains(&label.as_str()));
        let used = used(&expression);
        assert!(!used.is_empty() || expression.contains("up{"), "{expression}");
        for (name, chosen) in used {
            assert!(names.contains(&name), "{name} is not exported: {expression}");
            let empty = Vec::new();
            let there = series.get(&name).unwrap_or(&empty);
            for label in &wanted {
                let has = there.iter().any(|labels| labels.contains_key(label));
                assert!(has, "{name} has no label {label}: {expression}");
            }
            for (label, pattern) in chosen {
                if OF_PROMETHEUS.contains(&label.as_str()) {
                    continue;
                }
                // Each alternative is a value there is; codes of errors are only there when met.
                let values: Vec<_> = there.iter().filter_map(|labels| labels.get(&label)).collect();
                assert!(!values.is_empty(), "{name} has no label {label}: {expression}");
                for value in pattern.split('|').filter(|_| label != "code") {
                    assert!(values.contains(&&value.to_owned()), "{name}: no {label}={value}");
                }
            }
            metrics.insert(name);
        }
    }
    assert!(metrics.len() > 45, "{}", metrics.len());
}

#[test]
fn prometheus_understands_every_expression() {
    let Some(promtool) = find_program(&["promtool"]) else {
        return crate::support::skip("promtool is not installed");
    };
    let check = |name: &str, text: &str| {
        let path = temporary(name, text);
        run(Command::new(&promtool).args(["check", "rules"]).arg(path), LIMIT)
    };
    check("alerts.yml", &file("prometheus-alerts.yml")).assert_success();
    // Those of the dashboard, as rules, with its variables filled in.
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (number, (expression, _)) in dashboard().iter().enumerate() {
        if expression.starts_with("label_values(") {
            continue;
        }
        let expression = expression.replace("$__rate_interval", "1m").replace('\'', "''");
        rules.push_str(&format!("  - record: drawn:{number}\n    expr: '{expression}'\n"));
    }
    check("dashboard.yml", &rules).assert_success();
    let broken = check("broken.yml", &rules.replacen("sum(", "summ(", 1));
    assert!(!broken.success(), "it takes anything");
}
