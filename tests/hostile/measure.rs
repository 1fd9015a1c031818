//! The measured form: how long the others waited, what a byte of the attacker costs the server, and
//! its memory against the ceiling that it prints.

use std::time::{Duration, Instant};

use super::attack::{Report, fight, words};
use super::vitals::{self, Group};
use super::{ATTACKS, PENDING};

/// How long each attack is measured. `HOSTILE_SECONDS` is another time.
const SECONDS: u64 = 5;

/// Without attackers, for so long before: returns the processor time that a second costs.
pub(crate) fn rest(time: Option<Duration>, id: u32) -> Duration {
    let Some(time) = time else { return Duration::ZERO };
    let (start, spent) = (Instant::now(), vitals::processor_time(id));
    std::thread::sleep(time);
    (vitals::processor_time(id) - spent).div_f64(start.elapsed().as_secs_f64())
}

/// With `HOSTILE_CGROUP`, a group of processes for the server: its ceiling and a tenth.
pub(crate) fn group(id: u32, ceiling: Option<u64>) -> Option<Group> {
    std::env::var_os("HOSTILE_CGROUP")?;
    let ceiling = ceiling.or_else(|| {
        println!("no ceiling is printed: no group");
        None
    })?;
    let group = Group::hold(id, ceiling + ceiling / 10);
    assert!(group.is_some(), "HOSTILE_CGROUP: no group can be made here");
    group
}

/// The table.
#[test]
#[ignore = "measures time: run it alone, on a release build"]
fn measure() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(number("HOSTILE_SECONDS").unwrap_or(SECONDS));
    let only = std::env::var("HOSTILE_ONLY").unwrap_or_default();
    crate::support::raise_open_files();
    println!("times in ms: p50/p99/max of the witnesses' answers, quiet > under attack");
    println!(
        "{:<44} {:>29} {:>29} {:>29} {:>9} {:>8} {:>17}  outcome",
        "attack",
        "on its core",
        "on the other",
        "visitors",
        "sent MiB",
        "ns/byte",
        "peak/ceiling MiB"
    );
    let mut failed: Vec<&str> = Vec::new();
    for (name, attack) in ATTACKS.iter().filter(|(name, _)| name.contains(&only)) {
        let pending = PENDING.iter().any(|(pending, _)| pending == name);
        match std::panic::catch_unwind(|| fight(attack, Some(time))) {
            Ok(report) => row(name, &report),
            Err(panic) => {
                let first = words(&*panic);
                println!("{name:<44} {}{first}", if pending { "pending: " } else { "" });
                failed.extend((!pending).then_some(name));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

fn row(name: &str, report: &Report) {
    let peak = report.peak >> 20;
    let memory = match report.ceiling {
        Some(ceiling) => format!("{peak}/{}", ceiling >> 20),
        None => format!("{peak}/-"),
    };
    let per_byte = report.processor.as_nanos().checked_div(u128::from(report.sent)).unwrap_or(0);
    let [beside, elsewhere, visits] = [&report.beside, &report.elsewhere, &report.visits]
        .map(|times| format!("{} > {}", figures(&times[0]), figures(&times[1])));
    println!(
        "{name:<44} {beside:>29} {elsewhere:>29} {visits:>29} {:>9} {per_byte:>8} {memory:>17}  {}",
        report.sent >> 20,
        verdict(report)
    );
}

/// The others' p99 may be 5 ms, or twice what it is without attackers.
fn verdict(report: &Report) -> &'static str {
    let bad = [&report.beside, &report.elsewhere].iter().any(|times| {
        let bound = (2 * quantile(&times[0], 99)).max(Duration::from_millis(5));
        quantile(&times[1], 99) > bound
    });
    let above = report.ceiling.is_some_and(|ceiling| report.peak > ceiling);
    match (bad, above) {
        (false, false) => "good",
        (true, false) => "LATE",
        (false, true) => "MEMORY",
        (true, true) => "LATE, MEMORY",
    }
}

fn quantile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default()
}

fn figures(times: &[Duration]) -> String {
    let ms = |percent| format!("{:.1}", quantile(times, percent).as_secs_f64() * 1000.0);
    format!("{}/{}/{}", ms(50), ms(99), ms(100))
}
