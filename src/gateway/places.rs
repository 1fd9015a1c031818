//! Where the client of a one-way event stream is in its channels: the `id:` of its events, and what
//! a browser brings back as `Last-Event-ID`.
//!
//! An id names each recoverable channel by eight letters of a hash, then its epoch, a dot, and the
//! offset of the last publication; entries are apart by commas:
//! `n4bQgYhMQTxYrVab.17,4v9dmlruPBwkLZcd.3`. Owns this text. Knows no session. The invariant: an id
//! that a client has seen covers exactly the publications that it got before or with it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha1::{Digest, Sha1};

use super::wire::messages::{SubscribeRequest, SubscribeResult};

/// One channel's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    channel: Box<str>,
    name: String,
    epoch: Box<str>,
    offset: u64,
}

/// The positions of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    places: Vec<Place>,
    /// There were more channels than an id has room for; then there is none.
    crowded: bool,
}

impl Places {
    /// A subscription began, or was told to have begun.
    pub(super) fn begin(&mut self, channel: &str, result: &SubscribeResult) {
        if !result.recoverable {
            return;
        }
        // What comes along leads there, wherever the client believed to be: where the newest
        // publication is all that is recovered, that may be beyond it, or of another life.
        let newest = result.publications.iter().map(|publication| publication.offset).max();
        let offset = newest.unwrap_or(result.offset);
        self.end(channel);
        if self.places.len() == CHANNELS_MAX {
            self.crowded = true;
            return;
        }
        let (channel, name) = (channel.into(), hash(channel));
        self.places.push(Place { channel, name, epoch: result.epoch.as_str().into(), offset });
    }

    /// A subscription is over.
    pub(super) fn end(&mut self, channel: &str) {
        self.places.retain(|place| *place.channel != *channel);
    }

    /// A publication is sent. Whether the id is another one now.
    pub(super) fn advance(&mut self, channel: &str, offset: u64) -> bool {
        match self.places.iter_mut().find(|place| *place.channel == *channel) {
            Some(place) if offset > place.offset => {
                place.offset = offset;
                !self.crowded
            }
            _ => false,
        }
    }

    /// Whether there is nothing to keep.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The line of an event that says it all; nothing if there is nothing to say.
    pub(super) fn line(&self, out: &mut Vec<u8>) {
        if self.places.is_empty() || self.crowded {
            return;
        }
        out.extend_from_slice(b"id: ");
        for (n, place) in self.places.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            let Place { name, epoch, offset, .. } = place;
            out.extend_from_slice(format!("{comma}{name}{epoch}.{offset}").as_bytes());
        }
        out.push(b'\n');
    }
}

/// What a client brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resume(String);

impl Resume {
    /// From the header, whatever is in it.
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Where it was in a channel.
    pub(super) fn of(&self, channel: &str) -> Option<SubscribeRequest> {
        if self.0.is_empty() {
            return None;
        }
        let name = hash(channel);
        let rest = self.0.split(',').find_map(|entry| entry.strip_prefix(&name))?;
        let (epoch, offset) = rest.rsplit_once('.')?;
        Some(SubscribeRequest {
            recover: true,
            epoch: epoch.to_owned(),
            offset: offset.parse().ok()?,
            ..SubscribeRequest::default()
        })
    }
}

/// 48 bits of a channel's name, the same in every process, so that a server that has forgotten the
/// channel still knows that it was asked for.
fn hash(channel: &str) -> String {
    URL_SAFE_NO_PAD.encode(&Sha1::digest(channel.as_bytes())[..6])
}

/// Entries of an id: with offsets of ten digits they fit into a third of the smallest usual limit
/// for a request's head, 8 KiB.
const CHANNELS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::wire::messages::Publication;

    fn result(epoch: &str, offset: u64) -> SubscribeResult {
        let epoch = epoch.to_owned();
        SubscribeResult { recoverable: true, epoch, offset, ..SubscribeResult::default() }
    }

    fn id(places: &Places) -> String {
        let mut line = Vec::new();
        places.line(&mut line);
        let line = String::from_utf8(line).unwrap();
        line.trim_end().strip_prefix("id: ").unwrap_or_default().to_owned()
    }

    #[test]
    fn what_is_told_is_understood() {
        let mut places = Places::default();
        assert_eq!(id(&places), "");
        places.begin("news", &result("abcdef", 7));
        places.begin("chat:#42", &SubscribeResult::default());
        let mut recovered = result("ghijkl", 3);
        recovered.publications = vec![Publication { offset: 5, ..Publication::default() }];
        places.begin("chat:a", &recovered);
        assert!(places.advance("news", 8) && !places.advance("news", 8));
        assert!(!places.advance("chat:#42", 9));
        let resume = Resume::new(&id(&places));
        let of = |channel| resume.of(channel).map(|at| (at.recover, at.epoch, at.offset));
        assert_eq!(of("news"), Some((true, "abcdef".to_owned(), 8)));
        assert_eq!(of("chat:a"), Some((true, "ghijkl".to_owned(), 5)));
        assert_eq!((of("chat:#42"), of("other")), (None, None));
        places.end("news");
        places.end("chat:a");
        assert!(places.is_empty() && id(&places).is_empty());
    }

    #[test]
    fn a_client_is_where_its_last_publication_is() {
        let mut places = Places::default();
        let mut cached = result("abcdef", 100);
        cached.publications = vec![Publication { offset: 2, ..Publication::default() }];
        places.begin("news", &cached);
        let at = |places: &Places| Resume::new(&id(places)).of("news").map(|at| at.offset);
        assert_eq!(at(&places), Some(2), "it believed to be at 100 of another life");
        assert!(places.advance("news", 3) && at(&places) == Some(3));
    }

    #[test]
    fn nonsense_is_no_position() {
        let news = hash("news");
        let bad = [String::new(), ",".into(), news.clone(), format!("{news}abc"), "x.1".into()];
        for text in bad.iter().chain([&format!("{news}abc.x"), &format!("{news}abc.-1")]) {
            assert_eq!(Resume::new(text).of("news"), None, "{text:?}");
        }
        assert!(Resume::new(&format!("{news}.1")).of("news").is_some());
    }

    #[test]
    fn too_many_channels_have_no_id() {
        let mut places = Places::default();
        for n in 0..CHANNELS_MAX {
            places.begin(&format!("channel {n}"), &result("abcdefgh", 9_999_999_999));
        }
        assert!(!id(&places).is_empty() && id(&places).len() < 8192 / 3);
        places.begin("one more", &result("abc", 1));
        assert_eq!(id(&places), "");
        assert!(!places.advance("channel 1", u64::MAX));
    }
}
