//! Masking (RFC 6455 section 5.3), at the speed of memory.
//!
//! Owns the XOR, for payloads in place and for payloads on their way into a buffer. Never looks at
//! frames. The only file of the protocol with `unsafe`: to call code compiled for vector
//! instructions the processor was found to have, and to write into memory not initialised yet. The
//! invariant: byte `i` meets mask byte `(offset + i) % 4`, whatever the path taken.

use std::mem::MaybeUninit;

/// XORs `bytes` with `mask`, starting at mask byte `offset % 4`. Masking and unmasking are one.
#[inline]
pub fn apply(bytes: &mut [u8], mask: [u8; 4], offset: usize) {
    let key = rotate(u32::from_le_bytes(mask), offset);
    if bytes.len() < WIDE_MIN { in_place(bytes, key) } else { wide::in_place(bytes, key) }
}

/// Appends `bytes` to `out`, masked, in one pass.
#[inline]
pub fn append(out: &mut Vec<u8>, bytes: &[u8], mask: [u8; 4]) {
    let key = u32::from_le_bytes(mask);
    let len = bytes.len();
    out.reserve(len);
    let room = &mut out.spare_capacity_mut()[..len];
    if len < WIDE_MIN {
        copy(room, bytes, key)
    } else {
        wide::copy(room, bytes, key)
    }
    // SAFETY: `reserve` made room for `len` more bytes, and `copy` has just written all of them.
    unsafe { out.set_len(out.len() + len) };
}

/// From this many bytes on, wider vectors pay for finding out whether they exist.
const WIDE_MIN: usize = 256;

/// The mask as it applies `offset` bytes later: its lowest byte comes first.
#[inline(always)]
fn rotate(key: u32, offset: usize) -> u32 {
    key.rotate_right(8 * (offset as u32 % 4))
}

/// XORs up to 16 bytes at once, the first one with the lowest byte of `key`.
#[inline(always)]
fn xor<const N: usize>(bytes: [u8; N], key: u32) -> [u8; N] {
    const { assert!(N <= 16) };
    let mut wide = [0; 16];
    wide[..N].copy_from_slice(&bytes);
    let keys = u128::from(key) * 0x0000_0001_0000_0001_0000_0001_0000_0001;
    let wide = (u128::from_le_bytes(wide) ^ keys).to_le_bytes();
    std::array::from_fn(|i| wide[i])
}

/// Lengths of chat take a few branches and no loop: lengths that vary would have a loop's end
/// mispredicted, which costs three times as much as all the rest.
///
/// Inlined into each caller, so that it is compiled for the caller's instruction set.
#[inline(always)]
fn in_place(bytes: &mut [u8], key: u32) {
    match bytes.len() {
        0..=3 => {
            for (byte, mask) in bytes.iter_mut().zip(key.to_le_bytes()) {
                *byte ^= mask;
            }
        }
        4..=7 => in_place_ends::<4>(bytes, key),
        8..=15 => in_place_ends::<8>(bytes, key),
        16..=32 => in_place_ends::<16>(bytes, key),
        _ => in_place_words(bytes, key),
    }
}

/// For `N` to `2 * N` bytes: the first and the last `N`. Both are masked before one is stored,
/// because they may overlap.
#[inline(always)]
fn in_place_ends<const N: usize>(bytes: &mut [u8], key: u32) {
    let last_at = bytes.len() - N;
    if let (Some(first), Some(last)) = (bytes.first_chunk::<N>(), bytes.last_chunk::<N>()) {
        let (first, last) = (xor(*first, key), xor(*last, rotate(key, last_at)));
        bytes[..N].copy_from_slice(&first);
        bytes[last_at..].copy_from_slice(&last);
    }
}

/// For 4 bytes and more: a loop that the compiler turns into vectors, then the last word of all.
/// It overlaps the loop's, so it is masked before and stored after.
#[inline(always)]
fn in_place_words(bytes: &mut [u8], key: u32) {
    let last_at = bytes.len() - 4;
    if let Some(last) = bytes.last_chunk::<4>() {
        let last = xor(*last, rotate(key, last_at));
        for word in bytes.as_chunks_mut::<4>().0 {
            *word = xor(*word, key);
        }
        bytes[last_at..].copy_from_slice(&last);
    }
}

/// Like [`in_place`], but writes all of `to`, which is as long as `from`.
#[inline(always)]
fn copy(to: &mut [MaybeUninit<u8>], from: &[u8], key: u32) {
    assert_eq!(to.len(), from.len());
    match from.len() {
        0..=3 => {
            for ((to, from), mask) in to.iter_mut().zip(from).zip(key.to_le_bytes()) {
                to.write(from ^ mask);
            }
        }
        4..=7 => copy_ends::<4>(to, from, key),
        8..=15 => copy_ends::<8>(to, from, key),
        16..=32 => copy_ends::<16>(to, from, key),
        _ => copy_words(to, from, key),
    }
}

/// For `N` to `2 * N` bytes: the first and the last `N`, some of them twice.
#[inline(always)]
fn copy_ends<const N: usize>(to: &mut [MaybeUninit<u8>], from: &[u8], key: u32) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk::<N>()) {
        *to = xor(*from, key).map(MaybeUninit::new);
    }
    copy_last::<N>(to, from, key);
}

/// For 4 bytes and more: words, then the last word of all, some of it twice.
#[inline(always)]
fn copy_words(to: &mut [MaybeUninit<u8>], from: &[u8], key: u32) {
    for (to, from) in to.as_chunks_mut::<4>().0.iter_mut().zip(from.as_chunks::<4>().0) {
        *to = xor(*from, key).map(MaybeUninit::new);
    }
    copy_last::<4>(to, from, key);
}

#[inline(always)]
fn copy_last<const N: usize>(to: &mut [MaybeUninit<u8>], from: &[u8], key: u32) {
    let last_at = from.len() - N;
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk::<N>()) {
        *to = xor(*from, rotate(key, last_at)).map(MaybeUninit::new);
    }
}

/// The same loops, compiled for the vectors this processor has.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{MaybeUninit, rotate};

    pub(super) fn in_place(bytes: &mut [u8], key: u32) {
        if has_avx512() {
            // SAFETY: the processor has just been found to have AVX-512F.
            unsafe { in_place_avx512(bytes, key) }
        } else if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has just been found to have AVX2.
            unsafe { in_place_avx2(bytes, key) }
        } else {
            super::in_place(bytes, key);
        }
    }

    pub(super) fn copy(to: &mut [MaybeUninit<u8>], from: &[u8], key: u32) {
        if has_avx512() {
            // SAFETY: the processor has just been found to have AVX-512F.
            unsafe { copy_avx512(to, from, key) }
        } else if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has just been found to have AVX2.
            unsafe { copy_avx2(to, from, key) }
        } else {
            super::copy(to, from, key);
        }
    }

    /// VBMI2 came with the first processors that do not slow down for 512-bit vectors.
    #[inline]
    fn has_avx512() -> bool {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vbmi2")
    }

    #[target_feature(enable = "avx512f")]
    fn in_place_avx512(bytes: &mut [u8], key: u32) {
        in_place_aligned(bytes, key);
    }

    #[target_feature(enable = "avx2")]
    fn in_place_avx2(bytes: &mut [u8], key: u32) {
        in_place_aligned(bytes, key);
    }

    #[target_feature(enable = "avx512f")]
    fn copy_avx512(to: &mut [MaybeUninit<u8>], from: &[u8], key: u32) {
        copy_aligned(to, from, key);
    }

    #[target_feature(enable = "avx2")]
    fn copy_avx2(to: &mut [MaybeUninit<u8>], from: &[u8], key: u32) {
        copy_aligned(to, from, key);
    }

    /// Vectors that cross cache lines cost up to a third of the speed, so the loop starts on one.
    #[inline(always)]
    fn in_place_aligned(bytes: &mut [u8], key: u32) {
        let head = bytes.as_ptr().align_offset(LINE).min(bytes.len());
        let (head, rest) = bytes.split_at_mut(head);
        super::in_place(head, key);
        super::in_place(rest, rotate(key, head.len()));
    }

    #[inline(always)]
    fn copy_aligned(to: &mut [MaybeUninit<u8>], from: &[u8], key: u32) {
        let head = to.as_ptr().align_offset(LINE).min(to.len());
        let (to_head, to_rest) = to.split_at_mut(head);
        let (from_head, from_rest) = from.split_at(head);
        super::copy(to_head, from_head, key);
        super::copy(to_rest, from_rest, rotate(key, head));
    }

    /// Bytes of a cache line.
    const LINE: usize = 64;
}

/// Elsewhere the baseline's vectors (NEON on aarch64) are the widest there are.
#[cfg(not(target_arch = "x86_64"))]
mod wide {
    pub(super) use super::{copy, in_place};
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

    fn naive(bytes: &[u8], offset: usize) -> Vec<u8> {
        bytes.iter().enumerate().map(|(i, byte)| byte ^ MASK[(offset + i) % 4]).collect()
    }

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
    }

    /// All lengths around every step size, and some long ones.
    fn lengths() -> impl Iterator<Item = usize> {
        // An interpreter needs its time.
        let long = if cfg!(miri) { 0 } else { 100_001 };
        let step = if cfg!(miri) { 7 } else { 1 };
        let lengths = (0..=40).chain((41..=600).step_by(step));
        lengths.chain([1000, 1023, 1024, 1025, 4099, 65_536, 100_001].map(|len| long.min(len)))
    }

    #[test]
    fn in_place_equals_naive() {
        for len in lengths() {
            for offset in [0, 1, 2, 3, 4, 1001] {
                // A moving start, so that all alignments occur.
                let start = (len + offset) % 64;
                let mut bytes = sample(start + len);
                apply(&mut bytes[start..], MASK, offset);
                let plain = sample(start + len);
                assert_eq!(bytes[..start], plain[..start]);
                assert_eq!(bytes[start..], naive(&plain[start..], offset), "{len} at {offset}");
            }
        }
    }

    #[test]
    fn append_equals_naive() {
        for len in lengths() {
            let start = len % 67;
            let mut out = vec![0xee; start];
            let plain = sample(len);
            append(&mut out, &plain, MASK);
            assert_eq!(out[..start], vec![0xee; start]);
            assert_eq!(out[start..], naive(&plain, 0), "{len}");
        }
    }

    #[test]
    fn narrow_and_wide_agree() {
        for len in (WIDE_MIN..WIDE_MIN + 200).step_by(if cfg!(miri) { 31 } else { 1 }) {
            let (mut a, mut b) = (sample(len), sample(len));
            in_place(&mut a, 0x8070_6050);
            wide::in_place(&mut b, 0x8070_6050);
            assert_eq!(a, b, "{len}");
        }
    }
}
