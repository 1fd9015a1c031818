//! What comes through channels.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::Hub;
use crate::gateway::broker::Message;
use crate::gateway::delivery::{Happening, Item};
use crate::gateway::home::line::{BEHIND, FORKED, Held, KNOWN, VERIFY};
use crate::gateway::hub_port::HubPort;
use crate::gateway::letters::{ClientId, Who};
use crate::gateway::stream::Epoch;
use crate::gateway::wire::messages::{ClientInfo, Publication};

/// A publication as another server keeps it. `None` if it is none.
pub(super) fn item(data: &Bytes, offset: u64, now: Duration) -> Option<Item> {
    timed_item(data, offset, now).map(|(item, _)| item)
}

/// The same, and when it was published, in milliseconds since 1970; 0: nobody says.
fn timed_item(data: &Bytes, offset: u64, now: Duration) -> Option<(Item, i64)> {
    let Publication { data, info, tags, version, time, channel, .. } =
        Publication::decode(data.clone()).ok()?;
    let mut item = Item::new(now, data, info.map(Box::new), tags, version);
    item.offset = offset;
    if !channel.is_empty() {
        item = item.in_channel(&channel);
    }
    Some((item, time))
}

/// By which two publications are told apart; never 0.
pub(super) fn fingerprint(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(data);
    hasher.finish().max(1)
}

/// Somebody in a channel as another server keeps it. `None` if its connection has no id.
pub(in crate::gateway::hub) fn member(info: &Bytes) -> Option<(ClientId, Who)> {
    let ClientInfo { user, client, conn_info, chan_info } =
        ClientInfo::decode(info.clone()).ok()?;
    // No longer message is held on to.
    let own = |raw: Bytes| Bytes::copy_from_slice(&raw);
    let (conn_info, chan_info) = (own(conn_info), own(chan_info));
    Some((ClientId::parse(&client)?, Who { user: user.into(), conn_info, chan_info }))
}

impl Hub {
    /// Something came through a channel.
    pub(super) fn message(&mut self, out: &mut dyn HubPort, channel: &str, message: Message) {
        self.mirror().counters.messages += 1;
        let Some((key, _)) = self.home.line_of(channel) else { return };
        let now = out.now();
        match message {
            Message::Published { epoch, offset, data } if offset > 0 => {
                match timed_item(&data, offset, now) {
                    Some((item, time)) => {
                        self.published(out, key, epoch, (item, fingerprint(&data)));
                        self.notice_lag(out, key, offset, time);
                    }
                    None => self.spoilt(key),
                }
            }
            Message::Published { data, .. } | Message::Passed(data) => match item(&data, 0, now) {
                Some(item) => self.pass_on(out, key, item),
                None => self.spoilt(key),
            },
            Message::Join(info) => {
                let join = member(&info).map(|(client, who)| Happening::Join(client, who));
                self.announce(out, key, join);
            }
            Message::Leave(info) => {
                let leave = member(&info).map(|(client, who)| Happening::Leave(client, who));
                self.announce(out, key, leave);
            }
            Message::Removed => self.home.remove_history(channel),
        }
    }

    /// A message is none.
    fn spoilt(&mut self, key: u32) {
        self.mirror().counters.malformed += 1;
        if let Some(channel) = self.home.name(key).cloned() {
            self.doubt(&channel, false);
        }
    }

    /// A publication that is the newest here and came later than it may: the server may have more
    /// behind it already, which is then read from its history.
    fn notice_lag(&mut self, out: &mut dyn HubPort, key: u32, offset: u64, time: i64) {
        let most = self.mirror().position_lag.as_millis();
        let lag = u128::try_from(out.unix_millis().saturating_sub(time)).unwrap_or(0);
        let newest = self.home.position(key).is_some_and(|top| top.offset == offset);
        if most > 0 && time > 0 && lag > most && newest {
            self.mirror().counters.lags += 1;
            if let Some(channel) = self.home.name(key).cloned() {
                self.doubt(&channel, false);
            }
        }
    }

    /// A publication of a history.
    fn published(
        &mut self,
        out: &mut dyn HubPort,
        key: u32,
        epoch: Epoch,
        (item, print): (Item, u64),
    ) {
        let Some(line) = self.home.line(key) else { return };
        if !line.is(KNOWN) {
            // Nobody here has a position so far.
            line.print = line.print.max(item.offset);
            let wanted = line.wait.as_ref().is_some_and(|wait| wait.wants_position());
            let held = Held { epoch, item: item.clone(), print, told: true };
            if wanted && !self.home.hold(key, held) {
                self.mirror().counters.duplicates += 1;
                return;
            }
            return self.pass_on(out, key, item);
        }
        let waits = line.is(BEHIND | FORKED | VERIFY);
        let Some(top) = self.home.position(key) else { return };
        if !waits && epoch == top.epoch {
            if item.offset == top.offset + 1 {
                return self.go_on(out, key, (item, print));
            }
            if item.offset <= top.offset {
                return self.repeated(out, key, top.offset, (item, print));
            }
        }
        self.home.draw_line(key).set(BEHIND, true);
        self.mirror().counters.gaps += u64::from(!waits);
        if !self.home.hold(key, Held { epoch, item, print, told: false }) {
            self.mirror().counters.duplicates += 1;
        }
        self.read(out, key);
    }

    /// The next publication.
    pub(super) fn go_on(&mut self, out: &mut dyn HubPort, key: u32, item: (Item, u64)) {
        let now = out.now();
        let Some(options) = self.options(key) else { return };
        self.is_right(key, now);
        // Messages come in order: what is not here by now does not come any more.
        if let Some(wait) = self.home.line(key).and_then(|line| line.wait.as_mut())
            && wait.untold.take().is_some()
        {
            self.home.tidy_wait(key);
        }
        let delivery = self.home.follow(key, item, &options, now);
        self.home.keep_promise(key);
        if let Some((key, delivery)) = delivery {
            self.fan_out(out, key, &delivery);
        }
    }

    /// A publication that should have come already: it has, or its offset was given twice.
    fn repeated(&mut self, out: &mut dyn HubPort, key: u32, top: u64, (item, print): (Item, u64)) {
        let known = self.home.line(key).map_or(0, |line| line.print);
        let differs = match self.home.differs(key, &item) {
            None if item.offset == top && known != 0 => Some(known != print),
            differs => differs,
        };
        match differs {
            Some(true) => self.fork(out, key),
            _ if self.is_untold(key, item.offset) => {
                if let Some((key, delivery)) = self.home.pass_late(key, item) {
                    self.fan_out(out, key, &delivery);
                }
            }
            Some(false) => self.mirror().counters.duplicates += 1,
            None => {
                self.mirror().counters.duplicates += 1;
                if let Some(channel) = self.home.name(key).cloned() {
                    self.doubt(&channel, true);
                }
            }
        }
    }

    /// Whether a publication that is in the stream has not come to those who listened before the
    /// stream was known: then it comes in order, and once.
    fn is_untold(&mut self, key: u32, offset: u64) -> bool {
        let wait = self.home.line(key).and_then(|line| line.wait.as_mut());
        let Some(untold) = wait.and_then(|wait| wait.untold.as_mut()) else { return false };
        let is_untold = offset > untold.0 && offset <= untold.1;
        if is_untold {
            untold.0 = offset;
        }
        is_untold
    }

    /// A publication that has no place, or none that anybody here minds.
    pub(super) fn pass_on(&mut self, out: &mut dyn HubPort, key: u32, item: Item) {
        if let Some((key, delivery)) = self.home.pass(key, item) {
            self.fan_out(out, key, &delivery);
        }
    }

    fn announce(&mut self, out: &mut dyn HubPort, key: u32, happening: Option<Happening>) {
        let Some(happening) = happening else {
            self.mirror().counters.malformed += 1;
            return;
        };
        if let Some(delivery) = self.home.announce(key, happening) {
            self.fan_out(out, key, &delivery);
        }
    }
}
