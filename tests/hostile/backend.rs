//! An application's backend for attacks on hooks: prompt, slow, or one that never answers. Its
//! threads end with the process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Starts it, and says where it is.
pub(crate) fn start() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// The requests of one connection, until it ends.
fn serve(stream: TcpStream) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let path = line.split(' ').nth(1)?.to_owned();
        let mut length = 0;
        loop {
            line.clear();
            reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        reader.read_exact(&mut vec![0; length]).ok()?;
        match &*path {
            // Until the server gives up: then it closes the connection.
            "/hang" => drop(reader.read(&mut [0])),
            "/slow" => std::thread::sleep(Duration::from_millis(20)),
            _ => {}
        }
        let body = match &*path {
            "/connect" => r#"{"result":{"user":"u"}}"#,
            "/rpc" | "/slow" => r#"{"result":{"data":{}}}"#,
            _ => r#"{"result":{}}"#,
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        writer.write_all((head + body).as_bytes()).ok()?;
    }
}
