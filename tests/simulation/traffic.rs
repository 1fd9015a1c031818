//! Receives and sends of the fake kernel: they never wait, and they fail, fall short or come too
//! early as the seed says.

use std::io;

use ringhold::engine::ring::{Recv, Send};
use ringhold::engine::rng::Rng;

use super::kernel::Kernel;

impl Kernel {
    pub fn recv(&mut self, op: &mut Recv<'_>) {
        let index = self.wire_of(op.slot);
        assert!(!op.buffer.is_empty(), "a receive without room");
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
            _ if early => Err(io::ErrorKind::WouldBlock.into()),
            (0, Some(error), _) => Err(io::Error::from_raw_os_error(error)),
            (0, None, true) => Ok(0),
            (0, None, false) => Err(io::ErrorKind::WouldBlock.into()),
            _ => {
                let mut count = available.min(op.buffer.len());
                if cut && count > 1 {
                    count = 1 + self.rng.below(count as u32 - 1) as usize;
                }
                for (to, byte) in op.buffer.iter_mut().zip(wire.inbox.drain(..count)) {
                    *to = byte;
                }
                op.more = count < available || wire.fin;
                wire.heard_ns = self.now;
                Ok(count)
            }
        };
        if early {
            // The input that was not there yet is announced when it is.
            self.announce(op.slot);
        }
        self.note(|| format!("recv {} {:?} more {}", op.slot, op.result, op.more));
    }

    pub fn send(&mut self, op: &mut Send<'_>) {
        let index = self.wire_of(op.slot);
        assert_eq!(op.len, op.data.iter().map(|slice| slice.len()).sum::<usize>());
        assert!(op.len > 0, "an empty send");
        if self.strikes("send transient") {
            op.result = Err(io::Error::from_raw_os_error(libc::ENOBUFS));
            return;
        }
        if self.wires[index].error.is_none() && self.strikes("send error") {
            let errors = [libc::EPIPE, libc::ECONNRESET, libc::ETIMEDOUT];
            self.wires[index].error = Some(errors[self.rng.below(3) as usize]);
        }
        let cut = self.strikes("send short");
        let wire = &mut self.wires[index];
        if let Some(error) = wire.error {
            op.result = Err(io::Error::from_raw_os_error(error));
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
            wire.outbox.extend(op.data.iter().flat_map(|slice| slice.iter()).take(count));
        }
        op.result = Ok(count);
        self.note(|| format!("send {} {count} of {}", op.slot, op.len));
        if self.wires[index].deaf {
            self.announce(op.slot);
        }
    }
}

fn transient(rng: &mut Rng) -> io::Error {
    let errors = [libc::EINTR, libc::ENOBUFS, libc::ENOMEM];
    io::Error::from_raw_os_error(errors[rng.below(3) as usize])
}
