//! Who is in a channel: for presence, and for joins and leaves.
//!
//! Owns one entry for each subscriber that others can see, by client id, and counts users. The
//! invariant: a user is counted as often as it has entries that are shown.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::letters::{ClientId, Member, Who};
use super::wire::messages::PresenceStatsResult;
use super::wire::{self, Encoding};

/// The members of one channel.
#[derive(Debug, Default)]
pub struct Roster {
    members: HashMap<ClientId, Entry>,
    /// Shown members by user. The name is shared with the entries.
    users: HashMap<Arc<str>, u32>,
    shown: u32,
    /// At least so many bytes is an answer to `presence`.
    bytes: usize,
    /// That answer, in JSON and in Protobuf, until the members change.
    copies: [Option<Bytes>; 2],
}

/// Somebody who was in a channel.
#[derive(Debug)]
pub struct Left {
    /// The connection.
    pub client: ClientId,
    /// Who it was.
    pub who: Who,
    /// It was shown.
    pub present: bool,
    /// Others shall be told.
    pub announced: bool,
}

#[derive(Debug)]
struct Entry {
    who: Who,
    present: bool,
    announced: bool,
    /// Its connection is another process's.
    guest: bool,
}

impl Roster {
    /// Lets a member in. Returns who it is if others shall be told. One that was in already, which
    /// no well-behaved core lets happen, is replaced without a word.
    pub fn enter(&mut self, member: Member) -> Option<Who> {
        self.enter_from(member, false)
    }

    /// The same of one whose connection is another process's.
    pub(super) fn enter_guest(&mut self, member: Member) {
        self.enter_from(member, true);
    }

    /// Lets all out whose connections are another process's.
    pub(super) fn drop_guests(&mut self) {
        let guests = self.members.iter().filter(|(_, entry)| entry.guest);
        let guests: Vec<ClientId> = guests.map(|(client, _)| *client).collect();
        guests.into_iter().for_each(|client| _ = self.leave(client));
    }

    fn enter_from(&mut self, member: Member, guest: bool) -> Option<Who> {
        let Member { client, info: mut who, present, announced } = member;
        let left = self.remove(client);
        if present {
            match self.users.get_key_value(&who.user) {
                Some((name, _)) => who.user = name.clone(),
                None => _ = self.users.insert(who.user.clone(), 0),
            }
            *self.users.entry(who.user.clone()).or_default() += 1;
            self.shown += 1;
            self.bytes += size_of_entry(&who);
        }
        let told = (announced && left.is_none()).then(|| who.clone());
        self.members.insert(client, Entry { who, present, announced, guest });
        told
    }

    /// Lets a member out. Returns who it was.
    pub fn leave(&mut self, client: ClientId) -> Option<Left> {
        let Entry { who, present, announced, .. } = self.remove(client)?;
        Some(Left { client, who, present, announced })
    }

    /// What others see of a member has changed. Returns whether it is one.
    pub fn inform(&mut self, client: ClientId, conn_info: Bytes, chan_info: Bytes) -> bool {
        let Some(entry) = self.members.get_mut(&client) else { return false };
        let before = size_of_entry(&entry.who);
        (entry.who.conn_info, entry.who.chan_info) = (conn_info, chan_info);
        if entry.present {
            self.bytes = self.bytes - before + size_of_entry(&entry.who);
        }
        true
    }

    fn remove(&mut self, client: ClientId) -> Option<Entry> {
        let entry = self.members.remove(&client)?;
        if entry.present {
            self.shown -= 1;
            self.bytes -= size_of_entry(&entry.who);
            if let Some(count) = self.users.get_mut(&entry.who.user) {
                *count -= 1;
                if *count == 0 {
                    self.users.remove(&entry.who.user);
                }
            }
        }
        Some(entry)
    }

    /// Whether nobody is there.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Everybody who is shown.
    pub fn presence(&self) -> Vec<(ClientId, Who)> {
        self.shown().map(|(id, who)| (id, who.clone())).collect()
    }

    /// Everybody who is shown, and who it is.
    pub fn shown(&self) -> impl Iterator<Item = (ClientId, &Who)> {
        let shown = self.members.iter().filter(|(_, entry)| entry.present);
        shown.map(|(id, entry)| (*id, &entry.who))
    }

    /// The same as it travels, if it has at most so many bytes.
    pub fn copy(&mut self, encoding: Encoding, max: usize) -> Option<Bytes> {
        if self.bytes > max {
            return None;
        }
        let at = usize::from(encoding == Encoding::Protobuf);
        if let Some(copy) = &self.copies[at] {
            return Some(copy.clone()).filter(|copy| copy.len() <= max);
        }
        let members = self.shown().map(|(id, who)| who.wire(id));
        let copy = Bytes::from(wire::encode_members(encoding, members));
        if copy.len() >= COPY_MIN {
            self.copies[at] = Some(copy.clone());
        }
        Some(copy).filter(|copy| copy.len() <= max)
    }

    /// Bytes of the copies that are kept.
    pub fn copied(&self) -> usize {
        self.copies.iter().flatten().map(Bytes::len).sum()
    }

    /// Makes them anew when they are wanted.
    pub fn forget_copies(&mut self) {
        self.copies = [const { None }; 2];
    }

    /// Who somebody is, if it is shown.
    pub fn who(&self, client: ClientId) -> Option<&Who> {
        self.members.get(&client).filter(|entry| entry.present).map(|entry| &entry.who)
    }

    /// How many are shown.
    pub fn stats(&self) -> PresenceStatsResult {
        PresenceStatsResult { num_clients: self.shown, num_users: self.users.len() as u32 }
    }
}

/// Bytes of a member's entry at least, in either encoding: its id twice, and what is known of it.
fn size_of_entry(who: &Who) -> usize {
    2 * 36 + who.user.len() + who.conn_info.len() + who.chan_info.len()
}

/// A shorter answer is made as fast as it is looked up.
const COPY_MIN: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::wire::messages::PresenceResult;

    #[test]
    fn members_are_seen_as_they_are_now() {
        let mut roster = Roster::default();
        roster.enter(member(1, "ann", true, true));
        let (id, info) = (ClientId::new(1), Bytes::from_static(b"{\"n\":1}"));
        assert!(roster.inform(id, info.clone(), Bytes::new()));
        assert_eq!(roster.presence()[0].1.conn_info, info);
        assert!(!roster.inform(ClientId::new(2), info, Bytes::new()));
        roster.leave(id);
        assert_eq!((roster.bytes, roster.is_empty()), (0, true));
    }

    fn member(client: u128, user: &str, present: bool, announced: bool) -> Member {
        let info = Who { user: user.into(), ..Who::default() };
        Member { client: ClientId::new(client), info, present, announced }
    }

    #[test]
    fn counts_clients_and_users_and_tells_who_comes_and_goes() {
        let mut roster = Roster::default();
        assert_eq!(roster.enter(member(1, "ann", true, true)).unwrap().user.as_ref(), "ann");
        assert!(roster.enter(member(2, "ann", true, false)).is_none(), "silent");
        assert!(roster.enter(member(3, "bob", false, true)).is_some(), "hidden, but announced");
        assert_eq!(roster.stats(), PresenceStatsResult { num_clients: 2, num_users: 1 });
        let mut presence = roster.presence();
        presence.sort_by_key(|(id, _)| *id);
        assert_eq!(presence.len(), 2);
        assert_eq!((presence[0].0, &*presence[0].1.user), (ClientId::new(1), "ann"));

        assert!(roster.enter(member(1, "ann", true, true)).is_none(), "is in already");
        assert_eq!(roster.stats(), PresenceStatsResult { num_clients: 2, num_users: 1 });
        assert!(!roster.leave(ClientId::new(2)).unwrap().announced);
        assert!(roster.leave(ClientId::new(1)).unwrap().announced);
        assert!(roster.leave(ClientId::new(1)).is_none(), "it has left");
        assert_eq!(roster.stats(), PresenceStatsResult::default());
        assert!(!roster.is_empty() && roster.users.is_empty());
        assert_eq!(roster.leave(ClientId::new(3)).unwrap().who.user.as_ref(), "bob");
        assert!(roster.is_empty());
    }

    #[test]
    fn the_answer_is_made_once_per_change_and_only_for_who_can_take_it() {
        let mut roster = Roster::default();
        roster.enter(member(1, "ann", true, true));
        roster.enter(member(2, "b\"b", true, false));
        assert!(roster.copy(Encoding::Json, 1000).is_some());
        assert_eq!(roster.copied(), 0, "a short one is not kept");
        roster.enter(member(3, &"hidden".repeat(1000), false, true));
        (4..100).for_each(|client| _ = roster.enter(member(client, "cy", true, true)));
        let json = roster.copy(Encoding::Json, 100_000).unwrap();
        assert_eq!(json.as_ptr(), roster.copy(Encoding::Json, 100_000).unwrap().as_ptr(), "shared");
        let found: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let key = "00000000-0000-0000-0000-000000000002";
        assert_eq!(found["presence"][key], serde_json::json!({"user": "b\"b", "client": key}));
        assert_eq!(found["presence"].as_object().unwrap().len(), 98);
        // As the message that Protobuf has for it, which keeps no order.
        let bytes = roster.copy(Encoding::Protobuf, 100_000).unwrap();
        let decoded: PresenceResult = prost::Message::decode(&bytes[..]).unwrap();
        assert_eq!(decoded.presence.len(), 98);
        assert_eq!(decoded.presence[key].user, "b\"b");
        assert_eq!(roster.copied(), json.len() + bytes.len());

        assert_eq!(roster.copy(Encoding::Json, json.len() - 1), None);
        assert_eq!(roster.copy(Encoding::Json, json.len()), Some(json));
        roster.forget_copies();
        assert_eq!(roster.copy(Encoding::Json, 98 * 72), None, "not even made");
        assert_eq!(roster.copied(), 0);
        for client in 1..100 {
            roster.leave(ClientId::new(client));
        }
        assert!(roster.is_empty() && roster.bytes == 0);
        assert_eq!(roster.copy(Encoding::Json, 15).unwrap(), &b"{\"presence\":{}}"[..]);
    }
}
