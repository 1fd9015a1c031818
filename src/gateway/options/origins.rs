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

    /// Whether a request with this `Origin` header may connect.
    pub fn admit(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        self.any || self.patterns.is_match(origin.to_ascii_lowercase())
    }
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
