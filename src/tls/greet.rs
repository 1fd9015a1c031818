//! The handshake: records in, records out, and at its end a [`Record`] with the keys.
//!
//! rustls does it, and is named here and in `keys.rs`, `tickets.rs` and `resumption.rs` only: its
//! next version has another interface. Its objects are gone when the handshake is done, but for
//! what a client that keeps tickets needs for the first.
//!
//! Invariant: it is fed one record at a time. rustls goes on with all that it gets, and would
//! decrypt data behind the last message of the handshake, which belongs to the record layer.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{
    CipherSuite, CommonState, ConnectionTrafficSecrets, Error, ExtractedSecrets, HandshakeKind,
    KeyLog, ProtocolVersion,
};
use zeroize::Zeroize;

use super::certificates::ACME_TLS;
use super::direction::{APPLICATION_DATA, Aead, CONTENT_MAX, HEADER, SECRET, Shape, Version};
use super::fault::{
    DECODE_ERROR, Fault, INTERNAL_ERROR, RECORD_OVERFLOW, Reason, UNEXPECTED_MESSAGE,
};
use super::keys::{ClientSetup, ServerSetup, Way};
use super::layer::{Record, RecordLayer};
use super::library::Library;
use super::record::{ALERT, BODY_MAX, FATAL, HANDSHAKE, Keys, Role};
use super::resumption::Waiting;
use super::scripted::Scripted;

/// A handshake under way: about 5 KiB, and what is there of an incomplete message.
pub struct Greeting {
    side: Side,
    /// Records of which rustls has not seen the last.
    held: Vec<u8>,
    /// Bytes fed so far.
    fed: usize,
    max: usize,
    secrets: Secrets,
    /// The name that the client asked for.
    asked: Option<Box<str>>,
    /// A client keeps tickets.
    keeps: bool,
    /// Who takes over.
    layer: RecordLayer,
}

enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
    /// A simulation's.
    Scripted(Scripted),
    /// Done, or failed.
    Over,
}

/// What a fed record led to.
pub enum Step {
    /// Another record of the peer is needed.
    More,
    /// The handshake is done; what was put out is still to be sent.
    Done(Box<Welcome>),
}

/// What a handshake leaves.
pub struct Welcome {
    /// The record layer, which takes over.
    pub record: Record,
    /// Name of the group of the key exchange; `None` where a TLS 1.2 session went on.
    pub group: Option<&'static str>,
    /// An earlier session went on.
    pub resumed: bool,
    /// `http/1.1` was negotiated, and not merely left open.
    pub alpn: bool,
    /// The name that the client asked for.
    pub server_name: Option<Box<str>>,
    /// The peer's own certificate, in DER, verified as its setup says.
    pub certificate: Option<Box<[u8]>>,
    /// Where a client keeps tickets that come behind the handshake: who waits for the first.
    pub ticket: Option<Ticket>,
}

/// The wait for a server's first ticket: see [`Opened::Messages`](super::Opened::Messages).
pub struct Ticket(Box<Waiting>);

impl Ticket {
    /// Takes what messages behind the handshake there are in a record. Whether the wait is over.
    pub fn take(&mut self, content: &[u8]) -> bool {
        self.0.take(content)
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.0.memory()
    }
}

/// What processing came to.
enum Next {
    Again,
    Blocked,
    Done,
}

/// Bytes a client may need for its part of a handshake: a ClientHello is below 2 KiB, a chain of
/// certificates rarely above 8.
pub const SERVER_FEED_MAX: usize = 32 << 10;
/// The same of a server, whose chains may be longer.
pub const CLIENT_FEED_MAX: usize = 128 << 10;
/// What a handshake takes besides what it was fed: measured at 1,088 bytes of rustls' object and
/// 3,100 that it points to.
const GREETING: usize = 5 << 10;

/// The length of the record that `bytes` begin with, header included; `None` while the header is
/// not there. `first` is for what a client says first.
pub fn length(bytes: &[u8], first: bool) -> Result<Option<usize>, Fault> {
    match bytes.first() {
        Some(&HANDSHAKE) => {}
        Some(_) if first => return Err(Fault::NotTls),
        Some(20..=23) => {}
        Some(kind) => return Err(Fault::RecordType(*kind)),
        None => return Ok(None),
    }
    // RFC 8446 section 5.1: the minor version of what comes first is 1 or 3, and of no meaning.
    if let Some(major) = bytes.get(1)
        && *major != 3
    {
        return Err(if first { Fault::NotTls } else { Fault::RecordVersion(*major as u16) });
    }
    let Some(&[_, _, _, high, low]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    // Only what is encrypted may be longer than its content (RFC 8446 section 5.1).
    let max = if bytes[0] == APPLICATION_DATA { BODY_MAX } else { CONTENT_MAX };
    if len > max { Err(Fault::RecordLength) } else { Ok(Some(HEADER + len)) }
}

/// Appends the alert of `fault`, if it has one, in the clear: for a peer that has no keys yet.
pub fn alert(fault: &Fault, out: &mut Vec<u8>) {
    if let Some(code) = fault.alert() {
        clear_alert(code, out);
    }
}

fn clear_alert(code: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[ALERT, 3, 3, 0, 2, FATAL, code]);
}

impl Greeting {
    /// The server's side. Worth making once the first record is whole: a silent peer costs nothing.
    pub fn server(setup: &ServerSetup) -> Result<Self, Fault> {
        let side = match setup.way() {
            Way::Rustls(config) => {
                let connection = UnbufferedServerConnection::new(Arc::clone(config));
                Side::Server(Box::new(connection.map_err(|error| refused(&error))?))
            }
            Way::Scripted(scripts) => Side::Scripted(scripts.begin(Role::Server, &mut Vec::new())),
        };
        Ok(Self { layer: setup.layer(), ..Self::new(side, SERVER_FEED_MAX) })
    }

    /// The client's side; the first records, for the server called `name`, are appended to `out`.
    /// With `resume` it goes on with an earlier session, where `setup` has kept a ticket.
    pub fn client(
        setup: &ClientSetup,
        name: &str,
        resume: bool,
        out: &mut Vec<u8>,
    ) -> Result<Self, Fault> {
        let name = ServerName::try_from(name.to_owned()).map_err(|error| {
            Fault::Greeting(Reason::Internal, format!("no name of a server: {error}"))
        })?;
        let config = match setup.way(resume) {
            Way::Rustls(config) => Arc::clone(config),
            Way::Scripted(scripts) => {
                let side = Side::Scripted(scripts.begin(Role::Client, out));
                return Ok(Self::new(side, CLIENT_FEED_MAX));
            }
        };
        let connection = UnbufferedClientConnection::new(config, name);
        let side = Side::Client(Box::new(connection.map_err(|error| refused(&error))?));
        let mut greeting = Self::new(side, CLIENT_FEED_MAX);
        greeting.keeps = setup.keeps();
        greeting.process(out)?;
        Ok(greeting)
    }

    fn new(side: Side, max: usize) -> Self {
        let (held, secrets) = (Vec::new(), Secrets::default());
        let layer = RecordLayer::Own;
        Self { side, held, fed: 0, max, secrets, asked: None, keeps: false, layer }
    }

    /// Bytes of memory: what rustls keeps of a handshake, messages of which it has not seen the
    /// end, and what it has made of those it has.
    pub fn memory(&self) -> usize {
        GREETING + self.held.capacity() + self.fed
    }

    /// Takes one whole record, as long as [`length`] says. What is to be sent is appended to `out`,
    /// also with a fault: the alert.
    pub fn feed(&mut self, record: &[u8], out: &mut Vec<u8>) -> Result<Step, Fault> {
        let len = length(record, false).inspect_err(|fault| self.refuse(fault, out))?;
        if len != Some(record.len()) {
            return Err(Fault::RecordLength);
        }
        // An empty record counts for its header, so there is an end to them, too.
        self.fed += record.len();
        if self.fed > self.max {
            self.refuse(&Fault::GreetingLength, out);
            return Err(Fault::GreetingLength);
        }
        if let Side::Scripted(script) = &mut self.side {
            let fed = script.feed(record, out);
            if !matches!(fed, Ok(None)) {
                self.side = Side::Over;
            }
            return Ok(fed?.map_or(Step::More, |record| Step::Done(Box::new(record.into()))));
        }
        self.held.extend_from_slice(record);
        match self.process(out) {
            Ok(false) => Ok(Step::More),
            Ok(true) => self.finish(out).map(|welcome| Step::Done(Box::new(welcome))),
            Err(fault) => {
                self.side = Side::Over;
                Err(fault)
            }
        }
    }

    /// Ends it for a fault that was found outside: appends its alert, if it has one.
    pub fn refuse(&mut self, fault: &Fault, out: &mut Vec<u8>) {
        if let Some(code) = fault.alert() {
            self.put_own_alert(code, out);
        }
        self.side = Side::Over;
    }

    /// Whether nothing of the peer was fed yet.
    pub fn is_new(&self) -> bool {
        self.fed == 0
    }

    /// Lets rustls work on what is held; whether the handshake is done.
    fn process(&mut self, out: &mut Vec<u8>) -> Result<bool, Fault> {
        CAUGHT.take();
        ASKED.take();
        let done = loop {
            let (discard, next) = match &mut self.side {
                Side::Server(connection) => {
                    step(connection.process_tls_records(&mut self.held), out)
                }
                Side::Client(connection) => {
                    step(connection.process_tls_records(&mut self.held), out)
                }
                Side::Scripted(_) | Side::Over => return Err(Fault::Closed),
            };
            self.held.drain(..discard);
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Blocked) => break false,
                Ok(Next::Done) => break true,
                Err(error) => {
                    if !matches!(error, Error::AlertReceived(_)) && !self.put_alert(out) {
                        self.put_own_alert(alert_of(&error), out);
                    }
                    return Err(refused(&error));
                }
            }
        };
        // Those of TLS 1.3 are there before the handshake is done: the server has them with its
        // first flight.
        self.secrets.merge(CAUGHT.take());
        self.asked = ASKED.take().or(self.asked.take());
        Ok(done)
    }

    /// After an error, what rustls still has to say, up to its alert. It keeps places of messages
    /// in what is held, so that must be given again. Whether there was an alert.
    fn put_alert(&mut self, out: &mut Vec<u8>) -> bool {
        // More records than it makes of one message.
        for _ in 0..8 {
            let start = out.len();
            let (discard, next) = match &mut self.side {
                Side::Server(connection) => {
                    step(connection.process_tls_records(&mut self.held), out)
                }
                Side::Client(connection) => {
                    step(connection.process_tls_records(&mut self.held), out)
                }
                Side::Scripted(_) | Side::Over => return false,
            };
            self.held.drain(..discard);
            let is_alert = out.len() == start + ALERT_LEN || out.len() == start + SEALED_ALERT_LEN;
            if is_alert || !matches!(next, Ok(Next::Again)) {
                return is_alert;
            }
        }
        false
    }

    /// Puts an alert where rustls has none, which is so with some of its errors, if the peer can
    /// read it: in the clear before there are keys; and a server's under the keys of TLS 1.3, with
    /// which nothing is sealed before the client's last message.
    fn put_own_alert(&mut self, code: u8, out: &mut Vec<u8>) {
        self.secrets.merge(CAUGHT.take());
        let (common, role): (&CommonState, _) = match &self.side {
            Side::Server(connection) => (connection, Role::Server),
            Side::Client(connection) => (connection, Role::Client),
            Side::Scripted(_) => return clear_alert(code, out),
            Side::Over => return,
        };
        let is_new = common.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        if is_new && role == Role::Server && self.secrets.are_complete() {
            let suite = common.negotiated_cipher_suite().map(|suite| suite.suite());
            let aead = match suite {
                Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => Aead::ChaCha20Poly1305,
                _ => Aead::Aes128Gcm,
            };
            let Secrets { client, server } = &self.secrets;
            Record::from_secrets(role, aead, *client, *server).alert(code, out);
        } else if !is_new || role == Role::Server {
            clear_alert(code, out);
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<Welcome, Fault> {
        // A handshake message behind the last one, or half of one, is nobody's.
        let is_last = self.held.is_empty();
        let validates = self.validates();
        let mut welcome = self.welcome()?;
        if validates {
            welcome.record.close(out);
            return Err(Fault::Validated);
        }
        if !is_last {
            welcome.record.alert(UNEXPECTED_MESSAGE, out);
            return Err(Fault::Greeting(Reason::Malformed, "bytes behind the end".into()));
        }
        Ok(welcome)
    }

    /// Whether the client is an authority that has seen what it wanted (RFC 8737).
    fn validates(&self) -> bool {
        match &self.side {
            Side::Server(connection) => connection.alpn_protocol() == Some(ACME_TLS),
            Side::Client(_) | Side::Scripted(_) | Side::Over => false,
        }
    }

    fn welcome(&mut self) -> Result<Welcome, Fault> {
        let secrets = std::mem::take(&mut self.secrets);
        match std::mem::replace(&mut self.side, Side::Over) {
            Side::Server(connection) => {
                let about = About::of(&connection)?;
                if self.layer == RecordLayer::Rustls {
                    let record = Record::of_library(Library::new(*connection));
                    return Ok(about.with(record, self.asked.take()));
                }
                let (extracted, _) =
                    connection.dangerous_into_kernel_connection().map_err(|e| refused(&e))?;
                about.welcome(Role::Server, self.asked.take(), &extracted, &secrets)
            }
            Side::Client(connection) => {
                let about = About::of(&connection)?;
                let chain = connection.peer_certificates().unwrap_or_default();
                let chain = chain.iter().map(|it| it.len() + size_of_val(it)).sum();
                let (extracted, session) =
                    connection.dangerous_into_kernel_connection().map_err(|e| refused(&e))?;
                let mut welcome = about.welcome(Role::Client, None, &extracted, &secrets)?;
                // Those of TLS 1.2 come with the handshake.
                if self.keeps
                    && welcome.record.shape().map(|shape| shape.version) == Some(Version::Tls13)
                {
                    welcome.ticket = Some(Ticket(Box::new(Waiting::new(session, chain))));
                }
                Ok(welcome)
            }
            Side::Scripted(_) | Side::Over => Err(Fault::Closed),
        }
    }
}

impl From<Record> for Welcome {
    /// That of a handshake of which only the record layer is known.
    fn from(record: Record) -> Self {
        Self {
            record,
            group: None,
            resumed: false,
            alpn: false,
            server_name: None,
            certificate: None,
            ticket: None,
        }
    }
}

/// One round of rustls: bytes it needs no more, and what is next.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    out: &mut Vec<u8>,
) -> (usize, Result<Next, Error>)
where
    Data: Sides,
{
    let UnbufferedStatus { discard, state } = status;
    let next = state.and_then(|state| match state {
        ConnectionState::EncodeTlsData(mut data) => {
            let start = out.len();
            let mut encoded = data.encode(&mut []);
            if let Err(EncodeError::InsufficientSize(size)) = encoded {
                out.resize(start + size.required_size, 0);
                encoded = data.encode(&mut out[start..]);
            }
            out.truncate(start + encoded.as_ref().copied().unwrap_or(0));
            encoded.map(|_| Next::Again).map_err(|error| Error::General(error.to_string()))
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Next::Again)
        }
        ConnectionState::BlockedHandshake => Ok(Next::Blocked),
        ConnectionState::WriteTraffic(_) => Ok(Next::Done),
        // Neither early data nor an end belongs into a handshake.
        _ => Err(Error::General("the peer ended the handshake".into())),
    });
    (discard, next)
}

/// The two kinds of connection that rustls has.
trait Sides {}
impl Sides for ServerConnectionData {}
impl Sides for ClientConnectionData {}

/// What rustls tells as long as its object lives.
struct About {
    shape: Shape,
    group: Option<&'static str>,
    resumed: bool,
    alpn: bool,
    certificate: Option<Box<[u8]>>,
}

impl About {
    fn of(connection: &CommonState) -> Result<Self, Fault> {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
            Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
            _ => return Err(internal("a version that was not offered")),
        };
        let group = connection.negotiated_key_exchange_group();
        let certificates = connection.peer_certificates();
        Ok(Self {
            // The AEAD is told with its keys.
            shape: Shape { version, aead: Aead::Aes128Gcm },
            group: group.and_then(|group| group.name().as_str()),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            alpn: connection.alpn_protocol().is_some(),
            certificate: certificates.and_then(<[_]>::first).map(|der| Box::from(der.as_ref())),
        })
    }

    fn welcome(
        mut self,
        role: Role,
        server_name: Option<Box<str>>,
        extracted: &ExtractedSecrets,
        secrets: &Secrets,
    ) -> Result<Welcome, Fault> {
        let (aead, read, write) = match (&extracted.rx.1, &extracted.tx.1) {
            (
                ConnectionTrafficSecrets::Aes128Gcm { key, iv },
                ConnectionTrafficSecrets::Aes128Gcm { key: to, iv: to_iv },
            ) => (Aead::Aes128Gcm, (key, iv), (to, to_iv)),
            (
                ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
                ConnectionTrafficSecrets::Chacha20Poly1305 { key: to, iv: to_iv },
            ) => (Aead::ChaCha20Poly1305, (key, iv), (to, to_iv)),
            _ => return Err(internal("a suite that was not offered")),
        };
        self.shape.aead = aead;
        if self.shape.version == Version::Tls13 && !secrets.are_complete() {
            return Err(internal("a handshake without secrets"));
        }
        let (read_secret, write_secret) = match role {
            Role::Server => (&secrets.client, &secrets.server),
            Role::Client => (&secrets.server, &secrets.client),
        };
        // Numbers are rustls': what it sent under these keys, tickets say, is not ours to guess.
        let read = Keys {
            secret: read_secret,
            key: read.0.as_ref(),
            iv: read.1.as_ref(),
            next: extracted.rx.0,
        };
        let write = Keys {
            secret: write_secret,
            key: write.0.as_ref(),
            iv: write.1.as_ref(),
            next: extracted.tx.0,
        };
        let record = Record::new(role, self.shape, read, write);
        let record = record.ok_or_else(|| internal("keys of a wrong length"))?;
        Ok(self.with(record, server_name))
    }

    fn with(self, record: Record, server_name: Option<Box<str>>) -> Welcome {
        Welcome {
            group: self.group,
            resumed: self.resumed,
            alpn: self.alpn,
            server_name,
            certificate: self.certificate,
            ..record.into()
        }
    }
}

/// The traffic secrets of TLS 1.3, which rustls tells its key log only.
#[derive(Default)]
struct Secrets {
    client: [u8; SECRET],
    server: [u8; SECRET],
}

impl Secrets {
    fn merge(&mut self, other: Self) {
        for (mine, new) in [(&mut self.client, &other.client), (&mut self.server, &other.server)] {
            if *new != [0; SECRET] {
                *mine = *new;
            }
        }
    }

    fn are_complete(&self) -> bool {
        self.client != [0; SECRET] && self.server != [0; SECRET]
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.client.zeroize();
        self.server.zeroize();
    }
}

thread_local! {
    /// What the key log heard during one call of rustls, on this thread.
    static CAUGHT: RefCell<Secrets> = RefCell::default();
    /// For what name it looked for a certificate.
    static ASKED: RefCell<Option<Box<str>>> = RefCell::default();
}

/// rustls asks for the certificate of `name`: it tells nobody else.
pub(super) fn asked(name: Option<&str>) {
    ASKED.set(name.map(Box::from));
}

/// Where setups send rustls' key log: to the greeting that is being fed.
#[derive(Debug)]
pub(super) struct Catch;

impl KeyLog for Catch {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        let Ok(secret) = <&[u8; SECRET]>::try_from(secret) else { return };
        CAUGHT.with_borrow_mut(|caught| match label {
            CLIENT_SECRET => caught.client = *secret,
            SERVER_SECRET => caught.server = *secret,
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT_SECRET | SERVER_SECRET)
    }
}

/// Header, level, code.
const ALERT_LEN: usize = HEADER + 2;
/// The same under the keys of TLS 1.3.
const SEALED_ALERT_LEN: usize = ALERT_LEN + 1 + 16;
const CLIENT_SECRET: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER_SECRET: &str = "SERVER_TRAFFIC_SECRET_0";

/// The alert of an error for which rustls has none.
fn alert_of(error: &Error) -> u8 {
    match error {
        Error::InvalidMessage(_) => DECODE_ERROR,
        Error::PeerSentOversizedRecord => RECORD_OVERFLOW,
        Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => UNEXPECTED_MESSAGE,
        _ => INTERNAL_ERROR,
    }
}

fn internal(text: &str) -> Fault {
    Fault::Greeting(Reason::Internal, text.to_owned())
}

pub(super) fn refused(error: &Error) -> Fault {
    let reason = match error {
        Error::AlertReceived(_) => Reason::Alert,
        Error::InvalidCertificate(_)
        | Error::NoCertificatesPresented
        | Error::InvalidCertRevocationList(_) => Reason::Certificate,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Reason::Incompatible,
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::InvalidMessage(_)
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord => Reason::Malformed,
        Error::DecryptError => Reason::Decrypt,
        _ => Reason::Internal,
    };
    Fault::Greeting(reason, error.to_string())
}
