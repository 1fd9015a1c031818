//! The client protocol and server API of `ringhold serve`, one rule after the other, over raw
//! sockets.
//!
//! Method: each test starts the program with the configuration its rules are about, sends commands
//! as text (or bytes), and compares what comes back, with code and words of every error and close.
//! Rules that are alike stand in tables. What is expected comes from the protocol's description,
//! not from this server's code.

mod api;
mod behind;
mod channels;
mod commands;
mod compression;
mod connecting;
mod event_streams;
mod expiry;
mod fields;
mod hooks;
mod named_hooks;
mod one_way;
mod order;
mod permissions;
mod protobuf;
mod streams;
mod transport;

use crate::support::gateway::{API_KEY, Gateway, SECRET};

/// A gateway that gives who is closed for being slow as long as it takes to read up to the close.
fn patient(tables: &str) -> Gateway {
    Gateway::start_whole(&format!(
        "[http_server]\nport = 0\n[http_api]\nkey = \"{API_KEY}\"\n\
         [engine]\nworkers = 2\ntick = \"10ms\"\nclose_timeout = \"600s\"\n\
         [client.token]\nhmac_secret_key = \"{SECRET}\"\n{tables}"
    ))
}
