//! The broker's thread beside a running gateway: from what it is told to its start.
//!
//! Made in two steps, like the control plane: [`Beginning::new`] gives the cores their way to it
//! before there are cores, [`Beginning::start`] starts it once there are.

use std::io;
use std::sync::Arc;

use crate::Handle;
use crate::broker::{Config, Cores, Queue, Thread, View, start};
use crate::gateway::app::{CoreEvent, Gateway};
use crate::gateway::broker::{Broker, Happening};
use crate::gateway::letters;
use crate::gateway::placement::Placement;

/// A broker that is about to start.
pub struct Beginning {
    config: Config,
    view: View,
    placement: Placement,
}

impl Beginning {
    /// Of a broker that is told this, for these cores.
    pub fn new(config: Config, placement: Placement) -> Self {
        let queue = Queue::new(placement.cores(), config.limits);
        let view = View::new(&config, queue);
        Self { config, view, placement }
    }

    /// The cores' way to it.
    pub fn queue(&self) -> Arc<dyn Broker> {
        self.view.queue.clone()
    }

    /// What others see of it.
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// Starts it.
    pub fn start(self, handle: Handle<Gateway>) -> io::Result<Thread> {
        start(self.config, self.view, self.placement, || Mailboxes(handle))
    }
}

/// The mailboxes of the cores.
pub(super) struct Mailboxes(pub(super) Handle<Gateway>);

impl Cores for Mailboxes {
    fn post_reserved(&self, core: usize, batch: Vec<Happening>) -> bool {
        self.0.post_reserved(core, CoreEvent::Hub(letters::Letter::Batch(batch))).is_ok()
    }

    fn post_urgent(&self, core: usize, batch: Vec<Happening>) {
        // A core that has ended needs no answer.
        let _ = self.0.post_urgent(core, CoreEvent::Hub(letters::Letter::Batch(batch)));
    }
}
