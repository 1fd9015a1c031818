//! Advice about unknown keys, after the whole configuration was read: the key that was probably
//! meant ([`suggest`]), or the fate of one of Centrifugo's ([`centrifugo`]).
//!
//! Knows the whole tree, as the reader does not. The invariant: mistakes keep the order in which
//! they were made.

pub(super) mod centrifugo;
pub(super) mod suggest;

use super::schema::{Mistake, Reader};

/// Turns what was unknown to the reader into mistakes and notes. A key of Centrifugo's that is off,
/// or that nothing is lost without, is noted only, so that its files start here.
pub(super) fn explain(reader: &mut Reader) {
    let read = std::mem::take(&mut reader.mistakes);
    let mut read = read.into_iter().enumerate().peekable();
    for unknown in std::mem::take(&mut reader.unknown) {
        while let Some((_, mistake)) = read.next_if(|(at, _)| *at < unknown.before) {
            reader.mistakes.push(mistake);
        }
        let (place, path) = (unknown.place, unknown.path);
        match centrifugo::judge(&path, &unknown.node) {
            Some(wrong) if wrong.is_empty() => {
                let what = centrifugo::note(&path);
                reader.notes.push(Mistake { place, key: path, what });
            }
            Some(wrong) => {
                for (place, key, what) in wrong {
                    reader.mistake(place, &key, what);
                }
            }
            None => reader.mistake(place, &path, suggest::unknown(&path, &unknown.siblings)),
        }
    }
    reader.mistakes.extend(read.map(|(_, mistake)| mistake));
}

/// Nobody reads a table: settings of Centrifugo's that would be missed in it are noted only, with
/// the reason.
pub(super) fn forgive(reader: &mut Reader, table: &str, why: &str) {
    let below = |key: &str| key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
    let all = std::mem::take(&mut reader.mistakes);
    let (missed, rest): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|it| below(&it.key) && centrifugo::is_missed(&it.key));
    reader.mistakes = rest;
    reader.notes.extend(missed.into_iter().map(|it| Mistake { what: why.to_owned(), ..it }));
}
