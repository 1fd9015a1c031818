//! What breaks a rule of TLS: how it looks on the wire, and the alerts that may answer it.

use ringhold::internals::rng::Rng;

use super::records::{ALERT, CHANGE_CIPHER_SPEC, DATA, HANDSHAKE, Half, header};

/// Each end breaks one rule at most, and once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A bit of a record is another on the way: of its header, of what it holds, of its tag.
    Header,
    Body,
    Tag,
    /// A record comes twice, or not at all.
    Twice,
    Missing,
    /// A record that is longer than any, or of a wrong type, or a late ChangeCipherSpec.
    Long,
    Kind,
    /// Too many of what is allowed.
    Empties,
    KeyUpdates,
    Warnings,
    /// A message that has no place, a malformed one, one that asks for what there is not, one that
    /// does not end its record.
    Message,
    Form,
    Request,
    Place,
    /// Padding and no type.
    NoType,
    /// The stream ends inside a record.
    Cut,
    /// In the midst of the handshake, which is the client's to spoil.
    Greeting,
}

const ALL: [Flaw; 17] = [
    Flaw::Header,
    Flaw::Body,
    Flaw::Tag,
    Flaw::Twice,
    Flaw::Missing,
    Flaw::Long,
    Flaw::Kind,
    Flaw::Empties,
    Flaw::KeyUpdates,
    Flaw::Warnings,
    Flaw::Message,
    Flaw::Form,
    Flaw::Request,
    Flaw::Place,
    Flaw::NoType,
    Flaw::Cut,
    Flaw::Greeting,
];

impl Flaw {
    pub fn draw(rng: &mut Rng) -> Self {
        ALL[rng.below(ALL.len() as u32) as usize]
    }

    /// The alerts that may answer it; none where the end is all there is to hear.
    pub fn alerts(self) -> &'static [u8] {
        match self {
            // A length may be too long or too short, or that of a record that never ends.
            Self::Header => &[10, 20, 22],
            Self::Body | Self::Tag | Self::Twice | Self::Missing => &[20],
            Self::Long => &[22],
            Self::Kind | Self::Empties | Self::KeyUpdates | Self::Warnings | Self::Message => &[10],
            Self::Place | Self::NoType => &[10],
            Self::Form => &[50],
            Self::Request => &[47],
            Self::Greeting => &[51],
            Self::Cut => &[],
        }
    }

    /// Whether the record of data that it comes with is opened.
    pub fn comes_behind(self) -> bool {
        match self {
            Self::Twice | Self::Empties | Self::KeyUpdates | Self::Warnings => true,
            Self::Message | Self::Form | Self::Request | Self::Place | Self::NoType => true,
            Self::Header | Self::Body | Self::Tag | Self::Missing | Self::Long => false,
            Self::Kind | Self::Cut | Self::Greeting => false,
        }
    }

    /// What is written in place of a record of data, or with it.
    pub fn spoil(self, mut record: Vec<u8>, write: &mut Half, rng: &mut Rng) -> Vec<u8> {
        let len = record.len();
        let mut flip = |from: usize, to: usize| {
            let at = from + rng.below((to - from) as u32) as usize;
            record[at] ^= 1 << rng.below(8);
        };
        match self {
            Self::Header => flip(0, 5),
            Self::Body => flip(5, len - 16),
            Self::Tag => flip(len - 16, len),
            Self::Twice => record.extend_from_within(..),
            // The next one tells.
            Self::Missing => record = write.seal(DATA, b"?", 0),
            Self::Long => drop(record.splice(..0, header(DATA, (1 << 14) + 257))),
            Self::Kind => {
                let kind = [HANDSHAKE, ALERT, CHANGE_CIPHER_SPEC, 99][rng.below(4) as usize];
                record.splice(..0, [&header(kind, 1)[..], &[1]].concat());
            }
            Self::Empties => record.extend((0..33).flat_map(|_| write.seal(DATA, b"", 1))),
            Self::KeyUpdates => {
                for number in 0..33 {
                    record.extend(write.seal(HANDSHAKE, &[24, 0, 0, 1, number & 1], 0));
                    write.advance();
                }
            }
            Self::Warnings => record.extend((0..5).flat_map(|_| write.seal(ALERT, &[1, 90], 0))),
            Self::Message => {
                let kind = [1, 2, 11, 20][rng.below(4) as usize];
                record.extend(write.seal(HANDSHAKE, &[kind, 0, 0, 0], 0));
            }
            Self::Form => record.extend(match rng.one_in(2) {
                true => write.seal(HANDSHAKE, &[24, 0, 0, 2, 0, 0], 0),
                false => write.seal(ALERT, &[1, 90, 0], 0),
            }),
            Self::Request => record.extend(write.seal(HANDSHAKE, &[24, 0, 0, 1, 2], 0)),
            Self::Place => record.extend(write.seal(HANDSHAKE, &[24, 0, 0, 1, 0, 0], 0)),
            Self::NoType => record.extend(write.seal(0, b"", 3)),
            Self::Cut => record.truncate(1 + rng.below(len as u32 - 1) as usize),
            Self::Greeting => {}
        }
        record
    }
}
