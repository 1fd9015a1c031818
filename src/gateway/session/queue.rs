//! Commands that wait for those before them: as they came, not decoded, since a decoded command may
//! take two hundred times the memory.
//!
//! Owns one buffer of messages, each behind its length, so that many small messages cost no more
//! than one large one. The invariant: what waits is a sequence of whole messages, but for the
//! first, of which some commands may be done.

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    /// Where the first message begins.
    at: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Bytes that wait, their lengths included.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Memory that is held.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// A message comes behind the others.
    pub(super) fn push(&mut self, message: &[u8]) {
        if self.at > self.bytes.len() / 2 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        let len = message.len() as u32;
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(message);
    }

    /// The first message, or what is left of it.
    pub(super) fn first(&self) -> Option<&[u8]> {
        let (len, rest) = self.bytes[self.at..].split_first_chunk()?;
        rest.get(..u32::from_le_bytes(*len) as usize)
    }

    /// Of the first message only so many bytes at its end are left to do; `None`: not even the
    /// message.
    pub(super) fn keep(&mut self, left: Option<usize>) {
        let Some(len) = self.first().map(<[u8]>::len) else { return };
        match left {
            None => self.at += LENGTH + len,
            Some(left) => {
                // The new length overwrites the old one or what is done.
                self.at += len - left;
                self.bytes[self.at..][..LENGTH].copy_from_slice(&(left as u32).to_le_bytes());
            }
        }
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

/// Bytes of a length.
const LENGTH: usize = size_of::<u32>();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in() {
        let mut queue = Queue::default();
        assert_eq!((queue.first(), queue.is_empty()), (None, true));
        queue.push(b"abcdef");
        queue.push(b"");
        queue.push(b"ghi");
        assert_eq!(queue.len(), 9 + 3 * LENGTH);
        assert!(queue.memory() >= queue.len());
        queue.keep(Some(5));
        assert_eq!(queue.len(), 8 + 3 * LENGTH);
        assert_eq!(queue.first(), Some(&b"bcdef"[..]));
        queue.keep(Some(5));
        queue.keep(Some(1));
        assert_eq!(queue.first(), Some(&b"f"[..]));
        queue.keep(None);
        assert_eq!(queue.first(), Some(&b""[..]), "an empty message is one, too");
        queue.keep(Some(0));
        queue.keep(None);
        queue.push(b"jkl");
        assert_eq!(queue.first(), Some(&b"ghi"[..]));
        queue.keep(None);
        assert_eq!(queue.first(), Some(&b"jkl"[..]));
        queue.keep(None);
        assert!(queue.is_empty() && queue.first().is_none() && queue.memory() == 0);
        queue.keep(None);
    }

    #[test]
    fn what_is_done_gives_its_memory_back() {
        let mut queue = Queue::default();
        for _ in 0..1000 {
            queue.push(&[7; 100]);
            queue.push(&[8; 100]);
            queue.keep(None);
            queue.keep(Some(50));
            queue.push(&[9; 100]);
            queue.keep(None);
            queue.keep(None);
        }
        assert!(queue.is_empty() && queue.memory() == 0);
        queue.push(&[1; 100]);
        for _ in 0..1000 {
            queue.push(&[2; 100]);
            queue.keep(None);
        }
        assert!(queue.memory() < 2000, "{}", queue.memory());
        for round in 0..1000 {
            queue.push(&[3; 300][..round % 300]);
            queue.push(&[4; 10]);
            queue.keep(None);
            queue.keep(None);
        }
        assert!(queue.memory() < 4000, "{}", queue.memory());
    }
}
