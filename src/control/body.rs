//! Request bodies in, small JSON answers out.
//!
//! Invariant: a body is never read past its limit, nor waited for past its deadline.

use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// How much of a body is taken, and how long its sender may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes; more is answered with 413. Default 16 MiB.
    pub bytes: usize,
    /// From the head to the last byte; longer is answered with 408. Default 30 s.
    pub time: Duration,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { bytes: 16 << 20, time: Duration::from_secs(30) }
    }
}

/// Reads a whole body. The error is the status to answer with.
pub(crate) async fn read(body: Body, limits: BodyLimits) -> Result<Bytes, StatusCode> {
    // A length that is announced is refused before anything of it is taken.
    if body.size_hint().lower() > limits.bytes as u64 {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    match tokio::time::timeout(limits.time, collect(body, limits.bytes)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, StatusCode> {
    let mut whole = Vec::new();
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let Some(frame) = frame else { return Ok(whole.into()) };
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - whole.len() {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        whole.extend_from_slice(&data);
    }
}

/// An answer that is JSON already.
pub(crate) fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let content = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, content, body.into()).into_response()
}

/// A status with its name as JSON: what every refusal outside of the server API's own errors looks
/// like.
pub(crate) fn refusal(status: StatusCode) -> Response {
    let message = status.canonical_reason().unwrap_or("refused").to_ascii_lowercase();
    let body = format!("{{\"status\":{},\"message\":\"{message}\"}}", status.as_u16());
    json(status, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BodyLimits = BodyLimits { bytes: 8, time: Duration::from_secs(60) };

    #[tokio::test]
    async fn up_to_the_limit_and_no_further() {
        assert_eq!(read(Body::from("12345678"), LIMITS).await, Ok(Bytes::from("12345678")));
        assert_eq!(read(Body::empty(), LIMITS).await, Ok(Bytes::new()));
        assert_eq!(read(Body::from("123456789"), LIMITS).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_counted() {
        let pieces = |number: usize| {
            let pieces = (0..number).map(|_| Ok::<_, std::io::Error>("abc"));
            Body::from_stream(futures_util::stream::iter(pieces))
        };
        assert_eq!(read(pieces(2), LIMITS).await, Ok(Bytes::from("abcabc")));
        assert_eq!(read(pieces(3), LIMITS).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up() {
        let body =
            Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let limits = BodyLimits { time: Duration::from_millis(10), ..LIMITS };
        assert_eq!(read(body, limits).await, Err(StatusCode::REQUEST_TIMEOUT));
    }

    #[tokio::test]
    async fn refusals_are_json() {
        let refused = refusal(StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(refused.status(), 405);
        assert_eq!(refused.headers()[header::CONTENT_TYPE], "application/json");
        let body = read(refused.into_body(), BodyLimits::default()).await.unwrap();
        assert_eq!(body, r#"{"status":405,"message":"method not allowed"}"#);
    }
}
