//! What the home core of a channel sends to all its subscribers: a publication, a join or a leave.
//!
//! Owns the event and its encoded frames, whatever they are wrapped in. Each variant of the frame
//! is encoded when the first subscriber needs it, on whichever core that is, and shared by all. The
//! invariant: what a subscriber gets depends on its variant only, so nothing is encoded or
//! allocated per subscriber.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use super::delta;
use super::format::Format;
use super::letters::{ChannelId, ClientId, Who};
use super::wire::messages::{ClientInfo, JoinPush, LeavePush, Publication, Push, PushBody};
use super::wire::{self, Encoding, Payload, Subject};
use crate::engine::Frame;

/// A publication as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Place in the stream; 0 is in none.
    pub offset: u64,
    /// Monotonic time of publication.
    pub at: Duration,
    /// The payload.
    pub data: Bytes,
    /// The publisher, if it was a client.
    pub info: Option<Box<ClientInfo>>,
    /// What filters look at.
    pub tags: BTreeMap<String, String>,
    /// Given by the publisher; 0 is none.
    pub version: u64,
}

impl Item {
    /// As it travels.
    pub fn wire(&self) -> Publication {
        Publication {
            data: self.data.clone(),
            info: self.info.as_deref().cloned(),
            offset: self.offset,
            tags: self.tags.clone(),
            version: self.version,
            ..Publication::default()
        }
    }

    /// About how many bytes it takes to keep it. Allocators and containers have their share.
    pub fn cost(&self) -> usize {
        const FIXED: usize = size_of::<Item>() + 64;
        const TAG: usize = 2 * size_of::<String>();
        let tags: usize = self.tags.iter().map(|(key, value)| key.len() + value.len() + TAG).sum();
        let info = self.info.as_ref().map_or(0, |info| {
            let texts = info.user.len() + info.client.len();
            size_of::<ClientInfo>() + texts + info.conn_info.len() + info.chan_info.len()
        });
        FIXED + self.data.len() + tags + info
    }
}

/// Which frame a subscriber gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// How the connection wants it wrapped.
    pub format: Format,
    /// The channel's number instead of its name.
    pub compact: bool,
    /// Of publications: what is in them.
    pub form: Form,
}

/// What is in a publication's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The payload, as it is.
    Plain,
    /// The payload, for a subscriber with delta that cannot apply a patch.
    Whole,
    /// A patch against the publication before, if there is a shorter one; else as [`Form::Whole`].
    Patch,
}

/// Of one format.
const VARIANTS: usize = 6;

/// Formats of WebSockets, which most connections have.
const COMMON: usize = 2;

/// The others.
const RARE: usize = Format::ALL.len() - COMMON;

impl Variant {
    fn index(self) -> usize {
        let form = match self.form {
            Form::Plain => 0,
            Form::Whole => 1,
            Form::Patch => 2,
        };
        usize::from(self.format.bits()) * VARIANTS + form * 2 + usize::from(self.compact)
    }

    fn encoding(self) -> Encoding {
        self.format.encoding()
    }
}

/// Encoded when somebody wants it; `None` where a JSON client cannot get it.
type Slot = OnceLock<Option<Frame>>;

/// What happened in a channel.
#[derive(Debug)]
pub enum Happening {
    /// A publication.
    Published {
        /// It.
        item: Arc<Item>,
        /// Counts the channel's publications, without gaps, whether or not it has a stream.
        seq: u64,
        /// The payload of the publication before it, if patches are wanted.
        base: Option<Bytes>,
    },
    /// Somebody came.
    Join(ClientId, Who),
    /// Somebody went.
    Leave(ClientId, Who),
}

/// Something that happened in a channel, for all its subscribers.
#[derive(Debug)]
pub struct Delivery {
    /// The channel.
    pub(super) id: ChannelId,
    /// Its name.
    pub(super) name: Arc<str>,
    /// What happened.
    pub(super) happening: Happening,
    common: [Slot; COMMON * VARIANTS],
    /// Made when the first client without WebSocket wants one.
    rare: OnceLock<Box<[Slot; RARE * VARIANTS]>>,
    /// Whether the payload is JSON.
    is_json: OnceLock<bool>,
    /// The patch for each encoding, if there is a shorter one than the payload.
    patches: [OnceLock<Option<Bytes>>; 2],
}

impl Delivery {
    /// Nothing is encoded yet.
    pub fn new(id: ChannelId, name: Arc<str>, happening: Happening) -> Self {
        Self {
            id,
            name,
            happening,
            common: Default::default(),
            rare: OnceLock::new(),
            is_json: OnceLock::new(),
            patches: Default::default(),
        }
    }

    /// The channel's name.
    pub fn channel(&self) -> &str {
        &self.name
    }

    /// What happened.
    pub fn happening(&self) -> &Happening {
        &self.happening
    }

    /// The frame of a variant, encoded if it is the first time. `None` if it is for JSON clients
    /// and the payload is not JSON. Joins and leaves take no notice of the form.
    pub fn frame(&self, variant: Variant) -> Option<&Frame> {
        let variant = self.reduced(variant);
        let index = variant.index();
        let slot = match self.common.get(index) {
            Some(slot) => slot,
            None => {
                let rare = self.rare.get_or_init(|| Box::new(std::array::from_fn(|_| Slot::new())));
                &rare[index - self.common.len()]
            }
        };
        slot.get_or_init(|| self.encode(variant)).as_ref()
    }

    /// The variant with the same bytes that stands for this one.
    fn reduced(&self, mut variant: Variant) -> Variant {
        let Happening::Published { .. } = &self.happening else {
            return Variant { form: Form::Plain, ..variant };
        };
        if variant.form == Form::Patch && self.patch(variant.encoding()).is_none() {
            variant.form = Form::Whole;
        }
        if variant.form == Form::Whole && variant.encoding() == Encoding::Protobuf {
            variant.form = Form::Plain;
        }
        variant
    }

    fn patch(&self, encoding: Encoding) -> Option<&Bytes> {
        let Happening::Published { item, base: Some(base), .. } = &self.happening else {
            return None;
        };
        let patch = &self.patches[usize::from(encoding == Encoding::Protobuf)];
        patch.get_or_init(|| patch_for(encoding, base, &item.data)).as_ref()
    }

    fn encode(&self, variant: Variant) -> Option<Frame> {
        let Variant { format, compact, form } = variant;
        let (encoding, envelope) = (format.encoding(), format.envelope());
        let mut batch = Vec::new();
        match &self.happening {
            Happening::Published { item, .. } => {
                let is_json = || *self.is_json.get_or_init(|| wire::is_json(&item.data));
                if encoding == Encoding::Json && !is_json() {
                    return None;
                }
                let subject = match compact {
                    true => Subject::Id(self.id.wire()),
                    false => Subject::Channel(&self.name),
                };
                let payload = match form {
                    Form::Plain => Payload::Verbatim,
                    Form::Whole => Payload::Text,
                    Form::Patch => self.patch(encoding).map_or(Payload::Text, Payload::Patch),
                };
                wire::encode_publication(
                    encoding,
                    envelope,
                    subject,
                    &item.wire(),
                    payload,
                    &mut batch,
                );
            }
            Happening::Join(client, who) => {
                let info = Some(who.wire(*client));
                let push = self.push(compact, PushBody::Join(JoinPush { info }));
                wire::encode_push(encoding, envelope, &push, &mut batch);
            }
            Happening::Leave(client, who) => {
                let info = Some(who.wire(*client));
                let push = self.push(compact, PushBody::Leave(LeavePush { info }));
                wire::encode_push(encoding, envelope, &push, &mut batch);
            }
        }
        Some(format.frame(batch))
    }

    fn push(&self, compact: bool, body: PushBody) -> Push {
        let (id, channel) = match compact {
            true => (self.id.wire(), String::new()),
            false => (0, self.name.as_ref().to_owned()),
        };
        Push { id, channel, body: Some(body) }
    }
}

/// The patch that makes `base` into `data`, if it is shorter and can travel in this encoding.
fn patch_for(encoding: Encoding, base: &[u8], data: &[u8]) -> Option<Bytes> {
    match encoding {
        Encoding::Json => delta::text_patch(base, data),
        Encoding::Protobuf => delta::patch(base, data),
    }
}

/// Recovered publications for the subscribe reply of a subscriber with delta: the first whole, the
/// others as patches against the one before, where that is shorter. The reply makes strings of them
/// for JSON clients. `None` if a payload cannot be
/// sent in this encoding.
pub fn chain(encoding: Encoding, items: &[Arc<Item>]) -> Option<Vec<Publication>> {
    let mut base: Option<&Bytes> = None;
    let mut publications = Vec::with_capacity(items.len());
    for item in items {
        if encoding == Encoding::Json && !wire::is_json(&item.data) {
            return None;
        }
        let patch = base.and_then(|base| patch_for(encoding, base, &item.data));
        let delta = patch.is_some();
        let data = patch.unwrap_or_else(|| item.data.clone());
        publications.push(Publication { data, delta, ..item.wire() });
        base = Some(&item.data);
    }
    Some(publications)
}
