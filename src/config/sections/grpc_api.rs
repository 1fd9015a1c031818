//! `grpc_api`: the same API over gRPC.

use std::net::{IpAddr, Ipv4Addr};

use super::http_api::ErrorMode;
use super::tls::Tls;
use crate::config::schema::section;
use crate::options::{Secret, Size};

section! {
    /// `grpc_api`: the same API over gRPC, on a port of its own.
    pub struct GrpcApi {
        /// Serve it.
        enabled: bool = false,
        /// Address it is at. Empty: all addresses.
        address: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST),
        /// Its port.
        port: u16 = 10_000,
        /// Key that calls must carry: metadata `authorization: apikey KEY`.
        key: Secret = Secret::default(),
        /// No key needed: whoever reaches the port may publish. Ours.
        insecure: bool = false,
        /// Errors in responses, or as statuses of gRPC.
        error_mode: ErrorMode = ErrorMode::Default,
        /// TLS on that port.
        tls: Tls = Tls::default(),
        /// Tell whoever asks which services and messages there are.
        reflection: bool = false,
        /// Bytes of a message; a longer one gets `RESOURCE_EXHAUSTED`. 0: 4 MiB.
        max_receive_message_size: Size = Size(0),
        /// Connections at once whose clients have shown the key, and others. Ours, like the next
        /// two.
        max_connections: u32 = 128,
        /// Connections at once of clients that have not.
        max_anonymous: u32 = 32,
        /// Calls of one connection at once; its client waits with one more.
        max_concurrent_calls: u32 = 100,
    }
}

impl GrpcApi {
    /// Bytes of a message.
    pub fn message_max(&self) -> usize {
        match self.max_receive_message_size.0 {
            0 => GRPC_MESSAGE,
            size => size,
        }
    }
}

/// What gRPC takes where nothing is said.
const GRPC_MESSAGE: usize = 4 << 20;
