//! One TCP connection as both its ends see it: bytes on their way, and how it ended.

use std::collections::VecDeque;
use std::net::SocketAddr;

/// One TCP connection, both directions. Its index is its client's.
pub struct Wire {
    pub address: SocketAddr,
    /// Whose the server's end is, once that is decided.
    pub core: Option<usize>,
    /// Received by the server's side, not yet by the server.
    pub inbox: VecDeque<u8>,
    /// The client's side has ended its stream.
    pub fin: bool,
    /// The connection is broken, as the server will find out.
    pub error: Option<i32>,
    /// Sent by the server, not yet read by the client.
    pub outbox: VecDeque<u8>,
    /// What `outbox` holds at most.
    pub room: usize,
    /// The server has ended its stream.
    pub shut: bool,
    /// The server has closed its descriptor.
    pub gone: bool,
    /// ... with input unread, so the client is reset.
    pub torn: bool,
    /// The client has closed: bytes sent to it break the connection.
    pub deaf: bool,
    /// When the server last received from it.
    pub heard_ns: u64,
    /// When the client last read from it.
    pub taken_ns: u64,
    /// For how long it had read nothing when that was asked last; `None` if no answer was given.
    pub still_ns: Option<u64>,
}

impl Wire {
    pub fn new(address: SocketAddr, room: usize) -> Self {
        Self {
            address,
            core: None,
            inbox: VecDeque::new(),
            fin: false,
            error: None,
            outbox: VecDeque::new(),
            room,
            shut: false,
            gone: false,
            torn: false,
            deaf: false,
            heard_ns: 0,
            taken_ns: 0,
            still_ns: None,
        }
    }

    pub fn is_readable(&self) -> bool {
        !self.inbox.is_empty() || self.fin || self.error.is_some()
    }

    pub fn is_writable(&self) -> bool {
        self.error.is_some() || self.outbox.len() <= self.room * 2 / 3
    }
}
