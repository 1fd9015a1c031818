//! `websocket` and `uni_websocket`: the transport, both ways and one way.

use crate::config::schema::keys;
use crate::gateway::plan::{UniWebSocket, WebSocket};

keys! {
    WebSocket {
        disabled, handler_prefix, message_size_limit, write_timeout, compression,
        compression_min_size, compression_level, decompressed_message_size_limit,
    }
}

keys! {
    UniWebSocket {
        enabled, handler_prefix, compression, compression_min_size, compression_level,
    }
}
