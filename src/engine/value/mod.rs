//! What moves through the engine, below all of it: names of connections, frames, errors, causes.
//!
//! Values only: nothing here knows a core, a slot's record or the ring.

mod cause;
mod data;
mod dial;
mod error;
mod frame;
mod heartbeat;
mod id;
mod policy;

pub use cause::{Cause, Closed, Ending};
pub use data::Data;
pub use dial::DialTarget;
pub use error::SendError;
pub use frame::Frame;
pub(in crate::engine) use frame::{Framing, opcode};
pub use heartbeat::HeartbeatAction;
pub use id::ConnId;
pub use policy::Policy;
