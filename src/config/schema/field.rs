//! What a key of the configuration can do, whatever its type: be read, shown and looked into. The
//! `section!` macro declares a table of keys with types, defaults and docs in one place, so that
//! reading, defaults, `config show`, environment names and suggestions cannot disagree.

use super::node::{Location, Node, Value};
use super::reader::Reader;

/// One key: a single value, or a table of further keys.
pub(crate) trait Field {
    /// Takes what the configuration says, or reports what is wrong with it and stays as it is.
    fn read(&mut self, node: &Node, path: &str, reader: &mut Reader);

    /// The value as TOML.
    fn show(&self, secrets: Secrets) -> toml::Value;

    /// The keys below this one.
    fn children(&self) -> Vec<(String, &dyn Field)> {
        Vec::new()
    }

    /// The key below this one with that name.
    fn child(&mut self, _key: &str) -> Option<&mut dyn Field> {
        None
    }

    /// Whether what is below has names only by what it says itself.
    fn is_list(&self) -> bool {
        false
    }

    /// Whether one line of text, as in an environment variable, can hold it.
    fn takes_text(&self) -> bool {
        true
    }
}

/// Whether secrets are written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secrets {
    Plain,
    Masked,
}

/// A single value.
pub(crate) trait Leaf: Sized {
    /// Reads it from a file (typed) or from text (`Value::Raw`); an error says what is expected.
    fn parse(value: &Value) -> Result<Self, String>;

    fn show(&self, secrets: Secrets) -> toml::Value;

    /// Where what is wrong, once [`Leaf::parse`] has said `what`: of a list every item, each at its
    /// own place.
    fn mistakes(node: &Node, what: String) -> Vec<(Location, String)> {
        vec![(node.place.clone(), what)]
    }
}

impl<T: Leaf> Field for T {
    fn read(&mut self, node: &Node, path: &str, reader: &mut Reader) {
        match T::parse(&node.value) {
            Ok(value) => *self = value,
            Err(what) => {
                for (place, what) in T::mistakes(node, what) {
                    reader.mistake(place, path, what);
                }
            }
        }
    }

    fn show(&self, secrets: Secrets) -> toml::Value {
        Leaf::show(self, secrets)
    }
}

/// Reads a table key by key, so that one mistake does not hide the next.
pub(crate) fn read_table(section: &mut dyn Field, node: &Node, path: &str, reader: &mut Reader) {
    let Value::Table(entries) = &node.value else {
        let what = format!("must be a table of keys, not {}", node.value.kind());
        return reader.mistake(node.place.clone(), path, what);
    };
    for (n, entry) in entries.iter().enumerate() {
        let path = join(path, &entry.key);
        // TOML forbids it, JSON does not.
        if entries[..n].iter().any(|earlier| earlier.key == entry.key) {
            reader.mistake(entry.place.clone(), &path, "is given twice");
        }
        // Centrifugo does not tell capitals apart.
        let lower = entry.key.to_ascii_lowercase();
        let known = section.child(&entry.key).is_some();
        match section.child(if known { &entry.key } else { &lower }) {
            // In YAML a key without a value, often a table whose keys are all in comments.
            Some(_) if matches!(entry.node.value, Value::Other("null")) => {}
            Some(field) => {
                reader.found(&path, &entry.place);
                field.read(&entry.node, &path, reader);
            }
            None => {
                let known = section.children().into_iter().map(|(key, _)| key).collect();
                reader.unknown(entry.place.clone(), &path, known, entry.node.clone());
            }
        }
    }
}

/// A section as a TOML table.
pub(crate) fn show_table(section: &dyn Field, secrets: Secrets) -> toml::Value {
    let keys = section.children().into_iter();
    toml::Value::Table(keys.map(|(key, field)| (key, field.show(secrets))).collect())
}

/// `a` and `b` as `a.b`.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// All keys with a single value below a field, by path.
pub(crate) fn leaves(field: &dyn Field, path: &str, found: &mut Vec<String>) {
    let children = field.children();
    if children.is_empty() && field.takes_text() {
        found.push(path.to_owned());
    }
    for (key, child) in children {
        leaves(child, &join(path, &key), found);
    }
}

/// Declares a table of keys: `key: Type = default`, or `field as "key": Type = default` where the
/// key is no identifier. A last `..field: Section` puts that section's keys into this table, a
/// first `...field: Section` before its own.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( ... $(#[$head_doc:meta])* $head:ident : $head_type:ty, )?
            $( $(#[$doc:meta])* $field:ident $(as $key:literal)? : $type:ty = $default:expr, )*
            $( .. $(#[$flat_doc:meta])* $flat:ident : $flat_type:ty, )?
        }
    ) => {
        $crate::options::options! {
            $(#[$meta])*
            pub struct $name {
                $( ... $(#[$head_doc])* $head: $head_type, )?
                $( $(#[$doc])* $field: $type = $default, )*
                $( .. $(#[$flat_doc])* $flat: $flat_type, )?
            }
        }

        $crate::config::schema::keys! {
            $name { $( ... $head, )? $( $field $(as $key)?, )* $( .. $flat, )? }
        }
    };
}

/// Makes options that a lower layer owns a table of keys, as `section!` does. A field without a key
/// does not compile.
macro_rules! keys {
    (
        $name:ident {
            $( ... $head:ident, )? $( $field:ident $(as $key:literal)?, )* $( .. $flat:ident, )?
        }
    ) => {
        impl $crate::config::schema::Field for $name {
            fn read(
                &mut self,
                node: &$crate::config::schema::Node,
                path: &str,
                reader: &mut $crate::config::schema::Reader,
            ) {
                $crate::config::schema::field::read_table(self, node, path, reader);
            }

            fn show(&self, secrets: $crate::config::schema::Secrets) -> toml::Value {
                $crate::config::schema::field::show_table(self, secrets)
            }

            fn children(&self) -> Vec<(String, &dyn $crate::config::schema::Field)> {
                let Self { $( $head, )? $( $field, )* $( $flat, )? } = self;
                #[allow(unused_mut)]
                let mut children: Vec<(String, &dyn $crate::config::schema::Field)> = Vec::new();
                $( children.extend($head.children()); )?
                $(
                    let key = $crate::config::schema::keys!(@key $field $($key)?);
                    children.push((key.to_owned(), $field));
                )*
                $( children.extend($flat.children()); )?
                children
            }

            fn child(&mut self, key: &str) -> Option<&mut dyn $crate::config::schema::Field> {
                match key {
                    $(
                        $crate::config::schema::keys!(@key $field $($key)?) => {
                            Some(&mut self.$field)
                        }
                    )*
                    $( _ if self.$head.child(key).is_some() => self.$head.child(key), )?
                    $( _ if self.$flat.child(key).is_some() => self.$flat.child(key), )?
                    _ => None,
                }
            }

            fn takes_text(&self) -> bool {
                false
            }
        }
    };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
}

pub(crate) use {keys, section};
