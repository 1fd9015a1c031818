//! One connection of a client, from its connect command to its end. Every reply must fit its
//! command, every push a subscription, and every end by the server must have a reason. Here are its
//! beginning and its ends; `acts` is what it does in between, `hearing` what it is told.

mod acts;
mod hearing;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep_until;

use acts::{connect_command, some_of};

use super::backend::SENT_AWAY;
use super::element::{Element, What};
use super::link::{Event, Link, Transport};
use super::seat::Seat;
use super::sub::{Known, Sub};
use super::truth::Kind;
use super::world::{Action, Phase, World};
use crate::support::gateway::unix;

/// How a life ended well.
#[derive(Debug)]
pub(crate) enum Over {
    /// Its successor may recover.
    Remembers,
    Forgets,
}

/// What a command was about.
#[derive(Debug)]
enum Asked {
    Connect,
    Subscribe(usize, Option<Known>),
    Unsubscribe(usize),
    /// Channel and number.
    Publish(usize, usize),
    Presence(usize),
    /// With the top at that time.
    History(usize, u64, u64),
    Rpc(Value),
    /// Until when the token is good.
    Refresh(i64),
    SubRefresh(usize, i64),
    Room,
}

/// Who says who the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Token,
    Backend,
}

pub(crate) struct Life<'a> {
    seat: &'a mut Seat,
    link: Link,
    transport: Transport,
    way: Way,
    begun: Instant,
    /// Unix time in seconds before its connect command left.
    came: i64,
    asked: HashMap<u32, (Asked, Instant)>,
    id: u32,
    subs: BTreeMap<usize, Sub>,
    client: Option<String>,
    /// Server-side channels that it must be given.
    given: Vec<usize>,
    /// Unix time in seconds at which its token, as the server knows it, ends; 0 is never.
    expire_at: i64,
    refresh_at: Option<Instant>,
    /// It does not read until then.
    stalls: Option<Instant>,
    has_stalled: bool,
    close_code: Option<u16>,
    room: Option<String>,
}

type Outcome<T = ()> = Result<T, String>;

impl<'a> Life<'a> {
    pub(crate) async fn live(seat: &'a mut Seat, transport: Transport) -> Outcome<Over> {
        let world = seat.world.clone();
        let given = match seat.dice.chance(300) {
            true => some_of(seat, Kind::Given, 2),
            false => Vec::new(),
        };
        let way = if seat.dice.chance(400) { Way::Backend } else { Way::Token };
        let expires = seat.dice.chance(500);
        let (connect, expire_at) = connect_command(seat, way, expires, &given);
        let came = unix();
        let link = Link::open(world.address, transport, &connect).await;
        let link = link.map_err(|error| format!("connect: {error}"))?;
        let asked = HashMap::from([(1, (Asked::Connect, Instant::now()))]);
        let mut life = Life {
            seat,
            link,
            transport,
            way,
            begun: Instant::now(),
            came,
            asked,
            id: 1,
            subs: BTreeMap::new(),
            client: None,
            given,
            expire_at,
            refresh_at: None,
            stalls: None,
            has_stalled: false,
            close_code: None,
            room: None,
        };
        for channel in life.given.clone() {
            let json = transport != Transport::Protobuf;
            let mut sub = Sub::asked(channel, json, &world.truth.borrow());
            sub.server_side = true;
            life.subs.insert(channel, sub);
        }
        life.run(&world).await
    }

    async fn run(mut self, world: &World) -> Outcome<Over> {
        let life = self.seat.dice.unit();
        let life = (-(1.0 - life).ln() * world.plan.life).min(4.0 * world.plan.life);
        let end = self.begun + Duration::from_secs_f64(life);
        let (mut next, mut leaving) = (Instant::now(), None);
        let mut phase = world.phase.clone();
        let tick = if world.plan.is_long { 2000 } else { 250 };
        loop {
            let now = Instant::now();
            let running = world.phase() == Phase::Run;
            let mut wake = now + Duration::from_millis(tick);
            if running && self.client.is_some() {
                wake = wake.min(end).min(next);
            }
            if let Some(until) = self.stalls {
                let stop = phase.wait_for(|phase| *phase != Phase::Run);
                let _ = tokio::time::timeout_at(until.into(), stop).await;
                self.stalls = None;
                // What passed while it slept is not the server's delay.
                self.asked.values_mut().for_each(|(_, since)| *since = Instant::now());
                continue;
            }
            tokio::select! {
                () = self.link.turn() => {}
                () = sleep_until(wake.into()) => {}
                _ = phase.changed() => {}
            }
            while let Some(event) = self.link.next() {
                if let Some(over) = self.event(world, event)? {
                    return self.remember(over);
                }
            }
            let now = Instant::now();
            self.watch(world, now)?;
            if self.client.is_none() {
                continue;
            }
            self.refresh(world, now);
            match world.phase() {
                Phase::Run if now >= end => return self.leave(world).await,
                Phase::Run if now >= next => {
                    self.act(world);
                    let mean = world.plan.pause;
                    next = Instant::now() + self.seat.dice.between((0.0, 2.0 * mean));
                }
                Phase::Leave if self.is_settled(world) => return self.leave(world).await,
                Phase::Leave if now > *leaving.get_or_insert(now + LATE) => {
                    return Err(self.missing(world));
                }
                _ => {}
            }
        }
    }

    /// Keeps what its successor may recover from.
    fn remember(&mut self, over: Over) -> Outcome<Over> {
        let subs = std::mem::take(&mut self.subs);
        self.seat.known.extend(subs.into_iter().filter_map(|(at, sub)| Some((at, sub.known()?))));
        Ok(over)
    }

    fn event(&mut self, world: &World, event: Event) -> Outcome<Option<Over>> {
        match event {
            Event::Element(Element::Ping) => {
                self.link.send(&[json!({})]);
                Ok(None)
            }
            Event::Element(Element::Reply(id, body)) => {
                let asked = self.asked.remove(&id);
                let (asked, _) = asked.ok_or_else(|| format!("a reply to nothing: {body:?}"))?;
                self.reply(world, asked, body)
            }
            Event::Element(Element::Push(channel, What::Disconnect(code)))
                if channel.is_empty() =>
            {
                self.close_code = Some(code as u16);
                Ok(None)
            }
            Event::Element(Element::Push(channel, What::Refresh)) if channel.is_empty() => {
                match self.has_order(world, |action| action == Action::Refresh) {
                    true => Ok(None),
                    false => Err("refreshed, which nobody ordered".to_owned()),
                }
            }
            Event::Element(Element::Push(channel, what)) => {
                self.push(world, &channel, what)?;
                Ok(None)
            }
            Event::Close(code) => {
                self.close_code = Some(code);
                Ok(None)
            }
            Event::Broken(error) => Err(error),
            Event::End(error) => self.ended(world, error).map(Some),
        }
    }

    /// No reply and no order may take for ever.
    fn watch(&self, world: &World, now: Instant) -> Outcome {
        let late = |since: Instant| now.saturating_duration_since(since) > LATE;
        if let Some((asked, _)) = self.asked.values().find(|(_, since)| late(*since)) {
            return Err(format!("no reply to {asked:?}"));
        }
        let views = world.seats.borrow();
        let mut orders = views[self.seat.number].orders.iter();
        let ignored = orders.find(|order| {
            Some(&order.client) == self.client.as_ref()
                && order.action != Action::Refresh
                && !order.seen
                && order.done.is_some_and(late)
        });
        match ignored {
            Some(order) => Err(format!("ordered, and not done: {order:?}")),
            None => Ok(()),
        }
    }

    fn is_settled(&self, world: &World) -> bool {
        let truth = world.truth.borrow();
        let settled = self.asked.is_empty() && self.subs.values().all(|sub| sub.is_at_top(&truth));
        settled && self.link.is_written()
    }

    /// What is missing, for a client that does not settle.
    fn missing(&self, world: &World) -> String {
        let truth = world.truth.borrow();
        let behind = self.subs.values().filter(|sub| !sub.is_at_top(&truth));
        let behind: Vec<_> = behind
            .map(|sub| {
                let of = &truth.channels[sub.channel];
                format!("{} at {:?} of {}, live: {}", of.name, sub.position, of.top, sub.live)
            })
            .collect();
        format!("missing: {behind:?}, replies to {:?}", self.asked)
    }

    /// The server ended the connection: is there a reason?
    fn ended(&mut self, world: &World, error: Option<String>) -> Outcome<Over> {
        let counts = world.counts();
        let stalled = self.has_stalled || world.is_lagging();
        match self.close_code {
            Some(3005) => {
                let backend = world.seats.borrow()[self.seat.number].backend_says_over.is_some();
                let ordered = self.has_order(world, |action| action == Action::Refresh);
                if self.is_past() || ordered || world.plan.by_backend && backend {
                    counts.expired.one();
                    return Ok(Over::Remembers);
                }
            }
            // A token that was over before the server read it.
            Some(3006) => {
                let over = |asked: &Asked| match asked {
                    Asked::SubRefresh(_, until) => unix() >= *until,
                    _ => false,
                };
                if self.asked.values().any(|(asked, _)| over(asked)) {
                    counts.sub_expired.one();
                    return Ok(Over::Remembers);
                }
            }
            Some(3010) => {
                if self.has_order(world, |action| matches!(action, Action::Subscribe(_))) {
                    return Ok(Over::Remembers);
                }
                counts.insufficient.one();
                return Ok(Over::Remembers);
            }
            Some(3008 | 3009 | 3012) if stalled => {
                counts.cut_while_stalled.one();
                return Ok(Over::Remembers);
            }
            Some(SENT_AWAY_CODE) if self.way == Way::Backend && self.client.is_none() => {
                counts.spoiled.one();
                return Ok(Over::Remembers);
            }
            Some(code @ 4200..4300) => {
                let action = Action::Disconnect(u32::from(code));
                self.take_order(world, action)?;
                counts.disconnected_by_order.one();
                return Ok(Over::Remembers);
            }
            None if stalled => {
                counts.cut_while_stalled.one();
                return Ok(Over::Remembers);
            }
            _ => {}
        }
        Err(format!("ended by the server: close code {:?}, {error:?}", self.close_code))
    }

    /// Goes, in one of the ways there are.
    async fn leave(mut self, world: &World) -> Outcome<Over> {
        let counts = world.counts();
        let over = if self.seat.dice.chance(800) { Over::Remembers } else { Over::Forgets };
        match self.seat.dice.below(10) {
            0..5 if self.transport.is_websocket() => {
                counts.closes.one();
                self.link.send_close();
                let deadline = tokio::time::Instant::now() + LATE;
                loop {
                    if tokio::time::timeout_at(deadline, self.link.turn()).await.is_err() {
                        return Err("the server does not answer a close frame".to_owned());
                    }
                    while let Some(event) = self.link.next() {
                        match event {
                            // Whatever was under way.
                            Event::Element(_) => {}
                            Event::Close(code) => self.close_code = Some(code),
                            Event::Broken(error) => return Err(error),
                            Event::End(error) => {
                                if self.close_code.is_none() && !self.has_stalled {
                                    return Err(format!("no close frame: {error:?}"));
                                }
                                return self.remember(over);
                            }
                        }
                    }
                }
            }
            5 if self.transport.is_websocket() => {
                counts.half_frames.one();
                self.link.send_half();
                let _ = tokio::time::timeout(Duration::from_millis(20), self.link.turn()).await;
            }
            6 | 7 => counts.drops.one(),
            _ => {
                counts.resets.one();
                let result = self.remember(over);
                self.link.reset();
                return result;
            }
        }
        self.remember(over)
    }
}

const SENT_AWAY_CODE: u16 = SENT_AWAY as u16;

/// Longer than anything takes, also on a machine that is busy.
const LATE: Duration = Duration::from_secs(60);
