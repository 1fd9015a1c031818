//! What sessions need from outside: clocks, connections, other cores, the broker, the backend.
//!
//! Owns no state. The sessions call a [`Port`] while they work, and never wait for it: what comes
//! of a call later comes in as an input of [`Sessions`](super::machine::Sessions). One
//! implementation is the engine's (`engine_port`), and a test records what it is told. Connections
//! are named by [`Link`], which one that is gone never shares with a later one.

use std::net::SocketAddr;
use std::time::Duration;

use super::hooks::HookTicket;
use crate::engine::Frame;
use crate::gateway::broker;
use crate::gateway::hooks::{FeedId, FeedWord, HookRequest};
use crate::gateway::hub_port::{Link, Refused};
use crate::gateway::letters::{Answer, Letter};
use crate::gateway::wire::{Disconnect, Error};
use crate::protocol::HttpResponse;
use crate::protocol::message::Kind;

/// See the module's text. Calls about a connection that is gone do nothing.
pub(in crate::gateway) trait Port {
    /// Monotonic time, the same during one input.
    fn now(&self) -> Duration;

    /// Unix time in seconds.
    fn unix(&self) -> i64;

    /// Unix time in milliseconds, for those who read it elsewhere.
    fn unix_millis(&self) -> i64;

    /// 64 random bits.
    fn random(&mut self) -> u64;

    /// Queues a frame, which may be shared. A connection that cannot take it is closed.
    fn send(&mut self, link: Link, frame: &Frame);

    /// The same with bytes of the receiver's own before it, as one message; for streams only.
    fn send_prefixed(&mut self, link: Link, prefix: &[u8], frame: &Frame);

    /// As [`Self::send`], a message for this connection alone.
    fn send_message(&mut self, link: Link, kind: Kind, payload: &[u8]);

    /// The same, never compressed: it may carry what only this client may know.
    fn send_secret(&mut self, link: Link, kind: Kind, payload: &[u8]);

    /// Closes a connection. False: it closes already, or is gone.
    fn close(&mut self, link: Link, disconnect: &Disconnect) -> bool;

    /// Answers the request of a stream with 200 and these headers: what is sent follows.
    fn begin(&mut self, link: Link, headers: &[(String, String)]);

    /// Answers the request of a stream with something else, which ends it.
    fn respond(&mut self, link: Link, response: &HttpResponse);

    /// Reads nothing more of a WebSocket, until [`Self::resume`]; what was read still comes.
    fn hold(&mut self, link: Link);

    /// Ends [`Self::hold`].
    fn resume(&mut self, link: Link);

    /// Whether messages can be sent to a connection.
    fn is_open(&self, link: Link) -> bool;

    /// Bytes that are queued for a connection and not sent.
    fn queued(&self, link: Link) -> usize;

    /// Whether much is queued for a connection; when it is little again that is an input.
    fn is_congested(&self, link: Link) -> bool;

    /// The client of a stream has sent so many bytes by another way, which is proof of life. False:
    /// the stream is not open, or closed because these are too many.
    fn heard(&mut self, link: Link, bytes: usize) -> bool;

    /// A client's address; `None` if the connection is gone.
    fn peer(&mut self, link: Link) -> Option<SocketAddr>;

    /// As [`HubPort::post`](crate::gateway::hub_port::HubPort::post).
    fn post(&mut self, core: usize, letter: Letter) -> Result<(), Refused>;

    /// As [`HubPort::post_reserved`](crate::gateway::hub_port::HubPort::post_reserved).
    fn post_reserved(&mut self, core: usize, letter: Letter) -> Result<(), Refused>;

    /// As [`HubPort::post_urgent`](crate::gateway::hub_port::HubPort::post_urgent).
    fn post_urgent(&mut self, core: usize, letter: Letter);

    /// As [`HubPort::is_behind`](crate::gateway::hub_port::HubPort::is_behind).
    fn is_behind(&self, core: usize) -> bool;

    /// Whether many questions wait for some core: who awaits an answer asks nothing more.
    fn is_crowded(&self) -> bool;

    /// As [`HubPort::broker`](crate::gateway::hub_port::HubPort::broker).
    fn ask_broker(&mut self, request: broker::Request) -> Result<(), Refused>;

    /// Asks the application's backend. The error gives the question back: there is no room.
    fn ask_backend(
        &mut self,
        hook: Box<HookRequest>,
        question: HookTicket,
    ) -> Result<(), HookTicket>;

    /// A connection with questions under way, or with feeds, is gone.
    fn forget(&mut self, link: Link);

    /// Says a word on a feed of this proxy. False: there is no room for it.
    fn feed(&mut self, feed: FeedId, proxy: &str, word: FeedWord) -> bool;

    /// A token names a key that is not in the set: it may be worth fetching anew.
    fn want_keys(&mut self);

    /// A home core has answered a question of the server API on this core.
    fn answer_call(&mut self, ticket: u64, answer: Result<Answer, Error>);
}
