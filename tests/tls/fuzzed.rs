//! The entry functions of the fuzz targets: with what fuzzing found, and with random records.

use std::fs;
use std::path::Path;

/// Each file of `tests/fuzz/corpus/<target>/` goes through the entry function of its target.
fn replay(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has seeds", folder.display());
    for file in files {
        // Shown only when the test fails.
        println!("{}", file.display());
        entry(&fs::read(&file).unwrap());
    }
}

#[test]
fn fuzzed_records() {
    replay("tls_records", crate::entries::tls_records);
}

#[test]
fn fuzzed_greetings() {
    replay("tls_greeting", crate::entries::tls_greeting);
}

mod random {
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn records(data in vec(any::<u8>(), 0..600)) {
            crate::entries::tls_records(&data);
        }

        #[test]
        fn greetings(
            settings in 0..2_u8,
            records in vec((20..24_u8, vec(any::<u8>(), 0..200)), 0..6),
        ) {
            let mut data = vec![settings];
            for (kind, body) in records {
                data.extend_from_slice(&[kind, 3, 3, 0, body.len() as u8]);
                data.extend_from_slice(&body);
            }
            crate::entries::tls_greeting(&data);
        }
    }
}
