//! Negotiation of permessage-deflate (RFC 7692 section 7.1), both halves.
//!
//! Owns the grammar of `Sec-WebSocket-Extensions` (RFC 6455 section 9.1), which offers are
//! acceptable, and which clients compress wrongly. Never compresses: [`deflate`](super::deflate)
//! does. The invariant: whatever is agreed on, neither side keeps a window from one message to the
//! next (`server_no_context_takeover`, `client_no_context_takeover`), so an idle connection holds
//! nothing and a message can be shared, dropped or overtaken.

use std::borrow::Cow;

use super::head;

/// What a client of ours offers. Without `client_max_window_bits`: it would allow the server to
/// ask for a smaller window than we have.
pub const OFFER: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The window without a limit: 32 KiB.
pub const WINDOW_BITS_MAX: u8 = 15;

/// What both ends have agreed on: messages may be compressed, each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// `server_max_window_bits`, where it was asked for: 8 to 15.
    server_bits: Option<u8>,
}

/// A server's answer that a client must not accept (RFC 7692 section 7.1, RFC 6455 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAnswer(pub &'static str);

impl Agreement {
    /// The agreement with a client that offers extensions in these header lines and names itself
    /// so. The first acceptable offer counts; one with a parameter that is unknown, repeated or
    /// malformed is none. `None`: no compression, and no header in the answer, because an empty one
    /// makes Safari fail.
    pub fn choose<'a>(
        lines: impl IntoIterator<Item = &'a [u8]>,
        user_agent: Option<&str>,
    ) -> Option<Self> {
        let mut elements = lines.into_iter().flat_map(elements);
        let offer = elements.find_map(|element| Parameters::parse(element).ok().flatten())?;
        if user_agent.is_some_and(compresses_wrongly) {
            return None;
        }
        Some(Self { server_bits: offer.server_bits })
    }

    /// What a server's answer to [`OFFER`] agrees on. `None`: it declined.
    ///
    /// Fails with the rule the answer breaks.
    pub fn confirm<'a>(
        lines: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Option<Self>, BadAnswer> {
        let mut elements = lines.into_iter().flat_map(elements);
        let Some(element) = elements.next() else {
            return Ok(None);
        };
        if elements.next().is_some() {
            return Err(BadAnswer("more extensions than were offered"));
        }
        let answer = match Parameters::parse(element) {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(BadAnswer("an extension that was not offered")),
            Err(Malformed) => return Err(BadAnswer("a bad parameter of permessage-deflate")),
        };
        // Section 7.1.2.2: only an answer to who offered it.
        if answer.client_bits {
            return Err(BadAnswer("client_max_window_bits, which was not offered"));
        }
        // Section 7.1.1.1: who was asked to keep no window agrees or declines.
        if !answer.server_no_context_takeover {
            return Err(BadAnswer("no server_no_context_takeover, which was asked for"));
        }
        // What limits the server's window costs us nothing: we can read any.
        Ok(Some(Self { server_bits: None }))
    }

    /// The size of the window that our messages may refer back to, in bits: 8 to 15.
    pub fn window_bits(self) -> u8 {
        self.server_bits.unwrap_or(WINDOW_BITS_MAX)
    }

    /// Appends the header line of the answer.
    ///
    /// `client_no_context_takeover` may be demanded unasked (section 7.1.1.2).
    /// `client_max_window_bits` never is: a smaller window of the client saves nothing here.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"Sec-WebSocket-Extensions: ");
        out.extend_from_slice(OFFER.as_bytes());
        if let Some(bits) = self.server_bits {
            out.extend_from_slice(b"; server_max_window_bits=");
            out.extend_from_slice(bits.to_string().as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

impl std::fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadAnswer {}

/// Whether a browser's own description names a version that cannot be compressed for.
///
/// Safari 15.0 to 15.3 and everything on iOS 15 does not keep `client_no_context_takeover`
/// (uWebSockets#1347); Safari 13.1 cannot read messages over some 180 bytes
/// (coder/websocket#218).
fn compresses_wrongly(user_agent: &str) -> bool {
    let names = |text: &str| {
        let mut rests =
            user_agent.match_indices(text).map(|(at, _)| &user_agent[at + text.len()..]);
        // The number ends there: `15.1` is not `15.10`.
        rests.any(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
    };
    let safari = user_agent.contains("Safari/") && WRONG_SAFARI.iter().any(|it| names(it));
    safari || WRONG_SYSTEMS.iter().any(|it| names(it))
}

/// The parameters of one permessage-deflate element.
#[derive(Debug, Default)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_bits: Option<u8>,
    /// Whether `client_max_window_bits` is there, with or without a value.
    client_bits: bool,
}

/// A permessage-deflate element that must be declined.
#[derive(Debug)]
struct Malformed;

impl Parameters {
    /// Reads an element. `None`: it is another extension.
    fn parse(element: &str) -> Result<Option<Self>, Malformed> {
        let mut pieces = split(element, b';');
        if pieces.next().map(head::trim) != Some(NAME) {
            return Ok(None);
        }
        let mut parameters = Self::default();
        for piece in pieces {
            parameters.add(piece)?;
        }
        Ok(Some(parameters))
    }

    fn add(&mut self, piece: &str) -> Result<(), Malformed> {
        let (name, value) = match piece.split_once('=') {
            Some((name, value)) => (name, Some(unquote(head::trim(value)).ok_or(Malformed)?)),
            None => (piece, None),
        };
        let value = value.as_deref();
        // Section 7.1: the same parameter twice is a reason to decline.
        let repeated = match head::trim(name) {
            "server_no_context_takeover" if value.is_none() => {
                std::mem::replace(&mut self.server_no_context_takeover, true)
            }
            "client_no_context_takeover" if value.is_none() => {
                std::mem::replace(&mut self.client_no_context_takeover, true)
            }
            "server_max_window_bits" => {
                let bits = value.and_then(window_bits).ok_or(Malformed)?;
                self.server_bits.replace(bits).is_some()
            }
            // Section 7.1.2.2: in an offer the value may be missing.
            "client_max_window_bits" => {
                if let Some(value) = value {
                    window_bits(value).ok_or(Malformed)?;
                }
                std::mem::replace(&mut self.client_bits, true)
            }
            _ => return Err(Malformed),
        };
        if repeated { Err(Malformed) } else { Ok(()) }
    }
}

/// The elements of an extension list. A line that is not UTF-8 has none.
fn elements(line: &[u8]) -> impl Iterator<Item = &str> {
    let text = std::str::from_utf8(line).unwrap_or_default();
    split(text, b',').map(head::trim).filter(|element| !element.is_empty())
}

/// Splits at a byte of ASCII, but not inside a quoted string (RFC 9110 section 5.6.4).
fn split(text: &str, at: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = text.bytes().position(|byte| {
            let literal = std::mem::replace(&mut escaped, false);
            match byte {
                _ if literal => false,
                b'\\' if quoted => {
                    escaped = true;
                    false
                }
                b'"' => {
                    quoted = !quoted;
                    false
                }
                byte => byte == at && !quoted,
            }
        });
        // Both sides of a byte of ASCII are text.
        let (piece, next) = match end {
            Some(end) => (&text[..end], Some(&text[end + 1..])),
            None => (text, None),
        };
        rest = next;
        Some(piece)
    })
}

/// The value of a parameter: a token, or a quoted string that contains one (RFC 6455 section 9.1).
fn unquote(value: &str) -> Option<Cow<'_, str>> {
    let Some(rest) = value.strip_prefix('"') else {
        return head::is_token(value).then_some(Cow::Borrowed(value));
    };
    let mut token = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => break,
            '\\' => token.push(chars.next()?),
            char => token.push(char),
        }
    }
    (chars.as_str().is_empty() && head::is_token(&token)).then_some(Cow::Owned(token))
}

/// 8 to 15, without leading zeros (sections 7.1.2.1 and 7.1.2.2).
fn window_bits(value: &str) -> Option<u8> {
    match value.as_bytes() {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// The extension token of RFC 7692 section 7.
const NAME: &str = "permessage-deflate";

/// How versions of Safari that compress wrongly name themselves.
const WRONG_SAFARI: [&str; 5] =
    ["Version/13.1", "Version/15.0", "Version/15.1", "Version/15.2", "Version/15.3"];

/// How systems say their version on which all browsers compress wrongly. The underscore follows.
const WRONG_SYSTEMS: [&str; 2] = ["iPhone OS 15", "CPU OS 15"];

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(lines: &[&str]) -> Option<Agreement> {
        Agreement::choose(lines.iter().map(|line| line.as_bytes()), None)
    }

    fn answer(lines: &[&str]) -> Option<String> {
        let mut out = Vec::new();
        choose(lines)?.write(&mut out);
        let text = String::from_utf8(out).unwrap();
        let value = text.strip_prefix("Sec-WebSocket-Extensions: ").unwrap();
        Some(value.strip_suffix("\r\n").unwrap().to_owned())
    }

    fn confirm(lines: &[&str]) -> Result<Option<Agreement>, BadAnswer> {
        Agreement::confirm(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn what_clients_offer() {
        for offer in [
            // Firefox, Safari.
            "permessage-deflate",
            // Chromium, ws, Node.
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_no_context_takeover; client_max_window_bits",
            "permessage-deflate;server_no_context_takeover;client_max_window_bits=\"10\"",
            "permessage-deflate ; client_max_window_bits = 8",
            OFFER,
        ] {
            assert_eq!(answer(&[offer]).as_deref(), Some(OFFER), "{offer}");
            assert_eq!(choose(&[offer]).unwrap().window_bits(), 15);
        }
        for bits in 8..=15 {
            for quote in ["", "\""] {
                let offer =
                    format!("permessage-deflate; server_max_window_bits={quote}{bits}{quote}");
                let expected = format!("{OFFER}; server_max_window_bits={bits}");
                assert_eq!(answer(&[&offer]), Some(expected));
                assert_eq!(choose(&[&offer]).unwrap().window_bits(), bits);
            }
        }
        // Safari before 15.
        assert_eq!(answer(&["x-webkit-deflate-frame"]), None);
        assert_eq!(answer(&[]), None);
        assert_eq!(answer(&[""]), None);
    }

    #[test]
    fn what_is_declined() {
        for offer in [
            "permessage-deflate; unknown",
            "permessage-deflate;",
            "permessage-deflate; ;client_max_window_bits",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=9.0",
            "permessage-deflate; server_max_window_bits=10 10",
            "permessage-deflate; server_max_window_bits=\"10",
            "permessage-deflate; server_max_window_bits=10\"",
            "permessage-deflate; server_max_window_bits=\"10\"0",
            "permessage-deflate; server_max_window_bits=\"10\\",
            "permessage-deflate; server_max_window_bits=\" 10\"",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate server_no_context_takeover",
            "permessage-deflate=1",
            "Permessage-Deflate",
            "permessage-deflate2",
            "\"permessage-deflate\"",
            "; permessage-deflate",
        ] {
            assert_eq!(answer(&[offer]), None, "{offer}");
        }
        assert_eq!(Agreement::choose([&b"permessage-deflate, \xff"[..]], None), None);
    }

    #[test]
    fn the_first_acceptable_offer_counts() {
        let nine = "permessage-deflate; server_max_window_bits=9";
        let ten = "permessage-deflate; server_max_window_bits=10";
        let bits = |lines: &[&str]| choose(lines).map(Agreement::window_bits);
        assert_eq!(bits(&[&format!("{nine}, {ten}")]), Some(9));
        assert_eq!(bits(&[ten, nine]), Some(10));
        assert_eq!(bits(&[&format!("permessage-deflate; a, foo; b=\",\" ,,{nine}")]), Some(9));
        assert_eq!(bits(&["permessage-deflate; a=\"x, y\"", "bar", ten]), Some(10));
        assert_eq!(bits(&["permessage-deflate; a=\"\\\", b\", permessage-deflate"]), Some(15));
        // A quote that does not end swallows its own line only.
        assert_eq!(bits(&["foo; a=\", permessage-deflate", nine]), Some(9));
    }

    #[test]
    fn versions_of_safari_that_compress_wrongly() {
        let mac = |version: &str| {
            format!(
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 \
                 (KHTML, like Gecko) Version/{version} Safari/605.1.15"
            )
        };
        let phone = |system: &str, browser: &str| {
            format!(
                "Mozilla/5.0 ({system} like Mac OS X) AppleWebKit/605.1.15 \
                 (KHTML, like Gecko) {browser} Mobile/15E148 Safari/604.1"
            )
        };
        let wrong =
            |agent: &str| Agreement::choose([&b"permessage-deflate"[..]], Some(agent)).is_none();
        for version in ["13.1", "13.1.2", "15.0", "15.1", "15.2", "15.3"] {
            assert!(wrong(&mac(version)), "{version}");
        }
        for version in ["13.0.5", "13.10", "14.1.2", "15.4", "15.6.1", "16.0", "18.3", "26.0"] {
            assert!(!wrong(&mac(version)), "{version}");
        }
        assert!(wrong(&phone("iPhone; CPU iPhone OS 15_6_1", "Version/15.6.1")));
        assert!(wrong(&phone("iPhone; CPU iPhone OS 15_4", "CriOS/104.0.5112.99")));
        assert!(wrong(&phone("iPad; CPU OS 15_5", "Version/15.5")));
        assert!(!wrong(&phone("iPhone; CPU iPhone OS 16_1", "Version/16.1")));
        assert!(!wrong(&phone("iPad; CPU OS 14_8", "Version/14.1.2")));
        assert!(!wrong(
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
             Chrome/142.0.0.0 Safari/537.36"
        ));
        assert!(!wrong(""));
    }

    #[test]
    fn answers_that_a_client_accepts() {
        assert_eq!(confirm(&[]), Ok(None));
        assert_eq!(confirm(&[" ,"]), Ok(None));
        for extra in ["", "; client_no_context_takeover", "; server_max_window_bits=9"] {
            let answer = format!("permessage-deflate; server_no_context_takeover{extra}");
            assert_eq!(confirm(&[&answer]), Ok(Some(Agreement { server_bits: None })));
        }
        assert!(confirm(&[&answer(&[OFFER]).unwrap()]).unwrap().is_some());
    }

    #[test]
    fn answers_that_a_client_refuses() {
        for lines in [
            &["permessage-deflate"][..],
            &["permessage-deflate; client_no_context_takeover"],
            &["permessage-deflate; server_no_context_takeover; client_max_window_bits=15"],
            &["permessage-deflate; server_no_context_takeover; client_max_window_bits"],
            &["permessage-deflate; server_no_context_takeover; x"],
            &["permessage-deflate; server_no_context_takeover; server_no_context_takeover"],
            &["permessage-deflate; server_no_context_takeover; server_max_window_bits=16"],
            &[OFFER, OFFER],
            &["permessage-deflate; server_no_context_takeover, x-other"],
            &["x-other"],
        ] {
            assert!(confirm(lines).is_err(), "{lines:?}");
        }
    }
}
