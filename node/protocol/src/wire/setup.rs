//! What travels while a routing path is set up: the array of 23 slots and what stands in a slot (PROTOCOL §4).
//!
//! ```text
//! array          23 slots of 2,560 bytes, in both rounds
//! slot, round 1  X25519 32 | ML-KEM 1,088 | content 1,424 | tag 16
//! slot, round 2  content 2,544 | tag 16
//! content        hash of slots 1-22 32 | stream key 32 | setup package or goodie box | zeros
//! setup package  previous node 32 | its connection 5 | next contact 116 | its connection 5 | secret 32 | class 1 | expiry 8
//! goodie box     1 | zeros                                          for a Y-node
//!                2 | neighbour A 122 | neighbour B 122 | hop secret 32 | count 1 | route keys 32 each    for an X-node
//! neighbour      1 | contact 116 | path id 5, or 122 zeros for "outside"
//! ```
//!
//! Everything has exactly one encoding: what an honest owner would not write is refused.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::{
    crypto::{Key, proof::RouteKey, seal},
    identity::NodeId,
    limits::{ARRAY, ROUTE_KEYS_PER_PATH, SLOT, SLOTS},
    time::UnixTime,
    wire::{
        cell::PathId,
        contact::Contact,
        reader::{Malformed, Reader, Writer},
    },
};

pub use super::control::Round;

/// Bytes of the KEM ciphertexts in a slot of round 1.
pub const CIPHERTEXT: usize = seal::CIPHERTEXT;
/// Bytes of an AEAD tag.
pub const TAG: usize = seal::TAG;

/// The 23 slots.
#[derive(Clone, PartialEq, Eq)]
pub struct SetupArray(Box<[u8; ARRAY]>);

impl From<Box<[u8; ARRAY]>> for SetupArray {
    fn from(bytes: Box<[u8; ARRAY]>) -> SetupArray {
        SetupArray(bytes)
    }
}

impl From<SetupArray> for Box<[u8; ARRAY]> {
    fn from(array: SetupArray) -> Box<[u8; ARRAY]> {
        array.0
    }
}

impl SetupArray {
    /// An array of zeros.
    pub fn zeroed() -> SetupArray {
        SetupArray::from_bytes(&[0; ARRAY]).unwrap_or_else(|| unreachable!("the size is right"))
    }

    /// Exactly 58,880 bytes are an array.
    pub fn from_bytes(bytes: &[u8]) -> Option<SetupArray> {
        bytes.to_vec().into_boxed_slice().try_into().ok().map(SetupArray)
    }

    /// The bytes, to be sent.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// All slots, to be turned by a stream.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice()
    }

    /// Slot 0, which is for the node that holds the array, and slots 1-22.
    pub fn split(&self) -> (&[u8], &[u8]) {
        self.0.split_at(SLOT)
    }

    /// Slot 0 and slots 1-22.
    pub fn split_mut(&mut self) -> (&mut [u8], &mut [u8]) {
        self.0.split_at_mut(SLOT)
    }

    /// Drops slot 0 and appends a slot of zeros.
    pub fn shift(&mut self) {
        self.0.copy_within(SLOT.., 0);
        self.0[ARRAY - SLOT..].fill(0);
    }

    /// All slots, first to last.
    pub fn slots(&self) -> impl Iterator<Item = &[u8]> {
        self.0.chunks_exact(SLOT).take(SLOTS)
    }
}

impl std::fmt::Debug for SetupArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SetupArray")
    }
}

/// The decrypted content of a slot.
pub struct Content {
    /// SHA-256 of slots 1-22 as they must have been received.
    pub hash: [u8; 32],
    /// The once-used key of the stream over all 23 slots.
    pub stream: Key,
    /// The setup package or goodie box and the zeros behind it.
    pub payload: Zeroizing<Vec<u8>>,
}

impl Content {
    /// Writes into the content part of a slot, zeros behind the payload. Owners' payloads are always shorter.
    pub fn write(hash: &[u8; 32], stream: &Key, payload: &[u8], content: &mut [u8]) {
        content.fill(0);
        let whole = hash.iter().chain(stream.as_bytes()).chain(payload);
        content.iter_mut().zip(whole).for_each(|(to, from)| *to = *from);
    }

    /// Reads the content part of a slot.
    pub fn read(content: &[u8]) -> Result<Content, Malformed> {
        let mut reader = Reader::new(content);
        Ok(Content {
            hash: reader.array()?,
            stream: Key::from_bytes(reader.array()?),
            payload: Zeroizing::new(reader.remainder().to_vec()),
        })
    }
}

/// How long a path may live and be idle: one of a few classes, so that it tells little about its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum PathClass {
    /// An hour; idle for a quarter. Not asked for by this version.
    Short = 1,
    /// Four hours; idle for one. What all paths ask for: a class of its own would show a service.
    Standard = 2,
    /// A day; idle for six hours. Not asked for by this version.
    Long = 3,
}

impl PathClass {
    /// How long the owner wants the path to live.
    pub fn lifetime(self) -> Duration {
        Duration::from_secs(match self {
            PathClass::Short => 3_600,
            PathClass::Standard => 4 * 3_600,
            PathClass::Long => 24 * 3_600,
        })
    }

    /// A hop ends a path that carried nothing for this long.
    pub fn idle(self) -> Duration {
        Duration::from_secs(match self {
            PathClass::Short => 900,
            PathClass::Standard => 3_600,
            PathClass::Long => 6 * 3_600,
        })
    }

    fn decode(reader: &mut Reader<'_>) -> Result<PathClass, Malformed> {
        match reader.u8()? {
            1 => Ok(PathClass::Short),
            2 => Ok(PathClass::Standard),
            3 => Ok(PathClass::Long),
            _ => Err(Malformed::Field("class of limits")),
        }
    }
}

/// What a node learns in round 1.
#[derive(Clone)]
#[cfg_attr(test, derive(Debug))] // who is whose neighbour must not get into a log
pub struct SetupPackage {
    /// Who must have sent the array, by the proof of its link.
    pub previous: NodeId,
    /// The connection id that the array must have come with.
    pub previous_connection: PathId,
    /// Who gets the array next.
    pub next: Contact,
    /// The connection id that it gets it with.
    pub next_connection: PathId,
    /// This slot's own secret: the key of the goodie box comes from it.
    pub secret: Key,
    /// Limits, if the node stays in the path.
    pub class: PathClass,
    /// When the node forgets the path, if it stays in it.
    pub expiry: UnixTime,
}

impl SetupPackage {
    /// The payload of a slot.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Writer::with_capacity(256);
        out.bytes(self.previous.as_bytes()).bytes(&self.previous_connection.to_bytes());
        self.next.encode(&mut out);
        out.bytes(&self.next_connection.to_bytes()).bytes(self.secret.as_bytes());
        out.u8(self.class as u8).u64(self.expiry.0);
        Zeroizing::new(out.finish())
    }

    /// Reads the payload of a slot and the zeros behind it.
    pub fn decode(payload: &[u8]) -> Result<SetupPackage, Malformed> {
        let mut reader = Reader::new(payload);
        let package = SetupPackage {
            previous: NodeId::from_bytes(reader.array()?),
            previous_connection: PathId::from_bytes(reader.array()?),
            next: Contact::decode(&mut reader)?,
            next_connection: PathId::from_bytes(reader.array()?),
            secret: Key::from_bytes(reader.array()?),
            class: PathClass::decode(&mut reader)?,
            expiry: UnixTime(reader.u64()?),
        };
        zeros_to_the_end(reader)?;
        Ok(package)
    }
}

/// What a node learns in round 2.
#[derive(Clone)]
#[cfg_attr(test, derive(Debug))] // who is whose neighbour must not get into a log
pub enum GoodieBox {
    /// A Y-node: forward, then forget.
    Helper,
    /// An X-node: it stays in the path.
    Hop(Box<HopBox>),
}

/// What an X-node keeps.
#[derive(Clone)]
#[cfg_attr(test, derive(Debug))] // who is whose neighbour must not get into a log
pub struct HopBox {
    /// The final neighbours A and B, in the order that the owner has drawn. A terminal has only one: its other side is
    /// "outside".
    pub neighbours: [Option<(Contact, PathId)>; 2],
    /// All keys of this hop come from it.
    pub secret: Key,
    /// What a terminal accepts tokens for.
    pub route_keys: Vec<RouteKey>,
}

const HELPER: u8 = 1;
const HOP: u8 = 2;
const NEIGHBOUR: usize = Contact::ENCODED + 5;

impl GoodieBox {
    /// The payload of a slot.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Writer::with_capacity(1024);
        match self {
            GoodieBox::Helper => {
                out.u8(HELPER);
            }
            GoodieBox::Hop(hop) => {
                out.u8(HOP);
                hop.encode(&mut out);
            }
        }
        Zeroizing::new(out.finish())
    }

    /// Reads the payload of a slot and the zeros behind it.
    pub fn decode(payload: &[u8]) -> Result<GoodieBox, Malformed> {
        let mut reader = Reader::new(payload);
        let goodies = match reader.u8()? {
            HELPER => GoodieBox::Helper,
            HOP => GoodieBox::Hop(Box::new(HopBox::decode(&mut reader)?)),
            _ => return Err(Malformed::Field("kind of goodie box")),
        };
        zeros_to_the_end(reader)?;
        Ok(goodies)
    }
}

impl HopBox {
    /// Whether one side is "outside".
    pub fn is_terminal(&self) -> bool {
        self.neighbours.iter().any(Option::is_none)
    }

    fn encode(&self, out: &mut Writer) {
        for neighbour in &self.neighbours {
            match neighbour {
                Some((contact, path)) => {
                    out.u8(1);
                    contact.encode(out);
                    out.bytes(&path.to_bytes());
                }
                None => {
                    out.zeros(1 + NEIGHBOUR);
                }
            }
        }
        out.bytes(self.secret.as_bytes()).u8(self.route_keys.len().min(ROUTE_KEYS_PER_PATH) as u8);
        for key in self.route_keys.iter().take(ROUTE_KEYS_PER_PATH) {
            out.bytes(key.as_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<HopBox, Malformed> {
        let neighbours = [decode_neighbour(reader)?, decode_neighbour(reader)?];
        let secret = Key::from_bytes(reader.array()?);
        let count = usize::from(reader.u8()?);
        if count > ROUTE_KEYS_PER_PATH {
            return Err(Malformed::Field("number of route keys"));
        }
        let route_keys: Vec<_> =
            (0..count).map(|_| reader.array().map(RouteKey::from_bytes)).collect::<Result<_, _>>()?;
        let hop = HopBox { neighbours, secret, route_keys };
        match &hop.neighbours {
            [None, None] => Err(Malformed::Field("neighbours")),
            [Some((a, _)), Some((b, _))] if a.id == b.id => Err(Malformed::Field("neighbours")),
            // Only a terminal meets tokens.
            [Some(_), Some(_)] if !hop.route_keys.is_empty() => Err(Malformed::Field("number of route keys")),
            _ => Ok(hop),
        }
    }
}

fn decode_neighbour(reader: &mut Reader<'_>) -> Result<Option<(Contact, PathId)>, Malformed> {
    match reader.u8()? {
        0 => reader.zeros(NEIGHBOUR).map(|()| None),
        1 => Ok(Some((Contact::decode(reader)?, PathId::from_bytes(reader.array()?)))),
        _ => Err(Malformed::Field("neighbours")),
    }
}

fn zeros_to_the_end(mut reader: Reader<'_>) -> Result<(), Malformed> {
    let filler = reader.remaining();
    reader.zeros(filler)
}

#[cfg(test)]
mod tests;
