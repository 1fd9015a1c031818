//! `client.allowed_origins`: which pages may connect. Browsers name the page's origin in a header;
//! what is no browser sends none and passes, since it could claim any.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// The origins that may connect, compiled.
#[derive(Clone, Debug)]
pub struct Origins {
    any: bool,
    patterns: GlobSet,
}

impl Origins {
    /// Compiles patterns such as `https://example.org` and `https://*.example.org`. An error names
    /// the pattern that cannot be understood.
    pub fn new(patterns: &[String]) -> Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let glob = GlobBuilder::new(&pattern.to_ascii_lowercase())
                .literal_separator(false)
                .build()
                .map_err(|error| format!("\"{pattern}\": {}", error.kind()))?;
            set.add(glob);
        }
        let patterns_set = set.build().map_err(|error| error.to_string())?;
        Ok(Self { any: patterns.iter().any(|one| one == "*"), patterns: patterns_set })
    }

    /// Whether a request with this `Origin` header may connect. A `*` in a pattern stands for a
    /// part of an origin, and so what is no origin matches no pattern.
    pub fn admit(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        self.any || is_origin(origin) && self.patterns.is_match(origin.to_ascii_lowercase())
    }

    /// Whether every page may connect.
    pub fn admit_any(&self) -> bool {
        self.any
    }
}

/// `null`, or `scheme://host` with or without a port (RFC 6454 section 6.2). The host may be empty,
/// as in `file://`.
fn is_origin(text: &str) -> bool {
    if text.eq_ignore_ascii_case("null") {
        return true;
    }
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port))
                if host.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b)) =>
            {
                ("", port.strip_prefix(':').or(port.is_empty().then_some("0")))
            }
            _ => return false,
        },
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, Some("0")),
        },
    };
    let in_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    !scheme.is_empty()
        && scheme.bytes().all(in_scheme)
        && host.bytes().all(in_host)
        && port.is_some_and(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(patterns: &[&str]) -> Origins {
        Origins::new(&patterns.iter().map(|&one| one.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn origins_are_admitted_as_listed() {
        let cases: &[(&[&str], Option<&str>, bool)] = &[
            (&[], None, true),
            (&[], Some("https://example.org"), false),
            (&[], Some("null"), false),
            (&[], Some(""), false),
            (&["*"], Some("https://example.org"), true),
            (&["*"], Some("null"), true),
            (&["https://example.org"], Some("https://example.org"), true),
            (&["https://example.org"], Some("HTTPS://Example.ORG"), true),
            (&["HTTPS://Example.org"], Some("https://example.org"), true),
            (&["https://example.org"], Some("http://example.org"), false),
            (&["https://example.org"], Some("https://example.org:8443"), false),
            (&["https://example.org"], Some("https://example.org.evil.net"), false),
            (&["https://example.org"], None, true),
            (&["https://*.example.org"], Some("https://a.example.org"), true),
            (&["https://*.example.org"], Some("https://a.b.example.org"), true),
            (&["https://*.example.org"], Some("https://example.org"), false),
            (&["https://*.example.org"], Some("https://evil.net?.example.org.evil"), false),
            (&["http://localhost:*"], Some("http://localhost:3000"), true),
            (&["https://a.org", "https://b.org"], Some("https://b.org"), true),
            (&["file://*"], Some("file://"), true),
            (&["null"], Some("null"), true),
            (&["https://*.example.org"], Some("https://evil.net/.example.org"), false),
            (&["https://*.example.org"], Some("https://evil.net#.example.org"), false),
            (&["https://*.example.org"], Some("https://evil.net?.example.org"), false),
            (&["https://*.example.org"], Some("https://a@evil.net:.example.org"), false),
            (&["https://*.example.org"], Some("https://a@b.example.org"), false),
            (&["https://*.example.org"], Some("https://evil.net:80.example.org"), false),
            (&["https://*.example.org"], Some("https://evil\\.example.org"), false),
            (&["https://*.example.org"], Some("https://\u{e9}.example.org"), false),
            (&["https://*.example.org:*"], Some("https://a.example.org:8443"), true),
            (&["http://localhost:*"], Some("http://localhost:3000@evil.net"), false),
            (&["http://localhost:*"], Some("http://localhost:"), false),
            (&["http://*"], Some("http://[::1]:3000"), true),
            (&["http://*"], Some("http://[::1]"), true),
            (&["http://*"], Some("http://[::1]x"), false),
            (&["http://*"], Some("http://[evil]"), false),
            (&["http://*"], Some("http://[::1"), false),
            (&["*://example.org"], Some("a/b://example.org"), false),
            (&["*://example.org"], Some("://example.org"), false),
            (&["*.example.org"], Some("a.example.org"), false),
            (&["chrome-extension://*"], Some("chrome-extension://abcdef"), true),
            (&["*"], Some(""), true),
        ];
        for (patterns, origin, admitted) in cases {
            assert_eq!(origins(patterns).admit(*origin), *admitted, "{patterns:?} {origin:?}");
        }
    }

    #[test]
    fn a_pattern_that_cannot_be_understood_is_named() {
        let error = Origins::new(&["https://[example.org".to_owned()]).unwrap_err();
        assert!(error.contains("https://[example.org"), "{error}");
    }
}
