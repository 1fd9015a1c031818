//! `ringhold config init`: a short configuration with fresh secrets, in a file that was not there.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes the file, which only its owner may read.
///
/// # Errors
/// It is there already, or cannot be written. What there was stays as it was.
pub(crate) fn write(file: &Path) -> io::Result<()> {
    let named = |error: io::Error| {
        let what = match error.kind() {
            io::ErrorKind::AlreadyExists => "is there already, and stays as it is".to_owned(),
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("{}: {what}", file.display()))
    };
    let text = text(file)?;
    let mut new =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(named)?;
    new.write_all(text.as_bytes()).and_then(|()| new.sync_all()).map_err(named)
}

/// The configuration in the format that the name of the file tells.
fn text(file: &Path) -> io::Result<String> {
    let extension = file.extension().map(|it| it.to_string_lossy().to_ascii_lowercase());
    let template = match extension.as_deref() {
        Some("json") => JSON,
        Some("yaml" | "yml") => YAML,
        _ => TOML,
    };
    let mut text = template.to_owned();
    for name in ["TOKENS", "API", "PASSWORD", "SESSIONS"] {
        text = text.replace(&format!("<{name}>"), &secret()?);
    }
    Ok(text)
}

/// 128 bits that nobody guesses.
fn secret() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

const TOML: &str = r#"# A start: everything that is not allowed here is refused.
# `ringhold config example` shows every key, `ringhold config check` this file's mistakes.

[client]
# Pages of these origins may connect: "https://app.example.org".
allowed_origins = []

[client.token]
# The application signs its users' tokens with this (HS256).
hmac_secret_key = "<TOKENS>"

[http_api]
# The application's backend publishes with this, in X-API-Key.
key = "<API>"

[admin]
enabled = false
password = "<PASSWORD>"
secret = "<SESSIONS>"

# Members come with a subscription token, see each other, and lose nothing.
#[[channel.namespaces]]
#name = "chat"
#presence = true
#history_size = 100
#history_ttl = "10m"
#force_recovery = true
"#;

const YAML: &str = r#"# A start: everything that is not allowed here is refused.
# `ringhold config example` shows every key, `ringhold config check` this file's mistakes.

client:
  # Pages of these origins may connect: "https://app.example.org".
  allowed_origins: []
  token:
    # The application signs its users' tokens with this (HS256).
    hmac_secret_key: "<TOKENS>"

http_api:
  # The application's backend publishes with this, in X-API-Key.
  key: "<API>"

admin:
  enabled: false
  password: "<PASSWORD>"
  secret: "<SESSIONS>"

# Members come with a subscription token, see each other, and lose nothing.
#channel:
#  namespaces:
#    - name: chat
#      presence: true
#      history_size: 100
#      history_ttl: 10m
#      force_recovery: true
"#;

const JSON: &str = r#"{
  "client": {
    "allowed_origins": [],
    "token": { "hmac_secret_key": "<TOKENS>" }
  },
  "http_api": { "key": "<API>" },
  "admin": { "enabled": false, "password": "<PASSWORD>", "secret": "<SESSIONS>" }
}
"#;
