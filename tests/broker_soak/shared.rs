//! What the threads of a run share: what everybody is to do, what happens to nodes, and what each
//! subscriber has seen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::plan::{Kind, Plan};
use super::tally::Tally;

/// What everybody does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Run,
    /// Nobody publishes or moves any more; what was sent arrives.
    Settle,
    Leave,
}

/// What a subscriber has seen without being told that something is missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stretch {
    pub(crate) epoch: String,
    /// Before the first.
    pub(crate) since: u64,
    /// What was published at `since + 1` and so on.
    pub(crate) numbers: Vec<u32>,
}

impl Stretch {
    pub(crate) fn top(&self) -> u64 {
        self.since + self.numbers.len() as u64
    }

    /// With their offsets.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        (self.since + 1..).zip(self.numbers.iter().copied())
    }
}

/// One subscriber's life in one channel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// It is subscribed at this moment.
    pub(crate) live: bool,
    /// What it has seen before it was told that something is missing.
    pub(crate) before: Vec<Stretch>,
    /// `None`: it was never there.
    pub(crate) current: Option<Stretch>,
    /// The last number, where there are no offsets.
    pub(crate) last: u32,
}

pub(crate) type Records = Arc<Mutex<BTreeMap<String, Record>>>;

/// An acknowledged publication with a place in a history.
#[derive(Clone, Debug)]
pub(crate) struct Acked {
    pub(crate) channel: usize,
    pub(crate) epoch: String,
    pub(crate) offset: u64,
    pub(crate) number: u32,
}

/// What is done to a node by the test itself.
#[derive(Default)]
struct Harm {
    now: bool,
    last: Option<Instant>,
}

pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) tally: Tally,
    pub(crate) channels: Vec<(String, Kind)>,
    pub(crate) nodes: Vec<SocketAddr>,
    /// By client.
    pub(crate) records: Vec<Records>,
    pub(crate) acked: Mutex<Vec<Acked>>,
    phase: Mutex<Phase>,
    /// All publishers have had their last number acknowledged.
    published: AtomicBool,
    /// Nobody leaves a node by itself.
    still: AtomicBool,
    /// Counts the times at which half of the clients leave at once.
    pub(crate) storms: AtomicU64,
    /// The longest time without an acknowledgement since somebody looked, in milliseconds.
    gap: AtomicU64,
    harmed: Mutex<Vec<Harm>>,
    /// The servers may lose what they have acknowledged: since when, and until when.
    losses: Mutex<(u64, Option<Instant>)>,
}

/// So long after harm was done to a node its connections may end of it.
const AFTERMATH: Duration = Duration::from_secs(15);

/// So long after servers have lost something a subscriber may be told.
const TELLING: Duration = Duration::from_secs(60);

impl Shared {
    pub(crate) fn new(
        plan: Plan,
        tally: Tally,
        channels: Vec<(String, Kind)>,
        nodes: Vec<SocketAddr>,
    ) -> Self {
        Self {
            records: (0..plan.clients).map(|_| Records::default()).collect(),
            harmed: Mutex::new(nodes.iter().map(|_| Harm::default()).collect()),
            plan,
            tally,
            channels,
            nodes,
            acked: Mutex::default(),
            phase: Mutex::new(Phase::Run),
            published: AtomicBool::new(false),
            still: AtomicBool::new(false),
            storms: AtomicU64::new(0),
            gap: AtomicU64::new(0),
            losses: Mutex::new((0, None)),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        *lock(&self.phase)
    }

    pub(crate) fn enter(&self, phase: Phase) {
        *lock(&self.phase) = phase;
    }

    pub(crate) fn publishers_are_done(&self) {
        self.published.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_published(&self) -> bool {
        self.published.load(Ordering::SeqCst)
    }

    pub(crate) fn is_still(&self) -> bool {
        self.still.load(Ordering::SeqCst)
    }

    pub(crate) fn keep_still(&self, still: bool) {
        self.still.store(still, Ordering::SeqCst);
    }

    pub(crate) fn kind(&self, channel: &str) -> Kind {
        let found = self.channels.iter().find(|(name, _)| name == channel);
        found.unwrap_or_else(|| panic!("{channel} is none of ours")).1
    }

    /// A publisher had to wait so long.
    pub(crate) fn waited(&self, time: Duration) {
        self.gap.fetch_max(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// The longest time since this was asked last.
    pub(crate) fn take_gap(&self) -> Duration {
        Duration::from_millis(self.gap.swap(0, Ordering::Relaxed))
    }

    /// Something is done to a node, or not any more.
    pub(crate) fn harm(&self, node: usize, now: bool) {
        lock(&self.harmed)[node] = Harm { now, last: Some(Instant::now()) };
    }

    /// Whether connections to a node may end, or get no answer.
    pub(crate) fn is_harmed(&self, node: usize) -> bool {
        let harm = &lock(&self.harmed)[node];
        harm.now || harm.last.is_some_and(|last| last.elapsed() < AFTERMATH)
    }

    /// Servers lose something from now on.
    pub(crate) fn begin_losses(&self) {
        let mut losses = lock(&self.losses);
        *losses = (losses.0 + 1, None);
    }

    /// They have lost what they lose.
    pub(crate) fn end_losses(&self) {
        lock(&self.losses).1 = Some(Instant::now());
    }

    /// Whether servers may have lost something of late.
    pub(crate) fn may_miss(&self) -> bool {
        match *lock(&self.losses) {
            (0, _) => false,
            (_, None) => true,
            (_, Some(end)) => end.elapsed() < TELLING,
        }
    }

    /// Whether servers may have lost anything at all.
    pub(crate) fn has_losses(&self) -> bool {
        lock(&self.losses).0 > 0
    }

    /// How many subscriptions there are to be, and how many are there.
    pub(crate) fn subscribed(&self) -> (usize, usize) {
        let (mut all, mut live) = (0, 0);
        for records in &self.records {
            let records = lock(records);
            all += records.len();
            live += records.values().filter(|record| record.live).count();
        }
        (all, live)
    }
}

/// What is guarded is as good after a panic as before.
pub(crate) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
