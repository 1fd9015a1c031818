//! What clients put into a request for the application: the query's pairs, and cookies.
//!
//! Owns taking them apart (WHATWG URL, application/x-www-form-urlencoded; RFC 6265 section 5.4).
//! The invariant: nothing is refused; what is no escape stands for itself.

use std::borrow::Cow;

use super::head;
use super::request::Request;

impl<'a> Request<'a> {
    /// The pairs of the query in their order, without escapes; `+` is a blank. What is not UTF-8
    /// then is replaced by U+FFFD. A name without `=` has an empty value.
    ///
    /// ```
    /// # use ringhold::protocol::request::parse;
    /// let head = b"GET /chat?room=caf%C3%A9&as=Ann+Lee HTTP/1.1\r\nCookie: a=1; sid=x7\r\n\r\n";
    /// let (request, _) = parse(head, &mut 0, 8192)?.unwrap();
    /// assert_eq!(request.query_value("room").as_deref(), Some("café"));
    /// assert_eq!(request.query_pairs().count(), 2);
    /// assert_eq!(request.cookie("sid"), Some("x7"));
    /// # Ok::<(), ringhold::Refusal>(())
    /// ```
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        let pairs = self.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (text(unescape(name)), text(unescape(value)))
        })
    }

    /// The first value of that name in the query, as in [`Self::query_pairs`].
    pub fn query_value(&self, name: &str) -> Option<Cow<'a, str>> {
        self.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Cookies by name, in their order over all `Cookie` lines; a value without the quotes that it
    /// may be in. Lines that are not UTF-8 are left out.
    pub fn cookies(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        let lines = self.headers().filter(|(name, _)| name.eq_ignore_ascii_case("Cookie"));
        let lines = lines.filter_map(|(_, line)| std::str::from_utf8(line).ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| {
            let value = head::trim(value);
            let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            (head::trim(name), bare.unwrap_or(value))
        })
    }

    /// The first cookie of that name.
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        self.cookies().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

fn text(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Cow::Owned(text),
            Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
        },
    }
}

/// A name or value of a query without its escapes.
pub(crate) fn unescape(value: &str) -> Cow<'_, [u8]> {
    if !value.contains(['%', '+']) {
        return Cow::Borrowed(value.as_bytes());
    }
    let mut plain = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            (b'+', ..) => plain.push(b' '),
            _ => plain.push(*byte),
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::parse;

    fn with<T>(target: &str, lines: &str, look: impl FnOnce(&Request<'_>) -> T) -> T {
        let head = format!("GET {target} HTTP/1.1\r\n{lines}\r\n");
        let (request, _) = parse(head.as_bytes(), &mut 0, 8192).unwrap().unwrap();
        look(&request)
    }

    #[test]
    fn escapes_are_taken_out() {
        for (escaped, plain) in [
            ("", ""),
            ("abc", "abc"),
            ("a%20b+c", "a b c"),
            ("%7B%22id%22%3a1%7D", "{\"id\":1}"),
            ("%C3%A9", "é"),
            ("100%", "100%"),
            ("%2", "%2"),
            ("%zz%41", "%zzA"),
        ] {
            assert_eq!(unescape(escaped).as_ref(), plain.as_bytes(), "{escaped}");
        }
    }

    #[test]
    fn pairs_of_a_query() {
        with("/?a=1&&b&a=2&c=d=e&%C3%A9=%FF&=", "", |request| {
            let pairs: Vec<_> = request.query_pairs().collect();
            let pairs: Vec<_> = pairs.iter().map(|(a, b)| (a.as_ref(), b.as_ref())).collect();
            let expected =
                [("a", "1"), ("b", ""), ("a", "2"), ("c", "d=e"), ("é", "\u{fffd}"), ("", "")];
            assert_eq!(pairs, expected);
            assert_eq!(request.query_value("a").as_deref(), Some("1"));
            assert_eq!(request.query_value("z"), None);
        });
        with("/", "", |request| assert_eq!(request.query_pairs().count(), 0));
    }

    #[test]
    fn cookies_of_all_lines() {
        let lines = "Cookie: a=1; b=\"two\";c = 3 ;; d\r\nX: y\r\ncookie: a=9; e=f=g; q=\"\r\n";
        with("/", lines, |request| {
            let all: Vec<_> = request.cookies().collect();
            let expected =
                [("a", "1"), ("b", "two"), ("c", "3"), ("a", "9"), ("e", "f=g"), ("q", "\"")];
            assert_eq!(all, expected);
            assert_eq!(request.cookie("a"), Some("1"));
            assert_eq!(request.cookie("d"), None);
        });
    }
}
