//! Which messages of a run are large, and the payloads of both sizes.
//!
//! Never asks a clock or a generator: whether a message is large follows from its sender and its
//! number, so that sender and receiver agree. The invariant: of any run of consecutive messages of
//! one sender, the large ones are as many as the share says, give or take one.

use super::content::{Content, Stamp, Wrong};

/// The sizes of a run's messages, in payload bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    small: usize,
    large: usize,
    /// Part of the messages that are large.
    share: Share,
}

/// A part of a whole, in 2^-32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share(u64);

impl Share {
    /// Of `part`, below 0 and above 1 cut off.
    pub(crate) fn of(part: f64) -> Self {
        Self((part.clamp(0.0, 1.0) * WHOLE as f64) as u64)
    }

    /// As a part of 1.
    pub(crate) fn part(self) -> f64 {
        self.0 as f64 / WHOLE as f64
    }

    /// Whether number `number` of a sequence is in the share; spread evenly, beginning at `phase`.
    pub(crate) fn has(self, phase: u32, number: u32) -> bool {
        (u64::from(phase) + u64::from(number) * self.0) % WHOLE < self.0
    }
}

impl Sizes {
    /// All the same.
    pub(crate) fn same(size: usize) -> Self {
        Self { small: size, large: size, share: Share::default() }
    }

    /// Small ones, and large ones among them.
    pub(crate) fn mixed(small: usize, large: usize, share: Share) -> Self {
        Self { small, large, share }
    }

    /// Of the small messages.
    pub(crate) fn small(self) -> usize {
        self.small
    }

    /// Of the large messages and their share, if there are any.
    pub(crate) fn large(self) -> Option<(usize, Share)> {
        (self.share != Share::default()).then_some((self.large, self.share))
    }

    /// The longest.
    pub(crate) fn most(self) -> usize {
        self.small.max(self.large)
    }

    /// On average, at least 1.
    pub(crate) fn mean(self) -> usize {
        let part = self.share.part();
        (self.small as f64 * (1.0 - part) + self.large as f64 * part).max(1.0) as usize
    }

    fn is_large(self, from: u32, number: u32) -> bool {
        // Senders begin at different places, so that they do not all send a large one at once.
        self.share.has(from.wrapping_mul(GOLDEN), number)
    }
}

/// The payloads of one thread.
pub(crate) struct Mix {
    sizes: Sizes,
    small: Content,
    large: Option<Content>,
}

impl Mix {
    pub(crate) fn new(sizes: Sizes) -> Self {
        let large = sizes.large().map(|(size, _)| Content::new(size));
        Self { sizes, small: Content::new(sizes.small), large }
    }

    /// The payload with this stamp, valid until the next call.
    pub(crate) fn write(&mut self, stamp: Stamp) -> &[u8] {
        match &mut self.large {
            Some(large) if self.sizes.is_large(stamp.from, stamp.number) => large.write(stamp),
            _ => self.small.write(stamp),
        }
    }

    /// The stamp of a payload that is whole and unchanged, and whether it is a large one.
    pub(crate) fn read(&self, payload: &[u8]) -> Result<(Stamp, bool), Wrong> {
        let stamp = match &self.large {
            Some(large) if payload.len() == self.sizes.large => large.read(payload)?,
            _ => self.small.read(payload)?,
        };
        let is_large = self.sizes.is_large(stamp.from, stamp.number);
        let size = if is_large { self.sizes.large } else { self.sizes.small };
        if payload.len() == size { Ok((stamp, is_large)) } else { Err(Wrong::Length) }
    }
}

const WHOLE: u64 = 1 << 32;

/// 2^32 over the golden ratio: multiples of it fall far from each other.
const GOLDEN: u32 = 0x9e37_79b9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_kept_by_every_sender() {
        for (part, count) in [(0.01, 10_000), (0.5, 1000), (0.25, 1000), (0.999, 1000), (1.0, 1000)]
        {
            let sizes = Sizes::mixed(32, 4096, Share::of(part));
            for from in 0..50 {
                let large = (1..=count).filter(|number| sizes.is_large(from, *number)).count();
                let expected = f64::from(count) * part;
                assert!((large as f64 - expected).abs() <= 1.0, "{part} {from}: {large}");
            }
        }
    }

    #[test]
    fn senders_do_not_begin_together() {
        let sizes = Sizes::mixed(32, 4096, Share::of(0.01));
        let first = (0..1000).filter(|from| sizes.is_large(*from, 1)).count();
        assert!((5..=15).contains(&first), "{first} of 1000");
    }

    #[test]
    fn all_of_one_size_means_none_is_large() {
        let sizes = Sizes::same(64);
        assert!((0..100).all(|n| !sizes.is_large(n, n)));
        assert_eq!((sizes.large(), sizes.mean(), sizes.most()), (None, 64, 64));
        assert_eq!(Sizes::mixed(100, 1100, Share::of(0.5)).mean(), 600);
    }

    #[test]
    fn a_message_of_the_other_size_is_wrong() {
        let sizes = Sizes::mixed(32, 64, Share::of(0.5));
        let mut mix = Mix::new(sizes);
        for number in 1..=4 {
            let stamp = Stamp { at_ns: 7, from: 3, number };
            let payload = mix.write(stamp).to_vec();
            let is_large = sizes.is_large(3, number);
            assert_eq!(payload.len(), if is_large { 64 } else { 32 });
            assert_eq!(mix.read(&payload), Ok((stamp, is_large)));
            let other = Content::new(96 - payload.len()).write(stamp).to_vec();
            assert_eq!(mix.read(&other), Err(Wrong::Length));
        }
        assert_eq!(mix.read(&[0; 40]), Err(Wrong::Length));
    }
}
