//! What clients are refused, for the operator's log: the commonest trouble of who begins.
//!
//! Owns how often a line is written: of each kind one a second and core, with the number of those
//! that were left out. Never counts, which [`stats`](super::stats) does. The invariant: lines wait
//! until the callback ends, because only then the address is at hand, and there are at most as many
//! as kinds.

use std::borrow::Cow;
use std::net::SocketAddr;

use super::letters::ClientId;

/// What was refused, by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Token,
    Subscription,
    SubscriptionByBackend,
    Publication,
    PublicationByBackend,
}

impl Refused {
    fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Subscription | Self::SubscriptionByBackend => "subscription",
            Self::Publication | Self::PublicationByBackend => "publication",
        }
    }

    fn by(self) -> &'static str {
        match self {
            Self::SubscriptionByBackend | Self::PublicationByBackend => "backend",
            _ => "configuration",
        }
    }
}

/// One refusal.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) what: Refused,
    pub(super) why: Cow<'static, str>,
    pub(super) user: String,
    pub(super) client: Option<ClientId>,
    pub(super) channel: String,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    kinds: [Kind; KINDS],
    waiting: Vec<(Refusal, u64)>,
}

const KINDS: usize = 5;

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    /// Unix time in seconds of the last line.
    last: i64,
    left_out: u64,
}

impl Refusals {
    /// Whether one of this kind is written now. If not, it is counted for the next line.
    pub(super) fn admits(&mut self, what: Refused, unix: i64) -> bool {
        let kind = &mut self.kinds[what as usize];
        let admitted = kind.last != unix;
        kind.left_out += u64::from(!admitted);
        admitted
    }

    /// Something was refused that is admitted.
    pub(super) fn push(&mut self, refusal: Refusal, unix: i64) {
        let kind = &mut self.kinds[refusal.what as usize];
        kind.last = unix;
        self.waiting.push((refusal, std::mem::take(&mut kind.left_out)));
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Writes what waits. `address`: of the client whose message it was.
    pub(super) fn write(&mut self, address: Option<SocketAddr>) {
        for (refusal, left_out) in self.waiting.drain(..) {
            let Refusal { what, why, user, client, channel } = refusal;
            let (refused, by, why) = (what.name(), what.by(), &*why);
            let (user, channel) = (short(&user), short(&channel));
            let address = address.map(tracing::field::display);
            let client = client.map(tracing::field::display);
            tracing::info!(why, by, user, address, channel, client, left_out, "{refused} refused");
        }
    }
}

/// A name that fits into a line.
fn short(name: &str) -> &str {
    let end = (0..=NAME_MAX.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or(0)]
}

const NAME_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_kind_a_line_a_second() {
        let mut refusals = Refusals::default();
        let refusal = |what| Refusal {
            what,
            why: "w".into(),
            user: String::new(),
            client: None,
            channel: "é".repeat(1000),
        };
        for unix in [10, 10, 10, 11] {
            for what in [Refused::Token, Refused::PublicationByBackend] {
                if refusals.admits(what, unix) {
                    refusals.push(refusal(what), unix);
                }
            }
        }
        let left_out: Vec<_> = refusals.waiting.iter().map(|(_, left_out)| *left_out).collect();
        assert_eq!(left_out, [0, 0, 2, 2]);
        refusals.write(None);
        assert!(refusals.is_empty());
        assert_eq!(short(&"é".repeat(1000)).len(), 254);
    }
}
