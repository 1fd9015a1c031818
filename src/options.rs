//! What options of every layer are made of: structs that say the default of each field beside it,
//! sizes, and secrets.
//!
//! Knows no layer, no key and no text that options are read from: `config` gives fields their keys.

use std::fmt;

/// A number of bytes, written `65536`, `"64KiB"` or `"1MiB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

/// Text that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "\"\"" } else { MASK })
    }
}

/// What stands in place of a secret.
pub(crate) const MASK: &str = "********";

/// The text, with the credentials masked if it is a URL that has some: user and password, and the
/// query, in which keys are passed.
pub(crate) fn without_credentials(text: &str) -> String {
    let is_scheme =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let Some((scheme, rest)) = text.split_once("://").filter(|(it, _)| is_scheme(it)) else {
        return text.to_owned();
    };
    // A question mark may also be part of a pattern.
    let pattern = |query: &str| query.contains(['\\', '(', ')', '[', ']', '*', '+', '^', '$', '|']);
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) if query.contains('=') && !pattern(query) => (rest, Some(MASK)),
        _ => (rest, None),
    };
    let rest = match rest.rsplit_once('@') {
        Some((_, host)) => format!("{MASK}@{host}"),
        None => rest.to_owned(),
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{scheme}://{rest}{query}")
}

/// Declares options: `field: Type = default`. A first `...field: Other` and a last `..field: Other`
/// have defaults of their own; their keys stand in the table around them.
macro_rules! options {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( ... $(#[$head_doc:meta])* $head:ident : $head_type:ty, )?
            $( $(#[$doc:meta])* $field:ident : $type:ty = $default:expr, )*
            $( .. $(#[$flat_doc:meta])* $flat:ident : $flat_type:ty, )?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[$head_doc])* pub $head: $head_type, )?
            $( $(#[$doc])* pub $field: $type, )*
            $( $(#[$flat_doc])* pub $flat: $flat_type, )?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $head: <$head_type>::default(), )?
                    $( $field: $default, )*
                    $( $flat: <$flat_type>::default(), )?
                }
            }
        }
    };
}

pub(crate) use options;
