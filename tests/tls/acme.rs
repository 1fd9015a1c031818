//! A certificate authority as RFC 8555 describes one, on loopback: it checks signatures and nonces,
//! proves hosts by TLS and by HTTP where it is told that they are, and issues certificates.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};
use serde_json::{Value, json};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::request::CertReq;

use crate::support::PATIENCE;

/// See the module's text.
pub(crate) struct Authority {
    port: u16,
    state: Arc<Mutex<State>>,
}

struct State {
    base: String,
    ca: Certificate,
    issuer: Issuer<'static, KeyPair>,
    nonces: HashSet<String>,
    /// By their numbers: point and thumbprint.
    accounts: Vec<Option<(Vec<u8>, String)>>,
    orders: Vec<Order>,
    /// Where hosts are looked for, in place of their ports 443 and 80.
    tls: Option<SocketAddr>,
    http: Option<SocketAddr>,
    /// Requests that are answered with `badNonce` from now on.
    bad_nonces: u32,
    /// Proofs wait until this is taken away.
    held: bool,
    /// What was seen of each proof: nothing wrong, or what.
    proofs: Vec<Result<(), String>>,
    /// Tokens whose proofs are looked at.
    asked: Vec<String>,
}

struct Order {
    account: usize,
    host: String,
    token: String,
    status: &'static str,
    error: Option<Value>,
    /// `Processing` is said once before `valid`.
    certificate: Option<String>,
    polled: bool,
}

impl Authority {
    /// With HTTPS under the certificate of localhost in `folder`.
    pub(crate) fn start(folder: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of tests");
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        let state = State {
            base: format!("https://localhost:{port}"),
            ca,
            issuer: Issuer::new(params, key),
            nonces: HashSet::new(),
            accounts: Vec::new(),
            orders: Vec::new(),
            tls: None,
            http: None,
            bad_nonces: 0,
            held: false,
            proofs: Vec::new(),
            asked: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let chain = CertificateDer::pem_file_iter(format!("{folder}/localhost.pem")).unwrap();
        let chain = chain.map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(format!("{folder}/localhost.key")).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(chain, key).unwrap());
        let shared = state.clone();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (config, shared) = (config.clone(), shared.clone());
                thread::spawn(move || serve(socket, config, &shared));
            }
        });
        Self { port, state }
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://localhost:{}/directory", self.port)
    }

    /// Where hosts are looked for by TLS and by HTTP.
    pub(crate) fn look_at(&self, tls: Option<SocketAddr>, http: Option<SocketAddr>) {
        let mut state = self.state();
        (state.tls, state.http) = (tls, http);
    }

    /// Proofs wait.
    pub(crate) fn hold(&self, held: bool) {
        self.state().held = held;
    }

    /// So many requests are answered with `badNonce`.
    pub(crate) fn refuse_nonces(&self, count: u32) {
        self.state().bad_nonces = count;
    }

    /// Knows no account any more.
    pub(crate) fn forget_accounts(&self) {
        self.state().accounts.iter_mut().for_each(|account| *account = None);
    }

    pub(crate) fn accounts(&self) -> usize {
        self.state().accounts.len()
    }

    /// Orders so far, whatever came of them.
    pub(crate) fn orders(&self) -> usize {
        self.state().orders.len()
    }

    /// Tokens of the proofs that were asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    /// What was wrong with each proof that was looked at.
    pub(crate) fn proofs(&self) -> Vec<Result<(), String>> {
        self.state().proofs.clone()
    }

    /// The root of what is issued.
    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.state().ca.der().clone()
    }

    /// A certificate with its key, as it was issued `since` ago for so long.
    pub(crate) fn issue(&self, host: &str, since: Duration, lifetime: Duration) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        let now = SystemTime::now();
        params.not_before = (now - since).into();
        params.not_after = (now - since + lifetime).into();
        let state = self.state();
        let certificate = params.signed_by(&key, &state.issuer).unwrap();
        format!("{}\n{}{}", key.serialize_pem(), certificate.pem(), state.ca.pem())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// What is answered: status, further header lines, body.
type Answer = (u16, Vec<(&'static str, String)>, String);

fn serve(socket: TcpStream, config: Arc<ServerConfig>, shared: &Arc<Mutex<State>>) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let tls = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
    let mut stream = BufReader::new(tls);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(stream.read_line(&mut head), Ok(1..)) {
                return;
            }
        }
        let length = head.to_ascii_lowercase();
        let length = length.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).unwrap();
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let (status, lines, body) = answer(shared, method, path, &body);
        let mut text = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        let nonce = fresh_nonce(&mut shared.lock().unwrap());
        text += &format!("Replay-Nonce: {nonce}\r\n");
        for (name, value) in lines {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        if method != "HEAD" {
            text += &body;
        }
        if stream.get_mut().write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

fn fresh_nonce(state: &mut State) -> String {
    let nonce = unique();
    state.nonces.insert(nonce.clone());
    nonce
}

fn unique() -> String {
    BASE64.encode(uuid::Uuid::new_v4().as_bytes())
}

fn problem(status: u16, kind: &str, detail: &str) -> Answer {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    let body = json!({"type": kind, "detail": detail, "status": status}).to_string();
    (status, vec![("Content-Type", "application/problem+json".to_owned())], body)
}

fn answer(shared: &Arc<Mutex<State>>, method: &str, path: &str, body: &[u8]) -> Answer {
    let mut state = shared.lock().unwrap();
    let base = state.base.clone();
    match (method, path) {
        ("GET", "/directory") => {
            let of = |name: &str| format!("{base}/{name}");
            let directory = json!({
                "newNonce": of("nonce"), "newAccount": of("account"), "newOrder": of("order"),
                "revokeCert": of("revoke"), "keyChange": of("key-change"),
            });
            return (200, Vec::new(), directory.to_string());
        }
        ("HEAD", "/nonce") => return (200, Vec::new(), String::new()),
        ("POST", _) => {}
        _ => return problem(405, "malformed", "no such method here"),
    }
    let (account, payload) = match signed(&mut state, path, body) {
        Ok(signed) => signed,
        Err(answer) => return answer,
    };
    let mut parts = path.split('/').skip(1);
    let kind = parts.next().unwrap_or_default();
    let number = parts.next().and_then(|number| number.parse::<usize>().ok());
    match (kind, number) {
        ("account", None) => {
            assert_eq!(payload["termsOfServiceAgreed"], true);
            (201, vec![("Location", format!("{base}/accounts/{account}"))], "{}".to_owned())
        }
        ("order", None) => {
            let host = payload["identifiers"][0]["value"].as_str().unwrap().to_owned();
            state.orders.push(Order {
                account,
                host,
                token: unique(),
                status: "pending",
                error: None,
                certificate: None,
                polled: false,
            });
            let number = state.orders.len() - 1;
            let location = vec![("Location", format!("{base}/orders/{number}"))];
            (201, location, order(&mut state, number))
        }
        ("orders", Some(number)) => (200, Vec::new(), order(&mut state, number)),
        ("authorizations", Some(number)) => (200, Vec::new(), authorization(&state, number)),
        ("challenges", Some(number)) => {
            let by_http = path.ends_with("/http-01");
            assert_eq!(payload, json!({}), "RFC 8555 section 7.5.1");
            let (host, token) = {
                let order = &state.orders[number];
                assert_eq!(order.account, account, "another account's");
                (order.host.clone(), order.token.clone())
            };
            state.asked.push(token.clone());
            let thumbprint = state.accounts[account].as_ref().unwrap().1.clone();
            let expected = format!("{token}.{thumbprint}");
            let shared = shared.clone();
            thread::spawn(move || prove(&shared, number, &host, &token, &expected, by_http));
            (200, Vec::new(), challenge(&state, number, by_http).to_string())
        }
        ("finalize", Some(number)) => {
            let csr = BASE64.decode(payload["csr"].as_str().unwrap()).unwrap();
            if state.orders[number].status != "ready" {
                return problem(403, "orderNotReady", "prove the host first");
            }
            let chain = issue(&state, number, &csr);
            let order_ = &mut state.orders[number];
            (order_.status, order_.certificate) = ("processing", Some(chain));
            (200, Vec::new(), order(&mut state, number))
        }
        ("certificates", Some(number)) => {
            let kind = vec![("Content-Type", "application/pem-certificate-chain".to_owned())];
            (200, kind, state.orders[number].certificate.clone().unwrap())
        }
        _ => problem(404, "malformed", "nothing is there"),
    }
}

/// Checks a signed request: whose it is, and what it says (RFC 8555 section 6.2 to 6.5).
fn signed(state: &mut State, path: &str, body: &[u8]) -> Result<(usize, Value), Answer> {
    let body: Value = serde_json::from_slice(body).unwrap();
    let part = |name: &str| body[name].as_str().unwrap();
    let decoded = |name: &str| BASE64.decode(part(name)).unwrap();
    let head: Value = serde_json::from_slice(&decoded("protected")).unwrap();
    assert_eq!((&head["alg"], &head["url"]), (&json!("ES256"), &json!(state.base.clone() + path)));
    if state.bad_nonces > 0 {
        state.bad_nonces -= 1;
        return Err(problem(400, "badNonce", "once more"));
    }
    assert!(state.nonces.remove(head["nonce"].as_str().unwrap()), "a nonce is used once");
    let (account, point) = match head["kid"].as_str() {
        None => {
            let jwk = &head["jwk"];
            let (x, y) = (jwk["x"].as_str().unwrap(), jwk["y"].as_str().unwrap());
            let mut point = vec![4];
            point.extend(BASE64.decode(x).unwrap());
            point.extend(BASE64.decode(y).unwrap());
            // RFC 7638 section 3.
            let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
            let thumbprint = BASE64.encode(digest(&SHA256, text.as_bytes()));
            state.accounts.push(Some((point.clone(), thumbprint)));
            (state.accounts.len() - 1, point)
        }
        Some(kid) => {
            let number: usize = kid.rsplit('/').next().unwrap().parse().unwrap();
            let Some(Some((point, _))) = state.accounts.get(number) else {
                return Err(problem(400, "accountDoesNotExist", "who is that?"));
            };
            (number, point.clone())
        }
    };
    let text = format!("{}.{}", part("protected"), part("payload"));
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    key.verify(text.as_bytes(), &decoded("signature")).expect("the account's signature");
    let payload = decoded("payload");
    let empty = payload.is_empty();
    Ok((account, if empty { Value::Null } else { serde_json::from_slice(&payload).unwrap() }))
}

fn order(state: &mut State, number: usize) -> String {
    let base = state.base.clone();
    let order = &mut state.orders[number];
    if order.status == "processing" && std::mem::replace(&mut order.polled, true) {
        order.status = "valid";
    }
    let mut text = json!({
        "status": order.status,
        "identifiers": [{"type": "dns", "value": order.host}],
        "authorizations": [format!("{base}/authorizations/{number}")],
        "finalize": format!("{base}/finalize/{number}"),
    });
    if order.status == "valid" {
        text["certificate"] = json!(format!("{base}/certificates/{number}"));
    }
    text.to_string()
}

fn authorization(state: &State, number: usize) -> String {
    let order = &state.orders[number];
    let challenges = [false, true].map(|by_http| challenge(state, number, by_http));
    let status = match order.status {
        "pending" | "invalid" => order.status,
        _ => "valid",
    };
    let host = json!({"type": "dns", "value": order.host});
    json!({"status": status, "identifier": host, "challenges": challenges}).to_string()
}

fn challenge(state: &State, number: usize, by_http: bool) -> Value {
    let order = &state.orders[number];
    let kind = if by_http { "http-01" } else { "tls-alpn-01" };
    let status = match order.status {
        "pending" | "invalid" => order.status,
        _ => "valid",
    };
    let url = format!("{}/challenges/{number}/{kind}", state.base);
    let mut text = json!({"type": kind, "url": url, "token": order.token, "status": status});
    if let Some(error) = &order.error {
        text["error"] = error.clone();
    }
    text
}

/// Looks at a proof once nobody holds it back.
fn prove(
    shared: &Arc<Mutex<State>>,
    number: usize,
    host: &str,
    token: &str,
    expected: &str,
    by_http: bool,
) {
    while shared.lock().unwrap().held {
        thread::sleep(Duration::from_millis(10));
    }
    let (tls, http) = {
        let state = shared.lock().unwrap();
        (state.tls, state.http)
    };
    let proven = match by_http {
        true => http.ok_or("no way by HTTP".to_owned()).and_then(|at| {
            let found = fetch(at, host, token)?;
            if found == expected { Ok(()) } else { Err(format!("it says {found:?}")) }
        }),
        false => tls.ok_or("no way by TLS".to_owned()).and_then(|at| look(at, host, expected)),
    };
    let mut state = shared.lock().unwrap();
    let order = &mut state.orders[number];
    order.status = if proven.is_ok() { "ready" } else { "invalid" };
    order.error = proven.as_ref().err().map(|detail| {
        json!({"type": "urn:ietf:params:acme:error:unauthorized", "detail": detail, "status": 403})
    });
    state.proofs.push(proven);
}

/// RFC 8555 section 8.3.
fn fetch(at: SocketAddr, host: &str, token: &str) -> Result<String, String> {
    let mut socket = TcpStream::connect(at).map_err(|error| error.to_string())?;
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let target = format!("/.well-known/acme-challenge/{token}");
    let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    match head.starts_with("HTTP/1.1 200 ") {
        true => Ok(body.to_owned()),
        false => Err(head.lines().next().unwrap_or_default().to_owned()),
    }
}

/// RFC 8737 section 3.
fn look(at: SocketAddr, host: &str, expected: &str) -> Result<(), String> {
    let stream = offer(at, host, &["acme-tls/1"])?;
    if stream.conn.alpn_protocol() != Some(b"acme-tls/1") {
        return Err("acme-tls/1 was not chosen".to_owned());
    }
    let der = &stream.conn.peer_certificates().unwrap()[0];
    let certificate = x509_cert::Certificate::from_der(der).unwrap().tbs_certificate;
    if names(&certificate.get::<SubjectAltName>().unwrap().unwrap().1) != [host] {
        return Err("the certificate is not for that host alone".to_owned());
    }
    let extensions = certificate.extensions.unwrap_or_default();
    let proof = extensions.iter().find(|it| it.extn_id.to_string() == "1.3.6.1.5.5.7.1.31");
    let proof = proof.ok_or("the extension is missing")?;
    let mut digested = vec![4, 32];
    digested.extend_from_slice(digest(&SHA256, expected.as_bytes()).as_ref());
    match (proof.critical, proof.extn_value.as_bytes() == digested) {
        (true, true) => Ok(()),
        wrong => Err(format!("critical, digest: {wrong:?}")),
    }
}

/// A handshake that believes everybody, with these protocols offered.
pub(crate) fn offer(
    at: SocketAddr,
    host: &str,
    protocols: &[&str],
) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
    let config = ClientConfig::builder().dangerous();
    let config = config.with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(at).map_err(|error| error.to_string())?;
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(tls, socket);
    stream.conn.complete_io(&mut stream.sock).map_err(|error| error.to_string())?;
    Ok(stream)
}

fn names(names: &SubjectAltName) -> Vec<String> {
    let name = |name: &x509_cert::ext::pkix::name::GeneralName| match name {
        x509_cert::ext::pkix::name::GeneralName::DnsName(name) => name.to_string(),
        other => format!("{other:?}"),
    };
    names.0.iter().map(name).collect()
}

/// Issues what a request asks for, if it is for the order's host (RFC 8555 section 7.4).
fn issue(state: &State, number: usize, csr: &[u8]) -> String {
    let request = CertReq::from_der(csr).unwrap();
    let info = &request.info;
    let point = info.public_key.subject_public_key.raw_bytes().to_vec();
    let key = UnparsedPublicKey::new(&aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1, &point);
    let signature = request.signature.raw_bytes();
    key.verify(&info.to_der().unwrap(), signature).expect("the key's signature");
    let host = &state.orders[number].host;
    // RFC 2985 section 5.4.2, and in it the names.
    let extensions = info.attributes.iter().find_map(|attribute| {
        (attribute.oid.to_string() == "1.2.840.113549.1.9.14")
            .then(|| attribute.values.get(0).unwrap().to_der().unwrap())
    });
    let extensions = x509_cert::ext::Extensions::from_der(&extensions.unwrap()).unwrap();
    let asked = extensions.iter().find(|it| it.extn_id.to_string() == "2.5.29.17").unwrap();
    let asked = SubjectAltName::from_der(asked.extn_value.as_bytes()).unwrap();
    assert_eq!(names(&asked), [host.as_str()], "the order's host");
    let mut params = CertificateParams::new([host.clone()]).unwrap();
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + Duration::from_secs(90 * 24 * 3600)).into();
    let certificate = params.signed_by(&Foreign(point), &state.issuer).unwrap();
    certificate.pem() + &state.ca.pem()
}

/// A key of which only the public half is known.
struct Foreign(Vec<u8>);

impl PublicKeyData for Foreign {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256]
    }
}
