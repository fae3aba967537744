//! Visitors of a run: each gets a socket that is connected to the program's server, and that comes from an address of its
//! own, so that the server tells visitors apart as it does anywhere.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::socket::{SockaddrStorage, connect, getsockopt, setsockopt, sockopt},
};
use phantom_policy::socket::Kind;
use socket2::SockRef;

use super::{
    errno,
    helper::OWN_ALIAS,
    land::Land,
    meeting::{canonical, wait_for},
    raw,
};

/// Which ports of a run others can come to.
#[derive(Clone, Debug)]
pub enum Open {
    /// Every one.
    All,
    /// These: what others call them, and where the program listens.
    These(BTreeMap<(Kind, u16), u16>),
}

impl Open {
    /// Where the program listens for a port of others.
    pub(super) fn local(&self, kind: Kind, port: u16) -> Option<u16> {
        match self {
            Open::All => Some(port),
            Open::These(ports) => ports.get(&(kind, port)).copied(),
        }
    }

    /// Whether others can come to where the program listens.
    pub(super) fn has(&self, kind: Kind, local: u16) -> bool {
        match self {
            Open::All => true,
            Open::These(ports) => ports.iter().any(|((of, _), to)| (*of, *to) == (kind, local)),
        }
    }
}

/// Where visitors speak to the program's servers over UDP from. A server may connect a socket to them, as it does to any
/// peer: that is no way into the network.
#[derive(Debug, Default)]
pub(super) struct Guests {
    places: BTreeSet<SocketAddr>,
    by_age: VecDeque<SocketAddr>,
}

/// Places that are remembered. The oldest are forgotten: a server connects at once, or not at all.
const GUESTS: usize = 4_096;

impl Guests {
    pub(super) fn enter(&mut self, place: SocketAddr) {
        if self.places.insert(place) {
            self.by_age.push_back(place);
        }
        while self.by_age.len() > GUESTS {
            let oldest = self.by_age.pop_front();
            oldest.map(|oldest| self.places.remove(&oldest));
        }
    }

    pub(super) fn has(&self, place: SocketAddr) -> bool {
        self.places.contains(&canonical(place))
    }
}

/// Who comes, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visit {
    pub(super) kind: Kind,
    pub(super) port: u16,
    pub(super) address: Ipv6Addr,
    pub(super) alias: Ipv4Addr,
}

impl Visit {
    /// From where a server can be reached, wherever it listens, in the order of what it learns by that: the visitor's AP
    /// address, or what stands for it in IPv4.
    fn ways(&self, own: Ipv6Addr, local: u16) -> [(IpAddr, SocketAddr); 4] {
        let (address, alias) = (self.address.into(), self.alias.into());
        [
            (address, (own, local).into()),
            (alias, (OWN_ALIAS, local).into()),
            (alias, (Ipv4Addr::LOCALHOST, local).into()),
            (address, (Ipv6Addr::LOCALHOST, local).into()),
        ]
    }
}

/// A socket that is connected to the program's server. Blocks if the server has many to accept.
pub(super) fn socket(land: &Land, open: &Open, visit: Visit) -> Result<OwnedFd, Errno> {
    let local = open.local(visit.kind, visit.port).ok_or(Errno::ECONNREFUSED)?;
    let Some(own) = land.own_address() else {
        // Others listen there, too: whoever asks has seen to it that it is the run that does.
        let here = (Ipv4Addr::LOCALHOST, local).into();
        return connected(land, Kind::Stream, visit.alias.into(), here);
    };
    for (from, to) in visit.ways(own, local) {
        let is_stream = visit.kind == Kind::Stream;
        if if is_stream { land.is_not_for_visitors(to) } else { !land.takes_datagrams(to) } {
            continue;
        }
        match connected(land, visit.kind, from, to) {
            // It listens elsewhere.
            Err(Errno::ECONNREFUSED) => {}
            // Without IPv6 there are several errors.
            Err(errno) if from.is_ipv6() && errno != Errno::ETIMEDOUT => {}
            connected => return connected,
        }
    }
    Err(Errno::ECONNREFUSED)
}

fn connected(land: &Land, kind: Kind, from: IpAddr, to: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = land.socket(if from.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET }, kind)?;
    if from.is_ipv6() {
        SockRef::from(&socket).set_freebind_v6(true).map_err(|error| errno(&error))?;
    }
    let known = SockRef::from(&socket);
    match kind {
        // A port is chosen with the server, not before it: ports that another server uses are free for this one.
        Kind::Stream => setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?,
        // No other has the same.
        Kind::Datagram => {
            raw::detach_filter(socket.as_fd());
            known.set_reuse_address(false).map_err(|error| errno(&error))?;
        }
    }
    known.set_nonblocking(true).map_err(|error| errno(&error))?;
    known.bind(&SocketAddr::new(from, 0).into()).map_err(|error| errno(&error))?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => return Ok(socket),
        Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno),
    }
    wait_for(&socket, PollFlags::POLLOUT).map_err(|_| Errno::ETIMEDOUT)?;
    match getsockopt(&socket, sockopt::SocketError)? {
        0 => Ok(socket),
        error => Err(Errno::from_raw(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_is_open_is_what_was_said() {
        let some = Open::These([((Kind::Stream, 80), 8080), ((Kind::Datagram, 53), 53)].into());
        for (kind, port, local) in [
            (Kind::Stream, 80, Some(8080)),
            (Kind::Datagram, 53, Some(53)),
            (Kind::Datagram, 80, None),
            (Kind::Stream, 8080, None),
        ] {
            assert_eq!(some.local(kind, port), local);
            assert_eq!(Open::All.local(kind, port), Some(port));
        }
        assert!(
            some.has(Kind::Stream, 8080) && !some.has(Kind::Stream, 80) && Open::All.has(Kind::Stream, 80)
        );
    }

    #[test]
    fn only_the_latest_guests_are_remembered() {
        let mut guests = Guests::default();
        let place = |number: usize| (Ipv4Addr::from(0x7fe0_0000 + number as u32), 9).into();
        (0..=GUESTS).for_each(|number| guests.enter(place(number)));
        guests.enter(place(1));
        assert!(!guests.has(place(0)) && guests.has(place(1)) && guests.has(place(GUESTS)));
        let mapped = SocketAddr::new(IpAddr::V6(Ipv4Addr::new(127, 224, 0, 1).to_ipv6_mapped()), 9);
        assert!(guests.has(mapped), "as a socket of IPv6 calls it");
        assert_eq!((guests.places.len(), guests.by_age.len()), (GUESTS, GUESTS));
    }

    #[test]
    fn a_visitor_comes_from_its_alias() {
        let (land, _names) = Land::loopback().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = server.local_addr().unwrap().port();
        let open = Open::These([((Kind::Stream, 80), local)].into());
        let alias = Ipv4Addr::new(127, 230, 1, 2);
        let visit = Visit { kind: Kind::Stream, port: 80, address: "fc00::9".parse().unwrap(), alias };
        let socket = super::socket(&land, &open, visit).unwrap();
        let (_, from) = server.accept().unwrap();
        assert_eq!(SockRef::from(&socket).local_addr().unwrap().as_socket(), Some(from));
        assert_eq!(from.ip(), alias);
        drop(server);
        assert_eq!(super::socket(&land, &open, visit).err(), Some(Errno::ECONNREFUSED));
        let closed = Visit { port: 81, ..visit };
        assert_eq!(super::socket(&land, &open, closed).err(), Some(Errno::ECONNREFUSED));
    }
}
