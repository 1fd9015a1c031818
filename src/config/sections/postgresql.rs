//! `consumers[].postgresql`: a table that an application fills within its transactions, and how its
//! server is reached.
//!
//! Names and defaults are Centrifugo's. A `dsn` is read here as libpq and pgx read it, so that one
//! that they take is taken; no error repeats any of its values. Opens no connection.

use std::path::Path;
use std::time::Duration;

use super::redis::RedisTls;
use super::redis_address::decoded;
use crate::config::schema::section;
use crate::options::Secret;
use crate::tls::keys::{KeyPair, Trust};

section! {
    /// An outbox in PostgreSQL: a table with `id`, `method`, `payload` and `partition`, whose rows
    /// are deleted once they were dealt with.
    pub struct Postgresql {
        /// The database, `postgres://user:password@host:5432/name` or `host=… user=…`.
        dsn: Secret = Secret::default(),
        /// The table, also as `schema.table`.
        outbox_table_name: String = String::new(),
        /// Partitions, from 0 on. The rows of one are dealt with in the order of their ids.
        num_partitions: u32 = 1,
        /// Rows of a partition that are read at once.
        partition_select_limit: u32 = 100,
        /// How often is looked for new rows.
        partition_poll_interval: Duration = Duration::from_millis(300),
        /// `NOTIFY` on it tells of new rows at once; its payload is their partition.
        partition_notification_channel: String = String::new(),
        /// Where notifications are listened to, if not at `dsn`: a pooler hands none on.
        partition_notification_dsn: Secret = Secret::default(),
        /// TLS, whatever `dsn` says of it.
        tls: RedisTls = RedisTls::default(),
        /// Has no meaning here: no connection waits for a lock in any case.
        use_try_lock: bool = false,
    }
}

/// A server, as a `dsn` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgServer {
    /// Tried one after the other; at least one.
    pub hosts: Vec<(PgHost, u16)>,
    /// Empty: the user whom this process runs as.
    pub user: String,
    /// Empty: none.
    pub password: Secret,
    /// Empty: that of the user's name.
    pub database: String,
    /// Whether TLS is spoken.
    pub tls: PgTls,
    /// Our certificate, where the server asks for one.
    pub identity: Option<KeyPairSource>,
    /// For one connection; zero is the usual.
    pub connect_timeout: Duration,
    /// Only a server that takes changes.
    pub primary: bool,
    /// Of the session, as `SET` has them.
    pub parameters: Vec<(String, String)>,
    /// Most connections.
    pub connections: u32,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PgHost {
    /// By name or address.
    Tcp(String),
    /// The folder of its socket.
    Unix(String),
    /// The socket where Debian's has it, or else this host.
    Own,
}

/// A certificate and its key, each a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairSource {
    /// The certificate.
    pub cert: String,
    /// The key.
    pub key: String,
}

/// Whether TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PgTls {
    /// Never.
    Off,
    /// If the server can; whoever it is.
    IfOffered,
    /// In any case; whoever it is.
    Anybody,
    /// With a server of these authorities, empty for the host's; `name`: and of that name.
    Verified {
        /// A path.
        authorities: String,
        /// Its name must be in the certificate.
        name: bool,
    },
}

impl PgTls {
    /// Whom we believe to be the server.
    pub(crate) fn trust(&self) -> Trust {
        match self {
            Self::Off | Self::IfOffered | Self::Anybody => Trust::Anybody,
            Self::Verified { authorities, name: true } if authorities.is_empty() => Trust::System,
            Self::Verified { authorities, name: true } => Trust::Authorities(authorities.clone()),
            Self::Verified { authorities, name: false } => Trust::AnyOf(authorities.clone()),
        }
    }
}

impl KeyPairSource {
    /// As it is loaded.
    pub(crate) fn pair(&self) -> KeyPair {
        KeyPair { cert_pem: self.cert.clone(), key_pem: self.key.clone() }
    }
}

impl Postgresql {
    /// The database. The error says what is wrong with `dsn`, without its values.
    pub(crate) fn server(&self) -> Result<PgServer, String> {
        PgServer::parse(self.dsn.reveal().trim())
    }

    /// Where notifications come from.
    pub(crate) fn listened(&self) -> Result<PgServer, String> {
        match self.partition_notification_dsn.is_empty() {
            true => self.server(),
            false => PgServer::parse(self.partition_notification_dsn.reveal().trim()),
        }
    }

    /// Paths in a configuration file begin at its folder.
    pub(crate) fn begin_at(&mut self, folder: &Path) {
        self.tls.begin_at(folder);
    }

    /// The table as SQL has it. `None`: it is no name of a table.
    pub(crate) fn table(&self) -> Option<&str> {
        let mut rest = self.outbox_table_name.as_str();
        loop {
            rest = match rest.strip_prefix('"') {
                Some(quoted) => {
                    let (name, rest) =
                        quoted.split_once('"').filter(|(name, _)| !name.is_empty())?;
                    (!name.contains('\0')).then_some(rest)?
                }
                None => {
                    let inner = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
                    let end = rest.find(|c| !inner(c)).unwrap_or(rest.len());
                    let first = rest.chars().next()?;
                    (first.is_alphabetic() || first == '_').then_some(&rest[end..])?
                }
            };
            match rest.strip_prefix('.') {
                Some(more) => rest = more,
                None => return rest.is_empty().then_some(&self.outbox_table_name),
            }
        }
    }
}

impl Default for PgServer {
    fn default() -> Self {
        Self {
            hosts: vec![(PgHost::Own, PORT)],
            user: String::new(),
            password: Secret::default(),
            database: String::new(),
            tls: PgTls::IfOffered,
            identity: None,
            connect_timeout: Duration::ZERO,
            primary: false,
            parameters: Vec::new(),
            connections: CONNECTIONS,
        }
    }
}

impl PgServer {
    /// Reads a URL, or names with their values.
    fn parse(dsn: &str) -> Result<Self, String> {
        if dsn.is_empty() {
            return Err("is needed: postgres://user:password@host:5432/database".to_owned());
        }
        let schemes = ["postgres://", "postgresql://"];
        let pairs = match schemes.iter().find_map(|scheme| dsn.strip_prefix(scheme)) {
            Some(rest) => of_url(rest)?,
            None => of_words(dsn)?,
        };
        let mut server = Self::default();
        let mut seen = Seen::default();
        for (name, value) in pairs {
            server.option(&name, value, &mut seen)?;
        }
        server.hosts = seen.hosts()?;
        server.tls = seen.tls()?;
        server.identity = match (seen.cert.is_empty(), seen.key.is_empty()) {
            (true, true) => None,
            (false, false) => Some(KeyPairSource { cert: seen.cert, key: seen.key }),
            _ => return Err("has one of sslcert and sslkey: they belong together".to_owned()),
        };
        Ok(server)
    }

    fn option(&mut self, name: &str, value: String, seen: &mut Seen) -> Result<(), String> {
        let number = || value.parse::<u32>().map_err(|_| format!("has no number as {name}"));
        match name {
            "host" | "hostaddr" => seen.hosts = value,
            "port" => seen.ports = value,
            "user" => self.user = value,
            "password" => self.password = Secret::new(value),
            "dbname" | "database" => self.database = value,
            "sslmode" => seen.mode = value,
            "sslrootcert" => seen.authorities = value,
            "sslcert" => seen.cert = value,
            "sslkey" => seen.key = value,
            "connect_timeout" => self.connect_timeout = Duration::from_secs(number()?.into()),
            "target_session_attrs" => self.primary = matches!(&*value, "read-write" | "primary"),
            "pool_max_conns" => {
                let within = Some(number()?).filter(|most| (1..=CONNECTIONS_MAX).contains(most));
                let what = format!("must have 1 to {CONNECTIONS_MAX} as pool_max_conns");
                self.connections = within.ok_or(what)?;
            }
            "channel_binding" if value == "require" => {
                return Err("requires channel_binding, which there is not".to_owned());
            }
            "sslnegotiation" if value == "direct" => {
                return Err("wants sslnegotiation=direct, which there is not".to_owned());
            }
            "service" | "servicefile" | "passfile" | "sslpassword" | "require_auth" => {
                return Err(format!("has {name}, which is not read: say it in the dsn itself"));
            }
            _ if name.starts_with("pool_") || IGNORED.contains(&name) => {}
            _ => {
                let named = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
                if name.is_empty() || !name.chars().all(named) {
                    return Err("has a name that is none".to_owned());
                }
                self.parameters.push((name.to_owned(), value));
            }
        }
        Ok(())
    }
}

/// What is known once all was read.
#[derive(Default)]
struct Seen {
    hosts: String,
    ports: String,
    mode: String,
    authorities: String,
    cert: String,
    key: String,
}

impl Seen {
    fn hosts(&self) -> Result<Vec<(PgHost, u16)>, String> {
        let wrong = || "must have ports from 1 to 65535".to_owned();
        let port = |text: &str| match text {
            "" => Ok(PORT),
            text => text.parse().ok().filter(|port| *port > 0).ok_or_else(wrong),
        };
        let ports: Vec<u16> = self.ports.split(',').map(port).collect::<Result<_, _>>()?;
        if self.hosts.is_empty() {
            return Ok(vec![(PgHost::Own, ports[0])]);
        }
        let hosts: Vec<_> = self.hosts.split(',').collect();
        if ports.len() > 1 && ports.len() != hosts.len() {
            return Err("must have one port, or one for each host".to_owned());
        }
        let host = |(index, host): (usize, &&str)| {
            let port = *ports.get(index).unwrap_or(&ports[0]);
            let host = match *host {
                "" => PgHost::Tcp("localhost".to_owned()),
                path if path.starts_with('/') => PgHost::Unix(path.to_owned()),
                name => PgHost::Tcp(name.to_owned()),
            };
            (host, port)
        };
        Ok(hosts.iter().enumerate().map(host).collect())
    }

    fn tls(&self) -> Result<PgTls, String> {
        let authorities = match self.authorities.as_str() {
            "system" => String::new(),
            path => path.to_owned(),
        };
        let verified = |name| Ok(PgTls::Verified { authorities: authorities.clone(), name });
        match self.mode.as_str() {
            "disable" => Ok(PgTls::Off),
            "allow" | "prefer" | "" => Ok(PgTls::IfOffered),
            // As libpq has it.
            "require" if self.authorities.is_empty() => Ok(PgTls::Anybody),
            "verify-ca" if self.authorities.is_empty() => verified(true),
            "require" | "verify-ca" => verified(false),
            "verify-full" => verified(true),
            _ => Err("must have disable, allow, prefer, require, verify-ca or verify-full as \
                      sslmode"
                .to_owned()),
        }
    }
}

/// Names and values.
type Pairs = Vec<(String, String)>;

/// `user:password@host:port,host:port/database?name=value`.
fn of_url(rest: &str) -> Result<Pairs, String> {
    let wrong = || "is not URL-encoded".to_owned();
    let decode = |text: &str| decoded(text).ok_or_else(wrong);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (who, places) = authority.rsplit_once('@').unwrap_or(("", authority));
    let mut pairs = Pairs::new();
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            pairs.push((name.to_owned(), value));
        }
    };
    let (user, password) = who.split_once(':').unwrap_or((who, ""));
    add("user", decode(user)?);
    add("password", decode(password)?);
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for place in places.split(',') {
        let closed = place.rfind(']').unwrap_or(0);
        let (host, port) = match place.rfind(':') {
            Some(colon) if colon > closed || closed == 0 => place.split_at(colon),
            _ => (place, ""),
        };
        let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
        hosts.push(decode(host)?);
        ports.push(port.trim_start_matches(':').to_owned());
    }
    add("host", hosts.join(","));
    let given = ports.iter().any(|port| !port.is_empty());
    add("port", if given { ports.join(",") } else { String::new() });
    add("dbname", decode(database)?);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.push((decode(name)?, decode(value)?));
    }
    Ok(pairs)
}

/// `name=value name='a value'`, with backslashes before what is meant as it is.
fn of_words(text: &str) -> Result<Pairs, String> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let what = "must be a URL of postgres, or names with their values (host=… user=…)";
        let (name, after) = rest.split_once('=').ok_or(what)?;
        let mut value = String::new();
        let mut chars = after.trim_start().chars();
        let quoted = chars.as_str().starts_with('\'');
        if quoted {
            chars.next();
        }
        loop {
            match chars.next() {
                Some('\\') => value.extend(chars.next()),
                Some('\'') if quoted => break,
                Some(c) if c.is_whitespace() && !quoted => break,
                Some(c) => value.push(c),
                None if quoted => return Err("has a quote that does not end".to_owned()),
                None => break,
            }
        }
        pairs.push((name.trim().to_owned(), value));
        rest = chars.as_str().trim_start();
    }
    Ok(pairs)
}

/// Of PostgreSQL.
const PORT: u16 = 5432;

/// As many as Centrifugo takes on most hosts, and what a server can bear.
const CONNECTIONS: u32 = 4;
const CONNECTIONS_MAX: u32 = 64;

/// Of drivers, or without effect here.
const IGNORED: [&str; 20] = [
    "channel_binding",
    "client_encoding",
    "default_query_exec_mode",
    "description_cache_capacity",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbspn",
    "krbsrvname",
    "load_balance_hosts",
    "min_read_buffer_size",
    "sslcompression",
    "sslinline",
    "sslnegotiation",
    "sslsni",
    "statement_cache_capacity",
    "tcp_user_timeout",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> (PgHost, u16) {
        (PgHost::Tcp(host.to_owned()), port)
    }

    #[test]
    fn both_forms_of_a_dsn_say_the_same() {
        let url = "postgres://ann:s%3Acret@db.example:7000/shop?sslmode=disable&connect_timeout=3\
                   &search_path=a&pool_max_conns=9&target_session_attrs=read-write";
        let words = "host=db.example port = 7000 user=ann password='s:cret' dbname=shop \
                     sslmode=disable connect_timeout=3 search_path=a pool_max_conns=9 \
                     target_session_attrs=read-write";
        let expected = PgServer {
            hosts: vec![tcp("db.example", 7000)],
            user: "ann".to_owned(),
            password: Secret::new("s:cret"),
            database: "shop".to_owned(),
            tls: PgTls::Off,
            connect_timeout: Duration::from_secs(3),
            primary: true,
            parameters: vec![("search_path".to_owned(), "a".to_owned())],
            connections: 9,
            ..PgServer::default()
        };
        assert_eq!(PgServer::parse(url).as_ref(), Ok(&expected));
        assert_eq!(PgServer::parse(words).as_ref(), Ok(&expected));
        assert!(!format!("{expected:?}").contains("cret"));
    }

    #[test]
    fn hosts_are_read_in_all_forms() {
        let unix = |path: &str, port| (PgHost::Unix(path.to_owned()), port);
        for (dsn, hosts) in [
            ("postgresql://h", vec![tcp("h", 5432)]),
            ("postgres://", vec![(PgHost::Own, 5432)]),
            ("postgres:///db", vec![(PgHost::Own, 5432)]),
            ("dbname=db port=7000", vec![(PgHost::Own, 7000)]),
            ("postgres://[::1]:7000/db", vec![tcp("::1", 7000)]),
            ("postgres://[::1]", vec![tcp("::1", 5432)]),
            ("postgres://a,b:7000", vec![tcp("a", 5432), tcp("b", 7000)]),
            ("host=a,b port=7000", vec![tcp("a", 7000), tcp("b", 7000)]),
            ("postgres://%2Frun%2Fpg:7000/db", vec![unix("/run/pg", 7000)]),
            ("postgres:///db?host=/run/pg", vec![unix("/run/pg", 5432)]),
            ("host=/run/pg", vec![unix("/run/pg", 5432)]),
        ] {
            assert_eq!(PgServer::parse(dsn).map(|it| it.hosts), Ok(hosts), "{dsn}");
        }
    }

    #[test]
    fn modes_of_tls_are_those_of_libpq() {
        let of = |rest: &str| PgServer::parse(&format!("postgres://h/?{rest}")).map(|it| it.tls);
        let verified =
            |path: &str, name| Ok(PgTls::Verified { authorities: path.to_owned(), name });
        assert_eq!(of(""), Ok(PgTls::IfOffered));
        assert_eq!(of("sslmode=prefer"), Ok(PgTls::IfOffered));
        assert_eq!(of("sslmode=require"), Ok(PgTls::Anybody));
        assert_eq!(of("sslmode=require&sslrootcert=/ca"), verified("/ca", false));
        assert_eq!(of("sslmode=verify-ca&sslrootcert=/ca"), verified("/ca", false));
        assert_eq!(of("sslmode=verify-full&sslrootcert=/ca"), verified("/ca", true));
        assert_eq!(of("sslmode=verify-full&sslrootcert=system"), verified("", true));
        assert!(of("sslmode=perhaps").is_err());
    }

    #[test]
    fn mistakes_are_named_and_passwords_are_not() {
        for (dsn, part) in [
            ("", "is needed"),
            ("hush", "must be a URL"),
            ("mysql://hush@h", "must be a URL"),
            ("postgres://u:%zz@h", "URL-encoded"),
            ("postgres://u:hush@h:0/db", "ports"),
            ("postgres://u:hush@h:x/db", "ports"),
            ("host=a,b port=1,2,3", "one for each host"),
            ("password='hush", "quote"),
            ("host=h connect_timeout=hush", "connect_timeout"),
            ("host=h pool_max_conns=0", "pool_max_conns"),
            ("host=h passfile=hush", "passfile"),
            ("host=h sslcert=hush", "belong together"),
            ("host=h channel_binding=require", "channel_binding"),
            ("host=h sslnegotiation=direct", "sslnegotiation"),
            ("host=h a-b=hush", "name that is none"),
        ] {
            let what = PgServer::parse(dsn).expect_err(dsn);
            assert!(what.contains(part), "{dsn}: {what}");
            assert!(!what.contains("hush"), "{dsn}: {what}");
        }
    }

    #[test]
    fn names_of_tables_are_names() {
        let table = |name: &str| {
            let options = Postgresql { outbox_table_name: name.to_owned(), ..Default::default() };
            options.table().map(str::to_owned)
        };
        for name in ["outbox", "a.b", "_x$1", "\"a b\".\"c;d\"", "a.\"b\"", "straße"] {
            assert_eq!(table(name).as_deref(), Some(name));
        }
        for name in ["", "a b", "a;drop table b", "1a", "a.", ".a", "\"", "\"\"", "a\"b\"", "a--"] {
            assert_eq!(table(name), None, "{name}");
        }
    }
}
