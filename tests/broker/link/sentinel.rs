//! Sentinels that say what they are told to, in front of real servers: who of them is believed,
//! and how soon a node follows.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringhold::broker::inspect::{Grade, inspect};
use ringhold::gateway::broker::{Fault, Life};

use super::rig::{Rig, offset, options, publish, request};
use super::scripted::{WHOLE, each_command};
use crate::support::daemon::free_port;
use crate::support::redis::Redis;
use crate::support::until;

/// One on a free port.
struct Sentinel {
    place: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Port of the primary, if it is known, and the epoch.
    primary: Option<(u16, u64)>,
    /// Who must be named, if anybody.
    password: Option<String>,
    /// Nothing is answered.
    silent: bool,
    /// Who listens.
    ears: Vec<TcpStream>,
}

impl Sentinel {
    fn start(primary: &Redis, epoch: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        let primary = Some((primary.port(), epoch));
        let state = Arc::new(Mutex::new(State { primary, ..State::default() }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                std::thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { place, state }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    /// It knows another primary from now on.
    fn names(&self, primary: &Redis, epoch: u64) {
        self.change(|state| state.primary = Some((primary.port(), epoch)));
    }

    /// It tells who listens.
    fn tells(&self, words: &str) {
        let message = format!(
            "*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n${}\r\n{words}\r\n",
            words.len()
        );
        let ears = std::mem::take(&mut self.state.lock().unwrap().ears);
        assert!(!ears.is_empty(), "nobody listens");
        for mut ear in ears {
            let _ = ear.write_all(message.as_bytes());
        }
    }

    fn is_heard(&self) -> bool {
        !self.state.lock().unwrap().ears.is_empty()
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let mut known = false;
    each_command(stream, WHOLE, |command| {
        let mut state = state.lock().unwrap();
        if state.silent {
            return Some(Vec::new());
        }
        if command[0] == "SUBSCRIBE" {
            state.ears.push(stream.try_clone().unwrap());
        }
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        Some(answer(&state, &words, &mut known).into_bytes())
    });
}

fn answer(state: &State, command: &[&str], known: &mut bool) -> String {
    if let ["AUTH", given @ ..] = command {
        *known = given.last().copied() == state.password.as_deref();
        return if *known { "+OK\r\n" } else { "-WRONGPASS invalid\r\n" }.to_owned();
    }
    if state.password.is_some() && !*known {
        return "-NOAUTH Authentication required.\r\n".to_owned();
    }
    let primary = state.primary.filter(|_| command.get(2).is_none_or(|name| *name == "m"));
    match (command, primary) {
        (["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _], None) => "*-1\r\n".to_owned(),
        (["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _], Some((port, _))) => {
            let port = port.to_string();
            format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len())
        }
        (["SENTINEL", "MASTER", _], Some((_, epoch))) => {
            let epoch = epoch.to_string();
            let fields = "*4\r\n$10\r\nnum-slaves\r\n$1\r\n1\r\n$12\r\nconfig-epoch\r\n";
            format!("{fields}${}\r\n{epoch}\r\n", epoch.len())
        }
        (["SENTINEL", "SENTINELS", _], Some(_)) => "*0\r\n".to_owned(),
        (["SENTINEL", "CKQUORUM", _], Some(_)) => "-NOQUORUM 1 usable Sentinels.\r\n".to_owned(),
        (["SENTINEL", ..], _) => "-ERR No such master with that name\r\n".to_owned(),
        (["SUBSCRIBE", names @ ..], _) => {
            let head = "*3\r\n$9\r\nsubscribe\r\n";
            names.iter().map(|name| format!("{head}${}\r\n{name}\r\n:1\r\n", name.len())).collect()
        }
        (["PING"], _) => "*2\r\n$4\r\npong\r\n$0\r\n\r\n".to_owned(),
        _ => "+OK\r\n".to_owned(),
    }
}

fn keys(sentinels: &[&Sentinel]) -> String {
    let places: Vec<_> = sentinels.iter().map(|sentinel| sentinel.place.as_str()).collect();
    format!("sentinel_address = [\"{}\"]\nsentinel_master_name = \"m\"\n", places.join(","))
}

fn servers() -> Option<(Redis, Redis)> {
    Some((Redis::start()?, Redis::start()?))
}

fn has_connections(redis: &Redis) -> bool {
    redis.cli(&["CLIENT", "LIST"]).contains("name=ringhold")
}

fn published_at(rig: &mut Rig, redis: &Redis, number: u64) {
    offset(rig.result(request(publish(&format!("c{number}"), "x", number))));
    let key = format!("centrifugo.stream.c{number}");
    assert_eq!(redis.cli(&["EXISTS", &key]), "1", "it is elsewhere");
}

#[test]
fn the_newest_configuration_is_believed() {
    let Some((old, new)) = servers() else { return };
    let (one, two, three) =
        (Sentinel::start(&old, 1), Sentinel::start(&old, 1), Sentinel::start(&new, 2));
    let mut rig = Rig::connected(&keys(&[&one, &two, &three]));
    published_at(&mut rig, &new, 1);
    assert!(!has_connections(&old));
    rig.finish();
}

#[test]
fn who_is_told_of_a_failover_follows_at_once() {
    let Some((old, new)) = servers() else { return };
    let (one, two) = (Sentinel::start(&old, 1), Sentinel::start(&old, 1));
    let mut rig = Rig::connected(&keys(&[&one, &two]));
    published_at(&mut rig, &old, 1);
    rig.until("both to be listened to", |_| one.is_heard() && two.is_heard());
    // Both are asked once more when they are listened to.
    std::thread::sleep(Duration::from_millis(300));
    two.tells("other 127.0.0.1 1 127.0.0.1 2");
    rig.collect(Duration::from_millis(300));
    assert_eq!(rig.lives, [Some(Life::Same)], "that is another's");
    let begun = Instant::now();
    two.names(&new, 2);
    one.tells("m 127.0.0.1 1 127.0.0.1 2");
    rig.until("the return", |rig| rig.lives.len() == 3);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}: as long as without an event");
    assert_eq!(rig.lives, [Some(Life::Same), None, Some(Life::Other)]);
    published_at(&mut rig, &new, 2);
    assert_eq!(rig.view.tally.switches.get(), 1);
    assert_eq!(rig.view.tally.maps().lost.get("moved"), Some(&2));
    until("the old one to be left", || !has_connections(&old));
    rig.finish();
}

/// Who died with the primary tells nothing, and the old one still calls itself a primary.
#[test]
fn a_failover_that_nobody_tells_of_is_found() {
    let Some((old, new)) = servers() else { return };
    let one = Sentinel::start(&old, 1);
    let mut rig = Rig::connected(&keys(&[&one]));
    published_at(&mut rig, &old, 1);
    one.names(&new, 2);
    rig.until("the return", |rig| rig.lives.len() == 3);
    published_at(&mut rig, &new, 2);
    until("the old one to be left", || !has_connections(&old));
    rig.finish();
}

#[test]
fn sentinels_that_are_gone_or_silent_are_done_without() {
    let Some((redis, _)) = servers() else { return };
    let (silent, good) = (Sentinel::start(&redis, 9), Sentinel::start(&redis, 1));
    silent.change(|state| state.silent = true);
    let gone = Sentinel { place: format!("127.0.0.1:{}", free_port()), state: Arc::default() };
    let mut rig = Rig::connected(&keys(&[&gone, &silent, &good]));
    let answering = |rig: &Rig| rig.view.conditions[0].report(Instant::now()).sentinels;
    rig.until("one of three to be counted", |rig| answering(rig) == Some(1));
    published_at(&mut rig, &redis, 1);
    // The connections outlive the last Sentinel, too.
    good.change(|state| state.silent = true);
    rig.until("none to be counted", |rig| answering(rig) == Some(0));
    published_at(&mut rig, &redis, 2);
    assert_eq!(rig.lives, [Some(Life::Same)]);
    // But a new one needs somebody who knows.
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    rig.complains("no Sentinel says where \"m\" is");
    assert_eq!(rig.result(request(publish("a", "x", 3))), Err(Fault::Away));
    good.change(|state| state.silent = false);
    rig.until("the return", |rig| rig.trouble().is_none());
    published_at(&mut rig, &redis, 4);
    rig.finish();
}

#[test]
fn what_is_wrong_is_said() {
    let Some((redis, _)) = servers() else { return };
    let one = Sentinel::start(&redis, 1);
    let other = keys(&[&one]).replace("\"m\"", "\"n\"");
    Rig::start(&other).complains("it knows no \"n\" (sentinel_master_name)");
    one.change(|state| state.password = Some("hush".to_owned()));
    Rig::start(&keys(&[&one])).complains("NOAUTH");
    let wrong = format!("{}sentinel_password = \"wrong\"\n", keys(&[&one]));
    let mut rig = Rig::start(&wrong);
    rig.complains("user and password (engine.redis.sentinel_user, .sentinel_password)");
    assert!(!rig.trouble().unwrap().contains("\"wrong\""));
    let right = format!("{}sentinel_password = \"hush\"\n", keys(&[&one]));
    let mut rig = Rig::connected(&right);
    published_at(&mut rig, &redis, 1);
    rig.finish();
    // A server is no Sentinel.
    let address = format!("sentinel_address = [\"127.0.0.1:{}\"]\n", redis.port());
    Rig::start(&format!("{address}sentinel_master_name = \"m\"\n")).complains("unknown command");
    // And one that its Sentinels name may be no primary.
    one.change(|state| state.password = None);
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    Rig::start(&keys(&[&one])).complains("its role is slave");
}

#[test]
fn each_share_has_sentinels_of_its_own() {
    let Some((first, second)) = servers() else { return };
    let Some(third) = Redis::start() else { return };
    let (one, two) = (Sentinel::start(&first, 1), Sentinel::start(&second, 1));
    let addresses = format!("sentinel_address = [\"{}\", \"{}\"]\n", one.place, two.place);
    let mut rig = Rig::start(&format!("{addresses}sentinel_master_name = \"m\"\n"));
    rig.until("both brokers to be there", |rig| rig.lives.len() == 2);
    for number in 0..40 {
        offset(rig.result(request(publish(&format!("c{number}"), "x", number))));
    }
    let count = |redis: &Redis| redis.lines(&["KEYS", "centrifugo.stream.c*"]).len();
    assert_eq!(count(&first) + count(&second), 40);
    assert!(count(&first) > 8 && count(&second) > 8);
    two.names(&third, 2);
    rig.until("the second to move", |rig| rig.lives.len() == 4);
    let before = count(&first);
    for number in 0..40 {
        let published = rig.result(request(publish(&format!("c{number}"), "x", 100 + number)));
        assert!(published.is_ok(), "{published:?}");
    }
    assert_eq!((count(&first), count(&third)), (before, 40 - before));
    rig.finish();
}

#[test]
fn the_doctor_looks_at_sentinels() {
    let Some((redis, other)) = servers() else { return };
    let (one, two) = (Sentinel::start(&redis, 2), Sentinel::start(&other, 1));
    let gone = Sentinel { place: format!("127.0.0.1:{}", free_port()), state: Arc::default() };
    let keys = keys(&[&one, &two, &gone]);
    let options = options(&format!("[engine.redis]\n{keys}"));
    let config = options.broker_config("node").unwrap().expect("a broker");
    let remarks = inspect(&config).unwrap();
    let of = |check: &str| {
        let found = remarks.iter().find(|remark| remark.check == check);
        found.unwrap_or_else(|| panic!("no {check} in {remarks:?}"))
    };
    let place = format!("127.0.0.1:{}", redis.port());
    assert_eq!(of("sentinels").grade, Grade::Better);
    assert_eq!(of("sentinels").found, format!("1 of 3 say that \"m\" is {place}"));
    assert!(of("sentinel").found.starts_with(&gone.place));
    assert_eq!(of("sentinel-quorum").grade, Grade::Short);
    assert_eq!(of("sentinel-number").grade, Grade::Better);
    assert!(of("redis").grade == Grade::Fine && of("redis").found.starts_with(&place));
}

/// A real one, that wants to know who asks.
#[test]
fn a_real_sentinel_with_a_password_and_over_tls() {
    let Some(redis) = Redis::start() else { return };
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/keys");
    let secure = free_port();
    let file = format!(
        "sentinel monitor m 127.0.0.1 {} 1\nrequirepass hush\ntls-port {secure}\n\
         tls-cert-file {keys}/localhost.pem\ntls-key-file {keys}/localhost.key\n\
         tls-ca-cert-file {keys}/ca.pem\ntls-auth-clients no\n",
        redis.port()
    );
    let access = ["-a", "hush"];
    let Some(sentinel) = Redis::start_sentinel(&file, &access) else { return };
    let plain = format!(
        "sentinel_address = [\"127.0.0.1:{}\"]\nsentinel_master_name = \"m\"\n\
         sentinel_password = \"hush\"\n",
        sentinel.port()
    );
    let mut rig = Rig::connected(&plain);
    published_at(&mut rig, &redis, 1);
    rig.finish();
    let url = format!(
        "address = [\"redis+sentinel://localhost:{secure}?sentinel_master_name=m\
         &sentinel_password=hush&sentinel_tls_enabled=true\"]\n\
         [engine.redis.sentinel_tls]\nserver_ca_pem = \"{keys}/ca.pem\"\n"
    );
    let mut rig = Rig::connected(&url);
    published_at(&mut rig, &redis, 2);
    rig.finish();
    let stranger = url.split("[engine.redis.sentinel_tls]").next().unwrap();
    Rig::start(stranger).complains("no TLS handshake");
}
