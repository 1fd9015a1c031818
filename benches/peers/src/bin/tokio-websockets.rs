//! Echo with tokio-websockets on tokio's current-thread runtime.

use futures_util::{SinkExt, StreamExt};
use ringhold_peers::{Arguments, MESSAGE_MAX, set_nodelay};
use tokio::net::{TcpListener, TcpStream};
use tokio_websockets::{Config, Error, Limits, ServerBuilder};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::from_std(Arguments::read().listen()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        set_nodelay(&stream)?;
        // A peer that goes away ends its task, nothing else. Without tokio's budget, as the library
        // advises: the socket itself is the limit.
        tokio::spawn(tokio::task::unconstrained(async move { drop(echo(stream).await) }));
    }
}

async fn echo(stream: TcpStream) -> Result<(), Error> {
    // One frame per message, whatever its size.
    let config = Config::default().frame_size(MESSAGE_MAX);
    let limits = Limits::default().max_payload_len(Some(MESSAGE_MAX));
    let builder = ServerBuilder::new().config(config).limits(limits);
    let (_, mut socket) = builder.accept(stream).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}
