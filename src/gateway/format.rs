//! How what a session is told is wrapped: one notion of the transport and the encoding.
//!
//! Owns what is around each element of the protocol on each transport, and the farewells of
//! transports that have any. Knows no connection. The invariant: one element, however large, is one
//! frame, one event or one line, so that a client never sees half of it.

use super::wire::messages::{Push, PushBody};
use super::wire::{self, Disconnect, Encoding, Envelope};
use crate::Kind;
use crate::engine::{Ending, Frame};
use crate::protocol::CloseCode;

/// How a session's elements are wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Format {
    /// Objects in text frames.
    #[default]
    WebSocketJson,
    /// Messages after their length, in binary frames.
    WebSocketProtobuf,
    /// Objects in events of a `text/event-stream`; commands come by `/emulation`.
    Sse,
    /// Objects in lines; commands come by `/emulation`.
    StreamJson,
    /// Messages after their length; commands come by `/emulation`.
    StreamProtobuf,
    /// Bare pushes in events; no commands.
    UniSse,
    /// Bare pushes in lines; no commands.
    UniStream,
    /// Bare pushes in text frames; no commands.
    UniWebSocket,
}

/// Where a connection came in: what is counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // Each is the section of the configuration of the same name.
pub enum Transport {
    WebSocket,
    Sse,
    HttpStream,
    UniSse,
    UniHttpStream,
    UniWebSocket,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::WebSocket,
        Self::Sse,
        Self::HttpStream,
        Self::UniSse,
        Self::UniHttpStream,
        Self::UniWebSocket,
    ];

    /// The name, as in the configuration, in metrics, and as backends are told it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Sse => "sse",
            Self::HttpStream => "http_stream",
            Self::UniSse => "uni_sse",
            Self::UniHttpStream => "uni_http_stream",
            Self::UniWebSocket => "uni_websocket",
        }
    }
}

impl From<Encoding> for Format {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::WebSocketJson,
            Encoding::Protobuf => Self::WebSocketProtobuf,
        }
    }
}

impl Format {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::WebSocketJson,
        Self::WebSocketProtobuf,
        Self::Sse,
        Self::StreamJson,
        Self::StreamProtobuf,
        Self::UniSse,
        Self::UniStream,
        Self::UniWebSocket,
    ];

    /// The one with this number, of three bits.
    pub fn of_bits(bits: u8) -> Self {
        Self::ALL[usize::from(bits & 7)]
    }

    /// Its number, below 8.
    pub fn bits(self) -> u8 {
        self as u8
    }

    /// Whether a disconnect push is the last element; elsewhere the close frame says all.
    pub fn has_farewell(self) -> bool {
        self.transport() != Transport::WebSocket
    }

    /// How elements are encoded.
    pub fn encoding(self) -> Encoding {
        match self {
            Self::WebSocketProtobuf | Self::StreamProtobuf => Encoding::Protobuf,
            _ => Encoding::Json,
        }
    }

    /// What is around a push.
    pub fn envelope(self) -> Envelope {
        if self.is_uni() { Envelope::Bare } else { Envelope::Reply }
    }

    /// Where such a connection came in.
    pub fn transport(self) -> Transport {
        match self {
            Self::WebSocketJson | Self::WebSocketProtobuf => Transport::WebSocket,
            Self::Sse => Transport::Sse,
            Self::StreamJson | Self::StreamProtobuf => Transport::HttpStream,
            Self::UniSse => Transport::UniSse,
            Self::UniStream => Transport::UniHttpStream,
            Self::UniWebSocket => Transport::UniWebSocket,
        }
    }

    /// Whether the client sends nothing but its connect request.
    pub fn is_uni(self) -> bool {
        matches!(self, Self::UniSse | Self::UniStream | Self::UniWebSocket)
    }

    /// Whether commands come by requests of their own.
    pub fn is_emulated(self) -> bool {
        matches!(self, Self::Sse | Self::StreamJson | Self::StreamProtobuf)
    }

    /// Whether elements are events of a `text/event-stream`.
    pub fn is_events(self) -> bool {
        matches!(self, Self::Sse | Self::UniSse)
    }

    /// Whether it is a WebSocket and not an HTTP response.
    pub fn is_websocket(self) -> bool {
        matches!(self.transport(), Transport::WebSocket | Transport::UniWebSocket)
    }

    /// Text frames for JSON, binary ones for Protobuf.
    pub fn kind(self) -> Kind {
        match self.encoding() {
            Encoding::Json => Kind::Text,
            Encoding::Protobuf => Kind::Binary,
        }
    }

    /// Wraps the one element that is in `buffer` from `start` on. JSON has no line breaks in it.
    pub fn wrap(self, buffer: &mut Vec<u8>, start: usize) {
        match self {
            Self::Sse | Self::UniSse => {
                buffer.splice(start..start, *EVENT);
                buffer.extend_from_slice(b"\n\n");
            }
            Self::StreamJson | Self::UniStream => buffer.push(b'\n'),
            Self::WebSocketJson
            | Self::WebSocketProtobuf
            | Self::StreamProtobuf
            | Self::UniWebSocket => {}
        }
    }

    /// A frame with one element, which is in `buffer`, to be shared.
    pub fn frame(self, mut buffer: Vec<u8>) -> Frame {
        self.wrap(&mut buffer, 0);
        match self.is_websocket() {
            true => Frame::new(self.kind(), &buffer),
            false => Frame::chunk(&buffer),
        }
    }

    /// The same with an element of about so many bytes, which `put` appends to a buffer with
    /// something in it.
    pub fn frame_of(self, bytes: usize, put: impl FnOnce(&mut Vec<u8>)) -> Frame {
        let room = if self.is_websocket() { Frame::ROOM } else { 0 };
        let mut buffer = Vec::with_capacity(room + bytes);
        buffer.resize(room, 0);
        put(&mut buffer);
        match self.is_websocket() {
            true => Frame::in_place(self.kind(), buffer),
            false => self.frame(buffer),
        }
    }
}

/// The last element on a connection of this format, whatever ends it: the disconnect push.
pub(super) fn farewell(format: Format, ending: &Ending<'_>, out: &mut Vec<u8>) {
    if !format.has_farewell() {
        return;
    }
    let code = match ending.code {
        CloseCode(code @ 3000..) => code,
        // What the engine calls its own reasons; clients know those of the protocol.
        CloseCode::POLICY => Disconnect::TOO_MANY_REQUESTS.code,
        _ => Disconnect::SERVER_ERROR.code,
    };
    let disconnect = Disconnect::new(code, ending.reason.to_owned());
    let push = Push { body: Some(PushBody::Disconnect(disconnect.into())), ..Push::default() };
    let start = out.len();
    wire::encode_push(format.encoding(), format.envelope(), &push, out);
    format.wrap(out, start);
}

const _: () = assert!(size_of::<Option<Format>>() == 1, "the state of each connection is a byte");

/// What each line of an event's data begins with.
const EVENT: &[u8; 6] = b"data: ";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Cause;

    #[test]
    fn numbers_and_names_are_apart() {
        for (bits, format) in Format::ALL.into_iter().enumerate() {
            assert_eq!((usize::from(format.bits()), Format::of_bits(bits as u8)), (bits, format));
            assert_eq!(format.has_farewell(), format.is_uni() || format.is_emulated());
            assert!(!(format.is_uni() && format.is_emulated()));
        }
        let names: std::collections::BTreeSet<_> =
            Transport::ALL.iter().map(|transport| transport.name()).collect();
        assert_eq!(names.len(), Transport::ALL.len());
    }

    #[test]
    fn each_format_has_its_farewell() {
        let words = |format: Format, code, reason| {
            let mut out = Vec::new();
            farewell(format, &Ending::new(Cause::Application, CloseCode(code), reason), &mut out);
            out
        };
        let text = |format, code, reason| String::from_utf8(words(format, code, reason)).unwrap();
        let push = r#"{"push":{"disconnect":{"code":3008,"reason":"slow","reconnect":true}}}"#;
        let bare = r#"{"disconnect":{"code":3008,"reason":"slow","reconnect":true}}"#;
        assert_eq!(text(Format::Sse, 3008, "slow"), format!("data: {push}\n\n"));
        assert_eq!(text(Format::StreamJson, 3008, "slow"), format!("{push}\n"));
        assert_eq!(text(Format::UniSse, 3008, "slow"), format!("data: {bare}\n\n"));
        assert_eq!(text(Format::UniStream, 3008, "slow"), format!("{bare}\n"));
        assert_eq!(text(Format::UniWebSocket, 3008, "slow"), bare);
        // Close frames say it.
        assert_eq!(text(Format::WebSocketJson, 3008, "slow"), "");
        assert_eq!(words(Format::WebSocketProtobuf, 3008, "slow"), b"");
        let protobuf = words(Format::StreamProtobuf, 3008, "slow");
        assert_eq!(usize::from(protobuf[0]), protobuf.len() - 1);
        // Codes of the engine are told in the protocol's.
        assert!(text(Format::UniStream, 1011, "internal error").contains("\"code\":3004"));
        assert!(text(Format::UniStream, 1008, "too many messages").contains("\"code\":3013"));
    }
}
