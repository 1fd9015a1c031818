//! What the bare loops have in common: arguments, a listener, the handshake in blocking style
//! (which is not what they measure), and the lengths of a frame.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use ringhold::protocol::request;
use socket2::{Domain, Socket, Type};

/// `PORT [NUMBER]` from the command line. Without a port, `cargo bench` runs all benches: says so.
#[allow(dead_code, reason = "the floor has more of them")]
pub(crate) fn arguments(name: &str) -> Option<(u16, Option<usize>)> {
    let mut numbers = std::env::args().skip(1).filter_map(|it| it.parse::<usize>().ok());
    let port = numbers.next().and_then(|port| u16::try_from(port).ok());
    if port.is_none() {
        println!("{name}: give a port to serve on, e.g. `cargo bench --bench {name} -- 9002`");
    }
    Some((port?, numbers.next()))
}

/// Listens on loopback and says so.
pub(crate) fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    println!("listening on ws://{}", listener.local_addr()?);
    Ok(listener)
}

/// Reads the upgrade request and accepts it.
pub(crate) fn shake_hands(socket: &mut TcpStream) -> Option<()> {
    socket.set_nonblocking(false).ok()?;
    socket.set_nodelay(true).ok()?;
    let (mut head, mut scanned) = (Vec::new(), 0);
    loop {
        let mut piece = [0; 1024];
        match socket.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(count) => head.extend_from_slice(&piece[..count]),
        }
        let Some((request, _)) = request::parse(&head, &mut scanned, 8192).ok()? else { continue };
        let mut answer = Vec::new();
        request::write_accept(&mut answer, &request.upgrade().ok()?, None, &[]);
        return socket.write_all(&answer).ok();
    }
}

/// Lengths of a masked frame's header and payload, if all of the header is there.
#[allow(dead_code, reason = "the holder reads no frame")]
pub(crate) fn parse(bytes: &[u8]) -> Option<(usize, usize)> {
    let (header, len) = match bytes.get(1)? & 0x7f {
        126 => (8, u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (14, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        len => (6, u64::from(len)),
    };
    (bytes.len() >= header).then_some((header, len as usize))
}

/// Capped by net.core.somaxconn.
const BACKLOG: i32 = 65_535;
