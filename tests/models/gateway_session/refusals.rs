//! What clients are refused: how it is counted, and what the operator reads of it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::site::{Site, token};

/// Where a log goes.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// The line that was written since it was asked last, if there is one.
    fn next(&self) -> Option<String> {
        let bytes = std::mem::take(&mut *self.0.lock().expect("no panic"));
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert!(text.lines().count() <= 1, "{text}");
        text.lines().next().map(str::to_owned)
    }
}

/// What is logged meanwhile.
fn logging(act: impl FnOnce(&Lines)) {
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    tracing::subscriber::with_default(log.finish(), || act(&lines));
}

#[test]
fn the_operator_reads_why_somebody_is_refused() {
    let mut site = Site::new(
        "[channel.without_namespace]\nallow_subscribe_for_anonymous = true\n\
         allow_publish_for_subscriber = true\n",
    );
    let with = |claims: Value| json!({"channel": "$a", "token": token(&claims)});
    let (other_user, other_channel, other_client) = (
        with(json!({"sub": "43", "channel": "$a"})),
        with(json!({"sub": "42", "channel": "$b"})),
        with(json!({"sub": "42", "channel": "$a", "client": "c"})),
    );
    logging(|lines| {
        for (command, request, says) in [
            ("subscribe", other_user, "token refused why=\"it names another user\""),
            ("subscribe", other_channel, "token refused why=\"it names another channel\""),
            ("subscribe", other_client, "token refused why=\"it names another client\""),
            (
                "subscribe",
                json!({"channel": "$a"}),
                "subscription refused why=\"a private channel needs a token\"",
            ),
            (
                "subscribe",
                json!({"channel": "a"}),
                "subscription refused why=\"permission denied\"",
            ),
            (
                "publish",
                json!({"channel": "a", "data": 1}),
                "publication refused why=\"permission denied\"",
            ),
        ] {
            site.seconds(1);
            let mut peer = site.connected("42");
            let before = site.stats().counters;
            peer.command(&mut site, command, request.clone());
            let line = lines.next().unwrap_or_else(|| panic!("no line of {request}"));
            assert!(line.contains(says) && line.contains("user=\"42\""), "{line}");
            assert!(line.contains(&format!("channel={}", request["channel"])), "{line}");
            // One a second of a kind; all are counted.
            let mut again = site.connected("42");
            again.command(&mut site, command, request.clone());
            assert_eq!(lines.next(), None);
            let after = site.stats().counters;
            let counted = [
                after.tokens_refused - before.tokens_refused,
                after.subscriptions_refused - before.subscriptions_refused,
                after.publications_refused - before.publications_refused,
            ];
            let of = ["token", "subscription", "publication"].map(|it| says.starts_with(it));
            assert_eq!(counted, of.map(|it| 2 * u64::from(it)), "{says}");
        }
        // Who is subscribed already is told so, and nobody else.
        site.seconds(1);
        let mut peer = site.connected("42");
        let again = with(json!({"sub": "42", "channel": "$a"}));
        peer.result(&mut site, "subscribe", again.clone());
        let before = site.stats().counters.subscriptions_refused;
        let reply = peer.ask(&mut site, "subscribe", again);
        assert_eq!(reply["error"]["code"], json!(105));
        assert_eq!((lines.next(), site.stats().counters.subscriptions_refused), (None, before));
    });
}
