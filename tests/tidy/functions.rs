//! Functions that a reader takes in without scrolling.

use std::collections::BTreeMap;

/// Lines of a function.
const LINES: usize = 85;

/// Longer ones, and why they stay whole.
const LONG: [(&str, &str, &str); 3] = [
    (
        "src/commands/serve.rs",
        "run",
        "a start in its order, of which each step needs what came before",
    ),
    (
        "src/config/plans/control_ceiling.rs",
        "of_control",
        "a table: each line is one bound of memory",
    ),
    ("src/gateway/api/protobuf.rs", "decode", "a table: each arm is one method"),
];

#[test]
fn functions_stay_readable() {
    let mut found = Vec::new();
    let mut seen = 0;
    for (name, text) in super::sources() {
        if !name.starts_with("src/") || name.contains("tests") {
            continue;
        }
        let mut longest = BTreeMap::new();
        for (function, lines) in functions(&text) {
            seen += 1;
            let most = longest.entry(function).or_insert(0);
            *most = lines.max(*most);
        }
        for (function, lines) in longest {
            let is_named = LONG.iter().any(|(file, it, _)| *file == name && *it == function);
            match lines > LINES {
                true if !is_named => found.push(format!("{name}: {function} has {lines} lines")),
                false if is_named => found.push(format!("{name}: {function} is short enough")),
                _ => {}
            }
        }
    }
    assert!(seen > 3000, "found only {seen} functions");
    super::check(found, "functions over the length at which they are taken apart");
}

/// Functions outside of tests, and their lines. Formatted code ends one at its own indentation.
fn functions(text: &str) -> Vec<(String, usize)> {
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    let lines: Vec<&str> = text[..end].lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = name(line.trim_start()) else { continue };
        let close = format!("{}}}", " ".repeat(indent));
        let whole = lines[at..].iter().position(|line| *line == close);
        // One without a body, or on one line, has none of its own.
        let has_body = |to: usize| lines[at..=at + to].iter().any(|line| line.ends_with('{'));
        if let Some(to) = whole.filter(|to| has_body(*to)) {
            found.push((name.to_owned(), to + 1));
        }
    }
    found
}

/// The name of the function that a line begins.
fn name(line: &str) -> Option<&str> {
    let at = line.find("fn ")?;
    let mut words = line[..at].split_whitespace();
    let known =
        |word: &str| ["const", "async", "unsafe"].contains(&word) || word.starts_with("pub");
    if !words.all(|word| known(word) || word.starts_with("crate::") || word.ends_with(')')) {
        return None;
    }
    let rest = &line[at + 3..];
    rest.find(['(', '<']).map(|end| &rest[..end])
}

#[test]
fn lines_of_functions_are_counted() {
    let text = "impl A {\n    pub(in crate::a) fn one(&self) {\n        b();\n    }\n\n    fn \
                two();\n}\nasync fn three<T>() -> u8 {\n    3\n}\n";
    let found = functions(text);
    assert_eq!(found, [("one".to_owned(), 3), ("three".to_owned(), 3)]);
}
