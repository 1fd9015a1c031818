//! Backend hooks without HTTP: what the gateway asks the application's backend, and what it may be
//! told.
//!
//! Owns the shapes; `src/control/hooks.rs` carries them. The shapes are Centrifugo's proxy
//! protocol, over HTTP with JSON and over gRPC, so that existing backends answer unchanged.

mod feeds;
pub(crate) mod protobuf;
mod replies;
mod requests;

pub use feeds::{FeedAsked, FeedEnd, FeedId, FeedNews, FeedSaid, FeedWord};
pub(super) use replies::GRACE_SECONDS;
pub use replies::{
    BadReply, ConnectReply, HookRefusal, HookReply, HookResult, PublishReply, RefreshReply,
    RpcReply, SubRefreshReply, SubscribeReply, SubscribeSettings,
};
pub use requests::{Asking, Caller, ClientHeaders, HookEvent, HookRequest, NotJson};

/// The name of the proxy that stands in the section of its questions.
pub const DEFAULT_PROXY: &str = "default";

/// The name of a proxy as questions carry it; Centrifugo takes an empty one for the default.
pub(crate) fn proxy_name(name: &str) -> &str {
    if name.is_empty() { DEFAULT_PROXY } else { name }
}

macro_rules! names {
    (
        $(#[$meta:meta])*
        pub enum $enum:ident { $($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $enum {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $enum {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// As it is called in configuration and metrics.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

names! {
    /// What a hook is about.
    pub enum HookKind {
        /// A connection without a token: who is it?
        Connect = "connect",
        /// A connection expires: may it stay?
        Refresh = "refresh",
        /// A client wants to subscribe.
        Subscribe = "subscribe",
        /// A client wants to publish.
        Publish = "publish",
        /// A client calls a procedure.
        Rpc = "rpc",
        /// A subscription expires: may it stay?
        SubRefresh = "sub_refresh",
        /// A client wants to subscribe, to what the backend then tells it on a stream of its own.
        SubscribeStream = "subscribe_stream",
    }
}

names! {
    /// Why a hook call has no usable answer. The client gets error 100, which is temporary, except
    /// that what expires is prolonged by a minute (see [`HookReply::without_answer`]).
    pub enum HookFailure {
        /// Too many calls wait for the backend already.
        Overloaded = "overloaded",
        /// No answer in time.
        Timeout = "timeout",
        /// No connection, or it broke.
        Unreachable = "unreachable",
        /// The status was not 200.
        Status = "status",
        /// The answer was too large, not JSON, or not of the documented shape.
        BadReply = "bad_reply",
        /// The payload is not JSON, and the hook is not configured for Base64. The client gets
        /// error 107.
        NotJson = "not_json",
        /// No such hook is configured. The client gets error 108.
        NotConfigured = "not_configured",
    }
}

#[cfg(test)]
mod tests;
