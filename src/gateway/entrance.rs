//! Where clients without WebSocket come in: streams, the requests that carry their commands, and
//! what browsers ask before (CORS).
//!
//! Owns which plain request gets which answer. What it has no path for is for the control plane.
//! The invariant: no answer but to an admitted origin tells a page anything.

use std::borrow::Cow;
use std::io::Write;
use std::net::{IpAddr, TcpStream};

use super::account::{heap, shared};
use super::app::{Arriving, Desk, First, Letter, Posted};
use super::format::{Format, Transport};
use super::places::Resume;
use super::plan::{ConnectResponses, Plan};
use super::session::Session;
use super::wire::messages::ConnectRequest;
use super::wire::{self, Encoding, Malformed};
use crate::engine::{ConnId, Context, Detached, HttpAction, SendError};
use crate::protocol::HttpResponse;
use crate::protocol::parameters::unescape;
use crate::protocol::request::Request;

/// A path that is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entrance {
    Stream(Transport),
    Emulation,
}

type Headers = Vec<(String, String)>;

impl Desk {
    /// Decides about a request that asks for no WebSocket.
    pub(super) fn plain(
        &mut self,
        request: &Request<'_>,
        client: IpAddr,
        body: Option<&[u8]>,
    ) -> HttpAction<()> {
        let rules = self.rules.clone();
        let Some(entrance) = entrance(&rules.options, request.path()) else {
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
        let allowed = match entrance {
            Entrance::Stream(Transport::Sse | Transport::UniSse) => "GET, POST, OPTIONS",
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
                let limit = body_max(&rules.options, entrance);
                let said = request.body_len();
                return match said {
                    Ok(len) if len <= limit as u64 => HttpAction::Body(limit),
                    Ok(_) => answer(413, headers),
                    Err(refusal) => answer(refusal.status(), headers),
                };
            }
        };
        match entrance {
            Entrance::Emulation => {
                answer(self.emulated(request, &content.unwrap_or_default()), headers)
            }
            Entrance::Stream(transport) => {
                self.stream(request, client, transport, content.as_deref(), headers)
            }
        }
    }

    /// Opens a stream for what the client sent with its request.
    fn stream(
        &mut self,
        request: &Request<'_>,
        client: IpAddr,
        transport: Transport,
        content: Option<&[u8]>,
        mut headers: Headers,
    ) -> HttpAction<()> {
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
        let mut session = Session::new(request, client, &self.rules.options, format);
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
        let later = connect_responses(&self.rules.options, format).is_some();
        if later {
            session.answer_later(std::mem::take(&mut headers));
        }
        self.arriving = Some(Arriving { session, first });
        match later {
            true => HttpAction::Later { state: (), dialect: format.dialect() },
            false => HttpAction::Stream { state: (), headers, dialect: format.dialect() },
        }
    }

    /// Ends a client whose connect request is not answered yet with a response of HTTP. `false`: it
    /// is, or such clients hear of errors in the stream.
    pub(super) fn respond(
        &mut self,
        cx: &mut Context<'_>,
        id: ConnId,
        code: u32,
        why: &str,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let format = session.format();
        let Some(headers) = session.take_answer() else { return false };
        let rules = self.rules.clone();
        let chosen = connect_responses(&rules.options, format).and_then(|it| it.of(code));
        let (status, body) = match chosen {
            Some((status, "")) => (status, why),
            Some(chosen) => chosen,
            None => (500, "Internal Server Error"),
        };
        // What lets a page read it.
        let of_page =
            |(name, _): &(String, String)| name.starts_with("Access-Control-") || name == "Vary";
        let headers = headers.into_iter().filter(of_page).collect();
        let response = HttpResponse::new(status)
            .headers(headers)
            .body("text/plain; charset=utf-8", body.to_owned());
        // One that is gone heard nothing.
        let _ = cx.respond(id, &response);
        true
    }

    /// Passes on what the client of a stream posted. The status to answer with.
    fn emulated(&mut self, request: &Request<'_>, body: &[u8]) -> u16 {
        let encoding = if is_binary(request) { Encoding::Protobuf } else { Encoding::Json };
        let Ok(posted) = wire::decode_emulation(encoding, body) else {
            self.stats.counters.emulation_refused += 1;
            return 400;
        };
        if posted.node != self.names.node() {
            self.stats.counters.emulation_refused += 1;
            return 404;
        }
        let Some(id) = self.names.find(&posted.session) else {
            // As for a session that is gone: its client learns it from the stream.
            self.stats.counters.emulation_lost += 1;
            return 204;
        };
        let bytes = heap(size_of::<Posted>()) + shared(posted.data.len());
        let Some(held) = self.posts.take(bytes) else {
            self.stats.counters.emulation_refused += 1;
            return 503;
        };
        let letter = Letter::Emulated(Box::new(Posted { id, data: posted.data, held }));
        match self.handle.post(id.core(), letter) {
            Err(SendError::Busy) => {
                self.stats.counters.emulation_refused += 1;
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

/// What errors of a connect request are answered with; `None`: they are told in the stream.
fn connect_responses(plan: &Plan, format: Format) -> Option<&ConnectResponses> {
    let responses = match format {
        Format::UniSse => &plan.uni_sse.connect_code_to_http_response,
        Format::UniStream => &plan.uni_http_stream.connect_code_to_http_response,
        _ => return None,
    };
    Some(responses).filter(|responses| responses.enabled)
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
fn entrance(plan: &Plan, path: &str) -> Option<Entrance> {
    let path = path.trim_end_matches('/');
    let Plan { sse, http_stream, uni_sse, uni_http_stream, emulation, .. } = plan;
    let emulates = sse.enabled || http_stream.enabled;
    let entrances = [
        (sse.enabled, &sse.handler_prefix, Entrance::Stream(Transport::Sse)),
        (http_stream.enabled, &http_stream.handler_prefix, Entrance::Stream(Transport::HttpStream)),
        (emulates, &emulation.handler_prefix, Entrance::Emulation),
        (uni_sse.enabled, &uni_sse.handler_prefix, Entrance::Stream(Transport::UniSse)),
        (
            uni_http_stream.enabled,
            &uni_http_stream.handler_prefix,
            Entrance::Stream(Transport::UniHttpStream),
        ),
    ];
    let at = |(enabled, prefix, entrance): (bool, &String, Entrance)| {
        (enabled && prefix.trim_end_matches('/') == path).then_some(entrance)
    };
    entrances.into_iter().find_map(at)
}

/// Whether a WebSocket is at a path.
fn is_websocket(plan: &Plan, path: &str) -> bool {
    let Plan { websocket, uni_websocket, .. } = plan;
    let at = |prefix: &str| prefix.trim_end_matches('/') == path.trim_end_matches('/');
    !websocket.disabled && at(&websocket.handler_prefix)
        || uni_websocket.enabled && at(&uni_websocket.handler_prefix)
}

/// Bytes of a body there.
fn body_max(plan: &Plan, entrance: Entrance) -> usize {
    let size = match entrance {
        Entrance::Emulation => plan.emulation.max_request_body_size,
        Entrance::Stream(Transport::HttpStream) => plan.http_stream.max_request_body_size,
        Entrance::Stream(Transport::UniSse) => plan.uni_sse.max_request_body_size,
        Entrance::Stream(Transport::UniHttpStream) => plan.uni_http_stream.max_request_body_size,
        Entrance::Stream(_) => plan.sse.max_request_body_size,
    };
    size.0
}

fn answer(status: u16, headers: Headers) -> HttpAction<()> {
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

/// A one-way client's request; nothing, and `null`, ask for nothing.
pub(super) fn connect_request(content: &[u8]) -> Result<ConnectRequest, Malformed> {
    match content.trim_ascii() {
        b"" | b"null" => Ok(ConnectRequest::default()),
        content => wire::decode_connect(Encoding::Json, content),
    }
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

    #[test]
    fn nothing_and_null_are_requests() {
        for content in ["", " ", "null", " null\n", "{}"] {
            let request = connect_request(content.as_bytes());
            assert_eq!(request, Ok(ConnectRequest::default()), "{content:?}");
        }
        for content in ["[]", "1", "{", "{} {}", "nul"] {
            assert!(connect_request(content.as_bytes()).is_err(), "{content:?}");
        }
    }
}
