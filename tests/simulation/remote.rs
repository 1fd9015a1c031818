//! The servers that the application dials: most answer the upgrade and some messages, and end;
//! some are silent, refuse, lie or leave. They check that the engine's client half sends a valid
//! client's stream.

use std::collections::VecDeque;

use ringhold::internals::rng::Rng;
use ringhold::protocol::frame::{self, Opcode};
use ringhold::protocol::{Decoder, Event, Partial, Refusal, Role, request};
use ringhold::tls;

use super::kernel::Kernel;
use super::session::Session;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Proper,
    Silent,
    Refusing,
    Lying,
    Leaving,
}

pub struct Remote {
    wire: usize,
    manner: Manner,
    /// Where the engine begins with TLS.
    pub tls: Option<Session>,
    begun: bool,
    /// The request, until it is answered.
    head: Option<Vec<u8>>,
    partial: Option<Box<Partial>>,
    /// Messages it answers before it closes.
    budget: u32,
    closed: bool,
}

impl Remote {
    pub fn new(wire: usize, rng: &mut Rng) -> Self {
        let manner = match rng.below(10) {
            0 => Manner::Silent,
            1 => Manner::Refusing,
            2 => Manner::Lying,
            3 => Manner::Leaving,
            _ => Manner::Proper,
        };
        let budget = rng.below(20);
        let (head, partial) = (Some(Vec::new()), None);
        Self { wire, manner, tls: None, begun: false, head, partial, budget, closed: false }
    }

    /// Acts once. Returns when it wants to act again.
    pub fn act(&mut self, kernel: &mut Kernel) -> Result<Option<u64>, String> {
        let wire = &mut kernel.wires[self.wire];
        let over = wire.gone || wire.shut;
        let mut bytes: Vec<u8> = wire.outbox.drain(..).collect();
        let mut out = Vec::new();
        if !bytes.is_empty() {
            kernel.stir(self.wire);
        }
        if !self.begun {
            self.begun = !bytes.is_empty();
            let secure = bytes.first() == Some(&22);
            let rng = &mut kernel.rng;
            self.tls = secure.then(|| Session::new(tls::Role::Server, false, rng));
        }
        if let Some(tls) = self.tls.as_mut().filter(|_| self.manner != Manner::Silent) {
            bytes = tls.receive(&bytes, &mut kernel.rng, &mut kernel.seen)?;
        }
        if self.manner != Manner::Silent {
            match self.head.take() {
                Some(head) => self.on_request(head, &bytes, &mut out)?,
                None => self.on_frames(&mut bytes, &mut out)?,
            }
        }
        let mut leaves = self.closed || over || self.manner == Manner::Leaving;
        if let Some(tls) = &mut self.tls {
            let mut waiting = VecDeque::from(out);
            tls.fill(&mut waiting, usize::MAX, &mut kernel.rng, &mut kernel.seen);
            if leaves && kernel.rng.one_in(2) {
                tls.close();
            }
            leaves |= tls.ends;
            out = tls.pending.drain(..).collect();
        }
        let wire = &mut kernel.wires[self.wire];
        if !wire.gone {
            wire.inbox.extend(&out);
        }
        if leaves {
            // RFC 6455 section 7.1.1: the server closes first.
            (wire.fin, wire.deaf) = (true, true);
        }
        if leaves || !out.is_empty() {
            kernel.stir(self.wire);
        }
        let wait = 1_000_000 * u64::from(1 + kernel.rng.below(100));
        Ok((!leaves).then_some(kernel.now + wait))
    }

    fn on_request(
        &mut self,
        mut head: Vec<u8>,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        head.extend_from_slice(bytes);
        let parsed = request::parse(&head, &mut 0, 4096);
        let Some((request, len)) = parsed.map_err(|refusal| format!("no request: {refusal}"))?
        else {
            self.head = Some(head);
            return Ok(());
        };
        if len < head.len() {
            return Err("a client that does not await the answer".to_owned());
        }
        let mut upgrade = request.upgrade().map_err(|refusal| format!("no upgrade: {refusal}"))?;
        match self.manner {
            Manner::Refusing => {
                Refusal::NotFound.write(out);
                self.closed = true;
            }
            Manner::Lying => {
                upgrade.accept[0] ^= 1;
                request::write_accept(out, &upgrade, None, &[]);
            }
            _ => {
                request::write_accept(out, &upgrade, None, &[]);
                frame::append(out, Opcode::Text, b"welcome", None);
            }
        }
        Ok(())
    }

    fn on_frames(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<(), String> {
        let decoder = Decoder { role: Role::Server, max_message: 1 << 24, max_fragments: 1 };
        let mut at = 0;
        while !self.closed {
            let event = decoder.decode(&mut self.partial, bytes, &mut at);
            match event.map_err(|fault| format!("no client's stream: {fault}"))? {
                None => return Ok(()),
                Some(Event::Message(..)) if self.budget > 0 => {
                    self.budget -= 1;
                    frame::append(out, Opcode::Binary, b"again", None);
                }
                Some(Event::Message(..)) => {
                    frame::append(out, Opcode::Close, &[0x03, 0xe8], None);
                    // What it still gets is the answer, which it does not await.
                    self.closed = true;
                }
                Some(Event::Ping(payload)) => {
                    frame::append(out, Opcode::Pong, payload.bytes(bytes), None);
                }
                Some(Event::Pong(_)) => {}
                Some(Event::Close(_)) => {
                    frame::append(out, Opcode::Close, &[], None);
                    self.closed = true;
                }
            }
        }
        Ok(())
    }
}
