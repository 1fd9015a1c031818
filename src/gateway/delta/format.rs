//! The text of a patch: written, and read by somebody who trusts nothing of it.

use std::fmt;

/// Digits of base 64, which count in the order of their ASCII codes.
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// Why a patch cannot be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaError {
    /// It does not follow the format, or ends early, or something comes after its end.
    Syntax,
    /// The target would be longer than allowed.
    TooLong,
    /// It copies what the base does not have.
    OutOfBase,
    /// Its commands give more or less than the length it announced.
    WrongLength,
    /// The target is not the one it was made for; most likely the base is not.
    WrongChecksum,
}

impl fmt::Display for DeltaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "malformed patch",
            Self::TooLong => "the patched payload would be too long",
            Self::OutOfBase => "the patch copies from outside of its base",
            Self::WrongLength => "the patch gives another length than it says",
            Self::WrongChecksum => "the patch is for another base",
        })
    }
}

impl std::error::Error for DeltaError {}

/// A patch that is being written.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(target_len: usize) -> Self {
        let mut writer = Self(Vec::with_capacity(64));
        writer.number(target_len, b'\n');
        writer
    }

    /// Bytes that come along; nothing if there are none.
    pub(super) fn literal(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.number(bytes.len(), b':');
            self.0.extend_from_slice(bytes);
        }
    }

    pub(super) fn copy(&mut self, offset: usize, len: usize) {
        self.number(len, b'@');
        self.number(offset, b',');
    }

    pub(super) fn finish(mut self, target: &[u8]) -> Vec<u8> {
        self.number(checksum(target) as usize, b';');
        self.0
    }

    fn number(&mut self, number: usize, end: u8) {
        let digit = |place| DIGITS[number >> (6 * place) & 63];
        self.0.extend((0..digits(number)).rev().map(digit));
        self.0.push(end);
    }
}

/// How many digits a number has.
pub(super) fn digits(number: usize) -> usize {
    number.checked_ilog2().map_or(1, |log| log as usize / 6 + 1)
}

/// The sum of the big-endian 32-bit words, with zeros after the last bytes.
fn checksum(bytes: &[u8]) -> u32 {
    let (words, tail) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    let words = words.iter().chain([&last]).map(|&word| u32::from_be_bytes(word));
    words.fold(0, u32::wrapping_add)
}

/// Turns `base` into what the patch was made for, if that is not longer than `target_max`.
///
/// Takes time in proportion to the patch and to what it gives, and memory for the latter.
pub fn apply(base: &[u8], patch: &[u8], target_max: usize) -> Result<Vec<u8>, DeltaError> {
    let mut patch = Reader(patch);
    let (len, mark) = patch.number()?;
    if mark != b'\n' {
        return Err(DeltaError::Syntax);
    }
    if len > target_max {
        return Err(DeltaError::TooLong);
    }
    let mut target = Vec::new();
    loop {
        let (number, mark) = patch.number()?;
        let piece = match mark {
            b'@' => {
                let (offset, mark) = patch.number()?;
                if mark != b',' {
                    return Err(DeltaError::Syntax);
                }
                let from = base.get(offset..).ok_or(DeltaError::OutOfBase)?;
                from.get(..number).ok_or(DeltaError::OutOfBase)?
            }
            b':' => patch.bytes(number)?,
            b';' if !patch.0.is_empty() => return Err(DeltaError::Syntax),
            b';' if target.len() != len => return Err(DeltaError::WrongLength),
            b';' if checksum(&target) as usize != number => return Err(DeltaError::WrongChecksum),
            b';' => return Ok(target),
            _ => return Err(DeltaError::Syntax),
        };
        if piece.len() > len - target.len() {
            return Err(DeltaError::WrongLength);
        }
        target.extend_from_slice(piece);
    }
}

/// What is left of a patch.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A number of 32 bits without needless zeros, and the byte that ends it.
    fn number(&mut self) -> Result<(usize, u8), DeltaError> {
        let is_digit = |byte: &u8| DIGITS.binary_search(byte).is_ok();
        let len = self.0.iter().take_while(|byte| is_digit(byte)).take(7).count();
        let (number, rest) = self.0.split_at(len);
        let (&mark, rest) = rest.split_first().ok_or(DeltaError::Syntax)?;
        if number.is_empty() || (len > 1 && number[0] == DIGITS[0]) {
            return Err(DeltaError::Syntax);
        }
        let values = number.iter().filter_map(|digit| DIGITS.binary_search(digit).ok());
        let number = values.fold(0_u64, |number, value| number << 6 | value as u64);
        self.0 = rest;
        let number = u32::try_from(number).map_err(|_| DeltaError::Syntax)?;
        Ok((number as usize, mark))
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], DeltaError> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(DeltaError::Syntax)?;
        self.0 = rest;
        Ok(bytes)
    }
}
