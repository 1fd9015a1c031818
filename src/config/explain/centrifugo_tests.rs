//! Every key of Centrifugo's against the reader, and against the page that tells of them.
//! `GOLDEN=write` writes the page anew.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value as Json, json};

use super::*;
use crate::config::schema::{Field, leaves};
use crate::config::{Consumer, Loaded, Mistakes, NamedProxy, Options, Sources, StatusTransform};
use crate::gateway::plan::{ConnectResponse, Namespace, OneWayDisconnect, RpcNamespace};

/// Paths of the keys that sections here have, in the form of the list.
fn ours() -> BTreeSet<String> {
    let mut found = Vec::new();
    let mut add = |field: &dyn Field, path: &str| leaves(field, path, &mut found);
    add(&Options::default(), "");
    add(&Namespace::default(), "channel.namespaces[]");
    add(&NamedProxy::default(), "proxies[]");
    add(&RpcNamespace::default(), "rpc.namespaces[]");
    add(&Consumer::default(), "consumers[]");
    let mut rows = Vec::new();
    for path in found.iter().filter(|path| path.ends_with(".status_to_code_transforms")) {
        leaves(&StatusTransform::default(), &format!("{path}[]"), &mut rows);
    }
    let ends = "client.connect_code_to_unidirectional_disconnect.transforms[]";
    leaves(&OneWayDisconnect::default(), ends, &mut rows);
    for table in ["uni_sse", "uni_http_stream"] {
        let path = format!("{table}.connect_code_to_http_response.transforms[]");
        leaves(&ConnectResponse::default(), &path, &mut rows);
    }
    found.into_iter().chain(rows).collect()
}

/// Centrifugo's own default for a key.
fn sample(key: &Key) -> Json {
    let last = key.path.rsplit_once("[].").map_or("", |(_, last)| last);
    match (key.kind, key.default) {
        // What an element must say.
        _ if matches!(last, "status_code" | "to.status_code") => json!(500),
        _ if matches!(last, "to_error.code" | "code") => json!(9),
        _ if last == "to.code" => json!(4000),
        _ if last == "name" => json!("some"),
        _ if last == "endpoint" => json!("http://a/b"),
        ("bool", text) => json!(text == "true"),
        ("int", text) => json!(text.parse::<i64>().unwrap_or(0)),
        ("duration", "") => json!("0s"),
        ("strings", "") | ("list", _) => json!([]),
        ("strings", text) => json!([text]),
        ("map", _) => json!({}),
        (_, text) => json!(text),
    }
}

/// Adds what a transform of codes must say.
fn complete(document: &mut Json) {
    for (table, key, value) in [
        ("/client/connect_code_to_unidirectional_disconnect", "code", 4000),
        ("/uni_sse/connect_code_to_http_response", "status_code", 401),
        ("/uni_http_stream/connect_code_to_http_response", "status_code", 401),
    ] {
        let Some(transform) = document.pointer_mut(&format!("{table}/transforms/0")) else {
            continue;
        };
        if transform["to"].get(key).is_none() {
            transform["to"][key] = json!(value);
        }
    }
}

/// Puts a value where its path leads; elements of lists have what each must have.
fn put(object: &mut Json, path: &str, value: Json) {
    let (first, rest) = path.split_once('.').map_or((path, None), |(a, b)| (a, Some(b)));
    let (name, element) = first.strip_suffix("[]").map_or((first, false), |name| (name, true));
    let map = object.as_object_mut().expect("an object");
    let at = map.entry(name).or_insert_with(|| match element {
        false => json!({}),
        true => json!([match name {
            "status_to_code_transforms" => json!({"status_code": 500, "to_error": {"code": 9}}),
            "transforms" => json!({"code": 9}),
            _ => json!({"name": "some", "endpoint": "http://a/b"}),
        }]),
    });
    let at = if element { &mut at[0] } else { at };
    match rest {
        Some(rest) => put(at, rest, value),
        None => *at = value,
    }
    // Only proxies have one.
    if element && name != "proxies" {
        at.as_object_mut().expect("an object").remove("endpoint");
    }
    if element && name == "consumers" && rest.is_some_and(|rest| !rest.starts_with("enabled")) {
        at["enabled"] = json!(false);
    }
}

fn load(document: &Json) -> Result<Loaded, Mistakes> {
    let mut document = document.clone();
    complete(&mut document);
    let sources = Sources { file: Some("c.json".into()), ..Sources::default() };
    Options::from_text(&sources, &document.to_string())
}

#[test]
fn the_list_is_what_it_should_be() {
    assert_eq!(keys().len(), 1168);
    let kinds = ["bool", "int", "duration", "string", "strings", "map", "list"];
    for key in keys() {
        assert!(kinds.contains(&key.kind), "{key:?}");
    }
    assert_eq!(by_path().len(), keys().len());
}

#[test]
fn every_key_is_ours_or_has_a_rule_and_every_rule_a_key() {
    let ours = ours();
    for key in keys().iter().filter(|key| !ours.contains(key.path)) {
        assert!(rule(key.path).is_some(), "{}: nothing is said of it", key.path);
    }
    for (at, ..) in RULES {
        let mut names = keys().iter().map(|key| {
            let plain = key.path.to_owned();
            shared(&plain).unwrap_or(plain)
        });
        assert!(names.any(|name| name == **at || within(&name, at)), "{at}: no such key");
        let stale = ours.iter().any(|path| shared(path).unwrap_or(path.clone()) == **at);
        assert!(!stale, "{at}: a section has it");
    }
}

/// The output of `centrifugo defaultconfig`.
#[test]
fn its_whole_default_configuration_starts() {
    let mut document = json!({});
    for key in keys().iter().filter(|key| !key.path.contains("[]")) {
        put(&mut document, key.path, sample(key));
    }
    let loaded = load(&document).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(loaded.warnings.len() > 20, "{:?}", loaded.warnings);
}

#[test]
fn each_key_is_read_noted_or_refused_by_its_name() {
    let ours = ours();
    for key in keys() {
        let mut document = json!({});
        put(&mut document, key.path, sample(key));
        let loaded = load(&document).unwrap_or_else(|wrong| panic!("{}: {wrong}", key.path));
        if ours.contains(key.path) {
            let noted = |warning: &String| warning.contains("a setting of Centrifugo's");
            assert!(!loaded.warnings.iter().any(noted), "{}: {:?}", key.path, loaded.warnings);
            continue;
        }
        assert!(!loaded.warnings.is_empty(), "{}", key.path);
        let (fate, _) = rule(key.path).expect("a rule");
        let on = match (fate, key.kind) {
            (Fate::Noted, _) => continue,
            (Fate::Missed, "bool") => json!(true),
            (Fate::Missed, "int") => json!(7),
            (Fate::Missed | Fate::Unless(_), _) => json!("other"),
        };
        put(&mut document, key.path, on);
        // What it is switched on with.
        let table = key.path.rsplit_once('.').map_or("", |(table, _)| table);
        if keys().iter().any(|other| other.path == join(table, "enabled")) {
            put(&mut document, &join(table, "enabled"), json!(true));
        }
        if key.path.starts_with("consumers[].redis_stream.") {
            put(&mut document, "consumers[].type", json!("redis_stream"));
            put(&mut document, "consumers[].enabled", json!(true));
        }
        if key.path.starts_with("engine.redis.") {
            put(&mut document, "engine.type", json!("redis"));
        }
        let wrong = load(&document).expect_err(key.path);
        let named = key.path.replace("[]", "[0]");
        let told = wrong
            .list
            .iter()
            .any(|mistake| mistake.key == named && mistake.what.contains("ringhold does not have"));
        assert!(told, "{}: {wrong}", key.path);
    }
}

#[test]
fn whom_nobody_asks_may_have_settings_that_would_be_missed() {
    let redis = json!({"history_use_lists": true, "presence_user_mapping": true});
    let mut document = json!({"engine": {"type": "memory", "redis": redis}});
    let loaded = load(&document).unwrap_or_else(|wrong| panic!("{wrong}"));
    for key in ["history_use_lists", "presence_user_mapping"] {
        let note = format!("engine.redis.{key}: is not heard: engine.type is \"memory\"");
        let told = loaded.warnings.iter().filter(|warning| warning.ends_with(&note)).count();
        assert_eq!(told, 1, "{:?}", loaded.warnings);
    }
    document["engine"]["type"] = json!("redis");
    assert!(load(&document).is_err());
    // A name that is nobody's stays a mistake.
    document["engine"] = json!({"redis": {"history_use_list": true}});
    assert!(load(&document).is_err());
}

#[test]
fn a_typo_within_a_foreign_table_is_told() {
    let wrong = load(&json!({"uni_grpc": {"enabled": true, "prt": 1}})).unwrap_err();
    assert!(wrong.list.iter().any(|it| it.key == "uni_grpc.prt" && it.what == "unknown key"));
    assert!(load(&json!({"uni_grcp": {"port": 1}})).is_err());
}

// --- The page ------------------------------------------------------------------------------------

/// A row: key or table, and why.
type Row = (String, &'static str);

fn page() -> String {
    let ours = ours();
    let mut supported: Vec<(String, Vec<String>)> = Vec::new();
    let (mut noted, mut refused): (Vec<Row>, Vec<Row>) = (Vec::new(), Vec::new());
    let mut counts = [0; 3];
    for key in keys() {
        let name = shared(key.path).unwrap_or_else(|| key.path.to_owned());
        let fate = rule(key.path);
        if ours.contains(key.path) {
            counts[0] += 1;
            let (table, last) = name.rsplit_once('.').unwrap_or(("", &name));
            match supported.iter_mut().find(|(known, _)| known == table) {
                Some((_, keys)) if keys.iter().any(|known| known == last) => {}
                Some((_, keys)) => keys.push(last.to_owned()),
                None => supported.push((table.to_owned(), vec![last.to_owned()])),
            }
            continue;
        }
        let Some((fate, why)) = fate else { continue };
        let (count, rows) = match fate {
            Fate::Noted => (1, &mut noted),
            _ => (2, &mut refused),
        };
        counts[count] += 1;
        // As the rule names it.
        let at = RULES.iter().filter(|(at, ..)| name == **at || within(&name, at));
        let at = at.max_by_key(|(at, ..)| at.len()).map_or("", |(at, ..)| at);
        let row = if at == name { name.clone() } else { format!("{at}.…") };
        if !rows.iter().any(|(known, _)| *known == row) {
            rows.push((row, why));
        }
    }
    let mut text = format!(
        "# Centrifugo's keys\n\n\
         `GOLDEN=write cargo test --lib centrifugo` makes this page of the program. Of the {} \
         keys of Centrifugo 6.9 (those\nof namespaces and proxies counted wherever they may stand) \
         {} are supported, {} are noted, {} are refused where they\nare on. Names here: \
         `channel.*` is `channel.without_namespace` and each of `channel.namespaces`; `*.proxy` \
         is each proxy of\n`client.proxy`, `channel.proxy`, `rpc.proxy` and `proxies`; \
         `client.*token` is `client.token` and `client.subscription_token`.\n\n\
         ## Supported\n\n| table | keys |\n|---|---|\n",
        keys().len(),
        counts[0],
        counts[1],
        counts[2]
    );
    for (table, keys) in supported {
        let table = if table.is_empty() { "the root".to_owned() } else { format!("`{table}`") };
        let keys: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
        let _ = writeln!(text, "| {table} | {} |", keys.join(", "));
    }
    let plain = |why: &str| why.strip_prefix(": ").unwrap_or(why).to_owned();
    text += "\n## Refused where they are on\n\n\
             Something would be unsafe or lost without them. Off, they are noted, and those of \
             `engine.redis` also where\n`engine.type` is another.\n\n\
             | key | instead |\n|---|---|\n";
    for (row, why) in refused {
        let _ = writeln!(text, "| `{row}` | {} |", plain(why));
    }
    text += "\n## Noted\n\n\
             Accepted with a warning each; `config check --strict` takes them for mistakes.\n\n\
             | key | why |\n|---|---|\n";
    for (row, why) in noted {
        let _ = writeln!(text, "| `{row}` | {} |", plain(why));
    }
    text
}

#[test]
fn the_page_says_what_the_program_does() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/centrifugo-keys.md");
    let page = page();
    if std::env::var("GOLDEN").is_ok_and(|it| it == "write") {
        std::fs::write(file, &page).expect("it can be written");
    }
    let there = std::fs::read_to_string(file).unwrap_or_default();
    assert!(there == page, "docs/centrifugo-keys.md is another: GOLDEN=write writes it anew");
}
