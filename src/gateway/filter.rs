//! Tag filters: which publications of a channel one subscriber wants to see.
//!
//! A filter comes from a client as a tree of [`FilterNode`]s. [`Filter::new`] checks it once and
//! keeps what matching needs; [`Filter::matches`] cannot fail. The invariant: a filter has at most
//! [`NODES_MAX`] nodes and [`VALUES_MAX`] values, so that a publication costs each subscriber a
//! bounded amount of work.

mod decimal;

use std::collections::BTreeMap;
use std::fmt;

use decimal::Decimal;

use crate::gateway::wire::messages::FilterNode;

/// How deep a filter may be nested; a single comparison is 1.
pub const DEPTH_MAX: usize = 16;
/// How many nodes a filter may have.
pub const NODES_MAX: usize = 128;
/// How many values all its `in` and `nin` comparisons may have together.
pub const VALUES_MAX: usize = 1024;

/// Why a filter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
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

/// A checked filter. Equal filters can be shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter(Node);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Node {
    All(Box<[Node]>),
    Any(Box<[Node]>),
    Not(Box<Node>),
    Leaf(Box<str>, Test),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Test {
    Equal(Box<str>),
    In(Box<[Box<str>]>),
    Exists,
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Box<str>),
    Less(Box<str>),
    Greater(Box<str>),
    /// `lte`, which is not the opposite of `gt`: what is no number is neither.
    AtMost(Box<str>),
    /// `gte`.
    AtLeast(Box<str>),
}

impl Filter {
    /// Checks a filter.
    pub fn new(node: &FilterNode) -> Result<Self, FilterError> {
        check(node, DEPTH_MAX, &mut Budget { nodes: NODES_MAX, values: VALUES_MAX }).map(Self)
    }

    /// Whether a publication with these tags is wanted.
    pub fn matches(&self, tags: &BTreeMap<String, String>) -> bool {
        self.0.matches(tags)
    }
}

/// What is left of the limits.
struct Budget {
    nodes: usize,
    values: usize,
}

fn check(node: &FilterNode, depth: usize, budget: &mut Budget) -> Result<Node, FilterError> {
    let depth = depth.checked_sub(1).ok_or(FilterError::TooDeep)?;
    budget.nodes = budget.nodes.checked_sub(1).ok_or(FilterError::TooManyNodes)?;
    let many = |budget: &mut Budget| match node.nodes.as_slice() {
        [] => Err(FilterError::WrongChildren),
        nodes => nodes.iter().map(|node| check(node, depth, budget)).collect(),
    };
    match (node.op.as_str(), node.nodes.as_slice()) {
        ("", _) => leaf(node, budget),
        ("and", _) => many(budget).map(Node::All),
        ("or", _) => many(budget).map(Node::Any),
        ("not", [node]) => Ok(Node::Not(Box::new(check(node, depth, budget)?))),
        ("not", _) => Err(FilterError::WrongChildren),
        _ => Err(FilterError::UnknownOp),
    }
}

fn leaf(node: &FilterNode, budget: &mut Budget) -> Result<Node, FilterError> {
    let test = match node.cmp.as_str() {
        "eq" | "neq" => Test::Equal(value(node)?),
        "in" | "nin" => Test::In(values(node, budget)?),
        "ex" | "nex" if node.val.is_empty() && node.vals.is_empty() => Test::Exists,
        "ex" | "nex" => return Err(FilterError::UnusedValue),
        "sw" => Test::StartsWith(value(node)?),
        "ew" => Test::EndsWith(value(node)?),
        "ct" => Test::Contains(value(node)?),
        "lt" => Test::Less(value(node)?),
        "lte" => Test::AtMost(value(node)?),
        "gt" => Test::Greater(value(node)?),
        "gte" => Test::AtLeast(value(node)?),
        _ => return Err(FilterError::UnknownComparison),
    };
    if node.key.is_empty() && test != Test::Exists {
        return Err(FilterError::NoKey);
    }
    let leaf = Node::Leaf(node.key.as_str().into(), test);
    let negative = matches!(node.cmp.as_str(), "neq" | "nin" | "nex");
    Ok(if negative { Node::Not(Box::new(leaf)) } else { leaf })
}

/// The value of a comparison with one.
fn value(node: &FilterNode) -> Result<Box<str>, FilterError> {
    match (node.val.as_str(), node.vals.as_slice()) {
        ("", _) => Err(FilterError::NoValue),
        (value, []) => Ok(value.into()),
        _ => Err(FilterError::UnusedValue),
    }
}

/// The values of a comparison with several.
fn values(node: &FilterNode, budget: &mut Budget) -> Result<Box<[Box<str>]>, FilterError> {
    if node.vals.is_empty() {
        return Err(FilterError::NoValue);
    }
    if !node.val.is_empty() {
        return Err(FilterError::UnusedValue);
    }
    let left = budget.values.checked_sub(node.vals.len());
    budget.values = left.ok_or(FilterError::TooManyValues)?;
    Ok(node.vals.iter().map(|value| value.as_str().into()).collect())
}

impl Node {
    fn matches(&self, tags: &BTreeMap<String, String>) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.matches(tags)),
            Self::Any(nodes) => nodes.iter().any(|node| node.matches(tags)),
            Self::Not(node) => !node.matches(tags),
            Self::Leaf(key, test) => test.matches(tags.get(&**key).map(String::as_str)),
        }
    }
}

impl Test {
    fn matches(&self, tag: Option<&str>) -> bool {
        // As in Centrifugo, a tag that is not there is the empty string to `in` and `nin`.
        if let Self::In(values) = self {
            return values.iter().any(|value| **value == *tag.unwrap_or_default());
        }
        let Some(tag) = tag else { return false };
        match self {
            Self::Equal(value) => *tag == **value,
            Self::In(_) | Self::Exists => true,
            Self::StartsWith(value) => tag.starts_with(&**value),
            Self::EndsWith(value) => tag.ends_with(&**value),
            Self::Contains(value) => tag.contains(&**value),
            Self::Less(value) => compare(tag, value).is_some_and(|order| order.is_lt()),
            Self::AtMost(value) => compare(tag, value).is_some_and(|order| order.is_le()),
            Self::Greater(value) => compare(tag, value).is_some_and(|order| order.is_gt()),
            Self::AtLeast(value) => compare(tag, value).is_some_and(|order| order.is_ge()),
        }
    }
}

/// As numbers; `None` if one is none.
fn compare(tag: &str, value: &str) -> Option<std::cmp::Ordering> {
    Some(Decimal::parse(tag)?.cmp(&Decimal::parse(value)?))
}

#[cfg(test)]
mod tests;
