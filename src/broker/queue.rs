//! The way from the cores to the broker's thread: one bounded queue for each core.
//!
//! Owns the account of each core: a request counts, in number and in bytes, from the moment it is
//! taken until it is answered, wherever in the thread it is by then. The invariant: no core waits
//! here, and none uses up another's room.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::gateway::broker::{Broker, Limits, Request};

/// The queues of all cores.
pub struct Queue {
    lanes: Box<[Lane]>,
    limits: Limits,
    arrived: Notify,
    /// The thread shall end when what it has is answered.
    ending: AtomicBool,
}

#[derive(Default)]
struct Lane {
    waiting: Mutex<VecDeque<Taken>>,
    account: Arc<Account>,
}

/// What of a core is not answered yet.
#[derive(Debug, Default)]
struct Account {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// A request on its way, until it is answered.
#[derive(Debug)]
pub struct Taken {
    /// Whose.
    pub core: u16,
    /// When it was made.
    pub at: Instant,
    /// It.
    pub request: Request,
    /// What it counts; `None` for further parts of one that was taken apart.
    room: Option<Room>,
}

impl Taken {
    /// A part of it. The first one counts for the whole.
    pub fn part(&mut self, request: Request) -> Self {
        Self { core: self.core, at: self.at, request, room: self.room.take() }
    }

    /// Only what is wanted: it is answered by other means, and counts no longer.
    pub fn into_request(self) -> Request {
        self.request
    }
}

#[derive(Debug)]
struct Room {
    account: Arc<Account>,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.account.requests.fetch_sub(1, Ordering::Relaxed);
        self.account.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Account {
    /// Only the core itself adds, so that looking and adding need not be one step. The first may
    /// have any size.
    fn enter(self: &Arc<Self>, bytes: usize, limits: &Limits) -> Option<Room> {
        let requests = self.requests.load(Ordering::Relaxed);
        let held = self.bytes.load(Ordering::Relaxed).saturating_add(bytes);
        if requests >= limits.requests || (requests > 0 && held > limits.bytes) {
            return None;
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Room { account: self.clone(), bytes })
    }
}

impl Queue {
    /// For so many cores.
    pub fn new(cores: usize, limits: Limits) -> Arc<Self> {
        let lanes = (0..cores).map(|_| Lane::default()).collect();
        Arc::new(Self { lanes, limits, arrived: Notify::new(), ending: AtomicBool::new(false) })
    }

    /// Thread: takes all that has come, core by core, each core's in its order.
    pub fn take(&self, into: &mut VecDeque<Taken>) {
        for lane in &self.lanes {
            let mut waiting = lane.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            into.append(&mut waiting);
        }
    }

    /// Thread: waits until something may have come.
    pub async fn arrival(&self) {
        self.arrived.notified().await;
    }

    /// Requests that are not answered.
    pub fn unanswered(&self) -> usize {
        self.lanes.iter().map(|lane| lane.account.requests.load(Ordering::Relaxed)).sum()
    }

    /// Bytes of these.
    pub fn bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.account.bytes.load(Ordering::Relaxed)).sum()
    }

    /// No core asks any more.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.arrived.notify_one();
    }

    /// Whether [`Self::end`] was called.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }
}

impl Broker for Queue {
    fn request(&self, core: u16, request: Request) -> Result<(), Request> {
        let Some(lane) = self.lanes.get(usize::from(core)) else { return Err(request) };
        let bytes = size_of::<Taken>() + request.size();
        let Some(room) = lane.account.enter(bytes, &self.limits) else { return Err(request) };
        let taken = Taken { core, at: Instant::now(), request, room: Some(room) };
        lane.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(taken);
        Ok(())
    }

    fn ring(&self, _: u16) {
        // A thread that is awake hears of it without a system call.
        self.arrived.notify_one();
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("cores", &self.lanes.len())
            .field("unanswered", &self.unanswered())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::broker::Ticket;

    fn request(ticket: u64) -> Request {
        Request::Presence(Ticket(ticket), "a".into())
    }

    fn limits(requests: usize, bytes: usize) -> Limits {
        Limits { requests, bytes, ..Limits::default() }
    }

    #[test]
    fn a_request_counts_until_it_is_dropped() {
        let queue = Queue::new(2, limits(2, usize::MAX));
        queue.request(0, request(1)).unwrap();
        queue.request(0, request(2)).unwrap();
        assert!(queue.request(0, request(3)).is_err(), "there is room for two");
        queue.request(1, request(4)).expect("another core's room");
        assert!(queue.request(2, request(5)).is_err(), "there is no such core");
        let mut taken = VecDeque::new();
        queue.take(&mut taken);
        let tickets: Vec<_> = taken.iter().filter_map(|it| it.request.ticket()).collect();
        assert_eq!(tickets, [1, 2, 4].map(Ticket));
        assert!(queue.request(0, request(6)).is_err(), "they are not answered yet");
        taken.pop_front();
        queue.request(0, request(7)).unwrap();
        assert_eq!(queue.unanswered(), 3);
        drop(taken);
        queue.take(&mut VecDeque::new());
        assert_eq!((queue.unanswered(), queue.bytes()), (0, 0));
    }

    #[test]
    fn bytes_are_limited_but_for_the_first() {
        let large = || Request::Join("a".into(), vec![0; 1000].into());
        let queue = Queue::new(1, limits(10, 1000));
        queue.request(0, large()).expect("one has any size");
        assert!(queue.request(0, request(1)).is_err());
        queue.take(&mut VecDeque::new());
        queue.request(0, request(2)).unwrap();
    }

    #[tokio::test]
    async fn who_rings_before_anybody_waits_is_heard() {
        let queue = Queue::new(1, Limits::default());
        queue.ring(0);
        queue.ring(0);
        queue.arrival().await;
        queue.end();
        queue.arrival().await;
        assert!(queue.is_ending());
    }
}
