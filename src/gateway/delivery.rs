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

use super::account::{heap, shared};
use super::delta;
use super::format::Format;
use super::letters::{ChannelId, ClientId, Who};
use super::wire::messages::{ClientInfo, JoinPush, LeavePush, Publication, Push, PushBody};
use super::wire::{self, Encoding, Payload, Subject};
use crate::engine::Frame;

/// A publication as it is kept: in no more pieces of the heap than it has parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Place in the stream; 0 is in none.
    pub offset: u64,
    /// Monotonic time of publication.
    pub at: Duration,
    /// The payload.
    pub data: Box<[u8]>,
    more: Option<Box<More>>,
}

/// What of a publication most have not.
#[derive(Clone, Debug, PartialEq, Eq)]
struct More {
    info: Option<Box<ClientInfo>>,
    tags: Box<[(Box<str>, Box<str>)]>,
    version: u64,
    channel: Option<Box<str>>,
}

impl Item {
    /// A publication in no stream. `info`: the publisher, if it is a client; `tags`: what filters
    /// look at; `version`: given by the publisher, 0 is none.
    pub fn new(
        at: Duration,
        data: Bytes,
        info: Option<Box<ClientInfo>>,
        tags: BTreeMap<String, String>,
        version: u64,
    ) -> Self {
        // Takes the memory over where nobody else has it, and holds on to no larger message.
        let data = Vec::from(data).into_boxed_slice();
        let plain = info.is_none() && tags.is_empty() && version == 0;
        let more = (!plain).then(|| {
            let tags = tags.into_iter();
            let tags =
                tags.map(|(key, tag)| (key.into_boxed_str(), tag.into_boxed_str())).collect();
            Box::new(More { info, tags, version, channel: None })
        });
        Self { offset: 0, at, data, more }
    }

    /// Published in this channel, where the subscription is to several.
    pub fn in_channel(mut self, channel: &str) -> Self {
        let nothing = || Box::new(More { info: None, tags: [].into(), version: 0, channel: None });
        self.more.get_or_insert_with(nothing).channel = Some(channel.into());
        self
    }

    /// The payload, shared.
    pub fn payload(self: &Arc<Self>) -> Bytes {
        struct Payload(Arc<Item>);

        impl AsRef<[u8]> for Payload {
            fn as_ref(&self) -> &[u8] {
                &self.0.data
            }
        }

        Bytes::from_owner(Payload(self.clone()))
    }

    /// The publisher, if it is a client.
    pub fn info(&self) -> Option<&ClientInfo> {
        self.more.as_ref().and_then(|more| more.info.as_deref())
    }

    /// What filters look at.
    pub fn tags(&self) -> &[(Box<str>, Box<str>)] {
        self.more.as_ref().map_or(&[], |more| &more.tags)
    }

    /// Given by the publisher; 0 is none.
    pub fn version(&self) -> u64 {
        self.more.as_ref().map_or(0, |more| more.version)
    }

    /// Where it was published, if the subscription is to several channels; else empty.
    fn channel(&self) -> &str {
        self.more.as_ref().and_then(|more| more.channel.as_deref()).unwrap_or_default()
    }

    /// Whether it is the same publication, whenever it came and wherever it is.
    pub fn says_as(&self, other: &Self) -> bool {
        self.data == other.data && self.more == other.more
    }

    /// As it travels.
    pub fn wire(self: &Arc<Self>) -> Publication {
        let own = |(key, tag): &(Box<str>, Box<str>)| (key.to_string(), tag.to_string());
        Publication {
            data: self.payload(),
            info: self.more.as_ref().and_then(|more| more.info.as_deref().cloned()),
            offset: self.offset,
            tags: self.tags().iter().map(own).collect(),
            version: self.version(),
            channel: self.channel().to_owned(),
            ..Publication::default()
        }
    }

    /// The memory that it takes. What it shares with its publisher counts as if it were its own.
    pub fn cost(&self) -> usize {
        let more = self.more.as_ref().map_or(0, |more| {
            let tag = |(key, tag): &(Box<str>, Box<str>)| heap(key.len()) + heap(tag.len());
            let info = more.info.as_ref().map_or(0, |info| {
                let raw = [&info.conn_info, &info.chan_info].map(|raw| match raw.len() {
                    0 => 0,
                    bytes => heap(bytes) + heap(BYTES_SHARED),
                });
                let texts = heap(info.user.capacity()) + heap(info.client.capacity());
                heap(size_of::<ClientInfo>()) + texts + raw.iter().sum::<usize>()
            });
            let tags: usize = more.tags.iter().map(tag).sum();
            let channel = more.channel.as_ref().map_or(0, |channel| heap(channel.len()));
            heap(size_of::<More>()) + heap(size_of_val(&*more.tags)) + tags + info + channel
        });
        shared(size_of::<Self>()) + heap(self.data.len()) + more
    }
}

/// What `Bytes` takes beside its content where it is shared.
const BYTES_SHARED: usize = 3 * size_of::<usize>();

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

    /// The payload is known to be JSON: nobody has to look.
    #[must_use]
    pub fn of_json(self) -> Self {
        Self { is_json: OnceLock::from(true), ..self }
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
        let body = match &self.happening {
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
                let about = item.data.len() + self.name.len() + AROUND;
                return Some(format.frame_of(about, |out| {
                    let publication = item.wire();
                    wire::encode_publication(
                        encoding,
                        envelope,
                        subject,
                        &publication,
                        payload,
                        out,
                    );
                }));
            }
            Happening::Join(client, who) => {
                PushBody::Join(JoinPush { info: Some(who.wire(*client)) })
            }
            Happening::Leave(client, who) => {
                PushBody::Leave(LeavePush { info: Some(who.wire(*client)) })
            }
        };
        let mut element = Vec::new();
        wire::encode_push(encoding, envelope, &self.push(compact, body), &mut element);
        Some(format.frame(element))
    }

    fn push(&self, compact: bool, body: PushBody) -> Push {
        let (id, channel) = match compact {
            true => (self.id.wire(), String::new()),
            false => (0, self.name.as_ref().to_owned()),
        };
        Push { id, channel, body: Some(body) }
    }
}

/// Keys, numbers and braces around a payload, and a publisher that has little to say of itself.
const AROUND: usize = 160;

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
    let mut base: Option<&[u8]> = None;
    let mut publications = Vec::with_capacity(items.len());
    for item in items {
        if encoding == Encoding::Json && !wire::is_json(&item.data) {
            return None;
        }
        let patch = base.and_then(|base| patch_for(encoding, base, &item.data));
        let delta = patch.is_some();
        let data = patch.unwrap_or_else(|| item.payload());
        publications.push(Publication { data, delta, ..item.wire() });
        base = Some(&item.data);
    }
    Some(publications)
}
