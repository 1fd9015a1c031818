//! Records against rustls: any order of data, KeyUpdates and ends, in pieces of any size; and any
//! change on the way.

use proptest::collection::vec;
use proptest::prelude::*;
use ringhold::tls::{Fault, Limits, Role, Version, length};

use super::peer::{Ours, Peer, SHAPES, connected};

#[derive(Clone, Debug)]
enum Act {
    PeerSends(usize),
    WeSend(Vec<usize>),
    PeerChangesKey,
    WeChangeKey(bool),
    /// What is on the way, in pieces of this size.
    Deliver(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let len = || prop_oneof![4 => 1..200_usize, 1 => 16_300..16_500_usize, 1 => 0..60_000_usize];
    let piece = prop_oneof![Just(1_usize), 2..40_usize, Just(usize::MAX)];
    prop_oneof![
        3 => len().prop_map(Act::PeerSends),
        3 => vec(len(), 0..4).prop_map(Act::WeSend),
        1 => Just(Act::PeerChangesKey),
        1 => any::<bool>().prop_map(Act::WeChangeKey),
        2 => piece.prop_map(Act::Deliver),
    ]
}

/// Data whose every byte tells its place.
fn data(from: &mut u64, len: usize) -> Vec<u8> {
    let place = *from;
    *from += len as u64;
    (place..*from).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

fn deliver(ours: &mut Ours, peer: &mut Peer, piece: usize) {
    for piece in peer.out().chunks(piece) {
        ours.receive(piece).unwrap();
    }
    let out = std::mem::take(&mut ours.out);
    for piece in out.chunks(piece) {
        peer.receive(piece).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_order_in_any_pieces(
        shape in 0..4_usize,
        client in any::<bool>(),
        per_key in prop_oneof![Just(1_u64 << 23), Just(3)],
        acts in vec(act(), 1..40),
    ) {
        let shape = SHAPES[shape];
        let role = if client { Role::Client } else { Role::Server };
        let (mut ours, mut peer) = connected(role, shape);
        if shape.version == Version::Tls13 {
            ours.limits.records_per_key = per_key;
        }
        let (mut from_us, mut from_peer) = (0, 0);
        let (mut to_us, mut to_peer) = (Vec::new(), Vec::new());
        let mut updates = 0;
        for act in acts.into_iter().chain([Act::Deliver(usize::MAX), Act::Deliver(usize::MAX)]) {
            match act {
                Act::PeerSends(len) => {
                    let data = data(&mut from_peer, len);
                    updates = if len > 0 { 0 } else { updates };
                    peer.send(&data);
                    to_us.extend_from_slice(&data);
                }
                Act::WeSend(lens) => {
                    let parts: Vec<_> =
                        lens.iter().map(|len| data(&mut from_us, *len)).collect();
                    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
                    ours.send(&parts);
                    to_peer.extend_from_slice(&parts.concat());
                }
                Act::PeerChangesKey if shape.version == Version::Tls13 && updates < 20 => {
                    updates += 1;
                    peer.tls.refresh_traffic_keys().unwrap();
                }
                Act::WeChangeKey(ask) => {
                    // rustls takes 32 without data between, too; some follow from its own.
                    let mut out = std::mem::take(&mut ours.out);
                    ours.record().update_key(ask, &mut out).unwrap();
                    ours.out = out;
                    ours.send(&[&data(&mut from_us, 1)]);
                    to_peer.extend_from_slice(&data(&mut (from_us - 1), 1));
                }
                Act::PeerChangesKey => {}
                Act::Deliver(piece) => deliver(&mut ours, &mut peer, piece),
            }
        }
        prop_assert!(ours.heard == to_us);
        prop_assert!(peer.heard == to_peer);
        // Both ends, and then nothing.
        peer.tls.send_close_notify();
        let mut out = Vec::new();
        ours.record().close(&mut out);
        ours.out = out;
        deliver(&mut ours, &mut peer, usize::MAX);
        prop_assert!(ours.ended && ours.record().is_ended());
        prop_assert!(peer.tls.process_new_packets().unwrap().peer_has_closed());
    }

    #[test]
    fn any_change_ends_the_connection_and_delivers_nothing(
        shape in 0..4_usize,
        records in vec(1..300_usize, 2..6),
        change in change(),
    ) {
        let (mut ours, mut peer) = connected(Role::Server, SHAPES[shape]);
        let mut place = 0;
        let mut sent = Vec::new();
        let contents: Vec<_> = records.iter().map(|len| data(&mut place, *len)).collect();
        for content in &contents {
            peer.send(content);
            sent.push(peer.out());
        }
        let Some(good) = change.apply(&mut sent) else { return Ok(()) };
        let result = ours.receive(&sent.concat());
        let before = contents[..good].concat();
        prop_assert!(ours.heard == before, "{} of {} bytes", ours.heard.len(), before.len());
        if let Err(fault) = result {
            // The peer understands why, if it is told.
            prop_assert_eq!(fault.alert().is_some(), peer.receive(&ours.out).is_err());
            let again = ours.record().open(&Limits::default(), &mut [23, 3, 3, 0, 0]);
            prop_assert_eq!(again, Err(Fault::Closed));
        } else {
            // What looks incomplete waits for bytes that never open.
            prop_assert!(change.may_lengthen());
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Flip(prop::sample::Index, prop::sample::Index),
    Drop(prop::sample::Index),
    Replay(prop::sample::Index),
    Swap(prop::sample::Index),
    /// Bytes removed from the end of one.
    Cut(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (index(), index()).prop_map(|(record, bit)| Change::Flip(record, bit)),
        1 => index().prop_map(Change::Drop),
        1 => index().prop_map(Change::Replay),
        1 => index().prop_map(Change::Swap),
        1 => (index(), 1..30_usize).prop_map(|(record, len)| Change::Cut(record, len)),
        1 => (index(), vec(any::<u8>(), 0..40)).prop_map(|(at, body)| Change::Insert(at, body)),
    ]
}

impl Change {
    /// How many of the records in front stay as they were; `None` if all do.
    fn apply(&self, records: &mut Vec<Vec<u8>>) -> Option<usize> {
        let count = records.len();
        Some(match self {
            Self::Flip(record, bit) => {
                let at = record.index(count);
                let bit = bit.index(8 * records[at].len());
                records[at][bit / 8] ^= 1 << (bit % 8);
                at
            }
            Self::Drop(record) => {
                // A lost end is not seen by records: the frames above do.
                let at = record.index(count - 1);
                records.remove(at);
                at
            }
            Self::Replay(record) => {
                let at = record.index(count);
                records.insert(at + 1, records[at].clone());
                at + 1
            }
            Self::Swap(record) => {
                let at = record.index(count - 1);
                records.swap(at, at + 1);
                at
            }
            Self::Cut(record, len) => {
                let at = record.index(count);
                let left = records[at].len().saturating_sub(*len);
                records[at].truncate(left);
                at
            }
            Self::Insert(record, body) => {
                let at = record.index(count);
                let header = [23, 3, 3, 0, body.len() as u8];
                records.insert(at, [&header[..], body].concat());
                at
            }
        })
    }

    /// What may leave a record incomplete, so that there is nothing to refuse yet.
    fn may_lengthen(&self) -> bool {
        matches!(self, Self::Flip(..) | Self::Cut(..))
    }
}

/// 22 bytes around the content in TLS 1.3, 21 or 29 in 1.2: what the documents say.
#[test]
fn a_record_has_the_size_that_is_documented() {
    for (shape, around) in SHAPES.into_iter().zip([22, 22, 29, 21]) {
        let (mut ours, _) = connected(Role::Server, shape);
        ours.send(&[b"12345", b"", b"67890"]);
        assert_eq!(ours.out.len(), 10 + around, "{shape:?}");
        assert_eq!(length(&ours.out), Ok(Some(10 + around)));
        assert_eq!(shape.around(), around);
    }
}
