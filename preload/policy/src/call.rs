//! What the library inside a program says to its run, and what it is answered.
//!
//! Each call is a conversation of its own, on a Unix socket that keeps the borders of messages: one [`Call`], one [`Answer`].
//! The program's descriptor, if the call is about one, goes along with the call; one that is made goes along with the answer.
//! So nothing is shared between threads or between processes, and nothing has to be remembered over a fork.
//!
//! A message is a kind of one byte and its fields, numbers in network order; what has no length of its own goes to the end.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::errno::Errno;

/// The longest message.
pub const LONGEST: usize = 4_096;
/// The longest name.
pub const NAME: usize = 255;
/// No address of a socket is longer.
pub const ADDRESS: usize = 128;

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// A socket, as the program says it. Answered by [`Answer::Done`] with a descriptor.
    Socket {
        /// `AF_INET` and so on.
        family: i32,
        /// With `SOCK_NONBLOCK` and `SOCK_CLOEXEC`.
        kind: i32,
        /// 0 for the family's own.
        protocol: i32,
    },
    /// The descriptor is to be connected to this address, which is as the kernel reads it.
    Connect(&'a [u8]),
    /// The descriptor is to listen.
    Listen {
        /// So many may wait.
        backlog: i32,
    },
    /// The descriptor's error, which is forgotten by that. Answered by [`Answer::Number`].
    SocketError,
    /// The addresses of a name. Answered by [`Answer::Addresses`].
    Name(&'a [u8]),
    /// The name of an address. Answered by [`Answer::Name`].
    Address(IpAddr),
    /// A message of DNS. Answered by [`Answer::Message`].
    Question(&'a [u8]),
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It is done.
    Done,
    /// The program is told this error.
    Failed(Errno),
    /// A number.
    Number(i32),
    /// Of a name: the AP address, and the local alias if there is one.
    Addresses(Ipv6Addr, Option<Ipv4Addr>),
    /// Of an address.
    Name(&'a [u8]),
    /// Of DNS.
    Message(&'a [u8]),
    /// There is no such name.
    Unknown,
    /// Nobody can tell now.
    Again,
}

/// The byte that a connect begins with; what follows is the address.
pub const CONNECT: u8 = 2;

const SOCKET: u8 = 1;
const LISTEN: u8 = 3;
const ERROR: u8 = 4;
const NAME_OF: u8 = 5;
const ADDRESS_OF: u8 = 6;
const QUESTION: u8 = 7;

const DONE: u8 = 1;
const FAILED: u8 = 2;
const NUMBER: u8 = 3;
const ADDRESSES: u8 = 4;
const NAMED: u8 = 5;
const MESSAGE: u8 = 6;
const UNKNOWN: u8 = 7;
const AGAIN: u8 = 8;

impl<'a> Call<'a> {
    /// As it is said. Nothing if a field is too long.
    pub fn encode<'b>(&self, space: &'b mut [u8]) -> Option<&'b [u8]> {
        let mut to = Writer { space, used: 0 };
        match *self {
            Call::Socket { family, kind, protocol } => {
                to.put(&[SOCKET])?;
                [family, kind, protocol].iter().try_for_each(|number| to.put(&number.to_be_bytes()))?;
            }
            Call::Connect(address) => to.kind_and_rest(CONNECT, at_most(ADDRESS, address)?)?,
            Call::Listen { backlog } => to.kind_and_rest(LISTEN, &backlog.to_be_bytes())?,
            Call::SocketError => to.put(&[ERROR])?,
            Call::Name(name) => to.kind_and_rest(NAME_OF, at_most(NAME, name)?)?,
            Call::Address(address) => to.kind_and_rest(ADDRESS_OF, &octets(address))?,
            Call::Question(message) => to.kind_and_rest(QUESTION, message)?,
        }
        to.written()
    }

    /// Nothing if it is none.
    pub fn decode(bytes: &'a [u8]) -> Option<Call<'a>> {
        let (kind, rest) = bytes.split_first()?;
        Some(match *kind {
            SOCKET => {
                let (family, rest) = rest.split_first_chunk::<4>()?;
                let (kind, protocol) = rest.split_first_chunk::<4>()?;
                Call::Socket {
                    family: i32::from_be_bytes(*family),
                    kind: i32::from_be_bytes(*kind),
                    protocol: number(protocol)?,
                }
            }
            CONNECT => Call::Connect(at_most(ADDRESS, rest)?),
            LISTEN => Call::Listen { backlog: number(rest)? },
            ERROR if rest.is_empty() => Call::SocketError,
            NAME_OF => Call::Name(at_most(NAME, rest)?),
            ADDRESS_OF => Call::Address(address(rest)?),
            QUESTION => Call::Question(at_most(LONGEST, rest)?),
            _ => return None,
        })
    }
}

impl<'a> Answer<'a> {
    /// As it is said. Nothing if a field is too long.
    pub fn encode<'b>(&self, space: &'b mut [u8]) -> Option<&'b [u8]> {
        let mut to = Writer { space, used: 0 };
        match *self {
            Answer::Done => to.put(&[DONE])?,
            Answer::Failed(errno) => to.put(&[FAILED, errno.0])?,
            Answer::Number(number) => to.kind_and_rest(NUMBER, &number.to_be_bytes())?,
            Answer::Addresses(address, alias) => {
                to.kind_and_rest(ADDRESSES, &address.octets())?;
                alias.map_or(Some(()), |alias| to.put(&alias.octets()))?;
            }
            Answer::Name(name) => to.kind_and_rest(NAMED, at_most(NAME, name)?)?,
            Answer::Message(message) => to.kind_and_rest(MESSAGE, message)?,
            Answer::Unknown => to.put(&[UNKNOWN])?,
            Answer::Again => to.put(&[AGAIN])?,
        }
        to.written()
    }

    /// Nothing if it is none.
    pub fn decode(bytes: &'a [u8]) -> Option<Answer<'a>> {
        let (kind, rest) = bytes.split_first()?;
        Some(match (*kind, rest) {
            (DONE, []) => Answer::Done,
            (FAILED, [errno]) => Answer::Failed(Errno(*errno)),
            (NUMBER, _) => Answer::Number(number(rest)?),
            (ADDRESSES, _) => {
                let (address, alias) = rest.split_first_chunk::<16>()?;
                let alias = match alias {
                    [] => None,
                    _ => Some(<[u8; 4]>::try_from(alias).ok()?.into()),
                };
                Answer::Addresses((*address).into(), alias)
            }
            (NAMED, _) => Answer::Name(at_most(NAME, rest)?),
            (MESSAGE, _) => Answer::Message(at_most(LONGEST, rest)?),
            (UNKNOWN, []) => Answer::Unknown,
            (AGAIN, []) => Answer::Again,
            _ => return None,
        })
    }
}

struct Writer<'b> {
    space: &'b mut [u8],
    used: usize,
}

impl<'b> Writer<'b> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.used.checked_add(bytes.len())?;
        self.space.get_mut(self.used..end)?.copy_from_slice(bytes);
        self.used = end;
        Some(())
    }

    fn kind_and_rest(&mut self, kind: u8, rest: &[u8]) -> Option<()> {
        self.put(&[kind])?;
        self.put(rest)
    }

    fn written(self) -> Option<&'b [u8]> {
        let space: &'b [u8] = self.space;
        at_most(LONGEST, space.get(..self.used)?)
    }
}

fn at_most(most: usize, bytes: &[u8]) -> Option<&[u8]> {
    (bytes.len() <= most).then_some(bytes)
}

fn number(bytes: &[u8]) -> Option<i32> {
    bytes.try_into().ok().map(i32::from_be_bytes)
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// An address of IPv4 comes as one that is mapped, and so does nothing else.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.try_into().ok()?;
    Some(IpAddr::V6(octets.into()).to_canonical())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::{collection::vec, prelude::*};
    use std::vec::Vec;

    use super::*;

    fn is_read_as_it_was_written(call: Call<'_>) {
        let mut space = [0; LONGEST];
        let written = call.encode(&mut space).unwrap();
        assert_eq!(Call::decode(written), Some(call));
        for cut in 0..written.len().min(13) {
            assert_ne!(Call::decode(&written[..cut]), Some(call), "cut off");
        }
    }

    fn comes_back(answer: Answer<'_>) {
        let mut space = [0; LONGEST];
        let written = answer.encode(&mut space).unwrap();
        assert_eq!(Answer::decode(written), Some(answer));
    }

    proptest! {
        #[test]
        fn a_call_is_read_as_it_was_written(
            (family, kind, protocol) in any::<(i32, i32, i32)>(),
            address in vec(any::<u8>(), 0..=ADDRESS),
            name in vec(any::<u8>(), 0..=NAME),
            message in vec(any::<u8>(), 0..LONGEST),
            of: IpAddr,
        ) {
            is_read_as_it_was_written(Call::Socket { family, kind, protocol });
            is_read_as_it_was_written(Call::Connect(&address));
            is_read_as_it_was_written(Call::Listen { backlog: kind });
            is_read_as_it_was_written(Call::SocketError);
            is_read_as_it_was_written(Call::Name(&name));
            is_read_as_it_was_written(Call::Address(of.to_canonical()));
            is_read_as_it_was_written(Call::Question(&message));
        }

        #[test]
        fn an_answer_is_read_as_it_was_written(
            number: i32,
            errno: u8,
            address: Ipv6Addr,
            alias: Option<Ipv4Addr>,
            name in vec(any::<u8>(), 0..=NAME),
            message in vec(any::<u8>(), 0..LONGEST),
        ) {
            comes_back(Answer::Done);
            comes_back(Answer::Failed(Errno(errno)));
            comes_back(Answer::Number(number));
            comes_back(Answer::Addresses(address, alias));
            comes_back(Answer::Name(&name));
            comes_back(Answer::Message(&message));
            comes_back(Answer::Unknown);
            comes_back(Answer::Again);
        }

        #[test]
        fn what_parses_has_one_form(kind in 0..10_u8, rest in vec(any::<u8>(), 0..40)) {
            let bytes: Vec<u8> = std::iter::once(kind).chain(rest).collect();
            let mut space = [0; LONGEST];
            if let Some(call) = Call::decode(&bytes) {
                prop_assert_eq!(call.encode(&mut space), Some(&bytes[..]));
            }
            if let Some(answer) = Answer::decode(&bytes) {
                prop_assert_eq!(answer.encode(&mut space), Some(&bytes[..]));
            }
        }
    }

    #[test]
    fn what_is_too_long_is_not_said() {
        let mut space = [0; 2 * LONGEST];
        assert_eq!(Call::Name(&[b'a'; NAME + 1]).encode(&mut space), None);
        assert_eq!(Call::Connect(&[0; ADDRESS + 1]).encode(&mut space), None);
        assert_eq!(Call::Question(&[0; LONGEST]).encode(&mut space), None, "with its kind it is longer");
        assert_eq!(Answer::Message(&[0; LONGEST]).encode(&mut space), None);
        assert_eq!(Call::SocketError.encode(&mut []), None);
    }
}
