//! One run from its seed to the end of the server, with the checks after every step and at the end.
//!
//! A step is half a turn of one worker: up to where it sleeps, or from there on. Which worker takes
//! the next one is drawn, so that anything may happen to a worker between its halves.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ringhold::internals::ring::Doorbell;
use ringhold::internals::rng::Rng;
use ringhold::internals::testing::{Books, Shared};
use ringhold::internals::worker::{Turn, Worker};
use ringhold::{Cause, CloseCode, Counters};

use super::app::{App, Journal};
use super::coverage::Coverage;
use super::greeter;
use super::introduction;
use super::kernel::{Event, Kernel};
use super::peer::{Peer, Stage};
use super::plan::{self, BURSTS, Plan};
use super::script::{self, Character};
use super::wire::Wire;
use super::world::{Bell, SimRing, World};

/// What a run did.
pub struct Report {
    pub turns: u64,
    pub events: u64,
    pub seen: Coverage,
}

/// Where in its turn a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Awake,
    /// At its ring, and asleep if there was nothing to do.
    Waiting,
    Ended,
}

struct Seat {
    worker: Worker<SimRing, App>,
    place: Place,
    /// The host gives it no processor until then.
    stalled_ns: u64,
}

pub struct Run {
    plan: Plan,
    shared: Shared<App>,
    seats: Vec<Seat>,
    world: Rc<RefCell<World>>,
    journal: Rc<RefCell<Journal>>,
    steps: u64,
    began_ns: u64,
    /// When the drain began.
    ending_ns: Option<u64>,
    /// How long the host or a core stood still since then.
    stalled_ns: u64,
    insisted: bool,
}

impl Run {
    pub fn new(seed: u64, verbose: bool) -> Self {
        // Neighbouring seeds of a xorshift begin alike, so they are spread first.
        let mut rng = Rng::new(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        rng.draw();
        let plan = plan::draw(&mut rng);
        let (cores, lanes) = (plan.workers, plan.lanes);
        let mut kernel = Kernel::new(Rng::new(rng.draw()), plan.chaos, cores, plan.table, lanes);
        let began_ns = kernel.now;
        if verbose {
            println!("{plan:#?}");
            kernel.log = Some(VecDeque::new());
        }
        let peers = invite(&plan, &mut kernel, &mut rng);
        kernel.at(began_ns + 500_000_000, Event::HubPort);
        BURSTS.set(0);
        let bell = |core: usize| Box::new(Bell(kernel.cores[core].bell.clone()));
        let bells = (0..cores).map(|core| bell(core) as Box<dyn Doorbell>);
        let shared = Shared::new(plan.config.clone(), bells.collect());
        let journal = Rc::new(RefCell::new(Journal::new(cores)));
        let world = World {
            kernel,
            peers,
            remotes: BTreeMap::new(),
            handle: shared.handle(),
            journal: journal.clone(),
            wild: !plan.calm,
            questions: Vec::new(),
            urgent: vec![0; cores],
            broken: None,
            events: 0,
        };
        let world = Rc::new(RefCell::new(world));
        let scripts = plan.tls.map(|tls| (greeter::scripts(tls.seed), tls.limits));
        let seat = |core: usize| {
            let app_rng = Rng::new(rng.draw());
            let app = App::new(core, journal.clone(), shared.handle(), app_rng, &plan);
            let ring = SimRing { world: world.clone(), core, queued: VecDeque::new(), lanes };
            let mut worker = shared.worker(core as u16, ring, app, plan.table, rng.draw());
            if let Some((scripts, limits)) = &scripts {
                worker.speak_tls(scripts, *limits);
            }
            Seat { worker, place: Place::Awake, stalled_ns: 0 }
        };
        let seats = (0..cores).map(seat).collect();
        Self {
            plan,
            shared,
            seats,
            world,
            journal,
            steps: 0,
            began_ns,
            ending_ns: None,
            stalled_ns: 0,
            insisted: false,
        }
    }

    /// Runs to the end of the server. An error says what was broken.
    pub fn run(&mut self) -> Result<Report, String> {
        while let Some(core) = self.choose() {
            self.steps += 1;
            self.step(core).map_err(|what| format!("core {core}: {what}"))?;
            self.check_step(core)?;
            self.stall();
            self.end_in_time()?;
        }
        self.check_end()
    }

    pub fn log(&self) -> Vec<String> {
        self.world.borrow().kernel.log.iter().flatten().cloned().collect()
    }

    /// Whose step is next. Lets time pass while all sleep; `None` at the end of all.
    fn choose(&mut self) -> Option<usize> {
        let world = &mut *self.world.borrow_mut();
        loop {
            let now = world.kernel.now;
            let cores = &world.kernel.cores;
            // When each could take a step, and who can.
            let due = |core: usize, seat: &Seat| match (seat.place, cores[core].asleep) {
                (Place::Ended, _) => u64::MAX,
                (Place::Waiting, Some(end)) if !cores[core].is_stirred() => {
                    end.max(seat.stalled_ns)
                }
                _ => seat.stalled_ns,
            };
            let dues: Vec<u64> = self.seats.iter().enumerate().map(|(n, it)| due(n, it)).collect();
            let mut able: Vec<usize> = (0..dues.len()).filter(|core| dues[*core] <= now).collect();
            if able.len() > 1 && world.kernel.chaos.lagging && !world.kernel.rng.one_in(8) {
                able.remove(0);
            }
            if !able.is_empty() {
                return Some(able[world.kernel.rng.below(able.len() as u32) as usize]);
            }
            let first = dues.into_iter().min().filter(|due| *due < u64::MAX)?;
            let next = world.kernel.next_ns().unwrap_or(first);
            world.kernel.now = now.max(next.min(first));
            world.run();
        }
    }

    fn step(&mut self, core: usize) -> Result<(), String> {
        let seat = &mut self.seats[core];
        if seat.place == Place::Awake {
            seat.place = Place::Waiting;
            seat.worker.fall_asleep().map_err(|error| format!("the ring failed: {error}"))?;
            let asleep = self.world.borrow().kernel.cores[core].asleep;
            return asleep.map_or(Ok(()), |until| seat.worker.audit_sleep(until));
        }
        seat.place = Place::Awake;
        let mut done = self.world.borrow_mut().kernel.take(core);
        let turn = seat.worker.wake_up(&mut done);
        let turn = turn.map_err(|error| format!("the ring failed: {error}"))?;
        let mut world = self.world.borrow_mut();
        if seat.worker.letters()? == 0 {
            world.urgent[core] = 0;
        }
        let turns = &mut self.journal.borrow_mut().turns[core];
        *turns = turns.map(|turns| turns + 1);
        if turn == Turn::Continue {
            return seat.worker.audit_turn();
        }
        *turns = None;
        seat.place = Place::Ended;
        seat.worker.audit_end()?;
        seat.worker.retire();
        world.kernel.outstanding(core).map_or(Ok(()), Err)
    }

    fn stall(&mut self) {
        let kernel = &mut self.world.borrow_mut().kernel;
        // A step is half a turn of one of them.
        let odds = kernel.chaos.stall * 2 * self.seats.len() as u32;
        if odds > 0 && kernel.rng.one_in(odds) {
            kernel.seen.count("host stalled");
            let stall = u64::from(kernel.rng.below(4000)) * 1_000_000;
            kernel.now += stall;
            self.stalled_ns += stall;
        }
        if odds > 0 && self.seats.len() > 1 && kernel.rng.one_in(odds) {
            kernel.seen.count("core stalled");
            let core = kernel.rng.below(self.seats.len() as u32) as usize;
            let stall = u64::from(kernel.rng.below(1000)) * 1_000_000;
            self.seats[core].stalled_ns = kernel.now + stall;
            self.stalled_ns += stall;
        }
    }

    fn check_step(&mut self, core: usize) -> Result<(), String> {
        if self.steps.is_multiple_of(AUDIT_EVERY) || self.plan.chaos.odds == 4 {
            self.audit()?;
        }
        if let Some(what) = self.journal.borrow().broken.first() {
            return Err(format!("the application: {what}"));
        }
        let mut world = self.world.borrow_mut();
        if let Some(what) = &world.broken {
            return Err(what.clone());
        }
        if !world.questions.is_empty() {
            let letters = self.seats.iter().map(|seat| match seat.place {
                Place::Ended => Ok(0),
                _ => seat.worker.letters(),
            });
            world.check_questions(&letters.collect::<Result<Vec<_>, _>>()?)?;
        }
        let seat = &self.seats[core];
        if let Some((slot, _)) =
            world.kernel.unannounced(core).find(|(slot, _)| seat.worker.awaits_input(*slot))
        {
            return Err(format!("core {core}, slot {slot}: input that nobody will read"));
        }
        drop(world);
        self.check_stalled()?;
        self.check_silenced()
    }

    /// Every core's books, and those that they share.
    fn audit(&mut self) -> Result<(), String> {
        let mut books = Books::default();
        let world = self.world.borrow();
        for (core, seat) in self.seats.iter_mut().enumerate() {
            let told = |what| format!("core {core}: {what}");
            if seat.place == Place::Ended {
                continue;
            }
            seat.worker.audit(&mut books).map_err(told)?;
            let letters = seat.worker.letters().map_err(told)?;
            let most = self.plan.config.mailbox + world.urgent[core];
            if letters > most {
                return Err(format!("core {core}: {letters} letters of {most}"));
            }
            let side = &world.kernel.cores[core];
            if letters > 0 && side.asleep.is_some() && !side.is_stirred() {
                return Err(format!("core {core} sleeps over {letters} letters"));
            }
        }
        self.journal.borrow().places.iter().for_each(|place| books.enter(place));
        self.shared.audit(&books)
    }

    /// Whoever was cut for taking nothing took nothing for as long as it takes, where that can be
    /// known.
    fn check_stalled(&mut self) -> Result<(), String> {
        let stalled = std::mem::take(&mut self.journal.borrow_mut().stalled);
        let world = self.world.borrow();
        for port in stalled {
            let index = usize::from(port - 1000);
            let Some(still) = world.kernel.wires[index].still_ns else { continue };
            let config = &self.plan.config;
            let least = config.write_timeout.saturating_sub(config.tick).as_nanos() as u64;
            if still < least {
                return Err(format!("client {index}: cut, {still} ns of {least} after it read"));
            }
        }
        Ok(())
    }

    /// Whoever died of silence was silent for as long as it takes, and took nothing meanwhile that
    /// was before the ping.
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
            let wire = &world.kernel.wires[index];
            let core = wire.core.unwrap_or(0);
            // A reset on its way is none.
            let has_answer = !wire.inbox.is_empty();
            if has_answer && world.kernel.unannounced(core).any(|(_, wire)| wire == index) {
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
            if !self.insisted && self.plan.insist_ns.is_some_and(|after| now - began >= after) {
                self.insisted = true;
                self.tell_to_end(&mut world);
            }
            let took = (now - began).saturating_sub(self.stalled_ns);
            let most = self.plan.drain.deadline.as_nanos() as u64 + ENDING_NS;
            return match took > most {
                true => Err(format!("not finished {} ns after the drain began", now - began)),
                false => Ok(()),
            };
        }
        let settled = self.plan.calm && world.peers.iter().all(is_satisfied);
        if now < self.began_ns + self.plan.end_ns && !settled {
            return Ok(());
        }
        if self.plan.calm {
            self.check_calm(&world)?;
            drop(world);
            self.check_published()?;
            world = self.world.borrow_mut();
        }
        (self.ending_ns, self.stalled_ns) = (Some(now), 0);
        self.tell_to_end(&mut world);
        Ok(())
    }

    fn tell_to_end(&self, world: &mut World) {
        self.journal.borrow_mut().leaving.fill(true);
        world.urge();
        let handle = world.handle.clone();
        if !self.plan.calm && world.kernel.rng.one_in(if self.insisted { 2 } else { 8 }) {
            world.kernel.seen.count("stopped");
            handle.stop();
        } else {
            handle.drain(&self.plan.drain);
        }
        if world.kernel.rng.one_in(2) {
            world.ask(true);
        }
    }

    /// Where nothing fails, every publication reaches every core, once.
    fn check_published(&self) -> Result<(), String> {
        let expected = self.journal.borrow().published;
        let mut counters = Counters::default();
        let mut letters = 0;
        for seat in &self.seats {
            counters.add(&seat.worker.stats().counters);
            letters += seat.worker.letters()? as u64;
        }
        let published = counters.published;
        match (published..=published + letters).contains(&expected) {
            true => Ok(()),
            false => Err(format!("{published} of {expected} publications came, {letters} wait")),
        }
    }

    /// Where nothing fails, whoever behaves gets everything.
    fn check_calm(&self, world: &World) -> Result<(), String> {
        for peer in &world.peers {
            let is_read = world.kernel.wires[peer.index].inbox.is_empty();
            let is_excused = is_read && is_slow_to_violate(peer);
            if !(is_satisfied(peer) || is_excused) {
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
        self.audit()?;
        self.journal.borrow_mut().places.clear();
        self.shared.audit(&Books::default())?;
        let mut counters = Counters::default();
        self.seats.iter().for_each(|seat| counters.add(&seat.worker.stats().counters));
        let mut world = self.world.borrow_mut();
        world.check_questions(&vec![0; self.seats.len()])?;
        if !world.questions.is_empty() {
            return Err("a question was neither answered nor dropped".to_owned());
        }
        let journal = self.journal.borrow();
        if counters.opened != counters.closed {
            return Err(format!("{} opened, {} closed", counters.opened, counters.closed));
        }
        let overflows: u64 = world.kernel.cores.iter().map(|side| side.overflows).sum();
        if (counters.queue_overflows, counters.mailbox_full >= journal.busy) != (overflows, true) {
            return Err("overflows or full mailboxes were not counted".to_owned());
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
        self.check_tls(&world, &journal, &counters)?;
        for peer in &world.peers {
            self.check_echoes(peer, &journal)?;
            self.check_client(peer, &journal, &mut seen)?;
        }
        seen.add("refused: PROXY header untrusted", counters.refused_proxy_untrusted);
        seen.add("refused: PROXY header missing", counters.refused_proxy_missing);
        seen.add("refused: PROXY header malformed", counters.refused_proxy_malformed);
        seen.add("refused: full", counters.refused_full);
        seen.add("refused: per address", counters.refused_per_address);
        seen.add("refused: no memory", counters.refused_inbound_full);
        seen.add("after burst", BURSTS.get());
        seen.add("TLS: seeds", u64::from(self.plan.tls.is_some()));
        seen.add("TLS: bad records", counters.tls_bad_records);
        seen.add("TLS: handshakes failed", counters.tls_handshake_failures);
        seen.add("TLS: handshakes evicted", counters.tls_handshakes_evicted);
        seen.add("TLS: clients in the clear", counters.tls_not_tls);
        seen.add("TLS: ends that were not said", counters.tls_truncated);
        seen.add("several workers", u64::from(self.seats.len() > 1));
        seen.add("mailbox found full by a core", counters.mailbox_full);
        seen.add("accept rate pauses", counters.accept_rate_pauses);
        seen.add("connections", counters.accepted);
        seen.add("opened", counters.opened);
        seen.add("messages", counters.messages_in);
        seen.add("outbox drops", counters.dropped_full);
        seen.add("conflated", counters.conflated);
        seen.add("read pauses", counters.read_pauses);
        seen.add("costly input", counters.reads_costly);
        seen.add("input left for a later turn", counters.reads_left);
        seen.add("messages compressed", counters.deflate_messages);
        seen.add("compressed messages shared", counters.deflate_shared);
        seen.add("messages too long to be compressed", counters.deflate_skipped_large);
        seen.add("messages inflated", counters.inflate_messages);
        seen.add("messages that cannot be inflated", counters.inflate_failed);
        seen.add("letters left for the next turn", counters.mailbox_late);
        seen.add("accept pauses", counters.accept_pauses);
        seen.add("sends left for the next turn", counters.sends_late);
        seen.add("stale completions", counters.stale_completions);
        seen.add("panics", counters.panics);
        seen.add("heartbeats answered", counters.heartbeats_answered);
        seen.add("close timeouts", counters.close_timeouts);
        seen.add("looks", counters.looks);
        seen.add("handshake timeouts", counters.handshake_timeouts);
        Ok(Report { turns: counters.turns, events: world.events, seen })
    }

    /// Only who breaks a rule is blamed, and nothing of what comes behind that reaches the
    /// application. Where nothing fails, a server says its end.
    fn check_tls(
        &self,
        world: &World,
        journal: &Journal,
        counters: &Counters,
    ) -> Result<(), String> {
        let peers = world.peers.iter().filter_map(|peer| peer.tls.as_ref());
        let sessions = peers.chain(world.remotes.values().filter_map(|it| it.tls.as_ref()));
        let flawed = sessions.filter(|tls| tls.is_flawed()).count() as u64;
        let blamed = counters.tls_bad_records + counters.tls_handshake_failures;
        if blamed > flawed {
            return Err(format!("{blamed} broke a rule of TLS, and {flawed} did"));
        }
        for peer in &world.peers {
            let Some(tls) = &peer.tls else { continue };
            let received = journal.records.get(&peer.port).map_or(0, |record| record.received);
            if let Some(most) = tls.most.filter(|most| received > *most) {
                let index = peer.index;
                return Err(format!("client {index}: {received} messages of {most} are heard"));
            }
            let record = journal.records.get(&peer.port);
            let blamed = record.is_some_and(|it| {
                (it.cause, it.code) == (Some(Cause::Protocol), Some(CloseCode::ABNORMAL))
            });
            let fast = peer.script.appetite >= 1_000_000 && peer.script.pace_us <= 1000;
            // Without calm the kernel may refuse to send it.
            let heard = self.plan.calm && fast && peer.saw_end;
            if blamed && heard && tls.awaits_alert() {
                return Err(format!("client {}: a broken rule without its alert", peer.index));
            }
            // A drain cuts who is not done in time.
            let drained = record.is_some_and(|it| it.cause == Some(Cause::Drain));
            let awaited = self.plan.calm && !drained && peer.saw_end && peer.is_content();
            if awaited && !tls.ended {
                return Err(format!("client {}: no close_notify", peer.index));
            }
        }
        Ok(())
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

    /// Who opened is who it was introduced as; who may not open did not; and what the application
    /// was told of the end is what the client was told.
    fn check_client(
        &self,
        peer: &Peer,
        journal: &Journal,
        seen: &mut Coverage,
    ) -> Result<(), String> {
        let Some(record) = journal.records.get(&peer.port).filter(|record| record.opened) else {
            return Ok(());
        };
        let (index, introduction) = (peer.index, &peer.introduction);
        if record.client != introduction.client {
            let found = record.client;
            return Err(format!("client {index}: taken for {found:?}: {introduction:?}"));
        }
        let introduced = !introduction.header.is_empty() || !introduction.lines.is_empty();
        seen.add("opened through a proxy", u64::from(introduced));
        let asked = !self.plan.config.origins.is_empty();
        let streams = peer.script.character == Character::Streamer;
        if asked && !streams && !introduction::is_admitted(introduction.origin) {
            return Err(format!("client {index}: came from {:?}", introduction.origin));
        }
        let told = record.code.zip(peer.close_received);
        if let Some((code, received)) = told.filter(|(code, received)| code != received) {
            let cause = record.cause;
            return Err(format!("client {index}: told {received}, not {code} ({cause:?})"));
        }
        let slow = self.plan.config.slow_close.0;
        match record.cause {
            Some(Cause::Slow) if record.code != Some(slow) => {
                Err("slow by another code".to_owned())
            }
            Some(Cause::Drain) if record.code.is_some_and(|code| !is_of_drain(code)) => {
                Err(format!("client {index}: drained with {:?}", record.code))
            }
            _ => Ok(()),
        }
    }
}

fn is_of_drain(code: CloseCode) -> bool {
    [CloseCode::GOING_AWAY, CloseCode::ABNORMAL].contains(&code)
}

/// Makes the clients, and lets each come at its time.
fn invite(plan: &Plan, kernel: &mut Kernel, rng: &mut Rng) -> Vec<Peer> {
    // Whoever is only there to be refused is given as long as a lingering one.
    let linger = plan.config.close_timeout.min(Duration::from_secs(2));
    let patience = plan.config.handshake_timeout.min(linger).as_nanos() as u64;
    let mut peers: Vec<Peer> = (0..plan.peers)
        .map(|index| Peer::new(index, script::draw(rng, plan), plan, patience))
        .collect();
    for peer in &mut peers {
        let from = address(peer, rng);
        peer.introduction = introduction::draw(rng, plan.calm, &plan.config.proxies, from);
        peer.introduction.origin = introduction::origin(rng);
        kernel.wires.push(Wire::new(from, plan.chaos.room));
        let arrival = kernel.now + u64::from(rng.below(10_000)) * 1_000_000;
        let arrival = if rng.one_in(3) { kernel.now } else { arrival };
        kernel.at(arrival, Event::Peer(peer.index));
    }
    peers
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
        // It may break another rule behind that.
        C::Violator if peer.guessed_well() => peer.stage == Stage::Done || peer.expected.is_empty(),
        // Lingering ends after two seconds, so only who reads fast is sure to read why.
        C::Violator if peer.script.appetite >= 1_000_000 => {
            peer.stage == Stage::Done && peer.close_received.is_some()
        }
        _ => true,
    }
}

/// Whether a client speaks so slowly that it has broken no rule yet.
fn is_slow_to_violate(peer: &Peer) -> bool {
    peer.script.character == script::Character::Violator && peer.has_more_to_say()
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
        Cause::SlowUpload => "closed: SlowUpload",
        Cause::Slow => "closed: Slow",
        Cause::OutboxFull => "closed: OutboxFull",
        Cause::WriteTimeout => "closed: WriteTimeout",
        Cause::Trickle => "closed: Trickle",
        Cause::Idle => "closed: Idle",
        Cause::Heartbeat => "closed: Heartbeat",
        Cause::Panic => "closed: Panic",
        Cause::Application => "closed: Application",
        Cause::Drain => "closed: Drain",
        _ => panic!("{cause:?} has no name here"),
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
        Cause::SlowUpload => c.closed_slow_upload,
        Cause::Slow => c.closed_slow,
        Cause::OutboxFull => c.closed_outbox_full,
        Cause::WriteTimeout => c.closed_write_timeout,
        Cause::Trickle => c.closed_trickle,
        Cause::Idle => c.closed_idle,
        Cause::Heartbeat => c.closed_heartbeat,
        Cause::Panic => c.closed_panic,
        Cause::Application => c.closed_application,
        Cause::Drain => c.closed_drain,
        _ => panic!("{cause:?} has no counter here"),
    })
}

/// An audit costs as much as a turn.
const AUDIT_EVERY: u64 = 3;

/// Beyond its deadline a drain needs only the kernel's closes.
const ENDING_NS: u64 = 5_000_000_000;
