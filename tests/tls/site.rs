//! Clients of a gateway over TLS: requests on connections that stay, and sessions.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::peer::{SHAPES, client_config, unbroken};
use crate::support::PATIENCE;
use crate::support::gateway::{API_KEY, PATH, token_of};

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

pub(crate) fn tcp(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn dial(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<Stream> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let tls = ClientConnection::new(config.clone(), name).unwrap();
    let mut stream = StreamOwned::new(tls, tcp(address));
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(stream)
}

pub(crate) fn secure(address: SocketAddr) -> Stream {
    dial(address, &Arc::new(client_config(SHAPES[0])), "localhost").unwrap()
}

/// One request on a connection that stays: status and body.
pub(crate) fn ask(stream: &mut Stream, head: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {API_KEY}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&answer));
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.expect("it has a length").parse().unwrap();
            if body.len() >= length {
                return (head[9..12].parse().unwrap(), body.to_owned());
            }
        }
        let mut piece = [0; 4096];
        let count = unbroken(|| stream.read(&mut piece)).unwrap();
        assert!(count > 0, "{text}");
        answer.extend_from_slice(&piece[..count]);
    }
}

pub(crate) fn upgrade(stream: Stream) -> WebSocket<Stream> {
    tungstenite::client(format!("wss://localhost{PATH}"), stream).unwrap().0
}

pub(crate) fn reply(socket: &mut WebSocket<Stream>, command: &Value) -> Value {
    socket.send(Message::text(command.to_string())).unwrap();
    loop {
        let text = socket.read().unwrap().into_text().unwrap();
        let reply: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        if reply["id"] == command["id"] {
            return reply;
        }
    }
}

pub(crate) fn connected(address: SocketAddr) -> WebSocket<Stream> {
    let mut socket = upgrade(secure(address));
    let connect = json!({"id": 1, "connect": {"token": token_of("u")}});
    assert!(reply(&mut socket, &connect)["connect"]["client"].is_string());
    let subscribe = json!({"id": 2, "subscribe": {"channel": "news"}});
    assert!(reply(&mut socket, &subscribe)["subscribe"].is_object());
    socket
}

pub(crate) fn metric(stream: &mut Stream, name: &str) -> u64 {
    let (status, page) = ask(stream, "GET /metrics", "");
    assert_eq!(status, 200);
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("ringhold_{name} ")));
    line.unwrap_or_else(|| panic!("{name}: {page}")).parse().unwrap()
}
