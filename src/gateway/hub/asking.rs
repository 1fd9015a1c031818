//! Questions about channels, on their way to the home core, and the answers on their way back.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Hub;
use crate::gateway::delivery::{Delivery, Happening};
use crate::gateway::home::Published;
use crate::gateway::hub_port::HubPort;
use crate::gateway::letters::{Answer, AnswerLetter, Ask, Asker, Letter, Question};
use crate::gateway::wire::Error;

impl Hub {
    /// Asks the home core of a channel: publish, history, presence. The asker is answered, perhaps
    /// before this returns; a connection by [`Event::Answered`](crate::gateway::hub_port::Event).
    ///
    /// # Errors
    /// [`Error::TOO_MANY_REQUESTS`]: the home core has no room for the letter. A connection gets no
    /// event then; the control plane is answered [`Error::INTERNAL`].
    pub fn ask(&mut self, out: &mut dyn HubPort, ask: Ask) -> Result<(), Error> {
        let home = self.placement.home(&ask.channel);
        if home == usize::from(self.core) {
            self.ask_at_home(out, ask);
            return Ok(());
        }
        self.post(out, home, Letter::Ask(Box::new(ask)))
    }

    /// A question from elsewhere, for this core or for another. It has found room once, so there
    /// are no more of these than were asked.
    pub(super) fn forward(&mut self, out: &mut dyn HubPort, ask: Box<Ask>) {
        let home = self.placement.home(&ask.channel);
        match home == usize::from(self.core) {
            true => self.ask_at_home(out, *ask),
            false => out.post_urgent(home, Letter::Ask(ask)),
        }
    }

    /// Questions of one asker to one home core, for this core or for another. They keep their order
    /// on every way: where one waits, those after it wait with it. Publications of one channel that
    /// follow each other leave together. What makes more deliveries than leave well in one turn
    /// goes on in the next one.
    pub(super) fn forward_all(&mut self, out: &mut dyn HubPort, mut asks: VecDeque<Ask>) {
        let Some(first) = asks.front() else { return };
        let home = self.placement.home(&first.channel);
        if home != usize::from(self.core) {
            return out.post_urgent(home, Letter::Asks(asks));
        }
        let enough = self.counters.sent + self.turn_deliveries;
        let mut run = Run::default();
        let mut next = self.core;
        for _ in 0..ASKS_AT_ONCE {
            let Some(ask) = asks.front() else { break };
            if !run.takes(ask) {
                self.send_run(out, &mut run);
            }
            if self.counters.sent + run.receivers >= enough {
                break;
            }
            if let Some(core) = self.waits_for(out, ask) {
                next = core;
                break;
            }
            match asks.pop_front() {
                Some(Ask { channel, question: Question::Publish(publish), asker })
                    if !self.is_mirror() =>
                {
                    let (now, random) = (out.now(), out.random());
                    let published = self.home.publish(&channel, publish, random, now);
                    run.add(channel, asker, published);
                }
                Some(ask) => self.do_at_home(out, ask),
                None => break,
            }
        }
        self.send_run(out, &mut run);
        if !asks.is_empty() {
            out.post_urgent(next.into(), Letter::Asks(asks));
        }
    }

    /// Sends a run to all cores with subscribers, and answers those who published it.
    fn send_run(&mut self, out: &mut dyn HubPort, run: &mut Run) {
        if !run.deliveries.is_empty() {
            self.fan_out_all(out, run.key, &run.deliveries);
        }
        run.deliveries.clear();
        (run.bytes, run.receivers) = (0, 0);
        for (asker, answer) in run.answers.drain(..) {
            self.answer(out, asker, Ok(answer));
        }
    }

    /// Home: answers, or has a publication wait for a core that is behind: the question goes there
    /// and comes back when that core has worked off what was before it.
    fn ask_at_home(&mut self, out: &mut dyn HubPort, ask: Ask) {
        match self.waits_for(out, &ask) {
            Some(core) => out.post_urgent(core.into(), Letter::Ask(Box::new(ask))),
            None => self.do_at_home(out, ask),
        }
    }

    fn waits_for(&mut self, out: &mut dyn HubPort, ask: &Ask) -> Option<u16> {
        match ask.question {
            Question::Publish(_) => self.behind(out, &ask.channel),
            _ => None,
        }
    }

    fn do_at_home(&mut self, out: &mut dyn HubPort, ask: Ask) {
        if self.is_mirror() && !self.knows(&ask.question) {
            return self.ask_mirrored(out, ask);
        }
        let Ask { channel, question, asker } = ask;
        let (now, random) = (out.now(), out.random());
        let answer = match question {
            Question::Publish(publish) => {
                let published = self.home.publish(&channel, publish, random, now);
                if let Some((key, delivery)) = published.delivery {
                    self.fan_out(out, key, &delivery);
                }
                Ok(published.answer)
            }
            Question::History { stream, read } => {
                self.home.history(&channel, &stream, &read, random, now).map(Answer::History)
            }
            Question::HistoryRemove => {
                self.home.remove_history(&channel);
                self.tell_removed(&channel);
                Ok(Answer::Done)
            }
            Question::Presence => Ok(Answer::Presence(self.home.presence(&channel))),
            Question::Members { encoding, max } => {
                self.home.members(&channel, encoding, max).map(Answer::Members)
            }
            Question::PresenceStats => {
                Ok(Answer::PresenceStats(self.home.presence_stats(&channel)))
            }
        };
        self.answer(out, asker, answer);
    }

    /// Whether a question is about what a broker does not keep, and each node for itself.
    fn knows(&self, question: &Question) -> bool {
        let members = matches!(
            question,
            Question::Presence | Question::Members { .. } | Question::PresenceStats
        );
        members && self.mirror.as_ref().is_some_and(|mirror| !mirror.keeps().members())
    }

    pub(super) fn answer(
        &mut self,
        out: &mut dyn HubPort,
        asker: Asker,
        answer: Result<Answer, Error>,
    ) {
        match asker {
            Asker::Client { core, link, ticket } => {
                let letter = AnswerLetter { link, ticket, answer };
                self.post_urgent(out, core.into(), Letter::Answer(Box::new(letter)));
            }
            Asker::Control(reply) => reply.answer(answer),
            Asker::Nobody => {}
        }
    }
}

/// Publications of one channel, one after the other, that have not left.
#[derive(Default)]
struct Run {
    channel: Option<Arc<str>>,
    /// The channel's key, once somebody listens.
    key: u32,
    deliveries: Vec<Arc<Delivery>>,
    answers: Vec<(Asker, Answer)>,
    /// Bytes of their payloads.
    bytes: usize,
    /// Over all of them.
    receivers: u64,
}

impl Run {
    /// Whether a question may be answered before this has left.
    fn takes(&self, ask: &Ask) -> bool {
        let follows = matches!(ask.question, Question::Publish(_))
            && self.channel.as_ref().is_some_and(|channel| *channel == ask.channel);
        self.answers.is_empty() || (follows && self.bytes < RUN_BYTES)
    }

    fn add(&mut self, channel: Arc<str>, asker: Asker, Published { answer, delivery }: Published) {
        self.channel = Some(channel);
        if let Some((key, delivery)) = delivery {
            if let Happening::Published { item, .. } = delivery.happening() {
                self.bytes += item.data.len();
            }
            self.key = key;
            self.deliveries.push(delivery);
        }
        if let Answer::Published { receivers, .. } = answer {
            self.receivers += u64::from(receivers);
        }
        self.answers.push((asker, answer));
    }
}

/// Questions in one letter that a home core answers in one turn.
const ASKS_AT_ONCE: usize = 64;

/// Bytes of publications that leave together. They take a letter to each core with subscribers,
/// whose mailbox has room for much more.
const RUN_BYTES: usize = 64 << 10;
