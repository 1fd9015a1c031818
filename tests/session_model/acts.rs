//! What clients do, and what the server API does, drawn at random.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jsonwebtoken::Algorithm;
use ringhold::gateway::letters::{
    Action, Ask, Asker, ClientId, Letter, Publish, Question, Refresh, Reply, ServerSubscribe,
};
use ringhold::gateway::stream::StreamOptions;
use ringhold::gateway::wire::{Disconnect, Unsubscribe};
use serde_json::{Value, json};

use super::conn::{Cmd, Conn, Connect, Phase, Places, Subscribe, Token, What};
use super::plan::{Plan, USERS, Wish};
use super::run::{Called, Does, Order, Run};
use super::truth::{Fate, Publication};
use crate::site::order_of;
use crate::support::gateway::{SECRET, signed};

/// Connections at once.
const CONNS: usize = 6;

/// Turns of a core after which it has looked at what came before.
const ENOUGH: u64 = 6;

fn raw(value: &Value) -> Bytes {
    if value.is_null() { Bytes::new() } else { value.to_string().into() }
}

impl Run {
    /// Something happens.
    pub fn act(&mut self) {
        match self.rng.below(100) {
            0..7 => self.open(),
            7..9 => self.leave(),
            9..47 => self.say(),
            47..57 => self.call_publish(),
            57..58 => self.call_remove(),
            58..69 => self.order(),
            69..85 => {
                let open = self.thinking();
                if !open.is_empty() {
                    let index = self.pick(&open);
                    self.answer(index);
                }
            }
            85 if self.rng.one_in(2) => self.reads(),
            _ => self.time(),
        }
    }

    fn time(&mut self) {
        let ms = match self.rng.below(10) {
            0..4 => 50 + u64::from(self.rng.below(900)),
            4..8 => 1000 + u64::from(self.rng.below(1000)),
            8 => 5000,
            _ => 15_000,
        };
        self.note(|| format!("{ms} ms pass"));
        let mut left = ms;
        while left > 0 {
            let part = left.min(1000);
            left -= part;
            self.pass(Duration::from_millis(part));
            self.look();
        }
        self.met("time");
    }

    fn live(&self) -> Vec<usize> {
        let live = self.conns.iter().enumerate().filter(|(_, conn)| !conn.is_closed());
        live.map(|(place, _)| place).collect()
    }

    fn open(&mut self) {
        if self.live().len() >= CONNS {
            return;
        }
        let core = self.core();
        let client = self.site.knock(core);
        let way = self.draw_way();
        let now = (self.now(), self.step);
        let place = self.conns.len();
        self.note(|| format!("{place} opens on core {core}: {way:?}"));
        let path = way.path();
        if way.is_socket() {
            let head = format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            );
            client.bytes(head.as_bytes());
        }
        self.conns.push(Conn::new(core, (way, client), now));
        if !way.is_plain() {
            return self.open_saying(place, way);
        }
        // Most say at once who they are.
        if !self.rng.one_in(6) {
            self.talk(self.conns.len() - 1);
        }
    }

    fn leave(&mut self) {
        let live = self.live();
        if live.is_empty() {
            return;
        }
        let place = self.pick(&live);
        // What came before is not looked at any more.
        self.look();
        // One that is not read because enough of it waits is not seen to go before that is done.
        let held = self.plan.queue_bytes < 1000 && !self.conns[place].cmds.is_empty();
        if self.conns[place].is_closed() || held {
            return;
        }
        self.note(|| format!("{place} leaves"));
        self.conns[place].client.leave();
        self.conns[place].left = true;
        self.gone(place);
        self.met("left");
    }

    fn reads(&mut self) {
        let live = self.live();
        if live.is_empty() {
            return;
        }
        let place = self.pick(&live);
        let conn = &mut self.conns[place];
        conn.reads = !conn.reads;
        (conn.lags, conn.vague) = (true, true);
        conn.client.set_reading(conn.reads);
        self.met("stops or starts to read");
    }

    /// A client sends some commands, perhaps in one message.
    fn say(&mut self) {
        let live = self.live();
        if live.is_empty() {
            return self.open();
        }
        let place = self.pick(&live);
        let conn = &self.conns[place];
        // Posts find their stream by what its connect reply says.
        let mute = conn.way.is_uni() || conn.way.is_emulated() && !conn.is_open();
        if !mute {
            self.talk(place);
        }
    }

    fn talk(&mut self, place: usize) {
        let count = if self.rng.one_in(3) { 1 + self.rng.below(4) } else { 1 };
        let together = self.rng.one_in(2);
        // Where mailboxes are narrow, many posts at once meet in one.
        let many = self.plan.lossy && self.conns[place].way.is_emulated() && self.rng.one_in(4);
        let (count, together) = if many { (8, false) } else { (count, together) };
        let (ids, lines) = self.draw_lines(place, count);
        if self.conns[place].way.is_emulated() {
            let mut posts: Vec<_> = ids.iter().map(|id| vec![*id]).zip(lines.clone()).collect();
            if together && !lines.is_empty() {
                posts = vec![(ids, lines.join("\n"))];
            }
            for (ids, text) in posts {
                if self.rng.one_in(3) {
                    self.mail.push((place, ids, text));
                } else {
                    self.post(place, &ids, &text);
                }
            }
        } else if together {
            if !lines.is_empty() {
                self.conns[place].say(&lines.join("\n"));
            }
        } else {
            lines.iter().for_each(|line| self.conns[place].say(line));
        }
    }

    /// A command is under way: its id, and what is sent.
    pub fn enter(&mut self, place: usize, what: What) -> (u64, Value) {
        self.step += 1;
        let id = self.conns[place].last_id + 1;
        let command = self.command(place, id, &what);
        let conn = &mut self.conns[place];
        conn.last_id = id;
        if matches!(what, What::Connect(_)) && conn.phase == Phase::Fresh {
            conn.phase = Phase::Connecting;
        }
        let sent = self.step;
        let turn = self.turns[conn.core];
        conn.cmds.push(Cmd { id, sent, turn, what, question: None, doom: Vec::new() });
        (id, command)
    }

    pub fn draw_command(&mut self, place: usize) -> Option<What> {
        let phase = self.conns[place].phase;
        let user = self.conns[place].user.clone();
        if phase == Phase::Fresh && !self.rng.one_in(30) {
            return Some(What::Connect(Box::new(self.draw_connect())));
        }
        if phase == Phase::Failed && !self.rng.one_in(4) {
            return None;
        }
        let named = phase == Phase::Open;
        let channel = self.channel();
        let mine: Vec<_> = self.conns[place].subs.keys().cloned().collect();
        let own = match mine.is_empty() {
            true => self.listened_channel(),
            false => self.pick(&mine),
        };
        let near = if self.rng.one_in(3) { channel.clone() } else { own.clone() };
        if self.plan.single && phase == Phase::Connecting && self.rng.one_in(3) {
            // Of those who go as this one comes.
            return Some(What::Presence(own));
        }
        Some(match self.rng.below(100) {
            0..36 => What::Subscribe(Box::new(self.draw_subscribe(&user, channel, named))),
            36..50 => What::Unsubscribe(near),
            50..66 => What::Publish(self.draw_publication(near, Some(place))),
            66..71 => What::Presence(near),
            71..74 => What::PresenceStats(near),
            74..79 => {
                let limit = [0, -1, 2][self.rng.below(3) as usize];
                What::History { channel: near, limit, since: None, reverse: self.rng.one_in(3) }
            }
            79..86 => What::Rpc,
            // Where the backend decides how long something lasts, a token closes.
            86..92 if named && (!self.plan.asks_refresh || self.rng.one_in(20)) => {
                let token = self.draw_token();
                let (expire_at, info) = (self.draw_expiry(), self.draw_info());
                let subs = self.conns[place].subs.iter();
                let mut granted: BTreeSet<_> = subs
                    .filter(|(_, sub)| sub.by_token)
                    .map(|(channel, _)| channel.clone())
                    .collect();
                if self.rng.one_in(8) {
                    granted.pop_first();
                }
                if self.rng.one_in(12) {
                    let personal = self.plan.personal_of(&user);
                    granted.extend((Some(&own) != personal.as_ref()).then_some(own));
                }
                What::Refresh { token, expire_at, granted, info }
            }
            92..98 if named && (!self.plan.by_backend(&near) || self.rng.one_in(20)) => {
                let (channel, token) = (near, self.draw_token());
                let (expire_at, info) = (self.draw_expiry(), self.draw_info());
                What::SubRefresh { channel, token, expire_at, info }
            }
            98 => What::Bad([3501, 3508][self.rng.below(2) as usize]),
            _ => What::Rpc,
        })
    }

    fn draw_token(&mut self) -> Token {
        match self.rng.below(20) {
            0 => Token::Expired,
            1 => Token::Foreign,
            2 => Token::Others,
            _ => Token::Good,
        }
    }

    /// Unix time in seconds; 0 is never.
    fn draw_expiry(&mut self) -> i64 {
        match self.rng.below(3) {
            0 => 0,
            _ => self.unix() + 2 + i64::from(self.rng.below(10)),
        }
    }

    fn draw_info(&mut self) -> Value {
        if self.rng.one_in(2) { json!({"i": self.step}) } else { Value::Null }
    }

    pub fn draw_connect(&mut self) -> Connect {
        let token = match self.rng.below(20) {
            0 => Some(Token::Expired),
            1 => Some(Token::Foreign),
            2..15 => Some(Token::Good),
            _ => None,
        };
        let user = if self.rng.one_in(8) { String::new() } else { self.pick(&USERS).to_owned() };
        // Where a user has one connection, it mostly is another one's rival.
        let there = self.conns.iter().filter(|conn| conn.is_open() && !conn.user.is_empty());
        let there: Vec<_> = there.map(|conn| conn.user.clone()).collect();
        let rival = self.plan.single && !there.is_empty() && self.rng.one_in(2);
        let user = if rival { self.pick(&there) } else { user };
        let count = self.rng.below(3);
        let granted = (0..count).map(|_| self.channel()).collect();
        let mut asked = BTreeMap::new();
        for _ in 0..self.rng.below(3) {
            let channel = self.channel();
            let known = self.known.get(&(user.clone(), channel.clone())).cloned();
            let recovers = known.filter(|_| !self.rng.one_in(3));
            asked.insert(channel, recovers);
        }
        let (expire_at, info) = (self.draw_expiry(), self.draw_info());
        Connect { token, user, expire_at, granted, asked, resumed: Places::new(), info }
    }

    fn draw_subscribe(&mut self, user: &str, channel: String, named: bool) -> Subscribe {
        let channel = if self.rng.one_in(40) { "zz:1".to_owned() } else { channel };
        let private = channel.starts_with('$');
        let token = named && (private && !self.rng.one_in(8) || self.rng.one_in(8));
        let token = token.then(|| self.draw_token());
        let expire_at = if token.is_some() { self.draw_expiry() } else { 0 };
        let wish = Wish {
            positioned: self.rng.one_in(2),
            recoverable: !self.rng.one_in(3),
            joins: self.rng.one_in(2),
        };
        let known = self.known.get(&(user.to_owned(), channel.clone())).cloned();
        let since = match self.rng.below(12) {
            0 => Some((0, String::new())),
            1 => Some((2, "elsewhen".to_owned())),
            2 => known.map(|(offset, epoch)| (offset + 3, epoch)),
            3..5 => None,
            _ => known,
        };
        Subscribe {
            token,
            expire_at,
            wish,
            delta: self.rng.one_in(3),
            filter: self.plan.space(&channel).is_some_and(|it| it.filter) && self.rng.one_in(4)
                || self.rng.one_in(60),
            compact: self.rng.one_in(3),
            since,
            reject: self.rng.one_in(4),
            info: if token.is_some() { self.draw_info() } else { Value::Null },
            channel,
        }
    }

    fn draw_publication(&mut self, channel: String, from: Option<usize>) -> usize {
        let n = self.pubs.len();
        // Most are alike, so that patches are worth it.
        let filler = "some words that stay the same, ".repeat(self.rng.below(6) as usize);
        let even = from.is_none() && self.rng.one_in(2);

        self.pubs.push(Publication {
            channel,
            data: json!({"n": n, "t": filler}),
            even,
            posted: self.step,
            done: None,
            fate: Fate::Open,
            from,

            seen: 0,
        });
        n
    }

    fn token(&self, kind: Token, mut claims: Value, user: &str) -> String {
        let others = USERS.iter().find(|it| **it != user).expect("another");
        claims["sub"] = json!(if kind == Token::Others { others } else { user });
        if kind == Token::Expired {
            claims["exp"] = json!(self.unix() - 100);
        }
        let secret = if kind == Token::Foreign { "another secret" } else { SECRET };
        signed(Algorithm::HS256, &claims, secret)
    }

    fn claims(expire_at: i64, info: &Value) -> Value {
        let mut claims = json!({});
        if expire_at > 0 {
            claims["exp"] = json!(expire_at);
        }
        if !info.is_null() {
            claims["info"] = info.clone();
        }
        claims
    }

    /// A command as it is sent.
    fn command(&mut self, place: usize, id: u64, what: &What) -> Value {
        let user = self.conns[place].user.clone();
        let position = |request: &mut Value, since: &(u64, String)| {
            request["recover"] = json!(true);
            (request["offset"], request["epoch"]) = (json!(since.0), json!(since.1));
        };
        match what {
            What::Connect(it) => {
                let mut request = json!({"data": {"c": place}});
                if let Some(kind) = it.token {
                    let mut claims = Self::claims(it.expire_at, &it.info);
                    let subs = it.granted.iter().map(|name| (name.clone(), json!({})));
                    claims["subs"] = Value::Object(subs.collect());
                    request["token"] = json!(self.token(kind, claims, &it.user));
                }
                let mut subs = json!({});
                for (channel, since) in &it.asked {
                    subs[channel] = json!({});
                    since.iter().for_each(|since| position(&mut subs[channel], since));
                }
                request["subs"] = subs;
                json!({"connect": request})
            }
            What::Subscribe(it) => {
                let flag = i64::from(it.compact) + 2 * i64::from(it.reject);
                let mut request = json!({
                    "channel": it.channel, "data": {"k": id}, "positioned": it.wish.positioned,
                    "recoverable": it.wish.recoverable, "join_leave": it.wish.joins, "flag": flag,
                });
                if let Some(kind) = it.token {
                    let mut claims = Self::claims(it.expire_at, &it.info);
                    claims["channel"] = json!(it.channel);
                    request["token"] = json!(self.token(kind, claims, &user));
                }
                if it.delta {
                    request["delta"] = json!("fossil");
                }
                if it.filter {
                    request["tf"] = json!({"key": "even", "cmp": "eq", "val": "1"});
                }
                it.since.iter().for_each(|since| position(&mut request, since));
                json!({"subscribe": request})
            }
            What::Unsubscribe(channel) => json!({"unsubscribe": {"channel": channel}}),
            What::Publish(n) => {
                let publication = &self.pubs[*n];
                json!({"publish": {"channel": publication.channel, "data": publication.data}})
            }
            What::Presence(channel) => json!({"presence": {"channel": channel}}),
            What::PresenceStats(channel) => json!({"presence_stats": {"channel": channel}}),
            What::History { channel, limit, reverse, .. } => {
                json!({"history": {"channel": channel, "limit": limit, "reverse": reverse}})
            }
            What::Rpc => json!({"rpc": {"method": "m", "data": {"k": id}}}),
            What::Refresh { token, expire_at, granted, info } => {
                let mut claims = Self::claims(*expire_at, info);
                let subs = granted.iter().map(|name| (name.clone(), json!({})));
                claims["subs"] = Value::Object(subs.collect());
                json!({"refresh": {"token": self.token(*token, claims, &user)}})
            }
            What::SubRefresh { channel, token, expire_at, info } => {
                let mut claims = Self::claims(*expire_at, info);
                claims["channel"] = json!(channel);
                let token = self.token(*token, claims, &user);
                json!({"sub_refresh": {"channel": channel, "token": token}})
            }
            What::Bad(3508) => json!({"send": {"data": {}}}),
            What::Bad(_) => json!({}),
        }
    }

    fn options_of(&self, channel: &str) -> Option<StreamOptions> {
        let space = self.plan.space(channel)?;
        let (size, ttl) = space.history?;
        let meta = match space.meta_seconds {
            0 => 720 * 3600,
            seconds => seconds,
        };
        Some(StreamOptions {
            size: size as u32,
            ttl: Duration::from_secs(ttl),
            meta_ttl: Duration::from_secs(meta),
        })
    }

    fn ask(&mut self, channel: &str, question: Question, called: Called) {
        let slot = Arc::new(Mutex::new(None));
        let to = slot.clone();
        let reply = Reply::new(move |it| *to.lock().expect("no panic") = Some(it));
        let ask = Ask { channel: channel.into(), question, asker: Asker::Control(reply) };
        let core = self.rng.below(self.plan.cores as u32) as usize;
        // What a mailbox does not take is answered with an error.
        self.site.send(core, Letter::Ask(Box::new(ask)));
        self.calls.push((called, slot));
    }

    /// A channel, which mostly somebody is in.
    fn listened_channel(&mut self) -> String {
        let subs = self.conns.iter().flat_map(|conn| conn.subs.keys().cloned());
        let listened: Vec<_> = subs.collect();
        match listened.is_empty() || self.rng.one_in(4) {
            true => self.channel(),
            false => self.pick(&listened),
        }
    }

    fn call_publish(&mut self) {
        let channel = self.listened_channel();
        let n = self.draw_publication(channel.clone(), None);
        let space = self.plan.space(&channel).expect("a namespace");
        let publication = &self.pubs[n];
        let tags = publication.even.then(|| ("even".to_owned(), "1".to_owned()));
        let publish = Publish {
            data: publication.data.to_string().into(),
            tags: tags.into_iter().collect(),
            stream: self.options_of(&channel),
            delta: space.delta_publish,
            ..Publish::default()
        };
        self.note(|| format!("API publishes {n} in {channel}"));
        self.ask(&channel, Question::Publish(publish), Called::Publish(n));
    }

    fn call_remove(&mut self) {
        let channel = self.channel();
        if self.options_of(&channel).is_some() {
            self.note(|| format!("API removes the history of {channel}"));
            self.stream(&channel).removing = !self.plan.calm;
            self.ask(&channel, Question::HistoryRemove, Called::Remove(channel.clone()));
        }
    }

    /// The server API does something with a user's connections.
    fn order(&mut self) {
        let number = self.orders.len();
        let user = if self.rng.one_in(8) { "" } else { self.pick(&USERS) };
        let mine: Vec<usize> = {
            let live = self.conns.iter().enumerate();
            live.filter(|(_, it)| it.is_open() && it.user == user).map(|(n, _)| n).collect()
        };
        let names: Vec<_> = mine.iter().map(|n| self.conns[*n].name.clone()).collect();
        let one = !names.is_empty() && self.rng.one_in(4);
        let client = one.then(|| self.pick(&names));
        let spare = match !one && !names.is_empty() && self.rng.one_in(6) {
            true => vec![self.pick(&names)],
            false => Vec::new(),
        };
        let channel = self.channel();
        let of_theirs: Vec<_> =
            mine.iter().flat_map(|n| self.conns[*n].subs.keys().cloned()).collect();
        let asked: Vec<_> = self.asked_channels(&mine);
        let near = match self.rng.below(4) {
            0 => channel.clone(),
            1 | 2 if !asked.is_empty() => self.pick(&asked),
            _ if !of_theirs.is_empty() => self.pick(&of_theirs),
            _ => channel.clone(),
        };
        let info = self.draw_info();
        let expire_at = if self.rng.one_in(10) { self.unix() } else { self.draw_expiry() };
        let does = match self.rng.below(20) {
            0..7 => Does::Subscribe { channel, expire_at, info },
            7..14 => Does::Unsubscribe { channel: (!self.rng.one_in(5)).then_some(near) },
            14 => Does::Disconnect,
            _ => Does::Refresh { expired: self.rng.one_in(10), expire_at, info },
        };
        self.note(|| format!("order {number} of \"{user}\" {client:?} {spare:?}: {does:?}"));
        let why = format!("o{number}");
        let action = match does.clone() {
            Does::Subscribe { channel, expire_at, info } => {
                Action::Subscribe(Box::new(ServerSubscribe {
                    channel,
                    expire_at,
                    info: raw(&info),
                    data: raw(&json!({"o": number})),
                    ..ServerSubscribe::default()
                }))
            }
            Does::Unsubscribe { channel } => Action::Unsubscribe {
                channel: channel.map(Into::into),
                why: Unsubscribe::new(2000, why),
            },
            Does::Disconnect => {
                Action::Disconnect(Disconnect::new(4500 + (number % 400) as u16, why))
            }
            Does::Refresh { expired, expire_at, info } => {
                let info = Some(raw(&info)).filter(|it| !it.is_empty());
                Action::Refresh(Refresh { expired, expire_at, info })
            }
        };
        let (mut order, done) = order_of(user, action);
        let id = |name: &String| ClientId::parse(name).expect("a client's id");
        order.client = client.as_ref().map(id);
        order.spare = spare.iter().map(id).collect();
        let core = self.rng.below(self.plan.cores as u32) as usize;
        let (given, given_at) = (self.step, self.unix());
        let connecting = self.conns.iter().enumerate().filter(|(_, it)| !it.is_open());
        let connecting = connecting.map(|(n, _)| n).collect();
        let taken = self.site.send(core, Letter::Order(Arc::new(order)));
        let mut owed = Vec::new();
        if taken {
            owed = self.owed(number, &mine, &client, &spare, &does);
            if client.is_none() {
                owed.extend(self.owed_to_newcomers(number, user, &does));
            }
        }
        self.orders.push(Order {
            given,
            given_at,
            user: user.to_owned(),
            client,
            spare,
            does,
            done,
            done_at: None,
            shown: Vec::new(),
            owed,
            connecting,
        });
        self.met("order");
    }

    /// Whether a connection's first command is certainly under way.
    fn has_begun(plan: &Plan, turns: &[u64], conn: &Conn) -> bool {
        let first = conn.cmds.first().is_some_and(|cmd| turns[conn.core] >= cmd.turn + ENOUGH);
        // Nobody knows when a post is there.
        let known = !conn.way.is_emulated() || conn.phase == Phase::Connecting;
        first && known && !conn.vague && !plan.lossy
    }

    /// The same of connections whose connect command is under way.
    fn owed_to_newcomers(
        &mut self,
        number: usize,
        user: &str,
        does: &Does,
    ) -> Vec<(usize, String, u64)> {
        let mut owed = Vec::new();
        for (place, conn) in self.conns.iter_mut().enumerate() {
            let begun = Self::has_begun(&self.plan, &self.turns, conn);
            let connecting = begun && conn.phase == Phase::Connecting;
            let Some(cmd) = conn.cmds.first_mut().filter(|_| connecting) else { continue };
            let What::Connect(it) = &cmd.what else { continue };
            if it.token != Some(Token::Good) || it.user != user {
                continue;
            }
            match does {
                Does::Unsubscribe { .. } => cmd.doom.push(number),
                Does::Disconnect | Does::Refresh { .. } => owed.push((place, String::new(), 0)),
                Does::Subscribe { .. } => continue,
            }
            *self.covered.0.entry("ordered while it connects").or_default() += 1;
        }
        owed
    }

    /// Channels about whose subscriptions the backend thinks.
    fn asked_channels(&self, mine: &[usize]) -> Vec<String> {
        let cmds = mine.iter().flat_map(|n| &self.conns[*n].cmds);
        let asked = cmds.filter(|cmd| cmd.question.is_some()).filter_map(|cmd| match &cmd.what {
            What::Subscribe(it) => Some(it.channel.clone()),
            _ => None,
        });
        asked.collect()
    }

    /// Where an order has to show: connections, channels, and what was there then.
    fn owed(
        &mut self,
        number: usize,
        mine: &[usize],
        client: &Option<String>,
        spare: &[String],
        does: &Does,
    ) -> Vec<(usize, String, u64)> {
        let (calm, unix) = (self.plan.calm, self.unix());
        let mut owed = Vec::new();
        for place in mine {
            let conn = &mut self.conns[*place];
            let concerned = client.as_ref().is_none_or(|it| *it == conn.name);
            if !concerned || spare.contains(&conn.name) {
                continue;
            }
            match does {
                Does::Unsubscribe { channel } => {
                    let matches = |name: &str| channel.as_deref().is_none_or(|it| it == name);
                    for (name, sub) in &mut conn.subs {
                        if matches(name) {
                            sub.doom.push(number);
                        }
                    }
                    let begun = Self::has_begun(&self.plan, &self.turns, conn);
                    for (n, cmd) in conn.cmds.iter_mut().enumerate() {
                        let thinking =
                            cmd.question.is_some_and(|it| self.questions[it].said.is_none())
                                || n == 0 && begun && cmd.question.is_none();
                        if let What::Subscribe(it) = &cmd.what
                            && matches(&it.channel)
                            && thinking
                        {
                            cmd.doom.push(number);
                            *self.covered.0.entry("ordered while asked").or_default() += 1;
                        }
                    }
                }
                Does::Disconnect => owed.push((*place, String::new(), 0)),
                Does::Refresh { .. } => owed.push((*place, String::new(), 0)),
                Does::Subscribe { channel, expire_at, .. } => {
                    let over = *expire_at > 0 && *expire_at <= unix;
                    let taken = conn.subs.contains_key(channel) || conn.asks_for(channel);
                    if calm && !over && !taken && conn.reads && !conn.lags {
                        owed.push((*place, channel.clone(), 0));
                    }
                }
            }
        }
        owed
    }
}
