//! Replies in any pieces, and bytes that are no replies.

use proptest::prelude::*;

use super::*;

/// A reply as a server would write it.
#[derive(Clone, Debug)]
enum Sent {
    Nil,
    OldNil,
    Status(String),
    Error(String),
    BlobError(Vec<u8>),
    Integer(i64),
    Double(String),
    Boolean(bool),
    Bulk(Vec<u8>),
    Verbatim(Vec<u8>),
    List(Vec<Sent>),
    Set(Vec<Sent>),
    Map(Vec<(Sent, Sent)>),
    Push(Vec<Sent>),
    Beside(Vec<(Sent, Sent)>, Box<Sent>),
}

impl Sent {
    fn write(&self, out: &mut Vec<u8>) {
        let line = |out: &mut Vec<u8>, kind: char, text: &str| {
            out.extend_from_slice(format!("{kind}{text}\r\n").as_bytes());
        };
        let blob = |out: &mut Vec<u8>, kind: char, text: &[u8]| {
            line(out, kind, &text.len().to_string());
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        };
        match self {
            Self::Nil => line(out, '_', ""),
            Self::OldNil => line(out, '$', "-1"),
            Self::Status(text) => line(out, '+', text),
            Self::Error(text) => line(out, '-', text),
            Self::BlobError(text) => blob(out, '!', text),
            Self::Integer(number) => line(out, ':', &number.to_string()),
            Self::Double(text) => line(out, ',', text),
            Self::Boolean(on) => line(out, '#', if *on { "t" } else { "f" }),
            Self::Bulk(text) => blob(out, '$', text),
            Self::Verbatim(text) => blob(out, '=', &[&b"txt:"[..], text].concat()),
            Self::List(list) | Self::Set(list) | Self::Push(list) => {
                let kind = match self {
                    Self::List(_) => '*',
                    Self::Set(_) => '~',
                    _ => '>',
                };
                line(out, kind, &list.len().to_string());
                list.iter().for_each(|one| one.write(out));
            }
            Self::Map(pairs) => {
                line(out, '%', &pairs.len().to_string());
                pairs.iter().flat_map(|(key, value)| [key, value]).for_each(|it| it.write(out));
            }
            Self::Beside(pairs, whole) => {
                line(out, '|', &pairs.len().to_string());
                pairs.iter().flat_map(|(key, value)| [key, value]).for_each(|it| it.write(out));
                whole.write(out);
            }
        }
    }

    fn read(&self) -> Reply<'_> {
        match self {
            Self::Nil | Self::OldNil => Reply::Nil,
            Self::Status(text) => Reply::Status(text.as_bytes()),
            Self::Error(text) => Reply::Error(text.as_bytes()),
            Self::BlobError(text) => Reply::Error(text),
            Self::Integer(number) => Reply::Integer(*number),
            Self::Double(text) => Reply::Bulk(text.as_bytes()),
            Self::Boolean(on) => Reply::Integer(i64::from(*on)),
            Self::Bulk(text) | Self::Verbatim(text) => Reply::Bulk(text),
            Self::List(list) | Self::Set(list) => {
                Reply::List(list.iter().map(Sent::read).collect())
            }
            Self::Push(list) => Reply::Push(list.iter().map(Sent::read).collect()),
            Self::Map(pairs) => {
                let all = pairs.iter().flat_map(|(key, value)| [key, value]);
                Reply::List(all.map(Sent::read).collect())
            }
            Self::Beside(_, whole) => whole.read(),
        }
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let text = "[ -~]{0,20}";
    let bytes = proptest::collection::vec(any::<u8>(), 0..40);
    let leaf = prop_oneof![
        Just(Sent::Nil),
        Just(Sent::OldNil),
        text.prop_map(Sent::Status),
        text.prop_map(Sent::Error),
        bytes.clone().prop_map(Sent::BlobError),
        any::<i64>().prop_map(Sent::Integer),
        Just(Sent::Double("1.5".to_owned())),
        any::<bool>().prop_map(Sent::Boolean),
        bytes.clone().prop_map(Sent::Bulk),
        bytes.prop_map(Sent::Verbatim),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let list = proptest::collection::vec(inner.clone(), 0..6);
        let pairs = proptest::collection::vec((inner.clone(), inner.clone()), 0..3);
        prop_oneof![
            list.clone().prop_map(Sent::List),
            list.clone().prop_map(Sent::Set),
            list.prop_map(Sent::Push),
            pairs.clone().prop_map(Sent::Map),
            (pairs, inner).prop_map(|(pairs, whole)| Sent::Beside(pairs, Box::new(whole))),
        ]
    })
}

/// What a link does with what comes.
fn receive(pieces: &[&[u8]], bounds: Bounds, mut each: impl FnMut(Reply<'_>)) -> Result<(), Fault> {
    let (mut buffer, mut scanner) = (Vec::new(), Scanner::new(bounds));
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        while at < buffer.len() {
            let Some(len) = scanner.scan(&buffer[at..])? else { break };
            each(Reply::parse(&buffer[at..at + len])?);
            at += len;
        }
        buffer.drain(..at);
    }
    assert!(buffer.is_empty(), "something is left over");
    Ok(())
}

proptest! {
    #[test]
    fn any_replies_in_any_pieces(
        replies in proptest::collection::vec(sent(), 1..6),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut wire = Vec::new();
        replies.iter().for_each(|reply| reply.write(&mut wire));
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
        cuts.extend([0, wire.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|ends| &wire[ends[0]..ends[1]]).collect();
        let mut expected = replies.iter();
        receive(&pieces, Bounds::default(), |reply| {
            assert_eq!(Some(reply), expected.next().map(Sent::read));
        })
        .unwrap();
        prop_assert!(expected.next().is_none());
    }

    #[test]
    fn bytes_at_random_end_in_a_reply_or_a_fault(
        mut wire in proptest::collection::vec(any::<u8>(), 0..200),
        head in "[-+:*$%~>|!=_#,(]-?[0-9]{0,3}\r\n",
    ) {
        wire.splice(0..0, head.bytes());
        let mut scanner = Scanner::new(Bounds { bytes: 1000, elements: 100 });
        if let Ok(Some(len)) = scanner.scan(&wire) {
            let _ = Reply::parse(&wire[..len]);
        }
    }

    #[test]
    fn a_changed_byte_harms_nobody(
        reply in sent(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut wire = Vec::new();
        reply.write(&mut wire);
        let at = at.index(wire.len());
        wire[at] = byte;
        let mut scanner = Scanner::new(Bounds { bytes: 10_000, elements: 1000 });
        if let Ok(Some(len)) = scanner.scan(&wire) {
            let _ = Reply::parse(&wire[..len]);
        }
    }
}

fn fault(wire: &[u8], bounds: Bounds) -> Option<Fault> {
    Scanner::new(bounds).scan(wire).err()
}

#[test]
fn what_is_too_much_is_refused_before_it_comes() {
    let bounds = Bounds { bytes: 100, elements: 10 };
    assert_eq!(fault(b"$98\r\n", bounds), Some(Fault::Bytes));
    assert_eq!(fault(b"$88\r\n", bounds), None);
    assert_eq!(fault(b"$9223372036854775807\r\n", bounds), Some(Fault::Bytes));
    assert_eq!(fault(b"*11\r\n", bounds), Some(Fault::Elements));
    assert_eq!(fault(b"%6\r\n", bounds), Some(Fault::Elements));
    assert_eq!(fault(b"*9223372036854775807\r\n", bounds), Some(Fault::Elements));
    assert_eq!(fault(b"*5\r\n*5\r\n*1\r\n", bounds), Some(Fault::Elements));
    let nested = b"*1\r\n".repeat(DEPTH + 1);
    assert_eq!(fault(&nested, bounds), Some(Fault::Depth));
    assert_eq!(fault(&nested[4..], bounds), None);
    let endless = [b'+'; LINE_MAX + 2];
    assert_eq!(fault(&endless, Bounds::default()), Some(Fault::Line));
}

#[test]
fn what_is_no_reply_is_a_fault() {
    let bounds = Bounds::default();
    for (wire, expected) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], Fault::Type(b'H')),
        (b"\x15\x03\x03\n", Fault::End),
        (b"+OK\n", Fault::End),
        (b"\r\n", Fault::End),
        (b"$3\r\nabcde", Fault::End),
        (b"$x\r\n", Fault::Number),
        (b"$-2\r\n", Fault::Number),
        (b"*?\r\n", Fault::Number),
    ] {
        assert_eq!(fault(wire, bounds), Some(expected), "{wire:?}");
    }
    assert_eq!(Reply::parse(b":many\r\n"), Err(Fault::Number));
}

/// Whatever the size, each byte of a line is looked at once: no time is lost to small pieces.
#[test]
fn a_line_in_single_bytes_is_found_once() {
    let mut wire = b"+".to_vec();
    wire.resize(60_000, b'x');
    wire.extend_from_slice(b"\r\n");
    let mut scanner = Scanner::new(Bounds::default());
    for end in 1..wire.len() {
        assert_eq!(scanner.scan(&wire[..end]), Ok(None));
        assert_eq!(scanner.looked, end);
    }
    assert_eq!(scanner.scan(&wire), Ok(Some(wire.len())));
}

#[test]
fn commands_are_lists_of_texts() {
    let mut out = Vec::new();
    command(&mut out, &["SET", "k", "v\r\n"]);
    assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\nv\r\n\r\n");
    out.clear();
    Command::begin(&mut out, 3).part("EXPIRE").part(b"k").number(u64::MAX);
    assert_eq!(out, b"*3\r\n$6\r\nEXPIRE\r\n$1\r\nk\r\n$20\r\n18446744073709551615\r\n");
}

#[test]
fn numbers_are_read_from_integers_and_from_text() {
    let reply = |wire: &'static [u8]| Reply::parse(wire).unwrap();
    assert_eq!(reply(b":-7\r\n").number(), Some(-7));
    assert_eq!(reply(b"$2\r\n42\r\n").number(), Some(42));
    assert_eq!(reply(b"$20\r\n18446744073709551615\r\n").count(), Some(u64::MAX));
    assert_eq!(reply(b":-7\r\n").count(), None);
    assert_eq!(reply(b"_\r\n").number(), None);
}
