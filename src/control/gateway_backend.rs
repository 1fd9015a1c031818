//! The running gateway as the control plane sees it: requests of the server API become letters to
//! the cores, and their answers replies.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use prost::Message as _;
use tokio::sync::oneshot;

use super::backend::{Backend, SlowNow, SlowReport, Snapshot};
use super::nodes;
use super::orders::Order;
use super::publishing::Published;
use crate::broker;
use crate::broker::bus::Bus;
use crate::broker::bus::messages::ChannelsRequest;
use crate::gateway::api::{
    ApiReply, ApiRequest, ChannelsResult, HistoryResult, InfoResult, NodeInfo, PresenceResult,
    PresenceStatsResult, PublishRequest,
};
use crate::gateway::app::{self, Gateway};
use crate::gateway::channels::{self, Mode, Wish};
use crate::gateway::inspect::{Connection, Found, Inspect, Search};
use crate::gateway::letters::{
    Action, Answer, Ask, Asker, ClientId, Gather, Letter, Question, Reply, Survey, Surveyed,
    UserOrder,
};
use crate::gateway::placement::Placement;
use crate::gateway::rulebook::Rulebook;
use crate::gateway::stats::GatewayStats;
use crate::gateway::stream::{Position, Read};
use crate::gateway::wire::Error;
use crate::{Handle, SlowPeer};

/// See the module's text.
pub struct GatewayBackend {
    pub(super) handle: Handle<Gateway>,
    pub(super) placement: Placement,
    rules: RwLock<Arc<Rulebook>>,
    /// Names this run, and this server.
    uid: String,
    name: String,
    started: Instant,
    draining: AtomicBool,
    broker: Option<broker::View>,
}

impl GatewayBackend {
    /// For a server that runs with these rules.
    pub fn new(
        handle: Handle<Gateway>,
        placement: Placement,
        rules: Arc<Rulebook>,
        name: String,
    ) -> Self {
        Self {
            handle,
            placement,
            rules: RwLock::new(rules),
            uid: uuid::Uuid::new_v4().to_string(),
            name,
            started: Instant::now(),
            draining: AtomicBool::new(false),
            broker: None,
        }
    }

    /// With a broker, and among the nodes on it.
    pub fn with_broker(self, broker: Option<broker::View>) -> Self {
        let uid = broker.as_ref().map(|broker| broker.bus.uid().to_owned());
        Self { broker, uid: uid.unwrap_or(self.uid), ..self }
    }

    /// The way to other nodes, if there may be some.
    pub(super) fn bus(&self) -> Option<&Arc<Bus>> {
        self.broker.as_ref().map(|broker| &broker.bus)
    }

    /// The rules that hold now.
    pub fn rules(&self) -> Arc<Rulebook> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets all cores go on by other rules.
    pub fn replace_rules(&self, change: impl FnOnce(&Rulebook) -> Rulebook) {
        let rules = {
            let mut held = self.rules.write().unwrap_or_else(PoisonError::into_inner);
            *held = Arc::new(change(&held));
            held.clone()
        };
        for core in 0..self.handle.workers() {
            // A core that has ended needs no rules.
            let _ = self.handle.post_urgent(core, app::CoreEvent::Rules(rules.clone()));
        }
    }

    /// The server goes away.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    async fn ask(&self, channel: &str, question: Question) -> Result<Answer, Error> {
        let (to, answer) = oneshot::channel();
        let reply = Reply::new(move |answer| drop(to.send(answer)));
        let ask = Ask { channel: channel.into(), question, asker: Asker::Control(reply) };
        let letter = app::CoreEvent::Hub(Letter::Ask(Box::new(ask)));
        // A letter that is refused answers by its end.
        let _ = self.handle.post_reserved(self.placement.home(channel), letter);
        answer.await.unwrap_or(Err(Error::INTERNAL))
    }

    /// Does something with a user's connections on all nodes, and waits until it is done.
    async fn order(&self, order: Order) -> Result<ApiReply, Error> {
        let there = async {
            let Some(bus) = self.bus() else { return Ok(()) };
            let mode = self.mode(&order);
            let told = bus.order(order.name(), order.write(mode)).await;
            told.map_err(|unreached| nodes::error(&unreached))
        };
        let here = async { self.obey(&order).await };
        let (there, here) = tokio::join!(there, here);
        here.and(there).map(|()| ApiReply::Done)
    }

    /// How a subscription that is ordered behaves.
    fn mode(&self, order: &Order) -> Option<Mode> {
        let Action::Subscribe(subscribe) = &order.action else { return None };
        let rules = self.rules();
        let place = rules.namespaces.place(&subscribe.channel).ok()?;
        let asker = channels::Subject { user: &order.whose.user, ..channels::Subject::default() };
        Some(place.mode(asker, &subscribe.overrides, Wish::default()))
    }

    /// Does something with a user's connections here, and waits until all cores have.
    pub(super) async fn obey(&self, order: &Order) -> Result<(), Error> {
        let Order { whose, spare, action } = order;
        // Sessions are named like their clients here; there is no second name.
        let only = [&whose.client, &whose.session].into_iter().find(|id| !id.is_empty());
        let client = match only.map(|id| ClientId::parse(id)) {
            // No connection has such a name.
            Some(None) => return Ok(()),
            Some(client) => client,
            None => None,
        };
        let (to, done) = oneshot::channel();
        let order = UserOrder {
            user: whose.user.as_str().into(),
            client,
            spare: spare.iter().filter_map(|id| ClientId::parse(id)).collect(),
            action: action.clone(),
            done: Gather::new(move |_| _ = to.send(())),
        };
        self.post_any(Letter::Order(Arc::new(order)))?;
        done.await.map_err(|_| Error::INTERNAL)
    }

    fn post_any(&self, letter: Letter) -> Result<(), Error> {
        // Of the letter there is one: it goes where there is room, or last to where it is refused.
        let workers = self.handle.workers();
        let free = (0..workers).find(|core| !self.handle.is_behind(*core));
        let letter = app::CoreEvent::Hub(letter);
        self.handle.post_reserved(free.unwrap_or(0), letter).map_err(|_| Error::INTERNAL)
    }

    /// Channels with subscribers, on all nodes that answer in time.
    async fn all_channels(&self, pattern: &str) -> Result<ApiReply, Error> {
        let there = async {
            let Some(bus) = self.bus() else { return Vec::new() };
            let request = ChannelsRequest { pattern: pattern.to_owned() };
            let asked = bus.survey(nodes::CHANNELS, request.encode_to_vec().into()).await;
            // What this node has is better than nothing.
            asked.map(|asked| asked.answers).unwrap_or_default()
        };
        let (there, here) = tokio::join!(there, self.own_channels(pattern));
        Ok(ApiReply::Channels(ChannelsResult { channels: nodes::add(here?, &there) }))
    }

    /// Channels with subscribers here.
    pub(super) async fn own_channels(&self, pattern: &str) -> Result<Vec<(String, u32)>, Error> {
        let pattern = match pattern {
            "" => None,
            glob => Some(globset::Glob::new(glob).map_err(|_| Error::BAD_REQUEST)?),
        };
        let (to, answer) = oneshot::channel();
        let parts = Gather::new(move |parts: Vec<Vec<(Arc<str>, u32)>>| drop(to.send(parts)));
        let pattern = pattern.map(|glob| glob.compile_matcher());
        self.post_any(Letter::Survey(Arc::new(Survey::Channels { pattern, parts })))?;
        let parts = answer.await.map_err(|_| Error::INTERNAL)?;
        let all = parts.into_iter().flatten();
        Ok(all.map(|(name, count)| (name.as_ref().to_owned(), count)).collect())
    }

    /// This node, and then the others as they have said of themselves.
    async fn info(&self) -> Result<ApiReply, Error> {
        let mut nodes = vec![self.own().await?];
        let others = self.bus().map(|bus| bus.nodes(Instant::now()));
        nodes.extend(others.into_iter().flatten().map(nodes::info));
        Ok(ApiReply::Info(InfoResult { nodes }))
    }

    /// What this node has.
    pub(super) async fn own(&self) -> Result<NodeInfo, Error> {
        let (to, answer) = oneshot::channel();
        let parts = Gather::new(move |parts| _ = to.send(Surveyed::of(parts)));
        self.post_any(Letter::Survey(Arc::new(Survey::Info { parts })))?;
        let all = answer.await.map_err(|_| Error::INTERNAL)?;
        Ok(NodeInfo {
            uid: self.uid.clone(),
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            num_clients: all.clients as u32,
            num_users: all.users as u32,
            num_subs: all.subscriptions as u32,
            num_channels: all.channels as u32,
            uptime: self.started.elapsed().as_secs() as u32,
            ..NodeInfo::default()
        })
    }

    /// Asks each core.
    async fn inspect<T: Send + 'static>(
        &self,
        question: impl Fn(usize, Reply<T>) -> Inspect,
    ) -> Result<Vec<T>, Error> {
        let mut answers = Vec::new();
        for core in 0..self.handle.workers() {
            let (to, answer) = oneshot::channel();
            let reply = Reply::new(move |found| drop(to.send(found)));
            let letter = app::CoreEvent::Inspect(Box::new(question(core, reply)));
            // A letter that is refused answers by its end.
            let _ = self.handle.post_reserved(core, letter);
            answers.push(answer);
        }
        let mut found = Vec::with_capacity(answers.len());
        for answer in answers {
            found.push(answer.await.unwrap_or(Err(Error::INTERNAL))?);
        }
        Ok(found)
    }

    async fn gateway_stats(&self) -> GatewayStats {
        let mut answers = Vec::new();
        for core in 0..self.handle.workers() {
            let (to, answer) = oneshot::channel();
            let reply = Reply::new(move |stats| drop(to.send(stats)));
            let _ = self.handle.post_urgent(core, app::CoreEvent::Stats(reply));
            answers.push(answer);
        }
        let mut sum = GatewayStats::default();
        for answer in answers {
            if let Ok(Ok(stats)) = answer.await {
                sum.add(&stats);
            }
        }
        sum
    }
}

impl Backend for GatewayBackend {
    async fn call(&self, request: ApiRequest) -> Result<ApiReply, Error> {
        match request {
            ApiRequest::Publish(request) => self.publish(request).await,
            ApiRequest::Broadcast(request) => self.broadcast(request).await,
            ApiRequest::Subscribe(request) => {
                self.rules().namespaces.place(&request.channel)?;
                self.order(Order::subscribe(request)).await
            }
            ApiRequest::Unsubscribe(request) => {
                if !request.channel.is_empty() {
                    self.rules().namespaces.place(&request.channel)?;
                }
                self.order(Order::unsubscribe(request)).await
            }
            ApiRequest::Disconnect(request) => self.order(Order::disconnect(request)).await,
            ApiRequest::Refresh(request) => self.order(Order::refresh(request)).await,
            ApiRequest::Presence(request) => {
                self.needs_presence(&request.channel)?;
                match self.ask(&request.channel, Question::Presence).await? {
                    Answer::Presence(result) => {
                        let presence = result.into_iter().map(|(id, who)| who.wire(id)).collect();
                        Ok(ApiReply::Presence(PresenceResult { presence }))
                    }
                    _ => Err(Error::INTERNAL),
                }
            }
            ApiRequest::PresenceStats(request) => {
                self.needs_presence(&request.channel)?;
                match self.ask(&request.channel, Question::PresenceStats).await? {
                    Answer::PresenceStats(stats) => {
                        Ok(ApiReply::PresenceStats(PresenceStatsResult {
                            num_clients: stats.num_clients,
                            num_users: stats.num_users,
                        }))
                    }
                    _ => Err(Error::INTERNAL),
                }
            }
            ApiRequest::History(request) => {
                let rules = self.rules();
                let place = rules.namespaces.place(&request.channel)?;
                let stream = place.rules.stream().ok_or(Error::NOT_AVAILABLE)?;
                let since = request
                    .since
                    .map(|since| Position { offset: since.offset, epoch: since.epoch });
                // The backend may read all that is kept.
                let (limit, reverse) = (request.limit, request.reverse);
                let read = Read { since, limit, reverse, ..Read::default() };
                match self.ask(&request.channel, Question::History { stream, read }).await? {
                    Answer::History(result) => Ok(ApiReply::History(HistoryResult {
                        publications: result.publications,
                        offset: result.offset,
                        epoch: result.epoch,
                    })),
                    _ => Err(Error::INTERNAL),
                }
            }
            ApiRequest::HistoryRemove(request) => {
                let rules = self.rules();
                let place = rules.namespaces.place(&request.channel)?;
                place.rules.stream().ok_or(Error::NOT_AVAILABLE)?;
                self.ask(&request.channel, Question::HistoryRemove).await?;
                Ok(ApiReply::Done)
            }
            ApiRequest::Channels(request) => self.all_channels(&request.pattern).await,
            ApiRequest::Info(_) => self.info().await,
            ApiRequest::Rpc(_) => Err(Error::METHOD_NOT_FOUND),
        }
    }

    fn publish_all(&self, all: Vec<PublishRequest>) -> Vec<Published> {
        self.post_publications(all.into_iter().map(|it| (it.channel, it.publication)))
    }

    async fn snapshot(&self) -> Snapshot {
        let handle = self.handle.clone();
        // It waits for the cores, and so not on the control thread.
        let engine = tokio::task::spawn_blocking(move || handle.stats_by_core()).await;
        let snapshot = Snapshot::new(engine.unwrap_or_default(), self.gateway_stats().await);
        Snapshot { broker: self.broker.clone(), ..snapshot }
    }

    async fn channels(&self, search: Search) -> Result<Found, Error> {
        let parts = self.inspect(|_, reply| Inspect::Channels(search.clone(), reply)).await?;
        Ok(Found::channels(parts, &search))
    }

    async fn users(&self, search: Search) -> Result<Found, Error> {
        let parts = self.inspect(|_, reply| Inspect::Users(search.clone(), reply)).await?;
        Ok(Found::users(parts, &search))
    }

    async fn user(&self, name: String, limit: usize) -> Result<Vec<Connection>, Error> {
        let ask = |_, reply| Inspect::User(name.as_str().into(), limit, reply);
        Ok(self.inspect(ask).await?.into_iter().flatten().collect())
    }

    async fn slow(&self, limit: usize) -> SlowReport {
        let handle = self.handle.clone();
        // It waits for the cores, and so not on the control thread.
        let peers = tokio::task::spawn_blocking(move || handle.slow_peers()).await;
        let mut peers = peers.unwrap_or_default();
        let total = peers.len();
        peers.truncate(limit);
        let of_core = |core: usize| {
            peers.iter().map(|peer| peer.id).filter(move |id| id.core() == core).collect()
        };
        let ask = |core, reply| Inspect::Slow(of_core(core), reply);
        // Cores that have ended have nobody.
        let parts = self.inspect(ask).await.unwrap_or_default();
        let mut report = SlowReport { total, ..SlowReport::default() };
        let mut known = HashMap::new();
        for part in parts {
            known.extend(part.now);
            report.ended.extend(part.ended);
        }
        report.now = peers
            .into_iter()
            .map(|SlowPeer { id, peer, queued, stalled }| {
                let who = known.remove(&id).flatten();
                SlowNow { peer, queued, stalled, who }
            })
            .collect();
        report.ended.sort_by_key(|end| Reverse(end.at));
        report.ended.truncate(limit);
        report
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn broken(&self) -> Option<String> {
        let now = Instant::now();
        let conditions = self.broker.iter().flat_map(|broker| broker.conditions.iter());
        conditions.filter_map(|condition| condition.report(now).unhealthy).next()
    }
}

impl GatewayBackend {
    fn needs_presence(&self, channel: &str) -> Result<(), Error> {
        let rules = self.rules();
        let place = rules.namespaces.place(channel)?;
        if place.rules.options.presence { Ok(()) } else { Err(Error::NOT_AVAILABLE) }
    }
}
