//! Receives and sends of the fake kernel: they never wait, and they fail, fall short or come too
//! early as the seed says.

use std::io::IoSlice;

use ringhold::internals::ring::{Errno, Recv, Send};
use ringhold::internals::rng::Rng;

use super::kernel::Kernel;

impl Kernel {
    pub fn recv(&mut self, core: usize, arena: &mut [u8], op: &mut Recv) {
        let index = self.wire_of(core, op.slot);
        let buffer = &mut arena[op.range()];
        assert!(!buffer.is_empty(), "a receive without room");
        if self.strikes("recv transient") {
            op.result = Err(transient(&mut self.rng));
            return;
        }
        let early = self.wires[index].is_readable() && self.strikes("recv too early");
        let cut = self.strikes("recv short");
        let wire = &mut self.wires[index];
        let available = wire.inbox.len();
        op.more = false;
        op.result = match (available, wire.error, wire.fin) {
            _ if early => Err(Errno(libc::EAGAIN)),
            (0, Some(error), _) => Err(Errno(error)),
            (0, None, true) => Ok(0),
            (0, None, false) => Err(Errno(libc::EAGAIN)),
            _ => {
                let mut count = available.min(buffer.len());
                if cut && count > 1 {
                    count = 1 + self.rng.below(count as u32 - 1) as usize;
                }
                for (to, byte) in buffer.iter_mut().zip(wire.inbox.drain(..count)) {
                    *to = byte;
                }
                op.more = count < available || wire.fin;
                wire.heard_ns = self.now;
                Ok(count as u32)
            }
        };
        if early {
            // The input that was not there yet is announced when it is.
            self.announce(core, op.slot);
        }
        self.note(|| format!("recv {core} {} {:?} more {}", op.slot, op.result, op.more));
    }

    pub fn send(&mut self, core: usize, op: &mut Send, pieces: &[IoSlice<'_>]) {
        let index = self.wire_of(core, op.slot);
        assert_eq!(op.len, pieces.iter().map(|piece| piece.len()).sum::<usize>());
        assert!(op.len > 0, "an empty send");
        if self.strikes("send transient") {
            op.result = Err(Errno(libc::ENOBUFS));
            return;
        }
        if self.wires[index].error.is_none() && self.strikes("send error") {
            let errors = [libc::EPIPE, libc::ECONNRESET, libc::ETIMEDOUT];
            self.wires[index].error = Some(errors[self.rng.below(3) as usize]);
        }
        let cut = self.strikes("send short");
        let wire = &mut self.wires[index];
        if let Some(error) = wire.error {
            op.result = Err(Errno(error));
            return;
        }
        assert!(!wire.shut, "slot {}: a send behind the shutdown", op.slot);
        let space = wire.room.saturating_sub(wire.outbox.len());
        let mut count = space.min(op.len);
        if cut {
            count = self.rng.below(count as u32 + 1) as usize;
        }
        if count < op.len {
            self.seen.count("send buffer full");
        }
        if wire.deaf {
            wire.error = Some(libc::EPIPE);
        } else {
            wire.outbox.extend(pieces.iter().flat_map(|piece| piece.iter()).take(count));
        }
        op.result = Ok(count);
        self.note(|| format!("send {core} {} {count} of {}", op.slot, op.len));
        if self.wires[index].deaf {
            self.announce(core, op.slot);
        }
    }
}

fn transient(rng: &mut Rng) -> Errno {
    let errors = [libc::EINTR, libc::ENOBUFS, libc::ENOMEM];
    Errno(errors[rng.below(3) as usize])
}
