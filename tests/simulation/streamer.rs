//! What a client of a stream receives: a head, then chunks, each of them a message, then the last
//! words and the end of the body; or without chunks, up to the end of the connection.
//!
//! Checks that every chunk is a message of its own or of a topic, whole, that what belongs together
//! comes together, and that nothing follows the end.

use super::bytes::Numbers;
use super::coverage::Coverage;

/// The receiving half of a stream's client.
pub struct Streamer {
    numbers: Numbers,
    head: Vec<u8>,
    begun: bool,
    chunked: bool,
    /// Of the chunk that is being received.
    line: Vec<u8>,
    missing: Option<usize>,
    chunk: Vec<u8>,
    /// A prefix came, so its message is next.
    prefixed: bool,
    worded: bool,
    /// Answers that came before it.
    stayed: u32,
    pub ended: bool,
}

impl Streamer {
    pub fn new(numbers: Numbers) -> Self {
        Self {
            numbers,
            head: Vec::new(),
            begun: false,
            chunked: false,
            line: Vec::new(),
            missing: None,
            chunk: Vec::new(),
            prefixed: false,
            worded: false,
            stayed: 0,
            ended: false,
        }
    }

    /// Takes what was received. The status of an answer that is no stream.
    pub fn take(
        &mut self,
        port: u16,
        bytes: &[u8],
        seen: &mut Coverage,
    ) -> Result<Option<u16>, String> {
        let mut bytes = bytes;
        if !self.begun {
            self.head.extend_from_slice(bytes);
            let Some(status) = self.read_head(seen)? else { return Ok(None) };
            if status != 200 {
                return Ok(Some(status));
            }
            bytes = &[];
            let rest = std::mem::take(&mut self.head);
            self.body(port, &rest, seen)?;
        }
        self.body(port, bytes, seen)?;
        Ok(None)
    }

    /// The status, once the head is there; what follows it stays in `head`.
    fn read_head(&mut self, seen: &mut Coverage) -> Result<Option<u16>, String> {
        loop {
            let Some(at) = self.head.windows(4).position(|w| w == b"\r\n\r\n") else {
                return Ok(None);
            };
            let head = String::from_utf8_lossy(&self.head[..at + 4]).into_owned();
            let status = head.get(9..12).and_then(|status| status.parse::<u16>().ok());
            let status = status.ok_or_else(|| format!("no status: {head}"))?;
            let mut length = 0;
            if status == 201 {
                let said = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                length = said.and_then(|said| said.parse().ok()).ok_or("no length of an answer")?;
                if self.head.len() < at + 4 + length {
                    return Ok(None);
                }
            }
            let rest = self.head.split_off(at + 4 + length);
            let whole = std::mem::replace(&mut self.head, rest);
            match status {
                100 => seen.count("stream: told to go on"),
                201 => {
                    let text = String::from_utf8_lossy(&whole[at + 4..]);
                    let number = text.trim_end_matches('s').parse::<u32>();
                    if number != Ok(self.stayed) {
                        return Err(format!("answer {} is {text}", self.stayed));
                    }
                    self.stayed += 1;
                    seen.count("stream: answer before it");
                    if head.contains("Connection: close") {
                        self.begun = true;
                        return Ok(Some(status));
                    }
                }
                status => {
                    self.begun = true;
                    self.chunked = head.contains("Transfer-Encoding: chunked");
                    return Ok(Some(status));
                }
            }
        }
    }

    fn body(&mut self, port: u16, mut bytes: &[u8], seen: &mut Coverage) -> Result<(), String> {
        if !self.chunked {
            seen.add("stream: bytes without chunks", bytes.len() as u64);
            return Ok(());
        }
        while let Some(byte) = bytes.first().copied() {
            if self.ended && self.missing.is_none() {
                return Err("bytes behind the end of a stream".to_owned());
            }
            let Some(missing) = self.missing else {
                self.line.push(byte);
                bytes = &bytes[1..];
                if let Some(line) = self.line.strip_suffix(b"\r\n") {
                    let text = std::str::from_utf8(line).unwrap_or("?");
                    let len = usize::from_str_radix(text, 16);
                    let len = len.map_err(|_| format!("no length of a chunk: {text:?}"))?;
                    self.line.clear();
                    self.ended = len == 0;
                    self.missing = Some(len + 2);
                }
                continue;
            };
            let count = missing.min(bytes.len());
            self.chunk.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.missing = Some(missing - count).filter(|missing| *missing > 0);
            if self.missing.is_none() {
                let chunk = std::mem::take(&mut self.chunk);
                let data = chunk.strip_suffix(b"\r\n").ok_or("a chunk without its end")?;
                self.on_chunk(port, data, seen)?;
            }
        }
        Ok(())
    }

    fn on_chunk(&mut self, port: u16, data: &[u8], seen: &mut Coverage) -> Result<(), String> {
        if self.ended {
            seen.count("stream: end");
            return Ok(());
        }
        if self.worded {
            return Err("a message behind the farewell".to_owned());
        }
        let own = |mark: char| data.starts_with(format!("{mark}{port} ").as_bytes());
        if std::mem::take(&mut self.prefixed) && !own('D') {
            return Err("a prefix without its message".to_owned());
        }
        match data.first() {
            Some(b'P') if own('P') => {
                seen.count("stream: prefix");
                self.prefixed = true;
            }
            Some(b'D') if own('D') => {
                seen.count("stream: message");
                self.numbers.take(data)?;
            }
            Some(b'T') => {
                seen.count("stream: topic message");
                self.numbers.take(data)?;
            }
            Some(b'B') => seen.count("stream: heartbeat"),
            Some(b'W') => {
                seen.count("stream: a farewell");
                self.worded = true;
            }
            _ => return Err(format!("another's chunk: {}", data.escape_ascii())),
        }
        Ok(())
    }
}
