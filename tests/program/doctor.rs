//! `ringhold doctor` on fake hosts.
//!
//! A healthy tree is changed in one place at a time, and exactly the check that looks there must
//! change its verdict and name the line that mends it. Beyond that: exit statuses, both outputs to
//! the letter, and that the files below tuning/ are what the checks speak of.

mod tree;

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use tree::{Tree, doctor, finding, settings, tuning};

const MILLION: [&str; 2] = ["--connections", "1000000"];
const PROFILES: [&str; 3] = ["density", "throughput", "latency"];

/// A host that falls short in one thing.
struct Case {
    check: &'static str,
    change: fn(&mut Tree),
    arguments: &'static [&'static str],
    verdict: &'static str,
    /// The first line that mends it; empty: there is none.
    mend: &'static str,
}

const fn case(
    check: &'static str,
    change: fn(&mut Tree),
    verdict: &'static str,
    mend: &'static str,
) -> Case {
    Case { check, change, arguments: &["--connections", "1000000"], verdict, mend }
}

const fn case_of(
    check: &'static str,
    change: fn(&mut Tree),
    arguments: &'static [&'static str],
    verdict: &'static str,
    mend: &'static str,
) -> Case {
    Case { check, change, arguments, verdict, mend }
}

const SHORT: &str = "falls_short";
const BETTER: &str = "could_be_better";
const OK: &str = "ok";
const LATENCY: &[&str] = &["--connections", "1000000", "--profile", "latency"];
const THROUGHPUT: &[&str] = &["--connections", "100000", "--profile", "throughput"];
const SERVICE: &str = "sys/fs/cgroup/system.slice/ringhold.service";

fn limits(tree: &mut Tree, from: &str, to: &str) {
    tree.edit("proc/self/limits", from, to);
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    vec![
        case("kernel", |t| { t.sysctl("kernel.osrelease", "5.15.0-91-generic"); }, SHORT, ""),
        case("kernel", |t| { t.sysctl("kernel.osrelease", "6.1.0"); }, OK, ""),
        case("io-uring", |t| { t.sysctl("kernel.io_uring_disabled", "2"); }, BETTER,
             "sysctl -w kernel.io_uring_disabled=0"),
        case("io-uring", |t| { t.sysctl("kernel.io_uring_disabled", "1"); }, BETTER,
             "sysctl -w kernel.io_uring_disabled=0"),
        case("open-files", |t| limits(t, "1048576 ", "20000   "), BETTER, "LimitNOFILE=500096"),
        case("open-files", |t| limits(t, "1048576 ", "100     "), SHORT, "LimitNOFILE=500096"),
        case_of("open-files", |t| limits(t, "1048576 ", "20000   "),
                &["--connections", "1000000", "--workers", "2"], SHORT, "LimitNOFILE=1000096"),
        case_of("open-files", |_| {}, &["--connections", "8000000", "--workers", "2"],
                SHORT, "--workers 9"),
        case("nr-open", |t| { t.sysctl("fs.nr_open", "100000"); }, BETTER,
             "sysctl -w fs.nr_open=500096"),
        case("nr-open", |t| {
            limits(t, "1048576 ", "100     ");
            t.sysctl("fs.nr_open", "1000");
        }, SHORT, "sysctl -w fs.nr_open=500096"),
        case("file-max", |t| { t.sysctl("fs.file-max", "1001000"); }, SHORT,
             "sysctl -w fs.file-max=9223372036854775807"),
        case("locked-memory", |t| limits(t, "8388608", "65536  "), SHORT, "LimitMEMLOCK=infinity"),
        case("memory", |t| { t.edit("proc/meminfo", "31457280", "4194304"); }, SHORT,
             "--max-connections 820000"),
        case_of("memory", |t| { t.edit("proc/meminfo", "31457280", "4194304"); },
                &["--connections", "1000000", "--user-bytes", "126"], SHORT,
                "--max-connections 870000"),
        case("cgroup-memory", |t| { t.file(&format!("{SERVICE}/memory.max"), "2147483648"); },
             SHORT, "MemoryMax=4954M"),
        case("cgroup-memory", |t| { t.file("sys/fs/cgroup/system.slice/memory.max", "5"); },
             SHORT, "MemoryMax=4954M"),
        case("cgroup-threads", |t| { t.file(&format!("{SERVICE}/pids.max"), "10"); }, SHORT,
             "TasksMax=28"),
        case("huge-pages", |t| {
            t.file("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never");
        }, BETTER, "Environment=MIMALLOC_ALLOW_THP=0"),
        case("tcp-memory", |t| { t.sysctl("net.ipv4.tcp_mem", "90000 120000 180000"); }, SHORT,
             "sysctl -w 'net.ipv4.tcp_mem=150000 200000 300000'"),
        case("tcp-memory", |t| { t.sysctl("net.ipv4.tcp_mem", "120000 160000 240000"); }, BETTER,
             "sysctl -w 'net.ipv4.tcp_mem=150000 200000 300000'"),
        case("tcp-buffers", |t| { t.sysctl("net.ipv4.tcp_wmem", "4096 4096 4194304"); }, BETTER,
             "sysctl -w 'net.ipv4.tcp_wmem=4096 16384 4194304'"),
        case_of("tcp-buffers", |t| { t.sysctl("net.ipv4.tcp_rmem", "4096 16384 65536"); },
                THROUGHPUT, BETTER, "sysctl -w 'net.ipv4.tcp_rmem=4096 16384 1048576'"),
        case_of("tcp-buffers", |t| { t.sysctl("net.ipv4.tcp_wmem", "4096 16384 65536"); },
                THROUGHPUT, BETTER, "sysctl -w 'net.ipv4.tcp_wmem=4096 16384 1048576'"),
        case("accept-queue", |t| { t.sysctl("net.core.somaxconn", "4096"); }, BETTER,
             "sysctl -w net.core.somaxconn=65535"),
        case("syn-queue", |t| { t.sysctl("net.ipv4.tcp_syncookies", "0"); }, BETTER,
             "sysctl -w net.ipv4.tcp_syncookies=1"),
        case("syn-queue", |t| { t.sysctl("net.ipv4.tcp_syncookies", "2"); }, BETTER,
             "sysctl -w net.ipv4.tcp_syncookies=1"),
        case("ports", |t| {
            t.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
            t.sysctl("net.ipv4.ip_local_reserved_ports", "2000-2004,3000");
        }, SHORT, "sysctl -w net.ipv4.ip_local_reserved_ports=2000-2004,3000,8000,9001"),
        case_of("ports", |t| {
            t.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
            t.sysctl("net.ipv4.ip_local_reserved_ports", "8000,9000-9100");
        }, &["--connections", "1000000", "--port", "8000,9001,443"], OK, ""),
        case("hash-table", |t| { t.sysctl("net.ipv4.tcp_ehash_entries", "65536"); }, BETTER,
             "thash_entries=262144"),
        case("conntrack", |t| { t.sysctl("net.netfilter.nf_conntrack_max", "262144"); }, SHORT,
             "sysctl -w net.netfilter.nf_conntrack_max=1000500"),
        case("conntrack", |t| {
            t.sysctl("net.netfilter.nf_conntrack_max", "262144");
            t.sysctl("net.netfilter.nf_conntrack_count", "0");
        }, BETTER, "sysctl -w net.netfilter.nf_conntrack_max=1000000"),
        case("conntrack", |t| { t.sysctl("net.netfilter.nf_conntrack_buckets", "65536"); }, BETTER,
             "sysctl -w net.netfilter.nf_conntrack_buckets=500250"),
        case("conntrack", |t| { t.0.retain(|path, _| !path.contains("nf_conntrack")); }, OK, ""),
        case_of("processors", |_| {},
                &["--connections", "1000000", "--profile", "latency", "--workers", "8"],
                BETTER, "--workers 4"),
        case("cgroup-processors", |t| { t.file(&format!("{SERVICE}/cpu.max"), "50000 100000"); },
             BETTER, "CPUQuota="),
        case_of("cgroup-processors", |t| {
            t.file(&format!("{SERVICE}/cpu.max"), "400000 100000");
        }, LATENCY, BETTER, "CPUQuota="),
        case("isolated-processors", |t| {
            t.file("sys/devices/system/cpu/isolated", "2-3");
            t.edit("proc/self/status", "0-3", "0-1");
        }, BETTER, "CPUAffinity=2,3"),
        case("isolated-processors", |t| { t.file("sys/devices/system/cpu/isolated", "2-3"); },
             OK, ""),
        case_of("interrupts", |t| {
            t.edit("proc/interrupts", "0    900      0      0", "900    0      0      0");
            t.edit("proc/interrupts", "0      0    900      0", "900      0    0      0");
            t.edit("proc/interrupts", "0      0      0    900", "900      0      0    0");
        }, LATENCY, BETTER,
             "echo 0 > /proc/irq/24/smp_affinity_list; echo 1 > /proc/irq/25/smp_affinity_list; \
              echo 2 > /proc/irq/26/smp_affinity_list; echo 3 > /proc/irq/27/smp_affinity_list"),
        case_of("packet-steering", |t| {
            t.0.retain(|path, _| !path.contains("rx-2") && !path.contains("rx-3"));
        }, LATENCY, BETTER,
             "echo f > /sys/class/net/eth0/queues/rx-0/rps_cpus; \
              echo f > /sys/class/net/eth0/queues/rx-1/rps_cpus"),
        case_of("packet-steering", |t| {
            t.0.retain(|path, _| !path.contains("rx-2") && !path.contains("rx-3"));
            t.file("sys/class/net/eth0/queues/rx-0/rps_cpus", "f");
        }, LATENCY, OK, ""),
        case("packet-backlog", |t| {
            t.edit("proc/net/softnet_stat", "00fffff0 00000000", "00fffff0 00001000");
        }, BETTER, "sysctl -w net.core.netdev_max_backlog=4000"),
        case("packet-budget", |t| {
            t.edit("proc/net/softnet_stat", "00000005", "00005000");
        }, BETTER, "sysctl -w net.core.netdev_budget=600"),
        case("net.ipv4.tcp_rmem", |t| { t.sysctl("net.ipv4.tcp_rmem", "4096 131072 1048576"); },
             BETTER, "sysctl -w 'net.ipv4.tcp_rmem=4096 16384 1048576'"),
        case("net.ipv4.tcp_notsent_lowat", |t| {
            t.sysctl("net.ipv4.tcp_notsent_lowat", "4294967295");
        }, BETTER, "sysctl -w net.ipv4.tcp_notsent_lowat=16384"),
        case_of("net.ipv4.tcp_slow_start_after_idle", |t| {
            t.sysctl("net.ipv4.tcp_slow_start_after_idle", "1");
        }, LATENCY, BETTER, "sysctl -w net.ipv4.tcp_slow_start_after_idle=0"),
        case("net.ipv4.tcp_migrate_req", |t| { t.sysctl("net.ipv4.tcp_migrate_req", "0"); },
             BETTER, "sysctl -w net.ipv4.tcp_migrate_req=1"),
    ]
}

fn profile_of(arguments: &[&'static str]) -> &'static str {
    let at = arguments.iter().position(|word| *word == "--profile");
    at.map_or("density", |at| arguments[at + 1])
}

fn checks(report: &Value) -> BTreeSet<String> {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["check"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_healthy_host_is_well_for_every_profile() {
    for profile in PROFILES {
        // Half of a million connections with 35 pages each would need more memory than it has.
        let connections = if profile == "density" { "1000000" } else { "200000" };
        let arguments = ["--connections", connections, "--profile", profile, "--strict"];
        let answer = Tree::healthy(profile).examine(&arguments);
        assert_eq!((answer.code, answer.stderr.as_str()), (0, ""), "{}", answer.stdout);
        assert!(answer.stdout.ends_with("\nall is well\n"), "{}", answer.stdout);
    }
}

#[test]
fn every_check_finds_what_is_wrong_and_names_the_line() {
    let mut seen = BTreeSet::new();
    for (at, case) in cases().into_iter().enumerate() {
        let mut tree = Tree::healthy(profile_of(case.arguments));
        (case.change)(&mut tree);
        let report = tree.json(case.arguments);
        let finding = finding(&report, case.check);
        let name = format!("case {at}, {}: {finding}", case.check);
        assert_eq!(finding["verdict"], case.verdict, "{name}");
        let mend = finding["mend"].as_array().unwrap();
        let line = mend.first().map_or("", |mend| mend["line"].as_str().unwrap());
        assert_eq!(line, case.mend, "{name}");
        if case.verdict != OK {
            for key in ["needed", "consequence"] {
                assert!(
                    finding[key].as_str().is_some_and(|text| !text.is_empty()) || line.is_empty(),
                    "{name}: no {key}"
                );
            }
            seen.insert(case.check.to_owned());
        }
    }
    let mut all = BTreeSet::new();
    for profile in PROFILES {
        let tree = Tree::healthy(profile);
        all.extend(checks(&tree.json(&[&MILLION[..], &["--profile", profile]].concat())));
    }
    assert_eq!(seen, all, "checks without a case that fails");
}

#[test]
fn old_kernels_do_not_count_rings_and_privilege_is_not_limited() {
    for change in [
        |tree: &mut Tree| {
            tree.sysctl("kernel.osrelease", "6.12.1");
        },
        |tree: &mut Tree| {
            tree.edit("proc/self/status", "CapEff:\t0000000000000000", "CapEff:\t000001ffffffffff");
        },
        |tree: &mut Tree| {
            limits(tree, "65536  ", "unlimited");
        },
    ] {
        let mut tree = Tree::healthy("density");
        limits(&mut tree, "8388608", "65536  ");
        assert_eq!(finding(&tree.json(&MILLION), "locked-memory")["verdict"], SHORT);
        change(&mut tree);
        assert_eq!(finding(&tree.json(&MILLION), "locked-memory")["verdict"], OK);
    }
}

/// Files whose absence is an answer: the module is not loaded, the kernel has no such thing.
const MAY_BE_ABSENT: [&str; 6] = [
    "proc/sys/kernel/io_uring_disabled",
    "proc/sys/net/netfilter/nf_conntrack_max",
    "sys/kernel/mm/transparent_hugepage/enabled",
    "sys/fs/cgroup/system.slice",
    "sys/class/net",
    // Asked only where there are no cookies.
    "proc/sys/net/ipv4/tcp_max_syn_backlog",
];

#[test]
fn what_cannot_be_read_is_said_to_be_unknown() {
    let healthy = Tree::healthy("density");
    let laid = healthy.lay();
    for (path, text) in &healthy.0 {
        if MAY_BE_ABSENT.iter().any(|start| path.starts_with(start)) {
            continue;
        }
        laid.remove(path);
        let report = laid.json(&MILLION);
        laid.write(path, text);
        let named = |finding: &Value| {
            let found = finding["found"].as_str().unwrap();
            finding["verdict"] == "unknown" && found.contains(path.as_str())
        };
        let named = report["findings"].as_array().unwrap().iter().any(named);
        assert!(named, "nothing says that /{path} is not there");
    }
}

#[test]
fn what_is_not_understood_is_said_to_be_unknown() {
    let healthy = Tree::healthy("density");
    let laid = healthy.lay();
    let files = healthy.0.keys().filter(|path| path.starts_with("proc/sys/net"));
    let others =
        ["proc/sys/kernel/osrelease", "proc/self/limits", "proc/meminfo", "proc/interrupts"];
    for path in files.map(String::as_str).chain(others) {
        for text in ["", "?", "-1 -1", "99999999999999999999 1 1"] {
            laid.write(path, text);
            let answer = laid.examine(&[&["--json"], &MILLION[..]].concat());
            assert!(answer.code <= 1, "/{path} {text:?}: {}", answer.stderr);
            let report: Value = serde_json::from_str(&answer.stdout).unwrap();
            let quiet = path.ends_with("tcp_max_syn_backlog")
                || (path.ends_with("reserved_ports") && text.is_empty());
            assert!(quiet || report["verdict"] != OK, "/{path} {text:?} went unnoticed");
        }
        laid.write(path, &healthy.0[path]);
    }
}

#[test]
fn an_empty_host_is_all_unknown_and_passes_unless_strict() {
    let tree = Tree(Default::default());
    let report = tree.json(&MILLION);
    for finding in report["findings"].as_array().unwrap() {
        let expected = if finding["check"] == "conntrack" { OK } else { "unknown" };
        assert_eq!(finding["verdict"], expected, "{finding}");
    }
    assert_eq!(tree.examine(&MILLION).code, 0);
    assert_eq!(tree.examine(&[&MILLION[..], &["--strict"]].concat()).code, 1);
}

#[test]
fn the_status_tells_provisioning_what_to_do() {
    let strict = [&MILLION[..], &["--strict"]].concat();
    let mut tree = Tree::healthy("density");
    assert_eq!((tree.examine(&MILLION).code, tree.examine(&strict).code), (0, 0));
    tree.sysctl("net.ipv4.tcp_migrate_req", "0");
    assert_eq!((tree.examine(&MILLION).code, tree.examine(&strict).code), (0, 1));
    tree.sysctl("fs.file-max", "1000");
    assert_eq!((tree.examine(&MILLION).code, tree.examine(&strict).code), (1, 1));
    for wrong in [
        &["--connections", "0"][..],
        &["--connections", "many"],
        &["--connections", "5", "--profile", "fast"],
        &["--connections", "5", "--busy", "101"],
        &["--connections", "5", "--user-bytes", "-1"],
        &["--connections", "5", "--root", "/nowhere/at/all"],
    ] {
        let answer = doctor(wrong);
        assert_eq!(answer.code, 2, "{wrong:?}: {}", answer.stdout);
        assert!(!answer.stderr.is_empty() && answer.stdout.is_empty(), "{wrong:?}");
    }
}

#[test]
fn another_process_is_judged_by_its_own_limits() {
    let mut tree = Tree::healthy("density");
    for file in ["limits", "status", "cgroup"] {
        let text = tree.0[&format!("proc/self/{file}")].clone();
        tree.file(&format!("proc/42/{file}"), &text);
    }
    tree.edit("proc/42/limits", "1048576 ", "20000   ");
    let arguments = [&MILLION[..], &["--pid", "42"]].concat();
    assert_eq!(finding(&tree.json(&arguments), "open-files")["verdict"], BETTER);
    assert_eq!(finding(&tree.json(&MILLION), "open-files")["verdict"], OK);
}

#[test]
fn the_text_is_as_written() {
    let mut ill = Tree::healthy("density");
    ill.sysctl("kernel.osrelease", "5.15.0").sysctl("net.core.somaxconn", "4096");
    limits(&mut ill, "1048576 ", "20000   ");
    ill.0.remove("proc/net/softnet_stat");
    for (name, tree) in [("healthy", Tree::healthy("density")), ("ill", ill)] {
        let path = format!("{}/tests/program/doctor/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        let text = tree.examine(&MILLION).stdout;
        assert!(!text.contains('\x1b'), "colours without a terminal");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap();
        assert_eq!(text, expected, "{path} (BLESS=1 writes it)");
    }
}

#[test]
fn the_json_keys_are_stable_and_documented() {
    let report = Tree::healthy("density").json(&MILLION);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(report["version"], 1);
    let top = ["connections", "findings", "need", "profile", "verdict", "version"];
    assert_eq!(keys(&report), top);
    let need = [
        "buffer_bytes",
        "kernel_bytes_per_connection",
        "locked_bytes",
        "memory_bytes",
        "processors",
        "table",
        "user_bytes_per_connection",
        "workers",
    ];
    assert_eq!(keys(&report["need"]), need);
    let finding_keys = ["check", "consequence", "found", "mend", "needed", "verdict"];
    let mut tree = Tree::healthy("density");
    tree.sysctl("net.core.somaxconn", "128");
    let ill = tree.json(&MILLION);
    for one in ill["findings"].as_array().unwrap() {
        assert_eq!(keys(one), finding_keys);
    }
    let mend = &finding(&ill, "accept-queue")["mend"][0];
    assert_eq!(keys(mend), ["line", "place"]);
    assert_eq!(mend["place"], "sysctl");

    let readme = fs::read_to_string(tuning().join("README.md")).unwrap();
    let words = top.iter().chain(&need).chain(&finding_keys).chain(&["line", "place"]);
    let verdicts = [OK, "unknown", BETTER, SHORT];
    let places = ["sysctl", "shell", "systemd", "boot", "argument", "redis"];
    for word in words.chain(&verdicts).chain(&places) {
        assert!(readme.contains(&format!("`{word}`")), "tuning/README.md does not explain {word}");
    }
    for check in checks(&report) {
        assert!(readme.contains(&format!("`{check}`")), "tuning/README.md does not name {check}");
    }
}

#[test]
fn every_line_of_a_profile_has_its_reason_and_its_check() {
    for profile in PROFILES {
        for (key, value, comment) in settings(profile) {
            assert!(comment.len() > 80 && comment.contains("Costs"), "{profile}: {key}: {comment}");
            // What no host would be content with: none, or more than anything.
            let bad = match value.as_str() {
                "0" => "1",
                "1" => "0",
                _ if ["net.core.somaxconn", "fs.file-max"].contains(&key.as_str()) => "1",
                sizes if sizes.contains(' ') => "4096 999999999 999999999",
                _ => "4294967295",
            };
            let mut tree = Tree::healthy(profile);
            tree.sysctl(&key, bad);
            let report = tree.json(&[&MILLION[..], &["--profile", profile]].concat());
            let mends = |finding: &Value| {
                let lines = finding["mend"].as_array().unwrap();
                lines.iter().any(|mend| mend["line"].as_str().unwrap().contains(&key))
            };
            let findings = report["findings"].as_array().unwrap();
            assert!(findings.iter().any(mends), "{profile}: nobody minds {key} = {bad}");
        }
    }
}

#[test]
fn everything_below_tuning_is_explained() {
    let readme = fs::read_to_string(tuning().join("README.md")).unwrap();
    for entry in fs::read_dir(tuning()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || readme.contains(&name), "tuning/README.md: no {name}");
    }
}

#[test]
fn this_host_is_examined_with_a_trial() {
    let answer = doctor(&["--connections", "100", "--json"]);
    assert!(answer.code <= 1, "{}", answer.stderr);
    let report: Value = serde_json::from_str(&answer.stdout).unwrap();
    let ring = finding(&report, "io-uring");
    assert_eq!(ring["verdict"] == OK, ring["found"].as_str().unwrap().contains("was made"));
    assert_eq!(finding(&report, "kernel")["verdict"], OK);
}
