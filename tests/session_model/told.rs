//! What a client hears unasked: what the server API and time have done.

use serde_json::{Value, json};

use super::conn::Phase;
use super::hear::Begun;
use super::plan::{GRACE, Wish};
use super::run::{Does, Run};

impl Run {
    pub fn push(&mut self, place: usize, push: &Value) {
        let conn = &self.conns[place];
        if let Some(end) = push.get("disconnect").filter(|_| !conn.way.is_plain()) {
            let code = end["code"].as_u64().expect("a code") as u16;
            let reason = end["reason"].as_str().unwrap_or("").to_owned();
            return self.closed(place, code, &reason);
        }
        assert!(conn.is_open(), "a push before the connect reply: {push}");
        let channel = match push["id"].as_u64() {
            Some(id) => {
                let of = conn.subs.iter().find(|(_, sub)| sub.id == id);
                of.unwrap_or_else(|| panic!("no such channel: {push}")).0.clone()
            }
            None => push["channel"].as_str().unwrap_or("").to_owned(),
        };
        let mut body = push.as_object().expect("an object").iter();
        let (kind, body) = body.find(|(key, _)| *key != "id" && *key != "channel").expect("one");
        match kind.as_str() {
            "pub" => self.publication(place, &channel, body, false),
            "join" | "leave" => self.came_or_went(place, &channel, kind == "join", body),
            "unsubscribe" => self.unsubscribed(place, &channel, body),
            "subscribe" => self.server_subscribed(place, &channel, body),
            "refresh" => self.server_refreshed(place, body),
            _ => panic!("unexpected {push}"),
        }
    }

    fn unsubscribed(&mut self, place: usize, channel: &str, why: &Value) {
        let (now, step) = (self.now(), self.step);
        let sub = self.sub(place, channel).clone();
        let reason = why["reason"].as_str().unwrap_or("").to_owned();
        match why["code"].as_u64().expect("a code") {
            2501 if sub.by_backend => {
                let ending = sub.ending || self.conns[place].vague;
                assert!(ending && !sub.server_side, "{channel}: {why}");
            }
            2501 => {
                let due = Self::ms_of(sub.expire_at + GRACE);
                assert!(sub.expire_at > 0 && now >= due, "{channel} ended at {now}, not {due}");
                assert!(!sub.server_side, "{channel}: {why}");
                self.met("subscription expired");
            }
            2500 => {
                let lost = self.plan.lossy && sub.mode.positioned && !sub.server_side;
                assert!(lost, "{channel}: {why}");
                self.met("lost");
            }
            2000 => {
                let number: usize = reason[1..].parse().expect("a number");
                self.shows_order(place, channel, number);
                let order = &self.orders[number];
                let Does::Unsubscribe { channel: of } = &order.does else { panic!("{why}") };
                assert!(of.as_ref().is_none_or(|of| of == channel), "{channel}: {why}");
                let late = order.connecting.contains(&place);
                let begun_later = order.done_at.is_some_and(|at| sub.born > at);
                assert!(!begun_later || late, "an order ended what began later: {channel}");
                self.met("unsubscribed by API");
                if sub.doom.contains(&number) && sub.established + 60 > step && !sub.server_side {
                    self.met("revoked");
                }
            }
            code => panic!("code {code}"),
        }
        if sub.ending {
            self.met("subscription ended by the backend");
        }
        self.end_sub(place, channel);
    }

    /// Something that an order does shows in a connection, once.
    fn shows_order(&mut self, place: usize, channel: &str, number: usize) {
        let conn = &self.conns[place];
        let order = &mut self.orders[number];
        assert!(order.user == conn.user, "an order about another user");
        assert!(order.client.as_ref().is_none_or(|it| *it == conn.name), "another connection");
        assert!(!order.spare.contains(&conn.name), "a connection was not spared");
        let shown = (place, channel.to_owned());
        assert!(!order.shown.contains(&shown), "order {number} shows twice in {channel}");
        order.shown.push(shown);
    }

    fn server_subscribed(&mut self, place: usize, channel: &str, body: &Value) {
        let number = body["data"]["o"].as_u64().expect("an order's") as usize;
        self.shows_order(place, channel, number);
        let order = &self.orders[number];
        let Does::Subscribe { channel: of, expire_at, info } = order.does.clone() else {
            panic!("{body}")
        };
        assert_eq!(of, channel);
        let given = order.given;
        let conn = &self.conns[place];
        assert!(!conn.subs.contains_key(channel), "subscribed twice: {channel}");
        let space = self.plan.space(channel).expect("a namespace");
        let mode = space.mode(&conn.user, Wish::default());
        let mut result = body.clone();
        if space.auto_cache && mode.recoverable {
            result["was_recovering"] = json!(true);
        }
        let by_backend = space.asks_refresh;
        if expire_at > 0 && !by_backend {
            // The push does not say it.
            (result["expires"], result["ttl"]) =
                (json!(true), json!((expire_at - self.unix()).max(1)));
        }
        let born = given;
        self.met("subscribed by API");
        self.begin_sub(
            place,
            Begun {
                channel: channel.to_owned(),
                mode,
                delta: false,
                filter: false,
                compact: false,
                server_side: true,
                by_token: false,
                expire_at,
                info,
                since: None,
                born,
                doom: Vec::new(),
            },
            &result,
        );
        if space_is_cache(self, channel) {
            let sub = self.sub(place, channel);
            (sub.next, sub.behind) = (None, true);
        }
    }

    /// A refresh push says how long a connection lasts, and names no order: any that fits may have
    /// made it.
    fn server_refreshed(&mut self, place: usize, body: &Value) {
        let fit: Vec<_> = (0..self.orders.len()).filter(|n| self.fits(place, body, *n)).collect();
        let mut heard = Vec::new();
        for before in &self.conns[place].heard {
            for number in fit.iter().filter(|it| !before.contains(it)) {
                // One thing after the other, and one that reads late hears of all in their order.
                if self.plan.calm && before.last().is_some_and(|last| last > number) {
                    continue;
                }
                let mut now = before.clone();
                now.sort();
                now.push(*number);
                if !heard.contains(&now) {
                    heard.push(now);
                }
            }
        }
        assert!(!heard.is_empty(), "no order to refresh: {body}, {}", self.conns[place]);
        if heard.len() > 1 {
            self.met("refreshed by one of several orders");
        }
        let sure = self.expires_at(place, &self.ends_of(&heard));
        let last = *heard[0].last().expect("one");
        let Does::Refresh { info, .. } = self.orders[last].does.clone() else { return };
        let conn = &mut self.conns[place];
        (conn.heard, conn.by_order) = (heard, sure);
        conn.info = if info.is_null() { conn.info.take() } else { info };
        self.met("refreshed by API");
    }

    /// When a connection expires that has heard of these orders, or of those.
    fn ends_of(&self, heard: &[Vec<usize>]) -> Vec<i64> {
        let end = |last: &usize| match self.orders[*last].does {
            Does::Refresh { expire_at, .. } => expire_at,
            _ => unreachable!("an order to refresh"),
        };
        let mut ends: Vec<_> = heard.iter().filter_map(|it| it.last()).map(end).collect();
        ends.sort();
        ends.dedup();
        ends
    }

    /// Whether a connection may be told this by that order.
    fn fits(&self, place: usize, body: &Value, number: usize) -> bool {
        let (conn, order) = (&self.conns[place], &self.orders[number]);
        let Does::Refresh { expired: false, expire_at, .. } = order.does else { return false };
        let mine = order.user == conn.user
            && order.client.as_ref().is_none_or(|it| *it == conn.name)
            && !order.spare.contains(&conn.name);
        // What was done by the last rest had shown by then, but where they connected.
        let waited = order.connecting.contains(&place) && conn.connected > self.rested;
        let over = match order.done_at {
            Some(at) if conn.lags || waited => at < conn.opened,
            Some(at) => at <= self.rested,
            None => false,
        };
        let ttl = body["ttl"].as_i64().unwrap_or(0);
        let (least, most) = self.ttls(place, expire_at);
        // One that reads late was told at some time since the order was given.
        let most = if conn.lags { (expire_at - order.given_at).max(1) } else { most };
        let told = body["expires"].as_bool().unwrap_or(false) == (expire_at > 0);
        let near = if expire_at > 0 { (least..=most).contains(&ttl) } else { ttl == 0 };
        mine && !over && told && near
    }

    /// All has come that these connections had to hear of orders to refresh.
    pub fn refreshed_all(&mut self, owed: &[(usize, usize)], blind: &[usize]) {
        for place in 0..self.conns.len() {
            let conn = &self.conns[place];
            if blind.contains(&place) || conn.is_closed() || conn.phase == Phase::Failed {
                continue;
            }
            let mut must = owed.iter().filter(|(of, _)| *of == place).map(|(_, number)| number);
            let mut heard = conn.heard.clone();
            heard.retain(|it| must.clone().all(|number| it.contains(number)));
            assert!(
                !heard.is_empty(),
                "{place} has not heard of all of {:?}: {:?}, {conn}",
                must.by_ref().collect::<Vec<_>>(),
                conn.heard
            );
            let ends = self.ends_of(&heard);
            let conn = &mut self.conns[place];
            if conn.by_order {
                conn.expires = ends;
            }
            (conn.heard, conn.by_order) = (vec![Vec::new()], false);
        }
    }
}

fn space_is_cache(run: &Run, channel: &str) -> bool {
    run.plan.space(channel).is_some_and(|space| space.auto_cache)
}
