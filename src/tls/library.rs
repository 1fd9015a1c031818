//! The record layer of rustls, for those who want none of ours: `record_layer = "rustls"`.
//!
//! Owns rustls' object for the life of the connection, 3,900 bytes of memory where ours has 176,
//! and copies what it opens and seals. The same calls as ours, so nobody else sees a difference.
//!
//! Invariant: as for ours, nothing opens after a [`Fault`], and nothing is sealed after an alert.
//! What a peer leaves begun is bounded by [`BEGUN_MAX`].

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};
use rustls::{Error, PeerMisbehaved, ProtocolVersion};

use super::direction::{APPLICATION_DATA, HEADER};
use super::fault::{Fault, Reason};
use super::greet::refused;
use super::record::Opened;

/// See the module's text.
pub(super) struct Library {
    side: UnbufferedServerConnection,
    /// Records of a message that is begun: rustls has to see them again.
    held: Vec<u8>,
    /// What it wants to say.
    owed: Vec<u8>,
    /// The peer said that nothing follows.
    ended: bool,
    /// A fault ended reading.
    broken: bool,
    /// rustls has found it, and written its alert.
    found: bool,
    /// An alert of ours ended writing.
    shut: bool,
}

/// What one takes at most, allocations and what is begun included.
pub(super) const LIBRARY_BYTES: usize = (4 << 10) + BEGUN_MAX;

/// Bytes of a message behind the handshake that may be begun: a KeyUpdate has 5, a ClientHello that
/// asks for renegotiation hundreds.
const BEGUN_MAX: usize = 4 << 10;

/// Records that rustls makes of one message, at most.
const ROUNDS: usize = 16;

/// Bytes of an alert on the wire: TLS 1.3; TLS 1.2 with ChaCha20-Poly1305 and with AES-GCM.
const ALERTS: [usize; 3] = [24, 23, 31];

/// A record that no key opens.
const FORGED: [u8; HEADER + 32] = {
    let mut record = [0; HEADER + 32];
    [record[0], record[1], record[2], record[4]] = [APPLICATION_DATA, 3, 3, 32];
    record
};

type Traffic<'c> = WriteTraffic<'c, ServerConnectionData>;
type State<'c, 'i> = ConnectionState<'c, 'i, ServerConnectionData>;

impl Library {
    /// Goes on where a handshake has ended.
    pub(super) fn new(side: UnbufferedServerConnection) -> Self {
        let (held, owed) = (Vec::new(), Vec::new());
        Self { side, held, owed, ended: false, broken: false, found: false, shut: false }
    }

    /// As [`super::Record::open`].
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<Opened, Fault> {
        if self.broken {
            return Err(Fault::Closed);
        }
        if self.ended {
            return Ok(Opened::Closed);
        }
        // RFC 8446 section 5.2: what is protected is of this type outside. rustls does not look.
        let is_new = self.side.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        match record.first() {
            Some(&kind) if is_new && kind != APPLICATION_DATA => {
                return Err(Fault::RecordType(kind));
            }
            _ => {}
        }
        self.held.extend_from_slice(record);
        let opened = self.process(record).map_err(|error| {
            self.found = true;
            fault_of(&error)
        })?;
        if self.held.is_empty() {
            self.held = Vec::new();
        } else if self.held.len() > BEGUN_MAX {
            return Err(Fault::GreetingLength);
        }
        Ok(opened)
    }

    /// Lets rustls work on what is held. What it opens is put into `record`.
    fn process(&mut self, record: &mut [u8]) -> Result<Opened, Error> {
        let mut opened = Opened::Nothing;
        for _ in 0..ROUNDS {
            let UnbufferedStatus { mut discard, state } =
                self.side.process_tls_records(&mut self.held);
            let mut is_last = false;
            match state? {
                State::ReadTraffic(mut traffic) => {
                    while let Some(data) = traffic.next_record() {
                        let data = data?;
                        discard += data.discard;
                        let place = HEADER..HEADER + data.payload.len();
                        // What is opened is shorter than the record that held it.
                        if let Some(room) = record.get_mut(place.clone())
                            && !room.is_empty()
                        {
                            room.copy_from_slice(data.payload);
                            opened = Opened::Data(place);
                        }
                    }
                }
                State::EncodeTlsData(mut data) => {
                    append(&mut self.owed, |room| data.encode(room).map_err(Full::from))?;
                }
                State::TransmitTlsData(data) => data.done(),
                State::PeerClosed | State::Closed => {
                    self.ended = true;
                    opened = Opened::Closed;
                    is_last = true;
                }
                _ => is_last = true,
            }
            self.held.drain(..discard);
            if is_last {
                break;
            }
        }
        Ok(opened)
    }

    /// As [`super::Record::owes`].
    pub(super) fn owes(&self) -> bool {
        !self.owed.is_empty() && !self.shut
    }

    /// As [`super::Record::settle`].
    pub(super) fn settle(&mut self, out: &mut Vec<u8>) {
        if !self.shut {
            out.append(&mut self.owed);
        }
        self.owed = Vec::new();
    }

    /// As [`super::Record::seal`].
    pub(super) fn seal(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.shut {
            return Err(Fault::Closed);
        }
        self.settle(out);
        let content = parts.concat();
        if content.is_empty() {
            return Ok(());
        }
        self.write(out, |traffic, room| traffic.encrypt(&content, room).map_err(Full::from))
    }

    /// As [`super::Record::update_key`], without asking.
    pub(super) fn update_key(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.shut {
            return Err(Fault::Closed);
        }
        self.settle(out);
        let UnbufferedStatus { state, .. } = self.side.process_tls_records(&mut self.held);
        match state {
            Ok(State::WriteTraffic(traffic)) => {
                // TLS 1.2 has no other keys.
                let _ = traffic.refresh_traffic_keys();
            }
            Ok(_) => {}
            Err(error) => return Err(fault_of(&error)),
        }
        self.speak(out);
        Ok(())
    }

    /// As [`super::Record::close`].
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        if !self.shut {
            self.settle(out);
            self.shut = true;
            // Fails where a key is worn out: the peer sees the end without it.
            let _ = self
                .write(out, |traffic, room| traffic.queue_close_notify(room).map_err(Full::from));
        }
    }

    /// As [`super::Record::refuse`]. rustls writes alerts of faults that it finds only: for another
    /// one that wants an alert it is given a record to find one in.
    pub(super) fn refuse(&mut self, alert: Option<u8>, out: &mut Vec<u8>) {
        self.broken = true;
        if !self.shut {
            self.settle(out);
            if alert.is_some() && !self.found {
                self.held.extend_from_slice(&FORGED);
                let _ = self.process(&mut []);
            }
            self.speak(out);
            self.shut = true;
        }
        self.held = Vec::new();
    }

    /// Whether the peer said that nothing follows.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether an alert of ours is the last thing sealed.
    pub(super) fn is_shut(&self) -> bool {
        self.shut
    }

    /// Appends what rustls has to say, up to an alert: behind it, it would look at the fault again.
    fn speak(&mut self, out: &mut Vec<u8>) {
        for _ in 0..ROUNDS {
            let start = out.len();
            let UnbufferedStatus { discard, state } = self.side.process_tls_records(&mut self.held);
            let goes_on = match state {
                Ok(State::EncodeTlsData(mut data)) => {
                    let written = append(out, |room| data.encode(room).map_err(Full::from));
                    written.is_ok() && !ALERTS.contains(&(out.len() - start))
                }
                Ok(State::TransmitTlsData(data)) => {
                    data.done();
                    true
                }
                _ => false,
            };
            self.held.drain(..discard);
            if !goes_on {
                return;
            }
        }
    }

    /// Appends what `write` makes, where traffic may be written.
    fn write(
        &mut self,
        out: &mut Vec<u8>,
        mut write: impl FnMut(&mut Traffic<'_>, &mut [u8]) -> Result<usize, Full>,
    ) -> Result<(), Fault> {
        for _ in 0..ROUNDS {
            let UnbufferedStatus { discard, state } = self.side.process_tls_records(&mut self.held);
            let done = match state.map_err(|error| fault_of(&error))? {
                State::WriteTraffic(mut traffic) => {
                    append(out, |room| write(&mut traffic, room)).map_err(|_| Fault::KeyWornOut)?;
                    true
                }
                State::EncodeTlsData(mut data) => {
                    append(out, |room| data.encode(room).map_err(Full::from))
                        .map_err(|error| fault_of(&error))?;
                    false
                }
                State::TransmitTlsData(data) => {
                    data.done();
                    false
                }
                // Told once; afterwards comes what may be written.
                State::PeerClosed => {
                    self.ended = true;
                    false
                }
                _ => return Err(Fault::Closed),
            };
            self.held.drain(..discard);
            if done {
                return Ok(());
            }
        }
        Err(Fault::Closed)
    }
}

/// Why a piece was not written.
enum Full {
    /// It takes so much room.
    Room(usize),
    /// It cannot be.
    Never(String),
}

impl From<EncodeError> for Full {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Self::Room(required_size)
            }
            other => Self::Never(other.to_string()),
        }
    }
}

impl From<EncryptError> for Full {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Self::Room(required_size)
            }
            other => Self::Never(other.to_string()),
        }
    }
}

/// Appends what `write` makes, which is asked once more with the room that it wants.
fn append(
    out: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Full>,
) -> Result<(), Error> {
    let start = out.len();
    let mut written = write(&mut []);
    if let Err(Full::Room(size)) = written {
        out.resize(start + size, 0);
        written = write(&mut out[start..]);
    }
    out.truncate(start + written.as_ref().copied().unwrap_or(0));
    match written {
        Ok(_) => Ok(()),
        Err(Full::Room(size)) => Err(Error::General(format!("no room for {size} bytes"))),
        Err(Full::Never(why)) => Err(Error::General(why)),
    }
}

/// The fault of ours that an error is.
fn fault_of(error: &Error) -> Fault {
    match error {
        Error::DecryptError => Fault::BadRecord,
        Error::PeerSentOversizedRecord => Fault::RecordLength,
        Error::AlertReceived(alert) => Fault::Alert(u8::from(*alert)),
        Error::PeerMisbehaved(PeerMisbehaved::TooManyEmptyFragments) => Fault::EmptyRecords,
        Error::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests) => Fault::KeyUpdates,
        Error::PeerMisbehaved(PeerMisbehaved::TooManyWarningAlertsReceived) => Fault::Warnings,
        Error::PeerMisbehaved(PeerMisbehaved::TooManyRenegotiationRequests) => Fault::Renegotiation,
        other => match refused(other) {
            Fault::Greeting(_, text) => Fault::Greeting(Reason::Malformed, text),
            fault => fault,
        },
    }
}
