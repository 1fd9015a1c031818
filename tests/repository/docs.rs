//! The documents as a reader uses them: every configuration is checked, every command that is
//! marked for it runs against a server, every `ringhold` command has flags that exist, every link
//! leads somewhere, and the figures are those of `benches/results`.
//!
//! Method: fenced blocks are taken out of the documents. The words behind the language say what
//! becomes of a block: `toml check` is a whole configuration, `toml server` is that of the server
//! which `console run`, `js run` and `python run` then meet, on whatever port it has. Without
//! Node, Python or the packages the test says so, but fails where `CI` is set.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use regex::Regex;
use serde_json::json;

use crate::support::gateway::{Gateway, program, token};
use crate::support::{Finished, find_program, own_folder, packages, run, skip};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const LIMIT: Duration = Duration::from_secs(300);

/// Where documents say that the server is.
const ADDRESS: &str = "127.0.0.1:8000";

/// A fenced block: of which document, what stands behind the fence, and what is in it.
struct Block {
    place: String,
    kind: String,
    text: String,
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    let mut found: Vec<_> = [
        "README.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "tuning/README.md",
        "examples/fastapi/README.md",
        "examples/web/README.md",
    ]
    .iter()
    .map(|name| root.join(name))
    .collect();
    let pages =
        std::fs::read_dir(root.join("docs")).expect("docs").map(|page| page.unwrap().path());
    found.extend(pages.filter(|page| page.extension().is_some_and(|kind| kind == "md")));
    found.sort();
    assert!(found.len() > 10, "{found:?}");
    found
}

fn blocks() -> Vec<Block> {
    let mut found = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("a document");
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            match (open.take(), line.strip_prefix("```")) {
                (None, Some(kind)) => {
                    let place = format!("{}:{}", document.display(), number + 1);
                    open = Some(Block { place, kind: kind.to_owned(), text: String::new() });
                }
                (Some(block), Some(_)) => found.push(block),
                (Some(mut block), None) => {
                    block.text += &format!("{line}\n");
                    open = Some(block);
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", document.display());
    }
    found
}

fn blocks_of(kind: &str) -> Vec<Block> {
    let found: Vec<_> = blocks().into_iter().filter(|block| block.kind == kind).collect();
    assert!(!found.is_empty(), "no document has a block {kind}");
    found
}

/// `ringhold` without anything from this process's environment, and without a command.
fn ringhold(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringhold"));
    for (name, value) in program().get_envs() {
        if value.is_none() {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

/// Runs it with this text as its standard input.
fn fed(mut command: Command, text: &str) -> Finished {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Finished {
        status: Some(output.status),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

// --- What is read --------------------------------------------------------------------------------

#[test]
fn every_configuration_is_one() {
    let mut checked = 0;
    for block in blocks().iter().filter(|block| block.kind.split(' ').next() == Some("toml")) {
        assert!(
            ["toml check", "toml server"].contains(&block.kind.as_str()),
            "{}: a configuration that nothing checks",
            block.place
        );
        let finished = fed(ringhold(&["config", "check", "-"]), &block.text);
        assert!(finished.success(), "{}: {}", block.place, finished.stderr);
        checked += 1;
    }
    assert!(checked >= 4, "{checked}");
    let wrong = fed(ringhold(&["config", "check", "-"]), "[client]\nallowed_origin = []\n");
    assert!(!wrong.success());
    assert!(wrong.stderr.starts_with("stdin:2: client.allowed_origin"), "{}", wrong.stderr);
    let json = fed(ringhold(&["config", "check", "-"]), "{\"client\": {\"insecure\": 7}}");
    assert!(json.stderr.starts_with("stdin.json:1: client.insecure"), "{}", json.stderr);
    // The configuration that packages install, that of the chart, and that of an example.
    for file in [
        "tuning/dist/ringhold.toml",
        "tuning/kubernetes/ringhold.yaml",
        "examples/web/ringhold.toml",
    ] {
        let text = std::fs::read_to_string(Path::new(ROOT).join(file)).expect("a file");
        let text = match text.split_once("ringhold.toml: |\n") {
            Some((_, rest)) => {
                let indented = |line: &&str| line.is_empty() || line.starts_with("    ");
                rest.lines().take_while(indented).collect::<Vec<_>>().join("\n")
            }
            None => text,
        };
        let finished = fed(ringhold(&["config", "check", "-"]), &text);
        assert!(finished.success(), "{file}: {}", finished.stderr);
    }
}

#[test]
fn every_command_of_the_program_has_such_flags() {
    let flag = Regex::new(r"\s(--[a-z0-9-]+)").unwrap();
    // Variables may stand in front, and a path.
    let words = Regex::new(r"^(?:[A-Z_]+=\S* )*(?:\S*/)?ringhold((?: [a-z]+)*)(?:\s|$)").unwrap();
    let mut help = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for block in blocks().iter().filter(|block| block.kind.starts_with("console")) {
        for line in joined(&block.text) {
            let Some(line) = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")) else {
                continue;
            };
            // What follows a pipe or a semicolon is another command.
            let line = line.split(['|', ';']).next().unwrap_or(line);
            let Some(found) = words.captures(line) else { continue };
            let known = ["serve", "echo", "load", "doctor", "token", "config", "health"];
            let mut path: Vec<&str> = found[1].split_whitespace().collect();
            path.truncate(if path.first().is_some_and(|w| ["load", "config"].contains(w)) {
                2
            } else {
                1
            });
            match path.first() {
                None => path.push("serve"),
                Some(word) => assert!(
                    known.contains(word) || ["completions", "man"].contains(word),
                    "{}: {line}",
                    block.place
                ),
            }
            let key = path.join(" ");
            let text = help.entry(key.clone()).or_insert_with(|| {
                let finished = run(&mut ringhold(&[&path[..], &["--help"]].concat()), LIMIT);
                finished.assert_success();
                finished.stdout
            });
            for found in flag.captures_iter(line) {
                assert!(text.contains(&found[1]), "{}: {line}: {}", block.place, &found[1]);
            }
            seen.insert(key);
        }
    }
    assert!(seen.len() >= 6, "{seen:?}");
}

/// Lines, those that end with a backslash with the next one.
fn joined(text: &str) -> Vec<String> {
    text.replace("\\\n", " ").lines().map(str::to_owned).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut checked = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("a document");
        for found in link.captures_iter(&text) {
            let target = &found[1];
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => document.clone(),
                file => document.parent().expect("a folder").join(file),
            };
            assert!(path.exists(), "{}: {target}", document.display());
            if !anchor.is_empty() {
                let there = std::fs::read_to_string(&path).expect("a document");
                let mut anchors =
                    there.lines().filter_map(|line| line.strip_prefix('#')).map(name_of);
                assert!(anchors.any(|name| name == anchor), "{}: {target}", document.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
}

#[test]
fn every_file_that_is_named_exists() {
    let name = Regex::new(r"`((?:src|tests|tuning|benches|docs)/[A-Za-z0-9_./-]+)`").unwrap();
    let mut checked = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("a document");
        for found in name.captures_iter(&text) {
            let there = Path::new(ROOT).join(&found[1]).exists();
            assert!(there, "{}: {}", document.display(), &found[1]);
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked}");
}

/// The name by which a heading is linked to.
fn name_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn figures_are_those_of_the_results() {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).expect("README.md");
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/benchmarks.md")).expect("a page");
    assert!(readme.lines().count() <= 160, "{}", readme.lines().count());
    let ratio = Regex::new(r"\d\.\d\d \(\d\.\d\d–\d\.\d\d\)").unwrap();
    let found: Vec<_> = ratio.find_iter(&readme).collect();
    assert_eq!(found.len(), 6);
    for ratio in found {
        assert!(page.contains(ratio.as_str()), "{} is not in docs/benchmarks.md", ratio.as_str());
    }
    let Some(python) = find_program(&["python3"]) else {
        return skip("python3 is not installed");
    };
    let script = Path::new(ROOT).join("benches/harness/page.py");
    run(Command::new(python).arg(script).arg("--check"), LIMIT).assert_success();
}

// --- What runs -----------------------------------------------------------------------------------

/// The server of the documents, on a free port and with secrets of the test.
struct Site {
    gateway: Gateway,
    folder: PathBuf,
}

const SECRET: &str = "secret of the tests";
const KEY: &str = "api key of the tests";

impl Site {
    fn start(name: &str) -> Self {
        let config: String = blocks_of("toml server").into_iter().map(|block| block.text).collect();
        let secrets = format!(
            "\n[http_server]\nport = 0\n[http_api]\nkey = \"{KEY}\"\n\
             [client.token]\nhmac_secret_key = \"{SECRET}\"\n"
        );
        let folder = own_folder(name);
        std::fs::write(folder.join("ringhold.toml"), &config).expect("a file");
        Self { gateway: Gateway::start_whole(&format!("{config}{secrets}")), folder }
    }

    /// Text of a document with the address that the server has.
    fn here(&self, text: &str) -> String {
        text.replace(ADDRESS, &self.gateway.address().to_string())
    }

    fn run(&self, command: &mut Command) -> Finished {
        let program = Path::new(env!("CARGO_BIN_EXE_ringhold")).parent().expect("a folder");
        let path = std::env::var("PATH").expect("PATH");
        let until = crate::support::gateway::unix() + 600;
        command
            .current_dir(&self.folder)
            .env("PATH", format!("{}:{path}", program.display()))
            .env("RINGHOLD_HTTP_API_KEY", KEY)
            .env("RINGHOLD_CLIENT_TOKEN_HMAC_SECRET_KEY", SECRET)
            .env("TOKEN", token(&json!({"sub": "42", "exp": until})));
        run(command, LIMIT)
    }
}

#[test]
fn commands_run() {
    let site = Site::start("docs-commands");
    let mut lines = 0;
    for block in blocks_of("console run") {
        for line in joined(&site.here(&block.text)) {
            let line = line.strip_prefix("$ ").expect("only commands");
            let finished = site.run(Command::new("bash").args(["-euc", line]));
            assert!(finished.success(), "{}: {line}: {}", block.place, finished.stderr);
            assert!(!finished.stdout.starts_with("{\"error\""), "{line}: {}", finished.stdout);
            lines += 1;
        }
    }
    assert!(lines >= 7, "{lines}");
    // They have written what they said.
    let bash = std::fs::read_to_string(site.folder.join("ringhold.bash")).expect("completions");
    assert!(bash.contains("doctor") && bash.contains("--max-p99"), "{bash}");
    for page in ["ringhold", "ringhold-serve", "ringhold-load-echo"] {
        let text = std::fs::read_to_string(site.folder.join(format!("man1/{page}.1"))).expect(page);
        assert!(text.contains(".SH NAME"), "{text}");
    }
}

#[test]
fn javascript_runs() {
    let Some(node) = find_program(&["node", "nodejs"]) else {
        return skip("node is not installed");
    };
    let Some(folder) = packages::javascript() else { return };
    let site = Site::start("docs-js");
    for block in blocks_of("js run") {
        // Beside its packages.
        let file = folder.join("block.mjs");
        std::fs::write(&file, site.here(&block.text)).expect("a file");
        let finished = site.run(Command::new(&node).arg(&file));
        assert!(finished.success(), "{}: {}", block.place, finished.stderr);
        assert_eq!(finished.stdout.trim(), "hello from Node", "{}", block.place);
    }
}

#[test]
fn python_runs() {
    let Some(python) = packages::python("tests/gateway/python/requirements.txt") else { return };
    let site = Site::start("docs-python");
    for block in blocks_of("python run") {
        let file = site.folder.join("block.py");
        std::fs::write(&file, site.here(&block.text)).expect("a file");
        let finished = site.run(Command::new(&python).arg(&file));
        assert!(finished.success(), "{}: {}", block.place, finished.stderr);
        assert_eq!(finished.stdout.trim(), "hello from Python", "{}", block.place);
    }
}
