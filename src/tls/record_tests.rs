//! The record layer against RFC 8448's records, and against records that no well-behaved peer
//! makes: they are made here with the peer's own keys.

use super::*;

const CLIENT_SECRET: &str = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
const SERVER_SECRET: &str = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
const TIGHT: Limits = Limits { records_per_key: 3, key_updates: 2, empty_records: 2, warnings: 1 };
const OLD: [Shape; 2] = [
    Shape { version: Version::Tls12, aead: Aead::Aes128Gcm },
    Shape { version: Version::Tls12, aead: Aead::ChaCha20Poly1305 },
];

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| pair.iter().collect::<String>());
    pairs.map(|pair| u8::from_str_radix(&pair, 16).unwrap()).collect()
}

fn secret(text: &str) -> [u8; 32] {
    hex(text).try_into().unwrap()
}

/// A server's record layer, and its peer's.
struct Pair {
    ours: Own,
    peer: Own,
    limits: Limits,
}

impl Pair {
    fn new(aead: Aead) -> Self {
        Self::of(Role::Server, aead)
    }

    fn of(role: Role, aead: Aead) -> Self {
        let other = if role == Role::Server { Role::Client } else { Role::Server };
        let of = |role| Own::from_secrets(role, aead, [1; 32], [2; 32]);
        Self { ours: of(role), peer: of(other), limits: TIGHT }
    }

    fn tls12(shape: Shape, role: Role) -> Self {
        let len = if shape.aead == Aead::Aes128Gcm { 16 } else { 32 };
        let of = |role| {
            let [client, server] = [1, 2].map(|byte| [byte; 32]);
            let keys = |bytes: &'static [u8; 32]| Keys {
                secret: &[0; 32],
                key: &bytes[..len],
                iv: &bytes[..12],
                next: 1,
            };
            let [client, server] =
                [&*Box::leak(Box::new(client)), &*Box::leak(Box::new(server))].map(keys);
            let (read, write) =
                if role == Role::Server { (client, server) } else { (server, client) };
            Own::new(role, shape, read, write).unwrap()
        };
        let other = if role == Role::Server { Role::Client } else { Role::Server };
        Self { ours: of(role), peer: of(other), limits: TIGHT }
    }

    /// A record of the peer with any type and content.
    fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.peer.write.seal(self.peer.shape(), kind, &[content], &mut out).unwrap();
        out
    }

    fn receive(&mut self, mut record: Vec<u8>) -> Result<Opened, Fault> {
        self.ours.open(&self.limits, &mut record).map(hushed)
    }

    fn sent(&mut self, kind: u8, content: &[u8]) -> Result<Opened, Fault> {
        let record = self.record(kind, content);
        self.receive(record)
    }

    fn data(&mut self) -> Result<Opened, Fault> {
        self.sent(APPLICATION_DATA, b"x")
    }

    /// A KeyUpdate of the peer, and its keys after it.
    fn key_update(&mut self, ask: u8) -> Result<Opened, Fault> {
        let record = self.record(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, ask]);
        self.peer.write.advance(self.peer.shape().aead);
        self.receive(record)
    }

    /// What the peer makes of all that is in `out`.
    fn peer_hears(&mut self, mut out: &mut [u8]) -> Vec<Result<Opened, Fault>> {
        let mut heard = Vec::new();
        while !out.is_empty() {
            let len = length(out).unwrap().unwrap();
            let (record, rest) = out.split_at_mut(len);
            heard.push(self.peer.open(&Limits::default(), record).map(hushed));
            out = rest;
        }
        heard
    }
}

/// What it means for the record layer alone.
fn hushed(opened: Opened) -> Opened {
    if let Opened::Messages(_) = opened { Opened::Nothing } else { opened }
}

/// RFC 8448 section 3: both directions' data and alerts, byte by byte. Before its data, the server
/// has sent a ticket.
#[test]
fn records_are_those_of_rfc_8448() {
    let payload: Vec<u8> = (0..50).collect();
    let from_client = [
        "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a
         20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4",
        "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3",
    ];
    let from_server = [
        "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb
         501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d",
        "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9",
    ];
    let of = |role| {
        Own::from_secrets(role, Aead::Aes128Gcm, secret(CLIENT_SECRET), secret(SERVER_SECRET))
    };
    let limits = Limits::default();
    for (role, records) in [(Role::Client, from_client), (Role::Server, from_server)] {
        let (mut sender, other) = match role {
            Role::Client => (of(Role::Client), Role::Server),
            Role::Server => (of(Role::Server), Role::Client),
        };
        let mut receiver = of(other);
        if role == Role::Server {
            let ticket = [&[NEW_SESSION_TICKET, 0, 0, 9][..], &[0; 9]].concat();
            let mut out = Vec::new();
            sender.write.seal(sender.shape(), HANDSHAKE, &[&ticket], &mut out).unwrap();
            assert_eq!(receiver.open(&limits, &mut out).map(hushed), Ok(Opened::Nothing));
        }
        let mut out = Vec::new();
        sender.seal(&limits, &[&payload[..20], &[], &payload[20..]], &mut out).unwrap();
        assert_eq!(out, hex(records[0]));
        assert_eq!(receiver.open(&limits, &mut out), Ok(Opened::Data(5..55)));
        assert_eq!(&out[5..55], &payload);
        out.clear();
        sender.close(&mut out);
        assert_eq!(out, hex(records[1]));
        assert_eq!(receiver.open(&limits, &mut out), Ok(Opened::Closed));
    }
}

#[test]
fn keys_are_those_of_rfc_8448() {
    for (from, key, iv) in [
        (CLIENT_SECRET, "17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9"),
        (SERVER_SECRET, "9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984"),
    ] {
        let mut out = [0; 16];
        expand_label(&secret(from), b"key", &mut out);
        assert_eq!(out[..], hex(key));
        let mut out = [0; 12];
        expand_label(&secret(from), b"iv", &mut out);
        assert_eq!(out[..], hex(iv));
    }
}

#[test]
fn padding_is_stripped_and_counts_as_nothing() {
    let mut pair = Pair::new(Aead::ChaCha20Poly1305);
    let padded = [b"data".as_slice(), &[APPLICATION_DATA], &[0; 300]].concat();
    assert_eq!(pair.sent(0, &padded), Ok(Opened::Data(5..9)));
    // Type and padding together have no more room than a type behind the longest content.
    for (content, padding) in [(CONTENT_MAX, 0), (CONTENT_MAX - 8, 8), (1, CONTENT_MAX - 1)] {
        for longer in [0, 1] {
            let mut pair = Pair::new(Aead::Aes128Gcm);
            let padding = vec![0; padding + longer];
            let full = [&vec![7; content][..], &[APPLICATION_DATA], &padding[..]].concat();
            // One zero is the type that sealing appends.
            let full = &full[..full.len() - 1];
            let kind = if padding.is_empty() { APPLICATION_DATA } else { 0 };
            let mut record = Vec::new();
            pair.peer.write.seal_unchecked(pair.peer.shape(), kind, full, &mut record);
            let expected = match longer {
                0 => Ok(Opened::Data(5..5 + content)),
                _ => Err(Fault::RecordLength),
            };
            assert_eq!(pair.receive(record), expected, "{content} and {}", padding.len());
        }
    }
}

#[test]
fn padding_only_is_refused() {
    let mut pair = Pair::new(Aead::Aes128Gcm);
    assert_eq!(pair.sent(0, &[0; 40]), Err(Fault::NoContent));
}

#[test]
fn a_record_of_more_content_than_allowed_is_refused() {
    let mut pair = Pair::new(Aead::Aes128Gcm);
    let mut record = Vec::new();
    let long = [7; CONTENT_MAX + 1];
    pair.peer.write.seal_unchecked(pair.peer.shape(), APPLICATION_DATA, &long, &mut record);
    assert_eq!(pair.receive(record), Err(Fault::RecordLength));
    for shape in OLD {
        let mut pair = Pair::tls12(shape, Role::Server);
        let mut record = Vec::new();
        pair.peer.write.seal_unchecked(shape, APPLICATION_DATA, &long, &mut record);
        assert_eq!(pair.receive(record), Err(Fault::RecordLength), "{shape:?}");
    }
}

#[test]
fn headers_are_judged_by_their_first_bytes() {
    assert_eq!(length(&[]), Ok(None));
    assert_eq!(length(&[23, 3, 3, 0x41]), Ok(None));
    assert_eq!(length(&[23, 3, 3, 0x41, 0]), Ok(Some(RECORD_MAX)));
    assert_eq!(length(&[23, 3, 3, 0x41, 1]), Err(Fault::RecordLength));
    assert_eq!(length(&[23, 3, 1, 0, 0]), Err(Fault::RecordVersion(0x0301)));
    for kind in (0..20).chain(24..=255) {
        assert_eq!(length(&[kind]), Err(Fault::RecordType(kind)));
    }
}

#[test]
fn outer_types_of_tls_13_are_data_only() {
    for kind in [CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE] {
        let mut pair = Pair::new(Aead::Aes128Gcm);
        let mut record = pair.record(APPLICATION_DATA, b"x");
        record[0] = kind;
        assert_eq!(pair.receive(record), Err(Fault::RecordType(kind)));
    }
    let mut pair = Pair::new(Aead::Aes128Gcm);
    assert_eq!(pair.receive(vec![CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1]), Err(Fault::RecordType(20)));
}

#[test]
fn inner_types_without_a_meaning_are_refused() {
    for kind in [1, CHANGE_CIPHER_SPEC, 24, 255] {
        let mut pair = Pair::new(Aead::Aes128Gcm);
        assert_eq!(pair.sent(kind, b"x"), Err(Fault::RecordType(kind)));
    }
}

#[test]
fn short_records_are_bad_records() {
    let shapes = [Aead::Aes128Gcm, Aead::ChaCha20Poly1305].map(Pair::new);
    let old = OLD.map(|shape| Pair::tls12(shape, Role::Server));
    for mut pair in shapes.into_iter().chain(old) {
        for len in 0..40 {
            let mut record = vec![APPLICATION_DATA, 3, 3, 0, len];
            record.resize(HEADER + usize::from(len), 9);
            let fresh = &mut pair.ours;
            fresh.clear(BROKEN);
            assert_eq!(fresh.open(&TIGHT, &mut record), Err(Fault::BadRecord), "{len} bytes");
        }
    }
}

#[test]
fn a_record_of_another_length_than_its_header_says_is_refused() {
    let mut pair = Pair::new(Aead::Aes128Gcm);
    let mut record = pair.record(APPLICATION_DATA, b"x");
    record.push(0);
    assert_eq!(pair.receive(record), Err(Fault::RecordLength));
    assert_eq!(Pair::new(Aead::Aes128Gcm).receive(vec![23, 3]), Err(Fault::RecordLength));
}

#[test]
fn nothing_opens_after_a_fault_and_its_alert_is_the_last_word() {
    let mut pair = Pair::new(Aead::Aes128Gcm);
    let (good, mut bad) =
        (pair.record(APPLICATION_DATA, b"x"), pair.record(APPLICATION_DATA, b"y"));
    bad[7] ^= 1;
    assert!(pair.receive(good).is_ok());
    let fault = pair.receive(bad).unwrap_err();
    assert_eq!(fault, Fault::BadRecord);
    let later = pair.record(APPLICATION_DATA, b"z");
    assert_eq!(pair.receive(later), Err(Fault::Closed));
    let mut out = Vec::new();
    pair.ours.refuse(&fault, &mut out);
    pair.ours.refuse(&fault, &mut out);
    pair.ours.close(&mut out);
    assert_eq!(pair.peer_hears(&mut out), [Err(Fault::Alert(20))]);
    assert_eq!(pair.ours.seal(&TIGHT, &[b"x"], &mut out), Err(Fault::Closed));
    assert_eq!(pair.ours.update_key(true, &mut out), Err(Fault::Closed));
}

#[test]
fn replays_drops_and_swaps_are_bad_records() {
    for order in [[0, 0], [1, 0]] {
        let mut pair = Pair::new(Aead::ChaCha20Poly1305);
        let records = [b"a", b"b"].map(|data| pair.record(APPLICATION_DATA, data));
        let results = order.map(|n| pair.receive(records[n].clone()));
        assert!(results.contains(&Err(Fault::BadRecord)), "{order:?}");
    }
    for shape in OLD {
        let mut pair = Pair::tls12(shape, Role::Server);
        let record = pair.record(APPLICATION_DATA, b"a");
        assert!(pair.receive(record.clone()).is_ok());
        assert_eq!(pair.receive(record), Err(Fault::BadRecord));
    }
}

#[test]
fn the_end_is_heard_and_what_follows_is_ignored() {
    let mut pair = Pair::new(Aead::Aes128Gcm);
    assert!(!pair.ours.is_ended());
    assert_eq!(pair.sent(ALERT, &[WARNING, CLOSE_NOTIFY]), Ok(Opened::Closed));
    assert!(pair.ours.is_ended());
    assert_eq!(pair.receive(vec![0; 9]), Ok(Opened::Closed));
    // The other direction goes on.
    let mut out = Vec::new();
    pair.ours.seal(&TIGHT, &[b"late"], &mut out).unwrap();
    pair.ours.close(&mut out);
    assert!(pair.ours.is_shut());
    assert_eq!(pair.peer_hears(&mut out), [Ok(Opened::Data(5..9)), Ok(Opened::Closed)]);
}

#[test]
fn alerts_end_the_connection_but_for_few_warnings() {
    let mut pair = Pair::new(Aead::Aes128Gcm);
    assert_eq!(pair.sent(ALERT, &[FATAL, 40]), Err(Fault::Alert(40)));
    let mut pair = Pair::new(Aead::Aes128Gcm);
    assert_eq!(pair.sent(ALERT, &[WARNING, NO_RENEGOTIATION]), Err(Fault::Alert(100)));
    let mut pair = Pair::new(Aead::Aes128Gcm);
    assert_eq!(pair.sent(ALERT, &[]), Err(Fault::NoContent));
    for malformed in [&[1][..], &[1, 0, 0], &[1, 0, 1, 0]] {
        let mut pair = Pair::new(Aead::Aes128Gcm);
        assert_eq!(pair.sent(ALERT, malformed), Err(Fault::AlertForm), "{malformed:?}");
    }
    let mut pair = Pair::new(Aead::Aes128Gcm);
    assert_eq!(pair.sent(ALERT, &[WARNING, USER_CANCELED]), Ok(Opened::Nothing));
    assert!(pair.data().is_ok());
    assert_eq!(pair.sent(ALERT, &[WARNING, USER_CANCELED]), Err(Fault::Warnings));
    for shape in OLD {
        let mut pair = Pair::tls12(shape, Role::Server);
        assert_eq!(pair.sent(ALERT, &[WARNING, 41]), Ok(Opened::Nothing));
        assert_eq!(pair.sent(ALERT, &[WARNING, 41]), Err(Fault::Warnings));
        let mut pair = Pair::tls12(shape, Role::Server);
        assert_eq!(pair.sent(ALERT, &[FATAL, 41]), Err(Fault::Alert(41)));
        let mut pair = Pair::tls12(shape, Role::Server);
        assert_eq!(pair.sent(ALERT, &[3, 41]), Err(Fault::AlertForm));
    }
}

#[test]
fn empty_records_are_few_in_a_row() {
    let mut pair = Pair::new(Aead::Aes128Gcm);
    for _ in 0..3 {
        assert_eq!(pair.sent(APPLICATION_DATA, b""), Ok(Opened::Nothing));
        assert_eq!(pair.sent(APPLICATION_DATA, b""), Ok(Opened::Nothing));
        assert!(pair.data().is_ok());
    }
    for _ in 0..2 {
        assert_eq!(pair.sent(APPLICATION_DATA, b""), Ok(Opened::Nothing));
    }
    assert_eq!(pair.sent(APPLICATION_DATA, b""), Err(Fault::EmptyRecords));
}

#[test]
fn key_updates_are_few_in_a_row_and_answered_once() {
    let mut pair = Pair::new(Aead::Aes128Gcm);
    assert_eq!(pair.key_update(0), Ok(Opened::Nothing));
    assert!(!pair.ours.owes());
    assert!(pair.data().is_ok());
    assert_eq!(pair.key_update(1), Ok(Opened::Nothing));
    assert_eq!(pair.key_update(1), Ok(Opened::Nothing));
    assert!(pair.ours.owes());
    let mut out = Vec::new();
    pair.ours.seal(&TIGHT, &[b"after"], &mut out).unwrap();
    assert!(!pair.ours.owes());
    assert_eq!(pair.peer_hears(&mut out), [Ok(Opened::Nothing), Ok(Opened::Data(5..10))]);
    assert_eq!(pair.key_update(1), Err(Fault::KeyUpdates));
}

#[test]
fn key_updates_have_a_form_a_meaning_and_a_place() {
    use Fault::{KeyUpdateForm, KeyUpdatePlace, KeyUpdateRequest};
    let bad: [(&[u8], Fault, u8); 8] = [
        (&[24, 0, 0, 1, 2], KeyUpdateRequest(2), 47),
        (&[24, 0, 0, 1, 255, 24], KeyUpdateRequest(255), 47),
        (&[24, 0, 0, 2, 0, 0], KeyUpdateForm, 50),
        (&[24, 0, 0, 0], KeyUpdateForm, 50),
        (&[24, 1, 0, 1, 0], KeyUpdateForm, 50),
        (&[24, 0, 1, 1, 0], KeyUpdateForm, 50),
        // What follows would be under the next key.
        (&[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], KeyUpdatePlace, 10),
        (&[24, 0, 0, 1, 0, 4], KeyUpdatePlace, 10),
    ];
    for (content, fault, alert) in bad {
        let mut pair = Pair::new(Aead::Aes128Gcm);
        assert_eq!(fault.alert(), Some(alert));
        assert_eq!(pair.sent(HANDSHAKE, content), Err(fault), "{content:?}");
    }
}

#[test]
fn key_updates_come_in_pieces_with_nothing_between() {
    let whole = [KEY_UPDATE, 0, 0, 1, 1];
    for cut in 1..5 {
        let mut pair = Pair::new(Aead::Aes128Gcm);
        assert_eq!(pair.sent(HANDSHAKE, &whole[..cut]), Ok(Opened::Nothing));
        let record = pair.record(HANDSHAKE, &whole[cut..]);
        pair.peer.write.advance(Aead::Aes128Gcm);
        assert_eq!(pair.receive(record), Ok(Opened::Nothing));
        assert!(pair.ours.owes() && pair.data().is_ok());
        let mut pair = Pair::new(Aead::Aes128Gcm);
        assert!(pair.sent(HANDSHAKE, &whole[..cut]).is_ok());
        assert_eq!(pair.data(), Err(Fault::RecordType(APPLICATION_DATA)));
        let mut pair = Pair::new(Aead::Aes128Gcm);
        assert!(pair.sent(HANDSHAKE, &whole[..cut]).is_ok());
        assert_eq!(pair.sent(HANDSHAKE, &[]), Err(Fault::NoContent));
        let mut pair = Pair::new(Aead::Aes128Gcm);
        assert!(pair.sent(HANDSHAKE, &whole[..cut]).is_ok());
        assert_eq!(pair.sent(ALERT, &[FATAL, 40]), Err(Fault::Alert(40)));
    }
    // Pieces are empty records, of which two may come in a row.
    let mut pair = Pair::new(Aead::Aes128Gcm);
    assert!(pair.sent(HANDSHAKE, &whole[..1]).is_ok());
    assert!(pair.sent(HANDSHAKE, &whole[1..2]).is_ok());
    assert_eq!(pair.sent(HANDSHAKE, &whole[2..3]), Err(Fault::EmptyRecords));
}

#[test]
fn handshake_messages_have_no_place_later() {
    for kind in [0, CLIENT_HELLO, 2, NEW_SESSION_TICKET, 11, 13, 20, 254] {
        let mut pair = Pair::new(Aead::Aes128Gcm);
        let result = pair.sent(HANDSHAKE, &[kind, 0, 0, 0]);
        assert_eq!(result, Err(Fault::HandshakeMessage(kind)));
    }
    let mut pair = Pair::new(Aead::Aes128Gcm);
    assert_eq!(pair.sent(HANDSHAKE, &[]), Err(Fault::NoContent));
}

/// Records per key of AES-GCM: the key changes before, and the peer follows.
#[test]
fn a_worn_key_is_changed() {
    let mut pair = Pair::new(Aead::Aes128Gcm);
    let mut out = Vec::new();
    for _ in 0..8 {
        pair.ours.seal(&TIGHT, &[b"x"], &mut out).unwrap();
    }
    let kinds: Vec<bool> = pair
        .peer_hears(&mut out)
        .into_iter()
        .map(|opened| opened.unwrap() == Opened::Nothing)
        .collect();
    assert_eq!(kinds, [0, 0, 0, 1, 0, 0, 0, 1, 0, 0].map(|update| update == 1));
    let mut pair = Pair::new(Aead::ChaCha20Poly1305);
    out.clear();
    for _ in 0..8 {
        pair.ours.seal(&TIGHT, &[b"x"], &mut out).unwrap();
    }
    assert_eq!(pair.peer_hears(&mut out).len(), 8);
}

#[test]
fn a_worn_key_of_tls_12_seals_an_end_and_no_data() {
    let mut pair = Pair::tls12(OLD[0], Role::Server);
    let mut out = Vec::new();
    pair.ours.seal(&TIGHT, &[b"x"], &mut out).unwrap();
    pair.ours.seal(&TIGHT, &[b"x"], &mut out).unwrap();
    assert_eq!(pair.ours.seal(&TIGHT, &[b"x"], &mut out), Err(Fault::KeyWornOut));
    pair.ours.close(&mut out);
    let heard = pair.peer_hears(&mut out);
    assert_eq!(heard.len(), 3);
    assert_eq!(heard[2], Ok(Opened::Closed));
}

#[test]
fn the_last_number_is_not_used_twice() {
    let mut pair = Pair::new(Aead::ChaCha20Poly1305);
    let mut direction =
        Direction::new(Aead::ChaCha20Poly1305, &[0; 32], &[0; 32], &[0; 12], u64::MAX, ()).unwrap();
    let mut out = Vec::new();
    let shape = pair.ours.shape();
    for _ in 0..2 {
        let sealed = direction.seal(shape, APPLICATION_DATA, &[b"x"], &mut out);
        assert_eq!(sealed, Err(Fault::KeyWornOut));
    }
    assert!(out.is_empty());
    assert!(pair.data().is_ok());
}

#[test]
fn renegotiation_of_tls_12_is_refused_once_and_then_fatal() {
    for (shape, (role, asks)) in
        OLD.into_iter().zip([(Role::Server, CLIENT_HELLO), (Role::Client, HELLO_REQUEST)])
    {
        let mut pair = Pair::tls12(shape, role);
        assert_eq!(pair.sent(HANDSHAKE, &[asks, 0, 0, 0]), Ok(Opened::Nothing));
        assert!(pair.ours.owes());
        let mut out = Vec::new();
        pair.ours.settle(&mut out).unwrap();
        assert!(!pair.ours.owes());
        assert_eq!(pair.peer_hears(&mut out), [Ok(Opened::Nothing)]);
        assert!(pair.data().is_ok());
        assert_eq!(pair.sent(HANDSHAKE, &[asks, 0, 0, 0]), Err(Fault::Renegotiation));
        let mut pair = Pair::tls12(shape, role);
        assert_eq!(pair.sent(HANDSHAKE, &[20, 0, 0, 0]), Err(Fault::HandshakeMessage(20)));
        let mut pair = Pair::tls12(shape, role);
        assert_eq!(pair.sent(HANDSHAKE, &[]), Err(Fault::NoContent));
        let mut pair = Pair::tls12(shape, role);
        let result = pair.sent(CHANGE_CIPHER_SPEC, &[1]);
        assert_eq!(result, Err(Fault::RecordType(CHANGE_CIPHER_SPEC)));
    }
}

#[test]
fn tickets_are_passed_over_by_a_client_however_they_lie() {
    let mut pair = Pair::of(Role::Client, Aead::Aes128Gcm);
    pair.limits.empty_records = 8;
    let ticket = |len: u8| [&[NEW_SESSION_TICKET, 0, 0, len][..], &vec![9; len.into()]].concat();
    let two = [ticket(9), ticket(0)].concat();
    assert_eq!(pair.sent(HANDSHAKE, &two), Ok(Opened::Nothing));
    let three = [ticket(9), ticket(20), ticket(5)].concat();
    for piece in [&three[..13], &three[13..20], &three[20..]] {
        assert_eq!(pair.sent(HANDSHAKE, piece), Ok(Opened::Nothing));
    }
    assert!(pair.data().is_ok());
    // A key may change behind one, and headers come in pieces, too.
    for cut in 0..5 {
        let mut pair = Pair::of(Role::Client, Aead::Aes128Gcm);
        let both = [&ticket(3)[..], &[KEY_UPDATE, 0, 0, 1, 0]].concat();
        assert!(cut == 0 || pair.sent(HANDSHAKE, &both[..cut]).is_ok());
        let record = pair.record(HANDSHAKE, &both[cut..]);
        pair.peer.write.advance(Aead::Aes128Gcm);
        assert_eq!(pair.receive(record), Ok(Opened::Nothing));
        assert!(pair.data().is_ok(), "{cut}");
    }
    // Nothing comes between the pieces of one.
    assert_eq!(pair.sent(HANDSHAKE, &three[..10]), Ok(Opened::Nothing));
    assert_eq!(pair.data(), Err(Fault::RecordType(APPLICATION_DATA)));
}

#[test]
fn a_client_hears_few_tickets_in_a_row_and_no_request() {
    let mut pair = Pair::of(Role::Client, Aead::Aes128Gcm);
    assert!(pair.sent(HANDSHAKE, &[NEW_SESSION_TICKET, 0, 0, 0]).is_ok());
    assert!(pair.sent(HANDSHAKE, &[NEW_SESSION_TICKET, 0, 0, 0]).is_ok());
    let result = pair.sent(HANDSHAKE, &[NEW_SESSION_TICKET, 0, 0, 0]);
    assert_eq!(result, Err(Fault::EmptyRecords));
    let mut pair = Pair::of(Role::Client, Aead::Aes128Gcm);
    assert_eq!(pair.sent(HANDSHAKE, &[13, 0, 0, 0]), Err(Fault::HandshakeMessage(13)));
    let mut pair = Pair::of(Role::Client, Aead::Aes128Gcm);
    let result = pair.sent(HANDSHAKE, &[NEW_SESSION_TICKET, 1, 0, 0]);
    assert_eq!(result, Err(Fault::HandshakeMessage(NEW_SESSION_TICKET)));
}

#[test]
fn long_content_is_split_at_the_longest_record() {
    for shape in [0, 1, CONTENT_MAX - 1, CONTENT_MAX, CONTENT_MAX + 1, 3 * CONTENT_MAX + 5] {
        let mut pair = Pair::new(Aead::Aes128Gcm);
        let content: Vec<u8> = (0..shape).map(|n| n as u8).collect();
        let parts: Vec<&[u8]> = content.chunks(1 + shape / 3).collect();
        let mut out = Vec::new();
        pair.ours.seal(&Limits::default(), &parts, &mut out).unwrap();
        let records = shape.div_ceil(CONTENT_MAX);
        assert_eq!(out.len(), shape + records * pair.ours.shape().around());
        let (mut heard, mut rest) = (Vec::new(), &mut out[..]);
        while !rest.is_empty() {
            let len = length(rest).unwrap().unwrap();
            let (record, later) = rest.split_at_mut(len);
            let opened = pair.peer.open(&Limits::default(), record).unwrap();
            let Opened::Data(place) = opened else { panic!("{opened:?}") };
            heard.extend_from_slice(&record[place]);
            rest = later;
        }
        assert!(heard == content, "{shape} bytes");
    }
}
