//! gRPC on the control plane: the server API (`api`) with its connections (`connection`) and
//! its messages as bytes (`codec`), and questions to backends (`backend`).

mod api;
mod backend;
mod codec;
mod connection;

pub use api::{GrpcConfig, router};
pub(super) use backend::GrpcBackend;
pub(super) use codec::Whole;
pub(super) use connection::{GrpcLimits, serve};
