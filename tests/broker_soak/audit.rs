//! The end of a run: what every subscriber saw beside what the servers have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::servers::{Servers, Stream};
use super::shared::{Shared, Stretch, lock};

/// Compared, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// Publications that the servers have.
    pub(crate) kept: usize,
    /// Such that subscribers saw, each counted.
    pub(crate) agreed: usize,
    /// Seen where the servers have none any more, and the same by all who saw them.
    pub(crate) alike: usize,
    /// Acknowledged numbers that no server has: of those that failed.
    pub(crate) lost_with_servers: usize,
    /// Of these, such that somebody saw before it was told.
    pub(crate) seen_before: usize,
}

/// Waits until all subscribers are where the servers are.
pub(crate) fn settles(shared: &Shared, servers: &Servers, limit: Duration) {
    let deadline = Instant::now() + limit;
    loop {
        let behind = behind(shared, servers);
        if behind.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            for text in behind.iter().take(10) {
                shared.tally.fail(&format!("at the end {text}"));
            }
            return;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn behind(shared: &Shared, servers: &Servers) -> Vec<String> {
    let mut behind = Vec::new();
    for (name, _) in shared.channels.iter().filter(|(_, kind)| kind.has_stream()) {
        let Stream { epoch, top, .. } = servers.stream(name);
        for (client, records) in shared.records.iter().enumerate() {
            let records = lock(records);
            let Some(record) = records.get(name) else { continue };
            let at = record.current.as_ref().map(|it| (it.epoch.as_str(), it.top()));
            if !record.live || at != Some((&epoch, top)) {
                behind.push(format!(
                    "client {client} is at {at:?} of {name}, live: {}, and the server at {:?}",
                    record.live,
                    (&epoch, top)
                ));
            }
        }
    }
    behind
}

/// Compares everything. What does not agree is a failure.
pub(crate) fn compare(shared: &Shared, servers: &Servers) -> Compared {
    let mut compared = Compared::default();
    for (number, (name, kind)) in shared.channels.iter().enumerate() {
        if kind.has_stream() {
            let stream = servers.stream(name);
            channel(shared, (number, name), &stream, &mut compared);
        }
    }
    compared
}

fn channel(
    shared: &Shared,
    (number, name): (usize, &str),
    stream: &Stream,
    compared: &mut Compared,
) {
    let fail = |text: String| shared.tally.fail(&format!("{name}: {text}"));
    compared.kept += stream.entries.len();
    // A publisher gives the next number when the last one is acknowledged.
    for pair in stream.entries.windows(2) {
        let [(_, one), (at, other)] = pair else { continue };
        if other <= one {
            fail(format!("at {at} the server has {other} after {one}"));
        }
    }
    let kept: BTreeMap<u64, u32> = stream.entries.iter().copied().collect();
    let mut last: Vec<(usize, Stretch)> = Vec::new();
    let mut before: BTreeSet<u32> = BTreeSet::new();
    for (client, records) in shared.records.iter().enumerate() {
        if let Some(record) = lock(records).get(name) {
            last.extend(record.current.clone().map(|it| (client, it)));
            before.extend(record.before.iter().flat_map(|it| &it.numbers));
            // Whatever was lost: another history has another epoch.
            for stretch in record.before.iter().filter(|it| it.epoch == stream.epoch) {
                for (offset, number) in stretch.pairs() {
                    let there = kept.get(&offset);
                    if there.is_some_and(|there| *there != number) {
                        fail(format!(
                            "at {offset} client {client} saw {number} in {}, there is {there:?}",
                            stretch.epoch
                        ));
                    }
                }
            }
        }
    }
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    for (client, stretch) in last.iter().filter(|(_, it)| it.epoch == stream.epoch) {
        for (offset, number) in stretch.pairs() {
            match kept.get(&offset) {
                Some(there) if *there == number => compared.agreed += 1,
                Some(there) => {
                    fail(format!("at {offset} client {client} saw {number}, there is {there}"));
                }
                None => compared.alike += 1,
            }
            let first = *seen.entry(offset).or_insert(number);
            if first != number {
                fail(format!("at {offset} client {client} saw {number}, others {first}"));
            }
        }
    }
    let acked = lock(&shared.acked);
    let first = stream.entries.iter().map(|(_, number)| *number).min();
    let there: BTreeSet<u32> = kept.values().copied().collect();
    let mut lost = BTreeSet::new();
    for acked in acked.iter().filter(|it| it.channel == number) {
        let place = kept.get(&acked.offset).or_else(|| seen.get(&acked.offset));
        // A server that lost its end goes on in the same epoch, where nobody saw what was lost.
        let other = acked.epoch == stream.epoch && place.is_some_and(|it| *it != acked.number);
        if other && !shared.has_losses() {
            fail(format!("{acked:?}, and there is {place:?}, though no server has lost anything"));
        }
        if first.is_some_and(|first| acked.number > first) && !there.contains(&acked.number) {
            lost.insert(acked.number);
        }
    }
    if !lost.is_empty() && !shared.has_losses() {
        fail(format!("acknowledged, and no server has lost anything: {lost:?}"));
    }
    compared.seen_before += lost.intersection(&before).count();
    compared.lost_with_servers += lost.len();
}
