//! What the fuzz targets run on their bytes. `cargo test` replays the corpus through the same
//! functions (`tests/protocol/regressions.rs`), so a finding stays found.

#[path = "../support/model.rs"]
pub(crate) mod model;

use ringhold::protocol::deflate::INFLATE_BYTES;
use ringhold::protocol::forwarded;
use ringhold::protocol::frame::Opcode;
use ringhold::protocol::proxy_header::{self, HEADER_MAX, Start};
use ringhold::protocol::request::{self, Request, Upgrade};
use ringhold::protocol::response::{self, Rejected};
use ringhold::protocol::{Agreement, Decoder, Fault, Inflater, Kind, Network, Refusal, Role};

/// Frames: a byte of settings, four of pieces, then the stream itself or a script for one.
pub(crate) fn frames(data: &[u8]) {
    let Some((&[settings, pieces @ ..], rest)) = data.split_first_chunk::<5>() else {
        return;
    };
    let role = if settings & 1 == 0 { Role::Server } else { Role::Client };
    let decoder = if settings & 2 == 0 {
        Decoder { role, max_message: 1 << 20, max_fragments: 16 }
    } else {
        Decoder { role, max_message: 200, max_fragments: 2 }
    };
    let stream = if settings & 4 == 0 { rest.to_vec() } else { script(role, rest) };
    let compression = settings & 8 != 0;
    model::check(&decoder, compression, &stream, &pieces.map(usize::from));
    model::check(&decoder, compression, &stream, &[usize::MAX]);
    model::check(&decoder, compression, &stream, &[1]);
}

/// Frames that are mostly right: first byte of the header, length, payload, over and over.
fn script(role: Role, mut script: &[u8]) -> Vec<u8> {
    const OPCODES: [Opcode; 8] = [
        Opcode::Continuation,
        Opcode::Text,
        Opcode::Binary,
        Opcode::Close,
        Opcode::Ping,
        Opcode::Pong,
        Opcode::Continuation,
        Opcode::Text,
    ];
    let mut out = Vec::new();
    while let Some((&[kind, len], rest)) = script.split_first_chunk::<2>() {
        let opcode = OPCODES[kind as usize % 8];
        let fin = kind & 0x80 != 0 || opcode.is_control();
        // Mostly short; some repeat what there is, to cross the length at which headers grow.
        let repeat = if kind & 0x70 == 0x70 && !opcode.is_control() { 12 } else { 1 };
        let len = (len as usize % 126).min(rest.len());
        let payload = rest[..len].repeat(repeat);
        model::put(&mut out, role, fin, opcode, [kind, 0x55, len as u8, 0xaa], &payload);
        // And some are wrong.
        if kind & 0x70 == 0x60 {
            let last = out.len() - 1;
            out[last] ^= 1 << (kind % 8);
        }
        script = &rest[len..];
    }
    out
}

/// A request head: a byte of limit, then the head.
pub(crate) fn handshake(data: &[u8]) {
    let Some((&limit, head)) = data.split_first() else {
        return;
    };
    let head = &head[..head.len().min(4096)];
    let max_head = 64 + 16 * limit as usize;
    let at_once = request_outcome(head, &mut 0, max_head);
    let mut scanned = 0;
    let in_bytes = (0..=head.len()).find_map(|n| {
        let outcome = request_outcome(&head[..n], &mut scanned, max_head);
        assert!(scanned <= n);
        outcome
    });
    assert_eq!(in_bytes, at_once);
    let middle = head.len() / 2;
    scanned = 0;
    let in_halves = request_outcome(&head[..middle], &mut scanned, max_head)
        .or_else(|| request_outcome(head, &mut scanned, max_head));
    assert_eq!(in_halves, at_once);
    if let Some(Err(refusal)) = at_once {
        let mut out = Vec::new();
        refusal.write(&mut out);
        assert!(matches!(response::parse(&out, [0; 16], 4096), Err(Rejected::Status(_))));
    }
}

/// The length of a head, and what became of it.
type Answer = (usize, Result<Upgrade, Refusal>);

fn request_outcome(
    head: &[u8],
    scanned: &mut usize,
    max_head: usize,
) -> Option<Result<Answer, Refusal>> {
    match request::parse(head, scanned, max_head) {
        Ok(Some((request, len))) => {
            assert!(len <= head.len() && len <= max_head);
            let upgrade = request.upgrade();
            use_request(&request, upgrade.ok());
            Some(Ok((len, upgrade)))
        }
        Ok(None) => None,
        Err(refusal) => Some(Err(refusal)),
    }
}

/// Whatever a request says, the answer has no line that we did not put there.
fn use_request(request: &Request<'_>, upgrade: Option<Upgrade>) {
    assert!(request.headers().count() <= request::HEADERS_MAX);
    assert!(request.target.contains(request.path()) || request.path() == "/");
    assert!(request.query().is_none_or(|query| request.target.ends_with(query)));
    let Some(mut upgrade) = upgrade else { return };
    upgrade.compression = request.compression();
    assert!(request.header("Host").is_some_and(|host| !host.is_empty()));
    let protocol = request.protocols().next();
    let echo = request
        .headers()
        .next()
        .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned()));
    let mut out = Vec::new();
    request::write_accept(&mut out, &upgrade, protocol, echo.as_slice());
    let compression = upgrade.compression.is_some() as usize;
    let lines = 5 + protocol.is_some() as usize + echo.is_some() as usize + compression;
    assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), lines);
}

/// What proxies say: the beginning of a connection, and lines of `X-Forwarded-For`.
pub(crate) fn proxy_header(data: &[u8]) {
    let whole = proxy_header::parse(data);
    for cut in 0..=data.len().min(2 * proxy_header::HEADER_MAX) {
        let answer = proxy_header::parse(&data[..cut]);
        assert!(answer == Ok(Start::Undecided) || answer == whole, "cut at {cut}: {answer:?}");
    }
    match whole {
        Ok(Start::Header(header)) => assert!(header.len <= data.len().min(HEADER_MAX)),
        Ok(Start::Undecided) => assert!(data.len() < HEADER_MAX),
        Ok(Start::Plain) => assert!(!data.is_empty()),
        Err(malformed) => assert!(!malformed.reason().is_empty()),
    }
    let trusted: [Network; 2] = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap());
    let lines = data.split(|&byte| byte == b'\n');
    let found = forwarded::client(lines.clone(), &trusted);
    // One that is not trusted and was written by a proxy behind whatever this is.
    let proxys: &[u8] = b"192.0.2.1:9";
    let appended = forwarded::client(lines.chain([proxys]), &trusted);
    assert_eq!(appended, Some(([192, 0, 2, 1], 9).into()));
    assert!(found.is_none_or(|found| found.ip().to_canonical() == found.ip()));
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(network) = text.parse::<Network>()
    {
        assert_eq!(network.to_string().parse(), Ok(network));
    }
}

/// A response head, for a key that is known.
pub(crate) fn client_response(data: &[u8]) {
    let Some((&limit, head)) = data.split_first() else {
        return;
    };
    let head = &head[..head.len().min(2048)];
    let (key, max_head) = (*b"the sample nonce", 64 + 16 * limit as usize);
    let at_once = response::parse(head, key, max_head);
    let in_bytes = (0..=head.len()).map(|n| response::parse(&head[..n], key, max_head));
    let decided = in_bytes.into_iter().find(|outcome| *outcome != Ok(None));
    assert_eq!(decided.unwrap_or(Ok(None)), at_once);
    if let Ok(Some((len, protocol))) = at_once {
        assert!(len <= head.len() && len <= max_head);
        assert!(protocol.is_none_or(|protocol| !protocol.is_empty()));
    }
}

/// Lines of `Sec-WebSocket-Extensions`, of a request and of an answer.
pub(crate) fn extensions(data: &[u8]) {
    let lines = || data.split(|&byte| byte == b'\n');
    let agreed = Agreement::choose(lines(), None);
    // Whatever stands before it, an offer on a line of its own is found.
    let good: &[u8] = b"permessage-deflate; server_max_window_bits=11";
    let found = Agreement::choose(lines().chain([good]), None).expect("a good offer");
    assert!(agreed.is_none_or(|agreed| agreed == found));
    assert!((8..=15).contains(&found.window_bits()));
    // Our client accepts each of our answers.
    let accept = *b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    let mut head = Vec::new();
    let upgrade = Upgrade { accept, compression: Some(found) };
    request::write_accept(&mut head, &upgrade, None, &[]);
    let answer = response::parse_offered(&head, *b"the sample nonce", 4096, true);
    assert!(answer.is_ok_and(|answer| answer.is_some_and(|it| it.compression.is_some())));
    // What a server says is what was asked for, or an error.
    if let Ok(Some(_)) = Agreement::confirm(lines()) {
        assert!(agreed.is_some(), "{}", data.escape_ascii());
    }
}

/// A compressed message: two bytes of limit, then its payload.
pub(crate) fn inflate(data: &[u8]) {
    let Some((&limit, payload)) = data.split_first_chunk::<2>() else {
        return;
    };
    let limit = u16::from_be_bytes(limit) as usize;
    let mut inflater = Inflater::default();
    let expected = inflated(payload).filter(|message| message.len() <= limit);
    for _ in 0..2 {
        let message = inflater.message(Kind::Binary, payload, limit).map(<[u8]>::to_vec);
        assert!(inflater.effort() <= payload.len() + limit + 1 + 300 * (64 + limit / 128 + 1));
        if message == Err(Fault::TooManyBlocks) {
            // None is shorter than 10 bits, and so many any message may have.
            assert!(payload.len() > 60, "{}", payload.escape_ascii());
            return;
        }
        let message = message.ok();
        assert_eq!(message, expected, "{}", payload.escape_ascii());
        assert!(inflater.memory() <= (limit + 1).max(8) + INFLATE_BYTES);
    }
    let text = inflater.message(Kind::Text, payload, limit).is_ok();
    assert_eq!(text, expected.is_some_and(|message| std::str::from_utf8(&message).is_ok()));
}

/// The same by C zlib, as plain as it can be.
fn inflated(payload: &[u8]) -> Option<Vec<u8>> {
    use flate2::{Decompress, FlushDecompress, Status};

    // A sync flush's end, then an empty final block.
    let whole = [payload, b"\0\0\xff\xff\x01\0\0\xff\xff"].concat();
    let (mut message, mut at) = (Vec::new(), 0);
    while at < payload.len() || at > payload.len() && at < whole.len() {
        let mut stream = Decompress::new(false);
        loop {
            // More than any limit, and room for the next byte all the same.
            message.reserve(1 << 16);
            let start = at;
            let before = message.len();
            let consumed = stream.total_in();
            let flush = FlushDecompress::None;
            let status = stream.decompress_vec(&whole[at..], &mut message, flush).ok()?;
            at += (stream.total_in() - consumed) as usize;
            match status {
                _ if message.len() > 1 << 20 => return None,
                Status::StreamEnd => break,
                _ if at == start && message.len() == before => return None,
                _ => {}
            }
        }
    }
    Some(message)
}
