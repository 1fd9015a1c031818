//! Nodes of a cluster that answer as they are told, for what real ones do only in a moment: a slot
//! that has moved and is not claimed yet, keys that are apart, a node that only takes what it is
//! asked for. Of one channel nothing overtakes anything, and nobody hears of it.

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringhold::broker::slots::slot;
use ringhold::gateway::broker::{Fault, Outcome, Request, TopOf};

use super::rig::{Rig, offset, publish, request};
use super::scripted::{WHOLE, each_command, greeting};

/// What the two nodes are told, and what they have done.
#[derive(Default)]
pub(crate) struct World {
    ports: [u16; 2],
    /// Who claims the upper half of the slots; the lower one is the first's.
    pub(crate) claims: usize,
    /// What the first says of the upper half.
    pub(crate) says: Says,
    /// Times that it has said so.
    said: usize,
    /// The second node takes no connection but to be asked what it owns; and it is a replica.
    refuses: bool,
    follows: bool,
    /// The first leaves what it is asked about the upper half unanswered, and so many wait.
    pub(crate) holds: bool,
    pub(crate) held: usize,
    /// The first does not say what it owns.
    pub(crate) mute: bool,
    /// Times that anybody was asked.
    pub(crate) asked: usize,
    /// By node: what was published, and whether after ASKING.
    done: [Vec<(String, bool)>; 2],
    /// By node: names of sharded messages that it was asked to pass on, and to whom.
    pub(crate) passed_on: [Vec<(String, TcpStream)>; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Says {
    #[default]
    Done,
    Moved,
    Ask,
    Later,
}

/// Its slot is 15495, in the upper half; and 3300, in the lower one.
pub(crate) const UPPER: &str = "a";
const LOWER: &str = "b";

pub(crate) struct Cluster {
    pub(crate) world: Arc<Mutex<World>>,
    keys: String,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = [0, 1].map(|n: usize| listeners[n].local_addr().unwrap().port());
        let world = Arc::new(Mutex::new(World { ports, ..World::default() }));
        for (node, listener) in listeners.into_iter().enumerate() {
            let world = world.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let world = world.clone();
                    std::thread::spawn(move || serve(&stream, node, &world));
                }
            });
        }
        let keys = format!("cluster_address = [\"127.0.0.1:{}\"]\n", ports[1]);
        Self { world, keys }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.lock().unwrap());
    }

    pub(crate) fn said(&self) -> usize {
        self.world.lock().unwrap().said
    }

    pub(crate) fn done(&self, node: usize) -> Vec<(String, bool)> {
        self.world.lock().unwrap().done[node].clone()
    }

    /// Waits until nodes are asked in their turn only.
    pub(crate) fn quiet(&self, rig: &mut Rig) {
        let asked = || self.world.lock().unwrap().asked;
        let (mut before, mut since) = (asked(), Instant::now());
        while since.elapsed() < Duration::from_millis(800) {
            rig.collect(Duration::from_millis(20));
            if asked() != before {
                (before, since) = (asked(), Instant::now());
            }
        }
    }

    /// A rig that has found both nodes.
    pub(crate) fn rig(&self, more: &str) -> Rig {
        let mut rig = Rig::start(&format!("{}{more}", self.keys));
        rig.until("both nodes", |rig| rig.lives.len() >= 2 && rig.trouble().is_none());
        rig
    }
}

fn serve(stream: &TcpStream, node: usize, world: &Mutex<World>) {
    let mut asking = false;
    each_command(stream, WHOLE, |parts| {
        if parts[0] == "ROLE" && node == 1 && world.lock().unwrap().refuses {
            return None;
        }
        if parts[0] == "CLUSTER" {
            let mut world = world.lock().unwrap();
            world.asked += 1;
            if world.mute && node == 0 {
                return None;
            }
        }
        if node == 0 && is_upper(parts) && world.lock().unwrap().holds {
            world.lock().unwrap().held += 1;
            while world.lock().unwrap().holds {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let asks = parts[0] == "ASKING";
        let reply = match greeting(parts) {
            Some(reply) => reply,
            None if asks => b"+OK\r\n".to_vec(),
            None if parts[0] == "PING" => format!("+{}\r\n", parts[1]).into_bytes(),
            None if parts[0].ends_with("SUBSCRIBE") => {
                pass_on(&mut world.lock().unwrap(), node, parts, stream).into_bytes()
            }
            None => answer(&mut world.lock().unwrap(), node, parts, asking).into_bytes(),
        };
        asking = asks;
        Some(reply)
    });
}

fn is_upper(command: &[String]) -> bool {
    command.iter().any(|part| part.contains(&format!("{{{UPPER}}}")))
}

/// One that asks for sharded messages, or for no more of them.
fn pass_on(world: &mut World, node: usize, command: &[String], stream: &TcpStream) -> String {
    let names = &command[1..];
    let upper = names.iter().any(|name| slot(name.as_bytes()) >= 8192);
    if upper && node == 0 && world.says != Says::Done {
        world.said += 1;
        return match world.says {
            Says::Moved => format!("-MOVED 13907 127.0.0.1:{}\r\n", world.ports[1]),
            _ => "-CLUSTERDOWN Hash slot not served\r\n".to_owned(),
        };
    }
    let mut reply = String::new();
    for name in names {
        match command[0].as_str() {
            "SSUBSCRIBE" => {
                world.passed_on[node].push((name.clone(), stream.try_clone().unwrap()));
            }
            _ => world.passed_on[node].retain(|(other, _)| other != name),
        }
        let word = command[0].to_ascii_lowercase();
        reply += &format!(">3\r\n+{word}\r\n${}\r\n{name}\r\n:1\r\n", name.len());
    }
    reply
}

/// The data of each publication in a call of a script; one word for any other command.
fn published(command: &[String]) -> Vec<&String> {
    let keys = command.get(2).and_then(|keys| keys.parse::<usize>().ok()).unwrap_or(0);
    match command.get(3 + keys..) {
        Some([send, each @ ..]) if send.ends_with("PUBLISH") => each.iter().step_by(8).collect(),
        Some([data, ..]) => vec![data],
        _ => command[..1].iter().collect(),
    }
}

fn answer(world: &mut World, node: usize, command: &[String], asking: bool) -> String {
    if command[0] == "CLUSTER" {
        let line = |other: usize| {
            let role = if other == 1 && world.follows { "slave" } else { "master" };
            let flags = if other == node { format!("myself,{role}") } else { role.to_owned() };
            let slots = match (other, other == world.claims) {
                (0, true) => " 0-8191 8192-16383",
                (0, false) => " 0-8191",
                (_, true) => " 8192-16383",
                (_, false) => "",
            };
            let port = world.ports[other];
            format!("node{other} 127.0.0.1:{port}@1 {flags} - 0 0 {other} connected{slots}\n")
        };
        let text = format!("{}{}", line(0), line(1));
        return format!("${}\r\n{text}\r\n", text.len());
    }
    let upper = is_upper(command);
    if node == 0 && upper && world.says != Says::Done {
        world.said += published(command).len();
        let port = world.ports[1];
        return match world.says {
            Says::Moved => format!("-MOVED 15495 127.0.0.1:{port}\r\n"),
            Says::Ask => format!("-ASK 15495 127.0.0.1:{port}\r\n"),
            _ => "-TRYAGAIN Multiple keys request during rehashing of slot\r\n".to_owned(),
        };
    }
    if node == 1 && upper && world.claims == 0 && !asking {
        return format!("-MOVED 15495 127.0.0.1:{}\r\n", world.ports[0]);
    }
    match command[0].as_str() {
        "EVALSHA" => {
            let replies: Vec<_> = published(command)
                .into_iter()
                .map(|data| {
                    world.done[node].push((data.clone(), asking));
                    let offset = world.done.iter().map(Vec::len).sum::<usize>().to_string();
                    let len = offset.len();
                    format!("*3\r\n${len}\r\n{offset}\r\n$8\r\nfreshone\r\n$0\r\n\r\n")
                })
                .collect();
            match &replies[..] {
                [one] => one.clone(),
                several => format!("*{}\r\n{}", several.len(), several.concat()),
            }
        }
        "HMGET" => "*2\r\n$1\r\n7\r\n$8\r\nfreshone\r\n".to_owned(),
        _ => ":1\r\n".to_owned(),
    }
}

/// Publishes numbers from 1 on, changes the world, and expects them to be done in their order.
fn publish_through(cluster: &Cluster, rig: &mut Rig, change: impl FnOnce(&mut Rig)) {
    const COUNT: u64 = 200;
    let ask = |rig: &mut Rig, n: u64| rig.ask(request(publish(UPPER, &n.to_string(), n)));
    let mut tickets: Vec<_> = (1..=COUNT / 2).map(|n| ask(rig, n)).collect();
    change(rig);
    tickets.extend((COUNT / 2 + 1..=COUNT).map(|n| ask(rig, n)));
    for (n, ticket) in (1..).zip(tickets) {
        assert_eq!(offset(rig.answer(ticket)), n, "in their order");
    }
    let all = cluster.done(0).into_iter().chain(cluster.done(1));
    let numbers: Vec<u64> = all.map(|(number, _)| number.parse().unwrap()).collect();
    assert_eq!(numbers, (1..=COUNT).collect::<Vec<_>>(), "each once, in order");
}

/// It says so itself some time later.
#[test]
fn a_slot_that_has_moved_is_asked_for_where_it_is() {
    let cluster = Cluster::start();
    let mut rig = cluster.rig("");
    cluster.change(|world| world.says = Says::Moved);
    publish_through(&cluster, &mut rig, |rig| {
        rig.until("several redirections", |_| cluster.said() > 100);
        cluster.change(|world| world.claims = 1);
    });
    assert!(cluster.done(0).is_empty());
    assert_eq!(rig.view.tally.slots_moved.get(), 8192);
    rig.finish();
}

#[test]
fn what_is_on_its_way_is_asked_for_where_it_goes() {
    let cluster = Cluster::start();
    let mut rig = cluster.rig("");
    publish_through(&cluster, &mut rig, |rig| {
        rig.until("some answers", |rig| rig.answered() > 50);
        cluster.change(|world| world.says = Says::Ask);
    });
    let sent_on = cluster.done(1);
    assert!(!sent_on.is_empty() && sent_on.iter().all(|(_, asking)| *asking));
    rig.finish();
}

#[test]
fn keys_that_are_apart_are_waited_for() {
    let cluster = Cluster::start();
    let mut rig = cluster.rig("");
    cluster.change(|world| world.says = Says::Later);
    publish_through(&cluster, &mut rig, |rig| {
        rig.until("several refusals", |_| cluster.said() > 300);
        cluster.change(|world| (world.says, world.claims) = (Says::Moved, 1));
    });
    rig.finish();
}

/// It was in charge for so short a time that there was no connection to it.
#[test]
fn a_node_that_goes_takes_no_channels_along() {
    let cluster = Cluster::start();
    cluster.change(|world| world.refuses = true);
    let mut rig = Rig::start(&cluster.keys);
    rig.until("one node", |rig| rig.lives.len() == 1);
    cluster.change(|world| world.claims = 1);
    rig.until("its slots to be lost", |rig| rig.deaf.len() == 1);
    cluster.change(|world| (world.claims, world.follows) = (0, true));
    rig.until("them to be lost and found again", |rig| rig.lives.len() > 3 && rig.deaf.is_empty());
    assert_eq!(offset(rig.result(request(publish(UPPER, "1", 1)))), 1);
    rig.finish();
}

/// `io_timeout` of the next test.
const LATE: Duration = Duration::from_secs(6);

#[test]
fn who_waits_for_too_long_is_told_and_others_do_not_wait() {
    let cluster = Cluster::start();
    let mut rig = cluster.rig("io_timeout = \"6s\"\n");
    cluster.change(|world| world.says = Says::Later);
    let begun = Instant::now();
    let late = rig.ask(request(publish(UPPER, "1", 1)));
    let plain = rig.result(request(publish(LOWER, "2", 2)));
    assert!(plain.is_ok() && begun.elapsed() < LATE, "{plain:?}");
    assert_eq!(rig.answer(late), Err(Fault::Late));
    assert!(begun.elapsed() >= LATE);
    // Positions of the one wait, those of the other come, in parts of one question.
    let top =
        |channel: &str| TopOf { channel: channel.into(), entry: 0, meta_ttl: None, count: false };
    let tops = |channels: &[&str]| channels.iter().map(|channel| top(channel)).collect::<Vec<_>>();
    let both = rig.ask(|ticket| Request::Positions(ticket, tops(&[UPPER, LOWER])));
    assert_eq!(rig.answer(both), Err(Fault::Late));
    let both = rig.ask(|ticket| Request::Positions(ticket, tops(&[LOWER, UPPER, LOWER])));
    cluster.change(|world| (world.says, world.claims) = (Says::Moved, 1));
    let Ok(Outcome::Positions(found)) = rig.answer(both) else { panic!("no positions") };
    assert!(found.len() == 3 && found.iter().all(Option::is_some), "{found:?}");
    assert_eq!(
        rig.result(|ticket| Request::Positions(ticket, Vec::new())),
        Ok(Outcome::Positions(vec![]))
    );
    // What waits in the end is answered, too.
    cluster.change(|world| (world.says, world.claims) = (Says::Later, 0));
    rig.ask(request(publish(UPPER, "3", 3)));
    rig.finish();
}

#[test]
fn no_node_anywhere_is_said() {
    let mut rig = Rig::start("cluster_address = [\"127.0.0.1:1\"]\n");
    rig.complains("no node of the cluster answers: 127.0.0.1:1: cannot connect");
    assert_eq!(rig.result(request(publish("a", "x", 1))), Err(Fault::Away));
    rig.finish();
    let Some(redis) = crate::support::redis::Redis::start() else { return };
    let keys = format!("cluster_address = [\"127.0.0.1:{}\"]\n", redis.port());
    Rig::start(&keys).complains("cluster support disabled");
}
