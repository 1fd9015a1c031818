//! Well-behaved clients beside an attack. Each publishes into a channel that all of them are
//! subscribed to, and checks that every command is answered and that every publication of every
//! witness comes, in order and once. An operator calls the server API and asks for its health, and
//! newcomers connect and leave.
//!
//! A witness that is closed, or meets anything else than it should, panics; the fight fails by it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::gateway::{Gateway, Session};
use crate::support::wire::{FIN, TEXT, frame};

/// The channel of the witnesses.
const CHANNEL: &str = "witness:all";

/// Between two commands of a witness: it is no flood itself.
const PAUSE: Duration = Duration::from_millis(3);

/// A total that is not known yet.
const UNKNOWN: u64 = u64::MAX;

/// What witnesses do besides, and who else is there.
#[derive(Clone, Copy)]
pub(crate) struct Habits {
    /// Commands leave in two pieces, as over a network.
    pub(crate) in_pieces: bool,
    /// Every second command is a call that goes to the backend.
    pub(crate) calls: bool,
    /// An operator is there.
    pub(crate) operator: bool,
    /// Newcomers are there.
    pub(crate) newcomers: bool,
    /// Every second witness has compression, and publishes what is worth it.
    pub(crate) compressed: bool,
}

impl Habits {
    /// With everybody but the backend, and without compression.
    pub(crate) const ORDINARY: Self =
        Self { in_pieces: false, calls: false, operator: true, newcomers: true, compressed: false };
}

/// What the driver and the witnesses share.
pub(crate) struct Shared {
    pub(crate) habits: Habits,
    /// No more new commands.
    pub(crate) stop: AtomicBool,
    /// Nothing of the attack is left, and the witnesses may leave.
    pub(crate) dismissed: AtomicBool,
    /// Somebody has panicked, so that nobody waits for him.
    pub(crate) failed: AtomicBool,
    /// Commands answered so far, by witness.
    pub(crate) rounds: Vec<AtomicU64>,
    /// How many each has published in all.
    totals: Vec<AtomicU64>,
    /// Rounds of operator and newcomers.
    pub(crate) visits: AtomicU64,
    /// Whether times are kept, and under which heading.
    pub(crate) phase: AtomicU64,
}

impl Shared {
    pub(crate) fn new(habits: Habits, witnesses: usize) -> Self {
        let zeros = |value| (0..witnesses).map(|_| AtomicU64::new(value)).collect();
        Self {
            habits,
            stop: AtomicBool::new(false),
            dismissed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            rounds: zeros(0),
            totals: zeros(UNKNOWN),
            visits: AtomicU64::new(0),
            phase: AtomicU64::new(0),
        }
    }

    /// Nobody waits for anybody any more.
    fn over(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits until each has done so many rounds more, or somebody has failed.
    pub(crate) fn wait_rounds(&self, more: u64) {
        let from: Vec<u64> = self.rounds.iter().map(|r| r.load(Ordering::Relaxed)).collect();
        let deadline = Instant::now() + 2 * PATIENCE;
        let done =
            |(rounds, from): (&AtomicU64, &u64)| rounds.load(Ordering::Relaxed) >= from + more;
        while !self.rounds.iter().zip(&from).all(done) && !self.over() {
            assert!(Instant::now() < deadline, "the witnesses do not get on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Times of answers by phase.
pub(crate) type Times = [Vec<Duration>; 3];

/// Says that a thread has panicked.
pub(crate) struct Alarm<'a>(pub(crate) &'a Shared);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::Relaxed);
            self.0.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// One witness.
pub(crate) struct Witness {
    session: Session,
    number: usize,
    /// What each witness has published, as far as it came here.
    seen: Vec<u64>,
}

impl Witness {
    /// A witness on this connection.
    pub(crate) fn new(mut session: Session, number: usize, all: usize) -> Self {
        session.subscribe(CHANNEL);
        Self { session, number, seen: vec![0; all] }
    }

    /// Publishes until told to stop; waits for everything that is still to come, and for its
    /// dismissal; then closes in good order. It reads all the time, and so answers pings: a server
    /// may give up who does not, however long the fight takes.
    pub(crate) fn testify(mut self, shared: &Shared) -> Times {
        let _alarm = Alarm(shared);
        let mut times = Times::default();
        let mut published = 0;
        let mut round = 0;
        while !shared.stop.load(Ordering::Relaxed) {
            let phase = shared.phase.load(Ordering::Relaxed) as usize;
            let start = Instant::now();
            round += 1;
            if shared.habits.calls && round % 2 == 0 {
                self.ask(shared, "rpc", &json!({"method": "witness", "data": {}}));
            } else {
                published += 1;
                let mut data = json!({"witness": self.number, "number": published});
                if shared.habits.compressed {
                    data["more"] = json!("as it is said ".repeat(50));
                }
                self.ask(shared, "publish", &json!({"channel": CHANNEL, "data": data}));
            }
            times[phase].push(start.elapsed());
            shared.rounds[self.number].fetch_add(1, Ordering::Relaxed);
            self.session.pushed().iter().for_each(|push| self.check(push));
            std::thread::sleep(PAUSE);
        }
        shared.totals[self.number].store(published, Ordering::Relaxed);
        self.hear_all(shared);
        while !shared.over() && !shared.dismissed.load(Ordering::Relaxed) {
            self.listen();
        }
        if !shared.over() {
            self.session.into_client().close(1000);
        }
        times
    }

    /// Hears what comes within a moment.
    fn listen(&mut self) {
        self.session.listen(Duration::from_millis(1));
        self.session.pushed().iter().for_each(|push| self.check(push));
    }

    /// Sends a command, which must succeed.
    fn ask(&mut self, shared: &Shared, method: &str, parameters: &Value) {
        let id = if shared.habits.in_pieces {
            let id = 1_000_000 + shared.rounds[self.number].load(Ordering::Relaxed);
            let bytes =
                frame(FIN | TEXT, json!({"id": id, method: parameters}).to_string().as_bytes());
            let (first, second) = bytes.split_at(bytes.len() / 2);
            self.session.client().send(first);
            // If both come in one read, this round shows less than others.
            std::thread::sleep(PAUSE);
            self.session.client().send(second);
            id
        } else {
            self.session.command(method, parameters)
        };
        let reply = self.session.reply(id);
        assert!(reply.get(method).is_some(), "{method} of a witness: {reply}");
    }

    fn check(&mut self, push: &Value) {
        let data = &push["pub"]["data"];
        let (Some(who), Some(number)) = (data["witness"].as_u64(), data["number"].as_u64()) else {
            panic!("unexpected: {push}");
        };
        let seen = &mut self.seen[who as usize];
        assert_eq!(number, *seen + 1, "publications of witness {who}, heard by {}", self.number);
        *seen = number;
    }

    /// Waits until all that was published has come.
    fn hear_all(&mut self, shared: &Shared) {
        let total = |at: usize| shared.totals[at].load(Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        let all = self.seen.len();
        // A total that is not known yet is more than anybody has seen.
        while (0..all).any(|at| self.seen[at] < total(at)) && !shared.over() {
            assert!(Instant::now() < deadline, "the publications of a witness do not come");
            self.listen();
        }
    }
}

/// The operator and the newcomers, one after the other, until told to stop.
pub(crate) fn visit(gateway: &Gateway, shared: &Shared) -> Times {
    let _alarm = Alarm(shared);
    let mut times = Times::default();
    while !shared.stop.load(Ordering::Relaxed) {
        let phase = shared.phase.load(Ordering::Relaxed) as usize;
        let start = Instant::now();
        if shared.habits.operator {
            gateway.api("info", json!({}));
            let status = health(gateway);
            assert_eq!(status, 200, "health as an operator sees it");
        }
        if shared.habits.newcomers {
            let mut session = gateway.connected("newcomer");
            session.subscribe("witness:newcomers");
            let client: Client = session.into_client();
            client.close(1000);
        }
        times[phase].push(start.elapsed());
        shared.visits.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(5 * PAUSE);
    }
    times
}

/// The status of `/health`.
pub(crate) fn health(gateway: &Gateway) -> u16 {
    let request = crate::support::stream::request("GET", "/health", &["Connection: close"], b"");
    crate::support::stream::Stream::open(gateway.address(), &request).status
}
