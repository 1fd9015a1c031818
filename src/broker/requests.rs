//! What is asked of Redis for each request: commands, and how many replies they have.
//!
//! Owns no state. Which commands may be sent a second time after a connection broke is said here,
//! too, beside the commands.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::layout::{JOIN, LEAVE, Layout};
use super::resp::Command;
use super::scripts::{Digests, Script};
use super::tongue::{Asked, Joins, Tongue};
use crate::gateway::broker::{Fault, History, Kept, Present, Publish, Renew, Request, TopOf};
use crate::gateway::letters::ClientId;

/// What all commands have in common.
#[derive(Debug)]
pub struct Dialect {
    /// How keys are named.
    pub layout: Layout,
    /// How scripts are.
    pub digests: Digests,
    /// Names this process in marks: random, so that no two that use one Redis have the same.
    pub node: Box<str>,
    /// How long a member is there.
    pub presence_ttl: Duration,
}

/// A field of the envelope that no reader knows, and that differs for each attempt: a publication
/// that says the same at the same place, behind another that was lost, is not taken for the one
/// that was there.
fn attempt(mark: &str, asked: Asked) -> [u8; 6] {
    let mut hasher = DefaultHasher::new();
    (mark, asked.unix).hash(&mut hasher);
    let number = hasher.finish().to_le_bytes();
    let [low, high] = ATTEMPT;
    // Letters and the like, which no tool stumbles over.
    let [a, b, c, d] = [0, 2, 4, 6].map(|at| b'0' + (number[at] ^ number[at + 1]) % 64);
    [low, high, a, b, c, d]
}

/// Number 2,047, four bytes of a fixed length (Protocol Buffers, section "Message Structure").
const ATTEMPT: [u8; 2] = [0xfd, 0x7f];

/// Whether a request may be sent again after the connection on which it was sent broke, when it may
/// have been done already.
pub fn may_repeat(request: &Request) -> bool {
    match request {
        // Found by its mark, or known by its key.
        Request::Publish(_, publish) => {
            publish.stream.is_some() || !publish.idempotency_key.is_empty()
        }
        // Twice would be told twice.
        Request::Join(..) | Request::Leave(..) => false,
        // With the connection their purpose is gone.
        Request::Listen(_) | Request::Ignore(_) => false,
        // Done twice they are done once. Removing a history might take what was published between,
        // which whoever removes it has to expect of another publisher anyway.
        Request::History(..)
        | Request::HistoryRemove(..)
        | Request::Positions(..)
        | Request::Renew(..)
        | Request::PresenceAdd(..)
        | Request::PresenceRemove(..)
        | Request::PresenceRenew(..)
        | Request::Presence(..)
        | Request::PresenceStats(..) => true,
    }
}

impl Tongue for Dialect {
    fn write(&self, out: &mut Vec<u8>, request: &Request, asked: Asked) -> Result<usize, Fault> {
        Ok(Self::write(self, out, request, asked))
    }

    /// Publications with a history, and with nothing that their script has to look at before.
    fn joins(&self, request: &Request) -> Option<Joins> {
        let Request::Publish(_, publish) = request else { return None };
        let Publish { channel, stream, delta, idempotency_key, version, data, .. } = &**publish;
        let plain = stream.is_some() && !delta && idempotency_key.is_empty() && *version == 0;
        let slot = plain.then(|| self.layout.slot_of_scripts(channel)).flatten()?;
        Some(Joins { bytes: data.len(), slot })
    }

    fn write_joined(&self, out: &mut Vec<u8>, requests: &[(&Request, Asked)]) {
        let publications: Vec<_> = requests
            .iter()
            .filter_map(|(request, asked)| match request {
                Request::Publish(_, publish) => {
                    publish.stream.as_ref().map(|kept| (&**publish, kept, *asked))
                }
                _ => None,
            })
            .collect();
        debug_assert_eq!(publications.len(), requests.len(), "only those that join");
        self.publish_many(out, &publications);
    }

    fn tell(&self, out: &mut Vec<u8>, to: Option<&str>, data: &[u8]) -> bool {
        let name = to.map_or_else(|| self.layout.control(), |uid| self.layout.node(uid));
        Command::begin(out, 3).part("PUBLISH").joined(&name).part(data);
        true
    }

    fn may_repeat(&self, request: &Request) -> bool {
        may_repeat(request)
    }
}

impl Dialect {
    /// Writes the commands of a request. Returns how many replies come; 0: nothing was to be asked.
    pub fn write(&self, out: &mut Vec<u8>, request: &Request, asked: Asked) -> usize {
        let layout = &self.layout;
        match request {
            Request::Listen(_) | Request::Ignore(_) => 0,
            Request::Publish(_, publish) => self.publish(out, publish, asked),
            Request::Join(channel, info) => self.tell(out, channel, JOIN, info),
            Request::Leave(channel, info) => self.tell(out, channel, LEAVE, info),
            Request::History(_, history) => self.history(out, history),
            Request::HistoryRemove(_, channel) => {
                let mut command = self.script(out, Script::Remove, 1, 2);
                command.joined(&layout.stream(channel)).joined(&layout.removals()).part(&**channel);
                1
            }
            Request::Positions(_, tops) => tops.iter().map(|top| self.top(out, top)).sum(),
            Request::Renew(_, renew) => self.renew(out, renew),
            Request::PresenceAdd(_, channel, members) => {
                self.presence_add(out, channel, members, asked)
            }
            Request::PresenceRemove(_, channel, members) => {
                if members.is_empty() {
                    return 0;
                }
                for (name, key) in
                    [("HDEL", layout.members(channel)), ("ZREM", layout.expiry(channel))]
                {
                    let mut command = Command::begin(out, 2 + members.len());
                    command.part(name).joined(&key);
                    members.iter().for_each(|it| _ = command.part(it.client.to_string()));
                }
                2
            }
            Request::PresenceRenew(_, channel, members) => {
                if members.is_empty() {
                    return 0;
                }
                self.expiry(out, channel, members.iter().copied(), asked)
            }
            Request::Presence(_, channel) | Request::PresenceStats(_, channel) => {
                let mut command = self.script(out, Script::Presence, 2, 1);
                command.joined(&layout.expiry(channel)).joined(&layout.members(channel));
                command.number(asked.unix.as_secs());
                1
            }
        }
    }

    fn script<'a>(
        &self,
        out: &'a mut Vec<u8>,
        script: Script,
        keys: usize,
        arguments: usize,
    ) -> Command<'a> {
        let mut command = Command::begin(out, 3 + keys + arguments);
        command.part("EVALSHA").part(self.digests.of(script)).number(keys as u64);
        command
    }

    fn tell(&self, out: &mut Vec<u8>, channel: &str, kind: &[u8], data: &[u8]) -> usize {
        let name = self.layout.messages(channel);
        Command::begin(out, 3).part(self.layout.publish()).joined(&name).joined(&[kind, data]);
        1
    }

    fn publish(&self, out: &mut Vec<u8>, publish: &Publish, asked: Asked) -> usize {
        let layout = &self.layout;
        let (channel, key) = (&*publish.channel, publish.idempotency_key.as_str());
        let result_ttl = millis(publish.idempotency_ttl).max(1);
        let Some(kept) = &publish.stream else {
            if key.is_empty() {
                return self.tell(out, channel, b"", &publish.data);
            }
            let mut command = self.script(out, Script::PublishOnce, 1, 4);
            command.joined(&layout.result(channel, key));
            command.part(&publish.data).part(layout.publish()).joined(&layout.messages(channel));
            command.number(result_ttl);
            return 1;
        };
        let Kept { size, ttl, meta_ttl, renew, fresh } = kept;
        let keys = if key.is_empty() { 2 } else { 3 };
        let mut command = self.script(out, Script::Publish, keys, 14);
        command.joined(&layout.stream(channel)).joined(&layout.meta(channel));
        if !key.is_empty() {
            command.joined(&layout.result(channel, key));
        }
        let mark = self.mark(publish, asked);
        command.joined(&[&publish.data, &attempt(&mark, asked)]);
        command.number(u64::from(*size).max(1));
        command.number(life(*ttl).max(1)).number(life(*meta_ttl)).part(flag(*renew));
        command.part(fresh.as_str()).part(layout.publish()).joined(&layout.messages(channel));
        command.part(mark).part(flag(asked.again)).part(flag(publish.delta));
        command.number(publish.version).part(&publish.version_epoch).number(result_ttl);
        1
    }

    fn publish_many(&self, out: &mut Vec<u8>, publications: &[(&Publish, &Kept, Asked)]) {
        let (layout, count) = (&self.layout, publications.len());
        let mut command = self.script(out, Script::PublishMany, 2 * count, 1 + 8 * count);
        for (publish, ..) in publications {
            command.joined(&layout.stream(&publish.channel)).joined(&layout.meta(&publish.channel));
        }
        command.part(layout.publish());
        for (publish, Kept { size, ttl, meta_ttl, renew, fresh }, asked) in publications {
            let mark = self.mark(publish, *asked);
            command.joined(&[&publish.data, &attempt(&mark, *asked)]);
            command.number(u64::from(*size).max(1));
            command.number(life(*ttl).max(1)).number(life(*meta_ttl)).part(flag(*renew));
            command.part(fresh.as_str()).joined(&layout.messages(&publish.channel)).part(mark);
        }
    }

    fn mark(&self, publish: &Publish, asked: Asked) -> String {
        format!("{}.{}.{}", self.node, asked.core, publish.sequence)
    }

    fn history(&self, out: &mut Vec<u8>, history: &History) -> usize {
        let History { channel, since, limit, reverse, meta_ttl, fresh } = history;
        let mut command = self.script(out, Script::History, 2, 6);
        command.joined(&self.layout.stream(channel)).joined(&self.layout.meta(channel));
        let limit = match (since, reverse) {
            // There is nothing below the first, and nothing above the last there can be.
            (Some(0 | 1), true) | (Some(u64::MAX), false) => 0,
            _ => *limit,
        };
        match (since, reverse) {
            (None, false) => command.part("XRANGE").part("-").part("+"),
            (None, true) => command.part("XREVRANGE").part("+").part("-"),
            (Some(since), false) => {
                command.part("XRANGE").number(since.saturating_add(1)).part("+")
            }
            (Some(since), true) => {
                command.part("XREVRANGE").number(since.saturating_sub(1)).part("-")
            }
        };
        command.number(limit.into()).number(life(*meta_ttl)).part(fresh.as_str());
        1
    }

    /// Answered by as many replies as [`parts_of`] says.
    fn top(&self, out: &mut Vec<u8>, top: &TopOf) -> usize {
        let (stream, meta) = (self.layout.stream(&top.channel), self.layout.meta(&top.channel));
        Command::begin(out, 4).part("HMGET").joined(&meta).part("s").part("e");
        if top.entry > 0 {
            let (from, to) = (top.entry, top.entry);
            let mut command = Command::begin(out, 4);
            command.part("XRANGE").joined(&stream).number(from).number(to);
            drop(command);
            let mut command = Command::begin(out, 6);
            command.part("XRANGE").joined(&stream).part("-").part("+").part("COUNT").part("1");
        }
        if top.count {
            Command::begin(out, 2).part("XLEN").joined(&stream);
        }
        if let Some(meta_ttl) = top.meta_ttl.filter(|ttl| !ttl.is_zero()) {
            Command::begin(out, 3).part("PEXPIRE").joined(&meta).number(life(meta_ttl));
        }
        parts_of(top)
    }

    fn renew(&self, out: &mut Vec<u8>, renew: &Renew) -> usize {
        let Renew { channel, old, fresh, meta_ttl } = renew;
        let mut command = self.script(out, Script::Renew, 1, 3);
        command.joined(&self.layout.meta(channel));
        command.part(old.as_str()).part(fresh.as_str()).number(life(*meta_ttl));
        1
    }

    fn presence_add(
        &self,
        out: &mut Vec<u8>,
        channel: &str,
        members: &[Present],
        asked: Asked,
    ) -> usize {
        if members.is_empty() {
            return 0;
        }
        let mut command = Command::begin(out, 2 + 2 * members.len());
        command.part("HSET").joined(&self.layout.members(channel));
        members.iter().for_each(|it| _ = command.part(it.client.to_string()).part(&it.info));
        drop(command);
        1 + self.expiry(out, channel, members.iter().map(|it| it.client), asked)
    }

    /// Members' time begins anew. Three replies: how many were not there; whether there was data;
    /// and one that says nothing.
    fn expiry(
        &self,
        out: &mut Vec<u8>,
        channel: &str,
        members: impl ExactSizeIterator<Item = ClientId>,
        asked: Asked,
    ) -> usize {
        let until = asked.unix.saturating_add(self.presence_ttl).as_secs();
        let (expiry, data) = (self.layout.expiry(channel), self.layout.members(channel));
        let mut command = Command::begin(out, 2 + 2 * members.len());
        command.part("ZADD").joined(&expiry);
        members.for_each(|client| _ = command.number(until).part(client.to_string()));
        drop(command);
        for key in [data, expiry] {
            let ttl = millis(self.presence_ttl);
            Command::begin(out, 3).part("PEXPIRE").joined(&key).number(ttl);
        }
        3
    }
}

/// Replies about one of several positions.
pub fn parts_of(top: &TopOf) -> usize {
    let renewed = top.meta_ttl.is_some_and(|ttl| !ttl.is_zero());
    1 + if top.entry > 0 { 2 } else { 0 } + usize::from(top.count) + usize::from(renewed)
}

fn flag(on: bool) -> &'static str {
    if on { "1" } else { "0" }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A tenth longer, in milliseconds, so that it need not begin anew each time. 0 stays 0.
fn life(time: Duration) -> u64 {
    // Redis adds its clock to it, and takes no more than 63 bits.
    let millis = millis(time).min(1 << 50);
    millis + millis / 10
}

#[cfg(test)]
mod tests {
    use super::super::layout::Tags;
    use super::super::resp::{Bounds, Reply, Scanner};
    use super::*;
    use crate::gateway::broker::{Absent, Ticket};
    use crate::gateway::stream::Epoch;

    const ASKED: Asked = Asked { core: 3, unix: Duration::from_secs(1000), again: false };

    /// The commands in words.
    fn written(request: &Request, asked: Asked) -> (usize, Vec<String>) {
        let dialect = Dialect {
            layout: Layout::new("p", Tags::Plain),
            digests: Digests::new(),
            node: "node".into(),
            presence_ttl: Duration::from_secs(60),
        };
        let mut out = Vec::new();
        let replies = dialect.write(&mut out, request, asked);
        let (mut at, mut commands) = (0, Vec::new());
        while at < out.len() {
            let len = Scanner::new(Bounds::default()).scan(&out[at..]).unwrap().expect("whole");
            let command = Reply::parse(&out[at..at + len]).unwrap();
            let parts = command.list().unwrap().iter().filter_map(Reply::text);
            let text = |part: &[u8]| match part {
                [_, ..] if part.len() == 40 => "SHA".to_owned(),
                [data @ .., 0xfd, 0x7f, _, _, _, _] => {
                    format!("{}+", String::from_utf8_lossy(data))
                }
                _ => String::from_utf8_lossy(part).into_owned(),
            };
            let parts: Vec<_> = parts.map(text).collect();
            commands.push(parts.join(" "));
            at += len;
        }
        (replies, commands)
    }

    fn publish(stream: Option<Kept>, key: &str) -> Request {
        let publish = Publish {
            channel: "ch".into(),
            data: "data".into(),
            stream,
            delta: false,
            idempotency_key: key.to_owned(),
            idempotency_ttl: Duration::from_secs(300),
            version: 7,
            version_epoch: "ve".to_owned(),
            sequence: 42,
        };
        Request::Publish(Ticket(1), Box::new(publish))
    }

    fn kept() -> Kept {
        Kept {
            size: 10,
            ttl: Duration::from_secs(100),
            meta_ttl: Duration::ZERO,
            renew: true,
            fresh: Epoch::parse("fresh").unwrap(),
        }
    }

    #[test]
    fn publications_take_the_cheapest_way() {
        let one = |stream, key| written(&publish(stream, key), ASKED);
        assert_eq!(one(None, ""), (1, vec!["PUBLISH p.client.ch data".to_owned()]));
        let once = "EVALSHA SHA 1 p.result.ch.k data PUBLISH p.client.ch 300000".to_owned();
        assert_eq!(one(None, "k"), (1, vec![once]));
        let (head, tail) = ("EVALSHA SHA", "data+ 10 110000 0 1 fresh PUBLISH p.client.ch");
        let plain =
            format!("{head} 2 p.stream.ch p.stream.meta.ch {tail} node.3.42 0 0 7 ve 300000");
        assert_eq!(one(Some(kept()), ""), (1, vec![plain]));
        let keys = "3 p.stream.ch p.stream.meta.ch p.result.ch.k";
        let keyed = format!("{head} {keys} {tail} node.3.42 1 0 7 ve 300000");
        let again = Asked { again: true, ..ASKED };
        assert_eq!(written(&publish(Some(kept()), "k"), again), (1, vec![keyed]));
        let later = Asked { unix: ASKED.unix + Duration::from_micros(1), ..ASKED };
        assert_ne!(attempt("node.3.42", ASKED), attempt("node.3.42", later));
        assert_ne!(attempt("node.3.42", ASKED), attempt("node.3.43", ASKED));
        assert!(!may_repeat(&publish(None, "")) && may_repeat(&publish(None, "k")));
        assert!(may_repeat(&publish(Some(kept()), "")));
    }

    #[test]
    fn histories_are_read_from_where_they_are_asked() {
        let read = |since, limit, reverse| {
            let history = History {
                channel: "ch".into(),
                since,
                limit,
                reverse,
                meta_ttl: Duration::from_secs(10),
                fresh: Epoch::parse("fresh").unwrap(),
            };
            let (_, commands) = written(&Request::History(Ticket(1), Box::new(history)), ASKED);
            let head = "EVALSHA SHA 2 p.stream.ch p.stream.meta.ch ";
            let command = commands[0].strip_prefix(head).expect("the script");
            command.strip_suffix(" 11000 fresh").expect("its end").to_owned()
        };
        assert_eq!(read(None, 5, false), "XRANGE - + 5");
        assert_eq!(read(None, 5, true), "XREVRANGE + - 5");
        assert_eq!(read(Some(0), 5, false), "XRANGE 1 + 5");
        assert_eq!(read(Some(7), 5, true), "XREVRANGE 6 - 5");
        assert!(read(Some(1), 5, true).ends_with(" 0"), "there is nothing below the first");
        assert!(read(Some(u64::MAX), 5, false).ends_with(" 0"));
    }

    #[test]
    fn positions_are_asked_for_in_one_pipeline() {
        let top = |channel: &str, entry, meta_ttl| TopOf {
            channel: channel.into(),
            entry,
            meta_ttl,
            count: true,
        };
        let tops = vec![top("a", 0, None), top("b", 9, Some(Duration::from_secs(1)))];
        let (replies, commands) = written(&Request::Positions(Ticket(1), tops), ASKED);
        let expected = [
            "HMGET p.stream.meta.a s e",
            "XLEN p.stream.a",
            "HMGET p.stream.meta.b s e",
            "XRANGE p.stream.b 9 9",
            "XRANGE p.stream.b - + COUNT 1",
            "XLEN p.stream.b",
            "PEXPIRE p.stream.meta.b 1100",
        ];
        assert_eq!((replies, &commands[..]), (7, &expected.map(str::to_owned)[..]));
    }

    #[test]
    fn members_are_added_renewed_and_removed() {
        let client = ClientId::new(1);
        let id = client.to_string();
        let present = Present { client, user: "ann".into(), info: "info".into() };
        let add = Request::PresenceAdd(Ticket(1), "ch".into(), vec![present]);
        let renewal = [
            format!("ZADD p.presence.expire.ch 1060 {id}"),
            "PEXPIRE p.presence.data.ch 60000".to_owned(),
            "PEXPIRE p.presence.expire.ch 60000".to_owned(),
        ];
        let (replies, commands) = written(&add, ASKED);
        assert_eq!((replies, &commands[1..]), (4, &renewal[..]));
        assert_eq!(commands[0], format!("HSET p.presence.data.ch {id} info"));
        let renew = Request::PresenceRenew(Ticket(1), "ch".into(), vec![client]);
        assert_eq!(written(&renew, ASKED), (3, renewal.to_vec()));
        let absent = Absent { client, user: "ann".into() };
        let remove = Request::PresenceRemove(Ticket(1), "ch".into(), vec![absent]);
        let expected = [("HDEL", "data"), ("ZREM", "expire")]
            .map(|(command, key)| format!("{command} p.presence.{key}.ch {id}"));
        assert_eq!(written(&remove, ASKED), (2, expected.to_vec()));
        let nobody = Request::PresenceRenew(Ticket(1), "ch".into(), Vec::new());
        assert_eq!(written(&nobody, ASKED).0, 0);
    }

    #[test]
    fn lives_fit_redis() {
        assert_eq!(life(Duration::ZERO), 0);
        assert_eq!(life(Duration::from_secs(1)), 1100);
        assert!(i64::try_from(life(Duration::MAX)).is_ok());
    }
}
