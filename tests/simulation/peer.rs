//! The clients: each connects once, behaves as its character says, and checks that what it
//! receives is a valid server's stream with its own messages in it, in order, unmodified, once.

use std::collections::VecDeque;

use ringhold::Policy;
use ringhold::protocol::frame::{Opcode, RSV1};
use ringhold::protocol::{Arrival, CloseCode, Decoder, Event, Kind, Partial, Role, response};

use super::bytes::{Numbers, Order, content, put, put_with, refused};
use super::introduction::Introduction;
use super::kernel::Kernel;
use super::packing;
use super::plan::Plan;
use super::script::{Character, EMPTY_WITH_RSV1, Script, Step};
use super::session::Session;
use super::streamer::Streamer;

/// How far a client's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not connected.
    Away,
    /// The request is out, or on its way.
    Upgrading,
    Open,
    /// Refused with an HTTP status.
    Refused(u16),
    /// It is over.
    Done,
}

pub struct Peer {
    pub index: usize,
    pub port: u16,
    pub script: Script,
    pub introduction: Introduction,
    pub tls: Option<Session>,
    /// It has read up to the end of what the server sent.
    pub saw_end: bool,
    pub stage: Stage,
    /// Bytes that are still to be written.
    out: VecDeque<u8>,
    key: [u8; 16],
    head: Vec<u8>,
    partial: Option<Box<Partial>>,
    stream: Streamer,
    numbers: Numbers,
    /// Messages sent that have not come back.
    pub expected: VecDeque<(Kind, Vec<u8>)>,
    pub echoes: u64,
    pub pongs: u64,
    pings: VecDeque<Vec<u8>>,
    /// The window, in bits, that it offers compression with; whether that was agreed on.
    offer: Option<u8>,
    packs: bool,
    /// It said [`EMPTY_WITH_RSV1`] before it knew whether compression is agreed on.
    guessed: bool,
    close_sent: Option<CloseCode>,
    pub close_received: Option<CloseCode>,
    /// It no longer looks at what it receives.
    pub away_ns: Option<u64>,
    /// Whether a missing echo is a fault.
    pub strict: bool,
    /// Bytes of a message of a burst.
    burst: usize,
    /// When it connected, and how long it must at least be given for its request.
    since_ns: u64,
    patience_ns: u64,
    sent: u64,
    /// Whether it did something, and for how many acts it did not.
    busy: bool,
    idle: u32,
}

impl Peer {
    pub fn new(index: usize, script: Script, plan: &Plan, patience_ns: u64) -> Self {
        let order = Order::of(plan.config.outbox_policy, plan.calm);
        Self {
            index,
            port: 1000 + index as u16,
            script,
            introduction: Introduction::default(),
            tls: plan.session(index),
            saw_end: false,
            stage: Stage::Away,
            out: VecDeque::new(),
            key: [index as u8; 16],
            head: Vec::new(),
            partial: None,
            stream: Streamer::new(Numbers::new(order)),
            numbers: Numbers::new(order),
            expected: VecDeque::new(),
            echoes: 0,
            pongs: 0,
            pings: VecDeque::new(),
            offer: plan.offer(index),
            packs: false,
            guessed: false,
            close_sent: None,
            close_received: None,
            away_ns: None,
            strict: plan.config.outbox_policy == Policy::CloseSlow,
            burst: (plan.config.max_message - 20).min(70_000),
            since_ns: 0,
            patience_ns,
            sent: 0,
            busy: false,
            idle: 0,
        }
    }

    /// Acts once. Returns when it wants to act again.
    pub fn act(&mut self, kernel: &mut Kernel) -> Result<Option<u64>, String> {
        match self.stage {
            Stage::Away => self.connect(kernel),
            Stage::Done => return Ok(None),
            _ => {
                self.read(kernel)?;
                if self.stage != Stage::Done {
                    self.write(kernel);
                }
            }
        }
        // Whoever has nothing to do looks ever less often.
        self.idle = if self.busy { 0 } else { (self.idle + 1).min(12) };
        self.busy = false;
        let pace = u64::from(self.script.pace_us) * 1000;
        let pace = (pace << self.idle).min(IDLE_NS.max(pace));
        let wait = 1 + u64::from(kernel.rng.below(1000)) * pace / 1000;
        Ok((self.stage != Stage::Done).then_some(kernel.now + wait))
    }

    /// Whether some of what it says is not written yet.
    pub fn has_more_to_say(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether the rule that it meant to break did not hold: compression was agreed on.
    pub fn guessed_well(&self) -> bool {
        self.guessed && self.packs
    }

    fn connect(&mut self, kernel: &mut Kernel) {
        match kernel.connect(self.index) {
            Some(true) => {}
            // It asks again in a second, as TCP does.
            None => return self.script.pace_us = 1_000_000,
            Some(false) => return self.finish(kernel, "refused"),
        }
        kernel.note(|| format!("peer {} {:?}", self.index, self.script.character));
        self.stage = Stage::Upgrading;
        self.since_ns = kernel.now;
        let mut request = Vec::new();
        let mut lines = self.introduction.lines.clone();
        let origin = self.introduction.origin;
        lines.extend(origin.map(|origin| ("Origin".to_owned(), origin.to_owned())));
        lines.extend(self.offer.map(packing::offer));
        response::write_request(&mut request, "sim", &self.script.path, self.key, &lines);
        if let Some(bytes) = &self.script.request {
            request.clone_from(bytes);
            if self.script.character == Character::Streamer {
                // It opens, too, and so is introduced, too: behind the first line, as are all
                // requests before it.
                let lines = self.introduction.lines.iter();
                let lines: String = lines.map(|(k, v)| format!("{k}: {v}\r\n")).collect();
                let text = String::from_utf8_lossy(&request);
                let introduced = |version: &str| format!("{version}{lines}");
                let text = text.replace("HTTP/1.1\r\n", &introduced("HTTP/1.1\r\n"));
                request = text.replace("HTTP/1.0\r\n", &introduced("HTTP/1.0\r\n")).into_bytes();
            }
        }
        match &mut self.tls {
            Some(tls) => tls.introduce(&self.introduction.header),
            None => self.out.extend(&self.introduction.header),
        }
        self.out.extend(request);
    }

    fn finish(&mut self, kernel: &mut Kernel, how: &'static str) {
        kernel.seen.count(how);
        self.stage = Stage::Done;
        self.partial = None;
    }

    /// Reads as much as it likes, and what came is checked.
    fn read(&mut self, kernel: &mut Kernel) -> Result<(), String> {
        let wire = &mut kernel.wires[self.index];
        let count = self.script.appetite.min(wire.outbox.len());
        let mut bytes: Vec<u8> = wire.outbox.drain(..count).collect();
        if wire.torn && kernel.rng.one_in(4) {
            kernel.wires[self.index].outbox.clear();
        }
        if count > 0 {
            kernel.wires[self.index].taken_ns = kernel.now;
            self.busy = true;
            kernel.stir(self.index);
            if let Some(tls) = &mut self.tls {
                bytes = tls.receive(&bytes, &mut kernel.rng, &mut kernel.seen)?;
            }
            if !bytes.is_empty() {
                self.on_bytes(&mut bytes, kernel)?;
            }
        }
        let wire = &kernel.wires[self.index];
        let over = wire.gone || wire.shut;
        let seen = wire.outbox.is_empty() || wire.gone && self.script.appetite == 0;
        if over && seen {
            let reset = wire.torn;
            if !reset && self.partial.is_some() && self.stage == Stage::Open {
                let broken = wire.error.is_some();
                // A stream that ends inside a frame is a server that gave up in the middle.
                kernel.seen.count(if broken { "cut by error" } else { "cut inside a frame" });
            }
            if !reset && self.tls.as_ref().is_some_and(Session::is_partial) {
                kernel.seen.count("TLS: cut inside a record");
            }
            self.saw_end = !reset;
            self.hang_up(kernel);
            self.finish(kernel, if reset { "peer was reset" } else { "peer saw the end" });
        }
        Ok(())
    }

    fn on_bytes(&mut self, bytes: &mut [u8], kernel: &mut Kernel) -> Result<(), String> {
        match self.stage {
            Stage::Upgrading if self.script.character == Character::Streamer => {
                if let Some(status) = self.stream.take(self.port, bytes, &mut kernel.seen)? {
                    kernel.seen.count(refused(status));
                    self.stage = Stage::Refused(status);
                }
                Ok(())
            }
            Stage::Upgrading => {
                self.head.extend_from_slice(bytes);
                let offers = self.offer.is_some();
                match response::parse_offered(&self.head, self.key, 4096, offers) {
                    Ok(None) => Ok(()),
                    Ok(Some(answer)) => {
                        self.stage = Stage::Open;
                        kernel.seen.count("peer upgraded");
                        if answer.compression.is_some() {
                            kernel.seen.count("compression agreed on");
                            self.packs = true;
                            self.burst(kernel);
                        }
                        let mut rest = self.head.split_off(answer.len);
                        self.on_frames(&mut rest, kernel)
                    }
                    Err(response::Rejected::Status(status)) => {
                        kernel.seen.count(refused(status));
                        self.stage = Stage::Refused(status);
                        match status == 408 && kernel.now < self.since_ns + self.patience_ns {
                            true => Err("timed out before its time".to_owned()),
                            false => Ok(()),
                        }
                    }
                    Err(rejected) => Err(format!("no handshake: {rejected}")),
                }
            }
            Stage::Open => self.on_frames(bytes, kernel),
            _ => Ok(()),
        }
    }

    fn on_frames(&mut self, bytes: &mut [u8], kernel: &mut Kernel) -> Result<(), String> {
        let decoder = Decoder { role: Role::Client, max_message: 1 << 24, max_fragments: 1 };
        let mut at = 0;
        loop {
            if self.close_received.is_some() {
                return match at == bytes.len() {
                    true => Ok(()),
                    false => Err("bytes behind the close frame".to_owned()),
                };
            }
            let arrival = match self.packs {
                true => decoder.decode_deflated(&mut self.partial, bytes, &mut at),
                false => {
                    let event = decoder.decode(&mut self.partial, bytes, &mut at);
                    event.map(|event| event.map(Arrival::Event))
                }
            };
            match arrival.map_err(|fault| format!("no server's stream: {fault}"))? {
                None => return Ok(()),
                Some(Arrival::Event(event)) => self.on_event(event, bytes, kernel)?,
                Some(Arrival::Deflated(kind, payload)) => {
                    let message = packing::inflate(kind, payload.bytes(bytes))?;
                    self.on_message(kind, &message, kernel)?;
                }
            }
        }
    }

    fn on_event(&mut self, event: Event, bytes: &[u8], kernel: &mut Kernel) -> Result<(), String> {
        match event {
            Event::Message(kind, payload) => self.on_message(kind, payload.bytes(bytes), kernel),
            Event::Ping(payload) => {
                if self.script.answers && self.close_sent.is_none() {
                    self.control(Opcode::Pong, payload.bytes(bytes));
                }
                Ok(())
            }
            Event::Pong(payload) => {
                self.pongs += 1;
                let payload = payload.bytes(bytes);
                // To a slow reader the newest goes first, so the order is free.
                let ping = self.pings.iter().position(|ping| ping == payload);
                ping.and_then(|at| self.pings.remove(at)).ok_or("a pong to no ping")?;
                Ok(())
            }
            Event::Close(frame) => {
                kernel.note(|| format!("peer {} got close {}", self.index, frame.code));
                self.close_received = Some(frame.code);
                if self.close_sent.is_none() && self.script.answers {
                    self.close(frame.code);
                    // Nothing may follow its close frame, so what else was planned is dropped.
                    self.script.steps.clear();
                    self.script.steps.push_back(Step::HangUp);
                }
                Ok(())
            }
        }
    }

    fn on_message(&mut self, kind: Kind, data: &[u8], kernel: &mut Kernel) -> Result<(), String> {
        match data.first() {
            Some(b'W') => {
                kernel.seen.count("a farewell in a frame");
                Ok(())
            }
            Some(b'D') => {
                let own = format!("D{} ", self.port);
                kernel.seen.count("direct message");
                match data.starts_with(own.as_bytes()) {
                    true => self.numbers.take(data),
                    false => Err("another connection's message".to_owned()),
                }
            }
            Some(b'T') => {
                kernel.seen.count("topic message");
                let own = format!(" {}.", self.port);
                match self.script.path == "/topic" {
                    true if data[2..].starts_with(own.as_bytes()) => {
                        Err("its own publication".to_owned())
                    }
                    true => self.numbers.take(data),
                    false => Err("a topic nobody asked for".to_owned()),
                }
            }
            _ => {
                while let Some((sent_kind, sent)) = self.expected.pop_front() {
                    if sent_kind == kind && sent == data {
                        self.echoes += 1;
                        kernel.seen.count("echo");
                        return Ok(());
                    }
                    if self.strict {
                        return Err(format!("echo {} is not what was sent", self.echoes));
                    }
                }
                Err("an echo of nothing".to_owned())
            }
        }
    }

    /// Writes some of what waits, or takes its next step.
    fn write(&mut self, kernel: &mut Kernel) {
        if let Some(tls) = &mut self.tls {
            let enough = 4 * self.script.chunk;
            tls.fill(&mut self.out, enough, &mut kernel.rng, &mut kernel.seen);
        }
        let out = self.tls.as_mut().map_or(&mut self.out, |tls| &mut tls.pending);
        if !out.is_empty() {
            let room = WINDOW.saturating_sub(kernel.wires[self.index].inbox.len());
            let most = self.script.chunk.min(room).min(out.len());
            if most == 0 || self.away_ns.is_some() {
                return;
            }
            let count = match self.script.whole {
                true => most,
                false => 1 + kernel.rng.below(most as u32) as usize,
            };
            let bytes = out.drain(..count);
            if !kernel.wires[self.index].gone {
                kernel.wires[self.index].inbox.extend(bytes);
            }
            self.busy = true;
            return kernel.stir(self.index);
        }
        if self.is_in_greeting() || self.has_said_its_end(kernel) {
            return;
        }
        if self.stage == Stage::Upgrading && !self.script.eager {
            return;
        }
        let Some(step) = self.script.steps.front().cloned() else { return };
        if matches!(step, Step::AwaitEchoes) && !self.expected.is_empty() && self.strict {
            // A server that closes answers no more.
            if self.close_received.is_none() {
                return;
            }
        }
        self.script.steps.pop_front();
        self.busy = true;
        self.take(step, kernel);
    }

    /// Whether it can write nothing yet. Some leave then.
    fn is_in_greeting(&self) -> bool {
        let leaves = self.script.character == Character::Leaver && self.script.eager;
        self.tls.as_ref().is_some_and(|tls| !tls.is_open() && !tls.ends) && !leaves
    }

    /// Ends its stream behind the last record.
    fn has_said_its_end(&mut self, kernel: &mut Kernel) -> bool {
        let Some(tls) = self.tls.as_ref().filter(|tls| tls.ends) else { return false };
        let wire = &mut kernel.wires[self.index];
        if !std::mem::replace(&mut wire.fin, true) {
            let cut = tls.is_cut();
            kernel.seen.count(if cut { "TLS: FIN inside a record" } else { "TLS: half close" });
            self.script.steps.clear();
            kernel.stir(self.index);
        }
        true
    }

    fn take(&mut self, step: Step, kernel: &mut Kernel) {
        match step {
            Step::HalfClose if self.tls.is_some() && kernel.rng.one_in(2) => {
                self.tls.iter_mut().for_each(Session::close);
            }
            Step::Message(kind, len, fragments) => self.message(kind, len, fragments, kernel),
            Step::Ping(payload) => {
                self.pings.push_back(payload.clone());
                self.control(Opcode::Ping, &payload);
            }
            Step::Raw(bytes) => {
                let violates = self.script.character == Character::Violator && bytes.len() < 100;
                match violates && self.packs {
                    true => self.out.extend(packing::violation(self.index)),
                    false => {
                        // Where compression is agreed on and the answer is still on its way, this
                        // is a compressed message without content.
                        if bytes == EMPTY_WITH_RSV1 {
                            self.guessed = true;
                            self.expected.push_back((Kind::Text, Vec::new()));
                        }
                        self.out.extend(bytes);
                    }
                }
            }
            Step::Close(code) => self.close(code),
            Step::AwaitEchoes => {}
            Step::Rest(us) => self.script.pace_us = us,
            Step::HalfClose => {
                kernel.wires[self.index].fin = true;
                kernel.stir(self.index);
                kernel.seen.count("half close");
            }
            Step::HangUp => {
                self.hang_up(kernel);
                self.finish(kernel, "peer hung up");
            }
            Step::Reset(error) => {
                kernel.wires[self.index].error = Some(error);
                kernel.stir(self.index);
                self.finish(kernel, "peer reset");
            }
            Step::Vanish => {
                self.away_ns = Some(kernel.now);
                self.script.appetite = 0;
                self.script.pace_us = 50_000;
                kernel.seen.count("peer vanished");
            }
        }
    }

    /// Closes its end: a reset if it leaves something unread.
    fn hang_up(&mut self, kernel: &mut Kernel) {
        let wire = &mut kernel.wires[self.index];
        (wire.fin, wire.deaf) = (true, true);
        if !wire.outbox.is_empty() {
            wire.error = Some(libc::ECONNRESET);
        }
        wire.outbox.clear();
        kernel.stir(self.index);
    }

    fn message(&mut self, kind: Kind, len: usize, fragments: usize, kernel: &mut Kernel) {
        self.sent += 1;
        let payload = content(kind, len, self.sent, &mut kernel.rng);
        self.write_message(kind, &payload, fragments, kernel);
        self.expected.push_back((kind, payload));
    }

    /// Some that are inflated to much, all at once.
    fn burst(&mut self, kernel: &mut Kernel) {
        if self.script.character != Character::Flooder || self.script.eager {
            return;
        }
        self.script.appetite = self.script.appetite.max(2000);
        for _ in 0..6 {
            self.sent += 1;
            let mut payload = format!("E{} ", self.sent).into_bytes();
            payload.resize(self.burst, b' ');
            self.write_message(Kind::Binary, &payload, 1, kernel);
            self.expected.push_back((Kind::Binary, payload));
        }
    }

    /// Writes frames with a message, compressed now and then.
    fn write_message(&mut self, kind: Kind, message: &[u8], fragments: usize, kernel: &mut Kernel) {
        let packs = self.packs && !self.sent.is_multiple_of(4);
        let packed = packs.then(|| packing::deflate(message, self.sent % 4 == 1));
        let payload = packed.as_deref().unwrap_or(message);
        let step = payload.len().div_ceil(fragments).max(1);
        let chunks: Vec<&[u8]> = match payload.is_empty() {
            true => vec![&[]],
            false => payload.chunks(step).collect(),
        };
        let last = chunks.len() - 1;
        for (index, chunk) in chunks.iter().enumerate() {
            let opcode = match (index, kind) {
                (0, Kind::Text) => Opcode::Text,
                (0, Kind::Binary) => Opcode::Binary,
                _ => Opcode::Continuation,
            };
            let reserved = if packs && index == 0 { RSV1 } else { 0 };
            let mask = kernel.rng.draw() as u32;
            put_with(&mut self.out, reserved, index == last, opcode, chunk, mask);
            if index < last && kernel.rng.one_in(4) {
                let ping = vec![index as u8; 1 + index % 100];
                put(&mut self.out, true, Opcode::Ping, &ping, 7);
                self.pings.push_back(ping);
            }
        }
        if let Some(tls) = &mut self.tls {
            tls.mark(self.out.len());
        }
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        put(&mut self.out, true, opcode, payload, self.sent as u32 + 1);
    }

    fn close(&mut self, code: CloseCode) {
        if self.close_sent.is_some() {
            return;
        }
        let mut payload = [0; 125];
        let len = ringhold::protocol::close::write_payload(&mut payload, code, "done");
        self.control(Opcode::Close, &payload[..len]);
        self.close_sent = Some(code);
    }

    /// Whether it got all that a server owes a well-behaved client.
    pub fn is_content(&self) -> bool {
        let done = self.stage == Stage::Done && self.close_received.is_some();
        done && self.expected.is_empty() && self.script.steps.is_empty()
    }
}

/// How often a client looks at least.
const IDLE_NS: u64 = 200_000_000;

/// What a client writes ahead of the server's reading.
const WINDOW: usize = 64 * 1024;
