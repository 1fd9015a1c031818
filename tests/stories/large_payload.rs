//! The story of the zombie after a large payload, told at every boundary at which a buffer ends.
//!
//! The method: payloads whose frames end just before, at and just behind each internal size go to
//! clients that read at once and to clients that read late. Whoever should live gets every byte
//! in order; whoever is closed is gone from every table and can come back at once.

use std::time::Duration;

use ringhold::{Cause, Policy};

use crate::stories::{Frame, Peer, Site};
use crate::support::figures;
use crate::support::wire::{BINARY, FIN, frame};

/// The largest message here: one byte more is too big.
const MESSAGE_MAX: usize = 300_000;

/// Sizes at which something changes: the forms of a length (125, 65,535), the reported 1,900 to
/// 2,100, the smallest receive (4 KiB), the copy limit (16 KiB), the larger receives, the limit.
fn sizes() -> Vec<usize> {
    let edges = [126, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072, 262_144];
    let around = edges.into_iter().flat_map(|edge| edge - 16..=edge + 2);
    (0..=3).chain(around).chain(1_900..=2_100).chain(MESSAGE_MAX - 1..=MESSAGE_MAX).collect()
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + len) as u8).collect()
}

/// Messages of about two kilobytes turned sessions into zombies: the stream was dead, the session
/// stayed in its table. Whoever reconnected found the name taken.
/// Only a restart of the node helped. (MongooseIM)
#[test]
fn every_size_comes_back_to_a_fast_reader() {
    let (site, journal) = Site::watched(|config| config.max_message = MESSAGE_MAX);
    let mut peer = Peer::open(site.address, "/fast");
    for len in sizes() {
        peer.echo(&payload(len));
    }
    // And with the frame cut at the boundary itself, by a pause that lets the first part arrive.
    for len in [126, 2_000, 4_090, 65_536] {
        let bytes = frame(FIN | BINARY, &payload(len));
        for cut in [1, 2, 4, 8, bytes.len() / 2, bytes.len() - 1] {
            peer.send(&bytes[..cut]);
            std::thread::sleep(Duration::from_millis(2));
            peer.send(&bytes[cut..]);
            assert!(peer.read().expect("an echo") == Frame::Binary(payload(len)), "{len} at {cut}");
        }
    }
    peer.close(1000);
    let end = site.wait_empty();
    assert_eq!((end.closed, end.closed_clean), (1, 1));
    journal.assert_sound();
    site.end();
}

/// The same to readers that come late: everything waits in buffers, is cut into short sends, and
/// still comes whole and in order.
#[test]
fn every_size_comes_back_to_a_slow_reader() {
    let (site, journal) = Site::watched(|config| {
        config.max_message = MESSAGE_MAX;
        // Reading pauses at half of this; what one receive may complete still has to fit: the rest
        // of a message, and a quarter of a mebibyte of further ones.
        config.max_outbox = 2 * (MESSAGE_MAX + 256 * 1024 + 4096);
    });
    let readers: Vec<_> = (0..2)
        .map(|reader| {
            let peer = Peer::try_connect(site.address, None, Some(128 * 1024));
            let peer = peer.expect("the server accepts").upgraded("/slow");
            let mut sender = peer.socket().try_clone().expect("a socket can be shared");
            // More than the kernel's buffers hold, so that the server's have to.
            let mine = sizes().into_iter().skip(reader).step_by(2);
            let wanted: Vec<usize> = mine.clone().chain(mine).collect();
            let sent = wanted.clone();
            let writer = std::thread::spawn(move || {
                for len in sent {
                    let bytes = frame(FIN | BINARY, &payload(len));
                    std::io::Write::write_all(&mut sender, &bytes).expect("the server takes it");
                }
            });
            (peer, writer, wanted)
        })
        .collect();
    site.wait_for("the readers to be slow", |c| c.blocked == 2 && c.outbox_bytes_held > 0);
    figures::slow_peers(&site.handle, 2);
    std::thread::scope(|scope| {
        for (mut peer, writer, wanted) in readers {
            scope.spawn(move || {
                for len in wanted {
                    let got = peer.read().expect("an echo");
                    assert!(got == Frame::Binary(payload(len)), "{len} bytes");
                }
                writer.join().expect("everything was sent");
                peer.close(1000);
            });
        }
    });
    let end = site.wait_empty();
    assert_eq!((end.closed, end.closed_clean), (2, 2), "no stream died that should not");
    assert!(end.sends_short > 0, "no send was short: the story was not told");
    journal.assert_sound();
    site.end();
}

/// One byte too many ends exactly that connection, and the user is back before the old connection
/// is even buried.
#[test]
fn one_byte_too_many_leaves_no_zombie() {
    let (site, journal) = Site::watched(|config| config.max_message = MESSAGE_MAX);
    let mut bystander = Peer::open(site.address, "/bystander");
    for round in 0..20 {
        let path = format!("/user{round}");
        let mut peer = Peer::open(site.address, &path);
        peer.echo(&payload(2_000));
        // The length alone is reason enough; the rest may meet a closed door.
        let _ = peer.try_send(&frame(FIN | BINARY, &payload(MESSAGE_MAX + 1)));
        assert_eq!(peer.read_close().0, 1009);
        let again = Peer::open(site.address, &format!("{path}-again"));
        let ended = journal.wait_ended(&path);
        assert_eq!((ended.cause, ended.code.0), (Cause::TooBig, 1009));
        drop(peer);
        again.close(1000);
        bystander.echo(&payload(1_950 + round));
    }
    bystander.close(1000);
    let end = site.wait_empty();
    assert_eq!((end.opened, end.closed, end.closed_too_big), (41, 41, 20));
    journal.assert_sound();
    site.end();
}

/// A reader too slow for what is sent to it is closed, with the reason, and comes back at once.
#[test]
fn too_slow_a_reader_is_gone_and_can_return() {
    let (site, journal) = Site::watched(|config| {
        config.max_outbox = 64 * 1024;
        config.outbox_policy = Policy::CloseSlow;
        config.close_timeout = Duration::from_secs(2);
    });
    for round in 0..5 {
        let path = format!("/topic{round}");
        let mut peer = Peer::open_narrow(site.address, &path);
        let id = journal.wait_open(&path);
        let news = ringhold::Frame::binary(&payload(2_000 + round));
        let ended = || journal.ended().iter().any(|ended| ended.id == id);
        crate::stories::wait_until("the slow reader to be closed", || {
            for _ in 0..64 {
                site.handle.publish("news", &news);
            }
            (!ended()).then(|| format!("{:?}", site.counters()))
        });
        let mut again = Peer::open(site.address, &format!("/again{round}"));
        again.echo(&payload(2_000));
        again.close(1000);
        assert_eq!(peer.read_close(), (1008, "too slow".to_owned()), "it is told why");
    }
    let end = site.wait_empty();
    assert_eq!((end.closed_slow, end.opened), (5, 10));
    assert!(end.dropped_full > 0);
    journal.assert_sound();
    site.end();
}
