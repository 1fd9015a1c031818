//! Where a connection is in its life, and what may follow: a table of states and events.
//!
//! Owns the table. Never acts: [`super::core::Core::enter`] is the one place where a phase begins.
//! The invariant: a connection only moves on, so each phase comes at most once, and the last is
//! [`Phase::Closed`].

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// Outgoing, TCP not established.
    Connecting,
    /// The opening handshake is not complete.
    Handshake,
    /// On its way out of the engine, to whoever answers plain HTTP.
    Passing,
    /// Messages flow.
    Open,
    /// Our close frame is sent or queued; the peer's is awaited.
    Closing,
    /// Nothing more is expected from the peer; ends when the outbox is empty.
    Flushing,
    /// Our sending half is shut down; input is discarded until the peer closes too.
    Lingering,
    /// The descriptor is being closed by the kernel.
    Closed,
}

/// What moves a connection on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The TCP connection of a dial is established.
    Connected,
    /// The handshake is complete, or a stream begins.
    Opened,
    /// The application wants the socket.
    Passed,
    /// Our close frame is queued, and the peer's is to follow.
    CloseBegun,
    /// Nothing more is awaited from the peer.
    Left,
    /// The outbox is empty, and the peer has not ended its half.
    Emptied,
    /// The connection is at its end, or given up.
    Released,
}

impl Phase {
    /// The next phase; `None` where the event cannot happen.
    pub(super) const fn on(self, event: Event) -> Option<Self> {
        use Event::{CloseBegun, Connected, Emptied, Left, Opened, Passed, Released};
        use Phase::{Closed, Closing, Connecting, Flushing, Handshake, Lingering, Open, Passing};
        match (self, event) {
            (Connecting, Connected) => Some(Handshake),
            (Handshake, Opened) => Some(Open),
            (Handshake, Passed) => Some(Passing),
            (Open, CloseBegun) => Some(Closing),
            // Before it was open: by an HTTP answer, also where nobody could take the socket.
            (Handshake | Passing, Left) => Some(Flushing),
            (Open | Closing, Left) => Some(Flushing),
            (Flushing, Emptied) => Some(Lingering),
            (Closed, _) => None,
            (_, Released) => Some(Closed),
            _ => None,
        }
    }

    /// Whether input is awaited, be it only its end.
    #[inline]
    pub(super) const fn listens(self) -> bool {
        matches!(self, Self::Handshake | Self::Open | Self::Closing | Self::Lingering)
    }

    /// Whether the connection is on its way out, at a pace that its peer decides.
    #[inline]
    pub(super) const fn is_leaving(self) -> bool {
        matches!(self, Self::Closing | Self::Flushing | Self::Lingering)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const PHASES: [Phase; 8] = [
        Phase::Connecting,
        Phase::Handshake,
        Phase::Passing,
        Phase::Open,
        Phase::Closing,
        Phase::Flushing,
        Phase::Lingering,
        Phase::Closed,
    ];

    const EVENTS: [Event; 7] = [
        Event::Connected,
        Event::Opened,
        Event::Passed,
        Event::CloseBegun,
        Event::Left,
        Event::Emptied,
        Event::Released,
    ];

    fn row(out: &mut String, cells: impl IntoIterator<Item = String>) {
        let line: String = cells.into_iter().map(|cell| format!("{cell:<12}")).collect();
        let _ = writeln!(out, "{}", line.trim_end());
    }

    /// The table, as a person reads it.
    fn table() -> String {
        let mut out = String::new();
        let facts = ["listens", "leaving"].map(String::from);
        let head = EVENTS.iter().map(|event| format!("{event:?}")).chain(facts);
        row(&mut out, std::iter::once(String::new()).chain(head));
        for phase in PHASES {
            let next = EVENTS.iter().map(|event| match phase.on(*event) {
                Some(next) => format!("{next:?}"),
                None => "-".to_owned(),
            });
            let facts = [phase.listens(), phase.is_leaving()];
            let facts = facts.map(|fact| if fact { "yes" } else { "-" }.to_owned());
            row(&mut out, std::iter::once(format!("{phase:?}")).chain(next).chain(facts));
        }
        out
    }

    /// `GOLDEN=write` writes the table anew: its diff is what a change of the protocol is.
    #[test]
    fn phases_follow_the_golden_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/phases.txt");
        let table = table();
        if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
            std::fs::write(path, &table).unwrap();
        }
        assert_eq!(table, std::fs::read_to_string(path).unwrap());
    }

    #[test]
    fn every_way_leads_on_and_to_the_end() {
        for phase in PHASES {
            for next in EVENTS.iter().filter_map(|event| phase.on(*event)) {
                assert!(next as u8 > phase as u8, "{phase:?} to {next:?}");
            }
            assert!(phase == Phase::Closed || phase.on(Event::Released) == Some(Phase::Closed));
        }
    }
}
