//! What must hold when all has happened that could: everything asked is answered or waits for a
//! reason, everything due has happened, and the server's tables say what clients believe.

use ringhold::gateway::letters::{Answer, Question};
use ringhold::gateway::stream::{Read, StreamOptions};
use std::time::Duration;

use super::conn::{Phase, What};
use super::plan::{GRACE, STALE_MS};
use super::run::{Does, Run};
use super::truth::Fate;

/// Deadlines are set in whole seconds from any moment.
const SLACK_MS: u64 = 1100;

impl Run {
    /// Lets all happen that can, and compares.
    pub fn rest(&mut self) {
        self.site.run();
        if self.plan.lossy {
            // What found no room is tried again, and who has lost something is told.
            for _ in 0..8 {
                self.pass(Duration::from_millis(20));
            }
        }
        self.look();
        let lags = self.conns.iter().any(|conn| conn.lags);
        let known = lags || self.drained || self.early.is_empty();
        // Or of those that left before they had it.
        let left = self.conns.iter().any(|conn| conn.is_closed() && conn.name.is_empty());
        assert!(known || left, "the backend is asked by nobody");
        if !lags {
            self.early.clear();
        }
        self.unsure_streams();
        let places = 0..self.conns.len();
        let blind: Vec<_> = places.clone().filter(|n| !self.sees_all(*n)).collect();
        for place in places {
            if !self.conns[place].is_closed() && !blind.contains(&place) {
                self.nothing_due(place);
                self.nothing_owed(place);
                self.heard_all(place);
            }
        }
        for (channel, place, uid) in std::mem::take(&mut self.released) {
            let conn = &self.conns[place];
            let stays = conn.subs.get(&channel).is_some_and(|sub| sub.uid == uid) && !conn.lags;
            assert!(!stays, "a life of {channel} has ended where {place} holds on to it: {conn}");
        }
        self.orders_done(&blind);
        if blind.is_empty() {
            self.compare();
        }
        for conn in self.conns.iter_mut().filter(|conn| conn.reads) {
            conn.lags = false;
        }
        self.rested = self.step;
        self.rested_ms = self.now();
        for stream in self.streams.values_mut() {
            (stream.removing, stream.grown) = (false, false);
        }
    }

    /// What may have been published without that anybody saw it.
    fn unsure_streams(&mut self) {
        let mut unsure = Vec::new();
        for conn in &self.conns {
            let unread = !conn.reads || conn.ended_at > self.rested;
            for cmd in conn.cmds.iter().filter(|_| unread) {
                if let What::Publish(n) = cmd.what {
                    unsure.push(self.pubs[n].channel.clone());
                }
            }
        }
        for channel in unsure {
            self.stream(&channel).unsure = true;
        }
    }

    fn sees_all(&self, place: usize) -> bool {
        self.conns[place].reads || self.conns[place].is_closed()
    }

    /// Whatever was due has happened.
    fn nothing_due(&self, place: usize) {
        let (now, conn) = (self.now(), &self.conns[place]);
        if !conn.is_open() {
            assert!(now < conn.opened_ms + STALE_MS + SLACK_MS, "{place} is stale: {conn}");
            return;
        }
        assert!(conn.fate.is_empty(), "{place} must be closed: {conn}");
        if !conn.expires.contains(&0) {
            let last = Self::ms_of(*conn.expires.iter().max().expect("one"));
            let grace = GRACE as u64 * 1000;
            if self.plan.asks_refresh {
                let asked = now < last + SLACK_MS || conn.staying.is_some() || conn.vague;
                assert!(asked, "nobody asked whether {place} may stay: {conn}");
                if let Some((_, at, _)) = conn.staying {
                    let end = (at + grace).max(last + grace) + SLACK_MS;
                    assert!(now < end, "{place} stays without an answer: {conn}");
                }
            } else {
                assert!(now < last + grace + SLACK_MS, "{place} has expired: {conn}");
            }
        }
        for (channel, sub) in &conn.subs {
            assert!(!sub.ending, "{place} in {channel}: the backend has ended it");
            if sub.expire_at == 0 {
                continue;
            }
            let end = Self::ms_of(sub.expire_at);
            if sub.by_backend {
                let asked = now < end + SLACK_MS || sub.question.is_some() || conn.vague;
                assert!(asked, "nobody asked whether {place} may stay in {channel}: {sub:?}");
            } else {
                let end = end + GRACE as u64 * 1000 + SLACK_MS;
                assert!(now < end, "{place} in {channel} has expired: {sub:?}");
            }
        }
    }

    /// Commands have their replies, or wait for the backend.
    fn nothing_owed(&self, place: usize) {
        let conn = &self.conns[place];
        let accepted = if conn.way.is_socket() { 101 } else { 200 };
        if conn.client.answer().is_none_or(|it| it.status != accepted) {
            panic!("{place} was not accepted");
        }
        if conn.phase == Phase::Failed {
            assert!(conn.cmds.is_empty(), "{place} goes on after an error: {:?}", conn.cmds);
            return;
        }
        if conn.way.is_emulated() {
            return self.nothing_owed_in_any_order(place);
        }
        let mut busy = 0;
        for (n, cmd) in conn.cmds.iter().enumerate() {
            if cmd.question.is_some_and(|it| self.questions[it].said.is_none()) {
                busy += 1;
                if conn.phase == Phase::Connecting {
                    return;
                }
                continue;
            }
            if busy >= self.plan.at_once() {
                return;
            }
            if let What::Unsubscribe(channel) = &cmd.what {
                let asked = |cmd: &super::conn::Cmd| match &cmd.what {
                    What::Subscribe(it) => it.channel == *channel && cmd.question.is_some(),
                    _ => false,
                };
                if conn.cmds[..n].iter().any(asked) {
                    return;
                }
            }
            panic!("{place} has no reply to {cmd:?}, {busy} are under way");
        }
    }

    /// The same where nobody knows in which order they came.
    fn nothing_owed_in_any_order(&self, place: usize) {
        let conn = &self.conns[place];
        if self.mail.iter().any(|(of, ..)| *of == place) {
            return;
        }
        let waits = |cmd: &super::conn::Cmd| {
            cmd.question.is_some_and(|it| self.questions[it].said.is_none())
        };
        let busy = conn.cmds.iter().filter(|cmd| waits(cmd)).count();
        let full = busy >= self.plan.at_once() || conn.phase == Phase::Connecting && busy > 0;
        for cmd in conn.cmds.iter().filter(|cmd| !full && !waits(cmd)) {
            // One that waits for a subscription keeps those that came after it.
            let unsubscribes = conn.cmds.iter().any(|it| matches!(it.what, What::Unsubscribe(_)));
            assert!(unsubscribes && busy > 0, "{place} has no reply to {cmd:?}, {busy} are asked");
        }
    }

    /// Nothing is missing of what was published while it listened.
    fn heard_all(&self, place: usize) {
        let conn = &self.conns[place];
        for (channel, sub) in &conn.subs {
            if self.plan.lossy && !sub.mode.positioned {
                continue;
            }
            let since = sub.established.max(self.rested);
            for (n, publication) in self.pubs.iter().enumerate().rev() {
                let Some(done) = publication.done else { continue };
                if done < self.rested {
                    // Publications are numbered in the order in which they were begun.
                    if publication.posted + 400 < self.rested {
                        break;
                    }
                    continue;
                }
                let wanted = publication.channel == *channel
                    && publication.fate == Fate::Out
                    && publication.posted > since
                    && (!sub.filter || publication.even);
                assert!(
                    !wanted || sub.seen.contains(&n),
                    "{place} has missed {n} in {channel}: {publication:?}"
                );
            }
        }
    }

    /// What the server API did has shown everywhere.
    fn orders_done(&mut self, blind: &[usize]) {
        let mut met = 0;
        let mut refreshes = Vec::new();
        for (number, order) in self.orders.iter_mut().enumerate() {
            let owed = std::mem::take(&mut order.owed);
            for (place, channel, since) in owed {
                let conn = &self.conns[place];
                if blind.contains(&place) {
                    order.owed.push((place, channel, since));
                    continue;
                }
                if conn.is_closed() || conn.phase == Phase::Failed {
                    continue;
                }
                let shown = order.shown.iter().any(|(of, name)| *of == place && *name == channel);
                let done = match &order.does {
                    Does::Subscribe { .. } => shown || self.plan.lossy,
                    Does::Refresh { .. } => {
                        refreshes.push((place, number));
                        true
                    }
                    _ => false,
                };
                assert!(done, "order {number} did not show in {place}: {order:?}");
                met += 1;
            }
        }
        for (place, conn) in self.conns.iter().enumerate() {
            for (channel, sub) in &conn.subs {
                let spared = blind.contains(&place) || conn.is_closed();
                assert!(
                    spared || sub.doom.is_empty(),
                    "{place} is still in {channel}: {:?}",
                    sub.doom
                );
            }
        }
        self.refreshed_all(&refreshes, blind);
        *self.covered.0.entry("orders compared").or_default() += met;
    }

    fn told(&mut self, channel: &str, question: Question) -> Answer {
        self.site.question(channel, question).expect("it is answered")
    }

    /// The server's tables say what clients believe.
    fn compare(&mut self) {
        if self.drained {
            return;
        }
        let counters = self.site.stats().counters;
        let open = self.conns.iter().filter(|conn| conn.is_open());
        let subs: usize = open.clone().map(|conn| conn.subs.len()).sum();
        let clients = open.clone().count() as u64;
        {
            assert_eq!((counters.clients, counters.subscriptions), (clients, subs as u64));
        }
        let limit = self.plan.user_limit;
        for user in super::plan::USERS {
            let count = open.clone().filter(|conn| conn.user == user).count();
            let most = if self.plan.single {
                1
            } else if limit > 0 {
                limit
            } else {
                usize::MAX
            };
            assert!(count <= most, "{count} connections of {user}");
        }
        let channels: std::collections::BTreeSet<_> =
            open.flat_map(|conn| conn.subs.keys().cloned()).collect();
        for channel in channels {
            let space = self.plan.space(&channel).expect("a namespace").clone();
            if space.presence && self.rng.one_in(3) {
                let Answer::Presence(told) = self.told(&channel, Question::Presence) else {
                    panic!("no presence");
                };
                let mut names: Vec<_> = told.iter().map(|(id, _)| id.to_string()).collect();
                names.sort();
                assert_eq!(names, self.members(&channel), "who is in {channel}");
                if self.plan.calm {
                    for (id, who) in &told {
                        self.compare_info(&channel, &id.to_string(), who);
                    }
                }
                self.met("presence compared");
            }
            if !self.plan.lossy {
                self.compare_members(&channel);
            }
            if let Some((size, ttl)) = space.history
                && self.is_listened(&channel)
            {
                let meta = if space.meta_seconds == 0 { 720 * 3600 } else { space.meta_seconds };
                let stream = StreamOptions {
                    size: size as u32,
                    ttl: Duration::from_secs(ttl),
                    meta_ttl: Duration::from_secs(meta),
                };
                let question = Question::History { stream, read: Read::default() };
                let Answer::History(told) = self.told(&channel, question) else {
                    panic!("no history");
                };
                self.shows(&channel, &told.epoch);
                let calm = self.plan.calm;
                let stream = self.stream(&channel);
                let (right, known) = (stream.unsure || stream.top == told.offset, stream.top);
                assert!(right || !calm, "{channel} is at {}, not {known}", told.offset);
                stream.soft |= stream.unsure || stream.top != told.offset;
                (stream.top, stream.unsure) = (told.offset, false);
                for (place, conn) in self.conns.iter().enumerate() {
                    let Some(sub) = conn.subs.get(&channel) else { continue };
                    let next = sub.next.filter(|_| !sub.filter && sub.mode.positioned);
                    let behind = next.is_some_and(|next| next != told.offset + 1);
                    assert!(!behind, "{place} in {channel} is not at {}: {sub:?}", told.offset);
                }
                self.met("positions compared");
            }
        }
    }

    fn compare_info(&self, channel: &str, name: &str, who: &ringhold::gateway::letters::Who) {
        let conn = self.conns.iter().find(|conn| conn.name == name).expect("it is there");
        let sub = &conn.subs[channel];
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::Null => String::new(),
            value => value.to_string(),
        };
        if conn.vague {
            // What it was told of late may have been overtaken.
            return;
        }
        let told = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let (conn_info, chan_info) = (text(&conn.info), text(&sub.info));
        assert_eq!(*who.user, *conn.user);
        assert_eq!(told(&who.conn_info), conn_info, "what is told of {name} in {channel}");
        assert_eq!(told(&who.chan_info), chan_info, "what is told of {name} in {channel}");
    }

    /// Who has heard others come and go knows who is there.
    fn compare_members(&self, channel: &str) {
        for conn in self.conns.iter().filter(|conn| conn.is_open()) {
            let Some(sub) = conn.subs.get(channel).filter(|sub| sub.mode.joins) else { continue };
            for (name, here) in &sub.members {
                let other = self.conns.iter().find(|other| other.name == *name);
                let there = other.and_then(|other| other.subs.get(channel));
                let there = there.is_some_and(|sub| sub.mode.announced);
                assert_eq!(*here, there, "{} of {name} in {channel}", conn.name);
            }
            for other in self.conns.iter().filter(|other| other.is_open()) {
                let Some(theirs) = other.subs.get(channel) else { continue };
                let later = theirs.mode.announced && theirs.born > sub.established;
                let known = sub.members.get(&other.name) == Some(&true);
                assert!(!later || known, "{} did not hear of {}", conn.name, other.name);
            }
        }
    }

    /// Everybody goes, and nothing is left.
    pub fn end(&mut self) {
        for place in 0..self.conns.len() {
            if !self.conns[place].reads {
                self.conns[place].reads = true;
                self.conns[place].client.set_reading(true);
            }
        }
        self.rest();
        // Half of the worlds end with an order to do so.
        if self.rng.one_in(4) {
            self.drained = true;
            self.site.drain();
            self.pass(Duration::from_secs(10));
            self.look();
            let open = self.conns.iter().filter(|conn| !conn.is_closed()).count();
            assert_eq!(open, 0, "connections outlive the server");
            assert!(self.site.is_ended(), "the server did not end");
            return self.met("drained");
        }
        for place in 0..self.conns.len() {
            if !self.conns[place].is_closed() {
                self.conns[place].client.leave();
                self.gone(place);
            }
        }
        self.site.run();
        (self.step, self.rested) = (self.step + 1, self.step + 1);
        for (place, ids, text) in std::mem::take(&mut self.mail) {
            self.post(place, &ids, &text);
        }
        self.site.run();
        self.hear_posts();
        assert!(self.posts.is_empty(), "posts without an answer");
        // Nobody is there whom late answers could concern.
        for index in self.thinking() {
            self.answer(index);
        }
        self.site.run();
        if self.plan.lossy {
            self.pass(Duration::from_millis(200));
        }
        let mut left = 100;
        while left > 0 && self.site.stats().counters.channels > 0 {
            self.pass(Duration::from_millis(10));
            left -= 1;
        }
        self.site.empty();
        self.met("empty");
    }
}
