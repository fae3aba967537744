//! A call of a sealed program, whichever way we are told of it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use nix::errno::Errno;
use phantom_policy::socket;

/// What a program asks its kernel for. A descriptor of it is one of ours by now: it stands for the same.
#[derive(Debug)]
pub(super) enum Call {
    /// `socket`, with its arguments.
    Socket { family: i32, kind: i32, protocol: i32 },
    /// `connect`, by this thread.
    Connect { socket: OwnedFd, to: Given, thread: i32 },
    /// `listen`.
    Listen { socket: OwnedFd, backlog: i32 },
    /// `getpeername`.
    PeerName { socket: OwnedFd },
    /// `getsockopt` of `SO_ERROR`.
    Error { socket: OwnedFd },
}

/// What a call returns.
#[derive(Debug)]
pub(super) enum Answer {
    /// 0.
    Done,
    /// Nothing: a signal interrupts it. What the program has said about signals decides whether it fails by that or begins
    /// again.
    Interrupted,
    /// A descriptor, which the program gets.
    Socket { descriptor: OwnedFd, close_on_exec: bool },
    /// 0, and bytes in the place that the program has reserved for them: what is too long is cut off, and the true length
    /// told.
    Bytes(Vec<u8>),
}

pub(super) type Outcome = Result<Answer, Errno>;

/// Lets a call return.
pub(super) trait Caller: Send {
    /// Whether it still waits. A signal makes the kernel give up on a call.
    fn waits(&self) -> bool;

    /// Whether a signal interrupts it, if that is ours to find. Asked again and again.
    fn is_interrupted(&self) -> bool {
        false
    }

    /// If it does not wait any more, nothing happens.
    fn answer(self: Box<Self>, outcome: Outcome);
}

/// A call that has not returned. It does so in any case: fail closed.
pub(super) struct Reply(Option<Box<dyn Caller>>);

impl Reply {
    pub(super) fn to(caller: impl Caller + 'static) -> Reply {
        Reply(Some(Box::new(caller)))
    }

    pub(super) fn waits(&self) -> bool {
        self.0.as_ref().is_some_and(|caller| caller.waits())
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.0.as_ref().is_some_and(|caller| caller.is_interrupted())
    }

    pub(super) fn answer(mut self, outcome: Outcome) {
        if let Some(caller) = self.0.take() {
            caller.answer(outcome);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(caller) = self.0.take() {
            caller.answer(Err(Errno::ENETUNREACH));
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// An address as a program gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// Of the Internet.
    Internet(SocketAddr),
    /// `AF_UNSPEC`: undo what was connected.
    Nothing,
    /// Of another family, whole.
    Other(Vec<u8>),
}

impl Given {
    /// `sockaddr`, `sockaddr_in` and `sockaddr_in6` of Linux, which may be as much shorter as the kernel takes them.
    pub(super) fn parse(bytes: &[u8]) -> Option<Given> {
        let (family, rest) = bytes.split_first_chunk::<2>()?;
        let internet = |address: IpAddr, port: &[u8; 2]| {
            Some(Given::Internet(SocketAddr::new(address, u16::from_be_bytes(*port))))
        };
        match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_UNSPEC => Some(Given::Nothing),
            socket::INET => {
                let (port, rest) = rest.split_first_chunk::<2>()?;
                let (address, _) = rest.get(..12)?.split_first_chunk::<4>()?;
                internet((*address).into(), port)
            }
            socket::INET6 => {
                let (port, rest) = rest.split_first_chunk::<2>()?;
                let (address, _) = rest.get(4..)?.split_first_chunk::<16>()?;
                internet((*address).into(), port)
            }
            _ => Some(Given::Other(bytes.to_vec())),
        }
    }
}

/// An address as the kernel writes it for a socket of this family.
pub(super) fn address_bytes(family: i32, address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match (family, address.ip()) {
        (socket::INET, IpAddr::V4(v4)) => {
            let family = (socket::INET as u16).to_ne_bytes();
            [&family[..], &port, &v4.octets(), &[0; 8]].concat()
        }
        (_, ip) => {
            let v6 = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            let family = (socket::INET6 as u16).to_ne_bytes();
            [&family[..], &port, &[0; 4], &v6.octets(), &[0; 4]].concat()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    #[test]
    fn an_address_is_read_as_it_was_written() {
        for (family, address) in [
            (socket::INET, "127.192.3.4:80"),
            (socket::INET6, "[fc00::9]:443"),
            (socket::INET6, "[::ffff:1.2.3.4]:5"),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            let bytes = address_bytes(family, address);
            assert_eq!(Given::parse(&bytes), Some(Given::Internet(address)));
            assert_eq!(Given::parse(&bytes[..7]), None, "cut off");
        }
        assert_eq!(Given::parse(&[0; 16]), Some(Given::Nothing));
        assert_eq!(Given::parse(&[1, 0, b'/']), Some(Given::Other(vec![1, 0, b'/'])));
    }

    struct Hearer(Sender<Result<(), Errno>>);

    impl Caller for Hearer {
        fn waits(&self) -> bool {
            true
        }

        fn answer(self: Box<Self>, outcome: Outcome) {
            self.0.send(outcome.map(drop)).unwrap();
        }
    }

    #[test]
    fn a_call_returns_once_even_if_it_is_forgotten() {
        let (told, outcomes) = channel();
        Reply::to(Hearer(told.clone())).answer(Ok(Answer::Done));
        drop(Reply::to(Hearer(told)));
        assert_eq!(outcomes.iter().collect::<Vec<_>>(), [Ok(()), Err(Errno::ENETUNREACH)]);
    }
}
