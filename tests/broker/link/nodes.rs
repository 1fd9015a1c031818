//! What is known of a cluster's nodes, and when it is asked for; and two connections to one server
//! of which one is silent or leads elsewhere. All servers are scripted.

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringhold::gateway::broker::Life;

use super::cluster::{Cluster, Says, UPPER};
use super::rig::{Rig, offset, publish, request};
use super::scripted::{WHOLE, each_command, greeting};

fn ask(rig: &mut Rig, n: u64) -> u64 {
    rig.ask(request(publish(UPPER, &n.to_string(), n)))
}

/// They may come back, and are to be done first.
#[test]
fn requests_wait_for_those_that_are_with_the_old_node() {
    let cluster = Cluster::start();
    // Longer than until nodes are asked in their turn: nothing else is a reason to.
    let mut rig = cluster.rig("io_timeout = \"30s\"\n");
    cluster.change(|world| world.holds = true);
    let mut tickets: Vec<_> = (1..=5).map(|n| ask(&mut rig, n)).collect();
    rig.until("them to be there", |_| cluster.world.lock().unwrap().held > 0);
    cluster.change(|world| (world.says, world.claims) = (Says::Moved, 1));
    rig.until("another owner", |rig| rig.view.tally.slots_moved.get() == 8192);
    tickets.extend((6..=10).map(|n| ask(&mut rig, n)));
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(300) {
        rig.collect(Duration::from_millis(20));
    }
    assert!(cluster.done(1).is_empty(), "they overtake");
    cluster.change(|world| world.holds = false);
    for (n, ticket) in (1..).zip(tickets) {
        assert_eq!(offset(rig.answer(ticket)), n);
    }
    let numbers: Vec<_> = cluster.done(1).into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, (1..=10).map(|n: u64| n.to_string()).collect::<Vec<_>>());
    rig.finish();
}

/// Nothing else would be before the request is late.
#[test]
fn a_redirection_is_a_reason_to_ask_all_nodes() {
    let cluster = Cluster::start();
    let mut rig = cluster.rig("io_timeout = \"3s\"\n");
    cluster.quiet(&mut rig);
    cluster.change(|world| (world.says, world.claims) = (Says::Moved, 1));
    let ticket = ask(&mut rig, 1);
    assert_eq!(offset(rig.answer(ticket)), 1);
    rig.finish();
}

/// Who has given slots away says so; else they were taken, perhaps without the last publications.
#[test]
fn slots_that_nobody_has_given_away_are_another_life() {
    for (mute, life) in [(false, Life::Same), (true, Life::Other)] {
        let cluster = Cluster::start();
        let mut rig = cluster.rig("");
        cluster.quiet(&mut rig);
        rig.lives.clear();
        cluster.change(|world| {
            (world.says, world.claims, world.mute) = (Says::Moved, 1, mute);
        });
        let ticket = ask(&mut rig, 1);
        assert_eq!(offset(rig.answer(ticket)), 1);
        rig.until("the new owner", |rig| rig.lives.len() == 2);
        assert_eq!(rig.lives, [None, Some(life)]);
        rig.finish();
    }
}

/// One server, as each of its connections sees it.
#[derive(Default)]
struct Server {
    /// Connections so far.
    count: usize,
    /// The second one is to another run.
    torn: bool,
    /// Connections that bring messages do not answer PING.
    silent: bool,
}

impl Server {
    fn start(self) -> (String, Arc<Mutex<Self>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("address = [\"{}\"]\n", listener.local_addr().unwrap());
        let shared = Arc::new(Mutex::new(self));
        let server = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut state = server.lock().unwrap();
                let run = if state.torn && state.count == 1 { "b" } else { "a" };
                state.count += 1;
                let server = server.clone();
                std::thread::spawn(move || Self::serve(&stream, run, &server));
            }
        });
        (address, shared)
    }

    fn serve(stream: &TcpStream, run: &str, server: &Mutex<Self>) {
        let mut listens = false;
        each_command(stream, WHOLE, |parts| {
            listens |= parts[0] == "SUBSCRIBE";
            Some(match parts[0].as_str() {
                "INFO" => {
                    let text = format!("redis_version:7.0.0\r\nrun_id:{run}\r\n");
                    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
                }
                "PING" if listens && server.lock().unwrap().silent => Vec::new(),
                _ => greeting(parts).unwrap_or_else(|| b":1\r\n".to_vec()),
            })
        });
    }
}

fn lost(rig: &Rig, why: &str) -> u64 {
    rig.view.tally.maps().lost.get(why).copied().unwrap_or(0)
}

/// Which of them is behind the times shows when both are made anew.
#[test]
fn two_connections_to_two_runs_are_none() {
    let (address, server) = Server { torn: true, ..Server::default() }.start();
    let mut rig = Rig::start(&address);
    rig.until("the server to be there", |rig| rig.lives.last() == Some(&Some(Life::Same)));
    assert_eq!(rig.lives, [None, Some(Life::Same)]);
    assert!(server.lock().unwrap().count >= 4);
    assert_eq!(lost(&rig, "moved"), 2);
    rig.until("the server to be there", |rig| rig.trouble().is_none());
    rig.finish();
}

/// Nothing is asked on it, so that nothing is late: only a question shows that nobody is there.
#[test]
fn a_silent_connection_for_messages_is_found_out_by_itself() {
    let (address, server) = Server { silent: true, ..Server::default() }.start();
    let mut rig = Rig::connected(&format!("{address}io_timeout = \"2s\"\n"));
    rig.until("the loss of it", |rig| rig.lives.last() == Some(&None));
    assert_eq!(lost(&rig, "silent"), 1);
    server.lock().unwrap().silent = false;
    rig.until("another", |rig| rig.lives.last() == Some(&Some(Life::Same)));
    rig.finish();
}
