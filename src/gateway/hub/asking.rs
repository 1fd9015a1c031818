//! Questions about channels, on their way to the home core, and the answers on their way back.

use super::Hub;
use crate::gateway::letters::{Answer, AnswerLetter, Ask, Asker, Letter, Question};
use crate::gateway::outside::Outside;
use crate::gateway::wire::Error;

impl Hub {
    /// Asks the home core of a channel: publish, history, presence. The asker is answered, perhaps
    /// before this returns; a connection by [`Event::Answered`](crate::gateway::outside::Event).
    ///
    /// # Errors
    /// [`Error::TOO_MANY_REQUESTS`]: the home core has no room for the letter. A connection gets no
    /// event then; the control plane is answered [`Error::INTERNAL`].
    pub fn ask(&mut self, out: &mut dyn Outside, ask: Ask) -> Result<(), Error> {
        let home = self.placement.home(&ask.channel);
        if home == usize::from(self.core) {
            self.ask_at_home(out, ask);
            return Ok(());
        }
        self.post(out, home, Letter::Ask(Box::new(ask)))
    }

    /// A question from elsewhere, for this core or for another. It has found room once, so there
    /// are no more of these than were asked.
    pub(super) fn forward(&mut self, out: &mut dyn Outside, ask: Box<Ask>) {
        let home = self.placement.home(&ask.channel);
        match home == usize::from(self.core) {
            true => self.ask_at_home(out, *ask),
            false => out.post_urgent(home, Letter::Ask(ask)),
        }
    }

    /// Home: answers, or has a publication wait for a core that is behind: the question goes there
    /// and comes back when that core has worked off what was before it.
    fn ask_at_home(&mut self, out: &mut dyn Outside, ask: Ask) {
        if matches!(ask.question, Question::Publish(_))
            && let Some(core) = self.behind(out, &ask.channel)
        {
            return out.post_urgent(core.into(), Letter::Ask(Box::new(ask)));
        }
        if self.mirror.is_some() {
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

    pub(super) fn answer(
        &mut self,
        out: &mut dyn Outside,
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
