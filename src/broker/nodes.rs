//! The nodes of a Redis Cluster, asked what they own.
//!
//! Owns the way to ask. Whom of them to believe is in [`super::slots`].

use std::sync::Arc;

use tokio::time::timeout;

use super::dial::{connect, receive};
use super::link::Link;
use super::resp::{Reply, command};
use super::sentinel::{GRACE, gather};
use super::slots::{Claim, claim};
use super::target::{Address, Target};
use crate::broker::server::RedisPlace;

/// The answers of nodes, and the reasons of those that give none.
#[derive(Debug, Default)]
pub struct Claims {
    /// Of each that answers.
    pub claims: Vec<Claim>,
    /// Of each that does not.
    pub faults: Vec<String>,
}

/// Asks at all these places at once.
pub async fn ask_all(target: &Target, places: Vec<Address>) -> Claims {
    let target = Arc::new(target.clone());
    let ask = |place: Address| {
        let target = target.clone();
        async move { ask(&target, &place).await }
    };
    let mut all = Claims::default();
    for ((host, port), answer) in gather(places, GRACE, ask).await {
        match answer {
            Ok(claim) => all.claims.push(claim),
            Err(why) => all.faults.push(format!("{host}:{port}: {why}")),
        }
    }
    all
}

/// Asks at one, within `connect_timeout`.
async fn ask(target: &Target, at: &Address) -> Result<Claim, String> {
    let within = target.server.connect_timeout;
    let asked = async {
        let place = RedisPlace::Tcp(at.0.clone(), at.1);
        let stream = connect(&place, target.tls.as_ref()).await;
        let mut link = Link::new(stream.map_err(|error| error.to_string())?);
        let (user, password) = (target.server.user.as_str(), target.server.password.reveal());
        match (user.is_empty(), password.is_empty()) {
            (_, true) => {}
            (true, false) => command(link.output(), &["AUTH", password]),
            (false, false) => command(link.output(), &["AUTH", user, password]),
        }
        let replies = 1 + usize::from(!password.is_empty());
        command(link.output(), &["CLUSTER", "NODES"]);
        let mut answer = Err("no answer".to_owned());
        let mut refused = None;
        let each = |reply: Reply<'_>| match reply {
            Reply::Error(what) => {
                // That the password is wrong says more than that one is needed.
                refused.get_or_insert_with(|| String::from_utf8_lossy(what).into_owned());
            }
            reply => {
                let claim = reply.str().and_then(|text| claim(text, at));
                answer = claim.ok_or_else(|| "it does not say what it owns".to_owned());
            }
        };
        receive(&mut link, replies, each).await.map_err(|error| error.to_string())?;
        match refused {
            Some(what) if what.starts_with("NOAUTH") || what.starts_with("WRONGPASS") => {
                let keys = &target.keys;
                Err(format!("user and password ({keys}.user, .password) are refused: {what}"))
            }
            Some(what) => Err(what),
            None => answer,
        }
    };
    let answer = timeout(within, asked).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
}
