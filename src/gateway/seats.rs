//! How many connections a user has over all cores, where that is limited.
//!
//! Owns the seats of the users whose home this core is. One core decides for a user, so two
//! connections that come at the same time on different cores are seen one after the other: exactly
//! as many stay as may. Without a limit nobody takes a seat, and connecting asks no other core.

use std::collections::HashMap;

use super::hub_port::Link;
use super::letters::{ClientId, EnterLetter, SeatRule};

/// Where a connection is that has a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) client: ClientId,
    pub(super) core: u16,
    pub(super) link: Link,
}

/// The seats of one core's users.
#[derive(Debug, Default)]
pub(super) struct Seats {
    users: HashMap<Box<str>, Vec<Seat>>,
}

impl Seats {
    /// Gives a seat, if there is one. Returns who has to go: others of the user, or the newcomer.
    pub(super) fn enter(&mut self, letter: EnterLetter) -> (bool, Vec<Seat>) {
        let EnterLetter { user, client, core, link, rule, .. } = letter;
        let newcomer = Seat { client, core, link };
        let taken = self.users.get(&user).map_or(0, Vec::len);
        if matches!(rule, SeatRule::Limit(limit) if taken >= limit as usize) {
            return (false, Vec::new());
        }
        let seats = self.users.entry(user).or_default();
        let evicted = match rule {
            SeatRule::Limit(_) => Vec::new(),
            SeatRule::Single => std::mem::take(seats),
        };
        seats.push(newcomer);
        (true, evicted)
    }

    /// Frees a seat, if the connection has one.
    pub(super) fn leave(&mut self, user: &str, client: ClientId) {
        let Some(seats) = self.users.get_mut(user) else { return };
        seats.retain(|seat| seat.client != client);
        if seats.is_empty() {
            self.users.remove(user);
        }
    }

    /// Users with seats.
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(client: u128, rule: SeatRule) -> EnterLetter {
        let client = ClientId::new(client);
        EnterLetter { user: "ann".into(), client, core: 0, link: Link(0), ticket: 0, rule }
    }

    #[test]
    fn a_limit_refuses_the_newcomer_until_somebody_leaves() {
        let mut seats = Seats::default();
        assert!(seats.enter(letter(1, SeatRule::Limit(2))).0);
        assert!(seats.enter(letter(2, SeatRule::Limit(2))).0);
        assert!(!seats.enter(letter(3, SeatRule::Limit(2))).0);
        seats.leave("ann", ClientId::new(3));
        assert!(!seats.enter(letter(4, SeatRule::Limit(2))).0, "3 had no seat");
        seats.leave("ann", ClientId::new(1));
        assert!(seats.enter(letter(5, SeatRule::Limit(2))).0);
        seats.leave("ann", ClientId::new(2));
        seats.leave("ann", ClientId::new(5));
        assert_eq!(seats.len(), 0);
    }

    #[test]
    fn a_single_seat_goes_to_the_newcomer() {
        let mut seats = Seats::default();
        assert_eq!(seats.enter(letter(1, SeatRule::Single)), (true, Vec::new()));
        let (given, evicted) = seats.enter(letter(2, SeatRule::Single));
        assert!(given);
        assert_eq!(evicted.iter().map(|seat| seat.client).collect::<Vec<_>>(), [ClientId::new(1)]);
        seats.leave("ann", ClientId::new(1));
        assert_eq!(seats.len(), 1, "the evicted one's leaving is not the newcomer's");
    }
}
