//! The listeners of the fake kernel: clients knock, accepts are armed, fail, are cancelled too
//! late.

use std::io;

use ringhold::internals::ring::Completion;

use super::kernel::{Kernel, Socket};

impl Kernel {
    /// A client connects. `None` if nobody answers, false if nobody listens.
    pub fn connect(&mut self, wire: usize) -> Option<bool> {
        // A client meets the same listener as long as that is there.
        let met = self.wires[wire].core.filter(|core| self.cores[*core].listening);
        let Some(core) = met.or_else(|| self.pick_listener()) else { return Some(false) };
        self.wires[wire].core = Some(core);
        if self.cores[core].ignoring {
            self.seen.count("connect ignored");
            return None;
        }
        self.cores[core].backlog.push_back(wire);
        self.accept_waiting(core);
        Some(true)
    }

    /// Some core that listens; the first of them more often if the seed says so.
    fn pick_listener(&mut self) -> Option<usize> {
        let listening = |core: &usize| self.cores[*core].listening;
        let open: Vec<usize> = (0..self.cores.len()).filter(listening).collect();
        let first = open.first().copied()?;
        let crowded = self.chaos.skewed && self.rng.one_in(2);
        Some(if crowded { first } else { open[self.rng.below(open.len() as u32) as usize] })
    }

    /// From now on requests to connect are dropped.
    pub fn ignore_connects(&mut self, core: usize) {
        assert!(self.cores[core].listening, "stopped a listener that is closed");
        self.cores[core].ignoring = true;
    }

    pub fn accept_waiting(&mut self, core: usize) {
        while !self.cores[core].backlog.is_empty() {
            let armed = self.cores[core].lanes.iter().position(|armed| *armed);
            let Some(lane) = armed else { return };
            self.accept_one(core, lane as u32);
        }
    }

    fn accept_one(&mut self, core: usize, lane: u32) {
        self.cores[core].lanes[lane as usize] = false;
        let due = self.later();
        if self.strikes("accept error") {
            let errors = [
                libc::ECONNABORTED,
                libc::EMFILE,
                libc::ENFILE,
                libc::ENOMEM,
                libc::EPERM,
                libc::EINTR,
            ];
            let error = errors[self.rng.below(6) as usize];
            if error == libc::ECONNABORTED
                && let Some(wire) = self.cores[core].backlog.pop_front()
            {
                (self.wires[wire].gone, self.wires[wire].torn) = (true, true);
            }
            let result = Err(io::Error::from_raw_os_error(error));
            return self.complete(core, due, Completion::Accepted { lane, result });
        }
        let Some(slot) = self.cores[core].sockets.iter().position(Option::is_none) else {
            assert!(
                self.cores[core].dialled > 0,
                "an accept was armed beyond the room in the table"
            );
            self.seen.count("table taken by dials");
            let result = Err(io::Error::from_raw_os_error(libc::ENFILE));
            return self.complete(core, due, Completion::Accepted { lane, result });
        };
        let Some(wire) = self.cores[core].backlog.pop_front() else { return };
        self.cores[core].sockets[slot] = Some(Socket::new(wire));
        let result = Ok((slot as u32, self.wires[wire].address));
        self.complete(core, due, Completion::Accepted { lane, result });
    }

    pub fn close_listener(&mut self, core: usize) {
        let side = &mut self.cores[core];
        assert!(!side.lanes.contains(&true), "closed the listener under an accept");
        side.listening = false;
        for wire in std::mem::take(&mut side.backlog) {
            (self.wires[wire].gone, self.wires[wire].torn) = (true, true);
        }
    }

    pub fn cancel_accept(&mut self, core: usize, lane: u32) {
        let armed = std::mem::take(&mut self.cores[core].lanes[lane as usize]);
        // Else its completion is on the way.
        if armed {
            self.seen.count("accept cancelled");
            let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
            let due = self.later();
            self.complete(core, due, Completion::Accepted { lane, result });
        } else {
            self.seen.count("accepted despite cancel");
        }
    }
}
