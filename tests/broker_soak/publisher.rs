//! Numbered publications, one publisher for each channel: a number is asked for with the same
//! idempotency key, through one node or another, until it is acknowledged; then comes the next. So
//! the numbers of a channel grow, whatever happened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::dice::Dice;
use super::plan::{Kind, NODES};
use super::shared::{Acked, Phase, Shared, lock};
use crate::support::PATIENCE;
use crate::support::gateway::API_KEY;
use crate::support::stream::request;

/// A node answers within its `io_timeout`, and later where the machine has other work.
const ANSWER: Duration = Duration::from_secs(5);

/// A number that is not acknowledged within this time fails the run.
const LONGEST: Duration = Duration::from_secs(120);

/// Publishes in one channel until the run settles.
pub(crate) async fn publish(shared: Arc<Shared>, channel: usize) {
    let mut dice = Dice::new(shared.plan.seed, 6 << 40 | channel as u64);
    let pause = Duration::from_secs(1) * shared.channels.len() as u32 / shared.plan.rate as u32;
    let mut due = Instant::now() + dice.between((0.0, pause.as_secs_f64()));
    let mut number = 0;
    while shared.phase() == Phase::Run {
        tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
        due = (due + pause).max(Instant::now());
        number += 1;
        one(&shared, channel, number, &mut dice).await;
    }
}

/// One number, as often as it takes.
async fn one(shared: &Shared, channel: usize, number: u32, dice: &mut Dice) {
    let (name, kind) = &shared.channels[channel];
    let begun = Instant::now();
    let body = json!({
        "channel": name,
        "data": {"n": number, "pad": "abcdefghijklmnopqrstuvwxyz"},
        "idempotency_key": format!("number {number}"),
    });
    let body = body.to_string();
    loop {
        let node = dice.below(NODES);
        match answer(shared, node, &body).await {
            Ok(answer) if answer["result"].is_object() => {
                shared.tally.counts.acknowledged.one();
                shared.waited(begun.elapsed());
                let result = &answer["result"];
                let place = result["epoch"].as_str().zip(result["offset"].as_u64());
                if place.is_some() != (*kind != Kind::Plain) {
                    shared.tally.fail(&format!("{name}: published at {answer}"));
                }
                if let Some((epoch, offset)) = place {
                    let epoch = epoch.to_owned();
                    lock(&shared.acked).push(Acked { channel, epoch, offset, number });
                }
                return;
            }
            Ok(answer) if answer["error"]["code"] == 100 => shared.tally.counts.refused.one(),
            Err(_) if shared.is_harmed(node) => shared.tally.counts.unanswered.one(),
            other => {
                shared.tally.fail(&format!("{name} {number} through node {node}: {other:?}"));
            }
        }
        if shared.phase() == Phase::Leave {
            return;
        }
        if begun.elapsed() > LONGEST {
            shared.tally.fail(&format!("{name}: {number} is not acknowledged"));
            return;
        }
        tokio::time::sleep(dice.between((0.01, 0.1))).await;
    }
}

/// What a node says. One that was stopped or has ended is not waited for.
async fn answer(shared: &Shared, node: usize, body: &str) -> Result<Value, String> {
    let mut answer = std::pin::pin!(post(shared, node, body));
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Ok(answer) = tokio::time::timeout(ANSWER, &mut answer).await {
            return answer;
        }
        if shared.is_harmed(node) {
            break;
        }
    }
    Err("no answer".to_owned())
}

async fn post(shared: &Shared, node: usize, body: &str) -> Result<Value, String> {
    let exchange = async {
        let key = format!("X-API-Key: {API_KEY}");
        let lines = [&key, "Connection: close"];
        let mut stream = TcpStream::connect(shared.nodes[node]).await?;
        stream.write_all(&request("POST", "/api/publish", &lines, body.as_bytes())).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = exchange.await.map_err(|error| error.to_string())?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    let value = body.and_then(|body| serde_json::from_str(body).ok());
    value.ok_or_else(|| format!("{answer:?}"))
}
