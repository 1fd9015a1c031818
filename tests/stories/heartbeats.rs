//! The story of the heartbeats under load, and of the networks that fall silent.
//!
//! The method: thousands of real connections, dialled by the engine's own client side, are pinged
//! while others echo as fast as they can; the counters and the drift histogram say how punctual
//! that was. For silence, clients live in a network namespace whose link is taken down: no FIN, no
//! reset, nothing. That needs root; without it those tests say that they were skipped.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use ringhold::{Cause, Config, Stats};

use crate::stories::{Child, Crowd, CrowdPlan, Frame, PATIENCE, Peer, Site, Watcher};
use crate::stories::{child_port, is_child, is_root, wait_until};
use crate::support::figures;

const IDLE: u32 = 15_000;
const BUSY: u32 = 50;

/// A pool of 5,000 sends the pings; with 15,000 connections it overflows. The interval of 30 s
/// becomes 47 s, and 85.2 % of the heartbeats are answered. The rest is closed, comes
/// back, and makes it worse.
#[test]
fn fifteen_thousand_heartbeats_while_others_echo_at_full_speed() {
    let (site, journal) = Site::watched(|config| {
        config.max_connections = IDLE + 1_000;
        config.heartbeat.enabled = true;
        config.heartbeat.start = Duration::from_secs(4);
        config.heartbeat.floor = Duration::from_secs(2);
        config.heartbeat.ceiling = Duration::from_secs(4);
        // How late answers are is a question of the machine, how late pings are of the server.
        config.heartbeat.suspect = PATIENCE;
        config.heartbeat.probe = PATIENCE;
        config.heartbeat.dead = PATIENCE;
    });
    let idle = Crowd::start(&CrowdPlan { workers: 2, ..CrowdPlan::quiet(site.address, IDLE) });
    idle.dial(u64::from(IDLE));
    idle.wait_opened(u64::from(IDLE));
    let busy = Crowd::start(&CrowdPlan {
        payload: 64,
        busy: true,
        ..CrowdPlan::quiet(site.address, BUSY)
    });
    busy.dial(u64::from(BUSY));
    busy.wait_opened(u64::from(BUSY));

    let sent = site.wait_for("two heartbeats each", |c| c.heartbeats_sent >= 2 * u64::from(IDLE));
    // Each that was sent by then has its answer, or has missed its time, when these are over.
    let end = site.wait_for("the answers", |c| {
        c.heartbeats_answered + c.heartbeats_late >= sent.heartbeats_sent
    });
    let (late, missed) = (end.heartbeats_late, end.heartbeats_missed);
    let answered = end.heartbeats_answered as f64 / (end.heartbeats_answered + late) as f64;
    assert!(answered >= 0.9999, "{answered}: {late} late, {missed} missed");
    assert_eq!(end.closed, 0, "nobody was given up");
    punctual(&site);
    let echoes = crate::stories::crowd::load(&busy.tally.echoes);
    assert!(echoes > 10_000, "only {echoes} echoes: nobody was busy");
    drop((idle, busy));
    site.wait_empty();
    journal.assert_sound();
    site.end();
}

/// Waits for a round in which nearly all heartbeats are punctual. A server that cannot send as many
/// has none, a machine that was elsewhere for a while has the next.
fn punctual(site: &Site<Watcher>) {
    wait_until("a punctual round", || {
        let before = figures::stats(&site.handle);
        let round = before.counters.heartbeats_sent + u64::from(IDLE);
        site.wait_for("a round", |c| c.heartbeats_sent >= round);
        let after = figures::stats(&site.handle);
        // An eighth of the interval; that of the story was half as long again.
        let late = |stats: &Stats| -> u64 {
            let steps = stats.drift_us.steps().filter(|(us, _)| *us > 500_000);
            steps.map(|(_, count)| count).sum()
        };
        let all = after.drift_us.count() - before.drift_us.count();
        let late = late(&after) - late(&before);
        (late > all / 100).then(|| format!("{late} of {all} are late"))
    });
}

/// Interval and deadlines of the tests of silence.
const INTERVAL: Duration = Duration::from_millis(1_000);
/// Clients that live may have to wait for their processor before they answer.
const DEAD: Duration = Duration::from_secs(8);

fn watchful(config: &mut Config) {
    config.heartbeat.enabled = true;
    config.heartbeat.start = INTERVAL;
    config.heartbeat.floor = INTERVAL;
    config.heartbeat.ceiling = INTERVAL;
    config.heartbeat.suspect = Duration::from_secs(5);
    config.heartbeat.probe = Duration::from_secs(6);
    config.heartbeat.dead = DEAD;
}

/// A network that falls silent: a cable pulled behind a switch, a NAT that forgot. No FIN comes, no
/// reset, and writing still works. The peer is dead when its deadline says so: not sooner, and
/// not minutes later when TCP gives up.
#[test]
fn a_silent_network_is_detected_at_the_deadline() {
    if !is_root() {
        eprintln!("SKIPPED: network namespaces need root");
        return;
    }
    const CLIENTS: usize = 20;
    let network = Namespace::new();
    let (site, journal) = Site::watched(|config| {
        watchful(config);
        config.listen = Some(SocketAddr::new(network.outside.into(), 0));
    });
    let inside = ["ip", "netns", "exec", &network.name];
    let child = Child::reenter("heartbeats::behind_the_switch", site.address, &inside);
    site.wait_for("heartbeats over the link", |c| {
        c.open == CLIENTS as u64 && c.heartbeats_answered >= 2 * CLIENTS as u64
    });
    assert_eq!(site.counters().closed, 0, "answers keep them alive");
    // From here on messages, four a second, are their only sign of life.
    child.wait_line("talkative");
    network.cut();
    let end = site.wait_empty();
    assert_eq!(end.closed_heartbeat, CLIENTS as u64);
    let tick = Duration::from_millis(100);
    for ended in journal.ended() {
        assert_eq!(ended.cause, Cause::Heartbeat);
        let silence = ended.at - ended.heard;
        assert!(silence >= DEAD + INTERVAL - tick, "given up after {silence:?} already");
        // By TCP it would be a quarter of an hour; what is between is for a machine that does other
        // things besides.
        assert!(silence <= INTERVAL + DEAD + PATIENCE, "given up after {silence:?} only");
    }
    journal.assert_sound();
    drop(child);
    site.end();
}

/// The clients of the story, inside the namespace: they say something four times a second and
/// answer pings.
#[test]
#[ignore = "runs only as a child of the story"]
fn behind_the_switch() {
    if !is_child() {
        return;
    }
    let server = child_port();
    let (talkative, all) = std::sync::mpsc::channel();
    let clients: Vec<_> = (0..20)
        .map(|index| {
            let talkative = talkative.clone();
            let mut peer = Peer::open(server, &format!("/{index}"));
            std::thread::spawn(move || {
                // Silent until two heartbeats were needed, then talkative.
                for _ in 0..3 {
                    let Ok(Frame::Ping(payload)) = peer.read() else { return };
                    let pong = crate::support::wire::frame(0x8a, &payload);
                    if peer.try_send(&pong).is_err() {
                        return;
                    }
                }
                let _ = peer.try_send(&crate::support::wire::frame(0x82, b"first"));
                let _ = talkative.send(());
                while peer.try_send(&crate::support::wire::frame(0x82, b"x")).is_ok() {
                    std::thread::sleep(Duration::from_millis(250));
                }
            })
        })
        .collect();
    drop(talkative);
    assert_eq!(all.iter().take(clients.len()).count(), clients.len());
    println!("talkative");
    for client in clients {
        let _ = client.join();
    }
}

/// A telephone leaves the house: its address changes from the one of the house to the one of the
/// road, and the old connection never hears of it. The new one works at once; the old one is
/// found dead in its time, and only it.
#[test]
fn a_client_that_switches_address_reconnects() {
    let (site, journal) = Site::watched(watchful);
    let house = Peer::try_connect(site.address, Some([127, 0, 3, 1].into()), None);
    let house = house.expect("the server accepts").upgraded("/house");
    journal.wait_open("/house");
    let road = Peer::try_connect(site.address, Some([127, 0, 4, 1].into()), None);
    let mut road = road.expect("the server accepts").upgraded("/road");
    // Alive by messages alone, until the other one is gone.
    let ended = loop {
        road.message(b"on the road");
        while !matches!(road.read_alive().expect("an echo"), Frame::Binary(_)) {}
        if let Some(ended) = journal.ended().pop() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!((ended.path.as_str(), ended.cause), ("/house", Cause::Heartbeat));
    assert!(ended.at - ended.heard >= DEAD, "given up too soon");
    assert_eq!(site.counters().open, 1);
    drop((house, road));
    site.wait_empty();
    journal.assert_sound();
    site.end();
}

/// A network namespace behind a pair of virtual links; gone when dropped.
struct Namespace {
    name: String,
    outside: std::net::Ipv4Addr,
}

impl Namespace {
    fn new() -> Self {
        let id = std::process::id();
        let (name, link) = (format!("ringhold{id}"), format!("rh{id}"));
        // A /30 of the range for documentation (RFC 5737), so that no real network is hidden.
        let this = Self { name, outside: [198, 51, 100, 1].into() };
        let name = this.name.as_str();
        ip(&["netns", "add", name]);
        let (near, far) = (format!("{link}a"), format!("{link}b"));
        ip(&["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", name]);
        ip(&["addr", "add", "198.51.100.1/30", "dev", &near]);
        ip(&["link", "set", &near, "up"]);
        ip(&["-n", name, "addr", "add", "198.51.100.2/30", "dev", &far]);
        ip(&["-n", name, "link", "set", &far, "up"]);
        this
    }

    /// From now on every packet is lost, in both directions, and nobody is told.
    fn cut(&self) {
        // Inside, so that the server's host still has its address and its route.
        let far = format!("rh{}b", std::process::id());
        ip(&["-n", &self.name, "link", "set", &far, "down"]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The links go with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("iproute2 is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {error}");
}
