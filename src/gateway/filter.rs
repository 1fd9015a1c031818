//! Tag filters: which publications of a channel one subscriber wants to see.
//!
//! A filter comes from a client as a tree of [`FilterNode`]s. [`Filter::decode`] checks it once and
//! keeps what matching needs, in one piece of text; [`Filter::matches`] cannot fail. The invariant:
//! a filter has at most [`BYTES_MAX`] bytes, [`NODES_MAX`] nodes and [`VALUES_MAX`] values, so that
//! it takes little memory and a publication costs each subscriber a bounded amount of work.

mod decimal;
mod decode;

use std::collections::BTreeMap;
use std::fmt;

use decimal::Decimal;

use crate::gateway::account::{heap, shared};
use crate::gateway::wire::Encoding;
use crate::gateway::wire::messages::FilterNode;

/// Bytes of a filter, as it travels.
pub const BYTES_MAX: usize = 4096;
/// How deep a filter may be nested; a single comparison is 1.
pub const DEPTH_MAX: usize = 16;
/// How many nodes a filter may have.
pub const NODES_MAX: usize = 128;
/// How many values all its `in` and `nin` comparisons may have together.
pub const VALUES_MAX: usize = 1024;

/// Why a filter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// Neither JSON nor Protobuf of a filter.
    Malformed,
    /// More than [`BYTES_MAX`] bytes.
    TooLong,
    /// Nested deeper than [`DEPTH_MAX`].
    TooDeep,
    /// More than [`NODES_MAX`] nodes.
    TooManyNodes,
    /// More than [`VALUES_MAX`] values.
    TooManyValues,
    /// An `op` that there is not.
    UnknownOp,
    /// A comparison that there is not, or none.
    UnknownComparison,
    /// A comparison without the key it needs.
    NoKey,
    /// A comparison without the value or values it needs.
    NoValue,
    /// A comparison with a value or values it has no use for.
    UnusedValue,
    /// `and` or `or` of nothing, or `not` of anything but one.
    WrongChildren,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("malformed"),
            Self::TooLong => write!(f, "the filter has more than {BYTES_MAX} bytes"),
            Self::TooDeep => write!(f, "the filter is nested deeper than {DEPTH_MAX}"),
            Self::TooManyNodes => write!(f, "the filter has more than {NODES_MAX} nodes"),
            Self::TooManyValues => write!(f, "the filter has more than {VALUES_MAX} values"),
            Self::UnknownOp => f.write_str("op is none of and, or, not"),
            Self::UnknownComparison => f.write_str("cmp is no known comparison"),
            Self::NoKey => f.write_str("the comparison needs a key"),
            Self::NoValue => f.write_str("the comparison needs a value"),
            Self::UnusedValue => f.write_str("the comparison has a value it does not use"),
            Self::WrongChildren => f.write_str("the op has a wrong number of nodes"),
        }
    }
}

impl std::error::Error for FilterError {}

/// The tags of a publication.
pub trait Tags {
    /// The tag of this name.
    fn tag(&self, key: &str) -> Option<&str>;
}

impl Tags for BTreeMap<String, String> {
    fn tag(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Tags for [(Box<str>, Box<str>)] {
    fn tag(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| **name == *key).map(|(_, tag)| &**tag)
    }
}

/// A checked filter, as the code that matching runs: a letter for each node, numbers as two
/// characters of seven bits each, texts after their lengths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter(Box<str>);

impl Filter {
    /// Checks a filter as it came.
    pub fn decode(encoding: Encoding, bytes: &[u8]) -> Result<Self, FilterError> {
        if bytes.len() > BYTES_MAX {
            return Err(FilterError::TooLong);
        }
        Self::new(&decode::decode(encoding, bytes)?)
    }

    /// Checks a filter.
    pub fn new(node: &FilterNode) -> Result<Self, FilterError> {
        let mut code = String::new();
        compile(node, DEPTH_MAX, &mut Budget::whole(), &mut code)?;
        Ok(Self(code.into_boxed_str()))
    }

    /// Whether a publication with these tags is wanted.
    pub fn matches(&self, tags: &(impl Tags + ?Sized)) -> bool {
        Code(&self.0).node(tags)
    }

    /// The memory that it takes, shared.
    pub(in crate::gateway) fn cost(&self) -> usize {
        shared(size_of::<Self>()) + heap(self.0.len())
    }
}

/// What is left of the limits.
struct Budget {
    bytes: usize,
    nodes: usize,
    values: usize,
}

impl Budget {
    fn whole() -> Self {
        Self { bytes: BYTES_MAX, nodes: NODES_MAX, values: VALUES_MAX }
    }

    /// One more node, within which so many levels may follow, its own included.
    fn node(&mut self, depth: usize) -> Result<(), FilterError> {
        depth.checked_sub(1).ok_or(FilterError::TooDeep)?;
        self.nodes = self.nodes.checked_sub(1).ok_or(FilterError::TooManyNodes)?;
        Ok(())
    }

    fn value(&mut self) -> Result<(), FilterError> {
        self.values = self.values.checked_sub(1).ok_or(FilterError::TooManyValues)?;
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), FilterError> {
        self.bytes = self.bytes.checked_sub(text.len()).ok_or(FilterError::TooLong)?;
        Ok(())
    }
}

const ALL: char = '&';
const ANY: char = '|';
const NOT: char = '!';
const EQUAL: char = '=';
const IN: char = '#';
const EXISTS: char = '?';
const STARTS_WITH: char = '^';
const ENDS_WITH: char = '$';
const CONTAINS: char = '*';
const LESS: char = '<';
const GREATER: char = '>';
/// `lte`, which is not the opposite of `gt`: what is no number is neither.
const AT_MOST: char = '(';
/// `gte`.
const AT_LEAST: char = ')';

fn compile(
    node: &FilterNode,
    depth: usize,
    budget: &mut Budget,
    code: &mut String,
) -> Result<(), FilterError> {
    budget.node(depth)?;
    match (node.op.as_str(), node.nodes.as_slice()) {
        ("", _) => return leaf(node, budget, code),
        ("and" | "or", []) => return Err(FilterError::WrongChildren),
        ("and", _) => code.push(ALL),
        ("or", _) => code.push(ANY),
        ("not", [node]) => {
            code.push(NOT);
            return compile(node, depth - 1, budget, code);
        }
        ("not", _) => return Err(FilterError::WrongChildren),
        _ => return Err(FilterError::UnknownOp),
    }
    // The length comes first, so that matching can skip what does not matter any more.
    let mut within = String::new();
    for node in &node.nodes {
        compile(node, depth - 1, budget, &mut within)?;
    }
    put(&within, code);
    Ok(())
}

fn leaf(node: &FilterNode, budget: &mut Budget, code: &mut String) -> Result<(), FilterError> {
    let (val, vals) = (node.val.as_str(), node.vals.as_slice());
    let (test, negative) = match node.cmp.as_str() {
        "eq" => (EQUAL, false),
        "neq" => (EQUAL, true),
        "in" => (IN, false),
        "nin" => (IN, true),
        "ex" => (EXISTS, false),
        "nex" => (EXISTS, true),
        "sw" => (STARTS_WITH, false),
        "ew" => (ENDS_WITH, false),
        "ct" => (CONTAINS, false),
        "lt" => (LESS, false),
        "lte" => (AT_MOST, false),
        "gt" => (GREATER, false),
        "gte" => (AT_LEAST, false),
        _ => return Err(FilterError::UnknownComparison),
    };
    let (wanted, other) = match test {
        EXISTS => (true, !val.is_empty() || !vals.is_empty()),
        IN => (!vals.is_empty(), !val.is_empty()),
        _ => (!val.is_empty(), !vals.is_empty()),
    };
    if !wanted {
        return Err(FilterError::NoValue);
    }
    if other {
        return Err(FilterError::UnusedValue);
    }
    if node.key.is_empty() && test != EXISTS {
        return Err(FilterError::NoKey);
    }
    if negative {
        code.push(NOT);
    }
    code.push(test);
    budget.text(&node.key)?;
    put(&node.key, code);
    match test {
        EXISTS => {}
        IN if vals.len() > budget.values => return Err(FilterError::TooManyValues),
        IN => {
            number(vals.len(), code);
            for value in vals {
                budget.value()?;
                budget.text(value)?;
                put(value, code);
            }
        }
        _ => {
            budget.text(val)?;
            put(val, code);
        }
    }
    Ok(())
}

/// A number below 2^14, which is more than any text here has bytes: all texts of a filter together
/// have [`BYTES_MAX`], and what is around them takes eight for each node and two for each value.
fn number(number: usize, code: &mut String) {
    debug_assert!(number < 1 << 14);
    code.extend([number >> 7, number].map(|bits| char::from((bits & 0x7f) as u8)));
}

const _: () = assert!(BYTES_MAX + 8 * NODES_MAX + 2 * VALUES_MAX < 1 << 14);

fn put(text: &str, code: &mut String) {
    number(text.len(), code);
    code.push_str(text);
}

/// Code that is still to run.
struct Code<'a>(&'a str);

impl<'a> Code<'a> {
    /// Runs one node, to its end.
    fn node(&mut self, tags: &(impl Tags + ?Sized)) -> bool {
        match self.op() {
            op @ (ALL | ANY) => {
                let mut within = Code(self.text());
                while !within.0.is_empty() {
                    if within.node(tags) == (op == ANY) {
                        return op == ANY;
                    }
                }
                op == ALL
            }
            NOT => !self.node(tags),
            test => self.test(test, tags),
        }
    }

    fn test(&mut self, test: char, tags: &(impl Tags + ?Sized)) -> bool {
        let tag = tags.tag(self.text());
        if test == EXISTS {
            return tag.is_some();
        }
        if test == IN {
            // As in Centrifugo, a tag that is not there is the empty string to `in` and `nin`.
            let tag = tag.unwrap_or_default();
            let mut found = false;
            for _ in 0..self.number() {
                found |= self.text() == tag;
            }
            return found;
        }
        let value = self.text();
        let Some(tag) = tag else { return false };
        match test {
            EQUAL => tag == value,
            STARTS_WITH => tag.starts_with(value),
            ENDS_WITH => tag.ends_with(value),
            CONTAINS => tag.contains(value),
            LESS => compare(tag, value).is_some_and(|order| order.is_lt()),
            AT_MOST => compare(tag, value).is_some_and(|order| order.is_le()),
            GREATER => compare(tag, value).is_some_and(|order| order.is_gt()),
            _ => compare(tag, value).is_some_and(|order| order.is_ge()),
        }
    }

    fn op(&mut self) -> char {
        self.take(1).chars().next().unwrap_or(EXISTS)
    }

    fn number(&mut self) -> usize {
        self.take(2).bytes().fold(0, |number, bits| number << 7 | usize::from(bits))
    }

    fn text(&mut self) -> &'a str {
        let length = self.number();
        self.take(length)
    }

    fn take(&mut self, length: usize) -> &'a str {
        // Whatever was compiled has what it says.
        let (taken, rest) = self.0.split_at_checked(length).unwrap_or((self.0, ""));
        self.0 = rest;
        taken
    }
}

/// As numbers; `None` if one is none.
fn compare(tag: &str, value: &str) -> Option<std::cmp::Ordering> {
    Some(Decimal::parse(tag)?.cmp(&Decimal::parse(value)?))
}

#[cfg(test)]
mod tests;
