//! Which channels this core hears of: what was asked for, what the server has acknowledged, and
//! what a lost connection took away.

use std::sync::Arc;
use std::time::Duration;

use super::{Hub, LINGER, Mirror, PIECE};
use crate::gateway::broker::{Fault, Life, Request, Scope};
use crate::gateway::home::line::{ASKED, FORKED, HEARD, KNOWN, SENT, VERIFY};
use crate::gateway::hub_port::HubPort;
use crate::gateway::letters::Letter;

/// Which parts have a connection, as far as is known. At first there is none.
#[derive(Debug, Default)]
pub(super) struct Ears {
    /// What was said last of each part, the newest last.
    said: Vec<(Scope, bool)>,
}

/// A part whose connection is there again, and whose channels are being asked for anew.
#[derive(Debug)]
pub(super) struct Returning {
    scope: Scope,
    life: Life,
    /// The next line to look at.
    next: u32,
}

/// Lines that one turn looks at.
const STEP: u32 = 4096;

/// Parts whose state is remembered one by one.
const PARTS: usize = 1024;

impl Ears {
    fn note(&mut self, scope: &Scope, hears: bool) {
        if matches!(scope, Scope::All) {
            self.said.clear();
        }
        let place = self.said.iter().position(|(said, _)| is_same(said, scope));
        match place.filter(|_| hears && passes(scope)) {
            // What was said of a later change is newer.
            Some(place) => self.said[place].1 = true,
            None => {
                self.said.retain(|(said, _)| !is_same(said, scope));
                if self.said.len() >= PARTS {
                    self.said.remove(0);
                }
                self.said.push((scope.clone(), hears));
            }
        }
        // A change that is over says nothing any more, but where an older one is not over.
        let mut open = false;
        self.said.retain(|(said, hears)| {
            open |= passes(said) && !hears;
            !passes(said) || !hears || open
        });
    }

    /// Whether there is no connection for a channel.
    pub(super) fn is_deaf(&self, channel: &str) -> bool {
        let said = self.said.iter().rev().find(|(scope, _)| scope.has(channel));
        !said.is_some_and(|(_, hears)| *hears)
    }
}

fn passes(scope: &Scope) -> bool {
    matches!(scope, Scope::Part(part) if part.passes())
}

fn is_same(one: &Scope, other: &Scope) -> bool {
    match (one, other) {
        (Scope::All, Scope::All) => true,
        (Scope::Part(one), Scope::Part(other)) => Arc::ptr_eq(one, other),
        (Scope::Channels(one), Scope::Channels(other)) => one == other,
        _ => false,
    }
}

impl Hub {
    /// A channel has subscribers: its messages are wanted.
    pub(super) fn want(&mut self, key: u32) {
        let Self { home, mirror: Some(mirror), .. } = self else { return };
        let Some(name) = home.name(key).cloned() else { return };
        let line = home.draw_line(key);
        // Those that were there before are asked for in their turn.
        let in_turn = line.is(KNOWN) && !mirror.returning.is_empty();
        if !line.is(ASKED) && !in_turn && !mirror.ears.is_deaf(&name) {
            line.set(ASKED, true);
            mirror.listens.push_back(name);
        }
    }

    /// Whether an answer about a channel is the one that is waited for.
    fn is_awaited(&mut self, channel: &Arc<str>) -> bool {
        let unheard = &mut self.mirror().unheard;
        if let Some(times) = unheard.get_mut(channel) {
            *times -= 1;
            if *times > 0 {
                // Of an earlier time: since then it was given up, and is asked for again.
                return false;
            }
            unheard.remove(channel);
        }
        let line = self.home.line_of(channel).map(|(_, line)| line);
        line.is_some_and(|line| line.is(SENT) && !line.is(HEARD))
    }

    /// The server will not pass on what is published in a channel.
    pub(super) fn unheard(&mut self, out: &mut dyn HubPort, channel: &Arc<str>, fault: Fault) {
        if !self.is_awaited(channel) {
            return;
        }
        let Some((key, line)) = self.home.line_of(channel) else { return };
        line.set(ASKED | SENT, false);
        let waiting = line.wait.iter().flat_map(|wait| &wait.subscribers);
        let waiting: Vec<_> = waiting.map(|it| (it.letter.core, it.letter.sub)).collect();
        for (core, sub) in waiting {
            let Some(letter) = self.home.stop_waiting(key, core, sub) else { continue };
            let answer = self.home.refuse(key, *letter, fault.error());
            self.post_urgent(out, core.into(), Letter::Subscribed(Box::new(answer)));
        }
    }

    /// The server passes on what is published in a channel from here on.
    pub(super) fn listening(&mut self, out: &mut dyn HubPort, channel: &Arc<str>) {
        if !self.is_awaited(channel) {
            return;
        }
        let Some((key, line)) = self.home.line_of(channel) else { return };
        line.set(HEARD, true);
        let (known, verify) = (line.is(KNOWN), line.is(VERIFY));
        self.let_in(out, key);
        match known {
            true => self.doubt(channel, verify),
            false => self.read(out, key),
        }
    }

    /// The connection that brought messages is lost.
    pub(super) fn deaf(&mut self, out: &mut dyn HubPort, scope: Scope) {
        let Self { home, mirror: Some(mirror), .. } = self else { return };
        mirror.ears.note(&scope, false);
        mirror.returning.retain(|returning| !is_same(&returning.scope, &scope));
        mirror.listens.retain(|name| !scope.has(name));
        // What is not acknowledged never will be.
        mirror.unheard.retain(|name, _| !scope.has(name));
        let mut waiting = Vec::new();
        for key in 0..home.lines_end() {
            if !matches!(scope, Scope::All) && !home.name(key).is_some_and(|it| scope.has(it)) {
                continue;
            }
            let Some(line) = home.line(key) else { continue };
            line.set(ASKED | SENT | HEARD, false);
            // An answer that is under way may be older than what comes after the next connection.
            if let Some(wait) = line.wait.as_mut().filter(|wait| wait.reading.is_some()) {
                wait.dropped = true;
            }
            if line.wait.as_ref().is_some_and(|wait| !wait.subscribers.is_empty()) {
                waiting.push(key);
            }
        }
        // Those that need no position need not wait for the next connection.
        for key in waiting {
            self.let_in(out, key);
        }
    }

    /// There is a connection again.
    pub(super) fn back(&mut self, scope: Scope, life: Life) {
        let Mirror { ears, returning, .. } = self.mirror();
        ears.note(&scope, true);
        returning.push_back(Returning { scope, life, next: 0 });
    }

    /// Asks for the messages of a part's channels again, some lines at a time.
    pub(super) fn go_on_returning(&mut self, now: Duration) -> Option<Duration> {
        let Self { home, mirror: Some(mirror), .. } = self else { return None };
        let returning = mirror.returning.front_mut()?;
        let all = home.lines_end();
        let end = (returning.next + STEP).min(all);
        for key in returning.next..end {
            let Some(name) = home.name(key).filter(|name| returning.scope.has(name)) else {
                continue;
            };
            let name = name.clone();
            let Some(line) = home.line(key) else { continue };
            if returning.life != Life::Same && line.is(KNOWN) {
                line.set(VERIFY, true);
                line.set(FORKED, line.is(FORKED) || returning.life == Life::Lost);
            }
            // One that has moved on meanwhile is asked for where it is by then.
            if !line.is(ASKED) && !mirror.ears.is_deaf(&name) {
                line.set(ASKED, true);
                mirror.listens.push_back(name);
            }
        }
        returning.next = end;
        if end == all {
            mirror.returning.pop_front();
        }
        (!mirror.returning.is_empty()).then_some(now)
    }

    /// Nobody listens to a channel any more.
    pub(super) fn linger(&mut self, channel: &Arc<str>, now: Duration) {
        self.mirror().lingering.push_back((now + LINGER, channel.clone()));
    }

    /// Lets go of channels that nobody came back to.
    pub(super) fn stop_lingering(
        &mut self,
        out: &mut dyn HubPort,
        now: Duration,
    ) -> Option<Duration> {
        loop {
            let Self { home, mirror: Some(mirror), .. } = self else { return None };
            let mut names = Vec::new();
            while names.len() < PIECE
                && mirror.lingering.front().is_some_and(|(until, _)| *until <= now)
            {
                let Some((_, name)) = mirror.lingering.pop_front() else { break };
                if home.abandon(&name) {
                    names.push(name);
                }
            }
            if names.is_empty() {
                break;
            }
            if self.tell_broker(out, Request::Ignore(names.clone())).is_err() {
                for name in names {
                    self.repeat(out, super::Again::Ignore(name));
                }
                break;
            }
        }
        self.mirror().lingering.front().map(|(until, _)| *until)
    }
}
