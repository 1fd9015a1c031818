//! Names of channels as subjects, and messages as Centrifugo writes and reads them.

use proptest::prelude::*;

use super::*;
use crate::gateway::wire::messages::ClientInfo;

fn plain() -> Subjects {
    Subjects::new("centrifugo", false)
}

fn raw(prefix: &str, replacements: &[(&str, &str)]) -> Subjects {
    let all = replacements.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned()));
    plain().raw(prefix, &all.collect())
}

#[test]
fn subjects_are_centrifugos() {
    let subjects = plain();
    assert_eq!(subjects.control(), "centrifugo.control");
    assert_eq!(subjects.node("uid").unwrap(), "centrifugo.node.uid");
    for uid in ["a b", "", "a..b", "*", "a\r\nPUB"] {
        assert_eq!(subjects.node(uid), None, "{uid:?}");
    }
    assert_eq!(subjects.to_publish("news:a.b#1").unwrap(), "centrifugo.client.news:a.b#1");
    assert_eq!(subjects.to_listen("ñ").unwrap(), "centrifugo.client.ñ");
    let raw = raw("raw.", &[(":", "."), ("::", "-")]);
    assert_eq!(raw.to_publish("chat:index").unwrap(), "raw.chat.index");
    assert_eq!(raw.to_listen("a::b:::c").unwrap(), "raw.a-b-.c");
    assert_eq!(raw.control(), "centrifugo.control");
}

#[test]
fn what_is_no_subject_is_refused() {
    let (plain, wild) = (plain(), Subjects::new("centrifugo", true));
    let long = "x".repeat(SUBJECT_MAX + 1);
    for channel in ["", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\r\nPUB x 0", "a\0", &long] {
        for subjects in [&plain, &wild, &raw("", &[])] {
            assert_eq!(subjects.to_publish(channel), Err(Fault::Name), "{channel:?}");
            assert_eq!(subjects.to_listen(channel), Err(Fault::Name), "{channel:?}");
        }
    }
    for channel in ["*", "a.*", "a.>", ">", "a*b", "a>"] {
        assert_eq!(plain.to_listen(channel), Err(Fault::Name), "{channel}");
        assert_eq!(wild.to_publish(channel), Err(Fault::Name), "{channel}");
        assert!(wild.to_listen(channel).is_ok(), "{channel}");
    }
    assert_eq!(wild.to_listen("a.>.b"), Err(Fault::Name));
    // A replacement must make one, and no pattern.
    assert!(
        raw("", &[(" ", "_")]).to_listen("a b").is_err(),
        "the name itself is a word of a line"
    );
    assert_eq!(raw("", &[("x", "*")]).to_listen("x"), Err(Fault::Name));
    assert_eq!(raw("", &[("x", "")]).to_listen("x"), Err(Fault::Name));
}

fn publication(data: &'static str) -> Publication {
    Publication { data: data.into(), time: 7, ..Publication::default() }
}

fn written(wrapped: &Wrapped) -> Vec<u8> {
    wrapped.pieces().concat()
}

/// Written by hand from the client protocol's description: field and type, length, content.
#[test]
fn messages_are_centrifugos_byte_for_byte() {
    let subjects = plain();
    let data = Bytes::from(publication("{}").encode_to_vec());
    // Publication: data (4) "{}", time (9) 7.
    assert_eq!(&data[..], b"\x22\x02{}\x48\x07");
    // Push: channel (2) "ch", pub (4).
    let plain = written(&subjects.publication("ch", &data, false).unwrap());
    assert_eq!(&plain[..], b"\x12\x02ch\x22\x06\x22\x02{}\x48\x07");
    // Delta (8) is a field of the publication.
    let delta = written(&subjects.publication("ch", &data, true).unwrap());
    assert_eq!(&delta[..], b"\x12\x02ch\x22\x08\x22\x02{}\x48\x07\x40\x01");
    // Join (5) and leave (6): info (1) with user (1) and client (2).
    let info = ClientInfo { user: "u".into(), client: "c".into(), ..ClientInfo::default() };
    let info = Bytes::from(info.encode_to_vec());
    let notice = |joins| written(&subjects.notice("ch", &info, joins).unwrap());
    assert_eq!(notice(true), b"\x12\x02ch\x2a\x08\x0a\x06\x0a\x01u\x12\x01c");
    assert_eq!(notice(false), b"\x12\x02ch\x32\x08\x0a\x06\x0a\x01u\x12\x01c");
    let read = |payload: &[u8]| subjects.message("ch", b"", payload);
    assert_eq!(read(&plain), Ok(Some(Message::Passed(data))));
    assert_eq!(read(&notice(true)), Ok(Some(Message::Join(info.clone()))));
    assert_eq!(read(&notice(false)), Ok(Some(Message::Leave(info))));
    for malformed in [&b"\x12\x02ch"[..], b"hello", b"", b"\x12\x02ch\x2a\x00"] {
        assert_eq!(read(malformed), Err(Malformed));
    }
}

#[test]
fn a_pattern_gets_publications_with_their_channel_and_nobody() {
    let subjects = Subjects::new("centrifugo", true);
    let data = Bytes::from(publication("1").encode_to_vec());
    let push = written(&subjects.publication("a.b", &data, false).unwrap());
    let Ok(Some(Message::Passed(got))) = subjects.message("a.*", b"", &push) else { panic!() };
    let expected = Publication { channel: "a.b".to_owned(), ..publication("1") };
    assert_eq!(Publication::decode(got).unwrap(), expected);
    let join = written(&subjects.notice("a.b", &Bytes::from_static(b"\x0a\x01u"), true).unwrap());
    assert_eq!(subjects.message("a.*", b"", &join), Ok(None));
    assert!(matches!(subjects.message("a.b", b"", &join), Ok(Some(Message::Join(_)))));
}

#[test]
fn raw_messages_are_data_and_nothing_else() {
    let subjects = raw("raw.", &[]);
    let data = Bytes::from(publication("{\"a\":1}").encode_to_vec());
    assert_eq!(written(&subjects.publication("ch", &data, true).unwrap()), b"{\"a\":1}");
    assert!(subjects.notice("ch", &data, true).is_none());
    assert_eq!(
        subjects.publication("ch", &Bytes::from_static(b"\xff"), false).err(),
        Some(Fault::Malformed)
    );
    let came = |payload: &[u8]| match subjects.message("ch", b"raw.ch", payload) {
        Ok(Some(Message::Passed(data))) => Publication::decode(data).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(came(b"{\"a\":1}").data, "{\"a\":1}");
    assert_eq!(came(b"{\n\"a\":\r\n1}").data, "{\"a\":1}", "one line is one command");
    assert_eq!(came(b"not\njson").data, "not\njson");
    assert_eq!(came(b"1").channel, "");
    assert_eq!(subjects.message("ch", b"raw.ch", b""), Err(Malformed));
}

proptest! {
    #[test]
    fn no_name_of_a_channel_makes_another_line(channel in ".{0,20}", extra in "[ \t\r\n.*>]{0,3}") {
        let channel = format!("{channel}{extra}");
        let wild = Subjects::new("centrifugo", true);
        for subjects in [plain(), wild, raw("", &[(":", ".")])] {
            let both = [subjects.to_publish(&channel), subjects.to_listen(&channel)];
            for subject in both.into_iter().flatten() {
                let mut out = Vec::new();
                super::super::wire::subscribe(&mut out, &subject, &[CHANNEL, &channel]);
                let line = String::from_utf8(out).unwrap();
                prop_assert_eq!(line.split_ascii_whitespace().count(), 3);
                prop_assert_eq!(line.matches('\n').count(), 1);
                prop_assert!(subject.split('.').all(|word| !word.is_empty()));
            }
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_none(payload in prop::collection::vec(any::<u8>(), 0..100)) {
        for subjects in [plain(), Subjects::new("centrifugo", true), raw("", &[])] {
            let _ = subjects.message("a.*", b"a.b", &payload);
            let _ = subjects.message("a", &payload, &payload);
        }
    }
}
