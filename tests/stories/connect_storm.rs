//! The story of the connection that was closed before it was established, told by crowds that come
//! in the same instant.
//!
//! The method: thousands of clients dial at once, directly, through a reverse proxy, while the
//! server is replaced, and beyond what it has room for. None may see an end before an answer.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::stories::site::is_empty;
use crate::stories::{Child, Crowd, CrowdPlan, Peer, Site, share_one_processor, wait_until};

fn storm(clients: u32, workers: usize) -> impl FnOnce(SocketAddr) -> Crowd {
    move |address| {
        let crowd = Crowd::start(&CrowdPlan {
            payload: 100,
            workers,
            ..CrowdPlan::quiet(address, clients)
        });
        crowd.dial(u64::from(clients));
        crowd.wait_opened(u64::from(clients));
        wait_until("every echo", || {
            let echoes = crate::stories::crowd::load(&crowd.tally.echoes);
            (echoes != u64::from(clients)).then(|| format!("{echoes} of {clients}"))
        });
        assert_eq!(crowd.tally.errors(), [].into(), "closed before established");
        assert_eq!(crowd.tally.ends(), [].into(), "closed while nobody wanted that");
        crowd
    }
}

/// A hundred clients reconnect in the same second; some see their WebSocket closed before it is
/// established. Locally it never happens. (Centrifugo)
#[test]
fn a_hundred_in_the_same_instant() {
    share_one_processor();
    let (site, journal) = Site::watched(|_| {});
    for round in 1..=5 {
        let crowd = storm(100, 1)(site.address);
        assert_eq!(site.counters().opened, 100 * round);
        crowd.leave();
        site.wait_empty();
    }
    journal.assert_sound();
    assert_eq!(site.end().counters.handshake_aborts, 0);
}

/// The same with ten thousand, which is more than the accept queues hold.
#[test]
fn ten_thousand_in_the_same_instant() {
    share_one_processor();
    let (site, journal) = Site::watched(|config| config.max_connections = 12_000);
    let crowd = storm(10_000, 4)(site.address);
    assert_eq!(site.counters().open, 10_000);
    crowd.leave();
    site.wait_empty();
    journal.assert_sound();
    let end = site.end().counters;
    assert_eq!((end.opened, end.handshake_aborts, end.refused_full), (10_000, 0, 0));
}

/// The same through a reverse proxy, which is how the story began: the proxy hides the reset
/// behind a 502.
#[test]
fn the_same_instant_through_a_proxy() {
    if crate::support::find_program(&["nginx"]).is_none() {
        return crate::support::skip("nginx is not installed");
    }
    share_one_processor();
    let (site, journal) = Site::watched(|config| config.max_connections = 12_000);
    let (proxy, address) = start_nginx(site.address);
    for clients in [100, 10_000] {
        let crowd = storm(clients, 4)(address);
        assert_eq!(site.counters().open, u64::from(clients));
        crowd.leave();
        site.wait_empty();
    }
    journal.assert_sound();
    proxy.signal("TERM");
    proxy.ended();
    site.end();
}

/// A storm meets a server that is being replaced: whom the old one has let in it says goodbye to,
/// the others are taken by the new one.
#[test]
fn the_server_restarts_under_the_storm() {
    const CLIENTS: u64 = 3_000;
    share_one_processor();
    let (mut old, _) = Site::watched(|config| config.max_connections = 4_000);
    let address = old.address;
    let crowd = Crowd::start(&CrowdPlan {
        redial: true,
        workers: 2,
        ..CrowdPlan::quiet(address, CLIENTS as u32)
    });
    crowd.dial(CLIENTS);
    for _ in 0..2 {
        // In the middle of the storm, not after it.
        let before = crate::stories::crowd::load(&crowd.tally.opened);
        wait_until("the storm to begin", || {
            let opened = crate::stories::crowd::load(&crowd.tally.opened);
            (opened < before + 300).then(|| format!("{opened} open, {:?}", crowd.tally.errors()))
        });
        let (new, _) = Site::watched(|config| {
            config.listen = Some(address);
            config.max_connections = 12_000;
        });
        let replaced = std::mem::replace(&mut old, new);
        replaced.end();
    }
    wait_until("all to be back", || {
        let counters = old.counters();
        let errors = crowd.tally.errors();
        (counters.open != CLIENTS).then(|| format!("{counters:?}, {errors:?}"))
    });
    assert_eq!(crowd.tally.errors(), [].into(), "closed before established");
    crowd.leave();
    old.wait_empty();
    old.end();
}

/// A server that is full says so: everybody gets an answer, with the time to come back; nobody is
/// reset, however many more they are than there is room even for answers.
#[test]
fn a_full_table_answers_everybody() {
    const ROOM: usize = 100;
    const MORE: usize = 300;
    let (site, _) = Site::watched(|config| {
        config.workers = 1;
        config.max_connections = ROOM as u32;
        config.reserve = 16;
        config.retry_after = 7;
    });
    let inside: Vec<Peer> = (0..ROOM).map(|_| Peer::open(site.address, "/")).collect();
    // All knock before the first reads its answer.
    let mut outside: Vec<Peer> = (0..MORE).map(|_| Peer::connect(site.address)).collect();
    for peer in &mut outside {
        peer.send(&crate::stories::peer::upgrade("/"));
    }
    // Each goes when it has its answer, which makes room for the next.
    for (index, mut peer) in outside.into_iter().enumerate() {
        let head = peer.try_read_head().unwrap_or_else(|error| panic!("number {index}: {error}"));
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert!(head.contains("\r\nRetry-After: 7\r\n"), "{head}");
    }
    let full = site.wait_for("the surplus to be gone", |c| c.connections == ROOM as u64);
    assert_eq!(full.refused_full, MORE as u64, "each counted");
    drop(inside);
    site.wait_for("room again", is_empty);
    Peer::open(site.address, "/").echo(b"room again");
    site.end();
}

/// A listener with a short queue and a slow door: whoever does not fit waits, and is not turned
/// away.
#[test]
fn a_full_backlog_waits_and_is_not_reset() {
    const CLIENTS: u32 = 200;
    let (site, _) = Site::watched(|config| {
        config.workers = 1;
        config.backlog = 32;
        config.accept_rate = 100;
    });
    let crowd = storm(CLIENTS, 1)(site.address);
    let counters = site.counters();
    assert!(counters.accept_rate_pauses > 0, "{counters:?}");
    assert_eq!(counters.opened, u64::from(CLIENTS));
    crowd.leave();
    site.wait_empty();
    site.end();
}

/// nginx as people configure it for WebSocket, on a free port of the loopback interface.
fn start_nginx(server: SocketAddr) -> (Child, SocketAddr) {
    let address = crate::support::daemon::free_address();
    let folder = std::env::temp_dir().join(format!("ringhold-nginx-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let folder = folder.display();
    let file = format!("{folder}/nginx.conf");
    let text = format!(
        "daemon off; pid {folder}/pid; error_log stderr warn;
         worker_processes 2; worker_rlimit_nofile 20000;
         events {{ worker_connections 16000; multi_accept on; }}
         http {{
             access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
             fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
             server {{
                 listen {address} reuseport backlog=16384;
                 location / {{
                     proxy_pass http://{server};
                     proxy_http_version 1.1;
                     proxy_set_header Upgrade $http_upgrade;
                     proxy_set_header Connection upgrade;
                     proxy_set_header Host $host;
                     proxy_read_timeout 600s;
                 }}
             }}
         }}"
    );
    std::fs::write(&file, text).expect("the configuration can be written");
    let child = Child::spawn(Command::new("nginx").args(["-c", &file, "-e", "stderr"]));
    wait_until("nginx to listen", || {
        let probe = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1));
        probe.err().map(|error| error.to_string())
    });
    (child, address)
}
