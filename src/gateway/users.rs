//! The connections of one core, and whose they are.
//!
//! Owns the hub's record of each connection, and the users that have connections here: each name
//! once, each user's connections linked through their records. The invariant: a user without
//! connections does not exist.

use std::sync::Arc;

use slab::Slab;

use super::format::Format;
use super::hub_port::{ClientKey, Link};
use super::interned::{Interned, Named};
use super::letters::ClientId;
use super::local::NONE;
use super::placement::Placement;

/// What the hub knows of a connection.
#[derive(Clone, Debug)]
pub struct Client {
    link: Link,
    id: ClientId,
    user: u32,
    /// The user's other connections.
    next: u32,
    previous: u32,
    /// The first of its subscriptions.
    pub(super) head: u32,
    pub(super) subscriptions: u32,
    format: Format,
    /// Its user's home core counts it.
    pub(super) seated: bool,
}

// Every connection has one; the slab keeps its own mark inside.
const _: () = assert!(size_of::<Client>() <= 48 && size_of::<Option<Client>>() == 48);

impl Client {
    /// Its address.
    pub fn link(&self) -> Link {
        self.link
    }

    /// Its id, as other clients see it.
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// How what it is told is wrapped.
    pub fn format(&self) -> Format {
        self.format
    }

    /// How many subscriptions it has or waits for.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions as usize
    }
}

#[derive(Debug)]
struct User {
    name: Arc<str>,
    first: u32,
    count: u32,
}

impl Named for User {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
}

/// The users and connections of one core.
#[derive(Debug)]
pub struct Users {
    users: Interned<User>,
    clients: Slab<Client>,
}

impl Users {
    /// Nobody.
    pub fn new(placement: Placement) -> Self {
        Self { users: Interned::new(placement), clients: Slab::new() }
    }

    /// Users with connections here.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// Their names, and how many connections each has here.
    pub fn names(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.users.iter().map(|(_, user)| (&user.name, user.count))
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Connections.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Adds a connection.
    pub fn connect(&mut self, link: Link, id: ClientId, user: &str, format: Format) -> ClientKey {
        let user = self.intern(user);
        let record = &mut self.users[user];
        let key = self.clients.insert(Client {
            link,
            id,
            user,
            next: record.first,
            previous: NONE,
            head: NONE,
            subscriptions: 0,
            format,
            seated: false,
        }) as u32;
        if let Some(next) = self.clients.get_mut(record.first as usize) {
            next.previous = key;
        }
        record.first = key;
        record.count += 1;
        ClientKey(key)
    }

    fn intern(&mut self, name: &str) -> u32 {
        if let Some(user) = self.users.find(name) {
            return user;
        }
        self.users.insert(User { name: name.into(), first: NONE, count: 0 })
    }

    /// Takes a connection out. `None` if it is not in.
    pub fn disconnect(&mut self, key: ClientKey) -> Option<Client> {
        let client = self.clients.try_remove(key.0 as usize)?;
        if let Some(next) = self.clients.get_mut(client.next as usize) {
            next.previous = client.previous;
        }
        let user = &mut self.users[client.user];
        match self.clients.get_mut(client.previous as usize) {
            Some(previous) => previous.next = client.next,
            None => user.first = client.next,
        }
        user.count -= 1;
        if user.count == 0 {
            self.users.remove(client.user);
        }
        // A mass disconnect gives its memory back.
        if self.clients.is_empty() {
            self.clients = Slab::new();
        }
        Some(client)
    }

    /// A connection.
    pub fn get(&self, key: ClientKey) -> Option<&Client> {
        self.clients.get(key.0 as usize)
    }

    pub(super) fn get_mut(&mut self, key: ClientKey) -> Option<&mut Client> {
        self.clients.get_mut(key.0 as usize)
    }

    /// The name of a connection's user; shared with all of them.
    pub fn name_of(&self, key: ClientKey) -> Option<&Arc<str>> {
        let client = self.get(key)?;
        self.users.get(client.user).map(|user| &user.name)
    }

    /// How many connections a user has here.
    pub fn count(&self, user: &str) -> usize {
        self.users.find(user).map_or(0, |user| self.users[user].count as usize)
    }

    /// A user's connections here, the newest first.
    pub fn of(&self, user: &str) -> impl Iterator<Item = (ClientKey, &Client)> {
        let first = self.users.find(user).map(|user| self.users[user].first);
        let get = |key: u32| self.clients.get(key as usize).map(|client| (ClientKey(key), client));
        std::iter::successors(first.and_then(get), move |(_, client)| get(client.next))
    }

    /// A hash for each user, ascending; the same on all cores.
    pub fn hashes(&self) -> Vec<u64> {
        let users = self.users.iter();
        let mut hashes: Vec<u64> = users.map(|(_, user)| self.users.hash(&user.name)).collect();
        hashes.sort_unstable();
        hashes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::rng::Rng;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn agrees_with_sets_under_random_operations() {
        let mut users = Users::new(Placement::new(1, 1));
        let mut model: BTreeMap<&str, BTreeSet<ClientKey>> = BTreeMap::new();
        let names = ["", "ann", "bob", "eve"];
        let mut rng = Rng::new(5);
        for n in 0..20_000_u64 {
            let name = names[rng.below(4) as usize];
            let set = model.entry(name).or_default();
            if rng.below(9) < 4 {
                let id = ClientId::new(n.into());
                set.insert(users.connect(Link(n), id, name, Format::WebSocketJson));
            } else if let Some(key) = set.pop_first() {
                assert_eq!(users.name_of(key).unwrap().as_ref(), name);
                assert!(users.disconnect(key).is_some() && users.get(key).is_none());
            }
            assert_eq!(users.of(name).map(|(key, _)| key).collect::<BTreeSet<_>>(), *set);
            assert_eq!(users.count(name), set.len());
            assert_eq!(users.users(), model.values().filter(|set| !set.is_empty()).count());
        }
        for key in model.into_values().flatten() {
            users.disconnect(key);
        }
        assert!(users.is_empty() && users.users() == 0 && users.users.is_empty());
    }

    #[test]
    fn a_connection_goes_once() {
        let mut users = Users::new(Placement::new(1, 1));
        let key = users.connect(Link(1), ClientId::new(1), "ann", Format::WebSocketJson);
        assert!(users.disconnect(key).is_some());
        assert!(users.disconnect(key).is_none());
    }
}
