//! The seam between a connection and its record layer: ours, or that of rustls.
//!
//! Owns nothing: each call goes to the one that the setup chose when the handshake was done.

use super::direction::{Aead, Shape};
use super::fault::Fault;
use super::library::{LIBRARY_BYTES, Library};
use super::record::{Keys, Limits, Opened, Own, Role};

/// Who carries a connection after its handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordLayer {
    /// This crate: 176 bytes for a connection.
    #[default]
    Own,
    /// rustls: some 3,900 bytes for a connection, and a copy of what is opened and sealed. Where
    /// the server was dialled; what it dials itself has ours.
    Rustls,
}

impl RecordLayer {
    /// Bytes that a connection takes at most besides its [`Record`].
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Own => 0,
            Self::Rustls => LIBRARY_BYTES,
        }
    }
}

/// Both directions of one connection whose handshake is done. After a [`Fault`] nothing opens any
/// more, and after an alert of ours nothing is sealed.
pub struct Record(Layer);

enum Layer {
    Own(Own),
    Rustls(Box<Library>),
}

/// A million connections have one each.
const _: () = assert!(size_of::<Option<Record>>() == 176);

impl Record {
    pub(super) fn new(role: Role, shape: Shape, read: Keys<'_>, write: Keys<'_>) -> Option<Self> {
        Own::new(role, shape, read, write).map(|own| Self(Layer::Own(own)))
    }

    pub(super) fn of_library(library: Library) -> Self {
        Self(Layer::Rustls(Box::new(library)))
    }

    /// The record layer of TLS 1.3 over two traffic secrets, from their first records on: for
    /// simulations and vectors. A server reads what `client` protects.
    pub fn from_secrets(role: Role, aead: Aead, client: [u8; 32], server: [u8; 32]) -> Self {
        Self(Layer::Own(Own::from_secrets(role, aead, client, server)))
    }

    /// Version and AEAD, where the layer is ours.
    pub fn shape(&self) -> Option<Shape> {
        match &self.0 {
            Layer::Own(own) => Some(own.shape()),
            Layer::Rustls(_) => None,
        }
    }

    /// Opens one whole record, as long as [`length`](super::length) says, in place.
    ///
    /// After a fault, [`Record::refuse`] makes its alert.
    pub fn open(&mut self, limits: &Limits, record: &mut [u8]) -> Result<Opened, Fault> {
        match &mut self.0 {
            Layer::Own(own) => own.open(limits, record),
            Layer::Rustls(library) => library.open(record),
        }
    }

    /// Whether the peer waits for an answer of the protocol ([`Record::settle`]).
    pub fn owes(&self) -> bool {
        match &self.0 {
            Layer::Own(own) => own.owes(),
            Layer::Rustls(library) => library.owes(),
        }
    }

    /// Appends what the protocol itself wants to say. [`Record::seal`] does it first.
    pub fn settle(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        match &mut self.0 {
            Layer::Own(own) => own.settle(out),
            Layer::Rustls(library) => {
                library.settle(out);
                Ok(())
            }
        }
    }

    /// Appends records with all of `parts` as their content, in as few records as it takes: one, up
    /// to 16,384 bytes. Nothing, if there is no content.
    pub fn seal(
        &mut self,
        limits: &Limits,
        parts: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        match &mut self.0 {
            Layer::Own(own) => own.seal(limits, parts, out),
            Layer::Rustls(library) => library.seal(parts, out),
        }
    }

    /// Appends a KeyUpdate, after which we write under the next key; `ask` asks the same of the
    /// peer, which rustls never does. Nothing in TLS 1.2, which has none.
    pub fn update_key(&mut self, ask: bool, out: &mut Vec<u8>) -> Result<(), Fault> {
        match &mut self.0 {
            Layer::Own(own) => own.update_key(ask, out),
            Layer::Rustls(library) => library.update_key(out),
        }
    }

    /// Appends close_notify, once; nothing is sealed after it. Reading goes on.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        match &mut self.0 {
            Layer::Own(own) => own.close(out),
            Layer::Rustls(library) => library.close(out),
        }
    }

    /// Appends the alert of `fault`, if it has one, once; nothing is sealed or opened after it.
    pub fn refuse(&mut self, fault: &Fault, out: &mut Vec<u8>) {
        match &mut self.0 {
            Layer::Own(own) => own.refuse(fault, out),
            Layer::Rustls(library) => library.refuse(fault.alert(), out),
        }
    }

    /// Appends a fatal alert, once; nothing is sealed or opened after it.
    pub(super) fn alert(&mut self, code: u8, out: &mut Vec<u8>) {
        match &mut self.0 {
            Layer::Own(own) => own.alert(code, out),
            Layer::Rustls(library) => library.refuse(Some(code), out),
        }
    }

    /// Whether the peer said that nothing follows: an end without it is a truncation.
    pub fn is_ended(&self) -> bool {
        match &self.0 {
            Layer::Own(own) => own.is_ended(),
            Layer::Rustls(library) => library.is_ended(),
        }
    }

    /// Whether an alert of ours, close_notify included, is the last thing sealed.
    pub fn is_shut(&self) -> bool {
        match &self.0 {
            Layer::Own(own) => own.is_shut(),
            Layer::Rustls(library) => library.is_shut(),
        }
    }
}
