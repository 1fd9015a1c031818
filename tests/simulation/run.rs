//! One run from its seed to the end of the server, with the checks after every turn and at the end.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ringhold::engine::rng::Rng;
use ringhold::engine::testing::assemble;
use ringhold::engine::worker::{Turn, Worker};
use ringhold::{Cause, Counters, Handle, Policy};

use super::app::{App, Journal};
use super::coverage::Coverage;
use super::introduction;
use super::kernel::{Event, Kernel};
use super::peer::{Peer, Stage};
use super::plan::{self, Plan};
use super::script;
use super::wire::Wire;
use super::world::{Bell, SimRing, World};

/// What a run did.
pub struct Report {
    pub turns: u64,
    pub events: u64,
    pub seen: Coverage,
}

pub struct Run {
    plan: Plan,
    worker: Worker<SimRing, App>,
    handle: Handle<App>,
    world: Rc<RefCell<World>>,
    journal: Rc<RefCell<Journal>>,
    turns: u64,
    /// When the drain began.
    ending_ns: Option<u64>,
}

impl Run {
    pub fn new(seed: u64, verbose: bool) -> Self {
        // Neighbouring seeds of a xorshift begin alike, so they are spread first.
        let mut rng = Rng::new(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        rng.draw();
        let plan = plan::draw(&mut rng);
        let mut kernel = Kernel::new(Rng::new(rng.draw()), plan.chaos, plan.table, plan.lanes);
        if verbose {
            println!("{plan:#?}");
            kernel.log = Some(VecDeque::new());
        }
        let strict = plan.config.outbox_policy == Policy::CloseSlow;
        // Whoever is only there to be refused is given as long as a lingering one.
        let linger = plan.config.close_timeout.min(Duration::from_secs(2));
        let patience = plan.config.handshake_timeout.min(linger).as_nanos() as u64;
        let mut peers: Vec<Peer> = (0..plan.peers)
            .map(|index| Peer::new(index, script::draw(&mut rng, &plan), strict, patience))
            .collect();
        for peer in &mut peers {
            let from = address(peer, &mut rng);
            peer.introduction = introduction::draw(&mut rng, plan.calm, &plan.config.proxies, from);
            kernel.wires.push(Wire::new(from, plan.chaos.room));
            let arrival = u64::from(rng.below(10_000)) * 1_000_000;
            let arrival = if rng.one_in(3) { kernel.now } else { arrival };
            kernel.at(arrival, Event::Peer(peer.index));
        }
        kernel.at(500_000_000, Event::Outside);
        let bell = kernel.bell.clone();
        let world = World {
            kernel,
            peers,
            remotes: BTreeMap::new(),
            handle: None,
            broken: None,
            events: 0,
        };
        let world = Rc::new(RefCell::new(world));
        let journal = Rc::new(RefCell::new(Journal::default()));
        let app = App::new(journal.clone(), Rng::new(rng.draw()), !plan.calm);
        let ring = SimRing { world: world.clone(), queued: VecDeque::new(), lanes: plan.lanes };
        let (worker, handle) =
            assemble(ring, plan.config.clone(), app, plan.table, rng.draw(), Box::new(Bell(bell)));
        world.borrow_mut().handle = Some(handle.clone());
        Self { plan, worker, handle, world, journal, turns: 0, ending_ns: None }
    }

    /// Runs to the end of the server. An error says what was broken.
    pub fn run(&mut self) -> Result<Report, String> {
        loop {
            let turn = self.worker.turn().map_err(|error| format!("the ring failed: {error}"))?;
            self.turns += 1;
            self.check_turn()?;
            if turn == Turn::Finished {
                break;
            }
            self.stall();
            self.end_in_time()?;
        }
        self.check_end()
    }

    pub fn log(&self) -> Vec<String> {
        self.world.borrow().kernel.log.iter().flatten().cloned().collect()
    }

    fn stall(&mut self) {
        let kernel = &mut self.world.borrow_mut().kernel;
        let odds = kernel.chaos.stall;
        if odds > 0 && kernel.rng.one_in(odds) {
            kernel.seen.count("host stalled");
            kernel.now += u64::from(kernel.rng.below(4000)) * 1_000_000;
        }
    }

    fn check_turn(&mut self) -> Result<(), String> {
        if self.turns.is_multiple_of(AUDIT_EVERY) || self.plan.chaos.odds == 4 {
            self.worker.audit()?;
        }
        if let Some(what) = self.journal.borrow().broken.first() {
            return Err(format!("the application: {what}"));
        }
        let world = self.world.borrow();
        if let Some(what) = &world.broken {
            return Err(what.clone());
        }
        if let Some((slot, _)) =
            world.kernel.unannounced().find(|(slot, _)| self.worker.awaits_input(*slot))
        {
            return Err(format!("slot {slot}: input that nobody will read"));
        }
        drop(world);
        self.check_silenced()
    }

    /// Whoever died of silence was silent for as long as it takes.
    fn check_silenced(&mut self) -> Result<(), String> {
        let silenced = std::mem::take(&mut self.journal.borrow_mut().silenced);
        let world = self.world.borrow();
        for port in silenced {
            let index = usize::from(port - 1000);
            let silent = world.kernel.now - world.kernel.wires[index].heard_ns;
            let least = self.plan.config.heartbeat.dead.as_nanos() as u64;
            if silent < least {
                return Err(format!("client {index}: dead after {silent} ns of {least}"));
            }
            if world.kernel.unannounced().any(|(_, wire)| wire == index) {
                return Err(format!("client {index}: dead with its answer at hand"));
            }
        }
        Ok(())
    }

    /// Starts the end when it is time, and sees that it comes.
    fn end_in_time(&mut self) -> Result<(), String> {
        let mut world = self.world.borrow_mut();
        let now = world.kernel.now;
        if let Some(began) = self.ending_ns {
            let most = self.plan.drain.deadline.as_nanos() as u64 + ENDING_NS;
            return match now - began > most {
                true => Err(format!("not finished {} ns after the drain began", now - began)),
                false => Ok(()),
            };
        }
        let settled = self.plan.calm && world.peers.iter().all(is_satisfied);
        if now < self.plan.end_ns && !settled {
            return Ok(());
        }
        if self.plan.calm {
            self.check_calm(&world)?;
        }
        self.ending_ns = Some(now);
        if world.kernel.rng.one_in(8) && !self.plan.calm {
            world.kernel.seen.count("stopped");
            self.handle.stop();
        } else {
            self.handle.drain(&self.plan.drain);
        }
        Ok(())
    }

    /// Where nothing fails, whoever behaves gets everything.
    fn check_calm(&self, world: &World) -> Result<(), String> {
        for peer in &world.peers {
            if !is_satisfied(peer) {
                let missing = peer.expected.len();
                let (stage, character) = (peer.stage, peer.script.character);
                return Err(format!(
                    "client {} ({character:?}, {stage:?}, {:?}) misses {missing} of {} echoes",
                    peer.index,
                    peer.close_received,
                    missing as u64 + peer.echoes,
                ));
            }
        }
        Ok(())
    }

    fn check_end(&mut self) -> Result<Report, String> {
        self.worker.audit_end()?;
        let world = self.world.borrow();
        if let Some(what) = world.kernel.outstanding() {
            return Err(what);
        }
        let journal = self.journal.borrow();
        let counters = self.worker.stats().counters;
        if counters.opened != counters.closed {
            return Err(format!("{} opened, {} closed", counters.opened, counters.closed));
        }
        let mut seen = Coverage::default();
        seen.merge(&world.kernel.seen);
        seen.merge(&journal.seen);
        for (cause, count) in &journal.causes {
            seen.add(name(*cause), *count);
            if counted(&counters, *cause).is_some_and(|counted| counted != *count) {
                return Err(format!("{cause:?}: {count} told, counted otherwise"));
            }
        }
        if journal.causes.values().sum::<u64>() != counters.closed {
            return Err("not every end was told".to_owned());
        }
        if let Some(outcomes) = journal.dials.iter().find(|outcomes| **outcomes != 1) {
            return Err(format!("{outcomes} outcomes of a dial"));
        }
        for peer in &world.peers {
            self.check_echoes(peer, &journal)?;
            check_client(peer, &journal, &mut seen)?;
        }
        seen.add("refused: PROXY header untrusted", counters.refused_proxy_untrusted);
        seen.add("refused: PROXY header missing", counters.refused_proxy_missing);
        seen.add("refused: PROXY header malformed", counters.refused_proxy_malformed);
        seen.add("connections", counters.accepted);
        seen.add("opened", counters.opened);
        seen.add("messages", counters.messages_in);
        seen.add("outbox drops", counters.dropped_full);
        seen.add("conflated", counters.conflated);
        seen.add("read pauses", counters.read_pauses);
        seen.add("accept pauses", counters.accept_pauses);
        seen.add("stale completions", counters.stale_completions);
        seen.add("panics", counters.panics);
        seen.add("heartbeats answered", counters.heartbeats_answered);
        seen.add("close timeouts", counters.close_timeouts);
        seen.add("handshake timeouts", counters.handshake_timeouts);
        Ok(Report { turns: self.turns, events: world.events, seen })
    }

    /// A close frame comes behind everything that was taken before it, unless it says that the
    /// client was too slow.
    fn check_echoes(&self, peer: &Peer, journal: &Journal) -> Result<(), String> {
        let Some(record) = journal.records.get(&peer.port) else { return Ok(()) };
        let cut = matches!(record.cause, Some(Cause::Slow | Cause::OutboxFull));
        let whole = peer.strict && peer.close_received.is_some() && !cut;
        if whole && peer.echoes != record.echoed {
            return Err(format!(
                "client {}: {} echoes of {} before the close ({:?})",
                peer.index, peer.echoes, record.echoed, record.cause
            ));
        }
        if peer.echoes > record.echoed {
            return Err(format!("client {}: an echo too many", peer.index));
        }
        Ok(())
    }
}

/// Who opened is who it was introduced as; who may not open did not.
fn check_client(peer: &Peer, journal: &Journal, seen: &mut Coverage) -> Result<(), String> {
    let Some(record) = journal.records.get(&peer.port).filter(|record| record.opened) else {
        return Ok(());
    };
    let introduction = &peer.introduction;
    if record.client != introduction.client {
        let found = record.client;
        return Err(format!("client {}: taken for {found:?}: {introduction:?}", peer.index));
    }
    let introduced = !introduction.header.is_empty() || !introduction.lines.is_empty();
    seen.add("opened through a proxy", u64::from(introduced));
    Ok(())
}

/// A few hosts, so that limits per address are met; the port names the client.
fn address(peer: &Peer, rng: &mut Rng) -> SocketAddr {
    let host = rng.below(4) as u8;
    if peer.script.v6 {
        let ip = [0x2001, 0xdb8, 0, u16::from(host), 0, 0, 0, peer.port];
        return SocketAddr::from((ip, peer.port));
    }
    SocketAddr::from(([10, 0, 0, host], peer.port))
}

/// Whether a client has what a calm server owes it.
fn is_satisfied(peer: &Peer) -> bool {
    use script::Character as C;
    match peer.script.character {
        C::Echo | C::Flooder | C::Pinger => peer.stage == Stage::Done && peer.is_content(),
        // Lingering ends after two seconds, so only who reads fast is sure to read why.
        C::Violator if peer.script.appetite >= 1_000_000 => {
            peer.stage == Stage::Done && peer.close_received.is_some()
        }
        _ => true,
    }
}

fn name(cause: Cause) -> &'static str {
    match cause {
        Cause::Peer => "closed: Peer",
        Cause::Abrupt => "closed: Abrupt",
        Cause::Broken => "closed: Broken",
        Cause::Unacknowledged => "closed: Unacknowledged",
        Cause::Protocol => "closed: Protocol",
        Cause::InvalidData => "closed: InvalidData",
        Cause::TooBig => "closed: TooBig",
        Cause::Rate => "closed: Rate",
        Cause::InboundFull => "closed: InboundFull",
        Cause::Slow => "closed: Slow",
        Cause::OutboxFull => "closed: OutboxFull",
        Cause::WriteTimeout => "closed: WriteTimeout",
        Cause::Idle => "closed: Idle",
        Cause::Heartbeat => "closed: Heartbeat",
        Cause::Panic => "closed: Panic",
        Cause::Application => "closed: Application",
        Cause::Drain => "closed: Drain",
    }
}

fn counted(c: &Counters, cause: Cause) -> Option<u64> {
    Some(match cause {
        Cause::Peer => return None,
        Cause::Abrupt => c.closed_abrupt,
        Cause::Broken => c.closed_error,
        Cause::Unacknowledged => c.closed_unacknowledged,
        Cause::Protocol => c.closed_protocol,
        Cause::InvalidData => c.closed_invalid_data,
        Cause::TooBig => c.closed_too_big,
        Cause::Rate => c.closed_rate,
        Cause::InboundFull => c.closed_inbound_full,
        Cause::Slow => c.closed_slow,
        Cause::OutboxFull => c.closed_outbox_full,
        Cause::WriteTimeout => c.closed_write_timeout,
        Cause::Idle => c.closed_idle,
        Cause::Heartbeat => c.closed_heartbeat,
        Cause::Panic => c.closed_panic,
        Cause::Application => c.closed_application,
        Cause::Drain => c.closed_drain,
    })
}

/// An audit costs as much as a turn.
const AUDIT_EVERY: u64 = 3;

/// Beyond its deadline a drain needs only the kernel's closes, and the host's stalls.
const ENDING_NS: u64 = 10_000_000_000;
