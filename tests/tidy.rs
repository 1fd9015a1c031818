//! The house rules that a compiler does not check: which files may hold `unsafe`, which way
//! dependencies point, which files may import each other, how long files, functions and lines are,
//! and that no leftovers stay behind.
//!
//! Reads the source tree as text. A rule that fights you is changed here, with its reason.

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/functions.rs"]
mod functions;

use std::fs;
use std::path::{Path, PathBuf};

/// Files that may hold `unsafe`, and why.
const UNSAFE: [(&str, &str); 9] = [
    ("tests/history_account.rs", "an allocator that counts"),
    ("tests/idle_cost.rs", "an allocator that counts"),
    ("tests/protocol_allocations.rs", "an allocator that counts"),
    ("src/engine/uring.rs", "submission entries carry pointers"),
    ("src/engine/sys.rs", "system calls without a safe wrapper"),
    ("src/protocol/mask.rs", "SIMD"),
    ("src/memory.rs", "the allocator's own function"),
    ("benches/floor.rs", "submission entries carry pointers"),
    ("benches/fanout_floor.rs", "submission entries carry pointers"),
];

/// Files over the length at which a file should be thought about, and why they stay whole.
const LONG: [(&str, &str); 0] = [];

/// A layer, and what it must not name.
const LAYERS: [(&str, &[&str]); 11] = [
    // Below all: options and their defaults, without the keys that they are read by.
    ("src/options.rs", &["crate::config", "crate::gateway", "crate::engine", "crate::control"]),
    // Reads any tree of keys, and knows none.
    (
        "src/config/schema",
        &[
            "config::sections",
            "config::explain",
            "config::check",
            "config::plans",
            "super::super",
            "Options",
            "centrifugo::",
            "crate::gateway",
            "crate::engine",
            "crate::broker",
            "crate::control",
        ],
    ),
    // Keys by section; what needs several of them is beside this folder.
    (
        "src/config/sections",
        &["config::explain", "config::check", "config::plans", "Options::", "&Options"],
    ),
    (
        "src/tls",
        &[
            "crate::config",
            "crate::engine",
            "crate::gateway",
            "crate::control",
            "crate::load",
            "crate::protocol",
            "std::net::",
            "std::os",
        ],
    ),
    (
        "src/protocol",
        &[
            "crate::config",
            "crate::engine",
            "crate::load",
            "std::net::",
            "std::time",
            "std::fs",
            "std::os",
        ],
    ),
    (
        "src/engine",
        &["crate::config", "crate::load", "crate::gateway", "crate::control", "crate::commands"],
    ),
    (
        "src/broker",
        &["crate::config", "crate::load", "crate::control", "crate::commands", "crate::protocol"],
    ),
    (
        "src/common",
        &[
            "crate::config",
            "crate::engine",
            "crate::gateway",
            "crate::control",
            "crate::load",
            "crate::protocol",
        ],
    ),
    (
        "src/gateway",
        &[
            "crate::config",
            "crate::load",
            "crate::broker",
            "crate::control",
            "crate::commands",
            "io_uring::",
            "engine::ring",
        ],
    ),
    ("src/control", &["config::Options", "&Options"]),
    ("src/load", &["crate::control"]),
];

/// A word that a folder may hold in some of its files only, and why.
const KEPT_WITHIN: [(&str, &str, &[&str], &str); 3] = [
    (
        "src/gateway/",
        "Secret",
        &["src/gateway/plan/token.rs", "src/gateway/tokens/"],
        "of secrets the gateway has what verifies tokens",
    ),
    (
        "src/control/",
        "crate::config",
        &["src/control/settings.rs", "src/control/consumers/"],
        "consumers are read as their sections say; all else is told in `Settings`",
    ),
    (
        "tests/",
        "CARGO_TARGET_TMPDIR",
        &["tests/support/mod.rs", "tests/tidy.rs"],
        "`own_path` and `own_folder` give no two tests the same",
    ),
];

/// Where the sessions are.
const SESSIONS: &str = "src/gateway/session/";

/// What sessions may name of the engine: values.
const SESSIONS_MAY_NAME: [&str; 2] = ["Cause", "Frame"];

/// What sessions must not name: they are told the time, and have no connection in their hands.
const SESSIONS_NEVER: [&str; 11] = [
    "SystemTime",
    "Instant",
    "OwnedFd",
    "RawFd",
    "TcpStream",
    "std::os",
    "std::fs",
    "std::thread",
    "crate::gateway::app",
    "crate::gateway::calls",
    "crate::gateway::entrance",
];

const LINES_MAX: usize = 700;
const COLUMNS_MAX: usize = 100;

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches"] {
        collect(&root.join(folder), &mut files);
    }
    assert!(files.len() > 20, "found only {} files", files.len());
    let name = |path: &PathBuf| path.strip_prefix(root).unwrap().display().to_string();
    files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        let generated = ["target", "node_modules"].iter().any(|name| path.ends_with(name));
        if path.is_dir() && !generated {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Lines of code with comments and this file's own texts left out.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    lines.filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(n, line)| (n + 1, line))
}

fn check(mut found: Vec<String>, rule: &str) {
    found.sort();
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn unsafe_stays_in_its_files() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        if UNSAFE.iter().any(|(file, _)| *file == name) || name == "tests/tidy.rs" {
            continue;
        }
        for (line, content) in code(&text) {
            let words = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
            if words.iter().any(|word| content.contains(word)) {
                found.push(format!("{name}:{line}: {}", content.trim()));
            }
        }
    }
    check(found, "`unsafe` outside the files that may hold it");
}

#[test]
fn dependencies_point_down() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let layers = LAYERS.iter().filter(|(layer, _)| name.starts_with(layer));
        let banned: Vec<_> = layers.flat_map(|(_, banned)| *banned).collect();
        for (line, content) in code(&text) {
            if banned.iter().any(|word| content.contains(*word)) {
                found.push(format!("{name}:{line}: {}", content.trim()));
            }
        }
    }
    check(found, "a layer names one above it");
}

/// The gateway is an application like any other: what it needs of the engine, users have, too. What
/// is `pub` the compiler checks, where the engine shows nothing to this package alone.
#[test]
fn applications_name_of_the_engine_what_the_library_shows() {
    let all = sources();
    let joined = |text: &str| code(text).map(|(_, line)| line).collect::<Vec<_>>().join("\n");
    let (_, library) = all.iter().find(|(name, _)| name == "src/lib.rs").expect("the library");
    let shown = named(&joined(library), "pub use engine::");
    assert!(shown.len() > 30, "found only {shown:?}");
    let mut found = Vec::new();
    for (name, text) in &all {
        if name.starts_with("src/engine/") {
            let ours = code(text).filter(|(_, line)| line.contains("pub(crate)"));
            found.extend(ours.map(|(line, content)| format!("{name}:{line}: {}", content.trim())));
            continue;
        }
        if !name.starts_with("src/") {
            continue;
        }
        let names = named(&joined(text), "crate::engine::");
        let hidden = names.into_iter().filter(|it| !shown.contains(it));
        found.extend(hidden.map(|it| format!("{name}: {it}")));
    }
    check(found, "an application names what the engine keeps to itself");
}

/// The names that follow a path, alone or in braces.
fn named(text: &str, path: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in text.match_indices(path) {
        let rest = &text[at + path.len()..];
        let list = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or(list),
            None => rest,
        };
        let part = |part: &str| {
            let part = part.trim();
            let end = part.find(|c: char| !c.is_alphanumeric() && c != '_');
            part[..end.unwrap_or(part.len())].to_owned()
        };
        match rest.starts_with('{') {
            true => names.extend(list.split(',').map(part).filter(|name| !name.is_empty())),
            false => names.push(part(list)),
        }
    }
    names
}

/// So they run in a test as they do in a server, and nobody needs an engine to see why one does
/// what it does.
#[test]
fn sessions_are_a_machine_without_an_engine() {
    let mut found = Vec::new();
    let mut files = 0;
    for (name, text) in sources().into_iter().filter(|(name, _)| name.starts_with(SESSIONS)) {
        files += 1;
        let joined = code(&text).map(|(_, line)| line).collect::<Vec<_>>().join("\n");
        let names = named(&joined, "engine::").into_iter();
        let names = names.filter(|it| !SESSIONS_MAY_NAME.contains(&it.as_str()));
        found.extend(names.map(|it| format!("{name}: {it}")));
        for (line, content) in code(&text) {
            if SESSIONS_NEVER.iter().any(|word| content.contains(word)) {
                found.push(format!("{name}:{line}: {}", content.trim()));
            }
        }
    }
    assert!(files > 10, "found only {files} files");
    check(found, "sessions name the engine, a clock, a descriptor or what is above them");
}

/// What the hub tells while it works is worked off where everything comes in.
#[test]
fn the_list_of_what_is_deferred_is_worked_off_in_one_place() {
    let mut calls = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| name.starts_with(SESSIONS)) {
        for (line, content) in code(&text) {
            if [".settle(", "deferred.pop"].iter().any(|word| content.contains(word)) {
                calls.push(format!("{name}:{line}: {}", content.trim()));
            }
        }
    }
    let calls = calls.join("\n  ");
    assert_eq!(calls.lines().count(), 2, "one takes from it and does what it took:\n  {calls}");
}

#[test]
fn words_stay_where_they_belong() {
    let sources = sources();
    let mut found = Vec::new();
    for (folder, word, files, why) in KEPT_WITHIN {
        for (name, text) in sources.iter().filter(|(name, _)| name.starts_with(folder)) {
            if files.iter().any(|file| name.starts_with(file)) {
                continue;
            }
            for (line, content) in code(text).filter(|(_, content)| content.contains(word)) {
                found.push(format!("{name}:{line}: {} ({why})", content.trim()));
            }
        }
    }
    check(found, "a word outside the files that may hold it");
}

/// A layer that is not there any more would be checked in vain.
#[test]
fn every_rule_is_about_something() {
    let names: Vec<_> = sources().into_iter().map(|(name, _)| name).collect();
    let kept = KEPT_WITHIN.iter().flat_map(|(folder, _, files, _)| files.iter().chain([folder]));
    for path in LAYERS.iter().map(|(layer, _)| layer).chain(kept) {
        assert!(names.iter().any(|name| name.starts_with(path)), "there is no {path}");
    }
}

#[test]
fn files_say_what_they_own_and_stay_readable() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        if !text.starts_with("//!") && !name.contains("/fuzz_targets/") && !text.starts_with("#!") {
            found.push(format!("{name}: does not open with what it owns"));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX && LONG.iter().all(|(file, _)| *file != name) {
            found.push(format!("{name}: {lines} lines"));
        }
        for (line, content) in text.lines().enumerate() {
            if content.chars().count() > COLUMNS_MAX && !content.contains("http") {
                found.push(format!("{name}:{}: {} columns", line + 1, content.chars().count()));
            }
        }
    }
    check(found, "files, lines");
}

/// They panic where the output is gone, and wait where it is stuck.
#[test]
fn nothing_prints_but_by_what_may_fail() {
    let words = ["println!(", "print!(", "eprintln!(", "eprint!("];
    let mut found = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| name.starts_with("src/")) {
        for (line, content) in code(&text) {
            if words.iter().any(|word| content.contains(word)) {
                found.push(format!("{name}:{line}: {}", content.trim()));
            }
        }
    }
    check(found, "commands::output, control::say and control::logging print");
}

#[test]
fn nothing_is_left_over() {
    let words = ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX", "HACK", "TODO"];
    let mut found = Vec::new();
    for (name, text) in sources() {
        if name == "tests/tidy.rs" {
            continue;
        }
        for (line, content) in text.lines().enumerate() {
            if words.iter().any(|word| content.contains(word)) {
                found.push(format!("{name}:{}: {}", line + 1, content.trim()));
            }
        }
    }
    check(found, "leftovers");
}

#[test]
fn every_dependency_is_justified() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    let mut found = Vec::new();
    let mut within = false;
    let mut explained = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            within = line.contains("dependencies");
            explained = false;
        } else if line.starts_with('#') {
            explained = true;
        } else if line.is_empty() {
            explained = false;
        } else if within && !explained {
            found.push(line.to_owned());
        }
    }
    check(found, "dependencies without a comment that says why");
}

#[test]
fn every_package_lock_is_free_of_download_addresses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let locks =
        ["tests/clients/node", "tests/gateway/js", "benches/peers"].map(|folder| root.join(folder));
    for lock in locks.map(|folder| folder.join("package-lock.json")).iter() {
        let text = fs::read_to_string(lock).unwrap();
        assert!(!text.contains("\"resolved\""), "{} names where it was fetched", lock.display());
    }
}
