//! What is said is heard as it was, whole or in pieces, and nothing else is.

use proptest::prelude::*;

use super::words::*;
use crate::gateway::broker::*;
use crate::gateway::letters::ClientId;
use crate::gateway::stream::Epoch;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

fn name() -> impl Strategy<Value = Arc<str>> {
    "\\PC{0,9}".prop_map(Arc::from)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn time() -> impl Strategy<Value = Duration> {
    (0u64..1 << 40).prop_map(Duration::from_millis)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    "[a-zA-Z0-9]{1,16}".prop_map(|text| Epoch::parse(&text).unwrap())
}

fn client() -> impl Strategy<Value = ClientId> {
    any::<u128>().prop_map(ClientId::new)
}

fn ticket() -> impl Strategy<Value = Ticket> {
    any::<u64>().prop_map(Ticket)
}

fn some<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(of, 0..4)
}

fn publish() -> impl Strategy<Value = Publish> {
    let kept = (any::<u32>(), time(), time(), any::<bool>(), epoch());
    let kept = kept.prop_map(|(size, ttl, meta_ttl, renew, fresh)| Kept {
        size,
        ttl,
        meta_ttl,
        renew,
        fresh,
    });
    let texts = ("\\PC{0,9}", "\\PC{0,9}");
    let parts = (name(), bytes(), prop::option::of(kept), any::<bool>(), texts, time());
    (parts, any::<u64>(), any::<u64>()).prop_map(|(parts, version, sequence)| {
        let (channel, data, stream, delta, (key, version_epoch), idempotency_ttl) = parts;
        Publish {
            channel,
            data,
            stream,
            delta,
            idempotency_key: key,
            idempotency_ttl,
            version,
            version_epoch,
            sequence,
        }
    })
}

fn request() -> impl Strategy<Value = Request> {
    let history =
        (name(), prop::option::of(any::<u64>()), any::<u32>(), any::<bool>(), time(), epoch());
    let history = history.prop_map(|(channel, since, limit, reverse, meta_ttl, fresh)| {
        Box::new(History { channel, since, limit, reverse, meta_ttl, fresh })
    });
    let top = (name(), any::<u64>(), prop::option::of(time()));
    let top =
        top.prop_map(|(channel, entry, meta_ttl)| TopOf { channel, entry, meta_ttl, count: false });
    let renew = (name(), epoch(), epoch(), time());
    let renew = renew.prop_map(|(channel, old, fresh, meta_ttl)| {
        Box::new(Renew { channel, old, fresh, meta_ttl })
    });
    let present = (client(), name(), bytes());
    let present = present.prop_map(|(client, user, info)| Present { client, user, info });
    let absent = (client(), name()).prop_map(|(client, user)| Absent { client, user });
    prop_oneof![
        some(name()).prop_map(Request::Listen),
        some(name()).prop_map(Request::Ignore),
        (ticket(), publish()).prop_map(|(ticket, it)| Request::Publish(ticket, Box::new(it))),
        (name(), bytes()).prop_map(|(name, info)| Request::Join(name, info)),
        (name(), bytes()).prop_map(|(name, info)| Request::Leave(name, info)),
        (ticket(), history).prop_map(|(ticket, it)| Request::History(ticket, it)),
        (ticket(), name()).prop_map(|(ticket, name)| Request::HistoryRemove(ticket, name)),
        (ticket(), some(top)).prop_map(|(ticket, tops)| Request::Positions(ticket, tops)),
        (ticket(), renew).prop_map(|(ticket, it)| Request::Renew(ticket, it)),
        (ticket(), name(), some(present)).prop_map(|(t, n, it)| Request::PresenceAdd(t, n, it)),
        (ticket(), name(), some(absent)).prop_map(|(t, n, it)| Request::PresenceRemove(t, n, it)),
        (ticket(), name(), some(client())).prop_map(|(t, n, it)| Request::PresenceRenew(t, n, it)),
        (ticket(), name()).prop_map(|(ticket, name)| Request::Presence(ticket, name)),
        (ticket(), name()).prop_map(|(ticket, name)| Request::PresenceStats(ticket, name)),
    ]
}

fn answer() -> impl Strategy<Value = Result<Outcome, Fault>> {
    let place = || prop::option::of((epoch(), any::<u64>()));
    let entry = (any::<u64>(), bytes()).prop_map(|(offset, data)| Entry { offset, data });
    let past = (epoch(), any::<u64>(), some(entry));
    let past = past.prop_map(|(epoch, top, entries)| Past { epoch, top, entries });
    let top = (epoch(), any::<u64>(), any::<u64>(), prop::option::of(bytes()));
    let top =
        top.prop_map(|(epoch, top, first, entry)| Top { epoch, top, first, entry, count: None });
    let faults = vec![
        Fault::Away,
        Fault::Late,
        Fault::Unknown,
        Fault::Denied,
        Fault::Malformed,
        Fault::Name,
        Fault::Size,
    ];
    prop_oneof![
        prop::sample::select(faults).prop_map(Err),
        (place(), any::<bool>())
            .prop_map(|(position, suppressed)| Ok(Outcome::Published { position, suppressed })),
        past.prop_map(|past| Ok(Outcome::History(past))),
        some(prop::option::of(top)).prop_map(|tops| Ok(Outcome::Positions(tops))),
        place().prop_map(|place| Ok(Outcome::Renewed(place))),
        some(client()).prop_map(|clients| Ok(Outcome::Missing(clients))),
        some(bytes()).prop_map(|members| Ok(Outcome::Presence(members))),
        any::<(u32, u32)>()
            .prop_map(|(clients, users)| Ok(Outcome::PresenceStats { clients, users })),
        Just(Ok(Outcome::Done)),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    let message = prop_oneof![
        (epoch(), any::<u64>(), bytes()).prop_map(|(epoch, offset, data)| Message::Published {
            epoch,
            offset,
            data
        }),
        bytes().prop_map(Message::Passed),
        bytes().prop_map(Message::Join),
        bytes().prop_map(Message::Leave),
        Just(Message::Removed),
    ];
    prop_oneof![
        some(name()).prop_map(Happening::Listening),
        (name(), message).prop_map(|(name, it)| Happening::Message((&*name).into(), it)),
        some(name()).prop_map(|names| {
            let names = names.iter().map(|name| (&**name).into()).collect();
            Happening::Suspect(Scope::Channels(names))
        }),
        Just(Happening::Suspect(Scope::All)),
    ]
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        (any::<u32>(), "\\PC{0,9}").prop_map(|(version, name)| Word::Hello(version, name)),
        any::<u32>().prop_map(Word::Welcome),
        "\\PC{0,9}".prop_map(Word::Refused),
        (any::<u16>(), request()).prop_map(|(core, request)| Word::Ask(core, request)),
        (any::<u16>(), ticket(), answer()).prop_map(|(core, it, a)| Word::Answer(core, it, a)),
        happening().prop_map(Word::Tell),
        bytes().prop_map(Word::State),
        Just(Word::Final),
        Just(Word::Adopted),
    ]
}

proptest! {
    #[test]
    fn words_are_heard_as_they_were_said(words in prop::collection::vec(word(), 1..5)) {
        let mut said = Vec::new();
        words.iter().for_each(|word| word.write(&mut said));
        let mut heard = Vec::new();
        // As they come from a socket: a byte more each time.
        let mut from = 0;
        for end in 0..=said.len() {
            let mut rest = &said[from..end];
            while let Some(word) = Word::read(&mut rest).unwrap() {
                heard.push(word);
            }
            from = end - rest.len();
        }
        prop_assert_eq!(format!("{heard:?}"), format!("{words:?}"));
        prop_assert_eq!(from, said.len());
    }

    #[test]
    fn other_bytes_harm_nobody(
        word in word(),
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4),
    ) {
        let mut said = Vec::new();
        word.write(&mut said);
        for (at, bits) in changes {
            let at = at.index(said.len());
            said[at] ^= bits;
        }
        let _ = Word::read(&mut &said[..]);
    }
}

#[test]
fn a_word_longer_than_any_is_none() {
    let mut said = (WORD_MAX as u32).to_le_bytes().to_vec();
    said.push(7);
    assert!(Word::read(&mut &said[..]).is_err());
}
