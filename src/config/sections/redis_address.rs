//! From addresses to servers: what `address` and `sentinel_address` name, with what a URL says
//! besides.
//!
//! Owns the grammar. The invariant: no error repeats what may be a password.

use std::fmt;

use super::redis::Redis;
use crate::broker::server::{RedisPlace, RedisServer, Sentinels};
use crate::options::Secret;

/// An address that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressFault {
    /// The key, within its section.
    pub key: &'static str,
    /// Which element of a list.
    number: Option<usize>,
    what: String,
}

impl fmt::Display for AddressFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "number {number} {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Of Redis.
const PORT: u16 = 6379;

/// Of its Sentinels.
const SENTINEL_PORT: u16 = 26_379;

impl Redis {
    /// The key that names the servers, and what it says.
    pub(crate) fn addresses(&self) -> (&'static str, &[String]) {
        match (self.cluster_address.is_empty(), self.sentinel_address.is_empty()) {
            (false, _) => ("cluster_address", &self.cluster_address),
            (true, false) => ("sentinel_address", &self.sentinel_address),
            (true, true) => ("address", &self.address),
        }
    }

    /// All servers.
    ///
    /// # Errors
    /// An address is none, or a group of Sentinels lacks the name of its server.
    pub fn servers(&self) -> Result<Vec<RedisServer>, AddressFault> {
        let (key, list) = self.addresses();
        if key == "sentinel_address" && self.sentinel_master_name.is_empty() {
            let what = "is needed: there are Sentinels".to_owned();
            return Err(AddressFault { key: "sentinel_master_name", number: None, what });
        }
        let read = |(index, text): (usize, &String)| {
            let text = text.trim();
            let server = match key {
                "address" => self.server(text),
                "cluster_address" => self.cluster(text),
                _ => self.group(text),
            };
            let number = (list.len() > 1).then_some(index + 1);
            server.map_err(|what| AddressFault { key, number, what })
        };
        list.iter().enumerate().map(read).collect()
    }

    /// The fault of a list where only one server is possible.
    pub(super) fn must_be_one(&self) -> AddressFault {
        let (key, _) = self.addresses();
        AddressFault { key, number: None, what: "must be one server".to_owned() }
    }

    /// What the keys say, but for the place.
    fn unplaced(&self) -> RedisServer {
        RedisServer {
            place: RedisPlace::Tcp(String::new(), PORT),
            tls: self.tls.enabled,
            user: self.user.clone(),
            password: self.password.clone(),
            db: self.db,
            connect_timeout: self.connect_timeout,
            io_timeout: self.io_timeout,
            force_resp2: self.force_resp2,
        }
    }

    /// What the keys say of Sentinels, but for their places.
    fn sentinels(&self) -> Sentinels {
        Sentinels {
            master: self.sentinel_master_name.clone(),
            places: Vec::new(),
            tls: self.sentinel_tls.enabled,
            user: self.sentinel_user.clone(),
            password: self.sentinel_password.clone(),
            client_name: self.sentinel_client_name.clone(),
        }
    }

    /// Some nodes of a cluster.
    fn cluster(&self, text: &str) -> Result<RedisServer, String> {
        let server =
            RedisServer { place: RedisPlace::Cluster(list(text, PORT)?), ..self.unplaced() };
        server.without_database()
    }

    /// Sentinels of a group.
    fn group(&self, text: &str) -> Result<RedisServer, String> {
        let mut sentinels = self.sentinels();
        sentinels.places = list(text, SENTINEL_PORT)?;
        Ok(RedisServer { place: RedisPlace::Sentinel(Box::new(sentinels)), ..self.unplaced() })
    }

    fn server(&self, text: &str) -> Result<RedisServer, String> {
        let mut server = self.unplaced();
        let Some((scheme, rest)) = text.split_once("://") else {
            server.place = tcp(text, PORT)?;
            return Ok(server);
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let rest = match rest.rsplit_once('@') {
            None => rest,
            Some((who, rest)) => {
                let (user, password) = who.split_once(':').ok_or("needs a colon before its @")?;
                server.user = decoded(user).ok_or("has a user that is not URL-encoded")?;
                let password = decoded(password).ok_or("has a password that is not URL-encoded")?;
                server.password = Secret::new(password);
                rest
            }
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs: Vec<_> = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
        let scheme = scheme.to_ascii_lowercase();
        let named = pairs.iter().any(|(name, _)| *name == "sentinel_master_name");
        let mut sentinels = (named || scheme.ends_with("+sentinel")).then(|| self.sentinels());
        let mut cluster = scheme.ends_with("+cluster").then(Vec::new);
        let port = if sentinels.is_some() { SENTINEL_PORT } else { PORT };
        match scheme.as_str() {
            "redis" | "tcp" | "redis+sentinel" | "redis+cluster" => server.at(rest, port)?,
            "rediss" | "rediss+sentinel" | "rediss+cluster" => {
                server.tls = true;
                if let Some(sentinels) = &mut sentinels {
                    sentinels.tls = true;
                }
                server.at(rest, port)?;
            }
            "unix" if rest.starts_with('/') && sentinels.is_none() => {
                let path = decoded(rest).ok_or("has a path that is not URL-encoded")?;
                server.place = RedisPlace::Unix(path);
            }
            "unix" => return Err("needs a path that begins with /".to_owned()),
            _ => return Err("must begin with redis://, rediss://, tcp:// or unix://".to_owned()),
        }
        if let (Some(sentinels), RedisPlace::Tcp(host, port)) = (&mut sentinels, &server.place) {
            sentinels.places.push((host.clone(), *port));
        }
        if let (Some(nodes), RedisPlace::Tcp(host, port)) = (&mut cluster, &server.place) {
            nodes.push((host.clone(), *port));
        }
        for (name, value) in pairs {
            match &mut cluster {
                Some(nodes) if name == "addr" => nodes.push(host_and_port(value, PORT)?),
                _ => server.option(name, value, sentinels.as_mut())?,
            }
        }
        if let Some(nodes) = cluster {
            server.place = RedisPlace::Cluster(nodes);
            return server.without_database();
        }
        if let Some(sentinels) = sentinels {
            if sentinels.master.is_empty() {
                return Err("needs a sentinel_master_name".to_owned());
            }
            server.place = RedisPlace::Sentinel(Box::new(sentinels));
        }
        Ok(server)
    }
}

impl RedisServer {
    /// `host:port/db`.
    fn at(&mut self, rest: &str, port: u16) -> Result<(), String> {
        let (place, db) = rest.split_once('/').unwrap_or((rest, ""));
        if !db.is_empty() {
            self.db = number(db)?;
        }
        self.place = tcp(place, port)?;
        Ok(())
    }

    /// A cluster has only one.
    fn without_database(self) -> Result<Self, String> {
        match self.db {
            0 => Ok(self),
            _ => Err("is a cluster, which has no databases: db must be 0".to_owned()),
        }
    }

    /// What stands behind the question mark.
    fn option(
        &mut self,
        name: &str,
        value: &str,
        sentinels: Option<&mut Sentinels>,
    ) -> Result<(), String> {
        let duration = || {
            let wrong = |_| format!("has no duration as {name}");
            humantime::parse_duration(value).map_err(wrong)
        };
        let on = || match value {
            "true" | "1" => Ok(true),
            "false" | "0" | "" => Ok(false),
            _ => Err(format!("must have true or false as {name}")),
        };
        let text = || decoded(value).ok_or(format!("has a {name} that is not URL-encoded"));
        match (name, sentinels) {
            ("db", _) => self.db = number(value)?,
            ("connect_timeout", _) => self.connect_timeout = duration()?,
            ("io_timeout", _) => self.io_timeout = duration()?,
            ("tls_enabled", _) => self.tls = on()?,
            ("force_resp2", _) => self.force_resp2 = on()?,
            // Of Centrifugo's open edition without effect.
            ("replica_client_enabled", _) => {}
            ("addr", Some(sentinels)) => {
                sentinels.places.push(host_and_port(value, SENTINEL_PORT)?)
            }
            ("addr", None) => return Err(ONE.to_owned()),
            ("sentinel_master_name", Some(sentinels)) => sentinels.master = text()?,
            ("sentinel_user", Some(sentinels)) => sentinels.user = text()?,
            ("sentinel_password", Some(sentinels)) => sentinels.password = Secret::new(text()?),
            ("sentinel_tls_enabled", Some(sentinels)) => sentinels.tls = on()?,
            _ => return Err(format!("has an option {name} that there is not")),
        }
        Ok(())
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "has a database that is no number".to_owned())
}

fn tcp(text: &str, port: u16) -> Result<RedisPlace, String> {
    host_and_port(text, port).map(|(host, port)| RedisPlace::Tcp(host, port))
}

/// `host:port,host:port`.
fn list(text: &str, port: u16) -> Result<Vec<(String, u16)>, String> {
    let what = "must be host:port, several with commas between them";
    let read = |place: &str| host_and_port(place.trim(), port).map_err(|_| what.to_owned());
    text.split(',').map(read).collect()
}

/// `port` is that of a text without one.
pub(super) fn host_and_port(text: &str, port: u16) -> Result<(String, u16), String> {
    // A password that stands in the wrong place must not be repeated.
    if text.contains(['@', '/', ',']) || text.contains(char::is_whitespace) {
        return Err("must be host:port or a URL".to_owned());
    }
    let bracketed = |text: &str| text.starts_with('[') && text.ends_with(']');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !bracketed(text) => {
            let port = port.parse().ok().filter(|port| *port > 0);
            (host, port.ok_or("must end with a port from 1 to 65535")?)
        }
        _ => (text, port),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    Ok((host.to_owned(), port))
}

/// Without `%41` and the like.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

const ONE: &str = "has several places: redis+cluster:// and redis+sentinel:// can have";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn server(address: &str) -> Result<RedisServer, String> {
        let redis = Redis { address: vec![address.to_owned()], ..Redis::default() };
        redis.servers().map(|mut servers| servers.remove(0)).map_err(|fault| fault.to_string())
    }

    fn group(server: &RedisServer) -> &Sentinels {
        match &server.place {
            RedisPlace::Sentinel(sentinels) => sentinels,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn addresses_are_read_in_all_forms() {
        let tcp = |host: &str, port| RedisPlace::Tcp(host.to_owned(), port);
        for (address, place) in [
            ("redis://127.0.0.1:6379", tcp("127.0.0.1", 6379)),
            ("10.0.0.7:7000", tcp("10.0.0.7", 7000)),
            ("redis.example", tcp("redis.example", 6379)),
            (":7000", tcp("127.0.0.1", 7000)),
            ("[::1]:7000", tcp("::1", 7000)),
            ("tcp://[::1]", tcp("::1", 6379)),
            ("unix:///run/redis.sock", RedisPlace::Unix("/run/redis.sock".to_owned())),
        ] {
            assert_eq!(server(address).unwrap().place, place, "{address}");
        }
        assert_eq!(server("[::1]:1").unwrap().place.to_string(), "[::1]:1");
    }

    #[test]
    fn a_url_is_stronger_than_the_keys() {
        let redis = Redis {
            address: vec![
                "rediss://ann:s%3Acret@h:1/3?io_timeout=2s&force_resp2=true".to_owned(),
                "unix://:p@/s?db=2&tls_enabled=false".to_owned(),
                "h".to_owned(),
            ],
            user: "key".to_owned(),
            password: Secret::new("word"),
            db: 7,
            ..Redis::default()
        };
        let servers = redis.servers().unwrap();
        let [first, second, third] = &servers[..] else { panic!("{servers:?}") };
        assert!(first.tls && first.force_resp2 && first.db == 3);
        assert_eq!((first.user.as_str(), first.password.reveal()), ("ann", "s:cret"));
        assert_eq!(first.io_timeout, Duration::from_secs(2));
        assert_eq!((second.user.as_str(), second.password.reveal(), second.db), ("", "p", 2));
        assert_eq!((third.user.as_str(), third.password.reveal(), third.db), ("key", "word", 7));
        assert!(!format!("{servers:?}").contains("cret"));
    }

    #[test]
    fn sentinels_are_named_by_keys_or_by_a_url() {
        let redis = Redis {
            sentinel_address: vec!["a:1, b".to_owned(), "[::1]:3".to_owned()],
            sentinel_master_name: "mymaster".to_owned(),
            sentinel_user: "ann".to_owned(),
            sentinel_password: Secret::new("cret"),
            password: Secret::new("word"),
            ..Redis::default()
        };
        let servers = redis.servers().unwrap();
        let [first, second] = &servers[..] else { panic!("{servers:?}") };
        assert_eq!(group(first).places, [("a".to_owned(), 1), ("b".to_owned(), 26_379)]);
        assert_eq!(group(second).places, [("::1".to_owned(), 3)]);
        assert_eq!((group(first).user.as_str(), group(first).password.reveal()), ("ann", "cret"));
        assert_eq!((first.user.as_str(), first.password.reveal()), ("", "word"));
        assert_eq!(first.place.to_string(), "mymaster by a:1,b:26379");
        assert!(!format!("{servers:?}").contains("cret"));

        let url = "redis+sentinel://u:p@h/2?sentinel_master_name=m&addr=i:2&addr=j&\
                   sentinel_user=s&sentinel_password=q%26&io_timeout=2s";
        let one = server(url).unwrap();
        let (host, places) = (String::from, &group(&one).places);
        assert_eq!(*places, [(host("h"), 26_379), (host("i"), 2), (host("j"), 26_379)]);
        assert_eq!((group(&one).user.as_str(), group(&one).password.reveal()), ("s", "q&"));
        assert_eq!((one.user.as_str(), one.password.reveal(), one.db), ("u", "p", 2));
        assert!(!one.tls && !group(&one).tls && one.io_timeout == Duration::from_secs(2));
        // The name alone says that Sentinels are meant.
        assert_eq!(group(&server("redis://h:1?sentinel_master_name=m").unwrap()).master, "m");
        let secure = server("rediss+sentinel://h?sentinel_master_name=m").unwrap();
        assert!(secure.tls && group(&secure).tls);
        let half = "redis+sentinel://h?sentinel_master_name=m&sentinel_tls_enabled=true";
        let half = server(half).unwrap();
        assert!(!half.tls && group(&half).tls);
    }

    #[test]
    fn clusters_are_named_by_keys_or_by_a_url() {
        let redis = Redis {
            cluster_address: vec!["a:1, b".to_owned(), "c".to_owned()],
            sentinel_address: vec!["d".to_owned()],
            ..Redis::default()
        };
        let servers = redis.servers().unwrap();
        let places: Vec<_> = servers.iter().map(|server| server.place.to_string()).collect();
        assert_eq!(places, ["cluster a:1,b:6379", "cluster c:6379"]);
        let one = server("rediss+cluster://u:p@h?addr=i:2&io_timeout=2s").unwrap();
        assert_eq!(one.place.to_string(), "cluster h:6379,i:2");
        assert!(one.tls && one.user == "u" && one.io_timeout == Duration::from_secs(2));
        let fault = Redis { db: 3, ..redis }.servers().unwrap_err();
        assert_eq!(fault.key, "cluster_address");
        assert!(fault.to_string().starts_with("number 1 is a cluster, which has no databases"));
    }

    #[test]
    fn sentinels_without_a_name_or_a_place_are_none() {
        let of = |address: &str, name: &str| {
            let sentinel_address = vec![address.to_owned()];
            let sentinel_master_name = name.to_owned();
            let redis = Redis { sentinel_address, sentinel_master_name, ..Redis::default() };
            let fault = redis.servers().unwrap_err();
            (fault.key, fault.to_string())
        };
        let (key, what) = of("h:1", "");
        assert_eq!(
            (key, what.as_str()),
            ("sentinel_master_name", "is needed: there are Sentinels")
        );
        for address in ["u:hush@h:1", "h:0", "h:1,,i:x", "redis://h:1"] {
            let (key, what) = of(address, "m");
            assert_eq!(key, "sentinel_address");
            assert!(what.starts_with("must be host:port"), "{what}");
        }
    }

    #[test]
    fn mistakes_are_named_and_passwords_are_not() {
        for (address, part) in [
            ("http://h:1", "must begin with"),
            ("redis://h:0", "port"),
            ("redis://h:1/x", "database"),
            ("unix://run/s", "begins with /"),
            ("redis://hush@h", "colon"),
            ("redis://u:%zz@h", "URL-encoded"),
            ("u:hush@h:1", "must be host:port"),
            ("redis://h?io_timeout=hush", "io_timeout"),
            ("redis://h?hush_me=1", "hush_me"),
            ("redis://h?tls_enabled=perhaps", "tls_enabled"),
            ("redis+sentinel://h:1", "sentinel_master_name"),
            ("redis+sentinel://h:1?sentinel_master_name=", "sentinel_master_name"),
            ("redis://h?sentinel_user=hush", "an option sentinel_user"),
            ("unix:///s?sentinel_master_name=m", "begins with /"),
            ("redis+sentinel://h?sentinel_master_name=m&addr=u:hush@h", "host:port"),
            ("redis+sentinel://h?sentinel_master_name=m&sentinel_password=%zz", "URL-encoded"),
            ("redis+cluster://h:1/2", "db must be 0"),
            ("redis+cluster://h?addr=u:hush@h", "host:port"),
            ("redis://h?addr=i:1", "several places"),
        ] {
            let what = server(address).unwrap_err();
            assert!(what.contains(part), "{address}: {what}");
            assert!(!what.contains("hush") || address.contains("hush_me"), "{address}: {what}");
        }
    }
}
