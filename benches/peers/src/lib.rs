//! What every peer does in the same way: arguments, the listener, the socket options, the first
//! line. Never touches a message.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;

use socket2::{Domain, SockRef, Socket, Type};

/// `PORT [PAYLOAD]`: where to listen, and how many payload bytes the messages will have. Peers
/// whose receive buffers are configurable make them as large as one message needs, which is the
/// best of what they offer for memory and for speed.
#[derive(Clone, Copy, Debug)]
pub struct Arguments {
    pub port: u16,
    pub buffer: usize,
}

impl Arguments {
    /// From the command line; ends the process if it is wrong.
    pub fn read() -> Self {
        let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
        let port = numbers.next().and_then(Result::ok).and_then(|port| u16::try_from(port).ok());
        let payload = numbers.next().unwrap_or(Ok(32));
        let (Some(port), Ok(payload)) = (port, payload) else {
            eprintln!("give a port, and the payload of the messages in bytes");
            std::process::exit(2);
        };
        Self { port, buffer: (payload + HEADER_MAX).clamp(BUFFER_MIN, BUFFER_MAX) }
    }

    /// Listens on loopback, non-blocking, and says so.
    pub fn listen(self) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)).into())?;
        socket.listen(BACKLOG)?;
        println!("listening on ws://127.0.0.1:{}", self.port);
        Ok(socket.into())
    }
}

/// Sends small messages at once.
pub fn set_nodelay(stream: &impl AsFd) -> io::Result<()> {
    SockRef::from(stream).set_tcp_nodelay(true)
}

/// The longest message taken, the same for all.
pub const MESSAGE_MAX: usize = 64 * 1024 * 1024;

/// Capped by net.core.somaxconn.
const BACKLOG: i32 = 65_535;

/// Longest frame header of a client (RFC 6455 section 5.2).
const HEADER_MAX: usize = 14;

/// Receive buffers: a page, to what the peers take by default.
const BUFFER_MIN: usize = 4 * 1024;
const BUFFER_MAX: usize = 128 * 1024;
