//! What happens through the server API: publications, and orders about clients.

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::dice::Dice;
use super::truth::Kind;
use super::world::{Action, Order, Phase, World, publication};
use crate::support::gateway::unix;

/// Channels are shared among so many publishers, each of which waits for its answers: where there
/// is no stream, the order of a channel is that of its one publisher.
pub(crate) const PUBLISHERS: usize = 3;

/// Publishes until the run ends.
pub(crate) async fn publish(world: Rc<World>, number: usize) {
    let mut dice = Dice::new(world.plan.seed, 2 << 40 | number as u64);
    let count = world.truth.borrow().channels.len();
    let mine: Vec<_> = (0..count).filter(|channel| channel % PUBLISHERS == number).collect();
    let mean = PUBLISHERS as f64 / world.plan.publications;
    let mut brief = 0_u64;
    while world.phase() == Phase::Run {
        let first = mine[dice.below(mine.len())];
        let done = match dice.below(10) {
            0 => {
                brief += 1;
                brief_channel(&world, number as u64, brief).await
            }
            1..4 => {
                let mut some = vec![first];
                while some.len() < 4 {
                    let more = mine[dice.below(mine.len())];
                    if some.contains(&more) {
                        break;
                    }
                    some.push(more);
                }
                let publications = dice.below(3);
                let mut done = Ok(());
                for _ in 0..=publications {
                    done = done.and(batch(&world, &some).await);
                }
                done
            }
            _ => one(&world, first).await,
        };
        if let Err(error) = done {
            world.tally.fail(&error);
        }
        let pause = dice.between((0.0, 2.0 * mean));
        tokio::time::sleep(pause).await;
    }
}

async fn one(world: &World, channel: usize) -> Result<(), String> {
    let (number, content) = world.truth.borrow_mut().publish(channel);
    let name = world.truth.borrow().channels[channel].name.clone();
    let result = world.api("publish", &publication(&name, &content)).await?;
    accepted(world, channel, number, &result)
}

/// Several channels, one call.
async fn batch(world: &World, channels: &[usize]) -> Result<(), String> {
    let mut commands = Vec::new();
    let mut numbers = Vec::new();
    for channel in channels {
        let (number, content) = world.truth.borrow_mut().publish(*channel);
        let name = world.truth.borrow().channels[*channel].name.clone();
        commands.push(json!({"publish": publication(&name, &content)}));
        numbers.push(number);
    }
    let parameters = json!({"commands": commands});
    let replies = world.batch(&parameters).await?;
    if replies.len() != channels.len() {
        return Err(format!("{} replies to {} publications", replies.len(), channels.len()));
    }
    for ((channel, number), reply) in channels.iter().zip(numbers).zip(replies) {
        accepted(world, *channel, number, &reply["publish"])?;
    }
    Ok(())
}

fn accepted(
    world: &World,
    channel: usize,
    number: usize,
    result: &serde_json::Value,
) -> Result<(), String> {
    world.counts().published_by_api.one();
    let place = result["offset"].as_u64().zip(result["epoch"].as_str());
    let mut truth = world.truth.borrow_mut();
    let has_stream = truth.channels[channel].kind.has_stream();
    if place.is_some() != has_stream {
        let name = &truth.channels[channel].name;
        return Err(format!("{name} {number}: published at {place:?}: {result}"));
    }
    truth.accepted(channel, number, place)
}

/// A channel that is used once.
async fn brief_channel(world: &World, publisher: u64, number: u64) -> Result<(), String> {
    let channel = format!("brief:{publisher}-{number}");
    let result = world.api("publish", &json!({"channel": channel, "data": number})).await?;
    match result["offset"].as_u64() {
        // The names come again in the next round.
        Some(1..) => Ok(()),
        _ => Err(format!("{channel}: {result}")),
    }
}

/// Gives orders until the run ends.
pub(crate) async fn order(world: Rc<World>) {
    let mut dice = Dice::new(world.plan.seed, 3 << 40);
    let mean = 20.0 / world.plan.clients as f64 * if world.plan.is_long { 10.0 } else { 1.0 };
    while world.phase() == Phase::Run {
        if let Err(error) = one_order(&world, &mut dice).await {
            world.tally.fail(&error);
        }
        tokio::time::sleep(dice.between((0.0, 2.0 * mean))).await;
    }
}

async fn one_order(world: &World, dice: &mut Dice) -> Result<(), String> {
    let number = dice.below(world.plan.clients);
    let user = world.user(number);
    let truth = || world.truth.borrow();
    let (client, channels, server_side, may_be_given) = {
        let seats = world.seats.borrow();
        let seat = &seats[number];
        let Some(client) = seat.client.clone() else { return Ok(()) };
        (client, seat.channels.clone(), seat.server_side.clone(), seat.may_be_given)
    };
    let (action, method, parameters) = match dice.below(100) {
        0..15 => {
            let code = 4200 + dice.below(100) as u32;
            let how = json!({"code": code, "reason": "by order"});
            (Action::Disconnect(code), "disconnect", json!({"user": user, "disconnect": how}))
        }
        15..40 if !channels.is_empty() => {
            let channel = channels[dice.below(channels.len())];
            let name = truth().channels[channel].name.clone();
            (Action::Unsubscribe(channel), "unsubscribe", json!({"user": user, "channel": name}))
        }
        40..65 if may_be_given => {
            let orders = truth().of(Kind::Order);
            let channel = orders[dice.below(orders.len())];
            if server_side.contains(&channel) {
                return Ok(());
            }
            let name = truth().channels[channel].name.clone();
            (Action::Subscribe(channel), "subscribe", json!({"user": user, "channel": name}))
        }
        65..75 => {
            let refresh = match dice.chance(300) {
                true => json!({"user": user, "expired": true}),
                false => json!({"user": user, "expire_at": unix() + 2 + dice.below(20) as i64}),
            };
            (Action::Refresh, "refresh", refresh)
        }
        75 => {
            let streams = truth().of(Kind::Stream);
            let channel = streams[dice.below(streams.len())];
            let name = truth().channels[channel].name.clone();
            world.truth.borrow_mut().channels[channel].removed = Some(Instant::now());
            world.api("history_remove", &json!({"channel": name})).await?;
            world.truth.borrow_mut().channels[channel].removed = Some(Instant::now());
            return Ok(());
        }
        _ => {
            let name = truth().channels[dice.below(truth().channels.len())].name.clone();
            match dice.below(3) {
                0 => world.api("channels", &json!({"pattern": "plain:*"})).await?,
                1 => world.api("info", &json!({})).await?,
                _ if name.starts_with("plain") => {
                    world.api("presence", &json!({"channel": name})).await?
                }
                _ => return Ok(()),
            };
            return Ok(());
        }
    };
    world.counts().orders.one();
    let at = {
        let mut seats = world.seats.borrow_mut();
        let orders = &mut seats[number].orders;
        let now = Instant::now();
        orders.retain(|order| {
            let old = |at: Instant| now.duration_since(at) > Duration::from_secs(120);
            !order.done.is_some_and(old)
        });
        orders.push(Order { action, client: client.clone(), done: None, seen: false });
        orders.len() - 1
    };
    // Only this task adds and removes orders.
    let done = world.api(method, &parameters).await;
    world.seats.borrow_mut()[number].orders[at].done = Some(Instant::now());
    done.map(|_| ())
}
