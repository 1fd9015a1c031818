//! Positions that are in doubt, because it is long ago that anything came, or messages may be lost:
//! they are compared with the server's, many channels in one question.

use std::sync::Arc;
use std::time::Duration;

use super::messages::fingerprint;
use super::{Again, Hub, PIECE, Pending};
use crate::gateway::broker::{Fault, Request, Scope, Top, TopOf};
use crate::gateway::home::line::{BEHIND, DUE, FORKED, HEARD, KNOWN, VERIFY, seconds};
use crate::gateway::hub_port::HubPort;
use crate::gateway::stream::Epoch;

/// A check that is under way.
#[derive(Debug)]
pub(super) struct Checked {
    channel: Arc<str>,
    /// With what is at the top.
    verify: bool,
    /// Where the stream was then, and what was at the top.
    epoch: Epoch,
    offset: u64,
    print: u64,
}

/// Questions for positions that are under way at once: their answers pace those that follow.
const WINDOW: usize = 2;

/// Steps in which a round goes through the lines.
const STEPS: u32 = 160;

/// How often the life of a position that nobody publishes to is begun anew: a part of it.
const META_PARTS: u32 = 10;

/// Something that is done with all lines from time to time, a part of them at each step.
#[derive(Debug, Default)]
pub(super) struct Round {
    next: u32,
    due: Duration,
    /// When this time around began.
    began: Duration,
    /// How often all of them have had their turn.
    times: u64,
}

impl Round {
    /// The lines whose turn it is, of so many, if each has one per period.
    pub(super) fn step(
        &mut self,
        lines: u32,
        period: Duration,
        now: Duration,
    ) -> std::ops::Range<u32> {
        if lines == 0 || now < self.due {
            return 0..0;
        }
        if self.next == 0 {
            self.began = now;
        }
        self.due = now + (period / STEPS).max(Duration::from_millis(1));
        let start = self.next.min(lines);
        let end = (start + lines / STEPS + 1).min(lines);
        self.next = end;
        if end == lines {
            self.next = 0;
            self.times += 1;
            self.due = self.due.max(self.began + period);
        }
        start..end
    }

    /// When the next step is due, if there is one.
    pub(super) fn due(&self, lines: u32) -> Option<Duration> {
        (lines > 0).then_some(self.due)
    }
}

impl Hub {
    /// A channel's position is in doubt. `verify`: and what is at the top, too.
    pub(super) fn doubt(&mut self, channel: &Arc<str>, verify: bool) {
        let Self { home, mirror: Some(mirror), .. } = self else { return };
        let Some((_, line)) = home.line_of(channel) else { return };
        if verify {
            line.set(VERIFY, true);
        }
        if line.is(KNOWN) && !line.is(DUE) {
            line.set(DUE, true);
            mirror.due.push_back(channel.clone());
        }
    }

    /// Messages of some channels may be lost.
    pub(super) fn suspect(&mut self, scope: &Scope) {
        if let Scope::Channels(names) = scope {
            for name in names.iter() {
                let key = self.home.line_of(name).map(|(key, _)| key);
                self.suspect_one(key);
            }
            return;
        }
        for key in 0..self.home.lines_end() {
            let is_meant = self.home.name(key).is_some_and(|name| scope.has(name));
            self.suspect_one(is_meant.then_some(key));
        }
    }

    fn suspect_one(&mut self, key: Option<u32>) {
        let Some(key) = key else { return };
        let Some(channel) = self.home.name(key).cloned() else { return };
        let Some(line) = self.home.line(key) else { return };
        // An answer that is under way may be older than what was lost.
        if let Some(wait) = line.wait.as_mut().filter(|wait| wait.reading.is_some()) {
            wait.dropped = true;
        }
        self.doubt(&channel, false);
    }

    /// Looks at lines of which nothing was heard for long, and asks for the positions in doubt.
    pub(super) fn check_positions(
        &mut self,
        out: &mut dyn HubPort,
        now: Duration,
    ) -> Option<Duration> {
        let Self { home, mirror: Some(mirror), .. } = self else { return None };
        let (period, lines) = (mirror.position_check, home.lines_end());
        let silent = u32::try_from(period.as_secs().max(1)).unwrap_or(u32::MAX);
        let mut doubts = Vec::new();
        for key in mirror.positions.step(lines, period, now) {
            let Some(line) = home.line(key) else { continue };
            if line.is(HEARD) && seconds(now).saturating_sub(line.checked) >= silent {
                doubts.push(key);
            }
        }
        for key in doubts {
            if let Some(channel) = self.home.name(key).cloned() {
                self.doubt(&channel, false);
            }
        }
        while self.mirror().checking < WINDOW && !self.mirror().due.is_empty() {
            if !self.check_some(out) {
                break;
            }
        }
        self.mirror().positions.due(lines)
    }

    /// Asks for the positions of some channels. False if it was refused.
    fn check_some(&mut self, out: &mut dyn HubPort) -> bool {
        let (mut checked, mut tops, mut forked) = (Vec::new(), Vec::new(), Vec::new());
        while tops.len() < PIECE
            && let Some(channel) = self.mirror().due.pop_front()
        {
            let Some((key, _)) = self.home.line_of(&channel) else { continue };
            let options = self.options(key);
            let position = self.home.position(key);
            let Some(line) = self.home.line(key) else { continue };
            line.set(DUE, false);
            if line.is(FORKED) {
                forked.push(key);
                continue;
            }
            let verify = line.is(VERIFY);
            let print = line.print;
            let (Some(options), Some(position)) = (options, position) else { continue };
            let (epoch, offset) = (position.epoch, position.offset);
            let meta_ttl = self.prolongs(key, options.meta_ttl).then_some(options.meta_ttl);
            let entry = if verify && print != 0 { offset } else { 0 };
            // Nodes of Centrifugo tell nobody that they remove a history.
            let count = self.home.retained_len(key) > 0;
            tops.push(TopOf { channel: channel.clone(), entry, meta_ttl, count });
            checked.push(Checked { channel, verify, epoch, offset, print });
        }
        for key in forked {
            self.renew_ours(out, key);
        }
        if tops.is_empty() {
            return true;
        }
        let count = tops.len() as u64;
        let pending = Pending::Positions(checked);
        match self.ask_broker(out, pending, |ticket| Request::Positions(ticket, tops)) {
            Ok(_) => {
                let mirror = self.mirror();
                mirror.checking += 1;
                mirror.counters.checks += count;
                true
            }
            Err(pending) => {
                if let Pending::Positions(checked) = pending {
                    self.check_again(out, checked);
                }
                false
            }
        }
    }

    /// Whether this check begins the life of a channel's position anew: one of several does.
    fn prolongs(&mut self, key: u32, meta_ttl: Duration) -> bool {
        let mirror = self.mirror();
        let period = mirror.position_check.max(Duration::from_secs(1));
        let every = (meta_ttl / META_PARTS).as_secs() / period.as_secs();
        !meta_ttl.is_zero()
            && (mirror.positions.times + u64::from(key)).is_multiple_of(every.max(1))
    }

    fn check_again(&mut self, out: &mut dyn HubPort, checked: Vec<Checked>) {
        for Checked { channel, .. } in checked {
            // With the next connection everything is checked.
            let Some((_, line)) = self.home.line_of(&channel) else { continue };
            if line.is(HEARD) && !line.is(DUE) {
                line.set(DUE, true);
                self.repeat(out, Again::Check(channel));
            }
        }
    }

    /// Positions came, or none did.
    pub(super) fn tops(
        &mut self,
        out: &mut dyn HubPort,
        checked: Vec<Checked>,
        tops: Result<Vec<Option<Top>>, Fault>,
    ) {
        let mirror = self.mirror();
        mirror.checking = mirror.checking.saturating_sub(1);
        let tops = match tops {
            Ok(tops) if tops.len() == checked.len() => tops,
            _ => return self.check_again(out, checked),
        };
        for (checked, top) in checked.into_iter().zip(tops) {
            self.compare_top(out, &checked, top);
        }
    }

    fn compare_top(&mut self, out: &mut dyn HubPort, checked: &Checked, top: Option<Top>) {
        let Some((key, line)) = self.home.line_of(&checked.channel) else { return };
        if !line.is(KNOWN) || line.is(FORKED) {
            return;
        }
        let Some(ours) = self.home.position(key).filter(|ours| ours.epoch == checked.epoch) else {
            return;
        };
        let same = top.as_ref().filter(|top| top.epoch == ours.epoch);
        let left = same.is_some_and(|top| self.has_left(key, &top.epoch));
        if left || same.is_some_and(|top| is_fork(checked, top)) {
            return self.fork(out, key);
        }
        // Without its top it may be anything, but nothing says so.
        let line = self.home.draw_line(key);
        line.set(VERIFY, line.is(VERIFY) && !checked.verify);
        let behind = line.is(BEHIND);
        // What came since may not be among those that were counted.
        let count = same.filter(|top| top.top == ours.offset && ours.offset == checked.offset);
        if let Some(count) = count.and_then(|top| top.count) {
            self.home.retain_newest(key, count);
        }
        if same.is_some_and(|top| top.top <= ours.offset) {
            self.is_right(key, out.now());
        } else if !behind {
            // Something is missing, or the stream has another life.
            self.home.draw_line(key).set(BEHIND, true);
            self.mirror().counters.gaps += 1;
        }
        self.read(out, key);
    }
}

/// Whether the server has lost what it had given us, or has something else in its place.
fn is_fork(checked: &Checked, top: &Top) -> bool {
    let Checked { verify, offset, print, .. } = checked;
    let other = match &top.entry {
        Some(entry) => *print != 0 && fingerprint(entry) != *print,
        // Not trimmed, and not there.
        None => *print != 0 && top.first != 0 && top.first <= *offset,
    };
    top.top < *offset || *verify && other
}
