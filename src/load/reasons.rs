//! Why connections fail and end, in words that name the remedy.
//!
//! Owns these texts. The invariant: the same cause gives the same text, so that they can be
//! counted.

use ringhold::{Cause, Closed};

/// Of a connection that did not open.
pub(crate) fn of_failure(error: &str) -> String {
    let code = error.rsplit_once("(os error ").and_then(|(_, rest)| rest.strip_suffix(')'));
    let remedy = match code.and_then(|code| code.parse().ok()) {
        Some(libc::ECONNREFUSED) => "is the server running, and at this port?",
        Some(libc::EADDRNOTAVAIL) => {
            "no free port, or not an address of this host: give more --sources"
        }
        Some(libc::EADDRINUSE) => "no free port: give more --sources",
        Some(libc::EMFILE) => "the limit of open files: raise ulimit -n, or use more --threads",
        Some(libc::ENFILE) => "a thread's table is full: use more --threads, or raise ulimit -n",
        Some(libc::ENOBUFS | libc::ENOMEM) => "this host is out of memory for sockets",
        Some(libc::ETIMEDOUT) => "no answer: is the accept queue of the server full?",
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => "no route to the target",
        _ if error.contains("UnknownIssuer") => "name its authority by --ca, or use --insecure",
        _ => return error.to_owned(),
    };
    format!("{error}: {remedy}")
}

/// Of a connection that was open.
pub(crate) fn of_loss(closed: &Closed) -> String {
    let text = match closed.cause {
        Cause::Peer if closed.reason.is_empty() => {
            return format!("closed by the server with {}", closed.code);
        }
        Cause::Peer => {
            return format!("closed by the server with {}: {}", closed.code, closed.reason);
        }
        Cause::Abrupt => "ended by the server without a close frame",
        Cause::Broken => "broken: reset by the server",
        Cause::Unacknowledged => "the server acknowledged nothing for a long time",
        Cause::Protocol => "the server broke the protocol",
        Cause::InvalidData => "the server sent text that is not UTF-8",
        Cause::TooBig => "the server sent a larger message than --payload",
        Cause::WriteTimeout | Cause::Trickle => "the server took nothing for a long time",
        Cause::Slow | Cause::OutboxFull => "the server takes slower than is sent",
        Cause::InboundFull => "no memory for messages in progress",
        Cause::Panic => "the load generator failed",
        // Rates, idleness, heartbeats, and what it decides itself.
        _ => "closed by the load generator",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use ringhold::CloseCode;

    use super::*;

    #[test]
    fn failures_name_the_remedy() {
        let error = std::io::Error::from_raw_os_error(libc::EADDRNOTAVAIL).to_string();
        assert!(of_failure(&error).contains("--sources"), "{error}");
        let error = std::io::Error::from_raw_os_error(libc::EMFILE).to_string();
        assert!(of_failure(&error).contains("ulimit -n"), "{error}");
        let error = "the handshake failed: invalid peer certificate: UnknownIssuer";
        assert!(of_failure(error).contains("--ca"));
        assert_eq!(of_failure("the server answered with status 503").len(), 35);
    }

    #[test]
    fn losses_say_what_the_server_said() {
        let closed = |cause, reason| Closed::new(cause, CloseCode::GOING_AWAY, reason);
        assert_eq!(of_loss(&closed(Cause::Peer, "bye")), "closed by the server with 1001: bye");
        assert_eq!(of_loss(&closed(Cause::Peer, "")), "closed by the server with 1001");
        assert!(of_loss(&closed(Cause::Abrupt, "")).contains("without a close frame"));
    }
}
