//! TLS between a client, or a dialled server, and its wire: what it writes is sealed in records of
//! any size with what the protocol allows between them, or once with what it forbids; what it
//! reads is opened, in order, and nothing comes that has no place.

use std::collections::VecDeque;

use ringhold::internals::rng::Rng;
use ringhold::tls::Role;

use super::coverage::Coverage;
use super::flaw::Flaw;
use super::greeter::Greeter;
use super::records::{ALERT, DATA, HANDSHAKE, Half};

/// How one end writes.
struct Habits {
    /// Bytes of data in a record, at most.
    size: usize,
    pads: bool,
    /// One in so many records has something of the protocol before it; 0: none.
    talk: u32,
    /// Breaks a rule, behind so many records of data.
    flaw: Option<(Flaw, u32)>,
}

enum State {
    Greeting(Greeter),
    Open(Box<(Half, Half)>),
    /// Its own end is said.
    Shut(Box<(Half, Half)>),
}

/// One end of TLS.
pub struct Session {
    role: Role,
    state: State,
    habits: Habits,
    /// Received bytes whose last record is not whole.
    partial: Vec<u8>,
    /// Bytes that are still to be written.
    pub pending: VecDeque<u8>,
    /// Records of data written.
    records: u32,
    /// The rule that is broken.
    done: Option<Flaw>,
    /// The stream ends as soon as all is written.
    pub ends: bool,
    /// The other end said that nothing follows.
    pub ended: bool,
    /// The other end told of the broken rule.
    alerted: bool,
    /// Bytes of data sealed, and behind how many of them each message ends.
    sealed: usize,
    ends_of_messages: Vec<usize>,
    /// Messages of which the other end may take notice at most, once a rule is broken.
    pub most: Option<u64>,
}

impl Session {
    /// Whoever is gentle breaks no rule.
    pub fn new(role: Role, gentle: bool, rng: &mut Rng) -> Self {
        let mut hello = Vec::new();
        let greeter = match role {
            Role::Client => Greeter::client(rng.draw(), &mut hello),
            Role::Server => Greeter::server(),
        };
        let sizes = [1, 20, 700, 16_384];
        let flaw = Flaw::draw(rng);
        let soon = rng.one_in(2);
        let behind = rng.below(if soon { 2 } else { 12 });
        let mut habits = Habits {
            size: sizes[rng.below(4) as usize],
            pads: rng.one_in(3),
            talk: [0, 3, 20][rng.below(3) as usize],
            flaw: None,
        };
        if !gentle && rng.one_in(4) && (role == Role::Client || flaw != Flaw::Greeting) {
            habits.flaw = Some((flaw, behind));
        }
        Self {
            role,
            state: State::Greeting(greeter),
            habits,
            partial: Vec::new(),
            pending: hello.into(),
            records: 0,
            done: None,
            ends: false,
            ended: false,
            alerted: false,
            sealed: 0,
            ends_of_messages: Vec::new(),
            most: None,
        }
    }

    /// Before the handshake, in the clear.
    pub fn introduce(&mut self, header: &[u8]) {
        for byte in header.iter().rev() {
            self.pending.push_front(*byte);
        }
    }

    /// Whether data can be sealed.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Whether it has broken a rule.
    pub fn is_flawed(&self) -> bool {
        self.done.is_some()
    }

    /// Whether its stream ends inside a record.
    pub fn is_cut(&self) -> bool {
        self.done == Some(Flaw::Cut)
    }

    /// Whether it has broken a rule that is answered, and has heard no answer.
    pub fn awaits_alert(&self) -> bool {
        self.done.is_some_and(|flaw| !flaw.alerts().is_empty()) && !self.alerted
    }

    /// A message ends with what waits to be sealed.
    pub fn mark(&mut self, waiting: usize) {
        self.ends_of_messages.push(self.sealed + waiting);
    }

    /// Seals what waits, up to about so many bytes.
    pub fn fill(
        &mut self,
        out: &mut VecDeque<u8>,
        enough: usize,
        rng: &mut Rng,
        seen: &mut Coverage,
    ) {
        while self.pending.len() < enough && !out.is_empty() && !self.ends {
            let State::Open(_) = self.state else { return };
            self.seal(out, rng, seen);
        }
    }

    fn seal(&mut self, out: &mut VecDeque<u8>, rng: &mut Rng, seen: &mut Coverage) {
        let State::Open(halves) = &mut self.state else { return };
        let write = &mut halves.1;
        if self.habits.talk > 0 && rng.one_in(self.habits.talk) {
            let talk = talk(self.role, write, rng, seen);
            self.pending.extend(talk);
        }
        // One byte each, for as long as a run can bear that writes one byte at once.
        let size = if self.records < 60 { self.habits.size } else { self.habits.size.max(700) };
        let most = size.min(out.len());
        let count = 1 + rng.below(most as u32) as usize;
        let data: Vec<u8> = out.drain(..count).collect();
        let room = ((1 << 14) - count).min(300) as u32;
        let pads = self.habits.pads && rng.one_in(8);
        let padding = if pads { rng.below(room + 1) as usize } else { 0 };
        let record = write.seal(DATA, &data, padding);
        let before = self.sealed;
        self.sealed += count;
        seen.count("TLS: records to the engine");
        match self.habits.flaw {
            Some((flaw, behind)) if self.done.is_none() && self.records >= behind => {
                seen.count("TLS: rules broken");
                let heard = if flaw.comes_behind() { self.sealed } else { before };
                let whole = self.ends_of_messages.iter().filter(|end| **end <= heard);
                self.most = Some(whole.count() as u64);
                self.done = Some(flaw);
                self.ends = flaw == Flaw::Cut;
                self.pending.extend(flaw.spoil(record, write, rng));
            }
            _ => self.pending.extend(record),
        }
        self.records += 1;
    }

    /// Its own end, which is said.
    pub fn close(&mut self) {
        self.ends = true;
        let state = std::mem::replace(&mut self.state, State::Greeting(Greeter::server()));
        self.state = match state {
            State::Open(mut halves) => {
                self.pending.extend(halves.1.seal(ALERT, &[1, 0], 0));
                State::Shut(halves)
            }
            other => other,
        };
    }

    /// Takes bytes off the wire. Returns what the records held.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        rng: &mut Rng,
        seen: &mut Coverage,
    ) -> Result<Vec<u8>, String> {
        self.partial.extend_from_slice(bytes);
        let received = std::mem::take(&mut self.partial);
        let (mut rest, mut plain) = (&received[..], Vec::new());
        while let Some(head) = rest.first_chunk::<5>() {
            let len = 5 + usize::from(u16::from_be_bytes([head[3], head[4]]));
            let Some(record) = rest.get(..len) else { break };
            self.take(record, &mut plain, rng, seen)?;
            rest = &rest[len..];
        }
        self.partial = rest.to_vec();
        Ok(plain)
    }

    /// Whether a record has come in part.
    pub fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    fn take(
        &mut self,
        record: &[u8],
        plain: &mut Vec<u8>,
        rng: &mut Rng,
        seen: &mut Coverage,
    ) -> Result<(), String> {
        if self.ended {
            return Err("a record behind the end".to_owned());
        }
        match &mut self.state {
            State::Greeting(_) if record[0] == ALERT => self.on_alert(&record[5..], seen),
            State::Greeting(greeter) => {
                let mut out = Vec::new();
                let agreed = greeter.take(record, &mut out);
                let agreed = agreed.map_err(|_| "the handshake is not as scripted".to_owned())?;
                if let Some((Flaw::Greeting, _)) = self.habits.flaw
                    && let Some(last) = out.len().checked_sub(1 + rng.below(40) as usize)
                {
                    out[last] ^= 1;
                    (self.done, self.most) = (Some(Flaw::Greeting), Some(0));
                    seen.count("TLS: handshakes spoilt");
                }
                self.pending.extend(out);
                if let Some(agreed) = agreed {
                    let [client, server] =
                        [agreed.client, agreed.server].map(|secret| Half::new(agreed.aead, secret));
                    let halves = match self.role {
                        Role::Client => (server, client),
                        Role::Server => (client, server),
                    };
                    seen.count("TLS: handshakes");
                    self.state = State::Open(Box::new(halves));
                }
                Ok(())
            }
            // Spoilt in its last flight, it is refused in the clear.
            _ if self.done == Some(Flaw::Greeting) => self.on_alert(&record[5..], seen),
            State::Open(halves) | State::Shut(halves) => {
                let (kind, content) = halves.0.open(record)?;
                match (kind, content.as_slice()) {
                    (DATA, []) => return Err("an empty record".to_owned()),
                    (DATA, content) => plain.extend_from_slice(content),
                    (HANDSHAKE, &[24, 0, 0, 1, asks @ (0 | 1)]) => {
                        halves.0.advance();
                        seen.count("TLS: KeyUpdates of the engine");
                        if asks == 1 {
                            return Err("a KeyUpdate that asks for one".to_owned());
                        }
                    }
                    (ALERT, alert) => {
                        let alert = alert.to_vec();
                        return self.on_alert(&alert, seen);
                    }
                    _ => return Err(format!("a record of type {kind}: {content:?}")),
                }
                Ok(())
            }
        }
    }

    fn on_alert(&mut self, alert: &[u8], seen: &mut Coverage) -> Result<(), String> {
        self.ended = true;
        match (alert, self.done) {
            ([1, 0], _) => {
                seen.count("TLS: ends that are said");
                Ok(())
            }
            ([2, code], Some(flaw)) if flaw.alerts().contains(code) => {
                seen.count("TLS: alerts");
                self.alerted = true;
                Ok(())
            }
            (alert, done) => Err(format!("the alert {alert:?}, for {done:?}")),
        }
    }
}

/// What the protocol allows between records of data.
fn talk(role: Role, write: &mut Half, rng: &mut Rng, seen: &mut Coverage) -> Vec<u8> {
    match rng.below(5) {
        0 => {
            seen.count("TLS: empty records");
            (0..=rng.below(5)).flat_map(|_| write.seal(DATA, b"", 0)).collect()
        }
        1 if role == Role::Server => {
            seen.count("TLS: tickets");
            let len = 20 + rng.below(200) as usize;
            let ticket = [&[4, 0, 0, len as u8][..], &vec![7; len]].concat();
            in_pieces(write, &ticket, rng)
        }
        lot => {
            seen.count("TLS: KeyUpdates");
            let out = in_pieces(write, &[24, 0, 0, 1, u8::from(lot < 3)], rng);
            write.advance();
            out
        }
    }
}

/// A message of a handshake in one record or in two.
fn in_pieces(write: &mut Half, message: &[u8], rng: &mut Rng) -> Vec<u8> {
    let cut = 1 + rng.below(message.len() as u32 - 1) as usize;
    let cut = if rng.one_in(3) { cut } else { message.len() };
    let (first, second) = message.split_at(cut);
    let mut out = write.seal(HANDSHAKE, first, 0);
    if !second.is_empty() {
        out.extend(write.seal(HANDSHAKE, second, 0));
    }
    out
}
