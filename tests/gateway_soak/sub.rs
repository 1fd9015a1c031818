//! One subscription of a client, and the comparison of what it sees with the truth.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ringhold::gateway::delta;

use super::element::{Granted, Pub};
use super::plan::{HISTORY, HISTORY_TTL};
use super::tally::Counts;
use super::truth::{Truth, content};

/// A place in a stream that a client knows.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) offset: u64,
    pub(crate) epoch: String,
    pub(crate) at: Instant,
}

/// From the subscribe command on.
#[derive(Debug, Default)]
pub(crate) struct Sub {
    pub(crate) channel: usize,
    pub(crate) server_side: bool,
    /// The server has answered.
    pub(crate) live: bool,
    /// The unsubscribe command was sent.
    pub(crate) leaving: bool,
    /// JSON payloads are strings.
    pub(crate) delta: bool,
    json: bool,
    /// What was there for certain when the client asked: it sees nothing before, and all that
    /// comes later.
    floor: u64,
    /// What was begun when the answer came: what the client sees first is no later than the next.
    ceiling: u64,
    pub(crate) position: Option<u64>,
    epoch: String,
    /// Unix time in seconds; 0 is never.
    pub(crate) expire_at: i64,
    pub(crate) refresh_at: Option<Instant>,
    members: HashSet<String>,
}

impl Sub {
    /// A subscription that is asked for now.
    pub(crate) fn asked(channel: usize, json: bool, truth: &Truth) -> Self {
        Self { channel, json, floor: truth.channels[channel].top, ..Self::default() }
    }

    /// A subscription that the server API asked for some time ago.
    pub(crate) fn ordered(channel: usize, json: bool) -> Self {
        Self { channel, json, server_side: true, ..Self::default() }
    }

    /// The server has answered.
    pub(crate) fn granted(
        &mut self,
        granted: Granted,
        since: Option<Known>,
        truth: &mut Truth,
        counts: &Counts,
    ) -> Result<(), String> {
        let name = truth.channels[self.channel].name.clone();
        self.live = true;
        self.delta = granted.delta;
        self.ceiling = truth.begun(self.channel);
        counts.subscribed.one();
        if !truth.channels[self.channel].kind.has_stream() {
            return match granted.positioned || !granted.publications.is_empty() {
                true => Err(format!("{name}: positioned without a stream")),
                false => Ok(()),
            };
        }
        if !granted.positioned || granted.was_recovering != since.is_some() {
            return Err(format!("{name}: granted otherwise than asked: {granted:?}"));
        }
        truth.epoch(self.channel, &granted.epoch)?;
        self.epoch = granted.epoch;
        let recovered = granted.publications.len() as u64;
        match since {
            Some(since) if granted.recovered => {
                counts.recoveries.one();
                counts.recovered_publications.add(recovered);
                self.position = Some(since.offset);
                for publication in granted.publications {
                    self.publication(publication, truth, counts)?;
                }
            }
            since => {
                if recovered > 0 {
                    return Err(format!("{name}: publications, and yet nothing recovered"));
                }
                if let Some(since) = since {
                    counts.resynced.one();
                    let removed = truth.channels[self.channel].removed;
                    let missed = granted.offset.saturating_sub(since.offset);
                    let kept = removed.is_none_or(|at| at.elapsed() > REMOVED_LATELY)
                        && since.at.elapsed() < Duration::from_secs(HISTORY_TTL / 2);
                    if since.offset > granted.offset || kept && missed <= HISTORY {
                        let (was, is) = (since.offset, granted.offset);
                        return Err(format!("{name}: not recovered from {was}, which is at {is}"));
                    }
                }
                self.position = Some(granted.offset);
            }
        }
        let position = self.position.unwrap_or(0);
        let top = &mut truth.channels[self.channel].top;
        if position < self.floor {
            let floor = self.floor;
            return Err(format!("{name}: at {position}, with {floor} published before it asked"));
        }
        *top = position.max(*top);
        if position > self.ceiling {
            return Err(format!("{name}: at {position}, with only {} published", self.ceiling));
        }
        Ok(())
    }

    /// A publication came: it must be the next.
    pub(crate) fn publication(
        &mut self,
        publication: Pub,
        truth: &mut Truth,
        counts: &Counts,
    ) -> Result<(), String> {
        let name = truth.channels[self.channel].name.clone();
        let Pub { offset, delta, mut data } = publication;
        if self.delta && self.json {
            let text: String = serde_json::from_slice(&data)
                .map_err(|_| format!("{name}: no string, although deltas were agreed on"))?;
            data = text.into_bytes();
        }
        if delta {
            counts.patches.one();
            let base = self.position.and_then(|at| truth.number_at(self.channel, at));
            let base = base.ok_or_else(|| format!("{name} {offset}: a patch of nothing"))?;
            let base = content(self.channel, base);
            data = delta::apply(base.as_bytes(), &data, 1 << 20)
                .map_err(|error| format!("{name} {offset}: the patch does not fit: {error:?}"))?;
        }
        let place = truth.seen(self.channel, &data, offset)?;
        let is_next = match self.position {
            Some(position) => place == position + 1,
            None => place > self.floor && place <= self.ceiling + 1,
        };
        if !is_next {
            return Err(format!(
                "{name}: {place} came behind {:?}; subscribed between {} and {}",
                self.position, self.floor, self.ceiling
            ));
        }
        self.position = Some(place);
        counts.checked.one();
        Ok(())
    }

    pub(crate) fn join(&mut self, client: String) -> Result<(), String> {
        match self.members.insert(client) {
            true => Ok(()),
            false => Err(format!("channel {}: somebody joins twice", self.channel)),
        }
    }

    pub(crate) fn leave(&mut self, client: &str) {
        self.members.remove(client);
    }

    /// Whether nothing that was published is missing.
    pub(crate) fn is_at_top(&self, truth: &Truth) -> bool {
        let top = truth.channels[self.channel].top;
        self.live && self.position.map_or(top <= self.ceiling, |position| position >= top)
    }

    /// What to recover from.
    pub(crate) fn known(&self) -> Option<Known> {
        let offset = self.position.filter(|_| !self.epoch.is_empty())?;
        Some(Known { offset, epoch: self.epoch.clone(), at: Instant::now() })
    }
}

/// Long enough for whoever was away at the removal.
const REMOVED_LATELY: Duration = Duration::from_secs(HISTORY_TTL);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::truth::Kind;

    /// A stream with five publications at these offsets, and a subscription at the second.
    fn stream() -> (Truth, Sub, Counts) {
        let mut truth = Truth::new(1);
        let channel = truth.of(Kind::Stream)[0];
        for number in 1..=5 {
            truth.publish(channel);
            truth.accepted(channel, number, Some((number as u64, "epoch"))).unwrap();
        }
        truth.channels[channel].top = 2;
        let mut sub = Sub::asked(channel, true, &truth);
        let granted = granted(2, false);
        sub.granted(granted, None, &mut truth, &Counts::default()).unwrap();
        (truth, sub, Counts::default())
    }

    fn granted(offset: u64, was_recovering: bool) -> Granted {
        let epoch = "epoch".to_owned();
        Granted { offset, epoch, positioned: true, was_recovering, ..Granted::default() }
    }

    fn sent(channel: usize, number: usize, offset: u64) -> Pub {
        Pub { offset, delta: false, data: content(channel, number).into_bytes() }
    }

    #[test]
    fn a_client_notices_gaps_repetitions_and_other_content() {
        let (mut truth, mut sub, counts) = stream();
        let channel = sub.channel;
        sub.publication(sent(channel, 3, 3), &mut truth, &counts).unwrap();
        for (what, publication) in [
            ("a repetition", sent(channel, 3, 3)),
            ("a gap", sent(channel, 5, 5)),
            ("an older one", sent(channel, 1, 1)),
            ("the content of another", sent(channel, 5, 4)),
            ("another channel's", sent(channel + 1, 4, 4)),
            ("what nobody published", sent(channel, 6, 6)),
            ("a patch of something else", Pub { delta: true, ..sent(channel, 4, 4) }),
        ] {
            let seen = sub.publication(publication, &mut truth, &counts);
            assert!(seen.is_err(), "{what} passes");
        }
        assert!(!sub.is_at_top(&truth));
        sub.publication(sent(channel, 4, 4), &mut truth, &counts).unwrap();
        sub.publication(sent(channel, 5, 5), &mut truth, &counts).unwrap();
        assert!(sub.is_at_top(&truth));
        assert!(truth.refused(channel, 5).is_err(), "an error, and yet published");
    }

    #[test]
    fn a_client_notices_what_it_should_have_been_given() {
        let (mut truth, sub, counts) = stream();
        truth.channels[sub.channel].top = 5;
        let since = || sub.known();
        let mut late = Sub::asked(sub.channel, true, &truth);
        let old = late.granted(granted(4, false), None, &mut truth, &counts);
        assert!(old.is_err(), "older than what was published before it asked");
        let lost = late.granted(granted(5, true), since(), &mut truth, &counts);
        assert!(lost.is_err(), "not recovered, although it is kept");
        let other = Granted { epoch: "other".to_owned(), ..granted(5, false) };
        assert!(late.granted(other, None, &mut truth, &counts).is_err(), "another epoch");
        let publications = vec![sent(sub.channel, 3, 3), sent(sub.channel, 5, 5)];
        let gap = Granted { recovered: true, publications, ..granted(2, true) };
        assert!(late.granted(gap, since(), &mut truth, &counts).is_err(), "a gap in a recovery");
    }
}
