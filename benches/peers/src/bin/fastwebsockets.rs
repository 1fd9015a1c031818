//! Echo with fastwebsockets behind hyper's upgrade, on tokio's current-thread runtime.

use std::convert::Infallible;

use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use fastwebsockets::{FragmentCollector, OpCode, WebSocketError};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ringhold_peers::{Arguments, MESSAGE_MAX, set_nodelay};
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::from_std(Arguments::read().listen()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        set_nodelay(&stream)?;
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        // A peer that goes away ends its task, nothing else.
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
    }
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let Ok((response, upgraded)) = upgrade(&mut request) else {
        let mut refusal = Response::new(Empty::new());
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(refusal);
    };
    // Without tokio's budget, as the library's own server has it.
    tokio::spawn(tokio::task::unconstrained(async move { drop(echo(upgraded).await) }));
    Ok(response)
}

async fn echo(upgraded: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = upgraded.await?;
    socket.set_max_message_size(MESSAGE_MAX);
    let mut socket = FragmentCollector::new(socket);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            OpCode::Close => return Ok(()),
            // Pings are answered by the library.
            _ => {}
        }
    }
}
