//! RESP, the protocol of Redis, in its versions 2 and 3: replies in, commands out.
//!
//! Owns the grammar and its bounds; knows no socket. A reply is found in two steps: a [`Scanner`]
//! counts until one is whole, in however many pieces it comes, and a [`Reply`] is then read where
//! it lies. Types that only RESP3 has become what RESP2 sends instead (a map is a list of keys and
//! values, a set a list, a boolean an integer), but for pushes.
//!
//! The invariant: what a server sends leads to a reply or to a [`Fault`], which is final; depth,
//! elements and bytes of a reply are bounded before room is made for them.

use std::fmt;

/// How much one reply may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a reply with all that is in it.
    pub bytes: usize,
    /// Elements of all its lists together.
    pub elements: usize,
}

impl Bounds {
    /// 64 MiB: a history of large publications may be so long. 1,048,576 elements: as many members
    /// of a channel.
    pub const MAX: Self = Self { bytes: 64 << 20, elements: 1 << 20 };
}

impl Default for Bounds {
    fn default() -> Self {
        Self::MAX
    }
}

/// Lists within lists.
const DEPTH: usize = 8;

/// Bytes of a line: a length, a number, a status or an error.
const LINE_MAX: usize = 64 << 10;

/// What a server sent that is no RESP, or too much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No type of RESP begins like this.
    Type(u8),
    /// A line is longer than any.
    Line,
    /// What has to be a number is none, or a length below zero.
    Number,
    /// A line or a text does not end where it has to.
    End,
    /// Lists are nested deeper than any command's reply.
    Depth,
    /// The reply has more elements than [`Bounds::elements`].
    Elements,
    /// The reply is longer than [`Bounds::bytes`].
    Bytes,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(byte) => {
                write!(f, "no reply of RESP begins with {:?}", char::from(*byte))
            }
            Self::Line => f.write_str("a line is too long"),
            Self::Number => f.write_str("a number is none"),
            Self::End => f.write_str("a line does not end with CR and LF"),
            Self::Depth => f.write_str("lists are nested too deep"),
            Self::Elements => f.write_str("a reply has too many elements"),
            Self::Bytes => f.write_str("a reply is too long"),
        }
    }
}

impl std::error::Error for Fault {}

/// Finds the end of a reply that comes in pieces, and looks at each byte of a line once.
#[derive(Debug)]
pub struct Scanner {
    bounds: Bounds,
    /// The element that comes next begins here.
    at: usize,
    /// No line ends between there and here.
    looked: usize,
    /// Elements that are missing, level by level.
    missing: [usize; DEPTH],
    depth: usize,
    elements: usize,
}

impl Scanner {
    /// For replies within these bounds.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, at: 0, looked: 0, missing: [0; DEPTH], depth: 0, elements: 0 }
    }

    /// How long the reply is that `bytes` begins with; `None` if the rest of it has to come, and
    /// then `bytes` must begin with the same next time.
    ///
    /// # Errors
    /// It is none, or too large. Then nothing more can be read from this server.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        loop {
            let Some(line) = self.line(bytes)? else { return Ok(None) };
            let (kind, rest) = (line[0], &line[1..]);
            let next = self.at + line.len() + 2;
            match kind {
                b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => self.at = next,
                b'$' | b'=' | b'!' => match length(rest)? {
                    None => self.at = next,
                    Some(len) => {
                        let end = next.checked_add(len).and_then(|end| end.checked_add(2));
                        let end = end.filter(|end| *end <= self.bounds.bytes);
                        let end = end.ok_or(Fault::Bytes)?;
                        let Some(mark) = bytes.get(end - 2..end) else { return Ok(None) };
                        if mark != b"\r\n" {
                            return Err(Fault::End);
                        }
                        self.at = end;
                    }
                },
                b'*' | b'~' | b'>' | b'%' | b'|' => {
                    let len = length(rest)?.unwrap_or(0);
                    let pairs = matches!(kind, b'%' | b'|');
                    let len = if pairs { len.saturating_mul(2) } else { len };
                    self.at = next;
                    // Attributes are beside the element that follows them.
                    if kind == b'|' {
                        self.beside(len)?;
                        continue;
                    }
                    if len > 0 {
                        self.enter(len)?;
                        continue;
                    }
                }
                other => return Err(Fault::Type(other)),
            }
            if self.is_whole() {
                let len = self.at;
                *self = Self::new(self.bounds);
                return Ok(Some(len));
            }
        }
    }

    /// The line that begins at `at`, without its end; never empty.
    fn line<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Fault> {
        let from = self.looked.max(self.at);
        let rest = bytes.get(from..).unwrap_or_default();
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            self.looked = from + rest.len();
            return if self.looked - self.at > LINE_MAX { Err(Fault::Line) } else { Ok(None) };
        };
        self.looked = from + end;
        let line = &bytes[self.at..self.looked];
        match line.strip_suffix(b"\r") {
            _ if line.len() > LINE_MAX => Err(Fault::Line),
            Some(line) if !line.is_empty() => Ok(Some(line)),
            _ => Err(Fault::End),
        }
    }

    fn enter(&mut self, len: usize) -> Result<(), Fault> {
        self.elements = self.elements.saturating_add(len);
        if self.elements > self.bounds.elements {
            return Err(Fault::Elements);
        }
        *self.missing.get_mut(self.depth).ok_or(Fault::Depth)? = len;
        self.depth += 1;
        Ok(())
    }

    /// So many elements stand before the one that is awaited, and are none of its list's.
    fn beside(&mut self, len: usize) -> Result<(), Fault> {
        if len == 0 {
            return Ok(());
        }
        match self.depth {
            // A list of the two, so that the reply is not whole before the second has come.
            0 => self.enter(2)?,
            depth => self.missing[depth - 1] += 1,
        }
        self.enter(len)
    }

    /// An element has come. Whether that was all.
    fn is_whole(&mut self) -> bool {
        while self.depth > 0 {
            let missing = &mut self.missing[self.depth - 1];
            *missing -= 1;
            if *missing > 0 {
                return false;
            }
            self.depth -= 1;
        }
        true
    }
}

/// One reply, read where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// There is nothing.
    Nil,
    /// A word, as `OK`.
    Status(&'a [u8]),
    /// The command failed: a word in capitals, and what is wrong.
    Error(&'a [u8]),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(&'a [u8]),
    /// Several; of a map, keys and values in turn.
    List(Vec<Reply<'a>>),
    /// What the server says of its own accord. Only with RESP3.
    Push(Vec<Reply<'a>>),
}

impl<'a> Reply<'a> {
    /// Reads a reply that a [`Scanner`] has found whole.
    ///
    /// # Errors
    /// A number is none.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        Reader { rest: bytes }.reply(DEPTH)
    }

    /// Of a text, whatever kind of one.
    pub fn text(&self) -> Option<&'a [u8]> {
        match self {
            Self::Status(text) | Self::Bulk(text) => Some(text),
            _ => None,
        }
    }

    /// The same, where it is UTF-8.
    pub fn str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.text()?).ok()
    }

    /// Of a number, also of one that is written as text.
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => self.str()?.parse().ok(),
        }
    }

    /// As [`Self::number`], of what is not below zero and may have all 64 bits.
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Integer(number) => u64::try_from(*number).ok(),
            _ => self.str()?.parse().ok(),
        }
    }

    /// The elements of a list.
    pub fn list(&self) -> Option<&[Reply<'a>]> {
        match self {
            Self::List(list) | Self::Push(list) => Some(list),
            _ => None,
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn reply(&mut self, depth: usize) -> Result<Reply<'a>, Fault> {
        let line = self.line()?;
        let (kind, rest) = line.split_first().ok_or(Fault::End)?;
        Ok(match kind {
            b'+' => Reply::Status(rest),
            b'-' => Reply::Error(rest),
            b':' => Reply::Integer(number(rest)?),
            b'_' => Reply::Nil,
            b'#' => Reply::Integer(i64::from(rest == b"t")),
            b',' | b'(' => Reply::Bulk(rest),
            b'$' | b'=' | b'!' => match length(rest)? {
                None => Reply::Nil,
                Some(len) => {
                    let text = self.take(len)?;
                    self.take(2)?;
                    match kind {
                        b'!' => Reply::Error(text),
                        // Of its three letters and colon that say of which kind it is.
                        b'=' => Reply::Bulk(text.get(4..).unwrap_or_default()),
                        _ => Reply::Bulk(text),
                    }
                }
            },
            b'|' => {
                let pairs = length(rest)?.unwrap_or(0);
                for _ in 0..pairs.saturating_mul(2) {
                    self.reply(depth.checked_sub(1).ok_or(Fault::Depth)?)?;
                }
                return self.reply(depth);
            }
            b'*' | b'~' | b'>' | b'%' => {
                let Some(len) = length(rest)? else { return Ok(Reply::Nil) };
                let len = if *kind == b'%' { len.saturating_mul(2) } else { len };
                let depth = depth.checked_sub(1).ok_or(Fault::Depth)?;
                // An element takes three bytes.
                let mut list = Vec::with_capacity(len.min(self.rest.len() / 3));
                for _ in 0..len {
                    list.push(self.reply(depth)?);
                }
                match kind {
                    b'>' => Reply::Push(list),
                    _ => Reply::List(list),
                }
            }
            other => return Err(Fault::Type(*other)),
        })
    }

    fn line(&mut self) -> Result<&'a [u8], Fault> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or(Fault::End)?;
        let line = self.rest[..end].strip_suffix(b"\r").ok_or(Fault::End)?;
        self.rest = &self.rest[end + 1..];
        Ok(line)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Fault::End)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// A length; `None` is -1, which stands for nothing at all.
fn length(text: &[u8]) -> Result<Option<usize>, Fault> {
    match number(text)? {
        -1 => Ok(None),
        len => usize::try_from(len).map(Some).map_err(|_| Fault::Number),
    }
}

fn number(text: &[u8]) -> Result<i64, Fault> {
    let text = std::str::from_utf8(text).map_err(|_| Fault::Number)?;
    text.parse().map_err(|_| Fault::Number)
}

/// A command that is written part by part, into what is sent next.
#[derive(Debug)]
pub struct Command<'a> {
    out: &'a mut Vec<u8>,
    /// Parts that are announced and have not come.
    missing: usize,
}

impl<'a> Command<'a> {
    /// Begins a command of so many parts, its name included.
    pub fn begin(out: &'a mut Vec<u8>, parts: usize) -> Self {
        head(out, b'*', parts);
        Self { out, missing: parts }
    }

    /// The next part.
    pub fn part(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.joined(&[bytes.as_ref()])
    }

    /// The next part, which consists of these pieces.
    pub fn joined(&mut self, pieces: &[&[u8]]) -> &mut Self {
        debug_assert!(self.missing > 0, "one part more than announced");
        self.missing = self.missing.saturating_sub(1);
        head(self.out, b'$', pieces.iter().map(|piece| piece.len()).sum());
        pieces.iter().for_each(|piece| self.out.extend_from_slice(piece));
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// The next part, a number.
    pub fn number(&mut self, number: u64) -> &mut Self {
        let mut digits = [0; 20];
        self.part(decimal(number, &mut digits))
    }
}

impl Drop for Command<'_> {
    fn drop(&mut self) {
        debug_assert!(self.missing == 0 || std::thread::panicking(), "parts are missing");
    }
}

/// Writes a whole command.
pub fn command<P: AsRef<[u8]>>(out: &mut Vec<u8>, parts: &[P]) {
    let mut command = Command::begin(out, parts.len());
    for part in parts {
        command.part(part);
    }
}

fn head(out: &mut Vec<u8>, kind: u8, len: usize) {
    let mut digits = [0; 20];
    out.push(kind);
    out.extend_from_slice(decimal(len as u64, &mut digits));
    out.extend_from_slice(b"\r\n");
}

/// A number in digits, without the machinery of formatting: there are several in each command.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
#[path = "resp_tests.rs"]
mod tests;
