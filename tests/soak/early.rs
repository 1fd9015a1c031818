//! Connections that end before they are open.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::peer::PATIENCE;
use super::seat::{Life, Outcome, pause, reset};

impl Life<'_> {
    pub(crate) async fn vanish(&mut self, mut stream: TcpStream, time: Duration) -> Outcome {
        let (_, request) = self.request();
        let part = self.dice.below(request.len());
        let written = stream.write_all(&request[..part]).await;
        written.map_err(|error| format!("in a part of the handshake: {error}"))?;
        pause(&mut self.stop, time).await;
        if self.dice.chance(500) {
            reset(&stream)?;
        }
        self.place.tally.ended(self.end);
        Ok(())
    }

    pub(crate) async fn stall(&mut self, mut stream: TcpStream) -> Outcome {
        let (_, request) = self.request();
        let part = self.dice.below(request.len());
        let written = stream.write_all(&request[..part]).await;
        written.map_err(|error| format!("in a part of the handshake: {error}"))?;
        self.read_refusal(stream, "HTTP/1.1 408").await
    }

    pub(crate) async fn be_refused(&mut self, mut stream: TcpStream) -> Outcome {
        let request = b"GET / HTTP/1.1\r\nHost: soak\r\n\r\n";
        let written = stream.write_all(request).await;
        written.map_err(|error| format!("in the request: {error}"))?;
        self.read_refusal(stream, "HTTP/1.1 426").await
    }

    async fn read_refusal(&mut self, mut stream: TcpStream, status: &str) -> Outcome {
        let mut answer = Vec::new();
        let limit = self.place.plan.handshake_timeout + PATIENCE;
        let read = async {
            let read = timeout(limit, stream.read_to_end(&mut answer)).await;
            let ended = read.map_err(|_| "the server keeps the connection".to_owned())?;
            ended.map_err(|error| format!("while reading {status}: {error}"))
        };
        tokio::select! {
            read = read => drop(read?),
            _ = self.stop.wait_for(|stop| *stop) => {
                self.place.tally.cut.add(1);
                return Ok(());
            }
        }
        if !answer.starts_with(status.as_bytes()) {
            let answer = String::from_utf8_lossy(&answer);
            return Err(format!("{:?} instead of {status}", answer.lines().next()));
        }
        self.place.tally.ended(self.end);
        Ok(())
    }
}
