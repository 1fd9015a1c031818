//! Fossil deltas: a payload told as copies from the one before it and literals between them.
//!
//! ```text
//! <target length>\n  ( <n>@<offset>,  |  <n>:<n bytes> )*  <checksum>;
//! ```
//!
//! `n@offset,` copies from the base, `n:` brings bytes along. Numbers are in base 64, most
//! significant digit first. The checksum is the sum of the target's big-endian 32-bit words.
//!
//! Owns making and applying of such patches. The invariant: [`apply`] of what [`create`] makes is
//! the target. Making one takes time in proportion to base and target, whoever chose them: each
//! place in the target is compared with at most `PROBES` places in the base, and what is found to
//! be equal is not looked at again.

mod format;

use bytes::Bytes;

use format::Writer;
pub use format::{DeltaError, apply};

/// The base is looked up in blocks of so many bytes; equal parts shorter than that are not found.
const BLOCK: usize = 16;
/// How many blocks with the same hash are compared.
const PROBES: usize = 8;

/// A patch that turns `base` into `target`, or `None` if it is not shorter than `target`.
pub fn patch(base: &[u8], target: &[u8]) -> Option<Bytes> {
    let patch = create(base, target);
    (patch.len() < target.len()).then(|| patch.into())
}

/// Like [`patch`], for JSON clients: the patch is UTF-8 too. `None` also if `target` is not.
pub fn text_patch(base: &[u8], target: &[u8]) -> Option<Bytes> {
    let target = simdutf8::basic::from_utf8(target).ok()?;
    let patch = make(base, target.as_bytes(), |at| target.is_char_boundary(at));
    debug_assert!(is_text(&patch));
    (patch.len() < target.len()).then(|| patch.into())
}

/// Whether JSON can carry these bytes in a string.
pub fn is_text(bytes: &[u8]) -> bool {
    simdutf8::basic::from_utf8(bytes).is_ok()
}

/// A patch that turns `base` into `target`, even if it is longer than that.
pub fn create(base: &[u8], target: &[u8]) -> Vec<u8> {
    make(base, target, |_| true)
}

/// Literals of the patch begin and end only where `may_cut`.
fn make(base: &[u8], target: &[u8], may_cut: impl Fn(usize) -> bool) -> Vec<u8> {
    let blocks = Blocks::new(base);
    let mut writer = Writer::new(target.len());
    // Up to `done` the patch is written; `at` is where we look.
    let (mut done, mut at) = (0, 0);
    let mut window = target.get(..BLOCK).map(Window::new);
    while let Some(mut here) = window {
        let found = blocks.find(here, base, target, done..at);
        match found.and_then(|copy| copy.trim(&may_cut)).filter(|copy| copy.saves(done)) {
            Some(copy) => {
                writer.literal(&target[done..copy.start]);
                writer.copy(copy.offset, copy.len);
                done = copy.start + copy.len;
                at = done;
                window = target.get(at..at + BLOCK).map(Window::new);
            }
            None => {
                window = target.get(at + BLOCK).map(|&new| {
                    here.roll(target[at], new);
                    here
                });
                at += 1;
            }
        }
    }
    writer.literal(&target[done..]);
    writer.finish(target)
}

/// A part of the target that is in the base.
#[derive(Clone, Copy)]
struct Match {
    /// Where in the target.
    start: usize,
    /// Where in the base.
    offset: usize,
    len: usize,
}

impl Match {
    /// Without what is outside of places where the target may be cut.
    fn trim(self, may_cut: impl Fn(usize) -> bool) -> Option<Self> {
        let end = self.start + self.len;
        let start = (self.start..end).find(|&at| may_cut(at))?;
        let end = (start..=end).rev().find(|&at| may_cut(at))?;
        Some(Self { start, offset: self.offset + (start - self.start), len: end - start })
    }

    /// Whether it is longer than what it costs: itself, and the head of one more literal.
    fn saves(&self, done: usize) -> bool {
        let command = format::digits(self.len) + format::digits(self.offset) + 2;
        let literal = format::digits(self.start - done) + 1;
        self.len > command + literal
    }
}

/// Where in the base a block with some hash is.
struct Blocks {
    /// By hash: the last block, or `NONE`.
    heads: Vec<u32>,
    /// By block: the block before it in the same bucket, or `NONE`.
    before: Vec<u32>,
    /// How far the hash is shifted to give a bucket.
    shift: u32,
}

const NONE: u32 = u32::MAX;

impl Blocks {
    fn new(base: &[u8]) -> Self {
        let count = base.len() / BLOCK;
        let buckets = count.next_power_of_two().max(2);
        let mut blocks = Self {
            heads: vec![NONE; buckets],
            before: Vec::with_capacity(count),
            shift: u32::BITS - buckets.ilog2(),
        };
        // Of a base so large that its blocks cannot be counted, the beginning is used.
        for (block, index) in base.chunks_exact(BLOCK).zip(0..NONE) {
            let bucket = blocks.bucket(Window::new(block));
            blocks.before.push(blocks.heads[bucket]);
            blocks.heads[bucket] = index;
        }
        blocks
    }

    fn bucket(&self, window: Window) -> usize {
        (window.0.wrapping_mul(0x9e37_79b1) >> self.shift) as usize
    }

    /// The longest copy around the window at the end of `open`, which is the part of the target
    /// that no command covers yet.
    fn find(
        &self,
        window: Window,
        base: &[u8],
        target: &[u8],
        open: std::ops::Range<usize>,
    ) -> Option<Match> {
        let (before, after) = (&target[open.clone()], &target[open.end..]);
        let mut best: Option<Match> = None;
        let mut index = self.heads[self.bucket(window)];
        for _ in 0..PROBES {
            if index == NONE {
                break;
            }
            let block = index as usize;
            let offset = block * BLOCK;
            let forward = common_prefix(&base[offset..], after);
            if forward >= BLOCK {
                let backward = common_suffix(&base[..offset], before);
                let len = backward + forward;
                if best.is_none_or(|best| len > best.len) {
                    best =
                        Some(Match { start: open.end - backward, offset: offset - backward, len });
                }
                if forward == after.len() {
                    break;
                }
            }
            index = self.before[block];
        }
        best
    }
}

/// The hash of `BLOCK` bytes, which can be moved on by one.
#[derive(Clone, Copy)]
struct Window(u32);

impl Window {
    const FACTOR: u32 = 0x0100_0193;
    /// What the oldest byte was multiplied with.
    const OLDEST: u32 = Self::FACTOR.wrapping_pow(BLOCK as u32 - 1);

    fn new(block: &[u8]) -> Self {
        let hash = |hash: u32, &byte| hash.wrapping_mul(Self::FACTOR).wrapping_add(u32::from(byte));
        Self(block.iter().fold(0, hash))
    }

    fn roll(&mut self, old: u8, new: u8) {
        let rest = self.0.wrapping_sub(u32::from(old).wrapping_mul(Self::OLDEST));
        self.0 = rest.wrapping_mul(Self::FACTOR).wrapping_add(u32::from(new));
    }
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let blocks = a.chunks_exact(BLOCK).zip(b.chunks_exact(BLOCK));
    let len = blocks.take_while(|(a, b)| a == b).count() * BLOCK;
    len + a[len..].iter().zip(&b[len..]).take_while(|(a, b)| a == b).count()
}

fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests;
