//! A new process goes on where the old one was: clients with recovery come back to find every
//! publication once, publishers are refused nothing, whether the two processes follow each other or
//! run beside each other for a while.
//!
//! Clients and publishers are what they are elsewhere: they know nothing of processes. A request
//! that a process does not answer is made again with its idempotency key, as a backend would.

#[path = "takeover/crowd.rs"]
mod crowd;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crowd::{Client, Published, Tally, publish};
use support::gateway::Gateway;

const CHANNELS: usize = 6;

/// A folder of its own for a test's state.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("takeover-{name}-{}", std::process::id());
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("a folder can be made");
        Self(path)
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
    clients: Vec<tokio::task::JoinHandle<()>>,
    publishers: Vec<tokio::task::JoinHandle<Published>>,
    go: Arc<AtomicBool>,
}

impl Traffic {
    async fn start(gateway: &Gateway, clients: usize, last: u64, pace: Duration) -> Self {
        let (tally, address) = (Arc::<Tally>::default(), gateway.address());
        let client = |n: usize| {
            let client = Client::new(address, n, &channel(n), last);
            let client = Client { delta: n % 3 == 0, tally: tally.clone(), ..client };
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
        Self { tally, clients, publishers, go }
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
