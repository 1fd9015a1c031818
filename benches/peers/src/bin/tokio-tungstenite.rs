//! Echo with tokio-tungstenite on tokio's current-thread runtime.

use futures_util::{SinkExt, StreamExt};
use ringhold_peers::{Arguments, MESSAGE_MAX, set_nodelay};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::read();
    let listener = TcpListener::from_std(arguments.listen()?)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(arguments.buffer)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    loop {
        let (stream, _) = listener.accept().await?;
        set_nodelay(&stream)?;
        // A peer that goes away ends its task, nothing else.
        tokio::spawn(async move { drop(echo(stream, config).await) });
    }
}

async fn echo(stream: TcpStream, config: WebSocketConfig) -> Result<(), Error> {
    let mut socket = accept_async_with_config(stream, Some(config)).await?;
    while let Some(message) = socket.next().await {
        // Pings and closes are answered by the library.
        if let message @ (Message::Text(_) | Message::Binary(_)) = message? {
            socket.send(message).await?;
        }
    }
    Ok(())
}
