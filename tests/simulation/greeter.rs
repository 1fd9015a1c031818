//! A handshake in two flights that has nothing of TLS but its records: a seed goes over, from which
//! both sides make the traffic secrets. Each side of it, for the engine and for whom it talks to.

use std::sync::atomic::{AtomicU64, Ordering};

use ringhold::internals::rng::Rng;
use ringhold::tls::scripted::{Script, Scripts};
use ringhold::tls::{Aead, Fault, Reason, Record, Role};

use super::records::{CHANGE_CIPHER_SPEC, DATA, HANDSHAKE, header};

/// One side of a handshake.
pub struct Greeter {
    role: Role,
    seed: u64,
    /// Bytes of the hello that have come.
    hello: Vec<u8>,
    begun: bool,
}

/// What a handshake leaves.
#[derive(Clone, Copy)]
pub struct Agreed {
    pub aead: Aead,
    pub client: [u8; 32],
    pub server: [u8; 32],
}

impl Greeter {
    pub fn server() -> Self {
        Self { role: Role::Server, seed: 0, hello: Vec::new(), begun: false }
    }

    /// The client's side. Appends the hello, in one record or in two.
    pub fn client(seed: u64, out: &mut Vec<u8>) -> Self {
        let mut hello = seed.to_be_bytes().to_vec();
        hello.resize(HELLO, 0xc1);
        let cut = if seed & 8 == 0 { HELLO } else { 1 + seed as usize % (HELLO - 1) };
        let (first, second) = hello.split_at(cut);
        for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
            put(HANDSHAKE, piece, out);
        }
        Self { role: Role::Client, seed, hello: Vec::new(), begun: true }
    }

    /// Takes a whole record. With the last, what both sides then know.
    pub fn take(&mut self, record: &[u8], out: &mut Vec<u8>) -> Result<Option<Agreed>, Fault> {
        let (kind, body) = (record[0], &record[5..]);
        match (self.role, kind, self.begun) {
            (Role::Server, HANDSHAKE, false) => {
                self.hello.extend_from_slice(body);
                let Some(seed) = self.hello.get(..8).filter(|_| self.hello.len() >= HELLO) else {
                    return Ok(None);
                };
                self.seed = seed.try_into().map_or(0, u64::from_be_bytes);
                self.begun = true;
                put(HANDSHAKE, &[2; 90], out);
                put(CHANGE_CIPHER_SPEC, &[1], out);
                // A chain of certificates, of any length.
                let len = 300 + self.seed as usize % 3000;
                put(DATA, &self.proof(Role::Server, len), out);
                Ok(None)
            }
            // RFC 8446 appendix D.4: it means nothing.
            (_, CHANGE_CIPHER_SPEC, _) if body == [1] => Ok(None),
            (Role::Server, DATA, true) if body == self.proof(Role::Client, 52) => {
                Ok(Some(self.agreed()))
            }
            (Role::Client, HANDSHAKE, _) if body == [2; 90] => Ok(None),
            (Role::Client, DATA, _) if body == self.proof(Role::Server, body.len()) => {
                put(CHANGE_CIPHER_SPEC, &[1], out);
                put(DATA, &self.proof(Role::Client, 52), out);
                Ok(Some(self.agreed()))
            }
            _ => {
                out.extend_from_slice(&[21, 3, 3, 0, 2, 2, 51]);
                Err(Fault::Greeting(Reason::Decrypt, "not as scripted".to_owned()))
            }
        }
    }

    /// What only who has the seed can say.
    fn proof(&self, role: Role, len: usize) -> Vec<u8> {
        let mut rng = Rng::new(self.seed ^ if role == Role::Client { 0xc0de } else { 0x5e4e });
        let mut proof = Vec::new();
        while proof.len() < len {
            proof.extend_from_slice(&rng.draw().to_be_bytes());
        }
        proof.truncate(len);
        proof
    }

    fn agreed(&self) -> Agreed {
        let mut rng = Rng::new(self.seed);
        let mut secret = || {
            let mut bytes = [0; 32];
            bytes.chunks_mut(8).for_each(|piece| piece.copy_from_slice(&rng.draw().to_be_bytes()));
            bytes
        };
        let aead = if self.seed & 1 == 0 { Aead::Aes128Gcm } else { Aead::ChaCha20Poly1305 };
        Agreed { aead, client: secret(), server: secret() }
    }
}

impl Script for Greeter {
    fn feed(&mut self, record: &[u8], out: &mut Vec<u8>) -> Result<Option<Record>, Fault> {
        let agreed = self.take(record, out)?;
        let of = |it: Agreed| Record::from_secrets(self.role, it.aead, it.client, it.server);
        Ok(agreed.map(of))
    }
}

/// The engine's side of all handshakes of a run.
pub fn scripts(seed: u64) -> Scripts {
    let dials = AtomicU64::new(seed);
    Scripts::new(move |role, out| -> Box<dyn Script> {
        Box::new(match role {
            Role::Server => Greeter::server(),
            Role::Client => {
                let number = dials.fetch_add(1, Ordering::Relaxed);
                Greeter::client(Rng::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).draw(), out)
            }
        })
    })
}

fn put(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&header(kind, body.len()));
    out.extend_from_slice(body);
}

/// Bytes of the hello.
const HELLO: usize = 200;
