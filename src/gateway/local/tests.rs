//! The books of one core's subscribers.

use super::*;
use crate::gateway::letters::ClientId;
use crate::gateway::users::Users;
use crate::gateway::wire::messages::FilterNode;

fn begin(filter: Option<Arc<Filter>>) -> Begin {
    Begin { wants: Wants::default(), member: false, filter }
}

fn answer(begun: &Begun, channel: u64) -> SubscribedLetter {
    SubscribedLetter {
        channel: ChannelId(channel),
        sub: begun.sub,
        nonce: begun.nonce,
        ticket: 0,
        seq: 0,
        top: None,
        told: 0,
        recovered: None,
        refused: None,
    }
}

#[test]
fn what_a_subscription_had_goes_with_it() {
    let placement = Placement::new(1, 1);
    let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
    let key = users.connect(Link(1), ClientId::new(1), "ann", Format::WebSocketJson);
    let client = users.get_mut(key).unwrap();
    let node = FilterNode { key: "odd".to_owned(), cmp: "ex".to_owned(), ..FilterNode::default() };
    let filter = Arc::new(Filter::new(&node).unwrap());

    let stays = locals.begin(key, client, "stays", begin(None)).unwrap();
    let goes = locals.begin(key, client, "goes", begin(Some(filter))).unwrap();
    assert!(locals.begin(key, client, "goes", begin(None)).is_none(), "it has one");
    for (begun, channel) in [(&stays, 1), (&goes, 2)] {
        let letter = answer(begun, channel);
        assert!(locals.confirm(&letter).is_some());
        assert!(locals.confirm(&letter).is_none(), "once");
    }
    assert_eq!((client.subscriptions(), locals.filters.len(), locals.ids.len()), (2, 1, 2));
    assert!(locals.end(client, goes.sub).is_some());
    assert!(locals.end(client, goes.sub).is_none());
    assert_eq!((client.subscriptions(), locals.filters.len(), locals.ids.len()), (1, 0, 1));
    assert_eq!((locals.names.len(), locals.channels.len()), (1, 1));
    assert!(locals.end_first(client).is_some() && locals.is_empty());
}

/// The home core forgets a channel and gives its number to another, while the first is
/// subscribed anew.
#[test]
fn a_number_that_is_given_anew_finds_the_new_channel() {
    let placement = Placement::new(1, 1);
    let (mut locals, mut users) = (Locals::new(placement), Users::new(placement));
    let keys = [1, 2]
        .map(|n| users.connect(Link(n), ClientId::new(n.into()), "ann", Format::WebSocketJson));
    let first = locals.begin(keys[0], users.get_mut(keys[0]).unwrap(), "a", begin(None)).unwrap();
    locals.confirm(&answer(&first, 5)).unwrap();
    let again = locals.begin(keys[1], users.get_mut(keys[1]).unwrap(), "a", begin(None)).unwrap();
    locals.end(users.get_mut(keys[0]).unwrap(), first.sub).unwrap();
    assert!(locals.ids.is_empty(), "nobody listens under this number");
    let other = locals.begin(keys[0], users.get_mut(keys[0]).unwrap(), "b", begin(None)).unwrap();
    locals.confirm(&answer(&other, 5)).unwrap();
    locals.confirm(&answer(&again, 6)).unwrap();
    let name = |id| &*locals.channels[locals.ids[&ChannelId(id)] as usize].name;
    assert_eq!((name(5), name(6)), ("b", "a"));
}
