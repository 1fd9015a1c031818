//! ringhold
#![deny(unsafe_op_in_unsafe_fn)]
pub mod engine;
pub mod protocol;

pub use engine::{
    Answer, Builder, Cause, Closed, Config, ConfigError, Conn, ConnId, CoreStart, CounterKind,
    Counters, Cx, DialTarget, Drain, Frame, Handle, Handler, Heartbeat, Message, Policy,
    RatePolicy, Running, SendError, Server, SlowPeer, StartError, Stats,
};
pub use protocol::{CloseCode, Kind};
