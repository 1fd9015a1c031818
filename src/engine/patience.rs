//! How long the slow are waited for: what counts is what they acknowledge.
//!
//! A socket takes bytes in steps of a third of its send buffer, which may be megabytes, so whether
//! it takes any says little about its peer. The kernel knows what the peer has not acknowledged;
//! it is asked ([`super::ring::Ring::unacknowledged`]) when a deadline comes near, and never on the
//! way of a message. From one look to the next follows what was acknowledged between them.
//!
//! TCP_USER_TIMEOUT would not do: it counts from the first time that the peer's window was closed,
//! and cuts a slow reader whose window closes again and again (seen on Linux 6.18).
//!
//! The rules. A peer that something waits for must acknowledge some of it within the write timeout,
//! and on average [`super::Config::min_read_rate`]. A ping, or a close frame, awaits its answer
//! from when all bytes before it are acknowledged. The invariant: a connection has a watch if
//! and only if it is `watched`; it begins with the first look and ends when nothing is
//! outstanding, or with the connection.

use std::collections::HashMap;
use std::io;

use super::clock::{earlier, is_after, later, since};
use super::core::Core;
use super::slots::{Flags, Hot, Marks, Phase, Ping, Pulse};
use super::token::{Op, Token};
use super::value::Cause;

/// Whose acknowledgements are watched, and who is to be asked for.
#[derive(Debug, Default)]
pub(super) struct Watches {
    table: HashMap<u32, Watch>,
    /// Slots whose unacknowledged bytes are to be asked for.
    looks: Vec<u32>,
}

impl Watches {
    /// The kernel took bytes for a peer.
    #[inline]
    pub(super) fn note_taken(&mut self, slot: u32, hot: &Hot, count: usize) {
        // Mostly there is none, and the table is not looked into.
        if hot.is(Marks::WATCHED) {
            self.note_taken_in_table(slot, count);
        }
    }

    #[inline(never)]
    fn note_taken_in_table(&mut self, slot: u32, count: usize) {
        if let Some(watch) = self.table.get_mut(&slot) {
            watch.note_taken(count);
        }
    }

    /// Another ping, or the close frame, is behind what waits.
    pub(super) fn restart(&mut self, slot: u32, hot: &Hot) {
        if hot.is(Marks::WATCHED)
            && let Some(watch) = self.table.get_mut(&slot)
        {
            watch.restart();
        }
    }

    /// Keeps moments from looking young again.
    pub(super) fn age(&mut self, now: u32) {
        for watch in self.table.values_mut() {
            watch.age(now);
        }
    }

    /// How many are watched.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether one is watched.
    pub(super) fn contains(&self, slot: u32) -> bool {
        self.table.contains_key(&slot)
    }

    /// Whether the kernel is to be asked for somebody.
    pub(super) fn has_looks(&self) -> bool {
        !self.looks.is_empty()
    }

    pub(super) fn shrink(&mut self) {
        self.table.shrink_to_fit();
        self.looks.shrink_to_fit();
    }

    fn get(&self, slot: u32, hot: &Hot) -> Option<&Watch> {
        hot.is(Marks::WATCHED).then(|| self.table.get(&slot)).flatten()
    }
}

/// What was seen of one peer's acknowledgements.
#[derive(Debug)]
struct Watch {
    /// When the look was begun that is under way.
    asked: Option<u32>,
    /// When the last look was begun.
    looked: u32,
    /// When the last look was begun that found progress; the first does.
    moved: u32,
    /// What the kernel held at the last look, and whether it said so; `None` before its answer.
    held: Option<(u64, bool)>,
    /// Bytes the kernel took from the last look to the one under way, and since then.
    before: u64,
    taken: u64,
    /// Bytes to be acknowledged until the ping, or the close frame, is.
    ahead: Option<u64>,
    /// When the present window of the least rate began, what was outstanding then, and what was
    /// acknowledged since.
    began: u32,
    due: u64,
    acknowledged: u64,
}

impl Watch {
    fn new(now: u32) -> Self {
        Self {
            asked: None,
            looked: now,
            moved: now,
            held: None,
            before: 0,
            taken: 0,
            ahead: None,
            began: now,
            due: 0,
            acknowledged: 0,
        }
    }

    /// The kernel took bytes.
    fn note_taken(&mut self, count: usize) {
        self.taken += count as u64;
    }

    /// Another ping, or the close frame, is behind what waits.
    fn restart(&mut self) {
        self.ahead = None;
    }

    /// Begins a look, unless one is under way. Returns whether to ask.
    fn begin(&mut self, now: u32) -> bool {
        self.looked = now;
        if self.asked.is_some() {
            return false;
        }
        self.asked = Some(now);
        true
    }

    /// The question goes to the kernel: what it takes from here on, it does not count.
    fn submit(&mut self) {
        self.before += std::mem::take(&mut self.taken);
    }

    /// The kernel held so many bytes when it was asked; where it cannot say, what it took counts as
    /// acknowledged. Returns what that says.
    fn end(&mut self, told: Option<u64>, queued: u64) -> Option<Sight> {
        let at = self.asked.take()?;
        let before = std::mem::take(&mut self.before);
        let held = told.unwrap_or(0);
        let last = self.held.replace((held, told.is_some()));
        // An answer of the other kind is no measure.
        let known = last.filter(|(_, said)| *said == told.is_some());
        let acknowledged = known.map(|(known, _)| (known + before).saturating_sub(held));
        let outstanding = held + queued;
        match acknowledged {
            None => (self.moved, self.began, self.due) = (at, at, outstanding),
            Some(count) => {
                self.acknowledged += count;
                if count > 0 {
                    self.moved = at;
                }
            }
        }
        Some(Sight { at, acknowledged, outstanding, queued })
    }

    fn age(&mut self, now: u32) {
        for tick in [&mut self.looked, &mut self.moved, &mut self.began] {
            *tick = super::clock::kept_young(now, *tick);
        }
    }
}

/// What a look found.
#[derive(Clone, Copy, Debug)]
struct Sight {
    /// When the kernel was asked.
    at: u32,
    /// Bytes acknowledged since the look before; `None` if there was none.
    acknowledged: Option<u64>,
    /// Bytes that are not acknowledged, and those among them that the kernel has not taken.
    outstanding: u64,
    queued: u64,
}

impl Sight {
    /// Whether the peer may have acknowledged something since the look before.
    fn may_have_moved(self) -> bool {
        self.acknowledged.is_none_or(|count| count > 0)
    }

    /// What the sight says about a ping or a close frame that may wait behind other bytes: as long
    /// as those move, its time has not begun.
    fn apply(self, pulse: &mut Pulse, ahead: &mut Option<u64>) {
        if pulse.ping != Ping::Waiting {
            return;
        }
        if self.outstanding == 0 {
            // At the first look so little time has passed that it may count.
            if self.acknowledged.is_some() {
                pulse.pinged = self.at;
            }
            pulse.ping = Ping::Left;
            return;
        }
        let left = match *ahead {
            None => self.outstanding,
            Some(left) => left.saturating_sub(self.acknowledged.unwrap_or(0)),
        };
        if ahead.is_none() || self.may_have_moved() {
            pulse.pinged = self.at;
        }
        *ahead = Some(left);
        if left == 0 {
            pulse.ping = Ping::Left;
        }
    }
}

impl Core {
    /// When to look at what the peer of an open connection acknowledged.
    pub(super) fn look_due(&self, slot: u32, hot: &Hot) -> Option<u32> {
        let limits = &self.limits;
        let watch = self.watches.get(slot, hot);
        let looked = |from| watch.map_or(from, |watch| later(watch.looked, from));
        let write = match (&hot.outbox, hot.has(Flags::BLOCKED)) {
            (Some(outbox), true) => {
                Some(looked(outbox.progress).wrapping_add(glance(limits.write) + 1))
            }
            _ => None,
        };
        let window = watch.map(|watch| watch.began.wrapping_add(limits.read_window + 1));
        let gone = watch.map(|watch| watch.looked.wrapping_add(limits.unacknowledged + 1));
        let pulse = &hot.pulse;
        let waits = hot.phase() == Phase::Open && pulse.level > 0 && pulse.ping == Ping::Waiting;
        let ping = waits.then(|| {
            let next = looked(pulse.pinged).wrapping_add(limits.heartbeat.glance + 1);
            earlier(next, limits.heartbeat.due(pulse))
        });
        [write, window, gone, ping].into_iter().flatten().reduce(earlier)
    }

    /// When the end of a connection that is being closed has to be looked after.
    pub(super) fn leaving_due(&self, slot: u32, hot: &Hot) -> u32 {
        let (limit, pulse) = (self.leaving_limit(hot.phase()), &hot.pulse);
        let end = pulse.pinged.wrapping_add(limit + 1);
        if pulse.ping == Ping::Left {
            return end;
        }
        let look = self.look_due(slot, hot);
        if let (true, Some(look)) = (hot.has(Flags::BLOCKED), look) {
            return look;
        }
        let from =
            self.watches.get(slot, hot).map_or(pulse.pinged, |w| later(w.looked, pulse.pinged));
        let next = from.wrapping_add(glance(limit) + 1);
        [Some(next), look].into_iter().flatten().fold(end, earlier)
    }

    fn leaving_limit(&self, phase: Phase) -> u32 {
        match phase {
            Phase::Lingering => self.limits.linger,
            _ => self.limits.close,
        }
    }

    /// Begins a look.
    pub(super) fn look(&mut self, slot: u32) {
        let tick = self.clock.tick();
        let Some(hot) = self.slots.get_mut(slot) else { return };
        hot.mark(Marks::WATCHED);
        if self.watches.table.entry(slot).or_insert_with(|| Watch::new(tick)).begin(tick) {
            self.counted.looks += 1;
            self.watches.looks.push(slot);
        }
    }

    /// The next question to the kernel.
    pub(super) fn next_look(&mut self) -> Option<Token> {
        while let Some(slot) = self.watches.looks.pop() {
            let live = self.slots.get(slot).filter(|hot| hot.phase() != Phase::Closed);
            if let (Some(hot), Some(watch)) = (live, self.watches.table.get_mut(&slot)) {
                watch.submit();
                return Some(Token::new(Op::Look, slot, hot.generation));
            }
        }
        None
    }

    /// Nothing waits for the peer any more.
    pub(super) fn unwatch(&mut self, slot: u32) {
        if self.slots.get_mut(slot).is_some_and(|hot| hot.unmark(Marks::WATCHED)) {
            self.watches.table.remove(&slot);
        }
    }

    /// A look ends.
    pub(super) fn on_looked(&mut self, token: Token, held: io::Result<u32>) {
        let slot = token.slot();
        let Some(hot) = self.slots.lookup(slot, token.generation()) else {
            self.counted.stale_completions += 1;
            return;
        };
        let queued = hot.outbox.as_ref().map_or(0, |outbox| outbox.bytes() as u64);
        let Some(watch) = self.watches.table.get_mut(&slot) else { return };
        let told = held.ok().map(u64::from);
        let Some(sight) = watch.end(told, queued) else { return };
        let before = hot.pulse;
        let asked = hot.pulse.level > 0;
        if asked || hot.phase() != Phase::Open {
            sight.apply(&mut hot.pulse, &mut watch.ahead);
        }
        if asked && hot.is(Marks::ASKED) && before.pinged != hot.pulse.pinged {
            // How long the answer takes says nothing about the way any more.
            hot.pulse.rtt_us = 0;
        }
        if let Some(outbox) = &hot.outbox {
            watch.moved = later(watch.moved, outbox.progress);
        }
        let still = since(sight.at, watch.moved);
        let stalled = hot.has(Flags::BLOCKED) && still >= self.limits.write;
        let open = hot.phase() == Phase::Open;
        if stalled {
            return self.give_no_more_time(slot, Cause::WriteTimeout);
        }
        if sight.outstanding == 0 {
            self.unwatch(slot);
        } else if still >= self.limits.unacknowledged {
            return self.give_no_more_time(slot, Cause::Unacknowledged);
        } else if told.is_some() && self.trickles(slot, sight) {
            return self.give_no_more_time(slot, Cause::Trickle);
        }
        if open {
            // What came due since the kernel was asked is judged by another look: this side may
            // have stood still meanwhile.
            let due = self.slots.get(slot).map(|hot| self.limits.heartbeat.due(&hot.pulse));
            if due.is_some_and(|due| !is_after(due, sight.at)) {
                self.on_heartbeat_due(slot);
            }
        } else {
            self.on_leaving_looked(slot, sight);
        }
        self.arm(slot);
    }

    /// Whether the peer acknowledged less than the least rate over a whole window in which there
    /// was more to acknowledge than that.
    fn trickles(&mut self, slot: u32, sight: Sight) -> bool {
        let (rate, tick_ns) = (u64::from(self.config.min_read_rate), self.limits.tick_ns);
        let Some(watch) = self.watches.table.get_mut(&slot) else { return false };
        let elapsed = since(sight.at, watch.began);
        if elapsed < self.limits.read_window {
            return false;
        }
        let least =
            (u128::from(elapsed) * u128::from(tick_ns) * u128::from(rate) / SECOND_NS) as u64;
        let trickles = rate > 0 && watch.due >= least.max(1) && watch.acknowledged < least.max(1);
        (watch.began, watch.due, watch.acknowledged) = (sight.at, sight.outstanding, 0);
        trickles
    }

    /// The peer does not take what waits for it; so it would not take a close frame either.
    fn give_no_more_time(&mut self, slot: u32, cause: Cause) {
        match self.slots.get(slot).map(|hot| hot.phase()) {
            Some(Phase::Open) => self.drop_connection(slot, cause),
            Some(_) => {
                self.counted.close_timeouts += 1;
                self.drop_connection(slot, Cause::Abrupt);
            }
            None => {}
        }
    }

    /// The deadline of a connection that is being closed.
    pub(super) fn on_leaving_deadline(&mut self, slot: u32) {
        let tick = self.clock.tick();
        let Some(hot) = self.slots.get(slot) else { return };
        let limit = self.leaving_limit(hot.phase());
        let over = !is_after(hot.pulse.pinged.wrapping_add(limit + 1), tick);
        match hot.pulse.ping {
            Ping::Left if over && hot.phase() == Phase::Lingering => {
                self.drop_connection(slot, Cause::Abrupt);
            }
            Ping::Left if over => {
                self.counted.close_timeouts += 1;
                self.drop_connection(slot, Cause::Abrupt);
            }
            Ping::Left => self.arm(slot),
            _ => {
                self.look(slot);
                self.arm(slot);
            }
        }
    }

    fn on_leaving_looked(&mut self, slot: u32, sight: Sight) {
        let Some(hot) = self.slots.get_mut(slot) else { return };
        let limit = match hot.phase() {
            Phase::Lingering => self.limits.linger,
            _ => self.limits.close,
        };
        if hot.pulse.ping != Ping::Waiting {
            return;
        }
        if sight.queued > 0 {
            // The write timeout watches; the close timeout has not begun.
            hot.pulse.pinged = sight.at;
        } else if since(sight.at, hot.pulse.pinged) > limit {
            self.counted.close_timeouts += u64::from(hot.phase() != Phase::Lingering);
            self.drop_connection(slot, Cause::Abrupt);
        }
    }
}

/// Looks within a deadline: so finely is known when the peer moved last.
pub(super) fn glance(limit: u32) -> u32 {
    (limit / 4).max(1)
}

const SECOND_NS: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn look(watch: &mut Watch, at: u32, held: u64, queued: u64) -> Sight {
        assert!(watch.begin(at));
        watch.submit();
        watch.end(Some(held), queued).unwrap()
    }

    #[test]
    fn what_left_the_kernel_besides_what_it_took_is_acknowledged() {
        let mut watch = Watch::new(u32::MAX - 2);
        let first = look(&mut watch, u32::MAX - 1, 5000, 100);
        assert_eq!((first.acknowledged, first.outstanding), (None, 5100));
        watch.note_taken(100);
        let second = look(&mut watch, 3, 4600, 0);
        assert_eq!((second.acknowledged, second.outstanding), (Some(500), 4600));
        assert_eq!(watch.moved, 3, "across the wrap");
        assert!(watch.begin(9));
        watch.submit();
        // Taken behind the question, so not among what the kernel counted.
        watch.note_taken(7000);
        assert!(!watch.begin(11), "one look at a time");
        let third = watch.end(Some(4600), 0).unwrap();
        assert_eq!((third.at, third.acknowledged, watch.moved), (9, Some(0), 3));
        assert_eq!(look(&mut watch, 20, 11_600, 0).acknowledged, Some(0));
        assert!(watch.end(Some(0), 0).is_none(), "nobody asked");
    }

    #[test]
    fn the_time_of_a_ping_begins_when_it_has_left() {
        let sight =
            |at, acknowledged, outstanding| Sight { at, acknowledged, outstanding, queued: 0 };
        let mut pulse = Pulse { pinged: 100, ping: Ping::Waiting, level: 1, ..Pulse::default() };
        let mut ahead = None;
        sight(110, None, 3000).apply(&mut pulse, &mut ahead);
        assert_eq!((pulse.pinged, pulse.ping), (110, Ping::Waiting), "it may be behind those");
        sight(120, Some(0), 3000).apply(&mut pulse, &mut ahead);
        assert_eq!((pulse.pinged, pulse.ping), (110, Ping::Waiting), "nothing moved");
        sight(130, Some(1000), 9000).apply(&mut pulse, &mut ahead);
        assert_eq!((pulse.pinged, pulse.ping), (130, Ping::Waiting));
        sight(140, Some(2000), 9000).apply(&mut pulse, &mut ahead);
        assert_eq!((pulse.pinged, pulse.ping), (140, Ping::Left), "what came later is behind it");
        sight(150, Some(500), 9000).apply(&mut pulse, &mut ahead);
        assert_eq!(pulse.pinged, 140);
        let mut prompt = Pulse { pinged: 100, ping: Ping::Waiting, level: 1, ..Pulse::default() };
        sight(110, None, 0).apply(&mut prompt, &mut None);
        assert_eq!((prompt.pinged, prompt.ping), (100, Ping::Left), "nothing was before it");
    }
}
