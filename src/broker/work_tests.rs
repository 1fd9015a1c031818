//! Requests through good connections and bad ones: each is answered once, in its order.

use std::rc::Rc;

use super::super::layout::{Layout, Tags};
use super::super::post::tests::Desk;
use super::super::queue::Queue;
use super::super::requests::Dialect;
use super::super::resp::{Bounds, Scanner};
use super::super::scripts::Digests;
use super::*;
use crate::gateway::broker::{Broker as _, Kept, Limits, Publish, Request, Ticket};
use crate::gateway::placement::Placement;
use crate::gateway::stream::Epoch;

struct Bench {
    work: Work,
    queue: Arc<Queue>,
    desk: Desk,
    post: Rc<Post>,
    out: Vec<u8>,
    start: Instant,
}

const PATIENCE: Duration = Duration::from_secs(4);

fn bench() -> Bench {
    let desk = Desk::default();
    let tally: Arc<Tally> = Arc::default();
    let post = Rc::new(Post::new(Box::new(desk.clone()), Placement::new(1, 1), tally.clone()));
    let dialect = Rc::new(Dialect {
        layout: Layout::new("p", Tags::Plain),
        digests: Digests::new(),
        node: "n".into(),
        presence_ttl: Duration::from_secs(60),
    });
    let work = Work::new(post.clone(), tally, dialect, PATIENCE);
    let queue = Queue::new(1, Limits::default());
    Bench { work, queue, desk, post, out: Vec::new(), start: Instant::now() }
}

fn history(ticket: u64) -> Request {
    let kept = Kept {
        size: 10,
        ttl: Duration::from_secs(1),
        meta_ttl: Duration::ZERO,
        renew: false,
        fresh: Epoch::parse("fresh").unwrap(),
    };
    publish(ticket, Some(kept))
}

fn publish(ticket: u64, stream: Option<Kept>) -> Request {
    let publish = Publish {
        channel: "ch".into(),
        data: "data".into(),
        stream,
        delta: false,
        idempotency_key: String::new(),
        idempotency_ttl: Duration::from_secs(1),
        version: 0,
        version_epoch: String::new(),
        sequence: ticket,
    };
    Request::Publish(Ticket(ticket), Box::new(publish))
}

impl Bench {
    fn ask(&mut self, request: Request) {
        self.queue.request(0, request).unwrap();
        let mut taken = VecDeque::new();
        self.queue.take(&mut taken);
        taken.into_iter().for_each(|taken| self.work.submit(Job::new(taken, None)));
    }

    /// What is sent, in words: sequences of publications, other commands by name.
    fn send(&mut self, after: Duration) -> Vec<String> {
        self.work.send(&mut self.out, self.start + after, Duration::from_secs(1));
        let (mut at, mut words) = (0, Vec::new());
        while at < self.out.len() {
            let len = Scanner::new(Bounds::default()).scan(&self.out[at..]).unwrap().unwrap();
            let command = Reply::parse(&self.out[at..at + len]).unwrap();
            let parts: Vec<_> = command.list().unwrap().iter().filter_map(Reply::str).collect();
            words.push(match parts.iter().find(|part| part.starts_with("n.0.")) {
                Some(mark) => {
                    // Behind it stands whether it may be there already.
                    let again = parts.iter().position(|part| part == mark).unwrap() + 1;
                    format!("{}{}", &mark[4..], if parts[again] == "1" { "?" } else { "" })
                }
                None => parts[0].to_owned(),
            });
            at += len;
        }
        self.out.clear();
        words
    }

    fn hear(&mut self, wire: &str) -> Result<(), Lost> {
        self.work.reply(&Reply::parse(wire.as_bytes()).unwrap(), self.start)
    }

    /// Tickets with their results.
    fn answers(&self) -> Vec<(u64, Result<Option<u64>, Fault>)> {
        self.post.flush(self.start);
        let said = std::mem::take(&mut *self.desk.said.borrow_mut());
        let answer = |happening| match happening {
            Happening::Answer(Ticket(ticket), result) => {
                let offset = |outcome| match outcome {
                    Outcome::Published { position, .. } => position.map(|(_, offset)| offset),
                    _ => None,
                };
                (ticket, result.map(offset))
            }
            other => panic!("{other:?}"),
        };
        said.into_iter().flatten().map(answer).collect()
    }
}

fn placed(offset: u64) -> String {
    format!("*3\r\n$1\r\n{offset}\r\n$1\r\ne\r\n$0\r\n\r\n")
}

#[test]
fn requests_are_sent_together_and_answered_in_order() {
    let mut bench = bench();
    (1..=3).for_each(|ticket| bench.ask(history(ticket)));
    assert_eq!(bench.send(Duration::ZERO), ["1", "2", "3"]);
    bench.hear(&placed(7)).unwrap();
    bench.hear("-OOM command not allowed\r\n").unwrap();
    assert_eq!(bench.answers(), [(1, Ok(Some(7))), (2, Err(Fault::Denied))]);
    assert_eq!(bench.queue.unanswered(), 1);
    bench.hear(&placed(8)).unwrap();
    assert_eq!(bench.answers(), [(3, Ok(Some(8)))]);
    assert!(bench.work.is_empty() && bench.queue.unanswered() == 0);
    assert!(bench.hear(&placed(9)).is_err(), "nobody asked");
}

#[test]
fn a_broken_connection_repeats_what_can_be_found_again() {
    let mut bench = bench();
    bench.ask(history(1));
    bench.ask(publish(2, None));
    bench.ask(history(3));
    bench.send(Duration::ZERO);
    bench.hear(&placed(1)).unwrap();
    bench.ask(history(4));
    bench.work.lost(bench.start);
    bench.ask(history(5));
    assert_eq!(bench.answers(), [(1, Ok(Some(1))), (2, Err(Fault::Unknown))]);
    assert_eq!(bench.send(Duration::ZERO), ["3?", "4", "5"]);
    (2..5).for_each(|offset| bench.hear(&placed(offset)).unwrap());
    assert_eq!(bench.answers().len(), 3);
    assert!(bench.work.is_empty());
}

#[test]
fn without_a_connection_in_sight_nothing_waits_but_what_was_sent() {
    let mut bench = bench();
    bench.ask(history(1));
    bench.send(Duration::ZERO);
    bench.ask(history(2));
    bench.work.lost(bench.start);
    assert!(bench.answers().is_empty(), "the next connection may come at once");
    bench.work.away();
    bench.ask(history(3));
    let away = Err(Fault::Away);
    assert_eq!(bench.answers(), [(2, away), (3, away)]);
    assert!(!bench.work.expire(bench.start + PATIENCE - Duration::from_millis(100)));
    assert!(bench.answers().is_empty());
    bench.work.expire(bench.start + PATIENCE + Duration::from_millis(100));
    assert_eq!(bench.answers(), [(1, Err(Fault::Late))]);
    bench.work.back();
    bench.ask(history(4));
    assert_eq!(bench.send(Duration::ZERO), ["4"]);
}

#[test]
fn forgotten_scripts_are_loaded_and_the_order_is_kept() {
    let mut bench = bench();
    (1..=2).for_each(|ticket| bench.ask(history(ticket)));
    bench.send(Duration::ZERO);
    bench.hear("-NOSCRIPT No matching script.\r\n").unwrap();
    bench.ask(history(3));
    assert!(bench.send(Duration::ZERO).is_empty(), "2 is not back yet");
    bench.hear("-NOSCRIPT No matching script.\r\n").unwrap();
    let sent = bench.send(Duration::ZERO);
    assert_eq!(sent[Script::ALL.len()..], ["1", "2", "3"]);
    Script::ALL.iter().for_each(|_| bench.hear("$1\r\nx\r\n").unwrap());
    (1..=3).for_each(|offset| bench.hear(&placed(offset)).unwrap());
    assert_eq!(bench.answers(), [(1, Ok(Some(1))), (2, Ok(Some(2))), (3, Ok(Some(3)))]);
}

#[test]
fn a_server_that_keeps_no_script_is_not_asked_for_ever() {
    let mut bench = bench();
    bench.ask(history(1));
    let mut times = 0;
    while !bench.work.is_empty() {
        for word in bench.send(Duration::ZERO) {
            let scripts = word == "SCRIPT";
            bench.hear(if scripts { "-NOPERM no\r\n" } else { "-NOSCRIPT\r\n" }).unwrap();
        }
        times += 1;
        assert!(times < 10);
    }
    assert_eq!(bench.answers(), [(1, Err(Fault::Denied))]);
}

#[test]
fn a_server_not_in_charge_is_left_and_what_was_asked_is_repeated() {
    let mut bench = bench();
    bench.ask(history(1));
    bench.ask(history(2));
    bench.send(Duration::ZERO);
    assert!(matches!(bench.hear("-READONLY You can't\r\n"), Err(Lost::NotPrimary)));
    bench.work.lost(bench.start);
    assert_eq!(bench.send(Duration::ZERO), ["1?", "2?"]);
}

#[test]
fn a_late_server_is_found_out() {
    let mut bench = bench();
    bench.ask(history(1));
    bench.send(Duration::ZERO);
    let deadline = bench.work.deadline().unwrap();
    assert!(!bench.work.expire(deadline - Duration::from_millis(1)));
    assert!(bench.work.expire(deadline));
    bench.work.lost(deadline);
    assert_eq!(bench.answers(), [(1, Err(Fault::Late))]);
    bench.work.ping(&mut bench.out, bench.start);
    assert_eq!(bench.work.deadline(), Some(bench.start + PATIENCE));
    bench.hear("+PONG\r\n").unwrap();
    assert!(bench.work.is_empty() && bench.work.deadline().is_none());
}
