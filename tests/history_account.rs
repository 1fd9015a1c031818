//! What a core says its histories take is what they take: counted, not believed.
//!
//! The method: the program's allocator, which counts the bytes that are asked of it, under a hub of
//! one core. Publications of one shape come until the account is full and old ones go. Each shape
//! prints its account, what the allocator was asked for, and how much the process grew; for the
//! last figure run one shape at a time, with `--exact --nocapture`.

use std::alloc::{GlobalAlloc, Layout};
use std::fs;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ringhold::Frame;
use ringhold::gateway::home::HomeLimits;
use ringhold::gateway::hub::Hub;
use ringhold::gateway::hub_port::{Event, HubPort, Link, Refused};
use ringhold::gateway::letters::{Ask, Asker, Letter, Publish, Question};
use ringhold::gateway::placement::Placement;
use ringhold::gateway::stream::{Read, StreamOptions};
use ringhold::gateway::wire::messages::ClientInfo;

/// The program's allocator, which counts the bytes that are held.
struct Counting(mimalloc::MiMalloc);

static HELD: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call is passed on to the allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the pointer came from this allocator, because `alloc` passes everything on.
        unsafe { self.0.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting(mimalloc::MiMalloc);

/// One shape at a time: the count is of the process.
static ONE: Mutex<()> = Mutex::new(());

struct Nobody {
    now: Duration,
    random: u64,
}

impl HubPort for Nobody {
    fn now(&self) -> Duration {
        self.now
    }

    fn random(&mut self) -> u64 {
        self.random += 1;
        self.random
    }

    fn post(&mut self, _: usize, _: Letter) -> Result<(), Refused> {
        Err(Refused)
    }

    fn post_reserved(&mut self, _: usize, _: Letter) -> Result<(), Refused> {
        Err(Refused)
    }

    fn post_urgent(&mut self, _: usize, _: Letter) {}

    fn send(&mut self, _: Link, _: &Frame) {}

    fn event(&mut self, _: Link, _: Event<'_>) {}
}

const LIMIT: usize = 128 << 20;

const STREAM: StreamOptions = StreamOptions {
    size: 10_000_000,
    ttl: Duration::from_secs(3600),
    meta_ttl: Duration::from_secs(7200),
};

fn resident() -> i64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: i64 = statm.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("pages");
    pages * 4096
}

/// Asks until old ones go, and a third of that again, so that what was given back is reused.
fn fill(shape: &str, ask: impl Fn(u64) -> (String, Question)) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (held, rss) = (HELD.load(Ordering::Relaxed), resident());
    let limits = HomeLimits { history_bytes: LIMIT, ..HomeLimits::default() };
    let mut hub = Hub::new(0, Placement::new(1, 1), limits);
    let mut out = Nobody { now: Duration::from_secs(1), random: 0 };
    let (mut n, mut end) = (0, u64::MAX);
    while n < end {
        let (channel, question) = ask(n);
        out.now += Duration::from_micros(10);
        let ask = Ask { channel: channel.into(), question, asker: Asker::Nobody };
        hub.ask(&mut out, ask).expect("it is at home");
        n += 1;
        let home = hub.counters().home;
        if end == u64::MAX && home.history_dropped + home.channels_dropped > 0 {
            end = n + n / 3;
        }
    }
    let account = hub.gauges().history_bytes as i64;
    let held = HELD.load(Ordering::Relaxed) - held;
    let rss = resident() - rss;
    let mib = |bytes: i64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{shape}: {n} asked; account {:.1} MiB, allocated {:.1}, resident {:.1}",
        mib(account),
        mib(held),
        mib(rss)
    );
    assert!(account <= LIMIT as i64 && account > LIMIT as i64 * 9 / 10, "the account is full");
    assert!(held <= account + account / 50, "more is held than is said");
    assert!(account <= held + held / 4, "less is held than is said");
    drop(hub);
}

fn publish(channel: String, bytes: usize) -> (String, Question) {
    let data = Bytes::from(vec![b'1'; bytes]);
    (channel, Question::Publish(Publish { data, stream: Some(STREAM), ..Publish::default() }))
}

#[test]
fn small_publications_in_few_channels() {
    fill("32 bytes in 10 channels", |n| publish(format!("channel:{}", n % 10), 32));
}

#[test]
fn one_publication_in_each_of_many_channels() {
    fill("32 bytes in each channel of 200 letters", |n| publish(format!("{n:x>200}"), 32));
}

#[test]
fn one_publication_in_each_of_many_channels_with_short_names() {
    fill("32 bytes in each channel of 20 letters", |n| publish(format!("{n:x>20}"), 32));
}

#[test]
fn large_publications() {
    fill("64 KiB in 10 channels", |n| publish(format!("channel:{}", n % 10), 65_536));
}

#[test]
fn publications_of_clients_with_tags() {
    fill("100 bytes of a client, 2 tags, in 1,000 channels", |n| {
        let (channel, question) = publish(format!("channel:{}", n % 1000), 100);
        let Question::Publish(mut publish) = question else { unreachable!() };
        publish.tags = [("ticker", "ABCD"), ("price", "17.25")]
            .map(|(key, tag)| (key.to_owned(), tag.to_owned()))
            .into();
        let info = ClientInfo {
            user: "some user".to_owned(),
            client: "123e4567-e89b-12d3-a456-426614174000".to_owned(),
            ..ClientInfo::default()
        };
        publish.info = Some(Box::new(info));
        (channel, Question::Publish(publish))
    });
}

#[test]
fn positions_of_channels_without_publications() {
    fill("positions of channels of 60 letters", |n| {
        let read = Read::default();
        (format!("{n:x>60}"), Question::History { stream: STREAM, read })
    });
}
