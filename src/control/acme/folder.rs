//! What outlives the process: certificates with their keys, and the account with the authority.
//!
//! The invariant: a file is whole or not there, and nobody but its owner reads it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize};

use crate::tls::keys::KeyPair;

/// A folder, or none.
#[derive(Debug)]
pub(super) struct Folder(Option<PathBuf>);

/// The account, as its file has it.
#[derive(Deserialize, Serialize)]
struct Account<C> {
    /// The authority's directory.
    directory: String,
    credentials: C,
}

impl Folder {
    /// Makes it if it is not there. Empty: nothing is kept.
    pub(super) fn open(path: &str) -> Result<Self, String> {
        if path.is_empty() {
            return Ok(Self(None));
        }
        let folder = PathBuf::from(path);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|error| format!("cache_dir {path}: {error}"))?;
        let folder = Self(Some(folder));
        // Better said at the start than after the first order.
        folder.put("writable", b"").map_err(|error| format!("cache_dir {path}: {error}"))?;
        folder.remove("writable");
        Ok(folder)
    }

    /// The certificate of a host, with its key. The error says why it is of no use.
    pub(super) fn certificate(&self, host: &str) -> Result<Option<KeyPair>, String> {
        let Some(pem) = self.get(&certificate_of(host)).map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let pem = String::from_utf8(pem).map_err(|error| error.to_string())?;
        let pair = KeyPair { cert_pem: pem.clone(), key_pem: pem };
        let facts = pair.facts().map_err(|fault| fault.to_string())?;
        if !facts.names.iter().any(|name| name == host) {
            return Err("the certificate in its file is for another name".to_owned());
        }
        Ok(Some(pair))
    }

    pub(super) fn keep_certificate(&self, host: &str, pair: &KeyPair) -> io::Result<()> {
        let pem = format!("{}\n{}", pair.key_pem.trim_end(), pair.cert_pem);
        self.put(&certificate_of(host), pem.as_bytes())
    }

    /// The account with an authority, if there is one.
    pub(super) fn account(&self, directory: &str) -> Option<AccountCredentials> {
        let bytes =
            self.get(ACCOUNT).inspect_err(|error| tracing::warn!(%error, ACCOUNT)).ok()??;
        match serde_json::from_slice::<Account<AccountCredentials>>(&bytes) {
            Ok(account) if account.directory == directory => Some(account.credentials),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%error, "the file with the authority's account cannot be read");
                None
            }
        }
    }

    pub(super) fn keep_account(
        &self,
        directory: &str,
        credentials: &AccountCredentials,
    ) -> io::Result<()> {
        let account = Account { directory: directory.to_owned(), credentials };
        self.put(ACCOUNT, &serde_json::to_vec(&account)?)
    }

    /// The authority does not know it any more.
    pub(super) fn drop_account(&self) {
        self.remove(ACCOUNT);
    }

    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(folder) = &self.0 else { return Ok(None) };
        let file = match File::open(folder.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let Some(folder) = &self.0 else { return Ok(()) };
        let new = folder.join(format!("{name}.new"));
        // One that a process left behind may have other rights.
        let _ = std::fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, folder.join(name))
    }

    fn remove(&self, name: &str) {
        if let Some(folder) = &self.0 {
            let _ = std::fs::remove_file(folder.join(name));
        }
    }
}

/// Hosts are names of DNS, which have no slash.
fn certificate_of(host: &str) -> String {
    format!("{host}.pem")
}

const ACCOUNT: &str = "account.json";

/// Bytes that are read of a file.
const FILE_MAX: u64 = 1 << 20;
