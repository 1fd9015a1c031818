//! Request bodies in, small JSON answers out.
//!
//! The invariants: a body is never read past its limit, nor waited for past its deadline; all
//! bodies together never hold more than their room, small ones aside.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::amounts::Total;
use super::room::{Seat, time_for};

/// How much of a body is taken, and how long its sender may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes; more is answered with 413. Default 16 MiB.
    pub bytes: usize,
    /// From the head to the last byte, and a second more for every 64 KiB that have come; longer
    /// is answered with 408. Default 30 s.
    pub time: Duration,
    /// Bytes of a body that always passes, and does not count: places bound how many there are.
    /// Default 64 KiB.
    pub small: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { bytes: 16 << 20, time: Duration::from_secs(30), small: SMALL }
    }
}

/// The account of the bodies of all requests.
#[derive(Debug)]
pub(crate) struct Bodies {
    room: AtomicUsize,
    held: AtomicUsize,
    /// Requests refused with 503: there was no room for their bodies.
    pub(crate) refused: Total,
}

impl Default for Bodies {
    fn default() -> Self {
        let (room, held) = (AtomicUsize::new(BODIES_ROOM), AtomicUsize::new(0));
        Self { room, held, refused: Total::default() }
    }
}

impl Bodies {
    /// Gives them this much room.
    pub(crate) fn resize(&self, room: usize) {
        self.room.store(room, Ordering::Relaxed);
    }

    /// Bytes that are held.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// One request's share of the bodies' room. Dropping it gives the share back.
#[derive(Debug)]
pub(crate) struct Charge {
    bodies: Arc<Bodies>,
    bytes: usize,
}

impl Charge {
    pub(crate) fn new(bodies: &Arc<Bodies>) -> Self {
        Self { bodies: bodies.clone(), bytes: 0 }
    }

    /// Takes room for more. The error is the status to answer with.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), StatusCode> {
        let room = self.bodies.room.load(Ordering::Relaxed);
        let held = self.bodies.held.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if held.saturating_add(bytes) > room {
            // What was taken in vain goes back with the drop.
            self.bodies.refused.count();
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.bodies.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads the whole body of a request. It counts twice in `charge`, as what it is decoded into takes
/// about as much; a small one does not count. The error is the status to answer with.
pub(crate) async fn read(
    request: Request,
    limits: BodyLimits,
    charge: &mut Charge,
) -> Result<Bytes, StatusCode> {
    let seat = request.extensions().get::<Seat>().cloned();
    let body = request.into_body();
    // A length that is announced is refused before anything of it is taken.
    if body.size_hint().lower() > limits.bytes as u64 {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    if let Some(seat) = &seat {
        seat.pause(Instant::now());
    }
    let whole = collect(body, limits, charge).await;
    if let Some(seat) = &seat {
        seat.work();
    }
    whole
}

async fn collect(
    mut body: Body,
    limits: BodyLimits,
    charge: &mut Charge,
) -> Result<Bytes, StatusCode> {
    let (mut whole, mut charged) = (Vec::new(), 0);
    let start = Instant::now();
    loop {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let until = start + limits.time + time_for(whole.len() as u64);
        let frame = tokio::time::timeout_at(until, next).await;
        let Some(frame) = frame.map_err(|_| StatusCode::REQUEST_TIMEOUT)? else {
            return Ok(whole.into());
        };
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        let Ok(data) = frame.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > limits.bytes {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        if length > limits.small && length > charged {
            // Where it will grow to; copied from where it is.
            let size = length.next_power_of_two().min(limits.bytes);
            charge.add(2 * (size - charged))?;
            whole.reserve_exact(size - whole.len());
            charged = size;
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
    let mut response = json(status, body);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

/// Bytes that all bodies may hold, unless configured otherwise.
pub const BODIES_ROOM: usize = 64 << 20;

/// What passes unless something else is said.
const SMALL: usize = 64 << 10;

/// Seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BodyLimits = BodyLimits { bytes: 8, time: Duration::from_secs(60), small: SMALL };

    async fn read(body: Body, limits: BodyLimits) -> Result<Bytes, StatusCode> {
        let mut charge = Charge::new(&Arc::default());
        super::read(Request::new(body), limits, &mut charge).await
    }

    #[tokio::test]
    async fn up_to_the_limit_and_no_further() {
        assert_eq!(read(Body::from("12345678"), LIMITS).await, Ok(Bytes::from("12345678")));
        assert_eq!(read(Body::empty(), LIMITS).await, Ok(Bytes::new()));
        assert_eq!(read(Body::from("123456789"), LIMITS).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
    }

    /// A body of so many pieces, whose length nobody says.
    fn pieces(piece: &'static [u8], number: usize) -> Body {
        let pieces = (0..number).map(move |_| Ok::<_, std::io::Error>(piece));
        Body::from_stream(futures_util::stream::iter(pieces))
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_counted() {
        assert_eq!(read(pieces(b"abc", 2), LIMITS).await, Ok(Bytes::from("abcabc")));
        assert_eq!(read(pieces(b"abc", 3), LIMITS).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[tokio::test]
    async fn all_bodies_share_a_room_in_which_small_ones_do_not_count() {
        static PIECE: [u8; 1 << 10] = [b'x'; 1 << 10];
        let bodies = Arc::new(Bodies::default());
        bodies.resize(1 << 20);
        let limits = BodyLimits { bytes: 200 << 10, ..LIMITS };
        let read = async |pieces_of: usize, charge: &mut Charge| {
            let body = Request::new(pieces(&PIECE, pieces_of));
            super::read(body, limits, charge).await.map(|body| body.len())
        };
        let mut charges: Vec<_> = (0..4).map(|_| Charge::new(&bodies)).collect();
        assert_eq!(read(64, &mut charges[0]).await, Ok(SMALL));
        assert_eq!(bodies.held(), 0);
        assert_eq!(read(65, &mut charges[0]).await, Ok(65 << 10));
        assert_eq!(bodies.held(), 2 * (128 << 10));
        assert_eq!(read(200, &mut charges[1]).await, Ok(200 << 10));
        assert_eq!(bodies.held(), 2 * (328 << 10));
        assert_eq!(read(200, &mut charges[2]).await, Err(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(bodies.refused.get(), 1);
        assert_eq!(read(64, &mut charges[3]).await, Ok(SMALL));
        // What was read stays counted as long as the request is worked on.
        charges.truncate(1);
        assert_eq!(bodies.held(), 2 * (128 << 10));
        assert_eq!(charges[0].add(bodies.room.load(Ordering::Relaxed) - bodies.held()), Ok(()));
        charges.clear();
        assert_eq!(bodies.held(), 0);
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
        assert!(!refused.headers().contains_key(header::RETRY_AFTER));
        let body = read(refused.into_body(), BodyLimits::default()).await.unwrap();
        assert_eq!(body, r#"{"status":405,"message":"method not allowed"}"#);
        let busy = refusal(StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(busy.headers()[header::RETRY_AFTER], "5");
    }
}
