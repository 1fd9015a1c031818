//! Files below a root, read as text and numbers.
//!
//! The invariant: every failure names the file and why, and none is an empty value.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A value of the host, or why it is not known.
pub(crate) type Value<T> = Result<T, Unknown>;

/// Why a value is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    /// The file it was looked for in, as on the host.
    pub(crate) path: String,
    pub(crate) why: Why,
}

/// See [`Unknown`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// There is no such file: the kernel is older, or built without it.
    Absent,
    /// The file cannot be read.
    Unreadable(String),
    /// The file does not say what it should.
    Strange(String),
}

impl Unknown {
    pub(crate) fn is_absent(&self) -> bool {
        self.why == Why::Absent
    }
}

impl Display for Unknown {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Absent => write!(f, "{} is not there", self.path),
            Why::Unreadable(error) => write!(f, "{}: {error}", self.path),
            Why::Strange(text) => write!(f, "{} is not understood: {text:?}", self.path),
        }
    }
}

/// The root below which a host's files lie.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// A file's text without blanks at its ends.
    pub(crate) fn text(&self, path: &str) -> Value<String> {
        let unknown = |why| Unknown { path: format!("/{path}"), why };
        match fs::read(self.root.join(path)) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(unknown(Why::Absent)),
            Err(error) => Err(unknown(Why::Unreadable(error.to_string()))),
        }
    }

    /// What `take` makes of a file's text.
    pub(crate) fn parse<T>(&self, path: &str, take: impl Fn(&str) -> Option<T>) -> Value<T> {
        let text = self.text(path)?;
        take(&text).ok_or_else(|| strange(path, &text))
    }

    /// A file with one number.
    pub(crate) fn number(&self, path: &str) -> Value<u64> {
        self.parse(path, |text| text.parse().ok())
    }

    /// A file with several numbers.
    pub(crate) fn numbers<const N: usize>(&self, path: &str) -> Value<[u64; N]> {
        self.parse(path, |text| numbers(text)?.try_into().ok())
    }

    /// A sysctl as text, blanks between its parts made one.
    pub(crate) fn sysctl(&self, key: &str) -> Value<String> {
        let text = self.text(&sysctl_path(key))?;
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Names in a directory, in order.
    pub(crate) fn names(&self, path: &str) -> Value<Vec<String>> {
        let entries = fs::read_dir(self.root.join(path)).map_err(|error| Unknown {
            path: format!("/{path}"),
            why: match error.kind() {
                io::ErrorKind::NotFound => Why::Absent,
                _ => Why::Unreadable(error.to_string()),
            },
        })?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(names)
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }
}

/// Where a sysctl lies.
pub(crate) fn sysctl_path(key: &str) -> String {
    format!("proc/sys/{}", key.replace('.', "/"))
}

/// The error for a text that says something else; long ones are cut.
pub(crate) fn strange(path: &str, text: &str) -> Unknown {
    let text = text.chars().take(40).collect();
    Unknown { path: format!("/{path}"), why: Why::Strange(text) }
}

/// Numbers between blanks.
pub(crate) fn numbers(text: &str) -> Option<Vec<u64>> {
    text.split_whitespace().map(|word| word.parse().ok()).collect()
}

/// Ranges as the kernel writes them: `0-3,8`; nothing is an empty list.
pub(crate) fn ranges(text: &str) -> Option<Vec<(u32, u32)>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last).then_some((first, last))
    };
    text.split(',').map(range).collect()
}

/// Processors as the kernel lists them. Numbers beyond any machine are not believed.
pub(crate) fn processors(text: &str) -> Option<Vec<u32>> {
    let ranges = ranges(text)?;
    if ranges.iter().any(|(_, last)| *last >= PROCESSORS_MAX) {
        return None;
    }
    Some(ranges.into_iter().flat_map(|(first, last)| first..=last).collect())
}

/// Larger than the kernel's largest NR_CPUS (8192 on x86-64).
const PROCESSORS_MAX: u32 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel() {
        assert_eq!(ranges(""), Some(vec![]));
        assert_eq!(ranges("0-3,8"), Some(vec![(0, 3), (8, 8)]));
        assert_eq!((ranges("3-1"), ranges("x"), ranges("1,")), (None, None, None));
        assert_eq!(processors("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(processors("0-4294967295"), None);
        assert_eq!(numbers("1 2\t3"), Some(vec![1, 2, 3]));
        assert_eq!(numbers("1 -2"), None);
    }

    #[test]
    fn a_failure_names_the_file_and_why() {
        let folder = std::env::temp_dir().join(format!("ringhold-tree-{}", std::process::id()));
        fs::create_dir_all(folder.join("proc")).unwrap();
        fs::write(folder.join("proc/odd"), "seven\n").unwrap();
        let tree = Tree::new(&folder);
        let absent = tree.number("proc/none").unwrap_err();
        assert!(absent.is_absent());
        assert_eq!(absent.to_string(), "/proc/none is not there");
        let odd = tree.number("proc/odd").unwrap_err();
        assert_eq!(odd.to_string(), "/proc/odd is not understood: \"seven\"");
        let folder_read = tree.text("proc").unwrap_err();
        assert!(matches!(folder_read.why, Why::Unreadable(_)), "{folder_read}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
