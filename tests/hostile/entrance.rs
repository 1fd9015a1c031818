//! Attacks on the way in, and on what operators need: places, heads, bodies, logins.

use std::time::{Duration, Instant};

use serde_json::json;

use super::attack::{After, Attack};
use super::field::{Field, Foe, command, text, upgrade};
use super::witness::{Habits, health};
use crate::support::PATIENCE;
use crate::support::client::Client;
use crate::support::gateway::PATH;
use crate::support::stream::{Stream, request};
use crate::support::wire::{CLOSE, FIN, PING, frame};

/// Nobody but the witnesses: the places of others are what the attack is about.
const ALONE: Habits = Habits { operator: false, newcomers: false, ..Habits::ORDINARY };

/// Seats of a small server.
const SEATS: usize = 24;

/// Those who were refused and stay: they take no seat.
pub(crate) const REFUSED_TAKE_NO_SEAT: Attack = Attack {
    connections: SEATS,
    habits: ALONE,
    after: &[After::Counted("refusals_total{reason=\"full\"}", 1)],
    ..Attack::new(|field| {
        let (mut members, refused) = filled(field);
        drop(refused);
        // More than there are seats try, read the answer after a while, and try again.
        let mut trying: Vec<(Foe, usize)> = Vec::new();
        field.witnesses_get_on(5);
        let mut attempts = 0;
        let deadline = Instant::now() + PATIENCE;
        for round in 0.. {
            assert!(Instant::now() < deadline, "those who try get no answers");
            if trying.len() < 2 * SEATS {
                trying.push((field.stranger(), 0));
            }
            // Everybody leaves when all others are waiting at the door.
            if round == 3 * SEATS {
                members.clear();
            }
            for (foe, age) in &mut trying {
                *age += 1;
                if *age == 2 {
                    foe.quietly(&upgrade());
                } else if *age >= 40 {
                    let answer = foe.read();
                    if answer.is_empty() && !foe.is_gone() {
                        // Who has to wait for the machine has not tried yet.
                        continue;
                    }
                    if answer.starts_with(b"HTTP/1.1 101 ") && round > 3 * SEATS {
                        members.push(std::mem::replace(foe, field.stranger()));
                    } else {
                        *foe = field.stranger();
                    }
                    attempts += usize::from(round > 3 * SEATS);
                    *age = 0;
                }
            }
            if round > 3 * SEATS && (members.len() >= SEATS / 4 || attempts > 12 * SEATS) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(
            members.len() >= SEATS / 4,
            "seats are free, and {} of {attempts} get in",
            members.len()
        );
    })
};

/// All seats taken, and some who found none.
fn filled(field: &Field<'_>) -> (Vec<Foe>, Vec<Foe>) {
    let mut members = Vec::new();
    for _ in 0..4 * SEATS {
        let (status, client) = field.gateway.upgrade(PATH, &[]);
        if status != 101 {
            return (members, vec![field.foe(client)]);
        }
        members.push(field.foe(client));
    }
    panic!("{} connections found a seat, of {SEATS}", members.len());
}

/// Who leaves in good order at the limit, and comes back at once, finds his seat.
pub(crate) const RECONNECTS_AT_THE_LIMIT: Attack = Attack {
    connections: SEATS,
    habits: ALONE,
    ..Attack::new(|field| {
        let (mut members, refused) = filled(field);
        drop(refused);
        // Some keep the cores busy, so that the others' closes take their time.
        let mut busy = members.split_off(members.len() - 6);
        let pings = frame(FIN | PING, b"busy").repeat(4_000);
        for round in field.rounds(60) {
            busy.iter_mut().for_each(|foe| _ = foe.push(&pings));
            // All others close at once, and whoever has the answer comes back.
            let leaving: Vec<Client> = members.drain(..).map(Foe::into_client).collect();
            leaving.iter().for_each(|client| client.send_frame(FIN | CLOSE, b"\x03\xe8"));
            for mut client in leaving {
                assert_eq!(client.read_close().0, Some(1000));
                let (status, again) = field.gateway.upgrade(PATH, &[]);
                assert_eq!(status, 101, "reconnect in round {round}");
                members.push(field.foe(again));
            }
        }
    })
};

/// Connections that come and go as fast as they can.
pub(crate) const CONNECT_STORM: Attack = Attack {
    after: &[After::Counted("accepted_total", 500)],
    growth: 48,
    ..Attack::new(|field| {
        for _ in field.rounds(15) {
            let mut storm: Vec<Foe> = (0..100).map(|_| field.stranger()).collect();
            storm.iter_mut().for_each(|foe| _ = foe.push(&upgrade()));
            storm.iter_mut().step_by(2).for_each(|foe| {
                foe.push(&text(&command(1, "connect", &json!({}))));
            });
        }
    })
};

/// One address that takes all it may have, and more.
pub(crate) const ONE_ADDRESS: Attack = Attack {
    engine: "max_per_address = 60",
    after: &[After::Counted("refusals_total{reason=\"per_address\"}", 50)],
    ..Attack::new(|field| {
        let mut foes: Vec<Foe> = Vec::new();
        for _ in field.rounds(120) {
            let mut foe = field.foe_from([127, 0, 8, 1]);
            foe.push(&upgrade());
            foes.push(foe);
            if foes.len() > 200 {
                foes.remove(0);
            }
        }
        field.witnesses_get_on(5);
    })
};

/// Likewise with plain requests on connections that are kept: these count, too.
pub(crate) const ONE_ADDRESS_WITH_KEPT_CONNECTIONS: Attack = Attack {
    engine: "max_per_address = 60",
    after: &[After::Counted("refusals_total{reason=\"per_address\"}", 30)],
    ..Attack::new(|field| {
        let mut foes: Vec<Foe> = Vec::new();
        // They are kept for 5 s. So nobody waits for an answer before all have come, and where the
        // machine is slow all the same, more of them come.
        let refused = || field.metric("refusals_total{reason=\"per_address\"}") >= 30;
        for _ in field.rounds_until(120, refused) {
            let mut foe = field.foe_from([127, 0, 8, 2]);
            foe.push(&request("GET", "/nothing", &[], b""));
            foes.push(foe);
            if foes.len() > 200 {
                foes.remove(0);
            }
        }
        for foe in &mut foes {
            assert!(foe.wait_heard(1) || foe.is_gone(), "it is answered, or refused");
        }
        field.witnesses_get_on(5);
    })
};

/// Eleven hundred idle connections of people without a key, beside the operator.
pub(crate) const IDLE_HTTP_CONNECTIONS: Attack = Attack {
    growth: 96,
    ..Attack::new(|field| {
        let mut idle: Vec<Foe> = Vec::new();
        for number in field.rounds(1_100) {
            let [high, low] = (number as u16).to_be_bytes();
            let mut foe = field.foe_from([127, 9, high, low.max(1)]);
            foe.push(&request("GET", "/nothing", &[], b""));
            idle.push(foe);
            if idle.len() > 1_500 {
                idle.remove(0);
            }
        }
        let visits = field.shared.visits.load(std::sync::atomic::Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        while field.shared.visits.load(std::sync::atomic::Ordering::Relaxed) < visits + 5 {
            assert!(!field.shared.failed.load(std::sync::atomic::Ordering::Relaxed), "a visitor");
            assert!(Instant::now() < deadline, "the operator does not get on");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(health(field.gateway), 200);
    })
};

/// Heads that come a byte at a time, and heads that never come.
pub(crate) const SLOW_HEADS: Attack = Attack {
    engine: "handshake_timeout = \"6s\"",
    after: &[After::Counted("handshake_timeouts_total", 40)],
    ..Attack::new(|field| {
        let mut slow: Vec<Foe> = (0..60).map(|_| field.stranger()).collect();
        let head = upgrade();
        for round in field.rounds(80) {
            for foe in slow.iter_mut().step_by(2) {
                foe.push(&head[round % 100..][..1]);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        slow.iter_mut().for_each(Foe::wait_gone);
    })
};

/// Bodies that come a byte at a time: logins, API, emulation.
pub(crate) const SLOW_BODIES: Attack = Attack {
    tables: "[sse]\nenabled = true\n[admin]\nenabled = true\npassword = \"sesame\"\n",
    growth: 48,
    ..Attack::new(|field| {
        let head = |path: &str| {
            format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 50000\r\n\r\n")
        };
        let paths = ["/admin/auth", "/api/publish", "/emulation", "/connection/sse", "/nothing"];
        let mut slow: Vec<Foe> = Vec::new();
        for number in 0..200 {
            let mut foe = field.foe_from([127, 0, 9, 1 + (number % 100) as u8]);
            foe.push(head(paths[number % paths.len()]).as_bytes());
            slow.push(foe);
        }
        for _ in field.rounds(50) {
            slow.iter_mut().for_each(|foe| _ = foe.push(b"x"));
            std::thread::sleep(Duration::from_millis(5));
        }
        field.witnesses_get_on(5);
    })
};

/// Bodies larger than they may be, and ones whose length is a lie.
pub(crate) const LARGE_BODIES: Attack = Attack {
    tables: "[sse]\nenabled = true\n[http_stream]\nenabled = true\n",
    growth: 48,
    ..Attack::new(|field| {
        let body = vec![b'['; 200_000];
        let deep = vec![b'['; 60_000];
        for _ in field.rounds(10) {
            for path in ["/emulation", "/connection/sse", "/connection/http_stream"] {
                for body in [&body[..], &deep] {
                    let mut foe = field.stranger();
                    foe.push(&request("POST", path, &[], body));
                    foe.half_close();
                    foe.read();
                }
            }
            let mut foe = field.stranger();
            let key = format!("X-API-Key: {}", crate::support::gateway::API_KEY);
            foe.push(&request("POST", "/api/publish", &[&key], &deep));
            foe.wait_heard(1);
        }
        field.witnesses_get_on(3);
    })
};

/// Headers of the PROXY protocol that are none.
pub(crate) const PROXY_HEADERS: Attack = Attack {
    http_server: "trusted_proxies = [\"127.0.5.0/24\"]\nproxy_protocol = \"optional\"",
    after: &[
        After::Counted("refusals_total{reason=\"proxy_malformed\"}", 10),
        After::Counted("refusals_total{reason=\"proxy_untrusted\"}", 5),
    ],
    ..Attack::new(|field| {
        let signature = b"\r\n\r\n\0\r\nQUIT\n";
        let second = |rest: &[u8]| [&signature[..], rest].concat();
        let sequences = [
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n".to_vec(),
            b"PROXY TCP4 999.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
            [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(),
            second(&[0x21, 0x11, 0xff, 0xff]),
            second(&[0x31, 0x11, 0, 12]),
            second(&[0x21, 0x11, 0, 1, 0]),
            second(&[0x2f, 0xff, 0, 0]),
            second(&[0x21, 0x11, 0, 12, 1, 2, 3]),
        ];
        for _ in field.rounds(5) {
            for bytes in &sequences {
                let mut trusted = field.foe_from([127, 0, 5, 1]);
                trusted.push(bytes);
                trusted.half_close();
                trusted.wait_gone();
            }
            let mut other = field.foe_from([127, 0, 6, 1]);
            other.push(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n");
            other.push(&upgrade());
            other.wait_gone();
        }
    })
};

const ADMIN: &str = "[admin]\nenabled = true\npassword = \"sesame\"\n";

/// Guesses of one address: it is told to wait.
pub(crate) const LOGINS_OF_ONE_ADDRESS: Attack = Attack {
    tables: ADMIN,
    after: &[After::Counted("admin_logins_limited_total", 20)],
    ..Attack::new(|field| {
        for round in field.rounds(60) {
            login(field, [127, 0, 4, 1], &format!("guess {round}"));
        }
        assert_eq!(login(field, [127, 0, 0, 1], "sesame"), 200, "the operator");
    })
};

/// Guesses of many addresses: the operator still gets in.
pub(crate) const LOGINS_OF_MANY_ADDRESSES: Attack = Attack {
    tables: ADMIN,
    after: &[After::Counted("admin_logins_failed_total", 100)],
    ..Attack::new(|field| {
        for round in field.rounds(250) {
            login(field, [127, 0, 4, 1 + (round % 60) as u8], "guess");
        }
        assert_eq!(login(field, [127, 0, 0, 1], "sesame"), 200, "the operator");
    })
};

/// The status of a login from an address.
fn login(field: &Field<'_>, local: [u8; 4], password: &str) -> u16 {
    let body = format!("password={password}");
    let lines = ["Connection: close", "Content-Type: application/x-www-form-urlencoded"];
    let foe = field.foe_from(local);
    foe.socket().set_nonblocking(false).expect("set_nonblocking");
    let mut socket = foe.socket().try_clone().expect("a socket can be shared");
    let bytes = request("POST", "/admin/auth", &lines, body.as_bytes());
    std::io::Write::write_all(&mut socket, &bytes).expect("a request is taken");
    Stream::on(socket).status
}
