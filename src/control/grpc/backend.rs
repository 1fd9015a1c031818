//! Questions to a backend over gRPC: one connection, made when it is first needed and again
//! whenever it is gone. The invariants: an answer is read piece by piece, as far as there is room
//! for it; one that does not say that it went well is none.

use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use axum::body::HttpBody;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};
use bytes::{BufMut, Bytes, BytesMut};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tower::{Service, ServiceExt};

use crate::control::outgoing::Certificates;
use crate::control::pem;
use crate::gateway::hooks::HookFailure;

/// See the module's text.
pub(in crate::control) struct GrpcBackend {
    endpoint: Endpoint,
    /// Within the runtime only.
    channel: OnceLock<Channel>,
    /// For streams that go on.
    feeds: OnceLock<Channel>,
}

/// Why there is no answer, and in words.
pub(in crate::control) type NoAnswer = (HookFailure, String);

impl GrpcBackend {
    /// For an endpoint `grpc://host:port`, or without the scheme. The error says what is wrong.
    pub(in crate::control) fn new(
        endpoint: &str,
        tls: Option<&Certificates>,
    ) -> Result<Self, String> {
        let host = endpoint.strip_prefix("grpc://").unwrap_or(endpoint).trim_end_matches('/');
        let scheme = if tls.is_some() { "https" } else { "http" };
        let wrong = |error: tonic::transport::Error| format!("{endpoint:?}: {error}");
        let mut made = Endpoint::from_shared(format!("{scheme}://{host}"))
            .map_err(wrong)?
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .tcp_keepalive(Some(PROBE_INTERVAL))
            .tcp_keepalive_interval(Some(PROBE_INTERVAL))
            .tcp_keepalive_retries(Some(PROBES))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .buffer_size(QUEUE);
        if let Some(tls) = tls {
            made = made.tls_config(config(tls)?).map_err(wrong)?;
        }
        Ok(Self { endpoint: made, channel: OnceLock::new(), feeds: OnceLock::new() })
    }

    /// The connection of streams. Each may have little unread, and all together much: one that is
    /// not read, for as long as its subscriber is not there, stops no other.
    pub(super) fn feeds(&self) -> Channel {
        let made = || {
            let endpoint = self.endpoint.clone();
            let endpoint = endpoint.initial_stream_window_size(FEED_WINDOW);
            endpoint.initial_connection_window_size(FEEDS_WINDOW).connect_lazy()
        };
        self.feeds.get_or_init(made).clone()
    }

    /// Asks. `grow` makes room for each piece of the answer, or says that there is none.
    pub(in crate::control) async fn ask(
        &self,
        path: &'static str,
        metadata: HeaderMap,
        message: &[u8],
        limit: usize,
        mut grow: impl FnMut(usize) -> bool,
    ) -> Result<Bytes, NoAnswer> {
        let gone = |error: &dyn std::error::Error| (HookFailure::Unreachable, explain(error));
        let mut channel = self.channel.get_or_init(|| self.endpoint.connect_lazy()).clone();
        let ready = channel.ready().await.map_err(|error| gone(&error))?;
        let body = axum::body::Body::from(framed(message));
        let body = tonic::body::Body::new(body);
        let answer = ready.call(request(path, metadata, body)).await;
        let answer = answer.map_err(|error| gone(&error))?;
        if answer.status() != 200 {
            return Err((HookFailure::Status, format!("HTTP {}", answer.status())));
        }
        let mut well = check(answer.headers())?;
        let mut body = answer.into_body();
        let mut whole = BytesMut::new();
        loop {
            let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            let Some(frame) = next else { break };
            let frame = frame.map_err(|status| (HookFailure::Unreachable, status.to_string()))?;
            let frame = match frame.into_data() {
                Ok(piece) => {
                    if piece.len() > (limit + PREFIX).saturating_sub(whole.len()) {
                        return Err((HookFailure::BadReply, "too large".to_owned()));
                    }
                    // Read, and decoded.
                    if !grow(2 * piece.len()) {
                        let what = "answers take the memory".to_owned();
                        return Err((HookFailure::Overloaded, what));
                    }
                    whole.extend_from_slice(&piece);
                    continue;
                }
                Err(frame) => frame,
            };
            if let Some(trailers) = frame.trailers_ref() {
                well |= check(trailers)?;
            }
        }
        match well {
            true => message_of(whole.freeze()),
            false => Err((HookFailure::BadReply, "without a status".to_owned())),
        }
    }
}

/// A message as it goes.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(message);
    framed.freeze()
}

/// A question as HTTP/2 carries it. The channel fills in the host.
pub(super) fn request(
    path: &'static str,
    metadata: HeaderMap,
    body: tonic::body::Body,
) -> Request<tonic::body::Body> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::from(PathAndQuery::from_static(path));
    *request.headers_mut() = metadata;
    let fixed = [(header::TE, "trailers"), (header::CONTENT_TYPE, "application/grpc")];
    for (name, value) in fixed {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    request
}

/// Whether headers or trailers have a status. The error is that of one that is not `OK`.
pub(super) fn check(headers: &HeaderMap) -> Result<bool, NoAnswer> {
    match tonic::Status::from_header_map(headers) {
        None => Ok(false),
        Some(status) if status.code() == Code::Ok => Ok(true),
        Some(status) => {
            let why = match status.code() {
                Code::Unavailable => HookFailure::Unreachable,
                Code::DeadlineExceeded => HookFailure::Timeout,
                _ => HookFailure::Status,
            };
            Err((why, format!("{:?}", status.code())))
        }
    }
}

/// The one message of an answer.
fn message_of(mut whole: Bytes) -> Result<Bytes, NoAnswer> {
    let wrong = |what: &str| (HookFailure::BadReply, what.to_owned());
    if whole.len() < PREFIX {
        return Err(wrong("no message"));
    }
    let prefix = whole.split_to(PREFIX);
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    match (prefix[0], usize::try_from(length) == Ok(whole.len())) {
        (0, true) => Ok(whole),
        (0, false) => Err(wrong("not exactly one message")),
        _ => Err(wrong("compressed, which was not asked for")),
    }
}

fn config(tls: &Certificates) -> Result<ClientTlsConfig, String> {
    let read = |text: &str, key: &str| pem::load(text).map_err(|what| format!("{key}: {what}"));
    let mut config = ClientTlsConfig::new();
    config = match tls.authority.as_str() {
        "" => config.with_native_roots(),
        authority => {
            config.ca_certificate(Certificate::from_pem(read(authority, "server_ca_pem")?))
        }
    };
    if !tls.certificate.is_empty() {
        let certificate = read(&tls.certificate, "cert_pem")?;
        config =
            config.identity(Identity::from_pem(certificate, read(tls.key.reveal(), "key_pem")?));
    }
    if !tls.name.is_empty() {
        config = config.domain_name(tls.name.clone());
    }
    Ok(config)
}

/// The innermost cause, which says most.
pub(super) fn explain(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// What is before a message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

/// A connection that takes longer is not one; the proxy's own timeout is mostly shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the backend is still there while it is asked, or a stream is open. More often than every
/// five minutes, servers of gRPC take it for an attack, and end the connection with all that is on
/// it.
const PING_INTERVAL: Duration = Duration::from_secs(310);
const _: () = assert!(PING_INTERVAL.as_secs() > 300);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether its host is still there: what the kernel asks, nobody counts.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// What is received and not taken yet, of an answer and of all together.
const WINDOW: u32 = 256 << 10;

/// The same of a stream that goes on, and of all of those.
const FEED_WINDOW: u32 = 64 << 10;
pub(crate) const FEEDS_WINDOW: u32 = 16 << 20;

/// Questions between the proxy's turns and the connection.
const QUEUE: usize = 1024;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::Response;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_answer_without_a_status_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("the question");
            let answer = service_fn(|_| async {
                Ok::<_, Infallible>(Response::new(axum::body::Body::from("\0\0\0\0\x02ab")))
            });
            let server = http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), answer).await;
        });
        let backend = GrpcBackend::new(&format!("grpc://{at}"), None).expect("an endpoint");
        let asked = backend.ask("/a.B/C", HeaderMap::new(), b"", 1024, |_| true).await;
        assert_eq!(asked, Err((HookFailure::BadReply, "without a status".to_owned())));
    }

    #[test]
    fn an_answer_is_one_message() {
        let of = |bytes: &'static [u8]| message_of(Bytes::from_static(bytes));
        assert_eq!(of(b"\0\0\0\0\x02ab"), Ok(Bytes::from_static(b"ab")));
        assert_eq!(of(b"\0\0\0\0\0"), Ok(Bytes::new()));
        for wrong in
            [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x02a", b"\0\0\0\0\x01ab", b"\x01\0\0\0\x01a"]
        {
            assert_eq!(message_of(Bytes::from_static(wrong)).unwrap_err().0, HookFailure::BadReply);
        }
    }

    #[test]
    fn statuses_are_told_apart() {
        let with = |status: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_static(status));
            check(&headers).map_err(|(why, _)| why)
        };
        assert_eq!((with("0"), check(&HeaderMap::new())), (Ok(true), Ok(false)));
        assert_eq!(with("14"), Err(HookFailure::Unreachable));
        assert_eq!(with("4"), Err(HookFailure::Timeout));
        for status in ["2", "7", "12", "99", "x"] {
            assert_eq!(with(status), Err(HookFailure::Status), "{status}");
        }
    }
}
