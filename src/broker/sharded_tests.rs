//! Replies of a cluster's node about sharded messages, in every order that may come.

use std::sync::Arc;

use super::super::layout::Tags;
use super::super::listening::tests::{Bench, Named, bench};
use super::*;
use crate::gateway::broker::{Happening, Message, Scope};

/// With two partitions, whose slots are 13907 and 9842.
fn sharded() -> Bench {
    let mut bench = bench();
    bench.layout = Layout::new("p", Tags::Partitions(2));
    bench
}

fn slot(bench: &Bench, channel: &str) -> u16 {
    bench.layout.slot(channel)
}

fn name(bench: &Bench, channel: &str) -> String {
    String::from_utf8(bench.layout.messages(channel).concat()).unwrap()
}

/// The node ends, begins or refuses the messages of a channel.
fn says(bench: &mut Bench, word: &str, channel: &str) {
    let name = name(bench, channel);
    let text = format!(">3\r\n+{word}\r\n${}\r\n{name}\r\n:1\r\n", name.len());
    bench.hear(&text).unwrap();
}

fn written(bench: &mut Bench) -> Vec<String> {
    let out = std::mem::take(&mut bench.out);
    let (mut at, mut commands) = (0, Vec::new());
    while at < out.len() {
        let scanner = &mut super::super::resp::Scanner::new(Default::default());
        let len = scanner.scan(&out[at..]).unwrap().expect("whole");
        let command = Reply::parse(&out[at..at + len]).unwrap();
        let parts: Vec<_> = command.list().unwrap().iter().filter_map(Reply::str).collect();
        commands.push(parts.join(" "));
        at += len;
    }
    commands
}

fn acknowledged(bench: &Bench) -> Vec<String> {
    let mut all = Vec::new();
    for happening in bench.said() {
        let Happening::Listening(names) = happening else { panic!("{happening:?}") };
        all.extend(names.iter().map(|name| name.to_string()));
    }
    all
}

/// Names of channels in each of two slots.
fn channels(bench: &Bench) -> [String; 3] {
    let all = || (0..100).map(|n| format!("ch{n}"));
    let mut first = all().filter(|name| slot(bench, name) == 13_907);
    let other = all().find(|name| slot(bench, name) == 9842).unwrap();
    [first.next().unwrap(), first.next().unwrap(), other]
}

#[test]
fn a_piece_leaves_slot_by_slot() {
    let mut bench = sharded();
    let [a, b, c] = channels(&bench);
    bench.ask(true, &[&a, &c, &b]);
    let expected = [
        format!("SSUBSCRIBE {}", name(&bench, &c)),
        format!("SSUBSCRIBE {} {}", name(&bench, &a), name(&bench, &b)),
    ];
    assert_eq!(written(&mut bench), expected);
    says(&mut bench, "ssubscribe", &c);
    assert_eq!(acknowledged(&bench), [c.as_str()]);
    says(&mut bench, "ssubscribe", &a);
    assert!(acknowledged(&bench).is_empty());
    says(&mut bench, "ssubscribe", &b);
    assert_eq!(acknowledged(&bench), [a.as_str(), b.as_str()]);
    let named = name(&bench, &a);
    bench.hear(&format!(">3\r\n+smessage\r\n${}\r\n{named}\r\n$2\r\nhi\r\n", named.len())).unwrap();
    let said = bench.said();
    assert!(matches!(&said[..], [Happening::Message(_, Message::Passed(_))]), "{said:?}");
    assert_eq!(bench.listening.unacknowledged(), 0);
    assert!(bench.listening.take_lost().is_empty());
}

#[test]
fn an_end_is_done_when_what_stands_behind_it_comes_back() {
    for open in ["+", "*2\r\n$4\r\npong\r\n+"] {
        let mut bench = sharded();
        let [a, b, _] = channels(&bench);
        bench.ask(false, &[&a]);
        bench.ask(true, &[&b]);
        let expected = [
            format!("SUNSUBSCRIBE {}", name(&bench, &a)),
            "PING fence 1".to_owned(),
            format!("SSUBSCRIBE {}", name(&bench, &b)),
        ];
        assert_eq!(written(&mut bench), expected);
        says(&mut bench, "sunsubscribe", &a);
        assert_eq!(bench.listening.sent.len(), 2, "it may be of the node's own accord");
        bench.hear(&format!("{open}fence 1\r\n")).unwrap();
        says(&mut bench, "ssubscribe", &b);
        assert_eq!(acknowledged(&bench), [b.as_str()]);
        assert!(bench.listening.take_lost().is_empty() && bench.listening.sent.is_empty());
    }
}

#[test]
fn what_a_node_ends_of_its_own_accord_is_a_lost_slot() {
    let mut bench = sharded();
    let [a, b, c] = channels(&bench);
    bench.ask(true, &[&a, &b]);
    says(&mut bench, "ssubscribe", &a);
    says(&mut bench, "ssubscribe", &b);
    // Several of one slot, and while another end is under way.
    bench.ask(false, &[&c]);
    says(&mut bench, "sunsubscribe", &a);
    says(&mut bench, "sunsubscribe", &b);
    assert_eq!(bench.listening.take_lost(), [13_907]);
    says(&mut bench, "sunsubscribe", &c);
    bench.hear("+fence 1\r\n").unwrap();
    assert!(bench.listening.take_lost().is_empty(), "it was asked to");
    says(&mut bench, "sunsubscribe", &c);
    assert_eq!(bench.listening.take_lost(), [9842]);
}

#[test]
fn what_is_refused_is_a_lost_slot_and_no_lost_connection() {
    let mut bench = sharded();
    let [a, b, c] = channels(&bench);
    for error in [
        "MOVED 13907 127.0.0.1:7000",
        "CLUSTERDOWN Hash slot not served",
        "TRYAGAIN later",
        "ASK 13907 127.0.0.1:7000",
    ] {
        bench.ask(true, &[&a, &b]);
        bench.ask(true, &[&c]);
        bench.hear(&format!("-{error}\r\n")).unwrap();
        assert_eq!(bench.listening.take_lost(), [13_907], "{error}");
        says(&mut bench, "ssubscribe", &c);
        assert_eq!(acknowledged(&bench), [c.as_str()]);
    }
    // An end that is refused is one.
    bench.ask(false, &[&a]);
    bench.hear("-MOVED 13907 127.0.0.1:7000\r\n").unwrap();
    bench.hear("+fence 1\r\n").unwrap();
    assert!(bench.listening.take_lost().is_empty() && bench.listening.sent.is_empty());
    // What is no redirection ends the connection, and so does one that nobody asked for.
    assert!(bench.hear("-MOVED 13907 127.0.0.1:7000\r\n").is_err());
    bench.ask(true, &[&a]);
    assert!(bench.hear("-ERR unknown command 'ssubscribe'\r\n").is_err());
}

#[test]
fn what_another_node_has_by_now_is_its_business() {
    let mut bench = sharded();
    let [a, _, c] = channels(&bench);
    let own = Arc::new(Named((&*a.clone().leak()).into()));
    bench.listening = bench.listening.in_cluster(Scope::Part(own.clone()));
    bench.ask(true, &[&a, &c]);
    assert_eq!(written(&mut bench).len(), 1, "only its own");
    *own.0.lock().unwrap() = "other";
    bench.hear("-MOVED 13907 127.0.0.1:7000\r\n").unwrap();
    says(&mut bench, "sunsubscribe", &a);
    assert!(bench.listening.take_lost().is_empty());
}

/// All parts of a piece count once.
#[test]
fn the_server_sets_the_pace_of_pieces() {
    let mut bench = sharded();
    let [a, _, c] = channels(&bench);
    for _ in 0..6 {
        bench.ask(true, &[&a, &c]);
    }
    assert_eq!((written(&mut bench).len(), bench.listening.unacknowledged()), (8, 12));
    says(&mut bench, "ssubscribe", &c);
    bench.send();
    assert!(written(&mut bench).is_empty());
    says(&mut bench, "ssubscribe", &a);
    bench.send();
    assert_eq!(written(&mut bench).len(), 2);
    bench.listening.lost();
    assert_eq!((bench.listening.unacknowledged(), bench.listening.deadline()), (0, None));
}
