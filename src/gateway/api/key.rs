//! The key of the server API: where a request carries it, and whether it is the right one.

use std::hint::black_box;

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
