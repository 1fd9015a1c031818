//! Masking (RFC 6455 section 5.3), at the speed of memory.
//!
//! Owns the XOR, for payloads in place and for payloads on their way into a buffer. Never looks at
//! frames. The only file of the protocol with `unsafe`: to call code compiled for vector
//! instructions the processor was found to have, and to write into memory not initialised yet. The
//! invariant: byte `i` meets mask byte `(offset + i) % 4`, whatever the path taken.

use std::mem::MaybeUninit;

/// XORs `bytes` with `mask`, starting at mask byte `offset % 4`. Masking and unmasking are the same.
#[inline]
pub fn apply(bytes: &mut [u8], mask: [u8; 4], offset: usize) {
    let key = rotate(u32::from_le_bytes(mask), offset);
    if bytes.len() < WIDE_MIN {
        return in_place(bytes, key);
    }
    wide::in_place(bytes, key);
}

/// Appends `bytes` to `out`, masked, in one pass.
#[inline]
pub fn append(out: &mut Vec<u8>, bytes: &[u8], mask: [u8; 4]) {
    let key = u32::from_le_bytes(mask);
    let len = bytes.len();
    out.reserve(len);
    let room = &mut out.spare_capacity_mut()[..len];
    if len < WIDE_MIN {
        copy(room, bytes, key);
    } else {
        wide::copy(room, bytes, key);
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

/// XORs an array whose first byte meets the lowest byte of `key`.
#[inline(always)]
fn xor<const N: usize>(mut bytes: [u8; N], key: u32) -> [u8; N] {
    let key = key.to_le_bytes();
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte ^= key[i % 4];
    }
    bytes
}

/// Inlined into each caller, so that it is compiled for the caller's instruction set.
#[inline(always)]
fn in_place(bytes: &mut [u8], key: u32) {
    match bytes.len() {
        0..=3 => {
            for (byte, mask) in bytes.iter_mut().zip(key.to_le_bytes()) {
                *byte ^= mask;
            }
        }
        4..=7 => in_place_by::<4>(bytes, key),
        8..=15 => in_place_by::<8>(bytes, key),
        _ => in_place_by::<16>(bytes, key),
    }
}

/// Steps of `N` bytes, then the last `N` bytes of the whole: they overlap the steps, so they are
/// masked before these and put in place after.
#[inline(always)]
fn in_place_by<const N: usize>(bytes: &mut [u8], key: u32) {
    let Some(last) = bytes.last_chunk::<N>() else {
        return;
    };
    let last_at = bytes.len() - N;
    let last = xor(*last, rotate(key, last_at));
    for step in bytes.as_chunks_mut::<N>().0 {
        *step = xor(*step, key);
    }
    bytes[last_at..].copy_from_slice(&last);
}

/// Writes all of `to`, which is as long as `from`. Inlined for the same reason as [`in_place`].
#[inline(always)]
fn copy(to: &mut [MaybeUninit<u8>], from: &[u8], key: u32) {
    assert_eq!(to.len(), from.len());
    match from.len() {
        0..=3 => {
            for ((to, from), mask) in to.iter_mut().zip(from).zip(key.to_le_bytes()) {
                to.write(from ^ mask);
            }
        }
        4..=7 => copy_by::<4>(to, from, key),
        8..=15 => copy_by::<8>(to, from, key),
        _ => copy_by::<16>(to, from, key),
    }
}

/// Steps of `N` bytes, then the last `N` bytes of the whole, some of them a second time.
#[inline(always)]
fn copy_by<const N: usize>(to: &mut [MaybeUninit<u8>], from: &[u8], key: u32) {
    for (to, from) in to.as_chunks_mut::<N>().0.iter_mut().zip(from.as_chunks::<N>().0) {
        *to = xor(*from, key).map(MaybeUninit::new);
    }
    let last_at = from.len() - N;
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk::<N>()) {
        *to = xor(*from, rotate(key, last_at)).map(MaybeUninit::new);
    }
}

/// The same loops, compiled for the vectors this processor has.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::MaybeUninit;

    pub(super) fn in_place(bytes: &mut [u8], key: u32) {
        if is_x86_feature_detected!("avx512f") {
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
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has just been found to have AVX-512F.
            unsafe { copy_avx512(to, from, key) }
        } else if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has just been found to have AVX2.
            unsafe { copy_avx2(to, from, key) }
        } else {
            super::copy(to, from, key);
        }
    }

    #[target_feature(enable = "avx512f")]
    fn in_place_avx512(bytes: &mut [u8], key: u32) {
        super::in_place_by::<64>(bytes, key);
    }

    #[target_feature(enable = "avx2")]
    fn in_place_avx2(bytes: &mut [u8], key: u32) {
        super::in_place_by::<32>(bytes, key);
    }

    #[target_feature(enable = "avx512f")]
    fn copy_avx512(to: &mut [MaybeUninit<u8>], from: &[u8], key: u32) {
        super::copy_by::<64>(to, from, key);
    }

    #[target_feature(enable = "avx2")]
    fn copy_avx2(to: &mut [MaybeUninit<u8>], from: &[u8], key: u32) {
        super::copy_by::<32>(to, from, key);
    }
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
        (0..=600).chain([1000, 1023, 1024, 1025, 4099, 65_536, 100_001])
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
        for len in WIDE_MIN..WIDE_MIN + 200 {
            let (mut a, mut b) = (sample(len), sample(len));
            in_place(&mut a, 0x8070_6050);
            wide::in_place(&mut b, 0x8070_6050);
            assert_eq!(a, b, "{len}");
        }
    }
}
