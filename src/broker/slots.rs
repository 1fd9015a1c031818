//! Slots of a Redis Cluster: in which of them a name lies, and which node owns which.
//!
//! Owns the arithmetic of slots, the reading of `CLUSTER NODES`, and whose word counts: each node
//! is believed about itself alone, and where two claim a slot, the newer configuration, as among
//! the nodes themselves. So no node's late view of another moves anything. Knows no connection.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::target::Address;

/// Slots of a cluster.
pub const SLOTS: usize = 16_384;

/// In which slot a name lies: that of what is between its first braces, if anything is.
pub fn slot(name: &[u8]) -> u16 {
    let tag = name.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &name[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}').filter(|close| *close > 0)?;
        Some(&rest[..close])
    });
    slot_of_tag(tag.unwrap_or(name))
}

/// The same of what is between braces.
pub fn slot_of_tag(tag: &[u8]) -> u16 {
    crc16(tag) & (SLOTS as u16 - 1)
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ CRC[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC: [u16; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let (mut crc, mut bit) = ((index as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// What one node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its name in the cluster.
    pub id: Arc<str>,
    /// Where it was asked.
    pub place: Address,
    /// Of its configuration.
    pub epoch: u64,
    /// It is no replica.
    pub is_primary: bool,
    /// Slots that it owns itself, from and to; none of a replica.
    pub slots: Vec<(u16, u16)>,
    /// Other nodes that it does not believe to be gone, and where.
    pub others: Vec<(Arc<str>, Address)>,
}

/// Nodes that one names at most: more than a cluster is advised to have.
const NODES_MAX: usize = 1024;

/// Reads `CLUSTER NODES` of the node that was asked at a place. `None`: it is no such text.
pub fn claim(text: &str, place: &Address) -> Option<Claim> {
    let mut own = None;
    let mut others = Vec::new();
    for line in text.lines().take(NODES_MAX) {
        let mut words = line.split(' ');
        let mut next = || words.next();
        let (id, address, flags) = (next()?, next()?, next()?);
        let epoch = next().and(next()).and(next()).and(next())?.parse().ok()?;
        let _link = next()?;
        let mut flags = flags.split(',');
        if flags.clone().any(|flag| flag == "myself") {
            let is_primary = flags.any(|flag| flag == "master");
            let slots = words.filter(|word| !word.starts_with('['));
            let slots: Vec<_> = slots.map(range).collect::<Option<_>>()?;
            let slots = if is_primary { slots } else { Vec::new() };
            let (id, place) = (id.into(), place.clone());
            own = Some(Claim { id, place, epoch, is_primary, slots, others: Vec::new() });
        } else if !flags.any(|flag| matches!(flag, "fail" | "handshake" | "noaddr")) {
            others.extend(address_of(address).map(|place| (id.into(), place)));
        }
    }
    own.map(|own| Claim { others, ..own })
}

fn range(word: &str) -> Option<(u16, u16)> {
    let (from, to) = word.split_once('-').unwrap_or((word, word));
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from <= to && usize::from(to) < SLOTS).then_some((from, to))
}

/// `ip:port@bus,hostname,…`. A name is what certificates have.
fn address_of(text: &str) -> Option<Address> {
    let mut parts = text.split(',');
    let (host, port) = parts.next()?.split('@').next()?.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let name = parts.next().filter(|name| !name.is_empty() && !name.contains('='));
    let host = name.unwrap_or(host).trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// A node that owns slots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Its name in the cluster.
    pub id: Arc<str>,
    /// Where it is.
    pub place: Address,
}

/// Which node owns which slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    nodes: Vec<Node>,
    /// By number of `nodes`.
    owners: Vec<Option<u16>>,
}

impl Default for Map {
    fn default() -> Self {
        Self { nodes: Vec::new(), owners: vec![None; SLOTS] }
    }
}

impl Map {
    /// All that own something.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Who owns a slot.
    pub fn owner(&self, slot: u16) -> Option<&Node> {
        let number = self.owners.get(usize::from(slot)).copied().flatten()?;
        self.nodes.get(usize::from(number))
    }

    /// Slots that nobody owns.
    pub fn unowned(&self) -> usize {
        self.owners.iter().filter(|owner| owner.is_none()).count()
    }

    /// A node by what it claims: where it was, or others say, or it was asked. Redirections name
    /// the places that others say.
    pub fn node(&self, id: &Arc<str>, claims: &[Claim]) -> Option<Node> {
        let asked = claims.iter().filter(|claim| claim.id == *id).map(|claim| &claim.place);
        let others = claims.iter().flat_map(|claim| &claim.others);
        let named = others.filter(|(other, _)| other == id).map(|(_, place)| place);
        let places = || named.clone().chain(asked.clone());
        let known = self.nodes.iter().find(|node| node.id == *id).map(|node| &node.place);
        let known = known.filter(|known| places().any(|place| place == *known));
        let place = known.or_else(|| places().next())?.clone();
        Some(Node { id: id.clone(), place })
    }

    /// What follows from new claims. A node that said nothing keeps what nobody else claims.
    pub fn after(&self, claims: &[Claim]) -> Self {
        let mut nodes: BTreeMap<Arc<str>, Node> = BTreeMap::new();
        let mut owners: Vec<Option<(Arc<str>, u64)>> = vec![None; SLOTS];
        for claim in claims {
            for slot in claim.slots.iter().flat_map(|(from, to)| *from..=*to) {
                let owner = &mut owners[usize::from(slot)];
                let newer = owner.as_ref().is_none_or(|(_, epoch)| claim.epoch > *epoch);
                if newer {
                    *owner = Some((claim.id.clone(), claim.epoch));
                }
            }
            if let Some(node) = self.node(&claim.id, claims) {
                nodes.insert(claim.id.clone(), node);
            }
        }
        for (slot, owner) in owners.iter_mut().enumerate() {
            let before = self.owner(slot as u16).filter(|_| owner.is_none());
            if let Some(before) =
                before.filter(|before| !claims.iter().any(|it| it.id == before.id))
            {
                *owner = Some((before.id.clone(), 0));
                nodes.entry(before.id.clone()).or_insert_with(|| before.clone());
            }
        }
        let mut map = Self::default();
        let mut numbers: BTreeMap<Arc<str>, u16> = BTreeMap::new();
        for (slot, owner) in owners.into_iter().enumerate() {
            let Some((id, _)) = owner else { continue };
            let number = *numbers.entry(id.clone()).or_insert_with(|| {
                map.nodes.extend(nodes.get(&id).cloned());
                map.nodes.len() as u16 - 1
            });
            map.owners[slot] = Some(number);
        }
        map
    }
}

/// A map that changes, as the cores see it, too.
#[derive(Debug, Default)]
pub struct Shared(RwLock<Arc<Map>>);

impl Shared {
    /// As it is now.
    pub fn get(&self) -> Arc<Map> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another one.
    pub fn set(&self, map: Arc<Map>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = map;
    }
}

/// Some slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set(Box<[u64; SLOTS / 64]>);

impl Default for Set {
    fn default() -> Self {
        Self(Box::new([0; SLOTS / 64]))
    }
}

impl Set {
    /// One more.
    pub fn add(&mut self, slot: u16) {
        self.0[usize::from(slot) / 64 % (SLOTS / 64)] |= 1 << (slot % 64);
    }

    /// Whether a slot is in it.
    pub fn has(&self, slot: u16) -> bool {
        self.0[usize::from(slot) / 64 % (SLOTS / 64)] & (1 << (slot % 64)) != 0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(port: u16) -> Address {
        ("h".to_owned(), port)
    }

    fn claims(id: &str, port: u16, epoch: u64, slots: &[(u16, u16)]) -> Claim {
        let (id, place) = (id.into(), place(port));
        Claim { id, place, epoch, is_primary: true, slots: slots.to_vec(), others: Vec::new() }
    }

    fn owner(map: &Map, slot: u16) -> Option<&str> {
        map.owner(slot).map(|node| &*node.id)
    }

    /// What `CLUSTER KEYSLOT` says, and the check value of the polynomial.
    #[test]
    fn names_lie_in_the_slots_that_redis_says() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % 16_384);
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_eq!(slot(b"p.stream.{a}b}"), slot(b"p.client.{a}c}"));
    }

    #[test]
    fn a_node_is_believed_about_itself() {
        let text = "aa 10.0.0.1:7000@17000,one.example,shard-id=x myself,master - 0 0 7 connected \
                    0-10 12 [13->-bb]\n\
                    bb 10.0.0.2:7000@17000 master - 0 1 9 connected 13-16383\n\
                    cc 10.0.0.3:7000@17000,three.example slave bb 0 1 9 connected\n\
                    dd 10.0.0.4:7000@17000 master,fail - 0 1 3 disconnected 11\n\
                    ee :0@0 master,noaddr - 0 1 3 disconnected\n\
                    ff [::1]:7000@17000 slave aa 0 1 9 connected\n";
        let claim = claim(text, &place(1)).unwrap();
        assert_eq!((&*claim.id, claim.epoch, &claim.place), ("aa", 7, &place(1)));
        assert_eq!(claim.slots, [(0, 10), (12, 12)]);
        let others: Vec<_> = claim.others.iter().map(|(_, (host, _))| host.as_str()).collect();
        assert_eq!(others, ["10.0.0.2", "three.example", "::1"]);
        let replica = "cc h:1@2 myself,slave bb 0 1 9 connected\n";
        assert!(super::claim(replica, &place(1)).unwrap().slots.is_empty());
        for text in ["", "aa", "aa h:1@2 myself,master - 0 0 x connected", "-ERR no\r\n"] {
            assert_eq!(super::claim(text, &place(1)), None, "{text}");
        }
    }

    #[test]
    fn who_owns_what_follows_from_claims_by_their_epochs() {
        let map = Map::default();
        assert_eq!((map.unowned(), owner(&map, 5)), (SLOTS, None));
        let map = map.after(&[claims("a", 1, 1, &[(0, 99)]), claims("b", 2, 2, &[(100, 199)])]);
        assert_eq!(
            (owner(&map, 0), owner(&map, 100), owner(&map, 200)),
            (Some("a"), Some("b"), None)
        );
        assert_eq!(map.unowned(), SLOTS - 200);
        // A slot moves: the old owner may still claim it for a while.
        let both = [claims("a", 1, 1, &[(0, 99)]), claims("b", 2, 3, &[(99, 199)])];
        let moved = map.after(&both);
        assert_eq!((owner(&moved, 98), owner(&moved, 99)), (Some("a"), Some("b")));
        assert_eq!(map.after(&[both[1].clone(), both[0].clone()]), moved, "whoever is first");
        // One that says nothing keeps what nobody claims.
        let silent = moved.after(&[claims("b", 2, 3, &[(99, 199)])]);
        assert_eq!(owner(&silent, 0), Some("a"));
        // Its replica takes over, and it comes back with nothing.
        let taken = silent.after(&[claims("c", 3, 4, &[(0, 98)])]);
        assert_eq!((owner(&taken, 0), owner(&taken, 99)), (Some("c"), Some("b")));
        let back = taken.after(&[claims("a", 1, 1, &[(0, 98)]), claims("c", 3, 4, &[(0, 98)])]);
        assert_eq!(owner(&back, 0), Some("c"));
        let gone = taken.after(&[claims("c", 3, 4, &[])]);
        assert_eq!(owner(&gone, 0), None, "it says so itself");
        assert_eq!(gone.nodes().len(), 1);
    }

    /// Asked by a name of the configuration, and called by their addresses in redirections.
    #[test]
    fn a_node_is_where_others_say_and_stays_there() {
        let mut one = claims("a", 1, 1, &[(0, 9)]);
        let mut two = claims("b", 2, 2, &[(10, 19)]);
        one.others = vec![("b".into(), place(20))];
        two.others = vec![("a".into(), place(10))];
        let map = Map::default().after(&[one.clone(), two.clone()]);
        assert_eq!(map.owner(0).unwrap().place, place(10));
        assert_eq!(map.owner(10).unwrap().place, place(20));
        one.place = place(10);
        let later = map.after(&[one.clone()]);
        assert_eq!(later, map, "it is asked there by now");
        one.place = place(11);
        assert_eq!(map.after(&[one]).owner(0).unwrap().place, place(11), "it has moved");
    }

    #[test]
    fn a_set_has_what_was_added() {
        let mut set = Set::default();
        assert!(set.is_empty());
        for slot in [0, 63, 64, 16_383] {
            assert!(!set.has(slot));
            set.add(slot);
            assert!(set.has(slot) && !set.has(slot ^ 1));
        }
        assert!(!set.is_empty());
    }
}
