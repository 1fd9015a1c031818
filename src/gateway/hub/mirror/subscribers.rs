//! Subscribers come and go, and wait where the server has to be asked first.

use std::sync::Arc;
use std::time::Duration;

use super::Hub;
use crate::gateway::broker::Ticket;
use crate::gateway::home::line::{HEARD, KNOWN, NO_STREAM, Waiting, seconds};
use crate::gateway::hub_port::{HubPort, SubKey};
use crate::gateway::letters::{Letter, SubscribeLetter, SubscribedLetter, UnsubscribeLetter};
use crate::gateway::stream::StreamOptions;
use crate::gateway::wire::Error;

/// A subscriber who waits, and until when.
#[derive(Debug)]
pub(super) struct Deadline {
    at: Duration,
    channel: Arc<str>,
    core: u16,
    sub: SubKey,
    nonce: u64,
}

impl Hub {
    /// Home: one more subscriber.
    pub(in crate::gateway::hub) fn subscribe_mirrored(
        &mut self,
        out: &mut dyn HubPort,
        letter: SubscribeLetter,
    ) {
        let now = out.now();
        let key = self.home.expect(&letter);
        if let Some(options) = &letter.stream {
            let number = self.mirror().number(options);
            self.home.draw_line(key).options = number;
        }
        self.want(key);
        if self.is_settled(key, &letter, None, now) {
            self.mirror().counters.local_recoveries += u64::from(letter.recover.is_some());
            return self.welcome(out, key, letter);
        }
        let deadline = Deadline {
            at: now + self.mirror().limits.deadline,
            channel: letter.channel.clone(),
            core: letter.core,
            sub: letter.sub,
            nonce: letter.nonce,
        };
        self.mirror().deadlines.push_back(deadline);
        let waiting = Waiting { letter: Box::new(letter), settled_by: None };
        self.home.wait(key).subscribers.push(waiting);
        if self.home.draw_line(key).is(HEARD | KNOWN) {
            self.read(out, key);
        }
    }

    /// Whether a subscriber can be answered. `settled_by`: the question for it is answered.
    fn is_settled(
        &mut self,
        key: u32,
        letter: &SubscribeLetter,
        answered: Option<Ticket>,
        now: Duration,
    ) -> bool {
        let Self { home, mirror: Some(mirror), .. } = self else { return false };
        let line = home.draw_line(key);
        let (heard, known) = (line.is(HEARD), line.is(KNOWN));
        // Where nothing is ever read again, who comes without a connection had better know.
        let lenient = mirror.limits.keeps.histories();
        match &letter.stream {
            // Without a connection it gets what comes after the next one.
            None => heard || known || lenient && mirror.ears.is_deaf(&letter.channel),
            Some(_) => known && (answered.is_some() || home.settles(key, letter, now)),
        }
    }

    fn welcome(&mut self, out: &mut dyn HubPort, key: u32, letter: SubscribeLetter) {
        let core = letter.core;
        let (member, channel) = (letter.member.clone(), letter.channel.clone());
        let is_in = |answer: &SubscribedLetter| !answer.is_rejected();
        let (answer, joined) = self.home.welcome(key, letter, out.now());
        let present = member.filter(|member| member.present && is_in(&answer));
        self.post_urgent(out, core.into(), Letter::Subscribed(Box::new(answer)));
        if let Some(member) = present {
            self.add_present(out, &channel, member.client);
        }
        if let Some((client, who)) = joined {
            self.tell_join(out, channel, client, &who);
        }
    }

    /// Answers those who wait and need not any more.
    pub(super) fn let_in(&mut self, out: &mut dyn HubPort, key: u32) {
        self.let_in_by(out, key, None);
    }

    /// The same, after this question was answered.
    pub(super) fn let_in_by(&mut self, out: &mut dyn HubPort, key: u32, answered: Option<Ticket>) {
        let now = out.now();
        let Some(wait) = self.home.line(key).and_then(|line| line.wait.as_mut()) else { return };
        let all = std::mem::take(&mut wait.subscribers);
        for waiting in all {
            let answered = answered.filter(|_| waiting.settled_by == answered);
            match self.is_settled(key, &waiting.letter, answered, now) {
                true => self.welcome(out, key, *waiting.letter),
                false => self.home.wait(key).subscribers.push(waiting),
            }
        }
        self.home.tidy_wait(key);
    }

    /// The options by which a channel is followed. `None`: nobody here has needed a position.
    pub(super) fn options(&mut self, key: u32) -> Option<StreamOptions> {
        let number = self.home.line(key)?.options;
        match number {
            NO_STREAM => None,
            number => self.mirror().options.get(usize::from(number)).copied(),
        }
    }

    /// Home: one subscriber less.
    pub(in crate::gateway::hub) fn unsubscribe_mirrored(
        &mut self,
        out: &mut dyn HubPort,
        letter: &UnsubscribeLetter,
    ) {
        let now = out.now();
        if let Some((key, _)) = self.home.line_of(&letter.channel) {
            self.home.stop_waiting(key, letter.core, letter.sub);
        }
        let Some((left, idle)) = self.home.dismiss(letter) else { return };
        if idle {
            self.linger(&letter.channel, now);
        }
        if let Some(left) = left {
            self.tell_left(out, &letter.channel, left);
        }
    }

    /// Refuses those who have waited too long.
    pub(super) fn refuse_late(&mut self, out: &mut dyn HubPort, now: Duration) -> Option<Duration> {
        while self.mirror().deadlines.front().is_some_and(|deadline| deadline.at <= now) {
            let Some(deadline) = self.mirror().deadlines.pop_front() else { break };
            let Deadline { channel, core, sub, nonce, .. } = deadline;
            let Some((key, line)) = self.home.line_of(&channel) else { continue };
            let waits = line.wait.as_ref().is_some_and(|wait| {
                let is_it = |it: &Waiting| {
                    (it.letter.core, it.letter.sub, it.letter.nonce) == (core, sub, nonce)
                };
                wait.subscribers.iter().any(is_it)
            });
            if !waits {
                continue;
            }
            let Some(letter) = self.home.stop_waiting(key, core, sub) else { continue };
            self.mirror().counters.late += 1;
            let answer = self.home.refuse(key, *letter, Error::INTERNAL);
            self.post_urgent(out, core.into(), Letter::Subscribed(Box::new(answer)));
        }
        self.mirror().deadlines.front().map(|deadline| deadline.at)
    }

    /// The position of a channel was right a moment ago.
    pub(super) fn is_right(&mut self, key: u32, now: Duration) {
        if let Some(line) = self.home.line(key) {
            line.checked = seconds(now);
        }
    }
}
