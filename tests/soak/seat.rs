//! The clients: each seat holds one connection after the other, and each ends in its own way.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ringhold::CloseCode;
use ringhold::protocol::response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::dice::Dice;
use super::peer::{Over, PATIENCE, Peer, Woken};
use super::plan::{ENDS, End, Plan, SIZE_MAX};
use super::tally::Tally;

/// What all seats share.
pub(crate) struct Place {
    pub(crate) plan: Plan,
    pub(crate) address: SocketAddr,
    pub(crate) tally: Tally,
    pub(crate) stop: watch::Receiver<bool>,
}

/// What went wrong, in words.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// Holds connections until the run ends.
pub(crate) async fn sit(place: &Place, number: usize) {
    let plan = &place.plan;
    let mut stop = place.stop.clone();
    let start = plan.ramp.mul_f64(number as f64 / plan.connections as f64);
    if pause(&mut stop, start).await {
        return;
    }
    // The first seats see to it that no way of ending is left to chance.
    let mut forced = (number < 4 * ENDS.len()).then(|| ENDS[number % ENDS.len()].0);
    for turn in 0u64.. {
        let mut dice = Dice::new(plan.seed, (number as u64) << 32 | turn);
        let end = forced.take().unwrap_or_else(|| dice.end());
        let mut life = Life { place, number, end, dice, stop: stop.clone() };
        if let Err(text) = life.live().await {
            place.tally.fail(format!("connection {number}.{turn} ({end:?}): {text}"));
            // Whatever it was, it should not be repeated at full speed.
            pause(&mut stop, Duration::from_secs(1)).await;
        }
        if *stop.borrow() {
            return;
        }
    }
}

/// Returns whether the run ends.
pub(crate) async fn pause(stop: &mut watch::Receiver<bool>, time: Duration) -> bool {
    timeout(time, stop.wait_for(|stop| *stop)).await.is_ok()
}

/// One connection from its first packet to its last.
pub(crate) struct Life<'a> {
    pub(crate) place: &'a Place,
    number: usize,
    pub(crate) end: End,
    pub(crate) dice: Dice,
    pub(crate) stop: watch::Receiver<bool>,
}

impl<'a> Life<'a> {
    async fn live(&mut self) -> Outcome {
        let time = self.dice.life(self.end, self.place.plan.life);
        let stream = timeout(PATIENCE, self.connect()).await;
        let stream = stream.map_err(|_| "no connection in time")?;
        let stream = stream.map_err(|error| format!("no connection: {error}"))?;
        self.place.tally.connected.add(1);
        match self.end {
            End::MidHandshake => return self.vanish(stream, time).await,
            End::Stall => return self.stall(stream).await,
            End::Refused => return self.be_refused(stream).await,
            _ => {}
        }
        let mut peer =
            timeout(PATIENCE, self.open(stream)).await.map_err(|_| "no 101 in time")??;
        let woken = self.talk(&mut peer, Instant::now() + time).await?;
        if woken == Woken::Stop {
            // Everyone leaves, and in good order.
            self.end = End::Close;
        }
        self.finish(&mut peer).await
    }

    async fn connect(&mut self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        // The ports of one address are too few for so many that close first and wait (TIME-WAIT).
        socket.set_reuseaddr(true)?;
        let from = Ipv4Addr::new(127, 0, 0, 2 + (self.number % 16) as u8);
        socket.bind((from, 0).into())?;
        if self.end == End::Slow {
            socket.set_recv_buffer_size(8 * 1024)?;
        }
        let stream = socket.connect(self.place.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub(crate) fn request(&mut self) -> ([u8; 16], Vec<u8>) {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.dice.draw().to_ne_bytes());
        key[8..].copy_from_slice(&self.dice.draw().to_ne_bytes());
        let mut request = Vec::new();
        response::write_request(&mut request, "soak", "/echo", key, &[]);
        (key, request)
    }

    async fn open(&mut self, mut stream: TcpStream) -> Outcome<Peer<'a>> {
        let text = |error: io::Error| format!("in the handshake: {error}");
        let (key, request) = self.request();
        // Some requests come in two pieces.
        let cut = if self.dice.chance(100) { self.dice.below(request.len()) } else { 0 };
        if cut > 0 {
            stream.write_all(&request[..cut]).await.map_err(text)?;
            sleep(Duration::from_millis(20)).await;
        }
        stream.write_all(&request[cut..]).await.map_err(text)?;
        let mut answer = Vec::with_capacity(512);
        loop {
            if stream.read_buf(&mut answer).await.map_err(text)? == 0 {
                return Err(format!("closed after {} bytes of the answer", answer.len()));
            }
            let parsed = response::parse(&answer, key, 4096);
            if let Some((len, _)) = parsed.map_err(|rejected| rejected.to_string())? {
                let mut peer = Peer::new(stream, self.dice.clone(), &self.place.tally);
                peer.decode(&mut answer[len..])?;
                return Ok(peer);
            }
        }
    }

    /// Sends and verifies until `until`, or until the run ends.
    async fn talk(&mut self, peer: &mut Peer<'a>, until: Instant) -> Outcome<Woken> {
        loop {
            let next = Instant::now() + peer.dice.between(self.place.plan.pauses);
            let woken = peer.run(next.min(until), Some(&mut self.stop), |_| false).await?;
            if woken == Woken::Over {
                return Err(format!("ended by the server: {:?} {:?}", peer.over, peer.closed));
            }
            if peer.waiting_since().is_some_and(|since| since.elapsed() > PATIENCE) {
                return Err(format!("{} messages without an echo", peer.waiting()));
            }
            if woken == Woken::Stop || Instant::now() >= until {
                return Ok(woken);
            }
            act(peer);
            if peer.dice.chance(80) {
                // In two parts, cut anywhere.
                peer.hold_some();
                let soon = Instant::now() + Duration::from_millis(30);
                peer.run(soon, None, |_| false).await?;
                peer.hold_none();
            }
        }
    }

    async fn finish(&mut self, peer: &mut Peer<'a>) -> Outcome {
        match self.end {
            End::Close => self.close(peer).await?,
            End::Drop => {}
            End::Reset => reset(&peer.stream)?,
            End::MidFrame => self.mid_frame(peer).await?,
            End::HalfClose => self.half_close(peer).await?,
            End::Violation => self.violate(peer).await?,
            End::Mute => {
                peer.answers = false;
                if !self.await_end(peer).await? {
                    return Ok(());
                }
            }
            End::Idle | End::IdleMute => {
                if !self.idle(peer).await? {
                    return Ok(());
                }
            }
            End::Slow => {
                if !self.read_nothing(peer).await? {
                    return Ok(());
                }
            }
            End::MidHandshake | End::Stall | End::Refused => {}
        }
        self.place.tally.ended(self.end);
        Ok(())
    }

    /// Section 7.1.2, with messages still on their way: their echoes come before the close frame.
    async fn close(&mut self, peer: &mut Peer<'a>) -> Outcome {
        let code = [CloseCode::NORMAL, CloseCode::GOING_AWAY, CloseCode(4000)][peer.dice.below(3)];
        if peer.dice.chance(300) {
            act(peer);
        }
        peer.close(code, "enough");
        expect_close(peer, code).await
    }

    async fn violate(&mut self, peer: &mut Peer<'a>) -> Outcome {
        if peer.dice.chance(300) {
            act(peer);
        }
        let cases: [(&[u8], CloseCode); 11] = [
            // Reserved bits, a reserved opcode, no mask, a fragmented ping, a ping too long.
            (&[0xc1, 0x80, 1, 2, 3, 4], CloseCode::PROTOCOL_ERROR),
            (&[0x83, 0x80, 1, 2, 3, 4], CloseCode::PROTOCOL_ERROR),
            (&[0x82, 0x01, 0], CloseCode::PROTOCOL_ERROR),
            (&[0x09, 0x80, 1, 2, 3, 4], CloseCode::PROTOCOL_ERROR),
            (&[0x89, 0xfe, 1, 0, 0, 0, 0, 0], CloseCode::PROTOCOL_ERROR),
            // A continuation of nothing, a length in too many bytes.
            (&[0x80, 0x80, 0, 0, 0, 0], CloseCode::PROTOCOL_ERROR),
            (&[0x82, 0xfe, 0, 5, 0, 0, 0, 0], CloseCode::PROTOCOL_ERROR),
            // Close codes 1005 and of one byte.
            (&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xed], CloseCode::PROTOCOL_ERROR),
            (&[0x88, 0x81, 0, 0, 0, 0, 3], CloseCode::PROTOCOL_ERROR),
            // No UTF-8, and 4 GiB.
            (&[0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28], CloseCode::INVALID_DATA),
            (&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], CloseCode::TOO_BIG),
        ];
        let (bytes, code) = cases[peer.dice.below(cases.len())];
        peer.answers = false;
        peer.raw(bytes);
        expect_close(peer, code).await
    }

    async fn mid_frame(&mut self, peer: &mut Peer<'a>) -> Outcome {
        // A pong behind it would be taken for the rest of it.
        peer.answers = false;
        peer.part_of_frame();
        let limit = Instant::now() + PATIENCE;
        if peer.run(limit, None, Peer::is_written).await? != Woken::Done {
            return Err("a part of a frame was not taken".to_owned());
        }
        if peer.dice.chance(500) { reset(&peer.stream) } else { Ok(()) }
    }

    async fn half_close(&mut self, peer: &mut Peer<'a>) -> Outcome {
        let limit = Instant::now() + PATIENCE;
        if peer.run(limit, None, Peer::is_written).await? != Woken::Done {
            return Err("what was queued was not taken".to_owned());
        }
        socket2::SockRef::from(&peer.stream)
            .shutdown(std::net::Shutdown::Write)
            .map_err(|error| format!("shutdown: {error}"))?;
        peer.answers = false;
        match peer.run(limit, None, |_| false).await? {
            Woken::Over => Ok(()),
            _ => Err("the server keeps its half".to_owned()),
        }
    }

    /// Waits for the server to end the connection. False: the run ended first.
    async fn await_end(&mut self, peer: &mut Peer<'a>) -> Outcome<bool> {
        let limit = Instant::now() + 2 * PATIENCE;
        match peer.run(limit, Some(&mut self.stop), |_| false).await? {
            Woken::Over => Ok(true),
            Woken::Stop => {
                self.place.tally.cut.add(1);
                Ok(false)
            }
            _ => Err("not ended by the server".to_owned()),
        }
    }

    async fn idle(&mut self, peer: &mut Peer<'a>) -> Outcome<bool> {
        let limit = Instant::now() + 2 * PATIENCE;
        let closing = |peer: &Peer<'a>| peer.closed.is_some();
        // Answering pings and the close frame, or only the pings.
        if self.end == End::IdleMute {
            let woken = peer.run(limit, Some(&mut self.stop), |peer| peer.is_settled()).await?;
            if woken == Woken::Done {
                peer.answers_close = false;
            }
        }
        match peer.run(limit, Some(&mut self.stop), closing).await? {
            Woken::Done => {}
            Woken::Stop => {
                self.place.tally.cut.add(1);
                return Ok(false);
            }
            woken => return Err(format!("{woken:?} instead of a close frame: {:?}", peer.over)),
        }
        if peer.closed.as_ref().map(|frame| frame.code) != Some(CloseCode::GOING_AWAY) {
            return Err(format!("idle, and closed with {:?}", peer.closed));
        }
        // Not to be cut any more: the server has counted it as idle.
        match peer.run(limit, None, |_| false).await? {
            Woken::Over => Ok(true),
            _ => Err("not ended by the server".to_owned()),
        }
    }

    /// Sends until nothing more is taken, and reads nothing until the server has given up.
    async fn read_nothing(&mut self, peer: &mut Peer<'a>) -> Outcome<bool> {
        peer.reads = false;
        for _ in 0..SLOW_BYTES / SLOW_MESSAGE {
            peer.message(SLOW_MESSAGE);
            let limit = Instant::now() + Duration::from_secs(1);
            match peer.run(limit, Some(&mut self.stop), Peer::is_written).await? {
                Woken::Done => {}
                Woken::Time | Woken::Over => break,
                Woken::Stop => {
                    self.place.tally.cut.add(1);
                    return Ok(false);
                }
            }
        }
        // A peer that stops is found between one and one and a half times the limit.
        let enough = self.place.plan.write_timeout * 3 / 2 + Duration::from_secs(2);
        if pause(&mut self.stop, enough).await {
            self.place.tally.cut.add(1);
            return Ok(false);
        }
        // Reading now, it finds what the server had sent, and then the end.
        peer.reads = true;
        if peer.over == Some(Over::Reset) {
            return Ok(true);
        }
        self.await_end(peer).await
    }
}

/// What a client does from time to time: one message, or a few, or a burst of many small ones.
fn act(peer: &mut Peer<'_>) {
    match peer.dice.below(100) {
        0..80 => {
            let size = peer.dice.size();
            peer.message(size);
        }
        // Only a message is a sign of not being idle.
        80..90 => {
            peer.ping();
            let size = peer.dice.below(126);
            peer.message(size);
        }
        90..99 => {
            for _ in 0..2 + peer.dice.below(7) {
                let size = peer.dice.size();
                peer.message(size);
                if peer.dice.chance(100) {
                    peer.ping();
                }
            }
        }
        _ => {
            for _ in 0..50 {
                let size = peer.dice.below(200);
                peer.message(size);
            }
        }
    }
}

/// Every echo, then the close frame with this code, then the end.
async fn expect_close(peer: &mut Peer<'_>, code: CloseCode) -> Outcome {
    let limit = Instant::now() + PATIENCE;
    let woken = peer.run(limit, None, |_| false).await?;
    let closed = peer.closed.as_ref().map(|frame| frame.code);
    if woken != Woken::Over || closed != Some(code) {
        return Err(format!(
            "{woken:?} with {:?} and {:?} instead of a close frame with {code}",
            peer.over, peer.closed
        ));
    }
    if peer.waiting() > 0 {
        return Err(format!("closed with {code}, {} echoes missing", peer.waiting()));
    }
    match peer.over {
        Some(Over::End) => Ok(()),
        over => Err(format!("{over:?} behind the close frame with {code}")),
    }
}

/// Makes closing the descriptor a reset.
pub(crate) fn reset(stream: &TcpStream) -> Outcome {
    let set = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    set.map_err(|error| format!("SO_LINGER: {error}"))
}

/// What a client that does not read sends at most: more than all buffers on the way back hold.
const SLOW_BYTES: usize = 8 * 1024 * 1024;

const SLOW_MESSAGE: usize = SIZE_MAX / 4;
