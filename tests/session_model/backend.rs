//! The backend: what it is asked must be asked for a reason, and what it answers has consequences.

use bytes::Bytes;
use ringhold::gateway::channels::Override;
use ringhold::gateway::hooks::{
    ConnectReply, HookEvent, HookKind, HookRefusal, HookReply, PublishReply, RefreshReply,
    RpcReply, SubRefreshReply, SubscribeReply,
};
use ringhold::gateway::wire::{Disconnect, Error};
use serde_json::{Value, json};

use super::conn::{Cmd, Phase, What};
use super::plan::USERS;
use super::run::{About, Does, Question, Run, Said};
use super::truth::Fate;

fn raw(value: &Value) -> Bytes {
    if value.is_null() { Bytes::new() } else { value.to_string().into() }
}

fn number(data: &Bytes, name: &str) -> u64 {
    let value: Value = serde_json::from_slice(data).expect("JSON");
    value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

impl Run {
    /// Takes in what the backend was asked.
    pub fn hear_backend(&mut self) {
        let mut early = std::mem::take(&mut self.early);
        while let Some(asked) = early.pop_front().or_else(|| self.site.try_asked()) {
            self.step += 1;
            let (caller, event) = (asked.request.caller.clone(), asked.request.event.clone());
            let known = self.conns.iter().any(|conn| {
                conn.name == caller.client || conn.promised.as_ref() == Some(&caller.client)
            });
            if !known && !matches!(event, HookEvent::Connect { .. }) {
                self.early.push_back(asked);
                continue;
            }
            let by_name = |run: &Self| {
                let found = run.conns.iter().position(|conn| {
                    conn.name == caller.client || conn.promised.as_ref() == Some(&caller.client)
                });
                found.unwrap_or_else(|| panic!("nobody is called {}: {event:?}", caller.client))
            };
            let (conn, about) = match &event {
                HookEvent::Connect { data, channels, .. } => {
                    let conn = number(data, "c") as usize;
                    assert!(self.plan.asks_connect && self.conns[conn].promised.is_none());
                    self.conns[conn].promised = Some(caller.client.clone());
                    let id = self.conns[conn].cmds.first().expect("it connects").id;
                    let cmd = &self.conns[conn].cmds[0];
                    let What::Connect(connect) = &cmd.what else { panic!("no connect command") };
                    assert!(connect.token.is_none() && channels.iter().eq(connect.asked.keys()));
                    (conn, About::Command(id))
                }
                HookEvent::Subscribe { channel, data, feed: None, .. } => {
                    let (conn, id) = (by_name(self), number(data, "k"));
                    let cmd = self.conns[conn].cmd(id).expect("a command is asked about once");
                    let What::Subscribe(it) = &cmd.what else { panic!("no subscribe command") };
                    assert_eq!(it.channel, *channel);
                    (conn, About::Command(id))
                }
                HookEvent::Publish { channel, data } => {
                    let (conn, n) = (by_name(self), number(data, "n") as usize);
                    let of = |what: &What| matches!(what, What::Publish(it) if *it == n);
                    let cmd = self.conns[conn].cmds.iter().find(|cmd| of(&cmd.what));
                    let id = cmd.expect("a command is asked about once").id;
                    assert_eq!(self.pubs[n].channel, *channel);
                    (conn, About::Command(id))
                }
                HookEvent::Rpc { method, data } => {
                    assert_eq!(method, "m");
                    (by_name(self), About::Command(number(data, "k")))
                }
                HookEvent::Refresh => (by_name(self), About::Stay),
                HookEvent::SubRefresh { channel } => {
                    let conn = by_name(self);
                    let uid = self.conns[conn].subs.get(channel).map_or(0, |sub| sub.uid);
                    (conn, About::Sub(channel.clone(), uid))
                }
                other => panic!("unexpected {other:?}"),
            };
            self.note(|| {
                format!("backend asked {} about {about:?} of {conn}", self.questions.len())
            });
            if self.conns[conn].is_open() {
                assert_eq!(caller.user, self.conns[conn].user, "another user");
            }
            self.question_about(conn, &about);
            let step = self.step;
            self.questions.push(Question {
                asked: Some(asked),
                conn,
                about,
                step,
                answered: 0,
                said: None,
            });
        }
    }

    fn question_about(&mut self, place: usize, about: &About) {
        let (index, now, unix) = (self.questions.len(), self.now(), self.unix());
        let looked = self.looked_ms;
        let (asks_refresh, calm) = (self.plan.asks_refresh, self.plan.calm);
        let conn = &mut self.conns[place];
        match about {
            About::Command(id) => {
                // One that has been closed may have asked just before.
                if let Some(cmd) = conn.cmd(*id) {
                    assert!(cmd.question.is_none(), "the backend is asked twice");
                    cmd.question = Some(index);
                }
                let asked = |it: &&Question| {
                    it.conn == place && it.said.is_none() && matches!(it.about, About::Command(_))
                };
                let under_way = self.questions.iter().filter(asked).count();
                let limit = self.plan.hook_limit;
                assert!(under_way < limit, "more questions of {place} than {limit}");
                self.met("backend asked about a command");
            }
            About::Stay => {
                let due = conn.expires.iter().any(|at| *at > 0 && *at <= unix);
                // Elsewhere it may have been refreshed since.
                let late = conn.is_closed() || conn.vague || !calm;
                assert!(asks_refresh && (due || late), "asked too soon");
                if due {
                    conn.staying = Some((looked, now, index));
                }
                self.met("backend asked about a connection");
            }
            About::Sub(channel, _) => {
                let by_backend = self.plan.space(channel).is_some_and(|it| it.asks_refresh);
                let conn = &mut self.conns[place];
                if let Some(sub) = conn.subs.get_mut(channel) {
                    let due = sub.expire_at > 0 && sub.expire_at <= unix;
                    let late = conn.vague || !calm;
                    assert!(by_backend && (due || late), "asked too soon: {channel}");
                    if due {
                        sub.question = Some(index);
                    }
                }
                self.met("backend asked about a subscription");
            }
        }
    }

    /// Questions that may be answered.
    pub fn thinking(&self) -> Vec<usize> {
        let open = self.questions.iter().enumerate().filter(|(_, it)| it.asked.is_some());
        open.map(|(index, _)| index).collect()
    }

    /// The backend answers one of its questions.
    pub fn answer(&mut self, index: usize) {
        let asked = self.questions[index].asked.take().expect("it is open");
        let (place, about) = (self.questions[index].conn, self.questions[index].about.clone());
        let event = asked.request.event.clone();
        let unix = self.unix();
        let expire_at = match self.rng.below(8) {
            0..4 => 0,
            4 => unix,
            _ => unix + 1 + i64::from(self.rng.below(12)),
        };
        let mark = json!({"q": index});
        let data = if self.rng.one_in(2) { mark.clone() } else { Value::Null };
        let info = if self.rng.one_in(2) { mark } else { Value::Null };
        let (user, channels) = match &event {
            HookEvent::Connect { .. } => self.draw_identity(),
            _ => Default::default(),
        };
        let said = match (event.kind(), self.rng.below(12)) {
            (HookKind::Refresh | HookKind::SubRefresh, 0) => Said::Error(0),
            (HookKind::Refresh | HookKind::SubRefresh, _) => {
                Said::Yes { expire_at, data, info, user, channels }
            }
            (_, 0) => Said::Error(1000 + index as u64 % 900),
            (_, 1) => Said::Error(100),
            (_, 2) => Said::Close(4000 + index as u16 % 500, format!("q{index}")),
            (HookKind::Connect, 3) => Said::Nobody,
            _ => Said::Yes { expire_at, data, info, user, channels },
        };
        self.note(|| format!("backend says of {index}, {about:?} of {place}: {said:?}"));
        let result = self.result_of(&event, &said);
        self.consequences(place, &about, index, &said);
        (self.questions[index].said, self.questions[index].answered) = (Some(said), self.step);
        assert!(self.site.conclude_later(asked, result) || self.drained);
        if self.conns[place].is_closed() {
            self.met("backend answered the gone");
        }
    }

    fn draw_identity(&mut self) -> (String, Vec<String>) {
        let user = if self.rng.one_in(4) { String::new() } else { self.pick(&USERS).to_owned() };
        let count = self.rng.below(3);
        let mut channels: Vec<_> = (0..count).map(|_| self.channel()).collect();
        channels.sort();
        channels.dedup();
        (user, channels)
    }

    fn result_of(&mut self, event: &HookEvent, said: &Said) -> Result<HookReply, HookRefusal> {
        let (expire_at, data, info, user, channels) = match said {
            Said::Yes { expire_at, data, info, user, channels } => {
                (*expire_at, raw(data), raw(info), user.clone(), channels.clone())
            }
            Said::Nobody => return Ok(HookReply::Connect(None)),
            // What a connection is answered where the backend is not there, or says that it ends.
            Said::Error(0) => return HookReply::without_answer(event.kind(), self.unix()),
            Said::Error(code) => {
                let error = Error::new(*code as u32, "by the backend", false);
                return Err(HookRefusal::Error(error));
            }
            Said::Close(code, reason) => {
                return Err(HookRefusal::Disconnect(Disconnect::new(*code, reason.clone())));
            }
        };
        let some = |bytes: Bytes| Some(bytes).filter(|it| !it.is_empty());
        Ok(match event {
            HookEvent::Connect { .. } => HookReply::Connect(Some(ConnectReply {
                user,
                expire_at,
                info,
                data,
                // Nobody gets a channel twice.
                channels: channels.iter().chain(channels.first()).cloned().collect(),
                ..ConnectReply::default()
            })),
            HookEvent::Refresh => {
                let expired = false;
                HookReply::Refresh(RefreshReply {
                    expired,
                    expire_at,
                    info: some(info),
                    meta: None,
                })
            }
            HookEvent::Subscribe { .. } => HookReply::Subscribe(SubscribeReply {
                expire_at,
                info,
                data,
                overrides: Override::default(),
            }),
            HookEvent::Publish { .. } => {
                HookReply::Publish(PublishReply { data: None, ..PublishReply::default() })
            }
            HookEvent::Rpc { .. } => HookReply::Rpc(RpcReply { data }),
            HookEvent::SubRefresh { .. } => {
                let expired = false;
                HookReply::SubRefresh(SubRefreshReply { expired, expire_at, info: some(info) })
            }
        })
    }

    /// What follows at once from an answer.
    fn consequences(&mut self, place: usize, about: &About, index: usize, said: &Said) {
        let (unix, calm, step) = (self.unix(), self.plan.calm, self.step);
        let ordered = self.orders.iter().any(|order| {
            let refreshes = matches!(order.does, Does::Refresh { .. });
            refreshes && order.owed.iter().any(|(of, ..)| *of == place)
        });
        let conn = &mut self.conns[place];
        let until = match said {
            Said::Yes { expire_at, .. } => *expire_at,
            Said::Error(0) => unix + 60,
            _ => 0,
        };
        let over = until > 0 && until <= unix;
        match about {
            About::Command(id) => {
                let what = conn.cmd(*id).map(|cmd| cmd.what.clone());
                if let Some(What::Publish(n)) = what {
                    let publication = &mut self.pubs[n];
                    publication.posted = step;
                    if !matches!(said, Said::Yes { .. }) {
                        publication.fate = Fate::Not;
                    }
                }
            }
            About::Stay if conn.phase == Phase::Open => {
                let counts = conn.staying.is_some_and(|(.., of)| of == index);
                let refreshes = |cmd: &Cmd| matches!(cmd.what, What::Refresh { .. });
                let under_way = ordered || conn.cmds.iter().any(refreshes) || !counts;
                let unsure = !calm && under_way || conn.vague;
                // It may have been refreshed since it was asked about.
                if !counts && !unsure {
                    *self.covered.0.entry("answer about a time that is no more").or_default() += 1;
                    return;
                }
                if counts {
                    conn.staying = None;
                }
                if over && unsure {
                    conn.staying = Some((0, u64::MAX / 4, index));
                } else if over {
                    conn.fate.push(3005);
                } else {
                    if calm {
                        conn.expires.clear();
                    }
                    conn.expires.push(until);
                    conn.by_order = false;
                    if let Said::Yes { info, .. } = said
                        && !info.is_null()
                    {
                        conn.info = info.clone();
                    }
                }
            }
            About::Stay => {}
            About::Sub(channel, uid) => {
                let Some(sub) = conn.subs.get_mut(channel) else { return };
                // It may have begun anew meanwhile, which is another one's time.
                if sub.uid != *uid || sub.question != Some(index) {
                    return;
                }
                sub.question = None;
                sub.ending |= over;
                if !over {
                    sub.expire_at = until;
                    if let Said::Yes { info, .. } = said
                        && !info.is_null()
                    {
                        sub.info = info.clone();
                    }
                }
            }
        }
    }
}
