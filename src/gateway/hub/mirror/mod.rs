//! The hub of a node whose channels a broker orders.
//!
//! The home core of a channel stays its only reader on this node. It hands out requests and takes
//! in happenings; the server gives offsets, and publications of this node's own clients come back
//! like all others. A channel with subscribers is listened to: its stream follows the server's, and
//! what lies in it is answered from it. A gap, a silence or a lost connection is made good by one
//! question per channel, whoever waits for it; only what cannot be had any more is told to those
//! who must not miss it.
//!
//! ```text
//! nobody ─ subscribe ─► joining ─ acknowledged, read ─► live ◄─ read, delivered ─ behind
//!    ▲                                                   │ ── a gap, a doubt ──────► │
//!    └────────── 2 s without subscribers ────────────────┘        forked ◄─ no such past
//! ```
//!
//! Everything that is under way is found by its channel's name, which may be gone meanwhile: then
//! there is nothing to do.

mod asking;
mod checks;
mod counts;
mod ears;
mod epochs;
mod messages;
mod presence;
mod reading;
mod subscribers;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Hub;
use crate::gateway::broker::{Happening, Keeps, Limits, PIECE, Request, Ticket};
use crate::gateway::home::HomeLimits;
use crate::gateway::home::line::{ASKED, DUE, RETRIES, SENT};
use crate::gateway::hub_port::{HubPort, Refused};
use crate::gateway::stream::StreamOptions;
use asking::{Kind, Pending};
use checks::Round;
use ears::{Ears, Returning};
use epochs::LeftEpochs;
pub(super) use messages::member;
use subscribers::Deadline;

/// How long a channel without subscribers is listened to: a crowd that comes back finds it live.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// How soon a question is repeated that had no answer.
pub(super) const RETRY: Duration = Duration::from_millis(250);

/// What happened to channels that a broker orders, on one core so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MirrorCounters {
    /// Messages that came.
    pub messages: u64,
    /// Messages dropped because they were there already.
    pub duplicates: u64,
    /// Messages that cannot be decoded.
    pub malformed: u64,
    /// Publications that came later than they may.
    pub lags: u64,
    /// Gaps found.
    pub gaps: u64,
    /// Of these, filled.
    pub repaired: u64,
    /// Publications that filled them.
    pub repaired_publications: u64,
    /// Of these, not filled: positioned subscribers were told.
    pub unrepaired: u64,
    /// Streams found to have lost what was published, or to have given its offsets to others.
    pub forks: u64,
    /// Streams found to have another epoch.
    pub epochs: u64,
    /// Of these, one that the stream had left: it got a new one.
    pub returned: u64,
    /// Epochs left that were forgotten, since there were too many.
    pub forgotten: u64,
    /// Questions about histories, for whatever reason.
    pub reads: u64,
    /// Positions checked.
    pub checks: u64,
    /// Recoveries answered from memory.
    pub local_recoveries: u64,
    /// Questions of clients and the server API answered from memory, or with others' answers.
    pub local_answers: u64,
    /// Subscribers refused because the broker did not answer in time.
    pub late: u64,
    /// Requests that the queue to the broker did not take.
    pub refused: u64,
}

/// What a hub needs besides where a broker orders its channels.
#[derive(Debug)]
pub(super) struct Mirror {
    limits: Limits,
    position_check: Duration,
    /// How late a publication may be; zero: it does not matter.
    position_lag: Duration,
    pub(super) counters: MirrorCounters,
    /// Of channels, as subscribers brought them.
    options: Vec<StreamOptions>,
    ears: Ears,
    left: LeftEpochs,
    /// The next ticket.
    ticket: u64,
    /// The next publication's mark.
    sequence: u64,
    /// What was asked and is not answered.
    pending: HashMap<Ticket, Pending>,
    /// Of these, questions that others who ask the same may share.
    open: HashMap<Arc<str>, Vec<(Kind, Ticket)>>,
    /// Channels to listen to.
    listens: VecDeque<Arc<str>>,
    /// Channels that are not acknowledged, and how often: one that was given up and is wanted
    /// again counts twice. No more than [`flush_listens`](Hub::flush_listens) asks for at once.
    unheard: HashMap<Arc<str>, u32>,
    returning: VecDeque<Returning>,
    /// Channels without subscribers, and until when they are listened to.
    lingering: VecDeque<(Duration, Arc<str>)>,
    deadlines: VecDeque<Deadline>,
    /// Channels whose position is in doubt.
    due: VecDeque<Arc<str>>,
    /// Questions for positions that are under way.
    checking: usize,
    /// What to do again, and when.
    again: VecDeque<(Duration, Again)>,
    positions: Round,
    renewals: Round,
    /// Nobody else orders the channels any more; what was asked for is answered still.
    retired: bool,
}

/// Entries for which an empty list keeps its memory.
const KEPT: usize = 1024;

fn rest<T>(list: &mut VecDeque<T>) {
    if list.is_empty() && list.capacity() > KEPT {
        *list = VecDeque::new();
    }
}

/// Something to be done again.
#[derive(Debug)]
enum Again {
    Read(Arc<str>),
    Check(Arc<str>),
    Renew(Arc<str>),
    Ignore(Arc<str>),
}

impl Mirror {
    pub(super) fn new(core: u16, limits: Limits, home: &HomeLimits) -> Self {
        Self {
            limits,
            position_check: home.position_check,
            position_lag: home.position_lag,
            counters: MirrorCounters::default(),
            options: Vec::new(),
            ears: Ears::default(),
            left: LeftEpochs::default(),
            ticket: 0,
            sequence: u64::from(core) << 48,
            pending: HashMap::new(),
            open: HashMap::new(),
            listens: VecDeque::new(),
            unheard: HashMap::new(),
            returning: VecDeque::new(),
            lingering: VecDeque::new(),
            deadlines: VecDeque::new(),
            due: VecDeque::new(),
            checking: 0,
            again: VecDeque::new(),
            positions: Round::default(),
            renewals: Round::default(),
            retired: false,
        }
    }

    /// What is left of one whose channels have their home here from now on.
    pub(super) fn retire(self) -> Self {
        let Self { limits, position_check, position_lag, counters, ticket, .. } = self;
        let Self { sequence, pending, open, .. } = self;
        let home = HomeLimits { position_check, position_lag, ..HomeLimits::default() };
        let new = Self::new(0, limits, &home);
        Self { counters, ticket, sequence, pending, open, retired: true, ..new }
    }

    /// What the broker keeps.
    pub(super) fn keeps(&self) -> Keeps {
        self.limits.keeps
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired
    }

    /// Whether nothing is left of anybody.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
            && self.open.is_empty()
            && self.listens.is_empty()
            && self.unheard.is_empty()
            && self.returning.is_empty()
            && self.lingering.is_empty()
            && self.deadlines.is_empty()
            && self.due.is_empty()
            && self.checking == 0
            && self.again.is_empty()
    }

    /// The number of a channel's options.
    fn number(&mut self, options: &StreamOptions) -> u16 {
        let known = self.options.iter().position(|known| known == options);
        let number = known.unwrap_or_else(|| {
            self.options.push(*options);
            self.options.len() - 1
        });
        // More than there are namespaces times reloads: the last ones share a number.
        number.min(usize::from(u16::MAX - 1)) as u16
    }

    /// Gives back the memory of lists that a crowd has filled, once they are empty.
    fn rest(&mut self) {
        let Self { listens, lingering, deadlines, due, again, .. } = self;
        rest(listens);
        rest(lingering);
        rest(deadlines);
        rest(due);
        rest(again);
        if self.pending.is_empty() && self.pending.capacity() > KEPT {
            self.pending = HashMap::new();
        }
        if self.open.is_empty() && self.open.capacity() > KEPT {
            self.open = HashMap::new();
        }
    }

    fn next_ticket(&mut self) -> Ticket {
        self.ticket += 1;
        Ticket(self.ticket)
    }
}

impl Hub {
    fn mirror(&mut self) -> &mut Mirror {
        self.mirror.as_mut().expect("only a node with a broker gets here")
    }

    /// Asks the broker what nobody waits for.
    fn tell_broker(&mut self, out: &mut dyn HubPort, request: Request) -> Result<(), Refused> {
        let told = out.broker(request);
        if told.is_err() {
            self.mirror().counters.refused += 1;
        }
        told
    }

    /// Asks the broker. If it is refused, what is pending comes back.
    fn ask_broker(
        &mut self,
        out: &mut dyn HubPort,
        pending: Pending,
        request: impl FnOnce(Ticket) -> Request,
    ) -> Result<Ticket, Pending> {
        let ticket = self.mirror().next_ticket();
        if self.tell_broker(out, request(ticket)).is_err() {
            return Err(pending);
        }
        self.mirror().pending.insert(ticket, pending);
        Ok(ticket)
    }

    /// What the broker's thread says.
    pub(super) fn batch(&mut self, out: &mut dyn HubPort, batch: Vec<Happening>) {
        if !self.is_mirror() {
            return;
        }
        for happening in batch {
            match happening {
                Happening::Listening(names) => {
                    names.iter().for_each(|name| self.listening(out, name));
                }
                Happening::Refused(names, fault) => {
                    names.iter().for_each(|name| self.unheard(out, name, fault));
                }
                Happening::Message(channel, message) => self.message(out, &channel, message),
                Happening::Answer(ticket, answer) => self.answered(out, ticket, answer),
                Happening::Suspect(scope) => self.suspect(&scope),
                Happening::Deaf(scope) => self.deaf(out, scope),
                Happening::Back(scope, life) => self.back(scope, life),
            }
        }
        self.home.make_room();
    }

    /// What is due. Returns the time at which it wants to be called again.
    pub(super) fn turn_mirrored(&mut self, out: &mut dyn HubPort) -> Option<Duration> {
        let now = out.now();
        let late = self.refuse_late(out, now);
        let again = self.do_again(out, now);
        let lingering = self.stop_lingering(out, now);
        let returning = self.go_on_returning(now);
        let listens = self.flush_listens(out);
        let positions = self.check_positions(out, now);
        let renewals = self.renew_presence(out, now);
        self.mirror().rest();
        let rounds = [positions, renewals, returning, listens];
        [late, again, lingering].into_iter().chain(rounds).flatten().min()
    }

    /// Asks for messages of the channels that need them, a few at a time.
    fn flush_listens(&mut self, out: &mut dyn HubPort) -> Option<Duration> {
        while !self.mirror().listens.is_empty() && self.mirror().unheard.len() < 2 * PIECE {
            let Self { home, mirror: Some(mirror), .. } = self else { return None };
            let piece = mirror.listens.len().min(PIECE);
            let mut names = Vec::with_capacity(piece);
            for name in mirror.listens.drain(..piece) {
                // It may be gone, or the connection lost again.
                let Some((_, line)) = home.line_of(&name) else { continue };
                if line.is(ASKED) && !line.is(SENT) {
                    line.set(SENT, true);
                    names.push(name);
                }
            }
            if names.is_empty() {
                continue;
            }
            if let Err(Refused) = self.tell_broker(out, Request::Listen(names.clone())) {
                for name in names.into_iter().rev() {
                    if let Some((_, line)) = self.home.line_of(&name) {
                        line.set(SENT, false);
                    }
                    self.mirror().listens.push_front(name);
                }
                return Some(out.now() + RETRY);
            }
            let unheard = &mut self.mirror().unheard;
            names.into_iter().for_each(|name| *unheard.entry(name).or_default() += 1);
        }
        None
    }

    fn do_again(&mut self, out: &mut dyn HubPort, now: Duration) -> Option<Duration> {
        while self.mirror().again.front().is_some_and(|(due, _)| *due <= now) {
            match self.mirror().again.pop_front().map(|(_, again)| again) {
                Some(Again::Read(channel)) => {
                    if let Some((key, line)) = self.home.line_of(&channel) {
                        line.set(RETRIES, false);
                        self.read(out, key);
                    }
                }
                Some(Again::Renew(channel)) => {
                    if let Some((key, _)) = self.home.line_of(&channel) {
                        self.renew_ours(out, key);
                    }
                }
                Some(Again::Check(channel)) => {
                    let Self { home, mirror: Some(mirror), .. } = self else { return None };
                    if home.line_of(&channel).is_some_and(|(_, line)| line.is(DUE)) {
                        mirror.due.push_back(channel);
                    }
                }
                Some(Again::Ignore(channel)) => self.mirror().lingering.push_back((now, channel)),
                None => break,
            }
        }
        self.mirror().again.front().map(|(due, _)| *due)
    }

    fn repeat(&mut self, out: &mut dyn HubPort, again: Again) {
        let due = out.now() + RETRY;
        self.mirror().again.push_back((due, again));
    }
}
