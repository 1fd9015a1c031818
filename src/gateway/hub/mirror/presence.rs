//! Who is in channels, on all nodes: the home core tells the broker who comes and goes, and from
//! time to time who is still there, for whole channels and not one by one.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;

use super::{Hub, PIECE, Pending};
use crate::gateway::broker::{Absent, Present, Request};
use crate::gateway::hub_port::HubPort;
use crate::gateway::letters::{ClientId, InformLetter, Who};
use crate::gateway::presence::Left;

/// A member is renewed so often while it lives.
const RENEWALS: u32 = 3;

impl Hub {
    /// Somebody is in a channel from here on, or is seen otherwise. What gets lost is made good
    /// when the channel is renewed.
    pub(super) fn add_present(
        &mut self,
        out: &mut dyn HubPort,
        channel: &Arc<str>,
        client: ClientId,
    ) {
        self.add_all(out, channel, &[client]);
    }

    fn add_all(&mut self, out: &mut dyn HubPort, channel: &Arc<str>, clients: &[ClientId]) {
        if !self.mirror().limits.keeps.members() {
            return;
        }
        let Some((key, _)) = self.home.line_of(channel) else { return };
        let Some(roster) = self.home.roster(key) else { return };
        let present = |client: &ClientId| {
            let who = roster.who(*client)?;
            let info = who.wire(*client).encode_to_vec().into();
            Some(Present { client: *client, user: who.user.clone(), info })
        };
        let members: Vec<_> = clients.iter().filter_map(present).collect();
        if members.is_empty() {
            return;
        }
        self.close(channel);
        let channel = channel.clone();
        let add = |ticket| Request::PresenceAdd(ticket, channel, members);
        let _ = self.ask_broker(out, Pending::Nothing, add);
    }

    /// Tells all nodes that somebody came.
    pub(super) fn tell_join(
        &mut self,
        out: &mut dyn HubPort,
        channel: Arc<str>,
        client: ClientId,
        who: &Who,
    ) {
        let info = who.wire(client).encode_to_vec().into();
        let _ = self.tell_broker(out, Request::Join(channel, info));
    }

    /// Tells all nodes that somebody went.
    pub(super) fn tell_left(&mut self, out: &mut dyn HubPort, channel: &Arc<str>, left: Left) {
        let Left { client, who, present, announced } = left;
        if present && self.mirror().limits.keeps.members() {
            self.close(channel);
            let absent = vec![Absent { client, user: who.user.clone() }];
            let channel = channel.clone();
            let remove = |ticket| Request::PresenceRemove(ticket, channel, absent);
            let _ = self.ask_broker(out, Pending::Nothing, remove);
        }
        if announced {
            let info = who.wire(client).encode_to_vec().into();
            let _ = self.tell_broker(out, Request::Leave(channel.clone(), info));
        }
    }

    /// Home: what others see of a member has changed.
    pub(in crate::gateway::hub) fn inform_at_home(
        &mut self,
        out: &mut dyn HubPort,
        letter: InformLetter,
    ) {
        let whom = self.mirror.as_ref().map(|_| (letter.channel.clone(), letter.client));
        self.home.inform(letter);
        if let Some((channel, client)) = whom {
            self.add_present(out, &channel, client);
        }
    }

    /// Says of some channels who is still there.
    pub(super) fn renew_presence(
        &mut self,
        out: &mut dyn HubPort,
        now: Duration,
    ) -> Option<Duration> {
        let Self { home, mirror: Some(mirror), .. } = self else { return None };
        if !mirror.limits.keeps.members() {
            return None;
        }
        let (period, lines) = (mirror.limits.presence_ttl / RENEWALS, home.lines_end());
        for key in mirror.renewals.step(lines, period, now) {
            if self.home.line(key).is_some() {
                self.renew_channel(out, key);
            }
        }
        self.mirror().renewals.due(lines)
    }

    fn renew_channel(&mut self, out: &mut dyn HubPort, key: u32) {
        let Some(roster) = self.home.roster(key) else { return };
        let clients: Vec<_> = roster.shown().map(|(client, _)| client).collect();
        let Some(channel) = self.home.name(key).cloned() else { return };
        for piece in clients.chunks(PIECE) {
            let pending = Pending::Renewal { channel: channel.clone() };
            let (channel, piece) = (channel.clone(), piece.to_vec());
            let renew = |ticket| Request::PresenceRenew(ticket, channel, piece);
            if self.ask_broker(out, pending, renew).is_err() {
                return;
            }
        }
    }

    /// These were not there any more.
    pub(super) fn missing(
        &mut self,
        out: &mut dyn HubPort,
        channel: &Arc<str>,
        clients: &[ClientId],
    ) {
        for piece in clients.chunks(PIECE) {
            self.add_all(out, channel, piece);
        }
    }
}
