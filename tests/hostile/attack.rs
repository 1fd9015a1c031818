//! One attack, and the fight: the attacker's script runs beside witnesses; then everything that
//! must hold is looked at. Nothing here asserts a time or a speed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use super::field::{ATTACKED, Field, connected_somewhere};
use super::vitals::{self, Metrics};
use super::witness::{Alarm, Habits, Shared, Times, Witness, visit};
use super::{backend, measure};
use crate::support::PATIENCE;
use crate::support::deflate::OFFER;
use crate::support::gateway::Gateway;

/// What all servers here are configured with.
const CONFIG: &str = r#"
[http_server]
port = 0
{http_server}
[http_api]
key = "api key of the tests"
[engine]
workers = 2
tick = "10ms"
close_timeout = "200ms"
max_connections = {connections}
{engine}
[client.token]
hmac_secret_key = "secret of the tests"
[prometheus]
enabled = true
[health]
enabled = true
[[channel.namespaces]]
name = "witness"
allow_subscribe_for_client = true
allow_publish_for_client = true
{tables}
"#;

/// Witnesses on each core.
const EACH: usize = 2;

/// Rounds of each witness before, and after the attack.
const ROUNDS: u64 = 5;

/// What must be true of a counter after the attack.
#[derive(Clone, Copy)]
pub(crate) enum After {
    /// It has risen by at least so much.
    Counted(&'static str, u64),
    /// It has not risen.
    Never(&'static str),
}

/// One attack.
#[derive(Clone, Copy)]
pub(crate) struct Attack {
    /// `engine.max_connections`.
    pub(crate) connections: usize,
    /// Keys of `[http_server]`, `[engine]`, and other tables; `{backend}` is where a backend is.
    pub(crate) http_server: &'static str,
    pub(crate) engine: &'static str,
    pub(crate) tables: &'static str,
    pub(crate) habits: Habits,
    /// What the attacker does.
    pub(crate) script: fn(&Field<'_>),
    pub(crate) after: &'static [After],
    /// MiB that the process may grow at most, at any time.
    pub(crate) growth: u64,
}

impl Attack {
    /// A script beside witnesses with all habits but the backend's.
    pub(crate) const fn new(script: fn(&Field<'_>)) -> Self {
        let habits = Habits::ORDINARY;
        let (http_server, engine, tables) = ("", "", "");
        let connections = 4096;
        Self { connections, http_server, engine, tables, habits, script, after: &[], growth: 32 }
    }
}

impl Attack {
    /// The whole configuration, with a backend where one is needed. `small`: of a server that
    /// promises to stay small.
    pub(crate) fn config(&self, small: bool) -> String {
        let connections = self.connections.to_string();
        let (mut http_server, mut engine) = (self.http_server.to_owned(), self.engine.to_owned());
        let mut tables = self.tables.to_owned();
        if small {
            measure::shrink(&mut http_server, &mut engine, &mut tables);
        }
        let mut config = CONFIG.to_owned();
        for (mark, text) in [
            ("{http_server}", &http_server),
            ("{engine}", &engine),
            ("{connections}", &connections),
            ("{tables}", &tables),
        ] {
            config = config.replace(mark, text);
        }
        if config.contains("{backend}") {
            config = config.replace("{backend}", &format!("http://{}", backend::start()));
        }
        config
    }
}

/// What a fight has shown, in figures. The three phases are: quiet, attack, and after it.
pub(crate) struct Report {
    pub(crate) beside: Times,
    pub(crate) elsewhere: Times,
    pub(crate) visits: Times,
    /// Of witnesses at a second server that nobody attacks.
    pub(crate) control: Times,
    pub(crate) sent: u64,
    pub(crate) processor: Duration,
    /// Of the attack's time, what each core ran, and what it was ready to run and did not.
    pub(crate) cores: [(f64, f64); 2],
    pub(crate) before: u64,
    pub(crate) peak: u64,
    pub(crate) ceiling: Option<u64>,
    pub(crate) killed: u64,
}

/// Starts a server, has the attack done to it, and asserts what must hold.
pub(crate) fn fight(attack: &Attack, time: Option<Duration>) -> Report {
    let gateway = Gateway::start_whole(&attack.config(time.is_some()));
    let empty = Metrics::of(&gateway);
    let (witnesses, beside) = seat(&gateway, attack.habits.compressed);
    let shared = Shared::new(attack.habits, witnesses.len());
    let shared = &shared;
    let mut control = time.map(|_| Control::start());
    let absent = control.as_mut().map(|control| std::mem::take(&mut control.witnesses));
    let elsewhere = control.as_ref();
    let enter = |phase: u64| {
        shared.phase.store(phase, Ordering::Relaxed);
        elsewhere.inspect(|it| it.shared.phase.store(phase, Ordering::Relaxed));
    };
    let id = gateway.id();
    elsewhere.inspect(|it| [id, it.gateway.id()].into_iter().for_each(measure::put_first));
    let ceiling = time.and_then(|_| vitals::ceiling(&gateway));
    let group = time.and_then(|_| measure::group(id, ceiling));

    let mut report = std::thread::scope(|scope| {
        // Ends the witnesses when anything here fails.
        let alarms = (Alarm(shared), elsewhere.map(|it| Alarm(&it.shared)));
        let threads: Vec<_> = witnesses
            .into_iter()
            .map(|witness| scope.spawn(move || witness.testify(shared)))
            .collect();
        let absent = absent.into_iter().zip(elsewhere).flat_map(|(witnesses, elsewhere)| {
            let testify = |witness: Witness| scope.spawn(|| witness.testify(&elsewhere.shared));
            witnesses.into_iter().map(testify)
        });
        let absent: Vec<_> = absent.collect();
        let seated = Metrics::of(&gateway);
        let visitor = (attack.habits.operator || attack.habits.newcomers)
            .then(|| scope.spawn(|| visit(&gateway, shared)));
        shared.wait_rounds(ROUNDS);
        let quiet = measure::rest(time, id);

        let before = vitals::resident(id);
        vitals::forget_peak(id);
        let sent = Arc::new(AtomicU64::new(0));
        enter(1);
        let (start, spent) = (Instant::now(), vitals::processor_time(id));
        let cores = vitals::cores(id);
        let until = time.map(|time| start + time);
        let field = Field { gateway: &gateway, shared, until, sent: sent.clone() };
        let attacker = scope.spawn(move || {
            if time.is_some() {
                measure::stand_back();
            }
            (attack.script)(&field);
        });
        joined(attacker, "an attacker");
        let spent = vitals::processor_time(id) - spent;
        let cores = vitals::parts(&cores, &vitals::cores(id), start.elapsed());
        let processor = spent.saturating_sub(quiet.mul_f64(start.elapsed().as_secs_f64()));
        enter(2);
        // The witnesses are still there, and served.
        shared.wait_rounds(ROUNDS);
        shared.stop.store(true, Ordering::Relaxed);
        let visits = visitor.map_or_else(Times::default, |thread| joined(thread, "a visitor"));
        let mut control = Times::default();
        elsewhere.inspect(|it| it.shared.stop.store(true, Ordering::Relaxed));
        elsewhere.inspect(|it| it.shared.dismissed.store(true, Ordering::Relaxed));
        for thread in absent {
            let mut its = joined(thread, "a witness elsewhere");
            control.iter_mut().zip(&mut its).for_each(|(all, its)| all.append(its));
        }
        settled(&gateway, &seated);
        shared.dismissed.store(true, Ordering::Relaxed);
        let mut times = [Times::default(), Times::default()];
        for (thread, beside) in threads.into_iter().zip(&beside) {
            let mut its = joined(thread, "a witness");
            for (all, its) in times[usize::from(!beside)].iter_mut().zip(&mut its) {
                all.append(its);
            }
        }
        drop(alarms);
        let [beside, elsewhere] = times;
        let sent = sent.load(Ordering::Relaxed);
        let peak = vitals::peak(id);
        let killed = 0;
        Report {
            beside,
            elsewhere,
            visits,
            control,
            sent,
            processor,
            cores,
            before,
            peak,
            ceiling,
            killed,
        }
    });

    if time.is_none() {
        let grown = report.peak.saturating_sub(report.before) >> 20;
        println!("grew by {grown} MiB of {}, {} KiB sent", attack.growth, report.sent >> 10);
    }
    report.killed = group.map_or(0, |group| group.killed());
    let end = settled(&gateway, &empty);
    judge(attack, &report, &end, &empty, time.is_some());
    gateway.stop();
    control.into_iter().for_each(|control| control.gateway.stop());
    report
}

/// A server that nobody attacks, on the same machine at the same time: what its witnesses wait is
/// the machine's doing.
struct Control {
    gateway: Gateway,
    shared: Shared,
    witnesses: Vec<Witness>,
}

impl Control {
    fn start() -> Self {
        let idle = Attack::new(|_| {});
        let gateway = Gateway::start_whole(&idle.config(true));
        let all = 2 * EACH;
        let sit =
            |number| Witness::new(gateway.connected(&format!("witness-{number}")), number, all);
        let witnesses = (0..all).map(sit).collect();
        Self { gateway, shared: Shared::new(idle.habits, all), witnesses }
    }
}

/// Connects witnesses, some on each core. Says of each whether the attack is on its core.
fn seat(gateway: &Gateway, compressed: bool) -> (Vec<Witness>, Vec<bool>) {
    let mut seats: [Vec<_>; 2] = [Vec::new(), Vec::new()];
    let mut surplus = Vec::new();
    // The first of each core has what is offered.
    let offers = |seats: &[Vec<_>; 2]| match compressed && seats.iter().any(Vec::is_empty) {
        true => &[OFFER][..],
        false => &[],
    };
    for number in 0..64 {
        if seats.iter().all(|seats| seats.len() == EACH) {
            break;
        }
        let lines = offers(&seats);
        let (mut session, core) = connected_somewhere(gateway, &format!("witness-{number}"), lines);
        assert_eq!(session.client().deflates(), !lines.is_empty());
        if seats[core].len() < if lines.is_empty() { EACH } else { 1 } {
            seats[core].push(session);
        } else {
            surplus.push(session);
        }
    }
    surplus.into_iter().for_each(|session| session.into_client().close(1000));
    let beside = (0..2 * EACH).map(|number| (number < EACH) == (ATTACKED == 0)).collect();
    let sessions = seats.into_iter().flatten().enumerate();
    let all: Vec<_> =
        sessions.map(|(number, session)| Witness::new(session, number, 2 * EACH)).collect();
    assert_eq!(all.len(), 2 * EACH, "the kernel gives one core no connections");
    (all, beside)
}

/// What a thread returns; if it has panicked, says so in its words.
fn joined<T>(thread: ScopedJoinHandle<'_, T>, who: &str) -> T {
    thread.join().unwrap_or_else(|panic| panic!("{who}: {}", words(&*panic)))
}

/// The words of a panic.
pub(crate) fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Waits until no gauge is above what it was.
fn settled(gateway: &Gateway, before: &Metrics) -> Metrics {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = Metrics::of(gateway);
        let above = now.above(before);
        if above.is_empty() {
            return now;
        }
        assert!(Instant::now() < deadline, "what the attackers left behind: {above:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asserts what must hold of memory and counters. Counts and growth are those of the quick form's
/// rounds; in the measured one, attackers do as much as they get to, and the ceiling is the bound.
fn judge(attack: &Attack, report: &Report, end: &Metrics, start: &Metrics, measured: bool) {
    let risen = || end.risen(start);
    assert_eq!(end.get("panics_total"), 0, "panics");
    for after in attack.after {
        let rise = |name: &str| end.get(name) - start.get(name);
        match after {
            After::Counted(name, least) => {
                let least = if measured { &1 } else { least };
                assert!(rise(name) >= *least, "{name} rose by {}; {}", rise(name), risen());
            }
            After::Never(name) => {
                assert_eq!(rise(name), 0, "{name}; {}", risen());
            }
        }
    }
    assert_eq!(report.killed, 0, "the kernel ended the server for want of memory");
    if measured {
        return;
    }
    let growth = report.peak.saturating_sub(report.before) >> 20;
    let mib = |bytes: u64| bytes >> 20;
    assert!(
        growth <= attack.growth,
        "memory: {} MiB before, {} MiB at most, {} MiB of growth allowed, {} KiB sent; {}",
        mib(report.before),
        mib(report.peak),
        attack.growth,
        report.sent >> 10,
        risen()
    );
}
