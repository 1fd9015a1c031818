//! What a seed decides before anything runs: the server's configuration, how cruel the kernel is,
//! who comes.

use std::cell::Cell;
use std::time::Duration;

use ringhold::internals::rng::Rng;
use ringhold::tls::{Limits, Role};
use ringhold::{CloseCode, Compression, Config, Drain, Heartbeat, Policy, RatePolicy};

use super::introduction;
use super::kernel;
use super::session::Session;

/// How the kernel and the host behave.
#[derive(Clone, Copy, Debug)]
pub struct Chaos {
    /// One in so many operations fails where it may; 0: none.
    pub odds: u32,
    /// How late completions are, at most.
    pub delay_us: u32,
    /// One in so many turns the host stalls; 0: never.
    pub stall: u32,
    /// Sends that were taken whole are silent, so the wait goes on.
    pub silent: bool,
    /// Whether it says what a peer has not acknowledged (Linux 6.7).
    pub tells: bool,
    /// When the clock begins.
    pub start_ns: u64,
    /// What the way to a client holds.
    pub room: usize,
    /// Completions that a core's queue holds.
    pub queue: usize,
    /// The kernel gives one listener more connections than the others.
    pub skewed: bool,
    /// The first core gets less of a processor than the others.
    pub lagging: bool,
    /// Longest time between two readings of the clock in a turn, in microseconds.
    pub slow_us: u32,
}

#[derive(Clone, Debug)]
pub struct Plan {
    /// Without faults and limits: whoever behaves has to get everything.
    pub calm: bool,
    pub config: Config,
    pub workers: usize,
    pub table: u32,
    pub lanes: u32,
    pub chaos: Chaos,
    pub peers: usize,
    /// After how long the server is told to go away, and after how long it is told again.
    pub end_ns: u64,
    pub insist_ns: Option<u64>,
    /// Whether applications may stop their cores.
    pub quits: bool,
    pub drain: Drain,
    /// Which clients offer compression, as bits.
    offers: u64,
    /// With what connections speak TLS, where they do.
    pub tls: Option<Tls>,
}

/// What is particular to a run over TLS.
#[derive(Clone, Copy, Debug)]
pub struct Tls {
    pub seed: u64,
    pub limits: Limits,
}

impl Plan {
    /// The window, in bits, that a client offers compression with.
    pub fn offer(&self, peer: usize) -> Option<u8> {
        let offers = self.offers >> (peer % 64) & 1 == 1;
        offers.then_some([15, 9, 15, 12, 15, 8, 15, 10][peer * 7 % 8])
    }

    /// The TLS of a client; some come without.
    pub fn session(&self, index: usize) -> Option<Session> {
        let mut rng = Rng::new(self.tls?.seed ^ (index as u64) << 32);
        let clear = rng.one_in(12) && !self.calm;
        (!clear).then(|| Session::new(Role::Client, self.calm, &mut rng))
    }
}

pub fn draw(rng: &mut Rng) -> Plan {
    let calm = rng.one_in(4);
    let peers = 10 + rng.below(70) as usize;
    let mut chaos = Chaos {
        odds: if calm { 0 } else { pick(rng, &[0, 4, 15, 60, 300]) },
        delay_us: pick(rng, &[0, 20, 1000, 50_000]),
        stall: if calm { 0 } else { pick(rng, &[0, 0, 100, 1000]) },
        silent: rng.one_in(2),
        tells: !rng.one_in(4),
        start_ns: 0,
        room: pick(rng, &[600, 4096, 20_000, 200_000]) as usize,
        queue: pick(rng, &[1, 3, 12, 1 << 20]) as usize,
        skewed: rng.one_in(3),
        lagging: rng.one_in(4),
        slow_us: 0,
    };
    let workers = pick(rng, &[1, 2, 2, 3, 4]) as usize;
    let mut config = Config { accept_rate: pick(rng, &[0, 0, 20, 200]), ..times(rng) };
    chaos.start_ns = kernel::start(rng, config.tick.as_nanos() as u64);
    config.max_connections = if calm { 1000 } else { pick(rng, &[3, 10, 40, 200]) };
    config.proxies = introduction::proxies(rng, calm);
    config.reserve = rng.below(6);
    config.pause_reads = rng.one_in(2);
    config.max_message = pick(rng, &[1000, 70_000, 300_000]) as usize;
    config.max_fragments = 4 + rng.below(60);
    config.max_outbox = pick(rng, &[1024, 8192, 100_000]) as usize;
    config.outbox_policy =
        [Policy::CloseSlow, Policy::DropNewest, Policy::DropOldest, Policy::Conflate]
            [rng.below(4) as usize];
    config.slow_close = (CloseCode(pick(rng, &[1008, 4008]) as u16), "slow");
    config.after_burst = Some(|| BURSTS.set(BURSTS.get() + 1));
    config.mailbox = pick(rng, &[1, 3, 20, 1000]) as usize;
    config.mailbox_bytes = pick(rng, &[1, 500, 1 << 30]) as usize;
    config.turn_letters = pick(rng, &[1, 3, 1000]);
    config.turn_sends = pick(rng, &[1, 1000, 50_000, 2 << 20]) as usize;
    if calm {
        config.mailbox = 1 << 20;
        config.mailbox_bytes = 1 << 30;
        config.max_outbox = 1 << 30;
        config.max_message = 300_000;
        config.heartbeat.enabled = false;
        config.idle_timeout = Duration::ZERO;
        config.handshake_timeout = Duration::from_secs(600);
        config.write_timeout = Duration::from_secs(600);
        config.min_read_rate = 0;
        config.close_timeout = Duration::from_secs(600);
        config.min_upload_rate = 0;
    } else {
        limits(rng, &mut config);
    }
    let table = match calm {
        true => 200,
        false => (config.max_connections + config.reserve).min(4 + rng.below(60)),
    };
    let deadline = pick(rng, &[0, 300, 3000, 20_000]);
    let window = rng.below(deadline + 1);
    let drain = Drain {
        window: Duration::from_millis(u64::from(window)),
        deadline: Duration::from_millis(u64::from(deadline)),
        ..Drain::default()
    };
    config.drain = drain.clone();
    assert_eq!(config.check(), Ok(()));
    let lanes = 1 + rng.below(8);
    let end_ns = match calm {
        true => CALM_NS,
        false => u64::from(1 + rng.below(30)) * 1_000_000_000,
    };
    let insist_ns = rng.one_in(3).then(|| u64::from(rng.below(deadline + 1)) * 1_000_000);
    let quits = !calm && rng.one_in(4);
    chaos.slow_us = pick(rng, &[0, 0, 0, 0, 0, 300, 3000]);
    config.compression = rng.one_in(2).then(|| Compression {
        level: 1 + rng.below(9) as u8,
        min_size: pick(rng, &[0, 1, 50, 256]) as usize,
        max_size: pick(rng, &[100, 5000, 1 << 20, 1 << 20]) as usize,
        max_inflated: 0,
    });
    let offers = rng.draw();
    let tls = secure(rng, calm, &mut config);
    Plan {
        calm,
        config,
        workers,
        table,
        lanes,
        chaos,
        peers,
        end_ns,
        insist_ns,
        quits,
        drain,
        offers,
        tls,
    }
}

/// Draws from a sequence of its own, so that whatever else is drawn stays: a run over TLS is that
/// in the clear otherwise.
fn secure(rng: &Rng, calm: bool, config: &mut Config) -> Option<Tls> {
    let mut rng = Rng::new(rng.clone().draw() ^ 0x715);
    rng.draw();
    if !rng.one_in(3) {
        return None;
    }
    let per_key = pick(&mut rng, &[1, 3, 100, 1 << 23]);
    let limits = Limits { records_per_key: per_key.into(), ..Limits::default() };
    if !calm {
        // Less would be too little for any handshake.
        let inbound = pick(&mut rng, &[20_000, 200_000, 1 << 30]) as usize;
        config.max_inbound = config.max_inbound.max(inbound);
        config.max_tls_handshakes = pick(&mut rng, &[1, 2, 10, 4096]) as usize;
    }
    Some(Tls { seed: rng.draw(), limits })
}

fn times(rng: &mut Rng) -> Config {
    let ms = |ms: u32| Duration::from_millis(u64::from(ms));
    let tick = pick(rng, &[1, 10, 100]);
    let floor = tick + rng.below(500);
    let start = floor + rng.below(1000);
    let suspect = 1 + rng.below(1000);
    let probe = suspect + rng.below(1000);
    Config {
        tick: ms(tick),
        heartbeat: Heartbeat {
            enabled: !rng.one_in(4),
            start: ms(start),
            floor: ms(floor),
            ceiling: ms(start + rng.below(1000)),
            suspect: ms(suspect),
            probe: ms(probe),
            dead: ms(probe + rng.below(2000)),
            steady: rng.one_in(3),
            close: rng.one_in(2).then_some((CloseCode::GOING_AWAY, "no pong")),
        },
        handshake_timeout: ms(pick(rng, &[200, 1000, 5000])),
        idle_timeout: ms(pick(rng, &[0, 0, 500, 3000])),
        write_timeout: ms(pick(rng, &[300, 2000, 10_000])),
        min_read_rate: pick(rng, &[0, 50, 500, 5000]),
        read_window: ms(pick(rng, &[500, 3000, 10_000])),
        close_timeout: ms(pick(rng, &[100, 1000, 5000])),
        ..Config::default()
    }
}

fn limits(rng: &mut Rng, config: &mut Config) {
    config.max_per_address = pick(rng, &[0, 0, 2, 10]);
    config.message_rate = pick(rng, &[0, 0, 0, 10, 100]);
    config.byte_rate = pick(rng, &[0, 0, 0, 5000, 100_000]);
    config.rate_policy = [RatePolicy::Close, RatePolicy::Pause][rng.below(2) as usize];
    config.max_inbound = pick(rng, &[500, 10_000, 200_000, 1 << 30]) as usize;
    config.max_outboxes = pick(rng, &[2000, 50_000, 1 << 30]) as usize;
    config.min_upload_rate = pick(rng, &[0, 10, 1000, 1_000_000]);
    config.upload_grace = Duration::from_millis(u64::from(pick(rng, &[1000, 3000, 30_000])));
    config.max_head = pick(rng, &[256, 1024, 8192]) as usize;
    if rng.one_in(3) {
        config.origins = vec![introduction::GOOD.to_owned()];
    }
}

pub fn pick(rng: &mut Rng, from: &[u32]) -> u32 {
    from[rng.below(from.len() as u32) as usize]
}

thread_local! {
    /// How often the engine said that a burst is over.
    pub static BURSTS: Cell<u64> = const { Cell::new(0) };
}

/// Long enough for everybody to get everything when nothing fails.
const CALM_NS: u64 = 400_000_000_000;
