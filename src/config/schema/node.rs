//! What a source says, before anybody asks what it means: a tree of values, each with its place.
//! TOML, JSON, YAML and single lines of text (variables, flags) all end here.

use serde::de::{Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use toml::de::{DeTable, DeValue};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Location,
}

/// One key of a table.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Where the key stands.
    pub(crate) place: Location,
    pub(crate) node: Node,
}

/// What a source can say.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    /// Text whose type the key decides.
    Raw(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// Something no key takes.
    Other(&'static str),
}

impl Value {
    /// In words, after "not".
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "true or false",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a fraction",
            Self::Text(_) | Self::Raw(_) => "text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(name) => name,
        }
    }
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// In the file, at this line, counted from 1.
    Line(usize),
    /// In this environment variable.
    Variable(String),
    /// In a flag.
    Flag,
    /// Nowhere in particular.
    Unknown,
}

/// A text that is not what its format demands.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) place: Location,
    pub(crate) what: String,
}

impl Node {
    /// Reads TOML as far as it can be understood.
    pub(crate) fn from_toml(text: &str) -> (Self, Vec<SyntaxError>) {
        let lines = Lines::new(text);
        let (table, errors) = DeTable::parse_recoverable(text);
        let errors = errors.iter().map(|error| SyntaxError {
            place: error.span().map_or(Location::Unknown, |span| lines.place(span.start)),
            what: error.message().to_owned(),
        });
        let value = Value::Table(entries(table.get_ref(), &lines));
        (Self { value, place: Location::Line(1) }, errors.collect())
    }

    /// Reads JSON.
    pub(crate) fn from_json(text: &str) -> Result<Self, SyntaxError> {
        let lines = Lines::new(text);
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| SyntaxError {
            place: Location::Line(error.line().max(1)),
            what: error.to_string(),
        })?;
        Json { text, lines: Some(&lines), place: &Location::Unknown }.node(raw, 0)
    }

    /// Reads JSON that stands in one place.
    pub(crate) fn from_json_text(text: &str, place: &Location) -> Result<Self, String> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Json { text, lines: None, place }.node(raw, 0).map_err(|error| error.what)
    }
}

fn entries(table: &DeTable<'_>, lines: &Lines) -> Vec<Entry> {
    let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let key: &toml::Spanned<std::borrow::Cow<'_, str>> = key;
        let place = lines.place(key.span().start);
        Entry { key: key.get_ref().to_string(), place, node: toml_node(value, lines) }
    };
    table.iter().map(entry).collect()
}

fn toml_node(value: &toml::Spanned<DeValue<'_>>, lines: &Lines) -> Node {
    let place = lines.place(value.span().start);
    let value = match value.get_ref() {
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("a number beyond 64 bits"),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => Value::Other("a number"),
        },
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(list) => {
            Value::List(list.iter().map(|value| toml_node(value, lines)).collect())
        }
        DeValue::Table(table) => Value::Table(entries(table, lines)),
    };
    Node { value, place }
}

/// A JSON text on its way into nodes. Values are taken apart level by level as slices of the text,
/// so that their places are known.
struct Json<'a> {
    text: &'a str,
    lines: Option<&'a Lines>,
    /// The place of everything where there are no lines.
    place: &'a Location,
}

impl Json<'_> {
    fn node(&self, raw: &RawValue, depth: usize) -> Result<Node, SyntaxError> {
        let text = raw.get();
        let offset = (text.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let place = self.lines.map_or(self.place.clone(), |lines| lines.place(offset));
        let wrong = |what: String| SyntaxError { place: place.clone(), what };
        if depth > DEPTH_MAX {
            return Err(wrong(format!("more than {DEPTH_MAX} levels")));
        }
        let value = match text.as_bytes().first() {
            Some(b'{') => {
                let mut parser = serde_json::Deserializer::from_str(text);
                let pairs = parser.deserialize_map(Pairs).map_err(|e| wrong(e.to_string()))?;
                let mut entries = Vec::with_capacity(pairs.len());
                for (key, raw) in pairs {
                    let node = self.node(raw, depth + 1)?;
                    entries.push(Entry { key, place: node.place.clone(), node });
                }
                Value::Table(entries)
            }
            Some(b'[') => {
                let mut parser = serde_json::Deserializer::from_str(text);
                let items = parser.deserialize_seq(Items).map_err(|e| wrong(e.to_string()))?;
                let nodes = items.into_iter().map(|raw| self.node(raw, depth + 1));
                Value::List(nodes.collect::<Result<_, _>>()?)
            }
            Some(b'"') => {
                Value::Text(serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?)
            }
            Some(b't' | b'f') => Value::Bool(text == "true"),
            Some(b'n') => Value::Other("null"),
            _ => match (text.parse(), text.parse()) {
                (Ok(number), _) => Value::Integer(number),
                (_, Ok(number)) => Value::Float(number),
                _ => Value::Other("a number"),
            },
        };
        Ok(Node { value, place })
    }
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(items)
    }
}

/// Where lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self(std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect())
    }

    fn place(&self, offset: usize) -> Location {
        Location::Line(self.0.partition_point(|start| *start <= offset))
    }
}

/// Deeper than any configuration.
pub(super) const DEPTH_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(node: &Node, path: &str, found: &mut Vec<(String, Location)>) {
        match &node.value {
            Value::Table(entries) => {
                for entry in entries {
                    let path = format!("{path}/{}", entry.key);
                    found.push((path.clone(), entry.place.clone()));
                    lines(&entry.node, &path, found);
                }
            }
            Value::List(nodes) => {
                for (n, node) in nodes.iter().enumerate() {
                    let path = format!("{path}/{n}");
                    found.push((path.clone(), node.place.clone()));
                    lines(node, &path, found);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn every_key_of_toml_has_its_line() {
        let text = "a = 1\n\n[b]\nc = [\n  2,\n  3]\n[[d]]\ne = \"x\"\n[[d]]\n";
        let (node, errors) = Node::from_toml(text);
        assert!(errors.is_empty());
        let mut found = Vec::new();
        lines(&node, "", &mut found);
        let expected = [
            ("/a", 1),
            ("/b", 3),
            ("/b/c", 4),
            ("/b/c/0", 5),
            ("/b/c/1", 6),
            ("/d", 7),
            ("/d/0", 7),
            ("/d/0/e", 8),
            ("/d/1", 9),
        ];
        let expected = expected.map(|(path, line)| (path.to_owned(), Location::Line(line)));
        assert_eq!(found, expected);
    }

    #[test]
    fn every_value_of_json_has_its_line() {
        let text = "{\n \"a\": 1,\n \"b\": {\n  \"c\\n\": [true,\n null, 1.5, -7, \
                    99999999999999999999]\n }}";
        let node = Node::from_json(text).unwrap();
        let mut found = Vec::new();
        lines(&node, "", &mut found);
        let expected = [
            ("/a", 2),
            ("/b", 3),
            ("/b/c\n", 4),
            ("/b/c\n/0", 4),
            ("/b/c\n/1", 5),
            ("/b/c\n/2", 5),
            ("/b/c\n/3", 5),
            ("/b/c\n/4", 5),
        ];
        let expected = expected.map(|(path, line)| (path.to_owned(), Location::Line(line)));
        assert_eq!(found, expected);
    }

    #[test]
    fn broken_text_is_refused_with_its_line() {
        let (_, errors) = Node::from_toml("a = 1\nb = = 2\n[c\nd = 3\n");
        let places: Vec<_> = errors.iter().map(|error| error.place.clone()).collect();
        assert!(
            places.contains(&Location::Line(2)) && places.contains(&Location::Line(3)),
            "{errors:?}"
        );
        let error = Node::from_json("{\n\"a\": 1,\n}").unwrap_err();
        assert_eq!(error.place, Location::Line(3));
        assert!(Node::from_json("").is_err());
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(Node::from_json(&deep).unwrap_err().what.contains("32 levels"));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,60}") {
            Node::from_toml(&text);
            let _ = Node::from_json(&text);
            let _ = Node::from_json_text(&text, &Location::Flag);
        }
    }
}
