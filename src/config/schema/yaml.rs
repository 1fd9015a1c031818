//! YAML as a source: its events become the nodes that TOML and JSON become, each with its line.
//! Scalars mean what the core schema of YAML 1.2 says; anchors, aliases and merge keys are taken
//! along, and what they unfold to is bounded.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::node::{DEPTH_MAX, Entry, Location, Node, SyntaxError, Value};

/// Reads the one document of a text.
pub(crate) fn read(text: &str) -> Result<Node, SyntaxError> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        left: NODES_MAX,
        ended: Location::Line(1),
    };
    let mut root = None;
    loop {
        let (event, place) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(_) if root.is_some() => {
                return Err(wrong(&place, "a second document: a configuration is one"));
            }
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            event => root = Some(reader.node(event, place, 0)?),
        }
    }
    let empty = || Node { value: Value::Table(Vec::new()), place: Location::Line(1) };
    Ok(root.filter(|root| !matches!(root.value, Value::Other("null"))).unwrap_or_else(empty))
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    /// Nodes that may still come.
    left: usize,
    /// The last place there was.
    ended: Location,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Location), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                self.ended = place(&span);
                Ok((event, self.ended.clone()))
            }
            Some(Err(error)) => Err(SyntaxError {
                place: Location::Line(error.marker().line().max(1)),
                what: error.info().to_owned(),
            }),
            None => Err(wrong(&self.ended, "the text ends too early")),
        }
    }

    fn node(
        &mut self,
        event: Event<'t>,
        place: Location,
        depth: usize,
    ) -> Result<Node, SyntaxError> {
        if depth > DEPTH_MAX {
            return Err(wrong(&place, format!("more than {DEPTH_MAX} levels")));
        }
        self.count(1, &place)?;
        let (anchor, value) = match event {
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| wrong(&place, "an alias within its own anchor"))?;
                self.count(size(&node), &place)?;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, scalar(&text, style, tag.as_deref()))
            }
            Event::SequenceStart(anchor, _) => (anchor, self.list(depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.table(depth)?),
            _ => return Err(wrong(&place, "no value")),
        };
        let node = Node { value, place };
        if anchor > 0 {
            self.count(size(&node), &node.place)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn count(&mut self, nodes: usize, place: &Location) -> Result<(), SyntaxError> {
        let left = self.left.checked_sub(nodes);
        self.left = left.ok_or_else(|| wrong(place, "more values than a configuration has"))?;
        Ok(())
    }

    fn list(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(nodes)),
                (event, place) => nodes.push(self.node(event, place, depth + 1)?),
            }
        }
    }

    fn table(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (key, place) = match self.next()? {
                (Event::MappingEnd, _) => break,
                (Event::Scalar(key, style, ..), place) => (Some((key.into_owned(), style)), place),
                (_, place) => (None, place),
            };
            let Some((key, style)) = key else {
                return Err(wrong(&place, "a key that is not text"));
            };
            let (event, at) = self.next()?;
            let node = self.node(event, at, depth + 1)?;
            if key == "<<" && style == ScalarStyle::Plain {
                merged.extend(tables(node)?);
            } else {
                entries.push(Entry { key, place, node });
            }
        }
        for entry in merged {
            if entries.iter().all(|known| known.key != entry.key) {
                entries.push(entry);
            }
        }
        Ok(Value::Table(entries))
    }
}

/// The entries of a table, or of a list of them, that a merge key names.
fn tables(node: Node) -> Result<Vec<Entry>, SyntaxError> {
    match node.value {
        Value::Table(entries) => Ok(entries),
        Value::List(nodes) => {
            let all: Result<Vec<_>, _> = nodes.into_iter().map(tables).collect();
            Ok(all?.into_iter().flatten().collect())
        }
        other => Err(wrong(&node.place, format!("must be a table, not {}", other.kind()))),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let tagged = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
    if style != ScalarStyle::Plain || tagged {
        return Value::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Other("null"),
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        text => number(text).unwrap_or_else(|| Value::Text(text.to_owned())),
    }
}

/// What a plain scalar is if it is a number. One that is written unusually could as well be a
/// secret without quotes, and is taken for neither.
fn number(text: &str) -> Option<Value> {
    let bare = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let based = |mark: &str, base: u32| {
        let rest = bare.strip_prefix(mark);
        rest.is_some_and(|it| !it.is_empty() && it.chars().all(|c| c.is_digit(base) || c == '_'))
    };
    if digits(bare) {
        let plain = !text.starts_with('+') && (bare == "0" || !bare.starts_with('0'));
        return Some(match text.parse() {
            _ if !plain => UNUSUAL,
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("a number beyond 64 bits"),
        });
    }
    let grouped = bare.contains('_') && bare.starts_with(|c: char| c.is_ascii_digit());
    let grouped = grouped && digits(&bare.replace('_', ""));
    let special = [".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN"].contains(&bare);
    if grouped || special || based("0x", 16) || based("0o", 8) || based("0b", 2) {
        return Some(UNUSUAL);
    }
    let begins = |c: char| c.is_ascii_digit() || c == '.';
    let fraction =
        bare.starts_with(begins) && bare.chars().all(|c| begins(c) || "eE+-".contains(c));
    if fraction { text.parse().ok().map(Value::Float) } else { None }
}

const UNUSUAL: Value = Value::Other("a number that is not in plain decimal digits");

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(nodes) => nodes.iter().map(size).sum(),
        Value::Table(entries) => entries.iter().map(|entry| size(&entry.node)).sum::<usize>(),
        _ => 0,
    }
}

fn place(span: &Span) -> Location {
    Location::Line(span.start.line().max(1))
}

fn wrong(place: &Location, what: impl Into<String>) -> SyntaxError {
    SyntaxError { place: place.clone(), what: what.into() }
}

/// More than any configuration has, aliases counted as often as they are used.
const NODES_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// A node as one line, with lines of keys and items.
    fn shown(node: &Node) -> String {
        let line = |place: &Location| match place {
            Location::Line(line) => line.to_string(),
            other => format!("{other:?}"),
        };
        match &node.value {
            Value::Bool(value) => value.to_string(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => format!("{number:?}"),
            Value::Text(text) | Value::Raw(text) => format!("{text:?}"),
            Value::Other(what) => format!("<{what}>"),
            Value::List(nodes) => {
                let items = nodes.iter().map(|it| format!("{}@{}", shown(it), line(&it.place)));
                format!("[{}]", items.collect::<Vec<_>>().join(", "))
            }
            Value::Table(entries) => {
                let one =
                    |it: &Entry| format!("{}@{}={}", it.key, line(&it.place), shown(&it.node));
                format!("{{{}}}", entries.iter().map(one).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn every_key_and_item_has_its_line() {
        let text = "# c\nclient:\n  insecure: true\n  allowed_origins:\n    - \"*\"\n    - http://a\n\
                    channel:\n  namespaces:\n    - name: chat\n      history_ttl: 300s\n\
                    \x20   - {name: x}\n";
        assert_eq!(
            shown(&read(text).unwrap()),
            "{client@2={insecure@3=true allowed_origins@4=[\"*\"@5, \"http://a\"@6]} \
             channel@7={namespaces@8=[{name@9=\"chat\" history_ttl@10=\"300s\"}@9, \
             {name@11=\"x\"}@11]}}"
        );
        for (empty, shows) in [("", "{}"), ("# nothing\n", "{}"), ("---\n", "{}"), ("{}", "{}")] {
            assert_eq!(shown(&read(empty).unwrap()), shows, "{empty:?}");
        }
    }

    #[test]
    fn scalars_mean_what_the_core_schema_says() {
        for (text, value) in [
            ("true", "true"),
            ("False", "false"),
            ("yes", "\"yes\""),
            ("\"true\"", "\"true\""),
            ("'7'", "\"7\""),
            ("!!str 7", "\"7\""),
            ("", "<null>"),
            ("~", "<null>"),
            ("7", "7"),
            ("-7", "-7"),
            ("0", "0"),
            ("1.5", "1.5"),
            ("25s", "\"25s\""),
            ("1h30m", "\"1h30m\""),
            ("127.0.0.1", "\"127.0.0.1\""),
            ("d7627bb6-2292-4911", "\"d7627bb6-2292-4911\""),
            ("1234-5678", "\"1234-5678\""),
            ("http://a:1/b", "\"http://a:1/b\""),
            ("0x10", "<a number that is not in plain decimal digits>"),
            ("007", "<a number that is not in plain decimal digits>"),
            ("+7", "<a number that is not in plain decimal digits>"),
            ("1_000", "<a number that is not in plain decimal digits>"),
            (".inf", "<a number that is not in plain decimal digits>"),
            ("99999999999999999999", "<a number beyond 64 bits>"),
        ] {
            let node = read(&format!("a: {text}")).unwrap();
            assert_eq!(shown(&node), format!("{{a@1={value}}}"), "{text}");
        }
        let block = read("key: |\n  one\n  two\nnext: >-\n  a\n  b\n").unwrap();
        assert_eq!(shown(&block), "{key@1=\"one\\ntwo\\n\" next@4=\"a b\"}");
    }

    #[test]
    fn anchors_and_merge_keys_are_taken_along_within_bounds() {
        let text = "base: &b\n  x: 1\n  y: 2\none:\n  <<: *b\n  y: 3\nlist: [*b, *b]\n";
        assert_eq!(
            shown(&read(text).unwrap()),
            "{base@1={x@2=1 y@3=2} one@4={y@6=3 x@2=1} list@7=[{x@2=1 y@3=2}@1, {x@2=1 y@3=2}@1]}"
        );
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            let before = format!("*a{}", n - 1);
            bomb += &format!("a{n}: &a{n} [{}]\n", vec![before; 10].join(", "));
        }
        let error = read(&bomb).unwrap_err();
        assert!(error.what.contains("more values"), "{error:?}");
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_its_line() {
        for (text, line, what) in [
            ("a: 1\n b: 2\n", 2, ""),
            ("a: [1, 2\n", 2, ""),
            ("a: 1\n---\nb: 2\n", 2, "second document"),
            ("? [a]\n: 1\n", 1, "a key that is not text"),
            ("a: *nothing\n", 1, ""),
            ("a: 1\nb:\n  <<: 7\n", 3, "must be a table"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.what.contains(what), "{text:?}: {error:?}");
            let near = matches!(error.place, Location::Line(at) if at.abs_diff(line) <= 1);
            assert!(near, "{text:?}: {error:?}");
        }
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        assert!(read(&deep).unwrap_err().what.contains("levels"));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[-a-c:&*<\\[\\]{}#|>'\"!~ \n0-9.?]{0,80}") {
            let _ = read(&text);
        }

        #[test]
        fn any_text_never_panics(text in "\\PC{0,60}") {
            let _ = read(&text);
        }
    }
}
