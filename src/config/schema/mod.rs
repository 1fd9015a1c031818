//! What a configuration is made of, whatever its keys: texts become trees of values with their
//! places ([`node`], [`yaml`]), tables of keys read them ([`field`], [`tables`]), single values say
//! what they take ([`values`]), and a [`reader::Reader`] keeps what was wrong.
//!
//! Knows no key and no section: a key that no table has is kept with its neighbours, and whoever
//! knows the whole tree explains it afterwards.

mod duration;
pub(crate) mod field;
pub(crate) mod node;
pub(crate) mod reader;
mod size;
pub(crate) mod tables;
pub(crate) mod values;
pub(crate) mod yaml;

pub(crate) use field::{Field, Leaf, Secrets, join, keys, leaves, section};
pub(crate) use node::{Entry, Location, Node, Value};
pub(crate) use reader::{Mistake, Mistakes, Reader};
pub(crate) use tables::tables;
pub(crate) use values::{choice, lists, words};
