//! The listener of the fake kernel: clients knock, accepts are armed, fail, are cancelled too late.

use std::io;

use ringhold::engine::ring::Completion;

use super::kernel::{Kernel, Socket};

impl Kernel {
    /// A client connects. `None` if nobody answers, false if nobody listens.
    pub fn connect(&mut self, wire: usize) -> Option<bool> {
        if self.listening && self.ignoring {
            self.seen.count("connect ignored");
            return None;
        }
        if self.listening {
            self.backlog.push_back(wire);
            self.accept_waiting();
        }
        Some(self.listening)
    }

    /// From now on requests to connect are dropped.
    pub fn ignore_connects(&mut self) {
        assert!(self.listening, "stopped a listener that is closed");
        self.ignoring = true;
    }

    pub fn accept_waiting(&mut self) {
        while !self.backlog.is_empty() {
            let Some(lane) = self.lanes.iter().position(|armed| *armed) else { return };
            self.accept_one(lane as u32);
        }
    }

    fn accept_one(&mut self, lane: u32) {
        self.lanes[lane as usize] = false;
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
                && let Some(wire) = self.backlog.pop_front()
            {
                (self.wires[wire].gone, self.wires[wire].torn) = (true, true);
            }
            let result = Err(io::Error::from_raw_os_error(error));
            return self.complete(due, Completion::Accepted { lane, result });
        }
        let Some(slot) = self.sockets.iter().position(Option::is_none) else {
            assert!(self.dialled > 0, "an accept was armed beyond the room in the table");
            self.seen.count("table taken by dials");
            let result = Err(io::Error::from_raw_os_error(libc::ENFILE));
            return self.complete(due, Completion::Accepted { lane, result });
        };
        let Some(wire) = self.backlog.pop_front() else { return };
        self.sockets[slot] = Some(Socket::new(wire));
        let result = Ok((slot as u32, self.wires[wire].address));
        self.complete(due, Completion::Accepted { lane, result });
    }

    pub fn close_listener(&mut self) {
        assert!(!self.lanes.contains(&true), "closed the listener under an accept");
        self.listening = false;
        for wire in std::mem::take(&mut self.backlog) {
            (self.wires[wire].gone, self.wires[wire].torn) = (true, true);
        }
    }

    pub fn cancel_accept(&mut self, lane: u32) {
        // Else its completion is on the way.
        if self.lanes[lane as usize] {
            self.lanes[lane as usize] = false;
            self.seen.count("accept cancelled");
            let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
            let due = self.later();
            self.complete(due, Completion::Accepted { lane, result });
        } else {
            self.seen.count("accepted despite cancel");
        }
    }
}
