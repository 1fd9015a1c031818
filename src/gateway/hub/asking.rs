//! Questions about channels, on their way to the home core, and the answers on their way back.

use std::collections::VecDeque;

use super::Hub;
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
    /// on every way: where one waits, those after it wait with it. What makes more deliveries than
    /// leave well in one turn goes on in the next one.
    pub(super) fn forward_all(&mut self, out: &mut dyn HubPort, mut asks: VecDeque<Ask>) {
        let Some(first) = asks.front() else { return };
        let home = self.placement.home(&first.channel);
        if home != usize::from(self.core) {
            return out.post_urgent(home, Letter::Asks(asks));
        }
        let enough = self.counters.sent + DELIVERIES_AT_ONCE;
        for _ in 0..ASKS_AT_ONCE {
            let Some(ask) = asks.pop_front() else { return };
            if let Some(core) = self.waits_for(out, &ask) {
                asks.push_front(ask);
                return out.post_urgent(core.into(), Letter::Asks(asks));
            }
            self.do_at_home(out, ask);
            if self.counters.sent >= enough {
                break;
            }
        }
        if !asks.is_empty() {
            out.post_urgent(self.core.into(), Letter::Asks(asks));
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

/// Questions in one letter that a home core answers in one turn, and deliveries on this core after
/// which it leaves the rest to the next one: publications that leave together cost a subscriber one
/// send, and others wait meanwhile.
const ASKS_AT_ONCE: usize = 64;
const DELIVERIES_AT_ONCE: u64 = 16_384;
