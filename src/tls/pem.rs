//! Certificates and keys as operators write them: the path of a PEM file, PEM text, or base64 of
//! PEM text.
//!
//! Invariant: an error names the file, and nothing of a key.

use std::fmt;
use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Why there is no PEM, or not the right one in it.
#[derive(Debug)]
pub(super) enum PemError {
    /// The path cannot be read.
    File(std::io::Error),
    /// The file is no PEM file.
    Malformed(String),
    /// There is PEM, and not of what is asked for.
    Missing(&'static str),
}

/// What each PEM text has.
const MARK: &str = "-----BEGIN ";

/// Bytes of a name that is taken for a path where a person reads.
const PATH_MAX: usize = 200;

pub(super) fn certificates(source: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = read(source)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(PemError::of("certificate"))?;
    if found.is_empty() { Err(PemError::Missing("certificate")) } else { Ok(found) }
}

pub(super) fn private_key(source: &str) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(&read(source)?).map_err(PemError::of("private key"))
}

/// What to call it where a person reads: the path, or that there is none.
pub(super) fn name(source: &str) -> String {
    // What is no path is rather a key that was pasted without its frame.
    if is_path(source) { source.to_owned() } else { "in the configuration".to_owned() }
}

/// Whether it is a path, and not the PEM itself or what is left of one.
pub(super) fn is_path(source: &str) -> bool {
    inline(source).is_none() && !source.contains('\n') && source.len() <= PATH_MAX
}

fn read(source: &str) -> Result<Zeroizing<Vec<u8>>, PemError> {
    match inline(source) {
        Some(text) => Ok(text),
        None => fs::read(source).map(Zeroizing::new).map_err(PemError::File),
    }
}

/// The PEM text that `source` is, directly or in base64.
fn inline(source: &str) -> Option<Zeroizing<Vec<u8>>> {
    if source.contains(MARK) {
        return Some(Zeroizing::new(source.as_bytes().to_vec()));
    }
    let packed: Zeroizing<String> = Zeroizing::new(source.split_ascii_whitespace().collect());
    let text = Zeroizing::new(STANDARD.decode(packed.as_bytes()).ok()?);
    text.windows(MARK.len()).any(|bytes| bytes == MARK.as_bytes()).then_some(text)
}

impl PemError {
    fn of(missing: &'static str) -> impl Fn(pem::Error) -> Self {
        move |error| match error {
            pem::Error::NoItemsFound => Self::Missing(missing),
            error => Self::Malformed(error.to_string()),
        }
    }
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Malformed(error) => write!(f, "this is no PEM: {error}"),
            Self::Missing(what) => write!(f, "it holds no {what}"),
        }
    }
}
