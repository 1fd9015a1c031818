//! What happens to a run, drawn from a seed: to what lies between nodes and servers, to nodes, to
//! servers, and to clients. Each kind comes once before any comes again.
//!
//! What passes by itself goes on beside what comes next, so that a primary is killed while a node
//! is cut off. What may lose publications that were acknowledged waits for everybody to be
//! subscribed, and nobody moves before all nodes are back: what no living node has seen could not
//! be missed by anybody.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::dice::Dice;
use super::plan::NODES;
use super::servers::{Servers, until};
use super::shared::Shared;
use super::strait::{Harm, Strait};
use crate::support::gateway::Gateway;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Nothing passes between a node and the servers.
    Partition,
    /// Nothing passes on one connection.
    OneStalls,
    /// All connections of a node end.
    AllCut,
    OneCut,
    /// Connections end between requests and their answers.
    Unanswered,
    Slow,
    NodeStopped,
    NodeKilled,
    NodeRestarted,
    /// Servers end what nodes listen on, or ask on.
    ListenersKilled,
    AskersKilled,
    PrimaryKilled,
    /// With a replica that lacks the last publications.
    PrimaryKilledAhead,
    /// Until another one has taken over.
    PrimaryStopped,
    PrimaryStalls,
    FailoverOrdered,
    /// It has forgotten everything.
    PrimaryEmptied,
    SlotMoved,
    SentinelKilled,
    /// Half of the clients leave at once, and come back.
    Storm,
}

impl Fault {
    /// Those that a kind of servers has.
    fn all(cluster: bool) -> Vec<Self> {
        use Fault::*;
        let own = if cluster { SlotMoved } else { SentinelKilled };
        vec![
            Partition,
            OneStalls,
            AllCut,
            OneCut,
            Unanswered,
            Slow,
            NodeStopped,
            NodeKilled,
            NodeRestarted,
            ListenersKilled,
            AskersKilled,
            PrimaryKilled,
            PrimaryKilledAhead,
            PrimaryStopped,
            PrimaryStalls,
            FailoverOrdered,
            PrimaryEmptied,
            own,
            Storm,
        ]
    }

    /// It passes by itself while others come.
    fn passes(self) -> bool {
        matches!(self, Self::Partition | Self::OneStalls | Self::Slow | Self::NodeStopped)
    }

    /// Servers may lose what they have acknowledged.
    fn loses(self, cluster: bool) -> bool {
        use Fault::*;
        let always = [PrimaryKilled, PrimaryKilledAhead, PrimaryStopped, PrimaryEmptied];
        always.contains(&self) || self == PrimaryStalls || self == FailoverOrdered && !cluster
    }

    fn is_of_a_node(self) -> bool {
        matches!(self, Self::NodeStopped | Self::NodeKilled | Self::NodeRestarted)
    }
}

/// What came of a kind.
#[derive(Default)]
struct Row {
    times: u64,
    gap: Duration,
    took: Duration,
    refused: u64,
    told: u64,
}

/// A fault that passes.
struct Passing {
    fault: Fault,
    node: usize,
    until: Instant,
}

pub(crate) struct Director<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) servers: Servers,
    pub(crate) straits: Vec<Strait>,
    pub(crate) nodes: Vec<Gateway>,
    dice: Dice,
    deck: Vec<Fault>,
    passing: Vec<Passing>,
    rows: BTreeMap<Fault, Row>,
}

/// The node whose memory is watched: it lives as long as the run.
pub(crate) const WITNESS: usize = 0;

impl<'a> Director<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        servers: Servers,
        straits: Vec<Strait>,
        nodes: Vec<Gateway>,
    ) -> Self {
        let dice = Dice::new(shared.plan.seed, 7 << 40);
        let (deck, passing, rows) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { shared, servers, straits, nodes, dice, deck, passing, rows }
    }

    /// One of those that have not been since all have been.
    fn draw(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck = Fault::all(self.servers.is_cluster());
        }
        let place = self.dice.below(self.deck.len());
        self.deck.swap_remove(place)
    }

    /// The next fault, with all that belongs to it.
    pub(crate) fn act(&mut self) {
        let fault = self.draw();
        let before = (self.refused(), self.told(), Instant::now());
        self.shared.take_gap();
        self.shared.tally.say(&format!("{fault:?}"));
        if fault.passes() {
            self.begin(fault);
        } else {
            self.one(fault);
        }
        self.pause();
        let row = self.rows.entry(fault).or_default();
        row.times += 1;
        row.gap = row.gap.max(self.shared.take_gap());
        row.took = row.took.max(before.2.elapsed());
        let counts = &self.shared.tally.counts;
        row.refused += counts.refused.get() - before.0;
        row.told += counts.told.get() + counts.unrecovered.get() - before.1;
    }

    fn refused(&self) -> u64 {
        self.shared.tally.counts.refused.get()
    }

    fn told(&self) -> u64 {
        self.shared.tally.counts.told.get() + self.shared.tally.counts.unrecovered.get()
    }

    /// Time without anything new.
    fn pause(&mut self) {
        let end = Instant::now() + self.dice.between((0.2, self.shared.plan.pause));
        loop {
            self.pass(Instant::now());
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Begins what passes.
    fn begin(&mut self, fault: Fault) {
        let (node, number) = (self.dice.below(NODES), self.dice.below(100));
        // One of a kind for each node.
        self.end(|it| it.node == node);
        let strait = &self.straits[node];
        match fault {
            Fault::Partition => strait.hold(),
            Fault::OneStalls => strait.one(number, Harm::Hold),
            Fault::Slow => strait.delay(self.dice.between((0.005, 0.08))),
            Fault::NodeStopped => {
                self.shared.harm(node, true);
                self.nodes[node].signal(Signal::STOP);
            }
            _ => panic!("{fault:?} does not pass"),
        }
        let until = Instant::now() + self.dice.between((0.3, self.shared.plan.lasts));
        self.passing.push(Passing { fault, node, until });
    }

    /// Ends what has passed by now.
    fn pass(&mut self, now: Instant) {
        self.end(|it| it.until <= now);
    }

    fn end(&mut self, which: impl Fn(&Passing) -> bool) {
        for passing in std::mem::take(&mut self.passing) {
            if !which(&passing) {
                self.passing.push(passing);
                continue;
            }
            let strait = &self.straits[passing.node];
            match passing.fault {
                Fault::Slow => strait.delay(Duration::ZERO),
                Fault::NodeStopped => {
                    self.nodes[passing.node].signal(Signal::CONT);
                    self.shared.harm(passing.node, false);
                }
                _ => strait.release(),
            }
        }
    }

    /// One that is over when this returns.
    fn one(&mut self, fault: Fault) {
        let (node, number) = (self.dice.below(NODES), self.dice.below(100));
        let loses = fault.loses(self.servers.is_cluster());
        if loses {
            self.all_are_well();
            self.shared.keep_still(true);
            until("everybody to be subscribed", || {
                let (all, live) = self.shared.subscribed();
                all == live
            });
        }
        if fault.is_of_a_node() {
            self.end(|_| true);
        } else if fault >= Fault::PrimaryKilled && self.dice.chance(500) {
            let beside = [Fault::Partition, Fault::OneStalls, Fault::Slow];
            let beside = beside[self.dice.below(beside.len())];
            self.begin(beside);
        }
        if loses {
            self.shared.begin_losses();
        }
        match fault {
            Fault::AllCut => self.straits[node].cut(),
            Fault::OneCut => self.straits[node].one(number, Harm::Cut),
            Fault::Unanswered => self.straits[node].unanswered(),
            Fault::NodeKilled | Fault::NodeRestarted => self.end_node(fault),
            Fault::ListenersKilled => self.servers.kill_clients("pubsub"),
            Fault::AskersKilled => self.servers.kill_clients("normal"),
            Fault::Storm => {
                let storms = &self.shared.storms;
                storms.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
            _ => self.of_servers(fault),
        }
        if fault >= Fault::PrimaryKilled && fault != Fault::Storm {
            self.all_are_well();
        }
        if loses {
            // Time in which nodes compare the positions of all channels.
            std::thread::sleep(Duration::from_secs(2));
            self.shared.end_losses();
            self.shared.keep_still(false);
        }
    }

    fn end_node(&mut self, fault: Fault) {
        let node = 1 + self.dice.below(NODES - 1);
        assert_ne!(node, WITNESS);
        self.shared.harm(node, true);
        if fault == Fault::NodeKilled {
            self.nodes[node].kill();
            std::thread::sleep(self.dice.between((0.0, self.shared.plan.lasts)));
            self.nodes[node].start_after_kill();
        } else {
            self.nodes[node].restart();
        }
        self.shared.harm(node, false);
        self.all_are_well();
    }

    fn of_servers(&mut self, fault: Fault) {
        let dice = &mut self.dice;
        let servers = &mut self.servers;
        match fault {
            Fault::SlotMoved => {
                let channels = &self.shared.channels;
                let (name, _) = &channels[dice.below(channels.len())];
                servers.are_well();
                servers.move_slot(name, dice);
                return;
            }
            Fault::SentinelKilled => {
                servers.kill_sentinel(dice.below(3), dice.between((0.1, 2.0)));
                return;
            }
            _ => {}
        }
        let pair = servers.pair(dice);
        match fault {
            Fault::PrimaryKilled => servers.kill(pair),
            Fault::PrimaryKilledAhead => {
                let time = dice.between((0.1, 0.5));
                servers.kill_torn(pair, time);
            }
            Fault::PrimaryStopped => servers.stop(pair),
            Fault::PrimaryStalls => servers.stop_shortly(pair.0, dice.between((0.05, 0.4))),
            Fault::FailoverOrdered => servers.fail_over(pair),
            Fault::PrimaryEmptied => servers.empty(pair),
            _ => panic!("{fault:?} is not of servers"),
        }
    }

    /// Ends all that passes, and waits until servers and nodes are there.
    pub(crate) fn all_are_well(&mut self) {
        self.end(|_| true);
        self.servers.are_well();
        for node in &self.nodes {
            until("a node with its broker", || is_up(node));
        }
    }

    /// What was drawn, and what came of it.
    pub(crate) fn table(&self) -> String {
        let mut text = "| fault | times | longest until acknowledged, s | with its pause, s | \
                        error 100 | told |\n|---|---|---|---|---|---|\n"
            .to_owned();
        for (fault, row) in &self.rows {
            let (gap, took) = (row.gap.as_secs_f64(), row.took.as_secs_f64());
            let Row { times, refused, told, .. } = row;
            text +=
                &format!("| {fault:?} | {times} | {gap:.2} | {took:.1} | {refused} | {told} |\n");
        }
        text
    }

    /// How many faults there were.
    pub(crate) fn drawn(&self) -> u64 {
        self.rows.values().map(|row| row.times).sum()
    }
}

fn is_up(node: &Gateway) -> bool {
    let text = node.metrics();
    let mut lines = text.lines().filter(|line| line.starts_with("ringhold_broker_up{"));
    lines.all(|line| line.ends_with(" 1"))
}
