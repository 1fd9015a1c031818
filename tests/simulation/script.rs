//! What a client is going to do, drawn from the seed: its character, its pace, its steps.

use std::collections::VecDeque;

use ringhold::internals::rng::Rng;
use ringhold::protocol::{CloseCode, Kind};

use super::app::BODY_MAX;
use super::plan::{Plan, pick};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Character {
    /// Sends, awaits every echo, closes.
    Echo,
    /// Sends all at once before it reads.
    Flooder,
    SlowReader,
    NeverReader,
    /// Leaves during the handshake or a message.
    Leaver,
    HalfCloser,
    Pinger,
    Violator,
    /// Opens and never says anything again, not even pong.
    Mute,
    /// Subscribes and listens.
    Listener,
    /// Sends no proper upgrade.
    Stranger,
    /// Asks for a stream.
    Streamer,
}

#[derive(Clone, Debug)]
pub enum Step {
    /// Kind, length, fragments.
    Message(Kind, usize, usize),
    Ping(Vec<u8>),
    Raw(Vec<u8>),
    Close(CloseCode),
    AwaitEchoes,
    /// Changes the pace.
    Rest(u32),
    HalfClose,
    HangUp,
    Reset(i32),
    /// Its host is gone: nothing comes from it any more, not even a reset.
    Vanish,
}

pub struct Script {
    pub character: Character,
    pub path: String,
    /// Instead of the proper request.
    pub request: Option<Vec<u8>>,
    /// Sends frames without awaiting the answer to its request.
    pub eager: bool,
    /// Answers pings and closes.
    pub answers: bool,
    /// Mean time between two acts.
    pub pace_us: u32,
    /// Bytes it reads at once.
    pub appetite: usize,
    /// Bytes it writes at once, at most or exactly.
    pub chunk: usize,
    pub whole: bool,
    pub v6: bool,
    pub steps: VecDeque<Step>,
}

const CHARACTERS: [Character; 20] = [
    Character::Echo,
    Character::Echo,
    Character::Echo,
    Character::Echo,
    Character::Flooder,
    Character::Flooder,
    Character::SlowReader,
    Character::NeverReader,
    Character::Leaver,
    Character::HalfCloser,
    Character::Pinger,
    Character::Violator,
    Character::Mute,
    Character::Listener,
    Character::Listener,
    Character::Stranger,
    Character::Streamer,
    Character::Streamer,
    Character::Streamer,
    Character::Streamer,
];

/// The first of them also where nothing fails.
const PATHS: [&str; 13] = [
    "/",
    "/",
    "/send",
    "/frame",
    "/text",
    "/ping",
    "/greet",
    "/topic",
    "/topic",
    "/close",
    "/panic-message",
    "/panic-close",
    "/topic",
];

pub fn draw(rng: &mut Rng, plan: &Plan) -> Script {
    let character = CHARACTERS[rng.below(20) as usize];
    let path = match (plan.calm, rng.below(40)) {
        (false, 0) => "/refuse",
        (false, 1) => "/panic",
        (false, 2) => "/panic-open",
        (false, 3) => "/shut",
        (true, _) => PATHS[rng.below(9) as usize],
        _ if character == Character::Listener => "/topic",
        _ => PATHS[rng.below(PATHS.len() as u32) as usize],
    };
    let mut script = Script {
        character,
        path: path.to_owned(),
        request: None,
        eager: rng.one_in(3),
        answers: true,
        pace_us: pick(rng, &[50, 1000, 20_000]),
        appetite: pick(rng, &[100, 5000, 1_000_000]) as usize,
        chunk: pick(rng, &[1, 7, 1000, 100_000]) as usize,
        whole: rng.one_in(2),
        v6: rng.one_in(2),
        steps: VecDeque::new(),
    };
    script.behave(rng, plan);
    // Slow, but not for ever: a few hundred acts for everything.
    let bytes = script.steps.iter().map(|step| match step {
        Step::Message(_, len, _) => *len,
        _ => 0,
    });
    let least = bytes.sum::<usize>() / 300;
    script.chunk = script.chunk.max(least);
    if script.answers && script.character != Character::NeverReader {
        script.appetite = script.appetite.max(least);
    }
    script
}

/// A text message without content whose first reserved bit is set.
pub const EMPTY_WITH_RSV1: &[u8] = b"\xc1\x80\x00\x00\x00\x00";

impl Script {
    fn behave(&mut self, rng: &mut Rng, plan: &Plan) {
        let close = Step::Close(CloseCode(pick(rng, &[1000, 1001, 1005, 3000, 4999]) as u16));
        match self.character {
            Character::Echo => {
                self.messages(rng, plan, true);
                self.steps.extend([Step::AwaitEchoes, close]);
            }
            Character::Flooder => {
                self.messages(rng, plan, false);
                self.messages(rng, plan, false);
                self.steps.extend([Step::AwaitEchoes, close]);
                (self.chunk, self.pace_us) = (100_000, 50);
            }
            Character::SlowReader => {
                self.messages(rng, plan, false);
                self.steps.push_back(close);
                (self.appetite, self.pace_us) = (1 + rng.below(300) as usize, 20_000);
            }
            Character::NeverReader => {
                self.messages(rng, plan, false);
                self.messages(rng, plan, false);
                self.appetite = 0;
            }
            Character::Leaver => self.leave(rng, plan),
            Character::HalfCloser => {
                self.messages(rng, plan, false);
                self.steps.push_back(Step::HalfClose);
            }
            Character::Pinger => {
                for number in 0..rng.below(30) as usize {
                    self.steps.push_back(Step::Ping(vec![number as u8; number * 4]));
                }
                self.steps.extend([Step::AwaitEchoes, close]);
            }
            Character::Violator => self.violate(rng, plan),
            Character::Mute => {
                self.answers = rng.one_in(4);
                if rng.one_in(2) {
                    self.steps.push_back(Step::Vanish);
                }
            }
            Character::Listener => {
                self.steps.push_back(Step::Rest(20_000));
                self.steps.push_back(Step::Message(Kind::Text, 10, 1));
            }
            Character::Stranger => self.be_strange(rng),
            Character::Streamer => self.stream(rng),
        }
    }

    /// Requests before it on the same connection, one behind the other.
    fn stay(rng: &mut Rng) -> Vec<u8> {
        let mut all = Vec::new();
        for number in 0..rng.below(40) {
            let (get, post) = (format!("GET /stay?{number}"), format!("POST /stay?{number}"));
            let body = "b".repeat(rng.below(100) as usize);
            let head = "HTTP/1.1\r\nHost: sim\r\n";
            let one = match rng.one_in(2) {
                true => format!("{get} {head}\r\n"),
                false => format!("{post} {head}Content-Length: {}\r\n\r\n{body}", body.len()),
            };
            all.extend(one.into_bytes());
        }
        all
    }

    /// A request for a stream, perhaps with a body, perhaps a wrong one; then little to say, and
    /// one way or another to go.
    fn stream(&mut self, rng: &mut Rng) {
        let body = "b".repeat(rng.below(BODY_MAX as u32) as usize);
        let expect = if rng.one_in(2) { "Expect: 100-continue\r\n" } else { "" };
        let (post, len) = ("POST /stream HTTP/1.1\r\nHost: sim\r\n", body.len());
        let kind = rng.below(12);
        let request = match kind {
            0 => format!("{post}Transfer-Encoding: chunked\r\n\r\n"),
            1 => format!("{post}Content-Length: {}\r\n\r\n", BODY_MAX + 1),
            2 => "OPTIONS /answer HTTP/1.1\r\nHost: sim\r\n\r\n".to_owned(),
            3 => "GET /stream HTTP/1.0\r\n\r\n".to_owned(),
            4..8 => format!("{post}{expect}Content-Length: {len}\r\n\r\n{body}"),
            // Never all of it.
            8 => format!("{post}Content-Length: {}\r\n\r\n{body}", len + 1),
            _ => "GET /stream HTTP/1.1\r\nHost: sim\r\n\r\n".to_owned(),
        };
        let mut request = request.into_bytes();
        if kind < 8 && rng.one_in(2) {
            // It sends the body later.
            let head = request.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |at| at + 4);
            self.steps.push_back(Step::Raw(request.split_off(head)));
        }
        if rng.one_in(2) {
            request = [Self::stay(rng), request].concat();
        }
        self.request = Some(request);
        (self.eager, self.answers) = (true, false);
        self.chunk = self.chunk.max(50);
        if kind != 8 && rng.one_in(3) {
            // It is not asked.
            self.steps.push_back(Step::Raw(vec![b'?'; rng.below(20_000) as usize]));
        }
        if rng.one_in(4) {
            self.appetite = 0;
        }
        if rng.one_in(2) {
            self.steps.push_back(Step::Rest(pick(rng, &[50_000, 500_000])));
            let ends = [
                Step::HangUp,
                Step::HalfClose,
                Step::Reset(libc::ECONNRESET),
                Step::Reset(libc::ETIMEDOUT),
                Step::Vanish,
            ];
            for _ in 0..rng.below(20) {
                self.steps.push_back(Step::Raw(Vec::new()));
            }
            self.steps.push_back(ends[rng.below(5) as usize].clone());
        }
    }

    fn messages(&mut self, rng: &mut Rng, plan: &Plan, gently: bool) {
        for _ in 0..rng.below(20) {
            let most = plan.config.max_message as u32 - 20;
            // Whoever does not read sends the more, so that it is ended in the middle.
            let large = if self.character == Character::NeverReader { 6 } else { 1 };
            let len = match rng.below(16) {
                0 => 0,
                lot if lot <= large => rng.below(most),
                2..5 => rng.below(most.min(5000)),
                _ => rng.below(200),
            };
            let kind = if rng.one_in(2) { Kind::Text } else { Kind::Binary };
            let fragments = match rng.below(4) {
                0 => 1 + rng.below(plan.config.max_fragments.min(len / 2 + 1).min(8)),
                _ => 1,
            };
            self.steps.push_back(Step::Message(kind, len as usize, fragments as usize));
            match rng.below(6) {
                0 => self.steps.push_back(Step::Ping(vec![b'p'; rng.below(126) as usize])),
                1 if gently => self.steps.push_back(Step::AwaitEchoes),
                2 if gently => self.steps.push_back(Step::Rest(pick(rng, &[50, 5000, 100_000]))),
                _ => {}
            }
        }
    }

    fn leave(&mut self, rng: &mut Rng, plan: &Plan) {
        let how = [
            Step::HangUp,
            Step::Reset(libc::ECONNRESET),
            Step::Reset(libc::ETIMEDOUT),
            Step::Vanish,
        ];
        if rng.one_in(2) {
            self.eager = true;
            let begun = b"GET / HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\n";
            let cut = rng.below(begun.len() as u32) as usize;
            self.request = Some(begun[..cut].to_vec());
        } else {
            self.messages(rng, plan, true);
            // A message that is announced and does not come.
            let len = rng.below(plan.config.max_message as u32 / 2);
            let mut bytes = vec![0x82, 0x80 | 127, 0, 0, 0, 0, 0, 1];
            bytes.extend_from_slice(&[0, 0, 1, 2, 3, 4]);
            if plan.config.max_message < 70_000 {
                bytes = vec![0x82, 0x80 | 126, 3, 0, 1, 2, 3, 4];
            }
            bytes.extend(std::iter::repeat_n(9, (len as usize).min(700)));
            self.steps.push_back(Step::Raw(bytes));
        }
        self.steps.push_back(how[rng.below(4) as usize].clone());
    }

    fn violate(&mut self, rng: &mut Rng, plan: &Plan) {
        self.messages(rng, plan, true);
        let raw: &[&[u8]] = &[
            b"\x81\x02hi",
            EMPTY_WITH_RSV1,
            b"\x83\x80\x00\x00\x00\x00",
            b"\x80\x80\x00\x00\x00\x00",
            b"\x09\x80\x00\x00\x00\x00",
            b"\x81\x82\x00\x00\x00\x00\xff\xff",
            b"\x82\xff\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00",
            b"\x88\x82\x00\x00\x00\x00\x03\xed",
            b"\x88\x81\x00\x00\x00\x00\x03",
            b"\x01\x81\x00\x00\x00\x00a\x01\x81\x00\x00\x00\x00a",
            // A close between fragments, which is none.
            b"\x01\x81\x00\x00\x00\x00a\x88\x82\x00\x00\x00\x00\x03\xe8",
        ];
        let bytes = raw[rng.below(raw.len() as u32) as usize];
        self.steps.push_back(Step::Raw(bytes.to_vec()));
        if rng.one_in(2) {
            // And it goes on talking.
            for _ in 0..10 {
                self.steps.push_back(Step::Raw(vec![0x55; 1000]));
            }
        }
    }

    fn be_strange(&mut self, rng: &mut Rng) {
        let long = format!("GET / HTTP/1.1\r\nHost: sim\r\nX: {}\r\n\r\n", "x".repeat(9000));
        let requests: [&[u8]; 7] = [
            b"GET / HTTP/1.1\r\nHost: sim\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: sim\r\n\r\n",
            b"GET / HTTP/1.0\r\nHost: sim\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            long.as_bytes(),
            b"GET / HTTP/1.1\r\nHo",
            b"",
        ];
        self.request = Some(requests[rng.below(7) as usize].to_vec());
    }
}
