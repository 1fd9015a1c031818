//! A reverse proxy in front of a server, started with a configuration from `tuning/`: what is
//! shipped is what is tested. Only ports, paths and, where a test is about them, timeouts are
//! replaced, and each replacement must find what it replaces.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::daemon::free_address;
use super::{PATIENCE, Program, find_program, skip};

/// Which proxy, with which configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `tuning/nginx.conf`: HTTP, with `X-Forwarded-For`.
    Nginx,
    /// `tuning/nginx-stream.conf`: TCP, with the PROXY protocol, version 1.
    NginxStream,
    /// `tuning/haproxy.cfg`: HTTP, with the PROXY protocol, version 2.
    Haproxy,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Nginx, Self::NginxStream, Self::Haproxy];

    /// The keys of `http_server` that its configuration asks for.
    pub(crate) fn server_keys(self) -> &'static str {
        match self {
            Self::Nginx => "trusted_proxies = [\"127.0.0.1\"]\nforwarded_for = true",
            Self::NginxStream | Self::Haproxy => {
                "trusted_proxies = [\"127.0.0.1\"]\nproxy_protocol = \"required\""
            }
        }
    }

    /// The text as it is shipped.
    pub(crate) fn shipped(self) -> String {
        let name = match self {
            Self::Nginx => "nginx.conf",
            Self::NginxStream => "nginx-stream.conf",
            Self::Haproxy => "haproxy.cfg",
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The program; says why the test checks nothing here if there is none.
    fn program(self) -> Option<PathBuf> {
        let name = if self == Self::Haproxy { "haproxy" } else { "nginx" };
        // Users' paths often lack sbin.
        let found = find_program(&[name])
            .or_else(|| Some(Path::new("/usr/sbin").join(name)).filter(|path| path.is_file()));
        let module = Path::new(STREAM_MODULE).is_file();
        if found.is_none() {
            skip(&format!("{name} is not installed"));
        } else if self == Self::NginxStream && !module {
            skip("nginx has no stream module (libnginx-mod-stream)");
            return None;
        }
        found
    }
}

/// A running proxy; ended, with its folder, when dropped.
pub(crate) struct Front {
    kind: Kind,
    binary: PathBuf,
    program: Program,
    address: SocketAddr,
    folder: PathBuf,
}

impl Front {
    /// Starts it in front of this server. `None`: it is not installed, and the test was told to
    /// say so.
    pub(crate) fn start(kind: Kind, server: SocketAddr) -> Option<Self> {
        Self::start_hasty(kind, server, None)
    }

    /// Likewise, with another time of silence than the shipped one, as `2s`.
    pub(crate) fn start_hasty(
        kind: Kind,
        server: SocketAddr,
        timeout: Option<&str>,
    ) -> Option<Self> {
        let binary = kind.program()?;
        // A port that was free a moment ago may be taken by now all the same; then the proxy ends.
        (0..5).find_map(|_| Self::try_start(kind, &binary, server, timeout)).or_else(|| {
            panic!("{} does not start", binary.display());
        })
    }

    fn try_start(
        kind: Kind,
        binary: &Path,
        server: SocketAddr,
        timeout: Option<&str>,
    ) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringhold-front-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let address = free_address();
        let text = configured(kind, &folder, address, server, timeout);
        std::fs::write(folder.join("config"), &text).expect("the configuration can be written");
        let program = launch(kind, binary, &folder);
        let binary = binary.to_owned();
        let mut front = Self { kind, binary, program, address, folder };
        front.listens().then_some(front)
    }

    /// Whether it comes to listen; false if it ends before.
    fn listens(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.program.is_running() {
            assert!(Instant::now() < deadline, "{} does not listen", self.binary.display());
            if TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok() {
                return self.program.is_running();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Kills it, with all its connections, and starts it again at the same address.
    pub(crate) fn restart(&mut self) {
        self.program.end();
        // What it left behind may take the port for a moment.
        let started = (0..50).any(|_| {
            self.program = launch(self.kind, &self.binary, &self.folder);
            self.listens() || {
                std::thread::sleep(Duration::from_millis(100));
                false
            }
        });
        assert!(started, "{} does not start again", self.binary.display());
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // The program is ended when it is dropped, after this; what it still writes is lost.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn launch(kind: Kind, binary: &Path, folder: &Path) -> Program {
    let mut command = Command::new(binary);
    match kind {
        Kind::Haproxy => command.arg("-db").arg("-f"),
        _ => command.args(["-g", "daemon off;", "-e", "stderr", "-c"]),
    };
    Program::start(command.arg(folder.join("config")))
}

/// The shipped configuration with this test's ports and paths.
fn configured(
    kind: Kind,
    folder: &Path,
    address: SocketAddr,
    server: SocketAddr,
    timeout: Option<&str>,
) -> String {
    let mut text = kind.shipped();
    let mut replace = |from: &str, to: &str| {
        assert!(text.contains(from), "{kind:?} has no {from:?}");
        text = text.replace(from, to);
    };
    replace("127.0.0.1:8000", &server.to_string());
    if kind == Kind::Haproxy {
        // What descriptors there are for is not the test's business.
        replace("maxconn 100000", "maxconn 1000");
        replace("bind :80 ", &format!("bind {address} "));
        if !is_root() {
            // Only root can become somebody else.
            replace("    user haproxy\n    group haproxy\n", "");
        }
    } else {
        let folder = folder.display();
        replace("listen 80 ", &format!("listen {address} "));
        replace("pid /run/nginx.pid;", &format!("pid {folder}/pid;"));
        replace("error_log /var/log/nginx/error.log warn;", "error_log stderr warn;");
        // 200,000 entries for a few clients would be most of the memory, and take root.
        replace("worker_connections 100000;", "worker_connections 1000;");
        replace("worker_rlimit_nofile 400000;", "");
    }
    if kind == Kind::Nginx {
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths = kinds.map(|kind| format!("{kind}_temp_path {}/{kind};", folder.display()));
        replace("http {\n", &format!("http {{\n    {}\n", paths.join(" ")));
    }
    if let Some(timeout) = timeout {
        replace(" 75s", &format!(" {timeout}"));
    }
    text
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where Debian puts it.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
