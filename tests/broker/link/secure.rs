//! Clusters and Sentinels over TLS with users of their own: each connection there is (for commands,
//! for messages, to ask nodes, to ask and to hear Sentinels) says who it is, and whom it believes.
//! The users have the rights of the documentation and no others.

use std::time::Duration;

use super::rig::{Rig, offset, publish, request};
use crate::support::cluster::Cluster;
use crate::support::redis::{Redis, tls_access, tls_arguments};
use crate::support::sentinel::{Group, NAME};
use crate::support::until;

const PAGE: &str = include_str!("../../../docs/broker.md");

const CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/keys/ca.pem");

/// What a sentence of the documentation grants, in backquotes behind these words.
fn granted(words: &str) -> Vec<&'static str> {
    let (_, rest) = PAGE.split_once(words).unwrap_or_else(|| panic!("{words}"));
    let sentence = rest.split(". ").next().unwrap();
    let sentence = sentence.split("\n\n").next().unwrap();
    let quoted = sentence.split('`').skip(1).step_by(2);
    quoted.flat_map(str::split_whitespace).collect()
}

/// A user of a server with the rights of the documentation, and `more`.
fn user(more: &[&str]) -> Vec<String> {
    let line = PAGE.lines().find_map(|line| line.strip_prefix("ACL SETUSER ringhold "));
    let rights = line.expect("the documentation has it").replace("PASSWORD", "word");
    let words = rights.split_whitespace().chain(more.iter().copied());
    ["--user", "ringhold"].into_iter().chain(words).map(str::to_owned).collect()
}

fn borrowed(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

const LOGIN: &str = "user = \"ringhold\"\npassword = \"word\"\n";

fn tls(table: &str) -> String {
    format!("[engine.redis.{table}]\nenabled = true\nserver_ca_pem = \"{CA}\"\n")
}

/// Publishes in a channel of each node, and hears of it.
fn round_trip(rig: &mut Rig, channels: &[String], number: u64) {
    let names: Vec<&str> = channels.iter().map(String::as_str).collect();
    rig.listen(&names);
    rig.messages.clear();
    for name in &names {
        assert_eq!(offset(rig.result(request(publish(name, "x", number)))), number);
    }
    rig.until("all messages", |rig| rig.messages.len() == names.len());
}

#[test]
fn a_cluster_over_tls_with_users() {
    let arguments = [
        tls_arguments(),
        vec!["--tls-cluster".to_owned(), "yes".to_owned()],
        user(&granted("A user (ACL) needs")),
    ];
    let (arguments, access) = (arguments.concat(), tls_access());
    let Some(cluster) = Cluster::start_with(0, &borrowed(&arguments), &borrowed(&access)) else {
        return;
    };
    let channels = cluster.channels("ch");
    let address = cluster.keys();
    let mut number = 0;
    for version in ["", "force_resp2 = true\n"] {
        let mut rig = Rig::start(&format!("{address}{LOGIN}{version}{}", tls("tls")));
        rig.until("all nodes", |rig| rig.lives.len() >= 3 && rig.trouble().is_none());
        number += 1;
        round_trip(&mut rig, &channels, number);
        // A slot moves: the connections that find it again are secure, too.
        let (slot, owner) = (cluster.slot(&channels[0]), cluster.owner(&channels[0]));
        rig.lives.clear();
        cluster.move_slot(slot, owner, 1);
        rig.until("it to be heard of", |rig| rig.lives.len() >= 2 && rig.deaf.is_empty());
        number += 1;
        round_trip(&mut rig, &channels, number);
        cluster.move_slot(slot, 1, owner);
        rig.finish();
    }
    // Sharded messages need no more rights.
    let sharded = address.replace("partitions = 0", "partitions = 8");
    let mut rig = Rig::start(&format!("{sharded}{LOGIN}{}", tls("tls")));
    rig.until("all nodes", |rig| rig.lives.len() >= 3 && rig.trouble().is_none());
    round_trip(&mut rig, &channels, 1);
    rig.finish();
    let wrong = LOGIN.replace("word\"\n", "wrong\"\n");
    Rig::start(&format!("{address}{wrong}{}", tls("tls"))).complains("user and password");
    Rig::start(&format!("{address}{LOGIN}[engine.redis.tls]\nenabled = true\n"))
        .complains("no TLS handshake");
    let mut plain = Rig::start(&format!("{address}{LOGIN}"));
    plain.complains("no node of the cluster answers");
    assert!(plain.lives.is_empty());
}

#[test]
fn sentinels_and_servers_over_tls_with_users() {
    let arguments = [tls_arguments(), user(&[])].concat();
    let mut file = String::new();
    for pair in tls_arguments().chunks_exact(2) {
        file += &format!("{} {}\n", &pair[0][2..], pair[1]);
    }
    let rights = granted("A Sentinel's user needs").join(" ");
    file += &format!("user watcher on >seen {rights}\n");
    let access = tls_access();
    let access = borrowed(&access);
    let Some(mut group) = Group::start_with(3, &borrowed(&arguments), &file, &access) else {
        return;
    };
    let keys = format!(
        "{}sentinel_user = \"watcher\"\nsentinel_password = \"seen\"\n{LOGIN}",
        group.keys()
    );
    let channels = ["a".to_owned()];
    let both = tls("tls") + &tls("sentinel_tls");
    let mut rig = Rig::connected(&format!("{keys}{both}"));
    round_trip(&mut rig, &channels, 1);
    group.in_step();
    let lives = rig.lives.len();
    group.primary().kill();
    group.taken_over();
    rig.until("the replica in its place", |rig| {
        rig.lives.len() > lives && rig.lives.last().is_some_and(Option::is_some)
    });
    round_trip(&mut rig, &channels, 2);
    assert_eq!(rig.view.tally.switches.get(), 1);
    rig.finish();
    // In the form of a URL.
    let url = format!(
        "address = [\"rediss+sentinel://ringhold:word@{}?sentinel_master_name={NAME}\
         &sentinel_user=watcher&sentinel_password=seen\"]\n",
        group.address().split(',').next().unwrap()
    );
    let tables = both.replace("enabled = true\n", "");
    let mut rig = Rig::connected(&format!("{url}{tables}"));
    round_trip(&mut rig, &channels, 3);
    rig.finish();
    for (from, to, words) in [
        ("\"seen\"", "\"wrong\"", "sentinel_user, .sentinel_password) are refused"),
        ("\"word\"", "\"wrong\"", "engine.redis.user, .password) are refused"),
    ] {
        Rig::start(&format!("{}{both}", keys.replace(from, to))).complains(words);
    }
    for table in ["tls", "sentinel_tls"] {
        // Only one of them is spoken to over TLS.
        let mut rig = Rig::start(&format!("{keys}{}", tls(table)));
        rig.collect(Duration::from_millis(100));
        until("a complaint", || !rig.trouble().unwrap_or_default().contains("not reached yet"));
        assert!(rig.lives.is_empty());
    }
}

/// One without the rights of the documentation is told which it lacks.
#[test]
fn a_right_that_is_missing_is_named() {
    let mut rights = user(&[]);
    rights.retain(|right| right != "+@scripting");
    let Some(redis) = Redis::start_with(&borrowed(&rights), &[]) else { return };
    let address = format!("address = [\"127.0.0.1:{}\"]\n{LOGIN}", redis.port());
    Rig::start(&address).complains("SCRIPT LOAD is forbidden");
}
