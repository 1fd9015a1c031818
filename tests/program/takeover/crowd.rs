//! Clients that come back by themselves and compare what they see with what was published, and a
//! publisher that numbers what it says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::support::PATIENCE;
use crate::support::gateway::{API_KEY, PATH, objects, token_of};

/// What all clients of a test have seen.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Subscriptions that began without a past.
    pub(crate) first: AtomicU64,
    /// Those that were recovered.
    pub(crate) recovered: AtomicU64,
    /// Those that were not.
    pub(crate) unrecovered: AtomicU64,
    /// Publications seen.
    pub(crate) seen: AtomicU64,
    /// Publications that were not seen, by the number of the next.
    pub(crate) lost: AtomicU64,
    /// Publications that were seen before.
    pub(crate) doubled: AtomicU64,
    /// Commands that were answered with an error.
    pub(crate) refused: AtomicU64,
    /// Clients that have seen the last number.
    pub(crate) done: AtomicU64,
}

impl Tally {
    pub(crate) fn get(of: &AtomicU64) -> u64 {
        of.load(Ordering::SeqCst)
    }

    fn count(of: &AtomicU64) {
        of.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until a figure is so high.
    pub(crate) async fn reaches(&self, of: &AtomicU64, at_least: u64) {
        let deadline = Instant::now() + PATIENCE;
        while Self::get(of) < at_least {
            assert!(Instant::now() < deadline, "not {at_least}: {self:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// One client, from its first connection to the last number.
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) user: String,
    pub(crate) channel: String,
    pub(crate) delta: bool,
    pub(crate) last: u64,
    pub(crate) tally: Arc<Tally>,
    pub(crate) place: Option<(String, u64)>,
    pub(crate) number: u64,
    /// The payload before, on which patches are based.
    pub(crate) base: Vec<u8>,
}

type Socket = WebSocketStream<TcpStream>;

impl Client {
    /// Of this user, in this channel, until it has seen `last`.
    pub(crate) fn new(address: SocketAddr, user: usize, channel: &str, last: u64) -> Self {
        Self {
            address,
            user: format!("user-{user}"),
            channel: channel.to_owned(),
            delta: false,
            last,
            tally: Arc::default(),
            place: None,
            number: 0,
            base: Vec::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        while self.number < self.last {
            let Some(mut socket) = dial(self.address).await else {
                // Nobody is there, as between two processes.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            self.visit(&mut socket).await;
            if self.number >= self.last {
                Tally::count(&self.tally.done);
                let _ = socket.close(None).await;
                // A client that goes is no longer in the way of an end.
                while let Some(Ok(_)) = socket.next().await {}
            }
        }
    }

    /// One connection, until it ends or all is seen.
    async fn visit(&mut self, socket: &mut Socket) {
        let mut subscribe = json!({"channel": self.channel});
        if let Some((epoch, offset)) = &self.place {
            subscribe["recover"] = json!(true);
            subscribe["epoch"] = json!(epoch);
            subscribe["offset"] = json!(offset);
        }
        if self.delta {
            subscribe["delta"] = json!("fossil");
        }
        let commands = [
            json!({"id": 1, "connect": {"token": token_of(&self.user)}}),
            json!({"id": 2, "subscribe": subscribe}),
        ];
        for command in commands {
            if socket.send(Message::text(command.to_string())).await.is_err() {
                return;
            }
        }
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else { continue };
            for object in objects(text.as_str()) {
                if object == json!({}) {
                    let _ = socket.send(Message::text("{}")).await;
                } else if !object["push"]["pub"].is_null() {
                    self.publication(&object["push"]["pub"]);
                } else if !object["error"].is_null() {
                    Tally::count(&self.tally.refused);
                    return;
                } else if !object["subscribe"].is_null() {
                    self.subscribed(&object["subscribe"]);
                }
            }
            if self.number >= self.last {
                return;
            }
        }
    }

    fn subscribed(&mut self, result: &Value) {
        self.base.clear();
        let epoch = result["epoch"].as_str().unwrap_or_default().to_owned();
        match &self.place {
            None => Tally::count(&self.tally.first),
            Some((known, _)) if result["recovered"] == json!(true) && *known == epoch => {
                Tally::count(&self.tally.recovered);
            }
            Some(_) => Tally::count(&self.tally.unrecovered),
        }
        let offset = result["offset"].as_u64().unwrap_or_default();
        if self.place.is_none() {
            self.number = offset;
        }
        self.place = Some((epoch, offset));
        for publication in result["publications"].as_array().into_iter().flatten() {
            self.publication(publication);
        }
    }

    fn publication(&mut self, publication: &Value) {
        let data = match (&publication["data"], self.delta) {
            (Value::String(text), true) if publication["delta"] == json!(true) => {
                let delta = ringhold::gateway::delta::apply(&self.base, text.as_bytes(), 1 << 20);
                delta.expect("the patch fits what was before")
            }
            (Value::String(text), true) => text.as_bytes().to_vec(),
            (data, _) => data.to_string().into_bytes(),
        };
        let value: Value = serde_json::from_slice(&data).expect("payloads are JSON");
        self.base = data;
        let number = value["n"].as_u64().expect("publications are numbered");
        let offset = publication["offset"].as_u64().unwrap_or_default();
        if number <= self.number {
            Tally::count(&self.tally.doubled);
            return;
        }
        self.tally.lost.fetch_add(number - self.number - 1, Ordering::SeqCst);
        self.number = number;
        assert_eq!(offset, number, "offsets count publications");
        if let Some((_, place)) = &mut self.place {
            *place = offset;
        }
        Tally::count(&self.tally.seen);
    }
}

async fn dial(address: SocketAddr) -> Option<Socket> {
    let stream = TcpStream::connect(address).await.ok()?;
    let url = format!("ws://{address}{PATH}");
    Some(client_async(url, stream).await.ok()?.0)
}

/// What a publisher has met.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Requests that got no answer, and were made again.
    pub(crate) repeated: u64,
    /// Requests that were answered with anything but what was asked for.
    pub(crate) refused: Vec<String>,
    /// Publications whose offset is not their number.
    pub(crate) misplaced: u64,
    /// The longest time for which it had no answer.
    pub(crate) pause: Duration,
}

/// Publishes numbers from 1 on in a channel until `stop`, at this pace, and then up to `last`. A
/// request without an answer is made again, with the key by which it is known.
pub(crate) async fn publish(
    addresses: Vec<SocketAddr>,
    channel: String,
    pace: Duration,
    last: u64,
    go: Arc<AtomicBool>,
) -> Published {
    let mut published = Published::default();
    let mut due = Instant::now();
    for number in 1..=last {
        let body = json!({
            "channel": channel,
            "data": {"n": number, "text": "what stays the same from one to the next ".repeat(4)},
            "idempotency_key": format!("{channel} {number}"),
        });
        let begun = Instant::now();
        for attempt in 0.. {
            let address = addresses[(number as usize + attempt) % addresses.len()];
            match post(address, &body.to_string()).await {
                Some((200, reply)) if reply["result"]["offset"].is_u64() => {
                    let offset = reply["result"]["offset"].as_u64();
                    published.misplaced += u64::from(offset != Some(number));
                    break;
                }
                Some((status, reply)) => {
                    published.refused.push(format!("{number}: {status} {reply}"));
                }
                None => published.repeated += 1,
            }
            assert!(begun.elapsed() < PATIENCE, "nobody takes {number}: {published:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        published.pause = published.pause.max(begun.elapsed());
        // What could not be said in its time is not said all at once.
        due = (due + pace).max(Instant::now());
        if go.load(Ordering::SeqCst) {
            tokio::time::sleep_until(due.into()).await;
        }
    }
    published
}

/// One request of the server API. `None`: no answer came.
async fn post(address: SocketAddr, body: &str) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let head = format!(
        "POST /api/publish HTTP/1.1\r\nHost: test\r\nX-API-Key: {API_KEY}\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let status = answer.get(9..12)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}
