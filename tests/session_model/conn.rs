//! A client of the world: what it has asked and not been answered, and what it believes.

use std::collections::{BTreeMap, BTreeSet};

use ringhold::testing::Client;
use serde_json::Value;

use super::plan::{Mode, Wish};

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Socket,
    /// With Protobuf.
    Binary,
    /// Events, lines, or messages of Protobuf; commands come by posts.
    Sse,
    Lines,
    Messages,
    /// One-way: it is told, and says nothing but its connect request.
    UniSocket,
    UniSse,
    UniLines,
}

impl Way {
    pub fn is_emulated(self) -> bool {
        matches!(self, Self::Sse | Self::Lines | Self::Messages)
    }

    /// Whether it speaks Protobuf.
    pub fn is_binary(self) -> bool {
        matches!(self, Self::Binary | Self::Messages)
    }

    pub fn is_events(self) -> bool {
        matches!(self, Self::Sse | Self::UniSse)
    }

    pub fn is_uni(self) -> bool {
        matches!(self, Self::UniSocket | Self::UniSse | Self::UniLines)
    }

    pub fn is_socket(self) -> bool {
        self.is_plain() || self == Self::UniSocket
    }

    /// Whether commands go by the connection itself.
    pub fn is_plain(self) -> bool {
        matches!(self, Self::Socket | Self::Binary)
    }

    pub fn path(self) -> &'static str {
        match self {
            Self::Socket => "/connection/websocket",
            Self::Binary => "/connection/websocket?cf_protocol=protobuf",
            Self::Sse => "/connection/sse",
            Self::Lines | Self::Messages => "/connection/http_stream",
            Self::UniSocket => "/connection/uni_websocket",
            Self::UniSse => "/connection/uni_sse",
            Self::UniLines => "/connection/uni_http_stream",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The connect command was not sent.
    Fresh,
    Connecting,
    Open,
    /// The connect command was answered with an error.
    Failed,
    Closed,
}

/// What comes whole or not at all.
#[derive(Debug)]
pub enum Element {
    /// JSON, and the `id:` of its event, if it has one.
    Object(String, Option<String>),
    Message(Vec<u8>),
}

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Good,
    /// Its time was over when it was made.
    Expired,
    /// Made with another secret.
    Foreign,
    /// Of another user.
    Others,
}

#[derive(Clone, Debug)]
pub struct Connect {
    pub token: Option<Token>,
    pub user: String,
    /// Unix time in seconds; 0 is never.
    pub expire_at: i64,
    /// Channels that the token grants.
    pub granted: BTreeSet<String>,
    /// Channels that the client asks for, and whether it recovers.
    pub asked: BTreeMap<String, Option<(u64, String)>>,
    /// Where the id that it brings back says that it was.
    pub resumed: Places,
    pub info: Value,
}

/// By channel: an offset, and the epoch.
pub type Places = BTreeMap<String, (u64, String)>;

#[derive(Clone, Debug)]
pub struct Subscribe {
    pub channel: String,
    pub token: Option<Token>,
    /// Unix time in seconds at which the token says that it ends; 0 is never.
    pub expire_at: i64,
    pub wish: Wish,
    pub delta: bool,
    pub filter: bool,
    pub compact: bool,
    pub since: Option<(u64, String)>,
    pub reject: bool,
    pub info: Value,
}

#[derive(Clone, Debug)]
pub enum What {
    Connect(Box<Connect>),
    Subscribe(Box<Subscribe>),
    Unsubscribe(String),
    /// By number.
    Publish(usize),
    Presence(String),
    PresenceStats(String),
    History {
        channel: String,
        limit: i64,
        since: Option<(u64, String)>,
        reverse: bool,
    },
    Rpc,
    Refresh {
        token: Token,
        expire_at: i64,
        granted: BTreeSet<String>,
        info: Value,
    },
    SubRefresh {
        channel: String,
        token: Token,
        expire_at: i64,
        info: Value,
    },
    /// Closes with this code.
    Bad(u16),
}

/// A command without its reply.
#[derive(Clone, Debug)]
pub struct Cmd {
    pub id: u64,
    pub sent: u64,
    /// How many turns its core had taken.
    pub turn: u64,
    pub what: What,
    /// The question to the backend about it.
    pub question: Option<usize>,
    /// Orders that were given while the backend thought, which end what becomes of it.
    pub doom: Vec<usize>,
}

/// A subscription as its client sees it.
#[derive(Clone, Debug, Default)]
pub struct Sub {
    pub uid: u64,
    pub server_side: bool,
    pub by_token: bool,
    pub mode: Mode,
    pub delta: bool,
    pub filter: bool,
    pub id: u64,
    pub epoch: String,
    /// The next offset, where that is known.
    pub next: Option<u64>,
    /// The last payload, which patches are based on.
    pub base: Option<String>,
    /// Publications by number.
    pub seen: BTreeSet<usize>,
    /// The step at which the youngest of them was posted.
    pub youngest: u64,
    /// Steps: when it was asked for, and when that was answered.
    pub born: u64,
    pub established: u64,
    /// Unix time in seconds; 0 is never.
    pub expire_at: i64,
    pub by_backend: bool,
    /// The newest publication comes with it.
    pub cached: bool,
    /// It comes behind the push that began it, if it comes.
    pub behind: bool,
    /// The backend was asked whether it may stay.
    pub question: Option<usize>,
    /// The backend has ended it.
    pub ending: bool,
    /// Orders that end it.
    pub doom: Vec<usize>,
    /// Whom it has heard come (true) or go.
    pub members: BTreeMap<String, bool>,
    pub info: Value,
}

pub struct Conn {
    pub core: usize,
    pub way: Way,
    pub client: Client,
    /// Bytes of its stream that it has looked at, and what it has of an element that is not whole.
    pub looked: usize,
    pub partial: Vec<u8>,
    /// How its posts find it, as the connect reply says.
    pub session: Value,
    pub node: Value,
    pub phase: Phase,
    pub opened_ms: u64,
    /// The step at which that was.
    pub opened: u64,
    /// As the backend was told.
    pub promised: Option<String>,
    pub name: String,
    pub user: String,
    pub last_id: u64,
    /// In the order in which they were sent.
    pub cmds: Vec<Cmd>,
    pub subs: BTreeMap<String, Sub>,
    /// The step at which a channel was subscribed or left last.
    pub changed: BTreeMap<String, u64>,
    /// The step of the connect reply, and that of the last.
    pub connected: u64,
    pub freed: u64,
    /// When it ends, in Unix seconds: one of these; 0 is never.
    pub expires: Vec<i64>,
    /// What orders to refresh it may have heard of since the last rest: one of these, each with the
    /// one heard last at its end.
    pub heard: Vec<Vec<usize>>,
    /// The last of them says when it ends, and nothing else does.
    pub by_order: bool,
    /// The backend was asked whether it may stay: after, before, and the question.
    pub staying: Option<(u64, u64, usize)>,
    /// Codes by which it must be closed soon.
    pub fate: Vec<u16>,
    pub reads: bool,
    /// It has left something unread, and hears of it late.
    pub lags: bool,
    /// It has once, so that some of what it believes came late.
    pub vague: bool,
    pub info: Value,
    pub left: bool,
    /// Its answer to a ping found no room.
    pub unheard: bool,
    /// The step at which it was over, and the channels that showed it until then.
    pub ended_at: u64,
    pub was_in: BTreeSet<String>,
}

impl std::fmt::Display for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { core, phase, name, user, cmds, subs, expires, staying, fate, .. } = self;
        write!(
            f,
            "{phase:?} {name} of {user:?} on {core}, expires {expires:?}, asked {staying:?}, \
             fate {fate:?}, under way {cmds:?}, in {subs:?}"
        )
    }
}

impl Conn {
    pub fn new(core: usize, (way, client): (Way, Client), (opened_ms, opened): (u64, u64)) -> Self {
        Self {
            core,
            way,
            client,
            looked: 0,
            partial: Vec::new(),
            session: Value::Null,
            node: Value::Null,
            phase: Phase::Fresh,
            opened_ms,
            opened,
            promised: None,
            name: String::new(),
            user: String::new(),
            last_id: 0,
            cmds: Vec::new(),
            subs: BTreeMap::new(),
            changed: BTreeMap::new(),
            connected: 0,
            freed: 0,
            expires: vec![0],
            heard: vec![Vec::new()],
            by_order: false,
            staying: None,
            fate: Vec::new(),
            reads: true,
            lags: false,
            vague: false,
            info: Value::Null,
            left: false,
            unheard: false,
            ended_at: 0,
            was_in: BTreeSet::new(),
        }
    }

    /// What has come of a stream and was not looked at, without what is around its chunks.
    fn unchunk(&mut self) {
        let body = self.client.answer().map(|answer| answer.body).unwrap_or_default();
        loop {
            let rest = &body[self.looked..];
            let Some(head) = rest.windows(2).position(|it| it == b"\r\n") else { return };
            let len = str::from_utf8(&rest[..head]).expect("a length");
            let len = usize::from_str_radix(len, 16).expect("a length");
            let (begin, end) = (head + 2, head + 2 + len);
            if len == 0 || rest.len() < end + 2 {
                return;
            }
            assert_eq!(rest[end..end + 2], *b"\r\n", "a chunk is as long as it says");
            self.partial.extend_from_slice(&rest[begin..end]);
            self.looked += end + 2;
        }
    }

    /// The next element of a stream that is there as a whole.
    pub fn element(&mut self) -> Option<Element> {
        if self.way.is_socket() {
            return None;
        }
        self.unchunk();
        if self.way.is_binary() {
            let mut rest = &self.partial[..];
            let len = prost::decode_length_delimiter(&mut rest).ok()?;
            let whole = self.partial.len() - rest.len() + len;
            return (whole <= self.partial.len())
                .then(|| Element::Message(self.partial.drain(..whole).collect()));
        }
        let end: &[u8] = if self.way.is_events() { b"\n\n" } else { b"\n" };
        let len = self.partial.windows(end.len()).position(|it| it == end)? + end.len();
        let text: Vec<u8> = self.partial.drain(..len).collect();
        let text = String::from_utf8(text).expect("UTF-8");
        let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let object = if self.way.is_events() { of("data: ") } else { Some(text.trim_end()) };
        let object = object.unwrap_or_else(|| panic!("an event of nothing: {text}"));
        Some(Element::Object(object.to_owned(), of("id: ").map(str::to_owned)))
    }

    /// Says something on the connection itself.
    pub fn say(&self, text: &str) {
        match self.way {
            Way::Binary if text == "{}" => self.client.binary(&[0]),
            Way::Binary => self.client.binary(&super::binary::encode(text)),
            _ => self.client.text(text),
        }
    }

    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether it was in a channel all the time since a step, or out of it; `None`: neither.
    pub fn inside(&self, channel: &str, since: u64) -> Option<bool> {
        let changed = self.changed.get(channel).copied().unwrap_or(0);
        (changed < since).then(|| self.subs.contains_key(channel))
    }

    /// Whether another command asks for the same channel.
    pub fn asks_for(&self, channel: &str) -> bool {
        self.cmds
            .iter()
            .any(|cmd| matches!(&cmd.what, What::Subscribe(it) if it.channel == channel))
    }

    pub fn subscribing(&self) -> usize {
        self.cmds.iter().filter(|cmd| matches!(cmd.what, What::Subscribe(_))).count()
    }

    pub fn cmd(&mut self, id: u64) -> Option<&mut Cmd> {
        self.cmds.iter_mut().find(|cmd| cmd.id == id)
    }
}
