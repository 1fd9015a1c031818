//! Turns at something that only so many may do at once, fair between those who ask.
//!
//! Owns who waits. The next turn goes round: each asker with something waiting gets one before any
//! gets two, so whoever asks a lot waits behind its own questions and nobody else's. The
//! invariants: nobody waits while a turn is free; a turn that ends, or whose taker has gone, goes
//! to the next; who stops waiting leaves nothing behind.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::gateway::hooks::Asking;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Turns(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: HashMap<Asking, Queue>,
    /// Whose turn it is when, by numbers that only grow.
    order: BTreeMap<u64, Asking>,
    next: u64,
}

/// What one asker has waiting.
#[derive(Debug)]
struct Queue {
    /// In the order of turns.
    number: u64,
    places: VecDeque<(u64, oneshot::Sender<Permit>)>,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn push(&mut self, who: Asking, place: u64, to: oneshot::Sender<Permit>) {
        if let Some(queue) = self.waiting.get_mut(&who) {
            queue.places.push_back((place, to));
            return;
        }
        let number = self.number();
        self.order.insert(number, who);
        self.waiting.insert(who, Queue { number, places: VecDeque::from([(place, to)]) });
    }

    fn pop(&mut self) -> Option<oneshot::Sender<Permit>> {
        let (_, who) = self.order.pop_first()?;
        let number = self.number();
        let queue = self.waiting.get_mut(&who)?;
        let (_, to) = queue.places.pop_front()?;
        if queue.places.is_empty() {
            self.waiting.remove(&who);
        } else {
            queue.number = number;
            self.order.insert(number, who);
        }
        Some(to)
    }

    fn leave(&mut self, who: Asking, place: u64) {
        let Some(queue) = self.waiting.get_mut(&who) else { return };
        queue.places.retain(|(at, _)| *at != place);
        if queue.places.is_empty() {
            self.order.remove(&queue.number);
            self.waiting.remove(&who);
        }
    }
}

impl Turns {
    /// So many at once.
    pub(super) fn new(turns: usize) -> Arc<Self> {
        let state =
            State { free: turns.max(1), waiting: HashMap::new(), order: BTreeMap::new(), next: 0 };
        Arc::new(Self(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that may panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets a turn, or a place to wait for one.
    pub(super) fn line_up(self: &Arc<Self>, who: Asking) -> Line {
        let mut state = self.state();
        if state.free > 0 {
            state.free -= 1;
            return Line::Permit(Permit(Some(self.clone())));
        }
        let place = state.number();
        let (to, turn) = oneshot::channel();
        state.push(who, place, to);
        drop(state);
        Line::Queued(QueuePlace { turns: self.clone(), who, place }, turn)
    }

    /// Somebody is gone: what it has waiting is forgotten.
    pub(super) fn forget(&self, who: Asking) {
        let mut state = self.state();
        if let Some(queue) = state.waiting.remove(&who) {
            state.order.remove(&queue.number);
            drop(state);
        }
    }

    fn pass_on(self: &Arc<Self>) {
        loop {
            let to = {
                let mut state = self.state();
                let to = state.pop();
                state.free += usize::from(to.is_none());
                to
            };
            let Some(to) = to else { return };
            match to.send(Permit(Some(self.clone()))) {
                Ok(()) => return,
                // It stopped waiting at this moment.
                Err(mut turn) => turn.0 = None,
            }
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        let state = self.state();
        assert_eq!(state.waiting.len(), state.order.len());
        state.waiting.values().map(|queue| queue.places.len()).sum()
    }
}

/// Leave to go ahead, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit(Option<Arc<Turns>>);

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

/// A turn now, or later.
#[derive(Debug)]
pub(super) enum Line {
    Permit(Permit),
    Queued(QueuePlace, oneshot::Receiver<Permit>),
}

impl Line {
    /// Waits for the turn. `None`: nobody wants it any more.
    pub(super) async fn turn(self) -> Option<Permit> {
        match self {
            Self::Permit(turn) => Some(turn),
            Self::Queued(place, turn) => {
                let turn = turn.await.ok();
                drop(place);
                turn
            }
        }
    }
}

/// A place in the queue, left by dropping it.
#[derive(Debug)]
pub(super) struct QueuePlace {
    turns: Arc<Turns>,
    who: Asking,
    place: u64,
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.turns.state().leave(self.who, self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    use crate::gateway::hub_port::Link;

    type Waits = std::pin::Pin<Box<dyn Future<Output = Option<Permit>>>>;

    fn of(who: char) -> Asking {
        Asking { core: 0, link: Link(who.into()) }
    }

    fn wait(turns: &Arc<Turns>, who: char) -> (char, Waits) {
        (who, Box::pin(turns.line_up(of(who)).turn()))
    }

    /// Whoever has a turn now, of those who wait.
    fn ready(waits: &mut Vec<(char, Waits)>) -> Vec<(char, Option<Permit>)> {
        let mut ready = Vec::new();
        waits.retain_mut(|(who, wait)| match wait.now_or_never() {
            Some(turn) => {
                ready.push((*who, turn));
                false
            }
            None => true,
        });
        ready
    }

    #[test]
    fn each_gets_one_before_any_gets_two() {
        let turns = Turns::new(1);
        let mut waits: Vec<_> = "aaaaabbc".chars().map(|who| wait(&turns, who)).collect();
        let mut order = String::new();
        let mut now = ready(&mut waits);
        while let Some((who, turn)) = now.pop() {
            assert!(now.is_empty(), "one at once");
            order.push(who);
            if order == "aab" {
                // Behind `c` and the next of `a` and `b`.
                waits.push(wait(&turns, 'd'));
            }
            drop(turn);
            now = ready(&mut waits);
        }
        // The first was free; then they go round, and a newcomer joins behind those who wait.
        assert_eq!(order, "aabcabdaa");
        assert_eq!((turns.waiting(), turns.state().free), (0, 1));
    }

    #[test]
    fn who_is_gone_or_stops_waiting_leaves_nothing_behind() {
        let turns = Turns::new(1);
        let Line::Permit(first) = turns.line_up(of('x')) else { panic!("it is free") };
        let mut waits: Vec<_> = "abab".chars().map(|who| wait(&turns, who)).collect();
        turns.forget(of('a'));
        turns.forget(of('z'));
        let gone: Vec<_> =
            ready(&mut waits).into_iter().map(|(who, it)| (who, it.is_none())).collect();
        assert_eq!(gone, [('a', true), ('a', true)]);
        drop(waits.remove(0));
        assert_eq!(turns.waiting(), 1);
        // The turn is on its way when its taker goes.
        drop(first);
        assert_eq!((turns.waiting(), turns.state().free), (0, 0));
        waits.clear();
        assert_eq!((turns.waiting(), turns.state().free), (0, 1));
        assert!(matches!(turns.line_up(of('y')), Line::Permit(_)));
    }
}
