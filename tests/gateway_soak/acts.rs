//! What a client does: the commands it sends, and the tokens in them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Asked, Life, Way};
use crate::dice::Dice;
use crate::link::Transport;
use crate::seat::Seat;
use crate::sub::Sub;
use crate::support::gateway::{token, unix};
use crate::truth::Kind;
use crate::world::{World, publication};

impl Life<'_> {
    pub(super) fn command(&mut self, method: &str, parameters: Value, asked: Asked) -> Value {
        self.id += 1;
        self.asked.insert(self.id, (asked, Instant::now()));
        json!({"id": self.id, method: parameters})
    }

    pub(super) fn subscribe(&mut self, world: &World, channel: usize) -> Value {
        let truth = world.truth.borrow();
        let of = &truth.channels[channel];
        let mut request = json!({"channel": of.name});
        let since = self.seat.known.remove(&channel);
        if let Some(since) = &since {
            request["recover"] = json!(true);
            request["offset"] = json!(since.offset);
            request["epoch"] = json!(since.epoch);
        }
        let mut sub = Sub::asked(channel, self.transport != Transport::Protobuf, &truth);
        if of.kind == Kind::Delta && self.seat.dice.chance(700) {
            request["delta"] = json!("fossil");
        }
        if of.kind == Kind::Private {
            let (text, until) = sub_token(self.seat, &of.name);
            request["token"] = json!(text);
            sub.expire_at = until;
        }
        drop(truth);
        self.subs.insert(channel, sub);
        self.command("subscribe", request, Asked::Subscribe(channel, since))
    }

    /// Refreshes what is due.
    pub(super) fn refresh(&mut self, world: &World, now: Instant) {
        if self.refresh_at.is_some_and(|at| at <= now) && !self.is_refreshing() {
            let (text, until) = connection_token(self.seat, true, &self.given);
            // Until the answer comes, the next one is far.
            self.refresh_at = Some(now + Duration::from_secs(3600));
            let command = self.command("refresh", json!({"token": text}), Asked::Refresh(until));
            self.link.send(&[command]);
        }
        let due = |sub: &&mut Sub| sub.refresh_at.is_some_and(|at| at <= now) && !sub.leaving;
        let due: Vec<_> = self.subs.values_mut().filter(due).map(|sub| sub.channel).collect();
        for channel in due {
            let name = world.truth.borrow().channels[channel].name.clone();
            let (text, until) = sub_token(self.seat, &name);
            if let Some(sub) = self.subs.get_mut(&channel) {
                sub.refresh_at = None;
            }
            if until == 0 {
                continue;
            }
            let request = json!({"channel": name, "token": text});
            let command = self.command("sub_refresh", request, Asked::SubRefresh(channel, until));
            self.link.send(&[command]);
        }
    }

    pub(super) fn is_refreshing(&self) -> bool {
        self.asked.values().any(|(asked, _)| matches!(asked, Asked::Refresh(_)))
    }

    /// When it refreshes, if it is one of those who do.
    pub(super) fn plan_refresh(&mut self, _world: &World, ttl: u32) {
        let refreshes = self.refresh_at.is_some() || self.seat.dice.chance(800);
        self.refresh_at = refreshes.then(|| due(&mut self.seat.dice, ttl));
    }

    /// Some command, or a while without reading.
    pub(super) fn act(&mut self, world: &World) {
        let live: Vec<_> = self.subs.values().filter(|sub| sub.live && !sub.leaving).collect();
        let kind = |channel: usize| world.truth.borrow().channels[channel].kind;
        let of = |kinds: &[Kind]| -> Vec<usize> {
            let them = live.iter().filter(|sub| kinds.contains(&kind(sub.channel)));
            them.map(|sub| sub.channel).collect()
        };
        let client_side: Vec<_> =
            live.iter().filter(|sub| !sub.server_side).map(|sub| sub.channel).collect();
        let (publishable, shown, streams) = (
            of(&[Kind::Stream, Kind::Ask]),
            of(&[Kind::Plain, Kind::Private]),
            of(&[Kind::Stream]),
        );
        let one =
            |dice: &mut Dice, of: &[usize]| (!of.is_empty()).then(|| of[dice.below(of.len())]);
        let name = |channel: usize| world.truth.borrow().channels[channel].name.clone();
        let mut commands = Vec::new();
        match self.seat.dice.below(100) {
            0..25 => {
                for _ in 0..1 + self.seat.dice.below(3) {
                    let Some(channel) = one(&mut self.seat.dice, &publishable) else { break };
                    let (number, content) = world.truth.borrow_mut().publish(channel);
                    let request = publication(&name(channel), &content);
                    let asked = Asked::Publish(channel, number);
                    commands.push(self.command("publish", request, asked));
                }
            }
            25..40 => {
                if let Some(channel) = one(&mut self.seat.dice, &shown) {
                    let request = json!({"channel": name(channel)});
                    commands.push(self.command("presence", request, Asked::Presence(channel)));
                }
            }
            40..50 => {
                if let Some(channel) = one(&mut self.seat.dice, &streams)
                    && let Some(known) = self.subs.get(&channel).and_then(Sub::known)
                {
                    let top = world.truth.borrow().channels[channel].top;
                    let since = json!({"offset": known.offset, "epoch": known.epoch});
                    let request = json!({"channel": name(channel), "limit": -1, "since": since});
                    let asked = Asked::History(channel, known.offset, top);
                    commands.push(self.command("history", request, asked));
                }
            }
            50..62 => {
                let data = json!({"draw": self.seat.dice.below(1_000_000)});
                let request = json!({"method": "any", "data": data});
                commands.push(self.command("rpc", request, Asked::Rpc(data)));
            }
            62..72 => {
                if let Some(channel) = one(&mut self.seat.dice, &client_side) {
                    self.subs.entry(channel).and_modify(|sub| sub.leaving = true);
                    let request = json!({"channel": name(channel)});
                    let asked = Asked::Unsubscribe(channel);
                    commands.push(self.command("unsubscribe", request, asked));
                }
            }
            72..86 => {
                // Whatever it is not in: where it was, it recovers.
                let kinds = [Kind::Stream, Kind::Delta, Kind::Plain, Kind::Ask, Kind::Private];
                let kind = kinds[self.seat.dice.below(kinds.len())];
                for channel in some_of(self.seat, kind, 1) {
                    if !self.subs.contains_key(&channel) {
                        commands.push(self.subscribe(world, channel));
                    }
                }
            }
            86..93 => {
                let (method, room) = match self.room.take() {
                    Some(room) => ("unsubscribe", room),
                    None => {
                        let room = format!("room:{:x}", self.seat.dice.draw());
                        self.room = Some(room.clone());
                        ("subscribe", room)
                    }
                };
                commands.push(self.command(method, json!({"channel": room}), Asked::Room));
            }
            _ => {
                world.counts().stalls.one();
                self.has_stalled = true;
                let time = self.seat.dice.between((0.0, world.plan.stall));
                self.stalls = Some(Instant::now() + time);
            }
        }
        if !commands.is_empty() {
            self.link.send(&commands);
        }
    }
}

/// A moment before the time is over, or shortly after it, in the time that is granted for that.
pub(super) fn due(dice: &mut Dice, ttl: u32) -> Instant {
    let part = 0.4 + 0.7 * dice.unit();
    Instant::now() + Duration::from_secs_f64(f64::from(ttl) * part)
}

/// Some channels of a kind, drawn.
pub(super) fn some_of(seat: &mut Seat, kind: Kind, count: usize) -> Vec<usize> {
    let all = seat.world.truth.borrow().of(kind);
    let mut some: Vec<_> = (0..count).map(|_| all[seat.dice.below(all.len())]).collect();
    some.sort_unstable();
    some.dedup();
    some
}

pub(super) fn names(world: &World, channels: &[usize]) -> Vec<String> {
    let truth = world.truth.borrow();
    channels.iter().map(|channel| truth.channels[*channel].name.clone()).collect()
}

/// A connection token, and when it ends.
pub(super) fn connection_token(seat: &mut Seat, expires: bool, given: &[usize]) -> (String, i64) {
    let world = seat.world.clone();
    let mut claims = json!({"sub": world.user(seat.number)});
    let mut until = 0;
    if expires {
        let (from, to) = world.plan.token;
        until = unix() + from + seat.dice.below((to - from) as usize) as i64;
        claims["exp"] = json!(until);
    }
    if !given.is_empty() {
        claims["channels"] = json!(names(&world, given));
    }
    (token(&claims), until)
}

/// A subscription token, and when it ends.
pub(super) fn sub_token(seat: &mut Seat, channel: &str) -> (String, i64) {
    let (from, to) = seat.world.plan.token;
    let mut claims = json!({"sub": seat.world.user(seat.number), "channel": channel});
    let mut until = 0;
    if seat.dice.chance(700) {
        until = unix() + from + seat.dice.below((to - from) as usize) as i64;
        claims["exp"] = json!(until);
    }
    (token(&claims), until)
}

pub(super) fn connect_command(
    seat: &mut Seat,
    way: Way,
    expires: bool,
    given: &[usize],
) -> (Value, i64) {
    let world = seat.world.clone();
    let mut connect = json!({"name": "soak"});
    let mut until = 0;
    match way {
        Way::Token => {
            let (text, at) = connection_token(seat, expires, given);
            connect["token"] = json!(text);
            until = at;
        }
        Way::Backend => {
            let mut data = json!({"user": world.user(seat.number), "expires": expires});
            if !given.is_empty() {
                data["channels"] = json!(names(&world, given));
            }
            connect["data"] = data;
        }
    }
    for (channel, name) in given.iter().zip(names(&world, given)) {
        if let Some(known) = seat.known.get(channel) {
            let place = json!({"recover": true, "offset": known.offset, "epoch": known.epoch});
            connect["subs"][name] = place;
        }
    }
    (json!({"id": 1, "connect": connect}), until)
}
