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

fn dialect() -> Dialect {
    Dialect {
        layout: Layout::new("p", Tags::Plain),
        digests: Digests::new(),
        node: "n".into(),
        presence_ttl: Duration::from_secs(60),
    }
}

fn bench() -> Bench {
    let desk = Desk::default();
    let tally: Arc<Tally> = Arc::default();
    let post = Rc::new(Post::new(Box::new(desk.clone()), Placement::new(1, 1), tally.clone()));
    let work = Work::new(post.clone(), tally, Rc::new(dialect()), PATIENCE);
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

/// One that is not sent together with others.
fn keyed(ticket: u64) -> Request {
    let Request::Publish(ticket, mut publish) = history(ticket) else { panic!() };
    publish.idempotency_key = "key".to_owned();
    Request::Publish(ticket, publish)
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
            let marks: Vec<_> = parts.iter().filter(|part| part.starts_with("n.0.")).collect();
            words.push(match &marks[..] {
                [] => parts[0].to_owned(),
                [mark] => {
                    // Behind it stands whether it may be there already.
                    let again = parts.iter().position(|part| part == *mark).unwrap() + 1;
                    format!("{}{}", &mark[4..], if parts[again] == "1" { "?" } else { "" })
                }
                several => several.iter().map(|mark| &mark[4..]).collect::<Vec<_>>().join("+"),
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
    (1..=3).for_each(|ticket| bench.ask(keyed(ticket)));
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

/// A list with the replies of several.
fn list(replies: &[String]) -> String {
    format!("*{}\r\n{}", replies.len(), replies.concat())
}

#[test]
fn publications_that_need_no_more_than_others_are_sent_as_one_request() {
    let mut bench = bench();
    (1..=3).for_each(|ticket| bench.ask(history(ticket)));
    bench.ask(keyed(4));
    (5..=6).for_each(|ticket| bench.ask(history(ticket)));
    bench.ask(publish(7, None));
    bench.ask(history(8));
    assert_eq!(bench.send(Duration::ZERO), ["1+2+3", "4", "5+6", "PUBLISH", "8"]);
    let denied = "-WRONGTYPE Operation against a key\r\n".to_owned();
    bench.hear(&list(&[placed(1), denied, placed(2)])).unwrap();
    let answers = [(1, Ok(Some(1))), (2, Err(Fault::Denied)), (3, Ok(Some(2)))];
    assert_eq!(bench.answers(), answers);
    bench.hear(&placed(3)).unwrap();
    bench.hear("-OOM command not allowed\r\n").unwrap();
    bench.hear(":0\r\n").unwrap();
    bench.hear(&placed(4)).unwrap();
    let denied = Err(Fault::Denied);
    let answers = [(4, Ok(Some(3))), (5, denied), (6, denied), (7, Ok(None)), (8, Ok(Some(4)))];
    assert_eq!(bench.answers(), answers);
    // A list of another length, or none, is no answer to any of them.
    for wire in [list(&[placed(1)]), ":1\r\n".to_owned()] {
        (1..=2).for_each(|ticket| bench.ask(history(ticket)));
        bench.send(Duration::ZERO);
        bench.hear(&wire).unwrap();
        let malformed = Err(Fault::Malformed);
        assert_eq!(bench.answers(), [(1, malformed), (2, malformed)]);
    }
    assert!(bench.work.is_empty() && bench.queue.unanswered() == 0);
}

/// In a cluster those of one slot are sent together, and what another node has is asked there.
#[test]
fn in_a_cluster_requests_of_one_slot_are_sent_as_one() {
    let (other, apart) = ("other", "}a");
    let by = |tags, asked: &[&str]| {
        let tongue = Dialect { layout: Layout::new("p", tags), ..dialect() };
        let mut bench = bench();
        let tally: Arc<Tally> = Arc::default();
        bench.work = Work::new(bench.post.clone(), tally, Rc::new(tongue), PATIENCE).in_cluster();
        for (ticket, channel) in (1..).zip(asked) {
            let Request::Publish(ticket, mut publish) = history(ticket) else { panic!() };
            publish.channel = (*channel).into();
            bench.ask(Request::Publish(ticket, publish));
        }
        let sent = bench.send(Duration::ZERO);
        (bench, sent)
    };
    let asked = ["ch", "ch", other, "ch", "x.{ch}", "ch", apart, apart];
    let (mut bench, sent) = by(Tags::Braces, &asked);
    assert_eq!(sent, ["1+2", "3", "4", "5", "6", "7", "8"]);
    bench.hear("-MOVED 1234 127.0.0.1:7001\r\n").unwrap();
    let strays = |bench: &mut Bench| {
        let strays = bench.work.take_strays().into_iter();
        strays.map(|(job, why)| (job.taken.request.ticket(), why)).collect::<Vec<_>>()
    };
    let ticket = |number| Some(Ticket(number));
    assert_eq!(strays(&mut bench), [(ticket(1), Why::Moved), (ticket(2), Why::Moved)]);
    (0..6).for_each(|_| bench.hear(&placed(1)).unwrap());
    assert_eq!(bench.answers().len(), 6);

    // Channels of one partition lie in one slot.
    let layout = Layout::new("p", Tags::Partitions(4));
    let names: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    let mut one = names.iter().filter(|name| layout.slot(name) == layout.slot("0"));
    let [a, b] = [one.next().unwrap(), one.next().unwrap()];
    let far = names.iter().find(|name| layout.slot(name) != layout.slot("0")).unwrap();
    let (mut bench, sent) = by(Tags::Partitions(4), &[a, b, far, a]);
    assert_eq!(sent, ["1+2", "3", "4"]);
    bench.hear("-TRYAGAIN Multiple keys request during rehashing of slot\r\n").unwrap();
    assert_eq!(strays(&mut bench), [(ticket(1), Why::Later), (ticket(2), Why::Later)]);
}

#[test]
fn requests_together_are_bounded() {
    let mut bench = bench();
    let count = JOINED_MAX as u64 + 2;
    (1..=count).for_each(|ticket| bench.ask(history(ticket)));
    let sent = bench.send(Duration::ZERO);
    let counts: Vec<_> = sent.iter().map(|marks| marks.split('+').count()).collect();
    assert_eq!(counts, [JOINED_MAX, 2]);
    for count in counts {
        bench.hear(&list(&vec![placed(1); count])).unwrap();
    }
    assert_eq!(bench.answers().len() as u64, count);
    for (bytes, expected) in [(JOINED_BYTES / 2, 2), (JOINED_BYTES / 2 + 1, 1)] {
        for ticket in 1..=4 {
            let Request::Publish(ticket, mut publish) = history(ticket) else { panic!() };
            publish.data = vec![b'x'; bytes].into();
            bench.ask(Request::Publish(ticket, publish));
        }
        let sent = bench.send(Duration::ZERO);
        assert!(sent.iter().all(|marks| marks.split('+').count() == expected), "{sent:?}");
        for _ in sent {
            let one = placed(1);
            let wire = if expected == 1 { one } else { list(&vec![one; expected]) };
            bench.hear(&wire).unwrap();
        }
        assert_eq!(bench.answers().len(), 4);
    }
}

#[test]
fn requests_together_come_back_each_by_itself() {
    let mut bench = bench();
    (1..=2).for_each(|ticket| bench.ask(history(ticket)));
    assert_eq!(bench.send(Duration::ZERO), ["1+2"]);
    let readonly = "-READONLY You can't write against a read only replica.\r\n".to_owned();
    let lost = bench.hear(&list(&[placed(1), readonly]));
    assert!(matches!(lost, Err(Lost::NotPrimary)));
    assert!(bench.answers().is_empty());
    let deadline = bench.work.deadline().expect("of what was sent");
    assert!(bench.work.expire(deadline) && bench.answers().is_empty());
    bench.work.lost(bench.start);
    bench.ask(history(3));
    assert_eq!(bench.send(Duration::ZERO), ["1?", "2?", "3"]);
    (1..=3).for_each(|offset| bench.hear(&placed(offset)).unwrap());
    assert_eq!(bench.answers(), [(1, Ok(Some(1))), (2, Ok(Some(2))), (3, Ok(Some(3)))]);
    // What is left when the thread ends has an answer, too.
    (1..=2).for_each(|ticket| bench.ask(history(ticket)));
    bench.send(Duration::ZERO);
    let Bench { work, queue, desk, post, out, start } = bench;
    drop(work);
    let tally: Arc<Tally> = Arc::default();
    let work = Work::new(post.clone(), tally, Rc::new(dialect()), PATIENCE);
    let rest = Bench { work, queue, desk, post, out, start };
    let unknown = Err(Fault::Unknown);
    assert_eq!(rest.answers(), [(1, unknown), (2, unknown)]);
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
    assert_eq!(bench.send(Duration::ZERO), ["3?", "4+5"]);
    bench.hear(&placed(2)).unwrap();
    bench.hear(&list(&[placed(3), placed(4)])).unwrap();
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
    (1..=2).for_each(|ticket| bench.ask(keyed(ticket)));
    (3..=4).for_each(|ticket| bench.ask(history(ticket)));
    bench.send(Duration::ZERO);
    bench.hear("-NOSCRIPT No matching script.\r\n").unwrap();
    bench.ask(history(5));
    assert!(bench.send(Duration::ZERO).is_empty(), "2 is not back yet");
    (0..2).for_each(|_| bench.hear("-NOSCRIPT No matching script.\r\n").unwrap());
    let sent = bench.send(Duration::ZERO);
    assert_eq!(sent[Script::ALL.len()..], ["1", "2", "3+4+5"]);
    Script::ALL.iter().for_each(|_| bench.hear("$1\r\nx\r\n").unwrap());
    (1..=2).for_each(|offset| bench.hear(&placed(offset)).unwrap());
    bench.hear(&list(&[placed(3), placed(4), placed(5)])).unwrap();
    assert_eq!(bench.answers(), Vec::from_iter((1..=5).map(|n| (n, Ok(Some(n))))));
}

#[test]
fn a_server_that_keeps_no_script_is_not_asked_for_ever() {
    let mut bench = bench();
    bench.ask(keyed(1));
    (2..=3).for_each(|ticket| bench.ask(history(ticket)));
    let mut times = 0;
    while !bench.work.is_empty() {
        for word in bench.send(Duration::ZERO) {
            let scripts = word == "SCRIPT";
            bench.hear(if scripts { "-NOPERM no\r\n" } else { "-NOSCRIPT\r\n" }).unwrap();
        }
        times += 1;
        assert!(times < 10);
    }
    assert_eq!(bench.answers(), [1, 2, 3].map(|ticket| (ticket, Err(Fault::Denied))));
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
