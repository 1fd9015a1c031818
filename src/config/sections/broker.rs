//! `broker`: a server that passes publications on to other nodes, where the engine is not the one.
//!
//! Owns the names and the grammar of addresses; opens no connection. Names and defaults are
//! Centrifugo's; what is ours alone is marked. The invariant: no error repeats what may be a
//! password.

use std::collections::BTreeMap;
use std::time::Duration;

use super::redis::RedisTls;
use super::redis_address::{decoded, host_and_port};
use crate::broker::nats::{NatsLogin, NatsServer, Subjects};
use crate::config::schema::section;
use crate::options::{Secret, Size};

section! {
    /// `broker`: heard where it is enabled.
    pub struct Broker {
        /// Publications pass through this, and not through what `engine.type` says.
        enabled: bool = false,
        /// `nats`, or `memory`, which changes nothing.
        kind as "type": String = "memory".to_owned(),
        /// The NATS server.
        nats: Nats = Nats::default(),
    }
}

section! {
    /// `broker.nats`: heard where `broker.type` is `nats`.
    pub struct Nats {
        /// `nats://host:port` or `tls://host:port`, with `user:password@` or `token@` in front of
        /// the host; several of one cluster with commas between them.
        url: String = "nats://localhost:4222".to_owned(),
        /// Begins every subject of ours.
        prefix: String = "centrifugo".to_owned(),
        /// For a connection with its handshakes, to each server.
        dial_timeout: Duration = Duration::from_secs(1),
        /// For the server to have taken what is sent; then clients and the API are told error 100.
        write_timeout: Duration = Duration::from_secs(1),
        /// TLS, also without a URL of `tls`.
        tls: RedisTls = RedisTls::default(),
        /// Clients may subscribe to channels with `*` and `>`, which NATS has for several.
        allow_wildcards: bool = false,
        /// Speak with programs that know nothing of channels.
        raw_mode: NatsRawMode = NatsRawMode::default(),
        /// Requests of a worker that may wait to be taken; one more gets error 111. Ours, like all
        /// below.
        requests: u32 = 65_536,
        /// Memory of such requests, per worker.
        requests_bytes: Size = Size(16 << 20),
    }
}

section! {
    /// `broker.nats.raw_mode`: messages are the data of publications, and nothing else.
    pub struct NatsRawMode {
        /// Whether it is so.
        enabled: bool = false,
        /// What of a channel's name is written otherwise in its subject.
        channel_replacements: BTreeMap<String, String> = BTreeMap::new(),
        /// Begins the subjects of channels.
        prefix: String = String::new(),
    }
}

/// Of NATS.
const PORT: u16 = 4222;

impl Nats {
    /// The servers of `url`. One without a login has that of the first that has one.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn servers(&self) -> Result<Vec<NatsServer>, String> {
        let read = |text: &str| server(text.trim(), self.tls.enabled);
        let mut servers = self.url.split(',').map(read).collect::<Result<Vec<_>, _>>()?;
        let known = |server: &NatsServer| server.login != NatsLogin::Nobody;
        if let Some(login) = servers.iter().find(|it| known(it)).map(|it| it.login.clone()) {
            servers.iter_mut().filter(|it| !known(it)).for_each(|it| it.login = login.clone());
        }
        Ok(servers)
    }
}

impl Nats {
    /// How channels are named.
    pub(crate) fn subjects(&self) -> Subjects {
        let (subjects, mode) = (Subjects::new(&self.prefix, self.allow_wildcards), &self.raw_mode);
        match mode.enabled {
            true => subjects.raw(&mode.prefix, &mode.channel_replacements),
            false => subjects,
        }
    }
}

fn server(text: &str, tls: bool) -> Result<NatsServer, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("nats", text));
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "nats" => tls,
        "tls" => true,
        _ => return Err("must begin with nats:// or tls://".to_owned()),
    };
    let (login, place) = match rest.rsplit_once('@') {
        None => (NatsLogin::Nobody, rest),
        Some((who, place)) => (login(who)?, place),
    };
    let (host, port) = host_and_port(place.trim_end_matches('/'), PORT)?;
    Ok(NatsServer { host, port, tls, login })
}

fn login(who: &str) -> Result<NatsLogin, String> {
    let plain = |text: &str| decoded(text).ok_or("has a login that is not URL-encoded".to_owned());
    Ok(match who.split_once(':') {
        None => NatsLogin::Token(Secret::new(plain(who)?)),
        Some((user, password)) => NatsLogin::User(plain(user)?, Secret::new(plain(password)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(url: &str) -> Result<Vec<NatsServer>, String> {
        Nats { url: url.to_owned(), ..Nats::default() }.servers()
    }

    #[test]
    fn urls_are_read_in_all_forms() {
        let token = |text: &str| NatsLogin::Token(Secret::new(text));
        let user = |name: &str, word: &str| NatsLogin::User(name.to_owned(), Secret::new(word));
        for (url, host, port, tls, login) in [
            ("nats://localhost:4222", "localhost", 4222, false, NatsLogin::Nobody),
            ("nats.example", "nats.example", 4222, false, NatsLogin::Nobody),
            ("tls://[::1]:1/", "::1", 1, true, NatsLogin::Nobody),
            ("nats://ann:s%3Ae@h", "h", 4222, false, user("ann", "s:e")),
            ("nats://s3cret@h:7", "h", 7, false, token("s3cret")),
        ] {
            let server = NatsServer { host: host.to_owned(), port, tls, login };
            assert_eq!(servers(url), Ok(vec![server]), "{url}");
        }
    }

    #[test]
    fn servers_of_a_cluster_share_a_login() {
        let all = servers("nats://a, nats://t@b:1,c").unwrap();
        let names: Vec<_> = all.iter().map(|it| (it.host.as_str(), it.port)).collect();
        assert_eq!(names, [("a", 4222), ("b", 1), ("c", 4222)]);
        assert!(all.iter().all(|it| it.login == all[1].login && !it.tls));
    }

    #[test]
    fn what_is_no_url_is_told_without_its_password() {
        for url in ["ws://h", "nats://u:secret@h:port", "nats://h:0", "nats://%zz@h", "a b"] {
            let what = servers(url).expect_err(url);
            assert!(!what.contains("secret"), "{what}");
        }
    }
}
