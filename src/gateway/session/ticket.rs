//! What sessions give the hub and the backend with a question, to know the answer by.
//!
//! Owns how it is written, in 64 bits.

use crate::gateway::stats::CommandKind;
use crate::gateway::wire::messages::Request;

/// What a request is known by while it is under way: its kind, when it came, and the client's
/// number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(pub(super) u64);

/// Who is waiting for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// A command.
    Command(CommandKind),
    /// The connect reply, for a server-side subscription.
    Connect,
    /// Nobody: the server API made a subscription.
    Api,
}

impl Ticket {
    pub(super) fn new(waits: Waits, now_ms: u64, id: u32) -> Self {
        let kind = match waits {
            Waits::Command(kind) => kind as u64,
            Waits::Connect => TICKET_CONNECT,
            Waits::Api => TICKET_API,
        };
        Self(kind << 56 | (now_ms & TIME_MASK) << 32 | u64::from(id))
    }

    pub(super) fn waits(self) -> Option<Waits> {
        Some(match self.0 >> 56 {
            TICKET_CONNECT => Waits::Connect,
            TICKET_API => Waits::Api,
            kind => Waits::Command(*CommandKind::ALL.get(kind as usize)?),
        })
    }

    /// The client's number for the command.
    pub(super) fn id(self) -> u32 {
        self.0 as u32
    }

    /// Milliseconds since it came, up to four hours.
    pub(super) fn age_ms(self, now_ms: u64) -> u64 {
        now_ms.wrapping_sub(self.0 >> 32) & TIME_MASK
    }
}

/// Which command it is, for the counters.
pub(super) fn kind_of(request: &Request) -> CommandKind {
    match request {
        Request::Connect(_) => CommandKind::Connect,
        Request::Subscribe(_) => CommandKind::Subscribe,
        Request::Unsubscribe(_) => CommandKind::Unsubscribe,
        Request::Publish(_) => CommandKind::Publish,
        Request::Presence(_) => CommandKind::Presence,
        Request::PresenceStats(_) => CommandKind::PresenceStats,
        Request::History(_) => CommandKind::History,
        Request::Rpc(_) => CommandKind::Rpc,
        Request::Send(_) => CommandKind::Send,
        Request::Refresh(_) => CommandKind::Refresh,
        Request::SubRefresh(_) => CommandKind::SubRefresh,
    }
}

const TICKET_CONNECT: u64 = 200;
const TICKET_API: u64 = 201;
const TIME_MASK: u64 = 0xff_ffff;

/// What those tickets begin with, in their first byte, that are of the server API on this core. A
/// session's begins with what waits there.
pub(in crate::gateway) const CALL: u64 = 0xff;

/// Whether a ticket is a call's.
pub(super) fn is_call(ticket: u64) -> bool {
    ticket >> 56 == CALL
}
