//! The measured form: how long the others waited, what a byte of the attacker costs the server, and
//! its memory against the ceiling that it prints.
//!
//! Server, attackers and witnesses share the machine's processors, perhaps with others. What the
//! server does is told apart from what the machine does: attackers run at the lowest priority and
//! servers, where that is allowed, before all others; at the same time as many witnesses talk to a
//! second server, which nobody attacks, and what these wait more than in quiet times is the
//! machine's delay; of the rest, the attacked core's part is the one in which its thread ran, as
//! the kernel says, not that in which it waited for a processor. The verdict is about that part. On
//! an idle machine it is all.

use std::time::{Duration, Instant};

use super::attack::{Report, fight, words};
use super::vitals::{self, Group};
use super::witness::Times;
use super::{ATTACKS, PENDING};

/// How long each attack is measured. `HOSTILE_SECONDS` is another time.
const SECONDS: u64 = 5;

/// The others' p99 may be this, or twice what it is without attackers.
const LATE: Duration = Duration::from_millis(5);

/// A server that promises to stay small, so that its ceiling proves something: as docs/limits.md
/// has it. By table, with its keys.
const SMALL: [(&str, &[&str]); 3] = [
    ("client", &["max_session_memory = \"32MiB\""]),
    (
        "engine",
        &[
            "max_inbound = \"16MiB\"",
            "max_outboxes = \"16MiB\"",
            "mailbox_bytes = \"8MiB\"",
            "max_history = \"16MiB\"",
            "max_filters = \"4MiB\"",
        ],
    ),
    ("http_server", &["http_connections = 128", "http_anonymous = 64", "http_bodies = \"32MiB\""]),
];

/// Adds to a configuration what makes a server small and is not in it.
pub(crate) fn shrink(http_server: &mut String, engine: &mut String, tables: &mut String) {
    let absent = |keys: &[&str], text: &str| {
        let name = |line: &str| line.split(" =").next().unwrap_or_default().trim().to_owned();
        let there: Vec<String> = text.lines().map(name).collect();
        let absent = keys.iter().filter(|key| !there.contains(&name(key)));
        absent.fold(String::new(), |all, key| all + "\n" + key)
    };
    for (table, keys) in SMALL {
        match table {
            "engine" => *engine += &absent(keys, engine),
            "http_server" => *http_server += &absent(keys, http_server),
            _ => {
                let head = format!("[{table}]\n");
                if !tables.contains(&head) {
                    tables.push_str(&format!("\n{head}"));
                }
                *tables = tables.replace(&head, &format!("{head}{}\n", keys.join("\n")));
            }
        }
    }
}

/// Without attackers, for so long before: returns the processor time that a second costs.
pub(crate) fn rest(time: Option<Duration>, id: u32) -> Duration {
    let Some(time) = time else { return Duration::ZERO };
    let (start, spent) = (Instant::now(), vitals::processor_time(id));
    std::thread::sleep(time);
    (vitals::processor_time(id) - spent).div_f64(start.elapsed().as_secs_f64())
}

/// This thread, and those that it starts, run when nobody else wants to.
pub(crate) fn stand_back() {
    // Of a thread, not of the process, on Linux.
    let _ = rustix::process::setpriority_process(None, 19);
}

/// This thread runs as others do again. Without privileges it stays where it is.
pub(crate) fn step_up() {
    let _ = rustix::process::setpriority_process(None, 0);
}

/// The threads of a server run before those of its clients, which have processors of their own
/// elsewhere. Without privileges they stay where they are.
pub(crate) fn put_first(id: u32) {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let threads = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    for thread in threads.filter_map(rustix::process::Pid::from_raw) {
        // Of a thread, not of the process, on Linux.
        let _ = rustix::process::setpriority_process(Some(thread), -10);
    }
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

/// The table. Fails if an attack does harm, or somebody waits too long, or memory is above the
/// ceiling.
#[test]
#[ignore = "measures time: run it alone, on a release build"]
fn measure() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(number("HOSTILE_SECONDS").unwrap_or(SECONDS));
    let only = std::env::var("HOSTILE_ONLY").unwrap_or_default();
    crate::support::raise_open_files();
    println!(
        "Times in ms. On the attacked core: p99 in quiet times, and p50/p99/max under attack. Idle \
         server: p99 in quiet times > under attack. Server: the worse p99 of both cores, without \
         the machine's part, of what is allowed. Cores: what each ran + waited to run. Memory in \
         MiB: before, peak, ceiling.\n"
    );
    println!(
        "| attack | quiet | attacked core | other core | visitors | idle server | server | cores | \
         sent MiB | ns/byte | memory | verdict |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut failed: Vec<&str> = Vec::new();
    for (name, attack) in ATTACKS.iter().filter(|(name, _)| name.contains(&only)) {
        let pending = PENDING.iter().any(|(pending, _)| pending == name);
        let good = match std::panic::catch_unwind(|| fight(attack, Some(time))) {
            Ok(report) => row(name, &report),
            Err(panic) => {
                let harm = words(&*panic).replace('\n', " ");
                println!("| {name} | | | | | | | | | | | HARM: {harm} |");
                false
            }
        };
        failed.extend((!good && !pending).then_some(name));
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// Prints the row of an attack, and returns whether all is good.
fn row(name: &str, report: &Report) -> bool {
    let memory = match report.ceiling {
        Some(ceiling) => ceiling >> 20,
        None => 0,
    };
    let per_byte = report.processor.as_nanos().checked_div(u128::from(report.sent)).unwrap_or(0);
    let p99 = |times: &Times, phase: usize| quantile(&times[phase], 99);
    let control = &report.control;
    let machine = p99(control, 1).saturating_sub(p99(control, 0));
    let (own, allowed) = [&report.beside, &report.elsewhere]
        .into_iter()
        .zip(report.cores)
        .map(|(times, (ran, waited))| {
            let share = if ran > 0.0 { ran / (ran + waited) } else { 1.0 };
            let own = p99(times, 1).saturating_sub(machine).mul_f64(share);
            (own, LATE.max(2 * p99(times, 0)))
        })
        .max_by_key(|(own, allowed)| (own.saturating_sub(*allowed), *own))
        .unwrap_or_default();
    let late = own > allowed;
    let above = report.ceiling.is_some_and(|ceiling| report.peak > ceiling);
    let verdict = match (late, above) {
        (false, false) => "good",
        (true, false) => "LATE",
        (false, true) => "MEMORY",
        (true, true) => "LATE, MEMORY",
    };
    let percent = |part: f64| 100.0 * part;
    let cores = report
        .cores
        .map(|(ran, waited)| format!("{:.0}+{:.0}", percent(ran), percent(waited)))
        .join(", ");
    println!(
        "| {name} | {} | {} | {} | {} | {} > {} | {} of {} | {cores} | {} | {per_byte} \
         | {}, {}, {memory} | {verdict} |",
        ms(p99(&report.beside, 0)),
        figures(&report.beside[1]),
        figures(&report.elsewhere[1]),
        figures(&report.visits[1]),
        ms(p99(control, 0)),
        ms(p99(control, 1)),
        ms(own),
        ms(allowed),
        report.sent >> 20,
        report.before >> 20,
        report.peak >> 20,
    );
    !(late || above)
}

fn quantile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default()
}

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

fn figures(times: &[Duration]) -> String {
    [50, 99, 100].map(|percent| ms(quantile(times, percent))).join("/")
}
