//! Who says that there is something new: a connection that listens to a channel, and wakes the
//! partition that each notification names.
//!
//! Without it, or while it is away, partitions look by themselves. The invariant: after a gap all
//! partitions look.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::link::{Dial, Gone, answered};
use crate::control::backend::Backend;
use crate::control::consumers::doing::{Doer, pause};

/// See the module's text.
pub(super) struct Listener<B> {
    pub(super) dial: Dial,
    /// The channel's name.
    pub(super) channel: String,
    /// By the numbers of partitions.
    pub(super) wakes: Arc<[Notify]>,
    pub(super) doer: Arc<Doer<B>>,
}

impl<B: Backend> Listener<B> {
    /// Listens until the server goes away.
    pub(super) async fn run(self) {
        let mut failures = 0;
        while !self.doer.draining() {
            let Err(gone) = self.listen(&mut failures).await else { return };
            self.doer.gone(&self.channel, gone.name(), &gone);
            tokio::time::sleep(pause(failures)).await;
            failures = failures.saturating_add(1);
        }
    }

    /// A connection's life. `Ok`: the server goes away.
    async fn listen(&self, failures: &mut u32) -> Result<(), Gone> {
        let wakes = self.wakes.clone();
        let client = self.dial.dial(move |payload| wake(&wakes, payload)).await?;
        let listen = format!("LISTEN \"{}\"", self.channel.replace('"', "\"\""));
        answered(client.batch_execute(&listen)).await?;
        *failures = 0;
        self.wakes.iter().for_each(Notify::notify_one);
        while !self.doer.draining() {
            // Its end may come without a word.
            answered(client.check_connection()).await?;
            let ended = async {
                while !client.is_closed() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            let _still_there = tokio::time::timeout(CHECK, ended).await;
        }
        Ok(())
    }
}

/// Of a payload that names no partition all may be meant.
fn wake(wakes: &[Notify], payload: &str) {
    match payload.trim().parse::<usize>() {
        Ok(number) => wakes.get(number).into_iter().for_each(Notify::notify_one),
        Err(_) => wakes.iter().for_each(Notify::notify_one),
    }
}

/// How often the server is asked whether it is there.
const CHECK: Duration = Duration::from_secs(15);

/// How soon the end of a connection is seen.
const LOOK: Duration = Duration::from_millis(200);
