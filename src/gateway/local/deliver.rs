//! Deliveries to all subscribers of their channel on this core.

use std::sync::Arc;

use super::{COMPACT, DELTA, FILTERED, JOINS, Locals, POSITIONED, PRIMED, RECOVERABLE, Sub};
use crate::gateway::delivery::{Delivery, Form, Happening, Variant};
use crate::gateway::format::Format;
use crate::gateway::hub_port::{HubPort, SubKey};
use crate::gateway::letters::ChannelId;

/// Why a subscriber cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Loss {
    /// Publications before this one did not reach it.
    Gap,
    /// The payload is not JSON, and the client knows nothing else.
    NotJson,
}

impl Locals {
    /// Sends deliveries of one channel, of which only publications may be several, to everybody
    /// they are for: one subscriber after the other gets all of them. Adds to `lost` who cannot go
    /// on: what becomes of them is up to the caller. Returns how often something was sent.
    pub(in crate::gateway) fn deliver(
        &mut self,
        out: &mut dyn HubPort,
        deliveries: &[Arc<Delivery>],
        lost: &mut Vec<(SubKey, Loss)>,
    ) -> u64 {
        match deliveries {
            [only] if !matches!(only.happening, Happening::Published { .. }) => {
                self.announce(out, only)
            }
            _ => self.publish(out, deliveries, lost),
        }
    }

    fn publish(
        &mut self,
        out: &mut dyn HubPort,
        deliveries: &[Arc<Delivery>],
        lost: &mut Vec<(SubKey, Loss)>,
    ) -> u64 {
        let Some(channel) = deliveries.first().and_then(|first| self.ids.get(&first.id)) else {
            return 0;
        };
        let channel = &mut self.channels[*channel];
        let before = channel.seq;
        let mut sent = 0;
        for key in &channel.members {
            let sub = &mut self.subs[*key as usize];
            let mut last = before;
            for delivery in deliveries {
                let Happening::Published { item, seq, .. } = &delivery.happening else { continue };
                // Somebody who has the last publication that came has the patch's base, unless
                // publications between the two did not come.
                let follows = *seq == last + 1;
                last = *seq;
                if item.offset > 0 && sub.is(POSITIONED) {
                    if item.offset <= sub.last {
                        continue;
                    }
                    if item.offset > sub.last + 1 {
                        lost.push((SubKey(*key), Loss::Gap));
                        break;
                    }
                    sub.last = item.offset;
                }
                if sub.is(FILTERED)
                    && !self.filters.get(key).is_some_and(|filter| filter.matches(item.tags()))
                {
                    sub.set(PRIMED, false);
                    continue;
                }
                let form = match (sub.is(DELTA), sub.is(PRIMED) && follows) {
                    (false, _) => Form::Plain,
                    (true, false) => Form::Whole,
                    (true, true) => Form::Patch,
                };
                let Some(frame) = delivery.frame(sub.variant(form)) else {
                    lost.push((SubKey(*key), Loss::NotJson));
                    break;
                };
                sub.set(PRIMED, sub.is(DELTA));
                if sub.is(RECOVERABLE) && item.offset > 0 && sub.format() == Format::UniSse {
                    out.publication(sub.link, frame, delivery.channel(), item.offset);
                } else {
                    out.send(sub.link, frame);
                }
                sent += 1;
            }
        }
        if let Some(Happening::Published { seq, .. }) = deliveries.last().map(|it| &it.happening) {
            channel.seq = *seq;
        }
        sent
    }

    fn announce(&mut self, out: &mut dyn HubPort, delivery: &Delivery) -> u64 {
        let Some(channel) = self.ids.get(&delivery.id) else { return 0 };
        let mut sent = 0;
        for key in &self.channels[*channel].members {
            let sub = &self.subs[*key as usize];
            if !sub.is(JOINS) {
                continue;
            }
            if let Some(frame) = delivery.frame(sub.variant(Form::Plain)) {
                out.send(sub.link, frame);
                sent += 1;
            }
        }
        sent
    }

    /// Compares the positions of a channel's subscribers with what the home core has sent.
    pub(in crate::gateway) fn compare(
        &self,
        channel: ChannelId,
        top: u64,
        lost: &mut Vec<(SubKey, Loss)>,
    ) {
        let Some(channel) = self.ids.get(&channel) else { return };
        for key in &self.channels[*channel].members {
            let sub = &self.subs[*key as usize];
            if sub.is(POSITIONED) && sub.last < top {
                lost.push((SubKey(*key), Loss::Gap));
            }
        }
    }
}

impl Sub {
    fn variant(&self, form: Form) -> Variant {
        Variant { format: self.format(), compact: self.is(COMPACT), form }
    }
}
