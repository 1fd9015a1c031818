//! `ringhold health`: one question to a running server, for containers without a shell.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use http::Uri;

use super::options::duration;
use super::output::print;

#[derive(Debug, Args)]
pub(crate) struct HealthArguments {
    /// What to ask: the server's /health, /ready or /live
    #[arg(
        long,
        default_value = "http://127.0.0.1:8000/health",
        value_name = "URL",
        env = "RINGHOLD_HEALTH_URL"
    )]
    url: Uri,

    /// How long to wait for each step of the answer
    #[arg(long, default_value = "2s", value_parser = duration, value_name = "TIME")]
    timeout: Duration,
}

pub(crate) fn run(arguments: &HealthArguments) -> Result<ExitCode, Box<dyn Error>> {
    let url = &arguments.url;
    let status = ask(url, arguments.timeout).map_err(|error| format!("{url}: {error}"))?;
    print(&format!("{status}\n"))?;
    Ok(if status == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The status of the answer.
fn ask(url: &Uri, timeout: Duration) -> Result<u16, Box<dyn Error>> {
    let host = match (url.scheme_str(), url.host()) {
        (Some("http"), Some(host)) => host,
        _ => return Err("must be an http:// address".into()),
    };
    let name = (host.trim_matches(['[', ']']), url.port_u16().unwrap_or(80));
    let address = name.to_socket_addrs()?.next().ok_or("the name has no address")?;
    let mut socket = TcpStream::connect_timeout(&address, timeout)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    // `HTTP/1.1 200`
    let mut line = [0; 12];
    socket.read_exact(&mut line)?;
    let number = std::str::from_utf8(&line[9..])?;
    Ok(number.parse().map_err(|_| "the answer is not HTTP")?)
}
