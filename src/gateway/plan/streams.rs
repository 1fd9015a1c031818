//! Streams, for clients without WebSocket, and where they send commands.

use crate::options::{Size, options};

options! {
    /// `sse`: event streams with commands by `/emulation`.
    pub struct Sse {
        /// Serve them.
        enabled: bool = false,
        /// Path they are at.
        handler_prefix: String = "/connection/sse".to_owned(),
        /// Bytes of a request's body; a longer one is answered with 413.
        max_request_body_size: Size = Size(65_536),
    }
}

options! {
    /// `http_stream`: HTTP responses that go on, with commands by `/emulation`.
    pub struct HttpStream {
        /// Serve them.
        enabled: bool = false,
        /// Path they are at.
        handler_prefix: String = "/connection/http_stream".to_owned(),
        /// Bytes of a request's body; a longer one is answered with 413.
        max_request_body_size: Size = Size(65_536),
    }
}

options! {
    /// `emulation`: commands of clients that listen to a stream. Served where `sse` or
    /// `http_stream` is.
    pub struct Emulation {
        /// Path it is at.
        handler_prefix: String = "/emulation".to_owned(),
        /// Bytes of a request's body; a longer one is answered with 413.
        max_request_body_size: Size = Size(65_536),
        /// Bytes of such bodies that wait for their sessions; more is answered with 503. Ours.
        max_waiting: Size = Size(16 << 20),
    }
}

options! {
    /// `uni_sse`: one-way event streams.
    pub struct UniSse {
        /// Serve them.
        enabled: bool = false,
        /// Path they are at.
        handler_prefix: String = "/connection/uni_sse".to_owned(),
        /// Bytes of a request's body; a longer one is answered with 413.
        max_request_body_size: Size = Size(65_536),
        /// What errors of the connect request are answered with, before the stream begins. Off:
        /// they are told in the stream, which is there at once.
        connect_code_to_http_response: ConnectResponses = ConnectResponses::default(),
    }
}

options! {
    /// `uni_http_stream`: one-way HTTP responses that go on.
    pub struct UniHttpStream {
        /// Serve them.
        enabled: bool = false,
        /// Path they are at.
        handler_prefix: String = "/connection/uni_http_stream".to_owned(),
        /// Bytes of a request's body; a longer one is answered with 413.
        max_request_body_size: Size = Size(65_536),
        /// What errors of the connect request are answered with, before the stream begins. Off:
        /// they are told in the stream, which is there at once.
        connect_code_to_http_response: ConnectResponses = ConnectResponses::default(),
    }
}

options! {
    /// Answers of HTTP to connect requests that fail.
    pub struct ConnectResponses {
        /// Answer with them; what no transform is for with 500.
        enabled: bool = false,
        /// By error or disconnect code; the first that fits holds.
        transforms: Vec<ConnectResponse> = Vec::new(),
    }
}

options! {
    /// The answer for one code.
    pub struct ConnectResponse {
        /// The code of an error or disconnect.
        code: u32 = 0,
        /// The answer.
        to: ToResponse = ToResponse::default(),
    }
}

options! {
    /// An answer of HTTP.
    pub struct ToResponse {
        /// Its status.
        status_code: u16 = 0,
        /// Its text. Empty: the message of the error.
        body: String = String::new(),
    }
}

impl ConnectResponses {
    /// Status and text for a code.
    pub(crate) fn of(&self, code: u32) -> Option<(u16, &str)> {
        let found = self.transforms.iter().find(|known| known.code == code)?;
        Some((found.to.status_code, &found.to.body))
    }
}
