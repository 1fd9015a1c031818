//! Every limit with its defined answer and its counter.
//!
//! The method: one server per limit with a small value, one client that stays within it and one
//! that does not. The one within is served throughout; the counters name the reason for the other.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ringhold::{Cause, Config, Frame as Shared, Policy, RatePolicy};

use crate::stories::peer::upgrade;
use crate::stories::{Frame, Journal, Peer, Site, Watcher, wait_until};
use crate::support::figures;
use crate::support::wire::{BINARY, CONTINUATION, FIN, PING, frame};

fn one_core(change: impl FnOnce(&mut Config)) -> (Site<Watcher>, std::sync::Arc<Journal>) {
    Site::watched(|config| {
        config.workers = 1;
        change(config);
    })
}

fn refused(mut peer: Peer) {
    peer.send(&upgrade("/"));
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: 5\r\n"), "{head}");
    peer.expect_end();
}

#[test]
fn total_connections() {
    let (site, _) = one_core(|config| config.max_connections = 3);
    let mut inside: Vec<Peer> = (0..3).map(|_| Peer::open(site.address, "/")).collect();
    refused(Peer::connect(site.address));
    inside[0].echo(b"inside");
    inside.pop().expect("three").close(1000);
    site.wait_for("a free place", |c| c.connections == 2);
    Peer::open(site.address, "/").close(1000);
    assert_eq!(site.counters().refused_full, 1);
    drop(inside);
    site.wait_empty();
    site.end();
}

#[test]
fn connections_per_address() {
    // Counted over all cores.
    let (site, _) = Site::watched(|config| {
        config.workers = 2;
        config.max_per_address = 8;
    });
    let from = |last| {
        let local = Some(IpAddr::from([127, 0, 5, last]));
        Peer::try_connect(site.address, local, None).expect("the server accepts")
    };
    let inside: Vec<Peer> = (0..8).map(|_| from(1).upgraded("/")).collect();
    refused(from(1));
    from(2).upgraded("/").echo(b"another address");
    assert_eq!(site.counters().refused_per_address, 1);
    drop(inside);
    site.wait_empty();
    from(1).upgraded("/").close(1000);
    site.end();
}

#[test]
fn accepts_per_second() {
    let (site, _) = one_core(|config| config.accept_rate = 20);
    let start = Instant::now();
    let peers: Vec<Peer> = (0..60).map(|_| Peer::open(site.address, "/")).collect();
    // A burst of one second's worth, then the rate: 20 + 40 within two seconds at the soonest.
    assert!(start.elapsed() >= Duration::from_millis(1_800), "{:?}", start.elapsed());
    assert!(site.counters().accept_rate_pauses > 0);
    drop(peers);
    site.wait_empty();
    site.end();
}

#[test]
fn time_of_a_handshake() {
    let (site, _) = one_core(|config| config.handshake_timeout = Duration::from_millis(500));
    let start = Instant::now();
    let mut slow = Peer::connect(site.address);
    let _ = slow.try_send(b"GET / HTTP/1.1\r\n");
    assert!(slow.read_head().starts_with("HTTP/1.1 408 "));
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    slow.expect_end();
    assert_eq!(site.wait_empty().handshake_timeouts, 1);
    site.end();
}

#[test]
fn size_of_a_handshake() {
    let (site, _) = one_core(|config| config.max_head = 512);
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(600));
    let mut peer = Peer::connect(site.address);
    peer.send(long.as_bytes());
    assert!(peer.read_head().starts_with("HTTP/1.1 431 "));
    peer.expect_end();
    assert_eq!(site.wait_empty().refused_head_too_large, 1);
    site.end();
}

#[test]
fn idle_time() {
    let (site, journal) = one_core(|config| config.idle_timeout = Duration::from_millis(600));
    // A ping is life, but no message. It comes with the request: later it may come too late.
    let mut idle = Peer::connect(site.address);
    idle.send(&[upgrade("/idle"), frame(FIN | PING, b"")].concat());
    assert!(idle.read_head().starts_with("HTTP/1.1 101 "));
    assert_eq!(idle.read().expect("a pong"), Frame::Pong(Vec::new()));
    assert_eq!(idle.read_close(), (1001, "idle".to_owned()));
    let ended = journal.wait_ended("/idle");
    let tick = Duration::from_millis(100);
    assert!(ended.at - ended.heard >= Duration::from_millis(600) - tick);
    idle.finish(1001);
    assert_eq!(site.wait_empty().closed_idle, 1);
    site.end();
}

#[test]
fn size_and_fragments_of_a_message() {
    let (site, _) = one_core(|config| {
        config.max_message = 1_000;
        config.max_fragments = 10;
    });
    let mut large = Peer::open(site.address, "/");
    large.echo(&[1; 1_000]);
    large.message(&[1; 1_001]);
    assert_eq!(large.read_close().0, 1009);
    let mut many = Peer::open(site.address, "/");
    many.send_frame(BINARY, b"");
    for _ in 0..10 {
        let _ = many.try_send(&frame(CONTINUATION, b""));
    }
    assert_eq!(many.read_close().0, 1009);
    drop((large, many));
    assert_eq!(site.wait_empty().closed_too_big, 2);
    site.end();
}

#[test]
fn rates_that_close() {
    for bytes in [false, true] {
        let (site, _) = one_core(|config| match bytes {
            true => config.byte_rate = 10_000,
            false => config.message_rate = 100,
        });
        let mut calm = Peer::open(site.address, "/sink");
        let mut flood = Peer::open(site.address, "/sink");
        // A burst of one second's worth is granted; this is three.
        let message = frame(FIN | BINARY, &vec![0; if bytes { 1_000 } else { 1 }]);
        for _ in 0..if bytes { 30 } else { 300 } {
            let _ = flood.try_send(&message);
        }
        assert_eq!(flood.read_close().0, 1008);
        calm.send_frame(FIN | PING, b"fine");
        assert_eq!(calm.read().expect("a pong"), Frame::Pong(b"fine".to_vec()));
        drop((calm, flood));
        assert_eq!(site.wait_empty().closed_rate, 1);
        site.end();
    }
}

#[test]
fn rates_that_pause() {
    for bytes in [false, true] {
        let (site, _) = one_core(|config| {
            config.rate_policy = RatePolicy::Pause;
            match bytes {
                true => config.byte_rate = 20_000,
                false => config.message_rate = 20,
            }
        });
        let mut peer = Peer::open(site.address, "/");
        let start = Instant::now();
        // Two seconds' worth beyond the burst. What one receive brings is served at once and put
        // on the account, so it is the next message that has to wait until all is paid for.
        let payload = vec![7; if bytes { 1_000 } else { 1 }];
        for _ in 0..60 {
            peer.message(&payload);
        }
        for _ in 0..60 {
            assert!(matches!(peer.read().expect("nothing is lost"), Frame::Binary(_)));
        }
        peer.echo(&payload);
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(1_500), "not slowed down: {took:?}");
        let counters = site.counters();
        assert!(counters.read_pauses > 0 && counters.closed_rate == 0, "{counters:?}");
        peer.close(1000);
        site.wait_empty();
        site.end();
    }
}

const OUTBOX: usize = 64 * 1024;
const PAYLOAD: usize = 4_000;

/// A reader that does not read, and what is sent to it: frames with their number in front.
struct Stalled {
    site: Site<Watcher>,
    journal: std::sync::Arc<Journal>,
    peer: Peer,
    sent: u32,
}

impl Stalled {
    fn new(policy: Policy) -> Self {
        let (site, journal) = one_core(|config| {
            config.max_outbox = OUTBOX;
            config.outbox_policy = policy;
            config.pause_reads = false;
        });
        let peer = Peer::open_narrow(site.address, "/slow");
        Self { site, journal, peer, sent: 0 }
    }

    /// Sends until the outbox has overflowed: until `over` says so.
    fn fill(&mut self, over: impl Fn(&ringhold::Counters) -> bool) {
        let id = self.journal.wait_open("/slow");
        wait_until("the outbox to overflow", || {
            for _ in 0..16 {
                let mut payload = vec![0; PAYLOAD];
                payload[..4].copy_from_slice(&self.sent.to_be_bytes());
                // Three keys take turns; only the policy `conflate` looks at them.
                let key = u64::from(self.sent % 3) + 1;
                self.site.handle.send(id, &Shared::binary(&payload).keyed(key)).expect("taken");
                self.sent += 1;
            }
            let counters = self.site.counters();
            (!over(&counters)).then(|| format!("{counters:?}"))
        });
    }

    /// Reads everything up to a close frame; gives the numbers, the pongs before the close, and
    /// the close code.
    fn read_all(&mut self) -> (Vec<u32>, usize, u16) {
        let (mut numbers, mut pongs) = (Vec::new(), 0);
        loop {
            match self.peer.read().expect("up to a close frame") {
                Frame::Binary(payload) => {
                    assert_eq!(payload.len(), PAYLOAD, "whole messages only");
                    let number = payload[..4].try_into().expect("four bytes");
                    numbers.push(u32::from_be_bytes(number));
                }
                Frame::Pong(_) => pongs += 1,
                Frame::Close(code, _) => return (numbers, pongs, code),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// With its outbox full, the peer pings and is closed by the application: both get through.
    fn ping_and_close(&mut self) -> (Vec<u32>, usize, u16) {
        self.peer.send_frame(FIN | PING, b"through");
        self.site.wait_for("the ping", |c| c.pings_in == 1);
        assert!(self.site.counters().blocked == 1, "the outbox is full");
        let slow = figures::slow_peers(&self.site.handle, 1);
        assert_eq!(slow[0].id, self.journal.wait_open("/slow"));
        assert_eq!(slow[0].peer, self.peer.socket().local_addr().expect("an address"));
        assert!(slow[0].queued > 0 && slow[0].queued <= OUTBOX + 1_024, "{slow:?}");
        let close = self.site.handle.close(slow[0].id, ringhold::CloseCode(4002), "enough");
        close.expect("the mailbox takes it");
        self.journal.wait_ended("/slow");
        self.read_all()
    }

    fn end(self) -> ringhold::Counters {
        self.peer.finish(1000);
        self.site.wait_empty();
        self.journal.assert_sound();
        self.site.end().counters
    }
}

fn is_increasing(numbers: &[u32]) -> bool {
    numbers.windows(2).all(|pair| pair[0] < pair[1])
}

#[test]
fn outbox_policy_close_slow() {
    let mut stalled = Stalled::new(Policy::CloseSlow);
    stalled.fill(|c| c.closed_slow == 1);
    assert_eq!(stalled.journal.wait_ended("/slow").cause, Cause::Slow);
    let (numbers, _, code) = stalled.read_all();
    assert_eq!(code, 1008, "the close frame gets through");
    assert!(numbers.iter().zip(0..).all(|(n, at)| *n == at), "what came, came without gaps");
    let end = stalled.end();
    assert!(end.dropped_full > 0);
}

#[test]
fn outbox_policy_drop_newest() {
    let mut stalled = Stalled::new(Policy::DropNewest);
    stalled.fill(|c| c.dropped_full > 10);
    let (numbers, pongs, code) = stalled.ping_and_close();
    assert_eq!((pongs, code), (1, 4002));
    assert!(numbers.iter().zip(0..).all(|(n, at)| *n == at), "the oldest stay, without gaps");
    let sent = stalled.sent;
    let end = stalled.end();
    assert_eq!(numbers.len() as u64 + end.dropped_full, u64::from(sent), "all accounted for");
}

#[test]
fn outbox_policy_drop_oldest() {
    let mut stalled = Stalled::new(Policy::DropOldest);
    stalled.fill(|c| c.dropped_full > 10);
    let (numbers, pongs, code) = stalled.ping_and_close();
    assert_eq!((pongs, code), (1, 4002));
    assert!(is_increasing(&numbers));
    let sent = stalled.sent;
    assert_eq!(numbers.last(), Some(&(sent - 1)), "the newest stay");
    let end = stalled.end();
    assert_eq!(numbers.len() as u64 + end.dropped_full, u64::from(sent), "all accounted for");
}

#[test]
fn outbox_policy_conflate() {
    let mut stalled = Stalled::new(Policy::Conflate);
    // Also what is queued within a turn is conflated, so that alone does not make it slow.
    stalled.fill(|c| c.conflated > 10 && c.outbox_bytes_held > 0);
    let (numbers, pongs, code) = stalled.ping_and_close();
    assert_eq!((pongs, code), (1, 4002));
    let sent = stalled.sent;
    let mut newest: Vec<u32> = numbers[numbers.len() - 3..].to_vec();
    newest.sort_unstable();
    assert_eq!(newest, [sent - 3, sent - 2, sent - 1], "the newest of each key");
    let end = stalled.end();
    let accounted = numbers.len() as u64 + end.dropped_full + end.conflated;
    assert_eq!(accounted, u64::from(sent), "all accounted for");
}

#[test]
fn time_in_which_a_byte_must_be_taken() {
    let (site, journal) = one_core(|config| {
        config.write_timeout = Duration::from_secs(1);
        config.max_outbox = 16 << 20;
    });
    let peer = Peer::open_narrow(site.address, "/slow");
    let id = journal.wait_open("/slow");
    let large = Shared::binary(&vec![0; 8 << 20]);
    let stalled = Instant::now();
    site.handle.send(id, &large).expect("the mailbox takes it");
    let ended = journal.wait_ended("/slow");
    assert_eq!(ended.cause, Cause::WriteTimeout);
    assert!(stalled.elapsed() >= Duration::from_millis(800), "{:?}", stalled.elapsed());
    assert_eq!(site.wait_empty().closed_write_timeout, 1);
    drop(peer);
    site.end();
}

#[test]
fn memory_for_outboxes_of_a_core() {
    let (site, journal) = one_core(|config| {
        config.max_outbox = 4 << 20;
        config.max_outboxes = 2 << 20;
    });
    let mut bystander = Peer::open(site.address, "/");
    let mut slow: Vec<Peer> =
        (0..6).map(|index| Peer::open_narrow(site.address, &format!("/topic{index}"))).collect();
    site.wait_for("all to listen", |c| c.subscriptions == 6);
    wait_until("the memory to be used up", || {
        // Each a buffer of its own, which all six share.
        (0..10).for_each(|_| {
            assert_eq!(site.handle.publish("news", &Shared::binary(&[0; 10_000])), 0)
        });
        let counters = site.counters();
        assert!(counters.outbox_bytes_held <= 2 << 20, "{counters:?}");
        (counters.closed_outbox_full == 0).then(|| format!("{counters:?}"))
    });
    bystander.echo(b"served throughout");
    let ended: Vec<_> =
        journal.ended().into_iter().filter(|e| e.cause == Cause::OutboxFull).collect();
    assert!(!ended.is_empty() && ended.iter().all(|ended| ended.code.0 == 1013), "{ended:?}");
    let told = ended[0].path.trim_start_matches("/topic").parse::<usize>().expect("a number");
    assert_eq!(slow[told].read_close().0, 1013, "it is told");
    drop((slow, bystander));
    site.wait_empty();
    site.end();
}

#[test]
fn one_large_publication_counts_once_and_closes_nobody() {
    const LEN: usize = 8 << 20;
    let (site, _) = one_core(|config| {
        config.max_outbox = 1 << 20;
        // Room for one, not for one each.
        config.max_outboxes = LEN + (1 << 20);
    });
    let mut peers: Vec<Peer> =
        (0..11).map(|index| Peer::open(site.address, &format!("/topic{index}"))).collect();
    // Somebody does not read at all.
    let slow = Peer::open_narrow(site.address, "/topic11");
    site.wait_for("all to listen", |c| c.subscriptions == 12);
    assert_eq!(site.handle.publish("news", &Shared::binary(&vec![7; LEN])), 0);
    site.wait_for("the kernel to be full", |c| c.blocked > 0);
    for peer in &mut peers {
        assert!(matches!(peer.read(), Ok(Frame::Binary(payload)) if payload.len() == LEN));
    }
    assert_eq!(site.counters().closed, 0, "{:?}", site.counters());
    drop((peers, slow));
    let counters = site.wait_empty();
    assert_eq!(counters.outbox_bytes_held, 0);
    site.end();
}

#[test]
fn who_holds_nothing_is_served_when_others_hold_all() {
    let (site, journal) = one_core(|config| {
        config.max_message = 4 << 20;
        config.max_outbox = 8 << 20;
        config.max_outboxes = 8 << 20;
        config.max_inbound = 8 << 20;
    });
    // What is too much for the kernel's buffers is echoed to peers that do not read it.
    let whole = frame(FIN | BINARY, &vec![0; 4 << 20]);
    // One after the other, or what comes would be too much before anything is echoed.
    let mut slow: Vec<Peer> = Vec::new();
    for index in 0..6 {
        let mut peer = Peer::open_narrow(site.address, &format!("/slow{index}"));
        let _ = peer.try_send(&whole);
        slow.push(peer);
        site.wait_for("it to be echoed", |c| c.messages_in > index || c.closed_outbox_full > 0);
    }
    site.wait_for("the memory to be used up", |c| c.closed_outbox_full > 0);
    // Nor does who leaves messages unfinished harm who does not.
    for index in 0..12 {
        let mut peer = Peer::open(site.address, &format!("/begun{index}"));
        let _ = peer.try_send(&whole[..(1 << 20) + 100_000]);
        slow.push(peer);
    }
    site.wait_for("that memory to be used up, too", |c| c.closed_inbound_full > 0);
    let mut fast = Peer::open(site.address, "/fast");
    let both = [frame(FIN | BINARY, b"one"), frame(FIN | BINARY, b"two")].concat();
    for _ in 0..3 {
        fast.send(&both);
        assert_eq!(fast.read().expect("an answer"), Frame::Binary(b"one".to_vec()));
        assert_eq!(fast.read().expect("an answer"), Frame::Binary(b"two".to_vec()));
        // In two segments, the second of which comes when the first has been received.
        let received = site.counters().receives;
        fast.send(&both[..4]);
        site.wait_for("its first bytes", |c| c.receives > received);
        fast.send(&both[4..]);
        assert_eq!(fast.read().expect("an answer"), Frame::Binary(b"one".to_vec()));
        assert_eq!(fast.read().expect("an answer"), Frame::Binary(b"two".to_vec()));
    }
    let counters = site.counters();
    assert!(counters.outbox_bytes_held <= 8 << 20 && counters.inbound_bytes_held <= 8 << 20);
    assert!(journal.ended().iter().all(|ended| ended.path != "/fast"));
    drop((slow, fast));
    site.wait_empty();
    site.end();
}

#[test]
fn time_for_a_message() {
    let (site, journal) = one_core(|config| {
        config.tick = Duration::from_millis(10);
        config.min_upload_rate = 1_000;
        config.upload_grace = Duration::from_millis(300);
    });
    let mut bystander = Peer::open(site.address, "/");
    let whole = frame(FIN | BINARY, &[0; 60_000]);
    let mut slow = Peer::open(site.address, "/slow");
    slow.send(&whole[..20_000]);
    // Pings between fragments are no progress.
    let mut pinger = Peer::open(site.address, "/pinger");
    pinger.send(&frame(BINARY, b"begun"));
    wait_until("both to be closed", || {
        let _ = pinger.try_send(&frame(FIN | PING, b"alive"));
        let closed = site.counters().closed_slow_upload;
        (closed < 2).then(|| format!("{closed}"))
    });
    assert_eq!(slow.read_close().0, 1008);
    bystander.echo(b"served throughout");
    assert!(journal.ended().iter().all(|ended| ended.cause == Cause::SlowUpload));
    drop((slow, pinger, bystander));
    assert_eq!(site.wait_empty().inbound_bytes_held, 0);
    site.end();
}

#[test]
fn memory_for_messages_in_progress_of_a_core() {
    let (site, journal) = one_core(|config| {
        config.max_message = 1 << 20;
        config.max_inbound = 2 << 20;
    });
    let mut bystander = Peer::open(site.address, "/");
    let whole = frame(FIN | BINARY, &vec![0; 1 << 20]);
    let mut peers: Vec<Peer> = Vec::new();
    for index in 0..4 {
        let mut peer = Peer::open(site.address, &format!("/{index}"));
        let _ = peer.try_send(&whole[..900_000]);
        peers.push(peer);
    }
    site.wait_for("the memory to be used up", |c| c.closed_inbound_full > 0);
    let ended = journal.ended();
    assert!(ended.iter().all(|e| e.cause == Cause::InboundFull && e.code.0 == 1013), "{ended:?}");
    assert!(site.counters().inbound_bytes_held <= 2 << 20);
    bystander.echo(b"served throughout");
    let told = ended[0].path.trim_start_matches('/').parse::<usize>().expect("a number");
    assert_eq!(peers[told].read_close().0, 1013, "it is told");
    drop((peers, bystander));
    site.wait_empty();
    site.end();
}
