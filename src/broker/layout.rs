//! Centrifugo's layout in Redis: names of keys, and what is around the messages that pass through
//! channels. Nodes of Centrifugo and of ringhold read each other's by it.
//!
//! Owns the names; knows no connection. With `Tags::Braces` the channel in a name is a hash tag, so
//! that all keys of a channel lie in one slot of a cluster. With `Tags::Partitions` the number of
//! its partition stands before it as the tag (`P.stream.{7}.CH`), but for its members, whose keys
//! have braces around the channel as before: so there are no more slots with messages than
//! partitions.
//!
//! | name | what |
//! |---|---|
//! | `P.stream.CH` | stream: id `OFFSET-0`, `d` is a `Publication` in Protobuf, `m` our mark |
//! | `P.stream.meta.CH` | hash: `e` epoch, `s` top, `v` version, `ve` its epoch |
//! | `P.result.CH.KEY` | hash: `e` epoch and `s` offset of what was published with the key |
//! | `P.presence.data.CH` | hash: client to `ClientInfo` in Protobuf |
//! | `P.presence.expire.CH` | sorted set: client by the Unix time at which it vanishes |
//! | `P.client.CH` | the messages |
//! | `P.control` | what nodes tell all others |
//! | `P.node.UID` | what nodes tell one of them |
//! | `P.ringhold.removed` | ours: channels whose history was removed, for nodes that hold it |

use std::sync::Arc;

use bytes::Bytes;

use super::slots;
use crate::gateway::broker::Message;
use crate::gateway::stream::Epoch;

/// Whether channels are hash tags in names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `P.stream.CH`: one server, or several that the channel's hash chooses from.
    Plain,
    /// `P.stream.{CH}`: a cluster.
    Braces,
    /// `P.stream.{N}.CH`: a cluster whose messages are sharded, with so many partitions.
    Partitions(u16),
}

/// How keys are named.
#[derive(Clone, Debug)]
pub struct Layout {
    prefix: Box<str>,
    open: &'static [u8],
    close: &'static [u8],
    /// None where messages are not sharded.
    partitions: Arc<[Partition]>,
}

/// A part of the channels whose names lie in one slot.
#[derive(Debug)]
struct Partition {
    /// `{7}.`
    tag: Box<str>,
    slot: u16,
}

/// A name in pieces.
pub type Name<'a> = [&'a [u8]; 5];

impl Layout {
    /// With this prefix.
    pub fn new(prefix: &str, tags: Tags) -> Self {
        let (open, close): (&[u8], &[u8]) = match tags {
            Tags::Plain => (b"", b""),
            Tags::Braces | Tags::Partitions(_) => (b"{", b"}"),
        };
        let count = if let Tags::Partitions(count) = tags { count } else { 0 };
        let partition = |number| {
            let tag = format!("{{{number}}}.").into_boxed_str();
            let slot = slots::slot(format!("{prefix}.client.{tag}").as_bytes());
            Partition { tag, slot }
        };
        let partitions = (0..count).map(partition).collect();
        Self { prefix: prefix.into(), open, close, partitions }
    }

    /// Whether messages are sharded: they pass through the node that has the slot of their channel,
    /// and no other.
    pub fn is_sharded(&self) -> bool {
        !self.partitions.is_empty()
    }

    /// The slots of all partitions.
    pub fn slots(&self) -> impl Iterator<Item = u16> {
        self.partitions.iter().map(|partition| partition.slot)
    }

    /// The partition of a channel, where there are any.
    fn partition(&self, channel: &str) -> Option<&Partition> {
        let count = self.partitions.len();
        if count == 0 { None } else { self.partitions.get(shard(channel, count)) }
    }

    fn name<'a>(&'a self, kind: &'static str, channel: &'a str) -> Name<'a> {
        match self.partition(channel) {
            Some(Partition { tag, .. }) => {
                let prefix = self.prefix.as_bytes();
                [prefix, kind.as_bytes(), tag.as_bytes(), channel.as_bytes(), b""]
            }
            None => self.tagged(kind, channel),
        }
    }

    /// The name in which the channel is the tag, if there are tags.
    fn tagged<'a>(&'a self, kind: &'static str, channel: &'a str) -> Name<'a> {
        let prefix = self.prefix.as_bytes();
        [prefix, kind.as_bytes(), self.open, channel.as_bytes(), self.close]
    }

    /// The slot of a cluster in which all names of a channel lie, but those of its members.
    pub fn slot(&self, channel: &str) -> u16 {
        match self.partition(channel) {
            Some(partition) => partition.slot,
            None => self.slot_of(channel, self.messages(channel)),
        }
    }

    /// The slot of a cluster in which a script finds the names of a channel, and so those of other
    /// channels that lie there, too; 0 where there is no cluster. `None`: they lie apart.
    pub fn slot_of_scripts(&self, channel: &str) -> Option<u16> {
        if self.open.is_empty() {
            return Some(0);
        }
        let apart = self.partitions.is_empty()
            && (channel.is_empty() || channel.starts_with('}') || self.prefix.contains('{'));
        (!apart).then(|| self.slot(channel))
    }

    /// The slot in which those of its members lie.
    pub fn slot_of_members(&self, channel: &str) -> u16 {
        self.slot_of(channel, self.expiry(channel))
    }

    fn slot_of(&self, channel: &str, name: Name<'_>) -> u16 {
        match channel.split('}').next() {
            Some(tag) if !tag.is_empty() && !self.prefix.contains('{') => {
                slots::slot_of_tag(tag.as_bytes())
            }
            // No tag that Redis would see: each name lies elsewhere, and scripts are refused.
            _ => slots::slot(&name.concat()),
        }
    }

    /// The command that passes messages on.
    pub fn publish(&self) -> &'static str {
        if self.is_sharded() { "SPUBLISH" } else { "PUBLISH" }
    }

    /// Of the history.
    pub fn stream<'a>(&'a self, channel: &'a str) -> Name<'a> {
        self.name(".stream.", channel)
    }

    /// Of the position.
    pub fn meta<'a>(&'a self, channel: &'a str) -> Name<'a> {
        self.name(".stream.meta.", channel)
    }

    /// Of what was published with an idempotency key.
    pub fn result<'a>(&'a self, channel: &'a str, key: &'a str) -> [&'a [u8]; 7] {
        let [prefix, kind, open, channel, close] = self.name(".result.", channel);
        [prefix, kind, open, channel, close, b".", key.as_bytes()]
    }

    /// Of members' data.
    pub fn members<'a>(&'a self, channel: &'a str) -> Name<'a> {
        self.tagged(".presence.data.", channel)
    }

    /// Of the time at which members vanish.
    pub fn expiry<'a>(&'a self, channel: &'a str) -> Name<'a> {
        self.tagged(".presence.expire.", channel)
    }

    /// Of the channel's messages.
    pub fn messages<'a>(&'a self, channel: &'a str) -> Name<'a> {
        self.name(".client.", channel)
    }

    /// Of what nodes tell each other about histories that are removed.
    pub fn removals(&self) -> Name<'_> {
        [self.prefix.as_bytes(), b".ringhold.removed", b"", b"", b""]
    }

    /// Whether this is that name.
    pub fn is_removals(&self, name: &[u8]) -> bool {
        name.strip_prefix(self.prefix.as_bytes()) == Some(b".ringhold.removed")
    }

    /// Of what nodes tell each other.
    pub fn control(&self) -> Name<'_> {
        [self.prefix.as_bytes(), b".control", b"", b"", b""]
    }

    /// Of what nodes tell this one.
    pub fn node<'a>(&'a self, uid: &'a str) -> Name<'a> {
        [self.prefix.as_bytes(), b".node.", uid.as_bytes(), b"", b""]
    }

    /// Whether this is the one or the other.
    pub fn is_control(&self, name: &[u8], uid: &str) -> bool {
        let Some(rest) = name.strip_prefix(self.prefix.as_bytes()) else { return false };
        rest == b".control" || rest.strip_prefix(b".node.") == Some(uid.as_bytes())
    }

    /// The channel whose messages have this name.
    pub fn channel<'a>(&self, name: &'a [u8]) -> Option<&'a str> {
        let name = name.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b".client.")?;
        if self.is_sharded() {
            let after = name.iter().position(|byte| *byte == b'.')? + 1;
            let channel = std::str::from_utf8(&name[after..]).ok()?;
            // Of nodes with another number of partitions.
            let is_it = self.partition(channel)?.tag.as_bytes() == &name[..after];
            return is_it.then_some(channel);
        }
        let name = name.strip_prefix(self.open)?.strip_suffix(self.close)?;
        std::str::from_utf8(name).ok()
    }
}

/// What begins a message that somebody came.
pub const JOIN: &[u8] = b"__j__";
/// What begins a message that somebody went.
pub const LEAVE: &[u8] = b"__l__";
/// What begins a publication with its position.
const PLACED: &[u8] = b"__p1:";
/// The same, with the publication before it.
const DELTA: &[u8] = b"__d1:";

/// Reads what came through a channel. `None`: it is none of the forms there are.
pub fn message(payload: &[u8]) -> Option<Message> {
    // No `Publication` begins with an underscore, which would be a type that Protobuf has not.
    if !payload.starts_with(b"__") {
        return Some(Message::Passed(Bytes::copy_from_slice(payload)));
    }
    if let Some(info) = payload.strip_prefix(JOIN) {
        return Some(Message::Join(Bytes::copy_from_slice(info)));
    }
    if let Some(info) = payload.strip_prefix(LEAVE) {
        return Some(Message::Leave(Bytes::copy_from_slice(info)));
    }
    let (offset, epoch, data) = match payload.strip_prefix(PLACED) {
        Some(rest) => {
            let (offset, rest) = until(rest, b":")?;
            let (epoch, data) = until(rest, b"__")?;
            (offset, epoch, data)
        }
        None => delta(payload.strip_prefix(DELTA)?)?,
    };
    let offset = number(offset).filter(|offset| *offset > 0)?;
    let epoch = Epoch::parse(std::str::from_utf8(epoch).ok()?)?;
    Some(Message::Published { epoch, offset, data: Bytes::copy_from_slice(data) })
}

/// `OFFSET:EPOCH:LENGTH:previous:LENGTH:this`, of which the previous is not needed: the home core
/// has it.
fn delta(rest: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (offset, rest) = until(rest, b":")?;
    let (epoch, rest) = until(rest, b":")?;
    let (length, rest) = until(rest, b":")?;
    let length = usize::try_from(number(length)?).ok()?;
    let rest = rest.get(length..)?.strip_prefix(b":")?;
    let (length, data) = until(rest, b":")?;
    (number(length)? == data.len() as u64).then_some((offset, epoch, data))
}

fn until<'a>(text: &'a [u8], end: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(end.len()).take(FIELD_MAX).position(|part| part == end)?;
    Some((&text[..at], &text[at + end.len()..]))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Bytes of an offset, an epoch or a length, and more than any has.
const FIELD_MAX: usize = 64;

/// Which of several servers a channel lies on, as Centrifugo has it: the jump consistent hash
/// (Lamping and Veach, 2014) of FNV-1a with 64 bits.
pub fn shard(channel: &str, shards: usize) -> usize {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let mut key = channel.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    let (mut chosen, mut next) = (0, 0_i64);
    while next < shards as i64 {
        chosen = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let jump = (1_u64 << 31) as f64 / ((key >> 33) + 1) as f64;
        next = ((chosen + 1) as f64 * jump) as i64;
    }
    chosen as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn published(offset: u64, epoch: &str, data: &'static [u8]) -> Option<Message> {
        let epoch = Epoch::parse(epoch).unwrap();
        Some(Message::Published { epoch, offset, data: Bytes::from_static(data) })
    }

    #[test]
    fn names_are_centrifugos() {
        let text = |name: &[&[u8]]| String::from_utf8(name.concat()).unwrap();
        let (plain, cluster) =
            (Layout::new("centrifugo", Tags::Plain), Layout::new("p", Tags::Braces));
        assert_eq!(text(&plain.stream("a:b")), "centrifugo.stream.a:b");
        assert_eq!(text(&plain.meta("a:b")), "centrifugo.stream.meta.a:b");
        assert_eq!(text(&plain.result("a", "k.1")), "centrifugo.result.a.k.1");
        assert_eq!(text(&plain.messages("a")), "centrifugo.client.a");
        assert_eq!(text(&cluster.members("a")), "p.presence.data.{a}");
        assert_eq!(text(&cluster.expiry("a")), "p.presence.expire.{a}");
        assert_eq!(text(&cluster.result("a", "k")), "p.result.{a}.k");
        for (layout, channel) in [(&plain, "x.y{z}"), (&cluster, "x.y{z}"), (&plain, "")] {
            let name = layout.messages(channel).concat();
            assert_eq!(layout.channel(&name), Some(channel));
        }
        for channel in ["a", "x.y{z}", "a}b", "}", "", "{}"] {
            let slot = cluster.slot(channel);
            assert_eq!(slot, slots::slot(&cluster.messages(channel).concat()), "{channel}");
            let tagged = !channel.is_empty() && !channel.starts_with('}');
            let stream = slots::slot(&cluster.stream(channel).concat());
            assert_eq!(stream == slot, tagged, "{channel}");
            assert_eq!(cluster.slot_of_scripts(channel), tagged.then_some(slot), "{channel}");
            assert_eq!(plain.slot_of_scripts(channel), Some(0), "{channel}");
        }
        assert_eq!(plain.channel(b"centrifugo.control"), None);
        assert_eq!(cluster.channel(b"p.client.a"), None);
        assert_eq!(plain.channel(b"centrifugo.client.\xff"), None);
    }

    /// All names of a channel that a script has are in the slot of its partition, whatever braces
    /// the channel has; its members are where they were.
    #[test]
    fn partitions_are_tags_of_all_but_members() {
        let text = |name: &[&[u8]]| String::from_utf8(name.concat()).unwrap();
        let layout = Layout::new("p", Tags::Partitions(16));
        assert_eq!((shard("a:b", 16), shard("a", 16)), (3, 12));
        assert_eq!(text(&layout.stream("a:b")), "p.stream.{3}.a:b");
        assert_eq!(text(&layout.meta("a:b")), "p.stream.meta.{3}.a:b");
        assert_eq!(text(&layout.result("a", "k")), "p.result.{12}.a.k");
        assert_eq!(text(&layout.messages("a")), "p.client.{12}.a");
        assert_eq!(text(&layout.members("a")), "p.presence.data.{a}");
        assert_eq!(text(&layout.expiry("a")), "p.presence.expire.{a}");
        assert_eq!((layout.publish(), layout.is_sharded()), ("SPUBLISH", true));
        for channel in ["a", "x.y{z}", "a}b", "}", "", "{}", "{3}.a"] {
            let name = layout.messages(channel).concat();
            assert_eq!(layout.channel(&name), Some(channel));
            let slot = layout.slot(channel);
            assert_eq!(layout.slot_of_scripts(channel), Some(slot), "{channel}");
            for name in [layout.messages(channel), layout.stream(channel), layout.meta(channel)] {
                assert_eq!(slots::slot(&name.concat()), slot, "{channel}");
            }
            assert_eq!(slots::slot(&layout.result(channel, "{k}").concat()), slot, "{channel}");
            let members = slots::slot(&layout.expiry(channel).concat());
            assert_eq!(layout.slot_of_members(channel), members, "{channel}");
        }
        // Of another number of partitions, or of none.
        for name in ["p.client.{6}.a", "p.client.{99}.a", "p.client.{a}", "p.client.a", "p.client."]
        {
            assert_eq!(layout.channel(name.as_bytes()), None, "{name}");
        }
        let slots: BTreeSet<_> = (0..1000).map(|n| layout.slot(&n.to_string())).collect();
        assert_eq!(slots.len(), 16);
    }

    #[test]
    fn messages_are_read_in_all_forms() {
        assert_eq!(message(b"__p1:7:abcd__\"x__y"), published(7, "abcd", b"\"x__y"));
        assert_eq!(message(b"__p1:1:1700000000__"), published(1, "1700000000", b""));
        let delta = b"__d1:18446744073709551615:abcd:3:a:b:4:__:z";
        assert_eq!(message(delta), published(u64::MAX, "abcd", b"__:z"));
        assert_eq!(message(b"__d1:2:abcd:0::1:z"), published(2, "abcd", b"z"));
        assert_eq!(message(b"__j__who"), Some(Message::Join(Bytes::from_static(b"who"))));
        assert_eq!(message(b"__l__"), Some(Message::Leave(Bytes::new())));
        assert_eq!(message(b"\"plain"), Some(Message::Passed(Bytes::from_static(b"\"plain"))));
    }

    #[test]
    fn what_only_looks_like_a_message_is_none() {
        for payload in [
            &b"__"[..],
            b"__x__",
            b"__p1:0:abcd__x",
            b"__p1:x:abcd__x",
            b"__p1:1:__x",
            b"__p1:1:an_epoch_that_is_too_long__x",
            b"__p1:1:abcd",
            b"__d1:1:abcd:9:a:1:z",
            b"__d1:1:abcd:1:a:2:z",
            b"__d1:1:abcd:18446744073709551615:a:1:z",
        ] {
            assert_eq!(message(payload), None, "{payload:?}");
        }
    }

    /// What the paper promises: with one server more, only channels that move to it move.
    #[test]
    fn channels_move_to_a_new_server_only() {
        let mut counts = [0_usize; 8];
        for n in 0..8000 {
            let channel = format!("channel:{n}");
            assert_eq!(shard(&channel, 1), 0);
            for shards in 1..8 {
                let (before, after) = (shard(&channel, shards), shard(&channel, shards + 1));
                assert!(after == before || after == shards);
            }
            counts[shard(&channel, 8)] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
