//! A new process goes on where the old one was: clients with recovery come back to find every
//! publication once, publishers are refused nothing, whether the two processes follow each other or
//! run beside each other for a while.
//!
//! Clients and publishers are what they are elsewhere: they know nothing of processes. A request
//! that a process does not answer is made again with its idempotency key, as a backend would.

mod crowd;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crowd::{Client, Published, Tally, publish};
use rustix::process::Signal;

use crate::support::gateway::Gateway;
use crate::support::{own_folder, until};

const CHANNELS: usize = 6;

/// A folder of its own for a test's state.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(own_folder(&format!("takeover-{name}")))
    }

    /// The line for a socket in it.
    fn socket(&self) -> String {
        format!("takeover_path = \"{}\"\n", self.0.join("door").display())
    }

    fn tables(&self, more: &str) -> String {
        format!(
            r#"
[channel.without_namespace]
history_size = 2000
history_ttl = "300s"
force_recovery = true
presence = true
join_leave = true
allow_subscribe_for_client = true
allow_history_for_subscriber = true
allow_presence_for_subscriber = true
allowed_delta_types = ["fossil"]
delta_publish = true
[client]
ping_interval = "600s"
[node]
name = "takeover"
[health]
enabled = true
[prometheus]
enabled = true
[shutdown]
drain_window = "300ms"
state_path = "{}"
{more}
"#,
            self.0.join("state").display()
        )
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn channel(n: usize) -> String {
    format!("news{}", n % CHANNELS)
}

/// Clients in all channels, and one publisher for each.
struct Traffic {
    tally: Arc<Tally>,
    /// Of clients that come later, and go.
    extra: Arc<Tally>,
    clients: Vec<tokio::task::JoinHandle<()>>,
    publishers: Vec<tokio::task::JoinHandle<Published>>,
    go: Arc<AtomicBool>,
}

impl Traffic {
    async fn start(gateway: &Gateway, clients: usize, last: u64, pace: Duration) -> Self {
        let (tally, address) = (Arc::<Tally>::default(), gateway.address());
        let client = |n: usize| {
            let client = Client::new(address, n, &channel(n), last);
            let client = Client { delta: n.is_multiple_of(3), tally: tally.clone(), ..client };
            tokio::spawn(client.run())
        };
        let clients: Vec<_> = (0..clients).map(client).collect();
        tally.reaches(&tally.first, clients.len() as u64).await;
        let go = Arc::new(AtomicBool::new(true));
        let publisher = |n| {
            let go = go.clone();
            tokio::spawn(publish(vec![address], channel(n), pace, last, go))
        };
        let publishers = (0..CHANNELS).map(publisher).collect();
        Self { tally, extra: Arc::default(), clients, publishers, go }
    }

    /// One more client, which comes to whichever process there is.
    fn more(&self, gateway: &Gateway, n: usize, last: u64) -> Client {
        let client = Client::new(gateway.address(), 1000 + n, &channel(n), last + 1);
        Client { tally: self.extra.clone(), ..client }
    }

    /// Waits until all clients have moved so often.
    async fn moved(&self, times: u64) {
        let all = self.clients.len() as u64;
        self.tally.reaches(&self.tally.recovered, all * times).await;
    }

    /// Waits until all clients have seen so much.
    async fn seen(&self, each: u64) {
        let all = self.clients.len() as u64;
        self.tally.reaches(&self.tally.seen, all * each).await;
    }

    /// Lets the publishers end, and asserts that nobody has missed anything.
    async fn finish(self, moves: u64) {
        self.go.store(false, Ordering::SeqCst);
        let (mut repeated, mut pause) = (0, Duration::ZERO);
        for publisher in self.publishers {
            let published = publisher.await.expect("a publisher ends well");
            assert_eq!((published.refused, published.misplaced), (Vec::new(), 0));
            repeated += published.repeated;
            pause = pause.max(published.pause);
        }
        let (tally, clients) = (&self.tally, self.clients.len() as u64);
        tally.reaches(&tally.done, clients).await;
        for client in self.clients {
            client.await.expect("a client ends well");
        }
        let get = Tally::get;
        println!(
            "{clients} clients: {} recovered, {} unrecovered, {} seen, {} lost, {} doubled, \
             {} refused; {repeated} requests repeated, {pause:?} without an answer at most",
            get(&tally.recovered),
            get(&tally.unrecovered),
            get(&tally.seen),
            get(&tally.lost),
            get(&tally.doubled),
            get(&tally.refused),
        );
        let extra = &self.extra;
        println!("clients that came later: {extra:?}");
        let faults = [&extra.lost, &extra.doubled, &extra.unrecovered, &extra.refused].map(get);
        assert_eq!(faults, [0; 4], "lost, doubled, unrecovered, refused");
        let faults = [&tally.lost, &tally.doubled, &tally.unrecovered, &tally.refused].map(get);
        assert_eq!(faults, [0; 4], "lost, doubled, unrecovered, refused");
        assert!(get(&tally.recovered) >= moves * clients, "all have moved: {tally:?}");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn channels_outlive_restarts() {
    const CLIENTS: usize = 300;
    const LAST: u64 = 300;
    let folder = Folder::new("restart");
    let gateway = Gateway::start(&folder.tables(""));
    let mut gateway = runtime().block_on(async move {
        let mut gateway = gateway;
        let pace = Duration::from_millis(5);
        let traffic = Traffic::start(&gateway, CLIENTS, LAST, pace).await;
        for restart in 1..=2 {
            traffic.seen(restart * 40).await;
            gateway = tokio::task::spawn_blocking(move || {
                gateway.restart();
                gateway
            })
            .await
            .expect("it starts again");
            let restored =
                tokio::task::block_in_place(|| gateway.metric("state_restored_publications"));
            assert!(restored >= CHANNELS as u64 * restart * 40, "{restored}");
            traffic.moved(restart).await;
        }
        traffic.finish(2).await;
        gateway
    });
    // Positions, results of publications and versions are those of before.
    let history = gateway.api("history", json!({"channel": channel(0), "limit": 0}));
    gateway.restart();
    let same = gateway.api("history", json!({"channel": channel(0), "limit": 0}));
    assert_eq!((&same["epoch"], &same["offset"]), (&history["epoch"], &json!(LAST)));
    let again = json!({
        "channel": channel(0), "data": 1,
        "idempotency_key": format!("{} {LAST}", channel(0)),
    });
    assert_eq!(gateway.api("publish", again)["offset"], json!(LAST), "it is known");
    let versioned = |version: u64| json!({"channel": "versions", "data": 1, "version": version});
    assert_eq!(gateway.api("publish", versioned(7))["offset"], json!(1));
    gateway.restart();
    assert_eq!(gateway.api("publish", versioned(7))["offset"], json!(1), "it is no newer");
    assert_eq!(gateway.api("publish", versioned(8))["offset"], json!(2));
    gateway.stop();
}

/// Whatever lies where the state should be, the server starts, says so once, and goes on.
#[test]
fn state_that_is_none_costs_what_is_in_it() {
    let folder = Folder::new("spoilt");
    let path = folder.0.join("state");
    let mut gateway = Gateway::start(&folder.tables("state_max_size = \"64KiB\"\n"));
    let news = |n: u64| json!({"channel": "news", "data": {"n": n}});
    let epoch = |gateway: &Gateway| gateway.api("publish", news(1))["epoch"].clone();
    let mut before = epoch(&gateway);
    type Spoil = fn(Vec<u8>) -> Vec<u8>;
    let spoils: [(&str, Spoil); 5] = [
        ("corrupt", |mut bytes| {
            *bytes.last_mut().expect("it has a sum") ^= 1;
            bytes
        }),
        ("corrupt", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("oversized", |bytes| [bytes, vec![0; 4 << 20]].concat()),
        ("foreign", |_| b"something else".to_vec()),
        ("stale", |mut bytes| {
            bytes[24..32].copy_from_slice(&[0; 8]);
            bytes
        }),
    ];
    for (reason, spoil) in spoils {
        gateway.restart_after(|| {
            let bytes = std::fs::read(&path).expect("it left something");
            std::fs::write(&path, spoil(bytes)).expect("it can be written");
        });
        assert_eq!(gateway.metric(&format!("state_ignored_total{{reason=\"{reason}\"}}")), 1);
        let now = epoch(&gateway);
        assert_ne!(now, before, "{reason}: a new life");
        before = now;
    }
    // Ended before it could write.
    gateway.kill_and_start();
    assert_eq!(gateway.metric("state_ignored_total{reason=\"unfinished\"}"), 1);
    assert_ne!(epoch(&gateway), before);
    before = epoch(&gateway);
    // And nothing of it hurts what comes after.
    gateway.restart();
    assert_eq!(epoch(&gateway), before);
    gateway.stop();
}

/// Both processes run for a while, publications come to either, and clients are with both.
#[test]
fn a_successor_takes_over_while_both_run() {
    const CLIENTS: usize = 300;
    const LAST: u64 = 360;
    let folder = Folder::new("both");
    let first = Gateway::start(&folder.tables(&folder.socket()));
    let mut old = runtime().block_on(async move {
        let mut old = first;
        let pace = Duration::from_millis(5);
        let traffic = Traffic::start(&old, CLIENTS, LAST, pace).await;
        for round in 0..2 {
            traffic.seen(round * 120 + 30).await;
            let workers = if round == 0 { "3" } else { "1" };
            let new = tokio::task::block_in_place(|| {
                old.successor(None, &["--set", &format!("engine.workers={workers}")])
            });
            // Clients come to both, and publications.
            let both: Vec<_> =
                (0..60).map(|n| tokio::spawn(traffic.more(&new, n, LAST).run())).collect();
            traffic.seen(round * 120 + 80).await;
            tokio::task::block_in_place(|| old.stop());
            traffic.moved(round + 1).await;
            traffic.seen(round * 120 + 110).await;
            both.into_iter().for_each(|client| client.abort());
            old = new;
        }
        traffic.finish(2).await;
        old
    });
    assert_eq!(old.metric("takeovers_total{outcome=\"adopted\",side=\"heir\"}"), 1);
    let history = old.api("history", json!({"channel": channel(0), "limit": 0}));
    assert_eq!(history["offset"], json!(LAST));
    // And then by the file.
    old.restart();
    let same = old.api("history", json!({"channel": channel(0), "limit": 0}));
    assert_eq!(same, history);
    old.stop();
}

/// What else is known of a channel is known to both, and goes over.
#[test]
fn presence_keys_and_removals_are_those_of_both() {
    let folder = Folder::new("shared");
    let old = Gateway::start(&folder.tables(&folder.socket()));
    let mut new = old.successor(Some(0), &[]);
    let gateways = [&old, &new];
    let mut sessions: Vec<_> = (0..8)
        .map(|n| {
            let mut session = gateways[n % 2].connected(&format!("user-{}", n / 2));
            session.result("subscribe", json!({"channel": "news", "join_leave": true}));
            session
        })
        .collect();
    let stats = json!({"channel": "news"});
    for session in &mut sessions {
        // A member is told to the other process when it is in.
        let all = json!({"num_clients": 8, "num_users": 4});
        until("members of both", || session.result("presence_stats", stats.clone()) == all);
        let present = session.result("presence", stats.clone());
        assert_eq!(present["presence"].as_object().map(|it| it.len()), Some(8));
    }
    let keyed = |key: &str| json!({"channel": "news", "data": 1, "idempotency_key": key});
    for gateway in gateways {
        assert_eq!(gateway.api("publish", keyed("once"))["offset"], json!(1));
    }
    for n in 2..=20 {
        let news = json!({"channel": "news", "data": n});
        assert_eq!(gateways[n % 2].api("publish", news)["offset"], json!(n));
    }
    for session in &mut sessions {
        let offsets: Vec<_> = (1..=20)
            .map(|_| {
                loop {
                    let push = session.push();
                    if push.get("pub").is_some() {
                        break push["pub"]["offset"].as_u64().expect("it has one");
                    }
                }
            })
            .collect();
        assert_eq!(offsets, (1..=20).collect::<Vec<_>>());
    }
    // Who comes is announced to both, and who goes.
    let late = new.connected_with("late", &[]);
    drop(late);
    let mut late = new.connected("late");
    late.subscribe("news");
    drop(late);
    for session in &mut sessions {
        for happening in ["join", "leave"] {
            let push = loop {
                let push = session.push();
                if push.get(happening).is_some() && push[happening]["info"]["user"] == "late" {
                    break push;
                }
            };
            assert_eq!(push["channel"], json!("news"));
        }
    }
    new.api("history_remove", json!({"channel": "news"}));
    for (n, session) in sessions.iter_mut().enumerate() {
        let past = || json!({"channel": "news", "limit": 100});
        until(&format!("the history of {n} to be gone"), || {
            session.result("history", past())["publications"].as_array().is_none_or(Vec::is_empty)
        });
        assert_eq!(session.result("history", past())["offset"], json!(20));
    }
    drop(sessions);
    old.stop();
    assert_eq!(new.api("publish", keyed("once"))["offset"], json!(1), "it is known");
    assert_eq!(new.api("publish", keyed("twice"))["offset"], json!(21));
    let nobody = json!({"num_clients": 0, "num_users": 0});
    until("all to have left", || new.api("presence_stats", stats.clone()) == nobody);
    new.signal(Signal::TERM);
    new.exited_well();
}

/// The successor dies half-way: those it had come back to the old process, and nothing is lost.
#[test]
fn a_successor_that_dies_hurts_nobody() {
    const CLIENTS: usize = 120;
    const LAST: u64 = 200;
    let folder = Folder::new("heir");
    let mut old = Gateway::start(&folder.tables(&folder.socket()));
    runtime().block_on(async {
        let traffic = Traffic::start(&old, CLIENTS, LAST, Duration::from_millis(5)).await;
        for round in 0..2 {
            let mut new = tokio::task::block_in_place(|| old.successor(None, &[]));
            let more: Vec<_> =
                (0..60).map(|n| tokio::spawn(traffic.more(&new, n, LAST).run())).collect();
            traffic.seen(round * 40 + 40).await;
            tokio::task::block_in_place(|| new.kill());
            traffic.seen(round * 40 + 60).await;
            more.into_iter().for_each(|client| client.abort());
        }
        traffic.finish(0).await;
    });
    assert_eq!(old.metric("takeovers_total{outcome=\"broken\",side=\"elder\"}"), 2);
    let history = old.api("history", json!({"channel": channel(0), "limit": 0}));
    assert_eq!(history["offset"], json!(LAST));
    // It keeps its channels as if nobody had come.
    old.restart();
    let same = old.api("history", json!({"channel": channel(0), "limit": 0}));
    assert_eq!(same, history);
    old.stop();
}

/// The old process dies before it has handed anything over, or hangs: the successor begins anew,
/// which clients are told, and serves.
#[test]
fn an_old_process_that_dies_or_hangs_is_done_without() {
    for (name, signal) in [("killed", Signal::KILL), ("stopped", Signal::STOP)] {
        let folder = Folder::new(name);
        let mut old = Gateway::start(&folder.tables(&folder.socket()));
        let epoch = old.api("publish", json!({"channel": "news", "data": 1}))["epoch"].clone();
        let mut new = old.successor(Some(0), &[]);
        let mut ann = new.connected("ann");
        let subscribed = ann.subscribe("news");
        assert_eq!((&subscribed["epoch"], &subscribed["offset"]), (&epoch, &json!(1)));
        old.signal(signal);
        // What the old one does not do the new one does, once it is sure.
        let place = loop {
            let reply = new.api_reply("publish", &json!({"channel": "news", "data": 2}));
            if reply.get("result").is_some() {
                break reply["result"].clone();
            }
            assert_eq!(reply["error"]["code"], json!(100), "{reply}");
        };
        assert_ne!(place["epoch"], epoch, "{name}: a new life");
        // Who had a position is told so, and comes back.
        let told = loop {
            let push = ann.push();
            if push.get("unsubscribe").is_some() {
                break push["unsubscribe"]["code"].clone();
            }
        };
        assert_eq!(told, json!(2500), "{name}");
        let back = ann.subscribe("news");
        assert_eq!(back["epoch"], place["epoch"]);
        assert_eq!(new.metric("takeovers_total{outcome=\"broken\",side=\"heir\"}"), 1);
        old.kill();
        new.restart();
        assert_eq!(new.api("history", json!({"channel": "news"}))["epoch"], place["epoch"]);
        new.stop();
    }
}

/// Whoever comes between the end of an elder and the door of its heir waits, and loses nothing.
#[test]
fn a_door_that_opens_late_is_waited_for() {
    let folder = Folder::new("late");
    let log = folder.0.join("log");
    let file = format!("{}[log]\nfile = \"{}\"\n", folder.socket(), log.display());
    let old = Gateway::start(&folder.tables(&file));
    let kept = old.api("publish", json!({"channel": "news", "data": 1}));
    let (door, aside) = (folder.0.join("door"), folder.0.join("aside"));
    std::fs::rename(&door, &aside).expect("the door is there");
    let mut new = std::thread::scope(|scope| {
        let heir = scope.spawn(|| old.successor(None, &[]));
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        until("the socket to be awaited", || said().contains("whose socket is awaited"));
        std::fs::rename(&aside, &door).expect("it was put there");
        heir.join().expect("it starts")
    });
    old.stop();
    let next = new.api("publish", json!({"channel": "news", "data": 2}));
    assert_eq!((&next["epoch"], &next["offset"]), (&kept["epoch"], &json!(2)));
    assert_eq!(new.metric("takeovers_total{outcome=\"adopted\",side=\"heir\"}"), 1);
    new.signal(Signal::TERM);
    new.exited_well();
}

/// Whoever knocks at the socket without being an heir.
#[test]
fn a_socket_that_is_not_an_heirs_is_nobodys_business() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let folder = Folder::new("door");
    let old = Gateway::start(&folder.tables(&folder.socket()));
    let door = || {
        let stream = UnixStream::connect(folder.0.join("door")).expect("there is a door");
        stream.set_read_timeout(Some(crate::support::PATIENCE)).expect("set_read_timeout");
        stream
    };
    let mut hello = vec![0, 1, 8];
    hello.extend(b"takeover");
    hello.splice(0..0, (hello.len() as u32).to_le_bytes());
    let epoch = old.api("publish", json!({"channel": "news", "data": 1}))["epoch"].clone();
    for said in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 100], &[0; 100], b"\x01\0\0\0\x07"] {
        let mut stream = door();
        let _ = stream.write_all(said);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 200, "{answer:?}");
    }
    // One that is welcome, says nonsense, or nothing, and takes nothing.
    for said in [&b"\x05\0\0\0\x03aaaa"[..], b""] {
        let mut welcomed = None;
        // There is one at a time; it is given up where it says nothing for long, as here when the
        // machine is busy with other things.
        until("one to be welcome, and a second not", || {
            let mut stream = door();
            stream.write_all(&hello).expect("it is taken");
            let mut answer = [0; 5];
            let welcome = stream.read_exact(&mut answer).is_ok() && answer[4] == 1;
            let mut second = door();
            second.write_all(&hello).expect("it is taken");
            let mut refused = [0; 5];
            second.read_exact(&mut refused).expect("an answer");
            welcomed = (welcome && refused[4] == 2).then_some(stream);
            welcomed.is_some()
        });
        let mut stream = welcomed.expect("one is welcome");
        stream.write_all(said).expect("it is taken");
        let place = old.api("publish", json!({"channel": "news", "data": 1}));
        assert_eq!(place["epoch"], epoch);
    }
    old.stop();
}
