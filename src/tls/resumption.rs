//! Sessions of servers that we dial: their tickets, kept for connections to come.
//!
//! Owns what is kept, in bounds, and who waits for a ticket. A ticket of TLS 1.3 is used once, so
//! that nobody can tell two connections of ours by it (RFC 8446 appendix C.4); the newest goes
//! first.
//!
//! Invariant: something is kept of at most [`NAMES`] servers: a session of TLS 1.2 each, and at
//! most as many tickets of TLS 1.3 in all as were asked for.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{
    ClientConnectionData, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::kernel::KernelConnection;
use rustls::pki_types::ServerName;

use super::post_handshake::NEW_SESSION_TICKET;

/// What is kept of servers. A core has its own, so nobody waits for its lock.
pub(super) struct KnownServers {
    most: usize,
    /// Whether handshakes go on with what is kept.
    uses: bool,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    tickets: usize,
    servers: HashMap<ServerName<'static>, Server>,
}

/// What is kept of one server.
#[derive(Default)]
struct Server {
    /// Of TLS 1.3, the newest last.
    tickets: VecDeque<Tls13ClientSessionValue>,
    /// The newest session of TLS 1.2, which may go on more than once.
    session: Option<Tls12ClientSessionValue>,
    group: Option<NamedGroup>,
}

/// Waits for the first ticket of a connection whose handshake is done. TLS 1.3 sends tickets behind
/// it, and what makes a session of one is rustls'.
pub(super) struct Waiting {
    session: KernelConnection<ClientConnectionData>,
    /// Bytes of the server's certificates, which it has.
    chain: usize,
    /// Messages of which the last is not whole.
    bytes: Vec<u8>,
}

impl KnownServers {
    /// Room for so many tickets.
    pub(super) fn new(most: usize) -> Self {
        Self { most, uses: true, kept: Arc::default() }
    }

    /// The same, for handshakes that keep tickets and use none.
    pub(super) fn unused(&self) -> Self {
        Self { most: self.most, uses: false, kept: Arc::clone(&self.kept) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// What is kept of a server, if there is room for it.
    fn of(&mut self, name: ServerName<'static>) -> Option<(&mut Server, &mut usize)> {
        let Self { tickets, servers } = self;
        if servers.len() >= NAMES && !servers.contains_key(&name) {
            return None;
        }
        Some((servers.entry(name).or_default(), tickets))
    }
}

impl ClientSessionStore for KnownServers {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        if let Some((server, _)) = self.kept().of(name) {
            server.group = Some(group);
        }
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().servers.get(&name.to_owned())?.group
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        if let Some((server, _)) = self.kept().of(name) {
            server.session = Some(value);
        }
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let kept = self.kept();
        kept.servers.get(&name.to_owned())?.session.clone().filter(|_| self.uses)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        if let Some(server) = self.kept().servers.get_mut(name) {
            server.session = None;
        }
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut kept = self.kept();
        let Some((server, tickets)) = kept.of(name) else { return };
        if *tickets >= self.most {
            // Others' tickets make no room.
            *tickets -= usize::from(server.tickets.pop_front().is_some());
        }
        if *tickets < self.most {
            server.tickets.push_back(value);
            *tickets += 1;
        }
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        if !self.uses {
            return None;
        }
        let mut kept = self.kept();
        let taken = kept.servers.get_mut(name)?.tickets.pop_back();
        kept.tickets -= usize::from(taken.is_some());
        taken
    }
}

impl Waiting {
    /// `chain`: bytes of the server's certificates.
    pub(super) fn new(session: KernelConnection<ClientConnectionData>, chain: usize) -> Self {
        Self { session, chain, bytes: Vec::new() }
    }

    /// Takes the content of a record of messages, which the record layer has found well-formed.
    /// Whether the wait is over.
    pub(super) fn take(&mut self, content: &[u8]) -> bool {
        self.bytes.extend_from_slice(content);
        while let Some((&[kind, high, middle, low], rest)) = self.bytes.split_first_chunk() {
            let len = u32::from_be_bytes([0, high, middle, low]) as usize;
            if len > TICKET_MAX {
                return true;
            }
            let Some(message) = rest.get(..len) else { return false };
            if kind == NEW_SESSION_TICKET {
                // One that rustls does not like is not kept.
                let _ = self.session.handle_new_session_ticket(message);
                return true;
            }
            self.bytes.drain(..4 + len);
        }
        false
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + KEY_SCHEDULE + self.chain + self.bytes.capacity()
    }
}

impl fmt::Debug for KnownServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownServers")
            .field("tickets", &self.kept().tickets)
            .finish_non_exhaustive()
    }
}

/// Servers of which something is kept.
const NAMES: usize = 256;
/// Bytes of a ticket, at most.
const TICKET_MAX: usize = 8 << 10;
/// Bytes that rustls' object points to besides certificates: its key schedule, with secrets of 32
/// bytes and the name of the server.
const KEY_SCHEDULE: usize = 1 << 9;
