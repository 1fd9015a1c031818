//! The machine without an engine: what it does is written down by a port, in its order.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::hooks::{HookAnswer, HookTicket};
use super::port::Port;
use super::{First, Session, Sessions, negotiate};
use crate::engine::{Cause, Frame};
use crate::gateway::broker;
use crate::gateway::emulation::SessionNames;
use crate::gateway::home::HomeLimits;
use crate::gateway::hooks::{FeedId, FeedWord, HookReply, HookRequest, RpcReply};
use crate::gateway::hub::Hub;
use crate::gateway::hub_port::{Link, Refused};
use crate::gateway::letters::{Action, Answer, Gather, Letter, UserOrder};
use crate::gateway::placement::Placement;
use crate::gateway::plan::Plan;
use crate::gateway::rulebook::Rulebook;
use crate::gateway::wire::{Disconnect, Error, Unsubscribe};
use crate::protocol::HttpResponse;
use crate::protocol::message::Kind;

/// What the machine has done, as a value.
#[derive(Debug, PartialEq, Eq)]
enum Effect {
    /// A frame that others may share.
    Shared(Link, String),
    /// A message for one.
    Message(Link, String),
    /// The same, which is never compressed.
    Private(Link, String),
    Closed(Link, u16),
    Posted(usize, &'static str),
    Asked(&'static str),
    Forgotten(Link),
    /// Anything that no test here expects.
    Other(&'static str),
}

/// Writes down what the machine does; its clock stands still.
#[derive(Default)]
struct Recorder {
    effects: Vec<Effect>,
    /// Of each call of the random generator.
    drawn: u64,
    closed: BTreeSet<Link>,
    letters: VecDeque<(usize, Letter)>,
    questions: VecDeque<HookTicket>,
    congested: BTreeSet<Link>,
}

impl Recorder {
    /// What was done since the last look.
    fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn other(&mut self, what: &'static str) {
        self.effects.push(Effect::Other(what));
    }

    fn posted(&mut self, core: usize, letter: Letter) {
        let name = match &letter {
            Letter::Subscribe(_) => "subscribe",
            Letter::Subscribed(_) => "subscribed",
            Letter::Unsubscribe(_) => "unsubscribe",
            Letter::Deliver(_) | Letter::DeliverAll(_) => "deliver",
            Letter::Ask(_) => "ask",
            Letter::Answer(_) => "answer",
            _ => "other",
        };
        self.effects.push(Effect::Posted(core, name));
        self.letters.push_back((core, letter));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("JSON is text")
}

impl Port for Recorder {
    fn now(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn unix(&self) -> i64 {
        2_000_000_000
    }

    fn unix_millis(&self) -> i64 {
        2_000_000_000_000
    }

    fn random(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    fn send(&mut self, link: Link, frame: &Frame) {
        self.effects.push(Effect::Shared(link, text(frame.payload())));
    }

    fn send_prefixed(&mut self, _: Link, _: &[u8], _: &Frame) {
        self.other("prefixed");
    }

    fn send_message(&mut self, link: Link, kind: Kind, payload: &[u8]) {
        assert_eq!(kind, Kind::Text);
        self.effects.push(Effect::Message(link, text(payload)));
    }

    fn send_secret(&mut self, link: Link, kind: Kind, payload: &[u8]) {
        assert_eq!(kind, Kind::Text);
        self.effects.push(Effect::Private(link, text(payload)));
    }

    fn close(&mut self, link: Link, disconnect: &Disconnect) -> bool {
        let first = self.closed.insert(link);
        self.effects.push(Effect::Closed(link, disconnect.code));
        first
    }

    fn begin(&mut self, _: Link, _: &[(String, String)]) {
        self.other("begin");
    }

    fn respond(&mut self, _: Link, _: &HttpResponse) {
        self.other("respond");
    }

    fn hold(&mut self, _: Link) {
        self.other("hold");
    }

    fn resume(&mut self, _: Link) {
        self.other("resume");
    }

    fn is_open(&self, link: Link) -> bool {
        !self.closed.contains(&link)
    }

    fn queued(&self, _: Link) -> usize {
        0
    }

    fn is_congested(&self, link: Link) -> bool {
        self.congested.contains(&link)
    }

    fn heard(&mut self, link: Link, _: usize) -> bool {
        self.is_open(link)
    }

    fn peer(&mut self, _: Link) -> Option<SocketAddr> {
        None
    }

    fn post(&mut self, core: usize, letter: Letter) -> Result<(), Refused> {
        self.posted(core, letter);
        Ok(())
    }

    fn post_reserved(&mut self, core: usize, letter: Letter) -> Result<(), Refused> {
        self.posted(core, letter);
        Ok(())
    }

    fn post_urgent(&mut self, core: usize, letter: Letter) {
        self.posted(core, letter);
    }

    fn is_behind(&self, _: usize) -> bool {
        false
    }

    fn is_crowded(&self) -> bool {
        false
    }

    fn ask_broker(&mut self, _: broker::Request) -> Result<(), Refused> {
        Err(Refused)
    }

    fn ask_backend(
        &mut self,
        hook: Box<HookRequest>,
        question: HookTicket,
    ) -> Result<(), HookTicket> {
        self.effects.push(Effect::Asked(hook.kind().name()));
        self.questions.push_back(question);
        Ok(())
    }

    fn forget(&mut self, link: Link) {
        self.effects.push(Effect::Forgotten(link));
    }

    fn feed(&mut self, _: FeedId, _: &str, _: FeedWord) -> bool {
        false
    }

    fn want_keys(&mut self) {
        self.other("want_keys");
    }

    fn answer_call(&mut self, _: u64, _: Result<Answer, Error>) {
        self.other("answer_call");
    }
}

/// Cores, each with its own port.
struct Cores(Vec<(Sessions, Recorder)>);

/// Who may do what here: everybody everything, and procedures are the backend's.
fn plan() -> Plan {
    let mut plan = Plan::default();
    plan.client.allow_anonymous_connect_without_token = true;
    plan.client.user_id_http_header = "X-User".to_owned();
    plan.client.user_connection_limit = 1;
    let channel = &mut plan.channel.without_namespace;
    channel.allow_subscribe_for_client = true;
    channel.allow_subscribe_for_anonymous = true;
    channel.allow_publish_for_client = true;
    channel.allow_publish_for_anonymous = true;
    plan.rpc.without_namespace.proxy_enabled = true;
    plan
}

impl Cores {
    fn new(cores: u16) -> Self {
        let rules = Arc::new(Rulebook::new(plan()).expect("the plan holds"));
        let names = Arc::new(SessionNames::new("here".to_owned()));
        let placement = Placement::new(cores, 1);
        let core = |core| {
            let hub = Hub::new(core, placement, HomeLimits::default());
            let sessions = Sessions::new(core, hub, rules.clone(), names.clone(), 2_000_000_000);
            (sessions, Recorder::default())
        };
        Self((0..cores).map(core).collect())
    }

    /// A WebSocket of this user opens on a core.
    fn open(&mut self, core: usize, link: Link, user: &str) {
        let (sessions, port) = &mut self.0[core];
        let head =
            format!("GET /connection/websocket HTTP/1.1\r\nHost: h\r\nX-User: {user}\r\n\r\n");
        let parsed = crate::protocol::request::parse(head.as_bytes(), &mut 0, 8192);
        let (request, _) = parsed.expect("a request").expect("whole");
        let (format, _) = negotiate(&request);
        let ip = IpAddr::from([9, 9, 9, 9]);
        let session = Session::new(&request, ip, &sessions.rules().options, format);
        sessions.open(port, link, session, First::Nothing);
    }

    /// Commands come; what is done.
    fn say(&mut self, core: usize, link: Link, commands: &[&str]) -> Vec<Effect> {
        let (sessions, port) = &mut self.0[core];
        sessions.message(port, link, commands.join("\n").as_bytes());
        port.effects()
    }

    /// The first letter that a core has posted arrives; what is done there.
    fn pass(&mut self, from: usize) -> Vec<Effect> {
        let (to, letter) = self.0[from].1.letters.pop_front().expect("a letter");
        let (sessions, port) = &mut self.0[to];
        sessions.letter(port, letter);
        port.effects()
    }

    /// A connection is gone; what is done.
    fn leave(&mut self, core: usize, link: Link) -> Vec<Effect> {
        let (sessions, port) = &mut self.0[core];
        sessions.closed(port, link, Cause::Peer);
        port.effects()
    }

    /// Asserts that nothing is held for anybody.
    fn empty(&self) {
        for (sessions, _) in &self.0 {
            let c = sessions.stats().counters;
            assert_eq!((c.clients, c.users, c.subscriptions, c.session_bytes), (0, 0, 0, 0));
            assert_eq!((c.channels, c.deadlines), (0, 0));
        }
    }
}

const A: Link = Link(1 << 32 | 7);
const B: Link = Link(1 << 32 | 8);

const CONNECT: &str = r#"{"id":1,"connect":{}}"#;

fn message(link: Link, text: &str) -> Effect {
    Effect::Message(link, text.to_owned())
}

/// The reply to [`CONNECT`] of the n-th who connects.
fn connected(link: Link, n: u64) -> Effect {
    let (client, version) = (client(n), super::connect::VERSION);
    let result = format!(r#"{{"client":"{client}","version":"{version}","ping":25,"pong":true}}"#);
    Effect::Private(link, format!(r#"{{"id":1,"connect":{result}}}"#))
}

/// What the n-th client on a core is called where only clients have drawn numbers.
fn client(n: u64) -> String {
    format!("00000000-0000-400{:x}-8000-00000000000{:x}", 2 * n - 1, 2 * n)
}

#[test]
fn a_session_from_its_connect_command_to_its_end() {
    let mut cores = Cores::new(1);
    cores.open(0, A, "");
    let subscribe = r#"{"id":2,"subscribe":{"channel":"news"}}"#;
    let publish = r#"{"id":3,"publish":{"channel":"news","data":{"x":1}}}"#;
    let unsubscribe = r#"{"id":4,"unsubscribe":{"channel":"news"}}"#;
    let published =
        format!(r#"{{"data":{{"x":1}},"info":{{"user":"","client":"{}"}}}}"#, client(1));
    let push = format!(r#"{{"push":{{"channel":"news","pub":{published}}}}}"#);
    assert_eq!(
        cores.say(0, A, &[CONNECT, subscribe, publish]),
        [
            connected(A, 1),
            message(A, r#"{"id":2,"subscribe":{}}"#),
            Effect::Shared(A, push),
            message(A, r#"{"id":3,"publish":{}}"#),
        ]
    );
    assert_eq!(cores.say(0, A, &[unsubscribe]), [message(A, r#"{"id":4,"unsubscribe":{}}"#)]);
    assert_eq!(
        cores.say(0, A, &[CONNECT, subscribe]),
        [Effect::Closed(A, 3501)],
        "nothing follows a close"
    );
    assert_eq!(cores.leave(0, A), []);
    cores.empty();
}

#[test]
fn what_another_core_has_to_answer_is_waited_for() {
    let mut cores = Cores::new(2);
    cores.open(0, A, "");
    assert_eq!(cores.say(0, A, &[CONNECT]), [connected(A, 1)]);
    let placement = *cores.0[0].0.placement();
    let channel = (0..).map(|n| format!("c{n}")).find(|name| placement.home(name) == 1);
    let channel = channel.expect("some name is there");
    let say = |id: u32, what: &str, more: &str| {
        format!(r#"{{"id":{id},"{what}":{{"channel":"{channel}"{more}}}}}"#)
    };
    let commands =
        [say(2, "subscribe", ""), say(3, "unsubscribe", ""), say(4, "publish", r#","data":1"#)];
    let commands = commands.each_ref().map(String::as_str);
    let posted = |core, what| Effect::Posted(core, what);
    assert_eq!(cores.say(0, A, &commands), [posted(1, "subscribe")]);
    assert_eq!(cores.pass(0), [posted(0, "subscribed")]);
    // The unsubscribe has waited for the answer, and the publication for the unsubscribe.
    assert_eq!(
        cores.pass(1),
        [
            message(A, r#"{"id":2,"subscribe":{}}"#),
            posted(1, "unsubscribe"),
            message(A, r#"{"id":3,"unsubscribe":{}}"#),
            posted(1, "ask"),
        ]
    );
    assert_eq!((cores.pass(0), cores.pass(0)), (vec![], vec![posted(0, "answer")]));
    assert_eq!(cores.pass(1), [message(A, r#"{"id":4,"publish":{}}"#)]);
    assert_eq!(cores.leave(0, A), []);
    cores.empty();
}

#[test]
fn what_the_hub_tells_is_done_in_its_order_before_the_next_command() {
    let mut cores = Cores::new(1);
    cores.open(0, A, "ann");
    cores.open(0, B, "ann");
    let subscribe = r#"{"id":2,"subscribe":{"channel":"news"}}"#;
    // A seat is asked for and given by the hub while it works; the reply needs it again.
    assert_eq!(
        cores.say(0, A, &[CONNECT, subscribe]),
        [connected(A, 1), message(A, r#"{"id":2,"subscribe":{}}"#)]
    );
    assert_eq!(cores.say(0, B, &[CONNECT, subscribe]), [Effect::Closed(B, 3504)]);
    assert_eq!(cores.leave(0, B), []);
    // The server API ends what the client has, before it has the next command's answer.
    let why = Unsubscribe::SERVER;
    let action = Action::Unsubscribe { channel: None, why: why.clone() };
    let done = Gather::new(|_: Vec<usize>| {});
    let order = UserOrder { user: "ann".into(), client: None, spare: Vec::new(), action, done };
    let (sessions, port) = &mut cores.0[0];
    sessions.letter(port, Letter::Order(Arc::new(order)));
    let push = format!(
        r#"{{"push":{{"channel":"news","unsubscribe":{{"code":{},"reason":"{}"}}}}}}"#,
        why.code, why.reason
    );
    assert_eq!(port.effects(), [message(A, &push)]);
    assert_eq!(cores.leave(0, A), []);
    cores.empty();
}

#[test]
fn answers_of_the_backend_come_in_as_they_come() {
    let mut cores = Cores::new(1);
    cores.open(0, A, "");
    let rpc = |id: u32| format!(r#"{{"id":{id},"rpc":{{"method":"m","data":{id}}}}}"#);
    assert_eq!(
        cores.say(0, A, &[CONNECT, &rpc(2), &rpc(3)]),
        [connected(A, 1), Effect::Asked("rpc")],
        "one after the other"
    );
    let (sessions, port) = &mut cores.0[0];
    let question = port.questions.pop_front().expect("a question");
    let result = Ok(HookReply::Rpc(RpcReply { data: "4".into() }));
    let answer = HookAnswer { question, result, room: Box::new(()) };
    sessions.answered(port, Box::new(answer));
    assert_eq!(
        port.effects(),
        [message(A, r#"{"id":2,"rpc":{"data":4}}"#), Effect::Asked("rpc")],
        "the next one goes on with the answer"
    );
    // A connection that does not read waits with its commands until it has.
    port.congested.insert(A);
    let ping = r#"{"id":4,"unsubscribe":{"channel":"a"}}"#;
    assert_eq!(cores.say(0, A, &[ping]), []);
    let (sessions, port) = &mut cores.0[0];
    let question = port.questions.pop_front().expect("a question");
    let result = Ok(HookReply::Rpc(RpcReply { data: "5".into() }));
    let answer = HookAnswer { question, result, room: Box::new(()) };
    sessions.answered(port, Box::new(answer));
    assert_eq!(port.effects(), [message(A, r#"{"id":3,"rpc":{"data":5}}"#)]);
    port.congested.clear();
    sessions.writable(port, A);
    assert_eq!(port.effects(), [message(A, r#"{"id":4,"unsubscribe":{}}"#)]);
    // Who goes is not answered.
    assert_eq!(cores.say(0, A, &[&rpc(5)]), [Effect::Asked("rpc")]);
    assert_eq!(cores.leave(0, A), [Effect::Forgotten(A)]);
    cores.empty();
}
