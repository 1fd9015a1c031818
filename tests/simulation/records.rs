//! Records of TLS 1.3 as the other end makes and opens them: written from RFC 8446 beside the
//! engine's, so that both would have to be wrong in the same way.
//!
//! A half opens the next record of its keys and no other: one that was left out, came twice or was
//! sealed under a nonce that had been used does not open.

use aws_lc_rs::aead::{AES_128_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use ringhold::tls::Aead;

pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const DATA: u8 = 23;

/// One direction.
pub struct Half {
    aead: Aead,
    secret: [u8; 32],
    key: LessSafeKey,
    iv: [u8; 12],
    next: u64,
}

impl Half {
    pub fn new(aead: Aead, secret: [u8; 32]) -> Self {
        let (algorithm, len) = match aead {
            Aead::Aes128Gcm => (&AES_128_GCM, 16),
            Aead::ChaCha20Poly1305 => (&CHACHA20_POLY1305, 32),
        };
        let (mut key, mut iv) = (vec![0; len], [0; 12]);
        expand(&secret, "key", &mut key);
        expand(&secret, "iv", &mut iv);
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &key).unwrap());
        Self { aead, secret, key, iv, next: 0 }
    }

    /// Section 7.2: the keys behind a KeyUpdate.
    pub fn advance(&mut self) {
        let mut next = [0; 32];
        expand(&self.secret, "traffic upd", &mut next);
        *self = Self::new(self.aead, next);
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, of_number) in nonce[4..].iter_mut().zip(self.next.to_be_bytes()) {
            *byte ^= of_number;
        }
        self.next += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// A record with this content, and so much padding.
    pub fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut inner = content.to_vec();
        inner.push(kind);
        inner.resize(inner.len() + padding, 0);
        let header = header(DATA, inner.len() + 16);
        let nonce = self.nonce();
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner).unwrap();
        [&header[..], &inner].concat()
    }

    /// The type and the content of a record.
    pub fn open(&mut self, record: &[u8]) -> Result<(u8, Vec<u8>), String> {
        let (header, body) = record.split_first_chunk::<5>().ok_or("no record")?;
        if header[..3] != [DATA, 3, 3] {
            return Err(format!("a record that begins with {:?}", &header[..3]));
        }
        let mut inner = body.to_vec();
        let nonce = self.nonce();
        let opened = self.key.open_in_place(nonce, Aad::from(*header), &mut inner);
        let len = opened.map_err(|_| format!("record {} does not open", self.next - 1))?.len();
        inner.truncate(len);
        let kind = inner.pop().filter(|kind| *kind > 0).ok_or("padding, or no type")?;
        if inner.len() > 1 << 14 {
            return Err("a record with too much in it".to_owned());
        }
        Ok((kind, inner))
    }
}

/// Of a record: its type outside, and so many bytes behind.
pub fn header(kind: u8, len: usize) -> [u8; 5] {
    let [high, low] = (len as u16).to_be_bytes();
    [kind, 3, 3, high, low]
}

/// Section 7.1, HKDF-Expand-Label, without a context.
fn expand(secret: &[u8; 32], label: &str, out: &mut [u8]) {
    struct Len(usize);
    impl KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let label = format!("tls13 {label}");
    let mut info = (out.len() as u16).to_be_bytes().to_vec();
    info.push(label.len() as u8);
    info.extend_from_slice(label.as_bytes());
    info.push(0);
    let prk = Prk::new_less_safe(HKDF_SHA256, secret);
    prk.expand(&[&info], Len(out.len())).unwrap().fill(out).unwrap();
}
