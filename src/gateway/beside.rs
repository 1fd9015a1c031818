//! The control plane, as the cores see it: it does for them what is rare.
//!
//! Owns nothing. The invariant: nothing here makes a core wait.

use super::hooks::{Asking, FeedId, FeedWord, HookRequest};
use super::session::HookTicket;
use crate::engine::Detached;

/// Services of the control plane for the gateway. Engine threads call them: none waits.
pub trait ControlPlane: Send + Sync + 'static {
    /// Asks the application's backend. The answer comes as
    /// [`CoreEvent::Hook`](super::app::CoreEvent::Hook) to `core` with the same question. The error
    /// gives it back: there is no room.
    fn ask(
        &self,
        core: usize,
        hook: Box<HookRequest>,
        question: HookTicket,
    ) -> Result<(), HookTicket>;

    /// A connection with questions under way has gone: those that wait need not be asked.
    fn forget(&self, asking: Asking) {
        let _ = asking;
    }

    /// Passes a word on to a feed that a question of this proxy began. The feed's news come as
    /// [`CoreEvent::Feed`](super::app::CoreEvent::Feed). False: there is no room for the word.
    fn feed(&self, feed: FeedId, proxy: &str, word: FeedWord) -> bool {
        let _ = (feed, proxy, word);
        false
    }

    /// Serves a connection with plain HTTP. The error: there is no room, and 503 is the answer.
    /// Its place is kept as long as the connection.
    fn serve(&self, passed: Detached) -> Result<(), Detached>;

    /// The same of one that came by the internal port.
    fn serve_inside(&self, passed: Detached) -> Result<(), Detached> {
        self.serve(passed)
    }

    /// A token names a key that is not in the set: it may be worth fetching anew.
    fn want_keys(&self);
}
