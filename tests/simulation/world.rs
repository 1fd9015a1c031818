//! What the worker lives in: the fake kernel, the clients, other threads; and the ring that leads
//! there.
//!
//! Time is the kernel's. It moves by a little with every turn, and by as much as there is to wait
//! for when the worker sleeps; clients and other threads act while it does.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringhold::engine::ring::{Completion, Doorbell, Recv, Ring, Send, Wait};
use ringhold::engine::token::Token;
use ringhold::{Frame, Handle};

use super::app::{App, TOPICS};
use super::kernel::{Event, Kernel, Submission};
use super::peer::Peer;
use super::remote::Remote;

/// Everything that is not the worker.
pub struct World {
    pub kernel: Kernel,
    pub peers: Vec<Peer>,
    pub remotes: BTreeMap<usize, Remote>,
    pub handle: Option<Handle<App>>,
    /// What a client found wrong.
    pub broken: Option<String>,
    pub events: u64,
}

impl World {
    /// Lets everything happen that is due.
    fn run(&mut self, done: &mut VecDeque<Completion>) {
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
                Event::Connect(token) => self.kernel.finish_connect(token),
                Event::Outside => self.outside(),
                Event::Done(completion) => self.kernel.deliver(completion, done),
                Event::Close(token) => self.kernel.finish_close(token),
                Event::Shutdown(token, wire) => self.kernel.finish_shutdown(token, wire),
                Event::Install(token) => self.kernel.finish_install(token),
            }
        }
        if self.kernel.rung() {
            self.kernel.seen.count("woken");
            done.push_back(Completion::Woken);
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
        let Some(handle) = &self.handle else { return };
        let rng = &mut self.kernel.rng;
        if rng.one_in(2) {
            let _ = handle.post(0, rng.draw());
        } else {
            let topic = TOPICS[rng.below(3) as usize];
            let text = format!("T{topic} {}", "o".repeat(rng.below(3000) as usize));
            handle.publish(topic, &Frame::text(&text));
        }
        let next = self.kernel.now + 1_000_000 * u64::from(1 + self.kernel.rng.below(400));
        self.kernel.at(next, Event::Outside);
    }
}

/// The worker's way into the world.
pub struct SimRing {
    pub world: Rc<RefCell<World>>,
    pub queued: VecDeque<Submission>,
    pub lanes: u32,
}

impl SimRing {
    fn submit(&mut self) {
        let mut world = self.world.borrow_mut();
        for submission in self.queued.drain(..) {
            world.kernel.submit(submission);
        }
    }
}

impl Ring for SimRing {
    fn now(&self) -> u64 {
        self.world.borrow().kernel.now
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
        self.world.borrow_mut().kernel.ignore_connects();
    }

    fn close_listener(&mut self) {
        // No operation of the ring: it takes effect at once.
        self.world.borrow_mut().kernel.close_listener();
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

    fn socket(&mut self, peer: SocketAddr, _: Option<IpAddr>) -> io::Result<u32> {
        self.submit();
        self.world.borrow_mut().kernel.make_socket(peer)
    }

    fn connect(&mut self, token: Token, _: SocketAddr) {
        self.queued.push_back(Submission::Connect(token));
    }

    fn recv(&mut self, arena: &mut [u8], batch: &mut [Recv]) -> io::Result<()> {
        self.submit();
        let kernel = &mut self.world.borrow_mut().kernel;
        for op in batch {
            kernel.recv(arena, op);
        }
        Ok(())
    }

    fn enter(
        &mut self,
        batch: &mut [Send],
        mut pieces: &[IoSlice<'_>],
        wait: Wait,
        done: &mut VecDeque<Completion>,
    ) -> io::Result<()> {
        self.submit();
        let world = &mut *self.world.borrow_mut();
        let mut reported = !batch.is_empty() && !world.kernel.chaos.silent;
        for op in batch {
            let (data, rest) = pieces.split_at(op.pieces as usize);
            pieces = rest;
            world.kernel.send(op, data);
            reported |= !matches!(op.result, Ok(taken) if taken == op.len);
        }
        world.kernel.now += 1000 + u64::from(world.kernel.rng.below(40_000));
        world.run(done);
        let Wait::Until(end) = wait else { return Ok(()) };
        if reported || world.kernel.strikes("wait interrupted") {
            return Ok(());
        }
        while done.is_empty() && world.kernel.now < end {
            let next = world.kernel.next_ns().unwrap_or(end).min(end);
            world.kernel.now = world.kernel.now.max(next);
            world.run(done);
        }
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
