//! What a client hears of its channels: publications, who comes and goes, answers to questions;
//! and the end of a connection.

use ringhold::gateway::delta;
use serde_json::Value;

use super::conn::{Phase, Token, What};
use super::plan::{GRACE, STALE_MS};
use super::run::{Does, Run, Said};
use super::truth::Fate;

/// An answer about a channel's members, as its client has it.
pub enum Shown {
    Names(Vec<String>),
    Count(usize),
}

/// The same, until it is compared with what others believe.
pub struct ShownMembers {
    place: usize,
    channel: String,
    shown: Shown,
    /// The members as far as clients had read then.
    believed: Vec<String>,
}

impl Run {
    /// A publication, alone or in the reply to a subscription that recovers.
    pub fn publication(&mut self, place: usize, channel: &str, value: &Value, recovered: bool) {
        let now = self.now();
        let sub = self.sub(place, channel).clone();
        let text = match &value["data"] {
            Value::String(text) if sub.delta => {
                let patch = value["delta"].as_bool().unwrap_or(false);
                if patch {
                    self.met("patch");
                }
                match (patch, &sub.base) {
                    (true, Some(base)) => {
                        let made = delta::apply(base.as_bytes(), text.as_bytes(), 1 << 20);
                        String::from_utf8(made.expect("the patch fits")).expect("text")
                    }
                    (true, None) => panic!("a patch of nothing: {value}"),
                    (false, _) => text.clone(),
                }
            }
            data => {
                assert!(!sub.delta && value.get("delta").is_none(), "{value}");
                data.to_string()
            }
        };
        let data: Value = serde_json::from_str(&text).expect("JSON");
        let n = data["n"].as_u64().expect("a number") as usize;
        let publication = &mut self.pubs[n];
        publication.seen += 1;
        assert_eq!(publication.channel, channel, "another channel's: {value}");
        assert_eq!(publication.data, data, "{value}");
        assert!(!sub.filter || publication.even, "it was filtered out: {value}");
        assert_ne!(publication.fate, Fate::Not, "it was not published: {value}");
        let (posted, done, even) = (publication.posted, publication.done, publication.even);
        assert_eq!(value["tags"]["even"] == "1", even, "{value}");
        match publication.from {
            None => assert!(value.get("info").is_none(), "{value}"),
            Some(from) => {
                let (conn, info) = (&self.conns[from], &value["info"]);
                let same = info["client"] == conn.name && info["user"] == conn.user;
                // Its connect reply may not have been read.
                assert!(same || conn.name.is_empty(), "{value}: of another, not {}", conn.name);
            }
        }
        let offset = value["offset"].as_u64().unwrap_or(0);
        let streams = self.plan.space(channel).is_some_and(|space| space.history.is_some());
        assert_eq!(offset > 0, streams, "{value}");
        if sub.mode.positioned && streams {
            if let Some(next) = sub.next {
                assert!(offset >= next, "{value}: {next} is next");
                assert!(offset == next || sub.filter, "{value}: {next} is next");
                let same = self.stream(channel).epoch == sub.epoch;
                for between in (next..offset).filter(|_| same) {
                    let skipped = self.stream(channel).at(between);
                    assert!(skipped.is_none_or(|n| !self.pubs[n].even), "{value}: {next} is next");
                }
            }
            // One that reads late may be told of a life that is over.
            let late = self.conns[place].vague || self.stream(channel).epoch.is_empty();
            let same = self.stream(channel).epoch == sub.epoch;
            assert!(same || late, "another life: {value}");
            if same {
                self.stream(channel).place(offset, n, now);
            }
        }
        let late = done.is_some_and(|done| done < sub.youngest);
        assert!(!late, "{value} after what was published later");
        let recovered = recovered || sub.cached && sub.seen.is_empty();
        let early = !recovered && done.is_some_and(|done| done < sub.born);
        assert!(!early, "{value} is older than the subscription");
        let sub = self.sub(place, channel);
        assert!(sub.seen.insert(n), "{value} comes twice");
        sub.youngest = sub.youngest.max(posted);
        if offset > 0 {
            sub.next = sub.mode.positioned.then_some(offset + 1);
        }
        sub.base = Some(text);
        self.met("publication");
    }

    pub fn came_or_went(&mut self, place: usize, channel: &str, came: bool, body: &Value) {
        let sub = self.sub(place, channel);
        assert!(sub.mode.joins, "nobody asked who comes and goes: {body}");
        let name = body["info"]["client"].as_str().expect("a name").to_owned();
        let before = sub.members.insert(name.clone(), came);
        let lossy = self.plan.lossy;
        assert!(before != Some(came) || lossy, "{body} comes or goes twice in {channel}");
        let who = self
            .conns
            .iter()
            .find(|conn| conn.name == name || conn.promised.as_ref() == Some(&name));
        // Its connect reply may not have been read.
        let right = who.is_none_or(|it| it.name.is_empty() || it.user == body["info"]["user"]);
        assert!(right, "another user: {body}");
        self.met(if came { "join" } else { "leave" });
    }

    pub fn present(
        &mut self,
        place: usize,
        channel: &str,
        start: u64,
        value: &Value,
        error: Option<u64>,
    ) {
        if !self.sees(place, channel, start, value, error) {
            return;
        }
        let told = value["presence"]["presence"].as_object().expect("members");
        for (name, info) in told {
            let known = self.conns.iter().find(|conn| conn.name == *name);
            assert!(known.is_none_or(|conn| conn.user == info["user"]), "{value}");
        }
        let names = told.keys().cloned().collect();
        self.shows_members(place, channel, start, Shown::Names(names));
    }

    pub fn counted(
        &mut self,
        place: usize,
        channel: &str,
        start: u64,
        value: &Value,
        error: Option<u64>,
    ) {
        if !self.sees(place, channel, start, value, error) {
            return;
        }
        let told = value["presence_stats"]["num_clients"].as_u64().unwrap_or(0);
        self.shows_members(place, channel, start, Shown::Count(told as usize));
    }

    /// Whether a question about who is there was answered, which it must be or not.
    fn sees(
        &mut self,
        place: usize,
        channel: &str,
        start: u64,
        value: &Value,
        error: Option<u64>,
    ) -> bool {
        let conn = &self.conns[place];
        let inside = conn.inside(channel, start);
        let space = self.plan.space(channel).expect("a namespace");
        let may = |inside| space.may_see(&conn.user, inside);
        let fits = match error {
            None => space.presence && inside.map_or(may(true), may),
            Some(108) => !space.presence,
            Some(103) => space.presence && !inside.map_or(may(false), may),
            // Too much for the outbox.
            Some(106) => self.plan.outbox_bytes < 100_000,
            Some(_) => false,
        };
        assert!(fits, "{value}: {channel}, inside {inside:?}");
        error.is_none()
    }

    /// An answer that nothing overtakes shows what all clients believe, but for those who go just
    /// now, of whom it is not read yet: it is compared when all was read.
    fn shows_members(&mut self, place: usize, channel: &str, start: u64, shown: Shown) {
        let alone = self.in_order(place) && start > self.rested;
        if self.is_exact(place) && alone && self.conns.iter().all(|it| !it.lags) {
            let channel = channel.to_owned();
            let believed = self.members(&channel);
            self.shown.push(ShownMembers { place, channel, shown, believed });
        }
    }

    /// All was read that came together.
    pub fn compare_shown(&mut self) {
        for ShownMembers { place, channel, shown, believed } in std::mem::take(&mut self.shown) {
            // Whoever was there until it went may be there or not, each by itself. Of itself the
            // one that asked has heard all in order.
            let others = || self.conns.iter().enumerate().filter(|(other, _)| *other != place);
            let gone = || others().map(|(_, it)| it).filter(|it| it.ended_at > self.rested);
            let was = |it: &&super::conn::Conn| {
                it.was_in.contains(&channel) || believed.contains(&it.name)
            };
            let may: Vec<_> = gone().filter(was).map(|it| it.name.clone()).collect();
            let must: Vec<_> = believed.iter().filter(|it| !may.contains(it)).cloned().collect();
            // Nor did those learn what they are called who went before their connect reply came.
            let nameless = gone().filter(|it| it.name.is_empty()).count();
            match &shown {
                Shown::Names(names) => {
                    let more = names.iter().filter(|it| !must.contains(it) && !may.contains(it));
                    let all = must.iter().all(|it| names.contains(it));
                    assert!(
                        all && more.count() <= nameless,
                        "{channel} shows {names:?}, and not {must:?}, perhaps {may:?}"
                    );
                }
                Shown::Count(count) => {
                    let most = must.len() + may.len() + nameless;
                    let right = (must.len()..=most).contains(count);
                    assert!(right, "{channel} shows {count}, and not {must:?}, perhaps {may:?}");
                }
            }
            self.met("presence compared");
            if !may.is_empty() {
                self.met("presence compared beside an end");
            }
        }
    }

    /// The names of those who are in a channel, as far as they are shown.
    pub fn members(&self, channel: &str) -> Vec<String> {
        let shown = |it: &super::conn::Sub| it.mode.present;
        let there = |conn: &&super::conn::Conn| conn.subs.get(channel).is_some_and(shown);
        let mut names: Vec<_> =
            self.conns.iter().filter(there).map(|conn| conn.name.clone()).collect();
        names.sort();
        names
    }

    pub fn history(
        &mut self,
        place: usize,
        (channel, limit, since, reverse): (&str, i64, Option<&(u64, String)>, bool),
        start: u64,
        value: &Value,
        error: Option<u64>,
    ) {
        let conn = &self.conns[place];
        let inside = conn.inside(channel, start);
        let space = self.plan.space(channel).expect("a namespace");
        let may = |inside| space.may_read(&conn.user, inside);
        let has = space.history.is_some();
        let known = self.streams.get(channel).map_or("", |it| it.epoch.as_str());
        let fits = match error {
            None => has && inside.map_or(may(true), may),
            Some(108) => !has,
            Some(103) => has && !inside.map_or(may(false), may),
            Some(112) => {
                has && since.is_some_and(|(_, epoch)| epoch != known) || !self.is_exact(place)
            }
            Some(107) => reverse && since.is_some_and(|(offset, _)| *offset == 0),
            Some(_) => false,
        };
        assert!(fits, "{value}: {channel}, inside {inside:?}");
        if error.is_some() {
            return;
        }
        let result = &value["history"];
        let epoch = result["epoch"].as_str().expect("an epoch").to_owned();
        let top = result["offset"].as_u64().expect("a top");
        let calm = self.is_exact(place) && start > self.rested;
        if self.conns[place].lags {
            return;
        }
        self.shows(channel, &epoch);
        let now = self.now();
        if calm && !self.stream(channel).unsure && !self.stream(channel).grown {
            assert_eq!(top, self.stream(channel).top, "{value}");
        }
        let publications = result["publications"].as_array().expect("publications");
        assert!(limit != 0 || publications.is_empty(), "{value}");
        assert!(limit < 0 || publications.len() as i64 <= limit, "{value}");
        let mut last = None;
        for publication in publications {
            let offset = publication["offset"].as_u64().expect("an offset");
            let n = publication["data"]["n"].as_u64().expect("a number") as usize;
            assert_eq!(self.pubs[n].channel, channel);
            assert_eq!(publication["data"], self.pubs[n].data, "{value}");
            let follows = |last: u64| if reverse { offset + 1 == last } else { offset == last + 1 };
            assert!(last.is_none_or(follows) && offset <= top, "{value}");
            last = Some(offset);
            self.stream(channel).place(offset, n, now);
        }
        self.met("history read");
    }

    /// Who a connection is, or will be when its connect reply is read.
    fn user_of(&self, conn: &super::conn::Conn) -> String {
        let Some(cmd) = conn.cmds.first().filter(|_| conn.name.is_empty() && conn.user.is_empty())
        else {
            return conn.user.clone();
        };
        let said = cmd.question.and_then(|it| self.questions[it].said.as_ref());
        match (&cmd.what, said) {
            (_, Some(Said::Yes { user, .. })) => user.clone(),
            (What::Connect(it), None) if it.token.is_some() => it.user.clone(),
            _ => String::new(),
        }
    }

    /// Whether a one-way client is closed with this code instead of an error.
    fn has_failed(&self, conn: &super::conn::Conn, code: u16) -> bool {
        let Some(cmd) = conn.cmds.first() else { return false };
        let What::Connect(it) = &cmd.what else { return false };
        let unix = self.unix();
        let over = |at: i64| at > 0 && at <= unix;
        match (cmd.question.and_then(|it| self.questions[it].said.as_ref()), it.token) {
            (Some(Said::Error(_)), None) => code == 3004,
            (Some(Said::Yes { expire_at, .. }), None) => code == 3005 && over(*expire_at),
            (None, Some(Token::Expired)) => code == 3005,
            (None, Some(Token::Good)) => code == 3005 && over(it.expire_at),
            _ => false,
        }
    }

    /// The server has closed a connection: there must be a reason.
    pub fn closed(&mut self, place: usize, code: u16, reason: &str) {
        self.step += 1;
        self.note(|| format!("{place} is closed with {code} {reason}"));
        assert!(!self.conns[place].is_closed(), "closed twice");
        let (now, unix) = (self.now(), self.unix());
        let conn = &self.conns[place];
        let over = |at: i64| at > 0 && at <= unix;
        let cmd = |fits: &dyn Fn(&What) -> bool| conn.cmds.iter().any(|cmd| fits(&cmd.what));
        let bad = cmd(&|what| matches!(what, What::Bad(of) if *of == code));
        let ordered = |fits: &dyn Fn(&Does) -> bool| {
            let mine = |order: &&super::run::Order| {
                order.user == conn.user
                    && order.client.as_ref().is_none_or(|it| *it == conn.name)
                    && !order.spare.contains(&conn.name)
            };
            self.orders.iter().filter(mine).any(|order| fits(&order.does))
        };
        let seats = self.plan.user_limit;
        let user = self.user_of(conn);
        let rival = |other: &super::conn::Conn| self.user_of(other) == user;
        let by_backend = |what: &What| match what {
            What::Refresh { .. } => self.plan.asks_refresh,
            What::SubRefresh { channel, .. } => self.plan.by_backend(channel),
            _ => false,
        };
        let fits = match code {
            3004 | 3005 if conn.way.is_uni() && self.has_failed(conn, code) => true,
            3001 => self.drained,
            3005 => {
                let due = |at: &i64| *at > 0 && Self::ms_of(*at + GRACE) <= now;
                let due = conn.expires.iter().any(due);
                let silent = conn.staying.is_some_and(|(asked, ..)| asked + 5000 <= now);
                let refresh = |what: &What| match what {
                    What::Refresh { token, expire_at, .. } if !self.plan.asks_refresh => {
                        *token == Token::Expired || over(*expire_at)
                    }
                    _ => false,
                };
                let order = |does: &Does| match does {
                    Does::Refresh { expired, expire_at, .. } => *expired || over(*expire_at),
                    _ => false,
                };
                let unsure = (!self.plan.calm || conn.vague) && self.plan.asks_refresh;
                unsure
                    || due && (!self.plan.asks_refresh || silent)
                    || conn.fate.contains(&code)
                    || cmd(&refresh)
                    || ordered(&order)
            }
            3006 => {
                let ends = |sub: &super::conn::Sub| {
                    let due = Self::ms_of(sub.expire_at + GRACE) <= now && sub.expire_at > 0;
                    sub.server_side && if sub.by_backend { sub.ending || conn.vague } else { due }
                };
                let refresh = |what: &What| match what {
                    What::SubRefresh { channel, token, expire_at, .. } => {
                        let by_token = !self.plan.by_backend(channel);
                        by_token && (*token == Token::Expired || over(*expire_at))
                    }
                    _ => false,
                };
                conn.subs.values().any(ends) || cmd(&refresh)
            }
            3010 => {
                cmd(&|what| matches!(what, What::Refresh { .. }) && !self.plan.asks_refresh)
                    || self.plan.lossy && conn.subs.values().any(|sub| sub.server_side)
            }
            3500 => cmd(&|what| match what {
                What::Connect(it) => it.token == Some(Token::Foreign),
                What::Subscribe(it) => it.token == Some(Token::Others),
                What::Refresh { token, .. } | What::SubRefresh { token, .. } => {
                    matches!(token, Token::Foreign | Token::Others) && !by_backend(what)
                }
                _ => false,
            }),
            3501 => {
                let nobody = |what: &What| {
                    matches!(what, What::Connect(it) if it.token.is_none()) && !self.plan.anonymous
                };
                let said = |cmd: &super::conn::Cmd| {
                    cmd.question.is_none_or(|it| self.questions[it].said == Some(Said::Nobody))
                };
                if cmd(&by_backend) {
                    self.met("closed: it is the backend's to say");
                    return self.gone(place);
                }
                let first = |what: &What| !matches!(what, What::Connect(_));
                let first = !conn.is_open() && conn.cmds.first().is_some_and(|it| first(&it.what));
                bad || first
                    || conn.phase == Phase::Failed && !conn.cmds.is_empty()
                    || conn.cmds.first().is_some_and(|cmd| nobody(&cmd.what) && said(cmd))
            }
            3502 => !conn.is_open() && conn.opened_ms + STALE_MS <= now,
            3504 => {
                let others = self.conns.iter().enumerate().filter(|(other, it)| {
                    let here = !it.is_closed() && it.phase != Phase::Fresh;
                    *other != place && rival(it) && (here || it.ended_at > self.rested)
                });
                let others = others.count();
                conn.lags || self.plan.single && others > 0 || seats > 0 && others >= seats
            }
            3505 => cmd(&|what| matches!(what, What::Connect(_))),
            3013 => {
                let full = conn.way.is_emulated() && self.plan.queue_bytes < 1000;
                full || self.plan.lossy && conn.phase == Phase::Connecting
            }
            3008 => !conn.reads || self.plan.outbox_bytes < 100_000,
            3012 => self.plan.ping_seconds > 0 && (!conn.reads || conn.unheard),
            4000..=4499 => {
                let question = reason.strip_prefix('q').expect("a question's");
                let question = &self.questions[question.parse::<usize>().expect("a number")];
                question.conn == place
                    && question.said == Some(Said::Close(code, reason.to_owned()))
            }
            4500..=4999 => {
                let order: usize = reason[1..].parse().expect("a number");
                let order = &self.orders[order];
                order.user == user
                    && order.client.as_ref().is_none_or(|it| *it == conn.name)
                    && !order.spare.contains(&conn.name)
                    && matches!(order.does, Does::Disconnect)
            }
            _ => bad,
        };
        assert!(fits, "{place} is closed with {code} \"{reason}\" for no reason: {conn}");
        self.met(match code {
            3001 => "closed: shutdown",
            3005 => "closed: expired",
            3006 => "closed: subscription expired",
            3010 => "closed: other channels",
            3500 => "closed: token",
            3501 => "closed: bad request",
            3502 => "closed: stale",
            3504 => "closed: no seat",
            3505 => "closed: too many channels",
            3008 => "closed: slow",
            3012 => "closed: no pong",
            4000..=4499 => "closed: by the backend",
            4500..=4999 => "closed: by API",
            3013 => "closed: no room",
            _ => "closed: not available",
        });
        self.gone(place);
    }
}
