//! The files of the page, part of the program.
//!
//! A browser keeps them and asks each time whether they changed (`no-cache` and an `ETag`), so that
//! page and server are always of one version. The invariant: nothing they do leaves the server; the
//! policy says so to browsers, and a test reads the files.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha1::{Digest, Sha1};

/// One file.
pub(super) struct Asset {
    /// Below `admin/`; the page itself has none.
    pub(super) name: &'static str,
    content_type: &'static str,
    text: &'static str,
}

macro_rules! assets {
    ($($name:literal = $file:literal as $content_type:literal,)+) => {
        /// All of them.
        pub(super) static ALL: &[Asset] = &[$(Asset {
            name: $name,
            content_type: $content_type,
            text: include_str!(concat!("../assets/admin/", $file)),
        },)+];
    };
}

assets! {
    "" = "index.html" as "text/html; charset=utf-8",
    "admin.css" = "admin.css" as "text/css; charset=utf-8",
    "icon.svg" = "icon.svg" as "image/svg+xml",
    "main.js" = "main.js" as "text/javascript; charset=utf-8",
    "server.js" = "server.js" as "text/javascript; charset=utf-8",
    "figures.js" = "figures.js" as "text/javascript; charset=utf-8",
    "charts.js" = "charts.js" as "text/javascript; charset=utf-8",
    "tables.js" = "tables.js" as "text/javascript; charset=utf-8",
    "people.js" = "people.js" as "text/javascript; charset=utf-8",
}

impl Asset {
    fn etag(&self) -> String {
        let hash = Sha1::digest(self.text.as_bytes());
        let hex: String = hash.iter().take(10).map(|byte| format!("{byte:02x}")).collect();
        format!("\"{hex}\"")
    }

    /// The file, or that it did not change.
    pub(super) fn serve(&self, request: &HeaderMap) -> Response {
        let etag = self.etag();
        let asked = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let known = asked.is_some_and(|tags| {
            // A proxy that compresses makes the tag a weak one.
            let tag = |tag: &str| tag.trim().trim_start_matches("W/") == etag;
            tags.split(',').any(tag)
        });
        let mut response = match known {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => self.text.into_response(),
        };
        let headers = response.headers_mut();
        let fixed = [
            (header::CONTENT_TYPE, self.content_type),
            (header::CACHE_CONTROL, "no-cache"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            headers.insert(header::ETAG, etag);
        }
        response
    }
}

/// Nothing from elsewhere, nothing inline, no text that becomes a script, nobody around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_name_nothing_outside_and_bring_nothing_inline() {
        for asset in ALL {
            let text = asset.text.replace("http://www.w3.org/2000/svg", "");
            for outside in ["http://", "https://", "//cdn", "@import", "url(", "eval(", "innerHTML"]
            {
                assert!(!text.contains(outside), "{}: {outside}", asset.name);
            }
            if asset.name.is_empty() {
                for inline in ["style=", "<style", " onclick", "javascript:"] {
                    assert!(!text.contains(inline), "{inline}");
                }
                assert!(
                    !text
                        .split("<script")
                        .skip(1)
                        .any(|tag| !tag.starts_with(" type=\"module\" src="))
                );
            }
        }
    }

    #[test]
    fn every_module_that_is_imported_is_there() {
        for asset in ALL {
            for (_, rest) in asset
                .text
                .match_indices("from \"./")
                .map(|(at, m)| asset.text.split_at(at + m.len()))
            {
                let name = rest.split('"').next().unwrap();
                assert!(ALL.iter().any(|other| other.name == name), "{}: {name}", asset.name);
            }
        }
    }

    #[test]
    fn what_a_browser_has_is_not_sent_again() {
        let asset = &ALL[1];
        let request = |tag: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, tag.parse().unwrap());
            asset.serve(&headers).status()
        };
        assert_eq!(asset.serve(&HeaderMap::new()).status(), 200);
        assert_eq!(request(&asset.etag()), 304);
        assert_eq!(request(&format!("\"x\", W/{}", asset.etag())), 304);
        assert_eq!(request("\"x\""), 200);
    }
}
