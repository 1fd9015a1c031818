//! Who and what is there, for the admin page: channels, users, a user's connections.

use std::time::Duration;

use axum::extract::Query;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::operator::Operator;
use super::written;
use crate::control::backend::Backend;
use crate::control::body::refusal;
use crate::gateway::inspect::{Connection, Found, Named, Search};
use crate::gateway::wire::{Encoding, Error};

/// `q` is a part of the name, or a pattern if it has `*`, `?`, `[` or `{`. Empty: any name. `page`
/// counts from 0.
#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    q: String,
    #[serde(default)]
    page: usize,
}

#[derive(Deserialize)]
pub(super) struct Whose {
    #[serde(default)]
    user: String,
}

#[derive(Serialize)]
struct SearchAnswer<'a> {
    /// How many match; over several cores that have more than they tell, some of them twice.
    matched: usize,
    /// How many a page has.
    page_size: usize,
    /// How many pages there may be.
    pages: usize,
    list: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    count: u32,
    published: u64,
}

#[derive(Serialize)]
pub(super) struct Who<'a> {
    core: u16,
    client: String,
    user: &'a str,
    address: Option<String>,
    transport: &'static str,
    /// Unix time in seconds.
    since: i64,
    encoding: &'static str,
    subscriptions: usize,
    channels: Vec<&'a str>,
}

impl<'a> Who<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self {
            core: connection.core,
            client: connection.client.to_string(),
            user: &connection.user,
            address: connection.peer.map(|peer| peer.to_string()),
            transport: connection.transport.name(),
            since: connection.since,
            encoding: match connection.encoding {
                Encoding::Json => "json",
                Encoding::Protobuf => "protobuf",
            },
            subscriptions: connection.subscriptions,
            channels: connection.channels.iter().map(AsRef::as_ref).collect(),
        }
    }
}

pub(super) async fn channels<B: Backend>(Operator(inside): Operator<B>, uri: Uri) -> Response {
    match search(&uri) {
        Ok(search) => found(within(inside.backend.channels(search)).await),
        Err(status) => refusal(status),
    }
}

pub(super) async fn users<B: Backend>(Operator(inside): Operator<B>, uri: Uri) -> Response {
    match search(&uri) {
        Ok(search) => found(within(inside.backend.users(search)).await),
        Err(status) => refusal(status),
    }
}

pub(super) async fn user<B: Backend>(Operator(inside): Operator<B>, uri: Uri) -> Response {
    let Ok(Query(Whose { user })) = Query::try_from_uri(&uri) else {
        return refusal(StatusCode::BAD_REQUEST);
    };
    match within(inside.backend.user(user, SHOWN)).await {
        Ok(all) => written(&all.iter().map(Who::new).collect::<Vec<_>>()),
        Err(_) => refusal(StatusCode::SERVICE_UNAVAILABLE),
    }
}

fn search(uri: &Uri) -> Result<Search, StatusCode> {
    let query = Query::try_from_uri(uri).map_err(|_| StatusCode::BAD_REQUEST)?;
    let Query(Wanted { q, page }) = query;
    if page >= PAGES {
        return Err(StatusCode::BAD_REQUEST);
    }
    let pattern = match q.as_str() {
        "" => None,
        pattern if pattern.contains(['*', '?', '[', '{']) => Some(pattern.to_owned()),
        part => Some(format!("*{}*", globset::escape(part))),
    };
    let pattern = pattern.map(|pattern| globset::Glob::new(&pattern)).transpose();
    let pattern = pattern.map_err(|_| StatusCode::BAD_REQUEST)?;
    let pattern = pattern.map(|glob| glob.compile_matcher());
    Ok(Search { pattern, skip: page * SHOWN, limit: SHOWN })
}

fn found(outcome: Result<Found, Error>) -> Response {
    match outcome {
        Ok(found) => {
            let list = found.list.iter().map(|Named { name, count, published }| Entry {
                name,
                count: *count,
                published: *published,
            });
            let list = list.collect();
            let pages = found.matched.div_ceil(SHOWN).min(PAGES);
            written(&SearchAnswer { matched: found.matched, page_size: SHOWN, pages, list })
        }
        Err(_) => refusal(StatusCode::SERVICE_UNAVAILABLE),
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(TIMEOUT, answer).await.unwrap_or(Err(Error::INTERNAL))
}

/// Those behind the last page are found by a search.
const PAGES: usize = 100;

/// As many as a person reads at once; of users with connections on several cores, so many of each.
const SHOWN: usize = 100;

/// How long cores may take to look.
const TIMEOUT: Duration = Duration::from_secs(5);
