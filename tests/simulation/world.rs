//! What the workers live in: the fake kernel, the clients, other threads; and the rings that lead
//! there.
//!
//! Time is the kernel's, and one for all. It moves by a little with every turn, and by as much as
//! there is to wait for when all workers sleep.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};

use ringhold::internals::ring::{Completion, Doorbell, Recv, Ring, Send, Wait};
use ringhold::internals::testing::{ask_slow, ask_stats};
use ringhold::internals::token::Token;
use ringhold::{CloseCode, Frame, Handle, SlowPeer, Stats};

use super::app::{App, Journal, Mail, TOPICS};
use super::kernel::{Event, Kernel, Submission};
use super::peer::Peer;
use super::remote::Remote;

/// Everything that is not a worker.
pub struct World {
    pub kernel: Kernel,
    pub peers: Vec<Peer>,
    pub remotes: BTreeMap<usize, Remote>,
    pub handle: Handle<App>,
    pub journal: Rc<RefCell<Journal>>,
    /// Whether other threads may close connections.
    pub wild: bool,
    /// Questions that are not all answered.
    pub questions: Vec<Question>,
    /// Letters that a mailbox takes beyond its capacity, since each worker last took them.
    pub urgent: Vec<usize>,
    /// What a client found wrong.
    pub broken: Option<String>,
    pub events: u64,
}

/// Something that other threads wait for.
pub struct Question {
    answers: Answers,
    /// Turns that each worker had begun when it was asked; `None`: it had ended.
    pub asked: Vec<Option<u64>>,
    answered: Vec<u16>,
    slow: usize,
}

enum Answers {
    Stats(Receiver<(u16, Stats)>),
    Slow(Receiver<Vec<SlowPeer>>),
}

impl Question {
    /// Takes the answers that have come. Whether all have.
    fn take(&mut self) -> bool {
        let end = match &self.answers {
            Answers::Stats(from) => loop {
                match from.try_recv() {
                    Ok((core, _)) => self.answered.push(core),
                    Err(end) => break end,
                }
            },
            Answers::Slow(from) => loop {
                match from.try_recv() {
                    Ok(_) => self.slow += 1,
                    Err(end) => break end,
                }
            },
        };
        end == TryRecvError::Disconnected
    }

    /// Whether the answers that are there are right; `missing` are the cores that have ended
    /// meanwhile, and may have dropped the question.
    fn check(&self, missing: &[usize]) -> Result<(), String> {
        let asked = || (0..self.asked.len()).filter(|core| self.asked[*core].is_some());
        if let Answers::Slow(_) = self.answers {
            let least = asked().filter(|core| !missing.contains(core)).count();
            return match (least..=asked().count()).contains(&self.slow) {
                true => Ok(()),
                false => Err(format!("{} answers about slow peers of {least}", self.slow)),
            };
        }
        for core in asked() {
            let count = self.answered.iter().filter(|it| usize::from(**it) == core).count();
            if count != 1 && !(count == 0 && missing.contains(&core)) {
                return Err(format!("{count} answers of core {core} about its counters"));
            }
        }
        Ok(())
    }
}

impl World {
    /// Lets everything happen that is due.
    pub fn run(&mut self) {
        while let Some(event) = self.kernel.next_event() {
            self.events += 1;
            match event {
                Event::Peer(index) => {
                    let peer = &mut self.peers[index];
                    match peer.act(&mut self.kernel) {
                        Ok(Some(next)) => self.kernel.at(next, Event::Peer(index)),
                        Ok(None) => {}
                        Err(what) => {
                            let what = format!("client {index} ({:?}): {what}", peer.script.path);
                            self.broken.get_or_insert(what);
                        }
                    }
                }
                Event::Remote(wire) => self.remote(wire),
                Event::HubPort => self.outside(),
                Event::Connect(core, token) => self.kernel.finish_connect(core, token),
                Event::Done(core, completion) => self.kernel.deliver(core, completion),
                Event::Close(core, token) => self.kernel.finish_close(core, token),
                Event::Shutdown(core, token, wire) => {
                    self.kernel.finish_shutdown(core, token, wire);
                }
                Event::Install(core, token) => self.kernel.finish_install(core, token),
            }
        }
    }

    fn remote(&mut self, wire: usize) {
        let kernel = &mut self.kernel;
        let remote = self.remotes.entry(wire).or_insert_with(|| Remote::new(wire, &mut kernel.rng));
        match remote.act(kernel) {
            Ok(Some(next)) => kernel.at(next, Event::Remote(wire)),
            Ok(None) => {}
            Err(what) => drop(self.broken.get_or_insert(format!("dialled server: {what}"))),
        }
    }

    /// Another thread uses its handle.
    fn outside(&mut self) {
        let outside = self.kernel.cores.len();
        let core = self.kernel.rng.below(outside as u32) as usize;
        match self.kernel.rng.below(10) {
            lot @ (0 | 1) => {
                let mut journal = self.journal.borrow_mut();
                let number = journal.next_letter(outside, core);
                let fatal = self.wild && self.kernel.rng.one_in(7);
                let mail = Mail { from: outside, number, fatal };
                let taken = match lot {
                    0 => self.handle.post(core, mail),
                    _ => self.handle.post_urgent(core, mail),
                };
                self.urgent[core] += lot as usize;
                if taken.is_ok() {
                    journal.sent(&format!("L{outside} {core}"));
                }
                journal.seen.count("letter from outside");
            }
            lot @ (2 | 3) => self.ask(lot == 2),
            4..7 => self.reach(),
            _ => {
                let topic = TOPICS[self.kernel.rng.below(3) as usize];
                let label = format!("T{topic} {outside}");
                let len = self.kernel.rng.below(if self.wild { 3000 } else { 60 }) as usize;
                let text = self.journal.borrow().numbered(&label, len);
                self.handle.publish(topic, &Frame::text(&text));
                self.journal.borrow_mut().sent(&label);
            }
        }
        // Now and then one thing follows the other, faster than a core can take it.
        let pause = if self.kernel.rng.one_in(3) { 0 } else { 1 + self.kernel.rng.below(400) };
        let next = self.kernel.now + 1 + 1_000_000 * u64::from(pause);
        self.kernel.at(next, Event::HubPort);
    }

    /// Sends to a connection, or closes it.
    fn reach(&mut self) {
        let mut journal = self.journal.borrow_mut();
        if journal.kept.is_empty() {
            return;
        }
        let kept = journal.kept.len() as u32;
        let (id, port) = journal.kept[self.kernel.rng.below(kept) as usize];
        let result = if self.wild && self.kernel.rng.one_in(6) {
            journal.dismissed.insert(id);
            self.handle.close(id, CloseCode(4002), "from outside")
        } else {
            let label = format!("D{port} {}", self.kernel.cores.len());
            let text = journal.numbered(&label, self.kernel.rng.below(60) as usize);
            let result = self.handle.send(id, &Frame::text(&text));
            if result.is_ok() {
                journal.sent(&label);
            }
            result
        };
        journal.check_remote(id, result);
    }

    /// Asks all cores.
    pub fn ask(&mut self, stats: bool) {
        let answers = match stats {
            true => Answers::Stats(ask_stats(&self.handle)),
            false => Answers::Slow(ask_slow(&self.handle)),
        };
        self.urge();
        let asked = self.journal.borrow().turns.clone();
        self.questions.push(Question { answers, asked, answered: Vec::new(), slow: 0 });
        self.journal.borrow_mut().seen.count("question");
    }

    /// Every mailbox got a letter that is taken in any case.
    pub fn urge(&mut self) {
        self.urgent.iter_mut().for_each(|count| *count += 1);
    }

    /// Whoever has taken two turns since it was asked, and has no letters left, has answered, once.
    pub fn check_questions(&mut self, letters: &[usize]) -> Result<(), String> {
        if self.questions.is_empty() {
            return Ok(());
        }
        let journal = self.journal.borrow();
        let late = |core: usize, asked: Option<u64>| match (asked, journal.turns[core]) {
            (Some(then), Some(now)) => now >= then + 2 && letters[core] == 0,
            _ => true,
        };
        let ended = |core: &usize| journal.turns[*core].is_none();
        let missing: Vec<usize> = (0..journal.turns.len()).filter(ended).collect();
        for mut question in std::mem::take(&mut self.questions) {
            let all = question.take();
            if all || question.asked.iter().enumerate().all(|(core, asked)| late(core, *asked)) {
                question.check(&missing)?;
            } else {
                self.questions.push(question);
            }
        }
        Ok(())
    }
}

/// A worker's way into the world.
pub struct SimRing {
    pub world: Rc<RefCell<World>>,
    pub core: usize,
    pub queued: VecDeque<Submission>,
    pub lanes: u32,
}

impl SimRing {
    fn submit(&mut self) {
        let mut world = self.world.borrow_mut();
        for submission in self.queued.drain(..) {
            world.kernel.submit(self.core, submission);
        }
    }
}

impl Ring for SimRing {
    fn now(&self) -> u64 {
        let kernel = &mut self.world.borrow_mut().kernel;
        if kernel.chaos.slow_us > 0 {
            kernel.now += 1000 * u64::from(kernel.rng.below(kernel.chaos.slow_us));
        }
        kernel.now
    }

    fn accept(&mut self, lane: u32) {
        self.queued.push_back(Submission::Accept(lane));
    }

    fn lanes(&self) -> u32 {
        self.lanes
    }

    fn cancel_accept(&mut self, lane: u32) {
        self.queued.push_back(Submission::CancelAccept(lane));
    }

    fn stop_listening(&mut self) {
        self.world.borrow_mut().kernel.ignore_connects(self.core);
    }

    fn close_listener(&mut self) {
        // No operation of the ring: it takes effect at once.
        self.world.borrow_mut().kernel.close_listener(self.core);
    }

    fn poll(&mut self, token: Token, multishot: bool) {
        self.queued.push_back(Submission::Poll(token, multishot));
    }

    fn close(&mut self, token: Token, polls: &[Token]) {
        self.queued.push_back(Submission::Close(token, polls.to_vec()));
    }

    fn shutdown(&mut self, token: Token) {
        self.queued.push_back(Submission::Shutdown(token));
    }

    fn install(&mut self, token: Token) {
        self.queued.push_back(Submission::Install(token));
    }

    fn unacknowledged(&mut self, token: Token) {
        self.queued.push_back(Submission::Unacknowledged(token));
    }

    fn socket(&mut self, peer: SocketAddr, _: Option<IpAddr>) -> io::Result<u32> {
        self.submit();
        self.world.borrow_mut().kernel.make_socket(self.core, peer)
    }

    fn connect(&mut self, token: Token, _: SocketAddr) {
        self.queued.push_back(Submission::Connect(token));
    }

    fn recv(&mut self, arena: &mut [u8], batch: &mut [Recv]) -> io::Result<()> {
        self.submit();
        let kernel = &mut self.world.borrow_mut().kernel;
        for op in batch {
            kernel.recv(self.core, arena, op);
        }
        Ok(())
    }

    fn overflows(&self) -> u64 {
        self.world.borrow().kernel.cores[self.core].overflows
    }

    /// Sends, and says until when this core sleeps; what completes until then it gets when it
    /// wakes up.
    fn enter(
        &mut self,
        batch: &mut [Send],
        mut pieces: &[IoSlice<'_>],
        wait: Wait,
        _: &mut VecDeque<Completion>,
    ) -> io::Result<()> {
        self.submit();
        let world = &mut *self.world.borrow_mut();
        let mut reported = !batch.is_empty() && !world.kernel.chaos.silent;
        for op in batch {
            let (data, rest) = pieces.split_at(op.pieces as usize);
            pieces = rest;
            world.kernel.send(self.core, op, data);
            reported |= !matches!(op.result, Ok(taken) if taken == op.len);
        }
        world.kernel.now += 1000 + u64::from(world.kernel.rng.below(40_000));
        world.run();
        let until = match wait {
            Wait::Until(end) if !reported => Some(end),
            _ => None,
        };
        let until = until.filter(|_| !world.kernel.strikes("wait interrupted"));
        world.kernel.cores[self.core].asleep = until;
        Ok(())
    }
}

/// Wakes the worker from another thread.
pub struct Bell(pub Arc<AtomicBool>);

impl Doorbell for Bell {
    fn ring(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
