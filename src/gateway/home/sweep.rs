//! What is done from time to time: idle channels expire, and subscribers' positions are compared
//! with the top of the stream.
//!
//! A sweep goes through all channels once per `position_check`, a part of them at a time, so no
//! step takes long and nothing has a timer. Positions go by core: one letter per step and core.

use std::time::Duration;

use super::Home;
use crate::gateway::letters::ChannelId;

/// Steps in which a sweep goes through the channels.
const STEPS: u32 = 160;

/// Positions for one core.
pub(in crate::gateway) type Positions = Vec<(ChannelId, u64)>;

/// How far the sweep is.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Sweep {
    /// The next channel to look at.
    next: usize,
    /// When the next step is due.
    due: Duration,
}

impl Home {
    /// Takes a step if it is due. Gives the positions to send, by core, and when to call again.
    pub(in crate::gateway) fn sweep(
        &mut self,
        now: Duration,
    ) -> (Vec<(u16, Positions)>, Option<Duration>) {
        let results = self.results.expire(now);
        if self.channels.is_empty() {
            self.sweep.next = 0;
            return (Vec::new(), results);
        }
        if now < self.sweep.due {
            return (Vec::new(), Some(self.sweep.due));
        }
        let step = self.limits.position_check / STEPS;
        self.sweep.due = now + step.max(Duration::from_millis(1));
        let mut tops = Vec::new();
        let all = self.keys;
        let end = (self.sweep.next + all / STEPS as usize + 1).min(all);
        for key in self.sweep.next as u32..end as u32 {
            if self.channels.contains(key) {
                self.visit(key, now, &mut tops);
            }
        }
        self.sweep.next = if end < all { end } else { 0 };
        (tops, Some(self.sweep.due))
    }

    fn visit(&mut self, key: u32, now: Duration, tops: &mut Vec<(u16, Positions)>) {
        self.expire(key, now);
        let id = self.id(key);
        let channel = &mut self.channels[key];
        let Some(stream) = &channel.stream else { return };
        if channel.is_idle() {
            if stream.is_over(now) {
                self.forget(key);
            }
            return;
        }
        let top = stream.position().offset;
        for listener in &channel.listeners {
            add(tops, listener.core, id, top);
        }
    }

    /// Tells what to send to cores that missed a publication, by core.
    pub(in crate::gateway) fn missed(&mut self) -> Vec<(u16, Positions)> {
        let mut tops = Vec::new();
        for key in &self.missed {
            let Some(channel) = self.channels.get(*key) else { continue };
            let Some(stream) = &channel.stream else { continue };
            let top = stream.position().offset;
            let id = self.id(*key);
            for listener in channel.listeners.iter().filter(|listener| listener.missed) {
                add(&mut tops, listener.core, id, top);
            }
        }
        tops
    }

    /// These cores were told what they missed; the others have to wait.
    pub(in crate::gateway) fn told(&mut self, cores: &[u16]) {
        let channels = &mut self.channels;
        self.missed.retain(|key| {
            let Some(channel) = channels.get_mut(*key) else { return false };
            for listener in &mut channel.listeners {
                listener.missed &= !cores.contains(&listener.core);
            }
            channel.listeners.iter().any(|listener| listener.missed)
        });
    }

    /// Whether some core missed a publication and does not know.
    pub(in crate::gateway) fn has_missed(&self) -> bool {
        !self.missed.is_empty()
    }
}

fn add(tops: &mut Vec<(u16, Positions)>, core: u16, id: ChannelId, top: u64) {
    match tops.iter_mut().find(|(of, _)| *of == core) {
        Some((_, tops)) => tops.push((id, top)),
        None => tops.push((core, vec![(id, top)])),
    }
}
