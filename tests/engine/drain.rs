//! Going away: what SIGTERM promises to clients, to the operator and to the next process.
//!
//! The method: the server is the program itself, since signals, exit status and the port's next
//! owner belong to the process. Times are compared with the configuration only from the side on
//! which a loaded machine cannot err; to the millisecond a drain is in `library.rs`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringhold::Cause;
use ringhold::control::SIGNALS_TOGETHER;

use crate::stories::crowd::load;
use crate::stories::{Child, Crowd, CrowdPlan, PATIENCE, Peer, share_one_processor, wait_until};

const CLIENTS: usize = 200;

fn options<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["--listen", "127.0.0.1:0", "--workers", "2", "--max-connections", "12000"];
    [&fixed, more].concat()
}

/// A server that closes everybody at once is met by everybody at once when it is back. So closes
/// are spread over a window. Each client is told where it stands: a code, a reason, a full
/// handshake.
#[test]
fn closes_are_paced_over_the_window() {
    let (server, address) = Child::serve(&options(&[
        "--drain-window=3s",
        "--drain-deadline=60s",
        "--drain-code=4001",
        "--drain-reason=moving house",
    ]));
    let clients: Vec<Peer> = (0..CLIENTS).map(|_| Peer::open(address, "/")).collect();
    let start = Instant::now();
    server.signal("TERM");
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut peer| {
            std::thread::spawn(move || {
                let close = peer.read_close();
                let at = start.elapsed();
                assert_eq!(close, (4001, "moving house".to_owned()));
                peer.finish(4001);
                at
            })
        })
        .collect();
    let mut times: Vec<Duration> = readers.into_iter().map(|r| r.join().unwrap()).collect();
    times.sort_unstable();
    for quarter in 1..=3 {
        // Of the closes due by a quarter of the window, never many more.
        let due = Duration::from_millis(750 * quarter);
        let early = times.iter().filter(|at| **at <= due).count();
        let share = CLIENTS * quarter as usize / 4;
        assert!(early <= share + CLIENTS / 10, "{early} of {share} closes by {due:?}");
    }
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert_summary(&log, CLIENTS);
}

/// Some clients never answer: laptops that are asleep, code that ignores closes. The server does
/// not wait for them longer than the deadline.
#[test]
fn stragglers_are_cut_at_the_deadline() {
    let (server, address) =
        Child::serve(&options(&["--drain-deadline=2s", "--close-timeout=1h", "--no-heartbeat"]));
    let mut clients: Vec<Peer> = (0..CLIENTS).map(|_| Peer::open(address, "/")).collect();
    let silent = clients.split_off(CLIENTS / 2);
    let start = Instant::now();
    server.signal("TERM");
    for mut peer in clients {
        assert_eq!(peer.read_close(), (1001, "server is going away".to_owned()));
        peer.finish(1001);
    }
    let (status, log) = server.ended();
    let took = start.elapsed();
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert!(took >= Duration::from_secs(2), "cut before the deadline: {took:?}");
    assert_summary(&log, CLIENTS);
    for mut peer in silent {
        assert_eq!(peer.read_close().0, 1001, "even who does not answer was told");
        peer.expect_end();
    }
}

/// A browser connects in advance, in case its user clicks. Whoever waits for its request waits for
/// as long as a handshake may take.
#[test]
fn nobody_waits_for_connections_that_ask_for_nothing() {
    let (server, address) =
        Child::serve(&options(&["--handshake-timeout=1h", "--drain-deadline=2h"]));
    let mut silent = Peer::connect(address);
    let mut client = Peer::open(address, "/");
    server.signal("TERM");
    assert_eq!(client.read_close().0, 1001);
    client.finish(1001);
    silent.expect_end();
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(0), "{log:?}");
}

/// The operator has waited long enough and presses Ctrl-C again.
#[test]
fn a_second_signal_ends_at_once() {
    let (mut server, address) =
        Child::serve(&options(&["--drain-window=1h", "--drain-deadline=2h"]));
    let clients: Vec<Peer> = (0..CLIENTS).map(|_| Peer::open(address, "/")).collect();
    let start = Instant::now();
    server.signal("INT");
    // Signals that come together are one, and so is the first of these with that.
    while server.runs() {
        assert!(start.elapsed() < PATIENCE, "it does not end");
        server.signal("TERM");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(start.elapsed() >= SIGNALS_TOGETHER, "the first signal drains");
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(0), "{log:?}");
    drop(clients);
}

/// A new version takes over the port while 5,000 clients come back as fast as they are sent away.
/// Those who knock in the moment in which the old listener closes were reset by the kernel.
/// Nobody may see anything but an open connection.
#[test]
fn a_takeover_loses_nobody() {
    const MANY: u64 = 5_000;
    share_one_processor();
    let patience = ["--close-timeout=100s", "--handshake-timeout=100s"];
    let drain = ["--drain-window=1s", "--drain-deadline=100s", patience[0], patience[1]];
    let (mut old, address) = Child::serve(&options(&drain));
    let listen = address.to_string();
    let crowd = Crowd::start(&CrowdPlan {
        payload: 64,
        redial: true,
        workers: 2,
        ..CrowdPlan::quiet(address, MANY as u32)
    });
    crowd.dial(MANY);
    crowd.wait_opened(MANY);
    // Besides, clients that come and go all the time, so that there is always one at the door.
    let coming = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let knockers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut visits = 0;
                    while coming.load(Ordering::Relaxed) {
                        visits += knock(address);
                    }
                    visits
                })
            })
            .collect();
        // Also when an assertion below fails, the visitors go home.
        let closing_time = ClosingTime(&coming);
        for round in 1..=2 {
            let before = load(&crowd.tally.opened);
            let (new, _) = Child::serve(&[&["--listen", &listen], &options(&drain)[2..]].concat());
            old.signal("TERM");
            let (status, log) = std::mem::replace(&mut old, new).ended();
            assert_eq!(status.code(), Some(0), "{log:?}");
            crowd.wait_opened(before + MANY);
            assert_eq!(crowd.tally.errors(), [].into(), "round {round}");
        }
        drop(closing_time);
        let visits: u64 = knockers.into_iter().map(|k| k.join().expect("no visit failed")).sum();
        assert!(visits > 100, "{visits} visits");
    });
    wait_until("all to be back", || {
        let open = crowd.counters().open;
        (open != MANY).then(|| format!("{open} open"))
    });
    crowd.stay_away();
    old.signal("TERM");
    let (status, log) = old.ended();
    assert_eq!(status.code(), Some(0), "{log:?}");
    wait_until("all to be told", || {
        let open = crowd.counters().connections;
        (open != 0).then(|| format!("{open} open"))
    });
    let tally = crowd.leave();
    assert_eq!(tally.errors(), [].into(), "no connect was refused or reset");
    let told = tally.ends().get(&(Cause::Peer, 1001)).copied();
    assert_eq!(tally.ends().len(), 1, "all were told to go: {:?}", tally.ends());
    assert!(told >= Some(3 * MANY), "{told:?}");
}

/// One visit: connects, opens and closes. While the port changes hands the server may say goodbye
/// first, but never before hello.
fn knock(address: std::net::SocketAddr) -> u64 {
    let mut peer = Peer::try_connect(address, Some([127, 0, 2, 1].into()), None)
        .expect("nobody is refused")
        .upgraded("/");
    let _ = peer.try_send(&crate::support::wire::frame(0x88, &1000u16.to_be_bytes()));
    let (code, _) = peer.read_close();
    assert!(code == 1000 || code == 1001, "{code}");
    1
}

/// Ends the visits when dropped.
struct ClosingTime<'a>(&'a AtomicBool);

impl Drop for ClosingTime<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The last line says what there was, and that nothing is left.
fn assert_summary(log: &[String], clients: usize) {
    let line = log.last().map(String::as_str).unwrap_or_default();
    for part in [format!("opened={clients}"), format!("closed={clients}"), "left=0".to_owned()] {
        assert!(line.contains("ended") && line.contains(&part), "{part} is not in {line:?}");
    }
}
