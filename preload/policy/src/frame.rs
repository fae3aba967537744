//! What a run and its node say to each other.
//!
//! The conversation is a Unix stream: the node's local socket, which goes over to these frames when a run has begun, and
//! ends with it. A frame is a length (4 bytes, highest first), a byte that says of which kind it is, and its fields. Some
//! come with a descriptor, which rides on their first byte ([`FromRun::has_descriptor`]).
//!
//! Each side counts its own ids; an answer has the id of what it answers.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{errno::Errno, socket::Kind};

/// Bytes before a frame, which say its length.
pub const PREFIX: usize = 4;
/// The longest frame, without its [`PREFIX`]: a datagram is not longer.
pub const LONGEST: usize = 1 + 4 + LONGEST_DATAGRAM;
/// The longest datagram of UDP.
pub const LONGEST_DATAGRAM: usize = 65_507;
/// The longest name.
pub const LONGEST_NAME: usize = 1_024;

/// What a run says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromRun<'a> {
    /// Carry a connection to a party: if it accepts, the run says [`FromRun::Joined`].
    Open {
        /// Of the connection.
        id: u32,
        /// Those of another circle share no paths and sessions with it.
        circle: u64,
        /// The party, by its AP address or its alias.
        to: SocketAddr,
    },
    /// The party has accepted, and the program's socket stands: the descriptor is its other end. Or it does not want it any
    /// more.
    Joined {
        /// Of the connection.
        id: u32,
        /// Or why there is none.
        outcome: Result<(), Errno>,
    },
    /// Carry these datagrams to a party: the descriptor is a UDP socket, connected to a program's own.
    Flow {
        /// Of the flow.
        id: u32,
        /// As for a connection.
        circle: u64,
        /// The party, by its AP address or its alias.
        to: SocketAddr,
    },
    /// A datagram of a flow that was sent before its socket stood.
    Datagram {
        /// Of the flow.
        id: u32,
        /// All of it.
        bytes: &'a [u8],
    },
    /// Which addresses has this name?
    Name {
        /// Of the question.
        id: u32,
        /// In full.
        name: &'a str,
    },
    /// Which name has this address?
    Address {
        /// Of the question.
        id: u32,
        /// Of either family.
        address: IpAddr,
    },
    /// What came of a [`FromNode::Visit`]; if it is good, the descriptor is a socket that is connected to the program's.
    Visited {
        /// Of the visit.
        id: u32,
        /// Or why there is none.
        outcome: Result<(), Errno>,
    },
}

/// What a node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromNode<'a> {
    /// What came of a connection or a flow: the party has accepted it, or why not.
    Verdict {
        /// Of the connection or the flow.
        id: u32,
        /// If it is bad, the node has closed the descriptor of a flow.
        outcome: Result<(), Errno>,
    },
    /// The addresses of a name.
    Named {
        /// Of the question.
        id: u32,
        /// The AP address, and what stands for it in IPv4; nothing if there is no such name.
        found: Option<(Ipv6Addr, Option<Ipv4Addr>)>,
    },
    /// The name of an address.
    Addressed {
        /// Of the question.
        id: u32,
        /// Nothing if the run has not asked for such a name before.
        name: Option<&'a str>,
    },
    /// Somebody comes to the run's own identity.
    Visit {
        /// Of the visit.
        id: u32,
        /// By what.
        kind: Kind,
        /// To which port.
        port: u16,
        /// Who it is.
        address: Ipv6Addr,
        /// What stands for that in IPv4.
        alias: Ipv4Addr,
    },
    /// A flow is over.
    Ended {
        /// Of the flow.
        id: u32,
    },
}

const OPEN: u8 = 1;
const FLOW: u8 = 2;
const DATAGRAM: u8 = 3;
const NAME: u8 = 4;
const ADDRESS: u8 = 5;
const VISITED: u8 = 6;
const JOINED: u8 = 7;
const VERDICT: u8 = 16;
const NAMED: u8 = 17;
const ADDRESSED: u8 = 18;
const VISIT: u8 = 19;
const ENDED: u8 = 20;

const NOTHING: u8 = 0;
const V4: u8 = 4;
const V6: u8 = 6;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The length that a prefix says; nothing if no frame may have it.
pub fn length(prefix: [u8; PREFIX]) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(prefix)).ok().filter(|length| (1..=LONGEST).contains(length))
}

impl<'a> FromRun<'a> {
    /// Whether a descriptor comes with it.
    pub fn has_descriptor(&self) -> bool {
        matches!(
            self,
            FromRun::Flow { .. }
                | FromRun::Joined { outcome: Ok(()), .. }
                | FromRun::Visited { outcome: Ok(()), .. }
        )
    }

    /// Writes it, with its prefix. Returns what was written; nothing if there is no room for it.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        write(buffer, |to| match *self {
            FromRun::Open { id, circle, to: place } => {
                to.head(OPEN, id)?;
                to.bytes(&circle.to_be_bytes())?;
                to.place(place)
            }
            FromRun::Joined { id, outcome } => {
                to.head(JOINED, id)?;
                to.outcome(outcome)
            }
            FromRun::Flow { id, circle, to: place } => {
                to.head(FLOW, id)?;
                to.bytes(&circle.to_be_bytes())?;
                to.place(place)
            }
            FromRun::Datagram { id, bytes } => {
                to.head(DATAGRAM, id)?;
                to.bytes(bytes)
            }
            FromRun::Name { id, name } => {
                to.head(NAME, id)?;
                to.name(name)
            }
            FromRun::Address { id, address } => {
                to.head(ADDRESS, id)?;
                to.address(address)
            }
            FromRun::Visited { id, outcome } => {
                to.head(VISITED, id)?;
                to.outcome(outcome)
            }
        })
    }

    /// Reads a frame, without its prefix. Nothing if it is none.
    pub fn decode(frame: &'a [u8]) -> Option<FromRun<'a>> {
        let mut from = Reader(frame);
        let (kind, id) = from.head()?;
        let said = match kind {
            OPEN => FromRun::Open { id, circle: from.long()?, to: from.place()? },
            JOINED => FromRun::Joined { id, outcome: from.outcome()? },
            FLOW => FromRun::Flow { id, circle: from.long()?, to: from.place()? },
            DATAGRAM => {
                let bytes = from.rest();
                (bytes.len() <= LONGEST_DATAGRAM).then_some(FromRun::Datagram { id, bytes })?
            }
            NAME => FromRun::Name { id, name: from.name()? },
            ADDRESS => FromRun::Address { id, address: from.address()? },
            VISITED => FromRun::Visited { id, outcome: from.outcome()? },
            _ => return None,
        };
        from.is_at_end().then_some(said)
    }
}

impl<'a> FromNode<'a> {
    /// Writes it, with its prefix. Returns what was written; nothing if there is no room for it.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        write(buffer, |to| match *self {
            FromNode::Verdict { id, outcome } => {
                to.head(VERDICT, id)?;
                to.outcome(outcome)
            }
            FromNode::Named { id, found } => {
                to.head(NAMED, id)?;
                let Some((address, alias)) = found else { return to.byte(NOTHING) };
                to.byte(if alias.is_some() { V4 } else { V6 })?;
                to.bytes(&address.octets())?;
                alias.map_or(Some(()), |alias| to.bytes(&alias.octets()))
            }
            FromNode::Addressed { id, name } => {
                to.head(ADDRESSED, id)?;
                to.name(name.unwrap_or_default())
            }
            FromNode::Visit { id, kind, port, address, alias } => {
                to.head(VISIT, id)?;
                to.byte(match kind {
                    Kind::Stream => TCP,
                    Kind::Datagram => UDP,
                })?;
                to.bytes(&port.to_be_bytes())?;
                to.bytes(&address.octets())?;
                to.bytes(&alias.octets())
            }
            FromNode::Ended { id } => to.head(ENDED, id),
        })
    }

    /// Reads a frame, without its prefix. Nothing if it is none.
    pub fn decode(frame: &'a [u8]) -> Option<FromNode<'a>> {
        let mut from = Reader(frame);
        let (kind, id) = from.head()?;
        let said = match kind {
            VERDICT => FromNode::Verdict { id, outcome: from.outcome()? },
            NAMED => {
                let found = match from.byte()? {
                    NOTHING => None,
                    V4 => Some((from.v6()?, Some(from.v4()?))),
                    V6 => Some((from.v6()?, None)),
                    _ => return None,
                };
                FromNode::Named { id, found }
            }
            ADDRESSED => {
                let name = from.name()?;
                FromNode::Addressed { id, name: (!name.is_empty()).then_some(name) }
            }
            VISIT => {
                let kind = match from.byte()? {
                    TCP => Kind::Stream,
                    UDP => Kind::Datagram,
                    _ => return None,
                };
                let (port, address, alias) = (from.port()?, from.v6()?, from.v4()?);
                FromNode::Visit { id, kind, port, address, alias }
            }
            ENDED => FromNode::Ended { id },
            _ => return None,
        };
        from.is_at_end().then_some(said)
    }
}

/// Writes a frame, and its length before it.
fn write(buffer: &mut [u8], fields: impl FnOnce(&mut Writer<'_>) -> Option<()>) -> Option<&[u8]> {
    let mut writer = Writer { buffer, written: PREFIX };
    fields(&mut writer)?;
    let Writer { buffer, written } = writer;
    let length = u32::try_from(written - PREFIX).ok().filter(|length| *length as usize <= LONGEST)?;
    buffer.first_chunk_mut().map(|prefix: &mut [u8; PREFIX]| *prefix = length.to_be_bytes())?;
    buffer.get(..written)
}

/// Each part returns nothing if there is no room for it.
struct Writer<'b> {
    buffer: &'b mut [u8],
    written: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.written.checked_add(bytes.len())?;
        self.buffer.get_mut(self.written..end)?.copy_from_slice(bytes);
        self.written = end;
        Some(())
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        self.bytes(&[byte])
    }

    fn head(&mut self, kind: u8, id: u32) -> Option<()> {
        self.byte(kind)?;
        self.bytes(&id.to_be_bytes())
    }

    fn name(&mut self, name: &str) -> Option<()> {
        (name.len() <= LONGEST_NAME).then(|| self.bytes(name.as_bytes()))?
    }

    fn outcome(&mut self, outcome: Result<(), Errno>) -> Option<()> {
        self.byte(outcome.err().map_or(NOTHING, |errno| errno.0))
    }

    fn address(&mut self, address: IpAddr) -> Option<()> {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                self.byte(V4)?;
                self.bytes(&address.octets())
            }
            IpAddr::V6(address) => {
                self.byte(V6)?;
                self.bytes(&address.octets())
            }
        }
    }

    fn place(&mut self, place: SocketAddr) -> Option<()> {
        self.address(place.ip())?;
        self.bytes(&place.port().to_be_bytes())
    }
}

/// Each part returns nothing if it does not stand there.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const LENGTH: usize>(&mut self) -> Option<[u8; LENGTH]> {
        let (taken, rest) = self.0.split_first_chunk::<LENGTH>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }

    fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn head(&mut self) -> Option<(u8, u32)> {
        Some((self.byte()?, self.take().map(u32::from_be_bytes)?))
    }

    fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn port(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn v4(&mut self) -> Option<Ipv4Addr> {
        self.take::<4>().map(Ipv4Addr::from)
    }

    fn v6(&mut self) -> Option<Ipv6Addr> {
        self.take::<16>().map(Ipv6Addr::from)
    }

    fn name(&mut self) -> Option<&'a str> {
        core::str::from_utf8(self.rest()).ok().filter(|name| name.len() <= LONGEST_NAME)
    }

    fn outcome(&mut self) -> Option<Result<(), Errno>> {
        let errno = self.byte()?;
        Some(if errno == NOTHING { Ok(()) } else { Err(Errno(errno)) })
    }

    /// An address of IPv4 has one form only.
    fn address(&mut self) -> Option<IpAddr> {
        match self.byte()? {
            V4 => self.v4().map(IpAddr::V4),
            V6 => self.v6().map(IpAddr::V6).filter(|address| address.to_canonical() == *address),
            _ => None,
        }
    }

    fn place(&mut self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.address()?, self.port()?))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::{collection::vec, prelude::*};
    use std::vec::Vec;

    use super::*;

    const ROOM: usize = PREFIX + LONGEST;

    fn place() -> impl Strategy<Value = SocketAddr> {
        any::<SocketAddr>().prop_map(|place| SocketAddr::new(place.ip().to_canonical(), place.port()))
    }

    fn outcome() -> impl Strategy<Value = Result<(), Errno>> {
        prop_oneof![Just(Ok(())), (1..=u8::MAX).prop_map(|errno| Err(Errno(errno)))]
    }

    proptest! {
        #[test]
        fn what_a_run_says_is_read_as_it_was_written(
            (id, circle) in any::<(u32, u64)>(), to in place(), outcome in outcome(),
            bytes in vec(any::<u8>(), 0..2_000), name in "[a-z0-9.]{0,80}",
        ) {
            for said in [
                FromRun::Open { id, circle, to },
                FromRun::Joined { id, outcome },
                FromRun::Flow { id, circle, to },
                FromRun::Datagram { id, bytes: &bytes },
                FromRun::Name { id, name: &name },
                FromRun::Address { id, address: to.ip() },
                FromRun::Visited { id, outcome },
            ] {
                let mut buffer = std::vec![0; ROOM];
                let (prefix, frame) = said.encode(&mut buffer).unwrap().split_first_chunk().unwrap();
                prop_assert_eq!(length(*prefix), Some(frame.len()));
                prop_assert_eq!(FromRun::decode(frame), Some(said));
                prop_assert_eq!(FromNode::decode(frame), None);
                let too_small = PREFIX + frame.len() - 1;
                prop_assert!(said.encode(&mut std::vec![0; too_small]).is_none());
            }
        }

        #[test]
        fn what_a_node_says_is_read_as_it_was_written(
            (id, port) in any::<(u32, u16)>(), outcome in outcome(), address in any::<Ipv6Addr>(), alias in any::<Ipv4Addr>(),
            found in any::<Option<(Ipv6Addr, Option<Ipv4Addr>)>>(), name in "[a-z0-9.]{1,80}", streams in any::<bool>(),
        ) {
            let kind = if streams { Kind::Stream } else { Kind::Datagram };
            for said in [
                FromNode::Verdict { id, outcome },
                FromNode::Named { id, found },
                FromNode::Addressed { id, name: Some(&name) },
                FromNode::Addressed { id, name: None },
                FromNode::Visit { id, kind, port, address, alias },
                FromNode::Ended { id },
            ] {
                let mut buffer = [0; 256];
                let (prefix, frame) = said.encode(&mut buffer).unwrap().split_first_chunk().unwrap();
                prop_assert_eq!(length(*prefix), Some(frame.len()));
                prop_assert_eq!(FromNode::decode(frame), Some(said));
                prop_assert_eq!(FromRun::decode(frame), None);
            }
        }

        #[test]
        fn what_parses_has_one_form(kind in 0..22_u8, fields in vec(prop_oneof![0..8_u8, any::<u8>()], 0..40)) {
            let frame: Vec<u8> = [kind].into_iter().chain(fields).collect();
            let mut buffer = std::vec![0; ROOM];
            if let Some(read) = FromRun::decode(&frame) {
                prop_assert_eq!(&read.encode(&mut buffer).unwrap()[PREFIX..], &frame);
            }
            if let Some(read) = FromNode::decode(&frame) {
                prop_assert_eq!(&read.encode(&mut buffer).unwrap()[PREFIX..], &frame);
            }
        }
    }

    #[test]
    fn no_frame_is_longer_than_the_longest_datagram() {
        let (most, mut buffer) = (std::vec![7; LONGEST_DATAGRAM + 1], std::vec![0; ROOM + 1]);
        let longest = FromRun::Datagram { id: 1, bytes: &most[1..] };
        assert_eq!(longest.encode(&mut buffer).unwrap().len(), ROOM);
        assert_eq!(FromRun::Datagram { id: 1, bytes: &most }.encode(&mut buffer), None);
        for wrong in [0, LONGEST as u32 + 1, u32::MAX] {
            assert_eq!(length(wrong.to_be_bytes()), None);
        }
        let name = std::str::from_utf8(&most[..=LONGEST_NAME]).unwrap();
        assert_eq!(FromRun::Name { id: 1, name }.encode(&mut buffer), None);
    }
}
