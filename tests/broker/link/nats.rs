//! A real NATS: every way to it, messages as Centrifugo has them, and what it does not do.

use std::net::TcpListener;

use ringhold::broker::inspect::{Grade, inspect};
use ringhold::gateway::broker::{Fault, Message, Outcome, Publish, Request};
use rustix::process::Signal;

use super::rig::{Rig, nats_options, publish, request};
use crate::support::daemon::free_port;
use crate::support::nats::{Nats, Wire};
use crate::support::until;

fn plain(channel: &str, data: &str) -> Publish {
    Publish { stream: None, ..publish(channel, data, 1) }
}

/// A `Publication` in Protobuf with this data.
fn data(text: &str) -> String {
    format!("\"{}{text}", char::from(u8::try_from(text.len()).unwrap()))
}

fn done() -> Result<Outcome, Fault> {
    Ok(Outcome::Published { position: None, suppressed: false })
}

fn url(server: &str) -> String {
    format!("url = \"{server}\"\n")
}

/// One publication there and back.
fn round_trip(mut rig: Rig) {
    rig.listen(&["a", "b.c"]);
    assert_eq!(rig.result(request(plain("b.c", &data("1")))), done());
    rig.until("the message", |rig| !rig.messages.is_empty());
    assert_eq!(rig.messages, [("b.c".to_owned(), Message::Passed(data("1").into()))]);
    rig.finish();
}

#[test]
fn logins_and_tokens() {
    let users = "authorization { users: [{ user: ann, password: \"s:1\" }] }";
    for (config, good, bad) in [
        ("", "", "nobody:nothing@"),
        (users, "ann:s%3A1@", "ann:wrong@"),
        ("authorization { token: \"t1\" }", "t1@", "t2@"),
    ] {
        let Some(nats) = Nats::start_with(config) else { return };
        let at = |login: &str| url(&format!("nats://{login}127.0.0.1:{}", nats.port()));
        round_trip(Rig::on_nats(&at(good)));
        if config.is_empty() {
            // A server without logins takes any.
            round_trip(Rig::on_nats(&at(bad)));
            continue;
        }
        for login in ["", bad] {
            let mut rig = Rig::start_nats(&at(login));
            rig.complains("login (broker.nats.url) is refused");
            assert!(!rig.trouble().unwrap().contains("wrong"));
            assert_eq!(rig.result(request(plain("a", "x"))), Err(Fault::Away));
            rig.finish();
        }
    }
}

#[test]
fn tls_with_and_without_a_certificate_of_ours() {
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/keys");
    let own = |verify: bool| {
        let files =
            format!("cert_file: \"{keys}/localhost.pem\", key_file: \"{keys}/localhost.key\"");
        format!("tls {{ {files}, ca_file: \"{keys}/ca.pem\", verify: {verify} }}")
    };
    let Some(nats) = Nats::start_with(&own(false)) else { return };
    let tls = format!("[broker.nats.tls]\nserver_ca_pem = \"{keys}/ca.pem\"\n");
    let at = |scheme: &str| url(&format!("{scheme}://localhost:{}", nats.port()));
    // The server asks for it in any case.
    for scheme in ["tls", "nats"] {
        round_trip(Rig::on_nats(&format!("{}{tls}", at(scheme))));
    }
    Rig::start_nats(&at("tls")).complains("no TLS handshake");
    let other = format!("{}{tls}server_name = \"example.org\"\n", at("tls"));
    Rig::start_nats(&other).complains("no TLS handshake");
    let skip = format!("{}[broker.nats.tls]\ninsecure_skip_verify = true\n", at("tls"));
    round_trip(Rig::on_nats(&skip));
    drop(nats);
    let Some(nats) = Nats::start_with(&own(true)) else { return };
    let at = url(&format!("tls://localhost:{}", nats.port()));
    let who = format!("cert_pem = \"{keys}/client.pem\"\nkey_pem = \"{keys}/client.key\"\n");
    round_trip(Rig::on_nats(&format!("{at}{tls}{who}")));
    let mut nobody = Rig::start_nats(&format!("{at}{tls}"));
    nobody
        .until("a failure", |rig| rig.trouble().is_some_and(|it| !it.contains("not reached yet")));
    drop(nats);
    // A server in the clear is not spoken to if TLS is wanted.
    let Some(nats) = Nats::start() else { return };
    let at = url(&format!("tls://localhost:{}", nats.port()));
    Rig::start_nats(&format!("{at}{tls}")).complains("does not speak TLS");
}

#[test]
fn nobody_there_a_stranger_and_one_that_says_nothing() {
    let mut rig = Rig::start_nats(&url(&format!("nats://127.0.0.1:{}", free_port())));
    rig.complains("cannot connect");
    assert_eq!(rig.result(request(plain("a", "x"))), Err(Fault::Away));
    rig.finish();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("nats://{}", silent.local_addr().unwrap());
    let mut rig = Rig::start_nats(&format!("{}dial_timeout = \"100ms\"\n", url(&at)));
    rig.complains("no connection within 100ms");
    rig.finish();
}

#[test]
fn the_next_server_is_taken_where_one_is_away() {
    let Some(nats) = Nats::start() else { return };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let places = format!(
        "nats://127.0.0.1:{},nats://{},{}",
        free_port(),
        silent.local_addr().unwrap(),
        nats.url()
    );
    for _ in 0..4 {
        let keys = format!("{}dial_timeout = \"200ms\"\n", url(&places));
        round_trip(Rig::on_nats(&keys));
    }
}

/// Written by hand: what Centrifugo's nodes write, and what they would read.
#[test]
fn messages_are_centrifugos_byte_for_byte() {
    let Some(nats) = Nats::start() else { return };
    let mut wire = Wire::open(nats.port()).unwrap();
    wire.subscribe("centrifugo.client.>");
    let mut rig = Rig::on_nats(&url(&nats.url()));
    rig.listen(&["ns:a.b"]);
    assert_eq!(rig.result(request(plain("ns:a.b", "\"\x02{}"))), done());
    let publication = b"\x12\x06ns:a.b\x22\x04\x22\x02{}".to_vec();
    let subject = "centrifugo.client.ns:a.b".to_owned();
    assert_eq!(wire.message(), (subject.clone(), publication.clone()));
    rig.ask(|_| Request::Join("ns:a.b".into(), b"\x0a\x01u\x12\x01c"[..].into()));
    let join = b"\x12\x06ns:a.b\x2a\x08\x0a\x06\x0a\x01u\x12\x01c".to_vec();
    assert_eq!(wire.message(), (subject.clone(), join.clone()));
    rig.ask(|_| Request::Leave("ns:a.b".into(), b"\x0a\x01u"[..].into()));
    let leave = b"\x12\x06ns:a.b\x32\x05\x0a\x03\x0a\x01u".to_vec();
    assert_eq!(wire.message(), (subject.clone(), leave.clone()));
    rig.until("its own messages", |rig| rig.messages.len() == 3);
    for payload in [&publication[..], &join, &leave, b"no message", b""] {
        wire.publish(&subject, payload);
    }
    wire.settle();
    rig.until("those of others", |rig| rig.messages.len() == 6);
    assert_eq!(rig.messages[..3], rig.messages[3..]);
    rig.until("the rest", |rig| rig.view.tally.messages_malformed.get() == 2);
    rig.finish();
}

#[test]
fn names_that_nats_cannot_have_change_nothing_else() {
    let Some(nats) = Nats::start() else { return };
    let mut rig = Rig::on_nats(&url(&nats.url()));
    let names = ["a b", "a\r\nPUB evil 0\r\n", ".", "a..b", "", "a.*", ">", "a.\t"];
    let asked = names.iter().chain(&["fine"]).map(|name| (*name).into()).collect();
    rig.ask(|_| Request::Listen(asked));
    rig.until("the only good name", |rig| rig.listening == ["fine"]);
    let refused: Vec<_> = names.iter().map(|name| ((*name).to_owned(), Fault::Name)).collect();
    assert_eq!(rig.refused, refused);
    for name in names {
        assert_eq!(rig.result(request(plain(name, "\"\x011"))), Err(Fault::Name), "{name:?}");
        let name = name.to_owned();
        rig.ask(|_| Request::Ignore(vec![name.into()]));
    }
    assert_eq!(rig.result(request(plain("fine", "\"\x011"))), done());
    rig.until("its message", |rig| rig.messages.len() == 1);
    assert_eq!(rig.view.tally.maps().lost.len(), 0, "it is still the same connection");
    rig.finish();
}

#[test]
fn what_is_too_large_is_not_sent() {
    let Some(nats) = Nats::start_with("max_payload: 1000") else { return };
    let mut rig = Rig::on_nats(&url(&nats.url()));
    rig.listen(&["a"]);
    let large = "x".repeat(1000);
    assert_eq!(rig.result(request(plain("a", &large))), Err(Fault::Size));
    // The channel's name and what is around it count.
    let fits = "x".repeat(1000 - 3 - 3);
    assert_eq!(rig.result(request(plain("a", &fits))), done());
    assert_eq!(rig.result(request(plain("a", &format!("{fits}x")))), Err(Fault::Size));
    rig.until("the message", |rig| rig.messages.len() == 1);
    assert_eq!(rig.view.tally.maps().lost.len(), 0);
    rig.finish();
}

#[test]
fn what_a_user_may_not_is_denied_and_the_rest_goes_on() {
    let config = "authorization { users: [{ user: u, password: p, permissions: {
        publish: { deny: \"centrifugo.client.secret\" },
        subscribe: { deny: \"centrifugo.client.secret\" } } }] }";
    let Some(nats) = Nats::start_with(config) else { return };
    let mut rig = Rig::on_nats(&url(&format!("nats://u:p@127.0.0.1:{}", nats.port())));
    let names = ["a", "secret", "b"].map(Into::into).to_vec();
    rig.ask(|_| Request::Listen(names));
    rig.until("the others", |rig| rig.listening == ["a", "b"]);
    assert_eq!(rig.refused, [("secret".to_owned(), Fault::Denied)]);
    let tickets: Vec<_> = ["a", "secret", "b", "secret", "a"]
        .map(|name| (name, rig.ask(request(plain(name, &data("1"))))))
        .into();
    for (name, ticket) in tickets {
        let expected = if name == "secret" { Err(Fault::Denied) } else { done() };
        assert_eq!(rig.answer(ticket), expected, "{name}");
    }
    rig.until("three messages", |rig| rig.messages.len() == 3);
    assert_eq!(rig.view.tally.maps().lost.len(), 0);
    rig.finish();
}

/// Channels beyond what the server gives a connection are asked for until it has room.
#[test]
fn a_server_without_room_for_more_channels_is_asked_again() {
    // Two are what nodes tell each other.
    let Some(nats) = Nats::start_with("max_subscriptions: 4") else { return };
    let mut rig = Rig::on_nats(&url(&nats.url()));
    rig.listen(&["a"]);
    let more = ["b", "c"].map(Into::into).to_vec();
    rig.listening.clear();
    rig.ask(|_| Request::Listen(more));
    assert_eq!(rig.result(request(plain("a", &data("1")))), done());
    rig.ask(|_| Request::Ignore(vec!["a".into()]));
    rig.until("both", |rig| rig.listening == ["b", "c"]);
    assert_eq!(rig.view.tally.maps().lost.len(), 0);
    rig.finish();
}

#[test]
fn raw_mode_and_patterns() {
    let Some(nats) = Nats::start() else { return };
    let mut wire = Wire::open(nats.port()).unwrap();
    wire.subscribe("raw.>");
    let keys = format!(
        "{}allow_wildcards = true\nraw_mode.enabled = true\nraw_mode.prefix = \"raw.\"\n\
         raw_mode.channel_replacements = {{ \":\" = \".\" }}\n",
        url(&nats.url())
    );
    let mut rig = Rig::on_nats(&keys);
    rig.listen(&["ns:a", "ns:*"]);
    assert_eq!(rig.result(request(plain("ns:a", &data("{}")))), done());
    assert_eq!(wire.message(), ("raw.ns.a".to_owned(), b"{}".to_vec()));
    rig.ask(|_| Request::Join("ns:a".into(), b"\x0a\x01u"[..].into()));
    wire.publish("raw.ns.b", b"[1]");
    wire.settle();
    rig.until("three messages", |rig| rig.messages.len() == 3);
    rig.messages.sort_by_key(|(_, message)| message.data().to_vec());
    // With the channel that it was published in, as its subject has it.
    let placed =
        |text: &str, place: &str| Message::Passed(format!("{}R\u{4}{place}", data(text)).into());
    let expected = [
        ("ns:a", Message::Passed(data("{}").into())),
        ("ns:*", placed("{}", "ns.a")),
        ("ns:*", placed("[1]", "ns.b")),
    ];
    let expected = expected.map(|(name, message)| (name.to_owned(), message));
    assert_eq!(rig.messages, expected);
    rig.finish();
}

#[test]
fn a_killed_server_costs_its_answers_only() {
    let Some(mut nats) = Nats::start() else { return };
    let mut rig = Rig::on_nats(&url(&nats.url()));
    rig.listen(&["a"]);
    nats.kill();
    rig.until("the connection to be lost", |rig| rig.lives.last() == Some(&None));
    until("an answer at once", || rig.result(request(plain("a", &data("1")))) == Err(Fault::Away));
    assert!(rig.trouble().is_none(), "it may be back at once");
    nats.restart();
    rig.until("another", |rig| rig.lives.len() == 3);
    rig.listen(&["a"]);
    assert_eq!(rig.result(request(plain("a", &data("2")))), done());
    rig.until("the message", |rig| rig.messages.len() == 1);
    rig.finish();
}

#[test]
fn a_server_that_stops_is_late_and_then_left() {
    let Some(nats) = Nats::start() else { return };
    let mut rig = Rig::on_nats(&format!("{}write_timeout = \"300ms\"\n", url(&nats.url())));
    rig.listen(&["a"]);
    nats.signal(Signal::STOP);
    let tickets: Vec<_> = (0..5).map(|_| rig.ask(request(plain("a", &data("1"))))).collect();
    for ticket in tickets {
        let answer = rig.answer(ticket);
        assert!(matches!(answer, Err(Fault::Late | Fault::Unknown)), "{answer:?}");
    }
    rig.until("the connection to be given up", |rig| rig.lives.last() == Some(&None));
    assert_eq!(rig.view.tally.maps().lost.get("silent"), Some(&1));
    nats.signal(Signal::CONT);
    rig.until("another", |rig| rig.lives.len() >= 3 && rig.lives.last() != Some(&None));
    rig.listen(&["a"]);
    assert_eq!(rig.result(request(plain("a", &data("2")))), done());
    // What was sent before may come now: nobody has said that it was lost.
    let own = ("a".to_owned(), Message::Passed(data("2").into()));
    rig.until("the message", |rig| rig.messages.contains(&own));
    rig.finish();
}

/// Many channels after a lost connection: how long, and nothing is forgotten.
#[test]
fn channels_are_asked_for_in_pieces() {
    let Some(nats) = Nats::start() else { return };
    let mut rig = Rig::on_nats(&url(&nats.url()));
    let names: Vec<std::sync::Arc<str>> = (0..20_000).map(|n| format!("c{n}").into()).collect();
    let begun = std::time::Instant::now();
    for piece in names.chunks(512) {
        let piece = piece.to_vec();
        rig.ask(|_| Request::Listen(piece));
    }
    rig.until("all", |rig| rig.listening.len() == names.len());
    println!("20,000 channels listened to within {:?}", begun.elapsed());
    assert_eq!(rig.view.tally.listens.get(), 20_000);
    assert!(nats.tells("/varz").contains("\"subscriptions\": 20"), "two more are the nodes'");
    let tickets: Vec<_> =
        (0..1000).map(|n| rig.ask(request(plain(&format!("c{n}"), &data("1"))))).collect();
    for ticket in tickets {
        assert_eq!(rig.answer(ticket), done());
    }
    rig.until("all messages", |rig| rig.messages.len() == 1000);
    rig.finish();
}

#[test]
fn a_doctor_says_what_a_server_is_and_takes() {
    let remarks = |keys: &str| {
        let config = nats_options(keys).broker_config("doctor").unwrap().expect("a broker");
        let remarks = inspect(&config).unwrap();
        remarks.into_iter().map(|it| (it.check, it.grade, it.found)).collect::<Vec<_>>()
    };
    let Some(nats) = Nats::start_with("max_payload: 1000") else { return };
    let found = remarks(&url(&nats.url()));
    assert_eq!((found[0].0, found[0].1), ("nats", Grade::Fine), "{found:?}");
    assert!(found[0].2.contains(": version 2."), "{found:?}");
    let size = ("nats-max-payload", Grade::Better, "messages of 1000 bytes".to_owned());
    assert_eq!(found[1], size);
    assert_eq!((found[2].0, found[2].1), ("nats-cluster", Grade::Better), "{found:?}");
    drop(nats);
    let Some((first, _second)) = Nats::pair() else { return };
    until("the other server to be named", || {
        let found = remarks(&url(&first.url()));
        found[1].1 == Grade::Fine && found[2].1 == Grade::Fine
    });
    let away = remarks(&url(&format!("nats://127.0.0.1:{}", free_port())));
    assert_eq!((away.len(), away[0].1), (1, Grade::Short));
}
