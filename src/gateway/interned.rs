//! Things with a name, each with a small number for as long as it is there.
//!
//! Owns the things and the table that finds them by name. Never knows what they are. The invariant:
//! each is found by its name, and no two have the same.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use hashbrown::HashTable;
use slab::Slab;

use super::placement::Placement;

/// A thing with a name, which it keeps.
pub(super) trait Named {
    /// The name.
    fn name(&self) -> &Arc<str>;
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Interned<T> {
    placement: Placement,
    things: Slab<T>,
    numbers: HashTable<u32>,
}

impl<T: Named> Interned<T> {
    /// Nothing. Names are hashed as the placement does.
    pub(super) fn new(placement: Placement) -> Self {
        Self { placement, things: Slab::new(), numbers: HashTable::new() }
    }

    /// The hash of a name; the same on all cores.
    pub(super) fn hash(&self, name: &str) -> u64 {
        self.placement.hash(name)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.things.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.things.is_empty() && self.numbers.is_empty()
    }

    /// The number of the thing of this name.
    pub(super) fn find(&self, name: &str) -> Option<u32> {
        let is_it = |number: &u32| **self.things[*number as usize].name() == *name;
        self.numbers.find(self.placement.hash(name), is_it).copied()
    }

    /// Makes room for one more, a quarter of the table at once: what stands empty in a large one is
    /// memory, too. Without this it doubles.
    pub(super) fn grow_by_a_quarter(&mut self) {
        if self.things.len() == self.things.capacity() {
            self.things.reserve_exact(self.things.len() / 4 + 8);
        }
    }

    /// Puts a thing in, of whose name there is none, and numbers it.
    pub(super) fn insert(&mut self, thing: T) -> u32 {
        debug_assert!(self.find(thing.name()).is_none(), "one of this name is there");
        let hash = self.placement.hash(thing.name());
        let number = self.things.insert(thing) as u32;
        let Self { placement, things, numbers } = self;
        let rehash = |number: &u32| placement.hash(things[*number as usize].name());
        numbers.insert_unique(hash, number, rehash);
        number
    }

    /// Takes a thing out, which has to be there. With the last one goes all memory.
    pub(super) fn remove(&mut self, number: u32) -> T {
        let thing = self.things.remove(number as usize);
        let hash = self.placement.hash(thing.name());
        if let Ok(entry) = self.numbers.find_entry(hash, |it| *it == number) {
            entry.remove();
        }
        if self.things.is_empty() {
            self.things = Slab::new();
            self.numbers = HashTable::new();
        }
        thing
    }

    /// The thing with this number.
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.things.get(number as usize)
    }

    /// The thing with this number, whose name stays.
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.things.get_mut(number as usize)
    }

    /// Whether there is one with this number.
    pub(super) fn contains(&self, number: u32) -> bool {
        self.things.contains(number as usize)
    }

    /// All of them, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.things.iter().map(|(number, thing)| (number as u32, thing))
    }

    /// All of them.
    pub(super) fn into_things(self) -> impl Iterator<Item = T> {
        self.things.into_iter().map(|(_, thing)| thing)
    }

    /// How many have room.
    pub(super) fn capacity(&self) -> usize {
        self.things.capacity()
    }

    /// Bytes of the table of names.
    pub(super) fn table_size(&self) -> usize {
        self.numbers.allocation_size()
    }
}

impl<T> Index<u32> for Interned<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.things[number as usize]
    }
}

impl<T> IndexMut<u32> for Interned<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.things[number as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::common::rng::Rng;

    #[derive(Debug)]
    struct Thing(Arc<str>);

    impl Named for Thing {
        fn name(&self) -> &Arc<str> {
            &self.0
        }
    }

    #[test]
    fn each_is_found_by_its_name_for_as_long_as_it_is_there() {
        let mut rng = Rng::new(5);
        let mut interned = Interned::new(Placement::new(2, 9));
        let mut model = HashMap::new();
        for _ in 0..20_000 {
            let name = format!("channel:{}", rng.below(300));
            match (interned.find(&name), model.get(&name)) {
                (None, None) => {
                    let number = interned.insert(Thing(name.as_str().into()));
                    assert!(model.values().all(|other| *other != number), "numbers are its own");
                    model.insert(name, number);
                }
                (Some(found), Some(number)) => {
                    assert_eq!(found, *number);
                    assert_eq!(&*interned[found].0, name);
                    if rng.below(2) == 0 {
                        assert_eq!(&*interned.remove(found).0, name);
                        assert!(!interned.contains(found) && interned.get(found).is_none());
                        model.remove(&name);
                    }
                }
                other => panic!("{name}: {other:?}"),
            }
            assert_eq!(interned.len(), model.len());
        }
        let numbers: Vec<u32> = model.into_values().collect();
        numbers.into_iter().for_each(|number| drop(interned.remove(number)));
        assert!(interned.is_empty());
        assert_eq!((interned.capacity(), interned.table_size()), (0, 0), "memory goes, too");
    }
}
