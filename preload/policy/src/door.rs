//! What is said to the node, at the door that it opens for a run.
//!
//! The door is a TCP port of the loopback interface. A connection to it begins with an [`Opening`], which holds the run's
//! token: nobody else knows it. What follows depends on what is asked for:
//!
//! - [`Ask::Carry`]: one byte comes back, 0 or an error number; after 0 the connection is the party's.
//! - [`Ask::CarryPadded`]: nothing comes back. The program's connect has returned already, and the socket is full of padding,
//!   so that it is not writable. How much is said on the run's control connection. When the party has accepted, the node
//!   reads the padding, and what comes after it goes to the party; if not, it resets, and keeps the error to be asked for.
//! - [`Ask::Control`]: a row of [`Word`]s, each answered by one byte, 0 or an error number.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Length of a run's token.
pub const TOKEN: usize = 16;

/// What begins a connection to the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Of the run.
    pub token: [u8; TOKEN],
    /// What is wanted.
    pub ask: Ask,
}

/// What is wanted of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A connection to a party; somebody waits for the answer.
    Carry(SocketAddr),
    /// A connection to a party; nobody waits.
    CarryPadded(SocketAddr),
    /// To speak about the run.
    Control,
}

/// What is said on a control connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The connection from this local address has so much padding.
    Padded(SocketAddr, u64),
    /// Why was the connection from this local address reset?
    Why(SocketAddr),
}

/// Bytes of an opening.
pub const OPENING: usize = TOKEN + 1 + PLACE;
/// Bytes of a word.
pub const WORD: usize = 1 + PLACE + 8;
/// Bytes of an address with its port.
const PLACE: usize = 1 + 16 + 2;

const CARRY: u8 = 1;
const CARRY_PADDED: u8 = 2;
const CONTROL: u8 = 3;
const PADDED: u8 = 1;
const WHY: u8 = 2;

impl Opening {
    /// As it is sent.
    pub fn encode(&self) -> [u8; OPENING] {
        let mut bytes = [0; OPENING];
        let (token, rest) = bytes.split_at_mut(TOKEN);
        token.copy_from_slice(&self.token);
        let (ask, place) = match self.ask {
            Ask::Carry(to) => (CARRY, encode_place(to)),
            Ask::CarryPadded(to) => (CARRY_PADDED, encode_place(to)),
            Ask::Control => (CONTROL, [0; PLACE]),
        };
        if let [kind, rest @ ..] = rest {
            *kind = ask;
            rest.copy_from_slice(&place);
        }
        bytes
    }

    /// Nothing if it is none.
    pub fn decode(bytes: &[u8; OPENING]) -> Option<Opening> {
        let (token, rest) = bytes.split_first_chunk::<TOKEN>()?;
        let ask = match rest.split_first()? {
            (&CARRY, place) => Ask::Carry(decode_place(place)?),
            (&CARRY_PADDED, place) => Ask::CarryPadded(decode_place(place)?),
            (&CONTROL, place) if place.iter().all(|byte| *byte == 0) => Ask::Control,
            _ => return None,
        };
        Some(Opening { token: *token, ask })
    }
}

impl Word {
    /// As it is sent.
    pub fn encode(&self) -> [u8; WORD] {
        let (kind, place, number) = match *self {
            Word::Padded(from, bytes) => (PADDED, from, bytes),
            Word::Why(from) => (WHY, from, 0),
        };
        let mut bytes = [kind; WORD];
        let (_, rest) = bytes.split_at_mut(1);
        let (to_place, to_number) = rest.split_at_mut(PLACE);
        to_place.copy_from_slice(&encode_place(place));
        to_number.copy_from_slice(&number.to_be_bytes());
        bytes
    }

    /// Nothing if it is none.
    pub fn decode(bytes: &[u8; WORD]) -> Option<Word> {
        let (kind, rest) = bytes.split_first()?;
        let (place, number) = rest.split_at_checked(PLACE)?;
        let (place, number) = (decode_place(place)?, u64::from_be_bytes(number.try_into().ok()?));
        match (*kind, number) {
            (PADDED, number) => Some(Word::Padded(place, number)),
            (WHY, 0) => Some(Word::Why(place)),
            _ => None,
        }
    }
}

fn encode_place(place: SocketAddr) -> [u8; PLACE] {
    let (family, address) = match place.ip() {
        IpAddr::V4(address) => (4, address.to_ipv6_mapped()),
        IpAddr::V6(address) => (6, address),
    };
    let mut bytes = [family; PLACE];
    let (_, rest) = bytes.split_at_mut(1);
    let (to_address, to_port) = rest.split_at_mut(16);
    to_address.copy_from_slice(&address.octets());
    to_port.copy_from_slice(&place.port().to_be_bytes());
    bytes
}

/// An address of IPv4 has one form only.
fn decode_place(bytes: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = bytes.split_first()?;
    let (address, port) = rest.split_first_chunk::<16>()?;
    let (address, port) = (Ipv6Addr::from(*address), u16::from_be_bytes(port.try_into().ok()?));
    let address = match (family, address.to_ipv4_mapped()) {
        (4, Some(address)) => IpAddr::V4(address),
        (6, None) => IpAddr::V6(address),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> impl Strategy<Value = SocketAddr> {
        any::<SocketAddr>().prop_map(|place| SocketAddr::new(place.ip().to_canonical(), place.port()))
    }

    fn ask() -> impl Strategy<Value = Ask> {
        prop_oneof![place().prop_map(Ask::Carry), place().prop_map(Ask::CarryPadded), Just(Ask::Control)]
    }

    fn word() -> impl Strategy<Value = Word> {
        prop_oneof![
            (place(), any::<u64>()).prop_map(|(from, bytes)| Word::Padded(from, bytes)),
            place().prop_map(Word::Why)
        ]
    }

    proptest! {
        #[test]
        fn an_opening_is_read_as_it_was_written(token: [u8; TOKEN], ask in ask()) {
            let opening = Opening { token, ask };
            prop_assert_eq!(Opening::decode(&opening.encode()), Some(opening));
        }

        #[test]
        fn a_word_is_read_as_it_was_written(word in word()) {
            prop_assert_eq!(Word::decode(&word.encode()), Some(word));
        }

        #[test]
        fn what_parses_has_one_form(opening: [u8; OPENING], kind in 0..4_u8, family in 3..8_u8, word: [u8; WORD]) {
            let mut opening = opening;
            (opening[TOKEN], opening[TOKEN + 1]) = (kind, family);
            if let Some(read) = Opening::decode(&opening) {
                prop_assert_eq!(read.encode(), opening);
            }
            let mut word = word;
            (word[0], word[1]) = (kind, family);
            if let Some(read) = Word::decode(&word) {
                prop_assert_eq!(read.encode(), word);
            }
        }
    }
}
