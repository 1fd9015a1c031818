//! Both ends of a connection in memory: ours, and rustls'.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use ringhold::tls::keys::{
    ClientMaterials, ClientSetup, KeyPair, ServerKeys, ServerMaterials, ServerSetup, Trust,
};
use ringhold::tls::{
    Aead, Fault, Greeting, Limits, Opened, Record, RecordLayer, Role, Shape, Step, Ticket,
    TicketSecret, Version, Welcome, greet, length,
};
use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    SupportedCipherSuite,
};

pub(crate) use crate::support::unbroken::unbroken;

/// Every version with every AEAD.
pub(crate) const SHAPES: [Shape; 4] = [
    Shape { version: Version::Tls13, aead: Aead::Aes128Gcm },
    Shape { version: Version::Tls13, aead: Aead::ChaCha20Poly1305 },
    Shape { version: Version::Tls12, aead: Aead::Aes128Gcm },
    Shape { version: Version::Tls12, aead: Aead::ChaCha20Poly1305 },
];

pub(crate) const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/keys");

/// Our end.
pub(crate) struct Ours {
    role: Role,
    greeting: Option<Greeting>,
    setup: Option<ServerSetup>,
    pub(crate) welcome: Option<Welcome>,
    pub(crate) limits: Limits,
    /// Bytes of which the last record is not whole.
    partial: Vec<u8>,
    pub(crate) heard: Vec<u8>,
    pub(crate) out: Vec<u8>,
    pub(crate) ended: bool,
}

impl Ours {
    pub(crate) fn server(setup: ServerSetup) -> Self {
        Self::of(Role::Server, None, Some(setup), Vec::new())
    }

    pub(crate) fn client(setup: &ClientSetup, name: &str) -> Self {
        Self::resuming(setup, name, true)
    }

    /// Goes on with an earlier session, if it may.
    pub(crate) fn resuming(setup: &ClientSetup, name: &str, may: bool) -> Self {
        let mut out = Vec::new();
        let greeting = Greeting::client(setup, name, may, &mut out).unwrap();
        Self::of(Role::Client, Some(greeting), None, out)
    }

    fn of(
        role: Role,
        greeting: Option<Greeting>,
        setup: Option<ServerSetup>,
        out: Vec<u8>,
    ) -> Self {
        Self {
            role,
            greeting,
            setup,
            welcome: None,
            limits: Limits::default(),
            partial: Vec::new(),
            heard: Vec::new(),
            out,
            ended: false,
        }
    }

    pub(crate) fn record(&mut self) -> &mut Record {
        &mut self.welcome.as_mut().expect("the handshake is done").record
    }

    pub(crate) fn send(&mut self, parts: &[&[u8]]) {
        let welcome = self.welcome.as_mut().expect("the handshake is done");
        welcome.record.seal(&self.limits, parts, &mut self.out).unwrap();
    }

    /// Takes bytes as a socket would give them; with a fault, its alert is in `out`.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.partial.extend_from_slice(bytes);
        let mut bytes = std::mem::take(&mut self.partial);
        let mut at = 0;
        loop {
            let len = match &self.welcome {
                Some(_) => length(&bytes[at..]),
                None => {
                    let first = self.role == Role::Server && self.greeting.is_none();
                    greet::length(&bytes[at..], first)
                }
            };
            let len = len.inspect_err(|fault| self.refuse(fault))?;
            let Some(len) = len.filter(|len| *len <= bytes.len() - at) else { break };
            self.take(&mut bytes[at..at + len])?;
            at += len;
        }
        self.partial = bytes.split_off(at);
        Ok(())
    }

    fn take(&mut self, record: &mut [u8]) -> Result<(), Fault> {
        if let Some(welcome) = &mut self.welcome {
            let opened = welcome.record.open(&self.limits, record);
            match opened.inspect_err(|fault| welcome.record.refuse(fault, &mut self.out))? {
                Opened::Data(place) => self.heard.extend_from_slice(&record[place]),
                Opened::Nothing => {}
                Opened::Messages(place) => {
                    // As the engine does.
                    let over = |ticket: &mut Ticket| ticket.take(&record[place]);
                    welcome.ticket.take_if(over);
                }
                Opened::Closed => self.ended = true,
            }
            if welcome.record.owes() {
                welcome.record.settle(&mut self.out)?;
            }
            return Ok(());
        }
        if self.greeting.is_none() {
            self.greeting = Some(Greeting::server(self.setup.as_ref().unwrap())?);
        }
        match self.greeting.as_mut().unwrap().feed(record, &mut self.out)? {
            Step::More => {}
            Step::Done(welcome) => self.welcome = Some(*welcome),
        }
        Ok(())
    }

    fn refuse(&mut self, fault: &Fault) {
        match (&mut self.welcome, &mut self.greeting) {
            (Some(welcome), _) => welcome.record.refuse(fault, &mut self.out),
            (None, Some(greeting)) => greeting.refuse(fault, &mut self.out),
            (None, None) => greet::alert(fault, &mut self.out),
        }
    }
}

/// rustls' end.
pub(crate) struct Peer {
    pub(crate) tls: Connection,
    pub(crate) heard: Vec<u8>,
}

impl Peer {
    pub(crate) fn client(config: ClientConfig, name: &str) -> Self {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Self::of(ClientConnection::new(Arc::new(config), name).unwrap().into())
    }

    pub(crate) fn server(config: ServerConfig) -> Self {
        Self::of(ServerConnection::new(Arc::new(config)).unwrap().into())
    }

    fn of(mut tls: Connection) -> Self {
        tls.set_buffer_limit(None);
        Self { tls, heard: Vec::new() }
    }

    pub(crate) fn send(&mut self, data: &[u8]) {
        self.tls.writer().write_all(data).unwrap();
    }

    pub(crate) fn out(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).unwrap();
        }
        out
    }

    pub(crate) fn receive(&mut self, mut bytes: &[u8]) -> Result<(), rustls::Error> {
        while !bytes.is_empty() {
            // Nothing is taken after close_notify.
            if self.tls.read_tls(&mut bytes).unwrap() == 0 {
                break;
            }
            self.tls.process_new_packets()?;
            let mut heard = Vec::new();
            // "Would block" is the end of what is there.
            let _ = self.tls.reader().read_to_end(&mut heard);
            self.heard.extend_from_slice(&heard);
        }
        Ok(())
    }
}

/// Moves bytes until neither side has any.
pub(crate) fn settle(ours: &mut Ours, peer: &mut Peer) -> Result<(), Fault> {
    loop {
        let from_peer = peer.out();
        let result = ours.receive(&from_peer);
        let from_us = std::mem::take(&mut ours.out);
        let taken = peer.receive(&from_us);
        result?;
        taken.unwrap();
        if from_us.is_empty() && from_peer.is_empty() {
            return Ok(());
        }
    }
}

/// A finished handshake of each role.
pub(crate) fn connected(role: Role, shape: Shape) -> (Ours, Peer) {
    let (mut ours, mut peer) = match role {
        Role::Server => (
            Ours::server(server_setup(&server_keys())),
            Peer::client(client_config(shape), "localhost"),
        ),
        Role::Client => {
            (Ours::client(&client_setup(), "localhost"), Peer::server(server_config(shape)))
        }
    };
    settle(&mut ours, &mut peer).unwrap();
    if record_layer() == RecordLayer::Own {
        assert_eq!(ours.record().shape(), Some(shape));
    }
    (ours, peer)
}

pub(crate) fn path(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

pub(crate) fn pair(name: &str) -> KeyPair {
    KeyPair { cert_pem: path(&format!("{name}.pem")), key_pem: path(&format!("{name}.key")) }
}

pub(crate) fn server_keys() -> ServerKeys {
    ServerKeys {
        certificates: vec![pair("localhost")],
        client_ca_pem: None,
        min_version: Version::Tls12,
        tickets: TicketSecret::from_bytes(&[7; 32]).unwrap(),
        record_layer: record_layer(),
        on_order: None,
    }
}

/// Whose record layer servers have: the suites run once with each.
pub(crate) fn record_layer() -> RecordLayer {
    match std::env::var("RINGHOLD_RECORD_LAYER").as_deref() {
        Ok("rustls") => RecordLayer::Rustls,
        Ok("own") | Err(_) => RecordLayer::Own,
        Ok(other) => panic!("RINGHOLD_RECORD_LAYER is {other:?}"),
    }
}

pub(crate) fn server_setup(keys: &ServerKeys) -> ServerSetup {
    ServerMaterials::load(keys, SystemTime::now()).unwrap().setup().unwrap()
}

pub(crate) fn client_setup() -> ClientSetup {
    ClientSetup::new(&Trust::Authorities(path("ca.pem"))).unwrap()
}

/// With room for so many tickets.
pub(crate) fn client_keeping(tickets: usize) -> ClientSetup {
    let materials = ClientMaterials::load(&Trust::Authorities(path("ca.pem"))).unwrap();
    materials.with_tickets(tickets).setup().unwrap()
}

pub(crate) fn certificates(name: &str) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(path(&format!("{name}.pem"))).unwrap();
    found.map(Result::unwrap).collect()
}

pub(crate) fn key(name: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(path(&format!("{name}.key"))).unwrap()
}

pub(crate) fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(certificates("ca").remove(0)).unwrap();
    roots
}

fn suites(shape: Shape) -> Vec<SupportedCipherSuite> {
    match (shape.version, shape.aead) {
        (Version::Tls13, Aead::Aes128Gcm) => vec![suite::TLS13_AES_128_GCM_SHA256],
        (Version::Tls13, _) => vec![suite::TLS13_CHACHA20_POLY1305_SHA256],
        (Version::Tls12, Aead::Aes128Gcm) => vec![
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ],
        (Version::Tls12, _) => vec![
            suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
    }
}

pub(crate) fn provider(shape: Shape) -> Arc<rustls::crypto::CryptoProvider> {
    let provider = aws_lc_rs::default_provider();
    Arc::new(rustls::crypto::CryptoProvider { cipher_suites: suites(shape), ..provider })
}

/// A client that speaks this shape only.
pub(crate) fn client_config(shape: Shape) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider(shape));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = match builder {
        Ok(builder) => builder,
        Err(_) => unreachable!("a suite has a version"),
    };
    builder.with_root_certificates(roots()).with_no_client_auth()
}

pub(crate) fn server_config(shape: Shape) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider(shape));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    builder.with_single_cert(certificates("localhost"), key("localhost")).unwrap()
}
