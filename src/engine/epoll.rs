//! [`Ring`] over epoll, for hosts that refuse io_uring: container runtimes' default profiles,
//! `kernel.io_uring_disabled`, sandboxes. Each operation is a system call of its own.
//!
//! The invariant: an entry of the table knows whether its socket may have input or room, so that a
//! poll needs no system call. Sockets are registered once, edge-triggered: an edge says that there
//! is something, and a receive or send that falls short says that there is nothing more.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno as Error;
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags};

use super::ring::{Completion, Errno, LANES_MAX, Readiness, Recv, Ring, Send, Wait};
use super::sys::{self, EventFd};
use super::token::{Op, Token};
use super::uring::{Setup, SetupError};

/// The sockets of one thread. See [`Ring`].
pub struct Epoll {
    epoll: OwnedFd,
    table: Vec<Entry>,
    /// Entries of the table without a socket.
    free: Vec<u32>,
    /// Most entries that the table may have.
    limit: u32,
    listener: Option<OwnedFd>,
    lanes: u32,
    /// Accepts in flight, one bit for each lane.
    armed: u64,
    /// The accept queue may hold a connection.
    knocking: bool,
    /// Keeps the descriptor open that the set names.
    _doorbell: Arc<EventFd>,
    events: Vec<epoll::Event>,
    /// Completions until the caller takes them.
    done: VecDeque<Completion>,
}

const _: () = assert!(LANES_MAX <= u64::BITS, "a bit for each lane");

/// One socket.
#[derive(Default)]
struct Entry {
    socket: Option<OwnedFd>,
    /// Of the polls or the connect in flight.
    generation: u32,
    state: u16,
}

const _: () = assert!(size_of::<Entry>() == 12, "per connection");

/// A poll for input is armed.
const INPUT: u16 = 1 << 0;
/// It stays armed when it fires.
const MULTISHOT: u16 = 1 << 1;
/// A poll for output is armed.
const OUTPUT: u16 = 1 << 2;
/// A receive may find something.
const READABLE: u16 = 1 << 3;
/// A send may find room. Known only of a socket that was `WATCHED`.
const WRITABLE: u16 = 1 << 4;
/// An error or a hang-up has come.
const BROKEN: u16 = 1 << 5;
/// The set reports room for output, too.
const WATCHED: u16 = 1 << 6;
/// A connect is in flight.
const CONNECTING: u16 = 1 << 7;
/// The end of input has come, behind what a receive that falls short has left.
const ENDED: u16 = 1 << 8;

impl Entry {
    fn has(&self, bits: u16) -> bool {
        self.state & bits != 0
    }

    fn token(&self, op: Op, slot: u32) -> Token {
        Token::new(op, slot, self.generation)
    }

    /// Input or the end of input may wait.
    fn polled_in(&mut self, slot: u32) -> Option<Completion> {
        if !self.has(INPUT) || !self.has(READABLE | BROKEN) {
            return None;
        }
        let more = self.has(MULTISHOT);
        if !more {
            self.state &= !INPUT;
        }
        let broken = self.has(BROKEN);
        let ready = Readiness { readable: true, writable: false, broken };
        Some(Completion::Polled { token: self.token(Op::Poll, slot), result: Ok(ready), more })
    }

    /// Room may be there.
    fn polled_out(&mut self, slot: u32) -> Option<Completion> {
        if !self.has(OUTPUT) || !self.has(WRITABLE | BROKEN) {
            return None;
        }
        self.state &= !OUTPUT;
        let broken = self.has(BROKEN);
        let ready = Readiness { readable: false, writable: true, broken };
        let token = self.token(Op::PollOut, slot);
        Some(Completion::Polled { token, result: Ok(ready), more: false })
    }
}

impl Epoll {
    /// Makes the set. `setup.user_timeout` is not needed: every kernel says what is acknowledged.
    pub fn new(setup: Setup) -> Result<Self, SetupError> {
        Self::make(setup).map_err(SetupError::Epoll)
    }

    fn make(setup: Setup) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &*setup.doorbell, key(DOORBELL), edge)?;
        if let Some(listener) = &setup.listener {
            rustix::io::ioctl_fionbio(listener, true)?;
            epoll::add(&epoll, listener, key(LISTENER), edge)?;
        }
        Ok(Self {
            epoll,
            table: Vec::new(),
            free: Vec::new(),
            limit: setup.table,
            listener: setup.listener,
            lanes: setup.lanes,
            armed: 0,
            knocking: true,
            _doorbell: setup.doorbell,
            events: Vec::with_capacity(EVENTS),
            done: VecDeque::new(),
        })
    }

    /// Gives a socket an entry.
    fn enter_socket(&mut self, socket: OwnedFd) -> io::Result<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.table.len() < self.limit as usize => {
                self.table.push(Entry::default());
                self.table.len() as u32 - 1
            }
            None => return Err(Error::NFILE.into()),
        };
        self.table[slot as usize] = Entry { socket: Some(socket), ..Entry::default() };
        Ok(slot)
    }

    /// Registers the socket of an entry.
    fn register(&mut self, slot: u32, events: epoll::EventFlags) -> io::Result<()> {
        match &self.table[slot as usize].socket {
            Some(socket) => Ok(epoll::add(&self.epoll, socket, key(slot.into()), events)?),
            None => Err(Error::BADF.into()),
        }
    }

    /// Closes the socket of an entry, which is free from here on.
    fn leave(&mut self, slot: u32) {
        if self.table[slot as usize].socket.take().is_some() {
            self.free.push(slot);
        }
    }

    /// Ends accepts that are in flight with what is in the accept queue.
    fn accept_all(&mut self) {
        while self.knocking && self.armed != 0 {
            let Some(listener) = &self.listener else { return };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let result = match net::acceptfrom_with(listener, flags) {
                Ok((socket, peer)) => self.welcome(socket, peer),
                Err(Error::AGAIN) => {
                    self.knocking = false;
                    return;
                }
                Err(Error::INTR) => continue,
                Err(error) => Err(error.into()),
            };
            let lane = self.armed.trailing_zeros();
            self.armed &= self.armed - 1;
            self.done.push_back(Completion::Accepted { lane, result });
        }
    }

    fn welcome(
        &mut self,
        socket: OwnedFd,
        peer: Option<net::SocketAddrAny>,
    ) -> io::Result<(u32, SocketAddr)> {
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        let peer = peer.ok_or_else(|| io::Error::other("accepted from an unknown family"))?;
        let slot = self.enter_socket(socket)?;
        if let Err(error) = self.register(slot, INPUT_EVENTS) {
            self.leave(slot);
            return Err(error);
        }
        Ok((slot, peer))
    }

    /// Sleeps until an event, at most for `limit`, and takes every event there is.
    fn wait(&mut self, limit: Duration) -> io::Result<()> {
        let mut limit = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: 60, tv_nsec: 0 });
        loop {
            let mut events = std::mem::take(&mut self.events);
            events.clear();
            let room = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, room, Some(&limit)) {
                Ok(_) | Err(Error::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                self.on_event(event.data.u64(), event.flags);
            }
            let all = events.len() < EVENTS;
            self.events = events;
            if all {
                return Ok(());
            }
            limit = Timespec { tv_sec: 0, tv_nsec: 0 };
        }
    }

    fn on_event(&mut self, key: u64, events: epoll::EventFlags) {
        use epoll::EventFlags as E;
        match key {
            DOORBELL => return self.done.push_back(Completion::Woken),
            LISTENER => return self.knocking = true,
            _ => {}
        }
        let slot = key as u32;
        let Some(entry) = self.table.get_mut(slot as usize) else { return };
        let Some(socket) = &entry.socket else { return };
        if entry.has(CONNECTING) {
            if events.intersects(E::OUT | E::ERR | E::HUP) {
                let result = match net::sockopt::socket_error(socket) {
                    Ok(result) => result.map_err(io::Error::from),
                    Err(error) => Err(error.into()),
                };
                entry.state &= !CONNECTING;
                let token = entry.token(Op::Connect, slot);
                self.done.push_back(Completion::Connected { token, result });
            }
            if !events.intersects(E::IN | E::RDHUP) {
                return;
            }
        }
        if events.intersects(E::IN | E::RDHUP) {
            entry.state |= READABLE;
        }
        if events.contains(E::OUT) {
            entry.state |= WRITABLE;
        }
        if events.intersects(E::ERR | E::HUP | E::RDHUP) {
            entry.state |= READABLE | ENDED;
        }
        if events.intersects(E::ERR | E::HUP) {
            entry.state |= BROKEN;
        }
        self.done.extend(entry.polled_in(slot));
        self.done.extend(entry.polled_out(slot));
    }

    /// Sends what there are pieces for.
    fn send(&mut self, op: &Send, pieces: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let Some(entry) = self.table.get_mut(op.slot as usize) else { return Err(BAD) };
        let Some(socket) = &entry.socket else { return Err(BAD) };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let result = retry(|| match pieces {
            [one] => net::send(socket, one, flags),
            many => net::sendmsg(socket, many, &mut SendAncillaryBuffer::default(), flags),
        });
        let taken = match result {
            Err(Error::AGAIN) => Ok(0),
            Ok(count) => Ok(count),
            Err(error) => Err(Errno(error.raw_os_error())),
        };
        if taken.is_ok_and(|count| count < op.len) {
            entry.state &= !WRITABLE;
        }
        taken
    }
}

impl Ring for Epoll {
    fn now(&self) -> u64 {
        sys::monotonic_ns()
    }

    fn accept(&mut self, lane: u32) {
        if self.listener.is_some() {
            self.armed |= 1 << lane;
        }
    }

    fn lanes(&self) -> u32 {
        if self.listener.is_some() { self.lanes } else { 0 }
    }

    fn cancel_accept(&mut self, lane: u32) {
        if self.armed & 1 << lane != 0 {
            self.armed &= !(1 << lane);
            let result = Err(Error::CANCELED.into());
            self.done.push_back(Completion::Accepted { lane, result });
        }
    }

    fn stop_listening(&mut self) {
        if let Some(listener) = &self.listener {
            sys::drop_new_connections(listener);
        }
    }

    fn close_listener(&mut self) {
        self.listener = None;
        self.armed = 0;
    }

    fn poll(&mut self, token: Token, multishot: bool) {
        let slot = token.slot();
        let Some(entry) = self.table.get_mut(slot as usize) else { return };
        let Some(socket) = &entry.socket else { return };
        entry.generation = token.generation();
        if token.op() == Some(Op::Poll) {
            entry.state |= INPUT;
            entry.state &= !MULTISHOT;
            entry.state |= if multishot { MULTISHOT } else { 0 };
            self.done.extend(entry.polled_in(slot));
            return;
        }
        entry.state |= OUTPUT;
        if !entry.has(WATCHED) {
            // Reports at once where there is room already.
            match epoll::modify(&self.epoll, socket, key(slot.into()), ALL_EVENTS) {
                Ok(()) => entry.state |= WATCHED,
                // The send will say how it is.
                Err(_) => entry.state |= WRITABLE,
            }
        }
        self.done.extend(entry.polled_out(slot));
    }

    fn close(&mut self, token: Token, _polls: &[Token]) {
        self.leave(token.slot());
        self.done.push_back(Completion::Closed { token });
    }

    fn shutdown(&mut self, token: Token) {
        if let Some(socket) = self.socket_of(token) {
            // A socket that has no peer any more has nothing to shut down.
            let _ = net::shutdown(socket, Shutdown::Write);
        }
        self.done.push_back(Completion::ShutDown { token });
    }

    fn unacknowledged(&mut self, token: Token) {
        let result = match self.socket_of(token) {
            Some(socket) => sys::unacknowledged(socket),
            None => Err(Error::BADF.into()),
        };
        self.done.push_back(Completion::Unacknowledged { token, result });
    }

    fn install(&mut self, token: Token) {
        let result = match self.socket_of(token) {
            // The set would report the socket as long as one of its descriptors is open.
            Some(socket) => socket.try_clone().and_then(|clone| {
                epoll::delete(&self.epoll, socket)?;
                Ok(clone)
            }),
            None => Err(Error::BADF.into()),
        };
        self.done.push_back(Completion::Installed { token, result });
    }

    fn socket(&mut self, peer: SocketAddr, local: Option<IpAddr>) -> io::Result<u32> {
        let socket = sys::client_socket(peer, local)?;
        socket.set_nonblocking(true)?;
        self.enter_socket(socket.into())
    }

    fn adopt(&mut self, socket: OwnedFd) -> Result<u32, OwnedFd> {
        let Ok(clone) = socket.try_clone() else { return Err(socket) };
        if rustix::io::ioctl_fionbio(&socket, true).is_err() {
            return Err(socket);
        }
        let Ok(slot) = self.enter_socket(clone) else { return Err(socket) };
        match self.register(slot, INPUT_EVENTS) {
            Ok(()) => Ok(slot),
            Err(_) => {
                self.leave(slot);
                Err(socket)
            }
        }
    }

    fn connect(&mut self, token: Token, peer: SocketAddr) {
        let slot = token.slot();
        let connecting = match self.socket_of(token) {
            Some(socket) => retry(|| match net::connect(socket, &peer) {
                Err(Error::INPROGRESS) => Ok(()),
                other => other,
            }),
            None => Err(Error::BADF),
        };
        let outcome = connecting.map_err(io::Error::from).and_then(|()| {
            let entry = &mut self.table[slot as usize];
            entry.generation = token.generation();
            entry.state |= CONNECTING | WATCHED;
            self.register(slot, ALL_EVENTS)
        });
        if let Err(error) = outcome {
            self.done.push_back(Completion::Connected { token, result: Err(error) });
        }
    }

    fn shrink(&mut self) {
        while self.table.last().is_some_and(|entry| entry.socket.is_none()) {
            self.table.pop();
        }
        let len = self.table.len() as u32;
        self.free.retain(|slot| *slot < len);
        self.free.shrink_to_fit();
        self.table.shrink_to_fit();
        self.done.shrink_to_fit();
    }

    fn recv(&mut self, arena: &mut [u8], batch: &mut [Recv]) -> io::Result<()> {
        for op in batch {
            let Some(entry) = self.table.get_mut(op.slot as usize) else { continue };
            let Some(socket) = &entry.socket else {
                op.result = Err(BAD);
                continue;
            };
            let room = &mut arena[op.range()];
            let result = retry(|| net::recv(socket, &mut *room, RecvFlags::DONTWAIT));
            op.more = result.is_ok_and(|(count, _)| count == room.len());
            let is_short = match result {
                Ok((count, _)) => (1..room.len()).contains(&count),
                Err(error) => error == Error::AGAIN,
            };
            if is_short && !entry.has(ENDED) {
                entry.state &= !READABLE;
            }
            op.result = match result {
                Ok((count, _)) => Ok(count as u32),
                Err(error) => Err(Errno(error.raw_os_error())),
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
            op.result = self.send(op, &pieces[used..end]);
            used = end;
        }
        self.accept_all();
        let limit = match wait {
            Wait::Until(end) if self.done.is_empty() => end.saturating_sub(self.now()),
            _ => 0,
        };
        self.wait(Duration::from_nanos(limit))?;
        self.accept_all();
        match done.is_empty() {
            true => std::mem::swap(done, &mut self.done),
            false => done.append(&mut self.done),
        }
        Ok(())
    }
}

impl Epoll {
    fn socket_of(&self, token: Token) -> Option<&OwnedFd> {
        self.table.get(token.slot() as usize)?.socket.as_ref()
    }
}

fn key(key: u64) -> epoll::EventData {
    epoll::EventData::new_u64(key)
}

/// Does it again where a signal came between.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Error::INTR) => {}
            other => return other,
        }
    }
}

/// What is registered of an accepted socket.
const INPUT_EVENTS: epoll::EventFlags =
    epoll::EventFlags::IN.union(epoll::EventFlags::RDHUP).union(epoll::EventFlags::ET);
/// What is registered of one whose room for output matters.
const ALL_EVENTS: epoll::EventFlags = INPUT_EVENTS.union(epoll::EventFlags::OUT);
/// Beyond every slot.
const DOORBELL: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;
/// Events taken by one call, of 12 bytes.
const EVENTS: usize = 512;
const BAD: Errno = Errno(libc::EBADF);
