//! A kernel that is always ready: [`Ring`] over pipes in memory and a clock that a test moves.
//!
//! The invariant: a poll announces what is there when it is armed, and from then on what comes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::client::Pipe;
use crate::engine::ring::{Completion, Errno, LANES_MAX, Readiness, Recv, Ring, Send, Wait};
use crate::engine::token::{Op, Token};

/// See the module's text.
pub(super) struct Memory {
    clock: Rc<Cell<u64>>,
    /// Connections that nobody has accepted.
    knocking: Rc<RefCell<VecDeque<Rc<RefCell<Pipe>>>>>,
    asleep: Rc<Cell<Option<u64>>>,
    bell: Arc<AtomicBool>,
    /// Accepts in flight, one bit for each lane.
    armed: u64,
    listens: bool,
    table: Vec<Entry>,
    free: Vec<u32>,
    limit: u32,
    done: VecDeque<Completion>,
}

/// A slot.
#[derive(Default)]
struct Entry {
    pipe: Option<Rc<RefCell<Pipe>>>,
    input: Option<Token>,
    multishot: bool,
    output: Option<Token>,
    /// The arrivals that were announced; `None`: whatever is there is new.
    seen: Option<u64>,
}

impl Memory {
    pub(super) fn new(
        clock: &Rc<Cell<u64>>,
        knocking: &Rc<RefCell<VecDeque<Rc<RefCell<Pipe>>>>>,
        asleep: &Rc<Cell<Option<u64>>>,
        bell: &Arc<AtomicBool>,
        limit: u32,
    ) -> Self {
        Self {
            clock: clock.clone(),
            knocking: knocking.clone(),
            asleep: asleep.clone(),
            bell: bell.clone(),
            armed: 0,
            listens: true,
            table: Vec::new(),
            free: Vec::new(),
            limit,
            done: VecDeque::new(),
        }
    }

    fn accept_all(&mut self) {
        while self.armed != 0 {
            let Some(pipe) = self.knocking.borrow_mut().pop_front() else { return };
            let lane = self.armed.trailing_zeros();
            self.armed &= self.armed - 1;
            let result = self.welcome(pipe);
            self.done.push_back(Completion::Accepted { lane, result });
        }
    }

    fn welcome(&mut self, pipe: Rc<RefCell<Pipe>>) -> io::Result<(u32, SocketAddr)> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.table.len() < self.limit as usize => {
                self.table.push(Entry::default());
                self.table.len() as u32 - 1
            }
            None => return Err(io::Error::from_raw_os_error(libc::ENFILE)),
        };
        let peer = pipe.borrow().peer;
        self.table[slot as usize] = Entry { pipe: Some(pipe), ..Entry::default() };
        Ok((slot, peer))
    }

    /// Announces what came.
    fn poll_all(&mut self) {
        for entry in &mut self.table {
            let Some(pipe) = &entry.pipe else { continue };
            let pipe = pipe.borrow();
            if let Some(token) = entry.input
                && pipe.is_readable()
                && entry.seen != Some(pipe.arrivals)
            {
                entry.seen = Some(pipe.arrivals);
                let more = entry.multishot;
                if !more {
                    entry.input = None;
                }
                let ready = Readiness { readable: true, writable: false, broken: pipe.left };
                self.done.push_back(Completion::Polled { token, result: Ok(ready), more });
            }
            if pipe.is_writable() || pipe.left {
                let ready = Readiness { readable: false, writable: true, broken: pipe.left };
                self.done.extend(entry.output.take().map(|token| Completion::Polled {
                    token,
                    result: Ok(ready),
                    more: false,
                }));
            }
        }
    }

    fn pipe(&self, slot: u32) -> Option<&Rc<RefCell<Pipe>>> {
        self.table.get(slot as usize)?.pipe.as_ref()
    }
}

impl Ring for Memory {
    fn now(&self) -> u64 {
        self.clock.get()
    }

    fn accept(&mut self, lane: u32) {
        if self.listens {
            self.armed |= 1 << lane;
        }
    }

    fn lanes(&self) -> u32 {
        LANES_MAX
    }

    fn cancel_accept(&mut self, lane: u32) {
        if self.armed & 1 << lane != 0 {
            self.armed &= !(1 << lane);
            let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
            self.done.push_back(Completion::Accepted { lane, result });
        }
    }

    fn close_listener(&mut self) {
        self.listens = false;
        self.armed = 0;
        for pipe in self.knocking.borrow_mut().drain(..) {
            pipe.borrow_mut().end();
        }
    }

    fn poll(&mut self, token: Token, multishot: bool) {
        let Some(entry) = self.table.get_mut(token.slot() as usize) else { return };
        match token.op() {
            Some(Op::Poll) => {
                (entry.input, entry.multishot, entry.seen) = (Some(token), multishot, None);
            }
            _ => entry.output = Some(token),
        }
    }

    fn close(&mut self, token: Token, _polls: &[Token]) {
        let slot = token.slot();
        if let Some(entry) = self.table.get_mut(slot as usize)
            && let Some(pipe) = std::mem::take(entry).pipe
        {
            pipe.borrow_mut().end();
            self.free.push(slot);
        }
        self.done.push_back(Completion::Closed { token });
    }

    fn shutdown(&mut self, token: Token) {
        if let Some(pipe) = self.pipe(token.slot()) {
            let mut pipe = pipe.borrow_mut();
            pipe.end();
            // The client sees the end and goes.
            pipe.left = true;
            pipe.arrivals += 1;
        }
        self.done.push_back(Completion::ShutDown { token });
    }

    fn unacknowledged(&mut self, token: Token) {
        let unread = self.pipe(token.slot()).map_or(0, |pipe| pipe.borrow().unread());
        self.done.push_back(Completion::Unacknowledged { token, result: Ok(unread as u32) });
    }

    fn install(&mut self, token: Token) {
        let result = Err(io::Error::from_raw_os_error(libc::ENOSYS));
        self.done.push_back(Completion::Installed { token, result });
    }

    fn socket(&mut self, _: SocketAddr, _: Option<IpAddr>) -> io::Result<u32> {
        Err(io::Error::from_raw_os_error(libc::ENETUNREACH))
    }

    fn connect(&mut self, token: Token, _: SocketAddr) {
        let result = Err(io::Error::from_raw_os_error(libc::ENETUNREACH));
        self.done.push_back(Completion::Connected { token, result });
    }

    fn recv(&mut self, arena: &mut [u8], batch: &mut [Recv]) -> io::Result<()> {
        for op in batch {
            let Some(pipe) = self.pipe(op.slot) else {
                op.result = Err(Errno(libc::EBADF));
                continue;
            };
            let mut pipe = pipe.borrow_mut();
            let count = pipe.inbound.len().min(op.room as usize);
            let start = op.start as usize;
            for (to, from) in
                arena[start..start + count].iter_mut().zip(pipe.inbound.drain(..count))
            {
                *to = from;
            }
            op.more = !pipe.inbound.is_empty();
            op.result = match count {
                0 if !pipe.left => Err(Errno(libc::EAGAIN)),
                count => Ok(count as u32),
            };
        }
        Ok(())
    }

    fn enter(
        &mut self,
        batch: &mut [Send],
        pieces: &[IoSlice<'_>],
        wait: Wait,
        done: &mut VecDeque<Completion>,
    ) -> io::Result<()> {
        let mut used = 0;
        for op in batch {
            let end = used + op.pieces as usize;
            op.result = match self.pipe(op.slot) {
                Some(pipe) => pipe.borrow_mut().take(&pieces[used..end]),
                None => Err(Errno(libc::EBADF)),
            };
            used = end;
        }
        self.accept_all();
        self.poll_all();
        if self.bell.swap(false, Ordering::AcqRel) {
            self.done.push_back(Completion::Woken);
        }
        self.asleep.set(match wait {
            Wait::Until(end) if self.done.is_empty() => Some(end),
            _ => None,
        });
        done.append(&mut self.done);
        Ok(())
    }
}
