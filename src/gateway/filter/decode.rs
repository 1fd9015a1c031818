//! Filters as they travel, in either encoding, into trees of [`FilterNode`]s.
//!
//! The invariant: a node or a value is counted before memory is taken for it, so a filter that is
//! refused has taken no more than one that is not.

use std::borrow::Cow;
use std::fmt;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Budget, DEPTH_MAX, FilterError};
use crate::gateway::wire::Encoding;
use crate::gateway::wire::messages::FilterNode;

/// The tree in these bytes.
pub(super) fn decode(encoding: Encoding, bytes: &[u8]) -> Result<FilterNode, FilterError> {
    let mut budget = Budget::whole();
    match encoding {
        Encoding::Protobuf => protobuf(bytes, DEPTH_MAX, &mut budget),
        Encoding::Json => {
            let mut fault = None;
            let mut json = serde_json::Deserializer::from_slice(bytes);
            let node = Node { budget: &mut budget, fault: &mut fault, depth: DEPTH_MAX };
            let node = node.deserialize(&mut json).and_then(|node| json.end().map(|()| node));
            node.map_err(|_| fault.unwrap_or(FilterError::Malformed))
        }
    }
}

fn protobuf(
    mut bytes: &[u8],
    depth: usize,
    budget: &mut Budget,
) -> Result<FilterNode, FilterError> {
    let malformed = |_| FilterError::Malformed;
    budget.node(depth)?;
    let mut node = FilterNode::default();
    while !bytes.is_empty() {
        let (tag, kind) = decode_key(&mut bytes).map_err(malformed)?;
        if tag > 6 {
            skip_field(kind, tag, &mut bytes, DecodeContext::default()).map_err(malformed)?;
            continue;
        }
        if kind != WireType::LengthDelimited {
            return Err(FilterError::Malformed);
        }
        let length = decode_varint(&mut bytes).map_err(malformed)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (field, rest) = bytes.split_at_checked(length).ok_or(FilterError::Malformed)?;
        bytes = rest;
        if tag == 6 {
            node.nodes.push(protobuf(field, depth - 1, budget)?);
            continue;
        }
        let text = std::str::from_utf8(field).map_err(|_| FilterError::Malformed)?;
        match tag {
            1 => node.op = text.to_owned(),
            2 => node.key = text.to_owned(),
            3 => node.cmp = text.to_owned(),
            4 => node.val = text.to_owned(),
            _ => {
                budget.value()?;
                node.vals.push(text.to_owned());
            }
        }
    }
    Ok(node)
}

/// A node that is to come.
struct Node<'b> {
    budget: &'b mut Budget,
    /// Why it is refused, if not as malformed JSON.
    fault: &'b mut Option<FilterError>,
    depth: usize,
}

impl Node<'_> {
    fn lend(&mut self) -> Node<'_> {
        Node { budget: self.budget, fault: self.fault, depth: self.depth - 1 }
    }

    fn charge<E: serde::de::Error>(&mut self, charged: Result<(), FilterError>) -> Result<(), E> {
        charged.map_err(|fault| {
            *self.fault = Some(fault);
            E::custom(fault)
        })
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Op,
    Key,
    Cmp,
    Val,
    Vals,
    Nodes,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = FilterNode;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<FilterNode, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = FilterNode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a filter")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<FilterNode, A::Error> {
        let charged = self.budget.node(self.depth);
        self.charge(charged)?;
        let mut node = FilterNode::default();
        while let Some(field) = map.next_key()? {
            let text = match field {
                Field::Op => &mut node.op,
                Field::Key => &mut node.key,
                Field::Cmp => &mut node.cmp,
                Field::Val => &mut node.val,
                Field::Vals => {
                    node.vals = map.next_value_seed(Values(self.lend()))?;
                    continue;
                }
                Field::Nodes => {
                    node.nodes = map.next_value_seed(Nodes(self.lend()))?;
                    continue;
                }
                Field::Other => {
                    map.next_value::<serde::de::IgnoredAny>()?;
                    continue;
                }
            };
            *text = map.next_value::<Option<String>>()?.unwrap_or_default();
        }
        Ok(node)
    }
}

/// The list of a node's values.
struct Values<'b>(Node<'b>);

/// The list of a node's nodes.
struct Nodes<'b>(Node<'b>);

macro_rules! list {
    ($seed:ident of $item:ty, |$it:ident, $seq:ident| $next:expr) => {
        impl<'de> DeserializeSeed<'de> for $seed<'_> {
            type Value = Vec<$item>;

            fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
                json.deserialize_any(self)
            }
        }

        impl<'de> Visitor<'de> for $seed<'_> {
            type Value = Vec<$item>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
                Ok(Vec::new())
            }

            fn visit_seq<A: SeqAccess<'de>>(
                mut self,
                mut $seq: A,
            ) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                let $it = &mut self.0;
                while let Some(item) = $next? {
                    items.push(item);
                }
                Ok(items)
            }
        }
    };
}

list!(Values of String, |it, seq| {
    match seq.next_element::<Cow<'de, str>>()? {
        None => Ok::<_, A::Error>(None),
        Some(value) => {
            let charged = it.budget.value();
            it.charge::<A::Error>(charged)?;
            Ok(Some(value.into_owned()))
        }
    }
});

list!(Nodes of FilterNode, |it, seq| seq.next_element_seed(Node {
    budget: it.budget,
    fault: it.fault,
    depth: it.depth,
}));
