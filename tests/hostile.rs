//! Attacks on `ringhold serve`, each with well-behaved clients beside it: some on the core that is
//! attacked, some on the other.
//!
//! The method: `ATTACKS` has one entry for each kind, with the server's configuration, the
//! attacker's script and what must hold. The witnesses publish into a common channel before, during
//! and after the attack. Then: nobody of them was closed, every command of theirs was answered,
//! every publication came in order and once, an operator and newcomers were served, every gauge is
//! back where it was, the limits that answered have counted, memory stayed within a bound that is
//! generous for a debug build, and SIGTERM ends the server well. No time or speed is asserted.
//!
//! How long the others wait, what a byte of an attacker costs, and memory against the ceiling that
//! the server prints are measured:
//!
//! ```text
//! cargo test --release --test hostile measure -- --ignored --nocapture
//! ```
//!
//! `HOSTILE_SECONDS` is the time of each attack (5), `HOSTILE_ONLY` a part of the names,
//! `HOSTILE_CGROUP=1` puts each server into a control group of its ceiling and a tenth.

mod support;

#[path = "hostile/attack.rs"]
mod attack;
#[path = "hostile/backend.rs"]
mod backend;
#[path = "hostile/deflate.rs"]
mod deflate;
#[path = "hostile/entrance.rs"]
mod entrance;
#[path = "hostile/field.rs"]
mod field;
#[path = "hostile/floods.rs"]
mod floods;
#[path = "hostile/frames.rs"]
mod frames;
#[path = "hostile/measure.rs"]
mod measure;
#[path = "hostile/memory.rs"]
mod memory;
#[path = "hostile/process.rs"]
mod process;
#[path = "hostile/readers.rs"]
mod readers;
#[path = "hostile/vitals.rs"]
mod vitals;
#[path = "hostile/witness.rs"]
mod witness;

use std::sync::Mutex;
use std::time::Instant;

use attack::{Attack, fight, words};

/// Makes a table, and a test of each entry.
macro_rules! attacks {
    ($($name:ident = $module:ident::$attack:ident;)*) => {
        /// Every attack beside witnesses.
        const ATTACKS: &[(&str, Attack)] = &[$((stringify!($name), $module::$attack)),*];
        $(
            #[test]
            fn $name() {
                trial(stringify!($name));
            }
        )*
    };
}

/// Likewise of attacks on the process, without witnesses.
macro_rules! processes {
    ($($name:ident = $module:ident::$attack:ident;)*) => {
        const PROCESSES: &[(&str, fn())] = &[$((stringify!($name), $module::$attack)),*];
        $(
            #[test]
            fn $name() {
                trial(stringify!($name));
            }
        )*
    };
}

attacks! {
    memory_early_filters = memory::EARLY_FILTERS;
    memory_early_publications = memory::EARLY_PUBLICATIONS;
    memory_early_tiny_commands = memory::EARLY_TINY_COMMANDS;
    memory_headers_of_idle_connections = memory::HEADERS_OF_IDLE_CONNECTIONS;
    memory_filters_of_idle_connections = memory::FILTERS_OF_IDLE_CONNECTIONS;
    memory_filter_churn = memory::FILTER_CHURN;
    memory_filters_at_a_hanging_hook = memory::FILTERS_AT_A_HANGING_SUBSCRIBE_HOOK;
    memory_subscribes_at_a_hanging_hook = memory::SUBSCRIBES_BEYOND_THE_LIMIT_AT_A_HOOK;
    memory_refresh_loop = memory::REFRESH_LOOP;
    memory_deadlines_of_the_departed = memory::DEADLINES_OF_THE_DEPARTED;
    memory_mailbox_of_a_busy_core = memory::MAILBOX_OF_A_BUSY_CORE;
    memory_emulation_bodies = memory::EMULATION_BODIES;
    memory_large_publications_nobody_reads = memory::LARGE_PUBLICATIONS_NOBODY_READS;
    memory_small_publications_nobody_reads = memory::SMALL_PUBLICATIONS_NOBODY_READS;
    memory_replies_nobody_reads = memory::REPLIES_NOBODY_READS;
    memory_pongs_nobody_reads = memory::PONGS_NOBODY_READS;
    memory_one_publication_for_many_readers = memory::ONE_PUBLICATION_FOR_MANY_READERS;
    memory_unfinished_messages = memory::UNFINISHED_MESSAGES;
    memory_history_of_many_channels = memory::HISTORY_OF_MANY_CHANNELS;
    memory_channel_churn = memory::CHANNEL_CHURN;
    memory_presence_of_large_members = memory::PRESENCE_OF_LARGE_MEMBERS;
    memory_bodies_without_a_key = memory::BODIES_WITHOUT_A_KEY;
    memory_idempotency_keys = memory::IDEMPOTENCY_KEYS;
    flood_of_presence = floods::PIPELINED_PRESENCE;
    flood_of_history = floods::PIPELINED_HISTORY;
    flood_of_questions_by_the_departed = floods::ASK_AND_GO;
    flood_of_cheap_commands = floods::CHEAP_COMMANDS;
    flood_of_calls = floods::RPC_FLOOD;
    flood_of_joins_and_leaves = floods::JOIN_LEAVE_LOOP;
    flood_of_subscribes = floods::SUBSCRIBE_LOOP;
    flood_of_bad_subscription_tokens = floods::BAD_SUBSCRIPTION_TOKENS;
    flood_of_bad_connection_tokens = floods::BAD_CONNECTION_TOKENS;
    flood_of_enormous_tokens = floods::ENORMOUS_TOKENS;
    flood_of_publications_for_a_crowd = floods::PUBLICATIONS_FOR_A_CROWD;
    flood_of_pings_and_pongs = floods::PINGS_AND_PONGS;
    flood_of_many_little_ones = floods::MANY_LITTLE_FLOODS;
    patience_never_reads = readers::NEVER_READS;
    patience_deltas_nobody_reads = readers::DELTAS_NOBODY_READS;
    patience_reads_a_byte = readers::READS_A_BYTE;
    patience_sends_a_byte = readers::SENDS_A_BYTE;
    patience_fragments = readers::FRAGMENTS;
    patience_resets = readers::RESETS;
    patience_half_closed = readers::HALF_CLOSED;
    patience_closes_without_reading = readers::CLOSES_WITHOUT_READING;
    patience_streams_nobody_reads = readers::STREAMS_NOBODY_READS;
    entrance_refused_take_no_seat = entrance::REFUSED_TAKE_NO_SEAT;
    entrance_reconnects_at_the_limit = entrance::RECONNECTS_AT_THE_LIMIT;
    entrance_connect_storm = entrance::CONNECT_STORM;
    entrance_one_address = entrance::ONE_ADDRESS;
    entrance_one_address_kept_connections = entrance::ONE_ADDRESS_WITH_KEPT_CONNECTIONS;
    entrance_idle_http_connections = entrance::IDLE_HTTP_CONNECTIONS;
    entrance_slow_heads = entrance::SLOW_HEADS;
    entrance_slow_bodies = entrance::SLOW_BODIES;
    entrance_large_bodies = entrance::LARGE_BODIES;
    entrance_proxy_headers = entrance::PROXY_HEADERS;
    entrance_logins_of_one_address = entrance::LOGINS_OF_ONE_ADDRESS;
    entrance_logins_of_many_addresses = entrance::LOGINS_OF_MANY_ADDRESSES;
    frames_enormous_lengths = frames::ENORMOUS_LENGTHS;
    frames_forms = frames::FORMS_OF_FRAMES;
    frames_reserved = frames::RESERVED;
    frames_invalid_utf8 = frames::INVALID_UTF8;
    frames_json = frames::JSON;
    frames_protobuf = frames::PROTOBUF;
    frames_out_of_order = frames::OUT_OF_ORDER;
    frames_handshakes = frames::HANDSHAKES;
    frames_pipelined_requests = frames::PIPELINED_REQUESTS;
    deflate_bombs = deflate::BOMBS;
    deflate_bombs_in_pieces = deflate::BOMBS_IN_PIECES;
    deflate_bombs_in_fragments = deflate::BOMBS_IN_FRAGMENTS;
    deflate_empty_blocks = deflate::EMPTY_BLOCKS;
    deflate_allowed_blocks = deflate::ALLOWED_BLOCKS;
    deflate_final_blocks = deflate::FINAL_BLOCKS;
    deflate_bad_streams = deflate::BAD_STREAMS;
    deflate_elsewhere = deflate::ELSEWHERE;
    deflate_small_windows = deflate::SMALL_WINDOWS;
    deflate_large_replies = deflate::LARGE_REPLIES;
    deflate_negotiations = deflate::NEGOTIATIONS;
}

processes! {
    process_log_reader_gone = process::log_reader_gone;
    process_log_unread = process::log_unread;
    process_output_closed = process::output_closed;
    process_terminated_twice = process::terminated_twice;
}

/// Attacks that still succeed, and how. One leaves this list with the change that ends it: the test
/// below fails when one of these does no harm any more.
const PENDING: &[(&str, &str)] = &[];

/// Those of them that do harm only now and then, so that it proves nothing when they do none.
const SOMETIMES: &[&str] = &[];

/// How often an attack that is pending may do no harm before it counts as mended.
const TRIES: usize = 5;

/// The attack of this name, in its quick form.
fn run(name: &str) {
    support::raise_open_files();
    let start = Instant::now();
    if let Some((_, attack)) = ATTACKS.iter().find(|(its, _)| *its == name) {
        fight(attack, None);
    } else if let Some((_, attack)) = PROCESSES.iter().find(|(its, _)| *its == name) {
        attack();
    } else {
        panic!("there is no attack {name}");
    }
    println!("{name} took {:.1?}", start.elapsed());
}

/// Likewise, as a test: one that is pending is looked at below.
fn trial(name: &str) {
    match PENDING.iter().find(|(pending, _)| *pending == name) {
        Some((_, harm)) => println!("pending: {harm}"),
        None => run(name),
    }
}

/// What is pending still does harm. Prints how.
#[test]
fn the_pending_list_is_current() {
    let queue = Mutex::new(PENDING.iter());
    let harmless = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some((name, _)) = { queue.lock().expect("no panic").next() } {
                    // Some do harm only now and then.
                    let harm =
                        (0..TRIES).find_map(|_| std::panic::catch_unwind(|| run(name)).err());
                    match harm {
                        None if SOMETIMES.contains(name) => println!("{name}: nothing this time"),
                        None => harmless.lock().expect("no panic").push(*name),
                        Some(panic) => println!("{name}: {}", words(&*panic)),
                    }
                }
            });
        }
    });
    let harmless = harmless.into_inner().expect("no panic");
    assert!(harmless.is_empty(), "mended: take these out of PENDING: {harmless:?}");
}
