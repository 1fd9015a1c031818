//! One client after the other in the same place: each comes, is there for a while and leaves, with
//! what it knows kept for the next or not.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use tokio::time::sleep;

use super::dice::Dice;
use super::life::{Life, Over};
use super::link::Transport;
use super::sub::Known;
use super::world::{Phase, World};

pub(crate) struct Seat {
    pub(crate) world: Rc<World>,
    pub(crate) number: usize,
    pub(crate) dice: Dice,
    /// Where to recover from, by channel.
    pub(crate) known: HashMap<usize, Known>,
}

/// Until the run ends.
pub(crate) async fn sit(world: Rc<World>, number: usize, round: u64) {
    let dice = Dice::new(world.plan.seed, round << 32 | number as u64);
    let mut seat = Seat { world: world.clone(), number, dice, known: HashMap::new() };
    let ramp = world.plan.life / 4.0;
    seat.away((0.0, ramp)).await;
    while world.phase() == Phase::Run && !world.tally.has_failed_often() {
        let transport = match seat.dice.below(10) {
            0..4 => Transport::Json,
            4..6 => Transport::Protobuf,
            6..8 => Transport::Sse,
            _ => Transport::HttpStream,
        };
        let begun = Instant::now();
        let over = Life::live(&mut seat, transport).await;
        {
            let mut views = world.seats.borrow_mut();
            let view = &mut views[number];
            if view.client.take().is_some() {
                world.counts().held.subtract(1);
            }
            view.channels.clear();
            view.server_side.clear();
            view.backend_says_over = None;
        }
        if let Err(error) = &over {
            let age = begun.elapsed().as_secs_f64();
            world.tally.fail(&format!("client {number}, {transport:?}, after {age:.1} s: {error}"));
        }
        if !seat.dice.chance(750) || matches!(over, Ok(Over::Forgets) | Err(_)) {
            seat.known.clear();
        }
        let long = seat.world.plan.life / 4.0;
        let pause = if seat.dice.chance(100) { (0.0, long * 2.0) } else { (0.0, long / 4.0) };
        seat.away(pause).await;
    }
}

impl Seat {
    /// Waits, but not beyond the end of the run.
    async fn away(&mut self, between: (f64, f64)) {
        let pause = self.dice.between(between);
        let mut phase = self.world.phase.clone();
        let over = phase.wait_for(|phase| *phase != Phase::Run);
        let _ = tokio::time::timeout(pause, over).await;
        // Not in step with all others that waited for the phase.
        sleep(std::time::Duration::from_millis(1)).await;
    }
}
