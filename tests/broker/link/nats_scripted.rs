//! A NATS server that says what it is told to: in pieces, late, wrongly, or not at all.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringhold::gateway::broker::{Fault, Outcome, Publish, Request};

use super::rig::{Rig, publish, request};
use crate::support::PATIENCE;

/// What is said to a line; nothing: the connection ends. The number of the connection counts from
/// 1.
type Answer = Arc<dyn Fn(u64, &str) -> Option<String> + Send + Sync>;

/// A server on a free port, and all lines that it has heard.
struct Server {
    port: u16,
    connections: Arc<AtomicU64>,
    heard: Arc<Mutex<Vec<String>>>,
}

const INFO: &str = "INFO {\"server_id\":\"x\",\"version\":\"2.9.10\",\"max_payload\":100}\r\n";

impl Server {
    fn start(pieces: usize, info: &'static str, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, heard) = (Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (count, lines) = (connections.clone(), heard.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                let (answer, lines) = (answer.clone(), lines.clone());
                std::thread::spawn(move || serve(stream, (number, pieces), info, &answer, &lines));
            }
        });
        Self { port, connections, heard }
    }

    /// As most do: PONG for PING.
    fn usual(line: &str) -> Option<String> {
        Some(if line == "PING" { "PONG\r\n".to_owned() } else { String::new() })
    }

    fn url(&self) -> String {
        format!("url = \"nats://127.0.0.1:{}\"\n", self.port)
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    fn has_heard(&self, line: &str) -> bool {
        self.heard.lock().unwrap().iter().any(|heard| heard == line)
    }
}

/// Answers until the connection or the answers end.
fn serve(
    mut stream: TcpStream,
    (number, pieces): (u64, usize),
    info: &str,
    answer: &Answer,
    heard: &Mutex<Vec<String>>,
) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut say = |text: &str| {
        let mut all = text.as_bytes().chunks(pieces);
        all.all(|piece| stream.write_all(piece).is_ok())
    };
    if !say(info) {
        return;
    }
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        let text = line.trim_end().to_owned();
        line.clear();
        if let Some(bytes) = text.strip_prefix("PUB ").and_then(|it| it.rsplit(' ').next()) {
            let mut payload = vec![0; bytes.parse::<usize>().expect("a number") + 2];
            if reader.read_exact(&mut payload).is_err() {
                return;
            }
        }
        heard.lock().unwrap().push(text.clone());
        match answer(number, &text) {
            Some(words) if say(&words) => {}
            _ => return,
        }
    }
}

fn plain(channel: &str, data: &str) -> Publish {
    Publish { stream: None, ..publish(channel, data, 1) }
}

fn done() -> Result<Outcome, Fault> {
    Ok(Outcome::Published { position: None, suppressed: false })
}

/// The reason of each lost connection so far.
fn lost(rig: &Rig, why: &str) -> u64 {
    rig.view.tally.maps().lost.get(why).copied().unwrap_or(0)
}

#[test]
fn all_is_understood_in_single_bytes() {
    let noise = "+OK\r\nPING\r\nINFO {\"max_payload\":90}\r\nMSG centrifugo.client.a ca x 12\r\n\
                 \x12\x01a\x22\x07\"\x051\r\n22\r\n";
    let server = Server::start(
        1,
        INFO,
        Arc::new(move |_, line| match line {
            "PING" => Some(format!("{noise}PONG\r\n")),
            _ => Some(String::new()),
        }),
    );
    let mut rig = Rig::on_nats(&server.url());
    for n in 1..=10 {
        assert_eq!(rig.result(request(plain("a", "x"))), done());
        rig.until("the message", |rig| rig.messages.len() > n);
    }
    assert!(server.has_heard("PONG") && rig.messages.iter().all(|(name, _)| name == "a"));
    assert_eq!((server.connections(), rig.view.tally.messages_malformed.get()), (1, 0));
    rig.finish();
}

#[test]
fn an_answer_that_does_not_come_is_late() {
    let first = AtomicU64::new(0);
    let server = Server::start(
        4096,
        INFO,
        Arc::new(move |number, line| match line {
            // The greeting's, and the fence of what nodes tell each other.
            "PING" if number == 1 && first.fetch_add(1, Ordering::SeqCst) >= 2 => {
                Some(String::new())
            }
            line => Server::usual(line),
        }),
    );
    let mut rig = Rig::on_nats(&format!("{}write_timeout = \"5s\"\n", server.url()));
    rig.until("the first fence", |_| {
        server.heard.lock().unwrap().iter().filter(|line| *line == "PING").count() == 2
    });
    let tickets: Vec<_> = (0..5).map(|_| rig.ask(request(plain("a", "x")))).collect();
    for ticket in tickets {
        let answer = rig.answer(ticket);
        assert!(matches!(answer, Err(Fault::Late | Fault::Unknown)), "{answer:?}");
    }
    rig.until("the connection to be given up", |rig| lost(rig, "silent") == 1);
    rig.until("another", |rig| rig.lives.len() == 3);
    assert_eq!(rig.result(request(plain("a", "x"))), done());
    rig.finish();
}

/// A server that goes on talking is alive: an answer that is late then costs no connection.
#[test]
fn a_busy_server_is_not_left() {
    let count = AtomicU64::new(0);
    let server = Server::start(
        4096,
        INFO,
        Arc::new(move |_, line| match line {
            "PING" if count.fetch_add(1, Ordering::SeqCst) == 2 => {
                std::thread::sleep(Duration::from_secs(5));
                let talk = "MSG centrifugo.client.b cb 4\r\n\"\x02hi\r\n";
                Some(talk.to_owned())
            }
            "PING" if count.load(Ordering::SeqCst) == 4 => {
                std::thread::sleep(Duration::from_secs(5));
                Some("PONG\r\nPONG\r\n".to_owned())
            }
            line => Server::usual(line),
        }),
    );
    let mut rig = Rig::on_nats(&format!("{}write_timeout = \"8s\"\n", server.url()));
    rig.until("the first fence", |_| {
        server.heard.lock().unwrap().iter().filter(|line| *line == "PING").count() == 2
    });
    let early = rig.ask(request(plain("a", "x")));
    rig.until("its fence", |_| {
        server.heard.lock().unwrap().iter().filter(|line| *line == "PING").count() == 3
    });
    let late = rig.ask(request(plain("a", "y")));
    let answers = [rig.answer(early), rig.answer(late)];
    assert_eq!(answers[0], Err(Fault::Late));
    assert!(matches!(answers[1], Ok(_) | Err(Fault::Late)), "{answers:?}");
    assert_eq!((server.connections(), lost(&rig, "silent")), (1, 0));
    rig.finish();
}

#[test]
fn what_ends_a_connection_is_told_and_followed_by_another() {
    for (words, why, told) in [
        ("-ERR 'Slow Consumer'\r\n", "refused", "the server says: Slow Consumer"),
        ("-ERR 'Maximum Payload Violation'\r\n", "refused", "Maximum Payload"),
        ("-ERR 'Stale Connection'\r\n", "refused", "Stale"),
        ("garbage\r\n", "protocol", ""),
        ("PONG\r\nPONG\r\nPONG\r\n", "protocol", ""),
        ("MSG a ca 9999999999\r\n", "protocol", ""),
        ("INFO {\r\n", "protocol", ""),
        ("\x16\x03\x01\x02", "protocol", ""),
    ] {
        let server = Server::start(
            4096,
            INFO,
            Arc::new(move |number, line| match line {
                line if number == 1 && line.starts_with("PUB centrifugo.client") => {
                    Some(words.into())
                }
                line => Server::usual(line),
            }),
        );
        let mut rig = Rig::on_nats(&server.url());
        let answer = rig.result(request(plain("a", "x")));
        assert!(matches!(answer, Err(Fault::Unknown) | Ok(_)), "{words}: {answer:?}");
        rig.until("another connection", |rig| rig.lives.len() >= 3);
        assert_eq!(lost(&rig, why), 1, "{words}: {:?}", rig.view.tally.maps().lost);
        assert_eq!(rig.result(request(plain("a", "x"))), done());
        assert!(rig.trouble().is_none_or(|it| it.contains(told)));
        rig.finish();
    }
}

/// A server that always hangs up is met again after 50 ms, 100 ms and so on.
#[test]
fn a_server_that_hangs_up_is_not_stormed() {
    for greets in [true, false] {
        let server = Server::start(
            4096,
            if greets { INFO } else { "" },
            Arc::new(move |_, line| {
                Server::usual(line).filter(|_| greets && !line.starts_with("PUB"))
            }),
        );
        let mut rig = Rig::start_nats(&format!("{}dial_timeout = \"100ms\"\n", server.url()));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) || server.connections() < 3 {
            assert!(begun.elapsed() < PATIENCE, "it is not dialled again");
            rig.ask(request(plain("a", "x")));
            rig.collect(Duration::from_millis(20));
        }
        let (connections, most) = (server.connections(), 20 * (begun.elapsed().as_secs() + 1));
        assert!(connections <= most, "{connections} of {most}");
        rig.finish();
    }
}

/// Lame duck mode: what is under way is answered, and the next server is taken before this one
/// ends.
#[test]
fn a_server_that_is_about_to_end_is_left() {
    let second = Server::start(4096, INFO, Arc::new(|_, line| Server::usual(line)));
    let ends = format!(
        "INFO {{\"server_id\":\"x\",\"max_payload\":100,\"ldm\":true,\
         \"connect_urls\":[\"127.0.0.1:{}\"]}}\r\n",
        second.port
    );
    let first = Server::start(
        4096,
        INFO,
        Arc::new(move |_, line| match line {
            line if line.starts_with("PUB centrifugo.client") => Some(ends.clone()),
            line => Server::usual(line),
        }),
    );
    let mut rig = Rig::on_nats(&first.url());
    let tickets: Vec<_> = (0..20).map(|_| rig.ask(request(plain("a", "x")))).collect();
    for ticket in tickets {
        assert_eq!(rig.answer(ticket), done());
    }
    rig.until("the other server", |rig| rig.lives.len() >= 3);
    assert_eq!((second.connections() > 0, lost(&rig, "moved")), (true, 1));
    assert_eq!(rig.result(request(plain("a", "x"))), done());
    rig.finish();
}

#[test]
fn the_size_that_a_server_takes_may_change() {
    let server = Server::start(
        4096,
        INFO,
        Arc::new(|_, line| match line {
            line if line.starts_with("SUB centrifugo.client") => {
                Some("INFO {\"max_payload\":10}\r\n".to_owned())
            }
            line => Server::usual(line),
        }),
    );
    let mut rig = Rig::on_nats(&server.url());
    assert_eq!(rig.result(request(plain("a", &"x".repeat(50)))), done());
    rig.listen(&["a"]);
    assert_eq!(rig.result(request(plain("a", &"x".repeat(50)))), Err(Fault::Size));
    assert_eq!(rig.result(request(plain("a", "xxxx"))), done());
    rig.finish();
}

/// What another node calls itself must not become a line of ours.
#[test]
fn a_node_with_an_evil_name_is_not_answered() {
    use ringhold::broker::bus::Node;
    // Command{uid: "a\r\nPUB evil 0\r\n", node: {uid: .., name: "n"}}
    let evil = "a\r\nPUB evil 0\r\n";
    let node = format!("\n{}{evil}\x12\x01n", char::from(evil.len() as u8));
    let command =
        format!("\n{}{evil}\"{}{node}", char::from(evil.len() as u8), char::from(node.len() as u8));
    let message = format!("MSG centrifugo.control 0 {}\r\n{command}\r\n", command.len());
    let server = Server::start(
        4096,
        INFO,
        Arc::new(move |_, line| match line {
            line if line.starts_with("SUB centrifugo.client") => Some(message.clone()),
            line => Server::usual(line),
        }),
    );
    let mut rig = Rig::on_nats(&server.url());
    rig.view.bus.announce(Node { name: "one".to_owned(), ..Node::default() });
    rig.listen(&["a"]);
    assert_eq!(rig.result(request(plain("a", "x"))), done());
    let (bus, tally) = (rig.view.bus.clone(), rig.view.tally.clone());
    rig.until("the node", |_| bus.nodes(Instant::now()).len() == 1);
    rig.until("its answer to be dropped", |_| tally.control_dropped.get() > 0);
    assert!(!server.heard.lock().unwrap().iter().any(|line| line.starts_with("PUB evil")));
    assert_eq!(server.connections(), 1);
    rig.finish();
}

#[test]
fn histories_are_denied_without_a_word_to_the_server() {
    let server = Server::start(4096, INFO, Arc::new(|_, line| Server::usual(line)));
    let mut rig = Rig::on_nats(&server.url());
    let remove = rig.result(|ticket| Request::HistoryRemove(ticket, "a".into()));
    assert_eq!(remove, Err(Fault::Denied));
    assert_eq!(server.connections(), 1);
    rig.finish();
}
