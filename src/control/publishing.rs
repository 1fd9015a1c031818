//! Publications of the server API on their way to the cores, many in a letter.
//!
//! Owns how many are under way at once. The invariant: what one request publishes into a channel
//! arrives in its order, since one home core answers all of a portion and the next portion follows
//! its answers.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::gateway_backend::GatewayBackend;
use crate::gateway::api::{ApiReply, BroadcastResult, NewPublication, PublishRequest};
use crate::gateway::api::{BroadcastRequest, PublishResult};
use crate::gateway::app;
use crate::gateway::calls::{question, result};
use crate::gateway::letters::{Answer, Ask, Asker, Letter, Reply};
use crate::gateway::wire::Error;

/// Where a publication's outcome comes. Closed without one: [`Error::INTERNAL`].
pub type Published = oneshot::Receiver<Result<PublishResult, Error>>;

/// Publications of one request that are under way at once, and bytes of them beyond which no more
/// are added: they wait in a core's mailbox.
pub(super) const PORTION: usize = 256;
const PORTION_BYTES: usize = 512 * 1024;

/// How many of these publications go out together; at least one.
pub(super) fn portion<'a>(sizes: impl Iterator<Item = &'a NewPublication>) -> usize {
    let mut bytes = 0;
    let fits = sizes.take(PORTION).take_while(|publication| {
        let before = bytes;
        bytes += publication.data.len();
        before == 0 || bytes <= PORTION_BYTES
    });
    fits.count().max(1)
}

impl GatewayBackend {
    /// Posts a portion: one letter for each home core.
    pub(super) fn post_publications(
        &self,
        all: impl Iterator<Item = (String, NewPublication)>,
    ) -> Vec<Published> {
        let rules = self.rules();
        let mut letters: Vec<VecDeque<Ask>> = Vec::new();
        letters.resize_with(self.handle.workers(), VecDeque::new);
        let mut published = Vec::with_capacity(all.size_hint().0);
        for (channel, new) in all {
            let (to, outcome) = oneshot::channel();
            published.push(outcome);
            match question(&rules, &channel, new) {
                Ok(question) => {
                    let reply = Reply::new(move |answer: Result<Answer, Error>| {
                        // Who asked may have gone.
                        let _ = to.send(answer.map(result));
                    });
                    let home = self.placement.home(&channel);
                    let asker = Asker::Control(reply);
                    let ask = Ask { channel: channel.into(), question, asker };
                    letters[home].push_back(ask);
                }
                Err(error) => _ = to.send(Err(error)),
            }
        }
        for (home, asks) in letters.into_iter().enumerate() {
            let Some(letter) = Letter::of_asks(asks) else { continue };
            // A letter that is refused answers by its end.
            let _ = self.handle.post_reserved(home, app::CoreEvent::Hub(letter));
        }
        published
    }

    /// Publishes into one channel.
    pub(super) async fn publish(&self, request: PublishRequest) -> Result<ApiReply, Error> {
        let one = std::iter::once((request.channel, request.publication));
        let published = self.post_publications(one).pop().ok_or(Error::INTERNAL)?;
        published.await.unwrap_or(Err(Error::INTERNAL)).map(ApiReply::Publish)
    }

    /// Publishes into many channels, each of which has its outcome in its place.
    pub(super) async fn broadcast(&self, request: BroadcastRequest) -> Result<ApiReply, Error> {
        let BroadcastRequest { channels, publication } = request;
        let mut responses = Vec::with_capacity(channels.len());
        let mut channels = channels.into_iter();
        while channels.len() > 0 {
            let count = portion(std::iter::repeat_n(&publication, channels.len()));
            let part = channels.by_ref().take(count).map(|name| (name, publication.clone()));
            for published in self.post_publications(part) {
                responses.push(published.await.unwrap_or(Err(Error::INTERNAL)));
            }
        }
        Ok(ApiReply::Broadcast(BroadcastResult { responses }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_is_bounded_in_number_and_bytes_and_never_empty() {
        let of = |size: usize, count: usize| {
            let new = NewPublication { data: vec![0; size].into(), ..NewPublication::default() };
            portion(std::iter::repeat_n(&new, count))
        };
        assert_eq!(of(10, 3), 3);
        assert_eq!(of(10, PORTION + 1), PORTION);
        assert_eq!(of(PORTION_BYTES / 2, 9), 2);
        assert_eq!(of(PORTION_BYTES + 1, 9), 1);
    }
}
