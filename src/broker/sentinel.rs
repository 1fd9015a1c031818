//! Where a primary is, as its Sentinels say.
//!
//! Owns how they are asked, and whom of them to believe: all are asked at once, and the newest
//! configuration counts, which each failover gives a higher epoch; among equals the majority. What
//! was believed before does not count: Sentinels that were set up anew begin with low epochs again.
//! The invariants: who does not answer holds up nobody once another has; nothing is believed of the
//! server itself, whose role is asked for on each connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::dial::{DialError, connect, receive};
use super::link::Link;
use super::resp::{Reply, command};
use super::target::{Address, Target};
use crate::broker::server::{RedisPlace, Sentinels};

/// The answer of one Sentinel, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Which one.
    pub at: Address,
    /// The answer.
    pub said: Result<Known, String>,
}

/// The knowledge of one Sentinel about a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it is.
    pub place: Address,
    /// Of the configuration. 0: it may not be asked for.
    pub epoch: u64,
    /// Replicas of it, if they may be asked for.
    pub replicas: Option<u32>,
    /// Other Sentinels.
    pub others: Vec<Address>,
}

/// Once one has answered, the others have so long.
pub(super) const GRACE: Duration = Duration::from_millis(100);

/// Where the primary is.
pub(super) async fn primary(
    target: &Target,
    sentinels: &Sentinels,
) -> Result<RedisPlace, DialError> {
    let all = ask_all(target, sentinels, GRACE).await;
    match believed(&all) {
        Some((host, port)) => Ok(RedisPlace::Tcp(host.clone(), *port)),
        None => {
            let why = |said: &Said| {
                let (host, port) = &said.at;
                let why = said.said.as_ref().err().map_or("", String::as_str);
                format!("{host}:{port}: {why}")
            };
            let why: Vec<_> = all.iter().map(why).collect();
            let name = &sentinels.master;
            let why = why.join("; ");
            Err(DialError::Sentinel(format!("no Sentinel says where \"{name}\" is: {why}")))
        }
    }
}

/// Asks all: those that are configured first, then those that others have named. Returns when all
/// have answered or failed, or one has answered and the grace of the others is over.
pub async fn ask_all(target: &Target, sentinels: &Sentinels, grace: Duration) -> Vec<Said> {
    let (shared, group) = (Arc::new(target.clone()), Arc::new(sentinels.clone()));
    let ask = |place: Address| {
        let (target, group) = (shared.clone(), group.clone());
        async move { ask(&target, &group, &place).await }
    };
    let all = gather(places(target, sentinels), grace, ask).await;
    let all: Vec<_> = all.into_iter().map(|(at, said)| Said { at, said }).collect();
    if let Some((said, known)) = newest(&all) {
        let own = std::iter::once(&said.at).chain(&known.others);
        target.meet(own.filter(|at| !sentinels.places.contains(at)).cloned().collect());
    }
    all
}

/// Asks several at once. Returns when all have answered or failed, or one has answered and the
/// grace of the others is over.
pub(super) async fn gather<T, F>(
    places: Vec<Address>,
    grace: Duration,
    ask: impl Fn(Address) -> F,
) -> Vec<(Address, Result<T, String>)>
where
    T: Send + 'static,
    F: Future<Output = Result<T, String>> + Send + 'static,
{
    let mut asked = JoinSet::new();
    for (index, place) in places.iter().enumerate() {
        let answer = ask(place.clone());
        asked.spawn(async move { (index, answer.await) });
    }
    let mut answers: Vec<Option<Result<T, String>>> = places.iter().map(|_| None).collect();
    let mut until = None;
    loop {
        let next = match until {
            None => asked.join_next().await,
            Some(until) => match timeout_at(until, asked.join_next()).await {
                Ok(next) => next,
                Err(_) => break,
            },
        };
        let Some(joined) = next else { break };
        if let Ok((index, answer)) = joined {
            if answer.is_ok() && until.is_none() {
                until = Some(Instant::now() + grace);
            }
            answers[index] = Some(answer);
        }
    }
    let late = || Err(format!("no answer within {grace:?} of another"));
    let all = places.into_iter().zip(answers);
    all.map(|(at, answer)| (at, answer.unwrap_or_else(late))).collect()
}

/// Those that are configured, then those that others have named.
pub(super) fn places(target: &Target, sentinels: &Sentinels) -> Vec<Address> {
    let mut places = sentinels.places.clone();
    places.extend(target.met().into_iter().filter(|met| !sentinels.places.contains(met)));
    places
}

/// Where the primary is, if any of them knows.
pub(super) fn believed(all: &[Said]) -> Option<&Address> {
    newest(all).map(|(_, known)| &known.place)
}

fn newest(all: &[Said]) -> Option<(&Said, &Known)> {
    let known = || all.iter().filter_map(|said| Some((said, said.said.as_ref().ok()?)));
    let epoch = known().map(|(_, known)| known.epoch).max()?;
    let voters = || known().filter(|(_, known)| known.epoch == epoch);
    let votes = |place: &Address| voters().filter(|(_, known)| known.place == *place).count();
    // Of equal ones the first.
    voters().rev().max_by_key(|(_, known)| votes(&known.place))
}

/// Asks one of them, within `connect_timeout`.
async fn ask(target: &Target, sentinels: &Sentinels, at: &Address) -> Result<Known, String> {
    let within = target.server.connect_timeout;
    let asked = async {
        let mut link = enter(target, sentinels, at).await?;
        let master = sentinels.master.as_str();
        for question in ["GET-MASTER-ADDR-BY-NAME", "MASTER", "SENTINELS"] {
            command(link.output(), &["SENTINEL", question, master]);
        }
        let mut place = Err("no answer".to_owned());
        let (mut epoch, mut replicas, mut others) = (0, None, Vec::new());
        let mut turn = 0;
        let each = |reply: Reply<'_>| {
            match (turn, &reply) {
                (0, reply) => place = address(reply, master),
                (1, Reply::List(fields)) => {
                    epoch = field(fields, "config-epoch").and_then(Reply::count).unwrap_or(0);
                    let number = field(fields, "num-slaves").and_then(Reply::count);
                    replicas = number.and_then(|number| u32::try_from(number).ok());
                }
                (2, Reply::List(list)) => others = list.iter().filter_map(other).collect(),
                // Not allowed: it is worth less, and something.
                _ => {}
            }
            turn += 1;
        };
        receive(&mut link, 3, each).await.map_err(|error| error.to_string())?;
        Ok(Known { place: place?, epoch, replicas, others })
    };
    let answer = timeout(within, asked).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
}

/// Lets one say what it knows of failovers: whether a majority would agree on one.
///
/// # Errors
/// Its words, or the reason why there are none.
pub async fn quorum(
    target: &Target,
    sentinels: &Sentinels,
    at: &Address,
) -> Result<String, String> {
    let within = target.server.connect_timeout;
    let asked = async {
        let mut link = enter(target, sentinels, at).await?;
        command(link.output(), &["SENTINEL", "CKQUORUM", &sentinels.master]);
        let mut answer = Err(String::new());
        receive(&mut link, 1, |reply| answer = words(&reply))
            .await
            .map_err(|error| error.to_string())?;
        answer
    };
    let answer = timeout(within, asked).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
}

/// Connects to one and hears of failovers from then on, as messages of [`SWITCHES`].
pub(super) async fn subscribe(
    target: &Target,
    sentinels: &Sentinels,
    at: &Address,
) -> Result<Link, String> {
    let within = target.server.connect_timeout;
    let subscribed = async {
        let mut link = enter(target, sentinels, at).await?;
        command(link.output(), &["SUBSCRIBE", SWITCHES[0], SWITCHES[1]]);
        let mut refusal = None;
        receive(&mut link, SWITCHES.len(), |reply| refusal = words(&reply).err())
            .await
            .map_err(|error| error.to_string())?;
        refusal.map_or(Ok(link), Err)
    };
    let answer = timeout(within, subscribed).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
}

/// What Sentinels publish, with the name of the primary: that it has another place; and before
/// that, by the one that leads a failover, that a replica was promoted.
pub(super) const SWITCHES: [&str; 2] = ["+switch-master", "+promoted-slave"];

/// A connection on which questions may be asked, in version 2 of the protocol.
async fn enter(target: &Target, sentinels: &Sentinels, at: &Address) -> Result<Link, String> {
    let place = RedisPlace::Tcp(at.0.clone(), at.1);
    let stream = connect(&place, target.sentinel_tls.as_ref()).await;
    let mut link = Link::new(stream.map_err(|error| error.to_string())?);
    let (user, password) = (sentinels.user.as_str(), sentinels.password.reveal());
    let replies = 1 + usize::from(!password.is_empty());
    if !password.is_empty() {
        match user.is_empty() {
            true => command(link.output(), &["AUTH", password]),
            false => command(link.output(), &["AUTH", user, password]),
        }
    }
    let name = match sentinels.client_name.as_str() {
        "" => "ringhold",
        name => name,
    };
    command(link.output(), &["CLIENT", "SETNAME", name]);
    let (mut refusal, mut left) = (None, replies);
    let each = |reply: Reply<'_>| {
        // A name is for people: only the first of two has to be right.
        if left == 2
            && let Err(what) = words(&reply)
        {
            refusal = Some(what);
        }
        left -= 1;
    };
    receive(&mut link, replies, each).await.map_err(|error| error.to_string())?;
    match refusal {
        None => Ok(link),
        Some(what) => Err(unauthorised(target, &what)),
    }
}

fn unauthorised(target: &Target, what: &str) -> String {
    let keys = &target.keys;
    format!("user and password ({keys}.sentinel_user, .sentinel_password) are refused: {what}")
}

/// Of a pair of host and port.
fn address(reply: &Reply<'_>, master: &str) -> Result<Address, String> {
    match reply {
        Reply::Error(what) => Err(String::from_utf8_lossy(what).into_owned()),
        Reply::Nil => Err(format!("it knows no \"{master}\" (sentinel_master_name)")),
        Reply::List(pair) => match &pair[..] {
            [host, port] => pair_of(host, port),
            _ => None,
        }
        .ok_or_else(|| "the answer is no address".to_owned()),
        _ => Err("the answer is no address".to_owned()),
    }
}

fn pair_of(host: &Reply<'_>, port: &Reply<'_>) -> Option<Address> {
    let host = host.str().filter(|host| !host.is_empty())?;
    let port = port.count().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)?;
    Some((host.to_owned(), port))
}

/// Of one of a list of Sentinels.
fn other(reply: &Reply<'_>) -> Option<Address> {
    let fields = reply.list()?;
    pair_of(field(fields, "ip")?, field(fields, "port")?)
}

/// The value behind a name in a list of both.
fn field<'a, 'b>(fields: &'a [Reply<'b>], name: &str) -> Option<&'a Reply<'b>> {
    fields.chunks_exact(2).find(|pair| pair[0].str() == Some(name)).map(|pair| &pair[1])
}

/// A status, or an error.
fn words(reply: &Reply<'_>) -> Result<String, String> {
    let lossy = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    match reply {
        Reply::Error(what) => Err(lossy(what)),
        other => Ok(other.text().map(lossy).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(at: u16, place: u16, epoch: u64) -> Said {
        let host = |port| ("h".to_owned(), port);
        let known = Known { place: host(place), epoch, replicas: None, others: Vec::new() };
        Said { at: host(at), said: Ok(known) }
    }

    fn silent(at: u16) -> Said {
        Said { at: ("h".to_owned(), at), said: Err("gone".to_owned()) }
    }

    #[test]
    fn the_newest_configuration_is_believed_then_the_majority_then_the_first() {
        let port = |all: &[Said]| believed(all).map(|(_, port)| *port);
        assert_eq!(port(&[]), None);
        assert_eq!(port(&[silent(1), silent(2)]), None);
        assert_eq!(port(&[said(1, 10, 0), silent(2)]), Some(10));
        assert_eq!(port(&[said(1, 10, 3), said(2, 10, 3), said(3, 20, 4)]), Some(20));
        assert_eq!(port(&[said(1, 10, 3), said(2, 20, 3), said(3, 20, 3)]), Some(20));
        assert_eq!(port(&[said(1, 10, 3), said(2, 20, 3)]), Some(10));
        assert_eq!(port(&[said(1, 10, 0), said(2, 20, 5), said(3, 10, 0)]), Some(20));
    }

    #[test]
    fn answers_are_read_or_say_why_not() {
        let parse = |text: &'static str| Reply::parse(text.as_bytes()).unwrap();
        let of = |text| address(&parse(text), "m");
        assert_eq!(of("*2\r\n$1\r\nh\r\n$2\r\n80\r\n"), Ok(("h".to_owned(), 80)));
        for (text, part) in [
            ("*-1\r\n", "knows no \"m\""),
            ("$-1\r\n", "knows no \"m\""),
            ("-NOAUTH please\r\n", "NOAUTH"),
            ("*2\r\n$1\r\nh\r\n$1\r\n0\r\n", "no address"),
            ("*2\r\n$0\r\n\r\n$2\r\n80\r\n", "no address"),
            ("*2\r\n$1\r\nh\r\n$5\r\n80000\r\n", "no address"),
            ("*1\r\n$1\r\nh\r\n", "no address"),
            ("+OK\r\n", "no address"),
        ] {
            let what = of(text).unwrap_err();
            assert!(what.contains(part), "{text}: {what}");
        }
        let one = parse("*4\r\n$2\r\nip\r\n$1\r\ni\r\n$4\r\nport\r\n$1\r\n7\r\n");
        assert_eq!(other(&one), Some(("i".to_owned(), 7)));
        assert_eq!(other(&parse("*2\r\n$2\r\nip\r\n$1\r\ni\r\n")), None);
    }
}
