//! One direction of a connection: its keys, its sequence number, and the protection of one record.
//!
//! Knows the two AEADs and the forms that both versions give a record; knows nothing of what
//! records mean.
//!
//! Invariant: a sequence number is used once under a key. [`Sequence`] hands out each [`Number`]
//! once, a `Number` can neither be made elsewhere nor copied, and protecting a record consumes it;
//! numbers begin anew only together with a new key ([`Direction::advance`]).

use std::ops::Range;

use aws_lc_rs::aead::{
    AES_128_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use zeroize::Zeroize;

use super::fault::Fault;

/// How records are encrypted. Both suites of a version hash with SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aead {
    /// AES-128-GCM.
    Aes128Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

/// The versions of TLS that there are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// Version and AEAD: what gives a record its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The version.
    pub version: Version,
    /// The AEAD.
    pub aead: Aead,
}

/// Keys of one direction. `T` is four bytes that the owner counts with: they fill what alignment
/// leaves, so that a record has 176 bytes and not 184.
pub(super) struct Direction<T> {
    /// From which the next key comes (TLS 1.3).
    secret: [u8; SECRET],
    /// Sixteen bytes of it with AES-128.
    key: [u8; SECRET],
    iv: [u8; NONCE_LEN],
    pub(super) tally: T,
    sequence: Sequence,
}

/// Hands out every number once.
struct Sequence(u64);

/// The number of one record: not `Copy`, made by [`Sequence::take`] only.
struct Number(u64);

/// A record of TLS 1.3 has its type behind the content, and this one outside.
pub(super) const APPLICATION_DATA: u8 = 23;
/// Type, version, length.
pub(super) const HEADER: usize = 5;
/// Bytes of content a record may hold (RFC 8446 section 5.1).
pub(super) const CONTENT_MAX: usize = 1 << 14;
/// Bytes of a traffic secret, and of the longer key.
pub(super) const SECRET: usize = 32;
const TAG: usize = 16;
/// Part of the nonce that TLS 1.2 sends with each record of AES-GCM (RFC 5288).
const EXPLICIT: usize = 8;
const LEGACY_VERSION: [u8; 2] = [3, 3];

impl Sequence {
    fn take(&mut self) -> Result<Number, Fault> {
        let number = Number(self.0);
        // 2^64 records: no wrap, whatever the peer does.
        self.0 = self.0.checked_add(1).ok_or(Fault::KeyWornOut)?;
        Ok(number)
    }
}

impl<T> Direction<T> {
    /// Keys as the handshake left them, from record `next` on. `None` if a length is wrong.
    pub(super) fn new(
        aead: Aead,
        secret: &[u8],
        key: &[u8],
        iv: &[u8],
        next: u64,
        tally: T,
    ) -> Option<Self> {
        if key.len() != aead.key_len() {
            return None;
        }
        let mut direction = Self {
            secret: secret.try_into().ok()?,
            key: [0; SECRET],
            iv: iv.try_into().ok()?,
            tally,
            sequence: Sequence(next),
        };
        direction.key[..key.len()].copy_from_slice(key);
        Some(direction)
    }

    /// Keys of a TLS 1.3 traffic secret, from its first record on.
    pub(super) fn of_secret(aead: Aead, secret: [u8; SECRET], tally: T) -> Self {
        let (key, iv) = ([0; SECRET], [0; NONCE_LEN]);
        let mut direction = Self { secret, key, iv, tally, sequence: Sequence(0) };
        direction.derive(aead);
        direction
    }

    /// The next traffic secret and its keys (RFC 8446 section 7.2); numbers begin anew.
    pub(super) fn advance(&mut self, aead: Aead) {
        let mut next = [0; SECRET];
        expand_label(&self.secret, b"traffic upd", &mut next);
        self.secret.copy_from_slice(&next);
        next.zeroize();
        self.derive(aead);
        self.sequence = Sequence(0);
    }

    fn derive(&mut self, aead: Aead) {
        self.key.zeroize();
        expand_label(&self.secret, b"key", &mut self.key[..aead.key_len()]);
        expand_label(&self.secret, b"iv", &mut self.iv);
    }

    /// Records protected under this key.
    pub(super) fn used(&self) -> u64 {
        self.sequence.0
    }

    /// Appends one record of `kind` with all of `parts` as its content: at most [`CONTENT_MAX`]
    /// bytes.
    pub(super) fn seal(
        &mut self,
        shape: Shape,
        kind: u8,
        parts: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(len <= CONTENT_MAX, "the caller splits what is longer");
        self.seal_any(shape, kind, parts, len, out)
    }

    /// As above, also what no peer would take.
    fn seal_any(
        &mut self,
        shape: Shape,
        kind: u8,
        parts: &[&[u8]],
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let number = self.sequence.take()?;
        let around = shape.around();
        out.reserve(len + around);
        let outer = if shape.version == Version::Tls13 { APPLICATION_DATA } else { kind };
        let header = header(outer, len + around - HEADER);
        out.extend_from_slice(&header);
        let (nonce, explicit) = self.nonce(&number);
        if shape.has_explicit() {
            out.extend_from_slice(&explicit);
        }
        let start = out.len();
        parts.iter().for_each(|part| out.extend_from_slice(part));
        if shape.version == Version::Tls13 {
            out.push(kind);
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let key = self.context(shape.aead);
        let tag = match shape.version {
            Version::Tls13 => {
                key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut out[start..])
            }
            Version::Tls12 => {
                let aad = Aad::from(aad_12(&number, kind, len));
                key.seal_in_place_separate_tag(nonce, aad, &mut out[start..])
            }
        };
        // Refused are only lengths beyond any record's.
        let tag = tag.expect("a record is shorter than the AEAD's limit");
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens a whole record in place: its type, and where in it the content lies.
    pub(super) fn open(
        &mut self,
        shape: Shape,
        record: &mut [u8],
    ) -> Result<(u8, Range<usize>), Fault> {
        let number = self.sequence.take()?;
        let (head, body) = record.split_first_chunk_mut::<HEADER>().ok_or(Fault::BadRecord)?;
        let (outer, header) = (head[0], *head);
        let (mut nonce, _) = self.nonce(&number);
        let mut start = HEADER;
        if shape.has_explicit() {
            let explicit = body.first_chunk::<EXPLICIT>().ok_or(Fault::BadRecord)?;
            nonce[..NONCE_LEN - EXPLICIT].copy_from_slice(&self.iv[..NONCE_LEN - EXPLICIT]);
            nonce[NONCE_LEN - EXPLICIT..].copy_from_slice(explicit);
            start += EXPLICIT;
        }
        let body = &mut record[start..];
        let len = body.len().checked_sub(TAG).ok_or(Fault::BadRecord)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let key = self.context(shape.aead);
        let opened = match shape.version {
            Version::Tls13 => key.open_in_place(nonce, Aad::from(header), body),
            Version::Tls12 => {
                key.open_in_place(nonce, Aad::from(aad_12(&number, outer, len)), body)
            }
        };
        let content = opened.map_err(|_| Fault::BadRecord)?;
        let (kind, len) = match shape.version {
            Version::Tls12 => (outer, content.len()),
            // RFC 8446 section 5.4: padding makes no room for more.
            Version::Tls13 if content.len() > CONTENT_MAX + 1 => return Err(Fault::RecordLength),
            Version::Tls13 => {
                let last = content.iter().rposition(|byte| *byte != 0).ok_or(Fault::NoContent)?;
                (content[last], last)
            }
        };
        if len > CONTENT_MAX {
            return Err(Fault::RecordLength);
        }
        Ok((kind, start..start + len))
    }

    /// The IV and the number (RFC 8446 section 5.3), and the part of it that TLS 1.2 sends. That
    /// version may choose; this is rustls' choice, whose first numbers are used already.
    fn nonce(&self, number: &Number) -> ([u8; NONCE_LEN], [u8; EXPLICIT]) {
        let mut nonce = self.iv;
        let mut explicit = number.0.to_be_bytes();
        for (byte, of_iv) in explicit.iter_mut().zip(&self.iv[NONCE_LEN - EXPLICIT..]) {
            *byte ^= of_iv;
        }
        nonce[NONCE_LEN - EXPLICIT..].copy_from_slice(&explicit);
        (nonce, explicit)
    }

    /// Made for each record: to keep it would cost 656 bytes per direction, to make it costs 50 to
    /// 180 ns.
    fn context(&self, aead: Aead) -> LessSafeKey {
        let (algorithm, key) = match aead {
            Aead::Aes128Gcm => (&AES_128_GCM, &self.key[..16]),
            Aead::ChaCha20Poly1305 => (&CHACHA20_POLY1305, &self.key[..]),
        };
        // The length is the algorithm's, the only thing that is checked.
        LessSafeKey::new(UnboundKey::new(algorithm, key).expect("a key of the right length"))
    }
}

#[cfg(test)]
impl<T> Direction<T> {
    pub(super) fn seal_unchecked(
        &mut self,
        shape: Shape,
        kind: u8,
        content: &[u8],
        out: &mut Vec<u8>,
    ) {
        self.seal_any(shape, kind, &[content], content.len(), out).unwrap();
    }
}

impl<T> Drop for Direction<T> {
    fn drop(&mut self) {
        self.secret.zeroize();
        self.key.zeroize();
        self.iv.zeroize();
    }
}

impl Aead {
    fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::ChaCha20Poly1305 => 32,
        }
    }
}

impl Shape {
    /// What a record is longer than its content.
    pub fn around(self) -> usize {
        match self.version {
            Version::Tls13 => HEADER + 1 + TAG,
            Version::Tls12 if self.has_explicit() => HEADER + EXPLICIT + TAG,
            Version::Tls12 => HEADER + TAG,
        }
    }

    fn has_explicit(self) -> bool {
        self.version == Version::Tls12 && self.aead == Aead::Aes128Gcm
    }
}

fn header(kind: u8, len: usize) -> [u8; HEADER] {
    let [high, low] = (len as u16).to_be_bytes();
    [kind, LEGACY_VERSION[0], LEGACY_VERSION[1], high, low]
}

/// RFC 5246 section 6.2.3.3.
fn aad_12(number: &Number, kind: u8, len: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&number.0.to_be_bytes());
    aad[8..].copy_from_slice(&header(kind, len));
    aad
}

/// HKDF-Expand-Label of RFC 8446 section 7.1, with SHA-256 and no context.
pub(super) fn expand_label(secret: &[u8; SECRET], label: &[u8], out: &mut [u8]) {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let len = (out.len() as u16).to_be_bytes();
    let label_len = [PREFIX.len() as u8 + label.len() as u8];
    let info = [&len[..], &label_len, PREFIX, label, &[0]];
    let prk = Prk::new_less_safe(HKDF_SHA256, secret);
    let expanded = prk.expand(&info, Length(out.len()));
    // Refused are only lengths beyond 255 hashes, and a secret longer than a hash's block.
    expanded.and_then(|bytes| bytes.fill(out)).expect("a length HKDF can give");
}

const PREFIX: &[u8] = b"tls13 ";
