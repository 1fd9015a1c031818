//! What letters hold while they wait for a core.
//!
//! Owns the estimate; shared buffers count in every letter that holds them. Never looks into what
//! the control plane says, of which there is little.

use super::{Answer, Ask, Letter, Member, Publish, Question, SubscribeLetter, Who};
use crate::gateway::delivery::{Delivery, Happening};
use crate::gateway::wire::messages::{ClientInfo, Publication};

impl Letter {
    /// Bytes of memory that it holds besides itself.
    pub fn size(&self) -> usize {
        match self {
            Self::Subscribe(letter) => of_subscribe(letter),
            Self::Subscribed(letter) => {
                let items = letter.recovered.iter().flat_map(|recovered| recovered.items.iter());
                size_of_val(&**letter) + items.flatten().map(|item| item.cost()).sum::<usize>()
            }
            Self::Unsubscribe(letter) => letter.channel.len(),
            Self::Inform(letter) => {
                let raw = letter.conn_info.len() + letter.chan_info.len();
                size_of_val(&**letter) + letter.channel.len() + raw
            }
            Self::Deliver(delivery) => of_delivery(delivery),
            Self::DeliverAll(deliveries) => {
                let held: usize = deliveries.iter().map(|delivery| of_delivery(delivery)).sum();
                size_of_val(&deliveries[..]) + held
            }
            Self::Positions(tops) => size_of_val(&tops[..]),
            Self::Ask(ask) => size_of::<Ask>() + of_ask(ask),
            Self::Asks(asks) => {
                asks.capacity() * size_of::<Ask>() + asks.iter().map(of_ask).sum::<usize>()
            }
            Self::Answer(letter) => {
                size_of_val(&**letter) + letter.answer.as_ref().map_or(0, of_answer)
            }
            Self::Enter(letter) => size_of_val(&**letter) + letter.user.len(),
            Self::Leave { user, .. } => user.len(),
            Self::Entered { .. } | Self::Evict { .. } => SMALL,
            Self::Batch(batch) => {
                let held: usize = batch.iter().map(|happening| happening.size()).sum();
                size_of_val(&batch[..]) + held
            }
            Self::Handover(letter) => size_of_val(&**letter) + letter.size(),
            Self::Order(_) | Self::OrderHere(_) | Self::Survey(_) | Self::SurveyHere(_) => SMALL,
        }
    }
}

fn of_subscribe(letter: &SubscribeLetter) -> usize {
    let filter = letter.filter.as_ref().map_or(0, |filter| filter.cost());
    let member = letter.member.as_ref().map_or(0, |Member { info, .. }| of_who(info));
    let since = letter.recover.as_ref().map_or(0, |recover| recover.since.epoch.len());
    size_of::<SubscribeLetter>() + letter.channel.len() + filter + member + since
}

fn of_who(who: &Who) -> usize {
    who.user.len() + who.conn_info.len() + who.chan_info.len()
}

fn of_delivery(delivery: &Delivery) -> usize {
    let happened = match &delivery.happening {
        Happening::Published { item, base, .. } => {
            item.cost() + base.as_ref().map_or(0, |base| base.len())
        }
        Happening::Join(_, who) | Happening::Leave(_, who) => of_who(who),
    };
    size_of::<Delivery>() + delivery.name.len() + happened
}

fn of_ask(ask: &Ask) -> usize {
    let question = match &ask.question {
        Question::Publish(publish) => {
            let Publish { data, info, tags, idempotency_key, version_epoch, .. } = publish;
            let tags: usize = tags.iter().map(|(key, value)| key.len() + value.len() + TAG).sum();
            let texts = idempotency_key.len() + version_epoch.len();
            data.len() + info.as_deref().map_or(0, of_info) + tags + texts
        }
        Question::History { .. } | Question::HistoryRemove => SMALL,
        Question::Presence | Question::Members { .. } | Question::PresenceStats => 0,
    };
    ask.channel.len() + question
}

fn of_info(info: &ClientInfo) -> usize {
    let texts = info.user.len() + info.client.len();
    size_of::<ClientInfo>() + texts + info.conn_info.len() + info.chan_info.len()
}

fn of_answer(answer: &Answer) -> usize {
    match answer {
        Answer::Published { .. } | Answer::PresenceStats(_) | Answer::Done => 0,
        Answer::History(history) => history.publications.iter().map(of_publication).sum(),
        // Not looked at one by one: there may be very many, whose raw parts are shared.
        Answer::Presence(members) => members.len() * MEMBER,
        // One copy for all who ask, on the account of presence.
        Answer::Members(_) => 0,
    }
}

fn of_publication(publication: &Publication) -> usize {
    let Publication { data, info, tags, .. } = publication;
    let tags: usize = tags.iter().map(|(key, value)| key.len() + value.len() + TAG).sum();
    size_of::<Publication>() + data.len() + info.as_ref().map_or(0, of_info) + tags
}

/// Of what is boxed and has no content of note.
const SMALL: usize = 128;

/// An entry in a table of texts.
const TAG: usize = 2 * size_of::<String>();

/// Somebody in presence: a record, two ids of 36 bytes, a name.
const MEMBER: usize = size_of::<ClientInfo>() + 160;
