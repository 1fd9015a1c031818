//! The places of HTTP connections: who has one, and who gives one up for somebody else.
//!
//! A connection comes in as a stranger and is known from the moment in which a request of it
//! carries a valid key or session. Strangers have few places and little patience; when one more
//! comes, the address that holds most of theirs gives up the one that has waited longest. The
//! invariants: there are never more strangers, nor more known connections, than places; nobody
//! known gives a place up to a stranger; no connection whose request the server works on is ended.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Extensions;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How many places there are, and how long a connection may wait with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoomLimits {
    pub(crate) strangers: usize,
    pub(crate) known: usize,
    /// For a request of a stranger, and to take the answer.
    pub(crate) patience: Duration,
    /// The same of a known connection.
    pub(crate) known_patience: Duration,
}

/// All places of one port.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: RoomLimits,
    /// Never held while something waits.
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    taken: HashMap<u64, Place>,
    next: u64,
    strangers: usize,
    /// Strangers by network.
    networks: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Place {
    network: IpAddr,
    known: bool,
    /// `None`: the server works on a request of it.
    waits_since: Option<Instant>,
    /// When it is ended if it still waits.
    until: Option<Instant>,
    /// Something of this changed.
    changed: Arc<Notify>,
}

/// A place, until the last clone is dropped. Also in the extensions of every request.
#[derive(Clone, Debug)]
pub(crate) struct Seat(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    room: Room,
    number: u64,
    network: IpAddr,
    changed: Arc<Notify>,
}

/// Why a place is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// Somebody else has it now.
    Evicted,
    /// It waited for too long.
    Late,
}

impl Room {
    pub(crate) fn new(limits: RoomLimits) -> Self {
        Self(Arc::new(Shared { limits, places: Mutex::default() }))
    }

    /// A stranger's place, of somebody else if need be; `None` if the server works for all that
    /// have one.
    pub(crate) fn enter(&self, from: IpAddr, now: Instant) -> Option<Seat> {
        let network = network(from);
        let mut places = self.places();
        if places.strangers >= self.0.limits.strangers {
            places.evict(false)?;
        }
        let number = places.next;
        places.next += 1;
        let changed = Arc::new(Notify::new());
        let until = Some(now + self.0.limits.patience);
        let place = Place {
            network,
            known: false,
            waits_since: Some(now),
            until,
            changed: changed.clone(),
        };
        places.taken.insert(number, place);
        places.strangers += 1;
        *places.networks.entry(network).or_default() += 1;
        Some(Seat(Arc::new(Taken { room: self.clone(), number, network, changed })))
    }

    /// Strangers, and known connections.
    #[cfg(test)]
    fn taken(&self) -> (usize, usize) {
        let places = self.places();
        (places.strangers, places.taken.len() - places.strangers)
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Ends the connection that has waited longest, of a stranger's address with most places or of
    /// all who are known.
    fn evict(&mut self, known: bool) -> Option<()> {
        let waiting = self.taken.iter().filter(|(_, place)| place.known == known);
        let weight = |place: &Place| match known {
            true => 0,
            false => self.networks.get(&place.network).copied().unwrap_or_default(),
        };
        let rank =
            |place: &Place| place.waits_since.map(|since| (usize::MAX - weight(place), since));
        let ranked = waiting.filter_map(|(number, place)| Some((rank(place)?, *number)));
        let (_, number) = ranked.min()?;
        let changed = self.taken.get(&number).map(|place| place.changed.clone());
        self.leave(number);
        changed.map(|changed| changed.notify_one())
    }

    fn leave(&mut self, number: u64) {
        let Some(place) = self.taken.remove(&number) else { return };
        if !place.known {
            self.no_stranger(place.network);
        }
    }

    fn no_stranger(&mut self, network: IpAddr) {
        self.strangers -= 1;
        if let Some(count) = self.networks.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.networks.remove(&network);
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.places().leave(self.number);
    }
}

impl Seat {
    /// Its connection's client has shown a key or a session. `false`: there is no place for one
    /// more who is known. A stranger's place that was given up before the request was looked at
    /// matters no more: strangers who crowd in keep nobody out who has a key.
    pub(crate) fn recognise(&self) -> bool {
        let mut places = self.0.room.places();
        if places.taken.get(&self.0.number).is_some_and(|place| place.known) {
            return true;
        }
        let known = places.taken.len() - places.strangers;
        if known >= self.0.room.0.limits.known && places.evict(true).is_none() {
            return false;
        }
        let Taken { number, network, changed, .. } = &*self.0;
        let (network, changed) = (*network, changed.clone());
        let times = places.taken.get(number).map(|place| (place.waits_since, place.until));
        let (waits_since, until) = times.unwrap_or_default();
        places.leave(*number);
        let place = Place { network, known: true, waits_since, until, changed };
        places.taken.insert(*number, place);
        true
    }

    /// The server works on a request.
    pub(crate) fn work(&self) {
        self.change(|place| (place.waits_since, place.until) = (None, None));
    }

    /// A request is not worked on yet: its body is to come, or its turn. Whoever waits for that has
    /// deadlines of its own.
    pub(crate) fn pause(&self, now: Instant) {
        self.change(|place| (place.waits_since, place.until) = (Some(now), None));
    }

    /// An answer of so many bytes is on its way, and then the next request is waited for.
    pub(crate) fn answer(&self, bytes: u64, now: Instant) {
        let limits = self.0.room.0.limits;
        self.change(|place| {
            let patience = if place.known { limits.known_patience } else { limits.patience };
            place.waits_since = Some(now);
            place.until = Some(now + patience + time_for(bytes));
        });
    }

    fn change(&self, change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.0.room.places().taken.get_mut(&self.0.number) {
            change(place);
            place.changed.notify_one();
        }
    }

    /// Waits until the place is to be given up.
    pub(crate) async fn given_up(&self) -> GivenUp {
        loop {
            match self.until(Instant::now()) {
                Err(why) => return why,
                Ok(Some(until)) => {
                    let _ = tokio::time::timeout_at(until, self.0.changed.notified()).await;
                }
                Ok(None) => self.0.changed.notified().await,
            }
        }
    }

    /// Until when it may go on as it is.
    fn until(&self, now: Instant) -> Result<Option<Instant>, GivenUp> {
        match self.0.room.places().taken.get(&self.0.number) {
            None => Err(GivenUp::Evicted),
            Some(place) if place.until.is_some_and(|until| until <= now) => Err(GivenUp::Late),
            Some(place) => Ok(place.until),
        }
    }
}

/// Recognises the client of a request, as [`Seat::recognise`]. One that came over no socket of
/// ours has no place to lose.
pub(crate) fn recognise(request: &Extensions) -> bool {
    request.get::<Seat>().is_none_or(Seat::recognise)
}

/// The most that so many bytes may take, on top of a deadline.
pub(crate) fn time_for(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST)
}

/// What one attacker has many of counts as one.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

/// Bytes per second that a peer must at least send or take.
const SLOWEST: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RoomLimits = RoomLimits {
        strangers: 3,
        known: 2,
        patience: Duration::from_secs(5),
        known_patience: Duration::from_secs(30),
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A clock that starts now, in seconds.
    fn clock() -> impl Fn(u64) -> Instant {
        let start = Instant::now();
        move |seconds| start + Duration::from_secs(seconds)
    }

    fn is_gone(seat: &Seat) -> bool {
        seat.until(Instant::now()) == Err(GivenUp::Evicted)
    }

    #[test]
    fn who_holds_most_gives_up_the_oldest() {
        let (room, at) = (Room::new(LIMITS), clock());
        let quiet = room.enter(ip("10.0.0.1"), at(0)).unwrap();
        let first = room.enter(ip("10.0.0.2"), at(1)).unwrap();
        let second = room.enter(ip("10.0.0.2"), at(2)).unwrap();
        assert_eq!(room.taken(), (3, 0));
        let third = room.enter(ip("10.0.0.3"), at(3)).unwrap();
        assert!(is_gone(&first));
        assert!(![&quiet, &second, &third].into_iter().any(is_gone));
        // All hold one: the oldest goes.
        let fourth = room.enter(ip("10.0.0.4"), at(4)).unwrap();
        assert!(is_gone(&quiet));
        assert_eq!(room.taken(), (3, 0));
        // One that was ended leaves nothing behind, whenever it is dropped.
        drop((first, quiet));
        assert_eq!(room.taken(), (3, 0));
        drop((second, third, fourth));
        assert_eq!(room.taken(), (0, 0));
        assert!(room.places().networks.is_empty());
    }

    #[test]
    fn whom_the_server_works_for_stays() {
        let (room, at) = (Room::new(LIMITS), clock());
        let seats: Vec<_> = (0..3).map(|_| room.enter(ip("10.0.0.1"), at(0)).unwrap()).collect();
        seats.iter().for_each(Seat::work);
        assert!(room.enter(ip("10.0.0.2"), at(1)).is_none());
        assert_eq!(seats[0].until(at(1000)), Ok(None));
        seats[1].pause(at(2));
        let _newcomer = room.enter(ip("10.0.0.2"), at(3)).unwrap();
        assert!(is_gone(&seats[1]));
        assert!(seats[1].recognise() && !is_gone(&seats[1]), "it has a key, as it turns out");
        assert_eq!(room.taken(), (3, 1));
        drop(seats);
        assert_eq!(room.taken(), (1, 0));
    }

    #[test]
    fn who_is_known_keeps_the_place() {
        let (room, at) = (Room::new(LIMITS), clock());
        let seats: Vec<_> = (0..3).map(|_| room.enter(ip("10.0.0.1"), at(0)).unwrap()).collect();
        assert!(seats[0].recognise() && seats[0].recognise());
        assert_eq!(room.taken(), (2, 1));
        let crowd: Vec<_> =
            (0..10).map(|n| room.enter(ip(&format!("10.0.1.{n}")), at(1)).unwrap()).collect();
        assert!(!is_gone(&seats[0]) && is_gone(&crowd[0]));
        // Among those who are known, too, one that waits makes room, and one that works does not.
        let [second, third] = [2, 3].map(|now| room.enter(ip("10.0.0.9"), at(now)).unwrap());
        assert!(second.recognise());
        seats[0].work();
        assert!(third.recognise());
        assert!(is_gone(&second));
        third.work();
        let fourth = room.enter(ip("10.0.0.9"), at(4)).unwrap();
        assert!(!fourth.recognise());
        assert_eq!(room.taken().1, 2);
        drop((seats, third));
        assert!(fourth.recognise());
    }

    #[test]
    fn patience_ends() {
        let (room, at) = (Room::new(LIMITS), clock());
        let [stranger, known] = [0, 1].map(|_| room.enter(ip("::1"), at(0)).unwrap());
        assert_eq!(stranger.until(at(4)), Ok(Some(at(5))));
        assert_eq!(stranger.until(at(5)), Err(GivenUp::Late));
        // A large answer has more time.
        stranger.answer(10 * SLOWEST, at(10));
        assert_eq!(stranger.until(at(20)), Ok(Some(at(25))));
        assert!(known.recognise());
        known.answer(0, at(10));
        assert_eq!(known.until(at(39)), Ok(Some(at(40))));
        assert_eq!(known.until(at(40)), Err(GivenUp::Late));
        // A deadline that is taken back is none.
        known.work();
        assert_eq!(known.until(at(100)), Ok(None));
        known.pause(at(100));
        assert_eq!(known.until(at(200)), Ok(None));
    }

    #[tokio::test]
    async fn who_gives_up_hears_of_it() {
        let room = Room::new(RoomLimits { strangers: 1, ..LIMITS });
        let first = room.enter(ip("10.0.0.1"), Instant::now()).unwrap();
        let second = {
            let waiting = first.given_up();
            tokio::pin!(waiting);
            let once = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx)));
            assert!(once.await.is_pending());
            let second = room.enter(ip("10.0.0.1"), Instant::now()).unwrap();
            assert_eq!(waiting.await, GivenUp::Evicted);
            second
        };
        second.answer(0, Instant::now() - Duration::from_secs(5));
        assert_eq!(second.given_up().await, GivenUp::Late);
    }

    #[test]
    fn a_network_of_ipv6_is_one() {
        assert_eq!(network(ip("2001:db8::1:2:3:4")), ip("2001:db8::"));
        assert_eq!(network(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
        assert_ne!(network(ip("2001:db8:0:1::")), network(ip("2001:db8::")));
    }
}
