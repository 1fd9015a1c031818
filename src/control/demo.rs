//! The demo page: one self-contained file in which two tabs talk to each other.
//!
//! It hands out a connection token to whoever opens it. So it is only for a first run with fresh
//! secrets on a local address, never beside a configuration of one's own.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

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
    let page = move || {
        let demo = demo.clone();
        async move { page(&demo) }
    };
    Router::new().route("/", get(page.clone())).route("/demo", get(page))
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
