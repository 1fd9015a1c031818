//! Whether a Redis or a NATS is fit for channels: what `ringhold doctor --config` says of it.
//!
//! Connects as the server does, asks for settings, and changes nothing. The invariant: what may not
//! be asked is a remark that says so; nothing is assumed to be well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::config::Config;
use super::dial::{DialError, Facts, Purpose, dial};
use super::layout::Layout;
use super::link::{Link, Lost};
use super::nats::Servers;
use super::nodes::{Claims, ask_all as ask_all_nodes};
use super::resp::{Reply, command};
use super::sentinel::{Said, ask_all, believed, quorum};
use super::slots::Map;
use super::target::{Address, Target};
use crate::broker::server::{RedisPlace, Sentinels};

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Fine,
    /// Could not be asked.
    Unknown,
    /// It works, at a price.
    Better,
    /// It does not work, or not reliably.
    Short,
}

/// One thing about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Stable name of what was looked at.
    pub check: &'static str,
    /// How it is.
    pub grade: Grade,
    /// What there is.
    pub found: String,
    /// What follows if nothing is done.
    pub consequence: Option<&'static str>,
    /// A line that mends it, for `redis-cli`.
    pub mend: Option<&'static str>,
}

impl Remark {
    fn new(check: &'static str, grade: Grade, found: impl Into<String>) -> Self {
        Self { check, grade, found: found.into(), consequence: None, mend: None }
    }

    fn because(mut self, what: &'static str) -> Self {
        self.consequence = Some(what);
        self
    }

    fn mend(mut self, line: &'static str) -> Self {
        self.mend = Some(line);
        self
    }
}

/// Looks at all servers of a configuration. Takes a few seconds at most for each.
///
/// # Errors
/// There is no runtime.
pub fn inspect(config: &Config) -> std::io::Result<Vec<Remark>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let mut remarks = Vec::new();
        if let Some(nats) = &config.nats {
            remarks.extend(nats_of(&nats.servers).await);
        }
        for target in &config.targets {
            remarks.extend(look(target, &config.layout(target)).await);
        }
        remarks
    }))
}

/// Whether one of the servers answers, which, and what it takes.
async fn nats_of(servers: &Servers) -> Vec<Remark> {
    let info = match servers.dial().await {
        Ok((_, identity, info)) => (identity.place.to_string(), info),
        Err(error) => {
            let remark = Remark::new("nats", Grade::Short, format!("{}: {error}", servers.place()));
            return vec![remark.because("clients get error 100 and /health answers 503")];
        }
    };
    let (place, info) = info;
    let found = format!("{place}: version {}", info.version);
    let mut remarks = vec![Remark::new("nats", Grade::Fine, found)];
    let found = format!("messages of {} bytes", info.max_payload);
    remarks.push(match info.max_payload >= MESSAGES_MIN {
        true => Remark::new("nats-max-payload", Grade::Fine, found),
        false => Remark::new("nats-max-payload", Grade::Better, found)
            .because("larger publications get error 106"),
    });
    // The server itself is among those that it names.
    let others = info.connect_urls.iter().flatten().count().max(1) - 1;
    let found = format!("{others} other servers of its cluster, {} configured", servers.number());
    remarks.push(match others > 0 || servers.number() > 1 {
        true => Remark::new("nats-cluster", Grade::Fine, found),
        false => Remark::new("nats-cluster", Grade::Better, found)
            .because("nothing is published while this one is away"),
    });
    remarks
}

/// NATS' own default; less is somebody's decision.
const MESSAGES_MIN: u64 = 1 << 20;

async fn look(target: &Target, layout: &Layout) -> Vec<Remark> {
    let place = &target.server.place;
    let mut remarks = match place {
        RedisPlace::Sentinel(sentinels) => sentinels_of(target, sentinels).await,
        RedisPlace::Cluster(places) => return cluster_of(target, places, layout).await,
        _ => Vec::new(),
    };
    let reached = dial(target, Purpose::Commands).await;
    let (mut link, identity) = match reached {
        Ok(reached) => reached,
        Err(error) => {
            let found = format!("{place}: {error}");
            let remark = Remark::new("redis", Grade::Short, found);
            remarks.push(remark.because("clients get error 100 and /health answers 503"));
            return remarks;
        }
    };
    let protocol = if identity.resp3 { 3 } else { 2 };
    let found = format!("{}: version {}, protocol {protocol}", identity.place, identity.version);
    remarks.push(Remark::new("redis", Grade::Fine, found));
    remarks.push(version(&identity.version, layout.is_sharded()));
    let within = target.server.io_timeout;
    match tokio::time::timeout(within, settings(&mut link)).await {
        Ok(Ok(settings)) => remarks.extend(judge(&settings)),
        Ok(Err(error)) => {
            remarks.push(Remark::new("redis-settings", Grade::Unknown, error.to_string()));
        }
        Err(_) => {
            let what = format!("no answer within {within:?}");
            remarks.push(Remark::new("redis-settings", Grade::Unknown, what));
        }
    }
    remarks
}

/// Who of them answers, whether they agree, and whether they could agree on a failover.
async fn sentinels_of(target: &Target, sentinels: &Sentinels) -> Vec<Remark> {
    let all = ask_all(target, sentinels, target.server.connect_timeout).await;
    let mut remarks = vec![agreement(&sentinels.master, &all)];
    remarks.extend(all.iter().filter_map(unheard));
    let Some(at) = all.iter().find(|said| said.said.is_ok()).map(|said| &said.at) else {
        return remarks;
    };
    remarks.push(match quorum(target, sentinels, at).await {
        Ok(words) => Remark::new("sentinel-quorum", Grade::Fine, words),
        Err(words) if words.starts_with("NOPERM") => {
            Remark::new("sentinel-quorum", Grade::Unknown, words)
        }
        Err(words) => Remark::new("sentinel-quorum", Grade::Short, words)
            .because("they cannot agree on another primary when this one fails"),
    });
    remarks.push(number(&all));
    remarks
}

/// Who of the nodes answers, whether all slots are served, and each node for itself.
async fn cluster_of(target: &Target, places: &[Address], layout: &Layout) -> Vec<Remark> {
    let mut claims = ask_all_nodes(target, places.to_vec()).await.claims;
    let mut others: Vec<_> =
        claims.iter().flat_map(|claim| &claim.others).map(|(_, place)| place.clone()).collect();
    others.extend(claims.iter().map(|claim| claim.place.clone()));
    others.sort();
    others.dedup();
    let Claims { claims: all, faults } = ask_all_nodes(target, others).await;
    claims.extend(all);
    let map = Map::default().after(&claims);
    let mut remarks: Vec<_> = faults.into_iter().map(unheard_node).collect();
    remarks.push(whole(&map, places));
    let replicas: BTreeSet<_> =
        claims.iter().filter(|claim| !claim.is_primary).map(|claim| &claim.id).collect();
    let found = format!("{} nodes with slots, {} replicas", map.nodes().len(), replicas.len());
    remarks.push(match replicas.len() >= map.nodes().len() {
        true => Remark::new("cluster-replicas", Grade::Fine, found),
        false => Remark::new("cluster-replicas", Grade::Better, found)
            .because("the slots of a node without one are lost with it until it is back"),
    });
    remarks.extend(layout.is_sharded().then(|| spread(&map, layout)));
    for node in map.nodes() {
        remarks.extend(Box::pin(look(&target.node(&node.place), layout)).await);
    }
    remarks
}

/// Whether all nodes have about as many partitions.
fn spread(map: &Map, layout: &Layout) -> Remark {
    let mut counts: BTreeMap<_, usize> = map.nodes().iter().map(|node| (node, 0)).collect();
    for node in layout.slots().filter_map(|slot| map.owner(slot)) {
        *counts.entry(node).or_default() += 1;
    }
    let (least, most) = (counts.values().min(), counts.values().max());
    let (least, most) = (least.copied().unwrap_or(0), most.copied().unwrap_or(0));
    let found = format!("{} partitions, {least} to {most} on a node", layout.slots().count());
    match most <= 2 * least {
        true => Remark::new("cluster-partitions", Grade::Fine, found),
        false => Remark::new("cluster-partitions", Grade::Better, found)
            .because("nodes with more have more work: more partitions spread better"),
    }
}

fn unheard_node(why: String) -> Remark {
    Remark::new("cluster-node", Grade::Better, why)
        .because("what it owns is answered with error 100, unless a replica takes over")
}

fn whole(map: &Map, places: &[Address]) -> Remark {
    let check = "cluster";
    match (map.nodes().len(), map.unowned()) {
        (0, _) => {
            let places: Vec<_> =
                places.iter().map(|(host, port)| format!("{host}:{port}")).collect();
            Remark::new(check, Grade::Short, format!("no node answers: {}", places.join(", ")))
                .because("clients get error 100 and /health answers 503")
        }
        (_, 0) => Remark::new(check, Grade::Fine, "all slots have a node"),
        (_, slots) => Remark::new(check, Grade::Short, format!("{slots} slots have no node"))
            .because("their channels get error 100 and /health answers 503"),
    }
}

/// One that does not answer.
fn unheard(said: &Said) -> Option<Remark> {
    let (host, port) = &said.at;
    let why = said.said.as_ref().err()?;
    let remark = Remark::new("sentinel", Grade::Better, format!("{host}:{port}: {why}"));
    Some(remark.because("one that does not answer does not tell of a failover"))
}

fn agreement(master: &str, all: &[Said]) -> Remark {
    let known: Vec<_> = all.iter().filter_map(|said| said.said.as_ref().ok()).collect();
    let Some((host, port)) = believed(all) else {
        return Remark::new("sentinels", Grade::Short, format!("none knows \"{master}\""))
            .because("clients get error 100 and /health answers 503");
    };
    let agree = known.iter().filter(|known| known.place == (host.clone(), *port)).count();
    let found = format!("{agree} of {} say that \"{master}\" is {host}:{port}", all.len());
    match agree == known.len() {
        true => Remark::new("sentinels", Grade::Fine, found),
        false => Remark::new("sentinels", Grade::Better, found)
            .because("the newest configuration is believed; a failover may be under way"),
    }
}

/// How many there are, and how many replicas.
fn number(all: &[Said]) -> Remark {
    let check = "sentinel-number";
    let known = || all.iter().filter_map(|said| said.said.as_ref().ok());
    let sentinels = known().map(|known| known.others.len() + 1).max().unwrap_or(0);
    let Some(replicas) = known().filter_map(|known| known.replicas).max() else {
        return Remark::new(check, Grade::Unknown, "SENTINEL MASTER is not allowed");
    };
    let found = format!("{sentinels} Sentinels, {replicas} replicas");
    match (sentinels, replicas) {
        (_, 0) => Remark::new(check, Grade::Short, found)
            .because("nothing can take over from the primary"),
        (0..=2, _) => Remark::new(check, Grade::Better, found)
            .because("with fewer than three the loss of one leaves no majority"),
        _ => Remark::new(check, Grade::Fine, found),
    }
}

/// What was asked for; `None` where it may not be.
#[derive(Debug, Default)]
struct Settings {
    facts: Facts,
    pubsub_buffer: Option<String>,
    min_replicas: Option<String>,
    timeout: Option<String>,
}

async fn settings(link: &mut Link) -> Result<Settings, DialError> {
    command(link.output(), &["INFO"]);
    for key in ["client-output-buffer-limit", "min-replicas-to-write", "timeout"] {
        command(link.output(), &["CONFIG", "GET", key]);
    }
    let mut answers: Vec<Option<String>> = Vec::new();
    while answers.len() < 4 {
        link.exchange().await?;
        link.replies(Instant::now(), |reply| {
            answers.push(text(&reply));
            Ok::<(), Lost>(())
        })?;
    }
    let mut answers = answers.into_iter();
    let mut next = || answers.next().flatten();
    let facts = Facts::of(&next().unwrap_or_default());
    Ok(Settings { facts, pubsub_buffer: next(), min_replicas: next(), timeout: next() })
}

/// Of a text, or of the value behind a name.
fn text(reply: &Reply<'_>) -> Option<String> {
    let value = match reply {
        Reply::List(pair) => pair.get(1)?,
        other => other,
    };
    value.str().map(str::to_owned)
}

fn version(version: &str, sharded: bool) -> Remark {
    let number = version.rsplit(' ').next().unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let (least, needed) = match sharded {
        true => ((7, 0), "7.0 or later is needed for sharded messages, or a Valkey"),
        false => ((6, 2), "6.2 or later is needed, or a Valkey"),
    };
    match (major, minor) {
        (0, _) => Remark::new("redis-version", Grade::Unknown, format!("\"{version}\"")),
        found if found >= least => Remark::new("redis-version", Grade::Fine, version),
        _ => Remark::new("redis-version", Grade::Short, version).because(needed),
    }
}

fn judge(settings: &Settings) -> Vec<Remark> {
    vec![
        memory(&settings.facts),
        buffers(settings.pubsub_buffer.as_deref()),
        replicas(&settings.facts, settings.min_replicas.as_deref()),
        idle(settings.timeout.as_deref()),
    ]
}

fn memory(facts: &Facts) -> Remark {
    let check = "redis-memory";
    match facts.maxmemory_policy.as_str() {
        "" => Remark::new(check, Grade::Unknown, "INFO does not tell it"),
        "noeviction" => Remark::new(check, Grade::Fine, "noeviction"),
        policy => Remark::new(check, Grade::Better, policy)
            .because(
                "where memory is short histories and positions vanish early, and clients load \
                 their state anew; without it publications are refused instead",
            )
            .mend("CONFIG SET maxmemory-policy noeviction"),
    }
}

/// `normal 0 0 0 slave … pubsub 33554432 8388608 60`.
fn buffers(limits: Option<&str>) -> Remark {
    let check = "redis-buffers";
    let Some(limits) = limits else {
        return Remark::new(check, Grade::Unknown, "CONFIG GET is not allowed");
    };
    let mut words = limits.split_whitespace().skip_while(|word| *word != "pubsub").skip(1);
    let mut next = || words.next().and_then(|word| word.parse::<u64>().ok());
    let (hard, soft) = (next(), next());
    match (hard, soft) {
        (Some(hard), Some(soft)) => {
            let found = format!("pubsub {hard} {soft}");
            let enough = |limit: u64, bytes: u64| limit == 0 || limit >= bytes;
            match enough(hard, BUFFER) && enough(soft, BUFFER / 4) {
                true => Remark::new(check, Grade::Fine, found),
                false => Remark::new(check, Grade::Better, found)
                    .because("a burst of messages cuts the connection; what is kept is repaired")
                    .mend(
                        "CONFIG SET client-output-buffer-limit \
                         \"pubsub 33554432 8388608 60\"",
                    ),
            }
        }
        _ => Remark::new(check, Grade::Unknown, limits),
    }
}

/// The default of Redis.
const BUFFER: u64 = 32 << 20;

fn replicas(facts: &Facts, min: Option<&str>) -> Remark {
    let check = "redis-replication";
    let found = |min: &str| format!("{} replicas, min-replicas-to-write {min}", facts.replicas);
    match (facts.replicas, min) {
        (0, _) => Remark::new(check, Grade::Fine, "no replicas"),
        (_, None) => Remark::new(check, Grade::Unknown, found("unknown")),
        (_, Some("0")) => Remark::new(check, Grade::Better, found("0"))
            .because(
                "a primary that is cut off takes publications that are lost when a replica \
                 takes over; nodes find out, and clients load their state anew",
            )
            .mend("CONFIG SET min-replicas-to-write 1"),
        (_, Some(min)) => Remark::new(check, Grade::Fine, found(min)),
    }
}

fn idle(timeout: Option<&str>) -> Remark {
    let check = "redis-timeout";
    match timeout.map(|text| text.parse::<u64>()) {
        None => Remark::new(check, Grade::Unknown, "CONFIG GET is not allowed"),
        Some(Ok(seconds @ 1..=10)) => Remark::new(check, Grade::Better, format!("{seconds} s"))
            .because("idle connections are closed before they are asked whether they live")
            .mend("CONFIG SET timeout 0"),
        Some(_) => Remark::new(check, Grade::Fine, timeout.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::Tags;
    use super::super::sentinel::Known;
    use super::super::slots::Claim;
    use super::*;

    #[test]
    fn settings_that_lose_something_are_remarked_on() {
        let facts = |policy: &str, replicas| Facts {
            maxmemory_policy: policy.to_owned(),
            replicas,
            ..Facts::default()
        };
        assert_eq!(memory(&facts("noeviction", 0)).grade, Grade::Fine);
        assert_eq!(memory(&facts("allkeys-lru", 0)).grade, Grade::Better);
        assert_eq!(memory(&facts("", 0)).grade, Grade::Unknown);
        assert_eq!(replicas(&facts("", 0), None).grade, Grade::Fine);
        assert_eq!(replicas(&facts("", 2), Some("0")).grade, Grade::Better);
        assert_eq!(replicas(&facts("", 2), Some("1")).grade, Grade::Fine);
        assert_eq!(replicas(&facts("", 2), None).grade, Grade::Unknown);
        let limits = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(buffers(Some(limits)).grade, Grade::Fine);
        assert_eq!(buffers(Some("pubsub 0 0 0")).grade, Grade::Fine);
        assert_eq!(buffers(Some("pubsub 1048576 8388608 60")).grade, Grade::Better);
        assert_eq!(buffers(Some("normal 0 0 0")).grade, Grade::Unknown);
        assert_eq!(idle(Some("0")).grade, Grade::Fine);
        assert_eq!(idle(Some("5")).grade, Grade::Better);
    }

    #[test]
    fn sentinels_that_cannot_fail_over_are_remarked_on() {
        let said = |at: u16, place: u16, epoch, others: u16, replicas| {
            let host = |port| ("h".to_owned(), port);
            let others = (0..others).map(host).collect();
            Said { at: host(at), said: Ok(Known { place: host(place), epoch, replicas, others }) }
        };
        let silent = Said { at: ("h".to_owned(), 9), said: Err("no route".to_owned()) };
        let (one, two) = (said(1, 10, 1, 2, Some(1)), said(2, 20, 2, 2, Some(1)));
        assert_eq!(agreement("m", &[one.clone(), one.clone()]).grade, Grade::Fine);
        let torn = agreement("m", &[one.clone(), two]);
        assert_eq!(
            (torn.grade, torn.found.contains("1 of 2 say that \"m\" is h:20")),
            (Grade::Better, true)
        );
        assert_eq!(agreement("m", std::slice::from_ref(&silent)).grade, Grade::Short);
        assert_eq!(unheard(&silent).unwrap().found, "h:9: no route");
        assert_eq!(unheard(&one), None);
        assert_eq!(number(&[silent, one]).grade, Grade::Fine);
        assert_eq!(number(&[said(1, 10, 1, 1, Some(1))]).grade, Grade::Better);
        assert_eq!(number(&[said(1, 10, 1, 2, Some(0))]).grade, Grade::Short);
        assert_eq!(number(&[said(1, 10, 0, 0, None)]).grade, Grade::Unknown);
    }

    #[test]
    fn clusters_that_are_not_whole_are_remarked_on() {
        let place = ("h".to_owned(), 1);
        assert_eq!(whole(&Map::default(), std::slice::from_ref(&place)).grade, Grade::Short);
        let claim = |to| Claim {
            id: "a".into(),
            place: place.clone(),
            epoch: 1,
            is_primary: true,
            slots: vec![(0, to)],
            others: Vec::new(),
        };
        let of = |to| whole(&Map::default().after(&[claim(to)]), &[]);
        assert_eq!(of(16_383).grade, Grade::Fine);
        // {0}, {1} and {2} lie in the slots 13907, 9842 and 5649.
        let claims =
            |at| [claim(at), Claim { id: "b".into(), slots: vec![(at + 1, 16_383)], ..claim(at) }];
        let spread = |at, count| {
            spread(&Map::default().after(&claims(at)), &Layout::new("p", Tags::Partitions(count)))
        };
        assert_eq!(spread(9000, 3).grade, Grade::Fine);
        assert_eq!(spread(5000, 3).found, "3 partitions, 0 to 3 on a node");
        assert_eq!(spread(5000, 3).grade, Grade::Better);
        assert_eq!(of(16_380).found, "3 slots have no node");
    }

    #[test]
    fn versions_count_from_6_2() {
        for (text, grade) in [
            ("7.0.15", Grade::Fine),
            ("6.2.0", Grade::Fine),
            ("6.0.16", Grade::Short),
            ("valkey 9.1.2", Grade::Fine),
            ("", Grade::Unknown),
        ] {
            assert_eq!(version(text, false).grade, grade, "{text}");
        }
        assert_eq!(version("6.2.0", true).grade, Grade::Short);
        assert_eq!(version("7.0.0", true).grade, Grade::Fine);
    }
}
