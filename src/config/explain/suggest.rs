//! Advice about an unknown key: the key that was probably meant, or its right place.

use crate::config::Options;
use crate::config::schema::leaves;
use crate::gateway::plan::Namespace;

/// Says what is wrong with the last part of `path`, whose table knows these keys.
pub(crate) fn unknown(path: &str, siblings: &[String]) -> String {
    let plain = without_indices(path);
    let key = plain.rsplit_once('.').map_or(plain.as_str(), |(_, key)| key);
    if let Some(near) = nearest(key, siblings) {
        return format!("unknown key, did you mean {near}?");
    }
    match elsewhere(key) {
        Some(path) => format!("unknown key here, did you mean {path}?"),
        None if siblings.len() <= FEW => {
            format!("unknown key; known here: {}", siblings.join(", "))
        }
        None => "unknown key".to_owned(),
    }
}

/// The word that a typing mistake or two turn into this one.
pub(crate) fn nearest<'a>(word: &str, known: &'a [String]) -> Option<&'a String> {
    let distance = |other: &str| strsim::damerau_levenshtein(word, other);
    let near = known.iter().map(|other| (distance(other), other));
    let best = near.min_by_key(|(distance, _)| *distance)?;
    (best.0 <= (word.len() / 3).clamp(1, 4)).then_some(best.1)
}

/// A key of that name, or whose path ends with it as in Centrifugo before version 6.
fn elsewhere(key: &str) -> Option<String> {
    let mut paths = Vec::new();
    leaves(&Options::default(), "", &mut paths);
    leaves(&Namespace::default(), "channel.namespaces", &mut paths);
    let last = |path: &String| path.rsplit('.').next() == Some(key);
    let tail = |path: &String| {
        let flat = path.replace('.', "_");
        flat.strip_suffix(key).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
    };
    let exact = paths.iter().find(|path| last(path));
    exact.or_else(|| paths.iter().find(|path| tail(path))).cloned()
}

/// `a[3].b` as `a.b`.
fn without_indices(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut within = false;
    for c in path.chars() {
        match c {
            '[' => within = true,
            ']' => within = false,
            c if !within => plain.push(c),
            _ => {}
        }
    }
    plain
}

/// So many keys are listed where none is near.
const FEW: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::Field;

    fn of(path: &str) -> String {
        let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
        let mut field: &dyn Field = &Options::default();
        let options;
        let namespace = Namespace::default();
        if parent.starts_with("channel.namespaces") {
            field = &namespace;
        } else {
            options = Options::default();
            let mut children = vec![(String::new(), &options as &dyn Field)];
            for part in parent.split('.').filter(|part| !part.is_empty()) {
                let (_, at) = children.pop().unwrap();
                children.push(at.children().into_iter().find(|(key, _)| key == part).unwrap());
            }
            if let Some((_, at)) = children.pop() {
                let known: Vec<_> = at.children().into_iter().map(|(key, _)| key).collect();
                return unknown(path, &known);
            }
        }
        let known: Vec<_> = field.children().into_iter().map(|(key, _)| key).collect();
        unknown(path, &known)
    }

    #[test]
    fn what_was_meant_is_found() {
        let cases = [
            ("client.ping_intervall", "did you mean ping_interval?"),
            ("cleint", "did you mean client?"),
            ("channel.namespaces[2].histroy_size", "did you mean history_size?"),
            ("token_hmac_secret_key", "did you mean client.token.hmac_secret_key?"),
            ("client.hmac_secret_key", "did you mean client.token.hmac_secret_key?"),
            ("http_server.allowed_origins", "did you mean client.allowed_origins?"),
            ("health.zzzzzzzz", "known here: enabled, handler_prefix"),
            ("client.zzzzzzzzzz", "unknown key"),
        ];
        for (path, expected) in cases {
            let said = of(path);
            assert!(said.contains(expected), "{path}: {said}");
        }
    }
}
