//! What is to be done with connections of a user, on one node or on all: as the server API says it,
//! as nodes tell each other, and as the cores do it.

use crate::broker::bus::Command;
use crate::broker::bus::messages::{self, StreamPosition};
use crate::gateway::api::{
    DisconnectRequest, RefreshRequest, SubscribeRequest, UnsubscribeRequest, UserConnections,
};
use crate::gateway::channels::{Mode, Override, Switch};
use crate::gateway::letters::{Action, Refresh, ServerSubscribe};
use crate::gateway::stream::Position;
use crate::gateway::wire::{Disconnect, Unsubscribe};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Order {
    /// Whose connections.
    pub(super) whose: UserConnections,
    /// But not these.
    pub(super) spare: Vec<String>,
    /// What is done with them.
    pub(super) action: Action,
}

impl Order {
    /// To subscribe.
    pub(super) fn subscribe(request: SubscribeRequest) -> Self {
        let recover_since = request
            .recover_since
            .map(|since| Position { offset: since.offset, epoch: since.epoch });
        let action = Action::Subscribe(Box::new(ServerSubscribe {
            channel: request.channel,
            info: request.info,
            data: request.data,
            expire_at: request.expire_at,
            recover_since,
            overrides: request.overrides,
        }));
        Self { whose: request.connections, spare: Vec::new(), action }
    }

    /// To end subscriptions.
    pub(super) fn unsubscribe(request: UnsubscribeRequest) -> Self {
        let channel = Some(request.channel).filter(|channel| !channel.is_empty());
        let (channel, why) = (channel.map(Into::into), Unsubscribe::SERVER);
        let action = Action::Unsubscribe { channel, why };
        Self { whose: request.connections, spare: Vec::new(), action }
    }

    /// To close.
    pub(super) fn disconnect(request: DisconnectRequest) -> Self {
        let action = Action::Disconnect(request.disconnect);
        Self { whose: request.connections, spare: request.whitelist, action }
    }

    /// To change when they expire.
    pub(super) fn refresh(request: RefreshRequest) -> Self {
        let RefreshRequest { connections, expired, expire_at, info } = request;
        let action = Action::Refresh(Refresh { expired, expire_at, info });
        Self { whose: connections, spare: Vec::new(), action }
    }

    /// As in metrics.
    pub(super) fn name(&self) -> &'static str {
        match self.action {
            Action::Subscribe(_) => "subscribe",
            Action::Unsubscribe { .. } => "unsubscribe",
            Action::Disconnect(_) => "disconnect",
            Action::Refresh(_) => "refresh",
        }
    }

    /// As other nodes are told. `mode`: how subscriptions behave by this node's options, for nodes
    /// that do not ask their own.
    pub(super) fn write(&self, mode: Option<Mode>) -> Command {
        let UserConnections { user, client, session } = self.whose.clone();
        let mut command = Command::default();
        match &self.action {
            Action::Subscribe(subscribe) => {
                let ServerSubscribe { channel, info, data, expire_at, recover_since, overrides } =
                    &**subscribe;
                let given = serde_json::to_vec(overrides).unwrap_or_default();
                command.subscribe = Some(messages::Subscribe {
                    user,
                    channel: channel.clone(),
                    emit_presence: mode.is_some_and(|mode| mode.presence),
                    emit_join_leave: mode.is_some_and(|mode| mode.join_leave),
                    expire_at: *expire_at,
                    position: mode.is_some_and(|mode| mode.positioning),
                    recover: mode.is_some_and(|mode| mode.recovery),
                    channel_info: info.clone(),
                    client,
                    data: data.clone(),
                    recover_since: recover_since
                        .clone()
                        .map(|since| StreamPosition { offset: since.offset, epoch: since.epoch }),
                    session,
                    push_join_leave: mode.is_some_and(|mode| mode.push_join_leave),
                    overrides: given.into(),
                    ..messages::Subscribe::default()
                });
            }
            Action::Unsubscribe { channel, why } => {
                command.unsubscribe = Some(messages::Unsubscribe {
                    channel: channel.as_deref().unwrap_or_default().to_owned(),
                    user,
                    client,
                    session,
                    code: why.code,
                    reason: why.reason.clone().into_owned(),
                    ..messages::Unsubscribe::default()
                });
            }
            Action::Disconnect(disconnect) => {
                command.disconnect = Some(messages::Disconnect {
                    user,
                    whitelist: self.spare.clone(),
                    code: disconnect.code.into(),
                    reason: disconnect.reason.clone().into_owned(),
                    client,
                    session,
                    ..messages::Disconnect::default()
                });
            }
            Action::Refresh(Refresh { expired, expire_at, info }) => {
                command.refresh = Some(messages::Refresh {
                    user,
                    client,
                    expired: *expired,
                    expire_at: *expire_at,
                    info: info.clone().unwrap_or_default(),
                    session,
                    ..messages::Refresh::default()
                });
            }
        }
        command
    }

    /// As another node has told it. `None`: it is none, or none that can be done here.
    pub(super) fn read(command: Command) -> Option<Self> {
        if let Some(it) = command.subscribe {
            return subscribe(it);
        }
        if let Some(it) = command.unsubscribe {
            let can = it.label_filter.is_empty() && !it.all_users;
            let whose = UserConnections { user: it.user, client: it.client, session: it.session };
            let channel = Some(it.channel).filter(|channel| !channel.is_empty()).map(Into::into);
            let why = Unsubscribe { code: it.code, reason: it.reason.into() };
            let action = Action::Unsubscribe { channel, why };
            return can.then_some(Self { whose, spare: Vec::new(), action });
        }
        if let Some(it) = command.disconnect {
            let can = it.label_filter.is_empty() && !it.all_users;
            let whose = UserConnections { user: it.user, client: it.client, session: it.session };
            let code = u16::try_from(it.code).ok().filter(|code| CODES.contains(code))?;
            let action = Action::Disconnect(Disconnect::new(code, it.reason));
            return can.then_some(Self { whose, spare: it.whitelist, action });
        }
        let it = command.refresh?;
        let can = it.label_filter.is_empty() && !it.all_users;
        let whose = UserConnections { user: it.user, client: it.client, session: it.session };
        let info = Some(it.info).filter(|info| !info.is_empty());
        let action =
            Action::Refresh(Refresh { expired: it.expired, expire_at: it.expire_at, info });
        can.then_some(Self { whose, spare: Vec::new(), action })
    }
}

fn subscribe(it: messages::Subscribe) -> Option<Order> {
    if !it.label_filter.is_empty() || it.all_users || it.channel.is_empty() {
        return None;
    }
    let overrides = match &it.overrides[..] {
        // A node of Centrifugo says how it shall be, not what differs from the options.
        [] => {
            let switch = |value| Some(Switch { value });
            Override {
                presence: switch(it.emit_presence),
                join_leave: switch(it.emit_join_leave),
                force_push_join_leave: switch(it.push_join_leave),
                force_recovery: switch(it.recover),
                force_positioning: switch(it.position),
            }
        }
        given => serde_json::from_slice(given).ok()?,
    };
    let recover_since =
        it.recover_since.map(|since| Position { offset: since.offset, epoch: since.epoch });
    let action = Action::Subscribe(Box::new(ServerSubscribe {
        channel: it.channel,
        info: it.channel_info,
        data: it.data,
        expire_at: it.expire_at,
        recover_since,
        overrides,
    }));
    let whose = UserConnections { user: it.user, client: it.client, session: it.session };
    Some(Order { whose, spare: Vec::new(), action })
}

/// Of close frames: those that SDKs know.
const CODES: std::ops::RangeInclusive<u16> = 3000..=4999;

#[cfg(test)]
mod tests {
    use super::*;

    fn whose() -> UserConnections {
        UserConnections { user: "ann".to_owned(), client: "c".to_owned(), session: "s".to_owned() }
    }

    fn subscribe_to(overrides: Override) -> Order {
        Order::subscribe(SubscribeRequest {
            connections: whose(),
            channel: "ch".to_owned(),
            info: "{}".into(),
            data: "1".into(),
            expire_at: 7,
            recover_since: Some(crate::gateway::wire::messages::StreamPosition {
                offset: 3,
                epoch: "e".to_owned(),
            }),
            overrides,
        })
    }

    #[test]
    fn orders_arrive_as_they_were_given() {
        let unsubscribe = |channel: &str| {
            let channel = channel.to_owned();
            Order::unsubscribe(UnsubscribeRequest { connections: whose(), channel })
        };
        let on = Some(Switch { value: true });
        let orders = [
            subscribe_to(Override { presence: on, ..Override::default() }),
            subscribe_to(Override::default()),
            unsubscribe("ch"),
            unsubscribe(""),
            Order::disconnect(DisconnectRequest {
                connections: whose(),
                whitelist: vec!["a".to_owned(), "b".to_owned()],
                disconnect: Disconnect::new(4001, "why"),
            }),
            Order::refresh(RefreshRequest {
                connections: whose(),
                expired: true,
                expire_at: 5,
                info: Some("{}".into()),
            }),
        ];
        for order in orders {
            let read = Order::read(order.write(None)).expect("an order");
            assert_eq!(format!("{order:?}"), format!("{read:?}"));
        }
    }

    #[test]
    fn nodes_of_centrifugo_are_told_how_a_subscription_behaves_and_tell_it() {
        let mode = Mode {
            presence: true,
            join_leave: false,
            push_join_leave: true,
            positioning: true,
            recovery: false,
            recovery_mode: crate::gateway::plan::RecoveryMode::Stream,
            auto_cache_recover: false,
        };
        let mut command = subscribe_to(Override::default()).write(Some(mode));
        let subscribe = command.subscribe.as_mut().expect("it is one");
        assert!(subscribe.emit_presence && subscribe.push_join_leave && subscribe.position);
        assert!(!subscribe.emit_join_leave && !subscribe.recover);
        // As one of them says it.
        subscribe.overrides = Default::default();
        let Action::Subscribe(read) = Order::read(command).expect("an order").action else {
            panic!("another order")
        };
        let expected = Override {
            presence: Some(Switch { value: true }),
            join_leave: Some(Switch { value: false }),
            force_push_join_leave: Some(Switch { value: true }),
            force_recovery: Some(Switch { value: false }),
            force_positioning: Some(Switch { value: true }),
        };
        assert_eq!(read.overrides, expected);
    }

    #[test]
    fn what_cannot_be_done_here_is_nobodys() {
        let labels = || bytes::Bytes::from_static(b"\x0a\x03and");
        let order = subscribe_to(Override::default()).write(None).subscribe.expect("one");
        let several = [
            messages::Subscribe { label_filter: labels(), ..order.clone() },
            messages::Subscribe { all_users: true, ..order.clone() },
            messages::Subscribe { channel: String::new(), ..order.clone() },
            messages::Subscribe { overrides: "{".into(), ..order },
        ];
        for subscribe in several {
            let subscribe = Some(subscribe);
            assert!(Order::read(Command { subscribe, ..Command::default() }).is_none());
        }
        let close = |code, all_users| {
            let close = messages::Disconnect { code, all_users, ..Default::default() };
            Order::read(Command { disconnect: Some(close), ..Command::default() })
        };
        assert!(close(3503, false).is_some());
        for (code, all_users) in [(3503, true), (2999, false), (5000, false), (70_000, false)] {
            assert!(close(code, all_users).is_none(), "{code}");
        }
        assert!(Order::read(Command::default()).is_none());
    }
}
