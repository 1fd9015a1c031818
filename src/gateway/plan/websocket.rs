//! WebSockets, both ways and one way.

use std::time::Duration;

use crate::options::{Size, options};

options! {
    /// `websocket`: the WebSocket transport.
    pub struct WebSocket {
        /// Do not serve it.
        disabled: bool = false,
        /// Path it is at.
        handler_prefix: String = "/connection/websocket".to_owned(),
        /// Bytes of one received message; a longer one closes with 1009.
        message_size_limit: Size = Size(65_536),
        /// A peer must take a byte of what waits for it in this time; then it is cut.
        write_timeout: Duration = Duration::from_secs(1),
        /// Compress messages for clients that offer it (permessage-deflate).
        compression: bool = false,
        /// Bytes of the shortest message that is compressed.
        compression_min_size: Size = Size(256),
        /// 1 to 9: the higher, the shorter and the slower.
        compression_level: u8 = 3,
        /// Bytes that a received message may be inflated to; more closes with 1009. 0:
        /// `message_size_limit`, which is also the most.
        decompressed_message_size_limit: Size = Size(0),
    }
}

options! {
    /// `uni_websocket`: one-way WebSockets.
    pub struct UniWebSocket {
        /// Serve them.
        enabled: bool = false,
        /// Path they are at.
        handler_prefix: String = "/connection/uni_websocket".to_owned(),
        /// Compress messages for clients that offer it (permessage-deflate).
        compression: bool = false,
        /// Bytes of the shortest message that is compressed.
        compression_min_size: Size = Size(256),
        /// 1 to 9: the higher, the shorter and the slower.
        compression_level: u8 = 3,
    }
}
