//! What the gateway is told: a plan of values, with their defaults.
//!
//! The configuration is above all layers and fills it (`config::plans::gateway`); the gateway reads
//! no key and no file, and names nothing of the configuration but the option in a mistake's text.
//! So what the layers above are told stays theirs: no listener, no certificate and no password is
//! in here, backends are names, and of the server API's key there is only whether a given one is
//! it. `tests/tidy.rs` holds the direction.

mod channel;
mod client;
mod rpc;
mod streams;
mod token;
mod websocket;

pub use channel::{
    ChannelOptions, ChannelPlan, DataFormat, DeltaType, Namespace, RecoveryMode, SubscriptionType,
};
pub use client::{ClientPlan, OneWayDisconnect, OneWayDisconnects, PersonalChannel, ToDisconnect};
pub(crate) use rpc::Route;
pub use rpc::{RpcNamespace, RpcOptions, RpcPing, RpcPlan};
pub use streams::{
    ConnectResponse, ConnectResponses, Emulation, HttpStream, Sse, ToResponse, UniHttpStream,
    UniSse,
};
pub use token::{SubscriptionToken, Token};
pub use websocket::{UniWebSocket, WebSocket};

use super::api::key::ApiKey;
use crate::options::options;

options! {
    /// All that the gateway is told. The default is nothing unauthenticated, nothing allowed.
    pub struct Plan {
        /// What connections may do.
        client: ClientPlan = ClientPlan::default(),
        /// Names, namespaces and what is allowed in them.
        channel: ChannelPlan = ChannelPlan::default(),
        /// Remote procedure calls.
        rpc: RpcPlan = RpcPlan::default(),
        /// What the backend is asked, and with which headers.
        hooks: HooksPlan = HooksPlan::default(),
        /// Calls of the server API that cores serve themselves.
        calls: Option<CallsPlan> = None,
        /// The WebSocket transport.
        websocket: WebSocket = WebSocket::default(),
        /// One-way WebSockets.
        uni_websocket: UniWebSocket = UniWebSocket::default(),
        /// Event streams, for clients without WebSocket.
        sse: Sse = Sse::default(),
        /// HTTP streams, likewise.
        http_stream: HttpStream = HttpStream::default(),
        /// Where clients of both send their commands.
        emulation: Emulation = Emulation::default(),
        /// One-way event streams.
        uni_sse: UniSse = UniSse::default(),
        /// One-way HTTP streams.
        uni_http_stream: UniHttpStream = UniHttpStream::default(),
    }
}

options! {
    /// What the application's backend is asked about connections. Who it is and how it is reached
    /// is not known here: it is asked by name.
    pub struct HooksPlan {
        /// Who a connection without a token is.
        connect: bool = false,
        /// Whether an expiring connection may stay.
        refresh: bool = false,
        /// Request headers that some backend is sent.
        http_headers: Vec<String> = Vec::new(),
        /// Headers inside a connect command that some backend is sent.
        emulated_headers: Vec<String> = Vec::new(),
        /// Reverse proxies tell clients' addresses, and so clients do not.
        behind_proxies: bool = false,
    }
}

/// How cores serve calls of the server API.
#[derive(Clone, Debug, PartialEq)]
pub struct CallsPlan {
    /// The path that calls are below, without a slash at its end.
    pub prefix: String,
    /// Who may call.
    pub key: ApiKey,
    /// Errors as statuses of HTTP.
    pub transport_errors: bool,
    /// Only on the internal port.
    pub inside: bool,
}
