//! A file that is not what a server of this name wrote in its end is nothing.

use super::*;
use crate::gateway::state::{KeptResult, Record};

const NOW: Duration = Duration::from_secs(7);

/// A place in a folder of its own, which goes with it.
struct Site {
    place: StateFile,
    folder: PathBuf,
}

impl Site {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("ringhold-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let place = StateFile {
            path: folder.join("state"),
            max_size: 1 << 20,
            max_age: Duration::from_secs(3600),
            name: "one".to_owned(),
        };
        Self { place, folder }
    }

    /// What a server leaves that has had so many publications with keys.
    fn leave(&self, publications: usize) {
        let mark = self.place.mark().unwrap();
        mark.settle();
        let vault = mark.vault().unwrap();
        for n in 0..publications {
            let result = KeptResult {
                channel: "news".into(),
                key: format!("{n:0>40}").into(),
                position: None,
                left: NOW,
            };
            let mut piece = Vec::new();
            Record::Result(result).write(NOW, &mut piece);
            match vault.claim(piece.len()) {
                true => vault.put(&piece),
                false => vault.left_out(LeftOut { channels: 1, publications: 0 }),
            }
        }
        mark.finish(&vault, true);
    }

    fn refused(&self) -> &'static str {
        match self.place.open() {
            Ok(left) => panic!("{left:?}"),
            Err(unusable) => {
                assert!(Unusable::NAMES.contains(&unusable.name()));
                assert!(!unusable.to_string().is_empty());
                unusable.name()
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.place.path).unwrap()
    }

    fn write(&self, bytes: &[u8]) {
        std::fs::write(&self.place.path, bytes).unwrap();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn taken(left: &Left) -> usize {
    let mut records = 0;
    left.open(&mut |mut piece| {
        while !piece.is_empty() {
            Record::read(&mut piece, NOW).unwrap();
            records += 1;
        }
    });
    records
}

#[test]
fn what_one_process_leaves_the_next_one_finds_once() {
    let site = Site::new();
    assert!(site.place.open().unwrap().is_none());
    site.leave(20);
    let left = site.place.open().unwrap().unwrap();
    assert_eq!(taken(&left), 20);
    assert_eq!(left.bytes(), site.bytes().len() as u64);
    let mark = site.place.mark().unwrap();
    assert_eq!(site.refused(), "unfinished", "the next one runs");
    assert_eq!(taken(&left), 20, "and reads on");
    mark.undo();
    assert_eq!(taken(&site.place.open().unwrap().unwrap()), 20, "it did not start");
    site.place.mark().unwrap().settle();
    assert_eq!(std::fs::read_dir(&site.folder).unwrap().count(), 1, "nothing else lies there");
}

#[test]
fn who_was_taken_over_from_leaves_the_place_to_the_other() {
    let site = Site::new();
    let old = site.place.mark().unwrap();
    let new = site.place.mark().unwrap();
    let vault = old.vault().unwrap();
    old.finish(&vault, true);
    assert_eq!(site.refused(), "unfinished");
    let vault = new.vault().unwrap();
    new.finish(&vault, true);
    assert_eq!(taken(&site.place.open().unwrap().unwrap()), 0);
}

#[test]
fn a_mark_stays_whole_while_the_process_before_still_writes() {
    let site = Site::new();
    let old = site.place.mark().unwrap();
    let vault = old.vault().unwrap();
    vault.put(b"on its way to the file");
    let new = site.place.mark().unwrap();
    // It has passed on all that it had.
    vault.remove();
    drop(vault);
    assert_eq!(site.refused(), "unfinished");
    let vault = new.vault().unwrap();
    new.finish(&vault, true);
    assert_eq!(taken(&site.place.open().unwrap().unwrap()), 0);
}

#[test]
fn what_a_process_left_that_died_goes() {
    let site = Site::new();
    let dead = site.place.mark().unwrap().vault().unwrap();
    dead.put(b"x");
    drop(dead);
    assert_eq!(std::fs::read_dir(&site.folder).unwrap().count(), 2);
    site.place.mark().unwrap().settle();
    assert_eq!(std::fs::read_dir(&site.folder).unwrap().count(), 1);
}

#[test]
fn a_file_cut_anywhere_is_not_read() {
    let site = Site::new();
    site.leave(5);
    let bytes = site.bytes();
    for end in 0..bytes.len() {
        site.write(&bytes[..end]);
        assert!(["corrupt", "foreign"].contains(&site.refused()), "cut at {end}");
    }
    site.write(&[&bytes[..], b"x"].concat());
    assert_eq!(site.refused(), "corrupt");
}

#[test]
fn a_file_with_any_bit_changed_is_not_read() {
    let site = Site::new();
    site.leave(5);
    let bytes = site.bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        site.write(&changed);
        site.refused();
    }
}

#[test]
fn old_and_large_and_foreign_files_are_not_read() {
    let mut site = Site::new();
    site.leave(20);
    site.place.name = "two".to_owned();
    assert_eq!(site.refused(), "foreign");
    site.place.name = "one".to_owned();
    let bytes = site.bytes();
    let mut old = bytes.clone();
    let hour_ago = unix_millis() - 3_601_000;
    old[24..32].copy_from_slice(&hour_ago.to_le_bytes());
    site.write(&old);
    assert_eq!(site.refused(), "stale");
    let mut to_come = bytes.clone();
    to_come[24..32].copy_from_slice(&(unix_millis() + 4_000_000).to_le_bytes());
    site.write(&to_come);
    assert_eq!(site.refused(), "stale");
    let mut newer = bytes.clone();
    newer[16] = 2;
    site.write(&newer);
    assert_eq!(site.refused(), "foreign");
    site.write(&bytes);
    let long = OpenOptions::new().write(true).open(&site.place.path).unwrap();
    long.set_len(3 << 20).unwrap();
    assert_eq!(site.refused(), "oversized");
    site.write(b"");
    assert_eq!(site.refused(), "foreign");
    std::fs::remove_file(&site.place.path).unwrap();
    std::fs::create_dir(&site.place.path).unwrap();
    assert_eq!(site.refused(), "unreadable");
}

#[test]
fn a_file_is_no_larger_than_it_may_be() {
    let mut site = Site::new();
    site.place.max_size = 800;
    site.leave(30);
    let left = site.place.open().unwrap().unwrap();
    assert!((10..30).contains(&taken(&left)), "{}", taken(&left));
    assert!(left.bytes() < 1000);
}
