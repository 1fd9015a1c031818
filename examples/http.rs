//! HTTP beside WebSocket on one port: a page, a health check, a redirect, and an API.
//!
//! ```text
//! cargo run --example http -- 127.0.0.1:9001
//! curl http://127.0.0.1:9001/publish -d 'hello'
//! ```
//!
//! Open <http://127.0.0.1:9001/> in a browser: the page connects to `/live` and shows what is
//! published.

use std::net::SocketAddr;

use ringhold::{
    Bytes, Connection, Context, Frame, Handler, HttpAction, HttpResponse, Message, Refusal,
    Request, Running, Server, StartError, UpgradeAction,
};

const PAGE: &str = "<!doctype html>
<meta charset=utf-8>
<title>Live</title>
<pre id=log></pre>
<script>
const socket = new WebSocket(location.href.replace('http', 'ws') + 'live');
socket.onmessage = event => document.getElementById('log').append(event.data + '\\n');
</script>
";

const TOPIC: &str = "news";

/// Longest text that is published, in bytes.
const TEXT_MAX: usize = 4 * 1024;

/// One core of the server.
pub struct Site;

impl Handler for Site {
    type State = ();
    type Event = ();

    fn on_upgrade(
        &mut self,
        _: &mut Context<'_>,
        request: &Request<'_>,
        _: SocketAddr,
    ) -> UpgradeAction<()> {
        match request.path() {
            "/live" => UpgradeAction::accept(()),
            _ => UpgradeAction::Refuse(Refusal::NotFound),
        }
    }

    fn on_http(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        body: Option<&[u8]>,
        _: SocketAddr,
    ) -> HttpAction<()> {
        HttpAction::Respond(match (request.method, request.path(), body) {
            // Static bytes are sent from where they lie.
            ("GET" | "HEAD", "/", _) => HttpResponse::new(200)
                .body("text/html; charset=utf-8", Bytes::from_static(PAGE.as_bytes())),
            ("GET" | "HEAD", "/health", _) => HttpResponse::new(200)
                .body("application/json", format!("{{\"connections\":{}}}\n", cx.connections())),
            ("GET", "/index.html", _) => HttpResponse::new(308).header("Location", "/"),
            ("POST", "/publish", None) => return HttpAction::Body(TEXT_MAX),
            ("POST", "/publish", Some(body)) => match std::str::from_utf8(body) {
                Ok(text) => {
                    cx.publish(TOPIC, &Frame::text(text));
                    HttpResponse::new(202)
                }
                Err(_) => HttpResponse::new(400).body("text/plain", "the text must be UTF-8\n"),
            },
            ("GET", "/live", _) => return HttpAction::Refuse,
            _ => HttpResponse::new(404),
        })
    }

    fn on_open(&mut self, conn: &mut Connection<'_>, (): &mut ()) {
        conn.subscribe(TOPIC);
    }

    fn on_message(&mut self, conn: &mut Connection<'_>, (): &mut (), message: Message<'_>) {
        conn.publish(TOPIC, &Frame::new(message.kind(), message.payload()));
    }
}

/// Serves on this address; port 0 is a free one.
pub fn start(address: SocketAddr, cores: usize) -> Result<Running<Site>, StartError> {
    Server::builder().listen(address).workers(cores).drain_on_signals().start(|_core| Site)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    start(address.parse()?, 0)?.join()?;
    Ok(())
}
