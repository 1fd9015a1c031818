//! The channels of one core: the meeting point of its connections, of the channels whose home it
//! is, and of the other cores.
//!
//! Owns the three tables (users, subscribers, channels) and the ways between them. Knows no ring,
//! no clock and no thread: it acts through [`HubPort`], and what other cores send comes in
//! through [`Hub::letter`]. What concerns its own core it does at once, by the same code and in
//! the same order as by letters.
//!
//! The invariant that everything rests on: letters from one core to another arrive in the order
//! in which they were posted, and for each subscription the home core gets one `Subscribe` and
//! later one `Unsubscribe`. So the home core always knows who listens, a subscriber gets what was
//! published after its answer and nothing before, and a withdrawal may follow its subscription at
//! once.
//!
//! ```text
//! session ── subscribe ──► local ── Subscribe ──► home     session ── publish ──► home
//!         ◄── event ───── local ◄─ Subscribed ── home     sockets ◄── local ◄── Deliver
//! ```

mod asking;
mod elder;
mod heir;
mod mirror;
mod orders;
mod subscribing;

use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

pub use mirror::MirrorCounters;
pub use subscribing::Subscribe;

use self::heir::Legacy;
use self::mirror::Mirror;
use super::broker;
use super::delivery::Delivery;
use super::format::Format;
use super::handover::{HEIR, Heir};
use super::home::{Home, HomeCounters, HomeLimits};
use super::hub_port::{ClientKey, Event, HubPort, Link, Refused, SubKey};
use super::letters::{ChannelId, ClientId, EnterLetter, Letter, SeatRule};
use super::local::{Locals, Loss, Subscription};
use super::placement::Placement;
use super::seats::Seats;
use super::state::Vault;
use super::users::Users;
use super::wire::{Disconnect, Error, Unsubscribe};

/// How soon a core that missed a publication is told, if its mailbox was full then.
const RETRY: Duration = Duration::from_millis(5);

/// What happened on one core so far. What there is now is in [`Hub::gauges`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubCounters {
    /// Frames queued for subscribers.
    pub sent: u64,
    /// Subscriptions that began.
    pub subscribed: u64,
    /// Subscriptions that ended because publications were lost.
    pub insufficient: u64,
    /// Connections that cannot be sent what is not JSON.
    pub not_json: u64,
    /// Subscribe letters and questions that another core's full mailbox did not take.
    pub letters_refused: u64,
    /// Of the channels whose home this is.
    pub home: HomeCounters,
}

/// What there is on one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubGauges {
    /// Connections.
    pub clients: usize,
    /// Users with connections here; the same user may be on several cores.
    pub users: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Channels whose home this is.
    pub channels: usize,
    /// Of these, channels with subscribers.
    pub active_channels: usize,
    /// What histories take: see [`HomeLimits::history_bytes`].
    pub history_bytes: usize,
    /// Idempotency keys remembered here.
    pub idempotency_keys: usize,
    /// What tag filters of subscriptions take.
    pub filter_bytes: usize,
    /// What subscriptions take besides.
    pub subscription_bytes: usize,
}

/// One core's channels, subscribers and users.
#[derive(Debug)]
pub struct Hub {
    core: u16,
    placement: Placement,
    /// Bytes of tag filters.
    filters_max: usize,
    /// Deliveries of one turn to subscribers of this core.
    turn_deliveries: u64,
    users: Users,
    locals: Locals,
    home: Home,
    seats: Seats,
    /// Set if a broker orders the channels.
    mirror: Option<Box<Mirror>>,
    /// Another process that is about to take over.
    heir: Option<Arc<dyn Heir>>,
    /// What has come of the state of one that is taken over from.
    legacy: Option<Box<Legacy>>,
    /// A core was behind with deliveries, the last time when it had one.
    congested: bool,
    /// Kept for its memory.
    lost: Vec<(SubKey, Loss)>,
    counters: HubCounters,
}

impl Hub {
    /// The hub of one core.
    pub fn new(core: u16, placement: Placement, limits: HomeLimits) -> Self {
        Self {
            core,
            placement,
            filters_max: limits.filter_bytes,
            turn_deliveries: limits.turn_deliveries,
            users: Users::new(placement),
            locals: Locals::new(placement),
            home: Home::new(core, placement, limits),
            seats: Seats::default(),
            mirror: None,
            heir: None,
            legacy: None,
            congested: false,
            lost: Vec::new(),
            counters: HubCounters::default(),
        }
    }

    /// The hub of one core, with channels that a broker orders.
    pub fn with_broker(
        core: u16,
        placement: Placement,
        limits: HomeLimits,
        broker: broker::Limits,
    ) -> Self {
        let mirror = Mirror::new(core, broker, &limits);
        Self { mirror: Some(Box::new(mirror)), ..Self::new(core, placement, limits) }
    }

    /// What happened to channels that a broker orders.
    pub fn mirror_counters(&self) -> Option<MirrorCounters> {
        self.mirror.as_ref().map(|mirror| mirror.counters)
    }

    /// Which core is the home of what.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The connections of this core.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// Channels with subscribers whose home this is, how many, and how often something was
    /// published in each.
    pub fn channels(&self) -> impl Iterator<Item = (&Arc<str>, u32, u64)> {
        self.home.channels()
    }

    /// What subscriptions take, but for their filters.
    pub fn subscription_bytes(&self) -> usize {
        self.locals.bytes()
    }

    /// What happened so far.
    pub fn counters(&self) -> HubCounters {
        HubCounters { home: self.home.counters(), ..self.counters }
    }

    /// Messages that this core has delivered to its subscribers.
    pub fn sent(&self) -> u64 {
        self.counters.sent
    }

    /// What there is.
    pub fn gauges(&self) -> HubGauges {
        HubGauges {
            clients: self.users.clients(),
            users: self.users.users(),
            subscriptions: self.locals.len(),
            channels: self.home.len(),
            active_channels: self.home.active(),
            history_bytes: self.home.history_bytes(),
            idempotency_keys: self.home.idempotency_keys(),
            filter_bytes: self.locals.filter_bytes(),
            subscription_bytes: self.locals.bytes(),
        }
    }

    /// Whether no table has anything in it.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
            && self.locals.is_empty()
            && self.home.is_empty()
            && self.seats.len() == 0
            && self.mirror.as_ref().is_none_or(|mirror| mirror.is_empty())
            && self.legacy.is_none()
    }

    /// The channels whose home this is.
    pub(super) fn home(&mut self) -> &mut Home {
        &mut self.home
    }

    /// Writes down what the channels hold whose home this is.
    pub(super) fn keep(&mut self, now: Duration, vault: &dyn Vault) {
        self.home.keep(now, vault);
    }

    /// A connection has opened its session. It must be taken out with [`Self::disconnect`].
    pub fn connect(
        &mut self,
        link: Link,
        id: ClientId,
        user: &str,
        format: impl Into<Format>,
    ) -> ClientKey {
        self.users.connect(link, id, user, format.into())
    }

    /// A connection is gone: its subscriptions end, and its seat is free. Nothing is sent to it,
    /// and its key is free.
    pub fn disconnect(&mut self, out: &mut dyn HubPort, key: ClientKey) {
        let name = self.users.name_of(key).cloned();
        let Some((mut client, user)) = self.users.disconnect(key).zip(name) else { return };
        while let Some(ended) = self.locals.end_first(&mut client) {
            self.withdraw(out, ended, client.id());
        }
        if client.seated {
            let letter = Letter::Leave { user: user.as_ref().into(), client: client.id() };
            self.post_urgent(out, self.placement.home(&user), letter);
        }
    }

    /// Asks for a seat among the connections of the user, where these are limited. The answer is
    /// [`Event::Entered`], or [`Event::Close`] with [`Disconnect::CONNECTION_LIMIT`]; the latter
    /// also comes when another connection takes the seat. Without this a user may have any number
    /// of connections.
    ///
    /// # Errors
    /// [`Error::TOO_MANY_REQUESTS`]: the user's home core has no room for the letter.
    pub fn enter(
        &mut self,
        out: &mut dyn HubPort,
        key: ClientKey,
        ticket: u64,
        rule: SeatRule,
    ) -> Result<(), Error> {
        let user = self.users.name_of(key).cloned().ok_or(Error::INTERNAL)?;
        let client = self.users.get_mut(key).ok_or(Error::INTERNAL)?;
        let (id, link) = (client.id(), client.link());
        let letter = EnterLetter {
            user: user.as_ref().into(),
            client: id,
            core: self.core,
            link,
            ticket,
            rule,
        };
        client.seated = true;
        let posted = self.post(out, self.placement.home(&user), Letter::Enter(Box::new(letter)));
        if posted.is_err()
            && let Some(client) = self.users.get_mut(key)
        {
            client.seated = false;
        }
        posted
    }

    /// A connection's subscription to a channel, answered or not.
    pub fn subscription(&self, key: ClientKey, channel: &str) -> Option<Subscription<'_>> {
        let sub = self.locals.find(self.users.get(key)?, channel)?;
        self.locals.get(sub)
    }

    /// A connection's subscriptions, the newest first.
    pub fn subscriptions(&self, key: ClientKey) -> impl Iterator<Item = Subscription<'_>> {
        self.users.get(key).into_iter().flat_map(|client| self.locals.of(client))
    }

    /// A letter from another core, or from the control plane.
    pub fn letter(&mut self, out: &mut dyn HubPort, letter: Letter) {
        match letter {
            Letter::Subscribe(letter) => self.subscribe_at_home(out, *letter),
            Letter::Subscribed(letter) => self.subscribed(out, *letter),
            Letter::Unsubscribe(letter) => self.unsubscribe_at_home(out, &letter),
            Letter::Inform(letter) => self.inform_at_home(out, *letter),
            Letter::Deliver(delivery) => self.deliver(out, from_ref(&delivery)),
            Letter::DeliverAll(deliveries) => self.deliver(out, &deliveries),
            Letter::Positions(tops) => self.compare(out, &tops),
            Letter::Ask(ask) => self.forward(out, ask),
            Letter::Asks(asks) => self.forward_all(out, asks),
            Letter::Answer(letter) => {
                let event = Event::Answered { ticket: letter.ticket, answer: letter.answer };
                out.event(letter.link, event);
            }
            Letter::Order(order) => self.order(out, &order),
            Letter::OrderHere(order) => self.order_here(out, &order),
            Letter::Survey(survey) => self.survey(out, &survey),
            Letter::SurveyHere(survey) => self.survey_here(&survey),
            Letter::Enter(letter) => self.enter_at_home(out, *letter),
            Letter::Leave { user, client } => self.seats.leave(&user, client),
            Letter::Entered { link, ticket } => out.event(link, Event::Entered { ticket }),
            Letter::Evict { link, disconnect } => out.event(link, Event::Close(&disconnect)),
            Letter::Batch(batch) => self.batch(out, batch),
            Letter::Handover(letter) => self.hand_over(out, *letter),
        }
    }

    /// To be called once per turn. Returns the time at which it wants to be called again.
    pub fn turn(&mut self, out: &mut dyn HubPort) -> Option<Duration> {
        let now = out.now();
        let (tops, next) = self.home.sweep(now);
        for (core, tops) in tops {
            // A core that does not take them gets those of the next sweep.
            let _ = self.post_tops(out, core, tops);
        }
        let next = match self.is_mirror() {
            true => [next, self.turn_mirrored(out)].into_iter().flatten().min(),
            false => next,
        };
        if !self.home.has_missed() {
            return next;
        }
        let mut told = Vec::new();
        for (core, tops) in self.home.missed() {
            if self.post_tops(out, core, tops).is_ok() {
                told.push(core);
            }
        }
        self.home.told(&told);
        match self.home.has_missed() {
            true => Some(next.unwrap_or(Duration::MAX).min(now + RETRY)),
            false => next,
        }
    }

    fn post_tops(
        &mut self,
        out: &mut dyn HubPort,
        core: u16,
        tops: Vec<(ChannelId, u64)>,
    ) -> Result<(), Refused> {
        if core == self.core {
            self.compare(out, &tops);
            return Ok(());
        }
        if core == HEIR {
            // It looks after its positions by itself.
            return Ok(());
        }
        out.post_reserved(core.into(), Letter::Positions(tops))
    }

    /// Posts a letter, or handles it if it is for this core.
    fn post(&mut self, out: &mut dyn HubPort, core: usize, letter: Letter) -> Result<(), Error> {
        if core == usize::from(self.core) {
            self.letter(out, letter);
            return Ok(());
        }
        out.post(core, letter).map_err(|Refused| {
            self.counters.letters_refused += 1;
            Error::TOO_MANY_REQUESTS
        })
    }

    fn post_urgent(&mut self, out: &mut dyn HubPort, core: usize, letter: Letter) {
        if core == usize::from(self.core) {
            self.letter(out, letter);
        } else {
            out.post_urgent(core, letter);
        }
    }

    fn enter_at_home(&mut self, out: &mut dyn HubPort, letter: EnterLetter) {
        let (core, link, ticket) = (letter.core, letter.link, letter.ticket);
        let (given, evicted) = self.seats.enter(letter);
        let disconnect = Disconnect::CONNECTION_LIMIT;
        for seat in evicted {
            let letter =
                Letter::Evict { link: seat.link, disconnect: Box::new(disconnect.clone()) };
            self.post_urgent(out, seat.core.into(), letter);
        }
        let answer = match given {
            true => Letter::Entered { link, ticket },
            false => Letter::Evict { link, disconnect: Box::new(disconnect) },
        };
        self.post_urgent(out, core.into(), answer);
    }

    /// Sends what happened in a channel of ours to all cores with subscribers.
    fn fan_out(&mut self, out: &mut dyn HubPort, key: u32, delivery: &Arc<Delivery>) {
        self.fan_out_all(out, key, from_ref(delivery));
    }

    /// Likewise publications that follow each other.
    fn fan_out_all(&mut self, out: &mut dyn HubPort, key: u32, deliveries: &[Arc<Delivery>]) {
        let mut here = false;
        let mut n = 0;
        while let Some(core) = self.home.listener(key, n) {
            n += 1;
            if core == HEIR {
                deliveries.iter().for_each(|delivery| self.tell_heir(key, delivery));
                continue;
            }
            if core == self.core {
                here = true;
            } else if out.post_reserved(core.into(), Letter::of_deliveries(deliveries)).is_err() {
                deliveries.iter().for_each(|delivery| self.home.refused(key, n - 1, delivery));
            }
            self.congested |= core != self.core && out.is_behind(core.into());
        }
        // Last, because who is lost here changes the list.
        if here {
            self.deliver(out, deliveries);
        }
    }

    /// A core with subscribers to a channel of ours that is behind with deliveries: who publishes
    /// there waits for it, or its mailbox would lose some of others.
    fn behind(&mut self, out: &mut dyn HubPort, channel: &str) -> Option<u16> {
        if !self.congested {
            return None;
        }
        self.congested = self.others().any(|core| out.is_behind(core));
        let mut listeners =
            self.home.listeners(channel).filter(|core| ![self.core, HEIR].contains(core));
        listeners.find(|core| out.is_behind((*core).into()))
    }

    fn deliver(&mut self, out: &mut dyn HubPort, deliveries: &[Arc<Delivery>]) {
        let mut lost = std::mem::take(&mut self.lost);
        self.counters.sent += self.locals.deliver(out, deliveries, &mut lost);
        self.lose(out, lost);
    }

    fn compare(&mut self, out: &mut dyn HubPort, tops: &[(ChannelId, u64)]) {
        let mut lost = std::mem::take(&mut self.lost);
        for (channel, top) in tops {
            self.locals.compare(*channel, *top, &mut lost);
        }
        self.lose(out, lost);
    }

    /// Ends what cannot go on. A leave that this tells others never loses anybody.
    fn lose(&mut self, out: &mut dyn HubPort, mut lost: Vec<(SubKey, Loss)>) {
        for (sub, loss) in lost.drain(..) {
            let Some(client) = self.locals.client(sub) else { continue };
            match loss {
                Loss::Gap => {
                    self.counters.insufficient += 1;
                    self.end(out, client, sub, Some(&Unsubscribe::INSUFFICIENT_STATE));
                }
                Loss::NotJson => {
                    self.counters.not_json += 1;
                    if let Some(client) = self.users.get(client) {
                        let close = Event::Close(&Disconnect::INAPPROPRIATE_PROTOCOL);
                        out.event(client.link(), close);
                    }
                }
            }
        }
        self.lost = lost;
    }
}
