//! What a client hears: every reply must fit its command, every push a subscription.

use std::time::Duration;

use serde_json::Value;

use super::acts::{due, some_of};
use super::{Asked, Life, Outcome, Over, Way};
use crate::backend::REFUSED;
use crate::element::{Body, Connected, Granted, What};
use crate::link::Transport;
use crate::sub::{Known, Sub};
use crate::support::gateway::unix;
use crate::truth::Kind;
use crate::world::{Action, World};

impl Life<'_> {
    pub(super) fn reply(
        &mut self,
        world: &World,
        asked: Asked,
        body: Body,
    ) -> Outcome<Option<Over>> {
        let counts = world.counts();
        match (asked, body) {
            (Asked::Connect, Body::Connect(connected)) => self.connected(world, connected)?,
            (Asked::Connect, Body::Error(code)) => {
                let excused = match self.way {
                    Way::Backend => spoiled(code),
                    Way::Token => code == 109 && self.is_past(),
                };
                if !excused {
                    return Err(format!("error {code} to connect by {:?}", self.way));
                }
                counts.spoiled.one();
                return Ok(Some(Over::Remembers));
            }
            (Asked::Subscribe(channel, since), Body::Subscribe(granted)) => {
                self.granted(world, channel, since, granted)?;
            }
            (Asked::Subscribe(channel, since), Body::Error(code)) => {
                let sub = self.subs.remove(&channel).ok_or("an error to nothing")?;
                if let Some(since) = since {
                    self.seat.known.insert(channel, since);
                }
                let past = sub.expire_at > 0 && unix() >= sub.expire_at;
                let excused = match world.truth.borrow().channels[channel].kind {
                    Kind::Ask => spoiled(code),
                    Kind::Private => code == 109 && past,
                    _ => false,
                };
                if !excused {
                    return Err(format!("error {code} to subscribe to channel {channel}"));
                }
                counts.spoiled.one();
            }
            (Asked::Unsubscribe(channel), Body::Unsubscribe) => {
                self.forget(world, channel);
                // In a while it comes back.
            }
            (Asked::Publish(channel, number), Body::Publish) => {
                counts.published_by_clients.one();
                world.truth.borrow_mut().accepted(channel, number, None)?;
            }
            (Asked::Publish(channel, number), Body::Error(code)) => {
                let mut truth = world.truth.borrow_mut();
                let left = code == 103 && !self.subs.contains_key(&channel);
                let asks = truth.channels[channel].kind == Kind::Ask;
                let excused = left || asks && spoiled(code);
                if !excused {
                    return Err(format!("error {code} to publish in channel {channel}"));
                }
                counts.publish_refused.one();
                truth.refused(channel, number)?;
            }
            (Asked::Presence(channel), Body::Presence(clients)) => {
                counts.presences.one();
                let here = self.subs.get(&channel).is_some_and(|sub| sub.live && !sub.leaving);
                let me = self.client.as_ref().ok_or("presence before connect")?;
                if here && !clients.contains(me) {
                    return Err(format!("not present in channel {channel}: {clients:?}"));
                }
            }
            (Asked::Presence(channel), Body::Error(103)) if !self.subs.contains_key(&channel) => {}
            (Asked::History(channel, since, top), Body::History(history)) => {
                counts.histories.one();
                self.history(world, channel, since, top, history)?;
            }
            (Asked::History(channel, ..), Body::Error(103))
                if !self.subs.contains_key(&channel) => {}
            (Asked::Rpc(data), Body::Rpc(answer)) => {
                counts.rpcs.one();
                if serde_json::from_slice::<Value>(&answer).ok().as_ref() != Some(&data) {
                    let answer = String::from_utf8_lossy(&answer);
                    return Err(format!("rpc: {answer} to {data}"));
                }
            }
            (Asked::Rpc(_), Body::Error(code)) if spoiled(code) => counts.spoiled.one(),
            (Asked::Refresh(until), Body::Refresh(expires, ttl)) => {
                counts.refreshed.one();
                self.expire_at = until;
                if !expires || ttl == 0 {
                    return Err("a refreshed connection does not expire".to_owned());
                }
                self.plan_refresh(world, ttl);
            }
            (Asked::SubRefresh(channel, until), Body::SubRefresh(expires, ttl)) => {
                counts.sub_refreshed.one();
                if let Some(sub) = self.subs.get_mut(&channel) {
                    sub.expire_at = until;
                    let refreshes = self.seat.dice.chance(850);
                    sub.refresh_at = refreshes.then(|| due(&mut self.seat.dice, ttl));
                }
                if !expires || ttl == 0 {
                    return Err("a refreshed subscription does not expire".to_owned());
                }
            }
            (Asked::SubRefresh(channel, _), Body::Error(103))
                if !self.subs.contains_key(&channel) => {}
            (Asked::Room, Body::Subscribe(_) | Body::Unsubscribe) => {}
            (asked, body) => return Err(format!("{body:?} to {asked:?}")),
        }
        Ok(None)
    }

    pub(super) fn connected(&mut self, world: &World, connected: Connected) -> Outcome {
        let Connected { client, session, node, expires, ttl, subs } = connected;
        world.counts().connected.one();
        world.counts().held.one();
        self.link.emulate(session, node, world.tally.clone());
        if expires && world.plan.by_backend {
            return Err("told to refresh what the backend refreshes".to_owned());
        }
        if expires {
            // The server counted from a moment in between, and this process may have been late.
            self.expire_at = self.came + i64::from(ttl);
            self.plan_refresh(world, ttl);
        }
        self.client = Some(client.clone());
        {
            let mut views = world.seats.borrow_mut();
            let view = &mut views[self.seat.number];
            view.client = Some(client);
            view.may_be_given = self.refresh_at.is_none();
        }
        for (name, granted) in subs {
            let channel = world.truth.borrow().find(&name);
            let channel = channel.filter(|it| self.given.contains(it));
            let channel = channel.ok_or_else(|| format!("{name}: given, and not granted"))?;
            let since = self.seat.known.remove(&channel);
            self.granted(world, channel, since, granted)?;
        }
        if let Some((channel, _)) = self.subs.iter().find(|(_, sub)| !sub.live) {
            return Err(format!("granted, and not given: channel {channel}"));
        }
        let count = 1 + self.seat.dice.below(4);
        let mut wanted: Vec<usize> = Vec::new();
        for _ in 0..count {
            let kind = match self.seat.dice.below(10) {
                0..4 => Kind::Stream,
                4 | 5 => Kind::Delta,
                6 | 7 => Kind::Plain,
                8 => Kind::Ask,
                _ => Kind::Private,
            };
            wanted.extend(some_of(self.seat, kind, 1));
        }
        // Whoever remembers comes back to where it was.
        wanted.extend(self.seat.known.keys().copied());
        wanted.sort_unstable();
        wanted.dedup();
        let truth = world.truth.borrow();
        wanted.retain(|channel| !truth.channels[*channel].kind.is_server_side());
        drop(truth);
        let commands: Vec<_> =
            wanted.into_iter().map(|channel| self.subscribe(world, channel)).collect();
        if !commands.is_empty() {
            self.link.send(&commands);
        }
        Ok(())
    }

    pub(super) fn granted(
        &mut self,
        world: &World,
        channel: usize,
        since: Option<Known>,
        granted: Granted,
    ) -> Outcome {
        let sub = self.subs.get_mut(&channel).ok_or("granted, and not asked for")?;
        let (expires, ttl) = (granted.expires, granted.ttl);
        sub.granted(granted, since, &mut world.truth.borrow_mut(), world.counts())?;
        if expires {
            let refreshes = self.seat.dice.chance(700);
            sub.refresh_at = refreshes.then(|| due(&mut self.seat.dice, ttl));
        }
        let server_side = sub.server_side;
        let mut views = world.seats.borrow_mut();
        let view = &mut views[self.seat.number];
        if server_side { &mut view.server_side } else { &mut view.channels }.push(channel);
        Ok(())
    }

    /// A client-side subscription is over.
    pub(super) fn forget(&mut self, world: &World, channel: usize) -> Option<Sub> {
        let sub = self.subs.remove(&channel)?;
        if let Some(known) = sub.known() {
            self.seat.known.insert(channel, known);
        }
        let mut views = world.seats.borrow_mut();
        let view = &mut views[self.seat.number];
        view.channels.retain(|it| *it != channel);
        for order in &mut view.orders {
            order.seen |= order.action == Action::Unsubscribe(channel);
        }
        Some(sub)
    }

    pub(super) fn push(&mut self, world: &World, name: &str, what: What) -> Outcome {
        let counts = world.counts();
        let channel = world.truth.borrow().find(name);
        let channel = channel.ok_or_else(|| format!("{what:?} in {name:?}"))?;
        if let What::Subscribe(granted) = what {
            self.take_order(world, Action::Subscribe(channel))?;
            counts.subscribed_by_order.one();
            let json = self.transport != Transport::Protobuf;
            // Asked for by the server API some time ago: nothing is known to be before it.
            self.subs.insert(channel, Sub::ordered(channel, json));
            return self.granted(world, channel, None, granted);
        }
        let sub = self.subs.get_mut(&channel).filter(|sub| sub.live);
        let sub = sub.ok_or_else(|| format!("{what:?} in {name} without a subscription"))?;
        match what {
            What::Publication(publication) => {
                sub.publication(publication, &mut world.truth.borrow_mut(), counts)?;
            }
            What::Join(client) => {
                counts.joins.one();
                sub.join(client)?;
            }
            What::Leave(client) => sub.leave(&client),
            What::Unsubscribe(code) => {
                let past = sub.expire_at > 0 && unix() >= sub.expire_at;
                match code {
                    2000 => {
                        self.take_order(world, Action::Unsubscribe(channel))?;
                        counts.unsubscribed_by_order.one();
                    }
                    2500 => counts.insufficient.one(),
                    2501 if past => counts.sub_expired.one(),
                    _ => return Err(format!("unsubscribed from {name} with {code}")),
                }
                self.forget(world, channel);
            }
            other => return Err(format!("{other:?} in {name}")),
        }
        Ok(())
    }

    /// What the server did must have been ordered.
    pub(super) fn take_order(&mut self, world: &World, action: Action) -> Outcome {
        let mut views = world.seats.borrow_mut();
        let orders = &mut views[self.seat.number].orders;
        let mut ordered = false;
        for order in orders.iter_mut().filter(|order| order.action == action) {
            order.seen = true;
            ordered = true;
        }
        if ordered { Ok(()) } else { Err(format!("{action:?}, which nobody ordered")) }
    }

    pub(super) fn has_order(&self, world: &World, wanted: impl Fn(Action) -> bool) -> bool {
        let views = world.seats.borrow();
        let begun = self.begun - Duration::from_secs(2);
        let mut orders = views[self.seat.number].orders.iter();
        orders.any(|order| wanted(order.action) && order.done.is_none_or(|at| at >= begun))
    }

    pub(super) fn history(
        &self,
        world: &World,
        channel: usize,
        since: u64,
        top: u64,
        history: Granted,
    ) -> Outcome {
        let mut truth = world.truth.borrow_mut();
        let name = truth.channels[channel].name.clone();
        truth.epoch(channel, &history.epoch)?;
        if history.offset < top {
            let offset = history.offset;
            return Err(format!("{name}: history ends at {offset}, and {top} was there before"));
        }
        let mut last = None;
        for publication in history.publications {
            let place = truth.seen(channel, &publication.data, publication.offset)?;
            if last.map_or(place <= since, |last| place != last + 1) || publication.delta {
                return Err(format!("{name}: history since {since}: {place} behind {last:?}"));
            }
            last = Some(place);
        }
        if last.is_some_and(|last| last != history.offset) {
            return Err(format!("{name}: history ends at {last:?}, not {}", history.offset));
        }
        Ok(())
    }

    pub(super) fn is_past(&self) -> bool {
        self.expire_at > 0 && unix() >= self.expire_at
    }
}

/// Error replies for which the backend is to blame.
fn spoiled(code: u32) -> bool {
    code == 100 || code == REFUSED
}
