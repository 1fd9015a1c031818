//! Outboxes in PostgreSQL: tables whose rows are requests, which applications add within their own
//! transactions.
//!
//! Owns which partitions there are, and the connections that they share ([`link`]); how a partition
//! is worked on is in [`partition`], who says that there is something new in [`listen`]. Table,
//! locks and notifications are Centrifugo's, so that nodes of both kinds may share an outbox. The
//! invariants: who deals with rows of a partition holds its lock; a row is deleted in the
//! transaction that holds it, once what it asks for was done, or can never be.

mod link;
mod listen;
mod partition;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::doing::Doer;
use crate::config::Postgresql;
use crate::control::backend::Backend;

use link::{Dial, Pool};
use partition::{Partition, Queries};

/// One outbox, as it is read.
#[derive(Clone)]
pub(in crate::control) struct OutboxConfig {
    /// In metrics and the log.
    name: Arc<str>,
    /// The database.
    dial: Dial,
    /// Where notifications come from.
    listened: Dial,
    /// Most connections for rows.
    connections: u32,
    /// What is asked of the table.
    queries: Arc<Queries>,
    /// How many.
    partitions: u32,
    /// Rows of one that are read at once.
    rows: u32,
    /// How often is looked for new ones.
    every: Duration,
    /// Tells of new ones. Empty: nothing does.
    channel: String,
}

impl OutboxConfig {
    /// An outbox of the options. Reads certificates.
    pub(super) fn new(name: Arc<str>, options: &Postgresql) -> Result<Self, String> {
        let (server, listened) = (options.server()?, options.listened()?);
        let table = options.table().ok_or("outbox_table_name must be the name of a table")?;
        Ok(Self {
            name,
            connections: server.connections.min(options.num_partitions),
            dial: Dial::new(server, options)?,
            listened: Dial::new(listened, options)?,
            queries: Arc::new(Queries::new(table)),
            partitions: options.num_partitions,
            rows: options.partition_select_limit,
            every: options.partition_poll_interval,
            channel: options.partition_notification_channel.clone(),
        })
    }

    /// The consumer's.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Reads it from now on. Within a runtime.
    pub(super) fn start<B: Backend>(self, doer: &Arc<Doer<B>>) {
        let wakes: Arc<[Notify]> = (0..self.partitions).map(|_| Notify::new()).collect();
        if !self.channel.is_empty() {
            let listener = listen::Listener {
                dial: self.listened,
                channel: self.channel,
                wakes: wakes.clone(),
                doer: doer.clone(),
            };
            tokio::spawn(listener.run());
        }
        let pool = Arc::new(Pool::new(self.dial, self.connections as usize));
        for number in 0..self.partitions {
            let partition = Partition::new(number, self.rows, self.every, self.queries.clone());
            tokio::spawn(partition.run(
                pool.clone(),
                wakes.clone(),
                doer.clone(),
                self.name.clone(),
            ));
        }
    }
}
