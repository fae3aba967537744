//! Whom programs' sockets are connected to, as the programs said it.
//!
//! The kernel knows a peer on this machine instead, but no two connections have the same two ends at the same time: so the
//! ends name a connection, and what is known of those that are over is overwritten by and by. The library does not ask us;
//! for it the peer is written into the socket, which takes the kernel longer than all else that a connect needs.

use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Mutex,
};

use nix::errno::Errno;
use phantom_policy::mark::{self, Instruction, Mark};

use super::{
    errno, lock,
    meeting::{canonical, local_address},
    raw,
};

/// More connections than there are ports for programs that choose none.
const MOST: usize = 1 << 17;

/// Two ends of a connection, the program's first.
pub(super) type Ends = (SocketAddr, SocketAddr);

#[derive(Debug)]
pub(super) enum Peers {
    /// By the ends of their connections.
    Known(Mutex<HashMap<Ends, SocketAddr>>),
    /// In their sockets, where the library reads them.
    Written,
}

impl Peers {
    pub(super) fn known() -> Peers {
        Peers::Known(Mutex::default())
    }

    /// A program's socket is connected to somebody of ours, who stands for this one.
    pub(super) fn remember(&self, program: &OwnedFd, ends: Ends, peer: SocketAddr) -> Result<(), Errno> {
        let peer = canonical(peer);
        if let Peers::Known(known) = self {
            let mut known = lock(known);
            if known.len() < MOST || known.contains_key(&ends) {
                known.insert(ends, peer);
                return Ok(());
            }
        }
        write(program, peer)
    }

    /// A program's socket is about to be connected to what the kernel knows; it may have been on its way to a party before.
    pub(super) fn forget(&self, program: &OwnedFd) {
        if read(program).is_some() && raw::peer_name(program.as_fd()).is_err() {
            raw::detach_filter(program.as_fd());
        }
    }

    /// Who a connected socket's peer is, if it is not the one that the kernel knows.
    pub(super) fn of(&self, program: &OwnedFd) -> Option<SocketAddr> {
        let ends = ends(program).ok()?;
        let known = match self {
            Peers::Known(known) => lock(known).get(&ends).copied(),
            Peers::Written => None,
        };
        known.or_else(|| read(program))
    }
}

/// Of a connected socket.
pub(super) fn ends(program: &OwnedFd) -> Result<Ends, Errno> {
    let peer = socket2::SockRef::from(program).peer_addr().map_err(|error| errno(&error))?;
    let peer = peer.as_socket().ok_or(Errno::EAFNOSUPPORT)?;
    Ok((local_address(program)?, canonical(peer)))
}

fn read(socket: &OwnedFd) -> Option<SocketAddr> {
    let mut program = [Instruction::default(); mark::LENGTH];
    let mark = raw::read_filter(socket.as_fd(), &mut program).then(|| Mark::decode(&program))??;
    Some(mark.peer)
}

/// Some kernels let nobody but root attach filters to sockets of the machine's own network. Without it, the program is told of
/// our end as its peer.
fn write(socket: &OwnedFd, peer: SocketAddr) -> Result<(), Errno> {
    match raw::attach_filter(socket.as_fd(), &Mark { peer }.encode()) {
        Err(Errno::EPERM) => Ok(()),
        attached => attached,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const PARTY: &str = "127.192.0.7:80";

    #[test]
    fn a_peer_is_who_the_program_meant() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for peers in [Peers::known(), Peers::Written] {
            let one: OwnedFd = TcpStream::connect(listener.local_addr().unwrap()).unwrap().into();
            let other: OwnedFd = TcpStream::connect(listener.local_addr().unwrap()).unwrap().into();
            let party = PARTY.parse().unwrap();
            peers.remember(&one, ends(&one).unwrap(), party).unwrap();
            assert_eq!(peers.of(&one), Some(party));
            assert_eq!(peers.of(&one.try_clone().unwrap()), Some(party), "a duplicate");
            assert_eq!(peers.of(&other), None);
            assert_eq!(read(&one).is_some(), matches!(peers, Peers::Written));
        }
    }

    #[test]
    fn who_is_connected_to_nobody_has_no_peer() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap().into();
        assert_eq!(ends(&socket), Err(Errno::ENOTCONN));
        assert_eq!(Peers::known().of(&socket), None);
    }
}
