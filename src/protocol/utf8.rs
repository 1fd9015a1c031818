//! UTF-8 checked as it arrives: the first bad byte is found in the chunk that brings it.
//!
//! Owns the rule of RFC 6455 section 8.1 for text that comes in pieces. Never keeps text: only the
//! at most three bytes of a character that a chunk's end cut. The invariant: those bytes can still
//! become a character.

use super::Fault;

/// A validator that remembers at most three bytes of a sequence cut by a chunk's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utf8 {
    tail: [u8; 3],
    tail_len: u8,
}

/// Whether `bytes` are UTF-8: the fast check for text that is whole.
#[inline]
pub fn is_valid(bytes: &[u8]) -> bool {
    simdutf8::basic::from_utf8(bytes).is_ok()
}

impl Utf8 {
    /// Checks the next chunk. Fails at the first byte that cannot continue valid UTF-8, even if
    /// the sequence it is in is not complete.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Fault> {
        let rest = if self.tail_len == 0 { chunk } else { self.push_tail(chunk)? };
        match simdutf8::compat::from_utf8(rest) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_some() => Err(Fault::InvalidUtf8),
            Err(error) => {
                // Only the end is missing: one to three bytes that can still become a character.
                let cut = &rest[error.valid_up_to()..];
                self.tail[..cut.len()].copy_from_slice(cut);
                self.tail_len = cut.len() as u8;
                Ok(())
            }
        }
    }

    /// Checks that no sequence was left unfinished.
    pub fn finish(&self) -> Result<(), Fault> {
        if self.tail_len == 0 { Ok(()) } else { Err(Fault::InvalidUtf8) }
    }

    /// Completes the character in `tail` from the start of `chunk` and returns what follows it.
    fn push_tail<'a>(&mut self, chunk: &'a [u8]) -> Result<&'a [u8], Fault> {
        let mut sequence = [0; 4];
        let mut len = self.tail_len as usize;
        sequence[..len].copy_from_slice(&self.tail[..len]);
        for (at, &byte) in chunk.iter().enumerate() {
            // `tail` could still become a character, so it is shorter than the longest one.
            sequence[len] = byte;
            len += 1;
            match std::str::from_utf8(&sequence[..len]) {
                Ok(_) => {
                    self.tail_len = 0;
                    return Ok(&chunk[at + 1..]);
                }
                Err(error) if error.error_len().is_some() => return Err(Fault::InvalidUtf8),
                Err(_) => {
                    self.tail[len - 1] = byte;
                    self.tail_len = len as u8;
                }
            }
        }
        Ok(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length of the shortest prefix that no continuation can make valid, by definition.
    fn first_bad(bytes: &[u8]) -> Option<usize> {
        (1..=bytes.len()).find(|&len| {
            std::str::from_utf8(&bytes[..len]).is_err_and(|error| error.error_len().is_some())
        })
    }

    fn check(bytes: &[u8], cuts: &[usize]) {
        let mut utf8 = Utf8::default();
        let mut start = 0;
        for end in cuts.iter().copied().chain([bytes.len()]) {
            let bad = first_bad(&bytes[..end]).is_some();
            let result = utf8.push(&bytes[start..end]);
            assert_eq!(result.is_err(), bad, "{bytes:x?} cut at {cuts:?}, chunk to {end}");
            if bad {
                return;
            }
            start = end;
        }
        assert_eq!(utf8.finish().is_ok(), std::str::from_utf8(bytes).is_ok(), "{bytes:x?}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow there")]
    fn all_short_sequences_at_all_cuts() {
        // The bytes at which the grammar of RFC 3629 section 4 changes its mind.
        let edges = [
            0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0,
            0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xf8, 0xff,
        ];
        for a in edges {
            for b in edges {
                check(&[a, b], &[1]);
                for c in edges {
                    check(&[a, b, c], &[1, 2]);
                    for d in edges {
                        let bytes = [a, b, c, d];
                        check(&bytes, &[1, 2, 3]);
                        check(&bytes, &[2]);
                        check(&bytes, &[3]);
                    }
                }
            }
        }
    }

    #[test]
    fn fails_before_the_sequence_is_complete() {
        for bad in [&[0xc0][..], &[0xf8], &[0xf5], &[0xed, 0xa0], &[0xf4, 0x90], &[0xe0, 0x9f]] {
            assert_eq!(Utf8::default().push(bad), Err(Fault::InvalidUtf8), "{bad:x?}");
            let mut utf8 = Utf8::default();
            let (last, first) = bad.split_last().unwrap();
            utf8.push(first).unwrap();
            assert_eq!(utf8.push(&[*last]), Err(Fault::InvalidUtf8), "{bad:x?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too slow there")]
    fn long_text_with_a_cut_character() {
        let text = "κόσμε 🦀 ".repeat(200);
        let bytes = text.as_bytes();
        for cut in 0..=bytes.len() {
            let mut utf8 = Utf8::default();
            utf8.push(&bytes[..cut]).unwrap();
            assert_eq!(utf8.finish().is_ok(), text.is_char_boundary(cut));
            utf8.push(&[]).unwrap();
            utf8.push(&bytes[cut..]).unwrap();
            utf8.finish().unwrap();
        }
        assert!(is_valid(bytes) && !is_valid(&bytes[1..]));
    }
}
