//! What a client hears, one thing at a time: each must follow from what it asked and from what
//! others did.

use ringhold::testing::Received;
use serde_json::{Value, json};

use super::conn::{Cmd, Connect, Element, Phase, Sub, Subscribe, Token, Way, What};
use super::plan::{Mode, Verdict, Wish};
use super::run::{Does, Run, Said};
use super::truth::{Fate, Recovery};
use crate::site::BEGINNING;

/// Who began a subscription, and how.
pub struct Begun {
    pub channel: String,
    pub mode: Mode,
    pub delta: bool,
    pub filter: bool,
    pub compact: bool,
    pub server_side: bool,
    pub by_token: bool,
    pub expire_at: i64,
    pub info: Value,
    pub since: Option<(u64, String)>,
    pub born: u64,
    pub doom: Vec<usize>,
}

impl Run {
    pub fn read(&mut self, place: usize) {
        let mut ended = false;
        while let Some(element) = self.conns[place].element() {
            match element {
                _ if self.conns[place].left => {}
                Element::Object(text, id) => {
                    let value: Value = serde_json::from_str(&text).expect("JSON");
                    self.hear(place, value.clone());
                    self.brought(place, id, &value);
                }
                Element::Message(message) => {
                    let value = self.decode(place, &mut &message[..]);
                    self.hear(place, value);
                }
            }
        }
        while let Some(received) = self.conns[place].client.next() {
            match received {
                // What was on its way when it left.
                _ if self.conns[place].left => {}
                Received::Text(text) => {
                    for line in text.lines() {
                        let value = serde_json::from_str(line).expect("JSON");
                        self.hear(place, value);
                    }
                }
                Received::Binary(message) if self.conns[place].way == Way::Binary => {
                    let mut rest = &message[..];
                    while !rest.is_empty() {
                        let value = self.decode(place, &mut rest);
                        self.hear(place, value);
                    }
                }
                // It was told in its own words before.
                Received::Close(..) if self.conns[place].way.is_uni() => {}
                Received::Close(code, reason) => self.closed(place, code.0, &reason),
                // It is known before what was not read.
                Received::End => ended = true,
                other => panic!("unexpected {other:?}"),
            }
        }
        if ended && !self.conns[place].is_closed() {
            self.cut(place);
        }
    }

    /// The server has ended a connection without a word.
    fn cut(&mut self, place: usize) {
        self.note(|| format!("{place} is cut"));
        assert!(self.conns[place].lags || self.drained, "{place} was cut: {}", self.conns[place]);
        self.met("cut");
        self.gone(place);
    }

    /// A connection is over, from whatever side.
    pub fn gone(&mut self, place: usize) {
        let step = self.step;
        let conn = &mut self.conns[place];
        (conn.phase, conn.ended_at) = (Phase::Closed, step);
        let subs = std::mem::take(&mut conn.subs);
        for (channel, sub) in subs {
            self.keep_place(place, &channel, &sub);
            if sub.mode.present {
                self.conns[place].was_in.insert(channel);
            }
        }
    }

    fn keep_place(&mut self, place: usize, channel: &str, sub: &Sub) {
        let user = self.conns[place].user.clone();
        if let (true, Some(next), false) = (sub.mode.recoverable, sub.next, sub.filter) {
            let at = (next - 1, sub.epoch.clone());
            self.known.insert((user, channel.to_owned()), at);
        }
    }

    pub fn hear(&mut self, place: usize, value: Value) {
        self.step += 1;
        self.note(|| format!("{place} hears {value}"));
        assert!(!self.conns[place].is_closed(), "something after the end: {value}");
        let object = value.as_object().expect("an object");
        if object.is_empty() {
            assert!(self.conns[place].is_open() && self.plan.ping_seconds > 0, "a ping");
            self.echo(place, "{}");
            return self.met("ping");
        }
        if self.conns[place].way.is_uni() {
            return match object.contains_key("connect") {
                true => self.reply(place, 1, &value),
                false => self.push(place, &value),
            };
        }
        match value["id"].as_u64() {
            Some(id) => self.reply(place, id, &value),
            None => self.push(place, &value["push"]),
        }
    }

    fn reply(&mut self, place: usize, id: u64, value: &Value) {
        let first = self.in_order(place);
        let conn = &mut self.conns[place];
        let at = conn.cmds.iter().position(|cmd| cmd.id == id);
        let at = at.unwrap_or_else(|| panic!("nobody asked, or twice: {value}"));
        assert!(!first || at == 0, "{value} overtakes {:?}", conn.cmds[0]);
        let cmd = conn.cmds.remove(at);
        // Where commands go one after the other, it began when the one before it was answered.
        let start = if first { cmd.sent.max(conn.freed) } else { cmd.sent };
        conn.freed = self.step;
        let error = value["error"]["code"].as_u64();
        if let Some(question) = cmd.question {
            assert!(self.questions[question].said.is_some(), "answered before the backend did");
        }
        match cmd.what.clone() {
            What::Connect(connect) => self.connected(place, &cmd, &connect, value, error),
            What::Subscribe(it) => self.subscribed(place, &cmd, &it, start, value, error),
            What::Unsubscribe(channel) => {
                assert_eq!(value["unsubscribe"], json!({}), "{value}");
                self.met("unsubscribed");
                self.end_sub(place, &channel);
            }
            What::Publish(n) => self.published(place, &cmd, n, start, error),
            What::Presence(channel) => self.present(place, &channel, start, value, error),
            What::PresenceStats(channel) => self.counted(place, &channel, start, value, error),
            What::History { channel, limit, since, reverse } => {
                let since = since.as_ref();
                self.history(place, (&channel, limit, since, reverse), start, value, error);
            }
            What::Rpc => self.rpc(place, &cmd, value, error),
            What::Refresh { token, expire_at, granted, info } => {
                assert_eq!((token, error), (Token::Good, None), "{value}");
                assert!(!self.plan.asks_refresh, "{value}: the backend decides");
                let by_token: Vec<_> = self.conns[place].subs.iter().collect();
                let lacks = |channel: &String| {
                    !granted.contains(channel)
                        && self.plan.personal_of(&self.conns[place].user).as_ref() != Some(channel)
                        && self.conns[place].inside(channel, start) == Some(true)
                };
                let lost = by_token.iter().any(|(channel, sub)| sub.by_token && lacks(channel));
                let out = |it: &String| self.conns[place].inside(it, start) == Some(false);
                assert!(!lost && !granted.iter().any(out), "other channels were granted");
                self.tells_ttl(place, &value["refresh"], expire_at);
                self.expires_at(place, &[expire_at]);
                let conn = &mut self.conns[place];
                conn.info = if info.is_null() { conn.info.take() } else { info };
                self.met("refreshed");
            }
            What::SubRefresh { channel, token, expire_at, info } => {
                let inside = self.conns[place].inside(&channel, start);
                if error == Some(103) {
                    assert_ne!(inside, Some(true), "{value}");
                    return self.met("subscription not refreshed");
                }
                assert_eq!((token, error), (Token::Good, None), "{value}");
                assert!(!self.plan.by_backend(&channel), "{value}: the backend decides");
                assert_ne!(inside, Some(false), "{value}");
                self.tells_ttl(place, &value["sub_refresh"], expire_at);
                if let Some(sub) = self.conns[place].subs.get_mut(&channel) {
                    sub.expire_at = expire_at;
                    sub.info = if info.is_null() { sub.info.take() } else { info };
                }
                self.met("subscription refreshed");
            }
            What::Bad(code) => panic!("{value} instead of {code}"),
        }
    }

    /// A connection lasts until one of these, and what the backend has said meanwhile may come
    /// after it. Whether nothing did.
    pub fn expires_at(&mut self, place: usize, expire_at: &[i64]) -> bool {
        let since = self.rested;
        let unsure = |it: &super::run::Question| {
            it.conn == place && it.about == super::run::About::Stay && it.answered > since
        };
        let unsure = !self.plan.calm && self.questions.iter().any(unsure);
        let conn = &mut self.conns[place];
        let sure = !unsure && !conn.vague;
        if sure {
            conn.expires.clear();
        }
        conn.expires.extend(expire_at);
        (conn.staying, conn.by_order) = (None, false);
        sure
    }

    /// Whether a client is told rightly when something expires.
    pub fn tells_ttl(&self, place: usize, result: &Value, expire_at: i64) {
        let ttl = result["ttl"].as_i64().unwrap_or(0);
        assert_eq!(result["expires"].as_bool().unwrap_or(false), expire_at > 0, "{result}");
        let left = expire_at - self.unix();
        let (least, most) = self.ttls(place, expire_at);
        let right = self.conns[place].lags || ttl >= least && ttl <= most;
        assert!(right || expire_at == 0 && ttl == 0, "{result}: {left} left");
    }

    /// How long something may be told to last that a client hears of as soon as it was said.
    pub fn ttls(&self, place: usize, expire_at: i64) -> (i64, i64) {
        let left = (expire_at - self.unix()).max(1);
        if self.is_exact(place) {
            return (left, left);
        }
        // It was said since clients looked last; where letters are lost, what was said waits.
        let looked = BEGINNING + (self.looked_ms / 1000) as i64;
        let most = if self.plan.lossy { left + 9 } else { (expire_at - looked).max(1) };
        (left, most)
    }

    fn said(&self, cmd: &Cmd) -> Option<Said> {
        self.questions[cmd.question?].said.clone()
    }

    fn connected(
        &mut self,
        place: usize,
        cmd: &Cmd,
        connect: &Connect,
        value: &Value,
        error: Option<u64>,
    ) {
        let said = self.said(cmd);
        let unix = self.unix();
        if let Some(code) = error {
            let fits = match (&said, connect.token) {
                (Some(Said::Error(of)), None) => *of == code,
                (Some(Said::Yes { expire_at, user, channels, .. }), None) => {
                    let over = *expire_at > 0 && *expire_at <= unix;
                    let some = !channels.is_empty() || self.plan.personal_of(user).is_some();
                    over && code == 110 || self.plan.lossy && code == 111 && some
                }
                (None, Some(Token::Expired)) => code == 109,
                // The token was good when it was made.
                (None, Some(Token::Good)) if connect.expire_at > 0 => {
                    connect.expire_at <= unix && code == 109 || self.plan.lossy && code == 111
                }
                _ => self.plan.lossy && code == 111,
            };
            assert!(fits, "{value} after {said:?} to {connect:?}");
            let user = match (&said, connect.token) {
                (Some(Said::Yes { user, .. }), _) => user,
                (_, Some(Token::Good)) => &connect.user,
                _ => "",
            };
            // It may have had a seat for a moment.
            self.conns[place].user = user.to_owned();
            self.conns[place].phase = Phase::Failed;
            return self.met("connect failed");
        }
        let result = &value["connect"];
        let (user, expire_at, info, data, mut channels) = match (&said, connect.token) {
            (None, Some(Token::Good)) => {
                let channels: Vec<_> = connect.granted.iter().cloned().collect();
                let user = connect.user.clone();
                (user, connect.expire_at, connect.info.clone(), Value::Null, channels)
            }
            (Some(Said::Yes { expire_at, data, info, user, channels }), None) => {
                (user.clone(), *expire_at, info.clone(), data.clone(), channels.clone())
            }
            (None | Some(Said::Nobody), None) if self.plan.anonymous => {
                let asks = self.plan.asks_connect;
                assert_eq!(said.is_some(), asks, "{value} without a question");
                Default::default()
            }
            _ => panic!("{value} after {said:?} to {connect:?}"),
        };
        let late = self.conns[place].lags;
        assert!(late || expire_at == 0 || expire_at >= unix - 2, "{value}: it is over");
        assert_eq!(result["data"], data, "{value}");
        let by_token = connect.token.is_some();
        channels.extend(self.plan.personal_of(&user));
        if !matches!(said, Some(Said::Yes { .. })) {
            for channel in connect.asked.keys() {
                let space = self.plan.space(channel).expect("asked for where there is one");
                if space.may_subscribe(&user, channel, false) == Verdict::Granted {
                    channels.push(channel.clone());
                }
            }
        }
        channels.sort();
        channels.dedup();
        let told = result["subs"].as_object().cloned().unwrap_or_default();
        assert!(told.keys().eq(channels.iter()), "{value}: {channels:?}");
        let name = result["client"].as_str().expect("a name").to_owned();
        assert!(self.conns.iter().all(|conn| conn.name != name), "one name twice");
        let by_backend = self.plan.asks_refresh;
        self.tells_ttl(place, result, if by_backend { 0 } else { expire_at });
        assert_eq!(result["ping"].as_u64().unwrap_or(0), self.plan.ping_seconds);
        let conn = &mut self.conns[place];
        let named = result["session"].is_string();
        assert_eq!(named, !conn.way.is_plain(), "{value}");
        (conn.session, conn.node) = (result["session"].clone(), result["node"].clone());
        assert!(conn.promised.as_ref().is_none_or(|it| *it == name), "promised another name");
        (conn.phase, conn.user, conn.name) = (Phase::Open, user.clone(), name);
        (conn.expires, conn.info, conn.connected) = (vec![expire_at], info, self.step);
        self.met(match (connect.token, &said) {
            (Some(_), _) => "connected by token",
            (None, Some(Said::Yes { .. })) => "connected by the backend",
            _ => "connected as nobody",
        });
        let born = cmd.sent;
        for (channel, result) in told {
            let space = self.plan.space(&channel).expect("a namespace");
            let mode = space.mode(&user, Wish::default());
            let by_token = by_token && connect.granted.contains(&channel);
            // What it asks for itself is stronger than what its id says.
            let asked = connect.asked.get(&channel);
            let resumed = connect.resumed.get(&channel).filter(|_| asked.is_none());
            let resumes = resumed.is_some() && mode.recoverable;
            let since = asked.cloned().flatten().or_else(|| resumed.cloned());
            let since = since.filter(|_| mode.recoverable);
            let orders = cmd.doom.iter().copied();
            let doom = orders.filter(|order| match &self.orders[*order].does {
                Does::Unsubscribe { channel: of } => of.as_ref().is_none_or(|of| *of == channel),
                _ => false,
            });
            let doom = doom.collect();
            self.begin_sub(
                place,
                Begun {
                    channel,
                    mode,
                    delta: false,
                    filter: false,
                    compact: false,
                    server_side: true,
                    by_token,
                    expire_at: 0,
                    info: Value::Null,
                    since,
                    born,
                    doom,
                },
                &result,
            );
            self.met("subscribed with connect");
            if resumes {
                let recovered = result["recovered"] == true;
                self.met(if recovered { "resumed" } else { "not resumed" });
            }
        }
    }

    fn subscribed(
        &mut self,
        place: usize,
        cmd: &Cmd,
        it: &Subscribe,
        start: u64,
        value: &Value,
        error: Option<u64>,
    ) {
        let (said, unix) = (self.said(cmd), self.unix());
        let conn = &self.conns[place];
        let inside = conn.inside(&it.channel, start);
        let unsure = !self.is_exact(place);
        // What the client has not heard of may be under way.
        let taken = inside != Some(false) || conn.asks_for(&it.channel) || unsure;
        let limit = self.plan.channel_limit;
        let full = conn.subs.len() + conn.subscribing() >= limit || unsure && limit < 100;
        let over = |at: i64| at > 0 && at <= unix;
        let space = self.plan.space(&it.channel);
        let verdict = space.map_or(Verdict::Error(102), |space| {
            space.may_subscribe(&conn.user, &it.channel, it.token.is_some())
        });
        if let Some(code) = error {
            let asked = self.asked_by(place);
            let fits = match code {
                105 => taken,
                106 => full,
                107 => it.filter && !space.is_some_and(|it| it.filter),
                111 if self.plan.lossy => true,
                111 => verdict == Verdict::Asks && asked >= self.plan.hook_limit,
                112 => it.reject && it.since.is_some() && self.recovery(place, it) != Recovery::Yes,
                _ => match verdict {
                    Verdict::Error(of) => of == code,
                    Verdict::Token if it.token == Some(Token::Expired) => code == 109,
                    Verdict::Token if it.token == Some(Token::Foreign) => code == 103,
                    Verdict::Token => over(it.expire_at) && code == 109,
                    Verdict::Granted => false,
                    Verdict::Asks => match &said {
                        Some(Said::Error(of)) => *of == code,
                        Some(Said::Yes { expire_at, .. }) => over(*expire_at) && code == 110,
                        _ => false,
                    },
                },
            };
            assert!(fits, "{value} to {it:?}: {verdict:?}, the backend said {said:?}");
            self.met("subscription refused");
            if code == 112 {
                self.met("recovery rejected");
            }
            return;
        }
        let (expire_at, data, info) = match (verdict, &said) {
            (Verdict::Granted, None) => (0, Value::Null, Value::Null),
            (Verdict::Token, None) => {
                assert_eq!(it.token, Some(Token::Good), "{value}");
                (it.expire_at, Value::Null, it.info.clone())
            }
            (Verdict::Asks, Some(Said::Yes { expire_at, data, info, .. })) => {
                (*expire_at, data.clone(), info.clone())
            }
            _ => panic!("{value} to {it:?}: {verdict:?}, the backend said {said:?}"),
        };
        assert_ne!(inside, Some(true), "subscribed twice: {value}");
        assert!(conn.subs.len() < limit || unsure, "more than the limit: {value}");
        let space = space.expect("it is granted");
        assert!(!it.filter || space.filter, "no filters here: {value}");
        let result = &value["subscribe"];
        assert_eq!(result["data"], data, "{value}");
        let mode = space.mode(&conn.user, it.wish);
        let delta = it.delta && space.delta;
        self.met(match verdict {
            Verdict::Token => "subscribed by token",
            Verdict::Asks => "subscribed by the backend",
            _ => "subscribed",
        });
        let since = it.since.clone().filter(|_| mode.recoverable);
        self.begin_sub(
            place,
            Begun {
                channel: it.channel.clone(),
                mode,
                delta,
                filter: it.filter,
                compact: it.compact,
                server_side: false,
                by_token: false,
                expire_at,
                info,
                since,
                born: cmd.sent,
                doom: cmd.doom.clone(),
            },
            result,
        );
    }

    fn recovery(&mut self, place: usize, it: &Subscribe) -> Recovery {
        let (now, calm) = (self.now(), self.is_exact(place));
        let history = self.plan.space(&it.channel).and_then(|space| space.history);
        let cache = self.plan.space(&it.channel).is_some_and(|space| space.cache);
        match (&it.since, history) {
            _ if self.may_be_over(&it.channel) || self.stream(&it.channel).grown => {
                Recovery::Either
            }
            (Some(since), Some(history)) if calm && !cache => {
                self.stream(&it.channel).recovers(since, now, history)
            }
            _ => Recovery::Either,
        }
    }

    /// How many questions of a connection the backend may be thinking about.
    fn asked_by(&self, place: usize) -> usize {
        let since = self.rested;
        let of = |cmd: &&Cmd| match &cmd.what {
            What::Rpc => self.plan.rpc,
            What::Publish(n) => {
                self.plan.space(&self.pubs[*n].channel).is_some_and(|it| it.asks_publish)
            }
            What::Subscribe(it) => {
                self.plan.space(&it.channel).is_some_and(|space| space.asks_subscribe)
            }
            _ => false,
        };
        let waiting = self.conns[place].cmds.iter().filter(of).count();
        let just = self.questions.iter().filter(|it| it.conn == place && it.step > since).count();
        if self.is_exact(place) { waiting } else { waiting + just + 8 }
    }

    /// A subscription begins, in a reply or a push.
    pub fn begin_sub(&mut self, place: usize, begun: Begun, result: &Value) {
        let Begun { channel, mode, since, .. } = begun;
        let space = self.plan.space(&channel).expect("a namespace").clone();
        let flag = |name: &str| result[name].as_bool().unwrap_or(false);
        assert_eq!(flag("positioned"), mode.positioned, "{channel}: {result}");
        assert_eq!(flag("recoverable"), mode.recoverable, "{channel}: {result}");
        assert_eq!(flag("delta"), begun.delta, "{channel}: {result}");
        let id = result["id"].as_u64().unwrap_or(0);
        let compact = begun.compact && !self.conns[place].way.is_binary();
        assert_eq!(id > 0, compact, "{channel}: {result}");
        let by_backend = space.asks_refresh;
        self.tells_ttl(place, result, if by_backend { 0 } else { begun.expire_at });
        let over = begun.expire_at > 0 && begun.expire_at < self.unix() - 9;
        assert!(!over || self.conns[place].lags, "it is over: {result}");
        let streams = mode.positioned && space.history.is_some();
        let epoch = result["epoch"].as_str().unwrap_or("").to_owned();
        let offset = result["offset"].as_u64().unwrap_or(0);
        assert_eq!(streams, !epoch.is_empty(), "{channel}: {result}");
        let cached = space.auto_cache && mode.recoverable;
        let recovers = (since.is_some() || cached) && streams;
        assert_eq!(flag("was_recovering"), recovers, "{channel}: {result}");
        if streams && self.conns[place].lags {
            // It may be of a life that began after all that is known.
            self.stream(&channel).unsure = true;
        } else if streams {
            self.shows(&channel, &epoch);
        }
        let recovered = flag("recovered");
        let publications = result["publications"].as_array().cloned().unwrap_or_default();
        if recovered || !publications.is_empty() {
            assert!(recovers && recovered, "{channel}: {result}");
        }
        if let (Some(since), Some(history), true, false) =
            (&since, space.history, self.is_exact(place) && streams, space.cache)
        {
            let now = self.now();
            let must = self.stream(&channel).recovers(since, now, history);
            let grown = self.stream(&channel).grown;
            let fits = match must {
                _ if grown => true,
                Recovery::Yes => recovered,
                Recovery::No => !recovered,
                Recovery::Either => true,
            };
            // What is longer than the outbox cannot be recovered, either.
            let large = self.plan.outbox_bytes < 100_000;
            assert!(fits || large && !recovered, "{channel}: {result} must be {must:?}");
        }
        if recovers {
            self.met(if recovered { "recovered" } else { "not recovered" });
        }
        let step = self.step;
        self.uid += 1;
        let next = streams.then_some(offset + 1).filter(|_| !(space.cache && recovered));
        let sub = Sub {
            uid: self.uid,
            server_side: begun.server_side,
            by_token: begun.by_token,
            mode,
            delta: begun.delta,
            filter: begun.filter,
            id,
            epoch,
            next,
            born: begun.born,
            established: step,
            expire_at: begun.expire_at,
            by_backend,
            cached,
            doom: begun.doom,
            info: begun.info,
            ..Sub::default()
        };
        let conn = &mut self.conns[place];
        let before = conn.subs.insert(channel.clone(), sub);
        assert!(before.is_none(), "subscribed twice: {channel}");
        conn.changed.insert(channel.clone(), step);
        for publication in &publications {
            self.publication(place, &channel, publication, true);
            self.met("recovered publications");
        }
        if space.cache && recovered && publications.is_empty() {
            let next = since.as_ref().map(|(offset, _)| offset + 1);
            self.sub(place, &channel).next = next;
        }
        // Recovery is up to the moment of the answer.
        if streams && !begun.filter {
            let top = self.sub(place, &channel).next.map(|next| next - 1);
            let calm = self.is_exact(place);
            let stream = self.stream(&channel);
            let known = stream.top;
            let right = !calm
                || stream.unsure
                || stream.grown
                || cached
                || top.is_none_or(|top| top == known);
            assert!(right, "{channel}: {top:?} of {known}");
        }
    }

    pub fn sub(&mut self, place: usize, channel: &str) -> &mut Sub {
        let subs = &mut self.conns[place].subs;
        subs.get_mut(channel).unwrap_or_else(|| panic!("{place} is not in {channel}"))
    }

    /// A subscription is over.
    pub fn end_sub(&mut self, place: usize, channel: &str) {
        let step = self.step;
        let conn = &mut self.conns[place];
        if let Some(sub) = conn.subs.remove(channel) {
            conn.changed.insert(channel.to_owned(), step);
            self.keep_place(place, channel, &sub);
        }
    }

    fn published(&mut self, place: usize, cmd: &Cmd, n: usize, start: u64, error: Option<u64>) {
        let channel = self.pubs[n].channel.clone();
        let said = self.said(cmd);
        let conn = &self.conns[place];
        let inside = conn.inside(&channel, start);
        let space = self.plan.space(&channel).expect("a namespace");
        let may = |inside| space.may_publish(&conn.user, inside);
        let step = self.step;
        self.pubs[n].done = Some(step);
        let Some(code) = error else {
            match said {
                Some(Said::Yes { .. }) => assert!(space.asks_publish),
                None => {
                    assert!(!space.asks_publish, "published without the backend");
                    assert!(inside.map_or(may(true) || may(false), may), "may not publish");
                }
                other => panic!("published after {other:?}"),
            }
            self.pubs[n].fate = Fate::Out;
            if self.plan.calm && self.plan.space(&channel).is_some_and(|it| it.history.is_some()) {
                self.grew(&channel, n);
            }
            return self.met("published");
        };
        let fits = match &said {
            Some(Said::Error(of)) => *of == code,
            Some(_) => self.plan.lossy && code == 111,
            None if space.asks_publish => {
                code == 111 && (self.asked_by(place) >= self.plan.hook_limit || self.plan.lossy)
            }
            None => {
                let denied = code == 103 && !inside.map_or(may(true) && may(false), may);
                denied || self.plan.lossy && code == 111
            }
        };
        assert!(fits, "error {code} to a publication in {channel}, the backend said {said:?}");
        self.pubs[n].fate = Fate::Not;
        self.met("publication refused");
    }

    fn rpc(&mut self, place: usize, cmd: &Cmd, value: &Value, error: Option<u64>) {
        match (self.said(cmd), error) {
            (Some(Said::Yes { data, .. }), None) => {
                assert_eq!(value["rpc"]["data"], data, "{value}");
                self.met("called");
            }
            (Some(Said::Error(of)), Some(code)) => assert_eq!(of, code),
            (None, Some(108)) => assert!(!self.plan.rpc, "{value}"),
            (None, Some(111)) => assert!(self.asked_by(place) >= self.plan.hook_limit, "{value}"),
            (said, _) => panic!("{value}: the backend said {said:?}"),
        }
    }
}
