//! The key of the server API: where a request carries it, and whether it is the right one.

use std::fmt;
use std::hint::black_box;

/// Who may call. What the key is cannot be asked, only whether a given one is it.
#[derive(Clone, PartialEq)]
pub struct ApiKey(Lock);

#[derive(Clone, PartialEq)]
enum Lock {
    /// Empty: nobody has it.
    Key(Box<[u8]>),
    Open,
}

impl ApiKey {
    /// Whoever has this key; with an empty one nobody.
    pub fn new(key: &str) -> Self {
        Self(Lock::Key(key.as_bytes().into()))
    }

    /// Whoever reaches the port.
    pub fn anybody() -> Self {
        Self(Lock::Open)
    }

    /// Whether a request may call that carries these keys.
    pub(crate) fn admits<'g>(&self, given: impl IntoIterator<Item = &'g [u8]>) -> bool {
        match &self.0 {
            Lock::Open => true,
            Lock::Key(key) => given.into_iter().any(|given| same(key, given)),
        }
    }
}

/// Keys do not get into logs.
impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// The key in `apikey <key>`, the value of `Authorization`.
pub(crate) fn authorization(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(b"apikey ".len())?;
    scheme.eq_ignore_ascii_case(b"apikey ").then(|| rest.trim_ascii())
}

/// Takes the same time wherever the two differ; the length is no secret. An empty key is nobody's.
pub(crate) fn same(key: &[u8], given: &[u8]) -> bool {
    let mut difference = 0;
    for (a, b) in key.iter().zip(given) {
        difference = black_box(difference | (a ^ b));
    }
    !key.is_empty() && key.len() == given.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_to_itself_and_is_not_told() {
        let key = ApiKey::new("hush");
        assert!(key.admits([&b"other"[..], b"hush"]) && !key.admits([&b"hus"[..], b""]));
        assert!(!key.admits([]) && !ApiKey::new("").admits([&b""[..]]));
        assert!(ApiKey::anybody().admits([]));
        assert!(!format!("{key:?}").contains("hush"));
    }
}
