//! NATS' client protocol: what a server says, operation by operation, and what is said to it.
//!
//! Owns the grammar and its bounds; knows no connection and no channel. The invariant: what a
//! server says is read whole or not at all, whatever the pieces in which it comes, and what is no
//! operation ends the reading for good.

use serde::{Deserialize, Serialize};

use crate::broker::resp::Fault;

/// Bytes of a line at most: a server's description of itself names all servers of its cluster.
pub const LINE_MAX: usize = 32 << 10;

/// Bytes of a message at most, whatever the server allows.
pub const MESSAGE_MAX: usize = 64 << 20;

/// One thing that a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Of itself, in JSON: see [`Info`].
    Info(&'a [u8]),
    /// Something was published.
    Message {
        /// Where.
        subject: &'a [u8],
        /// Which of our subscriptions it comes by.
        sid: &'a [u8],
        /// It.
        payload: &'a [u8],
    },
    /// Are you there?
    Ping,
    /// All before the question was done, or refused.
    Pong,
    /// Something was done, where that is wanted.
    Done,
    /// Something was refused, or the connection ends.
    Refused(&'a [u8]),
}

/// The next operation and its bytes, if it is whole.
///
/// # Errors
/// It is none.
pub fn read(input: &[u8]) -> Result<Option<(Operation<'_>, usize)>, Fault> {
    let within = &input[..input.len().min(LINE_MAX)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        // What cannot become an operation is not waited for.
        verb(within, false)?;
        return if within.len() == LINE_MAX { Err(Fault::Line) } else { Ok(None) };
    };
    let line = input[..end].strip_suffix(b"\r").ok_or(Fault::End)?;
    let whole = |operation| Ok(Some((operation, end + 1)));
    let (verb, rest) = (verb(line, true)?, rest(line));
    match verb {
        Verb::Info => whole(Operation::Info(rest)),
        Verb::Ping if rest.is_empty() => whole(Operation::Ping),
        Verb::Pong if rest.is_empty() => whole(Operation::Pong),
        Verb::Done if rest.is_empty() => whole(Operation::Done),
        Verb::Refused => whole(Operation::Refused(unquoted(rest))),
        Verb::Message => {
            let mut words = rest.split(is_space).filter(|word| !word.is_empty());
            let (subject, sid) = (words.next(), words.next());
            // An address for an answer may stand between.
            let (first, second, more) = (words.next(), words.next(), words.next());
            let (Some((subject, sid)), Some(bytes), None) =
                (subject.zip(sid), second.or(first), more)
            else {
                return Err(Fault::Number);
            };
            let bytes = number(bytes)?;
            let begin = end + 1;
            let Some(payload) = input.get(begin..begin + bytes + 2) else { return Ok(None) };
            let payload = payload.strip_suffix(b"\r\n").ok_or(Fault::End)?;
            Ok(Some((Operation::Message { subject, sid, payload }, begin + bytes + 2)))
        }
        Verb::Ping | Verb::Pong | Verb::Done => Err(Fault::End),
    }
}

#[derive(Clone, Copy)]
enum Verb {
    Info,
    Message,
    Ping,
    Pong,
    Done,
    Refused,
}

const VERBS: [(&[u8], Verb); 6] = [
    (b"INFO", Verb::Info),
    (b"MSG", Verb::Message),
    (b"PING", Verb::Ping),
    (b"PONG", Verb::Pong),
    (b"+OK", Verb::Done),
    (b"-ERR", Verb::Refused),
];

/// The verb of a line; of one that is not whole, one that it may become.
fn verb(line: &[u8], whole: bool) -> Result<Verb, Fault> {
    let end = line.iter().position(is_end);
    let word = &line[..end.unwrap_or(line.len())];
    let fits = |verb: &[u8]| match whole || end.is_some() {
        true => verb.eq_ignore_ascii_case(word),
        false => verb.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word)),
    };
    let found = VERBS.iter().find(|(name, _)| fits(name));
    found.map(|(_, verb)| *verb).ok_or(Fault::Type(line.first().copied().unwrap_or_default()))
}

/// What stands behind the verb.
fn rest(line: &[u8]) -> &[u8] {
    let begin = line.iter().position(is_space).unwrap_or(line.len());
    line[begin..].trim_ascii()
}

fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn is_end(byte: &u8) -> bool {
    is_space(byte) || *byte == b'\r'
}

fn unquoted(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"'").and_then(|text| text.strip_suffix(b"'")).unwrap_or(text)
}

fn number(text: &[u8]) -> Result<usize, Fault> {
    if text.is_empty() || text.len() > 9 || !text.iter().all(u8::is_ascii_digit) {
        return Err(Fault::Number);
    }
    let number = text.iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    if number > MESSAGE_MAX { Err(Fault::Bytes) } else { Ok(number) }
}

/// A server's description of itself, as far as it is of use.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Info {
    /// Of this run of its process.
    pub server_id: String,
    /// As `2.9.10`.
    pub version: String,
    /// Bytes of a message at most.
    pub max_payload: u64,
    /// It wants to know who we are.
    pub auth_required: bool,
    /// It speaks TLS only.
    pub tls_required: bool,
    /// It speaks TLS, too.
    pub tls_available: bool,
    /// Others of its cluster.
    pub connect_urls: Option<Vec<String>>,
    /// It is about to end, and wants its clients to go.
    pub ldm: bool,
}

/// How we introduce ourselves.
#[derive(Debug, Serialize)]
pub struct Connect<'a> {
    /// No answer to what was done.
    pub verbose: bool,
    /// No look at subjects: ours are looked at here.
    pub pedantic: bool,
    /// TLS is spoken.
    pub tls_required: bool,
    /// The user, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    /// Its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<&'a str>,
    /// The token, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_token: Option<&'a str>,
    /// Our name in the server's list of connections.
    pub name: &'a str,
    /// In which language we are written.
    pub lang: &'a str,
    /// Our version.
    pub version: &'a str,
    /// 1: the server may describe itself again.
    pub protocol: u8,
    /// What we publish comes back to us.
    pub echo: bool,
    /// Messages come without headers.
    pub headers: bool,
    /// Likewise.
    pub no_responders: bool,
}

/// Writes who we are.
pub fn connect(out: &mut Vec<u8>, connect: &Connect<'_>) {
    out.extend_from_slice(b"CONNECT ");
    // Fails only where there is no room, and a vector makes itself room.
    let _ = serde_json::to_writer(&mut *out, connect);
    out.extend_from_slice(b"\r\n");
}

/// Writes a message in pieces. The subject is one: see [`super::subjects`].
pub fn publish(out: &mut Vec<u8>, subject: &str, payload: &[&[u8]]) {
    let bytes: usize = payload.iter().map(|piece| piece.len()).sum();
    out.extend_from_slice(b"PUB ");
    out.extend_from_slice(subject.as_bytes());
    out.push(b' ');
    out.extend_from_slice(bytes.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
    payload.iter().for_each(|piece| out.extend_from_slice(piece));
    out.extend_from_slice(b"\r\n");
}

/// Writes that messages are wanted. `sid` has no spaces.
pub fn subscribe(out: &mut Vec<u8>, subject: &str, sid: &[&str]) {
    out.extend_from_slice(b"SUB ");
    out.extend_from_slice(subject.as_bytes());
    out.push(b' ');
    sid.iter().for_each(|piece| out.extend_from_slice(piece.as_bytes()));
    out.extend_from_slice(b"\r\n");
}

/// Writes that no more are.
pub fn unsubscribe(out: &mut Vec<u8>, sid: &[&str]) {
    out.extend_from_slice(b"UNSUB ");
    sid.iter().for_each(|piece| out.extend_from_slice(piece.as_bytes()));
    out.extend_from_slice(b"\r\n");
}

/// Writes a question that is answered when all before it is done.
pub fn ping(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PING\r\n");
}

/// Writes the answer to the server's.
pub fn pong(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PONG\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All operations, and what is left.
    fn all(input: &[u8]) -> Result<(Vec<String>, usize), Fault> {
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some((operation, bytes)) = read(&input[at..])? {
            found.push(format!("{operation:?}"));
            at += bytes;
        }
        Ok((found, input.len() - at))
    }

    const TALK: &[u8] = b"INFO {\"server_id\":\"x\"}\r\nping\r\nPONG\r\n+OK\r\n\
        MSG a.b cx 5\r\nhe\r\no\r\nMsg\ta  1\tINBOX.7 0\r\n\r\n-ERR 'Slow Consumer'\r\n";

    #[test]
    fn operations_are_read() {
        let message = |subject, sid, payload| Operation::Message { subject, sid, payload };
        let mut rest = TALK;
        for expected in [
            Operation::Info(b"{\"server_id\":\"x\"}"),
            Operation::Ping,
            Operation::Pong,
            Operation::Done,
            message(b"a.b", b"cx", b"he\r\no"),
            message(b"a", b"1", b""),
            Operation::Refused(b"Slow Consumer"),
        ] {
            let (operation, bytes) = read(rest).unwrap().expect("it is whole");
            assert_eq!(operation, expected);
            rest = &rest[bytes..];
        }
        assert_eq!(rest, b"");
    }

    #[test]
    fn what_is_none_is_refused_as_soon_as_it_shows() {
        for (input, fault) in [
            (&b"H"[..], Fault::Type(b'H')),
            (b"HMSG a 1 2 3\r\n", Fault::Type(b'H')),
            (b"PINGS\r\n", Fault::Type(b'P')),
            (b"PING x\r\n", Fault::End),
            (b"PING\n", Fault::End),
            (b"+OK \n", Fault::End),
            (b"\r\n", Fault::Type(0)),
            (b"MSG a 1\r\n", Fault::Number),
            (b"MSG a 1 x\r\n", Fault::Number),
            (b"MSG a 1 -1\r\n", Fault::Number),
            (b"MSG a 1 b 2 3\r\n", Fault::Number),
            (b"MSG a 1 99999999999\r\n", Fault::Number),
            (b"MSG a 1 99999999\r\n", Fault::Bytes),
            (b"MSG a 1 1\r\nxyz", Fault::End),
        ] {
            assert_eq!(read(input), Err(fault), "{}", String::from_utf8_lossy(input));
        }
        let mut endless = b"INFO ".to_vec();
        endless.resize(LINE_MAX - 1, b'x');
        assert_eq!(read(&endless), Ok(None));
        endless.push(b'x');
        assert_eq!(read(&endless), Err(Fault::Line));
    }

    #[test]
    fn what_is_written_is_what_the_protocol_says() {
        let mut out = Vec::new();
        publish(&mut out, "a.b", &[b"he", b"", b"llo"]);
        subscribe(&mut out, "a.*", &["c", "x"]);
        unsubscribe(&mut out, &["c", "x"]);
        ping(&mut out);
        pong(&mut out);
        let lines = "PUB a.b 5\r\nhello\r\nSUB a.* cx\r\nUNSUB cx\r\nPING\r\nPONG\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), lines);
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_say_the_same(cut in 0..TALK.len()) {
            let (head, left) = all(&TALK[..cut]).unwrap();
            let (tail, rest) = all(&TALK[cut - left..]).unwrap();
            let whole = all(TALK).unwrap().0;
            prop_assert_eq!([head, tail].concat(), whole);
            prop_assert_eq!(rest, 0);
        }

        #[test]
        fn garbage_is_bounded(
            input in prop::collection::vec(any::<u8>(), 0..200),
            cut in 0..200_usize,
        ) {
            let whole = all(&input);
            // What is refused in pieces is refused as a whole.
            if all(&input[..cut.min(input.len())]).is_err() {
                prop_assert!(whole.is_err());
            }
        }

        #[test]
        fn messages_of_any_kind_come_back(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut input = format!("MSG s c {}\r\n", payload.len()).into_bytes();
            input.extend(&payload);
            input.extend(b"\r\n");
            for short in 0..input.len() {
                prop_assert_eq!(read(&input[..short]), Ok(None));
            }
            let expected = Operation::Message { subject: b"s", sid: b"c", payload: &payload };
            prop_assert_eq!(read(&input), Ok(Some((expected, input.len()))));
        }
    }
}
