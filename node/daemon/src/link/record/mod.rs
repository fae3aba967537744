//! TLS 1.3 after the handshake (RFC 8446, 4.6, 5 and 6): bytes in, bytes out, without a socket.
//!
//! The handshake is rustls'. What follows it on a link are tens of thousands of cells a second, and rustls copies each of
//! them four times and allocates for every record; here records are opened and sealed where they lie. Nobody outside can
//! see a difference: alerts, closing, key updates and their limits are those of the RFC. Each fault ends the connection,
//! after its alert.

mod key;
#[cfg(test)]
mod tests;

use std::ops::Range;

use phantom_protocol::wire::hello::Role;
use thiserror::Error;

use self::key::record_length;
pub use self::key::{Content, RecordKey, Suite};
pub(super) use self::key::{HEADER, RECORD};

/// Records without data that may follow each other: those that carry a part of a message, an update, nothing.
const MOST_QUIET: u8 = 32;
/// The longest message after a handshake that is read to its end: tickets have a few hundred bytes.
const MOST_MESSAGE: usize = 16 * 1024;
/// What a message begins with: kind 1, length 3.
const MESSAGE_HEADER: usize = 4;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Its tag is not that of this key and this number.
    #[error("a record that was not sealed by the other side")]
    BadTag,
    /// Longer than records may be.
    #[error("a record that is too long")]
    TooLong,
    /// Not at this time, or in no version of TLS.
    #[error("a message out of place")]
    Unexpected,
    /// A message that cannot be read.
    #[error("a malformed message")]
    Malformed,
    /// A value that no message has.
    #[error("a message with an illegal value")]
    Illegal,
    /// Updates and empty records without an end.
    #[error("too many records without data")]
    TooQuiet,
    /// The peer has ended the connection with this alert.
    #[error("alert {0} of the other side")]
    Alert(u8),
    /// We have said our last.
    #[error("nothing may follow the end of a connection")]
    Over,
    /// A secret of the wrong size, or one that has served too often.
    #[error("no usable key")]
    NoKey,
}

impl Fault {
    /// What the peer is told (RFC 8446, 6.2).
    fn alert(self) -> Option<u8> {
        Some(match self {
            Fault::Unexpected | Fault::TooQuiet => 10,
            Fault::BadTag => 20,
            Fault::TooLong => 22,
            Fault::Illegal => 47,
            Fault::Malformed => 50,
            Fault::NoKey => 80,
            Fault::Alert(_) | Fault::Over => return None,
        })
    }

    /// Whether the peer must have done it: it was under its seal.
    pub fn is_proven(self) -> bool {
        matches!(self, Fault::Malformed | Fault::Illegal | Fault::TooQuiet)
    }
}

/// What the bytes of a peer begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The beginning of a record.
    Part,
    /// A record of this length, which has been opened; its data, if it has any, lies in the range now.
    Record(usize, Range<usize>),
    /// The peer's last record: it has closed its direction in order.
    Closed,
}

/// Both directions of a connection after its handshake.
pub struct Records {
    role: Role,
    ours: RecordKey,
    theirs: RecordKey,
    /// Records that our key may seal.
    most: u64,
    /// The peer wants to see an update of ours.
    owes_update: bool,
    /// The beginning of a message that comes in several records.
    message: Vec<u8>,
    quiet: u8,
    /// We have said our last.
    over: bool,
}

impl Records {
    /// After a handshake in this role: the key that we seal with, and the peer's.
    pub fn new(role: Role, ours: RecordKey, theirs: RecordKey) -> Records {
        let most = ours.suite().most_records();
        Records { role, ours, theirs, most, owes_update: false, message: Vec::new(), quiet: 0, over: false }
    }

    /// Looks at the record that `bytes` begin with, and opens it in place if it is whole. Every record is to be given
    /// once. Nothing may be given after [`Opened::Closed`] or a fault; a fault is told to the peer by
    /// [`Self::seal_fault`].
    pub fn open(&mut self, bytes: &mut [u8]) -> Result<Opened, Fault> {
        let Some(length) = record_length(bytes)? else { return Ok(Opened::Part) };
        let Some(record) = bytes.get_mut(..length) else { return Ok(Opened::Part) };
        let (content, range) = self.theirs.open(record)?;
        if content != Content::Handshake && !self.message.is_empty() {
            return Err(Fault::Unexpected);
        }
        if content == Content::Data && !range.is_empty() {
            self.quiet = 0;
            return Ok(Opened::Record(length, range));
        }
        self.quiet += 1;
        if self.quiet > MOST_QUIET {
            return Err(Fault::TooQuiet);
        }
        let inside = record.get(range).unwrap_or_default();
        match content {
            Content::Data => {}
            Content::Handshake => self.handle_handshake(inside)?,
            Content::Alert if is_close(inside)? => return Ok(Opened::Closed),
            Content::Alert => {}
        }
        Ok(Opened::Record(length, 0..0))
    }

    /// Seals what `fill` appends as a record of data, if it appends anything. An update of our key goes before it when
    /// one is due.
    pub fn seal<T>(&mut self, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>) -> T) -> Result<T, Fault> {
        self.seal_update_if_due(out)?;
        let start = out.len();
        out.extend_from_slice(&[0; HEADER]);
        let filled = fill(out);
        if out.len() == start + HEADER {
            out.truncate(start);
        } else {
            self.ours.seal(Content::Data, out, start)?;
        }
        Ok(filled)
    }

    /// Whether [`Self::seal_update_if_due`] has something to say.
    pub fn owes_update(&self) -> bool {
        self.owes_update && !self.over
    }

    /// Updates our key, if the peer has asked for it or the key has served its time. A key's last record is its update.
    pub fn seal_update_if_due(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.over {
            return Err(Fault::Over);
        }
        if self.owes_update || self.ours.sequence() + 1 >= self.most {
            self.owes_update = false;
            let update = [KEY_UPDATE, 0, 0, 1, 0];
            self.seal_whole(Content::Handshake, &update, out)?;
            self.ours = self.ours.next()?;
        }
        Ok(())
    }

    /// Says that nothing more comes.
    pub fn seal_close(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.seal_update_if_due(out)?;
        self.over = true;
        self.seal_whole(Content::Alert, &[WARNING, CLOSE_NOTIFY], out)
    }

    /// Tells the peer what was wrong, if it is to be told. Nothing may follow.
    pub fn seal_fault(&mut self, fault: Fault, out: &mut Vec<u8>) -> Result<(), Fault> {
        if let Some(alert) = fault.alert().filter(|_| !self.over) {
            self.seal_whole(Content::Alert, &[FATAL, alert], out)?;
        }
        self.over = true;
        Ok(())
    }

    fn seal_whole(&mut self, content: Content, inside: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER]);
        out.extend_from_slice(inside);
        self.ours.seal(content, out, start)
    }

    /// Messages may be split over records, and several may share one (RFC 8446, 5.1).
    fn handle_handshake(&mut self, part: &[u8]) -> Result<(), Fault> {
        if part.is_empty() {
            return Err(Fault::Unexpected);
        }
        let mut bytes = std::mem::take(&mut self.message);
        bytes.extend_from_slice(part);
        let mut rest = bytes.as_slice();
        while let Some(([kind, length @ ..], behind)) = rest.split_first_chunk::<MESSAGE_HEADER>() {
            let [a, b, c] = *length;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > MOST_MESSAGE {
                return Err(Fault::TooLong);
            }
            let Some((message, behind)) = behind.split_at_checked(length) else { break };
            self.handle_message(*kind, message, behind.is_empty())?;
            rest = behind;
        }
        self.message = rest.to_vec();
        Ok(())
    }

    fn handle_message(&mut self, kind: u8, message: &[u8], is_last_of_record: bool) -> Result<(), Fault> {
        match kind {
            // Sessions are not resumed.
            NEW_SESSION_TICKET if self.role == Role::Dialler => Ok(()),
            // What follows it must be under the next key.
            KEY_UPDATE if is_last_of_record => {
                let [request] = message else { return Err(Fault::Malformed) };
                match request {
                    0 => {}
                    1 => self.owes_update = true,
                    _ => return Err(Fault::Illegal),
                }
                self.theirs = self.theirs.next()?;
                Ok(())
            }
            _ => Err(Fault::Unexpected),
        }
    }
}

/// Whether the alert closes the connection in order. Of the others, all but one end it, whatever their level says
/// (RFC 8446, 6).
fn is_close(alert: &[u8]) -> Result<bool, Fault> {
    match alert {
        [_, CLOSE_NOTIFY] => Ok(true),
        [_, USER_CANCELED] => Ok(false),
        [_, other] => Err(Fault::Alert(*other)),
        _ => Err(Fault::Malformed),
    }
}
