//! Echo with compio's WebSocket (tungstenite on io_uring completions), on one runtime.

use compio::net::{TcpListener, TcpStream};
use compio::runtime;
use compio::ws::tungstenite::protocol::WebSocketConfig;
use compio::ws::tungstenite::{Error, Message};
use compio::ws::{Config, accept_async_with_config};
use ringhold_peers::{Arguments, MESSAGE_MAX, set_nodelay};

#[compio::main]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::read();
    let listener = TcpListener::from_std(arguments.listen()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        set_nodelay(&stream)?;
        // A peer that goes away ends its task, nothing else.
        runtime::spawn(async move { drop(echo(stream, arguments.buffer).await) }).detach();
    }
}

async fn echo(stream: TcpStream, buffer: usize) -> Result<(), Error> {
    let socket = WebSocketConfig::default()
        .read_buffer_size(buffer)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let config = Config::from(socket).with_buffer_sizes(buffer, MESSAGE_MAX);
    let mut socket = accept_async_with_config(stream, config).await?;
    loop {
        match socket.read().await? {
            message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).await?,
            Message::Close(_) => return Ok(()),
            // Pings are answered by the library.
            _ => {}
        }
    }
}
