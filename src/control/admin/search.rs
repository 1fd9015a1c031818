//! Who and what is there, for the admin page: channels, users, a user's connections.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::{Admin, written};
use crate::control::backend::Backend;
use crate::control::body::refusal;
use crate::gateway::inspect::{Connection, Found, Search};
use crate::gateway::wire::{Encoding, Error};

/// `q` is a part of the name, or a pattern if it has `*`, `?`, `[` or `{`. Empty: any name.
#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    q: String,
}

#[derive(Deserialize)]
pub(super) struct Whose {
    #[serde(default)]
    user: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    /// How many match; over several cores that have more than they tell, some of them twice.
    matched: usize,
    list: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    count: u32,
}

#[derive(Serialize)]
pub(super) struct Who<'a> {
    core: u16,
    client: String,
    user: &'a str,
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
            encoding: match connection.encoding {
                Encoding::Json => "json",
                Encoding::Protobuf => "protobuf",
            },
            subscriptions: connection.subscriptions,
            channels: connection.channels.iter().map(AsRef::as_ref).collect(),
        }
    }
}

pub(super) async fn channels<B: Backend>(
    State(admin): State<Arc<Admin<B>>>,
    request: Request,
) -> Response {
    if let Some(response) = admin.refuses(&request) {
        return response;
    }
    match search(request.uri()) {
        Ok(search) => found(within(admin.backend.channels(search)).await),
        Err(status) => refusal(status),
    }
}

pub(super) async fn users<B: Backend>(
    State(admin): State<Arc<Admin<B>>>,
    request: Request,
) -> Response {
    if let Some(response) = admin.refuses(&request) {
        return response;
    }
    match search(request.uri()) {
        Ok(search) => found(within(admin.backend.users(search)).await),
        Err(status) => refusal(status),
    }
}

pub(super) async fn user<B: Backend>(
    State(admin): State<Arc<Admin<B>>>,
    request: Request,
) -> Response {
    if let Some(response) = admin.refuses(&request) {
        return response;
    }
    let Ok(Query(Whose { user })) = Query::try_from_uri(request.uri()) else {
        return refusal(StatusCode::BAD_REQUEST);
    };
    match within(admin.backend.user(user, SHOWN)).await {
        Ok(all) => written(&all.iter().map(Who::new).collect::<Vec<_>>()),
        Err(_) => refusal(StatusCode::SERVICE_UNAVAILABLE),
    }
}

fn search(uri: &Uri) -> Result<Search, StatusCode> {
    let query = Query::try_from_uri(uri).map_err(|_| StatusCode::BAD_REQUEST)?;
    let Query(Wanted { q }) = query;
    let pattern = match q.as_str() {
        "" => None,
        pattern if pattern.contains(['*', '?', '[', '{']) => Some(pattern.to_owned()),
        part => Some(format!("*{}*", globset::escape(part))),
    };
    let pattern = pattern.map(|pattern| globset::Glob::new(&pattern)).transpose();
    let pattern = pattern.map_err(|_| StatusCode::BAD_REQUEST)?;
    Ok(Search { pattern: pattern.map(|glob| glob.compile_matcher()), limit: SHOWN })
}

fn found(outcome: Result<Found, Error>) -> Response {
    match outcome {
        Ok(found) => {
            let list = found.list.iter().map(|(name, count)| Entry { name, count: *count });
            written(&Answer { matched: found.matched, list: list.collect() })
        }
        Err(_) => refusal(StatusCode::SERVICE_UNAVAILABLE),
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(TIMEOUT, answer).await.unwrap_or(Err(Error::INTERNAL))
}

/// More than a person reads; of users with connections on several cores, so many of each.
const SHOWN: usize = 100;

/// How long cores may take to look.
const TIMEOUT: Duration = Duration::from_secs(5);
