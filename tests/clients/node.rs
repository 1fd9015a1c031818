//! The server as the client of Node's `ws` package meets it.
//!
//! Method: a copy of `tests/clients/node` below the target folder gets the locked package by
//! `npm ci`, then `suite.mjs` runs there against `ringhold echo`. Each check prints how often it
//! held; the suite's exit status and these counts are the result. Without Node 18, npm or the
//! package the test says so and checks nothing, but fails where `CI` is set.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use ringhold::protocol::frame::{self, Opcode};
use ringhold::protocol::request::{self, Upgrade};
use ringhold::protocol::{Agreement, Arrival, Decoder, Deflater, Event, Inflater, Kind, Role};

use crate::support::server::Server;
use crate::support::{count_of, find_program, install_once, run, skip};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/node");
const FILES: [&str; 5] =
    ["package.json", "package-lock.json", ".npmrc", "suite.mjs", "deflate.mjs"];

/// Setting up needs a package registry; the suite needs seconds.
const LIMIT: Duration = Duration::from_secs(1200);

#[test]
fn ws_for_node() {
    let Some((node, folder)) = node() else { return };
    let server = Server::start(&[
        "--max-connections",
        "2048",
        "--heartbeat-start",
        "1s",
        "--heartbeat-floor",
        "1s",
    ]);
    let suite = run(Command::new(&node).arg(folder.join("suite.mjs")).arg(server.url()), LIMIT);
    suite.assert_success();
    for (check, count) in [
        ("text", 17),
        ("binary", 12),
        ("fragments", 10),
        ("stream", 1),
        ("pings", 126),
        ("close_codes", 14),
        ("faults", 2),
        ("offers", 1),
        ("order", 3000),
        ("connects", 1000),
    ] {
        assert_eq!(count_of(&suite.stdout, check), count, "{check}: {}", suite.stdout);
    }
    server.assert_alive();
    server.stop();
}

/// The server compresses, and inflates what `ws` compresses.
#[test]
fn ws_and_a_server_that_compresses() {
    let Some((node, folder)) = node() else { return };
    let server = Server::start(&["--compress"]);
    let script = folder.join("deflate.mjs");
    let echo = run(Command::new(&node).arg(script).args(["--echo", &server.url()]), LIMIT);
    echo.assert_success();
    assert_eq!(count_of(&echo.stdout, "echoes"), 8 * 7 * 2);
    server.assert_alive();
    server.stop();
}

/// Compressed messages without a connection: `ws` reads what ours writes and ours reads what `ws`
/// writes, for every window, any fragments and any cuts.
#[test]
fn ws_and_compressed_messages() {
    let Some((node, folder)) = node() else { return };
    let (cases, answers) = (folder.join("deflate-cases"), folder.join("deflate-answers"));
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut tasks = Vec::new();
    for bits in [None].into_iter().chain((8..=15).map(Some)) {
        for _ in 0..12 {
            let messages: Vec<_> = (0..3).map(|_| text(&mut seed)).collect();
            tasks.push((bits, messages));
        }
    }
    let mut lines = String::new();
    for (bits, messages) in &tasks {
        let agreed = agreement(*bits);
        let (answer, window_bits) = (answer(agreed), agreed.window_bits());
        let mut wire = Vec::new();
        let mut deflater = Deflater::new(6);
        for message in messages {
            let mut payload = Vec::new();
            match deflater.deflate(message, window_bits, &mut payload) {
                Ok(()) => frame::append_deflated(&mut wire, Opcode::Text, &payload, None),
                Err(_) => frame::append(&mut wire, Opcode::Text, message, None),
            }
        }
        frame::append(&mut wire, Opcode::Close, b"", None);
        let read = hex(&wire);
        writeln!(lines, r#"{{"answer":"{answer}","read":"{read}"}}"#).unwrap();
        let write: Vec<String> = messages
            .iter()
            .map(|message| {
                let mut cuts: Vec<usize> = (0..dice(&mut seed) % 4)
                    .map(|_| dice(&mut seed) % (message.len() + 1))
                    .collect();
                cuts.sort_unstable();
                let data = hex(message);
                format!(r#"{{"data":"{data}","cuts":{cuts:?},"ping":{}}}"#, seed & 8 == 0)
            })
            .collect();
        let write = write.join(",");
        writeln!(lines, r#"{{"answer":"{answer}","text":true,"write":[{write}]}}"#).unwrap();
    }
    std::fs::write(&cases, lines).expect("the cases can be written");
    let script = folder.join("deflate.mjs");
    let done = run(Command::new(&node).arg(script).args([&cases, &answers]), LIMIT);
    done.assert_success();
    assert_eq!(count_of(&done.stdout, "cases"), 2 * tasks.len() as u64);
    let answers = std::fs::read_to_string(answers).expect("the answers can be read");
    let mut answers = answers
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an answer is JSON"));
    for (bits, messages) in &tasks {
        let read = answers.next().expect("an answer for each case");
        let expected: Vec<String> = messages.iter().map(|message| hex(message)).collect();
        assert_eq!(read["messages"], serde_json::json!(expected), "{bits:?}");
        let written = answers.next().expect("an answer for each case");
        let bytes = unhex(written["bytes"].as_str().expect("bytes"));
        for piece in [1, 7, 1 + dice(&mut seed) % 2_000, usize::MAX] {
            assert_eq!(&receive(&bytes, piece), messages, "{bits:?} in pieces of {piece}");
        }
    }
}

/// What our server makes of a client's frames that come in pieces of so many bytes.
fn receive(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let decoder = Decoder { role: Role::Server, max_message: 1 << 20, max_fragments: 8 };
    let (mut partial, mut inflater, mut messages) = (None, Inflater::default(), Vec::new());
    for chunk in bytes.chunks(piece.min(bytes.len())) {
        let (mut input, mut at) = (chunk.to_vec(), 0);
        while let Some(arrival) =
            decoder.decode_deflated(&mut partial, &mut input, &mut at).expect("good frames")
        {
            match arrival {
                Arrival::Deflated(kind, payload) => {
                    assert_eq!(kind, Kind::Text);
                    let message = inflater.message(kind, payload.bytes(&input), 1 << 20);
                    messages.push(message.expect("a good message").to_vec());
                }
                Arrival::Event(Event::Message(_, payload)) => {
                    messages.push(payload.bytes(&input).to_vec());
                }
                Arrival::Event(event) => assert!(matches!(event, Event::Ping(_)), "{event:?}"),
            }
        }
    }
    assert!(partial.is_none());
    messages
}

/// What is agreed on with a client that asks for that window.
fn agreement(bits: Option<u8>) -> Agreement {
    let asked = bits.map(|bits| format!("; server_max_window_bits={bits}")).unwrap_or_default();
    let offer = format!("permessage-deflate{asked}");
    Agreement::choose([offer.as_bytes()], None).expect("a good offer")
}

/// The value of our header.
fn answer(agreed: Agreement) -> String {
    let mut head = Vec::new();
    let upgrade = Upgrade { accept: [b'='; 28], compression: Some(agreed) };
    request::write_accept(&mut head, &upgrade, None, &[]);
    let head = String::from_utf8(head).expect("a head is text");
    let (_, value) = head.split_once("Sec-WebSocket-Extensions: ").expect("an answer");
    value.trim_end().to_owned()
}

/// Text of any length up to some 40 KB, part of which refers back as far as can be.
fn text(seed: &mut u64) -> Vec<u8> {
    let words: Vec<String> = (0..1 + dice(seed) % 2_000).map(|_| dice(seed).to_string()).collect();
    let len = [0, 1, 100, 300, 4_000, 40_000][dice(seed) % 6];
    words.iter().cycle().flat_map(|word| word.bytes()).take(len).collect()
}

fn dice(seed: &mut u64) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    text.as_bytes().chunks(2).map(digits).collect()
}

/// Node, and the folder where the package and the scripts are. `None`: something is missing, which
/// was said.
fn node() -> Option<(PathBuf, PathBuf)> {
    static READY: OnceLock<Option<(PathBuf, PathBuf)>> = OnceLock::new();
    READY.get_or_init(install).clone()
}

fn install() -> Option<(PathBuf, PathBuf)> {
    let (Some(node), Some(npm)) = (find_program(&["node", "nodejs"]), find_program(&["npm"]))
    else {
        skip("node or npm is not installed");
        return None;
    };
    let version = ["-e", "process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)"];
    if !run(Command::new(&node).args(version), LIMIT).success() {
        skip("node is older than 18");
        return None;
    }
    let read = |file| std::fs::read_to_string(Path::new(SOURCE).join(file)).expect("a source file");
    let inputs = FILES.map(read).concat();
    let mut failure = String::new();
    let folder = install_once("clients-node", &inputs, |folder| {
        for file in FILES {
            std::fs::write(folder.join(file), read(file)).expect("the file can be copied");
        }
        let npm = run(Command::new(&npm).arg("ci").current_dir(folder), LIMIT);
        failure = format!("{}{}", npm.stdout, npm.stderr);
        npm.success()
    });
    if folder.is_none() {
        skip(&format!("the package cannot be installed: {failure}"));
    }
    folder.map(|folder| (node, folder))
}
