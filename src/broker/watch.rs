//! Follows where a primary is while connections to it last, and tells its shard.
//!
//! A connection that lasts says nothing of a failover: a primary that was demoted goes on answering
//! as a replica. So each Sentinel is listened to, and all are asked when one tells of a failover,
//! and every [`EVERY`] because it may have told nobody: who died with the primary tells nothing.
//! Owns the connections that listen. The invariant: what an event says is never believed by itself;
//! it is only a reason to ask.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::link::Link;
use super::resp::{Reply, command};
use super::sentinel::{self, GRACE, SWITCHES};
use super::shard::Inbox;
use super::tally::Condition;
use super::target::{Address, Target};
use crate::broker::server::{RedisPlace, Sentinels};

/// All are asked so often, whatever they tell.
const EVERY: Duration = Duration::from_secs(5);

/// Not more often than this, although several tell of the same failover.
const PACE: Duration = Duration::from_millis(50);

/// Before one is connected to again.
const PAUSE: Duration = Duration::from_secs(1);

/// A task that ends with whoever holds it.
pub(super) struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to follow a primary, if there are Sentinels to ask.
pub(super) fn follow(target: &Target, inbox: Rc<Inbox>, condition: Arc<Condition>) -> Option<Task> {
    let RedisPlace::Sentinel(sentinels) = &target.server.place else { return None };
    let (target, sentinels) = (Rc::new(target.clone()), Rc::new((**sentinels).clone()));
    let watch = async move {
        let news = Rc::new(Notify::new());
        let mut ears: BTreeMap<Address, Task> = BTreeMap::new();
        let (mut told, patience) = (false, target.server.connect_timeout);
        loop {
            // One that was told of hurries; else each has its time.
            let grace = if told { GRACE } else { patience };
            let all = sentinel::ask_all(&target, &sentinels, grace).await;
            if !told {
                let own = all.iter().filter(|said| sentinels.places.contains(&said.at));
                condition.sentinels(own.filter(|said| said.said.is_ok()).count());
            }
            if let Some((host, port)) = sentinel::believed(&all) {
                inbox.moved(RedisPlace::Tcp(host.clone(), *port));
                inbox.ring();
            }
            let places = sentinel::places(&target, &sentinels);
            ears.retain(|place, _| places.contains(place));
            for place in places {
                let ear = || listen(target.clone(), sentinels.clone(), place.clone(), news.clone());
                let task = || Task(tokio::task::spawn_local(ear()));
                ears.entry(place.clone()).or_insert_with(task);
            }
            tokio::time::sleep(PACE).await;
            told = tokio::time::timeout(EVERY, news.notified()).await.is_ok();
        }
    };
    Some(Task(tokio::task::spawn_local(watch)))
}

/// Listens to one Sentinel for ever.
async fn listen(target: Rc<Target>, sentinels: Rc<Sentinels>, at: Address, news: Rc<Notify>) {
    loop {
        match sentinel::subscribe(&target, &sentinels, &at).await {
            Ok(link) => {
                // Something may have happened meanwhile.
                news.notify_one();
                hear(link, &target, &sentinels.master, &news).await;
            }
            Err(what) => tracing::debug!(sentinel = %at.0, port = at.1, "not listened to: {what}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until the connection ends, or is silent although it was asked whether it is there.
async fn hear(mut link: Link, target: &Target, master: &str, news: &Notify) {
    let mut pinged = false;
    loop {
        let patience = if pinged { target.server.io_timeout } else { EVERY };
        match tokio::time::timeout(patience, link.exchange()).await {
            Err(_) if pinged => return,
            Err(_) => {
                command(link.output(), &["PING"]);
                pinged = true;
                continue;
            }
            Ok(Err(_)) => return,
            Ok(Ok(())) => pinged = false,
        }
        let each = |reply: Reply<'_>| {
            if tells(&reply, master) {
                news.notify_one();
            }
            Ok(())
        };
        if link.replies(Instant::now(), each).is_err() {
            return;
        }
    }
}

/// Whether a message tells of a failover of this primary.
fn tells(reply: &Reply<'_>, master: &str) -> bool {
    let Some([_, name, payload]) = reply.list() else { return false };
    let named = payload.str().is_some_and(|words| words.split(' ').any(|word| word == master));
    named && name.str().is_some_and(|name| SWITCHES.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_for_its_own_primary() {
        let tells = |name: &str, payload: &str| {
            let sizes = (name.len(), payload.len());
            let head = "*3\r\n$7\r\nmessage\r\n";
            let text = format!("{head}${}\r\n{name}\r\n${}\r\n{payload}\r\n", sizes.0, sizes.1);
            super::tells(&Reply::parse(text.as_bytes()).unwrap(), "m")
        };
        assert!(tells("+switch-master", "m 10.0.0.1 6379 10.0.0.2 6379"));
        assert!(tells("+promoted-slave", "slave 10.0.0.2:6379 10.0.0.2 6379 @ m 10.0.0.1 6379"));
        assert!(!tells("+switch-master", "other 10.0.0.1 6379 10.0.0.2 6379"));
        assert!(!tells("+sdown", "m 10.0.0.1 6379"));
    }
}
