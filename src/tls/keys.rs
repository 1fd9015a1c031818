//! What a handshake needs beside the peer: certificates by name, client certificates, versions,
//! tickets; and, where we dial, whom to trust.
//!
//! Reads files only when told to load, and has rustls make of them what a handshake asks.
//!
//! Invariant: what was loaded is whole and fits together: a mistake in any part, an expired
//! certificate too, fails the load, and what was loaded before stays in use.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureAlgorithm,
    SignatureScheme, SupportedProtocolVersion,
};

use super::certificates::{ACME_TLS, Facts, Names, Table};
use super::direction::Version;
use super::greet::Catch;
use super::layer::RecordLayer;
use super::pem::{self, PemError};
use super::resumption::KnownServers;
use super::scripted::Scripts;
use super::tickets::{TicketSecret, Tickets};

/// What a server's handshakes need, as an operator writes it. Each `*_pem` is a path, PEM text or
/// base64 of PEM text.
#[derive(Clone, Debug)]
pub struct ServerKeys {
    /// Certificates with their keys; the first is for clients that name no host, or one of none.
    pub certificates: Vec<KeyPair>,
    /// Authorities of client certificates, which are then required.
    pub client_ca_pem: Option<String>,
    /// The lowest version that is spoken.
    pub min_version: Version,
    /// From which keys of tickets follow.
    pub tickets: TicketSecret,
    /// Who carries connections after their handshakes.
    pub record_layer: RecordLayer,
    /// Where an authority issues certificates while the server runs; `None`: all there are, are in
    /// `certificates`.
    pub on_order: Option<OnOrder>,
}

/// Certificates that an authority issues while the server runs (ACME, RFC 8555). Without any a
/// server starts all the same, and its handshakes fail until one is there.
#[derive(Clone, Debug, Default)]
pub struct OnOrder {
    /// Those it has issued, behind `certificates`. One that has expired is used until another is
    /// there.
    pub issued: Vec<KeyPair>,
    /// Answers to the authority's question who serves a name, each with that name (`tls-alpn-01`,
    /// RFC 8737). Only a client sees them that offers `acme-tls/1` and nothing else; its connection
    /// ends with the handshake.
    pub challenges: Vec<KeyPair>,
}

/// A chain of certificates, the host's own first, and its key. Each is a path, PEM text or base64
/// of PEM text.
#[derive(Clone)]
pub struct KeyPair {
    /// The chain.
    pub cert_pem: String,
    /// The key: PKCS#8, PKCS#1 or SEC1.
    pub key_pem: String,
}

/// Loaded keys: [`ServerMaterials::setup`] makes of them what a core needs.
pub struct ServerMaterials {
    pairs: Vec<LoadedPair>,
    facts: Vec<Facts>,
    /// With their names.
    challenges: Vec<(Vec<String>, LoadedPair)>,
    client_roots: Option<RootCertStore>,
    min_version: Version,
    tickets: TicketSecret,
    layer: RecordLayer,
}

type LoadedPair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What the handshakes of one core share. A core has its own: a count that cores share would be a
/// cache line they fight for.
pub struct ServerSetup(Way<ServerConfig>, RecordLayer);

/// Loaded trust: [`ClientMaterials::setup`] makes of it what a core needs to dial.
pub struct ClientMaterials {
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    /// How many tickets a core keeps.
    tickets: usize,
}

/// What handshakes share where we dial.
#[derive(Clone)]
pub struct ClientSetup {
    /// For handshakes that go on with an earlier session, where there is one.
    resuming: Way<ClientConfig>,
    /// For whole ones.
    whole: Way<ClientConfig>,
    /// Whether tickets are kept.
    keeps: bool,
}

/// Who does handshakes.
pub(super) enum Way<C> {
    Rustls(Arc<C>),
    #[cfg_attr(not(feature = "simulation"), allow(dead_code, reason = "scripts have no value"))]
    Scripted(Scripts),
}

/// Whom we trust where we dial.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Whom the host trusts.
    System,
    /// These authorities only: a path, PEM text or base64 of it.
    Authorities(String),
    /// Likewise, whatever name is in the certificate.
    AnyOf(String),
    /// Anybody. The connection is encrypted, to whomever.
    Anybody,
}

/// Why keys cannot be loaded: which, and why.
#[derive(Debug)]
pub struct KeyFault {
    what: String,
    why: String,
}

/// How long before its end a certificate is worth a warning; a quarter of its time, if that is
/// shorter.
pub const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// The application protocol of WebSockets and of all else here.
const ALPN: &[u8] = b"http/1.1";
/// A second one would cost 6 µs of each handshake.
const TICKETS: usize = 1;

impl ServerMaterials {
    /// Reads and checks all of it; `now` decides what is expired.
    pub fn load(keys: &ServerKeys, now: SystemTime) -> Result<Self, KeyFault> {
        if keys.certificates.is_empty() && keys.on_order.is_none() {
            return Err(KeyFault::new("certificates", "there is none"));
        }
        let mut pairs = Vec::new();
        let mut facts = Vec::new();
        for pair in &keys.certificates {
            let what = format!("certificate {}", pem::name(&pair.cert_pem));
            let (loaded, about) = pair.load_with_facts()?;
            check(&about, now).map_err(KeyFault::of(&what))?;
            facts.push(about);
            pairs.push(loaded);
        }
        for pair in keys.on_order.iter().flat_map(|order| &order.issued) {
            let (loaded, about) = pair.load_with_facts()?;
            facts.push(about);
            pairs.push(loaded);
        }
        let mut challenges = Vec::new();
        for pair in keys.on_order.iter().flat_map(|order| &order.challenges) {
            let (chain, key) = pair.load()?;
            let names = Names::of(chain[0].as_ref()).map_err(KeyFault::of("challenge"))?.names;
            challenges.push((names, (chain, key)));
        }
        let client_roots = match &keys.client_ca_pem {
            Some(source) => Some(roots(source).map_err(KeyFault::of("client_ca_pem"))?),
            None => None,
        };
        let tickets = keys.tickets.clone();
        let (min_version, layer) = (keys.min_version, keys.record_layer);
        let materials =
            Self { pairs, facts, challenges, client_roots, min_version, tickets, layer };
        // Whatever rustls could refuse, it refuses now.
        materials.setup()?;
        Ok(materials)
    }

    /// What one core needs, with nothing in common with that of another.
    pub fn setup(&self) -> Result<ServerSetup, KeyFault> {
        self.setup_for(ALPN)
    }

    /// The same where another protocol than HTTP/1.1 is spoken.
    pub fn setup_for(&self, protocol: &[u8]) -> Result<ServerSetup, KeyFault> {
        let provider = Arc::new(provider());
        let mut table = Table::default();
        for ((chain, key), facts) in self.pairs.iter().zip(&self.facts) {
            let key = CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider);
            table.push(&facts.names, key.map_err(KeyFault::of("certificates"))?);
        }
        for (names, (chain, key)) in &self.challenges {
            // Whether it fits is not asked: its critical extension would be refused.
            let key = provider.key_provider.load_private_key(key.clone_key());
            let key = key.map_err(KeyFault::of("challenge"))?;
            table.push_challenge(names, CertifiedKey::new(chain.clone(), key));
        }
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions(self.min_version))
            .map_err(KeyFault::of("min_version"))?;
        let builder = match &self.client_roots {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots.clone()),
                    Arc::clone(&provider),
                );
                let verifier = verifier.build().map_err(KeyFault::of("client_ca_pem"))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(table));
        config.alpn_protocols = vec![protocol.to_vec()];
        if !self.challenges.is_empty() {
            config.alpn_protocols.push(ACME_TLS.to_vec());
        }
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer =
            Arc::new(Tickets::new(self.tickets.clone(), Arc::clone(&config.time_provider)));
        config.send_tls13_tickets = TICKETS;
        config.max_early_data_size = 0;
        config.send_half_rtt_data = false;
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(Catch);
        Ok(ServerSetup(Way::Rustls(Arc::new(config)), self.layer))
    }

    /// Who carries connections after their handshakes.
    pub fn record_layer(&self) -> RecordLayer {
        self.layer
    }

    /// What there is to know about the certificates, in their order.
    pub fn facts(&self) -> &[Facts] {
        &self.facts
    }

    /// What an operator should hear: certificates near their end, keys that make handshakes dear.
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let mut warnings = Vec::new();
        for facts in &self.facts {
            let name = facts.names.first().map_or("without a name", String::as_str);
            let lifetime = facts.not_after.duration_since(facts.not_before).unwrap_or_default();
            match facts.not_after.duration_since(now) {
                // Some live for days only.
                Ok(left) if left > EXPIRES_SOON.min(lifetime / 4) => {}
                left => {
                    let hours = left.unwrap_or_default().as_secs() / 3600;
                    warnings.push(format!("the certificate {name} expires in {hours} hours"));
                }
            }
            if facts.is_rsa {
                warnings.push(format!(
                    "the key of certificate {name} is RSA, which makes a handshake five times as \
                     dear as ECDSA P-256"
                ));
            }
        }
        warnings
    }
}

impl ServerSetup {
    #[cfg(feature = "simulation")]
    pub(super) fn of(way: Way<ServerConfig>) -> Self {
        Self(way, RecordLayer::Own)
    }

    pub(super) fn way(&self) -> &Way<ServerConfig> {
        &self.0
    }

    pub(super) fn layer(&self) -> RecordLayer {
        self.1
    }
}

impl ClientMaterials {
    /// Reads the certificates of who is trusted.
    pub fn load(trust: &Trust) -> Result<Self, KeyFault> {
        let provider = Arc::new(provider());
        let verifier = verifier(trust, &provider)?;
        let materials = Self { provider, verifier, tickets: 0 };
        // Whatever rustls could refuse, it refuses now.
        materials.setup()?;
        Ok(materials)
    }

    /// The same, with room for so many tickets in each core (a KiB or two each, as long as the
    /// server's certificates): a dial that may goes on with an earlier session. Without, every
    /// handshake is a whole one. The first ticket of a connection is kept, if it has at most 8 KiB,
    /// and used once, the newest first. Where there is no room, the server's oldest makes some. Of
    /// more than 256 servers nothing is kept.
    pub fn with_tickets(mut self, most: usize) -> Self {
        self.tickets = most;
        self
    }

    /// What one core needs: with sessions of its own.
    pub fn setup(&self) -> Result<ClientSetup, KeyFault> {
        let mut whole = self.config()?;
        // Copies of one: rustls goes on with no session that was begun with another verifier.
        let mut resuming = whole.clone();
        let keeps = self.tickets > 0;
        if keeps {
            let sessions = KnownServers::new(self.tickets);
            whole.resumption = Resumption::store(Arc::new(sessions.unused()));
            resuming.resumption = Resumption::store(Arc::new(sessions));
        }
        let way = |config| Way::Rustls(Arc::new(config));
        Ok(ClientSetup { resuming: way(resuming), whole: way(whole), keeps })
    }

    fn config(&self) -> Result<ClientConfig, KeyFault> {
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions(Version::Tls12))
            .map_err(KeyFault::of("versions"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier));
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(Catch);
        Ok(config)
    }
}

impl ClientSetup {
    /// What one core needs to dial whom it trusts.
    pub fn new(trust: &Trust) -> Result<Self, KeyFault> {
        ClientMaterials::load(trust)?.setup()
    }

    #[cfg(feature = "simulation")]
    pub(super) fn of(way: Way<ClientConfig>) -> Self {
        Self { resuming: way.clone(), whole: way, keeps: false }
    }

    pub(super) fn way(&self, resume: bool) -> &Way<ClientConfig> {
        if resume { &self.resuming } else { &self.whole }
    }

    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }
}

/// What a client needs whose stream rustls itself carries: the broker's, of which there are few.
/// `identity` is who we are, where the other end asks.
///
/// # Errors
/// A certificate or key cannot be loaded, or they do not fit together.
pub fn stream_client(
    trust: &Trust,
    identity: Option<&KeyPair>,
) -> Result<Arc<ClientConfig>, KeyFault> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(trust, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(Version::Tls12))
        .map_err(KeyFault::of("versions"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some(pair) = identity else { return Ok(Arc::new(builder.with_no_client_auth())) };
    let (chain, key) = pair.load()?;
    let what = format!("certificate {}", pem::name(&pair.cert_pem));
    let config = builder.with_client_auth_cert(chain, key).map_err(KeyFault::of(&what))?;
    Ok(Arc::new(config))
}

/// Whether what names a PEM is a path, and not the PEM itself.
pub fn is_path(source: &str) -> bool {
    pem::is_path(source)
}

fn verifier(
    trust: &Trust,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, KeyFault> {
    let provider = Arc::clone(provider);
    Ok(match trust {
        Trust::System => {
            let verifier = rustls_platform_verifier::Verifier::new(provider);
            Arc::new(verifier.map_err(KeyFault::of("the host's certificates"))?)
        }
        Trust::Authorities(source) => of_authorities(source, provider)?,
        Trust::AnyOf(source) => {
            let signed = Some(of_authorities(source, provider.clone())?);
            Arc::new(Lenient { provider, signed })
        }
        Trust::Anybody => Arc::new(Lenient { provider, signed: None }),
    })
}

fn of_authorities(
    source: &str,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, KeyFault> {
    let roots = Arc::new(roots(source).map_err(KeyFault::of("authorities"))?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider);
    verifier.build().map_err(KeyFault::of("authorities"))
}

/// Suites that hash with SHA-256, so that the secrets of all have one size; of these, TLS 1.3 has
/// its mandatory one, and no client but one with a policy of AES-256 only is lost.
fn provider() -> CryptoProvider {
    use aws_lc_rs::{cipher_suite as suite, kx_group as group};
    CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![group::X25519MLKEM768, group::X25519, group::SECP256R1],
        ..aws_lc_rs::default_provider()
    }
}

fn versions(min: Version) -> &'static [&'static SupportedProtocolVersion] {
    static ALL: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match min {
        Version::Tls12 => &ALL,
        Version::Tls13 => &ALL[..1],
    }
}

fn facts(chain: &[CertificateDer<'static>], key: PrivateKeyDer<'static>) -> Result<Facts, String> {
    let key = CertifiedKey::from_der(chain.to_vec(), key, &provider());
    let key = key.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => "the key is not this certificate's".to_owned(),
        error => error.to_string(),
    })?;
    let Names { names, not_before, not_after } = Names::of(chain[0].as_ref())?;
    let is_rsa = key.key.algorithm() == SignatureAlgorithm::RSA;
    Ok(Facts { names, not_before, not_after, is_rsa })
}

fn check(facts: &Facts, now: SystemTime) -> Result<(), String> {
    if now > facts.not_after {
        let days = now.duration_since(facts.not_after).unwrap_or_default().as_secs() / 86_400;
        return Err(format!("it expired {days} days ago"));
    }
    if now < facts.not_before {
        return Err("it is not valid yet".to_owned());
    }
    Ok(())
}

fn roots(source: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates(source).map_err(|error| error.to_string())? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

impl<C> Clone for Way<C> {
    #[cfg_attr(
        not(feature = "simulation"),
        allow(unreachable_code, reason = "scripts have no value")
    )]
    fn clone(&self) -> Self {
        match self {
            Self::Rustls(config) => Self::Rustls(Arc::clone(config)),
            Self::Scripted(scripts) => Self::Scripted(scripts.clone()),
        }
    }
}

/// Believes who has the key of a certificate: of every one, or of those that `signed` finds an
/// authority's, under any name.
#[derive(Debug)]
struct Lenient {
    provider: Arc<CryptoProvider>,
    signed: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
        let Some(signed) = &self.signed else { return Ok(ServerCertVerified::assertion()) };
        match signed.verify_server_cert(certificate, between, name, ocsp, now) {
            // It looks at the name last.
            Err(rustls::Error::InvalidCertificate(
                NotValidForName | NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl KeyPair {
    /// What there is to know about the certificate.
    ///
    /// # Errors
    /// It cannot be loaded, or the key is another's.
    pub fn facts(&self) -> Result<Facts, KeyFault> {
        Ok(self.load_with_facts()?.1)
    }

    fn load_with_facts(&self) -> Result<(LoadedPair, Facts), KeyFault> {
        let (chain, key) = self.load()?;
        let what = format!("certificate {}", pem::name(&self.cert_pem));
        let facts = facts(&chain, key.clone_key()).map_err(KeyFault::of(&what))?;
        Ok(((chain, key), facts))
    }

    fn load(&self) -> Result<LoadedPair, KeyFault> {
        let what = format!("certificate {}", pem::name(&self.cert_pem));
        let chain = pem::certificates(&self.cert_pem).map_err(KeyFault::of(&what))?;
        let what = format!("key {}", pem::name(&self.key_pem));
        let key = pem::private_key(&self.key_pem).map_err(KeyFault::of(&what))?;
        Ok((chain, key))
    }
}

impl KeyFault {
    fn new(what: &str, why: &str) -> Self {
        Self { what: what.to_owned(), why: why.to_owned() }
    }

    /// For what could not be loaded.
    pub(crate) fn of<E: ToString>(what: &str) -> impl FnOnce(E) -> Self {
        move |error| Self::new(what, &error.to_string())
    }
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for KeyFault {}

impl From<PemError> for String {
    fn from(error: PemError) -> Self {
        error.to_string()
    }
}

impl fmt::Debug for ServerMaterials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerMaterials").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientMaterials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMaterials").finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}
