//! The connection that brings what is published: which channels the server was asked to pass on,
//! and what it has acknowledged.
//!
//! Owns what was asked and not acknowledged, never who listens: the home cores know. So a channel
//! costs nothing here. Knows no socket. The invariant: questions about a channel leave in their
//! order, and a piece is acknowledged once, when all its channels are.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bus::Bus;
use super::layout::{self, Layout};
use super::link::Lost;
use super::post::Post;
use super::resp::{Command, Fault, Reply, command};
use super::sharded::{Part, Shards};
use super::tally::Tally;
use crate::gateway::broker::{Happening, Message, Scope};

/// Channels of one core that begin or end to be listened to.
#[derive(Debug)]
pub(super) struct Piece {
    /// Whose.
    pub(super) core: u16,
    /// They begin.
    pub(super) begins: bool,
    /// The channels.
    pub(super) names: Vec<Arc<str>>,
}

/// Pieces that may be unacknowledged. So the server sets the pace: what others ask of it waits for
/// no more than 2,048 channels, 5 ms of its time, and 100,000 are listened to again within half a
/// second.
const WINDOW: usize = 4;

/// Who is told of nothing.
const NOBODY: u16 = u16::MAX;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) post: Rc<Post>,
    pub(super) bus: Arc<Bus>,
    pub(super) tally: Arc<Tally>,
    /// `io_timeout`.
    patience: Duration,
    waiting: VecDeque<Piece>,
    pub(super) sent: VecDeque<Sent>,
    pub(super) shards: Shards,
    /// The server was asked whether it is there.
    pinged: Option<Instant>,
    /// What nodes tell each other comes here.
    appointed: bool,
    /// Its channels, where it is a node of a cluster; others' are not listened to here.
    own: Option<Scope>,
}

#[derive(Debug)]
pub(super) struct Sent {
    pub(super) piece: Piece,
    at: Instant,
    pub(super) acknowledged: usize,
    /// Set if it is the part of a piece that lies in one slot.
    pub(super) part: Option<Part>,
    /// It is the last part, or the whole.
    is_last: bool,
}

impl Listening {
    /// Nothing is listened to.
    pub(super) fn new(
        post: Rc<Post>,
        bus: Arc<Bus>,
        tally: Arc<Tally>,
        patience: Duration,
    ) -> Self {
        let (waiting, sent) = (VecDeque::new(), VecDeque::new());
        let (pinged, appointed, own) = (None, false, None);
        let shards = Shards::default();
        Self { post, bus, tally, patience, waiting, sent, shards, pinged, appointed, own }
    }

    /// The server is a node of a cluster, and these are its channels.
    pub(super) fn in_cluster(self, own: Scope) -> Self {
        Self { own: Some(own), ..self }
    }

    /// Whether what nodes tell each other comes here. For a connection that is there.
    pub(super) fn appoint(&mut self, yes: bool, out: &mut Vec<u8>, layout: &Layout, now: Instant) {
        if self.appointed == yes {
            return;
        }
        self.appointed = yes;
        let all = [layout.removals(), layout.control(), layout.node(self.bus.uid())];
        let mut command = Command::begin(out, 1 + all.len());
        command.part(if yes { "SUBSCRIBE" } else { "UNSUBSCRIBE" });
        all.iter().for_each(|name| _ = command.joined(name));
        drop(command);
        let names = vec![Arc::from(""); all.len()];
        let piece = Piece { core: NOBODY, begins: yes, names };
        self.asked_part(piece, None, true, now);
    }

    pub(super) fn is_own(&self, channel: &str) -> bool {
        self.own.as_ref().is_none_or(|own| own.has(channel))
    }

    /// More to ask. For a connection that is there.
    pub(super) fn submit(&mut self, piece: Piece) {
        if !piece.names.is_empty() {
            self.waiting.push_back(piece);
        }
    }

    /// The next that may be asked now.
    pub(super) fn next_piece(&mut self) -> Option<Piece> {
        while self.sent.iter().filter(|sent| sent.is_last).count() < WINDOW {
            let mut piece = self.waiting.pop_front()?;
            if piece.begins {
                piece.names.retain(|name| self.is_own(name));
            }
            if !piece.names.is_empty() {
                return Some(piece);
            }
        }
        None
    }

    /// It was asked, and waits to be acknowledged.
    pub(super) fn asked(&mut self, piece: Piece, now: Instant) {
        self.asked_part(piece, None, true, now);
    }

    /// The same of a part of it.
    pub(super) fn asked_part(
        &mut self,
        piece: Piece,
        part: Option<Part>,
        is_last: bool,
        now: Instant,
    ) {
        if piece.begins && piece.core != NOBODY {
            self.tally.listens.add(piece.names.len() as u64);
        }
        self.sent.push_back(Sent { piece, at: now, acknowledged: 0, part, is_last });
    }

    /// Pieces that were asked and are not acknowledged, the oldest first.
    pub(super) fn unacknowledged_pieces(&mut self) -> impl Iterator<Item = &mut Piece> {
        self.sent.iter_mut().map(|sent| &mut sent.piece)
    }

    /// The oldest of these is acknowledged as a whole, or has to be asked again.
    pub(super) fn pop(&mut self) -> Option<Piece> {
        self.sent.pop_front().map(|sent| sent.piece)
    }

    /// Writes what may be asked now.
    pub(super) fn send(&mut self, out: &mut Vec<u8>, layout: &Layout, now: Instant) {
        while let Some(piece) = self.next_piece() {
            if layout.is_sharded() {
                self.send_parts(piece, out, layout, now);
                continue;
            }
            let mut command = Command::begin(out, 1 + piece.names.len());
            command.part(if piece.begins { "SUBSCRIBE" } else { "UNSUBSCRIBE" });
            piece.names.iter().for_each(|name| _ = command.joined(&layout.messages(name)));
            drop(command);
            self.asked(piece, now);
        }
    }

    /// Writes a question that only wants to hear whether somebody is there.
    pub(super) fn ping(&mut self, out: &mut Vec<u8>, now: Instant) {
        command(out, &["PING"]);
        self.pinged = Some(now);
    }

    /// Whether an answer to that is awaited.
    pub(super) fn is_pinged(&self) -> bool {
        self.pinged.is_some()
    }

    /// What the server says next.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub(super) fn reply(
        &mut self,
        reply: &Reply<'_>,
        layout: &Layout,
        now: Instant,
    ) -> Result<(), Lost> {
        // Whatever it is, somebody is there.
        self.pinged = None;
        if let Reply::Error(what) = reply {
            if self.is_elsewhere(what) {
                return Ok(());
            }
            return Err(Lost::Refused(String::from_utf8_lossy(what).into_owned()));
        }
        match reply.list() {
            // Version 2 and 3 differ in nothing else.
            Some([kind, name, rest @ ..]) => match (kind.text().unwrap_or_default(), rest) {
                (b"message" | b"smessage", [payload]) => self.message(layout, name, payload, now),
                (b"subscribe" | b"ssubscribe", _) => self.acknowledge(true)?,
                (b"unsubscribe", _) => self.acknowledge(false)?,
                (b"sunsubscribe", _) => self.ended(layout, name),
                _ => _ = self.is_fence(reply),
            },
            // An answer to PING, or something that is said without having been asked.
            _ => _ = self.is_fence(reply),
        }
        Ok(())
    }

    fn message(&mut self, layout: &Layout, name: &Reply<'_>, payload: &Reply<'_>, now: Instant) {
        if name.text().is_some_and(|name| layout.is_control(name, self.bus.uid())) {
            return self.bus.receive(payload.text().unwrap_or_default(), now);
        }
        if name.text().is_some_and(|name| layout.is_removals(name)) {
            return match payload.str() {
                Some(channel) => self.post.message(channel, Message::Removed),
                None => self.tally.messages_malformed.add(1),
            };
        }
        let channel = name.text().and_then(|name| layout.channel(name));
        let message = payload.text().and_then(layout::message);
        match channel.zip(message) {
            Some((channel, _)) if !self.is_own(channel) => {
                // Its slot has another node, where it is listened to by now.
                self.tally.messages_moved.add(1);
                let names = vec![channel.into()];
                self.waiting.push_back(Piece { core: NOBODY, begins: false, names });
            }
            Some((channel, message)) => {
                self.tally.messages.add(1);
                self.post.message(channel, message);
            }
            None => self.tally.messages_malformed.add(1),
        }
    }

    fn acknowledge(&mut self, begins: bool) -> Result<(), Lost> {
        let unasked = Lost::Protocol(Fault::End);
        let Some(sent) = self.sent.front_mut() else { return Err(unasked) };
        if sent.piece.begins != begins || sent.part.is_some() && !begins {
            return Err(unasked);
        }
        sent.acknowledged += 1;
        if sent.acknowledged < sent.piece.names.len() {
            return Ok(());
        }
        match self.sent.pop_front() {
            Some(Sent { piece: Piece { core, begins: true, mut names }, .. }) if core != NOBODY => {
                // Those that have moved meanwhile are acknowledged by another node.
                names.retain(|name| self.is_own(name));
                self.post.tell(core, Happening::Listening(names));
            }
            _ => {}
        }
        Ok(())
    }

    /// The connection is lost, and with it all that was asked.
    pub(super) fn lost(&mut self) {
        self.waiting = VecDeque::new();
        self.sent = VecDeque::new();
        self.shards = Shards::default();
        (self.pinged, self.appointed) = (None, false);
    }

    /// When the server will have been silent for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let sent = self.sent.front().map(|sent| sent.at);
        let oldest = sent.into_iter().chain(self.pinged).min();
        oldest.map(|at| at + self.patience)
    }

    /// Channels that are asked for and not acknowledged.
    #[cfg(test)]
    pub(super) fn unacknowledged(&self) -> usize {
        let sent = self.sent.iter().map(|sent| sent.piece.names.len() - sent.acknowledged);
        sent.sum::<usize>() + self.waiting.iter().map(|piece| piece.names.len()).sum::<usize>()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;

    use super::super::layout::Tags;
    use super::super::post::tests::Desk;
    use super::*;
    use crate::gateway::placement::Placement;

    pub(in super::super) struct Bench {
        pub(in super::super) listening: Listening,
        pub(in super::super) layout: Layout,
        desk: Desk,
        post: Rc<Post>,
        pub(in super::super) out: Vec<u8>,
    }

    pub(in super::super) fn bench() -> Bench {
        let desk = Desk::default();
        let post = Rc::new(Post::new(Box::new(desk.clone()), Placement::new(1, 1), Arc::default()));
        let bus = Arc::new(Bus::new("me", Arc::default(), Arc::new([])));
        let (tally, patience) = (Arc::default(), Duration::from_secs(4));
        let listening = Listening::new(post.clone(), bus, tally, patience);
        Bench { listening, layout: Layout::new("p", Tags::Plain), desk, post, out: Vec::new() }
    }

    impl Bench {
        pub(in super::super) fn ask(&mut self, begins: bool, names: &[&str]) {
            let names = names.iter().map(|name| (*name).into()).collect();
            self.listening.submit(Piece { core: 0, begins, names });
            self.send();
        }

        pub(in super::super) fn send(&mut self) {
            self.listening.send(&mut self.out, &self.layout, Instant::now());
        }

        pub(in super::super) fn hear(&mut self, wire: &str) -> Result<(), Lost> {
            let reply = Reply::parse(wire.as_bytes()).unwrap();
            self.listening.reply(&reply, &self.layout, Instant::now())
        }

        pub(in super::super) fn said(&self) -> Vec<Happening> {
            self.post.flush(Instant::now());
            std::mem::take(&mut *self.desk.said.borrow_mut()).into_iter().flatten().collect()
        }
    }

    fn acknowledged(kind: char, word: &str, name: &str) -> String {
        format!("{kind}3\r\n+{word}\r\n+p.client.{name}\r\n:1\r\n")
    }

    #[test]
    fn a_piece_is_acknowledged_when_all_of_it_is() {
        for kind in ['>', '*'] {
            let mut bench = bench();
            bench.ask(true, &["a", "b"]);
            bench.ask(false, &["a"]);
            bench.hear(&acknowledged(kind, "subscribe", "a")).unwrap();
            let message = format!("{kind}3\r\n+message\r\n$10\r\np.client.a\r\n$2\r\nhi\r\n");
            bench.hear(&message).unwrap();
            bench.hear(&acknowledged(kind, "subscribe", "b")).unwrap();
            bench.hear(&acknowledged(kind, "unsubscribe", "a")).unwrap();
            let said = bench.said();
            let hi = Message::Passed(Bytes::from_static(b"hi"));
            assert!(
                matches!(&said[0], Happening::Message(name, it) if **name == *"a" && *it == hi)
            );
            let Happening::Listening(names) = &said[1] else { panic!("{said:?}") };
            assert_eq!((names.len(), said.len()), (2, 2));
            assert_eq!(bench.listening.unacknowledged(), 0);
        }
    }

    #[test]
    fn removed_histories_are_told_and_their_subscription_is_nobodys() {
        let mut bench = bench();
        bench.listening.appoint(true, &mut bench.out, &bench.layout, Instant::now());
        bench.ask(true, &["a"]);
        for _ in 0..3 {
            bench.hear(&acknowledged('>', "subscribe", "x")).unwrap();
        }
        bench.hear(">3\r\n+message\r\n$18\r\np.ringhold.removed\r\n$2\r\nch\r\n").unwrap();
        bench.hear(&acknowledged('>', "subscribe", "a")).unwrap();
        let said = bench.said();
        let Happening::Message(name, Message::Removed) = &said[0] else { panic!("{said:?}") };
        assert_eq!(**name, *"ch");
        assert!(matches!(said[1], Happening::Listening(_)));
        assert_eq!(said.len(), 2);
    }

    /// The slots of a node of a cluster.
    #[derive(Debug)]
    pub(in super::super) struct Named(pub(in super::super) std::sync::Mutex<&'static str>);

    impl crate::gateway::broker::Part for Named {
        fn has(&self, channel: &str) -> bool {
            channel == *self.0.lock().unwrap()
        }
    }

    #[test]
    fn a_channel_that_has_moved_is_let_go() {
        let mut bench = bench();
        let own = Arc::new(Named("a".into()));
        bench.listening = bench.listening.in_cluster(Scope::Part(own.clone()));
        bench.ask(true, &["a", "b"]);
        assert!(!bench.out.windows(10).any(|it| it == b"p.client.b"), "another node's");
        bench.hear(&acknowledged('>', "subscribe", "a")).unwrap();
        assert!(matches!(&bench.said()[..], [Happening::Listening(names)] if names.len() == 1));
        bench.ask(true, &["a"]);
        *own.0.lock().unwrap() = "b";
        bench.hear(&acknowledged('>', "subscribe", "a")).unwrap();
        assert!(matches!(&bench.said()[..], [Happening::Listening(names)] if names.is_empty()));
        bench.out.clear();
        bench.hear(">3\r\n+message\r\n$10\r\np.client.a\r\n$2\r\nhi\r\n").unwrap();
        bench.send();
        assert!(bench.said().is_empty() && bench.out.windows(11).any(|it| it == b"UNSUBSCRIBE"));
        bench.hear(&acknowledged('>', "unsubscribe", "a")).unwrap();
        assert_eq!(bench.listening.unacknowledged(), 0);
    }

    #[test]
    fn the_server_sets_the_pace() {
        let mut bench = bench();
        for n in 0..10 {
            bench.ask(true, &[&n.to_string()]);
        }
        let asked = |bench: &Bench| bench.out.windows(9).filter(|it| it == b"SUBSCRIBE").count();
        assert_eq!(asked(&bench), WINDOW);
        bench.hear(&acknowledged('>', "subscribe", "0")).unwrap();
        bench.send();
        assert_eq!((asked(&bench), bench.listening.unacknowledged()), (WINDOW + 1, 9));
        bench.listening.lost();
        assert_eq!((bench.listening.unacknowledged(), bench.listening.deadline()), (0, None));
    }

    #[test]
    fn what_was_not_asked_ends_the_connection() {
        let mut bench = bench();
        assert!(bench.hear(&acknowledged('>', "subscribe", "a")).is_err());
        bench.ask(true, &["a"]);
        assert!(bench.hear(&acknowledged('>', "unsubscribe", "a")).is_err());
        assert!(matches!(bench.hear("-NOPERM no\r\n"), Err(Lost::Refused(_))));
    }

    #[test]
    fn anything_answers_a_ping() {
        let mut bench = bench();
        let now = Instant::now();
        for answer in ["+PONG\r\n", "*2\r\n$4\r\npong\r\n$0\r\n\r\n"] {
            bench.listening.ping(&mut bench.out, now);
            assert_eq!(bench.listening.deadline(), Some(now + Duration::from_secs(4)));
            bench.hear(answer).unwrap();
            assert!(!bench.listening.is_pinged());
        }
    }
}
