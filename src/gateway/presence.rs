//! Who is in a channel: for presence, and for joins and leaves.
//!
//! Owns one entry for each subscriber that others can see, by client id, and counts users. The
//! invariant: a user is counted as often as it has entries that are shown.

use std::collections::HashMap;
use std::sync::Arc;

use super::letters::{ClientId, Member, Who};
use super::wire::messages::{PresenceResult, PresenceStatsResult};

/// The members of one channel.
#[derive(Debug, Default)]
pub struct Roster {
    members: HashMap<ClientId, Entry>,
    /// Shown members by user. The name is shared with the entries.
    users: HashMap<Arc<str>, u32>,
    shown: u32,
}

#[derive(Debug)]
struct Entry {
    who: Who,
    present: bool,
    announced: bool,
}

impl Roster {
    /// Lets a member in. Returns who it is if others shall be told. One that was in already, which
    /// no well-behaved core lets happen, is replaced without a word.
    pub fn enter(&mut self, member: Member) -> Option<Who> {
        let Member { client, info: mut who, present, announced } = member;
        let left = self.remove(client);
        if present {
            match self.users.get_key_value(&who.user) {
                Some((name, _)) => who.user = name.clone(),
                None => _ = self.users.insert(who.user.clone(), 0),
            }
            *self.users.entry(who.user.clone()).or_default() += 1;
            self.shown += 1;
        }
        let told = (announced && left.is_none()).then(|| who.clone());
        self.members.insert(client, Entry { who, present, announced });
        told
    }

    /// Lets a member out. Returns who it was if others shall be told.
    pub fn leave(&mut self, client: ClientId) -> Option<Who> {
        let entry = self.remove(client)?;
        entry.announced.then_some(entry.who)
    }

    fn remove(&mut self, client: ClientId) -> Option<Entry> {
        let entry = self.members.remove(&client)?;
        if entry.present {
            self.shown -= 1;
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
    pub fn presence(&self) -> PresenceResult {
        let shown = self.members.iter().filter(|(_, entry)| entry.present);
        let presence = shown.map(|(id, entry)| (id.to_string(), entry.who.wire(*id))).collect();
        PresenceResult { presence }
    }

    /// How many are shown.
    pub fn stats(&self) -> PresenceStatsResult {
        PresenceStatsResult { num_clients: self.shown, num_users: self.users.len() as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let presence = roster.presence().presence;
        let key = "00000000-0000-0000-0000-000000000001";
        assert_eq!(presence.keys().next().unwrap(), key);
        assert_eq!((presence[key].user.as_str(), presence[key].client.as_str()), ("ann", key));

        assert!(roster.enter(member(1, "ann", true, true)).is_none(), "is in already");
        assert_eq!(roster.stats(), PresenceStatsResult { num_clients: 2, num_users: 1 });
        assert!(roster.leave(ClientId::new(2)).is_none());
        assert!(roster.leave(ClientId::new(1)).is_some());
        assert!(roster.leave(ClientId::new(1)).is_none(), "it has left");
        assert_eq!(roster.stats(), PresenceStatsResult::default());
        assert!(!roster.is_empty() && roster.users.is_empty());
        assert_eq!(roster.leave(ClientId::new(3)).unwrap().user.as_ref(), "bob");
        assert!(roster.is_empty());
    }
}
