//! Handshakes against rustls: what is negotiated, told and refused.

use std::sync::Arc;

use ringhold::tls::keys::{ClientMaterials, ClientSetup, ServerKeys, Trust};
use ringhold::tls::{Fault, Reason, Role, TicketSecret, Version};
use rustls::client::Resumption;
use rustls::server::ProducesTickets;
use rustls::{HandshakeKind, ServerConfig};

use super::peer::{
    Ours, Peer, SHAPES, certificates, client_config, client_keeping, client_setup, connected, key,
    pair, path, provider, roots, server_config, server_keys, server_setup, settle,
};

fn failure(ours: &mut Ours, peer: &mut Peer) -> Fault {
    let hello = peer.out();
    match ours.receive(&hello) {
        Err(fault) => fault,
        Ok(()) => {
            let out = std::mem::take(&mut ours.out);
            let _ = peer.receive(&out);
            ours.receive(&peer.out()).expect_err("the handshake fails")
        }
    }
}

#[test]
fn each_shape_in_each_role_carries_data() {
    for role in [Role::Server, Role::Client] {
        for shape in SHAPES {
            let (mut ours, mut peer) = connected(role, shape);
            let welcome = ours.welcome.as_ref().unwrap();
            assert!(!welcome.resumed);
            // Its own offer is rustls' business; what we offer first, a server of rustls takes.
            let is_hybrid = welcome.group == Some("X25519MLKEM768");
            let new = shape.version == Version::Tls13;
            assert!(welcome.group.is_some());
            assert!(role == Role::Server || is_hybrid == new, "{shape:?} {:?}", welcome.group);
            let name = (role == Role::Server).then_some("localhost");
            assert_eq!(welcome.server_name.as_deref(), name);
            assert_eq!(welcome.certificate.is_some(), role == Role::Client);
            peer.send(b"from the peer");
            ours.send(&[b"from", b" us"]);
            settle(&mut ours, &mut peer).unwrap();
            assert_eq!(ours.heard, b"from the peer");
            assert_eq!(peer.heard, b"from us");
        }
    }
}

/// rustls would go on to decrypt what lies behind the last message of the handshake.
#[test]
fn data_behind_the_handshake_belongs_to_the_records() {
    for shape in SHAPES {
        let mut ours = Ours::server(server_setup(&server_keys()));
        let mut peer = Peer::client(client_config(shape), "localhost");
        // Queued before the handshake, so it leaves together with its end.
        peer.send(b"early bird");
        let mut rounds = 0;
        while ours.welcome.is_none() {
            rounds += 1;
            assert!(rounds < 4);
            let hello = peer.out();
            ours.receive(&hello).unwrap();
            let out = std::mem::take(&mut ours.out);
            peer.receive(&out).unwrap();
        }
        settle(&mut ours, &mut peer).unwrap();
        assert_eq!(ours.heard, b"early bird", "{shape:?}");
    }
}

#[test]
fn handshakes_come_in_bytes() {
    for shape in SHAPES {
        let mut ours = Ours::server(server_setup(&server_keys()));
        let mut peer = Peer::client(client_config(shape), "localhost");
        while ours.welcome.is_none() {
            for byte in peer.out() {
                ours.receive(&[byte]).unwrap();
            }
            let out = std::mem::take(&mut ours.out);
            peer.receive(&out).unwrap();
        }
    }
}

#[test]
fn both_ends_can_be_ours() {
    let mut server = Ours::server(server_setup(&server_keys()));
    let mut client = Ours::client(&client_setup(), "localhost");
    for _ in 0..4 {
        let out = std::mem::take(&mut client.out);
        server.receive(&out).unwrap();
        let out = std::mem::take(&mut server.out);
        client.receive(&out).unwrap();
    }
    assert!(server.welcome.as_ref().unwrap().alpn);
    client.send(&[b"ping"]);
    server.receive(&std::mem::take(&mut client.out)).unwrap();
    server.send(&[b"pong"]);
    client.receive(&std::mem::take(&mut server.out)).unwrap();
    assert_eq!((&server.heard[..], &client.heard[..]), (&b"ping"[..], &b"pong"[..]));
}

#[test]
fn a_certificate_is_chosen_by_name() {
    let mut keys = server_keys();
    keys.certificates.push(pair("example"));
    let expected = [
        ("localhost", "localhost"),
        ("example.test", "example"),
        ("EXAMPLE.test", "example"),
        ("a.example.test", "example"),
    ];
    for (name, file) in expected {
        let mut ours = Ours::server(server_setup(&keys));
        let mut peer = Peer::client(client_config(SHAPES[0]), name);
        settle(&mut ours, &mut peer).unwrap();
        let shown = peer.tls.peer_certificates().unwrap()[0].clone();
        assert_eq!(shown, certificates(file)[0], "{name}");
    }
    // Neither two labels nor another host: the first one, which the client then refuses.
    for name in ["a.b.example.test", "other.test"] {
        let mut ours = Ours::server(server_setup(&keys));
        let mut peer = Peer::client(client_config(SHAPES[0]), name);
        ours.receive(&peer.out()).unwrap();
        let refusal = peer.receive(&ours.out).unwrap_err();
        assert!(matches!(refusal, rustls::Error::InvalidCertificate(_)), "{refusal}");
        let fault = ours.receive(&peer.out()).unwrap_err();
        assert!(matches!(fault, Fault::Greeting(Reason::Alert, _)), "{fault:?}");
    }
}

#[test]
fn an_rsa_key_serves_each_shape() {
    let mut keys = server_keys();
    keys.certificates.insert(0, pair("rsa"));
    for shape in SHAPES {
        let mut config = client_config(shape);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut ours = Ours::server(server_setup(&keys));
        let mut peer = Peer::client(config, "localhost");
        settle(&mut ours, &mut peer).unwrap();
        assert!(ours.welcome.as_ref().unwrap().alpn);
        assert_eq!(peer.tls.peer_certificates().unwrap()[0], certificates("rsa")[0]);
    }
}

#[test]
fn old_versions_are_refused_where_the_minimum_is_new() {
    let mut keys = server_keys();
    keys.min_version = Version::Tls13;
    let mut ours = Ours::server(server_setup(&keys));
    let mut peer = Peer::client(client_config(SHAPES[2]), "localhost");
    let fault = failure(&mut ours, &mut peer);
    assert!(matches!(fault, Fault::Greeting(Reason::Incompatible, _)), "{fault:?}");
    let heard = peer.receive(&ours.out).unwrap_err();
    assert!(matches!(heard, rustls::Error::AlertReceived(_)), "{heard}");
}

#[test]
fn a_client_of_http_2_only_is_refused() {
    let mut config = client_config(SHAPES[0]);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut ours = Ours::server(server_setup(&server_keys()));
    let mut peer = Peer::client(config, "localhost");
    let fault = failure(&mut ours, &mut peer);
    assert!(matches!(fault, Fault::Greeting(Reason::Incompatible, _)), "{fault:?}");
    assert!(peer.receive(&ours.out).is_err());
}

#[test]
fn client_certificates_are_required_and_told() {
    let mut keys = server_keys();
    keys.client_ca_pem = Some(path("ca.pem"));
    for shape in SHAPES {
        let mut ours = Ours::server(server_setup(&keys));
        let mut peer = Peer::client(client_config(shape), "localhost");
        let fault = failure(&mut ours, &mut peer);
        assert!(matches!(fault, Fault::Greeting(Reason::Certificate, _)), "{fault:?}");

        let config = rustls::ClientConfig::builder_with_provider(provider(shape))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots())
            .with_client_auth_cert(certificates("client"), key("client"))
            .unwrap();
        let mut ours = Ours::server(server_setup(&keys));
        let mut peer = Peer::client(config, "localhost");
        settle(&mut ours, &mut peer).unwrap();
        let told = ours.welcome.as_ref().unwrap().certificate.as_deref();
        assert_eq!(told, Some(certificates("client")[0].as_ref()));
    }
}

/// A ticket is good on every core, after a restart and on other nodes, for they share the secret.
#[test]
fn sessions_go_on_where_the_ticket_secret_is_the_same() {
    let mut other = server_keys();
    other.tickets = TicketSecret::random().unwrap();
    for shape in SHAPES {
        let mut config = client_config(shape);
        config.resumption = Resumption::in_memory_sessions(8);
        let handshake = |keys: &ServerKeys| {
            let mut ours = Ours::server(server_setup(keys));
            let mut peer = Peer::client(config.clone(), "localhost");
            settle(&mut ours, &mut peer).unwrap();
            peer.send(b"hello");
            ours.send(&[b"hello"]);
            settle(&mut ours, &mut peer).unwrap();
            assert_eq!((&ours.heard, &peer.heard), (&b"hello".to_vec(), &b"hello".to_vec()));
            let resumed = ours.welcome.as_ref().unwrap().resumed;
            assert_eq!(resumed, peer.tls.handshake_kind() == Some(HandshakeKind::Resumed));
            resumed
        };
        assert!(!handshake(&server_keys()));
        assert!(handshake(&server_keys()), "{shape:?}");
        assert!(handshake(&server_keys()), "{shape:?}");
        assert!(!handshake(&other), "{shape:?}");
    }
}

#[test]
fn a_client_of_ours_trusts_whom_it_is_told_to() {
    let mut ours = Ours::client(&client_setup(), "other.test");
    let mut peer = Peer::server(server_config(SHAPES[0]));
    peer.receive(&ours.out).unwrap();
    let fault = ours.receive(&peer.out()).unwrap_err();
    assert!(matches!(fault, Fault::Greeting(Reason::Certificate, _)), "{fault:?}");

    let anybody = ringhold::tls::keys::ClientSetup::new(&ringhold::tls::keys::Trust::Anybody);
    let mut ours = Ours::client(&anybody.unwrap(), "other.test");
    let mut peer = Peer::server(server_config(SHAPES[0]));
    settle(&mut ours, &mut peer).unwrap();
    assert!(ours.welcome.is_some());
}

/// A rustls server sends its tickets, more than one, and asks for no client certificate.
#[test]
fn a_client_of_ours_passes_tickets_over() {
    for shape in SHAPES {
        let mut config: ServerConfig = server_config(shape);
        config.send_tls13_tickets = 4;
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        let mut ours = Ours::client(&client_setup(), "localhost");
        let mut peer = Peer::server(config);
        settle(&mut ours, &mut peer).unwrap();
        peer.send(b"data");
        settle(&mut ours, &mut peer).unwrap();
        assert_eq!(ours.heard, b"data");
    }
}

#[test]
fn what_is_no_tls_is_told_by_its_first_byte() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x80\x2e", b"\x15\x03\x03", b"\x16GET"] {
        let mut ours = Ours::server(server_setup(&server_keys()));
        assert_eq!(ours.receive(bytes), Err(Fault::NotTls));
        // It is answered in its own language, not by an alert.
        assert!(ours.out.is_empty());
    }
}

#[test]
fn a_handshake_without_an_end_is_cut() {
    // A ClientHello of 40 KiB in pieces of one byte: all a peer needs is patience.
    let mut ours = Ours::server(server_setup(&server_keys()));
    ours.receive(&[22, 3, 1, 0, 4, 1, 0, 0xa0, 0]).unwrap();
    let fault = (0..40_000).find_map(|_| ours.receive(&[22, 3, 1, 0, 1, 0]).err());
    assert_eq!(fault, Some(Fault::GreetingLength));
    assert_eq!(ours.out, [21, 3, 3, 0, 2, 2, 10]);
    let mut ours = Ours::server(server_setup(&server_keys()));
    // Nothing in the clear is longer than content may be.
    assert_eq!(ours.receive(&[22, 3, 1, 0x40, 0]), Ok(()));
    let mut ours = Ours::server(server_setup(&server_keys()));
    let fault = ours.receive(&[22, 3, 1, 0x40, 1]).unwrap_err();
    assert_eq!((fault, &ours.out[..]), (Fault::RecordLength, &[21, 3, 3, 0, 2, 2, 22][..]));
}

/// rustls has no alert for some errors. In the clear or under keys: the peer can read ours.
#[test]
fn every_end_of_a_handshake_has_an_alert() {
    // A message begun, and another kind of record in it.
    let mut ours = Ours::server(server_setup(&server_keys()));
    ours.receive(&[22, 3, 1, 0, 4, 1, 0, 2, 0]).unwrap();
    let fault = ours.receive(&[20, 3, 3, 0, 1, 1]).unwrap_err();
    assert!(matches!(fault, Fault::Greeting(Reason::Malformed, _)), "{fault:?}");
    assert_eq!(ours.out, [21, 3, 3, 0, 2, 2, 10]);
    // A message longer than rustls takes.
    let mut ours = Ours::server(server_setup(&server_keys()));
    let fault = ours.receive(&[22, 3, 1, 0, 4, 1, 1, 0, 0]).unwrap_err();
    assert!(matches!(fault, Fault::Greeting(Reason::Malformed, _)), "{fault:?}");
    assert_eq!(ours.out, [21, 3, 3, 0, 2, 2, 50]);
    // After the server's first flight, with which the keys of TLS 1.3 change.
    for shape in SHAPES {
        let mut ours = Ours::server(server_setup(&server_keys()));
        let mut peer = Peer::client(client_config(shape), "localhost");
        ours.receive(&peer.out()).unwrap();
        peer.receive(&std::mem::take(&mut ours.out)).unwrap();
        assert_eq!(ours.receive(&[99]), Err(Fault::RecordType(99)));
        let heard = peer.receive(&ours.out).unwrap_err();
        let alert = rustls::AlertDescription::UnexpectedMessage;
        assert_eq!(heard, rustls::Error::AlertReceived(alert), "{shape:?}");
    }
}

#[test]
fn a_flipped_bit_in_a_handshake_ends_it() {
    let setup = server_keys();
    // Each bit of the client's last flight: with it the keys would be agreed upon.
    for bit in (8 * 9..).step_by(7) {
        let mut ours = Ours::server(server_setup(&setup));
        let mut peer = Peer::client(client_config(SHAPES[0]), "localhost");
        ours.receive(&peer.out()).unwrap();
        let out = std::mem::take(&mut ours.out);
        peer.receive(&out).unwrap();
        let mut last = peer.out();
        // In front are ChangeCipherSpec, not protected and of no meaning, and a type and version
        // that rustls knows without reading them.
        if bit >= 8 * last.len() {
            break;
        }
        last[bit / 8] ^= 1 << (bit % 8);
        let result = ours.receive(&last);
        // A longer length waits for the rest.
        let waits = (6 + 3..6 + 5).contains(&(bit / 8));
        assert!(result.is_err() || waits, "bit {bit}");
        assert!(ours.welcome.is_none());
    }
}

/// A handshake of ours with a server of this name. Whether it went on with an earlier session.
fn resumes(setup: &ClientSetup, name: &str, server: &ServerConfig, may: bool) -> bool {
    let mut ours = Ours::resuming(setup, name, may);
    let mut peer = Peer::server(server.clone());
    settle(&mut ours, &mut peer).unwrap();
    ours.send(&[b"data"]);
    settle(&mut ours, &mut peer).unwrap();
    assert_eq!(peer.heard, b"data");
    ours.welcome.unwrap().resumed
}

fn giving(server: &ServerConfig, tickets: usize) -> ServerConfig {
    let mut server = server.clone();
    server.send_tls13_tickets = tickets;
    server
}

/// As a browser: by the first ticket of each connection, once.
#[test]
fn a_client_goes_on_with_its_sessions() {
    for shape in &SHAPES[..2] {
        let config = server_config(*shape);
        let meets = |setup: &ClientSetup, may, tickets| {
            resumes(setup, "localhost", &giving(&config, tickets), may)
        };
        let setup = client_keeping(2);
        assert!(!meets(&setup, true, 1), "there is none yet");
        assert!(!meets(&setup, false, 1), "it may not");
        // Of each connection one is kept, whatever comes; the third is one too many.
        assert!(!meets(&setup, false, 3));
        let resumed = [0; 4].map(|none| meets(&setup, true, none));
        assert_eq!(resumed, [true, true, false, false], "{shape:?}");
        assert!(!meets(&client_setup(), true, 1), "it keeps none");
        // A server that does not know it any more.
        meets(&setup, true, 1);
        assert!(!resumes(&setup, "localhost", &server_config(*shape), true));
    }
    // TLS 1.2 gives its ticket with the handshake, and it may be used again.
    for shape in &SHAPES[2..] {
        let server = server_config(*shape);
        let setup = client_keeping(1);
        let resumed =
            [true, false, true, true].map(|may| resumes(&setup, "localhost", &server, may));
        assert_eq!(resumed, [false, false, true, true], "{shape:?}");
    }
}

/// Gives tickets of this length.
#[derive(Debug)]
struct Long(usize);

impl ProducesTickets for Long {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        3600
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut ticket = [&(plain.len() as u32).to_be_bytes(), plain].concat();
        ticket.resize(self.0, 0);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (len, rest) = ticket.split_first_chunk()?;
        rest.get(..u32::from_be_bytes(*len) as usize).map(<[u8]>::to_vec)
    }
}

#[test]
fn what_a_client_keeps_of_servers_is_bounded() {
    // Nothing of it is the server's to keep.
    let server = |ticket: usize| {
        let mut server = giving(&server_config(SHAPES[0]), 1);
        server.ticketer = Arc::new(Long(ticket));
        server
    };
    for (len, kept) in [(200, true), (8000, true), (8190, false), (60_000, false)] {
        let (server, setup) = (server(len), client_keeping(1));
        assert!(!resumes(&setup, "localhost", &server, true));
        assert_eq!(resumes(&setup, "localhost", &server, true), kept, "{len} bytes");
    }
    let setup = ClientMaterials::load(&Trust::Anybody).unwrap().with_tickets(1000).setup().unwrap();
    let name = |number: usize| format!("n{number}.example");
    let server = server(200);
    assert!((0..=256).all(|number| !resumes(&setup, &name(number), &server, true)));
    let resumed = [255, 256, 0].map(|number| resumes(&setup, &name(number), &server, true));
    assert_eq!(resumed, [true, false, true]);
    // Of two servers one has all the room, and keeps it.
    let setup = ClientMaterials::load(&Trust::Anybody).unwrap().with_tickets(1).setup().unwrap();
    let resumed = [0, 1, 0, 1].map(|number| resumes(&setup, &name(number), &server, true));
    assert_eq!(resumed, [false, false, true, false]);
}
