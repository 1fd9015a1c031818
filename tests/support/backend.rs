//! An application's backend as a child process, which answers hooks as a test says:
//! `tests/gateway/python/hooks_backend.py`, over HTTP with Python alone, over gRPC with PyPI's
//! `grpcio`.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, packages};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/python");
const PROXY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/gateway/hooks");

/// It compiles the protocol first, on a machine that may be busy.
const LIMIT: Duration = Duration::from_secs(300);

/// How it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Http,
    Grpc,
}

/// Python in its environment; `None` where something is missing, which has been said.
pub(crate) fn environment() -> Option<PathBuf> {
    packages::python("tests/gateway/python/grpc_requirements.txt")
}

/// Ended when dropped.
pub(crate) struct Backend {
    way: Way,
    child: Child,
    orders: ChildStdin,
    said: Receiver<Value>,
    address: SocketAddr,
}

impl Backend {
    /// Starts one at this port; 0 is a free one.
    pub(crate) fn start(python: &Path, way: Way, port: u16) -> Self {
        let name = match way {
            Way::Http => "http",
            Way::Grpc => "grpc",
        };
        let mut child = Command::new(python)
            .args([&format!("{FOLDER}/hooks_backend.py"), name, PROXY, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the backend starts");
        let orders = child.stdin.take().expect("stdin is piped");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let (say, said) = channel();
        std::thread::spawn(move || {
            // Ends with the process, or when nobody listens any more.
            for line in lines.map_while(Result::ok) {
                let value: Value = serde_json::from_str(&line).expect("the backend speaks JSON");
                if say.send(value).is_err() {
                    return;
                }
            }
        });
        let port = said.recv_timeout(LIMIT).expect("the backend says its port");
        let port = u16::try_from(port["port"].as_u64().expect("a port")).expect("a port");
        Self { way, child, orders, said, address: ([127, 0, 0, 1], port).into() }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint of a method.
    pub(crate) fn endpoint(&self, method: &str) -> String {
        match self.way {
            Way::Http => format!("http://{}/{method}", self.address),
            Way::Grpc => format!("grpc://{}", self.address),
        }
    }

    /// How it answers from now on.
    pub(crate) fn set(&mut self, mode: &str) {
        writeln!(self.orders, "{mode}").expect("the backend listens");
        while self.next()["mode"] != mode {}
    }

    /// Has it say something on all streams of a channel.
    pub(crate) fn tell(&mut self, order: &Value) {
        writeln!(self.orders, "{order}").expect("the backend listens");
    }

    /// What it says next.
    pub(crate) fn next(&self) -> Value {
        self.said.recv_timeout(PATIENCE).expect("the backend says something")
    }

    /// The next question of that method.
    pub(crate) fn asked(&self, method: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "{method} was not asked");
            let said = self.next();
            if said["method"] == method {
                return said;
            }
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
