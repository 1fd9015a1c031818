//! Appends JSON objects, field by field, to a buffer.
//!
//! Fields with the zero value of their kind are left out, as the protocol wants it; the functions
//! that begin with `always_` are for the few that are written nevertheless. Keys are ours and need
//! no escaping.

use std::collections::BTreeMap;

use serde::Serialize;

use super::raw;

/// A message that can be written as an object.
pub(super) trait Fields {
    /// Appends its fields.
    fn put(&self, object: &mut Object<'_>);
}

/// An object that is being written: its opening brace is, its closing one is not.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

/// Writes one object.
pub(super) fn object(out: &mut Vec<u8>, fields: impl FnOnce(&mut Object<'_>)) {
    out.push(b'{');
    fields(&mut Object { out, empty: true });
    out.push(b'}');
}

impl Object<'_> {
    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        self.comma();
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn comma(&mut self) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
    }

    pub(super) fn fields(&mut self, message: &impl Fields) {
        message.put(self);
    }

    pub(super) fn uint(&mut self, key: &str, number: u64) {
        if number != 0 {
            self.always_uint(key, number);
        }
    }

    pub(super) fn always_uint(&mut self, key: &str, number: u64) {
        value(self.key(key), &number);
    }

    pub(super) fn int(&mut self, key: &str, number: i64) {
        if number != 0 {
            value(self.key(key), &number);
        }
    }

    pub(super) fn flag(&mut self, key: &str, flag: bool) {
        if flag {
            self.key(key).extend_from_slice(b"true");
        }
    }

    pub(super) fn string(&mut self, key: &str, string: &str) {
        if !string.is_empty() {
            self.always_string(key, string);
        }
    }

    pub(super) fn always_string(&mut self, key: &str, string: &str) {
        value(self.key(key), string);
    }

    /// JSON text, verbatim but for line breaks.
    pub(super) fn raw(&mut self, key: &str, json: &[u8]) {
        if json.is_empty() {
            return;
        }
        let out = self.key(key);
        if raw::is_one_line(json) {
            out.extend_from_slice(json);
        } else {
            out.extend(json.iter().filter(|byte| !matches!(byte, b'\n' | b'\r')));
        }
    }

    /// Text in a string. Callers know that it is UTF-8.
    pub(super) fn text(&mut self, key: &str, text: &[u8]) {
        self.string(key, &String::from_utf8_lossy(text));
    }

    pub(super) fn object(&mut self, key: &str, fields: impl FnOnce(&mut Object<'_>)) {
        object(self.key(key), fields);
    }

    pub(super) fn message(&mut self, key: &str, message: &impl Fields) {
        self.object(key, |o| message.put(o));
    }

    /// The values in an array, each an object.
    pub(super) fn always_array<T>(
        &mut self,
        key: &str,
        items: &[T],
        mut fields: impl FnMut(&mut Object<'_>, &T),
    ) {
        let out = self.key(key);
        out.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            object(out, |o| fields(o, item));
        }
        out.push(b']');
    }

    pub(super) fn strings(&mut self, key: &str, map: &BTreeMap<String, String>) {
        if !map.is_empty() {
            self.object(key, |o| map.iter().for_each(|(name, text)| value(o.entry(name), text)));
        }
    }

    pub(super) fn messages(&mut self, key: &str, map: &BTreeMap<String, impl Fields>) {
        if !map.is_empty() {
            self.always_messages(key, map);
        }
    }

    pub(super) fn always_messages(&mut self, key: &str, map: &BTreeMap<String, impl Fields>) {
        self.object(key, |o| {
            for (name, message) in map {
                object(o.entry(name), |o| message.put(o));
            }
        });
    }

    /// One entry of a map.
    pub(super) fn entry_of(&mut self, name: &str, message: &impl Fields) {
        object(self.entry(name), |o| message.put(o));
    }

    /// A key that is not ours.
    fn entry(&mut self, name: &str) -> &mut Vec<u8> {
        self.comma();
        value(self.out, name);
        self.out.push(b':');
        self.out
    }
}

/// A number or a string with its escapes.
fn value<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Numbers and strings are always JSON, and a vector takes all that is written.
    let _ = serde_json::to_writer(out, value);
}
