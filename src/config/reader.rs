//! Collects what is wrong while a configuration is read, and where each key stands.

use std::collections::BTreeMap;
use std::fmt;

use super::node::{Node, Place};
use super::{centrifugo, suggest};

/// Something wrong in a configuration: where, at which key, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands.
    pub place: Place,
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
                Place::Line(line) => write!(f, "{}:{line}: ", self.file)?,
                Place::Variable(name) => write!(f, "environment {name}: ")?,
                Place::Flag => f.write_str("--set ")?,
                Place::Unknown if self.file.is_empty() => {}
                Place::Unknown => write!(f, "{}: ", self.file)?,
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
    /// Keys of Centrifugo's that nothing is lost without.
    pub(crate) notes: Vec<Mistake>,
    /// Things to tell that do not stop anybody.
    pub(crate) warnings: Vec<String>,
    /// Where each key was last set.
    places: BTreeMap<String, Place>,
}

impl Reader {
    pub(crate) fn mistake(&mut self, place: Place, key: &str, what: impl Into<String>) {
        self.mistakes.push(Mistake { place, key: key.to_owned(), what: what.into() });
    }

    /// A key that no table has: says which one was probably meant. One of Centrifugo's that is off,
    /// or that nothing is lost without, is noted only, so that its files start here.
    pub(crate) fn unknown(&mut self, place: Place, path: &str, known: Vec<String>, node: &Node) {
        match centrifugo::judge(path, node) {
            Some(wrong) if wrong.is_empty() => {
                let what = centrifugo::note(path);
                self.notes.push(Mistake { place, key: path.to_owned(), what });
            }
            Some(wrong) => {
                for (place, key, what) in wrong {
                    self.mistake(place, &key, what);
                }
            }
            None => self.mistake(place, path, suggest::unknown(path, &known)),
        }
    }

    /// Nobody reads a table: settings of Centrifugo's that would be missed in it are noted only,
    /// with the reason.
    pub(crate) fn forgive(&mut self, table: &str, why: &str) {
        let below = |key: &str| key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
        let all = std::mem::take(&mut self.mistakes);
        let (missed, rest) =
            all.into_iter().partition(|it| below(&it.key) && centrifugo::is_missed(&it.key));
        self.mistakes = rest;
        let missed: Vec<Mistake> = missed;
        self.notes.extend(missed.into_iter().map(|it| Mistake { what: why.to_owned(), ..it }));
    }

    pub(crate) fn found(&mut self, path: &str, place: &Place) {
        self.places.insert(path.to_owned(), place.clone());
    }

    /// What is below this key was replaced as a whole.
    pub(crate) fn forget(&mut self, path: &str) {
        let below = |key: &str| key.strip_prefix(path).is_some_and(|rest| rest.starts_with('['));
        self.places.retain(|key, _| !below(key));
    }

    /// Where a key was set, or the table it would be in.
    pub(crate) fn place(&self, path: &str) -> Place {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return place.clone();
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return Place::Unknown,
            }
        }
    }
}
