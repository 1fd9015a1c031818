//! Files that import each other, directly or around: circles. A folder and what lies in it are one
//! matter, and do not count.

use std::collections::{BTreeMap, BTreeSet};

/// A module by its path below `src`.
type Module = Vec<String>;

/// Circles there are, as the names of their modules, and why each stays.
const CIRCLES: [(&[&str], &str); 13] = [
    (
        &["broker::places", "broker::work"],
        "requests that wait for answers, and the lane in which each waits",
    ),
    (
        &["broker::cluster", "broker::shard", "broker::thread", "broker::watch"],
        "who runs servers, and servers that say what runs",
    ),
    (
        &["broker::config", "broker::layout", "broker::slots", "broker::target"],
        "values of a configuration, and what they are checked with",
    ),
    (&["broker::dial", "broker::sentinel"], "a Sentinel is dialled to learn what is to be dialled"),
    (&["broker::listening", "broker::sharded"], "one list of channels, of which slots have parts"),
    (
        &["control::backend", "control::gateway_backend", "control::nodes", "control::publishing"],
        "a trait, its one implementation, and what that is made of",
    ),
    (
        &[
            "engine::admission",
            "engine::adopting",
            "engine::census",
            "engine::compression",
            "engine::conn",
            "engine::core",
            "engine::dialling",
            "engine::drain",
            "engine::guard",
            "engine::handler",
            "engine::handover",
            "engine::heartbeat",
            "engine::inbox",
            "engine::leftovers",
            "engine::limits",
            "engine::links",
            "engine::opening",
            "engine::outgoing",
            "engine::patience",
            "engine::publishing",
            "engine::queueing",
            "engine::reading",
            "engine::requests",
            "engine::ringwork",
            "engine::secure",
            "engine::timing",
            "engine::worker",
            "engine::writing",
        ],
        "`core` composes parts, each of which keeps its fields, and says in its own file what the \
         core does with it: methods of `Core` and of `Worker` by duty",
    ),
    (
        &["engine::ledger", "engine::outbox"],
        "an outbox tells the ledger what it holds, and the ledger ranks outboxes",
    ),
    (
        &[
            "gateway::account",
            "gateway::broker",
            "gateway::filter",
            "gateway::handover",
            "gateway::hub_port",
            "gateway::letters",
            "gateway::session",
        ],
        "what cores, processes and brokers say to each other, made of each other's values; a \
         session's shares are of the account",
    ),
    (
        &["gateway::app", "gateway::calls", "gateway::engine_port", "gateway::entrance"],
        "the adapter: one handler, by duty",
    ),
    (
        &[
            "gateway::session::commands",
            "gateway::session::connect",
            "gateway::session::events",
            "gateway::session::expiry",
            "gateway::session::feeds",
            "gateway::session::hooks",
            "gateway::session::machine",
            "gateway::session::order",
            "gateway::session::port",
            "gateway::session::sending",
            "gateway::session::subscribe",
        ],
        "one machine, whose inputs are handled by duty: methods of `Sessions` and of `CoreState`",
    ),
    (
        &["gateway::wire::messages", "gateway::wire::replies", "gateway::wire::requests"],
        "messages, and what reads and writes them",
    ),
    (
        &[
            "tls::certificates",
            "tls::greet",
            "tls::keys",
            "tls::layer",
            "tls::library",
            "tls::scripted",
        ],
        "a handshake and what it needs of keys, by both record layers",
    ),
];

#[test]
fn circles_of_imports_have_reasons() {
    let files: BTreeMap<Module, String> = super::sources()
        .into_iter()
        .filter_map(|(name, text)| Some((module(&name)?, product(&text))))
        .collect();
    let graph: BTreeMap<&Module, BTreeSet<&Module>> = files
        .iter()
        .map(|(module, text)| {
            let imported = paths(text).into_iter();
            let others = imported.filter_map(|path| resolve(&files, module, &path));
            (module, others.filter(|other| !is_kin(module, other)).collect())
        })
        .collect();
    assert!(graph.len() > 200 && graph.values().map(BTreeSet::len).sum::<usize>() > 1000);
    let found: BTreeSet<Vec<String>> = circles(&graph)
        .into_iter()
        .map(|circle| circle.iter().map(|module| module.join("::")).collect())
        .collect();
    let named: BTreeSet<Vec<String>> = CIRCLES
        .iter()
        .map(|(modules, _)| modules.iter().map(|module| (*module).to_owned()).collect())
        .collect();
    let new = found.difference(&named).map(|circle| format!("without a reason: {circle:?}"));
    let gone = named.difference(&found).map(|circle| format!("not there any more: {circle:?}"));
    super::check(new.chain(gone).collect(), "circles of imports are not as they are named");
}

/// The module of a file of the product.
fn module(name: &str) -> Option<Module> {
    let path = name.strip_prefix("src/")?.strip_suffix(".rs")?;
    if path.contains("tests") {
        return None;
    }
    let mut parts: Module = path.split('/').map(str::to_owned).collect();
    parts.pop_if(|last| last == "mod");
    Some(parts)
}

/// What is not for tests, and no comment.
fn product(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    let lines = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Paths in `use` and in code that begin with `crate`, `self` or `super`.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for (at, _) in text.match_indices("use ") {
        let before = text[..at].chars().next_back();
        if before.is_none_or(|c| c.is_whitespace()) {
            let tree = text[at + 4..].split(';').next().unwrap_or_default();
            expand(&mut Vec::new(), tree, &mut all);
        }
    }
    for word in ["crate::", "super::"] {
        for (at, _) in text.match_indices(word) {
            let is_path =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ":_".contains(c);
            let rest = &text[at..];
            let end = rest.find(|c| !is_path(c)).unwrap_or(rest.len());
            all.push(rest[..end].split("::").map(str::to_owned).collect());
        }
    }
    all
}

/// All paths of a tree of imports.
fn expand(before: &mut Vec<String>, tree: &str, all: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let head_end = tree.find('{').unwrap_or(tree.len());
    let head = tree[..head_end].split(" as ").next().unwrap_or_default();
    let parts = head.split("::").map(str::trim).filter(|part| !part.is_empty());
    let depth = before.len();
    before.extend(parts.map(str::to_owned));
    match tree.get(head_end + 1..).and_then(|rest| rest.rsplit_once('}')) {
        None => all.push(before.clone()),
        Some((inner, _)) => branches(inner).for_each(|branch| expand(before, branch, all)),
    }
    before.truncate(depth);
}

/// The branches of a tree, which commas part outside of braces.
fn branches(inner: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let parts = inner.split(move |c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    parts.filter(|part| !part.trim().is_empty())
}

/// The file that a path leads to, as far as there are files.
fn resolve<'a>(
    files: &'a BTreeMap<Module, String>,
    from: &Module,
    path: &[String],
) -> Option<&'a Module> {
    let ups = path.iter().take_while(|part| *part == "super").count();
    let (mut at, rest) = match path.first()?.as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (from.clone(), &path[1..]),
        "super" => (from[..from.len().checked_sub(ups)?].to_vec(), &path[ups..]),
        _ => (from.clone(), path),
    };
    let mut found = files.get_key_value(&at);
    for part in rest {
        at.push(part.clone());
        match files.get_key_value(&at) {
            Some(file) => found = Some(file),
            None => break,
        }
    }
    found.map(|(module, _)| module).filter(|module| *module != from)
}

/// Whether one lies in the other's folder.
fn is_kin(one: &Module, other: &Module) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Sets of modules of which each reaches each other one.
fn circles<'a>(graph: &BTreeMap<&'a Module, BTreeSet<&'a Module>>) -> Vec<BTreeSet<&'a Module>> {
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = graph
        .keys()
        .map(|module| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![*module]);
            while let Some(next) = open.pop() {
                let new = graph[next].iter().filter(|other| seen.insert(**other));
                open.extend(new.collect::<Vec<_>>());
            }
            (*module, seen)
        })
        .collect();
    let mut found: Vec<BTreeSet<&Module>> = Vec::new();
    for (module, seen) in &reached {
        if !seen.contains(*module) || found.iter().any(|circle| circle.contains(*module)) {
            continue;
        }
        found.push(
            seen.iter().filter(|other| reached[**other].contains(*module)).copied().collect(),
        );
    }
    found
}

#[test]
fn a_circle_is_found() {
    let files = [
        ("src/a.rs", "use super::b::{self, c::D};\nuse crate::c::Deep;"),
        ("src/b/mod.rs", "use std::fmt;"),
        ("src/b/c.rs", "fn f() { crate::a::call() }\n// use crate::z;"),
        ("src/c.rs", "pub use self::d::Deep;"),
        ("src/c/d.rs", "use super::super::z as other;\n#[cfg(test)]\nmod tests { use crate::a; }"),
        ("src/z.rs", "use crate::{a::X, b};"),
    ];
    let files: BTreeMap<Module, String> =
        files.iter().map(|(name, text)| (module(name).expect("a module"), product(text))).collect();
    let graph = files
        .iter()
        .map(|(module, text)| {
            let others = paths(text).into_iter().filter_map(|path| resolve(&files, module, &path));
            (module, others.filter(|other| !is_kin(module, other)).collect::<BTreeSet<_>>())
        })
        .collect();
    let found = circles(&graph);
    let names: Vec<Vec<String>> = found
        .iter()
        .map(|circle| circle.iter().map(|module| module.join("::")).collect())
        .collect();
    assert_eq!(names, [["a", "b::c"]]);
    assert!(module("src/a_tests.rs").is_none());
}
