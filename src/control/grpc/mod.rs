//! gRPC on the control plane: the server API (`api`) with its connections (`connection`) and
//! its messages as bytes (`codec`), questions to backends (`backend`) and
//! their streams (`feed`).

mod api;
mod backend;
mod codec;
mod connection;
mod feed;

pub use api::{GrpcConfig, router};
pub(crate) use backend::FEEDS_WINDOW;
pub(super) use backend::{GrpcBackend, NoAnswer};
pub(super) use codec::Whole;
pub use connection::GrpcLimits;
pub(super) use connection::serve;
pub(super) use feed::{Feed, Message, Outgoing};
