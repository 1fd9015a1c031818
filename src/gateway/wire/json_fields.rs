//! Which fields each message has in JSON, in the order of their Protobuf tags.

use super::Payload;
use super::messages::{
    ClientInfo, ConnectPush, ConnectResult, DisconnectPush, ErrorReply, HistoryResult, JoinPush,
    LeavePush, MessagePush, PresenceResult, PresenceStatsResult, Publication, PublishResult, Push,
    PushBody, RefreshPush, RefreshResult, RpcResult, SubRefreshResult, SubscribePush,
    SubscribeResult, UnsubscribePush, UnsubscribeResult,
};
use super::object::{Fields, Object};
use super::raw::is_json;

impl Object<'_> {
    pub(super) fn publication(&mut self, publication: &Publication, payload: Payload<'_>) {
        match payload {
            Payload::Verbatim => self.raw("data", &publication.data),
            Payload::Text => self.text("data", &publication.data),
            Payload::Patch(patch) => self.text("data", patch),
        }
        if let Some(info) = &publication.info {
            self.message("info", info);
        }
        self.uint("offset", publication.offset);
        self.strings("tags", &publication.tags);
        self.flag("delta", publication.delta || matches!(payload, Payload::Patch(_)));
        self.int("time", publication.time);
        self.string("channel", &publication.channel);
        self.string("key", &publication.key);
        self.flag("removed", publication.removed);
        self.int("score", publication.score);
        self.string("epoch", &publication.epoch);
        self.uint("version", publication.version);
    }
}

impl Fields for Publication {
    fn put(&self, o: &mut Object<'_>) {
        o.publication(self, Payload::Verbatim);
    }
}

impl Fields for ClientInfo {
    fn put(&self, o: &mut Object<'_>) {
        o.always_string("user", &self.user);
        o.always_string("client", &self.client);
        // Others see it: what a token or the backend gave as Base64 must not break their messages.
        for (key, info) in [("conn_info", &self.conn_info), ("chan_info", &self.chan_info)] {
            if !info.is_empty() && is_json(info) {
                o.raw(key, info);
            }
        }
    }
}

impl Fields for ErrorReply {
    fn put(&self, o: &mut Object<'_>) {
        o.uint("code", self.code.into());
        o.string("message", &self.message);
        o.flag("temporary", self.temporary);
    }
}

impl Fields for ConnectResult {
    fn put(&self, o: &mut Object<'_>) {
        o.string("client", &self.client);
        o.string("version", &self.version);
        o.flag("expires", self.expires);
        o.uint("ttl", self.ttl.into());
        o.raw("data", &self.data);
        o.messages("subs", &self.subs);
        o.uint("ping", self.ping.into());
        o.flag("pong", self.pong);
        o.string("session", &self.session);
        o.string("node", &self.node);
        o.int("time", self.time);
    }
}

impl Fields for ConnectPush {
    fn put(&self, o: &mut Object<'_>) {
        o.string("client", &self.client);
        o.string("version", &self.version);
        o.raw("data", &self.data);
        o.messages("subs", &self.subs);
        o.flag("expires", self.expires);
        o.uint("ttl", self.ttl.into());
        o.uint("ping", self.ping.into());
        o.flag("pong", self.pong);
        o.string("session", &self.session);
        o.string("node", &self.node);
        o.int("time", self.time);
    }
}

impl Fields for SubscribeResult {
    fn put(&self, o: &mut Object<'_>) {
        o.flag("expires", self.expires);
        o.uint("ttl", self.ttl.into());
        o.flag("recoverable", self.recoverable);
        o.string("epoch", &self.epoch);
        if !self.publications.is_empty() {
            // With delta, `data` is a string even where it is the whole payload.
            let payload = if self.delta { Payload::Text } else { Payload::Verbatim };
            let put = |o: &mut Object<'_>, item: &Publication| o.publication(item, payload);
            o.always_array("publications", &self.publications, put);
        }
        o.flag("recovered", self.recovered);
        o.uint("offset", self.offset);
        o.flag("positioned", self.positioned);
        o.raw("data", &self.data);
        o.flag("was_recovering", self.was_recovering);
        o.flag("delta", self.delta);
        o.int("id", self.id);
    }
}

impl Fields for UnsubscribeResult {
    fn put(&self, _: &mut Object<'_>) {}
}

impl Fields for PublishResult {
    fn put(&self, _: &mut Object<'_>) {}
}

impl Fields for PresenceResult {
    fn put(&self, o: &mut Object<'_>) {
        o.always_messages("presence", &self.presence);
    }
}

impl Fields for PresenceStatsResult {
    fn put(&self, o: &mut Object<'_>) {
        o.always_uint("num_clients", self.num_clients.into());
        o.always_uint("num_users", self.num_users.into());
    }
}

impl Fields for HistoryResult {
    fn put(&self, o: &mut Object<'_>) {
        o.always_array("publications", &self.publications, |o, publication| publication.put(o));
        o.always_string("epoch", &self.epoch);
        o.always_uint("offset", self.offset);
    }
}

impl Fields for RpcResult {
    fn put(&self, o: &mut Object<'_>) {
        o.raw("data", &self.data);
    }
}

impl Fields for RefreshResult {
    fn put(&self, o: &mut Object<'_>) {
        o.string("client", &self.client);
        o.string("version", &self.version);
        o.flag("expires", self.expires);
        o.uint("ttl", self.ttl.into());
    }
}

impl Fields for SubRefreshResult {
    fn put(&self, o: &mut Object<'_>) {
        o.flag("expires", self.expires);
        o.uint("ttl", self.ttl.into());
    }
}

impl Fields for Push {
    fn put(&self, o: &mut Object<'_>) {
        o.int("id", self.id);
        o.string("channel", &self.channel);
        match &self.body {
            None => {}
            Some(PushBody::Publication(it)) => o.message("pub", &**it),
            Some(PushBody::Join(it)) => o.message("join", it),
            Some(PushBody::Leave(it)) => o.message("leave", it),
            Some(PushBody::Unsubscribe(it)) => o.message("unsubscribe", it),
            Some(PushBody::Message(it)) => o.message("message", it),
            Some(PushBody::Subscribe(it)) => o.message("subscribe", it),
            Some(PushBody::Connect(it)) => o.message("connect", &**it),
            Some(PushBody::Disconnect(it)) => o.message("disconnect", it),
            Some(PushBody::Refresh(it)) => o.message("refresh", it),
        }
    }
}

impl Fields for JoinPush {
    fn put(&self, o: &mut Object<'_>) {
        if let Some(info) = &self.info {
            o.message("info", info);
        }
    }
}

impl Fields for LeavePush {
    fn put(&self, o: &mut Object<'_>) {
        if let Some(info) = &self.info {
            o.message("info", info);
        }
    }
}

impl Fields for UnsubscribePush {
    fn put(&self, o: &mut Object<'_>) {
        o.uint("code", self.code.into());
        o.string("reason", &self.reason);
    }
}

impl Fields for MessagePush {
    fn put(&self, o: &mut Object<'_>) {
        o.raw("data", &self.data);
    }
}

impl Fields for SubscribePush {
    fn put(&self, o: &mut Object<'_>) {
        o.flag("recoverable", self.recoverable);
        o.string("epoch", &self.epoch);
        o.uint("offset", self.offset);
        o.flag("positioned", self.positioned);
        o.raw("data", &self.data);
    }
}

impl Fields for DisconnectPush {
    fn put(&self, o: &mut Object<'_>) {
        o.uint("code", self.code.into());
        o.string("reason", &self.reason);
        o.flag("reconnect", self.reconnect);
    }
}

impl Fields for RefreshPush {
    fn put(&self, o: &mut Object<'_>) {
        o.flag("expires", self.expires);
        o.uint("ttl", self.ttl.into());
    }
}
