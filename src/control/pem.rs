//! Keys and certificates in PEM form, as Centrifugo's files name them: the text itself, base64 of
//! it, or a file that holds it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The text behind a value.
///
/// # Errors
/// Neither of the three; says so without repeating what may be a key.
pub(crate) fn load(value: &str) -> Result<Vec<u8>, String> {
    if is_pem(value.as_bytes()) {
        return Ok(value.as_bytes().to_vec());
    }
    let packed: String = value.split_whitespace().collect();
    if let Some(text) = STANDARD.decode(packed).ok().filter(|text| is_pem(text)) {
        return Ok(text);
    }
    match std::fs::read(value) {
        Ok(text) if is_pem(&text) => Ok(text),
        Ok(_) => Err(format!("the file {value} is not in PEM form")),
        Err(error) if value.len() < NAME_MAX && !value.contains('\n') => {
            Err(format!("is neither PEM, nor base64 of PEM, nor a file: {value}: {error}"))
        }
        Err(_) => Err("is neither PEM, nor base64 of PEM, nor the name of a file".to_owned()),
    }
}

fn is_pem(text: &[u8]) -> bool {
    text.windows(MARK.len()).any(|part| part == MARK)
}

const MARK: &[u8] = b"-----BEGIN ";

/// Longer text is a key with a mistake in it rather than the name of a file.
const NAME_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_text_or_base64_or_a_file() {
        let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(load(text).unwrap(), text.as_bytes());
        assert_eq!(load(&STANDARD.encode(text)).unwrap(), text.as_bytes());
        let wrong = load("/nowhere/cert.pem").unwrap_err();
        assert!(wrong.contains("/nowhere/cert.pem"), "{wrong}");
        assert!(load(&STANDARD.encode("other")).is_err());
        let key = "k".repeat(300);
        assert!(!load(&key).unwrap_err().contains(&key));
        let other = load("/proc/self/status").unwrap_err();
        assert!(other.contains("not in PEM form"), "{other}");
    }
}
