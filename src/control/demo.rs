//! The demo page: one self-contained file in which two tabs talk to each other.
//!
//! It hands out a connection token to whoever opens it. So it is only for a first run with fresh
//! secrets on a local address, never beside a configuration of one's own. The invariant: a page
//! under a name that is not local gets no token, even where that name leads here (DNS rebinding).

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::body::refusal;

/// What the page is filled with.
#[derive(Clone)]
pub struct Demo {
    /// The channel everybody talks in; needs history, presence, join and leave messages, and
    /// clients that may publish.
    pub channel: String,
    /// Makes a connection token, for a new guest at each call.
    pub token: Arc<dyn Fn() -> String + Send + Sync>,
}

impl std::fmt::Debug for Demo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Demo").field("channel", &self.channel).finish_non_exhaustive()
    }
}

/// The page at `/` and `/demo`.
pub fn router(demo: Demo) -> Router {
    let page = move |request: Request| {
        let demo = demo.clone();
        async move {
            match is_local(&request) {
                true => page(&demo),
                false => refusal(StatusCode::MISDIRECTED_REQUEST),
            }
        }
    };
    Router::new().route("/", get(page.clone())).route("/demo", get(page))
}

/// Whether all names that a request has for this server are local ones.
fn is_local(request: &Request) -> bool {
    let hosts = request.headers().get_all(header::HOST).iter();
    let hosts = hosts.map(|host| Authority::try_from(host.as_bytes()).ok());
    let mut names = hosts.chain(request.uri().authority().cloned().map(Some)).peekable();
    names.peek().is_some() && names.all(|name| name.is_some_and(|name| is_local_name(name.host())))
}

fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match address {
        Ok(address) => address.to_canonical().is_loopback(),
        // RFC 6761 section 6.3.
        Err(_) => name == "localhost" || name.ends_with(".localhost"),
    }
}

fn page(demo: &Demo) -> Response {
    let text = PAGE.replacen("\"{{channel}}\"", &script_text(&demo.channel), 1).replacen(
        "\"{{token}}\"",
        &script_text(&(demo.token)()),
        1,
    );
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        // It holds a token.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ];
    (headers, text).into_response()
}

/// A string for a script inside HTML: JSON in which no tag can begin or end.
fn script_text(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('<', "\\u003c")
}

/// Nothing from elsewhere, nobody around it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
     connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

const PAGE: &str = include_str!("assets/demo.html");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_names_are_served() {
        let request = |uri: &str, hosts: &[&str]| {
            let builder = Request::get(uri);
            let builder = hosts.iter().fold(builder, |builder, host| builder.header("host", *host));
            is_local(&builder.body(axum::body::Body::empty()).unwrap())
        };
        for host in ["localhost", "LOCALHOST:8000", "a.localhost", "localhost.", "127.0.0.1:80"] {
            assert!(request("/", &[host]), "{host}");
        }
        for host in ["127.9.9.9", "[::1]:8000", "[::ffff:127.0.0.1]"] {
            assert!(request("/", &[host]), "{host}");
        }
        for host in ["evil.net", "evil.net:8000", "localhost.evil.net", "192.168.0.1", "[::]", ""] {
            assert!(!request("/", &[host]), "{host}");
        }
        for host in ["127.0.0.1.evil.net", "notlocalhost", "localhost@evil.net", "a b"] {
            assert!(!request("/", &[host]), "{host}");
        }
        assert!(request("http://localhost:8000/", &["127.0.0.1"]));
        assert!(!request("http://evil.net/", &["127.0.0.1"]));
        assert!(!request("/", &["127.0.0.1", "evil.net"]));
        assert!(!request("/", &[]));
    }

    #[test]
    fn what_is_filled_in_stays_text() {
        assert_eq!(script_text("a\"b</script>"), r#""a\"b\u003c/script>""#);
    }

    #[test]
    fn the_page_is_whole_and_loads_nothing() {
        assert_eq!(PAGE.matches("\"{{channel}}\"").count(), 1);
        assert_eq!(PAGE.matches("\"{{token}}\"").count(), 1);
        for outside in ["src=", "href=", "@import", "http://", "https://", "url("] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
    }
}
