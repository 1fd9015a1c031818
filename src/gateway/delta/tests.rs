//! Patches by hand, and properties of those that are made.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const MAX: usize = 1 << 24;

#[test]
fn patches_are_in_the_format() {
    assert_eq!(create(b"", b"hello"), b"5\n5:hello3NPMmh;");
    assert_eq!(create(b"", b""), b"0\n0;");
    let base = br#"{"price":100,"symbol":"ACME","note":"a text that stays the same"}"#;
    let target = br#"{"price":101,"symbol":"ACME","note":"a text that stays the same"}"#;
    assert_eq!(create(base, target), b"11\nC:{\"price\":101q@C,2RHV4d;");
    assert_eq!(create(target, target), b"11\n11@0,2RHV4d;");
}

#[test]
fn patches_are_made_only_where_they_are_shorter() {
    let base = [b"a".repeat(40), b"b".repeat(40)].concat();
    let target = [b"b".repeat(40), b"a".repeat(40)].concat();
    let patch = patch(&base, &target).unwrap();
    assert_eq!(apply(&base, &patch, MAX).unwrap(), target);
    assert_eq!(super::patch(&base, b"something else altogether"), None);
    assert_eq!(super::patch(b"", b""), None);
}

#[test]
fn text_is_cut_between_characters() {
    // The same bytes but for the second half of each last letter.
    let base = "ежедневное обновлениеа и ещё одно обновление".as_bytes();
    let target = "ежедневное обновлениеб и ещё одно обновление".as_bytes();
    assert!(!is_text(&create(base, target)));
    let patch = text_patch(base, target).unwrap();
    assert!(is_text(&patch));
    assert_eq!(apply(base, &patch, MAX).unwrap(), target);
    assert_eq!(text_patch(base, &[target, b"\xff"].concat()), None);
}

#[test]
fn bad_patches_are_refused() {
    let base = b"0123456789";
    let table: [(&[u8], DeltaError); 19] = [
        (b"", DeltaError::Syntax),
        (b"5", DeltaError::Syntax),
        (b"\n0;", DeltaError::Syntax),
        (b"5\n", DeltaError::Syntax),
        (b"5,5:hello3NPMmh;", DeltaError::Syntax),
        (b"05\n5:hello3NPMmh;", DeltaError::Syntax),
        (b"5\n6:hello", DeltaError::Syntax),
        (b"5\n5:hello3NPMmh", DeltaError::Syntax),
        (b"5\n5:hello3NPMmh;;", DeltaError::Syntax),
        (b"5\n5@0;", DeltaError::Syntax),
        (b"5\n5?0,", DeltaError::Syntax),
        (b"4000000\n0;", DeltaError::Syntax),
        (b"zzzzzzzzzzzz\n0;", DeltaError::Syntax),
        (b"3zzzzz\n0;", DeltaError::TooLong),
        (b"5\n5@6,0;", DeltaError::OutOfBase),
        (b"5\n1@B,0;", DeltaError::OutOfBase),
        (b"5\n6@0,0;", DeltaError::WrongLength),
        (b"6\n5:hello3NPMmh;", DeltaError::WrongLength),
        (b"5\n5:hallo3NPMmh;", DeltaError::WrongChecksum),
    ];
    for (patch, error) in table {
        assert_eq!(apply(base, patch, MAX), Err(error), "{}", patch.escape_ascii());
    }
    assert_eq!(apply(base, b"5\n5:hello3NPMmh;", 5).unwrap(), b"hello");
    assert_eq!(apply(base, b"5\n5:hello3NPMmh;", 4), Err(DeltaError::TooLong));
}

#[test]
fn a_base_that_is_all_alike_costs_no_more() {
    // Each block of the base has the same hash. Unbounded probing would look at 65,536 of them for
    // each of a million places, which would not end.
    let base = b"a".repeat(1 << 20);
    let mut target = b"a".repeat(40);
    target[39] = b'b';
    let target = target.repeat((1 << 20) / 40);
    let patch = create(&base, &target);
    assert!(patch.len() < target.len() / 2);
    assert_eq!(apply(&base, &patch, MAX).unwrap(), target);
}

/// A base, and a target in which pieces of it are cut out, moved and doubled.
fn similar(piece: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let edits =
        vec((any::<Index>(), any::<Index>(), prop::collection::vec(any::<u8>(), 0..9)), 0..6);
    (vec(piece, 0..40), edits).prop_map(|(pieces, edits)| {
        let base = pieces.concat();
        let mut target = Vec::new();
        for (from, to, insert) in edits {
            let (from, to) = (from.index(base.len() + 1), to.index(base.len() + 1));
            target.extend_from_slice(&base[from.min(to)..from.max(to)]);
            target.extend(insert);
        }
        (base, target)
    })
}

fn text() -> impl Strategy<Value = (String, String)> {
    // Few letters of different lengths, so that much is alike.
    let letters = || vec(prop::sample::select(vec!['a', 'é', 'è', '日', '旦', '🦀', '🦁']), 0..80);
    (letters(), letters(), letters(), letters()).prop_map(|(a, b, c, d)| {
        let join = |parts: [&[char]; 3]| parts.concat().iter().collect::<String>();
        (join([&a, &b, &c]), join([&a, &d, &c]))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn apply_inverts_create(base in vec(any::<u8>(), 0..400), target in vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(apply(&base, &create(&base, &target), MAX).unwrap(), target);
    }

    #[test]
    fn apply_inverts_create_for_similar_inputs(
        (base, target) in similar(prop_oneof![
            vec(any::<u8>(), 1..60),
            vec(b'a'..b'c', 1..60),
            Just(b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_vec()),
        ]),
    ) {
        let made = create(&base, &target);
        prop_assert_eq!(apply(&base, &made, MAX).unwrap(), target.clone());
        // Literals cost their head only, and there are not more of them than copies and one.
        prop_assert!(made.len() <= target.len() + 24);
    }

    #[test]
    fn text_patches_are_text((base, target) in text()) {
        if let Some(patch) = text_patch(base.as_bytes(), target.as_bytes()) {
            prop_assert!(is_text(&patch) && patch.len() < target.len());
            prop_assert_eq!(apply(base.as_bytes(), &patch, MAX).unwrap(), target.into_bytes());
        }
    }

    /// Any patch at all, and one that was good until a byte of it changed: never a panic, never
    /// more than the limit, and what is accepted is as long as it says.
    #[test]
    fn any_patch_is_safe(
        base in vec(any::<u8>(), 0..100),
        patch in prop_oneof![vec(any::<u8>(), 0..60), "[0-9A-C]{1,2}\n([0-9A-C]{1,2}[:@,;a-f]){0,9}"
            .prop_map(String::into_bytes)],
        at in any::<Index>(),
        byte in any::<u8>(),
    ) {
        let check = |patch: &[u8]| if let Ok(target) = apply(&base, patch, 50) {
            assert!(target.len() <= 50);
        };
        check(&patch);
        let mut made = create(&base, &base);
        let at = at.index(made.len());
        made[at] = byte;
        check(&made);
    }
}
