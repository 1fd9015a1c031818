//! This node among others on the same broker: it says that it is there, does what other nodes
//! order, and answers what they ask.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::gateway_backend::GatewayBackend;
use super::orders::Order;
use crate::broker::bus::messages::{
    ChannelInfo, ChannelsRequest, ChannelsResult, Node, SurveyRequest,
};
use crate::broker::bus::{ANNOUNCED, Bus, Incoming, SurveyResponse, Unreached};
use crate::gateway::api::{NodeInfo, NodeMetrics};
use crate::gateway::wire::Error;

/// The question for channels, by the name that Centrifugo gives it.
pub(super) const CHANNELS: &str = "channels";

/// Orders and questions of other nodes that are under way at once; the rest waits in the bus.
const RUNNING: usize = 64;

/// Runs as long as the control thread.
pub(super) async fn serve(live: Arc<GatewayBackend>, bus: Arc<Bus>) {
    let announced = (live.clone(), bus.clone());
    tokio::spawn(async move {
        let (live, bus) = announced;
        let mut due = tokio::time::interval(ANNOUNCED);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            // A node whose cores do not answer is better taken for one that is not there.
            if let Ok(own) = live.own().await {
                bus.announce(announcement(own));
            }
        }
    });
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            incoming = bus.arrival(), if running.len() < RUNNING => {
                running.spawn(serve_one(live.clone(), bus.clone(), incoming));
            }
            Some(_) = running.join_next(), if !running.is_empty() => {}
        }
    }
}

async fn serve_one(live: Arc<GatewayBackend>, bus: Arc<Bus>, incoming: Incoming) {
    let Incoming { command, answer, .. } = incoming;
    let outcome = match &command.survey_request {
        Some(question) => reply(&live, question).await,
        None => match Order::read(command) {
            Some(order) => match live.obey(&order).await {
                Ok(()) => Ok(Bytes::new()),
                Err(_) => Err(SurveyResponse::INTERNAL),
            },
            // What is meant by labels is nobody's here.
            None => Err(SurveyResponse::INVALID),
        },
    };
    if let Some(to) = answer {
        match outcome {
            Ok(data) => bus.answer(&to, 0, data),
            Err(code) => bus.answer(&to, code, Bytes::new()),
        }
    }
}

async fn reply(live: &GatewayBackend, question: &SurveyRequest) -> Result<Bytes, u32> {
    if question.op != CHANNELS {
        return Err(SurveyResponse::UNKNOWN);
    }
    let request = ChannelsRequest::decode(&*question.data).map_err(|_| SurveyResponse::INVALID)?;
    let channels = live.own_channels(&request.pattern).await.map_err(|error| match error.code {
        107 => SurveyResponse::INVALID,
        _ => SurveyResponse::INTERNAL,
    })?;
    let info = |num_clients| ChannelInfo { num_clients };
    let channels = channels.into_iter().map(|(name, count)| (name, info(count))).collect();
    Ok(ChannelsResult { channels }.encode_to_vec().into())
}

fn announcement(own: NodeInfo) -> Node {
    let NodeInfo { uid, name, version, num_clients, num_users, num_subs, num_channels, .. } = own;
    Node {
        uid,
        name,
        version,
        num_clients,
        num_users,
        num_channels,
        uptime: own.uptime,
        num_subs,
        ..Node::default()
    }
}

/// Another node, by its announcement.
pub(super) fn info(node: Node) -> NodeInfo {
    let metrics = node.metrics.map(|metrics| {
        let mut items: Vec<_> = metrics.items.into_iter().collect();
        items.sort_by(|one, other| one.0.cmp(&other.0));
        NodeMetrics { interval: metrics.interval, items }
    });
    NodeInfo {
        uid: node.uid,
        name: node.name,
        version: node.version,
        num_clients: node.num_clients,
        num_users: node.num_users,
        num_subs: node.num_subs,
        num_channels: node.num_channels,
        uptime: node.uptime,
        metrics,
        process: None,
    }
}

/// What other nodes have told of their channels, added to this one's.
pub(super) fn add(own: Vec<(String, u32)>, others: &[Bytes]) -> Vec<(String, u32)> {
    let mut sum: std::collections::BTreeMap<_, u32> = own.into_iter().collect();
    for other in others {
        // What cannot be read is left out.
        let Ok(ChannelsResult { channels }) = ChannelsResult::decode(&**other) else { continue };
        for (name, ChannelInfo { num_clients }) in channels {
            let count = sum.entry(name).or_default();
            *count = count.saturating_add(num_clients);
        }
    }
    sum.into_iter().collect()
}

/// The error for callers: 111 where too much is under way, else 100, which is temporary.
pub(super) fn error(unreached: &Unreached) -> Error {
    match unreached {
        Unreached::Full => Error::TOO_MANY_REQUESTS,
        Unreached::Away | Unreached::Nodes(_) => Error::INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_of_all_nodes_are_added() {
        let part = |channels: &[(&str, u32)]| -> Bytes {
            let info = |num_clients| ChannelInfo { num_clients };
            let channels = channels.iter().map(|(name, count)| ((*name).to_owned(), info(*count)));
            ChannelsResult { channels: channels.collect() }.encode_to_vec().into()
        };
        let others = [part(&[("b", 2), ("a", u32::MAX)]), Bytes::from_static(b"\xff"), part(&[])];
        let sum = add(vec![("c".to_owned(), 1), ("a".to_owned(), 1)], &others);
        let sum: Vec<_> = sum.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(sum, [("a", u32::MAX), ("b", 2), ("c", 1)]);
    }

    #[test]
    fn a_node_is_told_of_as_it_has_said() {
        let own = NodeInfo {
            uid: "u".to_owned(),
            name: "n".to_owned(),
            version: "1".to_owned(),
            num_clients: 1,
            num_users: 2,
            num_subs: 3,
            num_channels: 4,
            uptime: 5,
            ..NodeInfo::default()
        };
        assert_eq!(info(announcement(own.clone())), own);
    }
}
