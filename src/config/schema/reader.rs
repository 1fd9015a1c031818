//! Collects what is wrong while a configuration is read, and where each key stands.

use std::collections::BTreeMap;
use std::fmt;

use super::node::{Location, Node};

/// Something wrong in a configuration: where, at which key, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands.
    pub place: Location,
    /// The key with its path; empty where the text could not be read at all.
    pub key: String,
    /// What is wrong, in words.
    pub what: String,
}

/// All that is wrong, or worth a note, in the order of the places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    /// Name of the file that lines are counted in.
    pub file: String,
    /// Of an error never empty.
    pub list: Vec<Mistake>,
}

impl Mistakes {
    pub(crate) fn new(file: String, mut list: Vec<Mistake>) -> Self {
        list.sort_by(|a, b| a.place.cmp(&b.place));
        Self { file, list }
    }
}

impl fmt::Display for Mistakes {
    /// One line each: `file:line: key: what`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, mistake) in self.list.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            match &mistake.place {
                Location::Line(line) => write!(f, "{}:{line}: ", self.file)?,
                Location::Variable(name) => write!(f, "environment {name}: ")?,
                Location::Flag => f.write_str("--set ")?,
                Location::Unknown if self.file.is_empty() => {}
                Location::Unknown => write!(f, "{}: ", self.file)?,
            }
            if !mistake.key.is_empty() {
                write!(f, "{}: ", mistake.key)?;
            }
            f.write_str(&mistake.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// What reading has found so far.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) mistakes: Vec<Mistake>,
    /// Keys that no table has, in the order in which they came.
    pub(crate) unknown: Vec<Unknown>,
    /// Keys that nothing is lost without.
    pub(crate) notes: Vec<Mistake>,
    /// Things to tell that do not stop anybody.
    pub(crate) warnings: Vec<String>,
    /// Where each key was last set.
    places: BTreeMap<String, Location>,
}

/// A key that no table has. What is to be said of it depends on the whole tree.
#[derive(Debug)]
pub(crate) struct Unknown {
    /// So many mistakes came before it.
    pub(crate) before: usize,
    pub(crate) place: Location,
    pub(crate) path: String,
    /// The keys that its table has.
    pub(crate) siblings: Vec<String>,
    /// Its value.
    pub(crate) node: Node,
}

impl Reader {
    pub(crate) fn mistake(&mut self, place: Location, key: &str, what: impl Into<String>) {
        self.mistakes.push(Mistake { place, key: key.to_owned(), what: what.into() });
    }

    /// A key that no table has, beside those `siblings`.
    pub(crate) fn unknown(
        &mut self,
        place: Location,
        path: &str,
        siblings: Vec<String>,
        node: Node,
    ) {
        let before = self.mistakes.len();
        self.unknown.push(Unknown { before, place, path: path.to_owned(), siblings, node });
    }

    pub(crate) fn found(&mut self, path: &str, place: &Location) {
        self.places.insert(path.to_owned(), place.clone());
    }

    /// What is below this key was replaced as a whole.
    pub(crate) fn forget(&mut self, path: &str) {
        let below = |key: &str| key.strip_prefix(path).is_some_and(|rest| rest.starts_with('['));
        self.places.retain(|key, _| !below(key));
    }

    /// Where a key was set, or the table it would be in.
    pub(crate) fn place(&self, path: &str) -> Location {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return place.clone();
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return Location::Unknown,
            }
        }
    }
}
