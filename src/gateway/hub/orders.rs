//! What the server API wants of all cores: do something with a user's connections, tell what is
//! there.

use std::sync::Arc;

use super::Hub;
use crate::gateway::hub_port::{ClientKey, Event, HubPort};
use crate::gateway::letters::{Action, CoreInfo, Letter, Survey, UserOrder};
use crate::gateway::wire::Unsubscribe;

impl Hub {
    /// Does something with a user's connections on all cores.
    pub fn order(&mut self, out: &mut dyn HubPort, order: &Arc<UserOrder>) {
        for core in self.others() {
            out.post_urgent(core, Letter::OrderHere(order.clone()));
        }
        self.order_here(out, order);
    }

    /// Asks all cores what is there.
    pub fn survey(&mut self, out: &mut dyn HubPort, survey: &Arc<Survey>) {
        for core in self.others() {
            out.post_urgent(core, Letter::SurveyHere(survey.clone()));
        }
        self.survey_here(survey);
    }

    pub(super) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let here = usize::from(self.core);
        (0..self.placement.cores()).filter(move |core| *core != here)
    }

    pub(super) fn order_here(&mut self, out: &mut dyn HubPort, order: &Arc<UserOrder>) {
        let of = self.users.of(&order.user).filter(|(_, client)| order.concerns(client.id()));
        let clients: Vec<_> = of.map(|(key, client)| (key, client.link())).collect();
        let mut count = 0;
        for (key, link) in clients {
            count += 1;
            match &order.action {
                Action::Unsubscribe { channel, why } => {
                    self.end_matching(out, key, channel.as_deref(), why);
                    // What is not answered yet is the session's to end.
                    out.event(link, Event::Order(order));
                }
                Action::Disconnect(disconnect) => out.event(link, Event::Close(disconnect)),
                Action::Subscribe(_) | Action::Refresh(_) => out.event(link, Event::Order(order)),
            }
        }
        order.done.add(count);
    }

    /// Ends a connection's subscriptions to this channel or to any, as far as they are answered.
    fn end_matching(
        &mut self,
        out: &mut dyn HubPort,
        key: ClientKey,
        channel: Option<&str>,
        why: &Unsubscribe,
    ) {
        let matches = |name: &str| channel.is_none_or(|channel| *channel == *name);
        let all = self.subscriptions(key).filter(|sub| !sub.pending && matches(sub.channel));
        let subs: Vec<_> = all.map(|sub| sub.key).collect();
        for sub in subs {
            self.end(out, key, sub, Some(why));
        }
    }

    pub(super) fn survey_here(&mut self, survey: &Survey) {
        match survey {
            Survey::Channels { pattern, parts } => {
                let matches =
                    |name: &str| pattern.as_ref().is_none_or(|pattern| pattern.is_match(name));
                let channels = self.home.channels().filter(|(name, ..)| matches(name));
                parts.add(channels.map(|(name, count, _)| (name.clone(), count)).collect());
            }
            Survey::Info { parts } => parts.add(CoreInfo {
                clients: self.users.clients(),
                subscriptions: self.locals.len(),
                channels: self.home.active(),
                users: self.users.hashes(),
            }),
        }
    }
}
