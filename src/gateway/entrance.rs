//! Where clients come in: by WebSocket, and without it by streams and the requests that carry their
//! commands; also what browsers ask before (CORS).
//!
//! Owns which request gets which answer, and the session of one that was accepted until its
//! connection opens, which is next. What it has no path for is for the control plane. The
//! invariant: no answer but to an admitted origin tells a page anything.

use std::borrow::Cow;
use std::io::Write;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;

use super::account::{Budget, heap, shared};
use super::app::{CoreEvent, Gateway, Posted, Seed};
use super::emulation::SessionNames;
use super::format::{Format, Transport};
use super::places::Resume;
use super::plan::Plan;
use super::rulebook::Rulebook;
use super::session::{self, First, Session, connect_request, connect_responses};
use super::stats::GatewayCounters;
use super::wire::{self, Encoding};
use crate::engine::{Detached, Handle, HttpAction, SendError, UpgradeAction};
use crate::protocol::HttpResponse;
use crate::protocol::parameters::unescape;
use crate::protocol::request::{Refusal, Request};

/// A path that is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Stream(Transport),
    Emulation,
}

type Headers = Vec<(String, String)>;

/// Where requests of clients come in on one core. See the module's text.
pub(super) struct Entrance {
    core: u16,
    names: Arc<SessionNames>,
    posts: Arc<Budget>,
    handle: Handle<Gateway>,
    /// Of the request that was just accepted: it opens next, before any other.
    arriving: Option<Arriving>,
    /// Posts that were refused.
    refused: u64,
    /// Posts to sessions that there cannot be.
    lost: u64,
}

/// A connection that is about to open.
pub(super) struct Arriving {
    pub(super) session: Session,
    pub(super) first: First,
}

impl Entrance {
    /// Of one core.
    pub(super) fn new(core: u16, seed: &Seed, handle: Handle<Gateway>) -> Self {
        let (names, posts) = (seed.names.clone(), seed.posts.clone());
        Self { core, names, posts, handle, arriving: None, refused: 0, lost: 0 }
    }

    /// What is to be counted here.
    pub(super) fn count(&self, counters: &mut GatewayCounters) {
        counters.emulation_refused += self.refused;
        counters.emulation_lost += self.lost;
        // All cores share it.
        counters.emulation_bytes = if self.core == 0 { self.posts.held() as u64 } else { 0 };
    }

    /// The connection that opens now.
    pub(super) fn take(&mut self) -> Option<Arriving> {
        self.arriving.take()
    }

    /// Decides about a request that asks for a WebSocket.
    pub(super) fn upgrade(
        &mut self,
        rules: &Rulebook,
        request: &Request<'_>,
        client: IpAddr,
    ) -> UpgradeAction<Format> {
        let options = &rules.options;
        let (websocket, uni) = (&options.websocket, &options.uni_websocket);
        let at =
            |prefix: &str| request.path().trim_end_matches('/') == prefix.trim_end_matches('/');
        let one_way = uni.enabled && at(&uni.handler_prefix);
        if !one_way && (websocket.disabled || !at(&websocket.handler_prefix)) {
            return UpgradeAction::Refuse(Refusal::NotFound);
        }
        if !rules.origins.admit(request.origin()) {
            return UpgradeAction::Refuse(Refusal::Forbidden);
        }
        let (format, protocol, first) = match one_way {
            false => {
                let (format, protocol) = session::negotiate(request);
                (format, protocol, First::Nothing)
            }
            true => match query(request, "cf_connect") {
                None => (Format::UniWebSocket, None, First::Nothing),
                Some(content) => match connect_request(&content) {
                    Ok(connect) => {
                        let first = First::Connect(Box::new(connect), Resume::default());
                        (Format::UniWebSocket, None, first)
                    }
                    Err(_) => {
                        let refusal = Refusal::BadRequest("cf_connect is no connect request");
                        return UpgradeAction::Refuse(refusal);
                    }
                },
            },
        };
        let session = Session::new(request, client, options, format);
        self.arriving = Some(Arriving { session, first });
        UpgradeAction::Accept { state: format, protocol, headers: Vec::new() }
    }

    /// Decides about a request that asks for no WebSocket.
    pub(super) fn plain(
        &mut self,
        rules: &Rulebook,
        request: &Request<'_>,
        client: IpAddr,
        body: Option<&[u8]>,
    ) -> HttpAction<Format> {
        let Some(way) = way(&rules.options, request.path()) else {
            return match is_websocket(&rules.options, request.path()) {
                // It lacks the upgrade, or a WebSocket would not be here.
                true => answer(if request.method == "GET" { 400 } else { 405 }, Vec::new()),
                false => HttpAction::Detach,
            };
        };
        let origin = request.origin();
        if !rules.origins.admit(origin) || !rules.origins.admit_any() && is_covert(request) {
            return answer(403, Vec::new());
        }
        let mut headers = cors(origin);
        let allowed = match way {
            Way::Stream(Transport::Sse | Transport::UniSse) => "GET, POST, OPTIONS",
            _ => "POST, OPTIONS",
        };
        match request.method {
            "OPTIONS" => {
                preflight(request, allowed, &mut headers);
                return answer(204, headers);
            }
            "POST" => {}
            // What follows it would belong to no request.
            "GET" if allowed.starts_with("GET") && request.body_len() != Ok(0) => {
                return answer(400, headers);
            }
            "GET" if allowed.starts_with("GET") => {}
            _ => {
                headers.push(("Allow".to_owned(), allowed.to_owned()));
                return answer(405, headers);
            }
        }
        let content = match (request.method, body) {
            ("GET", _) => query(request, "cf_connect"),
            (_, Some(body)) => Some(Cow::Borrowed(body)),
            (_, None) => {
                // The engine would say the same, but not to a page.
                let limit = body_max(&rules.options, way);
                let said = request.body_len();
                return match said {
                    Ok(len) if len <= limit as u64 => HttpAction::Body(limit),
                    Ok(_) => answer(413, headers),
                    Err(refusal) => answer(refusal.status(), headers),
                };
            }
        };
        match way {
            Way::Emulation => answer(self.emulated(request, &content.unwrap_or_default()), headers),
            Way::Stream(transport) => {
                self.stream(rules, request, client, transport, content.as_deref(), headers)
            }
        }
    }

    /// Opens a stream for what the client sent with its request.
    fn stream(
        &mut self,
        rules: &Rulebook,
        request: &Request<'_>,
        client: IpAddr,
        transport: Transport,
        content: Option<&[u8]>,
        mut headers: Headers,
    ) -> HttpAction<Format> {
        let format = match transport {
            Transport::HttpStream if is_binary(request) => Format::StreamProtobuf,
            Transport::HttpStream => Format::StreamJson,
            Transport::UniSse => Format::UniSse,
            Transport::UniHttpStream => Format::UniStream,
            _ => Format::Sse,
        };
        let first = match (format.is_uni(), content) {
            (true, content) => match connect_request(content.unwrap_or_default()) {
                Ok(connect) => {
                    let resume = request.header("last-event-id").filter(|_| format.is_events());
                    First::Connect(Box::new(connect), Resume::new(resume.unwrap_or_default()))
                }
                Err(_) => return answer(400, headers),
            },
            (false, Some(content)) if !content.is_empty() => First::Commands(content.to_vec()),
            (false, _) => return answer(400, headers),
        };
        let mut session = Session::new(request, client, &rules.options, format);
        let content_type = match format {
            Format::Sse | Format::UniSse => "text/event-stream; charset=utf-8",
            Format::StreamProtobuf => "application/octet-stream",
            _ => "application/x-ndjson",
        };
        // Proxies must neither keep it nor wait for more of it.
        let fixed = [
            ("Content-Type", content_type),
            ("Cache-Control", "private, no-cache, no-store, must-revalidate, max-age=0"),
            ("Pragma", "no-cache"),
            ("X-Accel-Buffering", "no"),
        ];
        headers.extend(fixed.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let later = connect_responses(&rules.options, format).is_some();
        if later {
            session.answer_later(std::mem::take(&mut headers));
        }
        self.arriving = Some(Arriving { session, first });
        match later {
            true => HttpAction::Later { state: format },
            false => HttpAction::Stream { state: format, headers },
        }
    }

    /// Passes on what the client of a stream posted. The status to answer with.
    fn emulated(&mut self, request: &Request<'_>, body: &[u8]) -> u16 {
        let encoding = if is_binary(request) { Encoding::Protobuf } else { Encoding::Json };
        let Ok(posted) = wire::decode_emulation(encoding, body) else {
            self.refused += 1;
            return 400;
        };
        if posted.node != self.names.node() {
            self.refused += 1;
            return 404;
        }
        let Some((core, link)) = self.names.find(&posted.session) else {
            // As for a session that is gone: its client learns it from the stream.
            self.lost += 1;
            return 204;
        };
        let bytes = heap(size_of::<Posted>()) + shared(posted.data.len());
        let Some(held) = self.posts.take(bytes) else {
            self.refused += 1;
            return 503;
        };
        let letter = CoreEvent::Emulated(Box::new(Posted { link, data: posted.data, held }));
        match self.handle.post(core.into(), letter) {
            Err(SendError::Busy) => {
                self.refused += 1;
                503
            }
            _ => 204,
        }
    }
}

/// The answer to an upgrade on a port that has none.
pub(super) fn nothing_here() -> HttpResponse {
    let body = "{\"status\":404,\"message\":\"not found\"}";
    HttpResponse::new(404).header("Cache-Control", "no-store").body("application/json", body)
}

/// Answers plain HTTP that the control plane has no room for.
pub(super) fn turn_away(passed: Detached) {
    let Detached { socket, tls, .. } = passed;
    let socket = TcpStream::from(socket);
    // Fits an empty send buffer; whoever does not read it misses nothing.
    let _ = socket.set_nonblocking(true);
    let _ = match tls {
        Some(tls) => (&socket).write_all(&tls.last_words(NO_ROOM)),
        None => (&socket).write_all(NO_ROOM),
    };
}

/// Whether a browser asks for a page that it does not name. It names the page with every request
/// that a script makes elsewhere, and not with those of `<img>`, `<script>`, `<iframe>` or a link
/// (Fetch Metadata Request Headers); `EventSource` is a script's and asks with `cors`.
fn is_covert(request: &Request<'_>) -> bool {
    let elsewhere = matches!(request.header("sec-fetch-site"), Some("cross-site" | "same-site"));
    let no_script = request.header("sec-fetch-mode") == Some("no-cors");
    request.origin().is_none() && (elsewhere || no_script)
}

/// What is at a path.
fn way(plan: &Plan, path: &str) -> Option<Way> {
    let path = path.trim_end_matches('/');
    let Plan { sse, http_stream, uni_sse, uni_http_stream, emulation, .. } = plan;
    let emulates = sse.enabled || http_stream.enabled;
    let ways = [
        (sse.enabled, &sse.handler_prefix, Way::Stream(Transport::Sse)),
        (http_stream.enabled, &http_stream.handler_prefix, Way::Stream(Transport::HttpStream)),
        (emulates, &emulation.handler_prefix, Way::Emulation),
        (uni_sse.enabled, &uni_sse.handler_prefix, Way::Stream(Transport::UniSse)),
        (
            uni_http_stream.enabled,
            &uni_http_stream.handler_prefix,
            Way::Stream(Transport::UniHttpStream),
        ),
    ];
    let at = |(enabled, prefix, way): (bool, &String, Way)| {
        (enabled && prefix.trim_end_matches('/') == path).then_some(way)
    };
    ways.into_iter().find_map(at)
}

/// Whether a WebSocket is at a path.
fn is_websocket(plan: &Plan, path: &str) -> bool {
    let Plan { websocket, uni_websocket, .. } = plan;
    let at = |prefix: &str| prefix.trim_end_matches('/') == path.trim_end_matches('/');
    !websocket.disabled && at(&websocket.handler_prefix)
        || uni_websocket.enabled && at(&uni_websocket.handler_prefix)
}

/// Bytes of a body there.
fn body_max(plan: &Plan, way: Way) -> usize {
    let size = match way {
        Way::Emulation => plan.emulation.max_request_body_size,
        Way::Stream(Transport::HttpStream) => plan.http_stream.max_request_body_size,
        Way::Stream(Transport::UniSse) => plan.uni_sse.max_request_body_size,
        Way::Stream(Transport::UniHttpStream) => plan.uni_http_stream.max_request_body_size,
        Way::Stream(_) => plan.sse.max_request_body_size,
    };
    size.0
}

fn answer(status: u16, headers: Headers) -> HttpAction<Format> {
    HttpAction::Respond(HttpResponse::new(status).headers(headers))
}

/// What lets a page of an admitted origin read the answer, with its cookies.
fn cors(origin: Option<&str>) -> Headers {
    let Some(origin) = origin.filter(|origin| !origin.is_empty()) else { return Vec::new() };
    [
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Allow-Credentials", "true"),
        ("Vary", "Origin"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// The answer to what a browser asks before a request that a form could not make.
fn preflight(request: &Request<'_>, methods: &str, headers: &mut Headers) {
    headers.push(("Access-Control-Allow-Methods".to_owned(), methods.to_owned()));
    headers.push(("Access-Control-Max-Age".to_owned(), "300".to_owned()));
    if let Some(wanted) = request.header("access-control-request-headers") {
        headers.push(("Access-Control-Allow-Headers".to_owned(), wanted.to_owned()));
    }
}

/// Whether what is posted is Protobuf.
fn is_binary(request: &Request<'_>) -> bool {
    let content_type = request.header("content-type").unwrap_or_default();
    let (kind, _) = content_type.split_once(';').unwrap_or((content_type, ""));
    kind.trim().eq_ignore_ascii_case("application/octet-stream")
}

/// The first value of that name in the query, unless it is empty.
pub(super) fn query<'r>(request: &Request<'r>, name: &str) -> Option<Cow<'r, [u8]>> {
    let pairs = request.query().unwrap_or("").split('&');
    let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
    Some(unescape(value)).filter(|value| !value.is_empty())
}

/// The answer where there is no room.
const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\
    Retry-After: 5\r\nContent-Length: 0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_that_names_no_page_is_known() {
        for (headers, covert) in [
            // What is no browser, or an old one.
            ("", false),
            // EventSource and fetch of the own page, and what a person types.
            ("Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n", false),
            ("Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\n", false),
            // EventSource of another page: the origin decides.
            ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors\r\nOrigin: https://a\r\n", false),
            // Pictures, scripts, frames and links.
            ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n", true),
            ("Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: no-cors\r\n", true),
            ("Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: no-cors\r\n", true),
            ("Sec-Fetch-Mode: no-cors\r\n", true),
            ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n", true),
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
            let parsed = crate::protocol::request::parse(head.as_bytes(), &mut 0, 8192);
            let (request, _) = parsed.unwrap().unwrap();
            assert_eq!(is_covert(&request), covert, "{headers}");
        }
    }
}
