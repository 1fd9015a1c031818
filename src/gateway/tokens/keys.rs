//! Keys and signatures. A key knows which algorithms it is for; a token's header can only pick
//! among those, so that a public key never serves as an HMAC secret, nor `none` as anything.

use std::fmt;

use jsonwebtoken::{Algorithm as Known, DecodingKey};
use p521::ecdsa::signature::Verifier as _;

use super::{TokenError, invalid};

/// Algorithms of RFC 7518 section 3 and RFC 8037 that tokens may be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }

    /// What the library calls it; `None` where it does not have it.
    fn known(self) -> Option<Known> {
        Some(match self {
            Self::Hs256 => Known::HS256,
            Self::Hs384 => Known::HS384,
            Self::Hs512 => Known::HS512,
            Self::Rs256 => Known::RS256,
            Self::Rs384 => Known::RS384,
            Self::Rs512 => Known::RS512,
            Self::Es256 => Known::ES256,
            Self::Es384 => Known::ES384,
            Self::Es512 => return None,
            Self::EdDsa => Known::EdDSA,
        })
    }

    pub(super) fn is_hmac(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }

    pub(super) fn is_rsa(self) -> bool {
        matches!(self, Self::Rs256 | Self::Rs384 | Self::Rs512)
    }
}

/// A key that verifies.
#[derive(Clone)]
pub(super) enum Key {
    Hmac(DecodingKey),
    Rsa(DecodingKey),
    P256(DecodingKey),
    P384(DecodingKey),
    P521(Box<p521::ecdsa::VerifyingKey>),
    Ed25519(DecodingKey),
}

impl fmt::Debug for Key {
    /// Its kind only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hmac(_) => "Hmac",
            Self::Rsa(_) => "Rsa",
            Self::P256(_) => "P256",
            Self::P384(_) => "P384",
            Self::P521(_) => "P521",
            Self::Ed25519(_) => "Ed25519",
        })
    }
}

impl Key {
    pub(super) fn hmac(secret: &[u8]) -> Self {
        Self::Hmac(DecodingKey::from_secret(secret))
    }

    /// From a PEM text. An error says what is wrong with it.
    pub(super) fn rsa_pem(pem: &str) -> Result<Self, String> {
        let key = DecodingKey::from_rsa_pem(public(pem)?).map_err(|_| NOT_PEM.to_owned())?;
        let der = key.try_get_as_bytes().map_err(|_| NOT_PEM.to_owned())?;
        let (modulus, exponent) = rsa_parts(der).ok_or("is no RSA public key")?;
        Self::rsa(modulus, exponent)
    }

    /// From modulus and exponent, most significant byte first.
    pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, String> {
        let (modulus, exponent) = (without_zeros(modulus), without_zeros(exponent));
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |b| b.leading_zeros() as usize);
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(format!(
                "is an RSA key of {bits} bits; {RSA_BITS_MIN} to {RSA_BITS_MAX} are accepted"
            ));
        }
        let odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
        if !odd(modulus) || !odd(exponent) || exponent.len() > 4 || exponent == [1] {
            return Err("is no RSA public key".to_owned());
        }
        Ok(Self::Rsa(DecodingKey::from_rsa_raw_components(modulus, exponent)))
    }

    /// From a PEM text; the curve decides which algorithm it is for.
    pub(super) fn ec_pem(pem: &str) -> Result<Self, String> {
        let key = DecodingKey::from_ec_pem(public(pem)?).map_err(|_| NOT_PEM.to_owned())?;
        Self::ec(key.try_get_as_bytes().map_err(|_| NOT_PEM.to_owned())?)
    }

    /// From a point in SEC1 form; its length tells the curve.
    pub(super) fn ec(point: &[u8]) -> Result<Self, String> {
        let key = match point.len() {
            65 => Self::P256(DecodingKey::from_ec_der(point)),
            97 => Self::P384(DecodingKey::from_ec_der(point)),
            133 => match p521::ecdsa::VerifyingKey::from_sec1_bytes(point) {
                Ok(key) => Self::P521(Box::new(key)),
                Err(_) => return Err("is not a point on its curve".to_owned()),
            },
            _ => return Err("is on a curve other than P-256, P-384 and P-521".to_owned()),
        };
        key.try_out().map_err(|()| "is not a point on its curve".to_owned())?;
        Ok(key)
    }

    pub(super) fn ed25519(point: &[u8]) -> Result<Self, String> {
        // The library cuts the first 32 bytes without looking.
        if point.len() != 32 {
            return Err("is no Ed25519 key".to_owned());
        }
        let key = Self::Ed25519(DecodingKey::from_ed_der(point));
        key.try_out().map_err(|()| "is no Ed25519 key".to_owned())?;
        Ok(key)
    }

    /// Whether this key is for that algorithm.
    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Hmac(_) => algorithm.is_hmac(),
            Self::Rsa(_) => algorithm.is_rsa(),
            Self::P256(_) => algorithm == Algorithm::Es256,
            Self::P384(_) => algorithm == Algorithm::Es384,
            Self::P521(_) => algorithm == Algorithm::Es512,
            Self::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }

    /// Checks a signature, as it stands in the token, over the token's first two parts.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &str,
    ) -> Result<(), TokenError> {
        if !self.is_for(algorithm) {
            return Err(invalid("the algorithm is not the key's"));
        }
        let holds = match (self, algorithm.known()) {
            (Self::P521(key), _) => {
                let bytes = super::claims::decode_url(signature)?;
                p521::ecdsa::Signature::from_slice(&bytes)
                    .is_ok_and(|signature| key.verify(message, &signature).is_ok())
            }
            (
                Self::Hmac(key)
                | Self::Rsa(key)
                | Self::P256(key)
                | Self::P384(key)
                | Self::Ed25519(key),
                Some(known),
            ) => jsonwebtoken::crypto::verify(signature, message, key, known).unwrap_or(false),
            (_, None) => false,
        };
        if holds { Ok(()) } else { Err(invalid("the signature does not hold")) }
    }

    /// Whether the library takes the key: it looks at it when a signature is checked.
    fn try_out(&self) -> Result<(), ()> {
        let (key, known) = match self {
            Self::P256(key) => (key, Known::ES256),
            Self::P384(key) => (key, Known::ES384),
            Self::Ed25519(key) => (key, Known::EdDSA),
            Self::Hmac(_) | Self::Rsa(_) | Self::P521(_) => return Ok(()),
        };
        jsonwebtoken::crypto::verify("", b"", key, known).map(|_| ()).map_err(|_| ())
    }
}

fn public(pem: &str) -> Result<&[u8], String> {
    match pem {
        _ if pem.contains("PRIVATE KEY") => Err("is a private key; give the public one".to_owned()),
        _ if pem.contains("CERTIFICATE") => {
            Err("is a certificate; give its public key (openssl x509 -pubkey -noout)".to_owned())
        }
        _ if pem.contains("-----BEGIN") => Ok(pem.trim().as_bytes()),
        _ => Err(NOT_PEM.to_owned()),
    }
}

/// Modulus and exponent of an RSAPublicKey in DER (RFC 8017 appendix A.1.1): a sequence of two
/// integers.
fn rsa_parts(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, _) = der_element(der, 0x30)?;
    let (modulus, rest) = der_element(content, 0x02)?;
    let (exponent, rest) = der_element(rest, 0x02)?;
    rest.is_empty().then_some((modulus, exponent))
}

/// Content of the first element, which must have this tag, and what follows it.
fn der_element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, short], rest) = bytes.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

const NOT_PEM: &str = "is no public key in PEM form (-----BEGIN PUBLIC KEY-----)";

/// Shorter ones are broken in practice (NIST SP 800-131A demands as much).
const RSA_BITS_MIN: usize = 2048;

/// The most the library takes.
const RSA_BITS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_for_their_algorithms_only() {
        let hmac = Key::hmac(b"secret");
        let names = [
            "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512",
            "EdDSA",
        ];
        for (n, name) in names.iter().enumerate() {
            assert_eq!(hmac.is_for(Algorithm::named(name).unwrap()), n < 3, "{name}");
        }
        for name in ["none", "None", "NONE", "", "PS256", "hs256", "RSA-OAEP"] {
            assert_eq!(Algorithm::named(name), None, "{name}");
        }
    }

    #[test]
    fn broken_keys_are_refused_when_they_are_read() {
        assert!(Key::rsa_pem("secret").unwrap_err().contains("PEM"));
        assert!(Key::ec_pem("-----BEGIN PRIVATE KEY-----").unwrap_err().contains("private"));
        assert!(Key::rsa_pem("-----BEGIN CERTIFICATE-----").unwrap_err().contains("certificate"));
        assert!(
            Key::rsa_pem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----").is_err()
        );
        assert!(Key::rsa(&[0xff; 64], &[1, 0, 1]).unwrap_err().contains("512 bits"));
        assert!(Key::rsa(&[0xff; 256], &[1, 0, 1]).is_ok());
        assert!(Key::rsa(&[0xff; 256], &[1]).is_err());
        assert!(Key::rsa(&[0xff; 256], &[]).is_err());
        assert!(Key::rsa(&[0xfe; 256], &[1, 0, 1]).is_err());
        assert!(Key::rsa(&[], &[1, 0, 1]).is_err());
        let short = [&[0x7f][..], &[0xff; 255]].concat();
        assert!(Key::rsa(&short, &[1, 0, 1]).unwrap_err().contains("2047 bits"));
        assert!(Key::rsa(&[0xff; 256], &[1, 0, 0, 1]).is_ok());
        assert!(Key::rsa(&[0xff; 256], &[1, 0, 0, 0, 1]).is_err());
        for length in [0, 1, 31, 33, 64, 65, 97, 133] {
            assert!(Key::ec(&vec![4; length]).is_err(), "{length}");
            assert!(Key::ed25519(&vec![0xff; length]).is_err(), "{length}");
        }
    }

    #[test]
    fn lengths_in_der_have_three_forms() {
        let element = |head: &[u8], length: usize| {
            let bytes = [head, &vec![7; length], b"rest"].concat();
            der_element(&bytes, 2).map(|(content, rest)| (content.len(), rest.to_vec()))
        };
        for (head, length) in
            [(&[2, 0x7f][..], 0x7f), (&[2, 0x81, 0x80], 0x80), (&[2, 0x82, 1, 0], 0x100)]
        {
            assert_eq!(element(head, length), Some((length, b"rest".to_vec())), "{head:?}");
        }
        assert_eq!(element(&[3, 1], 1), None, "another tag");
        assert_eq!(element(&[2, 0x84, 0, 0, 0, 1], 1), None, "longer than any key");
        assert_eq!(element(&[2, 0x7f], 5), None, "cut off");
    }

    #[test]
    fn keys_do_not_get_into_logs() {
        assert_eq!(format!("{:?}", Key::hmac(b"secret")), "Hmac");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_key_material_never_panics(bytes: Vec<u8>) {
            let _ = rsa_parts(&bytes);
            let _ = Key::ec(&bytes);
            let _ = Key::ed25519(&bytes);
            let _ = Key::rsa(&bytes, &bytes);
        }
    }
}
