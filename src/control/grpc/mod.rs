//! gRPC on the control plane: the server API (`api`) with its connections (`connection`) and
//! its messages as bytes (`codec`), questions to backends (`backend`) and
//! their streams (`feed`).

mod api;
mod backend;
mod codec;
mod connection;
mod feed;

pub use api::{GrpcConfig, router};
pub(super) use backend::{FEEDS_WINDOW, GrpcBackend, NoAnswer};
pub(super) use codec::Whole;
pub(super) use connection::{GrpcLimits, serve};
pub(super) use feed::{Feed, Message, Outgoing};
