//! Every way to a server, and what is said where there is none.

use std::net::TcpListener;

use ringhold::gateway::broker::{Fault, Outcome};

use super::rig::{Rig, offset, publish, request};
use crate::support::daemon::free_port;
use crate::support::own_path;
use crate::support::redis::Redis;

/// One publication there and back.
fn round_trip(mut rig: Rig) {
    rig.listen(&["a", "b"]);
    assert_eq!(offset(rig.result(request(publish("a", "one", 1)))), 1);
    let plain = ringhold::gateway::broker::Publish { stream: None, ..publish("b", "two", 2) };
    let published = Ok(Outcome::Published { position: None, suppressed: false });
    assert_eq!(rig.result(request(plain)), published);
    rig.until("both messages", |rig| rig.messages.len() == 2);
    rig.finish();
}

#[test]
fn tcp_versions_databases_and_names() {
    let Some(redis) = Redis::start() else { return };
    let address = format!("address = [\"redis://127.0.0.1:{}\"]\n", redis.port());
    for more in ["", "force_resp2 = true\n", "db = 3\n", "client_name = \"node-7\"\n"] {
        let rig = Rig::connected(&format!("{address}{more}"));
        let clients = redis.cli(&["CLIENT", "LIST"]);
        let (version, name) = (
            if more.starts_with("force") { "resp=2" } else { "resp=3" },
            if more.starts_with("client") { "name=node-7" } else { "name=ringhold" },
        );
        // The server tells its version of the protocol since 7.0.
        let ours = clients.lines().filter(|line| line.contains(name));
        assert_eq!(ours.clone().count(), 2, "{clients}");
        assert!(ours.clone().all(|line| line.contains(version) || !line.contains("resp=")));
        round_trip(rig);
        let key = if more.starts_with("db") { ["-n", "3"] } else { ["-n", "0"] };
        let there = redis.cli(&[key[0], key[1], "EXISTS", "centrifugo.stream.a"]);
        assert_eq!(there, "1", "{more}");
        redis.cli(&["FLUSHALL"]);
    }
}

#[test]
fn unix_sockets() {
    let socket = own_path("broker.sock");
    let path = socket.to_str().unwrap();
    let Some(redis) = Redis::start_with(&["--unixsocket", path], &[]) else { return };
    round_trip(Rig::connected(&format!("address = [\"unix://{path}?db=2\"]\n")));
    assert_eq!(redis.cli(&["-n", "2", "EXISTS", "centrifugo.stream.a"]), "1");
}

#[test]
fn passwords_and_users() {
    let arguments = "--requirepass hush --user app on >word ~centrifugo.* &* +@all";
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let Some(redis) = Redis::start_with(&arguments, &["-a", "hush"]) else { return };
    let port = redis.port();
    let address = format!("address = [\"127.0.0.1:{port}\"]\n");
    round_trip(Rig::connected(&format!("{address}password = \"hush\"\n")));
    redis.cli(&["FLUSHALL"]);
    for more in ["", "force_resp2 = true\n"] {
        let keys = format!("{address}user = \"app\"\npassword = \"word\"\n{more}");
        round_trip(Rig::connected(&keys));
        redis.cli(&["FLUSHALL"]);
        round_trip(Rig::connected(&format!(
            "address = [\"redis://app:word@127.0.0.1:{port}/0\"]\n{more}"
        )));
        redis.cli(&["FLUSHALL"]);
        let mut wrong = Rig::start(&format!("{address}password = \"wrong\"\n{more}"));
        wrong.complains("user and password");
        assert!(!wrong.trouble().unwrap().contains("\"wrong\""));
        let fault = wrong.result(request(publish("a", "x", 1)));
        assert_eq!(fault, Err(Fault::Away));
        Rig::start(&format!("{address}{more}")).complains("NOAUTH");
    }
}

/// The least that a user needs, as docs/broker.md has it.
#[test]
fn a_user_with_the_rights_of_the_documentation() {
    let documentation = include_str!("../../../docs/broker.md");
    let line = documentation.lines().find_map(|line| line.strip_prefix("ACL SETUSER ringhold "));
    let rights = line.expect("the documentation has it").replace("PASSWORD", "word");
    let user = format!("--user ringhold {rights}");
    let arguments: Vec<&str> = user.split(' ').collect();
    let Some(redis) = Redis::start_with(&arguments, &[]) else { return };
    let address = format!("address = [\"redis://ringhold:word@127.0.0.1:{}\"]\n", redis.port());
    round_trip(Rig::connected(&address));
}

#[test]
fn tls_with_and_without_a_certificate_of_ours() {
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/keys");
    let path = |name: &str| format!("{keys}/{name}");
    let (ca, cert, key) = (path("ca.pem"), path("localhost.pem"), path("localhost.key"));
    let (ours, our_key) = (path("client.pem"), path("client.key"));
    for asked in ["yes", "no"] {
        let secure = free_port().to_string();
        let arguments = [
            ["--tls-port", &secure],
            ["--tls-cert-file", &cert],
            ["--tls-key-file", &key],
            ["--tls-ca-cert-file", &ca],
            ["--tls-auth-clients", asked],
        ];
        let Some(_redis) = Redis::start_with(&arguments.concat(), &[]) else { return };
        let trust = format!("server_ca_pem = \"{ca}\"\n");
        let identity = format!("cert_pem = \"{ours}\"\nkey_pem = \"{our_key}\"\n");
        let at = |host: &str| format!("address = [\"rediss://{host}:{secure}\"]\n");
        let tls = |more: &str| format!("[engine.redis.tls]\n{more}");
        round_trip(Rig::connected(&format!(
            "{}{}",
            at("localhost"),
            tls(&(trust.clone() + &identity))
        )));
        // By a name that is not in the certificate.
        let name = format!("{trust}{identity}server_name = \"elsewhere.example\"\n");
        Rig::start(&format!("{}{}", at("localhost"), tls(&name))).complains("no TLS handshake");
        let mut stranger = Rig::start(&format!("{}{}", at("localhost"), tls(&identity)));
        stranger.complains("no TLS handshake");
        if asked == "no" {
            let careless = format!("{}{}", at("localhost"), tls("insecure_skip_verify = true\n"));
            drop(Rig::connected(&careless));
        } else {
            let mut nobody = Rig::start(&format!("{}{}", at("localhost"), tls(&trust)));
            nobody.until("a complaint", |rig| {
                !rig.trouble().unwrap_or_default().contains("not reached yet")
            });
            assert!(nobody.lives.is_empty());
        }
    }
}

#[test]
fn nobody_there_a_stranger_and_a_replica() {
    let mut rig = Rig::start(&format!("address = [\"127.0.0.1:{}\"]\n", free_port()));
    rig.complains("cannot connect");
    assert_eq!(rig.result(request(publish("a", "x", 1))), Err(Fault::Away));

    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("address = [\"{}\"]\n", stranger.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        use std::io::Write;
        for _ in 0..2 {
            let (mut stream, _) = stranger.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        }
    });
    Rig::start(&address).complains("no reply of RESP begins with 'H'");
    served.join().unwrap();

    let Some(primary) = Redis::start() else { return };
    let follow = format!("127.0.0.1 {}", primary.port());
    let Some(replica) = Redis::start_with(&["--replicaof", &follow], &[]) else { return };
    let address = format!("address = [\"127.0.0.1:{}\"]\n", replica.port());
    let mut rig = Rig::start(&address);
    rig.complains("its role is slave");
    // It is found again when it takes over.
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    rig.until("the broker to be there", |rig| !rig.lives.is_empty());
    round_trip(rig);
}

#[test]
fn several_servers_share_the_channels() {
    let (Some(first), Some(second)) = (Redis::start(), Redis::start()) else { return };
    let addresses =
        format!("address = [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]\n", first.port(), second.port());
    let mut rig = Rig::start(&addresses);
    rig.until("both brokers to be there", |rig| rig.lives.len() == 2);
    let names: Vec<String> = (0..40).map(|n| format!("c{n}")).collect();
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    rig.listen(&texts);
    for (n, name) in texts.iter().enumerate() {
        assert_eq!(offset(rig.result(request(publish(name, "x", n as u64)))), 1);
    }
    rig.until("all messages", |rig| rig.messages.len() == 40);
    let asked = texts
        .iter()
        .map(|name| ringhold::gateway::broker::TopOf {
            channel: (*name).into(),
            entry: 1,
            meta_ttl: None,
            count: false,
        })
        .collect();
    let answer = rig.result(|ticket| ringhold::gateway::broker::Request::Positions(ticket, asked));
    let Ok(Outcome::Positions(tops)) = answer else { panic!("{answer:?}") };
    assert!(tops.iter().all(|top| top.as_ref().is_some_and(|top| top.top == 1)));
    let counts =
        [&first, &second].map(|redis| redis.lines(&["KEYS", "centrifugo.stream.c*"]).len());
    assert_eq!(counts[0] + counts[1], 40);
    assert!(counts[0] > 8 && counts[1] > 8, "{counts:?}");
    rig.finish();
}
