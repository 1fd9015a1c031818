//! The names of `tls` that the engine knows, without the feature `tls`: nothing can be set up, so
//! no connection speaks it.
//!
//! The invariant: whatever a connection would have of TLS has no value, so that the engine's steps
//! for it are compiled and never taken.

use std::fmt;
use std::ops::Range;

/// Most bytes of a record, which there is none of.
pub(crate) const RECORD_MAX: usize = 0;

/// Why a TLS connection ends early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Closed,
    NotTls,
    #[allow(dead_code, reason = "no handshake begins")]
    Validated,
}

impl Fault {
    pub(crate) fn name(&self) -> &'static str {
        "no TLS"
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("built without the feature `tls`")
    }
}

#[derive(Debug, Default)]
pub(crate) struct Limits;

#[allow(dead_code, reason = "nothing is opened")]
pub(crate) enum Opened {
    Data(Range<usize>),
    Nothing,
    Messages(Range<usize>),
    Closed,
}

#[derive(Debug)]
pub(crate) enum Ticket {}

impl Ticket {
    pub(crate) fn take(&mut self, _: &[u8]) -> bool {
        match *self {}
    }

    pub(crate) fn memory(&self) -> usize {
        match *self {}
    }
}

#[allow(dead_code, reason = "no handshake begins")]
pub(crate) enum Step {
    More,
    Done(Welcome),
}

pub(crate) struct Welcome {
    pub(crate) record: Record,
    pub(crate) resumed: bool,
    pub(crate) ticket: Option<Ticket>,
}

#[derive(Debug)]
pub(crate) enum Record {}

/// Who would carry connections.
#[derive(Clone, Copy)]
pub(crate) struct RecordLayer;

impl RecordLayer {
    pub(crate) fn bytes(self) -> usize {
        0
    }
}

/// What a connection that leaves the engine takes with it of TLS: nothing without the feature
/// `tls`.
#[allow(dead_code, reason = "there are none")]
#[derive(Debug)]
pub struct Parts {
    pub(crate) record: Record,
    pub(crate) received: Vec<u8>,
    pub(crate) unsent: Vec<u8>,
}

pub(crate) enum Greeting {}

pub(crate) fn length(_: &[u8]) -> Result<Option<usize>, Fault> {
    Err(Fault::Closed)
}

impl Record {
    pub(crate) fn open(&mut self, _: &Limits, _: &mut [u8]) -> Result<Opened, Fault> {
        match *self {}
    }

    pub(crate) fn settle(&mut self, _: &mut Vec<u8>) -> Result<(), Fault> {
        match *self {}
    }

    pub(crate) fn seal(&mut self, _: &Limits, _: &[&[u8]], _: &mut Vec<u8>) -> Result<(), Fault> {
        match *self {}
    }

    pub(crate) fn close(&mut self, _: &mut Vec<u8>) {
        match *self {}
    }

    pub(crate) fn refuse(&mut self, _: &Fault, _: &mut Vec<u8>) {
        match *self {}
    }

    pub(crate) fn is_ended(&self) -> bool {
        match *self {}
    }

    pub(crate) fn is_shut(&self) -> bool {
        match *self {}
    }
}

impl Greeting {
    pub(crate) fn server(setup: &keys::ServerSetup) -> Result<Self, Fault> {
        match *setup {}
    }

    pub(crate) fn client(
        setup: &keys::ClientSetup,
        _: &str,
        _: bool,
        _: &mut Vec<u8>,
    ) -> Result<Self, Fault> {
        match *setup {}
    }

    pub(crate) fn memory(&self) -> usize {
        match *self {}
    }

    pub(crate) fn refuse(&mut self, _: &Fault, _: &mut Vec<u8>) {
        match *self {}
    }

    pub(crate) fn is_new(&self) -> bool {
        match *self {}
    }

    pub(crate) fn feed(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<Step, Fault> {
        match *self {}
    }
}

pub(crate) mod greet {
    use super::Fault;

    pub(crate) fn length(_: &[u8], _: bool) -> Result<Option<usize>, Fault> {
        Err(Fault::Closed)
    }

    pub(crate) fn alert(_: &Fault, _: &mut Vec<u8>) {}
}

pub(crate) mod keys {
    pub(crate) enum ServerSetup {}
    pub(crate) enum ClientSetup {}

    /// Certificates and keys of a server: none without the feature `tls`.
    #[derive(Debug)]
    pub enum ServerMaterials {}

    /// Whom a client trusts: nobody without the feature `tls`.
    #[derive(Debug)]
    pub enum ClientMaterials {}

    /// Why certificates or keys cannot be used: there are none without the feature `tls`.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum KeyFault {}

    impl std::fmt::Display for KeyFault {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match *self {}
        }
    }

    impl std::error::Error for KeyFault {}

    impl ServerMaterials {
        pub(crate) fn record_layer(&self) -> super::RecordLayer {
            match *self {}
        }

        pub(crate) fn setup(&self) -> Result<ServerSetup, KeyFault> {
            match *self {}
        }
    }

    impl ClientMaterials {
        pub(crate) fn setup(&self) -> Result<ClientSetup, KeyFault> {
            match *self {}
        }
    }
}
