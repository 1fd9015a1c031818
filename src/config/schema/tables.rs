//! Lists of tables: namespaces, named proxies, transforms of statuses. In a file each is a list; in
//! a variable or flag a JSON list or, where its tables have names, those names.

use super::field::{Field, Secrets, read_table, show_table};
use super::node::{Node, Value};
use super::reader::Reader;

/// A table of such a list.
pub(crate) trait Row: Field + Default {
    /// One of that name; `None`: its tables have none.
    fn named(name: &str) -> Option<Self>;
}

/// Reads a list in place of the one there was.
pub(crate) fn read<T: Row>(list: &mut Vec<T>, node: &Node, path: &str, reader: &mut Reader) {
    let parsed;
    let nodes = match &node.value {
        Value::List(nodes) => nodes,
        Value::Raw(text) if text.trim_start().starts_with('[') => {
            match Node::from_json_text(text, &node.place) {
                Ok(Node { value: Value::List(nodes), .. }) => {
                    parsed = nodes;
                    &parsed
                }
                Ok(_) => return,
                Err(what) => return reader.mistake(node.place.clone(), path, what),
            }
        }
        Value::Raw(text) => {
            let named: Option<Vec<T>> = text.split_whitespace().map(T::named).collect();
            match named {
                Some(named) => *list = named,
                None => reader.mistake(node.place.clone(), path, "must be a JSON list of tables"),
            }
            return;
        }
        other => {
            let what = format!("must be a list of tables, [[{path}]], not {}", other.kind());
            return reader.mistake(node.place.clone(), path, what);
        }
    };
    list.clear();
    reader.forget(path);
    for (index, node) in nodes.iter().enumerate() {
        let path = format!("{path}[{index}]");
        reader.found(&path, &node.place);
        let mut row = T::default();
        read_table(&mut row, node, &path, reader);
        list.push(row);
    }
}

/// A list as TOML.
pub(crate) fn show<T: Row>(list: &[T], secrets: Secrets) -> toml::Value {
    toml::Value::Array(list.iter().map(|row| show_table(row, secrets)).collect())
}

/// Makes lists of a table a key: `tables!(Row)`, or `tables!(Row by name)` where the field `name`
/// tells them apart.
macro_rules! tables {
    (@read) => {
        fn read(
            &mut self,
            node: &$crate::config::schema::Node,
            path: &str,
            reader: &mut $crate::config::schema::Reader,
        ) {
            $crate::config::schema::tables::read(self, node, path, reader);
        }

        fn show(&self, secrets: $crate::config::schema::Secrets) -> toml::Value {
            $crate::config::schema::tables::show(self, secrets)
        }
    };
    ($row:ident by $name:ident) => {
        impl $crate::config::schema::tables::Row for $row {
            fn named(name: &str) -> Option<Self> {
                Some(Self { $name: name.to_owned(), ..Self::default() })
            }
        }

        impl $crate::config::schema::Field for Vec<$row> {
            tables!(@read);

            fn children(&self) -> Vec<(String, &dyn $crate::config::schema::Field)> {
                self.iter().map(|one| (one.$name.clone(), one as _)).collect()
            }

            fn is_list(&self) -> bool {
                true
            }

            fn child(
                &mut self,
                key: &str,
            ) -> Option<&mut dyn $crate::config::schema::Field> {
                self.iter_mut().find(|one| one.$name == key).map(|one| one as _)
            }
        }
    };
    ($row:ident) => {
        impl $crate::config::schema::tables::Row for $row {
            fn named(_: &str) -> Option<Self> {
                None
            }
        }

        impl $crate::config::schema::Field for Vec<$row> {
            tables!(@read);
        }
    };
}

pub(crate) use tables;
