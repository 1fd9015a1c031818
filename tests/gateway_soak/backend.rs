//! The application's backend: it answers most questions, refuses some, and now and then fails,
//! answers too late, or never.

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::dice::Dice;
use super::world::World;
use crate::support::gateway::unix;

/// The error of an application that refuses.
pub(crate) const REFUSED: u32 = 1403;

/// The close code of an application that sends a client away at its connect command.
pub(crate) const SENT_AWAY: u32 = 4101;

/// Answers until the runtime ends.
pub(crate) async fn serve(world: Rc<World>, listener: TcpListener) {
    let mut number = 0;
    while let Ok((stream, _)) = listener.accept().await {
        number += 1;
        let dice = Dice::new(world.plan.seed, 1 << 40 | number);
        tokio::task::spawn_local(connection(world.clone(), stream, dice));
    }
}

/// The questions of one connection.
async fn connection(world: Rc<World>, stream: TcpStream, mut dice: Dice) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (path, question) = question(&mut stream).await?;
        let counts = world.counts();
        // Whom it is about must not be closed for what it did not say.
        let user = match question["user"].as_str() {
            Some(user) => user,
            None => question["data"]["user"].as_str().unwrap_or(""),
        };
        let number = world.number_of(user);
        let trouble = || {
            if let Some(number) = number.filter(|_| path == "/refresh") {
                world.seats.borrow_mut()[number].backend_says_over = Some(Instant::now());
            }
        };
        let mut status = "200 OK";
        let mut answer = match dice.below(1000) {
            0..930 => {
                counts.backend_ok.one();
                good(&world, &path, &question, &mut dice).to_string()
            }
            930..960 => {
                counts.backend_refused.one();
                trouble();
                match path.as_str() {
                    "/connect" if dice.chance(500) => {
                        json!({"disconnect": {"code": SENT_AWAY, "reason": "not now"}})
                    }
                    "/refresh" => json!({"result": {"expired": true}}),
                    _ => json!({"error": {"code": REFUSED, "message": "refused"}}),
                }
                .to_string()
            }
            960..975 => {
                counts.backend_failed.one();
                trouble();
                status = "500 Internal Server Error";
                String::new()
            }
            975..980 => {
                counts.backend_failed.one();
                trouble();
                "this is no JSON".to_owned()
            }
            980..985 => {
                counts.backend_failed.one();
                trouble();
                return None;
            }
            985..995 => {
                counts.backend_late.one();
                trouble();
                tokio::time::sleep(dice.between((0.2, 2.0))).await;
                good(&world, &path, &question, &mut dice).to_string()
            }
            _ => {
                counts.backend_hung.one();
                trouble();
                // The server gives up.
                let mut rest = Vec::new();
                let hung = stream.read_to_end(&mut rest);
                let _ = tokio::time::timeout(Duration::from_secs(60), hung).await;
                return None;
            }
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", answer.len());
        answer.insert_str(0, &head);
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

async fn question(stream: &mut BufReader<TcpStream>) -> Option<(String, Value)> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|count| *count > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((path, serde_json::from_slice(&body).ok()?))
}

fn good(world: &World, path: &str, question: &Value, dice: &mut Dice) -> Value {
    let (from, to) = world.plan.token;
    let until = unix() + from + dice.below((to - from) as usize) as i64;
    match path {
        "/connect" => {
            let mut who = json!({"user": question["data"]["user"], "info": {"by": "backend"}});
            if let Some(channels) = question["data"].get("channels") {
                who["channels"] = channels.clone();
            }
            if question["data"]["expires"] == json!(true) {
                who["expire_at"] = json!(until);
            }
            json!({"result": who})
        }
        "/refresh" => json!({"result": {"expire_at": until}}),
        "/rpc" => json!({"result": {"data": question["data"]}}),
        _ => json!({"result": {}}),
    }
}
