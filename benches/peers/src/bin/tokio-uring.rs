//! Echo with ringhold's protocol layer on tokio-uring: the same codec, another data plane. A task
//! and a receive buffer per connection; what one receive brings is answered in one send.

use std::io;

use ringhold::protocol::frame::{self, Opcode};
use ringhold::protocol::{Decoder, Event, Kind, Role, request};
use ringhold_peers::{Arguments, MESSAGE_MAX};
use tokio_uring::net::{TcpListener, TcpStream};

fn main() -> io::Result<()> {
    let arguments = Arguments::read();
    // Room for a batch as large as the busiest workload.
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(16_384);
    tokio_uring::builder().entries(4096).uring_builder(&ring).start(async move {
        let listener = arguments.listen()?;
        // Accepts wait in the ring.
        listener.set_nonblocking(false)?;
        let listener = TcpListener::from_std(listener);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // A peer that goes away ends its task, nothing else.
            tokio_uring::spawn(async move { drop(echo(stream, arguments.buffer).await) });
        }
    })
}

async fn echo(stream: TcpStream, size: usize) -> io::Result<()> {
    let decoder = Decoder { role: Role::Server, max_message: MESSAGE_MAX, max_fragments: 1 << 17 };
    let mut rest = Some(shake_hands(&stream).await?);
    let (mut buffer, mut answers, mut partial) = (Vec::with_capacity(size), Vec::new(), None);
    loop {
        let mut input = match rest.take().filter(|rest| !rest.is_empty()) {
            Some(rest) => rest,
            None => {
                let (result, filled) = stream.read(std::mem::take(&mut buffer)).await;
                match result? {
                    0 => return Ok(()),
                    count => debug_assert_eq!(count, filled.len()),
                }
                filled
            }
        };
        let mut at = 0;
        let mut closing = false;
        while let Some(event) =
            decoder.decode(&mut partial, &mut input, &mut at).map_err(|_| broken())?
        {
            let (opcode, payload) = match &event {
                Event::Message(Kind::Text, payload) => (Opcode::Text, payload.bytes(&input)),
                Event::Message(Kind::Binary, payload) => (Opcode::Binary, payload.bytes(&input)),
                Event::Ping(payload) => (Opcode::Pong, payload.bytes(&input)),
                Event::Pong(_) => continue,
                Event::Close(close) => {
                    let code = close.code.0.to_be_bytes();
                    frame::append(&mut answers, Opcode::Close, &code, None);
                    closing = true;
                    break;
                }
            };
            frame::append(&mut answers, opcode, payload, None);
        }
        input.clear();
        buffer = input;
        if !answers.is_empty() {
            let (result, sent) = stream.write_all(answers).await;
            result?;
            answers = sent;
            answers.clear();
        }
        if closing {
            return Ok(());
        }
    }
}

/// Answers the upgrade request. Returns what came behind it.
async fn shake_hands(stream: &TcpStream) -> io::Result<Vec<u8>> {
    let (mut head, mut scanned) = (Vec::new(), 0);
    loop {
        let (result, piece) = stream.read(Vec::with_capacity(1024)).await;
        if result? == 0 {
            return Err(broken());
        }
        head.extend_from_slice(&piece);
        let parsed = request::parse(&head, &mut scanned, 8192).map_err(|_| broken())?;
        let Some((request, len)) = parsed else { continue };
        let upgrade = request.upgrade().map_err(|_| broken())?;
        let mut answer = Vec::new();
        request::write_accept(&mut answer, &upgrade, None, &[]);
        stream.write_all(answer).await.0?;
        return Ok(head.split_off(len));
    }
}

fn broken() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
