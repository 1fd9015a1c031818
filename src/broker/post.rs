//! What the cores are told: gathered while one read from a socket is worked off, then one letter to
//! each core.
//!
//! Owns what is gathered and, for each core, of which channels it has missed messages because its
//! mailbox was full. The invariants: happenings of a core leave in the order in which they came; a
//! message is dropped only where the mailbox refuses it, and then its core hears of it before any
//! later message.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tally::Tally;
use crate::gateway::broker::{Happening, Message, Scope};
use crate::gateway::placement::Placement;

/// The mailboxes of the cores.
pub trait Cores {
    /// Posts into the room that is reserved for what subscribers have to hear. False: there is
    /// none, and the letter is gone.
    fn post_reserved(&self, core: usize, batch: Vec<Happening>) -> bool;

    /// Posts whether or not there is room. A core that has ended drops it.
    fn post_urgent(&self, core: usize, batch: Vec<Happening>);
}

/// See the module's text.
pub(crate) struct Post {
    cores: Rc<dyn Cores>,
    /// Cores hear answers only.
    quiet: bool,
    placement: Placement,
    tally: Arc<Tally>,
    boxes: RefCell<Vec<Gathered>>,
}

/// For one core.
#[derive(Default)]
struct Gathered {
    batch: Vec<Happening>,
    /// The batch has messages, and nothing else.
    messages: bool,
    missed: Missed,
}

/// What a core has missed and does not know yet.
#[derive(Default)]
enum Missed {
    #[default]
    Nothing,
    Channels(BTreeSet<Box<str>>),
    /// More channels than are worth a list.
    Many,
}

/// Names of channels that are kept; beyond it all channels of the core are suspect.
const MISSED_MAX: usize = 1024;

/// How soon a full mailbox is tried again.
const RETRY: Duration = Duration::from_millis(5);

impl Post {
    /// To these cores.
    pub(crate) fn new(cores: Box<dyn Cores>, placement: Placement, tally: Arc<Tally>) -> Self {
        Self::with(cores.into(), placement, tally)
    }

    fn with(cores: Rc<dyn Cores>, placement: Placement, tally: Arc<Tally>) -> Self {
        let boxes = (0..placement.cores()).map(|_| Gathered::default()).collect();
        Self { cores, quiet: false, placement, tally, boxes: RefCell::new(boxes) }
    }

    /// To the same cores, which hear answers by it and nothing of connections: it is that of a
    /// server that no messages come from.
    pub(crate) fn of_answers(&self) -> Self {
        let new = Self::with(self.cores.clone(), self.placement, self.tally.clone());
        Self { quiet: true, ..new }
    }

    /// Something came through a channel.
    pub(crate) fn message(&self, channel: &str, message: Message) {
        let core = self.placement.home(channel);
        self.put(core, Happening::Message(channel.into(), message), true);
    }

    /// Something that one core has to know, whether or not there is room.
    pub(crate) fn tell(&self, core: u16, happening: Happening) {
        self.put(core.into(), happening, false);
    }

    /// The same for every core.
    pub(crate) fn tell_all(&self, happening: &Happening) {
        if self.quiet {
            return;
        }
        for core in 0..self.placement.cores() {
            self.put(core, happening.clone(), false);
        }
    }

    fn put(&self, core: usize, happening: Happening, message: bool) {
        let mut boxes = self.boxes.borrow_mut();
        let Some(gathered) = boxes.get_mut(core) else { return };
        if gathered.messages != message && !gathered.batch.is_empty() {
            self.post(core, gathered);
        }
        gathered.messages = message;
        gathered.batch.push(happening);
    }

    /// Posts what was gathered. When it wants to be called again, if it does.
    pub(crate) fn flush(&self, now: Instant) -> Option<Instant> {
        let mut boxes = self.boxes.borrow_mut();
        let mut missed = false;
        for (core, gathered) in boxes.iter_mut().enumerate() {
            self.post(core, gathered);
            missed |= !self.confess(core, gathered);
        }
        missed.then(|| now + RETRY)
    }

    fn post(&self, core: usize, gathered: &mut Gathered) {
        if gathered.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut gathered.batch);
        if !gathered.messages {
            return self.cores.post_urgent(core, batch);
        }
        // Its names outlive a letter that is refused.
        let names = |batch: &[Happening]| -> Vec<Box<str>> {
            let name = |happening: &Happening| match happening {
                Happening::Message(name, _) => Some(name.clone()),
                _ => None,
            };
            batch.iter().filter_map(name).collect()
        };
        let (count, names) = (batch.len() as u64, names(&batch));
        if self.confess(core, gathered) && self.cores.post_reserved(core, batch) {
            return;
        }
        self.tally.messages_refused.add(count);
        gathered.missed.extend(names);
    }

    /// Tells a core what it has missed. Whether it knows.
    fn confess(&self, core: usize, gathered: &mut Gathered) -> bool {
        let scope = match &gathered.missed {
            Missed::Nothing => return true,
            Missed::Channels(names) => Scope::Channels(names.iter().cloned().collect()),
            Missed::Many => Scope::All,
        };
        let known = self.cores.post_reserved(core, vec![Happening::Suspect(scope)]);
        if known {
            gathered.missed = Missed::Nothing;
        }
        known
    }
}

impl Missed {
    fn extend(&mut self, names: Vec<Box<str>>) {
        let known = match std::mem::take(self) {
            Self::Nothing => BTreeSet::new(),
            Self::Channels(known) => known,
            Self::Many => {
                *self = Self::Many;
                return;
            }
        };
        let mut known = known;
        known.extend(names);
        *self = if known.len() > MISSED_MAX { Self::Many } else { Self::Channels(known) };
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").field("cores", &self.placement.cores()).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use bytes::Bytes;

    use super::*;
    use crate::gateway::broker::{Fault, Ticket};

    /// What was posted, in words, and whether there is room.
    #[derive(Clone, Default)]
    pub(in super::super) struct Desk {
        pub(in super::super) said: Rc<RefCell<Vec<Vec<Happening>>>>,
        pub(in super::super) full: Rc<Cell<bool>>,
    }

    impl Cores for Desk {
        fn post_reserved(&self, _: usize, batch: Vec<Happening>) -> bool {
            if !self.full.get() {
                self.said.borrow_mut().push(batch);
            }
            !self.full.get()
        }

        fn post_urgent(&self, _: usize, batch: Vec<Happening>) {
            self.said.borrow_mut().push(batch);
        }
    }

    fn post() -> (Post, Desk) {
        let desk = Desk::default();
        let post = Post::new(Box::new(desk.clone()), Placement::new(1, 1), Arc::default());
        (post, desk)
    }

    fn message(post: &Post, channel: &str) {
        post.message(channel, Message::Passed(Bytes::from_static(b"x")));
    }

    fn words(desk: &Desk) -> Vec<String> {
        let word = |happening: &Happening| match happening {
            Happening::Message(name, _) => name.to_string(),
            Happening::Answer(Ticket(number), _) => number.to_string(),
            Happening::Suspect(Scope::Channels(names)) => format!("suspect {}", names.join(",")),
            Happening::Suspect(_) => "suspect all".to_owned(),
            other => format!("{other:?}"),
        };
        let batch = |batch: &Vec<Happening>| batch.iter().map(word).collect::<Vec<_>>().join(" ");
        std::mem::take(&mut *desk.said.borrow_mut()).iter().map(batch).collect()
    }

    #[test]
    fn what_came_together_leaves_together_and_in_order() {
        let (post, desk) = post();
        let answer = |number| Happening::Answer(Ticket(number), Err(Fault::Away));
        message(&post, "a");
        message(&post, "b");
        post.tell(0, answer(1));
        post.tell_all(&answer(2));
        message(&post, "a");
        assert_eq!(post.flush(Instant::now()), None);
        assert_eq!(words(&desk), ["a b", "1 2", "a"]);
        assert_eq!(post.flush(Instant::now()), None);
        assert!(words(&desk).is_empty());
    }

    #[test]
    fn who_missed_something_hears_of_it_first() {
        let (post, desk) = post();
        let now = Instant::now();
        desk.full.set(true);
        message(&post, "b");
        message(&post, "a");
        post.tell(0, Happening::Answer(Ticket(1), Err(Fault::Away)));
        assert_eq!(post.flush(now), Some(now + RETRY));
        message(&post, "c");
        assert!(post.flush(now).is_some());
        assert_eq!(words(&desk), ["1"], "answers have room in any case");
        desk.full.set(false);
        message(&post, "a");
        assert_eq!(post.flush(now), None);
        assert_eq!(words(&desk), ["suspect a,b,c", "a"]);
        assert_eq!(post.tally.messages_refused.get(), 3);
    }

    #[test]
    fn many_channels_are_not_listed() {
        let (post, desk) = post();
        desk.full.set(true);
        for n in 0..2 * MISSED_MAX {
            message(&post, &n.to_string());
            post.flush(Instant::now());
        }
        desk.full.set(false);
        post.flush(Instant::now());
        assert_eq!(words(&desk), ["suspect all"]);
    }
}
